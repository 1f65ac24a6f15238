//! The memory limit of the manifests suffices for their connection limit, whatever the clients send.
//!
//! In a binary of its own, since it opens hundreds of connections.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{fs, io::Write as _, net::TcpStream, path::Path};

use chassis::bind::SOCKET_BUFFER_BYTES;
use ponger::{connection::MAX_UNANSWERED_BYTES, handshake::MAX_HANDSHAKE_BYTES};
use socket2::SockRef;
use testkit::{Leaf, client::TlsConnection};

use common::PongerProcess;

/// What the process needs itself, beside its connections.
const PROCESS_BYTES: u64 = 10 << 20;

/// What the kernel buffers for a connection at most, in both directions. It counts as memory of the
/// container.
const KERNEL_BYTES: u64 = 4 * SOCKET_BUFFER_BYTES as u64;

/// The pages of the program that it works with; others can be given back at any time.
const FILE_BYTES: u64 = 4 << 20;

/// The manifests' limits: connections, and bytes of memory.
struct Limits {
    connections: u32,
    memory: u64,
}

impl Limits {
    fn from_manifests() -> Self {
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../k8s/base/ponger");
        let number = |file: &str, key: &str, unit: &str| -> u64 {
            let text = fs::read_to_string(base.join(file)).unwrap();
            // The last is the limit, and the one before it the request.
            let line = text.lines().rfind(|line| line.trim().starts_with(key)).unwrap();
            line.trim().trim_start_matches(key).trim().trim_end_matches(unit).parse().unwrap()
        };
        Self {
            connections: number("config.yaml", "maxConnections:", "").try_into().unwrap(),
            memory: number("deployment.yaml", "memory:", "Mi") << 20,
        }
    }

    /// How many connections a test opens: all but a few, for the client that pings.
    fn worst(&self) -> u32 {
        self.connections - 8
    }

    /// Checks the memory of a ponger with [`worst`](Self::worst) connections.
    fn check(&self, what: &str, ponger: &PongerProcess) {
        let open = f64::from(self.worst());
        ponger.wait_for_metric("ponger_connections", |connections| connections >= open);
        let used = anonymous_bytes(ponger);
        let each = used.saturating_sub(PROCESS_BYTES) / u64::from(self.worst());
        println!("{what}: {} KiB in all, {} KiB a connection", used >> 10, each >> 10);
        let kernel = u64::from(self.worst()) * KERNEL_BYTES;
        assert!(
            used + kernel + FILE_BYTES <= self.memory,
            "{what}: {used} bytes, and {kernel} of the kernel, for {} connections, of {}",
            self.worst(),
            self.memory
        );
        ponger.ping();
    }
}

/// The process's anonymous memory: that of files can be given back at any time.
fn anonymous_bytes(ponger: &PongerProcess) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", ponger.service.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// A TLS record of the type handshake.
fn record(payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&[22, 3, 1], &length[..], payload].concat()
}

/// As much of a `ClientHello` as is read of one that never ends.
fn endless_client_hello() -> Vec<u8> {
    let mut hello = vec![1, 0, 0xff, 0xff];
    hello.resize(MAX_HANDSHAKE_BYTES, 0);
    let records: Vec<u8> = hello.chunks(16 * 1024).flat_map(record).collect();
    records[..MAX_HANDSHAKE_BYTES - 1].to_vec()
}

#[test]
fn memory_limit_suffices_for_an_unfinished_handshake_on_every_connection() {
    let limits = Limits::from_manifests();
    let ponger = PongerProcess::start(limits.connections, "10m");
    let hello = endless_client_hello();
    let connections: Vec<TcpStream> = (0..limits.worst())
        .map(|_| {
            let mut connection = TcpStream::connect(ponger.address).unwrap();
            connection.write_all(&hello).unwrap();
            connection
        })
        .collect();
    limits.check("unfinished handshakes", &ponger);
    drop(connections);
}

#[test]
fn memory_limit_suffices_for_a_large_chain_and_half_a_head_on_every_connection() {
    let limits = Limits::from_manifests();
    let ponger = PongerProcess::start(limits.connections, "10m");
    // As large a chain as is accepted.
    let names = (0..190).map(|n| format!("{n:060}.example"));
    let leaf = names
        .fold(Leaf::new().uri("spiffe://cluster.local/ns/test/sa/other"), |leaf, name| {
            leaf.dns(&name)
        });
    let client = ponger.client_with_leaf(&leaf);
    let mut head = "GET /ping HTTP/1.1\r\nHost: localhost\r\nX: ".to_owned();
    head.push_str(&"x".repeat(MAX_UNANSWERED_BYTES - head.len()));
    let connections: Vec<TlsConnection> = (0..limits.worst())
        .map(|_| {
            let mut connection = client.connect(ponger.address).unwrap();
            connection.send(head.as_bytes()).unwrap();
            connection
        })
        .collect();
    limits.check("half heads of unauthorized clients", &ponger);
    drop(connections);
}

#[test]
fn memory_limit_suffices_for_clients_that_read_no_responses_on_every_connection() {
    let limits = Limits::from_manifests();
    let ponger = PongerProcess::start(limits.connections, "10m");
    let client = ponger.client_with_leaf(&Leaf::pinger("test"));
    let mut connections: Vec<TlsConnection> = (0..limits.worst())
        .map(|_| {
            let connection = client.connect(ponger.address).unwrap();
            // So that little is buffered at this end.
            let socket = SockRef::from(connection.tcp());
            socket.set_send_buffer_size(16 * 1024).unwrap();
            socket.set_recv_buffer_size(4 * 1024).unwrap();
            connection.tcp().set_nonblocking(true).unwrap();
            connection
        })
        .collect();
    let requests = b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(400);
    let mut written = vec![0; connections.len()];
    // Several times: ponger goes on reading meanwhile, if it reads more than it should.
    for _ in 0..5 {
        for (connection, written) in connections.iter_mut().zip(&mut written) {
            while let Ok(count @ 1..) = connection.write(&requests[*written..]) {
                *written = (*written + count) % requests.len();
            }
        }
        ponger.ping();
    }
    limits.check("unread responses", &ponger);
    drop(connections);
}

#[test]
fn memory_limit_suffices_for_certificates_with_many_names_on_every_connection() {
    let limits = Limits::from_manifests();
    let ponger = PongerProcess::start(limits.connections, "10m");
    // As many as fit into a chain that is accepted.
    let leaf = (0..2800).fold(Leaf::new(), |leaf, n| leaf.dns(&format!("{n:x}")));
    let client = ponger.client_with_leaf(&leaf);
    let connections: Vec<TlsConnection> =
        (0..limits.worst()).map(|_| client.connect(ponger.address).unwrap()).collect();
    limits.check("certificates with many names", &ponger);
    drop(connections);
}
