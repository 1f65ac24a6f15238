//! Who we are, whom we trust and whom we let in: one unit, which judges peers.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use rustls::{
    CertificateError, Error, OtherError,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};

use super::{
    clock::{Seconds, now},
    cert::{self, Leaf, LeafFiles, Purpose},
    peer_id::{Name, Names, WrongId},
    provider,
    trust::{self, Roots},
};
use crate::error::ConfigError;

/// Where an identity lies on disk, and whom it lets in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Our own certificate and key. A pinger may have none.
    pub leaf: Option<LeafFiles>,
    /// The trust roots.
    pub roots: Trusted,
    /// The names of those who are let in; `None` lets in everyone that the roots vouch for.
    pub allowed: Option<BTreeSet<Name>>,
}

impl Sources {
    /// The files that make it up.
    pub fn files(&self) -> Vec<PathBuf> {
        let leaf = self.leaf.iter().flat_map(|leaf| [&leaf.certificate, &leaf.key]);
        let roots = match &self.roots {
            Trusted::Nobody => None,
            Trusted::File(path) => Some(path.clone()),
            Trusted::System => trust::system_file(),
        };
        leaf.cloned().chain(roots).collect()
    }
}

/// Whose word is taken for who a peer is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trusted {
    /// Nobody's: peers are not asked who they are.
    #[default]
    Nobody,
    /// Only that of the roots in this PEM bundle.
    File(PathBuf),
    /// That of the operating system's roots.
    System,
}

/// The leaf, the roots and the allowed names of one moment, verified. It does not change; a change
/// on disk makes a new one.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// Our own certificate and key.
    pub leaf: Option<Leaf>,
    trust: Option<Trust>,
    allowed: Option<BTreeSet<Name>>,
}

#[derive(Clone, Debug)]
struct Trust {
    roots: Roots,
    verifier: Verifier,
    /// From when on `verifier` no longer has the right roots, because one begins or ends.
    stale_from: Seconds,
}

impl PartialEq for Trust {
    fn eq(&self, other: &Self) -> bool {
        self.roots == other.roots
    }
}

/// rustls' own judge of chains, for the kind of peer that we have.
#[derive(Clone, Debug)]
enum Verifier {
    OfClients(Arc<dyn ClientCertVerifier>),
    OfServers(Arc<WebPkiServerVerifier>),
}

/// The certificates that a peer has shown, leaf first.
pub type Chain<'c> = &'c [CertificateDer<'c>];

impl Identity {
    /// Reads and verifies everything that `sources` name, for a server or a client.
    ///
    /// # Errors
    /// The first thing in it that cannot be used; then nothing of it is.
    pub fn load(sources: &Sources, purpose: Purpose) -> Result<Self, ConfigError> {
        let leaf = sources.leaf.as_ref().map(|files| Leaf::load(files, purpose)).transpose()?;
        let roots = match &sources.roots {
            Trusted::Nobody => None,
            Trusted::File(path) => Some(Roots::load(path)?),
            Trusted::System => Some(Roots::of_system()?),
        };
        let trust = roots
            .map(|roots| {
                let time = now();
                let verifier = Verifier::new(&roots, purpose, time)
                    .map_err(|error| ConfigError::new("the trust bundle", error))?;
                let stale_from = roots.next_change(time);
                Ok(Trust { roots, verifier, stale_from })
            })
            .transpose()?;
        Ok(Self { leaf, trust, allowed: sources.allowed.clone() })
    }

    /// The trust roots, where peers are asked who they are.
    pub fn roots(&self) -> Option<&Roots> {
        self.trust.as_ref().map(|trust| &trust.roots)
    }

    /// Verifies a client's chain now: its signatures up to a root, validity and purpose.
    ///
    /// # Errors
    /// What is wrong with it, as rustls tells the peer.
    pub fn verify_client(&self, chain: Chain<'_>) -> Result<(), Error> {
        self.verify_client_at(chain, now())
    }

    /// [`Identity::verify_client`] at another time than now.
    ///
    /// # Errors
    /// As there.
    pub fn verify_client_at(&self, chain: Chain<'_>, time: Seconds) -> Result<(), Error> {
        let (leaf, intermediates) = split(chain)?;
        match self.verifier(time)? {
            Verifier::OfClients(verifier) => {
                verifier.verify_client_cert(leaf, intermediates, unix(time)).map(|_| ())
            }
            Verifier::OfServers(_) => {
                Err(Error::General("a client's certificate at a client".into()))
            }
        }
    }

    /// Verifies a server's chain now: as [`Identity::verify_client`], and that it is for `name`, and
    /// that its SPIFFE ID is an allowed one.
    ///
    /// # Errors
    /// What is wrong with it, as rustls tells the peer.
    pub fn verify_server(&self, chain: Chain<'_>, name: &ServerName<'_>) -> Result<(), Error> {
        self.verify_server_at(chain, name, now())
    }

    /// [`Identity::verify_server`] at another time than now.
    ///
    /// # Errors
    /// As there.
    pub fn verify_server_at(
        &self,
        chain: Chain<'_>,
        name: &ServerName<'_>,
        time: Seconds,
    ) -> Result<(), Error> {
        let (leaf, intermediates) = split(chain)?;
        match self.verifier(time)? {
            Verifier::OfServers(verifier) => {
                verifier.verify_server_cert(leaf, intermediates, name, &[], unix(time))?;
            }
            Verifier::OfClients(_) => {
                return Err(Error::General("a server's certificate at a server".into()));
            }
        }
        if self.allowed.is_some() {
            let wrong = |error| Error::from(CertificateError::Other(OtherError(Arc::new(error))));
            let names = Names::of(leaf).map_err(|_| Error::from(CertificateError::BadEncoding))?;
            let names = names.identity().map_err(wrong)?;
            self.admit(&names).map_err(wrong)?;
        }
        Ok(())
    }

    /// Whether the holder of `names` is let in, and as whom. The names must come from a chain that
    /// was verified.
    ///
    /// # Errors
    /// When none of them is an allowed one.
    pub fn admit<'n>(&self, names: &'n [Name]) -> Result<&'n Name, WrongId> {
        let first = names.first().ok_or(WrongId::Nameless)?;
        let Some(allowed) = &self.allowed else {
            return Ok(first);
        };
        names.iter().find(|name| allowed.contains(name)).ok_or_else(|| {
            match Vec::from_iter(allowed).as_slice() {
                [only] => WrongId::Another { found: first.to_string(), wanted: only.to_string() },
                _ => WrongId::NotAllowed(first.to_string()),
            }
        })
    }

    /// The holder of `names` as a metric's label: one of the allowed names, or else `other`. A peer
    /// cannot add to that set, only who writes the configuration can.
    pub fn label(&self, names: &[Name]) -> String {
        match names
            .iter()
            .find(|name| self.allowed.as_ref().is_some_and(|allowed| allowed.contains(name)))
        {
            Some(name) => name.to_string(),
            None => "other".to_owned(),
        }
    }

    /// Whether both judge peers in the same way: only our own leaf may differ.
    pub fn judges_as(&self, other: &Self) -> bool {
        self.trust == other.trust && self.allowed == other.allowed
    }

    /// Whether one of our own roots vouches for our own leaf, as where both sides share a bundle.
    pub fn vouches_for_itself(&self) -> bool {
        let (Some(leaf), Some(trust)) = (&self.leaf, &self.trust) else {
            return false;
        };
        let purpose = trust.verifier.own_purpose();
        split(&leaf.certified.cert).is_ok_and(|(leaf, intermediates)| {
            cert::verify(leaf, intermediates, trust.roots.store(now()), purpose).is_ok()
        })
    }

    fn verifier(&self, time: Seconds) -> Result<Verifier, Error> {
        let trust = self.trust.as_ref().ok_or(CertificateError::UnknownIssuer)?;
        if time < trust.stale_from {
            return Ok(trust.verifier.clone());
        }
        // A root has begun or ended since the bundle was read. Should none be left, nobody is
        // trusted.
        trust.verifier.with(&trust.roots, time).map_err(|_| CertificateError::UnknownIssuer.into())
    }
}

impl Verifier {
    fn new(roots: &Roots, purpose: Purpose, time: Seconds) -> Result<Self, String> {
        let (store, provider) = (roots.store(time), Arc::clone(provider()));
        match purpose {
            // Our peers are of the other kind.
            Purpose::Server => WebPkiClientVerifier::builder_with_provider(store, provider)
                .build()
                .map(Self::OfClients)
                .map_err(|error| error.to_string()),
            Purpose::Client => WebPkiServerVerifier::builder_with_provider(store, provider)
                .build()
                .map(Self::OfServers)
                .map_err(|error| error.to_string()),
        }
    }

    fn with(&self, roots: &Roots, time: Seconds) -> Result<Self, String> {
        Self::new(roots, self.own_purpose(), time)
    }

    fn own_purpose(&self) -> Purpose {
        match self {
            Self::OfClients(_) => Purpose::Server,
            Self::OfServers(_) => Purpose::Client,
        }
    }
}

fn unix(time: Seconds) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(time).unwrap_or(0)))
}

fn split<'c>(chain: Chain<'c>) -> Result<(&'c CertificateDer<'c>, Chain<'c>), Error> {
    chain.split_first().ok_or(Error::NoCertificatesPresented)
}
