//! Who is let in, and who is refused out loud.

use std::sync::Arc;

use rustls::AlertDescription as Alert;
use testkit::{Ca, Leaf};
use time::Duration;

use crate::support::{Client, PINGER, World};

#[test]
fn a_stranger_is_refused_with_a_reason_that_is_counted() {
    let world = World::new();
    let ponger = world.ponger("");
    let other = Ca::new("other");
    let expired = Leaf::pinger("test").valid(-Duration::HOUR, -Duration::MINUTE);
    let future = Leaf::pinger("test").valid(Duration::HOUR, Duration::DAY);
    let cases = [
        ("tls_no_certificate", None, Alert::CertificateRequired),
        ("tls_untrusted", Some(Leaf::pinger("test").self_signed()), Alert::UnknownCA),
        ("tls_untrusted", Some(other.issue(&Leaf::pinger("test"))), Alert::UnknownCA),
        ("tls_expired", Some(world.ca.issue(&expired)), Alert::CertificateExpired),
        ("tls_not_yet_valid", Some(world.ca.issue(&future)), Alert::CertificateExpired),
        (
            "tls_untrusted",
            Some(world.ca.issue(&Leaf::pinger("test").server_only())),
            Alert::UnsupportedCertificate,
        ),
        (
            "tls_untrusted",
            Some(world.ca.issue(&Leaf::pinger("test").ca_true())),
            Alert::CertificateUnknown,
        ),
    ];
    for (reason, certificate, expected) in &cases {
        let metric = format!("tls_handshake_failures_total{{reason=\"{reason}\"}}");
        let before = ponger.metric(&metric);
        let alert = world.client(certificate.as_ref()).refusal(ponger.address());
        assert_eq!(alert, *expected, "{reason}");
        ponger.wait_for_metric(&metric, |count| count == before + 1.0);
    }
    assert_eq!(ponger.count("Received GET /ping"), 0);
    ponger.wait_for("reason=\"tls_no_certificate\"");
}

#[test]
fn only_the_exact_name_is_let_in() {
    let world = World::new();
    let ponger = world.ponger("");
    let near_misses = [
        Leaf::new().uri(&format!("{PINGER}x")),
        Leaf::new().uri(&format!("{PINGER}/")),
        Leaf::new().uri(&format!("{PINGER}/x")),
        Leaf::new().uri(&PINGER[..PINGER.len() - 1]),
        Leaf::new().uri(&PINGER.to_uppercase()),
        Leaf::new().uri(&PINGER.replace("pinger", "Pinger")),
        Leaf::new().uri(&PINGER.replace("spiffe:", "https:")),
        Leaf::new().uri(&PINGER.replace("cluster.local", "cluster.local.evil")),
        Leaf::new().uri(&PINGER.replace("cluster.local", "user@cluster.local")),
        Leaf::new().uri(&PINGER.replace("cluster.local", "cluster.local:1")),
        Leaf::new().uri(&PINGER.replace("/sa/", "/./sa/")),
        Leaf::new().uri(&PINGER.replace("/sa/", "//sa/")),
        Leaf::new().uri(&format!("{PINGER}?x")),
        Leaf::new().uri(&format!("{PINGER}#x")),
        Leaf::new().uri(&format!(" {PINGER}")),
        Leaf::new().uri(&PINGER.replace("pinger", "ping%65r")),
        Leaf::new().uri(""),
        Leaf::new().uri("spiffe://"),
        Leaf::new().uri(PINGER).uri(PINGER),
        Leaf::new().uri(PINGER).uri("spiffe://cluster.local/ns/test/sa/other"),
        Leaf::new().uri("spiffe://cluster.local/ns/test/sa/other").uri(PINGER),
        Leaf::new().uri(PINGER).uri(""),
        Leaf::new().dns(PINGER),
        Leaf::new().dns("pinger"),
        Leaf::new().common_name(PINGER),
        Leaf::new(),
        Leaf::new().ip([127, 0, 0, 1].into()),
    ];
    for (count, leaf) in near_misses.iter().enumerate() {
        let client = world.client(Some(&world.ca.issue(leaf)));
        let (status, _, body) = client.get(ponger.address(), "/ping").expect("an answer");
        assert_eq!(status, 403, "{leaf:?}: {body}");
        assert!(body.starts_with("denied: "), "{body}");
        assert!(
            !body.contains(PINGER) || leaf_has(leaf, PINGER),
            "the allowed name is told: {body}"
        );
        ponger.wait_for_nth(count + 1, "denied=");
    }
    let denied: f64 = ["no_identity", "not_allowed", "no_certificate"]
        .iter()
        .map(|reason| {
            ponger.metric(&format!("ponger_authz_total{{decision=\"denied\",reason=\"{reason}\"}}"))
        })
        .sum();
    assert_eq!(denied, near_misses.len() as f64);
    assert_eq!(world.good_client().get(ponger.address(), "/ping").expect("an answer").0, 200);
}

/// Whether the client itself brought that name, so that it may be named to it.
fn leaf_has(leaf: &Leaf, name: &str) -> bool {
    format!("{leaf:?}").contains(name)
}

#[test]
fn a_denied_client_is_named_in_the_log_and_its_connection_ends() {
    let world = World::new();
    let ponger = world.ponger("");
    let client = world
        .client(Some(&world.ca.issue(&Leaf::new().uri("spiffe://cluster.local/ns/test/sa/other"))));
    let mut stream = client.connect(ponger.address()).expect("a connection");
    let request = crate::support::get_kept("/ping");
    let (status, headers, body) =
        crate::support::exchange(&mut stream, &request).expect("an answer");
    assert_eq!(status, 403);
    assert!(
        body.contains("`spiffe://cluster.local/ns/test/sa/other` is not allowed here"),
        "{body}"
    );
    assert!(headers.contains(&"connection: close".to_owned()), "{headers:?}");
    crate::support::read_to_end(&mut stream).expect("an orderly end");
    let line = ponger.wait_for("denied=");
    assert!(line.contains("peer=\"spiffe://cluster.local/ns/test/sa/other\""), "{line}");
}

#[test]
fn a_dns_name_lets_in_who_has_no_uri() {
    let world = World::new();
    let config = world.ponger_config("");
    let text = std::fs::read_to_string(&config).expect("the configuration");
    std::fs::write(&config, text.replace(PINGER, "pinger.example.org")).expect("written");
    let ponger = crate::support::Service::start("ponger", &config);
    for (leaf, status) in [
        (Leaf::new().dns("pinger.example.org"), 200),
        (Leaf::new().dns("PINGER.example.org"), 200),
        (Leaf::new().dns("other.example.org").dns("pinger.example.org"), 200),
        (Leaf::new().dns("*.example.org"), 403),
        (Leaf::new().dns("x.pinger.example.org"), 403),
        (Leaf::new().dns("pinger.example.org").uri(PINGER), 403),
        (Leaf::new().common_name("pinger.example.org"), 403),
    ] {
        let client = world.client(Some(&world.ca.issue(&leaf)));
        assert_eq!(client.get(ponger.address(), "/ping").expect("an answer").0, status, "{leaf:?}");
    }
}

#[test]
fn optional_lets_the_anonymous_in_only_if_that_is_written() {
    let world = World::new();
    for (more, status) in [
        ("  clientAuth: optional\n", 403),
        ("  clientAuth: optional\n  allowAnonymous: true\n", 200),
    ] {
        let ponger = world.ponger(more);
        let (got, _, body) = world.client(None).get(ponger.address(), "/ping").expect("an answer");
        assert_eq!(got, status, "{more}: {body}");
        // Whoever shows a certificate is still held to it.
        let other = world.ca.issue(&Leaf::new().uri("spiffe://cluster.local/ns/test/sa/other"));
        assert_eq!(
            world.client(Some(&other)).get(ponger.address(), "/ping").expect("an answer").0,
            403
        );
        assert_eq!(
            world.client(Some(&Leaf::pinger("test").self_signed())).refusal(ponger.address()),
            Alert::UnknownCA
        );
    }
}

#[test]
fn an_intermediate_vouches_when_it_is_shown() {
    let world = World::new();
    let ponger = world.ponger("");
    let issued = world.ca.intermediate("below").issue(&Leaf::pinger("test"));
    assert_eq!(
        world.client(Some(&issued)).get(ponger.address(), "/ping").expect("an answer").0,
        200
    );
}

#[test]
fn a_peer_without_the_hybrid_gets_x25519() {
    let world = World::new();
    let ponger = world.ponger("");
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups.retain(|group| group.name() != rustls::NamedGroup::X25519MLKEM768);
    let client = Client::with_provider(
        world.ca.pem(),
        Some(&world.ca.issue(&Leaf::pinger("test"))),
        provider,
    );
    let stream = client.connect(ponger.address()).expect("a connection");
    let group = stream.conn.negotiated_key_exchange_group().expect("a group").name();
    assert_eq!(group, rustls::NamedGroup::X25519);
}

#[test]
fn tls_1_2_is_spoken_only_where_it_is_asked_for() {
    let world = World::new();
    let mut client = world.good_client();
    let issued = world.ca.issue(&Leaf::pinger("test"));
    let mut roots = rustls::RootCertStore::empty();
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
    roots
        .add(CertificateDer::from_pem_slice(world.ca.pem().as_bytes()).expect("PEM"))
        .expect("a root");
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::clone(client.config.crypto_provider()))
            .with_protocol_versions(&[&rustls::version::TLS12])
            .expect("TLS 1.2")
            .with_root_certificates(roots)
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(issued.chain.as_bytes()).expect("PEM")],
                PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("PEM"),
            )
            .expect("a certificate");
    client.config = Arc::new(config);

    let ponger = world.ponger("");
    assert_eq!(client.refusal(ponger.address()), Alert::ProtocolVersion);
    let ponger = world.ponger("  minTlsVersion: 1.2\n");
    assert_eq!(client.get(ponger.address(), "/ping").expect("an answer").2, "pong");
}
