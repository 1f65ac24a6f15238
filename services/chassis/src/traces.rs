//! Traces: spans of pings and requests, exported to an OpenTelemetry collector.
//!
//! - [`attributes`]: attributes that spans of both services have
//! - [`context`]: the header `traceparent`, by which two services share a trace
//! - `queue`: a bounded number of spans wait for their export; further ones are dropped and counted
//! - `exporter`: encodes spans, and counts what became of them
//! - `collector`: sends them by OTLP over HTTP

pub mod attributes;
mod collector;
pub mod context;
mod exporter;
mod queue;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use opentelemetry::{KeyValue, trace::TracerProvider as _};
use opentelemetry_sdk::{
    Resource,
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, RandomIdGenerator, Sampler, SdkTracer,
        SdkTracerProvider, SpanLimits,
    },
};
use tokio::task::spawn_blocking;

use self::{collector::CollectorClient, exporter::Exporter, queue::BoundedQueue};
use crate::{config::Otel, error::ConfigError, metrics::Metrics, tls::clock::Clock};

/// How many spans are sent at once.
const BATCH: usize = 256;

/// How long a span waits at most for others that are sent with it.
const BATCH_DELAY: Duration = Duration::from_secs(5);

/// How long the export of what is left may take at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// The traces of a service, which are exported by a thread.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
    exports_rest: Arc<AtomicBool>,
}

impl Traces {
    /// Starts to export, unless `settings` name no collector. The collector need not be there yet.
    ///
    /// # Errors
    /// When the settings, or the certificates that they name, cannot be used.
    pub fn start(
        settings: &Otel,
        service: &'static str,
        version: &'static str,
        metrics: &Metrics,
        clock: &Clock,
    ) -> Result<Option<Self>, ConfigError> {
        let Some(client) = CollectorClient::new(settings, clock.clone())? else { return Ok(None) };
        let spans = metrics.int_counter_vec(
            "otel_spans_total",
            "Spans, by what became of them: exported, failed (not accepted by the collector), or dropped (the queue was full).",
            &["result"],
        );
        let exporter = Exporter::new(client, &spans)?;
        let queue = BoundedQueue::new(exporter.waiting(), spans.with_label_values(&["dropped"]));
        let exports_rest = queue.exports_rest();
        // Everything is set, since the SDK takes what is not from the environment.
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(queue::MAX_WAITING)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(BATCH_DELAY)
            .build();
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        let attributes = settings.attributes()?.into_iter();
        let resource = Resource::builder_empty()
            .with_attributes([
                KeyValue::new("service.name", service),
                KeyValue::new("service.version", version),
            ])
            .with_attributes(attributes.map(|(name, value)| KeyValue::new(name, value)))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_resource(resource)
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(
                settings.sample_ratio,
            ))))
            .with_id_generator(RandomIdGenerator::default())
            .with_span_limits(SpanLimits::default())
            .with_span_processor(queue.before(processor))
            .build();
        Ok(Some(Self { provider, exports_rest }))
    }

    /// Reads and verifies the certificates, as [`Traces::start`] does.
    ///
    /// # Errors
    /// As there.
    pub fn preflight(settings: &Otel, clock: &Clock) -> Result<(), ConfigError> {
        CollectorClient::new(settings, clock.clone()).map(drop)
    }

    /// Creates spans.
    pub fn tracer(&self) -> SdkTracer {
        self.provider.tracer(env!("CARGO_PKG_NAME"))
    }

    /// Exports what is left, for at most `FLUSH_TIMEOUT`.
    pub async fn shutdown(self) {
        self.exports_rest.store(true, Ordering::Relaxed);
        // A collector that does not answer has been logged already.
        let _ = spawn_blocking(move || self.provider.shutdown_with_timeout(FLUSH_TIMEOUT)).await;
    }
}
