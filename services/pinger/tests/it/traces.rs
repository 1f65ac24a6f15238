//! The traces of both services, as a collector receives them.

use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::trace::v1::{span::SpanKind, status::StatusCode};
use rustls::{ServerConnection, StreamOwned};
use testkit::{Leaf, wait_until};

use crate::{
    collector::{attributes, collector},
    support::{Env, PINGER_ID, PONGER_ID, read_head, server_tls},
};

#[test]
fn a_ping_and_its_request_are_one_trace() {
    let env = Env::new();
    let (collector, received) = collector(&env, "200 OK");
    let endpoint = Some(format!("http://{collector}"));
    let mut config = env.ponger_config();
    config.otel.endpoint = endpoint.clone();
    let ponger = env.start_ponger(&config);
    let mut config = env.pinger_config(ponger.address);
    config.otel.endpoint = endpoint;
    config.otel.resource_attributes = vec!["service.name=a pinger".into()];
    let pinger = env.start_pinger(&config);

    let ping = received.wait_for("the span of a ping", |service, span| {
        (service == "a pinger" && span.name == "ping").then(|| span.clone())
    });
    let request = received.wait_for("the span of its request", |service, span| {
        (service == "ponger" && span.parent_span_id == ping.span_id).then(|| span.clone())
    });
    assert_eq!((&request.trace_id, request.name.as_str()), (&ping.trace_id, "GET /ping"));
    assert!(ping.parent_span_id.is_empty());
    assert_eq!((ping.kind(), request.kind()), (SpanKind::Client, SpanKind::Server));
    let url = format!("https://{}/ping", ponger.address);
    for (span, expected) in [
        (&ping, [("url.full", url.as_str()), ("peer.id", PONGER_ID)]),
        (&request, [("url.path", "/ping"), ("peer.id", PINGER_ID)]),
    ] {
        let attributes = attributes(&span.attributes);
        let both = [("http.request.method", "GET"), ("http.response.status_code", "200")];
        for (name, value) in expected.into_iter().chain(both) {
            assert_eq!(attributes[name], value, "{name}");
        }
        assert!(!attributes.contains_key("error.type"), "{attributes:?}");
    }

    let children = received.children(&ping);
    assert_eq!(
        children.keys().collect::<Vec<_>>(),
        ["GET /ping", "connect", "request", "resolve", "tls"]
    );
    let phases = ["resolve", "connect", "tls", "request"].map(|phase| &children[phase]);
    assert!(phases.is_sorted_by_key(|phase| phase.start_time_unix_nano));
    for phase in phases {
        assert!(phase.start_time_unix_nano >= ping.start_time_unix_nano);
        assert!(phase.end_time_unix_nano <= ping.end_time_unix_nano);
    }
    let address = attributes(&children["connect"].attributes);
    assert_eq!(address["network.peer.port"], ponger.address.port().to_string());
    let tls = attributes(&children["tls"].attributes);
    assert_eq!(
        (tls["tls.protocol.version"].as_str(), tls["tls.curve"].as_str()),
        ("1.3", "X25519MLKEM768")
    );

    let trace_id: String = ping.trace_id.iter().map(|byte| format!("{byte:02x}")).collect();
    // `Sent ping` and `Got pong`.
    assert_eq!(pinger.count(&format!("trace_id={trace_id}")), 2);
    pinger.stop().unwrap();
    ponger.stop().unwrap();
}

#[test]
fn a_lost_ping_is_traced_with_its_reason_and_the_phase_that_failed() {
    let env = Env::new();
    env.issue_ponger(&Leaf::ponger("another"));
    let ponger = env.start_ponger(&env.ponger_config());
    let (collector, received) = collector(&env, "200 OK");
    let mut config = env.pinger_config(ponger.address);
    config.otel.endpoint = Some(format!("http://{collector}"));
    let pinger = env.start_pinger(&config);
    let ping = received
        .wait_for("the span of a ping", |_, span| (span.name == "ping").then(|| span.clone()));
    let children = received.children(&ping);
    for span in [&ping, &children["tls"]] {
        assert_eq!(attributes(&span.attributes)["error.type"], "tls_wrong_id");
        let status = span.status.clone().unwrap();
        assert_eq!(status.code(), StatusCode::Error);
        assert!(status.message.contains("spiffe://"), "{}", status.message);
    }
    assert_eq!(children["connect"].status.clone().unwrap().code(), StatusCode::Unset);
    assert!(!children.contains_key("request"));
    pinger.stop().unwrap();
}

#[test]
fn a_ping_without_traces_has_no_header_of_theirs() {
    let env = Env::new();
    let heads = Arc::<Mutex<Vec<String>>>::default();
    let (seen, tls) = (Arc::clone(&heads), server_tls(&env.ca.issue(&Leaf::ponger("test")), None));
    let ponger = env.serve(move |tcp| {
        let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(&tls)).unwrap(), tcp);
        seen.lock().unwrap().extend(read_head(&mut stream));
    });
    let pinger = env.start_pinger(&env.pinger_config(ponger));
    let head = wait_until("a request", || heads.lock().unwrap().first().cloned());
    assert!(head.starts_with("GET /ping HTTP/1.1\r\n"), "{head}");
    assert!(!head.to_lowercase().contains("trace"), "{head}");
    pinger.stop().unwrap();
}
