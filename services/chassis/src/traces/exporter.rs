//! Encodes spans, has them sent, and counts what became of them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use opentelemetry_proto::{
    tonic::collector::trace::v1::ExportTraceServiceRequest,
    transform::{
        common::tonic::ResourceAttributesWithSchema,
        trace::tonic::group_spans_by_resource_and_scope,
    },
};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    trace::{SpanData, SpanExporter},
};
use prometheus::{IntCounter, IntCounterVec};
use prost::Message as _;
use tokio::runtime::{Builder, Runtime};

use super::collector::CollectorClient;
use crate::{error::ConfigError, log_limiter::LogLimiter};

/// How often a failed export is logged at most.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Exports spans on the thread that calls it.
#[derive(Debug)]
pub(super) struct Exporter {
    client: CollectorClient,
    runtime: Runtime,
    resource: ResourceAttributesWithSchema,
    waiting: Arc<AtomicUsize>,
    exported: IntCounter,
    failed: IntCounter,
    log: LogLimiter,
}

impl Exporter {
    /// Creates an exporter that sends by `client` and counts in `spans`.
    ///
    /// # Errors
    /// When the operating system has no more descriptors.
    pub(super) fn new(client: CollectorClient, spans: &IntCounterVec) -> Result<Self, ConfigError> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            // For the resolver, which may hang longer than an export.
            .max_blocking_threads(1)
            .build()
            .map_err(|error| ConfigError::new("the exporter of traces", error))?;
        Ok(Self {
            client,
            runtime,
            resource: ResourceAttributesWithSchema::default(),
            waiting: Arc::default(),
            exported: spans.with_label_values(&["exported"]),
            failed: spans.with_label_values(&["failed"]),
            log: LogLimiter::new("Trace export failed", None, LOG_INTERVAL),
        })
    }

    /// How many spans wait, which is one less for each that was exported or not.
    pub(super) fn waiting(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.waiting)
    }
}

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let resource_spans = group_spans_by_resource_and_scope(batch, &self.resource);
        let body = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
        // The SDK's thread does nothing else, and has no runtime.
        let sent = self.runtime.block_on(self.client.send(body));
        self.waiting.fetch_sub(spans, Ordering::Relaxed);
        let Err(cause) = sent else {
            self.exported.inc_by(spans as u64);
            self.log.report_now();
            return Ok(());
        };
        self.failed.inc_by(spans as u64);
        if let Some(suppressed) = self.log.try_acquire() {
            let endpoint = self.client.endpoint();
            tracing::warn!(endpoint = %endpoint, spans, cause, suppressed, "Trace export failed");
        }
        Err(OTelSdkError::InternalFailure(cause))
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.resource = resource.into();
    }
}
