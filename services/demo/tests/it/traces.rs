//! A real OpenTelemetry collector receives the traces of both services; `collector` is its source.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use testkit::{
    Ca, Leaf,
    process::{Service, is_installed},
    wait_until,
};

/// A collector on a free port, over TLS with client certificates, that writes what it receives to a file.
struct Collector {
    service: Service,
    address: SocketAddr,
    file: PathBuf,
}

impl Collector {
    fn start(dir: &Path, ca: &Ca) -> Self {
        ca.issue(&Leaf::new().ip([127, 0, 0, 1].into())).write(dir).unwrap();
        fs::write(dir.join("ca.crt"), ca.pem()).unwrap();
        let file = dir.join("spans.json");
        let (config, dir) = (dir.join("collector.yaml"), dir.display());
        let tls = format!(
            "{{cert_file: '{dir}/tls.crt', key_file: '{dir}/tls.key', client_ca_file: '{dir}/ca.crt'}}"
        );
        let text = format!(
            "receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:0', tls: {tls}}}}}}}}}
exporters: {{file: {{path: '{dir}/spans.json', flush_interval: 100ms}}}}
service:
  pipelines: {{traces: {{receivers: [otlp], exporters: [file]}}}}
  telemetry: {{metrics: {{level: none}}}}
"
        );
        fs::write(&config, text).unwrap();
        let service = Service::spawn(
            Command::new("otelcol").arg("--config").arg(format!("file:{}", config.display())),
        );
        let line = service.wait_for("Starting HTTP server");
        let address = line.split("\"endpoint\": \"").nth(1).unwrap().split('"').next().unwrap();
        let address = address.parse().unwrap();
        service.wait_for("Everything is ready");
        Self { service, address, file }
    }

    /// The spans that it has written, each with the name of its service.
    fn spans(&self) -> Vec<(String, Value)> {
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        // The last line may not be complete yet.
        let requests = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let list = |value: &Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
        let mut spans = Vec::new();
        for of_resource in requests.flat_map(|request| list(&request, "resourceSpans")) {
            let service = attribute(&of_resource["resource"], "service.name");
            for scope in list(&of_resource, "scopeSpans") {
                spans.extend(list(&scope, "spans").into_iter().map(|span| (service.clone(), span)));
            }
        }
        spans
    }
}

/// The value of an attribute that is a text.
fn attribute(value: &Value, name: &str) -> String {
    let attributes = value["attributes"].as_array().unwrap();
    let found = attributes.iter().find(|attribute| attribute["key"] == name);
    found.unwrap()["value"]["stringValue"].as_str().unwrap().to_owned()
}

/// Runs the demo with traces of both services to `collector`, verified by `roots`.
fn run_demo(collector: SocketAddr, dir: &Path, roots: &str) -> String {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_demo"));
    demo.args(["--count", "3", "--interval", "10ms"]);
    for service in ["PINGER", "PONGER"] {
        demo.env(format!("{service}__OTEL__ENDPOINT"), format!("https://{collector}"));
        for (key, file) in [
            ("TRUST_BUNDLE", roots),
            ("CLIENT_CERTIFICATE", "client/tls.crt"),
            ("CLIENT_PRIVATE_KEY", "client/tls.key"),
        ] {
            demo.env(format!("{service}__OTEL__{key}"), dir.join(file));
        }
    }
    let output = demo.output().unwrap();
    let log = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{log}");
    assert!(log.contains("3 pings, 3 pongs, 0 lost"), "{log}");
    log
}

#[test]
fn a_collector_receives_one_trace_of_both_services_over_mutual_tls() {
    if !is_installed("otelcol") {
        return;
    }
    let (dir, ca) = (tempfile::tempdir().unwrap(), Ca::new("collector"));
    let dir = dir.path();
    let mut collector = Collector::start(dir, &ca);
    fs::create_dir(dir.join("client")).unwrap();
    ca.issue(&Leaf::new().dns("client").client_only()).write(&dir.join("client")).unwrap();
    fs::write(dir.join("another.crt"), Ca::new("another").pem()).unwrap();

    let log = run_demo(collector.address, dir, "another.crt");
    assert!(log.contains("Trace export failed"), "{log}");
    assert!(log.contains("is not signed by a trusted CA"), "{log}");
    assert!(collector.spans().is_empty());

    let log = run_demo(collector.address, dir, "ca.crt");
    assert!(!log.contains("Trace export failed"), "{log}");
    let (ping, request) = wait_until("a trace of both services", || {
        let spans = collector.spans();
        let ping =
            spans.iter().find(|(service, span)| service == "pinger" && span["name"] == "ping");
        let ping = &ping?.1;
        let request = spans
            .iter()
            .find(|(service, span)| service == "ponger" && span["parentSpanId"] == ping["spanId"]);
        Some((ping.clone(), request?.1.clone()))
    });
    assert_eq!(request["traceId"], ping["traceId"]);
    assert_eq!(attribute(&request, "peer.id"), "spiffe://cluster.local/ns/demo/sa/pinger");
    assert_eq!(attribute(&ping, "peer.id"), "spiffe://cluster.local/ns/demo/sa/ponger");

    // Both services log the trace.
    let of_trace = format!("trace_id={}", ping["traceId"].as_str().unwrap());
    let lines: Vec<_> = log.lines().filter(|line| line.contains(&of_trace)).collect();
    for event in ["Sent ping", "Received GET /ping", "Got pong"] {
        assert!(lines.iter().any(|line| line.contains(event)), "{event}: {lines:?}");
    }
    assert!(collector.service.stop().success());
}
