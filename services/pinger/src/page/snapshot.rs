//! What the page shows at one moment.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use chassis::{
    readiness::Readiness,
    tls::{
        cert_info::CertInfo,
        client::ClientTls,
        clock::Clock,
        expiry::expires_soon,
        handshake_info::HandshakeInfo,
        peer_id::{PeerId, SubjectAltNames},
        reload::IdentityWatch,
        x509::{self, Validity},
    },
};
use rustls::pki_types::{CertificateDer, UnixTime};

use crate::{
    config::Config,
    history::{FailureRecord, History, PingRecord, Success},
    rejection_probe::{LastProbe, ProbeResults},
};

/// The times that success is shown of, each with its name.
pub const RANGES: [(Duration, &str); 3] = [
    (Duration::from_secs(60), "1 min"),
    (Duration::from_secs(600), "10 min"),
    (Duration::from_secs(3600), "1 h"),
];

/// How long a snapshot is used again while no ping ends: certificates and readiness change too.
const MAX_AGE: Duration = Duration::from_secs(1);

/// Where what the page shows comes from.
#[derive(Debug)]
pub struct Source {
    /// The configuration, which holds no secret.
    pub config: Config,
    /// The pings.
    pub history: History,
    /// The rejection probes.
    pub probes: ProbeResults,
    /// Why pinger is not ready, and warnings.
    pub readiness: Readiness,
    /// Our own certificate and the trust bundle; `None` without TLS.
    pub identity: Option<IdentityWatch<ClientTls>>,
    /// The time by which certificates are verified.
    pub clock: Clock,
    /// When pinger was started.
    pub started: SystemTime,
    last: Mutex<Option<(Instant, Arc<Snapshot>)>>,
}

/// What the page shows.
#[derive(Debug)]
pub struct Snapshot {
    /// How many pings there were.
    pub total: u64,
    /// The last pings, at most [`Snapshot::MAX_LATEST`], the oldest first.
    pub latest: Vec<PingRecord>,
    /// The success in each of [`RANGES`].
    pub success: [Success; RANGES.len()],
    /// The last handshake.
    pub handshake: Option<HandshakeInfo>,
    /// The pings that are kept, by the address that they were connected to.
    pub endpoints: BTreeMap<Option<SocketAddr>, Endpoint>,
    /// pinger's certificate chain, its own certificate first.
    pub own: Vec<Certificate>,
    /// ponger's, as last presented.
    pub peer: Vec<Certificate>,
    /// The ID that pinger presents.
    pub own_id: Option<String>,
    /// The ID that ponger presented last.
    pub peer_id: Option<String>,
    /// The trust bundle.
    pub roots: Option<Roots>,
    /// The last rejection probes.
    pub probes: Vec<LastProbe>,
    /// The last failures, the latest first.
    pub failures: Vec<FailureRecord>,
    /// Why pinger is not ready.
    pub not_ready: Vec<&'static str>,
    /// What a person should know.
    pub warnings: Vec<String>,
    /// The time by which certificates are verified.
    pub now: UnixTime,
}

impl Snapshot {
    /// How many pings show how ponger is now.
    pub const MAX_LATEST: usize = 120;
}

/// The pings to one address.
#[derive(Clone, Copy, Debug, Default)]
pub struct Endpoint {
    /// How many succeeded.
    pub success: Success,
    /// The last one.
    pub last: Option<PingRecord>,
}

/// A certificate of a chain.
#[derive(Debug)]
pub struct Certificate {
    /// What it says.
    pub info: CertInfo,
    /// When it is valid.
    pub validity: Validity,
    /// Whether it expires soon.
    pub expires_soon: bool,
}

impl Certificate {
    /// Its SPIFFE ID, or else its subject.
    pub fn name(&self) -> &str {
        self.info.spiffe_id.as_deref().unwrap_or(&self.info.subject)
    }
}

/// The roots that are valid now.
#[derive(Debug)]
pub struct Roots {
    /// How many.
    pub count: usize,
    /// The validity of the one that expires first.
    pub validity: Validity,
    /// Whether that is soon.
    pub expires_soon: bool,
}

impl Source {
    /// Collects the sources; pinger starts now.
    pub fn new(
        config: Config,
        history: History,
        probes: ProbeResults,
        readiness: Readiness,
        identity: Option<IdentityWatch<ClientTls>>,
        clock: Clock,
    ) -> Self {
        let (started, last) = (SystemTime::now(), Mutex::default());
        Self { config, history, probes, readiness, identity, clock, started, last }
    }

    /// What the page shows now. Streams share one snapshot for each ping.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let total = self.history.total();
        match &*last {
            Some((taken, snapshot)) if snapshot.total == total && taken.elapsed() < MAX_AGE => {
                Arc::clone(snapshot)
            }
            _ => {
                let snapshot = Arc::new(self.take_snapshot(total));
                *last = Some((Instant::now(), Arc::clone(&snapshot)));
                snapshot
            }
        }
    }

    fn take_snapshot(&self, total: u64) -> Snapshot {
        let now = self.clock.now();
        let identity = self.identity.as_ref().map(IdentityWatch::current);
        let own = identity.as_ref().and_then(|identity| identity.own.as_ref());
        let own: &[_] = own.map_or(&[], |own| &own.certified.cert);
        let peer = self.history.peer();
        let presented: &[_] = peer.as_ref().map_or(&[], |peer| &peer.chain);
        let trust = identity.as_ref().and_then(|identity| identity.trust.as_ref());
        let mut snapshot = Snapshot {
            total,
            latest: self.history.latest(Snapshot::MAX_LATEST),
            success: RANGES.map(|(duration, _)| self.history.success(duration)),
            handshake: peer.as_ref().map(|peer| peer.handshake),
            endpoints: self.endpoints(),
            own: self.chain(own, now),
            peer: self.chain(presented, now),
            own_id: own.first().and_then(id),
            peer_id: presented.first().and_then(id),
            roots: trust.and_then(|trust| {
                let validity = trust.earliest_expiry(now)?;
                let expires_soon = self.expires_soon(validity, now);
                Some(Roots { count: trust.active_count(now), validity, expires_soon })
            }),
            probes: self.probes.last(),
            failures: self.history.failures(),
            not_ready: self.readiness.not_ready_reasons(),
            warnings: self.readiness.warnings().into_iter().map(str::to_owned).collect(),
            now,
        };
        snapshot.warnings.extend(expiry_warnings(&snapshot));
        snapshot
    }

    fn endpoints(&self) -> BTreeMap<Option<SocketAddr>, Endpoint> {
        let mut endpoints = BTreeMap::<_, Endpoint>::new();
        self.history.for_each(|ping| {
            let endpoint = endpoints.entry(ping.endpoint).or_default();
            endpoint.success.add(ping.reason.is_none());
            endpoint.last = Some(*ping);
        });
        endpoints
    }

    fn chain(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Vec<Certificate> {
        let read = |der| {
            let (info, validity) = (CertInfo::from_der(der).ok()?, x509::validity(der)?);
            Some(Certificate { info, validity, expires_soon: self.expires_soon(validity, now) })
        };
        chain.iter().filter_map(read).collect()
    }

    fn expires_soon(&self, validity: Validity, now: UnixTime) -> bool {
        let lead_time = self.config.identity.expiry_warning.map(|warning| warning.0);
        expires_soon(lead_time, validity, now)
    }
}

fn expiry_warnings(snapshot: &Snapshot) -> Vec<String> {
    let chains = [("pinger", &snapshot.own), ("ponger", &snapshot.peer)];
    let mut warnings = Vec::new();
    for (name, chain) in chains {
        for certificate in chain.iter().filter(|certificate| certificate.expires_soon) {
            let state = if certificate.validity.not_after < snapshot.now {
                "has expired"
            } else {
                "expires soon"
            };
            warnings.push(format!("a certificate of {name} {state}: {}", certificate.name()));
        }
    }
    if snapshot.roots.as_ref().is_some_and(|roots| roots.expires_soon) {
        warnings.push("a root of the trust bundle expires soon".to_owned());
    }
    warnings
}

/// The ID in a certificate, as authorization reads it.
fn id(der: &CertificateDer<'_>) -> Option<String> {
    let names = SubjectAltNames::from_der(der).ok()?;
    names.peer_ids().ok()?.first().map(PeerId::to_string)
}
