//! Prometheus metrics: base units, `_total` for counters, labels from closed sets only.

use prometheus::{
    Encoder as _, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, Opts, Registry, TextEncoder, core::Collector,
};

use crate::{
    failure::FailureReason,
    tls::{
        clock::{Seconds, now},
        identity::Identity,
        session::Session,
    },
};

/// Bounds, in seconds, that fit a network round trip, a handshake and a time-out.
const SECONDS: &[f64] = &[
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0,
];

/// A service's metrics.
///
/// # Panics
/// Its methods panic when a name is registered twice or is not a Prometheus name, which any test of
/// the service shows.
#[derive(Clone, Debug)]
pub struct Metrics(Registry);

impl Metrics {
    /// The metrics of `service`, with those of its process and its build.
    pub fn new(service: &str, version: &str) -> Self {
        let metrics = Self(Registry::new());
        #[cfg(target_os = "linux")]
        metrics
            .0
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
            .expect("names of its own");
        let build = metrics.gauges(
            Opts::new(
                format!("{service}_build_info"),
                "The version of this program, as a label of a constant 1.",
            ),
            &["version"],
        );
        build.with_label_values(&[version]).set(1);
        metrics
    }

    /// A counter.
    pub fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::new(name, help).expect("a good name"))
    }

    /// A family of counters.
    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(Opts::new(name, help), labels).expect("good names"))
    }

    /// A gauge of whole numbers.
    pub fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::new(name, help).expect("a good name"))
    }

    /// A histogram of seconds.
    pub fn seconds(&self, name: &str, help: &str) -> Histogram {
        let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
        self.register(Histogram::with_opts(options).expect("a good name"))
    }

    /// A family of histograms of seconds.
    pub fn seconds_by(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
        self.register(HistogramVec::new(options, labels).expect("good names"))
    }

    /// All of them in Prometheus' text format.
    pub fn text(&self) -> String {
        let mut text = Vec::new();
        // Writing to memory fails for no other cause than a metric without values, which has none to show.
        let _ = TextEncoder::new().encode(&self.0.gather(), &mut text);
        String::from_utf8(text).unwrap_or_default()
    }

    fn gauges(&self, options: Opts, labels: &[&str]) -> prometheus::IntGaugeVec {
        self.register(prometheus::IntGaugeVec::new(options, labels).expect("good names"))
    }

    fn register<C: Collector + Clone + 'static>(&self, collector: C) -> C {
        self.0.register(Box::new(collector.clone())).expect("a name of its own");
        collector
    }
}

/// Metrics of our own identity, and of the peer's.
#[derive(Clone, Debug)]
pub struct IdentityMetrics {
    expiration: GaugeVec,
    /// Looks at a changed identity on disk, by `result`: `ok` or `refused`.
    pub refreshed: IntCounterVec,
}

impl IdentityMetrics {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Self {
        let options = Opts::new(
            "identity_cert_expiration_timestamp_seconds",
            "When a certificate ends, in seconds since 1970: our own, the earliest of the trust roots, the peer's last seen.",
        );
        let expiration = metrics.register(GaugeVec::new(options, &["role"]).expect("good names"));
        let refreshed = metrics.counters(
            "identity_refreshes_total",
            "Changed identities on disk, by whether they were taken or refused.",
            &["result"],
        );
        for result in ["ok", "refused"] {
            refreshed.with_label_values(&[result]);
        }
        Self { expiration, refreshed }
    }

    /// Notes when our own certificate and our roots end.
    pub fn publish(&self, identity: &Identity) {
        if let Some(leaf) = &identity.leaf {
            self.set("own", leaf.facts.not_after);
        }
        if let Some(end) = identity.roots().and_then(|roots| roots.earliest_end(now())) {
            self.set("roots", end);
        }
    }

    /// Notes when the peer's certificate ends. It stays when later handshakes fail.
    pub fn peer(&self, not_after: Seconds) {
        self.set("peer", not_after);
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "seconds fit in 52 bits until the year 142714443"
    )]
    fn set(&self, role: &str, end: Seconds) {
        self.expiration.with_label_values(&[role]).set(end as f64);
    }
}

/// Metrics of handshakes.
#[derive(Clone, Debug)]
pub struct HandshakeMetrics {
    done: IntCounterVec,
    peers: IntCounterVec,
    failed: IntCounterVec,
}

impl HandshakeMetrics {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Self {
        let done = metrics.counters(
            "tls_handshakes_total",
            "Handshakes that succeeded, by what was agreed upon.",
            &["version", "cipher", "group", "kind"],
        );
        let peers = metrics.counters(
            "tls_peers_total",
            "Handshakes that succeeded, by the peer's name: an allowed one, `other`, or `none` without a certificate.",
            &["peer"],
        );
        let failed = metrics.counters(
            "tls_handshake_failures_total",
            "Handshakes that failed, by reason.",
            &["reason"],
        );
        for reason in FailureReason::ALL {
            let label = reason.label();
            if label.starts_with("tls_") || *reason == FailureReason::Reset {
                failed.with_label_values(&[label]);
            }
        }
        Self { done, peers, failed }
    }

    /// Counts a handshake that succeeded, with `peer`, a label of [`Identity::label`] or `none`.
    pub fn done(&self, session: &Session, peer: &str) {
        self.peers.with_label_values(&[peer]).inc();
        self.done
            .with_label_values(&[session.version, session.cipher, session.group, session.kind])
            .inc();
    }

    /// Counts a handshake that failed.
    pub fn failed(&self, reason: FailureReason) {
        self.failed.with_label_values(&[reason.label()]).inc();
    }
}
