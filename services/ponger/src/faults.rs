//! Faults on demand: for a limited time, some pings are delayed or not answered as they should be, so that
//! alerts, dashboards and clients can be tried. Only with `faults: true`; otherwise nothing of this runs.
//!
//! - [`fault`]: a fault, and which ones are accepted
//! - [`api`]: sets, shows and ends the fault by HTTP, on the admin listener

pub mod api;
pub mod fault;

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
use chassis::metrics::Metrics;
use futures_util::stream::poll_fn;
use prometheus::{IntCounterVec, IntGauge};

use self::fault::{Fault, FaultKind};
use crate::routes;

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
    pub fn begin(&self, fault: Fault, now: Instant) -> Instant {
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
        end
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
    use chassis::config::HumanDuration;

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
            faults.begin(error(percent, SECOND), now);
            let hit = |_| if faults.next(now).is_some() { 'x' } else { '.' };
            assert_eq!((0..10).map(hit).collect::<String>(), expected, "{percent}");
        }
        faults.begin(error(33, SECOND), now);
        assert_eq!((0..1000).filter(|_| faults.next(now).is_some()).count(), 330);
    }

    #[test]
    fn ends_by_itself() {
        let (faults, start) = (faults(), Instant::now());
        let end = faults.begin(error(100, SECOND), start);
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
        let end = faults.begin(error(100, SECOND), start);
        faults.begin(error(50, HumanDuration::seconds(600)), start);
        faults.end_if_over(end);
        assert_eq!(faults.current(end).unwrap().0.percent, 50);
        faults.end();
        assert!(faults.current(end).is_none());
    }
}
