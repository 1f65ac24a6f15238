//! Limits the log lines that clients can cause, to one a second for each reason.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chassis::{failure::FailureReason, log_limiter::LogLimiter};

use crate::policy::Decision;

/// How often a line of one kind is written at most, and what was suppressed is reported.
const INTERVAL: Duration = Duration::from_secs(1);

/// A limit for each kind of line.
#[derive(Debug)]
pub struct LogLimits {
    /// Connections above the limit.
    pub connections: LogLimiter,
    handshakes: BTreeMap<FailureReason, LogLimiter>,
    /// In the order of [`Decision::index`].
    denials: [LogLimiter; Decision::LABELS.len()],
}

impl Default for LogLimits {
    fn default() -> Self {
        let limiter = |similar_to, reason| LogLimiter::new(similar_to, reason, INTERVAL);
        let handshake = |reason: &FailureReason| {
            (*reason, limiter("TLS handshake failed", Some(reason.label())))
        };
        Self {
            connections: limiter("Connection limit reached, rejecting connections", None),
            handshakes: FailureReason::ALL.iter().map(handshake).collect(),
            denials: Decision::LABELS.map(|[_, reason]| limiter("denied request", Some(reason))),
        }
    }
}

impl LogLimits {
    /// `Some(suppressed since the last line)` when a failed handshake may be logged.
    pub fn try_acquire_handshake(&self, reason: FailureReason) -> Option<u64> {
        self.handshakes.get(&reason)?.try_acquire()
    }

    /// `Some(suppressed since the last line)` when a denied request may be logged.
    pub fn try_acquire_denial(&self, decision: &Decision) -> Option<u64> {
        self.denials[decision.index()].try_acquire()
    }

    /// Logs how many lines were suppressed, as soon as each interval is over.
    pub fn report_periodically(self: &Arc<Self>) {
        let limits = Arc::clone(self);
        actix_rt::spawn(async move {
            let mut interval = actix_rt::time::interval(INTERVAL);
            loop {
                interval.tick().await;
                limits.all().for_each(LogLimiter::report);
            }
        });
    }

    /// Logs how many lines were suppressed until now.
    pub fn report_now(&self) {
        self.all().for_each(LogLimiter::report_now);
    }

    fn all(&self) -> impl Iterator<Item = &LogLimiter> {
        [&self.connections].into_iter().chain(self.handshakes.values()).chain(&self.denials)
    }
}
