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
    let target = load(testkit::original::PINGER_CONFIG).and_then(|config| config.target()).unwrap();
    assert_eq!(
        (target.host.as_str(), target.port, target.path.as_str()),
        ("ponger", 8080, "/ping")
    );
    assert_eq!(target.server_name, Some(ServerName::try_from("ponger").unwrap()));
}

#[test]
fn parses_url() {
    for (url, host, port, path) in [
        ("https://ponger", "ponger", 443, "/ping"),
        ("https://ponger/", "ponger", 443, "/"),
        ("https://ponger:8443/a/ping", "ponger", 8443, "/a/ping"),
        ("https://ponger/readyz?verbose", "ponger", 443, "/readyz?verbose"),
        ("https://ponger/?a=/b", "ponger", 443, "/?a=/b"),
        ("https://ponger?a=/b", "ponger", 443, "/?a=/b"),
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
fn rejects_url_that_cannot_be_pinged() {
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
        "http://user:secret@ponger",
        "user:secret@ponger",
        "https://user:secret@pon ger",
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
        assert!(!error.contains("secret"), "{url}: {error}");
    }
    let error = load("interval: 1s").unwrap_err().to_string();
    assert!(error.contains("ponger.url: required; set it to a URL"), "{error}");
}

#[test]
fn rejects_keys_that_conflict_or_have_no_effect() {
    let conflict = "insecure: `insecure: true` conflicts with the TLS settings; remove one of them";
    for (text, message) in [
        (
            "insecure: true\nponger: {URL}",
            "conflicts with the `https` URL in ponger.url; remove it",
        ),
        ("insecure: true\nponger: {url: 'http://a', acceptCert: b}", conflict),
        ("insecure: true\nponger: {url: 'http://a', serverId: 'spiffe://a/b'}", conflict),
        ("insecure: true\nponger: {url: 'http://a'}\nrejectionProbe: {interval: 1s}", conflict),
        ("ponger: {URL, clientCertificate: b}", "one is set without the other; set both"),
        ("ponger: {URL, serverId: 'spiffe://a'}", "ponger.serverId: `spiffe://a`: "),
        ("ponger: {URL, serverId: ponger}", "ponger.serverId: `ponger`: "),
        (
            "ponger: {URL}\nrejectionProbe: {notReady: true}",
            "rejectionProbe.notReady: has no effect",
        ),
        (
            "ponger: {URL}\nrejectionProbe: {credentials: [no_certificate, no_certificate]}",
            "rejectionProbe.credentials: it names a credential twice",
        ),
        (
            "ponger: {URL}\nrejectionProbe: {credentials: [invalid_signature]}",
            "rejectionProbe.credentials: `invalid_signature` is pinger's own certificate",
        ),
        (
            "ponger: {URL}\nrejectionProbe: {interval: 1ms}",
            "rejectionProbe.interval: it is shorter",
        ),
        (
            "ponger: {URL}\ntimeout: 0s",
            "timeout: it is shorter than connectTimeout, 2s; increase it",
        ),
        ("ponger: {URL}\ntimeout: 1999ms", "timeout: it is shorter than connectTimeout, 2s"),
        ("ponger: {URL, endpoints: some}", "ponger.endpoints"),
        ("ponger: {URL, resolveInterval: 999ms}", "ponger.resolveInterval: it is shorter than 1s"),
        ("ponger: {URL}\nconnectTimeout: 0s", "connectTimeout: it is zero"),
        ("ponger: {URL}\nexpect: {status: 100}", "expect.status: 100 is no final status; use"),
        ("ponger: {URL}\nexpect: {status: 600}", "expect.status: 600 is no final status; use"),
        ("ponger: {URL}\nexpect: {header: a}", "expect.header`: `a` is not a header"),
        ("ponger: {URL}\nexpect: {bodyMatch: regex}", "expect.bodyMatch"),
        ("ponger: {URL}\nexpect: {body: a, bodyMatch: any}", "expect.body: has no effect"),
        (
            "ponger: {URL}\nexpect: {status: 403}\nrejectionProbe: {interval: 1s}",
            "expect.status: the rejection probe takes this status for a rejection; expect another",
        ),
    ] {
        let error = load(&text.replace("URL", "url: 'https://a'")).expect_err(text).to_string();
        assert!(error.contains(message), "{text}: {error}");
    }
    load("ponger: {url: 'https://a'}\ntimeout: 2s\nrejectionProbe: {interval: 1s}").unwrap();
    load("ponger: {url: 'https://a'}\nexpect: {status: 403, bodyMatch: any}").unwrap();
}
