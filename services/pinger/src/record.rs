//! Records pings: a line in the log, metrics, the history, and the summary.

use std::{collections::BTreeMap, fmt, time::Duration};

use chassis::{
    failure::{Failure, FailureReason},
    metrics::Metrics,
    tls::{
        clock::Clock,
        expiry::ExpiryMonitor,
        metrics::{HandshakeMetrics, IdentityMetrics},
        peer_id::PeerId,
    },
};
use hdrhistogram::Histogram;
use prometheus::{HistogramVec, IntCounterVec, IntGauge};
use tracing::Level;

use crate::{
    client::Outcome,
    config::Config,
    connector::{Phase, Trace},
    history::History,
};

/// Records pings.
#[derive(Debug)]
pub struct Recorder {
    pings: IntCounterVec,
    last_success: IntGauge,
    durations: HistogramVec,
    phases: HistogramVec,
    handshakes: HandshakeMetrics,
    identity: IdentityMetrics,
    /// The expected SPIFFE ID of ponger, or `other` if any is accepted.
    peer_label: String,
    expiry: ExpiryMonitor,
    clock: Clock,
    history: History,
    summary: Summary,
}

impl Recorder {
    /// Registers the metrics of pings.
    pub fn new(
        metrics: &Metrics,
        identity: IdentityMetrics,
        config: &Config,
        clock: Clock,
        history: History,
    ) -> Self {
        let pings = metrics.int_counter_vec(
            "pinger_pings_total",
            "Pings, by result: `pong`, or the reason for the loss.",
            &["result"],
        );
        pings.with_label_values(&["pong"]);
        for reason in FailureReason::ALL {
            pings.with_label_values(&[reason.label()]);
        }
        let target = metrics.int_gauge_vec(
            "pinger_target_info",
            "The URL that is pinged, as a label of a constant 1.",
            &["url"],
        );
        target.with_label_values(&[config.ponger.url.as_deref().unwrap_or_default()]).set(1);
        Self {
            pings,
            last_success: metrics.int_gauge(
                "pinger_last_success_timestamp_seconds",
                "When the last pong arrived, in seconds since 1970; 0 before the first.",
            ),
            durations: metrics.histogram_vec(
                "pinger_ping_duration_seconds",
                "Time from the start of a ping to its pong or its loss.",
                &["result"],
            ),
            phases: metrics.histogram_vec(
                "pinger_phase_duration_seconds",
                "Time that a ping spent in a phase, by the kind of its handshake: `full`, `reused` on a kept connection, or `none`.",
                &["phase", "kind"],
            ),
            handshakes: HandshakeMetrics::new(metrics),
            identity,
            peer_label: config.ponger.server_id.clone().unwrap_or_else(|| "other".into()),
            expiry: ExpiryMonitor::new(config.identity.expiry_warning.map(|warning| warning.0)),
            clock,
            history,
            summary: Summary::new(config.count),
        }
    }

    /// Records one ping.
    pub fn record(&mut self, seq: u64, outcome: &Outcome) {
        self.measure(outcome);
        self.history.record(seq, outcome);
        self.summary.add(outcome);
        match &outcome.result {
            Ok(()) => log_pong(seq, outcome),
            Err(failure) => tracing::warn!(
                seq,
                reason = failure.reason.label(),
                cause = failure.cause,
                phase = outcome.trace.phase.label(),
                latency_ms = millis(outcome.duration),
                "Lost ping"
            ),
        }
    }

    fn measure(&mut self, outcome: &Outcome) {
        let (label, result) = match &outcome.result {
            Ok(()) => ("pong", "pong"),
            Err(failure) => (failure.reason.label(), "lost"),
        };
        self.pings.with_label_values(&[label]).inc();
        if outcome.result.is_ok() {
            let now = self.clock.now().as_secs();
            self.last_success.set(i64::try_from(now).unwrap_or(i64::MAX));
        }
        self.durations.with_label_values(&[result]).observe(outcome.duration.as_secs_f64());
        let trace = &outcome.trace;
        let kind = kind(trace);
        for (phase, time) in &trace.times {
            self.phases.with_label_values(&[phase.label(), kind]).observe(time.as_secs_f64());
        }
        let handshake = trace.info.as_ref().and_then(|info| info.handshake);
        if let Err(Failure { reason, .. }) = &outcome.result
            && (trace.phase == Phase::Tls || *reason == FailureReason::TlsRefusedByPeer)
        {
            // In TLS 1.3 a client learns that it was rejected only when it reads the response.
            self.handshakes.record_failure(*reason);
        } else if let Some(handshake) = handshake.filter(|_| !trace.reused) {
            self.handshakes.record_success(&handshake, &self.peer_label);
        }
        let credentials = trace.info.as_ref().and_then(|info| info.credentials.as_ref());
        if let Some(validity) = credentials.and_then(|credentials| credentials.peer_validity()) {
            self.identity.record_peer(validity);
            let now = self.clock.now();
            self.expiry.check("ponger", validity.not_before, validity.not_after, now);
        }
    }

    /// The summary of all pings.
    pub fn into_summary(self) -> Summary {
        self.summary
    }
}

fn kind(trace: &Trace) -> &'static str {
    let handshake = trace.info.as_ref().and_then(|info| info.handshake);
    match handshake {
        _ if trace.reused => "reused",
        Some(handshake) => handshake.kind,
        None => "none",
    }
}

fn log_pong(seq: u64, outcome: &Outcome) {
    let latency_ms = millis(outcome.duration);
    if !tracing::enabled!(Level::DEBUG) {
        tracing::info!(seq, latency_ms, "Got pong");
        return;
    }
    let trace = &outcome.trace;
    let info = trace.info.clone().unwrap_or_default();
    let peer = info.credentials.and_then(|credentials| credentials.peer_ids()?.ok());
    let handshake = info.handshake.as_ref();
    let phase = |wanted| {
        let (_, time) = trace.times.iter().find(|(phase, _)| *phase == wanted)?;
        Some(millis(*time))
    };
    tracing::info!(
        seq,
        latency_ms,
        address = info.address.map(display),
        peer = peer.as_ref().and_then(|ids| ids.first()).map(PeerId::as_str),
        version = handshake.map(|handshake| handshake.version),
        cipher = handshake.map(|handshake| handshake.cipher),
        group = handshake.map(|handshake| handshake.group),
        kind = kind(trace),
        resolve_ms = phase(Phase::Resolve),
        connect_ms = phase(Phase::Connect),
        tls_ms = phase(Phase::Tls),
        processing_ms = phase(Phase::Processing),
        "Got pong"
    );
}

/// Milliseconds with three decimals.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// The summary of all pings.
#[derive(Clone, Debug)]
pub struct Summary {
    pongs: u64,
    lost: BTreeMap<FailureReason, u64>,
    /// Latencies of pongs in microseconds, in a histogram of fixed size.
    latencies: Histogram<u32>,
    stop_after: u32,
}

impl Summary {
    fn new(stop_after: u32) -> Self {
        let latencies = Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("valid bounds");
        Self { pongs: 0, lost: BTreeMap::new(), latencies, stop_after }
    }

    fn add(&mut self, outcome: &Outcome) {
        match &outcome.result {
            Ok(()) => {
                self.pongs += 1;
                self.latencies.saturating_record(
                    u64::try_from(outcome.duration.as_micros()).unwrap_or(u64::MAX),
                );
            }
            Err(failure) => *self.lost.entry(failure.reason).or_default() += 1,
        }
    }

    /// How many pings were sent.
    pub fn pings(&self) -> u64 {
        self.pongs + self.lost()
    }

    /// How many pongs came back.
    pub fn pongs(&self) -> u64 {
        self.pongs
    }

    /// How many pings were lost.
    pub fn lost(&self) -> u64 {
        self.lost.values().sum()
    }

    /// 0, or 1 if a number of pings was asked for and one was lost.
    pub fn exit_code(&self) -> u8 {
        u8::from(self.stop_after > 0 && self.lost() > 0)
    }
}

fn plural(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pings, pongs) = (plural(self.pings(), "ping"), plural(self.pongs, "pong"));
        write!(f, "{pings}, {pongs}, {} lost", self.lost())?;
        let by_reason: Vec<_> =
            self.lost.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        if !by_reason.is_empty() {
            write!(f, " ({})", by_reason.join(", "))?;
        }
        if self.pongs > 0 {
            let ms = |quantile| {
                Duration::from_micros(self.latencies.value_at_quantile(quantile)).as_secs_f64()
                    * 1e3
            };
            write!(f, "; median {:.1} ms, p99 {:.1} ms", ms(0.5), ms(0.99))?;
        }
        Ok(())
    }
}
