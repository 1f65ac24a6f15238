//! Thousands of clients that are slow or broken, beside one that is not. A binary of its own, since it
//! takes most descriptors of its process.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    io::Write as _,
    net::{SocketAddr, TcpStream},
    process::Command,
    thread,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use testkit::{
    client::{TlsClient, TlsConnection},
    process::Service,
    wait_until,
};

#[expect(dead_code, reason = "the other test binary uses the rest")]
#[path = "it/support.rs"]
mod support;

use support::{Env, PROGRAM, connect_and_ping};

const HALF_A_HEAD: &[u8] = b"GET /ping HTTP/1.1\r\nHost: ";

/// How many connections this machine bears: each takes a descriptor here and one in ponger.
fn capacity() -> usize {
    let limits = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limits.maximum, maximum: limits.maximum };
    let _ = setrlimit(Resource::Nofile, raised);
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    usize::try_from(descriptors / 2).unwrap_or(usize::MAX).min(1000 * cores).min(4000)
}

/// What is kept open by clients that do not go on.
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
                connection.write_all(HALF_A_HEAD).and_then(|()| connection.flush()).unwrap();
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

fn spawn(env: &Env, timeout: &str) -> Service {
    let config = env.write_config(&format!(
        "  handshakeTimeout: {timeout}\n  requestTimeout: {timeout}\n  idleTimeout: {timeout}\n  \
         maxConnections: 20000\n"
    ));
    Service::spawn(Command::new(PROGRAM).arg("-c").arg(config))
}

fn wait_for(ponger: &Service, metric: &str, enough: impl Fn(f64) -> bool) {
    wait_until(metric, || ponger.metric(metric).filter(|value| enough(*value)));
}

#[test]
fn serves_a_good_client_beside_thousands_of_bad_ones() {
    let (env, count) = (Env::new(), capacity());
    let client = env.pinger();
    // No timeout ends any of them, nor the good client on a slow machine.
    let mut ponger = spawn(&env, "1h");
    let address = ponger.address();
    connect_and_ping(&client, address);
    wait_for(&ponger, "ponger_connections", |open| open == 0.0);
    let descriptors = ponger.metric("process_open_fds").unwrap();

    for _ in 0..2 {
        let bad = BadClients::connect(count, &client, address);
        let open = f64::from(u32::try_from(count).unwrap());
        wait_for(&ponger, "ponger_connections", |connections| connections == open);
        for _ in 0..20 {
            assert_eq!(client.get(address, "/ping").unwrap().status, 200);
            assert_eq!(ponger.admin_get("/readyz").status, 200);
        }
        for garbage in [b"GET / HTTP/1.1\r\n\r\n".as_slice(), &[0xff; 512], b"\x16\x03\x01\xff\xff"]
        {
            for _ in 0..50 {
                let _ = TcpStream::connect(address).unwrap().write_all(garbage);
            }
        }
        drop(bad);
        wait_for(&ponger, "ponger_connections", |open| open == 0.0);
    }
    // The admin listener's own connections come and go.
    wait_for(&ponger, "process_open_fds", |open| open <= descriptors + 8.0);
    let memory = ponger.metric("process_resident_memory_bytes").unwrap();
    assert!(memory < f64::from(512 << 20), "{memory} bytes");
    assert!(ponger.stop().success());
    let lines = ponger.log().len();
    assert!(lines < 1000, "{lines} log lines");
}

#[test]
fn closes_every_bad_connection_in_the_end() {
    let env = Env::new();
    let client = env.pinger();
    let ponger = spawn(&env, "2s");
    let address = ponger.address();
    let mut hello = Vec::new();
    client.connection().write_tls(&mut hello).unwrap();
    let mut held: Vec<_> =
        (0..capacity() / 4).map(|_| TcpStream::connect(address).unwrap()).collect();
    // A byte now and then.
    let mut sent = 0;
    wait_until("all connections are closed", || {
        for stream in &mut held {
            let _ = stream.write_all(&hello[sent..=sent]);
        }
        // The rest of a handshake never comes.
        sent = (sent + 1).min(hello.len() - 2);
        (ponger.metric("ponger_connections") == Some(0.0)).then_some(())
    });
    wait_for(&ponger, "tls_handshake_failures_total{reason=\"tls_timeout\"}", |count| count > 0.0);
    connect_and_ping(&client, address);
    drop(held);
}
