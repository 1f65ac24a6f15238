//! Bounds how many spans wait for their export.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use opentelemetry::Context;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{Span, SpanData, SpanProcessor},
};
use prometheus::IntCounter;

/// How many spans may wait, those included that are being exported. A span takes some 2 KiB.
pub(super) const MAX_WAITING: usize = 1024;

/// Passes spans on until too many wait. The SDK's own queue drops further ones too, and does not report
/// how many.
#[derive(Debug)]
pub(super) struct BoundedQueue {
    waiting: Arc<AtomicUsize>,
    dropped: IntCounter,
    exports_rest: Arc<AtomicBool>,
}

/// A queue before the processor that exports.
#[derive(Debug)]
pub(super) struct Queued<P> {
    queue: BoundedQueue,
    next: P,
}

impl BoundedQueue {
    /// Creates a queue of which `waiting` is the length; the exporter shortens it.
    pub(super) fn new(waiting: Arc<AtomicUsize>, dropped: IntCounter) -> Self {
        Self { waiting, dropped, exports_rest: Arc::default() }
    }

    /// Whether a shutdown exports the rest. Without it, the end does not wait: the SDK shuts down also
    /// where nothing asked for it, as after a second signal.
    pub(super) fn exports_rest(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.exports_rest)
    }

    /// Puts the queue before `next`.
    pub(super) fn before<P: SpanProcessor>(self, next: P) -> Queued<P> {
        Queued { queue: self, next }
    }

    /// Whether there is room for one more span, which then counts.
    fn try_add(&self) -> bool {
        let add = |waiting: usize| (waiting < MAX_WAITING).then_some(waiting + 1);
        let added = self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok();
        if !added {
            self.dropped.inc();
        }
        added
    }
}

impl<P: SpanProcessor> SpanProcessor for Queued<P> {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.queue.try_add() {
            self.next.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.next.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        if self.queue.exports_rest.load(Ordering::Relaxed) {
            return self.next.shutdown_with_timeout(timeout);
        }
        Ok(())
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.next.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{Tracer as _, TracerProvider as _};
    use opentelemetry_sdk::trace::SdkTracerProvider;

    use super::*;

    /// Exports nothing.
    #[derive(Debug)]
    struct Hanging;

    impl SpanProcessor for Hanging {
        fn on_start(&self, _: &mut Span, _: &Context) {}

        fn on_end(&self, _: SpanData) {}

        fn force_flush(&self) -> OTelSdkResult {
            Ok(())
        }

        fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
            panic!("nothing may wait for it");
        }
    }

    #[test]
    fn spans_beyond_the_limit_are_dropped_and_counted() {
        let waiting = Arc::<AtomicUsize>::default();
        let dropped = IntCounter::new("dropped", "Dropped.").unwrap();
        let queue = BoundedQueue::new(Arc::clone(&waiting), dropped.clone());
        let provider = SdkTracerProvider::builder().with_span_processor(queue.before(Hanging));
        let provider = provider.build();
        let add = |count: usize| (0..count).for_each(|_| drop(provider.tracer("test").start("")));
        add(MAX_WAITING);
        assert_eq!((waiting.load(Ordering::Relaxed), dropped.get()), (MAX_WAITING, 0));
        add(3);
        assert_eq!((waiting.load(Ordering::Relaxed), dropped.get()), (MAX_WAITING, 3));
        waiting.fetch_sub(2, Ordering::Relaxed);
        add(3);
        assert_eq!((waiting.load(Ordering::Relaxed), dropped.get()), (MAX_WAITING, 4));
    }
}
