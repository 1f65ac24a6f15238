//! Clients of the admin listener that ask for too much, too fast, or do not read.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
};

use testkit::{
    PATIENCE,
    client::{metric, plain_get, request},
    process::Service,
    wait_until,
};

use crate::{
    process::{pinger, write_config},
    support::{Env, pings},
};

/// Sends `requests`, and returns what is answered until the connection is closed.
fn send(admin: SocketAddr, requests: &str) -> String {
    let mut stream = TcpStream::connect(admin).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = Vec::new();
    // The listener may close the connection at any moment.
    let _ = stream.write_all(requests.as_bytes()).and_then(|()| stream.read_to_end(&mut answer));
    String::from_utf8_lossy(&answer).into_owned()
}

/// A client that sends a hundred requests at once and reads no answer.
fn connect_and_read_nothing(admin: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(admin).unwrap();
    stream.set_nonblocking(true).unwrap();
    let _ = stream.write_all(request("/metrics", "keep-alive").repeat(100).as_bytes());
    stream
}

#[test]
fn a_thousand_hostile_scrapes_cost_neither_a_ping_nor_memory() {
    const MAX_GROWTH: f64 = 16.0 * 1024.0 * 1024.0;
    let env = Env::new();
    let ponger = env.start_ponger(&env.ponger_config());
    let mut pinger = Service::spawn(&mut pinger(&write_config(&env, ponger.address, "")));
    pinger.wait_for("Got pong");
    let admin = pinger.admin();
    // Again where the listener closed the connection, since others came after it.
    let read = |name: &str| {
        wait_until(name, || {
            let response = plain_get(admin, "/metrics").ok()?;
            metric(&response.body, name)
        })
    };
    let (pongs, memory) = (&pings("pong"), "process_resident_memory_bytes");
    let (pongs_before, memory_before) = (read(pongs), read(memory));

    let head = "HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let long = format!("GET /metrics HTTP/1.1\r\na: {}\r\n\r\n", "b".repeat(1 << 20));
    let hostile = || {
        let mut silent = Vec::new();
        for number in 0..250 {
            send(admin, &request("/metrics", "keep-alive"));
            match number % 50 {
                0 => drop(send(admin, &long)),
                1..10 => drop(send(admin, head)),
                10..35 => silent.push(connect_and_read_nothing(admin)),
                _ => {}
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(hostile);
        }
    });
    let growth = read(memory) - memory_before;
    assert!(growth < MAX_GROWTH, "{growth} bytes");
    wait_until("further pongs", || (read(pongs) > pongs_before).then_some(()));
    assert!(pinger.stop().success());
    assert_eq!(pinger.count("Lost ping"), 0);
}

#[test]
fn answers_one_request_of_a_connection() {
    let env = Env::new();
    let pinger = env.start_pinger(&env.pinger_config(([127, 0, 0, 1], 1).into()));
    let answer = send(pinger.admin, &request("/livez", "keep-alive").repeat(3));
    assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 1, "{answer}");
    assert_eq!(answer.matches("alive\n").count(), 1, "{answer}");
}
