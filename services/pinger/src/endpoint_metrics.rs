//! Metrics by endpoint. They exist only for endpoints that are pinged now, at most
//! [`MAX_ENDPOINTS`](crate::endpoints::MAX_ENDPOINTS).

use std::net::SocketAddr;

use chassis::{failure::FailureReason, metrics::Metrics};
use prometheus::{CounterVec, IntCounterVec, IntGauge};

use crate::client::Outcome;

/// The result of a ping that was not lost.
const PONG: &str = "pong";

#[derive(Debug)]
pub(crate) struct EndpointMetrics {
    count: IntGauge,
    pings: IntCounterVec,
    pong_seconds: CounterVec,
}

impl EndpointMetrics {
    /// Registers the metrics.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            count: metrics.int_gauge(
                "pinger_endpoints",
                "Endpoints that are pinged, with endpoints: all; otherwise 0.",
            ),
            pings: metrics.int_counter_vec(
                "pinger_endpoint_pings_total",
                "Pings of an endpoint, by result: `pong`, or the reason for the loss.",
                &["endpoint", "result"],
            ),
            pong_seconds: metrics.counter_vec(
                "pinger_endpoint_pong_seconds_total",
                "Time that the pongs of an endpoint took.",
                &["endpoint"],
            ),
        }
    }

    pub(crate) fn set_count(&self, count: usize) {
        self.count.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts a ping of an endpoint.
    pub(crate) fn record(&self, outcome: &Outcome) {
        let Some(endpoint) = outcome.endpoint else { return };
        let endpoint = endpoint.ip().to_string();
        let result = match &outcome.result {
            Ok(()) => {
                let seconds = outcome.duration.as_secs_f64();
                self.pong_seconds.with_label_values(&[&endpoint]).inc_by(seconds);
                PONG
            }
            Err(failure) => failure.reason.label(),
        };
        self.pings.with_label_values(&[&endpoint, result]).inc();
    }

    /// Starts counting the pings of an endpoint, so that the first loss is an increase.
    pub(crate) fn add(&self, endpoint: SocketAddr) {
        let endpoint = endpoint.ip().to_string();
        self.pong_seconds.with_label_values(&[&endpoint]);
        self.pings.with_label_values(&[&*endpoint, PONG]);
    }

    /// Removes the metrics of an endpoint.
    pub(crate) fn forget(&self, endpoint: SocketAddr) {
        let endpoint = endpoint.ip().to_string();
        // Those that there are.
        let _ = self.pong_seconds.remove_label_values(&[&endpoint]);
        let reasons = FailureReason::ALL.iter().map(|reason| reason.label());
        for result in reasons.chain([PONG]) {
            let _ = self.pings.remove_label_values(&[&endpoint, result]);
        }
    }
}
