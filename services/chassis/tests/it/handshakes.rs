//! What two ends agree on, and which end rejects the other.

use std::sync::Arc;

use chassis::{
    config::MinTlsVersion,
    failure::FailureReason::{self, TlsExpired, TlsNoCertificate, TlsProtocol, TlsUntrusted},
    tls::{
        client::ClientTls,
        handshake_info::HandshakeInfo,
        provider,
        server::{ClientAuth, ServerTls},
    },
};
use rustls::{
    ClientConnection, NamedGroup, ServerConfig, ServerConnection, SignatureScheme,
    SupportedProtocolVersion,
    client::ResolvesClientCert,
    crypto::CryptoProvider,
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};
use testkit::{Ca, Issued, Leaf, client::TlsClient};

use crate::support::{client_tls, reason, server_tls};

const V1_2: MinTlsVersion = MinTlsVersion::V1_2;
const V1_3: MinTlsVersion = MinTlsVersion::V1_3;

/// A root, and what both ends have of it.
struct Pair {
    root: Ca,
    ponger: Issued,
    pinger: Issued,
}

impl Pair {
    fn new() -> Self {
        let root = Ca::new("a root");
        let ponger = root.issue(&Leaf::ponger("a"));
        let pinger = root.issue(&Leaf::pinger("a"));
        Self { root, ponger, pinger }
    }

    fn server(&self, auth: ClientAuth, min: MinTlsVersion) -> ServerConnection {
        let ServerTls { config, .. } =
            server_tls(&self.ponger, self.root.pem(), auth, min.protocol_versions());
        ServerConnection::new(config).expect("a connection")
    }

    fn client_tls(&self, issued: Option<&Issued>, min: MinTlsVersion) -> ClientTls {
        client_tls(issued, self.root.pem(), ("ponger", None), min.protocol_versions())
    }

    fn client(&self) -> ClientConnection {
        connect(&self.client_tls(Some(&self.pinger), V1_3))
    }

    /// A client by rustls' own means, which presents `issued`.
    fn foreign_client(&self, issued: Option<&Issued>) -> TlsClient {
        TlsClient::new(self.root.pem(), issued).with_server_name("ponger")
    }
}

fn connect(tls: &ClientTls) -> ClientConnection {
    ClientConnection::new(Arc::clone(&tls.config), tls.server_name.clone()).expect("a connection")
}

/// A server by rustls' own means, which asks for no certificate.
fn foreign_server(
    version: &'static SupportedProtocolVersion,
    issued: &Issued,
) -> Arc<ServerConfig> {
    let config = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(issued.certified_key())));
    Arc::new(config)
}

fn accept(config: &Arc<ServerConfig>) -> ServerConnection {
    ServerConnection::new(Arc::clone(config)).expect("a connection")
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Client,
    Server,
}

/// Completes a handshake in memory, or says which end rejected it, and why.
fn shake_hands(
    mut client: ClientConnection,
    mut server: ServerConnection,
) -> Result<(ClientConnection, ServerConnection), (End, FailureReason)> {
    while client.wants_write() || server.wants_write() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).expect("memory");
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).expect("memory");
        }
        server.process_new_packets().map_err(|error| (End::Server, reason(error)))?;
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).expect("memory");
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).expect("memory");
        }
        client.process_new_packets().map_err(|error| (End::Client, reason(error)))?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

#[test]
fn own_ends_agree_on_the_best_parameters() {
    let pair = Pair::new();
    let server = pair.server(ClientAuth::Required, V1_3);
    let (client, server) = shake_hands(pair.client(), server).unwrap();
    let expected = HandshakeInfo {
        version: "TLSv1.3",
        cipher: "TLS13_AES_256_GCM_SHA384",
        group: "X25519MLKEM768",
        kind: "full",
    };
    assert_eq!(HandshakeInfo::from_connection(&client), expected);
    assert_eq!(HandshakeInfo::from_connection(&server), expected);
    assert_eq!(client.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert_eq!(client.peer_certificates(), Some(&pair.ponger.chain_der()[..]));
    assert_eq!(server.peer_certificates(), Some(&pair.pinger.chain_der()[..]));
}

#[test]
fn server_speaks_the_protocols_that_old_clients_ask_for() {
    let pair = Pair::new();
    for (offered, expected) in [
        (&["http/1.0"][..], Some("http/1.0")),
        (&["http/1.0", "http/1.1"], Some("http/1.1")),
        (&["h2", "http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        let mut config = (*pair.foreign_client(None).config()).clone();
        config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = "ponger".try_into().unwrap();
        let client = ClientConnection::new(config.into(), name).unwrap();
        let (client, _) = shake_hands(client, pair.server(ClientAuth::None, V1_3)).unwrap();
        assert_eq!(client.alpn_protocol(), expected.map(str::as_bytes), "{offered:?}");
    }
}

#[test]
fn peer_without_the_hybrid_group_gets_x25519() {
    let pair = Pair::new();
    let mut old = CryptoProvider::clone(provider());
    old.kx_groups.retain(|group| group.name() == NamedGroup::X25519);
    let client = pair.foreign_client(None).with_provider(old).connection();
    let ends = shake_hands(client, pair.server(ClientAuth::None, V1_3)).unwrap();
    assert_eq!(HandshakeInfo::from_connection(&ends.0).group, "X25519");
    assert_eq!(HandshakeInfo::from_connection(&ends.1).group, "X25519");
}

#[test]
fn server_chooses_the_strongest_cipher_whatever_the_client_prefers() {
    let pair = Pair::new();
    let mut weakest_first = CryptoProvider::clone(provider());
    weakest_first.cipher_suites.reverse();
    let client = pair.foreign_client(None).with_provider(weakest_first).connection();
    let (client, _) = shake_hands(client, pair.server(ClientAuth::None, V1_3)).unwrap();
    assert_eq!(HandshakeInfo::from_connection(&client).cipher, "TLS13_AES_256_GCM_SHA384");
}

#[test]
fn version_1_2_is_used_only_where_it_is_configured() {
    let pair = Pair::new();
    let client = pair.foreign_client(None).with_versions(&[&TLS12]);
    let rejected = shake_hands(client.connection(), pair.server(ClientAuth::None, V1_3));
    assert_eq!(rejected.err(), Some((End::Server, TlsProtocol)));
    let ends = shake_hands(client.connection(), pair.server(ClientAuth::None, V1_2));
    let info = HandshakeInfo::from_connection(&ends.unwrap().0);
    assert_eq!((info.version, info.kind), ("TLSv1.2", "full"));
    assert!(info.cipher.starts_with("TLS_ECDHE_ECDSA_WITH_"), "{info:?}");

    let server = foreign_server(&TLS12, &pair.ponger);
    let client = |min| connect(&pair.client_tls(None, min));
    assert!(shake_hands(client(V1_3), accept(&server)).is_err());
    let (client, _) = shake_hands(client(V1_2), accept(&server)).unwrap();
    assert_eq!(HandshakeInfo::from_connection(&client).version, "TLSv1.2");
}

#[test]
fn client_without_certificate_is_accepted_where_none_is_required() {
    let pair = Pair::new();
    let client = || connect(&pair.client_tls(None, V1_3));
    let rejected = shake_hands(client(), pair.server(ClientAuth::Required, V1_3));
    assert_eq!(rejected.err(), Some((End::Server, TlsNoCertificate)));
    for auth in [ClientAuth::Optional, ClientAuth::None] {
        let (_, server) = shake_hands(client(), pair.server(auth, V1_3)).unwrap();
        assert_eq!(server.peer_certificates(), None);
    }
}

#[test]
fn client_presents_its_certificate_where_it_is_asked_for() {
    let pair = Pair::new();
    for auth in [ClientAuth::None, ClientAuth::Optional, ClientAuth::Required] {
        let (_, server) = shake_hands(pair.client(), pair.server(auth, V1_3)).unwrap();
        assert_eq!(server.peer_certificates().is_some(), auth != ClientAuth::None, "{auth:?}");
    }
}

#[test]
fn either_end_rejects_an_untrusted_or_expired_peer() {
    let (pair, other) = (Pair::new(), Pair::new());
    let hour = time::Duration::HOUR;
    let expired = pair.root.issue(&Leaf::pinger("a").valid(-hour * 2, -hour));
    for auth in [ClientAuth::Optional, ClientAuth::Required] {
        for (issued, reason) in [(&other.pinger, TlsUntrusted), (&expired, TlsExpired)] {
            let client = pair.foreign_client(Some(issued)).connection();
            let rejected = shake_hands(client, pair.server(auth, V1_3)).err();
            assert_eq!(rejected, Some((End::Server, reason)), "{auth:?}");
            // The same certificate, presented by the client that probes for rejections.
            let tls = pair.client_tls(None, V1_3);
            let config = tls.config_with_client_cert(Some(issued.certified_key()));
            let client = ClientConnection::new(config.into(), tls.server_name.clone()).unwrap();
            let rejected = shake_hands(client, pair.server(auth, V1_3)).err();
            assert_eq!(rejected, Some((End::Server, reason)), "{auth:?}");
        }
    }
    let rejected = shake_hands(pair.client(), other.server(ClientAuth::None, V1_3)).err();
    assert_eq!(rejected, Some((End::Client, TlsUntrusted)));
}

#[test]
fn either_end_rejects_a_peer_without_the_key_of_its_certificate() {
    let pair = Pair::new();
    let key = Leaf::new().self_signed().key;
    let stolen = |issued: &Issued| Issued { key: key.clone(), ..issued.clone() };
    for version in [&TLS13, &TLS12] {
        let thief = pair.foreign_client(Some(&stolen(&pair.pinger))).with_versions(&[version]);
        let rejected = shake_hands(thief.connection(), pair.server(ClientAuth::Required, V1_2));
        assert!(matches!(rejected, Err((End::Server, _))), "{rejected:?}");

        let client = || connect(&pair.client_tls(None, V1_2));
        let thief = foreign_server(version, &stolen(&pair.ponger));
        let rejected = shake_hands(client(), accept(&thief));
        assert!(matches!(rejected, Err((End::Client, _))), "{rejected:?}");
        shake_hands(client(), accept(&foreign_server(version, &pair.ponger))).unwrap();
    }
}

#[test]
fn self_signed_certificates_authenticate_both_ends_where_they_are_pinned() {
    let server = Leaf::ponger("a").self_signed();
    let client = Leaf::pinger("a").self_signed();
    let versions = V1_2.protocol_versions();
    let accepting = server_tls(&server, &client.chain, ClientAuth::Required, versions);
    let connecting = client_tls(Some(&client), &server.chain, ("ponger", None), versions);
    shake_hands(connect(&connecting), accept(&accepting.config)).unwrap();
    // The certificate is no secret; its key is.
    let thief = Issued { key: Leaf::new().self_signed().key, chain: client.chain };
    let thief = TlsClient::new(&server.chain, Some(&thief)).with_server_name("ponger");
    let rejected = shake_hands(thief.connection(), accept(&accepting.config));
    assert!(matches!(rejected, Err((End::Server, _))), "{rejected:?}");
}

#[test]
fn sessions_are_never_resumed() {
    let pair = Pair::new();
    for version in [&TLS13, &TLS12] {
        let client = pair.foreign_client(None).with_versions(&[version]);
        let tls =
            server_tls(&pair.ponger, pair.root.pem(), ClientAuth::None, V1_2.protocol_versions());
        for _ in 0..3 {
            let ends = shake_hands(client.connection(), accept(&tls.config)).unwrap();
            assert_eq!(HandshakeInfo::from_connection(&ends.0).kind, "full");
            assert_eq!(HandshakeInfo::from_connection(&ends.1).kind, "full");
        }
    }
    // Nor does our client resume one where a server would; others do, and it is called so.
    let server = foreign_server(&TLS13, &pair.ponger);
    let (ours, other) = (pair.client_tls(None, V1_3), pair.foreign_client(None));
    for expected in ["full", "resumed", "resumed"] {
        let (client, _) = shake_hands(connect(&ours), accept(&server)).unwrap();
        assert_eq!(HandshakeInfo::from_connection(&client).kind, "full");
        let ends = shake_hands(other.connection(), accept(&server)).unwrap();
        assert_eq!(HandshakeInfo::from_connection(&ends.0).kind, expected);
        assert_eq!(HandshakeInfo::from_connection(&ends.1).kind, expected);
    }
}

#[test]
fn connection_before_its_handshake_has_negotiated_nothing() {
    let server = Pair::new().server(ClientAuth::None, V1_3);
    let expected =
        HandshakeInfo { version: "unknown", cipher: "unknown", group: "none", kind: "full" };
    assert_eq!(HandshakeInfo::from_connection(&server), expected);
}

#[test]
fn server_does_not_disclose_its_trust_anchors() {
    #[derive(Debug)]
    struct Curious;
    impl ResolvesClientCert for Curious {
        fn resolve(
            &self,
            hints: &[&[u8]],
            schemes: &[SignatureScheme],
        ) -> Option<Arc<CertifiedKey>> {
            assert!(hints.is_empty());
            assert!(schemes.contains(&SignatureScheme::ED25519) && schemes.len() > 5);
            None
        }
        fn has_certs(&self) -> bool {
            true
        }
    }
    let pair = Pair::new();
    let mut tls = pair.client_tls(None, V1_3);
    let mut config = (*tls.config).clone();
    config.client_auth_cert_resolver = Arc::new(Curious);
    tls.config = config.into();
    shake_hands(connect(&tls), pair.server(ClientAuth::Optional, V1_3)).unwrap();
}

#[test]
fn server_requires_a_certificate_of_its_own_and_client_a_trust_bundle() {
    use chassis::tls::{client::ExpectedServer, clock::Clock};
    let (clock, pair) = (Clock::system(), Pair::new());
    let trust = crate::support::bundle(pair.root.pem()).unwrap();
    let (versions, now) = (V1_3.protocol_versions(), clock.now());
    let server = ServerTls::build(None, Some(&trust), ClientAuth::Optional, versions, &clock, now);
    let expected = "TLS configuration: a server needs a certificate";
    assert_eq!(server.unwrap_err().to_string(), expected);
    let server = ExpectedServer { name: "ponger".try_into().unwrap(), id: None };
    let client = ClientTls::build(None, None, &server, versions, &clock, now);
    let expected = "TLS configuration: a client needs a trust bundle";
    assert_eq!(client.unwrap_err().to_string(), expected);
}
