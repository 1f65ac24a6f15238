//! Proves again and again that strangers are refused.
//!
//! pinger knocks at ponger's door as nobody: once without a certificate, once with one that it has
//! made for the purpose, in memory, with its own name in it and nobody's word behind it. Whoever
//! answers `pong` to that does not verify its clients.
//!
//! **Why the certificate is built here.** A library that makes certificates would bring a
//! certificate authority's code into a service that must not have it, and a fixed test identity
//! would put a private key into git. What is needed is one self-signed certificate of one shape,
//! so it is written out, field by field, after RFC 5280 section 4.1.

use std::sync::Arc;

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
};
use chassis::{
    config::MinTlsVersion,
    failure::FailureReason,
    tls::{client, reload::Current, provider},
};
use prometheus::IntCounterVec;
use rustls::{
    ClientConfig, SignatureAlgorithm, SignatureScheme,
    client::ResolvesClientCert,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};

use crate::client::Outcome;

/// Whom pinger pretends to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stranger {
    /// Someone who shows no certificate.
    NoCertificate,
    /// Someone whose certificate nobody vouches for.
    SelfSigned,
}

impl Stranger {
    /// Every stranger.
    pub const ALL: [Self; 2] = [Self::NoCertificate, Self::SelfSigned];

    /// The name that stands in logs and labels.
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::SelfSigned => "self_signed",
        }
    }

    /// A configuration that verifies ponger as always, and presents this stranger.
    ///
    /// # Errors
    /// When the cryptography does not do its part.
    pub fn config(self, current: &Current, oldest: MinTlsVersion) -> anyhow::Result<ClientConfig> {
        let leaf = match self {
            Self::NoCertificate => None,
            Self::SelfSigned => {
                let name = current
                    .get()
                    .leaf
                    .as_ref()
                    .and_then(|leaf| leaf.facts.names.uris.first().cloned());
                let name =
                    name.unwrap_or_else(|| "spiffe://cluster.local/ns/nowhere/sa/stranger".into());
                Some(Arc::new(self_signed(&name)?))
            }
        };
        Ok(client::config_presenting(current, oldest, Arc::new(Presents(leaf)))?)
    }
}

/// What came of knocking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Refused, as it must be.
    Refused,
    /// Let in.
    Accepted,
    /// ponger could not be asked.
    Unknown,
}

impl Answer {
    /// Judges the outcome of a stranger's ping.
    pub fn of(outcome: &Outcome) -> Self {
        match outcome.result.as_ref().map_err(|failure| failure.reason) {
            // Any answer but 403 comes from behind the door.
            Ok(()) | Err(FailureReason::Status | FailureReason::Body) => Self::Accepted,
            Err(FailureReason::TlsRefusedByPeer | FailureReason::Denied) => Self::Refused,
            Err(_) => Self::Unknown,
        }
    }

    /// The name that stands in logs and labels.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Accepted => "accepted",
            Self::Unknown => "unknown",
        }
    }
}

/// Counts what came of `stranger`'s knocking, and says so if it was let in.
pub fn record(checks: &IntCounterVec, stranger: Stranger, outcome: &Outcome) -> Answer {
    let answer = Answer::of(outcome);
    checks.with_label_values(&[stranger.label(), "refused", answer.label()]).inc();
    let failure = outcome.result.as_ref().err();
    match answer {
        Answer::Accepted => tracing::error!(
            stranger = stranger.label(),
            "A stranger was let in: ponger does not refuse clients that nobody vouches for"
        ),
        Answer::Unknown => tracing::warn!(
            stranger = stranger.label(),
            reason = failure.map(|failure| failure.reason.label()),
            cause = failure.map(|failure| failure.cause.as_str()),
            "Whether strangers are refused could not be found out"
        ),
        Answer::Refused => tracing::debug!(stranger = stranger.label(), "A stranger was refused"),
    }
    answer
}

#[derive(Debug)]
struct Presents(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for Presents {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

/// A certificate for `uri`, signed by its own new P-256 key.
///
/// # Errors
/// When the cryptography does not do its part.
pub fn self_signed(uri: &str) -> anyhow::Result<CertifiedKey> {
    // ecdsa-with-SHA256, 1.2.840.10045.4.3.2 (RFC 5758).
    let algorithm = der(0x30, &[&der(0x06, &[&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02]])]);
    // commonName, 2.5.4.3.
    let common_name = der(0x30, &[&der(0x06, &[&[0x55, 0x04, 0x03]]), &der(0x0c, &[b"stranger"])]);
    let name = der(0x30, &[&der(0x31, &[&common_name])]);
    // RFC 5280 section 4.1.2.5: 99991231235959Z says that there is no well-defined end.
    let validity = der(0x30, &[&der(0x17, &[b"200101000000Z"]), &der(0x18, &[b"99991231235959Z"])]);
    // subjectAltName, 2.5.29.17, with one uniformResourceIdentifier.
    let names = der(0x30, &[&der(0x86, &[uri.as_bytes()])]);
    let extension = der(0x30, &[&der(0x06, &[&[0x55, 0x1d, 0x11]]), &der(0x04, &[&names])]);
    let extensions = der(0xa3, &[&der(0x30, &[&extension])]);

    let pkcs8 =
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())?;
    let key = provider()
        .key_provider
        .load_private_key(PrivatePkcs8KeyDer::from(pkcs8.as_ref().to_vec()).into())?;
    anyhow::ensure!(key.algorithm() == SignatureAlgorithm::ECDSA, "a P-256 key");
    let public = key.public_key().ok_or_else(|| anyhow::anyhow!("the key has no public half"))?;
    let to_sign = der(
        0x30,
        &[
            &der(0xa0, &[&der(0x02, &[&[2]])]),
            &der(0x02, &[&[1]]),
            &algorithm,
            &name,
            &validity,
            &name,
            &public,
            &extensions,
        ],
    );
    let signer = key
        .choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256])
        .ok_or_else(|| anyhow::anyhow!("the key signs by another scheme"))?;
    let signature = der(0x03, &[&[0], &signer.sign(&to_sign)?]);
    let certificate = CertificateDer::from(der(0x30, &[&to_sign, &algorithm, &signature]));
    Ok(CertifiedKey::new(vec![certificate], key))
}

/// One DER element: tag, length, and its parts one after another.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let contents = parts.concat();
    let length = contents.len();
    let bytes = length.to_be_bytes();
    let bytes = &bytes[bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len() - 1)..];
    let mut element = vec![tag];
    if length >= 0x80 {
        element.push(0x80 | u8::try_from(bytes.len()).expect("at most eight bytes"));
    }
    element.extend_from_slice(bytes);
    element.extend(contents);
    element
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::*;

    use super::*;

    #[test]
    fn the_strangers_certificate_is_well_formed_signed_by_itself_and_named_as_asked() {
        // Names of lengths on both sides of DER's short form.
        for path in ["a".to_owned(), "b".repeat(120), "c".repeat(300)] {
            let uri = format!("spiffe://cluster.local/{path}");
            let certified = self_signed(&uri).expect("a certificate");
            certified.keys_match().expect("its own key");
            let (rest, certificate) =
                X509Certificate::from_der(&certified.cert[0]).expect("a certificate");
            assert!(rest.is_empty());
            assert!(!certificate.is_ca());
            let names = chassis::tls::peer_id::Names::of(&certified.cert[0]).expect("names");
            assert_eq!(names.uris, [uri]);
            // The signature holds: it is its own root.
            let mut roots = rustls::RootCertStore::empty();
            roots.add(certified.cert[0].clone()).expect("a root");
            rustls::server::WebPkiClientVerifier::builder_with_provider(
                Arc::new(roots),
                Arc::clone(provider()),
            )
            .build()
            .expect("a verifier")
            .verify_client_cert(&certified.cert[0], &[], rustls::pki_types::UnixTime::now())
            .expect("a good signature");
        }
    }
}
