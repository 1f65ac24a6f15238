//! What becomes of each ping: a line in the log, metrics, and a place in the summary.

use std::{collections::BTreeMap, fmt, process::ExitCode, time::Duration};

use chassis::{
    metrics::{HandshakeMetrics, IdentityMetrics, Metrics},
    failure::{Failure, FailureReason},
    tls::{expiry::Warner, reload::Current, session::Session},
};
use hdrhistogram::Histogram;
use prometheus::{HistogramVec, IntCounterVec};
use tracing::Level;

use crate::{
    client::Outcome,
    connector::{Facts, Phase},
};

/// Records pings.
#[derive(Debug)]
pub struct Recorder {
    pings: IntCounterVec,
    durations: HistogramVec,
    phases: HistogramVec,
    handshakes: HandshakeMetrics,
    identity: IdentityMetrics,
    current: Option<Current>,
    expiry: Warner,
    summary: Summary,
}

impl Recorder {
    /// Registers the metrics of pings. `warn_before` is how long before its end ponger's certificate
    /// is warned about.
    pub fn new(
        metrics: &Metrics,
        identity: IdentityMetrics,
        current: Option<Current>,
        warn_before: Option<Duration>,
        stop_after: u32,
    ) -> Self {
        let pings = metrics.counters(
            "pinger_pings_total",
            "Pings, by their result: `pong`, or why they were lost.",
            &["result"],
        );
        pings.with_label_values(&["pong"]);
        for reason in FailureReason::ALL {
            pings.with_label_values(&[reason.label()]);
        }
        Self {
            pings,
            durations: metrics.seconds_by(
                "pinger_ping_duration_seconds",
                "Time from a ping's beginning to its pong or its loss.",
                &["result"],
            ),
            phases: metrics.seconds_by(
                "pinger_phase_duration_seconds",
                "Time that a ping spent in a phase, by the kind of its handshake; `kept` had its connection before.",
                &["phase", "kind"],
            ),
            handshakes: HandshakeMetrics::new(metrics),
            identity,
            current,
            expiry: Warner::new(warn_before),
            summary: Summary::new(stop_after),
        }
    }

    /// Records one ping.
    pub fn record(&mut self, seq: u64, outcome: &Outcome) {
        self.measure(outcome);
        match &outcome.result {
            Ok(()) => log_pong(seq, outcome),
            Err(failure) => tracing::warn!(
                seq,
                reason = failure.reason.label(),
                cause = failure.cause,
                phase = outcome.trace.phase.label(),
                ms = millis(outcome.duration),
                "Lost ping"
            ),
        }
    }

    fn measure(&mut self, outcome: &Outcome) {
        let label =
            outcome.result.as_ref().map_or_else(|failure| failure.reason.label(), |()| "pong");
        self.pings.with_label_values(&[label]).inc();
        let result = if outcome.result.is_ok() { "pong" } else { "lost" };
        self.durations.with_label_values(&[result]).observe(outcome.duration.as_secs_f64());
        let trace = &outcome.trace;
        let session = trace.facts.as_ref().and_then(|facts| facts.session);
        let kind = match session {
            _ if trace.kept => "kept",
            Some(session) => session.kind,
            None => "none",
        };
        for (phase, time) in &trace.times {
            self.phases.with_label_values(&[phase.label(), kind]).observe(time.as_secs_f64());
        }
        if let Err(Failure { reason, .. }) = &outcome.result
            && (trace.phase == Phase::Tls || *reason == FailureReason::TlsRefusedByPeer)
        {
            // In TLS 1.3 a client learns of its refusal only when it reads the answer.
            self.handshakes.failed(*reason);
        } else if let Some(session) = session.filter(|_| !trace.kept) {
            let names =
                trace.facts.as_ref().and_then(|facts| facts.credentials.names()?.as_deref().ok());
            let peer = self.current.as_ref().map_or("none".to_owned(), |current| {
                current.get().label(names.unwrap_or_default())
            });
            self.handshakes.done(&session, &peer);
        }
        if let Some((not_before, not_after)) =
            trace.facts.as_ref().and_then(|facts| facts.credentials.leaf_validity())
        {
            self.identity.peer(not_after);
            self.expiry.look("ponger's", not_before, not_after);
        }
        self.summary.add(outcome);
    }

    /// What the pings have come to.
    pub fn into_summary(self) -> Summary {
        self.summary
    }
}

fn log_pong(seq: u64, outcome: &Outcome) {
    let ms = millis(outcome.duration);
    if !tracing::enabled!(Level::DEBUG) {
        tracing::info!(seq, ms, "Got pong");
        return;
    }
    let Facts { address, session, credentials } = outcome.trace.facts.clone().unwrap_or_default();
    let Session { version, cipher, group, kind } =
        session.unwrap_or(Session { version: "none", cipher: "none", group: "none", kind: "none" });
    let phase = |wanted| {
        let of = |(phase, time): &(Phase, Duration)| (*phase == wanted).then(|| millis(*time));
        outcome.trace.times.iter().find_map(of)
    };
    tracing::info!(
        seq,
        ms,
        address = address.map(tracing::field::display),
        peer = credentials
            .names()
            .and_then(|names| names.as_ref().ok()?.first())
            .map(tracing::field::display),
        version,
        cipher,
        group,
        kind,
        kept = outcome.trace.kept,
        resolve_ms = phase(Phase::Resolve),
        connect_ms = phase(Phase::Connect),
        tls_ms = phase(Phase::Tls),
        processing_ms = phase(Phase::Processing),
        "Got pong"
    );
}

/// Milliseconds with three decimals, as people read them.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// What all pings together have come to.
#[derive(Clone, Debug)]
pub struct Summary {
    pongs: u64,
    lost: BTreeMap<FailureReason, u64>,
    /// Microseconds that pongs took. Of fixed size, however long pinger runs.
    times: Histogram<u32>,
    stop_after: u32,
}

impl Summary {
    fn new(stop_after: u32) -> Self {
        let times = Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("bounds in order");
        Self { pongs: 0, lost: BTreeMap::new(), times, stop_after }
    }

    fn add(&mut self, outcome: &Outcome) {
        match &outcome.result {
            Ok(()) => {
                self.pongs += 1;
                self.times.saturating_record(
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

    /// How many pings came back.
    pub fn pongs(&self) -> u64 {
        self.pongs
    }

    /// How many pings were lost.
    pub fn lost(&self) -> u64 {
        self.lost.values().sum()
    }

    /// Success, unless a number of pings was asked for and one was lost.
    pub fn exit_code(&self) -> ExitCode {
        if self.stop_after > 0 && self.lost() > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pings, {} pongs, {} lost", self.pings(), self.pongs, self.lost())?;
        let by_reason: Vec<_> =
            self.lost.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        if !by_reason.is_empty() {
            write!(f, " ({})", by_reason.join(", "))?;
        }
        if self.pongs > 0 {
            let ms = |quantile| {
                Duration::from_micros(self.times.value_at_quantile(quantile)).as_secs_f64() * 1e3
            };
            write!(f, "; median {:.1} ms, p99 {:.1} ms", ms(0.5), ms(0.99))?;
        }
        Ok(())
    }
}
