//! The trust bundle: the trust anchors by which peers are verified.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    CertificateError, RootCertStore,
    pki_types::{CertificateDer, UnixTime},
};
use rustls_native_certs::load_certs_from_paths;

use x509_parser::x509::X509Version;

use super::{
    cert::{self, OwnCertificate, Role, Validity},
    clock::{FOREVER, format_rfc3339},
    limits, pem,
};
use crate::{error::ConfigError, files};

/// Where distributions keep the system's roots in one file.
const SYSTEM_FILES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Where the roots come from by which peers are verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TrustSource {
    /// Nowhere: peers are not asked for a certificate.
    #[default]
    Disabled,
    /// This PEM bundle, and no other.
    Bundle(PathBuf),
    /// The operating system, or `SSL_CERT_FILE` and `SSL_CERT_DIR`.
    Native,
}

/// A root certificate, and what verifiers of chains do not look at by themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Root {
    der: CertificateDer<'static>,
    validity: Validity,
    /// Whether it may issue certificates. One that may not is accepted itself, and nothing below it.
    issues: bool,
}

/// A trust bundle. It holds at least one root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustBundle(Vec<Root>);

impl TrustBundle {
    /// Reads the roots that `source` names; `None` where peers are not verified.
    ///
    /// # Errors
    /// As [`TrustBundle::from_pem`], and when a file cannot be read.
    pub fn load(source: &TrustSource, now: UnixTime) -> Result<Option<Self>, ConfigError> {
        match source {
            TrustSource::Disabled => Ok(None),
            TrustSource::Bundle(path) => {
                let bytes = files::read(path, pem::MAX_BYTES)?;
                Self::from_pem(path, &bytes, now).map(Some)
            }
            TrustSource::Native => Self::native().map(Some),
        }
    }

    /// Parses the PEM bundle `path`. Roots that have expired stay in it without effect, so that a
    /// rotation can leave them for later; a bundle of nothing else is rejected.
    ///
    /// # Errors
    /// When it is damaged, holds a certificate that is not a root or that is not supported, or holds
    /// no root that is valid at `now`.
    pub fn from_pem(path: &Path, bytes: &[u8], now: UnixTime) -> Result<Self, ConfigError> {
        let error = |reason: String| ConfigError::new(path.display(), reason);
        let mut roots = Vec::new();
        for der in pem::certificates(path, bytes)? {
            let certificate = cert::parse(&der)
                .map_err(|reason| error(format!("a certificate in it {reason}")))?;
            if !certificate.is_ca() && certificate.issuer() != certificate.subject() {
                return Err(error(format!(
                    "`{}` in it is not a root: it was issued by `{}`",
                    certificate.subject(),
                    certificate.issuer()
                ))
                .hint("put the certificate of the root that issued it"));
            }
            if let Some(reason) = cert::unsupported(&certificate) {
                return Err(error(format!("a root in it {reason}")));
            }
            RootCertStore::empty()
                .add(der.clone())
                .map_err(|reason| error(format!("a root in it cannot be used: {reason}")))?;
            let validity = Validity::from_parsed(&certificate);
            // Version 1 knows no basicConstraints; such roots are old, and CAs.
            let issues = certificate.is_ca() || certificate.version() == X509Version::V1;
            roots.push(Root { der, validity, issues });
        }
        let bundle = Self(roots);
        if bundle.valid(now).next().is_none() {
            let latest = bundle.latest_expiry().not_after;
            let reason = if latest < now {
                format!("every root in it has expired, the last at {}", format_rfc3339(latest))
            } else {
                "no root in it is valid yet".to_owned()
            };
            return Err(error(reason).hint("add a root that is valid now"));
        }
        Ok(bundle)
    }

    /// The roots of the operating system, or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
    ///
    /// # Errors
    /// When there are none, or a file that a variable names cannot be read.
    pub fn native() -> Result<Self, ConfigError> {
        let NativePaths { file, dirs, from_environment } = NativePaths::find();
        let files = file.iter().map(|path| ("SSL_CERT_FILE", path, (Some(path.as_path()), None)));
        let dirs = dirs.iter().map(|path| ("SSL_CERT_DIR", path, (None, Some(path.as_path()))));
        let hint =
            "name a trust bundle with ponger.acceptCert, or install the package ca-certificates";
        let mut found = Vec::new();
        for (variable, path, (file, dir)) in files.chain(dirs) {
            let loaded = load_certs_from_paths(file, dir);
            if let (Some(error), true) = (loaded.errors.first(), from_environment) {
                let subject = format!("environment variable {variable}: `{}`", path.display());
                return Err(ConfigError::new(subject, error).hint("correct it, or unset it"));
            }
            found.extend(loaded.certs);
        }
        let roots: Vec<_> = found
            .into_iter()
            .filter_map(|der| {
                let validity = cert::validity(&der)?;
                Some(Root { der, validity, issues: true })
            })
            .collect();
        if roots.is_empty() {
            return Err(ConfigError::new("the system's trust roots", "there are none").hint(hint));
        }
        Ok(Self(roots))
    }

    /// When a root next becomes valid or expires after `time`.
    pub fn next_change(&self, time: UnixTime) -> UnixTime {
        let ends = |root: &Root| {
            super::clock::add(root.validity.not_after, std::time::Duration::from_secs(1))
        };
        self.0
            .iter()
            .flat_map(|root| [root.validity.not_before, ends(root)])
            .filter(|change| *change > time)
            .min()
            .unwrap_or(FOREVER)
    }

    /// The validity of the root that expires first, of those that are valid at `time`.
    pub fn earliest_expiry(&self, time: UnixTime) -> Option<Validity> {
        self.valid(time).map(|root| root.validity).min_by_key(|root| root.not_after)
    }

    /// The validity of the root that expires last: after it, no peer can be verified.
    pub fn latest_expiry(&self) -> Validity {
        let none = Validity { not_before: FOREVER, not_after: FOREVER };
        self.0.iter().map(|root| root.validity).max_by_key(|root| root.not_after).unwrap_or(none)
    }

    /// How many roots are valid at `time`.
    pub fn active_count(&self, time: UnixTime) -> usize {
        self.valid(time).count()
    }

    /// Whether a root that is valid at `time` verifies our own certificate in `role`, as where both
    /// ends share a bundle.
    pub fn verifies(&self, own: &OwnCertificate, role: Role, time: UnixTime) -> bool {
        let [leaf, intermediates @ ..] = own.certified.cert.as_slice() else { return false };
        let mut anchors = RootCertStore::empty();
        for root in self.valid(time).filter(|root| root.issues || root.der == *leaf) {
            let _ = anchors.add(root.der.clone());
        }
        cert::verify(leaf, intermediates, Arc::new(anchors), role, time).is_ok()
    }

    fn valid(&self, time: UnixTime) -> impl Iterator<Item = &Root> {
        self.0.iter().filter(move |root| root.validity.contains(time))
    }
}

/// Verifiers of peers, one for each kind of trust anchor that is valid at one moment.
///
/// webpki takes any anchor for an issuer. So a self-signed end-entity certificate (CA:FALSE), which
/// is trusted for itself alone, has a verifier of its own.
#[derive(Debug)]
pub(super) struct PeerVerifiers<V: ?Sized> {
    issued: Option<Arc<V>>,
    pinned: Option<Arc<V>>,
    pins: Vec<CertificateDer<'static>>,
}

impl<V: ?Sized> PeerVerifiers<V> {
    /// Builds a verifier, by `build`, for the anchors of `bundle` that are valid at `time`.
    pub(super) fn build<E: std::fmt::Display>(
        bundle: &TrustBundle,
        time: UnixTime,
        build: impl Fn(Arc<RootCertStore>) -> Result<Arc<V>, E>,
    ) -> Result<Self, ConfigError> {
        let (mut issuers, mut end_entities) = (RootCertStore::empty(), RootCertStore::empty());
        let mut pins = Vec::new();
        for root in bundle.valid(time) {
            // `from_pem` has added each once already; the system's may be of any kind.
            if root.issues {
                let _ = issuers.add(root.der.clone());
            } else if end_entities.add(root.der.clone()).is_ok() {
                pins.push(root.der.clone());
            }
        }
        let verifier = |anchors: RootCertStore| {
            let built = (!anchors.is_empty()).then(|| build(Arc::new(anchors)));
            built.transpose().map_err(|error| ConfigError::new("the trust bundle", error))
        };
        Ok(Self { issued: verifier(issuers)?, pinned: verifier(end_entities)?, pins })
    }

    /// The verifier of a peer's chain, which must be within the limits.
    pub(super) fn select(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<&V, rustls::Error> {
        limits::check_chain(end_entity, intermediates)?;
        let is_pinned = self.pins.iter().any(|pin| pin == end_entity);
        let verifier = if is_pinned { &self.pinned } else { &self.issued };
        // Every root may have expired since the bundle was read; then no peer is trusted.
        verifier.as_deref().ok_or_else(|| CertificateError::UnknownIssuer.into())
    }
}

/// Where the system's roots are.
struct NativePaths {
    file: Option<PathBuf>,
    dirs: Vec<PathBuf>,
    from_environment: bool,
}

impl NativePaths {
    fn find() -> Self {
        let file = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
        let dirs = std::env::var_os("SSL_CERT_DIR")
            .map(|dirs| std::env::split_paths(&dirs).collect())
            .unwrap_or_default();
        if file.is_some() || !Vec::is_empty(&dirs) {
            return Self { file, dirs, from_environment: true };
        }
        let file = SYSTEM_FILES.iter().map(PathBuf::from).find(|file| file.exists());
        Self { file, dirs, from_environment: false }
    }
}

/// The files that [`TrustBundle::native`] reads.
pub(super) fn native_files() -> BTreeSet<PathBuf> {
    let NativePaths { file, dirs, .. } = NativePaths::find();
    let entries = dirs.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten();
    file.into_iter().chain(entries.filter_map(|entry| Some(entry.ok()?.path()))).collect()
}
