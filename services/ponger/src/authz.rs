//! Who is let in. The certificate was verified in the handshake; here its name is held against
//! those that are allowed, at each request, so that a name that is taken away ends at once.

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use actix_web::{
    Error, HttpMessage as _, HttpResponse,
    body::{BoxBody, EitherBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{ConnectionType, header::ContentType},
    middleware::Next,
    web::Data,
};
use chassis::{
    listener::Peer,
    metrics::Metrics,
    tls::{reload::Current, peer_id::WrongId},
};
use prometheus::{HistogramVec, IntCounterVec};

/// What a request needs to be let in.
#[derive(Debug)]
pub struct Door {
    rule: Rule,
    draining: Arc<AtomicBool>,
    authz: IntCounterVec,
    requests: IntCounterVec,
    durations: HistogramVec,
}

/// Whom the configuration lets in.
#[derive(Debug)]
pub enum Rule {
    /// Everyone: clients are not asked who they are.
    Everyone,
    /// Those whom the current identity admits, and those without a certificate if `anonymous`.
    Admitted {
        /// The identity whose allowed names count.
        current: Current,
        /// Whether no certificate is enough.
        anonymous: bool,
    },
}

/// Why a request is let in or not: the closed set of the label `reason`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// By its name.
    Named(String),
    /// Without one.
    Anonymous,
    /// Not, because it showed no certificate.
    NoCertificate,
    /// Not, because its certificate does not name exactly one holder.
    NoIdentity(WrongId),
    /// Not, because its name is not among the allowed ones.
    NotAllowed(WrongId),
    /// Not, because what its connection was opened with holds no longer.
    Withdrawn,
}

impl Verdict {
    const fn labels(&self) -> [&'static str; 2] {
        match self {
            Self::Named(_) => ["allowed", "name"],
            Self::Anonymous => ["allowed", "anonymous"],
            Self::NoCertificate => ["denied", "no_certificate"],
            Self::NoIdentity(_) => ["denied", "no_identity"],
            Self::NotAllowed(_) => ["denied", "not_allowed"],
            Self::Withdrawn => ["denied", "withdrawn"],
        }
    }

    /// Why it is not let in, in words for the client; `None` if it is.
    fn refusal(&self) -> Option<String> {
        match self {
            Self::Named(_) | Self::Anonymous => None,
            Self::NoCertificate => Some("you showed no certificate".into()),
            Self::NoIdentity(error) => Some(error.to_string()),
            // The client learns its own name, and not those that would have been let in.
            Self::NotAllowed(WrongId::Another { found, .. } | WrongId::NotAllowed(found)) => {
                Some(format!("`{found}` is not allowed here"))
            }
            Self::NotAllowed(error) => Some(error.to_string()),
            Self::Withdrawn => Some("what let you in has been withdrawn".into()),
        }
    }
}

impl Door {
    /// A door with `rule`. `draining` says that every connection shall end with its next answer.
    pub fn new(rule: Rule, draining: Arc<AtomicBool>, metrics: &Metrics) -> Self {
        let authz = metrics.counters(
            "ponger_authz_total",
            "Requests, by whether they were let in, and why.",
            &["decision", "reason"],
        );
        for labels in [
            ["allowed", "name"],
            ["allowed", "anonymous"],
            ["denied", "no_certificate"],
            ["denied", "no_identity"],
            ["denied", "not_allowed"],
            ["denied", "withdrawn"],
        ] {
            authz.with_label_values(&labels);
        }
        let requests = metrics.counters(
            "ponger_requests_total",
            "Requests answered, by route and status.",
            &["route", "code"],
        );
        requests.with_label_values(&["ping", "200"]);
        let durations = metrics.seconds_by(
            "ponger_request_duration_seconds",
            "Time from a request's head to its answer, by route.",
            &["route"],
        );
        Self { rule, draining, authz, requests, durations }
    }

    fn judge(&self, peer: &Peer) -> Verdict {
        let Rule::Admitted { current, anonymous } = &self.rule else {
            return Verdict::Anonymous;
        };
        if !peer.holds() {
            return Verdict::Withdrawn;
        }
        match &peer.names {
            None if *anonymous => Verdict::Anonymous,
            None => Verdict::NoCertificate,
            Some(Err(error)) => Verdict::NoIdentity(error.clone()),
            Some(Ok(names)) => match current.get().admit(names) {
                Ok(name) => Verdict::Named(name.to_string()),
                Err(error) => Verdict::NotAllowed(error),
            },
        }
    }
}

/// The middleware: lets a request in or answers 403, and counts it.
///
/// # Errors
/// Those of the handlers behind it.
pub async fn guard<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B, BoxBody>>, Error> {
    let began = std::time::Instant::now();
    let door = request.app_data::<Data<Door>>().cloned().ok_or_else(|| misbuilt("door"))?;
    let verdict = door.judge(request.conn_data::<Rc<Peer>>().ok_or_else(|| misbuilt("peer"))?);
    door.authz.with_label_values(&verdict.labels()).inc();
    // A closed set: what a client asks for is no label.
    let route = if request.path() == "/ping" { "ping" } else { "other" };
    let refusal = verdict.refusal();
    request.extensions_mut().insert(verdict);
    let mut response = match &refusal {
        None => next.call(request).await?.map_into_left_body(),
        Some(cause) => {
            let answer = HttpResponse::Forbidden()
                .content_type(ContentType::plaintext())
                .body(format!("denied: {cause}\n"));
            request.into_response(answer).map_into_right_body()
        }
    };
    if refusal.is_some() || door.draining.load(Ordering::Acquire) {
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    door.requests.with_label_values(&[route, response.status().as_str()]).inc();
    door.durations.with_label_values(&[route]).observe(began.elapsed().as_secs_f64());
    Ok(response)
}

fn misbuilt(what: &str) -> Error {
    actix_web::error::ErrorInternalServerError(format!(
        "the application was built without its {what}"
    ))
}
