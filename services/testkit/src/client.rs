//! Blocking HTTP clients, over TLS and without.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
};

use rustls::{
    AlertDescription, ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    sign::SingleCertAndKey,
};

use crate::{pki::Issued, wait::PATIENCE};

/// A client that trusts some roots, and presents a certificate or none. Its clones and connections
/// share a session store, so that it resumes sessions where a server allows it.
#[derive(Clone, Debug)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    roots: Arc<RootCertStore>,
    server_name: ServerName<'static>,
}

impl TlsClient {
    /// Presents `certificate` whatever the server asks for; its key may be another's. Expects a
    /// server certificate for `localhost`.
    ///
    /// # Panics
    /// When a root or the certificate cannot be used.
    pub fn new(roots_pem: &str, certificate: Option<&Issued>) -> Self {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(roots_pem.as_bytes()) {
            roots.add(root.expect("a PEM certificate")).expect("a usable root");
        }
        let roots = Arc::new(roots);
        let provider = aws_lc_rs::default_provider();
        let mut config = build(provider.into(), rustls::DEFAULT_VERSIONS, &roots);
        if let Some(issued) = certificate {
            let resolver = SingleCertAndKey::from(issued.certified_key());
            config.client_auth_cert_resolver = Arc::new(resolver);
        }
        let server_name = ServerName::try_from("localhost").expect("a DNS name");
        Self { config: Arc::new(config), roots, server_name }
    }

    /// Offers these TLS versions instead of the default ones.
    pub fn with_versions(self, versions: &[&'static SupportedProtocolVersion]) -> Self {
        let provider = Arc::clone(self.config.crypto_provider());
        self.rebuild(provider, versions)
    }

    /// Offers what `provider` has, its key exchange groups for instance, with the default versions.
    pub fn with_provider(self, provider: CryptoProvider) -> Self {
        self.rebuild(provider.into(), rustls::DEFAULT_VERSIONS)
    }

    /// Offers these application protocols (ALPN) instead of none.
    pub fn with_protocols(mut self, protocols: &[&[u8]]) -> Self {
        let protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::make_mut(&mut self.config).alpn_protocols = protocols;
        self
    }

    /// Expects a server certificate for `name`.
    ///
    /// # Panics
    /// When `name` is neither a DNS name nor an IP address.
    pub fn with_server_name(self, name: &str) -> Self {
        let server_name = ServerName::try_from(name.to_owned()).expect("a server name");
        Self { server_name, ..self }
    }

    fn rebuild(
        self,
        provider: Arc<CryptoProvider>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let mut config = build(provider, versions, &self.roots);
        config.client_auth_cert_resolver = Arc::clone(&self.config.client_auth_cert_resolver);
        Self { config: Arc::new(config), ..self }
    }

    /// The configuration, for asynchronous clients.
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// A connection in memory, not yet started: for tests that stop within the handshake.
    ///
    /// # Panics
    /// When the configuration cannot be used.
    pub fn connection(&self) -> ClientConnection {
        ClientConnection::new(Arc::clone(&self.config), self.server_name.clone())
            .expect("a usable configuration")
    }

    /// Connects and completes the handshake as far as this side can tell: a TLS 1.3 server that
    /// rejects the client does so only afterwards.
    ///
    /// # Errors
    /// When connection or handshake fail; see [`alert`].
    pub fn connect(&self, address: SocketAddr) -> io::Result<TlsConnection> {
        let mut stream = StreamOwned::new(self.connection(), connect(address)?);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(TlsConnection { stream })
    }

    /// Sends one request on a connection of its own.
    ///
    /// # Errors
    /// When connection, handshake or request fail; see [`alert`].
    pub fn get(&self, address: SocketAddr, path: &str) -> io::Result<Response> {
        self.connect(address)?.exchange(&request(path, "close"))
    }
}

fn build(
    provider: Arc<CryptoProvider>,
    versions: &[&'static SupportedProtocolVersion],
    roots: &Arc<RootCertStore>,
) -> ClientConfig {
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("versions that the provider has")
        .with_root_certificates(Arc::clone(roots))
        .with_no_client_auth()
}

/// An established TLS connection. Reading and writing time out after [`PATIENCE`].
#[derive(Debug)]
pub struct TlsConnection {
    stream: StreamOwned<ClientConnection, TcpStream>,
}

impl TlsConnection {
    /// Sends a request, and keeps the connection open for the next one.
    ///
    /// # Errors
    /// When no whole response arrives; see [`alert`].
    pub fn get(&mut self, path: &str) -> io::Result<Response> {
        self.exchange(&request(path, "keep-alive"))
    }

    /// Sends `request` as it is, and reads one response.
    ///
    /// # Errors
    /// When no whole response arrives; see [`alert`].
    pub fn exchange(&mut self, request: &str) -> io::Result<Response> {
        if let Err(error) = self.send(request.as_bytes()) {
            // A server that rejects the client sends an alert and closes: the alert says why the
            // write failed.
            return Err(self.read_alert().unwrap_or(error));
        }
        read_response(self)
    }

    /// Sends `bytes`, and reads nothing.
    ///
    /// # Errors
    /// When the connection is closed or full.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)?;
        self.flush()
    }

    fn read_alert(&mut self) -> Option<io::Error> {
        let tls = &mut self.stream.conn;
        while tls.read_tls(&mut self.stream.sock).ok()? > 0 {
            if let Err(error) = tls.process_new_packets() {
                return Some(io::Error::other(error));
            }
        }
        None
    }

    /// The TLS state: version, cipher suite, group, the server's certificates.
    pub fn tls(&self) -> &ClientConnection {
        &self.stream.conn
    }

    /// The TCP connection.
    pub fn tcp(&self) -> &TcpStream {
        &self.stream.sock
    }
}

impl Read for TlsConnection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }
}

impl Write for TlsConnection {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// The alert that the server sent, where that is what `error` is about.
pub fn alert(error: &io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

/// An HTTP response.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The names in lower case, and the values.
    pub headers: Vec<(String, String)>,
    /// The body; bytes that are not UTF-8 are replaced.
    pub body: String,
}

impl Response {
    /// The first value of the header `name`, which is given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

/// The text of a GET request, for connections that write several at once.
pub fn request(path: &str, connection: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: {connection}\r\n\r\n")
}

/// Reads one response; without a Content-Length its body is empty.
///
/// # Errors
/// When the stream ends within it, or it is not HTTP.
pub fn read_response(stream: &mut impl Read) -> io::Result<Response> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        // Byte by byte, so that nothing of the next response is taken.
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head);
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("not an HTTP response: {head}")))?;
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let mut response = Response { status, headers, body: String::new() };
    let length = response.header("content-length").and_then(|value| value.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body)?;
    response.body = String::from_utf8_lossy(&body).into_owned();
    Ok(response)
}

/// Sends one GET request without TLS, to the admin listener.
///
/// # Errors
/// When no whole response arrives.
pub fn plain_get(address: SocketAddr, path: &str) -> io::Result<Response> {
    plain_exchange(address, &request(path, "close"))
}

/// Sends `request` as it is without TLS, and reads one response.
///
/// # Errors
/// When no whole response arrives.
pub fn plain_exchange(address: SocketAddr, request: &str) -> io::Result<Response> {
    let mut stream = connect(address)?;
    stream.write_all(request.as_bytes())?;
    read_response(&mut stream)
}

/// The value of one sample in Prometheus' text format, by its name and labels as they stand there:
/// `pings_total{result="pong"}`.
pub fn metric(text: &str, name_and_labels: &str) -> Option<f64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name_and_labels)?.strip_prefix(' ')?.parse().ok())
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use rustls::{
        ServerConfig, ServerConnection, Stream, server::WebPkiClientVerifier, version::TLS12,
    };

    use super::*;
    use crate::pki::{Ca, Leaf};

    /// A server that requires a certificate of `ca`, and responds to two requests a connection.
    fn start_server(ca: &Ca) -> SocketAddr {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).expect("PEM")).expect("a CA");
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(rustls::DEFAULT_VERSIONS)
            .expect("versions")
            .with_client_cert_verifier(verifier.build().expect("a verifier"));
        let leaf = SingleCertAndKey::from(ca.issue(&Leaf::ponger("test")).certified_key());
        let config = Arc::new(config.with_cert_resolver(Arc::new(leaf)));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("an address");
        thread::spawn(move || {
            for mut tcp in listener.incoming().map_while(Result::ok) {
                let mut tls = ServerConnection::new(Arc::clone(&config)).expect("a connection");
                let mut stream = Stream::new(&mut tls, &mut tcp);
                for _ in 0..2 {
                    if !matches!(stream.read(&mut [0; 1024]), Ok(1..)) {
                        break;
                    }
                    let response = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npong";
                    stream.write_all(response).expect("written");
                }
            }
        });
        address
    }

    #[test]
    fn keeps_a_connection_for_the_next_request() {
        let ca = Ca::new("a CA");
        let address = start_server(&ca);
        let client = TlsClient::new(ca.pem(), Some(&ca.issue(&Leaf::pinger("test"))));
        for client in [client.clone(), client.with_versions(&[&TLS12]).with_server_name("ponger")] {
            let mut connection = client.connect(address).expect("a connection");
            for _ in 0..2 {
                assert_eq!(connection.get("/ping").expect("a response").body, "pong");
            }
        }
    }

    #[test]
    fn returns_the_alert_of_a_server_that_rejects_the_certificate() {
        let ca = Ca::new("a CA");
        let address = start_server(&ca);
        let untrusted = Ca::new("another CA").issue(&Leaf::pinger("test"));
        let stolen = Issued { key: untrusted.key.clone(), ..ca.issue(&Leaf::pinger("test")) };
        for (certificate, expected) in [
            (None, AlertDescription::CertificateRequired),
            (Some(&untrusted), AlertDescription::UnknownCA),
            (Some(&stolen), AlertDescription::DecryptError),
        ] {
            let client = TlsClient::new(ca.pem(), certificate);
            let error = client.get(address, "/ping").expect_err("a rejection");
            assert_eq!(alert(&error), Some(expected), "{error:?}");
        }
    }

    #[test]
    fn finds_a_sample_by_its_whole_name_and_labels() {
        let text = "# HELP pings_total Pings.\n# TYPE pings_total counter\n\
                    pings_total{result=\"pong\"} 12\npings_total{result=\"lost\"} 0\n\
                    pings 3.5\nends NaN\n";
        assert_eq!(metric(text, "pings_total{result=\"pong\"}"), Some(12.0));
        assert_eq!(metric(text, "pings_total{result=\"lost\"}"), Some(0.0));
        assert_eq!(metric(text, "pings"), Some(3.5));
        assert!(metric(text, "ends").is_some_and(f64::is_nan));
        for absent in ["pings_total", "pings_total{result=\"p", "ping", "# TYPE pings_total"] {
            assert_eq!(metric(text, absent), None, "{absent}");
        }
    }

    #[test]
    fn reads_responses_one_after_the_other() {
        let mut stream = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-A: b: c\r\n\r\npong\
                          HTTP/1.1 404 Not Found\r\n\r\n"
            .as_bytes();
        let first = read_response(&mut stream).expect("a response");
        assert_eq!((first.status, first.body.as_str()), (200, "pong"));
        assert_eq!(first.header("x-a"), Some("b: c"));
        assert_eq!(read_response(&mut stream).expect("a response").status, 404);
        let end = read_response(&mut stream).expect_err("the end");
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    }
}
