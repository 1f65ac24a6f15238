//! The way of a certificate: from files on disk to the handshake, and out again.
//!
//! ```text
//! pem ─► leaf, roots ─► identity ─► follow ─► server, client ─► session
//! files    verified      one unit    current    per handshake     what came out
//! ```
//!
//! - [`pem`]: PEM files, and what is wrong with them
//! - [`leaf`]: our own certificate and key, verified before they are used
//! - [`roots`]: the trust bundle
//! - [`name`]: SPIFFE IDs and DNS names, compared whole
//! - [`identity`]: leaf, roots and allowed names as one unit, which judges peers
//! - [`follow`]: notices changes on disk and publishes the current identity
//! - [`server`], [`client`]: rustls configurations that ask the current identity at each handshake
//! - [`session`]: what two peers agreed upon
//! - [`credentials`]: what a connection was opened with, and for how long that holds
//! - [`expiry`]: warnings before a certificate ends

pub mod client;
pub mod clock;
pub mod credentials;
pub mod expiry;
pub mod reload;
pub mod identity;
pub mod cert;
pub mod peer_id;
pub mod pem;
pub mod trust;
pub mod server;
pub mod session;

use std::sync::{Arc, OnceLock};

use rustls::{SupportedProtocolVersion, crypto::CryptoProvider};

use crate::config::MinTlsVersion;

/// The one protocol that is spoken inside TLS: HTTP/2 drains badly in actix (actix-web #2509).
pub const ALPN: &[u8] = b"http/1.1";

/// The cryptography, chosen once: aws-lc-rs, which prefers the post-quantum hybrid X25519MLKEM768
/// and still offers X25519 to peers without it.
pub fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        // The first random bytes take aws-lc some 40 ms, in which it gathers entropy: better at the
        // start than within the first handshake. Should it fail, handshakes will say so.
        let _ = provider.secure_random.fill(&mut [0; 32]);
        Arc::new(provider)
    })
}

static TLS13: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];

fn versions(oldest: MinTlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    match oldest {
        MinTlsVersion::V1_2 => rustls::ALL_VERSIONS,
        MinTlsVersion::V1_3 => &TLS13,
    }
}
