//! The traces of both services, as a collector receives them.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use prost::Message as _;
use rustls::{ServerConnection, StreamOwned};
use testkit::{Ca, Leaf, wait_until};

use crate::support::{
    Env, PINGER_ID, PONGER_ID, Pinger, pong_forever, server_tls, until_closed, wait_for_further,
};

/// What a collector has received: spans, each with the name of its service.
#[derive(Clone, Default)]
struct Received(Arc<Mutex<Vec<(String, Span)>>>);

impl Received {
    /// Reads one request, and answers it with `status`.
    fn receive(&self, stream: &mut (impl Read + Write), status: &str) {
        let Some(head) = read_head(stream) else { return };
        assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
        let length = head.to_lowercase().split_once("content-length: ").unwrap().1.to_owned();
        let mut body = vec![0; length.split("\r\n").next().unwrap().parse().unwrap()];
        stream.read_exact(&mut body).unwrap();
        let request = ExportTraceServiceRequest::decode(&*body).unwrap();
        if status.starts_with("200") {
            for spans in request.resource_spans {
                let resource = attributes(&spans.resource.unwrap().attributes);
                let spans = spans.scope_spans.into_iter().flat_map(|scope| scope.spans);
                let spans = spans.map(|span| (resource["service.name"].clone(), span));
                self.0.lock().unwrap().extend(spans);
            }
        }
        let response = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(response.as_bytes()).unwrap();
        stream.flush().unwrap();
        until_closed(stream);
    }

    /// Waits for a span that `accept` returns something of.
    #[track_caller]
    fn wait_for<T>(&self, what: &str, accept: impl Fn(&str, &Span) -> Option<T>) -> T {
        wait_until(what, || {
            let spans = self.0.lock().unwrap();
            spans.iter().find_map(|(service, span)| accept(service, span))
        })
    }

    /// The spans below `parent`, by their names.
    fn children(&self, parent: &Span) -> BTreeMap<String, Span> {
        let spans = self.0.lock().unwrap();
        let children = spans.iter().filter(|(_, span)| span.parent_span_id == parent.span_id);
        children.map(|(_, span)| (span.name.clone(), span.clone())).collect()
    }
}

fn read_head(stream: &mut impl Read) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if !matches!(stream.read(&mut byte), Ok(1)) {
            return None;
        }
        head.push(byte[0]);
    }
    Some(String::from_utf8(head).unwrap())
}

fn attributes(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    let pair = |attribute: &KeyValue| {
        let value = attribute.value.as_ref()?.value.as_ref()?;
        Some((attribute.key.clone(), text(value)))
    };
    attributes.iter().filter_map(pair).collect()
}

/// A collector in plain HTTP that answers with `status`.
fn collector(env: &Env, status: &'static str) -> (SocketAddr, Received) {
    let received = Received::default();
    let collector = received.clone();
    let receive = move |mut stream: TcpStream| collector.receive(&mut stream, status);
    (env.serve(receive), received)
}

fn spans(result: &str) -> String {
    format!("otel_spans_total{{result=\"{result}\"}}")
}

/// A pinger of a ponger that never fails, with traces to `endpoint`.
fn traced_pinger(env: &Env, endpoint: String, trust: Option<&Ca>) -> Pinger {
    let tls = server_tls(&env.ca.issue(&Leaf::ponger("test")), None);
    let ponger = env.serve(move |tcp| pong_forever(&tls, tcp));
    let mut config = env.pinger_config(ponger);
    config.otel.endpoint = Some(endpoint);
    config.otel.trust_bundle = trust.map(|ca| {
        let path = env.dir.path().join("collector-ca.crt");
        std::fs::write(&path, ca.pem()).unwrap();
        path
    });
    env.start_pinger(&config)
}

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
fn exports_to_a_verified_collector_alone() {
    let env = Env::new();
    let received = Received::default();
    let collector = received.clone();
    let tls = server_tls(&env.ca.issue(&Leaf::new().ip([127, 0, 0, 1].into())), None);
    let collector = env.serve(move |tcp| {
        let connection = ServerConnection::new(Arc::clone(&tls)).unwrap();
        collector.receive(&mut StreamOwned::new(connection, tcp), "200 OK");
    });
    let endpoint = format!("https://{collector}");

    let pinger = traced_pinger(&env, endpoint.clone(), Some(&Ca::new("another")));
    pinger.wait_for_metric(&spans("failed"), 1.0);
    assert_eq!(pinger.metric(&spans("exported")), 0.0);
    pinger.stop().unwrap();
    assert!(received.0.lock().unwrap().is_empty());

    let pinger = traced_pinger(&env, endpoint, Some(&env.ca));
    pinger.wait_for_metric(&spans("exported"), 1.0);
    assert_eq!(pinger.metric(&spans("failed")), 0.0);
    pinger.stop().unwrap();
    received.wait_for("a span over TLS", |_, span| (span.name == "ping").then_some(()));
}

#[test]
fn a_collector_that_is_dead_hangs_or_refuses_costs_no_ping() {
    let env = Env::new();
    let dead = SocketAddr::from(([127, 0, 0, 1], 1));
    let hanging = env.serve(|mut tcp| until_closed(&mut tcp));
    let (full, _) = collector(&env, "503 Service Unavailable");
    let pingers = [dead, hanging, full]
        .map(|collector| traced_pinger(&env, format!("http://{collector}"), None));
    for pinger in &pingers {
        pinger.wait_for_metric(&spans("failed"), 1.0);
        wait_for_further(pinger, "pong", 10);
    }
    for pinger in pingers {
        assert_eq!(pinger.stop().unwrap().lost(), 0);
    }
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
