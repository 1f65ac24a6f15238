use std::fs;

use super::*;

fn load(text: &str) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    fs::write(&file, text).unwrap();
    Config::load(Some(&file))
}

#[test]
fn accepts_configuration_of_the_original_project() {
    let config = load(testkit::original::PONGER_CONFIG).unwrap();
    assert_eq!(config.service.port, 8080);
    assert_eq!(config.service.tls_certificate, Some("/app/certs/server.crt".into()));
    assert_eq!((config.metrics.port, config.metrics.endpoint.as_str()), (2112, "/metrics"));
    assert_eq!(config.client_auth(), ClientAuth::None);
}

#[test]
fn rejects_keys_that_conflict_or_have_no_effect() {
    let tls = "tlsCertificate: a, tlsPrivateKey: b";
    let conflict = "insecure: `insecure: true` conflicts with the TLS settings; remove one of them";
    for (text, message) in [
        ("service: {port: 1}", "required unless insecure is true; set them to PEM files"),
        ("insecure: true\nservice: {TLS}", conflict),
        ("insecure: true\nservice: {clientCa: c}", conflict),
        ("insecure: true\nservice: {clientAuth: none}", conflict),
        ("insecure: true\nservice: {allowedClients: [a]}", conflict),
        ("insecure: true\nservice: {allowAnonymous: true}", conflict),
        ("service: {tlsCertificate: a}", "one is set without the other"),
        ("service: {TLS, clientAuth: required}", "service.clientAuth: requires service.clientCa"),
        ("service: {TLS, clientAuth: optional}", "service.clientAuth: requires service.clientCa"),
        ("service: {TLS, clientAuth: none, clientCa: c}", "service.clientCa: has no effect with"),
        ("service: {TLS, allowedClients: [a]}", "service.allowedClients: has no effect without"),
        (
            "service: {TLS, clientCa: c, allowAnonymous: true}",
            "service.allowAnonymous: has no effect",
        ),
        ("service: {TLS, clientCa: c, allowedClients: ['*.a']}", "service.allowedClients: `*.a`"),
        ("service: {TLS, clientCa: c, allowedClients: [spiffe://A/b]}", "`spiffe://A/b`"),
        ("service: {TLS, handshakeTimeout: 0s}", "service.handshakeTimeout: it is zero; use"),
        (
            "service: {TLS, maxConnections: 0}",
            "service.maxConnections: it is out of range; expected",
        ),
        ("service: {TLS, maxConnections: 1000001}", "service.maxConnections: it is out of range"),
        ("service: {TLS, port: 2112}", "service.port: it equals metrics.port; choose another"),
        ("service: {TLS, host: '::', port: 2112}", "service.port: it equals metrics.port"),
        ("identity: {pollInterval: 0s}", "identity.pollInterval: it is zero; use a duration"),
        ("faults: true\nmetrics: {endpoint: /faults}", "metrics.endpoint: `faults: true` serves"),
        ("metrics: {endpoint: /livez}", "metrics.endpoint: `/livez` is the path of a probe"),
    ] {
        let error = load(&text.replace("TLS", tls)).expect_err(text).to_string();
        assert!(error.contains(message), "{text}: {error}");
    }
    for text in [
        "service: {TLS, port: 0}\nmetrics: {port: 0}",
        "service: {TLS, host: 127.0.0.1, port: 2112}\nmetrics: {host: 127.0.0.2}",
        "service: {TLS, clientCa: c, allowedClients: [' ponger', spiffe://a/b]}",
    ] {
        load(&text.replace("TLS", tls)).unwrap();
    }
}

#[test]
fn requires_client_certificates_where_their_ca_is_set() {
    let config = load("service: {tlsCertificate: a, tlsPrivateKey: b, clientCa: c}").unwrap();
    assert_eq!(config.client_auth(), ClientAuth::Required);
}
