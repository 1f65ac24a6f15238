//! A world for each test: a folder with its own authority, and services started in it.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tempfile::TempDir;
use testkit::{Ca, Issued, Leaf};

/// How long a condition is waited for before the test fails. No test waits for a time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const PINGER: &str = "spiffe://cluster.local/ns/test/sa/pinger";
pub(crate) const PONGER: &str = "spiffe://cluster.local/ns/test/sa/ponger";

/// A folder with an authority, and certificates for both services in it.
pub(crate) struct World {
    pub(crate) folder: TempDir,
    pub(crate) ca: Ca,
}

impl World {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let world = Self { folder, ca: Ca::new("test") };
        fs::write(world.path("ca.crt"), world.ca.pem()).expect("the root");
        world.issue("ponger", &Leaf::ponger("test"));
        world.issue("pinger", &Leaf::pinger("test"));
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Issues a certificate into the folder `name`.
    pub(crate) fn issue(&self, name: &str, leaf: &Leaf) {
        let folder = self.path(name);
        fs::create_dir_all(&folder).expect("a folder");
        self.ca.issue(leaf).write(&folder).expect("a certificate");
    }

    /// ponger's configuration: mutual TLS, pinger allowed, free ports; `more` goes below `service`.
    pub(crate) fn ponger_config(&self, more: &str) -> PathBuf {
        let folder = self.folder.path().display();
        // So long that nothing ends by being idle that should have ended for another reason.
        let idle = if more.contains("idleTimeout") { "" } else { "  idleTimeout: 1h\n" };
        self.write(
            "ponger.yaml",
            &format!(
                "service:\n  host: 127.0.0.1\n  port: 0\n  tlsCertificate: {folder}/ponger/tls.crt\n  \
                 tlsPrivateKey: {folder}/ponger/tls.key\n  clientCa: {folder}/ca.crt\n  \
                 allowedClients: [{PINGER}]\n  drainDelay: 0s\n{idle}{more}\
                 metrics: {{host: 127.0.0.1, port: 0}}\nidentity: {{pollInterval: 500ms}}\nlog: {{level: debug}}\n"
            ),
        )
    }

    /// pinger's configuration for a ponger at `port`; `more` goes to the top level.
    pub(crate) fn pinger_config(&self, port: u16, more: &str) -> PathBuf {
        let folder = self.folder.path().display();
        self.write(
            "pinger.yaml",
            &format!(
                "ponger:\n  url: https://localhost:{port}\n  acceptCert: {folder}/ca.crt\n  \
                 clientCertificate: {folder}/pinger/tls.crt\n  clientPrivateKey: {folder}/pinger/tls.key\n  \
                 serverId: {PONGER}\ninterval: 5ms\n{more}\
                 metrics: {{host: 127.0.0.1, port: 0}}\nidentity: {{pollInterval: 500ms}}\nlog: {{level: debug}}\n"
            ),
        )
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("a file");
        path
    }

    pub(crate) fn ponger(&self, more: &str) -> Service {
        Service::start("ponger", &self.ponger_config(more))
    }

    pub(crate) fn pinger(&self, ponger: &Service, more: &str) -> Service {
        Service::start("pinger", &self.pinger_config(ponger.address().port(), more))
    }

    /// A client that trusts this world's root and shows `certificate`.
    pub(crate) fn client(&self, certificate: Option<&Issued>) -> Client {
        Client::new(self.ca.pem(), certificate)
    }

    /// pinger's own certificate, in the hands of a client.
    pub(crate) fn good_client(&self) -> Client {
        self.client(Some(&self.ca.issue(&Leaf::pinger("test"))))
    }
}

/// One of the two services, as a process; killed when dropped.
pub(crate) struct Service {
    child: Child,
    log: Arc<(Mutex<Vec<String>>, Condvar)>,
}

impl Service {
    pub(crate) fn start(part: &str, config: &Path) -> Self {
        Self::spawn(Command::new(env!("CARGO_BIN_EXE_demo")).arg(part).arg(config))
    }

    pub(crate) fn start_with(part: &str, config: &Path, variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
        Self::spawn(command.arg(part).arg(config).envs(variables.iter().copied()))
    }

    /// Starts it with a limit of open files.
    pub(crate) fn start_with_descriptors(part: &str, config: &Path, limit: u32) -> Self {
        let program = env!("CARGO_BIN_EXE_demo");
        let script = format!("ulimit -n {limit}; exec \"$0\" \"$@\"");
        Self::spawn(Command::new("sh").args(["-c", &script, program, part]).arg(config))
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the service starts");
        let log = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let streams: [Box<dyn std::io::Read + Send>; 2] = [
            Box::new(child.stdout.take().expect("its output")),
            Box::new(child.stderr.take().expect("its errors")),
        ];
        for stream in streams {
            let log = Arc::clone(&log);
            thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    log.0.lock().expect("the log").push(line);
                    log.1.notify_all();
                }
            });
        }
        Self { child, log }
    }

    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        // A test that has failed elsewhere still wants to show it.
        self.log.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All lines until now.
    pub(crate) fn log(&self) -> Vec<String> {
        self.lines().clone()
    }

    pub(crate) fn count(&self, part: &str) -> usize {
        self.log().iter().filter(|line| line.contains(part)).count()
    }

    /// Waits for a line that has `part` in it.
    pub(crate) fn wait_for(&self, part: &str) -> String {
        self.wait_for_nth(1, part)
    }

    /// Waits for the `n`th line that has `part` in it.
    pub(crate) fn wait_for_nth(&self, n: usize, part: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.lines();
        loop {
            if let Some(line) = lines.iter().filter(|line| line.contains(part)).nth(n - 1) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no `{part}` ({n}.) in the log:\n{}", lines.join("\n"));
            lines = self.log.1.wait_timeout(lines, left).expect("the log").0;
        }
    }

    fn field(&self, line: &str, field: &str) -> SocketAddr {
        let line = self.wait_for(line);
        let value =
            line.split_whitespace().find_map(|word| word.strip_prefix(field)).expect("the field");
        value.parse().expect("an address")
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.field("Listening", "address=")
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        self.field(" admin=", "admin=")
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("a signal");
    }

    /// How it has ended, if it has.
    pub(crate) fn try_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("its status")
    }

    /// Waits until it has ended.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        wait_until("the service ends", || self.try_ended())
    }

    /// Asks it to stop and waits for that.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.ended()
    }

    /// The body and status of a plain GET at the admin listener.
    pub(crate) fn admin_get(&self, path: &str) -> (u16, String) {
        let stream = TcpStream::connect(self.admin()).expect("the admin listener");
        let (status, _, body) =
            exchange(stream, &get(path)).expect("an answer of the admin listener");
        (status, body)
    }

    /// The value of a metric, by its name and labels as Prometheus writes them; 0 if absent.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.admin_get("/metrics");
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
            .unwrap_or(0.0)
    }

    pub(crate) fn wait_for_metric(&self, name: &str, enough: impl Fn(f64) -> bool) -> f64 {
        wait_until(name, || Some(self.metric(name)).filter(|value| enough(*value)))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- log of the service:\n{}", self.log().join("\n"));
        }
    }
}

/// Waits until `condition` gives something.
pub(crate) fn wait_until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A GET that ends its connection.
pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
}

/// A GET that keeps its connection.
pub(crate) fn get_kept(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

pub(crate) type Answer = (u16, Vec<String>, String);

/// Sends a request and reads the answer.
pub(crate) fn exchange(
    mut stream: impl std::io::Read + std::io::Write,
    request: &str,
) -> std::io::Result<Answer> {
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    read_answer(&mut stream)
}

/// Reads one answer with a Content-Length.
pub(crate) fn read_answer(stream: &mut impl std::io::Read) -> std::io::Result<Answer> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.lines();
    let status =
        lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
    let headers: Vec<_> = lines.map(str::to_lowercase).collect();
    let length = headers
        .iter()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((status.unwrap_or(0), headers, String::from_utf8_lossy(&body).into_owned()))
}

/// A client of ponger's, with an identity of its own or none.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) config: Arc<ClientConfig>,
}

pub(crate) type Tls = StreamOwned<ClientConnection, TcpStream>;

impl Client {
    pub(crate) fn new(root: &str, certificate: Option<&Issued>) -> Self {
        Self::with_provider(root, certificate, rustls::crypto::aws_lc_rs::default_provider())
    }

    pub(crate) fn with_provider(
        root: &str,
        certificate: Option<&Issued>,
        provider: rustls::crypto::CryptoProvider,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(root.as_bytes()) {
            roots.add(root.expect("PEM")).expect("a root");
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let config = match certificate {
            None => builder.with_no_client_auth(),
            Some(issued) => {
                let chain = CertificateDer::pem_slice_iter(issued.chain.as_bytes());
                let chain = chain.collect::<Result<_, _>>().expect("PEM");
                let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("PEM");
                builder.with_client_auth_cert(chain, key).expect("a key of that certificate")
            }
        };
        Self { config: Arc::new(config) }
    }

    /// Connects, and makes the handshake as far as this side can tell.
    pub(crate) fn connect(&self, address: SocketAddr) -> std::io::Result<Tls> {
        let tcp = TcpStream::connect(address)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        let name = ServerName::try_from("localhost").expect("a name");
        let tls =
            ClientConnection::new(Arc::clone(&self.config), name).map_err(std::io::Error::other)?;
        let mut stream = StreamOwned::new(tls, tcp);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(stream)
    }

    pub(crate) fn get(&self, address: SocketAddr, path: &str) -> std::io::Result<Answer> {
        exchange(self.connect(address)?, &get(path))
    }

    /// Asks, and says with which alert it was refused.
    pub(crate) fn refusal(&self, address: SocketAddr) -> rustls::AlertDescription {
        let error = self.get(address, "/ping").expect_err("a refusal");
        match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::AlertReceived(alert)) => *alert,
            _ => panic!("not an alert: {error:?}"),
        }
    }
}

/// Whether `program` is there; where it is not, says that the test is skipped.
pub(crate) fn has(program: &str) -> bool {
    let there = Command::new(program)
        .arg("version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok();
    if !there {
        // Written past the test harness, which would swallow it.
        let _ = writeln!(
            std::io::stderr().lock(),
            "SKIPPED: a test needs the program `{program}`, which is not here"
        );
    }
    there
}

/// Reads until the peer ends the connection.
pub(crate) fn read_to_end(stream: &mut impl std::io::Read) -> std::io::Result<usize> {
    stream.read_to_end(&mut Vec::new())
}
