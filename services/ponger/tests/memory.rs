//! The memory limit of the manifests suffices for their connection limit, whatever the clients send.
//!
//! In a binary of its own, since it opens hundreds of connections.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{fs, io::Write as _, net::TcpStream, path::Path, thread};

use ponger::{connection::MAX_UNANSWERED_BYTES, handshake_stream::MAX_HANDSHAKE_BYTES};
use testkit::{Leaf, client::TlsConnection};

use common::PongerProcess;

/// What the process needs itself, beside its connections.
const PROCESS_BYTES: u64 = 10 << 20;

/// Each worker needs memory too, and there is one for each processor: the manifests' limit is compared
/// as on a node with so many.
const NODE_PROCESSORS: u64 = 32;

/// More than a worker needs, most of it for its allocations.
const WORKER_BYTES: u64 = 512 << 10;

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
        let processors = thread::available_parallelism().unwrap().get() as u64;
        let further_workers = processors.saturating_sub(NODE_PROCESSORS);
        assert!(
            used + PROCESS_BYTES <= self.memory + further_workers * WORKER_BYTES,
            "{what}: {used} bytes for {} connections, of {}",
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
