//! TLS: certificates from files on disk to the handshake, and what became of each handshake.
//!
//! ```text
//! pem ──► cert, trust ──► identity ──► reload ──► server, client ──► handshake_info
//! files     verified     own + trust   published   rustls configs      the outcome
//! ```
//!
//! - [`pem`]: PEM files, and what is wrong with them
//! - [`x509`]: what is read from a certificate
//! - [`cert`]: our own certificate chain and key, verified before use (`issuers`: who issued whom;
//!   `signature`, `unsupported`: what verifiers cannot verify)
//! - [`cert_info`]: what a certificate says, for a person
//! - [`trust`]: the trust bundle (`root`: one certificate in it; `native_roots`: the system's)
//! - [`peer_id`]: SPIFFE IDs and DNS names of peers
//! - [`identity`]: own certificate and trust bundle at one moment, with the rustls configuration built from them
//! - [`reload`]: polls the files and publishes the current identity (`unit_files`: what a poll finds)
//! - [`server`], [`client`]: build rustls configurations and verify peers
//! - [`limits`]: how large a certificate chain may be
//! - [`credentials`]: whether the certificates that a connection was opened with are still valid
//! - [`handshake_info`]: version, cipher suite and group that a handshake negotiated
//! - [`classify`]: TLS errors as failures, with hints
//! - [`untrusted`]: the issuer that a peer showed which no root verifies
//! - [`observer`], [`explain`]: what a server presented and asked for, and where verification stopped
//! - [`expiry`]: warnings before certificates expire
//! - [`metrics`]: metrics of identities and handshakes
//! - [`clock`]: the time, which tests can set

pub mod cert;
pub mod cert_info;
pub mod classify;
pub mod client;
pub mod clock;
pub mod credentials;
pub mod expiry;
pub mod explain;
pub mod handshake_info;
pub mod identity;
mod issuers;
pub mod limits;
pub mod metrics;
mod native_roots;
pub mod observer;
pub mod peer_id;
pub mod pem;
pub mod reload;
mod root;
pub mod server;
mod signature;
pub mod trust;
mod unit_files;
mod unsupported;
pub mod untrusted;
pub mod x509;

use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;

/// The only application protocol: HTTP/2 drains badly in actix (actix-web #2509).
pub const ALPN: &[u8] = b"http/1.1";

/// What pinger's rejection probe offers beside [`ALPN`], and no server selects: it tells ponger that the
/// handshake is meant to fail.
pub const REJECTION_PROBE_ALPN: &[u8] = b"ping-pong/rejection-probe";

/// The cryptography provider, chosen once: aws-lc-rs, which prefers the post-quantum hybrid
/// X25519MLKEM768 and still offers X25519.
pub fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}
