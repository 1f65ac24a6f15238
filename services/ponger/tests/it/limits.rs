//! Clients that are slow, broken or too many.

use std::{
    io::{self, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use chassis::config::MinTlsVersion;
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};
use testkit::{
    Leaf, PATIENCE,
    client::{TlsConnection, read_response, request},
    process::is_installed,
    wait_until,
};

use crate::support::{
    Env, HALF_A_HEAD, PINGER, Ponger, connect_and_ping, ms, send_until_blocked, start,
    wait_for_close, wait_for_connections,
};

/// Short, for clients that are too slow on purpose.
const SHORT: u64 = 300;

fn short_timeouts(env: &Env) -> Ponger {
    env.start_with(|service| {
        service.request_timeout = ms(SHORT);
        service.idle_timeout = ms(5 * SHORT);
    })
}

/// Sends the head of a request with a body, again if the machine was too slow.
#[track_caller]
fn send_head(env: &Env, ponger: &Ponger, body: &str) -> TlsConnection {
    let request = format!("GET /ping HTTP/1.1\r\nHost: localhost\r\n{body}");
    wait_until("a response", || {
        let mut connection = env.pinger().connect(ponger.address).ok()?;
        let response = connection.exchange(&request).ok()?;
        (response.status != 408).then_some(connection)
    })
}

/// Writes a byte now and then until ponger has closed the connection.
#[track_caller]
fn dribble(ponger: &Ponger, mut connection: TlsConnection) {
    wait_until("the connection is closed", || {
        let failed = connection.send(b"x").is_err();
        (failed || ponger.metric("ponger_connections") == 0.0).then_some(())
    });
    wait_for_connections(ponger, 0);
}

#[test]
fn closes_a_connection_without_a_handshake() {
    let env = Env::new();
    let ponger = env.start_with(|service| service.handshake_timeout = ms(SHORT));
    let silent = TcpStream::connect(ponger.address).unwrap();
    let mut dribbling = TcpStream::connect(ponger.address).unwrap();
    // The header of a client hello that does not follow.
    dribbling.write_all(b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc").unwrap();
    let timeouts = "tls_handshake_failures_total{reason=\"tls_timeout\"}";
    wait_until("both are closed", || {
        let _ = dribbling.write_all(b"x");
        (ponger.metric(timeouts) == 2.0).then_some(())
    });
    wait_for_connections(&ponger, 0);
    drop(silent);
}

#[test]
fn closes_a_connection_whose_first_head_is_slow() {
    let env = Env::new();
    let ponger = short_timeouts(&env);
    let mut connection = env.pinger().connect(ponger.address).unwrap();
    let _ = connection.send(HALF_A_HEAD);
    dribble(&ponger, connection);
}

#[test]
fn closes_a_connection_whose_second_head_is_slow() {
    let env = Env::new();
    let ponger = short_timeouts(&env);
    let mut connection = connect_and_ping(&env.pinger(), ponger.address);
    let _ = connection.send(HALF_A_HEAD);
    dribble(&ponger, connection);
}

#[test]
fn closes_a_connection_without_a_request() {
    let env = Env::new();
    let ponger = short_timeouts(&env);
    let mut connection = env.pinger().connect(ponger.address).unwrap();
    if let Ok(response) = read_response(&mut connection) {
        assert_eq!(response.status, 408);
    }
    wait_for_connections(&ponger, 0);
}

#[test]
fn closes_an_idle_connection_and_not_early() {
    let env = Env::new();
    let ponger = env.start_with(|service| service.idle_timeout = ms(1000));
    let start = Instant::now();
    wait_for_close(connect_and_ping(&env.pinger(), ponger.address));
    assert!(start.elapsed() >= Duration::from_millis(1000), "{:?}", start.elapsed());
    wait_for_connections(&ponger, 0);
}

#[test]
fn closes_a_connection_whose_body_is_slow() {
    let env = Env::new();
    for body in ["Content-Length: 100\r\n\r\nx", "Transfer-Encoding: chunked\r\n\r\n64\r\nx"] {
        let ponger = short_timeouts(&env);
        dribble(&ponger, send_head(&env, &ponger, body));
    }
}

#[test]
fn closes_a_connection_whose_body_never_comes() {
    let env = Env::new();
    let denying = env.start_with(|service| {
        service.request_timeout = ms(SHORT);
        service.idle_timeout = ms(5 * SHORT);
        service.allowed_clients = vec!["other.example.org".into()];
    });
    for ponger in [short_timeouts(&env), denying] {
        let bodies = ["Content-Length: 100\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n"];
        let connections = bodies.map(|body| send_head(&env, &ponger, body));
        wait_for_connections(&ponger, 0);
        drop(connections);
    }
}

#[test]
fn closes_a_connection_whose_client_does_not_read() {
    let env = Env::new();
    let ponger = short_timeouts(&env);
    let mut connection = connect_and_ping(&env.pinger(), ponger.address);
    send_until_blocked(&mut connection);
    wait_for_connections(&ponger, 0);
    drop(connection);
}

#[test]
fn answers_a_burst_that_is_read_late() {
    // Without TLS, whose client writes before it reads.
    let ponger = start(&Env::new().insecure_config());
    let mut stream = TcpStream::connect(ponger.address).unwrap();
    // So that the burst ends soon.
    set_socket_recv_buffer_size(&stream, 64 * 1024).unwrap();
    set_socket_send_buffer_size(&stream, 64 * 1024).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let requests = request("/ping", "keep-alive").repeat(100);
    let (mut rest, mut responses) = (requests.as_bytes(), 0);
    // Until neither end takes any more, and only then read.
    while let Ok(count) = stream.write(rest) {
        rest = &rest[count..];
        if rest.is_empty() {
            (rest, responses) = (requests.as_bytes(), responses + 100);
        }
    }
    assert!(responses > 1000, "{responses}");
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    for _ in 0..responses {
        assert_eq!(read_response(&mut reader).unwrap().body, "pong");
    }
    stream.write_all(rest).unwrap();
    for _ in 0..100 {
        assert_eq!(read_response(&mut reader).unwrap().body, "pong");
    }
    wait_for_connections(&ponger, 1);
}

/// Sends `bytes`, and returns what comes until the connection is closed.
fn send_and_read(env: &Env, ponger: &Ponger, bytes: &[u8]) -> String {
    let mut connection = env.pinger().connect(ponger.address).unwrap();
    // ponger may close the connection before everything is sent.
    let _ = connection.send(bytes);
    let mut response = Vec::new();
    let _ = connection.read_to_end(&mut response);
    String::from_utf8_lossy(&response).into_owned()
}

#[test]
fn rejects_malformed_requests() {
    let env = Env::new();
    let ponger = env.start();
    let response = send_and_read(&env, &ponger, b"garbage\r\n\r\n");
    assert!(response.starts_with("HTTP/1.1 400"), "{response}");
    // Both lengths at once: how requests are smuggled.
    let both = b"GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let response = send_and_read(&env, &ponger, both);
    assert!(response.matches("HTTP/1.1 200").count() <= 1, "{response}");
    wait_for_connections(&ponger, 0);
    connect_and_ping(&env.pinger(), ponger.address);
}

#[test]
fn rejects_heads_that_are_too_large() {
    let env = Env::new();
    let ponger = short_timeouts(&env);
    for size in [20 << 10, 1 << 20] {
        let request = request("/ping", "close").replace("localhost", &"x".repeat(size));
        let response = send_and_read(&env, &ponger, request.as_bytes());
        assert!(!response.contains("HTTP/1.1 200"), "{size}: {response}");
    }
    wait_for_connections(&ponger, 0);
    connect_and_ping(&env.pinger(), ponger.address);
}

#[test]
fn rejects_connections_above_the_limit() {
    let env = Env::new();
    let ponger = env.start_with(|service| service.max_connections = 5);
    let held: Vec<_> = (0..5).map(|_| TcpStream::connect(ponger.address).unwrap()).collect();
    wait_for_connections(&ponger, 5);
    for _ in 0..20 {
        let mut rejected = TcpStream::connect(ponger.address).unwrap();
        rejected.set_read_timeout(Some(PATIENCE)).unwrap();
        // Closed or reset.
        match rejected.read(&mut [0]) {
            Ok(count) => assert_eq!(count, 0),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}"),
        }
    }
    assert_eq!(ponger.metric("ponger_connections_rejected_total"), 20.0);
    assert_eq!(ponger.admin_get("/readyz").status, 200);
    drop(held);
    connect_and_ping(&env.pinger(), ponger.address);
}

#[test]
fn slow_readers_of_the_admin_listener_do_not_block_the_probes() {
    let env = Env::new();
    let ponger = env.start();
    let requests = request("/metrics", "keep-alive").repeat(100);
    // More than may be connected at once.
    let clients: Vec<_> = (0..40)
        .map(|_| {
            let mut stream = TcpStream::connect(ponger.admin).unwrap();
            set_socket_recv_buffer_size(&stream, 2048).unwrap();
            stream.set_nonblocking(true).unwrap();
            // Until neither end takes any more.
            while stream.write_all(requests.as_bytes()).is_ok() {}
            stream
        })
        .collect();
    assert_eq!(ponger.admin_get("/livez").status, 200);
    drop(clients);
}

#[test]
fn silent_clients_of_the_admin_listener_do_not_block_the_probes() {
    let env = Env::new();
    let ponger = env.start();
    let clients: Vec<_> = (0..40).map(|_| TcpStream::connect(ponger.admin).unwrap()).collect();
    assert_eq!(ponger.admin_get("/livez").status, 200);
    drop(clients);
}

#[test]
fn does_not_renegotiate() {
    if !is_installed("openssl") {
        return;
    }
    let env = Env::new();
    let ponger = env.start_with(|service| service.min_tls_version = MinTlsVersion::V1_2);
    let issued = env.ca.issue(&Leaf::pinger("test"));
    issued.write(&env.path("")).unwrap();
    std::fs::write(env.path("ca.crt"), env.ca.pem()).unwrap();
    let mut openssl = Command::new("openssl")
        .args(["s_client", "-tls1_2", "-CAfile", "ca.crt", "-cert", "tls.crt", "-key", "tls.key"])
        .args(["-connect", &ponger.address.to_string()])
        .current_dir(env.path(""))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    ponger.wait_for_metric(&format!("tls_peers_total{{peer=\"{PINGER}\"}}"), 1.0);
    // To openssl, a line of `R` is an order to renegotiate.
    openssl.stdin.as_mut().unwrap().write_all(b"R\n").unwrap();
    let output = openssl.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(text.contains("RENEGOTIATING") && text.contains("no renegotiation"), "{text}");
    connect_and_ping(&env.pinger(), ponger.address);
}
