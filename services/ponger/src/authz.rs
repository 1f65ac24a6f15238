//! Authorization: which peers' requests are allowed.
//!
//! The handshake has verified the client's certificate. Its ID is compared with the allowed ones once
//! a connection; at each request, only whether its certificate is still valid may have changed.

use std::{
    collections::BTreeSet,
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
    http::{ConnectionType, StatusCode, header::ContentType},
    middleware::Next,
    web::Data,
};
use chassis::{
    metrics::Metrics,
    tls::peer_id::{PeerId, PeerIdError},
};
use prometheus::{Histogram, IntCounter, IntCounterVec};

use crate::{connection::Peer, routes};

/// Which peers are authorized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Policy {
    /// All: clients are not asked for a certificate.
    AllowAll,
    /// Those whose certificate has an allowed ID.
    RequirePeer {
        /// The allowed IDs; any if `None`.
        allowed: Option<BTreeSet<PeerId>>,
        /// Whether clients without a certificate are allowed too.
        allow_anonymous: bool,
    },
}

impl Policy {
    /// Decides about a peer by the IDs in its certificate, `None` without one. They must come from a
    /// verified chain.
    pub fn decide(&self, ids: Option<&Result<Vec<PeerId>, PeerIdError>>) -> Decision {
        let Self::RequirePeer { allowed, allow_anonymous } = self else {
            return Decision::Anonymous;
        };
        let ids = match ids {
            None if *allow_anonymous => return Decision::Anonymous,
            None => return Decision::NoCertificate,
            Some(Err(error)) => return Decision::InvalidId(error.clone()),
            Some(Ok(ids)) => ids,
        };
        let is_allowed =
            |id: &&PeerId| allowed.as_ref().is_none_or(|allowed| allowed.contains(*id));
        match (ids.iter().find(is_allowed), ids.first()) {
            (Some(id), _) => Decision::PeerId(id.clone()),
            (None, Some(id)) => Decision::NotAllowed(id.clone()),
            (None, None) => Decision::InvalidId(PeerIdError::MissingSan),
        }
    }

    /// A peer as a metric label: an allowed ID, else `other`, or `none` without a certificate. No peer
    /// can add to that set.
    pub fn metric_label(&self, ids: Option<&Result<Vec<PeerId>, PeerIdError>>) -> &str {
        let (Self::RequirePeer { allowed: Some(allowed), .. }, Some(Ok(ids))) = (self, ids) else {
            return if ids.is_none() { "none" } else { "other" };
        };
        let id = ids.iter().find_map(|id| allowed.get(id));
        id.map_or("other", PeerId::as_str)
    }
}

/// Whether a peer's requests are allowed, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Allowed by this ID.
    PeerId(PeerId),
    /// Allowed without one.
    Anonymous,
    /// Denied: it presented no certificate.
    NoCertificate,
    /// Denied: its certificate does not identify exactly one peer.
    InvalidId(PeerIdError),
    /// Denied: this ID is not among the allowed ones.
    NotAllowed(PeerId),
    /// Denied: its certificate is no longer valid, or no longer trusted.
    Revoked,
}

impl Decision {
    /// The labels of every decision, in the order of [`Decision::index`].
    const LABELS: [[&str; 2]; 6] = [
        ["allowed", "peer_id"],
        ["allowed", "anonymous"],
        ["denied", "no_certificate"],
        ["denied", "invalid_id"],
        ["denied", "not_allowed"],
        ["denied", "revoked"],
    ];

    const fn index(&self) -> usize {
        match self {
            Self::PeerId(_) => 0,
            Self::Anonymous => 1,
            Self::NoCertificate => 2,
            Self::InvalidId(_) => 3,
            Self::NotAllowed(_) => 4,
            Self::Revoked => 5,
        }
    }

    /// Whether requests are allowed.
    pub const fn is_allowed(&self) -> bool {
        matches!(self, Self::PeerId(_) | Self::Anonymous)
    }

    /// The reason in logs and labels.
    pub const fn reason(&self) -> &'static str {
        Self::LABELS[self.index()][1]
    }

    /// What a denied client is told. It learns its own ID, and not the allowed ones.
    fn denial(&self) -> Option<String> {
        match self {
            Self::PeerId(_) | Self::Anonymous => None,
            Self::NoCertificate => Some("client certificate required".into()),
            Self::InvalidId(error) => Some(error.to_string()),
            Self::NotAllowed(id) => Some(format!("`{id}` is not allowed")),
            Self::Revoked => Some("client certificate is no longer trusted".into()),
        }
    }
}

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
            // A closed set: what a client asks for is not a label.
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
    let is_ping = routes::is_ping(request.path());
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
    if denied || authorizer.draining.load(Ordering::Acquire) {
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    authorizer.record(is_ping, response.status(), start);
    Ok(response)
}

fn missing_app_data(what: &str) -> Error {
    actix_web::error::ErrorInternalServerError(format!("the application has no {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> PeerId {
        text.parse().unwrap()
    }

    fn ids(texts: &[&str]) -> Option<Result<Vec<PeerId>, PeerIdError>> {
        Some(Ok(texts.iter().map(|text| id(text)).collect()))
    }

    fn policy(allowed: &[&str], allow_anonymous: bool) -> Policy {
        let allowed = Some(allowed.iter().map(|text| id(text)).collect());
        Policy::RequirePeer { allowed, allow_anonymous }
    }

    const PINGER: &str = "spiffe://cluster.local/ns/test/sa/pinger";
    const OTHER: &str = "spiffe://cluster.local/ns/test/sa/pinger2";

    #[test]
    fn allows_exactly_the_allowed_ids() {
        let policy = policy(&[PINGER, "client.example"], false);
        assert_eq!(policy.decide(ids(&[PINGER]).as_ref()), Decision::PeerId(id(PINGER)));
        assert_eq!(policy.decide(ids(&[OTHER]).as_ref()), Decision::NotAllowed(id(OTHER)));
        // One of several DNS names is enough.
        let decision = policy.decide(ids(&["other.example", "client.example"]).as_ref());
        assert_eq!(decision, Decision::PeerId(id("client.example")));
        let invalid = Err(PeerIdError::MultipleUris(2));
        let decision = policy.decide(Some(&invalid));
        assert_eq!(decision, Decision::InvalidId(PeerIdError::MultipleUris(2)));
    }

    #[test]
    fn denies_a_missing_certificate_unless_anonymous_clients_are_allowed() {
        assert_eq!(policy(&[PINGER], false).decide(None), Decision::NoCertificate);
        assert_eq!(policy(&[PINGER], true).decide(None), Decision::Anonymous);
        assert_eq!(Policy::AllowAll.decide(None), Decision::Anonymous);
    }

    #[test]
    fn labels_of_peers_are_the_configured_ids_alone() {
        let policy = policy(&[PINGER], false);
        assert_eq!(policy.metric_label(ids(&[PINGER]).as_ref()), PINGER);
        assert_eq!(policy.metric_label(ids(&[OTHER]).as_ref()), "other");
        assert_eq!(policy.metric_label(None), "none");
        let any = Policy::RequirePeer { allowed: None, allow_anonymous: false };
        assert_eq!(any.metric_label(ids(&[PINGER]).as_ref()), "other");
    }

    #[test]
    fn a_denial_does_not_name_the_allowed_ids() {
        let denial = Decision::NotAllowed(id(OTHER)).denial().unwrap();
        assert_eq!(denial, format!("`{OTHER}` is not allowed"));
        assert!(!denial.contains(&format!("{PINGER}`")));
    }
}
