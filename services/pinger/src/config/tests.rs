use std::fs;

use super::*;

const REFERENCE: &str = include_str!("../../../README.md");

/// The original project's configuration, word for word.
const ORIGINAL: &str = "\
ponger:
  url: https://ponger:8080
  # If uncommented, acceptCert will add
  # the certificates listed in the file to
  # the list of accepted certificates
  acceptCert: /app/certs/server.crt
";

fn load(text: &str) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config.yaml");
    fs::write(&file, text).expect("written");
    Config::load(&file)
}

#[test]
fn the_originals_configuration_is_taken() {
    let target = load(ORIGINAL).and_then(|config| config.target()).expect("a configuration");
    assert_eq!(
        (target.host.as_str(), target.port, target.path.as_str()),
        ("ponger", 8080, "/ping")
    );
    assert_eq!(target.tls, Some(ServerName::try_from("ponger").expect("a name")));
}

#[test]
fn urls_are_taken_apart() {
    for (url, host, port, path) in [
        ("https://ponger", "ponger", 443, "/ping"),
        ("https://ponger/", "ponger", 443, "/ping"),
        ("https://ponger:8443/a/ping", "ponger", 8443, "/a/ping"),
        ("https://127.0.0.1:1", "127.0.0.1", 1, "/ping"),
        ("https://[::1]:8443", "::1", 8443, "/ping"),
        ("https://[::1]", "::1", 443, "/ping"),
        ("HTTPS://ponger.example", "ponger.example", 443, "/ping"),
    ] {
        let config = load(&format!("ponger: {{url: '{url}'}}")).expect(url);
        let target = config.target().expect(url);
        assert_eq!(
            (target.host.as_str(), target.port, target.path.as_str()),
            (host, port, path),
            "{url}"
        );
    }
}

#[test]
fn what_is_no_url_for_a_ping_is_refused() {
    for url in [
        "ponger",
        "/ping",
        "ponger:8080",
        "//ponger",
        "https://",
        "https:///ping",
        "https://:8080",
        "ftp://ponger",
        "https://ponger:0",
        "https://ponger:65536",
        "https://ponger:",
        "https://ponger:-1",
        "https://ponger:x",
        "https://user@ponger",
        "https://user:secret@ponger",
        "https://ponger/ping?x=1",
        "https://ponger/#x",
        "https://pon ger",
        "https://[::1",
        "https://pönger",
        "https://-",
        "http://ponger",
        "unix:/run/ponger",
        "",
    ] {
        let error = load(&format!("ponger: {{url: '{url}'}}")).expect_err(url).to_string();
        assert!(error.contains("ponger.url"), "{url}: {error}");
    }
    assert!(
        load("interval: 1s").expect_err("no url").to_string().contains("ponger.url: it is missing")
    );
}

#[test]
fn keys_that_exclude_each_other_are_refused() {
    for (text, part) in [
        ("insecure: true\nponger: {url: 'https://a'}", "insecure"),
        ("insecure: true\nponger: {url: 'http://a', acceptCert: b}", "insecure"),
        ("insecure: true\nponger: {url: 'http://a', serverId: 'spiffe://a/b'}", "insecure"),
        ("insecure: true\nponger: {url: 'http://a'}\nrefusal: {interval: 1s}", "insecure"),
        (
            "ponger: {url: 'https://a', clientCertificate: b}",
            "one is there and the other is missing",
        ),
        ("ponger: {url: 'https://a', serverId: 'spiffe://a'}", "ponger.serverId"),
        ("ponger: {url: 'https://a', serverId: ponger}", "ponger.serverId"),
        ("ponger: {url: 'https://a'}\nrefusal: {notReady: true}", "refusal.notReady"),
        ("ponger: {url: 'https://a'}\ntimeout: 0s", "timeout"),
    ] {
        let error = load(text).expect_err(text).to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn the_reference_has_the_table_of_keys() {
    let table = config::table::<Config>();
    assert!(REFERENCE.contains(&table), "put this into services/README.md:\n{table}");
}

#[test]
fn the_references_example_is_taken() {
    let example = REFERENCE.split("```yaml\n").find(|text| text.starts_with("ponger:"));
    let (example, _) = example.and_then(|text| text.split_once("```")).expect("an example");
    load(example).expect("a configuration");
}
