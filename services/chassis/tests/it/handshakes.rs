//! What becomes of two sides that meet.

use std::{path::Path, sync::Arc, time::Duration};

use chassis::{
    config::{self, HumanDuration, MinTlsVersion},
    failure::{Failure, FailureReason},
    metrics::{IdentityMetrics, Metrics},
    tls::{
        client,
        identity::{Identity, Sources, Trusted},
        leaf::Purpose,
        pem, provider,
        reload::{Current, follow},
        server::{self, Ask},
        session::Session,
    },
};
use rustls::{
    ClientConfig, ClientConnection, Error, NamedGroup, ServerConfig, ServerConnection,
    SignatureScheme, SupportedProtocolVersion,
    client::ResolvesClientCert,
    crypto::CryptoProvider,
    pki_types::ServerName,
    server::ResolvesServerCert,
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use testkit::{Ca, Issued, Leaf};

use crate::support::{Folder, chain};

/// The identity of one side, which does not change.
fn side(root: &str, leaf: Option<&Issued>, purpose: Purpose) -> Current {
    let folder = Folder::new();
    if let Some(leaf) = leaf {
        leaf.write(&folder.path("")).expect("files");
    }
    let sources = Sources {
        leaf: leaf.map(|_| folder.leaf_files()),
        roots: Trusted::File(folder.write("ca.crt", root)),
        allowed: None,
    };
    let settings =
        config::Identity { poll_interval: Span(Duration::from_secs(3600)), expiry_warning: None };
    let metrics = IdentityMetrics::new(&Metrics::new("test", "0"));
    let load = move || Identity::load(&sources, purpose);
    follow(&settings, Vec::new(), load, metrics).expect("an identity").1
}

/// Both sides of a mutual authentication that succeeds.
struct Pair {
    root: Ca,
    server: Current,
    client: Current,
}

impl Pair {
    fn new() -> Self {
        let root = Ca::new("a root");
        let server = side(root.pem(), Some(&root.issue(&Leaf::ponger("a"))), Purpose::Server);
        let client = side(root.pem(), Some(&root.issue(&Leaf::pinger("a"))), Purpose::Client);
        Self { root, server, client }
    }

    fn server(&self, ask: Ask) -> ServerConfig {
        server::config(&self.server, ask, MinTlsVersion::V1_3).expect("a configuration")
    }

    fn client(&self) -> ClientConfig {
        client::config(&self.client, MinTlsVersion::V1_3).expect("a configuration")
    }

    fn without_certificate(&self) -> ClientConfig {
        let nobody = side(self.root.pem(), None, Purpose::Client);
        client::config(&nobody, MinTlsVersion::V1_3).expect("a configuration")
    }
}

/// Whose verdict ended a handshake, and which it was.
type Verdict = (&'static str, FailureReason);

/// Lets two sides talk in memory until both are content or one is not.
fn meet(
    client: ClientConfig,
    server: ServerConfig,
) -> Result<(ClientConnection, ServerConnection), Verdict> {
    let name = ServerName::try_from("ponger").expect("a name");
    let mut client = ClientConnection::new(Arc::new(client), name).expect("a client");
    let mut server = ServerConnection::new(Arc::new(server)).expect("a server");
    while client.wants_write() || server.wants_write() {
        let said = pass(&mut client, |bytes| server.read_tls(bytes));
        server.process_new_packets().map_err(|error| ("server", reason(error)))?;
        let answered = pass(&mut server, |bytes| client.read_tls(bytes));
        client.process_new_packets().map_err(|error| ("client", reason(error)))?;
        assert!(said || answered);
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

fn pass<D>(
    from: &mut impl std::ops::DerefMut<Target = rustls::ConnectionCommon<D>>,
    mut to: impl FnMut(&mut dyn std::io::Read) -> std::io::Result<usize>,
) -> bool {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).expect("memory");
    }
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        to(&mut rest).expect("memory");
    }
    !bytes.is_empty()
}

fn reason(error: Error) -> FailureReason {
    Failure::of_stream("the peer", &std::io::Error::other(error)).reason
}

#[test]
fn two_of_ours_agree_upon_the_best_there_is() {
    let pair = Pair::new();
    let (client, server) = meet(pair.client(), pair.server(Ask::Required)).expect("to agree");
    let expected = Session {
        version: "TLSv1.3",
        cipher: "TLS13_AES_256_GCM_SHA384",
        group: "X25519MLKEM768",
        kind: "full",
    };
    assert_eq!((Session::of(&client), Session::of(&server)), (expected, expected));
    assert_eq!(client.alpn_protocol(), Some(&b"http/1.1"[..]));
    let own = |current: &Current| {
        current.get().leaf.as_ref().map(|leaf| leaf.certified.cert.clone()).expect("a leaf")
    };
    assert_eq!(client.peer_certificates(), Some(&own(&pair.server)[..]));
    assert_eq!(server.peer_certificates(), Some(&own(&pair.client)[..]));
}

#[test]
fn a_peer_without_the_hybrid_gets_x25519() {
    let pair = Pair::new();
    let mut old = CryptoProvider::clone(provider());
    old.kx_groups.retain(|group| group.name() == NamedGroup::X25519);
    let client = stranger(&pair, &[&TLS13], Arc::new(old), None);
    let (client, server) = meet(client, pair.server(Ask::No)).expect("to agree");
    assert_eq!((Session::of(&client).group, Session::of(&server).group), ("X25519", "X25519"));
}

#[test]
fn the_strongest_cipher_is_taken_whatever_a_client_would_rather_have() {
    let pair = Pair::new();
    let mut weakest_first = CryptoProvider::clone(provider());
    weakest_first.cipher_suites.reverse();
    let client = stranger(&pair, &[&TLS13], Arc::new(weakest_first), None);
    let (client, _) = meet(client, pair.server(Ask::No)).expect("to agree");
    assert_eq!(Session::of(&client).cipher, "TLS13_AES_256_GCM_SHA384");
}

/// A client that trusts the pair's root by rustls' own means, and presents `leaf`.
fn stranger(
    pair: &Pair,
    versions: &[&'static SupportedProtocolVersion],
    provider: Arc<CryptoProvider>,
    leaf: Option<Arc<CertifiedKey>>,
) -> ClientConfig {
    #[derive(Debug)]
    struct Presents(Option<Arc<CertifiedKey>>);
    impl ResolvesClientCert for Presents {
        fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
            self.0.clone()
        }
        fn has_certs(&self) -> bool {
            self.0.is_some()
        }
    }
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(chain(pair.root.pem()));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(Presents(leaf)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

/// A server with `leaf`, by rustls' own means.
fn foreign_server(
    versions: &[&'static SupportedProtocolVersion],
    leaf: Arc<CertifiedKey>,
) -> ServerConfig {
    #[derive(Debug)]
    struct Presents(Arc<CertifiedKey>);
    impl ResolvesServerCert for Presents {
        fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            Some(Arc::clone(&self.0))
        }
    }
    ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(versions)
        .expect("versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Presents(leaf)))
}

/// A certificate with a key, which need not be its own.
fn certified(chain_of: &Issued, key_of: &Issued) -> Arc<CertifiedKey> {
    let key = pem::parse_private_key(Path::new("key"), key_of.key.as_bytes()).expect("a key");
    let key = provider().key_provider.load_private_key(key).expect("a key");
    Arc::new(CertifiedKey::new(chain(&chain_of.chain), key))
}

#[test]
fn version_1_2_is_spoken_only_where_it_is_asked_for() {
    let pair = Pair::new();
    let old = || stranger(&pair, &[&TLS12], Arc::clone(provider()), None);
    let server = |oldest| server::config(&pair.server, Ask::No, oldest).expect("a configuration");
    let refused = meet(old(), server(MinTlsVersion::V1_3)).err();
    assert_eq!(refused, Some(("server", FailureReason::TlsProtocol)));
    let (client, _) = meet(old(), server(MinTlsVersion::V1_2)).expect("to agree");
    let session = Session::of(&client);
    assert_eq!((session.version, session.kind), ("TLSv1.2", "full"));
    assert!(session.cipher.starts_with("TLS_ECDHE_ECDSA_WITH_"), "{session:?}");

    let issued = pair.root.issue(&Leaf::ponger("a"));
    let old = || foreign_server(&[&TLS12], certified(&issued, &issued));
    let client = |oldest| client::config(&pair.client, oldest).expect("a configuration");
    assert!(meet(client(MinTlsVersion::V1_3), old()).is_err());
    let (client, _) = meet(client(MinTlsVersion::V1_2), old()).expect("to agree");
    assert_eq!(Session::of(&client).version, "TLSv1.2");
}

#[test]
fn a_client_without_a_certificate_is_let_in_only_where_none_is_required() {
    let pair = Pair::new();
    let refused = meet(pair.without_certificate(), pair.server(Ask::Required)).err();
    assert_eq!(refused, Some(("server", FailureReason::TlsNoCertificate)));
    for ask in [Ask::Optional, Ask::No] {
        let (_, server) = meet(pair.without_certificate(), pair.server(ask)).expect("to agree");
        assert_eq!(server.peer_certificates(), None);
    }
}

#[test]
fn a_client_that_is_not_asked_shows_no_certificate() {
    let pair = Pair::new();
    for (ask, shown) in [(Ask::No, false), (Ask::Optional, true), (Ask::Required, true)] {
        let (_, server) = meet(pair.client(), pair.server(ask)).expect("to agree");
        assert_eq!(server.peer_certificates().is_some(), shown, "{ask:?}");
    }
}

#[test]
fn a_stranger_is_refused_by_either_side() {
    let (pair, other) = (Pair::new(), Pair::new());
    // One that trusts the server, and whom the server does not trust.
    let issued = other.root.issue(&Leaf::pinger("a"));
    for ask in [Ask::Optional, Ask::Required] {
        let stranger = stranger_with(&pair, certified(&issued, &issued), MinTlsVersion::V1_3);
        let refused = meet(stranger, pair.server(ask)).err();
        assert_eq!(refused, Some(("server", FailureReason::TlsUntrusted)), "{ask:?}");
    }
    let refused = meet(pair.client(), other.server(Ask::No)).err();
    assert_eq!(refused, Some(("client", FailureReason::TlsUntrusted)));
}

fn stranger_with(pair: &Pair, leaf: Arc<CertifiedKey>, oldest: MinTlsVersion) -> ClientConfig {
    #[derive(Debug)]
    struct Presents(Arc<CertifiedKey>);
    impl ResolvesClientCert for Presents {
        fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
            Some(Arc::clone(&self.0))
        }
        fn has_certs(&self) -> bool {
            true
        }
    }
    client::config_presenting(&pair.client, oldest, Arc::new(Presents(leaf)))
        .expect("a configuration")
}

#[test]
fn whoever_has_a_certificate_and_not_its_key_is_refused() {
    let pair = Pair::new();
    let stolen = pair.root.issue(&Leaf::ponger("a"));
    let own = Leaf::new().self_signed();
    for versions in [[&TLS13], [&TLS12]] {
        let thief =
            stranger(&pair, &versions, Arc::clone(provider()), Some(certified(&stolen, &own)));
        let server = server::config(&pair.server, Ask::Required, MinTlsVersion::V1_2);
        let refused = meet(thief, server.expect("a configuration")).err();
        assert!(refused.is_some_and(|(side, _)| side == "server"), "{refused:?}");

        let thief = foreign_server(&versions, certified(&stolen, &own));
        let client = client::config(&pair.client, MinTlsVersion::V1_2).expect("a configuration");
        let refused = meet(client, thief).err();
        assert!(refused.is_some_and(|(side, _)| side == "client"), "{refused:?}");

        let honest = foreign_server(&versions, certified(&stolen, &stolen));
        let client = client::config(&pair.client, MinTlsVersion::V1_2).expect("a configuration");
        meet(client, honest).expect("to agree");
    }
}

#[test]
fn sessions_are_never_resumed() {
    let pair = Pair::new();
    for versions in [[&TLS13], [&TLS12]] {
        let client = stranger(&pair, &versions, Arc::clone(provider()), None);
        let server = server::config(&pair.server, Ask::No, MinTlsVersion::V1_2);
        let server = server.expect("a configuration");
        for _ in 0..3 {
            let (client, server) = meet(client.clone(), server.clone()).expect("to agree");
            assert_eq!(Session::of(&client).kind, "full");
            assert_eq!(Session::of(&server).kind, "full");
        }
    }
    // Nor does our client, where a server would.
    let issued = pair.root.issue(&Leaf::ponger("a"));
    let server = foreign_server(&[&TLS13], certified(&issued, &issued));
    let client = pair.client();
    for _ in 0..3 {
        let (client, _) = meet(client.clone(), server.clone()).expect("to agree");
        assert_eq!(Session::of(&client).kind, "full");
    }
}

#[test]
fn a_resumed_session_is_called_so() {
    let pair = Pair::new();
    let issued = pair.root.issue(&Leaf::ponger("a"));
    let server = foreign_server(&[&TLS13], certified(&issued, &issued));
    let client = stranger(&pair, &[&TLS13], Arc::clone(provider()), None);
    meet(client.clone(), server.clone()).expect("to agree");
    let (client, server) = meet(client, server).expect("to agree");
    assert_eq!(Session::of(&client).kind, "resumed");
    assert_eq!(Session::of(&server).kind, "resumed");
}

#[test]
fn a_connection_without_a_handshake_has_agreed_upon_nothing() {
    let pair = Pair::new();
    let server = ServerConnection::new(Arc::new(pair.server(Ask::No))).expect("a server");
    let expected = Session { version: "unknown", cipher: "unknown", group: "none", kind: "full" };
    assert_eq!(Session::of(&server), expected);
}

#[test]
fn a_server_tells_nobody_whom_it_trusts() {
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
    let curious = client::config_presenting(&pair.client, MinTlsVersion::V1_3, Arc::new(Curious));
    meet(curious.expect("a configuration"), pair.server(Ask::Optional)).expect("to agree");
}

#[test]
fn a_side_without_a_leaf_has_none_to_show() {
    let pair = Pair::new();
    assert!(pair.client().client_auth_cert_resolver.has_certs());
    assert!(!pair.without_certificate().client_auth_cert_resolver.has_certs());
    let nobody = side(pair.root.pem(), None, Purpose::Server);
    let server = server::config(&nobody, Ask::No, MinTlsVersion::V1_3).expect("a configuration");
    assert!(meet(pair.client(), server).is_err());
}

#[test]
fn a_certificate_that_ends_is_refused_from_then_on() {
    let pair = Pair::new();
    let expired =
        pair.root.issue(&Leaf::pinger("a").valid(-time::Duration::HOUR, -time::Duration::MINUTE));
    let client = stranger_with(&pair, certified(&expired, &expired), MinTlsVersion::V1_3);
    let refused = meet(client, pair.server(Ask::Required)).err();
    assert_eq!(refused, Some(("server", FailureReason::TlsExpired)));
}
