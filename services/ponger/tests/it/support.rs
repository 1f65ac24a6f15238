//! What the tests share: certificates on disk, and a ponger on a thread.

use std::{
    fs,
    io::Read as _,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::Command,
    sync::Arc,
    time::Duration,
};

use chassis::{
    config::HumanDuration,
    signals::{SignalSender, Signals},
    tls::clock::Clock,
};
use ponger::{Application, Config, config::Service as ServiceConfig};
use rustix::net::sockopt::set_socket_recv_buffer_size;
use tempfile::TempDir;
use testkit::{
    Ca, CertDir, Issued, Leaf,
    client::{TlsClient, TlsConnection, request},
    clock::ManualClock,
    in_process::ServiceThread,
    process::Service,
    wait_until,
};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_ponger");
pub(crate) const PINGER: &str = "spiffe://cluster.local/ns/test/sa/pinger";
pub(crate) const OTHER: &str = "spiffe://cluster.local/ns/test/sa/other";

/// The first half of a request's head.
pub(crate) const HALF_A_HEAD: &[u8] = b"GET /ping HTTP/1.1\r\nHost: ";

/// A CA, and ponger's certificate and trust bundle on disk, each in a directory that is replaced
/// atomically.
pub(crate) struct Env {
    dir: TempDir,
    pub(crate) ca: Ca,
    own: CertDir,
    trust: CertDir,
}

impl Env {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let create = |name| CertDir::create(dir.path().join(name)).unwrap();
        let (own, trust) = (create("own"), create("trust"));
        let env = Self { dir, ca: Ca::new("test"), own, trust };
        env.install(&env.ca.issue(&Leaf::ponger("test")));
        env.trust(&[&env.ca]);
        env
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Replaces ponger's certificate and key.
    pub(crate) fn install(&self, issued: &Issued) {
        self.own.replace(&issued.files()).unwrap();
    }

    /// Replaces the trust bundle.
    pub(crate) fn trust(&self, roots: &[&Ca]) {
        let bundle: String = roots.iter().map(|root| root.pem()).collect();
        self.trust.replace(&[("ca.crt", bundle.as_bytes())]).unwrap();
    }

    /// Mutual TLS for pinger alone, on free ports. Nothing ends by a timeout that a test did not set.
    pub(crate) fn config(&self) -> Config {
        let hour = HumanDuration::seconds(3600);
        let mut config = Config {
            service: ServiceConfig {
                host: Ipv4Addr::LOCALHOST.into(),
                port: 0,
                tls_certificate: Some(self.own.file("tls.crt")),
                tls_private_key: Some(self.own.file("tls.key")),
                client_ca: Some(self.trust.file("ca.crt")),
                allowed_clients: vec![PINGER.into()],
                handshake_timeout: hour,
                request_timeout: hour,
                idle_timeout: hour,
                drain_delay: HumanDuration::seconds(0),
                ..ServiceConfig::default()
            },
            ..Config::default()
        };
        config.metrics.host = Ipv4Addr::LOCALHOST.into();
        config.metrics.port = 0;
        config.identity.poll_interval = ms(20);
        config
    }

    /// Plain HTTP, for clients without a certificate.
    pub(crate) fn insecure_config(&self) -> Config {
        let mut config = self.config();
        config.insecure = true;
        config.service.tls_certificate = None;
        config.service.tls_private_key = None;
        config.service.client_ca = None;
        config.service.allowed_clients.clear();
        config
    }

    /// A ponger in this process.
    pub(crate) fn start(&self) -> Ponger {
        start(&self.config())
    }

    /// A ponger in this process, after `change` to its configuration.
    pub(crate) fn start_with(&self, change: impl FnOnce(&mut ServiceConfig)) -> Ponger {
        let mut config = self.config();
        change(&mut config.service);
        start(&config)
    }

    /// Writes a configuration file for a process; `more` goes below `service`.
    pub(crate) fn write_config(&self, more: &str) -> PathBuf {
        let text = format!(
            "service:\n  host: 127.0.0.1\n  port: 0\n  tlsCertificate: {}\n  tlsPrivateKey: {}\n  \
             clientCa: {}\n  allowedClients: [{PINGER}]\n  drainDelay: 0s\n{more}\
             metrics: {{host: 127.0.0.1, port: 0}}\nidentity: {{pollInterval: 20ms}}\n",
            self.own.file("tls.crt").display(),
            self.own.file("tls.key").display(),
            self.trust.file("ca.crt").display(),
        );
        let path = self.path("config.yaml");
        fs::write(&path, text).unwrap();
        path
    }

    /// A ponger in a process of its own; `more` goes below `service`.
    pub(crate) fn spawn(&self, more: &str) -> Service {
        Service::spawn(Command::new(PROGRAM).arg("-c").arg(self.write_config(more)))
    }

    /// A client that trusts the CA and presents `certificate`.
    pub(crate) fn client(&self, certificate: Option<&Issued>) -> TlsClient {
        TlsClient::new(self.ca.pem(), certificate)
    }

    /// A client with a certificate for `leaf`.
    pub(crate) fn client_of(&self, leaf: &Leaf) -> TlsClient {
        self.client(Some(&self.ca.issue(leaf)))
    }

    /// A client with pinger's certificate.
    pub(crate) fn pinger(&self) -> TlsClient {
        self.client_of(&Leaf::pinger("test"))
    }
}

/// A ponger on a thread of this process.
pub(crate) type Ponger = ServiceThread<SignalSender, anyhow::Result<()>>;

#[track_caller]
pub(crate) fn start(config: &Config) -> Ponger {
    start_by(config, Clock::system())
}

#[track_caller]
pub(crate) fn start_with_clock(config: &Config, clock: &ManualClock) -> Ponger {
    start_by(config, Clock::new(Arc::new(clock.clone())))
}

#[track_caller]
fn start_by(config: &Config, clock: Clock) -> Ponger {
    let config = config.clone();
    let (signals, receiver) = Signals::channel();
    let stop = |signals: &SignalSender| signals.stop("SIGTERM");
    ServiceThread::start(signals, stop, move |started| {
        let application = Application::build_with_clock(&config, clock)?;
        started.send([application.address()?, application.admin_address()?])?;
        actix_rt::System::new().block_on(application.run_until_stopped(receiver))
    })
}

#[track_caller]
pub(crate) fn wait_for_connections(ponger: &Ponger, count: u32) {
    ponger.wait_for_value("ponger_connections", |open| open == f64::from(count));
}

pub(crate) const fn ms(ms: u64) -> HumanDuration {
    HumanDuration(Duration::from_millis(ms))
}

/// Sends one request, and expects a pong.
#[track_caller]
pub(crate) fn ping(connection: &mut TlsConnection) {
    let response = connection.get("/ping").unwrap();
    assert_eq!((response.status, response.body.as_str()), (200, "pong"));
}

/// Opens a connection and pings on it, again if the machine was too slow for a short timeout.
#[track_caller]
pub(crate) fn connect_and_ping(client: &TlsClient, address: SocketAddr) -> TlsConnection {
    wait_until("a connection with a response", || {
        let mut connection = client.connect(address).ok()?;
        connection.get("/ping").ok().filter(|response| response.status == 200)?;
        Some(connection)
    })
}

/// Waits until ponger closes the connection, in an orderly way and without another response.
#[track_caller]
pub(crate) fn wait_for_close(mut connection: TlsConnection) {
    let mut rest = Vec::new();
    connection.read_to_end(&mut rest).expect("an orderly close");
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
}

/// Sends requests without reading a response, until neither end takes any more.
pub(crate) fn send_until_blocked(connection: &mut TlsConnection) {
    set_socket_recv_buffer_size(connection.tcp(), 4096).unwrap();
    connection.tcp().set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let requests = request("/ping", "keep-alive").repeat(100);
    let mut sent = 0;
    while connection.send(requests.as_bytes()).is_ok() {
        sent += requests.len();
        assert!(sent < 256 << 20, "requests are read while no response is");
    }
}
