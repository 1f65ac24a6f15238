//! Own certificate and trust bundle at one moment, and the rustls configuration built from them.

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, UnixTime};

use super::{
    cert::{CertKeyPaths, OwnCertificate},
    clock::{Clock, format_rfc3339},
    trust::{TrustBundle, TrustSource},
    x509::Role,
};
use crate::error::ConfigError;

/// Where an identity is on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdentitySources {
    /// Our own certificate and key. A pinger may have none.
    pub own: Option<CertKeyPaths>,
    /// The trust roots.
    pub trust: TrustSource,
}

/// Verifies peers: what a service builds from an own certificate and a trust bundle.
pub trait VerifyPeer: Send + Sync + 'static {
    /// Verifies a peer's certificate chain, leaf first, as in a handshake at `now`.
    ///
    /// # Errors
    /// Why the chain is not accepted.
    fn verify_peer(
        &self,
        chain: &[CertificateDer<'static>],
        now: UnixTime,
    ) -> Result<(), rustls::Error>;
}

/// One moment's identity. It never changes: a reload makes a new one.
#[derive(Clone, Debug)]
pub struct Identity<T> {
    /// Our own certificate and key.
    pub own: Option<Arc<OwnCertificate>>,
    /// The trust bundle, where peers are asked for a certificate.
    pub trust: Option<Arc<TrustBundle>>,
    /// Grows whenever peers must be verified again: the bundle was replaced, or a root in it became
    /// valid or expired.
    pub trust_generation: u64,
    /// The rustls configuration and the verifier of peers.
    pub tls: T,
}

/// An identity in short, for a person.
#[derive(Clone, Debug, Default)]
pub struct IdentitySummary {
    /// The first ID in our own certificate.
    pub id: Option<String>,
    /// When our own certificate expires.
    pub expires: Option<String>,
    /// How many roots of the trust bundle are valid.
    pub roots: Option<usize>,
}

/// Builds `T`, the rustls side of an [`Identity`].
pub type Build<T> = dyn Fn(Option<&Arc<OwnCertificate>>, Option<&TrustBundle>, UnixTime) -> Result<T, ConfigError>
    + Send
    + Sync;

impl<T> Identity<T> {
    /// Reads and verifies everything that `sources` name, once: what `--check-config` does.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn load(
        sources: &IdentitySources,
        role: Role,
        clock: &Clock,
        build: &Build<T>,
    ) -> Result<Self, ConfigError> {
        let now = clock.now();
        let own = sources.own.as_ref().map(|paths| OwnCertificate::load(paths, role, now));
        let trust = TrustBundle::load(&sources.trust, now)?;
        Self::new(own.transpose()?.map(Arc::new), trust.map(Arc::new), 0, now, build)
    }

    pub(super) fn new(
        own: Option<Arc<OwnCertificate>>,
        trust: Option<Arc<TrustBundle>>,
        trust_generation: u64,
        now: UnixTime,
        build: &Build<T>,
    ) -> Result<Self, ConfigError> {
        let tls = build(own.as_ref(), trust.as_deref(), now)?;
        Ok(Self { own, trust, trust_generation, tls })
    }

    /// What a service logs of it when it starts, at `now`.
    pub fn summary(&self, now: UnixTime) -> IdentitySummary {
        let own = self.own.as_deref();
        let ids = own.and_then(|own| own.names.peer_ids().ok()).unwrap_or_default();
        IdentitySummary {
            id: ids.first().map(|id| id.as_str().to_owned()),
            expires: own.map(|own| format_rfc3339(own.not_after(now))),
            roots: self.trust.as_deref().map(|trust| trust.active_count(now)),
        }
    }

    /// Whether our own certificate has expired, so that every peer rejects it.
    pub fn own_expired(&self, now: UnixTime) -> bool {
        self.own.as_ref().is_some_and(|own| own.not_after(now) < now)
    }
}
