//! The trust bundle: the trust anchors by which peers are verified.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    CertificateError, RootCertStore,
    pki_types::{CertificateDer, UnixTime},
};

use super::{
    cert::{self, OwnCertificate},
    clock::{FOREVER, format_rfc3339},
    limits, native_roots, pem,
    root::Root,
    x509::{Role, Validity},
};
use crate::{error::ConfigError, files::FileContents};

/// How many roots are named in a line of the log.
const MAX_NAMED_ROOTS: usize = 4;

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
    /// As `Native`, and no root where the system has none, as in an image: then every peer is rejected.
    NativeOrNone,
}

impl TrustSource {
    /// The files that the roots are in now.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::Disabled => Vec::new(),
            Self::Bundle(path) => vec![path.clone()],
            Self::Native | Self::NativeOrNone => native_roots::files(),
        }
    }
}

/// A trust bundle. It holds at least one root, unless it is of [`TrustSource::NativeOrNone`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustBundle(Vec<Root>);

impl TrustBundle {
    /// Reads the roots that `source` names; `None` where peers are not verified.
    ///
    /// # Errors
    /// As [`TrustBundle::from_pem`], and when a file cannot be read. Certificates of the operating
    /// system that cannot be roots are ignored.
    pub fn load(source: &TrustSource, now: UnixTime) -> Result<Option<Self>, ConfigError> {
        if *source == TrustSource::Disabled {
            return Ok(None);
        }
        Self::from_contents(source, &pem::read(source.files()), now).map(Some)
    }

    /// Parses the `contents` of the files of `source`.
    pub(super) fn from_contents(
        source: &TrustSource,
        contents: &[FileContents],
        now: UnixTime,
    ) -> Result<Self, ConfigError> {
        match (source, contents) {
            (TrustSource::Bundle(path), [file]) => Self::from_pem(path, file.bytes()?, now),
            (TrustSource::NativeOrNone, []) => Ok(Self(Vec::new())),
            _ => Self::new(native_roots::SUBJECT, native_roots::parse(contents)?, now),
        }
    }

    /// Parses the PEM bundle `path`. Roots that have expired stay in it without effect, so that a
    /// rotation can leave them for later; a bundle of nothing else is rejected.
    ///
    /// # Errors
    /// When it is damaged, holds a certificate that is not a root or that is not supported, or holds
    /// no root that is valid at `now`.
    pub fn from_pem(path: &Path, bytes: &[u8], now: UnixTime) -> Result<Self, ConfigError> {
        let certificates = pem::certificates(path, bytes)?.into_iter();
        let roots = certificates.map(|der| Root::from_der(path, der)).collect::<Result<_, _>>()?;
        Self::new(path.display(), roots, now)
    }

    fn new(
        subject: impl fmt::Display,
        roots: Vec<Root>,
        now: UnixTime,
    ) -> Result<Self, ConfigError> {
        let bundle = Self(roots);
        if bundle.valid(now).next().is_none() {
            let latest = bundle.latest_expiry().not_after;
            let reason = if latest < now {
                format!("every root in it has expired, the last at {}", format_rfc3339(latest))
            } else {
                "no root in it is valid yet".to_owned()
            };
            return Err(ConfigError::new(subject, reason).hint("add a root that is valid now"));
        }
        Ok(bundle)
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

    /// The subjects of the roots that are valid at `time`, for a person; the system's are too many to
    /// name each.
    pub fn root_names(&self, time: UnixTime) -> String {
        let names = self.valid(time).take(MAX_NAMED_ROOTS).map(Root::subject);
        let mut names: Vec<_> = names.collect();
        let more = self.active_count(time) - names.len();
        if more > 0 {
            names.push(format!("and {more} more"));
        }
        // A name has commas in it.
        names.join("; ")
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

    /// Every root, valid or not.
    pub(super) fn roots(&self) -> impl Iterator<Item = &Root> {
        self.0.iter()
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
    pub(super) fn build<E: fmt::Display>(
        bundle: &TrustBundle,
        time: UnixTime,
        build: impl Fn(Arc<RootCertStore>) -> Result<Arc<V>, E>,
    ) -> Result<Self, ConfigError> {
        let (mut issuers, mut end_entities) = (RootCertStore::empty(), RootCertStore::empty());
        let mut pins = Vec::new();
        for root in bundle.valid(time) {
            // Each was added once already, to a store of its own.
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

#[cfg(test)]
mod tests {
    use testkit::{Ca, Leaf};

    use super::*;
    use crate::tls::{
        client::{ClientTls, ExpectedServer},
        clock::Clock,
        identity::VerifyPeer as _,
    };

    #[test]
    fn rejects_every_peer_where_the_system_has_no_root() {
        let now = UnixTime::now();
        let error = TrustBundle::from_contents(&TrustSource::Native, &[], now);
        assert!(error.is_err() || std::env::var_os("SSL_CERT_FILE").is_some(), "{error:?}");
        let trust = TrustBundle::from_contents(&TrustSource::NativeOrNone, &[], now).unwrap();
        assert_eq!((trust.active_count(now), trust.root_names(now).as_str()), (0, ""));
        let server = ExpectedServer { name: "ponger".try_into().unwrap(), id: None };
        let versions = rustls::DEFAULT_VERSIONS;
        let tls =
            ClientTls::build(None, Some(&trust), &server, versions, &Clock::system(), now).unwrap();
        let chain = Ca::new("root").issue(&Leaf::ponger("test")).chain_der();
        let error = tls.verify_peer(&chain, now).unwrap_err();
        assert_eq!(error, CertificateError::UnknownIssuer.into());
    }

    #[test]
    fn names_the_first_roots_and_counts_the_others() {
        let now = UnixTime::now();
        let roots = |count| -> String {
            (0..count).map(|number| Ca::new(&format!("root {number}")).pem().to_owned()).collect()
        };
        let names = |count| {
            let pem = roots(count);
            TrustBundle::from_pem(Path::new("ca.crt"), pem.as_bytes(), now).unwrap().root_names(now)
        };
        assert_eq!(names(2), "CN=root 0; CN=root 1");
        assert_eq!(names(6), "CN=root 0; CN=root 1; CN=root 2; CN=root 3; and 2 more");
    }
}
