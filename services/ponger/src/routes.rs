//! What ponger answers, and the line that it logs for each request.

use std::{rc::Rc, time::Instant};

use actix_web::{
    Error, HttpMessage as _, HttpResponse,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::header::{ALLOW, ContentType},
    web::{self, ServiceConfig},
};
use chassis::listener::Peer;
use tracing::Span;
use tracing_actix_web::RootSpanBuilder;

use crate::authz::Verdict;

/// The one route, and what becomes of requests for others.
pub fn configure(config: &mut ServiceConfig) {
    config
        .service(
            web::resource("/ping").route(web::get().to(ping)).default_service(web::to(only_get)),
        )
        .default_service(web::to(not_found));
}

async fn ping() -> HttpResponse {
    HttpResponse::Ok().content_type(ContentType::plaintext()).body("pong")
}

async fn only_get() -> HttpResponse {
    HttpResponse::MethodNotAllowed()
        .insert_header((ALLOW, "GET"))
        .content_type(ContentType::plaintext())
        .body("only GET is answered here\n")
}

async fn not_found() -> HttpResponse {
    HttpResponse::NotFound()
        .content_type(ContentType::plaintext())
        .body("only /ping is answered here\n")
}

/// Logs one line a request when it is answered. The default of tracing-actix-web makes a span of a
/// dozen fields for each, which costs nine times the request itself.
#[derive(Debug)]
pub struct OneLine;

struct Began(Instant);

impl RootSpanBuilder for OneLine {
    fn on_request_start(request: &ServiceRequest) -> Span {
        request.extensions_mut().insert(Began(Instant::now()));
        Span::none()
    }

    fn on_request_end<B: MessageBody>(_: Span, outcome: &Result<ServiceResponse<B>, Error>) {
        let response = match outcome {
            Ok(response) => response,
            Err(error) => {
                tracing::error!(%error, "Request failed");
                return;
            }
        };
        let request = response.request();
        let extensions = request.extensions();
        let verdict = extensions.get::<Verdict>();
        let name = match verdict {
            Some(Verdict::Named(name)) => Some(name.clone()),
            // Whoever is denied is named too.
            Some(_) => request.conn_data::<Rc<Peer>>().and_then(|peer| match &peer.names {
                Some(Ok(names)) => names.first().map(ToString::to_string),
                _ => None,
            }),
            None => None,
        };
        let micros = extensions.get::<Began>().map(|began| began.0.elapsed().as_micros());
        let peer = request.conn_data::<Rc<Peer>>();
        let session = peer.and_then(|peer| peer.session);
        let status = response.status().as_u16();
        let message =
            format!("Received {} {}", short(request.method().as_str()), short(request.path()));
        let denied = match verdict {
            Some(Verdict::NoCertificate) => Some("no_certificate".to_owned()),
            Some(Verdict::NoIdentity(error) | Verdict::NotAllowed(error)) => {
                Some(error.to_string())
            }
            Some(Verdict::Withdrawn) => Some("withdrawn".to_owned()),
            Some(Verdict::Named(_) | Verdict::Anonymous) | None => None,
        };
        let address = peer.and_then(|peer| peer.address);
        if let Some(denied) = denied {
            tracing::warn!(
                status,
                peer = name,
                address = address.map(tracing::field::display),
                denied,
                "{message}"
            );
        } else {
            tracing::info!(status, peer = name, micros, "{message}");
        }
        if let Some(session) = session {
            tracing::debug!(
                version = session.version,
                cipher = session.cipher,
                group = session.group,
                kind = session.kind,
                address = address.map(tracing::field::display),
                "TLS of that request"
            );
        }
    }
}

/// What a client chose, safe and short enough for a log.
fn short(text: &str) -> String {
    text.chars().take(128).flat_map(char::escape_debug).collect()
}
