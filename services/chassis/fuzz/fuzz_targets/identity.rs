//! Any bytes as the files of an identity: the certificates, a zero byte, the key.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

#[expect(dead_code, reason = "other targets try the rest")]
#[path = "../../tests/it/properties.rs"]
mod properties;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder"));

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let (certificate, key) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    properties::pem(certificate);
    properties::pem(key);
    properties::identity(FOLDER.path(), certificate, key);
});
