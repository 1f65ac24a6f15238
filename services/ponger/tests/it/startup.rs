//! What ponger does not start with, and what it says about it.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::symlink,
    process::Command,
};

use chassis::error::ConfigError;
use ponger::{Application, Config};
use testkit::{Ca, Issued, Leaf};
use time::Duration;

use crate::support::Env;

#[track_caller]
fn rejection(config: &Config) -> String {
    let error = Application::build(config).unwrap_err();
    assert!(error.is::<ConfigError>(), "{error:?}");
    error.to_string()
}

#[test]
fn names_file_and_cause_of_a_certificate_that_cannot_be_used() {
    type Damage = fn(&Ca) -> Issued;
    const CASES: &[(&str, &str, Damage)] = &[
        ("tls.key", "it is not the key of the certificate", |ca| {
            let key = ca.issue(&Leaf::ponger("test")).key;
            Issued { key, ..ca.issue(&Leaf::ponger("test")) }
        }),
        ("tls.crt", "the certificate expired at", |ca| {
            ca.issue(&Leaf::ponger("test").valid(-Duration::HOUR, -Duration::MINUTE))
        }),
        ("tls.crt", "is not valid before", |ca| {
            ca.issue(&Leaf::ponger("test").valid(Duration::HOUR, Duration::DAY))
        }),
        ("tls.crt", "has no DNS name or IP address", |ca| {
            ca.issue(&Leaf::new().common_name("ponger"))
        }),
        ("tls.crt", "CA:TRUE", |_| Leaf::ponger("test").ca_true().self_signed()),
        ("tls.crt", "it is empty", |ca| Issued {
            chain: String::new(),
            ..ca.issue(&Leaf::ponger("test"))
        }),
        ("tls.crt", "it holds no certificate: it is not PEM", |ca| Issued {
            chain: "hello".into(),
            ..ca.issue(&Leaf::ponger("test"))
        }),
        ("tls.crt", "cut short", |ca| {
            let mut issued = ca.issue(&Leaf::ponger("test"));
            issued.chain.truncate(issued.chain.len() / 2);
            issued
        }),
        ("tls.key", "cut short", |ca| {
            let mut issued = ca.issue(&Leaf::ponger("test"));
            issued.key.truncate(issued.key.len() - 20);
            issued
        }),
        ("tls.key", "it holds no private key, only: CERTIFICATE", |ca| {
            let issued = ca.issue(&Leaf::ponger("test"));
            Issued { key: issued.chain.clone(), ..issued }
        }),
    ];
    for (file, cause, damaged) in CASES {
        let env = Env::new();
        env.install(&damaged(&env.ca));
        let text = rejection(&env.config());
        assert!(
            text.contains(&format!("/{file} (service.tls")) && text.contains(cause),
            "{cause}: {text}"
        );
    }
}

#[test]
fn names_a_file_that_is_missing_or_not_a_regular_file() {
    let env = Env::new();
    let mut config = env.config();
    config.service.tls_certificate = Some(env.path("missing.crt"));
    let text = rejection(&config);
    assert!(text.contains("missing.crt (service.tlsCertificate): there is no such file"), "{text}");

    let pipe = env.path("pipe.crt");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    config.service.tls_certificate = Some(pipe);
    let text = rejection(&config);
    assert!(text.contains("pipe.crt (service.tlsCertificate): it is not a regular file"), "{text}");

    symlink(env.path("nowhere"), env.path("dangling.crt")).unwrap();
    let mut config = env.config();
    config.service.client_ca = Some(env.path("dangling.crt"));
    assert!(rejection(&config).contains("dangling.crt (service.clientCa)"));
    fs::write(env.path("empty.crt"), "").unwrap();
    config.service.client_ca = Some(env.path("empty.crt"));
    assert!(rejection(&config).contains("empty.crt (service.clientCa): it is empty"));
}

#[test]
fn names_a_port_that_is_taken() {
    let env = Env::new();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let (mut service, mut metrics) = (env.config(), env.config());
    service.service.port = address.port();
    metrics.metrics.port = address.port();
    for (config, keys) in [(service, "service.port"), (metrics, "metrics.port")] {
        let text = rejection(&config);
        assert!(text.contains(&address.to_string()), "{text}");
        assert!(text.contains(keys) && text.contains("choose another port"), "{text}");
    }
}
