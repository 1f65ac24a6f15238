//! How requests are answered.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv6Addr, TcpStream},
    thread,
    time::Duration,
};

use testkit::{
    PATIENCE,
    client::{plain_get, read_response, request},
};

use crate::support::{Env, ping, start, wait_for_close};

#[test]
fn answers_ping_with_pong_as_plain_text() {
    let env = Env::new();
    let ponger = env.start();
    for path in ["/ping", "/ping?x=1"] {
        let response = env.pinger().get(ponger.address, path).unwrap();
        assert_eq!((response.status, response.body.as_str()), (200, "pong"));
        assert_eq!(response.header("content-type"), Some("text/plain; charset=utf-8"));
    }
    assert_eq!(ponger.metric("ponger_requests_total{code=\"200\",route=\"ping\"}"), 2.0);
}

#[test]
fn answers_head_without_a_body() {
    let env = Env::new();
    let ponger = env.start();
    let mut connection = env.pinger().connect(ponger.address).unwrap();
    let requests =
        request("/ping", "keep-alive").replace("GET", "HEAD") + &request("/ping", "close");
    connection.send(requests.as_bytes()).unwrap();
    let mut text = String::new();
    connection.read_to_string(&mut text).unwrap();
    // The second response follows the head of the first.
    let (head, rest) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-length: 4"), "{text}");
    assert!(rest.starts_with("HTTP/1.1 200") && rest.ends_with("pong"), "{text}");
}

#[test]
fn other_paths_are_404_and_other_methods_405() {
    let env = Env::new();
    let ponger = env.start();
    let mut connection = env.pinger().connect(ponger.address).unwrap();
    for path in ["/", "/pin", "/ping/", "/ping/x", "/PING", "//ping", "/metrics"] {
        assert_eq!(connection.get(path).unwrap().status, 404, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"] {
        let request = request("/ping", "keep-alive").replace("GET", method);
        let response = connection.exchange(&request).unwrap();
        assert_eq!(response.status, 405, "{method}");
        assert_eq!(response.header("allow"), Some("GET, HEAD"));
    }
}

#[test]
fn keeps_a_connection_for_further_requests() {
    let env = Env::new();
    let ponger = env.start();
    let mut connection = env.pinger().connect(ponger.address).unwrap();
    for _ in 0..3 {
        ping(&mut connection);
    }
    assert_eq!(ponger.metric("ponger_connections"), 1.0);
}

#[test]
fn answers_pipelined_requests_in_order() {
    let env = Env::new();
    let ponger = env.start();
    let mut connection = env.pinger().connect(ponger.address).unwrap();
    // More than is read before the first response.
    for round in 0..3 {
        let requests: String =
            (0..1000).map(|number| request(&format!("/{round}/{number}"), "keep-alive")).collect();
        let requests = requests.replace("/7 HTTP", "/ping HTTP").replace("/0/ping", "/ping");
        connection.send(requests.as_bytes()).unwrap();
        for number in 0..1000 {
            let expected = if round == 0 && number == 7 { 200 } else { 404 };
            assert_eq!(read_response(&mut connection).unwrap().status, expected, "{number}");
        }
    }
}

#[test]
fn reads_requests_in_many_pieces() {
    let env = Env::new();
    let ponger = env.start();
    let mut connection = env.pinger().connect(ponger.address).unwrap();
    for size in [1, 2, 7, 50] {
        for piece in request("/ping", "keep-alive").repeat(3).as_bytes().chunks(size) {
            connection.send(piece).unwrap();
            if size == 7 {
                // So that ponger reads some of them one by one.
                thread::sleep(Duration::from_millis(1));
            }
        }
        for _ in 0..3 {
            assert_eq!(read_response(&mut connection).unwrap().body, "pong");
        }
    }
}

#[test]
fn ignores_the_body_of_a_get_and_closes() {
    let env = Env::new();
    let ponger = env.start();
    let head = "GET /ping HTTP/1.1\r\nHost: localhost\r\n";
    for body in [
        "Content-Length: 5\r\n\r\nhello".to_owned(),
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".into(),
        format!("Content-Length: 8000\r\n\r\n{}", "x".repeat(8000)),
    ] {
        let mut connection = env.pinger().connect(ponger.address).unwrap();
        let response = connection.exchange(&format!("{head}{body}")).unwrap();
        assert_eq!((&*response.body, response.header("connection")), ("pong", Some("close")));
        wait_for_close(connection);
    }
}

#[test]
fn accepts_heads_of_8_kib() {
    let env = Env::new();
    let ponger = env.start();
    let mut connection = env.pinger().connect(ponger.address).unwrap();
    let header = format!("\r\nX: {}\r\n\r\n", "x".repeat(8 * 1024));
    for _ in 0..5 {
        let request = request("/ping", "keep-alive").replace("\r\n\r\n", &header);
        assert_eq!(connection.exchange(&request).unwrap().status, 200);
    }
}

#[test]
fn serves_probes_and_metrics_on_a_plain_listener_of_their_own() {
    let env = Env::new();
    let ponger = env.start();
    ponger.wait_for_readiness(200);
    for (path, status) in [("/livez", 200), ("/metrics", 200), ("/ping", 404)] {
        assert_eq!(ponger.admin_get(path).status, status, "{path}");
    }
    let index = ponger.admin_get("/").body;
    let paths: Vec<_> = index.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(paths, ["/metrics", "/livez", "/readyz"]);
}

#[test]
fn plain_http_on_the_tls_port_gets_no_response() {
    let env = Env::new();
    let ponger = env.start();
    let mut stream = TcpStream::connect(ponger.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request("/ping", "close").as_bytes()).unwrap();
    let mut received = Vec::new();
    let _ = stream.read_to_end(&mut received);
    assert!(!String::from_utf8_lossy(&received).contains("HTTP"), "{received:?}");
    assert_eq!(ponger.metric("tls_handshake_failures_total{reason=\"tls_protocol\"}"), 1.0);
}

#[test]
fn serves_plain_http_where_configured() {
    let ponger = start(&Env::new().insecure_config());
    assert_eq!(plain_get(ponger.address, "/ping").unwrap().body, "pong");
    assert_eq!(ponger.metric("ponger_authz_total{decision=\"allowed\",reason=\"anonymous\"}"), 1.0);
    ponger.stop().unwrap();
}

#[test]
fn serves_ipv6_and_ipv4_by_one_listener() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        testkit::process::skip("this machine has no IPv6");
        return;
    }
    let env = Env::new();
    let ponger = env.start_with(|service| service.host = Ipv6Addr::UNSPECIFIED.into());
    for host in ["127.0.0.1", "[::1]"] {
        let address = format!("{host}:{}", ponger.address.port()).parse().unwrap();
        assert_eq!(env.pinger().get(address, "/ping").unwrap().body, "pong", "{host}");
    }
}
