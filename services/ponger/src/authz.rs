//! Authorizes requests.
//!
//! The handshake has verified the client's certificate. Its ID is compared with the allowed ones once
//! a connection; at each request, only whether its certificate is still valid may have changed.

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use actix_web::{
    Error, HttpMessage as _, HttpResponse,
    body::{BoxBody, EitherBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        ConnectionType, StatusCode,
        header::{CONTENT_LENGTH, ContentType, TRANSFER_ENCODING},
    },
    middleware::Next,
    web::Data,
};
use chassis::metrics::Metrics;
use prometheus::{Histogram, IntCounter, IntCounterVec};

use crate::{connection::Peer, policy::Decision, routes};

/// Allows or denies requests, and counts them.
#[derive(Debug)]
pub struct Authorizer {
    draining: Arc<AtomicBool>,
    decisions: [IntCounter; 6],
    requests: IntCounterVec,
    pongs: IntCounter,
    ping_durations: Histogram,
    other_durations: Histogram,
}

impl Authorizer {
    /// Registers the metrics of requests. While `draining` is set, every response closes its
    /// connection.
    pub fn new(draining: Arc<AtomicBool>, metrics: &Metrics) -> Self {
        let authz = metrics.int_counter_vec(
            "ponger_authz_total",
            "Requests, by whether they were allowed, and why.",
            &["decision", "reason"],
        );
        let requests = metrics.int_counter_vec(
            "ponger_requests_total",
            "Answered requests, by route and status.",
            &["route", "code"],
        );
        let durations = metrics.histogram_vec(
            "ponger_request_duration_seconds",
            "Time from a request's head to its response, by route.",
            &["route"],
        );
        Self {
            draining,
            decisions: Decision::LABELS.map(|labels| authz.with_label_values(&labels)),
            pongs: requests.with_label_values(&["ping", "200"]),
            requests,
            ping_durations: durations.with_label_values(&["ping"]),
            other_durations: durations.with_label_values(&["other"]),
        }
    }

    fn record(&self, is_ping: bool, status: StatusCode, start: Instant) {
        if is_ping && status == StatusCode::OK {
            self.pongs.inc();
        } else {
            // A closed set: the path that a client sends is not a label.
            let route = if is_ping { "ping" } else { "other" };
            self.requests.with_label_values(&[route, status.as_str()]).inc();
        }
        let durations = if is_ping { &self.ping_durations } else { &self.other_durations };
        durations.observe(start.elapsed().as_secs_f64());
    }
}

/// Marks a request that is denied because its peer's certificate was revoked after the connection was
/// opened.
#[derive(Clone, Copy, Debug)]
pub struct Revoked;

/// The middleware: passes an allowed request on, or answers 403, and counts it.
///
/// # Errors
/// Those of the handlers.
pub async fn authorize<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B, BoxBody>>, Error> {
    let start = Instant::now();
    let authorizer = request
        .app_data::<Data<Authorizer>>()
        .cloned()
        .ok_or_else(|| missing_app_data("authorizer"))?;
    let peer = request.conn_data::<Rc<Peer>>().ok_or_else(|| missing_app_data("peer"))?;
    let revoked = peer.decision.is_allowed() && !peer.is_valid();
    let decision = if revoked { &Decision::Revoked } else { &peer.decision };
    authorizer.decisions[decision.index()].inc();
    let denial = decision.denial();
    if revoked {
        request.extensions_mut().insert(Revoked);
    }
    // As it is matched: with escapes decoded.
    let is_ping = routes::is_ping(request.match_info().as_str());
    let has_body = has_body(&request);
    let denied = denial.is_some();
    let mut response = match denial {
        None => next.call(request).await?.map_into_left_body(),
        Some(reason) => {
            let response = HttpResponse::Forbidden()
                .content_type(ContentType::plaintext())
                .body(format!("denied: {reason}\n"));
            request.into_response(response).map_into_right_body()
        }
    };
    // No handler reads a body, and what is left of it would be taken for the next request.
    if denied || has_body || authorizer.draining.load(Ordering::Acquire) {
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    authorizer.record(is_ping, response.status(), start);
    Ok(response)
}

fn has_body(request: &ServiceRequest) -> bool {
    let headers = request.headers();
    let length = headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
    length || headers.contains_key(TRANSFER_ENCODING)
}

fn missing_app_data(what: &str) -> Error {
    actix_web::error::ErrorInternalServerError(format!("the application has no {what}"))
}
