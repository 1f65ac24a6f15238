//! The page's stream of server-sent events. A stream holds a position in the history and no queue: a
//! reader that is slow gets later what the history still has, and costs no memory meanwhile. One that
//! does not read at all is closed by the admin listener, as others are.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt::Write as _,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use actix_web::{
    Error, HttpResponse,
    http::header::ContentType,
    web::{Bytes, Data, Query},
};
use futures_util::stream::unfold;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{sleep, timeout},
};

use super::{respond, snapshot::Source, view};
use crate::history::PingRecord;

/// How many streams may be open, half as many as connections of the admin listener.
const MAX_STREAMS: usize = 16;

const EVENT_STREAM: &str = "text/event-stream";

/// How many pings an event has at most, so that a whole history is sent as the reader takes it.
const MAX_BATCH: usize = 500;

/// The pause between two events.
const MIN_PAUSE: Duration = Duration::from_millis(250);

/// How long there is no event while no ping ends. Readiness, certificates and probes change too, and a
/// reader that has gone is noticed when it is written to.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Limits the number of streams.
#[derive(Debug)]
pub(super) struct EventStreams(Arc<Semaphore>);

impl Default for EventStreams {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_STREAMS)))
    }
}

/// What a page has received before.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Received {
    /// From which run of pinger.
    run: Option<u64>,
    /// How many pings of that run.
    position: Option<u64>,
}

/// An event.
#[derive(Debug, Serialize)]
struct Update {
    /// The run of pinger: when it was started, in milliseconds since 1970.
    run: u64,
    /// How many pings the reader then has received.
    position: u64,
    /// When the first of `pings` began, in milliseconds since 1970.
    begin: u64,
    pings: Vec<Ping>,
    /// The sections that changed, as HTML by their `id`.
    sections: BTreeMap<&'static str, String>,
}

/// Milliseconds since the ping before it, microseconds in all and in each phase; then the reason for a
/// loss.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Ping {
    Pong([i64; 7]),
    Lost([i64; 7], &'static str),
}

pub(super) async fn events(
    source: Data<Source>,
    streams: Data<EventStreams>,
    received: Result<Query<Received>, Error>,
) -> HttpResponse {
    let Ok(Query(received)) = received else {
        return respond(HttpResponse::BadRequest())
            .content_type(ContentType::plaintext())
            .body("run and position: they are not the numbers that an event had\n");
    };
    let Ok(permit) = Arc::clone(&streams.0).try_acquire_owned() else {
        // An event, because browsers do not show a page the status of its stream.
        return respond(HttpResponse::Ok()).content_type(EVENT_STREAM).body(format!(
            "event: limit\ndata: {MAX_STREAMS} pages are open, which is the limit\n\n"
        ));
    };
    let events = unfold(EventStream::new(source, &received, permit), async |mut stream| {
        Some((Ok::<_, Infallible>(stream.next().await), stream))
    });
    respond(HttpResponse::Ok()).content_type(EVENT_STREAM).streaming(Box::pin(events))
}

struct EventStream {
    source: Data<Source>,
    changed: watch::Receiver<()>,
    run: u64,
    position: u64,
    /// The hash of each section as it was last sent.
    sent: BTreeMap<&'static str, u64>,
    _permit: OwnedSemaphorePermit,
}

impl EventStream {
    fn new(source: Data<Source>, received: &Received, permit: OwnedSemaphorePermit) -> Self {
        let started = source.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        let run = u64::try_from(started.as_millis()).unwrap_or(0);
        let position = if received.run == Some(run) { received.position } else { None };
        let (changed, sent) = (source.history.subscribe(), BTreeMap::new());
        let position = position.unwrap_or(0);
        Self { source, changed, run, position, sent, _permit: permit }
    }

    /// Waits until there is something to send, or a sign of life is due.
    async fn next(&mut self) -> Bytes {
        let is_first = self.sent.is_empty();
        if !is_first && self.position >= self.source.history.total() {
            sleep(MIN_PAUSE).await;
            // It fails only when the history has gone, which the source holds.
            let _ = timeout(MAX_PAUSE, self.changed.changed()).await;
        }
        self.changed.borrow_and_update();
        let (pings, position) = self.source.history.pings_after(self.position, MAX_BATCH);
        self.position = position;
        let sections = self.changed_sections();
        if pings.is_empty() && sections.is_empty() {
            return Bytes::from_static(b": no change\n\n");
        }
        let begin = pings.first().map_or(0, |ping| ping.began);
        let update = Update { run: self.run, position, begin, pings: rows(&pings), sections };
        let mut event = String::from("data: ");
        // Numbers and text: there is always JSON for them, and it has no line break.
        let _ = write!(event, "{}\n\n", serde_json::to_string(&update).unwrap_or_default());
        event.into()
    }

    fn changed_sections(&mut self) -> BTreeMap<&'static str, String> {
        let mut changed = BTreeMap::new();
        for (id, html) in view::sections(&self.source, &self.source.snapshot()) {
            let html = html.into_string();
            let mut hasher = DefaultHasher::new();
            html.hash(&mut hasher);
            let hash = hasher.finish();
            if self.sent.insert(id, hash) != Some(hash) {
                changed.insert(id, html);
            }
        }
        changed
    }
}

fn rows(pings: &[PingRecord]) -> Vec<Ping> {
    let mut before = pings.first().map_or(0, |ping| ping.began);
    let row = |ping: &PingRecord| {
        let pause = ping.began.cast_signed() - before.cast_signed();
        before = ping.began;
        let [resolve, connect, tls, processing, transfer] = ping.phases.map(i64::from);
        let row = [pause, ping.duration.into(), resolve, connect, tls, processing, transfer];
        match ping.reason {
            None => Ping::Pong(row),
            Some(reason) => Ping::Lost(row, reason.label()),
        }
    };
    pings.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use chassis::failure::FailureReason;

    use super::*;

    #[test]
    fn an_hour_of_pings_is_sent_in_few_bytes() {
        let ping = |number: u64| PingRecord {
            began: 1_795_537_079_000 + number * 507,
            endpoint: None,
            reason: (number == 1).then_some(FailureReason::Reset),
            duration: 3_300,
            phases: [152, 110, 2_600, 390, 40],
        };
        let pings: Vec<_> = (0..3).map(ping).collect();
        let json = serde_json::to_string(&rows(&pings)).unwrap();
        let ping = |pause| format!("[{pause},3300,152,110,2600,390,40]");
        assert_eq!(json, format!("[{},[{},\"reset\"],{1}]", ping(0), ping(507)));
    }
}
