//! Faults on demand: set by HTTP on the admin listener, seen by clients over TLS.

use std::{
    io::Read as _,
    process::Command,
    time::{Duration, Instant},
};

use testkit::{
    Leaf,
    client::{Response, TlsClient, plain_exchange, request},
    process::Service,
    wait_until,
};

use crate::support::{Env, OTHER, PROGRAM, Ponger, start};

const ACTIVE: &str = "ponger_faults_active";

fn start_with_faults(env: &Env) -> Ponger {
    let mut config = env.config();
    config.faults = true;
    start(&config)
}

/// A request to `/faults` as curl sends it; `headers` is one line or more.
fn send(ponger: &Ponger, method: &str, headers: &str, body: &str) -> Response {
    let length = body.len();
    let text =
        format!("{method} /faults HTTP/1.1\r\n{headers}\r\nContent-Length: {length}\r\n\r\n{body}");
    plain_exchange(ponger.admin, &text).unwrap()
}

const JSON: &str = "Host: 127.0.0.1:2112\r\nContent-Type: application/json";

/// Begins a fault for ten minutes.
fn begin(ponger: &Ponger, fault: &str) {
    let response = send(ponger, "PUT", JSON, &format!("{{{fault}, \"duration\": \"10m\"}}"));
    assert_eq!(response.status, 200, "{}", response.body);
}

fn status(client: &TlsClient, ponger: &Ponger) -> u16 {
    client.get(ponger.address, "/ping").unwrap().status
}

fn injected(kind: &str) -> String {
    format!("ponger_faults_injected_total{{kind=\"{kind}\"}}")
}

#[test]
fn delays_pongs() {
    let env = Env::new();
    let ponger = start_with_faults(&env);
    begin(&ponger, r#""kind": "delay", "delay": "300ms""#);
    let began = Instant::now();
    assert_eq!(env.pinger().get(ponger.address, "/ping").unwrap().body, "pong");
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    assert_eq!(ponger.metric(&injected("delay")), 1.0);
}

#[test]
fn answers_with_an_error_as_often_as_asked_for() {
    let env = Env::new();
    let ponger = start_with_faults(&env);
    let client = env.pinger();
    for (percent, errors) in [(0, 0), (50, 5), (100, 10)] {
        begin(&ponger, &format!(r#""kind": "error", "percent": {percent}"#));
        let answered = (0..10).filter(|_| status(&client, &ponger) == 500).count();
        assert_eq!(answered, errors, "{percent}");
    }
    assert_eq!(ponger.metric(&injected("error")), 15.0);
    assert_eq!(ponger.metric("ponger_requests_total{code=\"500\",route=\"ping\"}"), 15.0);
}

#[test]
fn closes_the_connection_without_an_answer_or_within_it() {
    let env = Env::new();
    let ponger = start_with_faults(&env);
    for (kind, expected) in [("drop", ""), ("truncate", "\r\n\r\npo")] {
        begin(&ponger, &format!(r#""kind": "{kind}""#));
        let mut connection = env.pinger().connect(ponger.address).unwrap();
        connection.send(request("/ping", "keep-alive").as_bytes()).unwrap();
        let mut received = Vec::new();
        // Not an orderly close, which is an alert of TLS.
        connection.read_to_end(&mut received).unwrap_err();
        let received = String::from_utf8(received).unwrap();
        assert_eq!(received.is_empty(), expected.is_empty(), "{kind}: {received}");
        assert!(received.ends_with(expected), "{kind}: {received}");
        assert_eq!(ponger.metric(&injected(kind)), 1.0);
    }
}

#[test]
fn shows_replaces_and_ends_the_fault() {
    let env = Env::new();
    let ponger = start_with_faults(&env);
    let show = || send(&ponger, "GET", "Host: localhost", "").body;
    assert_eq!(show(), r#"{"fault":null}"#);
    begin(&ponger, r#""kind": "drop", "percent": 10"#);
    begin(&ponger, r#""kind": "error""#);
    let shown = show();
    let fault = r#"{"fault":{"kind":"error","percent":100,"duration":"10m"},"left":"9m "#;
    assert!(shown.starts_with(fault), "{shown}");
    assert_eq!(ponger.metric(ACTIVE), 1.0);
    let warnings = ponger.admin_get("/readyz").body;
    assert!(warnings.contains("warning: a fault is being injected"), "{warnings}");

    assert_eq!(send(&ponger, "DELETE", "Host: [::1]", "").body, r#"{"fault":null}"#);
    assert_eq!((show().as_str(), ponger.metric(ACTIVE)), (r#"{"fault":null}"#, 0.0));
    assert_eq!(status(&env.pinger(), &ponger), 200);
}

#[test]
fn a_client_that_is_not_allowed_is_denied_as_always() {
    let env = Env::new();
    let ponger = start_with_faults(&env);
    begin(&ponger, r#""kind": "drop""#);
    assert_eq!(status(&env.client_of(&Leaf::new().uri(OTHER)), &ponger), 403);
    assert_eq!(ponger.metric(&injected("drop")), 0.0);
}

#[test]
fn rejects_what_a_web_page_may_send_and_what_it_does_not_understand() {
    let env = Env::new();
    let ponger = start_with_faults(&env);
    let fault = r#"{"kind": "drop", "duration": "10s"}"#;
    let long = format!("{fault}{}", " ".repeat(1024));
    let form = "Host: localhost\r\nContent-Type: text/plain";
    let foreign = "Host: evil.example\r\nContent-Type: application/json";
    let page = format!("{JSON}\r\nOrigin: http://127.0.0.1:2112");
    for (method, headers, body, status, reason) in [
        ("PUT", form, fault, 415, "content-type: "),
        ("POST", foreign, fault, 403, "host: "),
        ("PUT", &page, fault, 403, "origin: "),
        ("DELETE", &page, "", 403, "origin: "),
        ("GET", foreign, "", 403, "host: "),
        ("PUT", JSON, &long, 413, "the body: it is longer than 1024 bytes"),
        ("PUT", JSON, "{", 400, "the body: it is not JSON (line 1, column 1); an example: "),
        (
            "PUT",
            JSON,
            r#"{"kind": "explode", "duration": "1s"}"#,
            400,
            "`kind`: \"explode\" is not",
        ),
        ("PUT", JSON, r#"{"kind": "drop", "duration": "1h"}"#, 400, "`duration`: it is zero or"),
        ("PUT", JSON, r#"{"kind": "drop"}"#, 400, "`duration`: required; an example: "),
    ] {
        let response = send(&ponger, method, headers, body);
        assert_eq!(response.status, status, "{method} {headers}: {}", response.body);
        assert!(response.body.starts_with(reason), "{}", response.body);
    }
    assert_eq!(ponger.metric(ACTIVE), 0.0);
    assert_eq!(send(&ponger, "PATCH", JSON, fault).status, 405);
}

#[test]
fn has_no_such_route_unless_it_is_enabled() {
    let env = Env::new();
    let ponger = env.start();
    let fault = r#"{"kind": "drop", "duration": "10s"}"#;
    for method in ["GET", "PUT", "POST", "DELETE"] {
        assert_eq!(send(&ponger, method, JSON, fault).status, 404, "{method}");
    }
    assert_eq!(ponger.admin_get("/readyz").body, "ready\n");
    assert_eq!(status(&env.pinger(), &ponger), 200);
}

#[test]
fn warns_at_start_and_logs_begin_end_and_each_fault() {
    let env = Env::new();
    let mut command = Command::new(PROGRAM);
    command.arg("-c").arg(env.write_config("")).env("PONGER__FAULTS", "true");
    let mut ponger = Service::spawn(&mut command);
    assert!(ponger.wait_for("Listening ").contains("faults=true"));
    assert!(ponger.wait_for("Faults are enabled (`faults: true`)").contains("WARN"));
    assert!(ponger.admin_get("/readyz").body.contains("warning: faults are enabled"));

    // Long enough for a ping on a busy machine; it ends by itself all the same.
    let fault = r#"{"kind": "error", "duration": "3s"}"#;
    let text = format!("PUT /faults HTTP/1.1\r\n{JSON}\r\nContent-Length: 35\r\n\r\n{fault}");
    assert_eq!(plain_exchange(ponger.admin(), &text).unwrap().status, 200);
    let line = ponger.wait_for("Fault injection begins");
    assert!(line.contains("WARN") && line.contains("percent=100 duration=3s"), "{line}");
    let client = env.pinger();
    let ping = || client.get(ponger.address(), "/ping").unwrap().status;
    if ping() == 500 {
        assert!(ponger.wait_for("Received GET /ping").contains("status=500"));
        ponger.wait_for("fault=\"error\"");
    }
    ponger.wait_for("Fault injection ended kind=\"error\"");
    assert_eq!(ping(), 200);
    wait_until("the metric", || (ponger.metric(ACTIVE) == Some(0.0)).then_some(()));
    assert!(ponger.stop().success());
}
