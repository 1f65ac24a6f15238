//! What ponger answers.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use crate::support::{World, exchange, get, get_kept, read_answer};

#[test]
fn a_ping_gets_pong_as_plain_text() {
    let world = World::new();
    let ponger = world.ponger("");
    let (status, headers, body) =
        world.good_client().get(ponger.address(), "/ping").expect("an answer");
    assert_eq!((status, body.as_str()), (200, "pong"));
    assert!(headers.iter().any(|line| line.starts_with("content-type: text/plain")), "{headers:?}");
    ponger.wait_for("Received GET /ping");
}

#[test]
fn other_paths_are_404_and_other_methods_405_with_allow() {
    let world = World::new();
    let ponger = world.ponger("");
    let client = world.good_client();
    for path in ["/", "/pin", "/ping/", "/ping/x", "/PING", "//ping", "/metrics"] {
        assert_eq!(client.get(ponger.address(), path).expect("an answer").0, 404, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"] {
        let request = get("/ping").replace("GET", method);
        let stream = client.connect(ponger.address()).expect("a connection");
        let (status, headers, _) = exchange(stream, &request).expect("an answer");
        assert_eq!(status, 405, "{method}");
        assert!(headers.contains(&"allow: get".to_owned()), "{headers:?}");
    }
}

#[test]
fn a_query_changes_nothing() {
    let world = World::new();
    let ponger = world.ponger("");
    assert_eq!(world.good_client().get(ponger.address(), "/ping?x=1").expect("an answer").0, 200);
}

#[test]
fn a_connection_is_kept_for_further_pings() {
    let world = World::new();
    let ponger = world.ponger("");
    let mut stream = world.good_client().connect(ponger.address()).expect("a connection");
    for _ in 0..3 {
        let (status, _, body) = exchange(&mut stream, &get_kept("/ping")).expect("an answer");
        assert_eq!((status, body.as_str()), (200, "pong"));
    }
}

#[test]
fn pipelined_pings_are_answered_in_order() {
    let world = World::new();
    let ponger = world.ponger("");
    let mut stream = world.good_client().connect(ponger.address()).expect("a connection");
    stream.write_all(get_kept("/ping").repeat(20).as_bytes()).expect("written");
    for _ in 0..20 {
        assert_eq!(read_answer(&mut stream).expect("an answer").2, "pong");
    }
}

#[test]
fn probes_and_metrics_live_on_a_plain_listener_of_their_own() {
    let world = World::new();
    let ponger = world.ponger("");
    ponger.address();
    for (path, status) in
        [("/livez", 200), ("/readyz", 200), ("/metrics", 200), ("/ping", 404), ("/", 404)]
    {
        assert_eq!(ponger.admin_get(path).0, status, "{path}");
    }
}

#[test]
fn plain_http_on_the_tls_port_gets_no_http() {
    let world = World::new();
    let ponger = world.ponger("");
    let mut stream = TcpStream::connect(ponger.address()).expect("a connection");
    stream.write_all(get("/ping").as_bytes()).expect("written");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP"), "{answer:?}");
    ponger.wait_for_metric("tls_handshake_failures_total{reason=\"tls_protocol\"}", |count| {
        count == 1.0
    });
}

#[test]
fn plain_http_must_be_written_and_is_warned_about() {
    let world = World::new();
    let config = world.write(
        "plain.yaml",
        "insecure: true\nservice: {host: 127.0.0.1, port: 0, drainDelay: 0s}\nmetrics: {host: 127.0.0.1, port: 0}\n",
    );
    let ponger = crate::support::Service::start("ponger", &config);
    let stream = TcpStream::connect(ponger.address()).expect("a connection");
    assert_eq!(exchange(stream, &get("/ping")).expect("an answer").2, "pong");
    ponger.wait_for("Plain HTTP, as `insecure: true` asks for");

    let config = world.write(
        "plain-pinger.yaml",
        &format!(
            "insecure: true\nponger: {{url: 'http://{}'}}\ncount: 3\ninterval: 1ms\nmetrics: {{host: 127.0.0.1, port: 0}}\n",
            ponger.address()
        ),
    );
    let mut pinger = crate::support::Service::start("pinger", &config);
    assert!(pinger.ended().success());
    assert_eq!(pinger.count("Got pong"), 3);
    assert_eq!(pinger.count("Plain HTTP"), 1);
}

#[test]
fn ipv6_and_ipv4_are_served_by_one_listener() {
    let world = World::new();
    let config = world.ponger_config("");
    let text = std::fs::read_to_string(&config).expect("the configuration");
    std::fs::write(&config, text.replacen("host: 127.0.0.1", "host: '::'", 1)).expect("written");
    let ponger = crate::support::Service::start("ponger", &config);
    let port = ponger.address().port();
    for host in ["127.0.0.1", "[::1]"] {
        let address = format!("{host}:{port}").parse().expect("an address");
        assert_eq!(
            world.good_client().get(address, "/ping").expect("an answer").2,
            "pong",
            "{host}"
        );
    }
}

#[test]
fn a_log_line_cannot_be_forged_by_a_path() {
    let world = World::new();
    let ponger = world.ponger("");
    let path = format!("/{}", "a%0aINFO".repeat(100));
    assert_eq!(world.good_client().get(ponger.address(), &path).expect("an answer").0, 404);
    let line = ponger.wait_for("Received GET /a");
    assert!(line.len() < 500, "{line}");
}
