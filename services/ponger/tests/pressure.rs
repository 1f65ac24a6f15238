//! Thousands of clients that are slow or broken, beside one that is not. A binary of its own, since it
//! takes most descriptors of its process.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{
    io::Write as _,
    net::{SocketAddr, TcpStream},
    thread,
};

use testkit::{
    Leaf,
    client::{TlsClient, TlsConnection},
    wait_until,
};

use common::{PongerProcess, raise_descriptor_limit};

/// How many connections this machine can open: each takes a descriptor here and one in ponger.
fn capacity() -> usize {
    let descriptors = raise_descriptor_limit();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    usize::try_from(descriptors / 2).unwrap_or(usize::MAX).min(1000 * cores).min(4000)
}

/// Open connections of clients that send no more.
#[derive(Default)]
struct BadClients {
    tcp: Vec<TcpStream>,
    tls: Vec<TlsConnection>,
}

impl BadClients {
    /// `count` connections: of five, three send nothing, one half a handshake, one half a request.
    fn connect(count: usize, client: &TlsClient, address: SocketAddr) -> Self {
        let mut hello = Vec::new();
        client.connection().write_tls(&mut hello).unwrap();
        let mut clients = Self::default();
        for number in 0..count {
            if number % 5 == 4 {
                let mut connection = client.connect(address).unwrap();
                connection.send(b"GET /ping HTTP/1.1\r\nHost: ").unwrap();
                clients.tls.push(connection);
            } else {
                let mut stream = TcpStream::connect(address).unwrap();
                if number % 5 == 3 {
                    stream.write_all(&hello).unwrap();
                }
                clients.tcp.push(stream);
            }
        }
        clients
    }
}

#[test]
fn serves_a_good_client_beside_thousands_of_bad_ones() {
    let count = capacity();
    // No timeout ends any of them, nor the good client on a slow machine.
    let mut ponger = PongerProcess::start(20_000, "1h");
    let address = ponger.address;
    let client = ponger.client_with_leaf(&Leaf::pinger("test"));
    ponger.ping();
    ponger.wait_for_metric("ponger_connections", |open| open == 0.0);
    let descriptors = ponger.service.metric("process_open_fds").unwrap();

    for _ in 0..2 {
        let bad = BadClients::connect(count, &client, address);
        let expected = f64::from(u32::try_from(count).unwrap());
        ponger.wait_for_metric("ponger_connections", |open| open == expected);
        for _ in 0..20 {
            ponger.ping();
            assert_eq!(ponger.service.admin_get("/readyz").status, 200);
        }
        for garbage in [b"GET / HTTP/1.1\r\n\r\n".as_slice(), &[0xff; 512], b"\x16\x03\x01\xff\xff"]
        {
            for _ in 0..50 {
                let _ = TcpStream::connect(address).unwrap().write_all(garbage);
            }
        }
        drop(bad);
        ponger.wait_for_metric("ponger_connections", |open| open == 0.0);
    }
    // The admin listener's own connections come and go.
    ponger.wait_for_metric("process_open_fds", |open| open <= descriptors + 8.0);
    let memory = ponger.service.metric("process_resident_memory_bytes").unwrap();
    assert!(memory < f64::from(512 << 20), "{memory} bytes");
    assert!(ponger.service.stop().success());
    let lines = ponger.service.log().len();
    assert!(lines < 1000, "{lines} log lines");
}

#[test]
fn closes_every_bad_connection_in_the_end() {
    let ponger = PongerProcess::start(20_000, "2s");
    let mut hello = Vec::new();
    let client = ponger.client_with_leaf(&Leaf::pinger("test"));
    client.connection().write_tls(&mut hello).unwrap();
    let mut bad: Vec<_> =
        (0..capacity() / 4).map(|_| TcpStream::connect(ponger.address).unwrap()).collect();
    let count = f64::from(u32::try_from(bad.len()).unwrap());
    let timeouts = "tls_handshake_failures_total{reason=\"tls_timeout\"}";
    // A byte now and then; the last never comes.
    hello.pop();
    let mut hello = hello.iter();
    wait_until("all connections are closed", || {
        if let Some(byte) = hello.next() {
            for stream in &mut bad {
                let _ = stream.write_all(&[*byte]);
            }
        }
        (ponger.service.metric(timeouts) >= Some(count)).then_some(())
    });
    ponger.wait_for_metric("ponger_connections", |open| open == 0.0);
    ponger.ping();
}
