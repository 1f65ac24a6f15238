//! Faults on demand: for a limited time, some pings are delayed or not answered as they should be, so that
//! alerts, dashboards and clients can be tried. Only with `faults: true`; otherwise nothing of this runs.
//!
//! - [`api`]: sets, shows and ends the fault by HTTP, on the admin listener

pub mod api;

use std::{
    io, mem,
    sync::{Mutex, PoisonError},
    task::Poll,
    time::{Duration, Instant},
};

use actix_web::{
    HttpMessage as _, HttpRequest, HttpResponse,
    body::SizedStream,
    http::header::ContentType,
    web::{Bytes, Data},
};
use chassis::{config::HumanDuration, error::ConfigError, metrics::Metrics};
use futures_util::stream::poll_fn;
use prometheus::{IntCounterVec, IntGauge};
use serde::{Deserialize, Serialize};

use crate::routes;

/// The longest that a fault may last: one that is forgotten must end soon.
const MAX_DURATION: Duration = Duration::from_secs(600);

/// The longest delay.
const MAX_DELAY: Duration = Duration::from_secs(60);

/// What is done to a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// It is answered late.
    Delay,
    /// Its connection is closed without an answer.
    Drop,
    /// It is answered with status 500.
    Error,
    /// Its connection is closed within the body of the answer.
    Truncate,
}

impl FaultKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Delay, Self::Drop, Self::Error, Self::Truncate];

    /// The name in requests, logs and labels.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Delay => "delay",
            Self::Drop => "drop",
            Self::Error => "error",
            Self::Truncate => "truncate",
        }
    }
}

/// A fault as it is set and shown.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What is done.
    pub kind: FaultKind,
    /// To how many of a hundred pings.
    #[serde(default = "all")]
    pub percent: u8,
    /// For how long.
    pub duration: HumanDuration,
    /// How late they are answered; for [`FaultKind::Delay`] alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<HumanDuration>,
}

const fn all() -> u8 {
    100
}

impl Fault {
    fn validate(&self) -> Result<(), ConfigError> {
        let error = |key: &str, reason: &str, hint: &str| {
            Err(ConfigError::new(format!("`{key}`"), reason).hint(hint))
        };
        if self.percent > 100 {
            return error("percent", "it is more than 100", "use a number from 0 to 100");
        }
        if self.duration.0.is_zero() || self.duration.0 > MAX_DURATION {
            return error("duration", "it is zero or more than 10m", "use one such as `30s`");
        }
        match self.delay {
            None if self.kind == FaultKind::Delay => {
                error("delay", "required for the kind `delay`", "use one such as `500ms`")
            }
            Some(_) if self.kind != FaultKind::Delay => {
                error("delay", "has no effect with another kind than `delay`", "remove it")
            }
            Some(delay) if delay.0 > MAX_DELAY => {
                error("delay", "it is more than 1m", "use one such as `500ms`")
            }
            _ => Ok(()),
        }
    }
}

/// The current fault, if there is one.
#[derive(Debug)]
pub struct Faults {
    current: Mutex<Option<Current>>,
    active: IntGauge,
    injected: IntCounterVec,
}

#[derive(Debug)]
struct Current {
    fault: Fault,
    end: Instant,
    /// Pings since it began.
    pings: u64,
}

/// Marks a request whose answer is the fault of this kind.
#[derive(Clone, Copy, Debug)]
pub struct Injected(pub FaultKind);

impl Faults {
    /// No fault. Registers the metrics.
    pub fn new(metrics: &Metrics) -> Self {
        let injected = metrics.int_counter_vec(
            "ponger_faults_injected_total",
            "Pings that were delayed or not answered as they should be, as asked for, by kind.",
            &["kind"],
        );
        for kind in FaultKind::ALL {
            injected.with_label_values(&[kind.label()]);
        }
        Self {
            current: Mutex::default(),
            active: metrics.int_gauge(
                "ponger_faults_active",
                "Whether a fault is being injected, as asked for on the admin listener.",
            ),
            injected,
        }
    }

    /// Begins `fault`, in place of the current one, and returns when it ends.
    ///
    /// # Errors
    /// When its parts do not fit.
    pub fn begin(&self, fault: Fault, now: Instant) -> Result<Instant, ConfigError> {
        fault.validate()?;
        let end = now + fault.duration.0;
        *self.lock() = Some(Current { fault, end, pings: 0 });
        self.active.set(1);
        tracing::warn!(
            kind = fault.kind.label(),
            percent = fault.percent,
            duration = %fault.duration,
            delay = fault.delay.map(tracing::field::display),
            "Fault injection begins"
        );
        Ok(end)
    }

    /// Ends the current fault.
    pub fn end(&self) {
        self.end_if(|_| true);
    }

    /// Ends the current fault if its time is over.
    pub fn end_if_over(&self, now: Instant) {
        self.end_if(|current| current.end <= now);
    }

    fn end_if(&self, is_over: impl FnOnce(&Current) -> bool) {
        let mut current = self.lock();
        if let Some(ended) = current.take_if(|current| is_over(current)) {
            self.active.set(0);
            let kind = ended.fault.kind.label();
            tracing::warn!(kind, pings = ended.pings, "Fault injection ended");
        }
    }

    /// The current fault, and how much longer it lasts.
    pub fn current(&self, now: Instant) -> Option<(Fault, Duration)> {
        let current = self.lock();
        let current = current.as_ref().filter(|current| current.end > now)?;
        Some((current.fault, current.end - now))
    }

    /// What to do to the next ping. Of a hundred pings, those that are hit are spread evenly.
    fn next(&self, now: Instant) -> Option<Fault> {
        let mut current = self.lock();
        let current = current.as_mut().filter(|current| current.end > now)?;
        let hits = |pings: u64| pings * u64::from(current.fault.percent) / 100;
        let is_hit = hits(current.pings + 1) > hits(current.pings);
        current.pings += 1;
        is_hit.then_some(current.fault)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Current>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers a ping, with the current fault.
pub async fn ping(request: HttpRequest, faults: Data<Faults>) -> HttpResponse {
    let Some(fault) = faults.next(Instant::now()) else { return routes::ping().await };
    faults.injected.with_label_values(&[fault.kind.label()]).inc();
    request.extensions_mut().insert(Injected(fault.kind));
    match fault.kind {
        FaultKind::Delay => {
            actix_rt::time::sleep(fault.delay.unwrap_or_default().0).await;
            routes::ping().await
        }
        FaultKind::Error => HttpResponse::InternalServerError()
            .content_type(ContentType::plaintext())
            .body("a fault is injected\n"),
        // The status is not sent, but logged and counted.
        FaultKind::Drop => HttpResponse::InternalServerError().body(broken_body("")),
        FaultKind::Truncate => HttpResponse::Ok().body(broken_body("po")),
    }
}

/// The body `pong`, of which `start` is sent. At the error that follows, actix closes the connection; if
/// that comes first, it has sent nothing of the response.
fn broken_body(
    start: &'static str,
) -> SizedStream<impl futures_util::Stream<Item = io::Result<Bytes>>> {
    let (mut rest, mut was_written) = (start, start.is_empty());
    SizedStream::new(
        4,
        poll_fn(move |cx| match mem::take(&mut rest) {
            "" if was_written => Poll::Ready(Some(Err(io::Error::other("a fault is injected")))),
            "" => {
                // What was passed on is written before the next poll.
                was_written = true;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            start => Poll::Ready(Some(Ok(Bytes::from_static(start.as_bytes())))),
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: HumanDuration = HumanDuration::seconds(1);

    fn faults() -> Faults {
        Faults::new(&Metrics::new("ponger", "0"))
    }

    fn error(percent: u8, duration: HumanDuration) -> Fault {
        Fault { kind: FaultKind::Error, percent, duration, delay: None }
    }

    #[test]
    fn hits_as_many_pings_as_asked_for_and_spreads_them() {
        let (faults, now) = (faults(), Instant::now());
        for (percent, expected) in
            [(0, ".........."), (10, ".........x"), (50, ".x.x.x.x.x"), (100, "xxxxxxxxxx")]
        {
            faults.begin(error(percent, SECOND), now).unwrap();
            let hit = |_| if faults.next(now).is_some() { 'x' } else { '.' };
            assert_eq!((0..10).map(hit).collect::<String>(), expected, "{percent}");
        }
        faults.begin(error(33, SECOND), now).unwrap();
        assert_eq!((0..1000).filter(|_| faults.next(now).is_some()).count(), 330);
    }

    #[test]
    fn ends_by_itself() {
        let (faults, start) = (faults(), Instant::now());
        let end = faults.begin(error(100, SECOND), start).unwrap();
        let before = end - Duration::from_millis(1);
        assert!(faults.next(before).is_some());
        assert_eq!(faults.current(before).unwrap().1, Duration::from_millis(1));
        // Also if nothing has ended it yet.
        assert!(faults.next(end).is_none() && faults.current(end).is_none());
        faults.end_if_over(before);
        assert_eq!(faults.active.get(), 1);
        faults.end_if_over(end);
        assert_eq!(faults.active.get(), 0);
    }

    #[test]
    fn the_end_of_a_fault_that_was_replaced_does_not_end_its_successor() {
        let (faults, start) = (faults(), Instant::now());
        let end = faults.begin(error(100, SECOND), start).unwrap();
        faults.begin(error(50, HumanDuration::seconds(600)), start).unwrap();
        faults.end_if_over(end);
        assert_eq!(faults.current(end).unwrap().0.percent, 50);
        faults.end();
        assert!(faults.current(end).is_none());
    }

    #[test]
    fn rejects_what_does_not_fit() {
        let delay = |delay| Fault { kind: FaultKind::Delay, delay, ..error(100, SECOND) };
        for (fault, reason) in [
            (error(101, SECOND), "`percent`: it is more than 100"),
            (error(100, HumanDuration::seconds(0)), "`duration`: it is zero or more than 10m"),
            (error(100, HumanDuration::seconds(601)), "`duration`: it is zero or more than 10m"),
            (delay(None), "`delay`: required for the kind `delay`"),
            (delay(Some(HumanDuration::seconds(61))), "`delay`: it is more than 1m"),
            (
                Fault { delay: Some(SECOND), ..error(100, SECOND) },
                "`delay`: has no effect with another kind",
            ),
        ] {
            let faults = faults();
            let error = faults.begin(fault, Instant::now()).unwrap_err().to_string();
            assert!(error.starts_with(reason), "{error}");
            assert!(faults.next(Instant::now()).is_none());
        }
    }
}
