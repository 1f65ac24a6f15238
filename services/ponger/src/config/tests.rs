use std::fs;

use super::*;

const REFERENCE: &str = include_str!("../../../README.md");

/// The original project's configuration, word for word.
const ORIGINAL: &str = "\
service:
  port: 8080
  # If the following are uncommented, then the server will operate over TLS
  tlsCertificate: /app/certs/server.crt
  tlsPrivateKey: /app/certs/server.key

metrics:
  port: 2112
  endpoint: \"/metrics\"
";

fn load(text: &str) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config.yaml");
    fs::write(&file, text).expect("written");
    Config::load(&file)
}

#[test]
fn the_originals_configuration_is_taken() {
    let config = load(ORIGINAL).expect("a configuration");
    assert_eq!(config.service.port, 8080);
    assert_eq!(config.service.tls_certificate, Some("/app/certs/server.crt".into()));
    assert_eq!((config.metrics.port, config.metrics.endpoint.as_str()), (2112, "/metrics"));
    assert_eq!(config.ask(), Ask::No);
}

#[test]
fn keys_that_would_leave_ponger_more_open_than_they_say_are_refused() {
    let tls = "tlsCertificate: a, tlsPrivateKey: b";
    for (text, part) in [
        ("service: {port: 1}".to_owned(), "insecure: true"),
        (format!("insecure: true\nservice: {{{tls}}}"), "leave out the one or the others"),
        ("insecure: true\nservice: {clientCa: c}".to_owned(), "leave out the one or the others"),
        (
            "insecure: true\nservice: {allowedClients: [a]}".to_owned(),
            "leave out the one or the others",
        ),
        (format!("service: {{{tls}, clientAuth: required}}"), "service.clientCa"),
        (format!("service: {{{tls}, clientAuth: optional}}"), "service.clientCa"),
        (format!("service: {{{tls}, clientAuth: none, clientCa: c}}"), "it has no effect"),
        (format!("service: {{{tls}, allowedClients: [a]}}"), "service.allowedClients"),
        (
            format!("service: {{{tls}, clientCa: c, allowAnonymous: true}}"),
            "service.allowAnonymous",
        ),
        (format!("service: {{{tls}, clientCa: c, allowedClients: ['*.a']}}"), "`*.a`"),
        (
            format!("service: {{{tls}, clientCa: c, allowedClients: ['spiffe://A/b']}}"),
            "`spiffe://A/b`",
        ),
        (format!("service: {{{tls}, handshakeTimeout: 0s}}"), "service.handshakeTimeout"),
        ("service: {tlsCertificate: a}".to_owned(), "both are needed"),
    ] {
        let error = load(&text).expect_err(&text).to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn clients_must_show_a_certificate_where_their_roots_are_named() {
    let config = load("service: {tlsCertificate: a, tlsPrivateKey: b, clientCa: c}")
        .expect("a configuration");
    assert_eq!(config.ask(), Ask::Required);
}

#[test]
fn the_reference_has_the_table_of_keys() {
    let table = config::table::<Config>();
    assert!(REFERENCE.contains(&table), "put this into services/README.md:\n{table}");
}

#[test]
fn the_references_example_is_taken() {
    let example = REFERENCE.split("```yaml\n").find(|text| text.starts_with("service:"));
    let (example, _) = example.and_then(|text| text.split_once("```")).expect("an example");
    load(example).expect("a configuration");
}
