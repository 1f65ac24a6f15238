//! A collector that traces are exported to, and one that is dead, hangs or refuses.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use prost::Message as _;
use rustls::{ServerConnection, StreamOwned};
use testkit::{Ca, Leaf, wait_until};

use crate::support::{
    Env, Pinger, pong_forever, read_head, server_tls, until_closed, wait_for_further,
};

/// What a collector has received: spans, each with the name of its service.
#[derive(Clone, Default)]
pub(crate) struct Received(Arc<Mutex<Vec<(String, Span)>>>);

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
    pub(crate) fn wait_for<T>(&self, what: &str, accept: impl Fn(&str, &Span) -> Option<T>) -> T {
        wait_until(what, || {
            let spans = self.0.lock().unwrap();
            spans.iter().find_map(|(service, span)| accept(service, span))
        })
    }

    /// The spans below `parent`, by their names.
    pub(crate) fn children(&self, parent: &Span) -> BTreeMap<String, Span> {
        let spans = self.0.lock().unwrap();
        let children = spans.iter().filter(|(_, span)| span.parent_span_id == parent.span_id);
        children.map(|(_, span)| (span.name.clone(), span.clone())).collect()
    }
}

pub(crate) fn attributes(attributes: &[KeyValue]) -> BTreeMap<String, String> {
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
pub(crate) fn collector(env: &Env, status: &'static str) -> (SocketAddr, Received) {
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
    // At once: each waits for a collector until it gives up, and again when it stops.
    thread::scope(|scope| {
        for pinger in pingers {
            scope.spawn(move || {
                pinger.wait_for_metric(&spans("failed"), 1.0);
                wait_for_further(&pinger, "pong", 10);
                assert_eq!(pinger.stop().unwrap().lost(), 0);
            });
        }
    });
}
