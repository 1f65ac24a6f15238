//! The span of a request, which is a child of the client's.

use actix_web::{
    dev::ServiceRequest,
    http::{Method, header::HeaderMap},
};
use chassis::{
    tls::peer_id::PeerId,
    traces::{attributes, context},
};
use opentelemetry::{
    Context, KeyValue,
    trace::{Span as _, SpanKind, Status, TraceId, Tracer as _},
};
use opentelemetry_sdk::trace::{SdkTracer, Span};

use crate::{connection::Peer, policy::Decision, routes};

/// How much of a path is exported, in characters.
const MAX_PATH: usize = 256;

/// Creates the spans of requests.
#[derive(Clone, Debug)]
pub struct RequestTracer(SdkTracer);

/// The span of a request that is not yet answered.
#[derive(Debug)]
pub struct RequestSpan(Span);

impl RequestTracer {
    /// Creates spans by `tracer`.
    pub fn new(tracer: SdkTracer) -> Self {
        Self(tracer)
    }

    /// Starts the span of a request of `peer`.
    ///
    /// A client that is neither allowed nor has a certificate does not decide whether it is exported.
    pub fn start(&self, request: &ServiceRequest, peer: &Peer) -> RequestSpan {
        let is_trusted = peer.decision.is_allowed() || peer.id.is_some();
        let parent = if is_trusted { parent(request.headers()) } else { Context::new() };
        let method = known_method(request.method());
        let path: String = request.path().chars().take(MAX_PATH).collect();
        let mut attributes = vec![
            KeyValue::new("http.request.method", method.unwrap_or("_OTHER")),
            KeyValue::new("url.path", path),
            KeyValue::new("url.scheme", if peer.handshake.is_some() { "https" } else { "http" }),
        ];
        let is_ping = routes::is_ping(request.path());
        let name = match method {
            Some(method) if is_ping => format!("{method} {}", request.path()),
            _ => method.unwrap_or("HTTP").to_owned(),
        };
        if is_ping {
            attributes.push(KeyValue::new("http.route", request.path().to_owned()));
        }
        attributes.extend(peer.address.into_iter().flat_map(attributes::peer_address));
        attributes.extend(peer.handshake.into_iter().flat_map(attributes::handshake));
        let id = peer.id.as_ref().map(PeerId::as_str);
        attributes.extend(id.map(|id| KeyValue::new("peer.id", id.to_owned())));
        RequestSpan(
            self.0
                .span_builder(name)
                .with_kind(SpanKind::Server)
                .with_attributes(attributes)
                .start_with_context(&self.0, &parent),
        )
    }
}

impl RequestSpan {
    /// The ID of the trace that it is part of.
    pub fn trace_id(&self) -> TraceId {
        self.0.span_context().trace_id()
    }

    /// Ends it with what was decided and answered.
    pub fn finish(mut self, status: u16, decision: &Decision) {
        self.0.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
        if !decision.is_allowed() {
            self.0.set_attribute(KeyValue::new("error.type", "denied"));
            self.0.set_status(Status::error(decision.reason()));
        }
        self.0.end();
    }
}

/// The context of the client's span. More than one header, as a proxy may add, says nothing.
fn parent(headers: &HeaderMap) -> Context {
    let mut values = headers.get_all(context::TRACEPARENT);
    match (values.next(), values.next()) {
        (Some(value), None) => context::parent(value.to_str().ok()),
        _ => Context::new(),
    }
}

/// The methods of RFC 9110 and RFC 5789; a client may send any other word.
fn known_method(method: &Method) -> Option<&'static str> {
    let known = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    known.into_iter().find(|known| method.as_str() == *known)
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;
    use chassis::tls::peer_id::PeerIdError;
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};

    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    fn peer(id: Option<&str>, decision: Decision) -> Peer {
        let id = id.map(|id| id.parse().unwrap());
        let (address, handshake, credentials, tracer) = (None, None, None, None);
        Peer { address, handshake, id, decision, is_probe: false, credentials, tracer }
    }

    /// The span of a request with these headers, where by itself nothing is sampled.
    fn span(peer: &Peer, traceparents: &[&str]) -> RequestSpan {
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOff)))
            .build();
        let tracer = RequestTracer::new(provider.tracer("test"));
        let request =
            traceparents.iter().fold(TestRequest::get().uri("/ping"), |request, value| {
                request.append_header((context::TRACEPARENT, *value))
            });
        tracer.start(&request.to_srv_request(), peer)
    }

    #[test]
    fn only_a_client_that_is_allowed_or_has_a_certificate_continues_its_trace() {
        const ID: &str = "spiffe://cluster.local/ns/test/sa/pinger";
        let id = || ID.parse().unwrap();
        let header = format!("00-{TRACE}-b7ad6b7169203331-01");
        for (peer, continues) in [
            (peer(Some(ID), Decision::PeerId(id())), true),
            (peer(None, Decision::Anonymous), true),
            (peer(Some(ID), Decision::NotAllowed(id())), true),
            (peer(None, Decision::NoCertificate), false),
            (peer(None, Decision::InvalidId(PeerIdError::MissingSan)), false),
        ] {
            let span = span(&peer, &[&header]);
            assert_eq!(span.trace_id().to_string() == TRACE, continues, "{peer:?}");
            assert_eq!(span.0.span_context().is_sampled(), continues, "{peer:?}");
        }
    }

    #[test]
    fn several_headers_or_a_malformed_one_say_nothing() {
        let peer = peer(None, Decision::Anonymous);
        let header = format!("00-{TRACE}-b7ad6b7169203331-01");
        for headers in [vec![], vec![header.as_str(); 2], vec!["00-x"], vec!["\u{e9}"]] {
            let span = span(&peer, &headers);
            assert_ne!(span.trace_id().to_string(), TRACE, "{headers:?}");
            assert!(span.0.span_context().is_valid() && !span.0.span_context().is_sampled());
        }
    }

    #[test]
    fn methods_that_a_client_makes_up_are_no_names() {
        assert_eq!(known_method(&Method::HEAD), Some("HEAD"));
        assert_eq!(known_method(&Method::from_bytes(b"MADEUP").unwrap()), None);
    }
}
