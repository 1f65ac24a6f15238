//! Services other than ponger, watched by pinger.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    sync::Arc,
};

use pinger::expect::{BodyMatch, Expect, ExpectedHeader};
use rustls::{ServerConnection, StreamOwned};
use testkit::Leaf;

use crate::support::{Env, accept, ms, pings, respond, server_tls, until_closed, wait_for_further};

/// A service that responds with `status` and `body` to the request line `GET /healthz?full HTTP/1.1`,
/// and with 404 to any other.
fn service(env: &Env, status: &'static str, body: &'static str) -> SocketAddr {
    let tls = server_tls(&env.ca.issue(&Leaf::ponger("test")), None);
    env.serve(move |tcp| {
        let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(&tls)).unwrap(), tcp);
        let mut lines = BufReader::new(&mut stream).lines().map_while(Result::ok);
        let Some(request) = lines.next() else { return };
        assert!(lines.any(|line| line.is_empty()));
        drop(lines);
        match request.as_str() {
            "GET /healthz?full HTTP/1.1" => respond(&mut stream, status, body),
            _ => respond(&mut stream, "404 Not Found", ""),
        }
        stream.conn.send_close_notify();
        until_closed(&mut stream);
    })
}

fn watching(env: &Env, address: SocketAddr, expect: Expect) -> pinger::Config {
    let mut config = env.pinger_config(address);
    config.ponger.url = Some(format!("https://{address}/healthz?full"));
    config.expect = expect;
    config
}

#[test]
fn watches_a_service_with_another_path_status_header_and_body() {
    let env = Env::new();
    let status = "202 Accepted\r\nServer: another\r\nX-Ready: yes";
    let address = service(&env, status, "{\"status\": \"ok\", \"checks\": []}\n");
    let expect = Expect {
        status: 202,
        header: Some(ExpectedHeader::try_from("x-ready: yes".to_owned()).unwrap()),
        body: "\"status\": \"ok\"".into(),
        body_match: BodyMatch::Contains,
        ..Expect::default()
    };
    let pinger = env.start_pinger(&watching(&env, address, expect.clone()));
    wait_for_further(&pinger, "pong", 2);
    assert_eq!(pinger.stop().unwrap().lost(), 0);

    let header = Some(ExpectedHeader::try_from("x-ready: no".to_owned()).unwrap());
    for (reason, expect, cause) in [
        ("status", Expect { status: 200, ..expect.clone() }, "status 202, not 200"),
        ("header", Expect { header, ..expect.clone() }, "header `x-ready: yes`, not `no`"),
        ("body", Expect { body: "fail".into(), ..expect.clone() }, "which does not contain `fail`"),
    ] {
        let pinger = env.start_pinger(&watching(&env, address, expect));
        pinger.wait_for_metric(&pings(reason), 1.0);
        let line = pinger.wait_for("Lost ping");
        assert!(line.contains(&format!("reason=\"{reason}\"")) && line.contains(cause), "{line}");
    }
}

#[test]
fn a_response_without_a_body_can_be_expected() {
    let env = Env::new();
    let address = service(&env, "503 Service Unavailable", "");
    let expect = Expect { status: 503, body_match: BodyMatch::Any, ..Expect::default() };
    let pinger = env.start_pinger(&watching(&env, address, expect));
    wait_for_further(&pinger, "pong", 1);
}

#[test]
fn a_denial_can_be_expected() {
    let env = Env::new();
    let address = service(&env, "403 Forbidden", "go away");
    let expect = Expect {
        status: 403,
        body: "go".into(),
        body_match: BodyMatch::Prefix,
        ..Expect::default()
    };
    let pinger = env.start_pinger(&watching(&env, address, expect));
    wait_for_further(&pinger, "pong", 1);
}

#[test]
fn a_status_of_401_is_a_denial() {
    let env = Env::new();
    let address = service(&env, "401 Unauthorized", "who are you");
    let pinger = env.start_pinger(&watching(&env, address, Expect::default()));
    pinger.wait_for_metric(&pings("denied"), 1.0);
    assert!(pinger.wait_for("Lost ping").contains("who are you"));
}

#[test]
fn a_body_longer_than_the_limit_is_rejected_where_the_body_matters() {
    let env = Env::new();
    const LIMIT: usize = 64 * 1024;
    for (body_match, length, result) in [
        (BodyMatch::Prefix, LIMIT, "pong"),
        (BodyMatch::Prefix, LIMIT + 1, "body"),
        (BodyMatch::Any, LIMIT + 1, "pong"),
    ] {
        let body = "pong".to_owned() + &"x".repeat(length - "pong".len());
        let address = service(&env, "200 OK", body.leak());
        let expect = Expect { body_match, ..Expect::default() };
        let pinger = env.start_pinger(&watching(&env, address, expect));
        pinger.wait_for_metric(&pings(result), 1.0);
    }
}

#[test]
fn a_body_that_ends_with_the_connection_is_read() {
    let env = Env::new();
    let tls = server_tls(&env.ca.issue(&Leaf::ponger("test")), None);
    // In pieces, of which each is read by itself.
    let pieces = ["HTTP/1.1 200 OK\r\nX-Rea", "dy: yes\r\n\r\nstat", "us: ok"];
    let address = env.serve(move |tcp| {
        let Some(mut stream) = accept(&tls, tcp) else { return };
        for piece in pieces {
            let _ = stream.write_all(piece.as_bytes()).and_then(|()| stream.flush());
        }
        stream.conn.send_close_notify();
        until_closed(&mut stream);
    });
    let expect = Expect {
        header: Some(ExpectedHeader::try_from("x-ready: yes".to_owned()).unwrap()),
        body: "status: ok".into(),
        ..Expect::default()
    };
    // The server closes a connection that was to be kept.
    for keep_alive in [ms(0), ms(60_000)] {
        let mut config = watching(&env, address, expect.clone());
        config.ponger.keep_alive = keep_alive;
        let pinger = env.start_pinger(&config);
        wait_for_further(&pinger, "pong", 2);
        assert_eq!(pinger.stop().unwrap().lost(), 0);
    }
}
