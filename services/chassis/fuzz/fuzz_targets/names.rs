//! Any bytes as a name, and as a certificate that says names.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rustls::pki_types::CertificateDer;

#[expect(dead_code, reason = "other targets try the rest")]
#[path = "../../tests/it/properties.rs"]
mod properties;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = str::from_utf8(bytes) {
        properties::names(text);
    }
    properties::certificate(&CertificateDer::from(bytes));
});
