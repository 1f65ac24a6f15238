//! Authorizes requests.
//!
//! The handshake has verified the client's certificate. Its ID is compared with the allowed ones once
//! a connection; at each request, only whether its certificate is still valid may have changed.

use std::{
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use actix_web::{
    Error, HttpMessage as _, HttpResponse,
    body::EitherBody,
    dev::{Payload, Service, ServiceRequest, ServiceResponse},
    http::{ConnectionType, StatusCode, header::ContentType},
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
pub fn authorize<S, B>(
    request: ServiceRequest,
    service: &S,
) -> Pin<Box<impl Future<Output = Result<ServiceResponse<EitherBody<B>>, Error>> + use<S, B>>>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
{
    let start = Instant::now();
    let checked = Checked::new(&request);
    let passed = match &checked {
        Ok(Checked { denial: None, .. }) => Ok(service.call(request)),
        _ => Err(request),
    };
    // Boxed: actix reserves room for what is not in each connection, also while it is idle.
    Box::pin(async move {
        let Checked { authorizer, denial, is_ping, has_body } = checked?;
        let mut response = match passed {
            Ok(response) => response.await?.map_into_left_body(),
            Err(request) => {
                let response = HttpResponse::Forbidden()
                    .content_type(ContentType::plaintext())
                    .body(format!("denied: {}\n", denial.as_deref().unwrap_or_default()));
                request.into_response(response).map_into_right_body()
            }
        };
        // No handler reads a body, and what is left of it would be taken for the next request.
        if denial.is_some() || has_body || authorizer.draining.load(Ordering::Acquire) {
            response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
        }
        authorizer.record(is_ping, response.status(), start);
        Ok(response)
    })
}

/// What the check of a request has found.
struct Checked {
    authorizer: Data<Authorizer>,
    /// Why it is denied; `None` if it is allowed.
    denial: Option<String>,
    is_ping: bool,
    has_body: bool,
}

impl Checked {
    fn new(request: &ServiceRequest) -> Result<Self, Error> {
        let authorizer = request
            .app_data::<Data<Authorizer>>()
            .cloned()
            .ok_or_else(|| missing_app_data("authorizer"))?;
        let peer = request.conn_data::<Rc<Peer>>().ok_or_else(|| missing_app_data("peer"))?;
        let revoked = peer.decision.is_allowed() && !peer.is_valid();
        let decision = if revoked { &Decision::Revoked } else { &peer.decision };
        authorizer.decisions[decision.index()].inc();
        if revoked {
            request.extensions_mut().insert(Revoked);
        }
        Ok(Self {
            authorizer,
            denial: decision.denial(),
            // As it is matched: with escapes decoded.
            is_ping: routes::is_ping(request.match_info().as_str()),
            has_body: !matches!(request.parts().1, Payload::None),
        })
    }
}

fn missing_app_data(what: &str) -> Error {
    actix_web::error::ErrorInternalServerError(format!("the application has no {what}"))
}
