//! The memory limit of the manifests holds what their connection limit allows, whoever connects.
//!
//! In a binary of its own, since it opens hundreds of connections.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    io::Write as _,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
};

use ponger::{connection::MAX_UNANSWERED_BYTES, handshake_stream::MAX_HANDSHAKE_BYTES};
use testkit::{
    Ca, CertDir, Leaf,
    client::{TlsClient, TlsConnection},
    process::Service,
    wait_until,
};

/// What the process needs itself, beside its connections.
const PROCESS_BYTES: u64 = 10 << 20;

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

    /// Leaves a few connections for those who look.
    fn worst(&self) -> u32 {
        self.connections - 8
    }

    fn assert_holds(&self, what: &str, ponger: &PongerProcess) {
        let used = ponger.anonymous_bytes();
        let each = used.saturating_sub(PROCESS_BYTES) / u64::from(self.worst());
        println!("{what}: {} KiB in all, {} KiB a connection", used >> 10, each >> 10);
        assert!(
            used + PROCESS_BYTES <= self.memory,
            "{what}: {used} bytes for {} connections, of {}",
            self.worst(),
            self.memory
        );
        assert!(ponger.good_client.get(ponger.address, "/ping").unwrap().status == 200);
    }
}

/// ponger as a process, with the manifests' connection limit.
struct PongerProcess {
    _dir: tempfile::TempDir,
    ca: Ca,
    service: Service,
    address: SocketAddr,
    good_client: TlsClient,
}

impl PongerProcess {
    fn start(connections: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::new("test");
        let certs = CertDir::create(dir.path().join("certs")).unwrap();
        let leaf = ca.issue(&Leaf::ponger("test"));
        let [certificate, key] = leaf.files();
        certs.replace(&[certificate, key, ("ca.crt", ca.pem().as_bytes())]).unwrap();
        let certs = certs.path().display();
        let config = dir.path().join("config.yaml");
        let text = format!(
            "service:\n  host: 127.0.0.1\n  port: 0\n  tlsCertificate: {certs}/tls.crt\n  \
             tlsPrivateKey: {certs}/tls.key\n  clientCa: {certs}/ca.crt\n  \
             allowedClients: [spiffe://cluster.local/ns/test/sa/pinger]\n  \
             maxConnections: {connections}\n  handshakeTimeout: 10m\n  requestTimeout: 10m\n  \
             idleTimeout: 10m\n  drainDelay: 0s\n\
             metrics: {{host: 127.0.0.1, port: 0}}\nlog: {{level: info}}\n"
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ponger"));
        let service = Service::spawn(command.arg("--config").arg(&config));
        let address = service.address();
        let good_client = TlsClient::new(ca.pem(), Some(&ca.issue(&Leaf::pinger("test"))));
        Self { _dir: dir, ca, service, address, good_client }
    }

    fn wait_for_connections(&self, count: u32) {
        wait_until("the connections are open", || {
            (self.service.metric("ponger_connections")? >= f64::from(count)).then_some(())
        });
    }

    /// The process's anonymous memory: that of files can be given back at any time.
    fn anonymous_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.service.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }
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
fn the_memory_limit_holds_unfinished_handshakes_on_every_connection() {
    let limits = Limits::from_manifests();
    let ponger = PongerProcess::start(limits.connections);
    let hello = endless_client_hello();
    let connections: Vec<TcpStream> = (0..limits.worst())
        .map(|_| {
            let mut connection = TcpStream::connect(ponger.address).unwrap();
            connection.write_all(&hello).unwrap();
            connection
        })
        .collect();
    ponger.wait_for_connections(limits.worst());
    limits.assert_holds("unfinished handshakes", &ponger);
    drop(connections);
}

#[test]
fn the_memory_limit_holds_unauthorized_clients_with_large_chains_and_heads_on_every_connection() {
    let limits = Limits::from_manifests();
    let ponger = PongerProcess::start(limits.connections);
    // As large a chain as is accepted.
    let names = (0..190).map(|n| format!("{n:060}.example"));
    let leaf = names
        .fold(Leaf::new().uri("spiffe://cluster.local/ns/test/sa/other"), |leaf, name| {
            leaf.dns(&name)
        });
    let client = TlsClient::new(ponger.ca.pem(), Some(&ponger.ca.issue(&leaf)));
    let mut head = "GET /ping HTTP/1.1\r\nHost: localhost\r\nX: ".to_owned();
    head.push_str(&"x".repeat(MAX_UNANSWERED_BYTES - head.len()));
    let connections: Vec<TlsConnection> = (0..limits.worst())
        .map(|_| {
            let mut connection = client.connect(ponger.address).unwrap();
            connection.write_all(head.as_bytes()).unwrap();
            connection.flush().unwrap();
            connection
        })
        .collect();
    ponger.wait_for_connections(limits.worst());
    limits.assert_holds("half heads of unauthorized clients", &ponger);
    drop(connections);
}
