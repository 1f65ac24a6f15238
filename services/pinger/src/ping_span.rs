//! The spans of a ping: `ping`, which ponger's span is a child of, and one below it for each phase.

use std::time::{Duration, Instant, SystemTime};

use chassis::{
    failure::Failure,
    tls::peer_id::PeerId,
    traces::{attributes, context},
};
use opentelemetry::{
    Context, KeyValue,
    trace::{Span as _, SpanKind, Status, TraceContextExt as _, TraceId, Tracer as _},
};
use opentelemetry_sdk::trace::{SdkTracer, Span};

use crate::{
    client::Outcome,
    config::Target,
    phase::{ConnectionInfo, Phase, Trace},
};

/// The phases that have a span.
const PHASES: [(Phase, &str); 4] = [
    (Phase::Resolve, "resolve"),
    (Phase::Connect, "connect"),
    (Phase::Tls, "tls"),
    (Phase::Processing, "request"),
];

/// Creates the spans of pings.
#[derive(Debug)]
pub struct PingTracer {
    tracer: SdkTracer,
    attributes: Vec<KeyValue>,
}

/// The span of a ping that is under way.
#[derive(Debug)]
pub struct PingSpan {
    tracer: SdkTracer,
    span: Span,
    start: Instant,
    start_time: SystemTime,
}

impl PingTracer {
    /// Creates the spans of pings of `target`.
    pub fn new(tracer: SdkTracer, target: &Target) -> Self {
        let attributes = vec![
            KeyValue::new("http.request.method", "GET"),
            KeyValue::new("url.full", target.url()),
            KeyValue::new("server.address", target.host.clone()),
            KeyValue::new("server.port", i64::from(target.port)),
        ];
        Self { tracer, attributes }
    }

    /// Starts the span of a ping.
    pub fn start(&self) -> PingSpan {
        let (start, start_time) = (Instant::now(), SystemTime::now());
        let span = self
            .tracer
            .span_builder("ping")
            .with_kind(SpanKind::Client)
            .with_start_time(start_time)
            .with_attributes(self.attributes.iter().cloned())
            .start_with_context(&self.tracer, &Context::new());
        PingSpan { tracer: self.tracer.clone(), span, start, start_time }
    }
}

impl PingSpan {
    /// The ID of the trace that it is part of.
    pub fn trace_id(&self) -> TraceId {
        self.span.span_context().trace_id()
    }

    /// The header that makes ponger's span a child of this one.
    pub fn traceparent(&self) -> String {
        context::traceparent(self.span.span_context())
    }

    /// Ends it with the `outcome` of the ping, after the spans of its phases.
    pub fn finish(mut self, outcome: &Outcome) {
        if !self.span.is_recording() {
            return;
        }
        let trace = &outcome.trace;
        let failure = outcome.result.as_ref().err();
        let failed = failure.map(|failure| (span_of(trace.phase), failure));
        let context = Context::new().with_remote_span_context(self.span.span_context().clone());
        for (phase, name) in PHASES {
            let Some(start) = trace.start_of(phase) else { continue };
            let last = if phase == Phase::Processing { Phase::Transfer } else { phase };
            let of_phase = |(timed, _): &&(Phase, _)| *timed == phase || *timed == last;
            let duration: Duration =
                trace.times.iter().filter(of_phase).map(|(_, time)| *time).sum();
            let start = self.time_of(start);
            let mut span = self
                .tracer
                .span_builder(name)
                .with_start_time(start)
                .with_attributes(phase_attributes(phase, trace))
                .start_with_context(&self.tracer, &context);
            for failure in trace.failed_attempts().filter(|_| phase == Phase::Connect) {
                let cause = KeyValue::new("error.message", failure.cause.clone());
                span.add_event_with_timestamp("attempt failed", start + duration, vec![cause]);
            }
            if let Some((_, failure)) = failed.filter(|(failed, _)| *failed == name) {
                fail(&mut span, failure);
            }
            span.end_with_timestamp(start + duration);
        }
        self.span.set_attributes(peer_attributes(trace));
        if let Some(failure) = failure {
            fail(&mut self.span, failure);
        }
        self.span.end_with_timestamp(self.time_of(Instant::now()));
    }

    fn time_of(&self, instant: Instant) -> SystemTime {
        self.start_time + instant.duration_since(self.start)
    }
}

/// The name of the span of `phase`.
fn span_of(phase: Phase) -> &'static str {
    let phase = if phase == Phase::Transfer { Phase::Processing } else { phase };
    PHASES.iter().find(|(other, _)| *other == phase).map_or("", |(_, name)| name)
}

fn fail(span: &mut Span, failure: &Failure) {
    span.set_attribute(KeyValue::new("error.type", failure.reason.label()));
    span.set_status(Status::error(failure.cause.clone()));
}

/// What is known of a phase.
fn phase_attributes(phase: Phase, trace: &Trace) -> Vec<KeyValue> {
    let info = trace.info.as_ref();
    match phase {
        Phase::Connect => address_attributes(info),
        Phase::Tls => {
            let handshake = info.and_then(|info| info.handshake);
            handshake.into_iter().flat_map(attributes::handshake).collect()
        }
        _ => Vec::new(),
    }
}

fn address_attributes(info: Option<&ConnectionInfo>) -> Vec<KeyValue> {
    info.and_then(|info| info.address).into_iter().flat_map(attributes::peer_address).collect()
}

/// What is known of ponger and its response.
fn peer_attributes(trace: &Trace) -> Vec<KeyValue> {
    let info = trace.info.as_ref();
    let mut attributes = address_attributes(info);
    let status = trace
        .response
        .as_ref()
        .map(|response| KeyValue::new("http.response.status_code", i64::from(response.status)));
    attributes.extend(status);
    let ids = info.and_then(|info| info.credentials.as_ref()?.peer_ids()?.ok());
    let id = ids.as_ref().and_then(|ids| ids.first()).map(PeerId::as_str);
    attributes.extend(id.map(|id| KeyValue::new("peer.id", id.to_owned())));
    attributes
}
