//! The trust bundle: the roots that vouch for peers.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{RootCertStore, pki_types::CertificateDer};

use super::{
    clock::{Seconds, now, utc},
    cert, pem,
};
use crate::error::ConfigError;

/// Where distributions keep the roots of their system in one file.
const SYSTEM_FILES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The file that [`Roots::of_system`] reads, where there is one.
pub(super) fn system_file() -> Option<PathBuf> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    named.or_else(|| SYSTEM_FILES.iter().map(PathBuf::from).find(|file| file.exists()))
}

/// A root certificate and its validity, which verifiers of chains do not look at by themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Root {
    der: CertificateDer<'static>,
    not_before: Seconds,
    not_after: Seconds,
}

impl Root {
    fn is_valid(&self, now: Seconds) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

/// A trust bundle with at least one root that is valid now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots(Vec<Root>);

impl Roots {
    /// Reads a PEM bundle. Roots that have expired stay in it without effect, so that a rotation can
    /// leave them to be cleared away later; a bundle of nothing else is refused.
    ///
    /// # Errors
    /// When the file cannot be read, is cut short, holds a certificate that is no root, or holds no
    /// root that is valid now.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let mut roots = Vec::new();
        for der in pem::certificates(path)? {
            let certificate = cert::parse(path, &der)?;
            let self_issued = certificate.issuer() == certificate.subject();
            if !certificate.is_ca() && !self_issued {
                return Err(ConfigError::new(
                    path.display(),
                    format!(
                        "`{}` in it is no root: it was issued by `{}`",
                        certificate.subject(),
                        certificate.issuer()
                    ),
                )
                .hint("put the certificate of the root that issued it"));
            }
            let (not_before, not_after) = (
                certificate.validity().not_before.timestamp(),
                certificate.validity().not_after.timestamp(),
            );
            RootCertStore::empty().add(der.clone()).map_err(|error| {
                ConfigError::new(path.display(), format!("a root in it cannot be used: {error}"))
            })?;
            let root = Root { der, not_before, not_after };
            if !roots.contains(&root) {
                roots.push(root);
            }
        }
        let roots = Self(roots);
        if roots.valid(now()).next().is_none() {
            let latest = roots.0.iter().map(|root| root.not_after).max().unwrap_or_default();
            let cause = if latest < now() {
                format!("every root in it has expired, the last at {}", utc(latest))
            } else {
                "no root in it is valid yet".to_owned()
            };
            return Err(ConfigError::new(path.display(), cause).hint("put a root that is valid now"));
        }
        Ok(roots)
    }

    /// The roots of the operating system.
    ///
    /// # Errors
    /// When it has none.
    pub fn of_system() -> Result<Self, ConfigError> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = Vec::new();
        for der in found.certs {
            let Ok(certificate) = cert::parse(Path::new("system"), &der) else {
                continue;
            };
            let (not_before, not_after) = (
                certificate.validity().not_before.timestamp(),
                certificate.validity().not_after.timestamp(),
            );
            roots.push(Root { der, not_before, not_after });
        }
        if roots.is_empty() {
            return Err(ConfigError::new("the system's trust roots", "there are none")
                .hint("name a trust bundle with ponger.acceptCert, or install the package ca-certificates"));
        }
        Ok(Self(roots))
    }

    /// The roots that are valid at `time`, as rustls takes them.
    pub fn store(&self, time: Seconds) -> Arc<RootCertStore> {
        let mut store = RootCertStore::empty();
        for root in self.valid(time) {
            // Each was added once already, by `load`; those of the system may be of any kind.
            let _ = store.add(root.der.clone());
        }
        Arc::new(store)
    }

    /// When the set of valid roots next changes by itself after `time`.
    pub fn next_change(&self, time: Seconds) -> Seconds {
        self.0
            .iter()
            .flat_map(|root| [root.not_before, root.not_after.saturating_add(1)])
            .filter(|change| *change > time)
            .min()
            .unwrap_or(Seconds::MAX)
    }

    /// Until when the first of the roots that are valid at `time` is valid.
    pub fn earliest_end(&self, time: Seconds) -> Option<Seconds> {
        self.valid(time).map(|root| root.not_after).min()
    }

    /// The validity of the root that ends last.
    pub fn longest(&self) -> Option<(Seconds, Seconds)> {
        self.0.iter().map(|root| (root.not_before, root.not_after)).max_by_key(|(_, end)| *end)
    }

    /// How many of its roots have no effect at `time`.
    pub fn idle(&self, time: Seconds) -> usize {
        self.0.len() - self.valid(time).count()
    }

    fn valid(&self, time: Seconds) -> impl Iterator<Item = &Root> {
        self.0.iter().filter(move |root| root.is_valid(time))
    }
}
