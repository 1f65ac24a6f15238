//! Pings until asked to stop: each endpoint after random pauses of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::bail;
use chassis::{error::SecondSignal, signals::Signals};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{sleep, timeout};

use crate::{
    client::{Outcome, PingClient},
    client_factory::PingClientFactory,
    config::Config,
    endpoints::{Endpoints, Resolution},
    ping_span::PingSpan,
    record::{PINGS, Recorder},
};

/// The least pause after a lost ping: nothing may keep a processor busy with pings that fail at once.
const MIN_PAUSE_AFTER_LOSS: Duration = Duration::from_millis(1);

/// An endpoint with its client. It is either in a pause or in a ping.
struct Schedule {
    endpoint: Option<SocketAddr>,
    clients: PingClientFactory,
    client: PingClient,
}

impl Schedule {
    fn new(endpoint: Option<SocketAddr>, clients: &PingClientFactory) -> Self {
        let mut clients = clients.for_endpoint(endpoint);
        Self { endpoint, client: clients.client(), clients }
    }

    async fn pause(mut self, pause: Duration) -> Self {
        let pause = async {
            // A timer takes a millisecond at least.
            if !pause.is_zero() {
                sleep(pause).await;
            }
        };
        tokio::pin!(pause);
        loop {
            tokio::select! {
                // In this order: a ping that is due must not use a stale connection.
                biased;
                () = self.clients.until_stale(&self.client), if self.client.keep_alive() => {
                    self.client = self.clients.client();
                }
                () = &mut pause => return self,
            }
        }
    }

    async fn ping(self, seq: u64, traceparent: Option<String>) -> (Self, u64, Outcome) {
        let outcome = self.client.ping_in_trace(traceparent).await;
        (self, seq, outcome)
    }
}

/// A random time of up to `interval`.
fn random_pause(interval: Duration) -> Duration {
    interval.mul_f64(rand::random())
}

/// Pings `endpoints`, which `resolution` keeps up to date if there is one, until `signals` ask to stop or
/// `count` pings were sent. Pings in flight may then end within the drain timeout.
///
/// # Errors
/// After a second signal.
pub(crate) async fn ping_until_stopped(
    clients: &PingClientFactory,
    endpoints: &Endpoints,
    resolution: Option<Resolution>,
    config: &Config,
    recorder: &mut Recorder,
    signals: &mut Signals,
) -> anyhow::Result<()> {
    let (interval, count) = (config.interval.0, u64::from(config.count));
    let is_resolving = resolution.is_some();
    let resolve_after = |pause| {
        let resolution = resolution.clone();
        Box::pin(async move { Some(resolution?.resolve_after(pause).await) })
    };
    let mut resolving = resolve_after(Duration::ZERO);
    let (mut pauses, mut pings) = (FuturesUnordered::new(), FuturesUnordered::new());
    // The endpoints that are in one of them, and what it takes to abort a ping.
    let (mut scheduled, mut in_flight) = (BTreeSet::new(), BTreeMap::new());
    let mut added = endpoints.current();
    let mut sent = 0;
    while count == 0 || sent < count || !pings.is_empty() {
        for endpoint in added.drain(..) {
            if scheduled.insert(endpoint) {
                pauses.push(Schedule::new(endpoint, clients).pause(random_pause(interval)));
            }
        }
        let is_due = count == 0 || sent < count;
        tokio::select! {
            Some(schedule) = pauses.next(), if is_due => {
                let endpoint = schedule.endpoint;
                if !endpoints.contains(endpoint) {
                    scheduled.remove(&endpoint);
                    continue;
                }
                sent += 1;
                let span = recorder.start_span(sent);
                let traceparent = span.map(PingSpan::traceparent);
                tracing::info!(
                    target: PINGS,
                    seq = sent,
                    endpoint = endpoint.map(|it| display(it.ip())),
                    trace_id = span.map(|span| display(span.trace_id())),
                    "Sent ping"
                );
                in_flight.insert(sent, (schedule.client.clone(), Instant::now()));
                pings.push(schedule.ping(sent, traceparent));
            }
            Some((schedule, seq, outcome)) = pings.next() => {
                in_flight.remove(&seq);
                recorder.record(seq, &outcome);
                if endpoints.contains(schedule.endpoint) {
                    let least = if outcome.result.is_ok() { Duration::ZERO } else { MIN_PAUSE_AFTER_LOSS };
                    pauses.push(schedule.pause(random_pause(interval).max(least)));
                } else {
                    scheduled.remove(&schedule.endpoint);
                    schedule.endpoint.inspect(|endpoint| recorder.forget(*endpoint));
                }
            }
            Some(resolved) = &mut resolving, if is_resolving && is_due => {
                let pause = match resolved {
                    Ok(addresses) => {
                        let change = endpoints.replace(addresses);
                        recorder.record_change(&change, endpoints.current().len());
                        added.extend(change.added.into_iter().map(Some));
                        config.ponger.resolve_interval.0
                    }
                    Err(outcome) => {
                        sent += 1;
                        recorder.record(sent, &outcome);
                        // As often as a ping would find it.
                        random_pause(interval)
                    }
                };
                resolving = resolve_after(pause);
            }
            signal = signals.stop() => {
                if in_flight.is_empty() {
                    tracing::info!(signal, "Stopping");
                    return Ok(());
                }
                tracing::info!(signal, pings = in_flight.len(), "Stopping: waiting for the ping in flight");
                break;
            }
        }
    }
    let drained = async {
        while let Some((_, seq, outcome)) = pings.next().await {
            in_flight.remove(&seq);
            recorder.record(seq, &outcome);
        }
    };
    tokio::select! {
        _ = timeout(config.drain_timeout.0, drained) => {}
        signal = signals.stop() => bail!(SecondSignal { signal, state: "with a ping in flight" }),
    }
    for (seq, (client, began)) in in_flight {
        recorder.record(seq, &client.aborted(began));
    }
    Ok(())
}
