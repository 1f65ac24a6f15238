//! The span of a request, and the line that is logged when it is answered.

use std::{rc::Rc, time::Instant};

use actix_web::{
    Error, HttpMessage as _, HttpRequest,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::StatusCode,
    web::Data,
};
use chassis::tls::peer_id::{PeerId, sanitize};
use opentelemetry::trace::TraceId;
use tracing::{Level, Span};
use tracing_actix_web::RootSpanBuilder;

use crate::{
    authz::Revoked, connection::Peer, faults::Injected, log_limits::LogLimits, policy::Decision,
    request_span::RequestSpan,
};

/// The target by which `log.pings` switches off the lines of pings that have not failed.
const PINGS: &str = "ponger::pings";

/// Opens the span `request` around each request (level DEBUG), and logs one line at its end.
#[derive(Debug)]
pub struct AccessLog;

/// What is kept from the start of a request to its end.
#[derive(Default)]
struct Started {
    /// `None` below level INFO, where no line has a duration.
    at: Option<Instant>,
    exported: Option<RequestSpan>,
}

impl RootSpanBuilder for AccessLog {
    fn on_request_start(request: &ServiceRequest) -> Span {
        let peer = request.conn_data::<Rc<Peer>>();
        let exported = peer.and_then(|peer| Some(peer.tracer.as_ref()?.start(request, peer)));
        let at = tracing::enabled!(Level::INFO).then(Instant::now);
        if at.is_some() || exported.is_some() {
            request.extensions_mut().insert(Started { at, exported });
        }
        // Not at level INFO, where its fields would be formatted for each request: the line has them.
        tracing::debug_span!(
            "request",
            method = request.method().as_str(),
            path = request.path(),
            peer = peer.and_then(|peer| peer.id.as_ref()).map(PeerId::as_str)
        )
    }

    fn on_request_end<B: MessageBody>(_: Span, outcome: &Result<ServiceResponse<B>, Error>) {
        match outcome {
            Ok(response) => {
                let started = response.request().extensions_mut().remove::<Started>();
                let Started { at, exported } = started.unwrap_or_default();
                log_response(response, at, exported);
            }
            Err(error) => tracing::error!(error = error.to_string(), "Request failed"),
        }
    }
}

/// Logs the response to a request that began at `began`, and ends its exported span.
fn log_response<B>(
    response: &ServiceResponse<B>,
    began: Option<Instant>,
    exported: Option<RequestSpan>,
) {
    let request = response.request();
    let Some(peer) = request.conn_data::<Rc<Peer>>() else { return };
    let extensions = request.extensions();
    let is_forbidden = response.status() == StatusCode::FORBIDDEN;
    let revoked = is_forbidden && extensions.contains::<Revoked>();
    let decision = if revoked { &Decision::Revoked } else { &peer.decision };
    let status = response.status().as_u16();
    let trace_id = exported.as_ref().map(RequestSpan::trace_id);
    if let Some(span) = exported {
        span.finish(status, decision);
    }
    if !decision.is_allowed() {
        if peer.is_probe {
            log_denied_probe(peer, decision);
            return;
        }
        let limits = request.app_data::<Data<LogLimits>>();
        // Without limits, each is logged.
        if let Some(suppressed) =
            limits.map_or(Some(0), |limits| limits.try_acquire_denial(decision))
        {
            log_denied(request, status, peer, decision, trace_id, suppressed);
        }
        return;
    }
    let fault = extensions.get::<Injected>();
    let is_pong = response.status() == StatusCode::OK && fault.is_none();
    let is_logged = if is_pong {
        tracing::enabled!(target: PINGS, Level::INFO)
    } else {
        tracing::enabled!(Level::INFO)
    };
    if !is_logged {
        return;
    }
    let duration_us =
        began.map(|began| u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
    // The address identifies a client without a certificate.
    let address = peer.address.filter(|_| peer.id.is_none());
    // Without the span: this line has its fields.
    tracing::info!(
        parent: None,
        status,
        peer = peer.id.as_ref().map(PeerId::as_str),
        address = address.map(display),
        duration_us,
        fault = fault.map(|injected| injected.0.label()),
        trace_id = trace_id.map(display),
        "Received {} {}",
        sanitize(request.method().as_str()),
        sanitize(request.path())
    );
    log_handshake(peer);
}

fn log_denied_probe(peer: &Peer, decision: &Decision) {
    tracing::debug!(
        parent: None,
        address = peer.address.map(display),
        denied = decision.reason(),
        "Rejection probe denied"
    );
}

fn log_denied(
    request: &HttpRequest,
    status: u16,
    peer: &Peer,
    decision: &Decision,
    trace_id: Option<TraceId>,
    suppressed: u64,
) {
    tracing::warn!(
        parent: None,
        status,
        peer = peer.id.as_ref().map(PeerId::as_str),
        address = peer.address.map(display),
        denied = decision.reason(),
        suppressed,
        trace_id = trace_id.map(display),
        "Received {} {}",
        sanitize(request.method().as_str()),
        sanitize(request.path())
    );
}

fn log_handshake(peer: &Peer) {
    if let Some(handshake) = peer.handshake {
        tracing::debug!(
            parent: None,
            version = handshake.version,
            cipher = handshake.cipher,
            group = handshake.group,
            address = peer.address.map(display),
            "TLS of that request"
        );
    }
}
