//! Every reason for which a ping is lost, provoked on a real socket, and named by the real program.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    thread,
};

use chassis::failure::FailureReason;
use rustix::net::{AddressFamily, SocketType};
use rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use testkit::{Ca, Issued, Leaf};
use time::Duration;

const PONGER: &str = "spiffe://cluster.local/ns/test/sa/ponger";

/// What stands at the other end of a ping.
enum Ponger {
    /// A URL that leads nowhere.
    Url(String),
    /// Something that takes a TCP connection.
    Tcp(Box<dyn Fn(TcpStream) + Send>),
    /// Something that makes a handshake with this leaf, reads the request, and answers so; with
    /// nothing, it stays silent.
    Tls(Issued, Option<&'static str>),
    /// Something that takes only clients of another authority.
    Strict(Issued, Box<Ca>),
}

fn start(ponger: Ponger) -> String {
    let tls = |issued: Issued, verifier| {
        let chain = CertificateDer::pem_slice_iter(issued.chain.as_bytes())
            .collect::<Result<_, _>>()
            .expect("PEM");
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("PEM");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions();
        let builder = builder.expect("versions");
        let config = match verifier {
            None => builder.with_no_client_auth(),
            Some(roots) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .expect("a verifier"),
            ),
        };
        Arc::new(config.with_single_cert(chain, key).expect("a certificate"))
    };
    let (config, answer) = match ponger {
        Ponger::Url(url) => return url,
        Ponger::Tcp(behave) => return serve(behave),
        Ponger::Tls(issued, answer) => (tls(issued, None), answer),
        Ponger::Strict(issued, ca) => {
            let mut roots = RootCertStore::empty();
            roots
                .add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).expect("PEM"))
                .expect("a root");
            (tls(issued, Some(roots)), None)
        }
    };
    serve(move |tcp| {
        let connection = ServerConnection::new(Arc::clone(&config)).expect("a server");
        let mut stream = StreamOwned::new(connection, tcp);
        let mut request = [0; 4096];
        if !matches!(stream.read(&mut request), Ok(1..)) {
            return;
        }
        match answer {
            Some(answer) => {
                let _ = stream.write_all(answer.as_bytes());
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
            None => silence(stream),
        }
    })
}

/// Says nothing until the other end goes.
fn silence(mut stream: impl std::io::Read) {
    let _ = stream.read_to_end(&mut Vec::new());
}

fn serve(behave: impl Fn(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let port = listener.local_addr().expect("its address").port();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            behave(stream);
        }
    });
    format!("https://localhost:{port}")
}

/// A port that is bound, so nobody else's, and on which nothing listens.
fn bound() -> (rustix::fd::OwnedFd, u16) {
    let socket =
        rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    rustix::net::bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a port");
    let address = rustix::net::getsockname(&socket).expect("its address");
    (socket, SocketAddr::try_from(address).expect("an address").port())
}

/// One ping by the real program: its exit code, and the line about its loss.
fn ping(folder: &Path, url: &str) -> (Option<i32>, String) {
    let at = folder.display();
    let config = folder.join("config.yaml");
    fs::write(
        &config,
        format!(
            "ponger:\n  url: {url}\n  acceptCert: {at}/ca.crt\n  clientCertificate: {at}/tls.crt\n  \
             clientPrivateKey: {at}/tls.key\n  serverId: {PONGER}\ninterval: 0s\ncount: 1\ntimeout: 2s\n\
             connectTimeout: 500ms\nmetrics: {{host: 127.0.0.1, port: 0}}\n"
        ),
    )
    .expect("written");
    let output =
        Command::new(env!("CARGO_BIN_EXE_pinger")).arg("-c").arg(&config).output().expect("pinger");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.contains("Lost ping")).unwrap_or(&text).to_owned();
    (output.status.code(), line)
}

#[test]
fn every_reason_is_provoked_and_named() {
    let ca = Ca::new("test");
    let ponger = || Leaf::ponger("test");
    let good = || ca.issue(&ponger());
    let (_held, refusing) = bound();
    let (full_socket, full) = bound();
    rustix::net::listen(&full_socket, 0).expect("a listener without a queue");
    let _queue: Vec<_> = (0..2)
        .map(|_| {
            let socket = rustix::net::socket_with(
                AddressFamily::INET,
                SocketType::STREAM,
                rustix::net::SocketFlags::NONBLOCK,
                None,
            )
            .expect("a socket");
            let _ = rustix::net::connect(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, full)));
            socket
        })
        .collect();
    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n";
    let cases = [
        (FailureReason::Resolve, Ponger::Url("https://no-such-name.invalid".into())),
        (FailureReason::ConnectRefused, Ponger::Url(format!("https://127.0.0.1:{refusing}"))),
        // A TCP connection to many is none: the kernel sends nothing.
        (FailureReason::ConnectUnreachable, Ponger::Url("https://224.0.0.1".into())),
        (FailureReason::ConnectTimeout, Ponger::Url(format!("https://127.0.0.1:{full}"))),
        // A link-local address without the link.
        (FailureReason::ConnectFailed, Ponger::Url("https://[fe80::1]".into())),
        (FailureReason::TlsUntrusted, Ponger::Tls(Ca::new("other").issue(&ponger()), None)),
        (
            FailureReason::TlsExpired,
            Ponger::Tls(ca.issue(&ponger().valid(-Duration::HOUR, -Duration::MINUTE)), None),
        ),
        (
            FailureReason::TlsNotYetValid,
            Ponger::Tls(ca.issue(&ponger().valid(Duration::HOUR, Duration::DAY)), None),
        ),
        (
            FailureReason::TlsWrongName,
            Ponger::Tls(ca.issue(&Leaf::new().dns("elsewhere").uri(PONGER)), None),
        ),
        (FailureReason::TlsWrongId, Ponger::Tls(ca.issue(&Leaf::ponger("elsewhere")), None)),
        (FailureReason::TlsRefusedByPeer, Ponger::Strict(good(), Box::new(Ca::new("other")))),
        (
            FailureReason::TlsProtocol,
            Ponger::Tcp(Box::new(|mut stream| {
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
                silence(stream);
            })),
        ),
        (FailureReason::TlsTimeout, Ponger::Tcp(Box::new(silence))),
        (
            FailureReason::Denied,
            Ponger::Tls(good(), Some("HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\nnot so")),
        ),
        (
            FailureReason::Status,
            Ponger::Tls(good(), Some("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")),
        ),
        (
            FailureReason::Status,
            Ponger::Tls(
                good(),
                Some("HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"),
            ),
        ),
        (
            FailureReason::Body,
            Ponger::Tls(good(), Some("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npang")),
        ),
        (
            FailureReason::Body,
            Ponger::Tls(good(), Some("HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\npong")),
        ),
        (FailureReason::Body, Ponger::Tls(good(), Some("SSH-2.0-what\r\n\r\n"))),
        (FailureReason::Reset, Ponger::Tls(good(), Some(""))),
        (FailureReason::Reset, Ponger::Tls(good(), Some(OK))),
        (FailureReason::Reset, Ponger::Tcp(Box::new(drop))),
        (FailureReason::RequestTimeout, Ponger::Tls(good(), None)),
    ];
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("ca.crt"), ca.pem()).expect("the root");
    ca.issue(&Leaf::pinger("test")).write(folder.path()).expect("a certificate");
    let mut provoked = BTreeSet::new();
    for (reason, ponger) in cases {
        let url = start(ponger);
        let (code, line) = ping(folder.path(), &url);
        assert!(line.contains(&format!("reason=\"{reason}\"")), "{reason}, {url}: {line}");
        assert_eq!(code, Some(1), "{line}");
        assert!(line.contains("cause=\"") && !line.contains("cause=\"\""), "{line}");
        provoked.insert(reason);
    }
    // These have tests of their own, where they can happen.
    let elsewhere = [
        FailureReason::TlsNoCertificate, // only servers see that: local's identity tests
        FailureReason::Shutdown,         // below
    ];
    let missing: Vec<_> = FailureReason::ALL
        .iter()
        .filter(|reason| !provoked.contains(reason) && !elsewhere.contains(reason))
        .collect();
    assert!(missing.is_empty(), "not provoked: {missing:?}");
}

#[test]
fn a_ping_that_the_stop_breaks_off_is_lost_for_that_reason_and_the_summary_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let ca = Ca::new("test");
    fs::write(folder.path().join("ca.crt"), ca.pem()).expect("the root");
    let url = start(Ponger::Tls(ca.issue(&Leaf::ponger("test")), None));
    let config = folder.path().join("config.yaml");
    fs::write(
        &config,
        format!(
            "ponger: {{url: '{url}', acceptCert: {}/ca.crt}}\ninterval: 0s\ndrainTimeout: 100ms\n\
             metrics: {{host: 127.0.0.1, port: 0}}\n",
            folder.path().display()
        ),
    )
    .expect("written");
    let mut pinger = Command::new(env!("CARGO_BIN_EXE_pinger"))
        .arg("-c")
        .arg(&config)
        .stdout(Stdio::piped())
        .spawn()
        .expect("pinger");
    let mut lines =
        BufReader::new(pinger.stdout.take().expect("its output")).lines().map_while(Result::ok);
    lines.find(|line| line.contains("Sent ping")).expect("a ping");
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&pinger),
        rustix::process::Signal::TERM,
    )
    .expect("a signal");
    let rest: Vec<_> = lines.collect();
    assert!(rest.iter().any(|line| line.contains("reason=\"shutdown\"")), "{rest:?}");
    assert!(
        rest.last().is_some_and(|line| line.contains("1 pings, 0 pongs, 1 lost (shutdown 1)")),
        "{rest:?}"
    );
    assert!(pinger.wait().expect("its end").success());
}

#[test]
fn every_address_that_failed_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let ca = Ca::new("test");
    fs::write(folder.path().join("ca.crt"), ca.pem()).expect("the root");
    ca.issue(&Leaf::pinger("test")).write(folder.path()).expect("a certificate");
    let (_held, port) = bound();
    let (_, line) = ping(folder.path(), &format!("https://localhost:{port}"));
    use std::net::ToSocketAddrs as _;
    for address in ("localhost", port).to_socket_addrs().expect("localhost has an address") {
        assert!(line.contains(&address.to_string()), "{address}: {line}");
    }
}

/// This ponger keeps its connections for ever, whatever has expired: only pinger can end them.
#[test]
fn a_kept_connection_is_not_used_past_the_certificate_that_it_was_opened_with() {
    let folder = tempfile::tempdir().expect("a folder");
    let ca = Ca::new("test");
    fs::write(folder.path().join("ca.crt"), ca.pem()).expect("the root");
    let issued = ca.issue(&Leaf::ponger("test").valid(-Duration::MINUTE, Duration::seconds(8)));
    let chain = CertificateDer::pem_slice_iter(issued.chain.as_bytes())
        .collect::<Result<_, _>>()
        .expect("PEM");
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("PEM");
    let config = ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .expect("versions")
    .with_no_client_auth()
    .with_single_cert(chain, key)
    .expect("a certificate");
    let config = Arc::new(config);
    let url = serve(move |tcp| {
        let mut stream =
            StreamOwned::new(ServerConnection::new(Arc::clone(&config)).expect("a server"), tcp);
        let mut request = [0; 4096];
        while matches!(stream.read(&mut request), Ok(1..)) {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npong");
            let _ = stream.flush();
        }
    });
    let config = folder.path().join("config.yaml");
    fs::write(
        &config,
        format!(
            "ponger: {{url: '{url}', acceptCert: {}/ca.crt, keepAlive: 1h}}\ninterval: 20ms\ntimeout: 1s\n\
             log: {{level: debug}}\nmetrics: {{host: 127.0.0.1, port: 0}}\n",
            folder.path().display()
        ),
    )
    .expect("written");
    let mut pinger = Command::new(env!("CARGO_BIN_EXE_pinger"))
        .arg("-c")
        .arg(&config)
        .stdout(Stdio::piped())
        .spawn()
        .expect("pinger");
    let lines =
        BufReader::new(pinger.stdout.take().expect("its output")).lines().map_while(Result::ok);
    let (mut kept, mut expired) = (false, false);
    for line in lines.take(2000) {
        kept |= line.contains("kept=true");
        expired |= line.contains("reason=\"tls_expired\"");
        if expired {
            break;
        }
    }
    let _ = pinger.kill();
    let _ = pinger.wait();
    assert!(kept && expired, "kept: {kept}, expired: {expired}");
}
