//! Records pings: a line in the log, metrics, the history, and the summary.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use chassis::{
    config::LogPings,
    failure::{Failure, FailureReason},
    metrics::Metrics,
    tls::{
        clock::Clock,
        expiry::ExpiryMonitor,
        metrics::{HandshakeMetrics, IdentityMetrics},
        peer_id::PeerId,
    },
};
use opentelemetry::trace::TraceId;
use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGauge};
use tracing::{
    Level,
    field::{DisplayValue, display},
};

use crate::{
    client::Outcome,
    config::Config,
    endpoint_metrics::EndpointMetrics,
    endpoints::Change,
    history::History,
    phase::{Phase, Trace},
    ping_span::{PingSpan, PingTracer},
    summary::{RecentPings, Summary},
};

/// The target of log lines about pings that have not failed, which `log.pings` switches off.
pub(crate) const PINGS: &str = "pinger::pings";

/// Records pings.
#[derive(Debug)]
pub struct Recorder {
    pings: IntCounterVec,
    last_success: IntGauge,
    durations: HistogramVec,
    slow: IntCounterVec,
    slow_after: Duration,
    syn_retransmits: IntCounter,
    phases: HistogramVec,
    endpoints: EndpointMetrics,
    handshakes: HandshakeMetrics,
    identity: IdentityMetrics,
    /// The expected SPIFFE ID of ponger, or `other` if any is accepted.
    peer_label: String,
    expiry: ExpiryMonitor,
    clock: Clock,
    history: History,
    tracer: Option<PingTracer>,
    /// Those of pings in flight, by their numbers.
    spans: BTreeMap<u64, PingSpan>,
    summary: Summary,
    /// `None` if each pong is logged.
    recent: Option<RecentPings>,
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
        let slow = metrics.int_counter_vec(
            "pinger_slow_pongs_total",
            "Pongs that took longer than slowAfter, by the phase that took longest.",
            &["phase"],
        );
        for phase in Phase::ALL {
            slow.with_label_values(&[phase.label()]);
        }
        Self {
            pings,
            slow,
            slow_after: config.slow_after.0,
            syn_retransmits: metrics.int_counter(
                "pinger_syn_retransmits_total",
                "SYNs that were sent again to open a connection, because no answer came in time.",
            ),
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
            endpoints: EndpointMetrics::new(metrics),
            handshakes: HandshakeMetrics::new(metrics),
            identity,
            peer_label: config.ponger.server_id.clone().unwrap_or_else(|| "other".into()),
            expiry: ExpiryMonitor::new(config.identity.expiry_warning.map(|warning| warning.0)),
            clock,
            history,
            summary: Summary::new(config.count),
            tracer: None,
            spans: BTreeMap::new(),
            recent: (config.log.pings == LogPings::Failed)
                .then(|| RecentPings::new(Instant::now())),
        }
    }

    /// Has the spans of pings created by `tracer`, if traces are exported.
    #[must_use]
    pub fn with_tracer(mut self, tracer: Option<PingTracer>) -> Self {
        self.tracer = tracer;
        self
    }

    /// Starts the span of a ping, which [`Recorder::record`] ends; `None` if traces are not exported.
    pub fn start_span(&mut self, seq: u64) -> Option<&PingSpan> {
        let span = self.tracer.as_ref()?.start();
        self.spans.insert(seq, span);
        self.spans.get(&seq)
    }

    /// Records one ping, and ends its span.
    pub fn record(&mut self, seq: u64, outcome: &Outcome) {
        self.measure(outcome);
        self.history.record(seq, outcome);
        let slow_phase = self.slow_phase(outcome);
        if let Some(phase) = slow_phase {
            self.slow.with_label_values(&[phase.label()]).inc();
        }
        self.summary.add(outcome, slow_phase);
        if let Some(recent) = &mut self.recent {
            recent.add(outcome, slow_phase, Instant::now());
        }
        let span = self.spans.remove(&seq);
        let trace_id = span.as_ref().map(PingSpan::trace_id);
        let untrusted = outcome.trace.untrusted.as_ref();
        match &outcome.result {
            Ok(()) => log_pong(seq, outcome, slow_phase, trace_id),
            Err(failure) => tracing::warn!(
                seq,
                endpoint = endpoint(outcome),
                reason = failure.reason.label(),
                cause = failure.cause,
                issuer = untrusted.map(|untrusted| &*untrusted.issuer),
                trusted_roots = untrusted.map(|untrusted| &*untrusted.trusted_roots),
                phase = outcome.trace.phase.label(),
                address = outcome.trace.info.as_ref().and_then(|info| info.address).map(display),
                syn_retransmits = syn_retransmits(&outcome.trace),
                latency_ms = millis(outcome.duration),
                trace_id = trace_id.map(display),
                "Lost ping"
            ),
        }
        if let Some(span) = span {
            span.finish(outcome);
        }
    }

    /// Records which endpoints are pinged now.
    pub fn record_change(&self, change: &Change, count: usize) {
        let Change { added, removed, excess } = change;
        for endpoint in added {
            self.endpoints.add(*endpoint);
        }
        for endpoint in removed {
            self.endpoints.forget(*endpoint);
        }
        self.endpoints.set_count(count);
        if added.is_empty() && removed.is_empty() {
            return;
        }
        tracing::info!(
            endpoints = count,
            added = list(added),
            removed = list(removed),
            "Endpoints changed"
        );
        if *excess > 0 {
            tracing::warn!(
                endpoints = count,
                left_out = excess,
                "Too many endpoints, the lowest addresses are pinged"
            );
        }
    }

    /// Removes the metrics of an endpoint that is no longer pinged.
    pub fn forget(&self, endpoint: SocketAddr) {
        self.endpoints.forget(endpoint);
    }

    /// The phase that took longest, if the outcome is a pong that took too long.
    fn slow_phase(&self, outcome: &Outcome) -> Option<Phase> {
        let is_slow = !self.slow_after.is_zero() && outcome.duration > self.slow_after;
        outcome.trace.slowest().filter(|_| is_slow && outcome.result.is_ok())
    }

    fn measure(&mut self, outcome: &Outcome) {
        let (label, result) = match &outcome.result {
            Ok(()) => ("pong", "pong"),
            Err(failure) => (failure.reason.label(), "lost"),
        };
        self.pings.with_label_values(&[label]).inc();
        self.endpoints.record(outcome);
        if outcome.result.is_ok() {
            let now = self.clock.now().as_secs();
            self.last_success.set(i64::try_from(now).unwrap_or(i64::MAX));
        }
        self.durations.with_label_values(&[result]).observe(outcome.duration.as_secs_f64());
        let trace = &outcome.trace;
        self.syn_retransmits.inc_by(syn_retransmits(trace).unwrap_or(0).into());
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

fn endpoint(outcome: &Outcome) -> Option<DisplayValue<IpAddr>> {
    outcome.endpoint.map(|endpoint| display(endpoint.ip()))
}

/// The addresses, separated by spaces; `None` if there is none.
fn list(endpoints: &[SocketAddr]) -> Option<String> {
    let addresses: Vec<_> = endpoints.iter().map(|endpoint| endpoint.ip().to_string()).collect();
    (!addresses.is_empty()).then(|| addresses.join(" "))
}

fn kind(trace: &Trace) -> &'static str {
    let handshake = trace.info.as_ref().and_then(|info| info.handshake);
    match handshake {
        _ if trace.reused => "reused",
        Some(handshake) => handshake.kind,
        None => "none",
    }
}

/// How often a SYN of this ping was sent again; `None` if none was.
fn syn_retransmits(trace: &Trace) -> Option<u32> {
    let info = trace.info.as_ref().filter(|_| !trace.reused)?;
    Some(info.syn_retransmits).filter(|count| *count > 0)
}

/// Logs a pong; with everything about it if it was slow, or at `log.level: debug`.
fn log_pong(seq: u64, outcome: &Outcome, slow_phase: Option<Phase>, trace_id: Option<TraceId>) {
    let trace = &outcome.trace;
    let is_detailed = slow_phase.is_some() || tracing::enabled!(Level::DEBUG);
    let info = trace.info.clone().filter(|_| is_detailed).unwrap_or_default();
    let peer = info.credentials.and_then(|credentials| credentials.peer_ids()?.ok());
    let handshake = info.handshake.as_ref();
    let phase = |wanted| {
        let (_, time) = trace.times.iter().find(|(phase, _)| is_detailed && *phase == wanted)?;
        Some(millis(*time))
    };
    // A macro, since the level of an event is a constant.
    macro_rules! got_pong {
        ($level:expr) => {
            tracing::event!(
                target: PINGS,
                $level,
                seq,
                endpoint = endpoint(outcome),
                latency_ms = millis(outcome.duration),
                slow_phase = slow_phase.map(Phase::label),
                syn_retransmits = syn_retransmits(trace),
                address = info.address.map(display),
                peer = peer.as_ref().and_then(|ids| ids.first()).map(PeerId::as_str),
                version = handshake.map(|handshake| handshake.version),
                cipher = handshake.map(|handshake| handshake.cipher),
                group = handshake.map(|handshake| handshake.group),
                kind = is_detailed.then(|| kind(trace)),
                resolve_ms = phase(Phase::Resolve),
                connect_ms = phase(Phase::Connect),
                tls_ms = phase(Phase::Tls),
                processing_ms = phase(Phase::Processing),
                trace_id = trace_id.map(display),
                "Got pong"
            )
        };
    }
    match slow_phase {
        None => got_pong!(Level::INFO),
        Some(_) => got_pong!(Level::WARN),
    }
}

/// Milliseconds with three decimals.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
