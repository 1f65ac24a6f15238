//! Which clients are rejected in the handshake, which requests are denied, and what is counted.

use std::{fs, process::Command};

use rustls::{AlertDescription as Alert, version::TLS12};
use testkit::{Ca, Leaf, client::alert, process::Service};
use time::Duration;

use crate::support::{Env, OTHER, PINGER, PROGRAM, wait_for_close};
use chassis::{config::MinTlsVersion, tls::server::ClientAuth};

const HANDSHAKES: &str = "tls_handshakes_total{cipher=\"TLS13_AES_256_GCM_SHA384\",group=\"X25519MLKEM768\",kind=\"full\",version=\"TLSv1.3\"}";

#[test]
fn rejects_clients_without_a_valid_certificate() {
    let env = Env::new();
    let ponger = env.start();
    let pinger = || Leaf::pinger("test");
    let expired = pinger().valid(-Duration::HOUR, -Duration::MINUTE);
    let future = pinger().valid(Duration::HOUR, Duration::DAY);
    let untrusted = Ca::new("untrusted").issue(&pinger());
    let mut stolen = env.ca.issue(&pinger());
    stolen.key.clone_from(&untrusted.key);
    for (reason, certificate, expected) in [
        ("tls_no_certificate", None, Alert::CertificateRequired),
        ("tls_untrusted", Some(pinger().self_signed()), Alert::UnknownCA),
        ("tls_untrusted", Some(untrusted), Alert::UnknownCA),
        ("tls_expired", Some(env.ca.issue(&expired)), Alert::CertificateExpired),
        ("tls_not_yet_valid", Some(env.ca.issue(&future)), Alert::CertificateExpired),
        (
            "tls_untrusted",
            Some(env.ca.issue(&pinger().server_only())),
            Alert::UnsupportedCertificate,
        ),
        ("tls_untrusted", Some(env.ca.issue(&pinger().ca_true())), Alert::CertificateUnknown),
        ("tls_untrusted", Some(stolen), Alert::DecryptError),
    ] {
        let metric = format!("tls_handshake_failures_total{{reason=\"{reason}\"}}");
        let before = ponger.metric(&metric);
        let error = env.client(certificate.as_ref()).get(ponger.address, "/ping").unwrap_err();
        assert_eq!(alert(&error), Some(expected), "{reason}: {error:?}");
        ponger.wait_for_value(&metric, |count| count == before + 1.0);
    }
    assert_eq!(ponger.metric(HANDSHAKES), 0.0);
    assert_eq!(ponger.metric("ponger_request_duration_seconds_count{route=\"ping\"}"), 0.0);
}

#[test]
fn allows_only_the_exact_id() {
    let env = Env::new();
    let ponger = env.start();
    let uri = |uri: &str| Leaf::new().uri(uri);
    let near_misses = [
        uri(&format!("{PINGER}x")),
        uri(&format!("{PINGER}/")),
        uri(&format!("{PINGER}/x")),
        uri(&PINGER[..PINGER.len() - 1]),
        uri(&PINGER.to_uppercase()),
        uri(&PINGER.replace("pinger", "Pinger")),
        uri(&PINGER.replace("spiffe:", "https:")),
        uri(&PINGER.replace("cluster.local", "cluster.local.evil")),
        uri(&PINGER.replace("cluster.local", "user@cluster.local")),
        uri(&PINGER.replace("cluster.local", "cluster.local:1")),
        uri(&PINGER.replace("/sa/", "/./sa/")),
        uri(&PINGER.replace("/sa/", "//sa/")),
        uri(&format!("{PINGER}?x")),
        uri(&format!("{PINGER}#x")),
        uri(&format!(" {PINGER}")),
        uri(&PINGER.replace("pinger", "ping%65r")),
        uri(""),
        uri("spiffe://"),
        uri(PINGER).uri(PINGER),
        uri(PINGER).uri(OTHER),
        uri(OTHER).uri(PINGER),
        uri(PINGER).uri(""),
        Leaf::new().dns(PINGER),
        Leaf::new().dns("pinger"),
        Leaf::new().common_name(PINGER),
        Leaf::new(),
        Leaf::new().ip([127, 0, 0, 1].into()),
    ];
    for leaf in &near_misses {
        let response = env.client_of(leaf).get(ponger.address, "/ping").unwrap();
        assert_eq!(response.status, 403, "{leaf:?}: {}", response.body);
        assert!(response.body.starts_with("denied: "), "{}", response.body);
        let is_own = format!("{leaf:?}").contains(PINGER);
        assert!(
            is_own || !response.body.contains(PINGER),
            "names an allowed ID: {}",
            response.body
        );
    }
    let count = |decision, reason| {
        let labels = format!("decision=\"{decision}\",reason=\"{reason}\"");
        ponger.metric(&format!("ponger_authz_total{{{labels}}}"))
    };
    let denied = count("denied", "invalid_id") + count("denied", "not_allowed");
    assert_eq!(denied, near_misses.len() as f64);
    assert_eq!(ponger.metric("tls_peers_total{peer=\"other\"}"), near_misses.len() as f64);
    assert_eq!(env.pinger().get(ponger.address, "/ping").unwrap().status, 200);
    assert_eq!(count("allowed", "peer_id"), 1.0);
    assert_eq!(ponger.metric(&format!("tls_peers_total{{peer=\"{PINGER}\"}}")), 1.0);
}

#[test]
fn names_the_denied_id_and_closes_the_connection() {
    let env = Env::new();
    let ponger = env.start();
    let mut connection = env.client_of(&Leaf::new().uri(OTHER)).connect(ponger.address).unwrap();
    let response = connection.get("/ping").unwrap();
    assert_eq!(response.status, 403);
    assert_eq!(response.body, format!("denied: `{OTHER}` is not allowed\n"));
    assert_eq!(response.header("connection"), Some("close"));
    wait_for_close(connection);
}

#[test]
fn denies_before_it_reports_an_unknown_path_or_method() {
    let env = Env::new();
    let ponger = env.start();
    let client = env.client_of(&Leaf::new().uri(OTHER));
    assert_eq!(client.get(ponger.address, "/other").unwrap().status, 403);
    let mut connection = client.connect(ponger.address).unwrap();
    let post = "POST /ping HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(connection.exchange(post).unwrap().status, 403);
}

#[test]
fn allows_a_dns_name_in_certificates_without_a_uri() {
    let env = Env::new();
    let ponger = env.start_with(|service| {
        service.allowed_clients = vec!["pinger.example.org".into()];
    });
    for (leaf, status) in [
        (Leaf::new().dns("pinger.example.org"), 200),
        (Leaf::new().dns("PINGER.example.org"), 200),
        (Leaf::new().dns("other.example.org").dns("pinger.example.org"), 200),
        (Leaf::new().dns("*.example.org"), 403),
        (Leaf::new().dns("x.pinger.example.org"), 403),
        (Leaf::new().dns("pinger.example.org").uri(PINGER), 403),
        (Leaf::new().common_name("pinger.example.org"), 403),
    ] {
        let response = env.client_of(&leaf).get(ponger.address, "/ping").unwrap();
        assert_eq!(response.status, status, "{leaf:?}");
    }
}

#[test]
fn allows_the_last_of_100_000_clients() {
    let env = Env::new();
    let config = env.write_config("");
    let others: String = (1..100_000).map(|n| format!("client-{n}.example, ")).collect();
    let text = fs::read_to_string(&config).unwrap().replace("[spiffe", &format!("[{others}spiffe"));
    fs::write(&config, text).unwrap();
    let ponger = Service::spawn(Command::new(PROGRAM).arg("-c").arg(config));
    let line = ponger.wait_for("Listening");
    assert!(line.contains("client-8.example, and 99992 more"), "{line}");
    for (leaf, status) in [
        (Leaf::new().uri(PINGER), 200),
        (Leaf::new().dns("client-99999.example"), 200),
        (Leaf::new().dns("client-100000.example"), 403),
    ] {
        let response = env.client_of(&leaf).get(ponger.address(), "/ping").unwrap();
        assert_eq!(response.status, status, "{leaf:?}");
    }
}

#[test]
fn without_allowed_clients_any_trusted_id_is_allowed() {
    let env = Env::new();
    let ponger = env.start_with(|service| service.allowed_clients.clear());
    let other = env.client_of(&Leaf::new().uri(OTHER));
    assert_eq!(other.get(ponger.address, "/ping").unwrap().status, 200);
    let nameless = env.client_of(&Leaf::new());
    assert_eq!(nameless.get(ponger.address, "/ping").unwrap().status, 403);
    assert!(env.client(None).get(ponger.address, "/ping").is_err());
}

#[test]
fn allows_clients_without_a_certificate_only_where_configured() {
    let env = Env::new();
    for (allow_anonymous, status) in [(false, 403), (true, 200)] {
        let ponger = env.start_with(|service| {
            service.client_auth = Some(ClientAuth::Optional);
            service.allow_anonymous = allow_anonymous;
        });
        let anonymous = env.client(None).get(ponger.address, "/ping").unwrap();
        assert_eq!(anonymous.status, status, "{}", anonymous.body);
        assert_eq!(ponger.metric("tls_peers_total{peer=\"none\"}"), 1.0);
        // A certificate that is presented must be valid, and allowed.
        let other = env.client_of(&Leaf::new().uri(OTHER));
        assert_eq!(other.get(ponger.address, "/ping").unwrap().status, 403);
        let self_signed = env.client(Some(&Leaf::pinger("test").self_signed()));
        let error = self_signed.get(ponger.address, "/ping").unwrap_err();
        assert_eq!(alert(&error), Some(Alert::UnknownCA));
    }
}

#[test]
fn accepts_a_chain_with_its_intermediate() {
    let env = Env::new();
    let ponger = env.start();
    let mut issued = env.ca.intermediate("intermediate").issue(&Leaf::pinger("test"));
    assert_eq!(env.client(Some(&issued)).get(ponger.address, "/ping").unwrap().status, 200);
    let end = issued.chain.find("-----END CERTIFICATE-----\n").unwrap();
    issued.chain.truncate(end + "-----END CERTIFICATE-----\n".len());
    let error = env.client(Some(&issued)).get(ponger.address, "/ping").unwrap_err();
    assert_eq!(alert(&error), Some(Alert::UnknownCA));
}

#[test]
fn negotiates_tls_1_3_with_the_post_quantum_hybrid() {
    let env = Env::new();
    let ponger = env.start();
    env.pinger().get(ponger.address, "/ping").unwrap();
    assert_eq!(ponger.metric(HANDSHAKES), 1.0);
}

#[test]
fn accepts_tls_1_2_only_where_configured() {
    let env = Env::new();
    let client = env.pinger().with_versions(&[&TLS12]);
    let ponger = env.start();
    let error = client.get(ponger.address, "/ping").unwrap_err();
    assert_eq!(alert(&error), Some(Alert::ProtocolVersion));
    let ponger = env.start_with(|service| service.min_tls_version = MinTlsVersion::V1_2);
    assert_eq!(client.get(ponger.address, "/ping").unwrap().body, "pong");
}
