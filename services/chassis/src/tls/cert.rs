//! This service's own certificate and key: one unit, verified before it is used.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    CertificateError, RootCertStore,
    pki_types::{CertificateDer, DnsName, UnixTime},
    server::WebPkiClientVerifier,
    sign::CertifiedKey,
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _, public_key::PublicKey};

use super::{
    clock::{Seconds, now, utc},
    peer_id::Names,
    pem, provider,
};
use crate::{failure, error::ConfigError};

/// Where a leaf lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafFiles {
    /// The leaf and its intermediates, as PEM.
    pub certificate: PathBuf,
    /// The leaf's private key, as PEM.
    pub key: PathBuf,
}

/// What a leaf is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It stands for a server, so a client must be able to verify its DNS name or address.
    Server,
    /// It stands for a client, so a server must be able to read who it is.
    Client,
}

/// What a certificate chain says, found to be good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// From when on the leaf is valid.
    pub not_before: Seconds,
    /// Until when the whole chain is valid.
    pub not_after: Seconds,
    /// The leaf's serial number, in hexadecimal.
    pub serial: String,
    /// Who the leaf says that this is.
    pub names: Names,
}

/// A certificate chain with its key, found to be good.
#[derive(Clone)]
pub struct Leaf {
    /// What rustls presents.
    pub certified: Arc<CertifiedKey>,
    /// What the chain says.
    pub facts: Facts,
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key stays out of every log.
        self.facts.fmt(f)
    }
}

impl PartialEq for Leaf {
    fn eq(&self, other: &Self) -> bool {
        // The key belongs to the leaf, so it is the same when the leaf is.
        self.certified.cert == other.certified.cert
    }
}

impl Leaf {
    /// Reads a leaf and verifies that it can be used for `purpose` now.
    ///
    /// # Errors
    /// When a file cannot be read, the key is another certificate's, the certificate has expired,
    /// is not valid yet, says CA:TRUE, has no usable name, or heads a chain that does not hold.
    pub fn load(files: &LeafFiles, purpose: Purpose) -> Result<Self, ConfigError> {
        let chain = pem::certificates(&files.certificate)?;
        let key = pem::private_key(&files.key)?;
        let facts = judge(&files.certificate, &chain, purpose)?;
        let certified =
            CertifiedKey::from_der(chain, key, provider()).map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => ConfigError::new(
                    files.key.display(),
                    format!(
                        "it is not the key of the certificate in {}",
                        files.certificate.display()
                    ),
                )
                .hint("put the key and the certificate that were made together"),
                rustls::Error::InvalidCertificate(error) => ConfigError::new(
                    files.certificate.display(),
                    format!("verifiers refuse the certificate: {}", words(&error)),
                )
                .hint("issue it anew, without what they do not know"),
                other => ConfigError::new(
                    files.key.display(),
                    format!("the key cannot be used: {other}"),
                )
                .hint(
                    "use an ECDSA P-256 or P-384, an Ed25519, or an RSA key of 2048 bits or more",
                ),
            })?;
        Ok(Self { certified: Arc::new(certified), facts })
    }
}

fn judge(
    file: &Path,
    chain: &[CertificateDer<'static>],
    purpose: Purpose,
) -> Result<Facts, ConfigError> {
    let bad = |cause: String| ConfigError::new(file.display(), cause);
    let leaf = parse(file, &chain[0])?;
    let (not_before, mut not_after) = valid_now(file, &leaf, "the certificate")?;
    if leaf.is_ca() {
        return Err(bad("the certificate says CA:TRUE: it is an authority's, and verifiers refuse it as a leaf".into()).hint(
            "issue a leaf below it, or make it again with basicConstraints CA:FALSE (`openssl req -x509` adds CA:TRUE \
             unless its configuration has an x509_extensions section)",
        ));
    }
    let names = Names::of_parsed(&leaf)
        .map_err(|error| bad(format!("its subject alternative names cannot be read: {error}")))?;
    match purpose {
        Purpose::Server
            if !names.dns.iter().any(|name| is_usable(name)) && names.addresses == 0 =>
        {
            return Err(bad(
                "the certificate has no DNS name or IP address that a client could verify (a common name does not count)".into(),
            )
            .hint("issue it with a subjectAltName, such as DNS:ponger"));
        }
        Purpose::Client => {
            if let Err(error) = names.identity() {
                return Err(bad(format!("the certificate names no client: {error}"))
                    .hint("issue it with one SPIFFE ID as its URI, or with a DNS name"));
            }
        }
        Purpose::Server => {}
    }
    let usage = leaf
        .extended_key_usage()
        .map_err(|error| bad(format!("its extended key usage cannot be read: {error}")))?;
    let (fits, part, wanted) = match (usage.map(|usage| usage.value), purpose) {
        (None, _) => (true, "", ""),
        (Some(usage), Purpose::Server) => (usage.server_auth, "server", "serverAuth"),
        (Some(usage), Purpose::Client) => (usage.client_auth, "client", "clientAuth"),
    };
    if !fits {
        return Err(bad(format!("its extended key usage does not let it stand for a {part}"))
            .hint(format!("issue it with {wanted}")));
    }
    for above in &chain[1..] {
        let above = parse(file, above)?;
        let thing = format!("the certificate `{}` above the leaf", above.subject());
        not_after = not_after.min(valid_now(file, &above, &thing)?.1);
    }
    verify_chain(file, chain, &leaf, purpose)?;
    let serial = leaf.raw_serial_as_string().replace(':', "");
    Ok(Facts { not_before, not_after, serial, names })
}

/// The validity of a certificate, which `thing` names, if that is valid now.
fn valid_now(
    file: &Path,
    certificate: &X509Certificate<'_>,
    thing: &str,
) -> Result<(Seconds, Seconds), ConfigError> {
    let validity = certificate.validity();
    let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    if not_after < now() {
        let cause = format!("{thing} expired at {}", utc(not_after));
        return Err(ConfigError::new(file.display(), cause).hint("renew it"));
    }
    if not_before > now() {
        let cause = format!("{thing} is not valid before {}", utc(not_before));
        return Err(
            ConfigError::new(file.display(), cause).hint("wait until then, or compare the clocks")
        );
    }
    Ok((not_before, not_after))
}

/// Whether a client can ask for a DNS name of a certificate, which may begin with a wildcard label.
fn is_usable(name: &str) -> bool {
    DnsName::try_from(name.strip_prefix("*.").unwrap_or(name)).is_ok()
}

/// Verifies the chain as a peer would that trusts its upper end: signatures, order, purpose,
/// algorithms and validity. A leaf alone whose issuer is elsewhere has nothing to be held against.
fn verify_chain(
    file: &Path,
    chain: &[CertificateDer<'static>],
    leaf: &X509Certificate<'_>,
    purpose: Purpose,
) -> Result<(), ConfigError> {
    let bad = |error: &dyn fmt::Display| {
        ConfigError::new(file.display(), format!("its chain does not hold: {error}"))
            .hint("put the leaf first, then each certificate's issuer")
    };
    if chain.len() == 1 && leaf.issuer() != leaf.subject() {
        return Ok(());
    }
    for (below, above) in chain.iter().zip(&chain[1..]) {
        let (below, above) = (parse(file, below)?, parse(file, above)?);
        if below.issuer() != above.subject() {
            return Err(bad(&format!(
                "`{}` is followed by `{}`, which did not issue it",
                below.subject(),
                above.subject()
            )));
        }
    }
    for der in chain {
        if let Ok(PublicKey::RSA(key)) = parse(file, der)?.public_key().parsed()
            && !(2048..=8192).contains(&key.key_size())
        {
            return Err(ConfigError::new(
                file.display(),
                format!(
                    "an RSA key in its chain has {} bits, which verifiers refuse",
                    key.key_size()
                ),
            )
            .hint("use 2048 to 8192 bits, or an ECDSA P-256 key"));
        }
    }
    let mut top = RootCertStore::empty();
    let (anchor, below) = chain.split_last().expect("a chain of at least one");
    top.add(anchor.clone()).map_err(|error| match error {
        rustls::Error::InvalidCertificate(error) => bad(&words(&error)),
        error => bad(&error),
    })?;
    let intermediates = below.get(1..).unwrap_or_default();
    verify(&chain[0], intermediates, Arc::new(top), purpose).map_err(|error| match error {
        rustls::Error::InvalidCertificate(
            error @ (CertificateError::UnsupportedSignatureAlgorithmContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. }),
        ) => ConfigError::new(file.display(), format!("its chain does not hold: {}", words(&error))).hint(
            "put the leaf first, then each certificate's issuer, all signed with SHA-256 or better by ECDSA, Ed25519 or RSA keys of 2048 to 8192 bits",
        ),
        rustls::Error::InvalidCertificate(error) => bad(&words(&error)),
        error => bad(&error),
    })
}

/// Verifies a chain as a peer does that trusts `roots`, but for the names.
pub(super) fn verify(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: Arc<RootCertStore>,
    purpose: Purpose,
) -> Result<(), rustls::Error> {
    match purpose {
        Purpose::Server => rustls::client::verify_server_cert_signed_by_trust_anchor(
            &rustls::server::ParsedCertificate::try_from(leaf)?,
            &roots,
            intermediates,
            UnixTime::now(),
            provider().signature_verification_algorithms.all,
        ),
        Purpose::Client => {
            WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider()))
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?
                .verify_client_cert(leaf, intermediates, UnixTime::now())
                .map(|_| ())
        }
    }
}

/// What verifiers say of a certificate, without the lists of numbers that they add.
fn words(error: &CertificateError) -> String {
    match error {
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "a signature in it is by an algorithm that is not accepted".into()
        }
        CertificateError::UnhandledCriticalExtension => {
            "it has a critical extension that is not known".into()
        }
        CertificateError::Other(other) => {
            format!("a certificate in it {}", failure::of_webpki(&other.0.to_string()))
        }
        other => other.to_string(),
    }
}

/// Parses one certificate of `file`.
pub(super) fn parse<'d>(
    file: &Path,
    der: &'d CertificateDer<'_>,
) -> Result<X509Certificate<'d>, ConfigError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(ConfigError::new(file.display(), "a certificate in it has bytes behind its end")),
        Err(error) => Err(ConfigError::new(
            file.display(),
            format!("a certificate in it cannot be read: {error}"),
        )),
    }
}

/// From when until when a certificate is valid, if it can be read.
pub fn validity(der: &CertificateDer<'_>) -> Option<(Seconds, Seconds)> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let validity = certificate.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}
