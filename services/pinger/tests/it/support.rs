//! pinger and ponger, each on a thread of this process, and servers that follow a script.

use std::{
    io::{self, Read, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use chassis::{
    config::HumanDuration,
    signals::{SignalSender, Signals},
    tls::clock::Clock,
};
use pinger::{resolver::Resolver, summary::Summary};
use rustix::{
    fd::OwnedFd,
    net::{AddressFamily, SocketFlags, SocketType},
};
use rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion,
    pki_types::CertificateDer, server::WebPkiClientVerifier, sign::SingleCertAndKey,
};
use tempfile::TempDir;
use testkit::{Ca, CertDir, Issued, Leaf, PATIENCE, clock::ManualClock, in_process::ServiceThread};

pub(crate) const PINGER_ID: &str = "spiffe://cluster.local/ns/test/sa/pinger";
pub(crate) const PONGER_ID: &str = "spiffe://cluster.local/ns/test/sa/ponger";

/// A ponger on a thread of this process.
pub(crate) type Ponger = ServiceThread<SignalSender, anyhow::Result<()>>;

/// A pinger on a thread of this process; its address is that of its admin listener.
pub(crate) type Pinger = ServiceThread<SignalSender, anyhow::Result<Summary>>;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A certificate authority, both services' certificates, the time that they go by, and servers that
/// follow a script.
pub(crate) struct Env {
    pub(crate) dir: TempDir,
    servers: Mutex<Vec<Server>>,
    pub(crate) ca: Ca,
    pub(crate) ponger: CertDir,
    pub(crate) pinger: CertDir,
    pub(crate) clock: ManualClock,
}

impl Env {
    pub(crate) fn new() -> Self {
        testkit::log::capture(&["chassis", pinger::NAME]);
        let dir = tempfile::tempdir().unwrap();
        let (ca, clock) = (Ca::new("test"), ManualClock::new());
        let [ponger, pinger] =
            ["ponger", "pinger"].map(|name| CertDir::create(dir.path().join(name)).unwrap());
        let env = Self { dir, servers: Mutex::default(), ca, ponger, pinger, clock };
        env.issue_ponger(&Leaf::ponger("test"));
        env.issue_pinger(&Leaf::pinger("test"));
        env
    }

    /// Issues ponger's certificate.
    pub(crate) fn issue_ponger(&self, leaf: &Leaf) {
        install(&self.ponger, &self.ca.issue(leaf), self.ca.pem());
    }

    /// Issues pinger's certificate.
    pub(crate) fn issue_pinger(&self, leaf: &Leaf) {
        install(&self.pinger, &self.ca.issue(leaf), self.ca.pem());
    }

    pub(crate) fn clock(&self) -> Clock {
        Clock::new(Arc::new(self.clock.clone()))
    }

    /// A ponger that requires pinger's certificate.
    pub(crate) fn ponger_config(&self) -> ponger::Config {
        let mut config = ponger::Config::default();
        config.service = ponger::config::Service {
            host: LOCALHOST,
            port: 0,
            tls_certificate: Some(self.ponger.file("tls.crt")),
            tls_private_key: Some(self.ponger.file("tls.key")),
            client_ca: Some(self.ponger.file("ca.crt")),
            allowed_clients: vec![PINGER_ID.into()],
            // Long, so that no connection closes for a reason other than the tested one.
            idle_timeout: HumanDuration::seconds(3600),
            drain_delay: HumanDuration::default(),
            ..config.service
        };
        config.metrics.host = LOCALHOST;
        config.metrics.port = 0;
        config.identity.poll_interval = ms(20);
        config
    }

    /// A pinger of a server at `address` that has the name `localhost` and ponger's ID.
    pub(crate) fn pinger_config(&self, address: SocketAddr) -> pinger::Config {
        let mut config = pinger::Config::default();
        config.ponger = pinger::config::Ponger {
            url: Some(format!("https://{address}")),
            accept_cert: Some(self.pinger.file("ca.crt")),
            client_certificate: Some(self.pinger.file("tls.crt")),
            client_private_key: Some(self.pinger.file("tls.key")),
            server_id: Some(PONGER_ID.into()),
            server_name: Some("localhost".into()),
            ..config.ponger
        };
        config.interval = ms(5);
        // Long, so that a busy machine does not become the reason for a loss.
        config.timeout = HumanDuration(PATIENCE);
        config.connect_timeout = HumanDuration(PATIENCE);
        config.slow_after = HumanDuration::default();
        config.metrics.host = LOCALHOST;
        config.metrics.port = 0;
        config.identity.poll_interval = ms(20);
        config
    }

    /// Starts a server that does `behave` with each connection, on a thread of its own. It stops with
    /// this value, when every client has gone.
    pub(crate) fn serve(&self, behave: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
        self.serve_at((LOCALHOST, 0).into(), behave)
    }

    /// As [`Env::serve`], at `address`.
    pub(crate) fn serve_at(
        &self,
        address: SocketAddr,
        behave: impl Fn(TcpStream) + Send + Sync + 'static,
    ) -> SocketAddr {
        let server = Server::start(address, behave);
        let address = server.address;
        self.servers.lock().unwrap().push(server);
        address
    }

    pub(crate) fn start_ponger(&self, config: &ponger::Config) -> Ponger {
        let (config, clock) = (config.clone(), self.clock());
        let (signals, receiver) = Signals::channel();
        ServiceThread::start(signals, stop, move |started| {
            let ponger = ponger::Application::build_with_clock(&config, clock)?;
            started.send([ponger.address()?, ponger.admin_address()?])?;
            actix_rt::System::new().block_on(ponger.run_until_stopped(receiver))
        })
    }

    pub(crate) fn start_pinger(&self, config: &pinger::Config) -> Pinger {
        self.start_pinger_with(config, Resolver::system())
    }

    /// Starts a pinger that finds endpoints by `resolver`.
    pub(crate) fn start_pinger_with(&self, config: &pinger::Config, resolver: Resolver) -> Pinger {
        let (config, clock) = (config.clone(), self.clock());
        let (signals, receiver) = Signals::channel();
        ServiceThread::start(signals, stop, move |started| {
            let pinger = pinger::Application::build_with_clock(&config, clock)?;
            let pinger = pinger.with_resolver(resolver);
            started.send([pinger.admin_address()?; 2])?;
            actix_rt::System::new().block_on(pinger.run_until_stopped(receiver))
        })
    }
}

fn stop(signals: &SignalSender) {
    signals.stop("SIGTERM");
}

/// Replaces a service's certificate, key and trust bundle at once.
pub(crate) fn install(dir: &CertDir, issued: &Issued, roots: &str) {
    let [certificate, key] = issued.files();
    dir.replace(&[certificate, key, ("ca.crt", roots.as_bytes())]).unwrap();
}

pub(crate) fn ms(ms: u64) -> HumanDuration {
    HumanDuration(Duration::from_millis(ms))
}

/// Waits for `count` further pings with `result`, after those in flight.
#[track_caller]
pub(crate) fn wait_for_further(pinger: &Pinger, result: &str, count: u32) {
    let name = pings(result);
    // One may have begun before this call.
    pinger.wait_for_metric(&name, pinger.metric(&name) + 1.0 + f64::from(count));
}

/// The metric of pings with `result`.
pub(crate) fn pings(result: &str) -> String {
    format!("pinger_pings_total{{result=\"{result}\"}}")
}

/// The metric that counts pings by the kind of their connection: `full`, `reused` or `none`.
pub(crate) fn kind(kind: &str) -> String {
    format!("pinger_phase_duration_seconds_count{{kind=\"{kind}\",phase=\"processing\"}}")
}

/// The metric of a certificate's expiry.
pub(crate) fn expiration(role: &str) -> String {
    format!("identity_cert_expiration_timestamp_seconds{{role=\"{role}\"}}")
}

/// A port that is bound, so that no other process listens on it.
pub(crate) fn bind() -> (OwnedFd, SocketAddr) {
    let socket = socket(SocketFlags::empty());
    rustix::net::bind(&socket, &SocketAddr::from((LOCALHOST, 0))).unwrap();
    let address = rustix::net::getsockname(&socket).unwrap();
    (socket, address.try_into().unwrap())
}

fn socket(flags: SocketFlags) -> OwnedFd {
    rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap()
}

/// A listener that accepts no further connection, since its queue is full.
pub(crate) struct FullListener {
    pub(crate) listener: OwnedFd,
    pub(crate) address: SocketAddr,
    _queue: Vec<OwnedFd>,
}

/// A listener whose queue of one connection is filled by `connections`.
pub(crate) fn full_listener(connections: usize) -> FullListener {
    let (listener, address) = bind();
    rustix::net::listen(&listener, 0).unwrap();
    let connect = |_| {
        let socket = socket(SocketFlags::NONBLOCK);
        let _ = rustix::net::connect(&socket, &address);
        socket
    };
    FullListener { listener, address, _queue: (0..connections).map(connect).collect() }
}

/// A server that follows a script.
struct Server {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(address: SocketAddr, behave: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let stopping = Arc::<AtomicBool>::default();
        let stop = Arc::clone(&stopping);
        let thread = thread::spawn(move || {
            thread::scope(|scope| {
                for stream in listener.incoming().map(Result::unwrap) {
                    if stop.load(Ordering::Acquire) {
                        break;
                    }
                    // A test that fails must not wait for its server.
                    stream.set_read_timeout(Some(2 * PATIENCE)).unwrap();
                    scope.spawn(|| behave(stream));
                }
            });
        });
        Self { address, stopping, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        // It waits for a connection.
        let _ = TcpStream::connect(self.address);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(ended.is_none_or(|ended| ended.is_ok()) || thread::panicking(), "it has panicked");
    }
}

pub(crate) type TlsStream = StreamOwned<ServerConnection, TcpStream>;

/// The TLS of a server with the certificate `issued`; with `client_roots`, it requires a client
/// certificate that these roots verify.
pub(crate) fn server_tls(issued: &Issued, client_roots: Option<&Ca>) -> Arc<ServerConfig> {
    server_tls_of(rustls::DEFAULT_VERSIONS, issued, client_roots)
}

/// As [`server_tls`], with these TLS versions.
pub(crate) fn server_tls_of(
    versions: &[&'static SupportedProtocolVersion],
    issued: &Issued,
    client_roots: Option<&Ca>,
) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .unwrap();
    let builder = match client_roots {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            use rustls::pki_types::pem::PemObject as _;
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap()).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        }
    };
    let resolver = SingleCertAndKey::from(issued.certified_key());
    Arc::new(builder.with_cert_resolver(Arc::new(resolver)))
}

/// Completes the handshake and reads a request; `None` if the client does not get that far.
pub(crate) fn accept(config: &Arc<ServerConfig>, tcp: TcpStream) -> Option<TlsStream> {
    let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(config)).unwrap(), tcp);
    if read_request(&mut stream) {
        return Some(stream);
    }
    // If a socket is closed with bytes unread, the alert may be lost.
    until_closed(&mut stream.sock);
    None
}

/// Reads a request; `false` if none comes any more.
pub(crate) fn read_request(stream: &mut TlsStream) -> bool {
    read_head(stream).is_some()
}

/// Reads the head of a request; `None` if none comes any more.
pub(crate) fn read_head(stream: &mut impl Read) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if !matches!(stream.read(&mut byte), Ok(1)) {
            return None;
        }
        head.push(byte[0]);
    }
    Some(String::from_utf8(head).unwrap())
}

/// Writes a response of the status line's end `status` and `body`.
pub(crate) fn respond(stream: &mut TlsStream, status: &str, body: &str) {
    let response = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let _ = stream.write_all(response.as_bytes()).and_then(|()| stream.flush());
}

/// Responds with `pong` to every request on a connection.
pub(crate) fn pong_forever(config: &Arc<ServerConfig>, tcp: TcpStream) {
    let Some(mut stream) = accept(config, tcp) else { return };
    loop {
        respond(&mut stream, "200 OK", "pong");
        if !read_request(&mut stream) {
            return;
        }
    }
}

/// Waits until the peer closes the connection.
pub(crate) fn until_closed(stream: &mut impl Read) {
    let _ = io::copy(stream, &mut io::sink());
}
