//! pinger's rejection probe is rejected as any client is, and counted and logged apart.

use chassis::tls::{ALPN, REJECTION_PROBE_ALPN, server::ClientAuth};
use rustls::AlertDescription as Alert;
use testkit::{
    Leaf,
    client::{TlsClient, alert},
};
use time::Duration;

use crate::support::Env;

fn failures(reason: &str) -> String {
    format!("tls_handshake_failures_total{{reason=\"{reason}\"}}")
}

fn probes(reason: &str) -> String {
    format!("ponger_rejection_probes_total{{reason=\"{reason}\"}}")
}

/// `client`, which says that it is a rejection probe.
fn marked(client: TlsClient) -> TlsClient {
    client.with_protocols(&[ALPN, REJECTION_PROBE_ALPN])
}

#[test]
fn counts_probes_apart_only_from_the_address_of_an_authorized_client() {
    let env = Env::new();
    let ponger = env.start();
    let expired = Leaf::pinger("test").valid(-Duration::HOUR, -Duration::MINUTE);
    let [no_certificate, untrusted, expired] = [
        env.client(None),
        env.client(Some(&Leaf::pinger("test").self_signed())),
        env.client_of(&expired),
    ];
    let check = |client: &TlsClient, expected, metric: String| {
        let before = ponger.metric(&metric);
        let error = client.get(ponger.address, "/ping").unwrap_err();
        assert_eq!(alert(&error), Some(expected), "{metric}: {error:?}");
        ponger.wait_for_value(&metric, |count| count == before + 1.0);
    };
    let probe = marked(no_certificate.clone());
    check(&probe, Alert::CertificateRequired, failures("tls_no_certificate"));
    assert_eq!(env.pinger().get(ponger.address, "/ping").unwrap().body, "pong");
    check(&probe, Alert::CertificateRequired, probes("tls_no_certificate"));
    check(&marked(untrusted), Alert::UnknownCA, probes("tls_untrusted"));
    // Of another kind, and of a client that is no probe.
    check(&marked(expired), Alert::CertificateExpired, failures("tls_expired"));
    check(&no_certificate, Alert::CertificateRequired, failures("tls_no_certificate"));
    assert_eq!(ponger.metric(&failures("tls_no_certificate")), 2.0);
    assert_eq!(ponger.metric(&failures("tls_untrusted")), 0.0);
}

#[test]
fn a_client_that_is_not_allowed_makes_no_address_known() {
    let env = Env::new();
    let ponger = env.start();
    let other = env.client_of(&Leaf::new().uri(crate::support::OTHER));
    assert_eq!(other.get(ponger.address, "/ping").unwrap().status, 403);
    marked(env.client(None)).get(ponger.address, "/ping").unwrap_err();
    ponger.wait_for_metric(&failures("tls_no_certificate"), 1.0);
    assert_eq!(ponger.metric(&probes("tls_no_certificate")), 0.0);
}

#[test]
fn a_marked_client_is_served_and_denied_as_any_other() {
    let env = Env::new();
    let ponger = env.start_with(|service| service.client_auth = Some(ClientAuth::Optional));
    assert_eq!(marked(env.pinger()).get(ponger.address, "/ping").unwrap().body, "pong");
    assert_eq!(marked(env.client(None)).get(ponger.address, "/ping").unwrap().status, 403);
    let denied = "ponger_authz_total{decision=\"denied\",reason=\"no_certificate\"}";
    assert_eq!(ponger.metric(denied), 1.0);
}

#[test]
fn logs_no_warning_for_a_probe() {
    let env = Env::new();
    let mut ponger = env.spawn("  clientAuth: optional\n");
    let address = ponger.address();
    let untrusted = env.client(Some(&Leaf::pinger("test").self_signed()));
    assert_eq!(env.pinger().get(address, "/ping").unwrap().body, "pong");
    marked(untrusted.clone()).get(address, "/ping").unwrap_err();
    assert_eq!(marked(env.client(None)).get(address, "/ping").unwrap().status, 403);
    // Their lines would come first.
    untrusted.get(address, "/ping").unwrap_err();
    assert!(ponger.wait_for("TLS handshake failed").contains("suppressed=0"));
    assert_eq!(env.client(None).get(address, "/ping").unwrap().status, 403);
    ponger.wait_for("denied=\"no_certificate\"");
    assert!(ponger.stop().success());
    assert_eq!(ponger.count("WARN"), 2, "{:#?}", ponger.log());
}
