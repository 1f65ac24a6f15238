//! What pinger says before it pings, and what it refuses to start with.

use std::{fs, path::Path, process::Command};

use testkit::{Ca, Leaf};
use time::Duration;

const PROGRAM: &str = env!("CARGO_BIN_EXE_pinger");

fn refused(config: &Path) -> String {
    let output = Command::new(PROGRAM).arg("-c").arg(config).output().expect("pinger");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.starts_with("pinger: "), "{text}");
    text
}

#[test]
fn roots_that_vouch_for_nobody_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let roots = folder.path().join("ca.crt");
    let config = folder.path().join("config.yaml");
    fs::write(
        &config,
        format!("ponger: {{url: 'https://localhost', acceptCert: {}}}\n", roots.display()),
    )
    .expect("written");
    let expired = Ca::valid("old", -Duration::DAY, -Duration::HOUR);
    let leaf = Ca::new("some").issue(&Leaf::ponger("test"));
    for (contents, cause) in [
        (expired.pem().to_owned(), "every root in it has expired"),
        (leaf.chain, "is no root"),
        (leaf.key, "it holds a private key"),
        (String::new(), "it is empty"),
    ] {
        fs::write(&roots, contents).expect("written");
        let text = refused(&config);
        assert!(text.contains("ca.crt") && text.contains(cause), "{cause}: {text}");
    }
}

#[test]
fn half_an_identity_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config.yaml");
    fs::write(&config, "ponger: {url: 'https://localhost', clientCertificate: /nowhere/tls.crt}\n")
        .expect("written");
    assert!(refused(&config).contains("one is set without the other"));
}

#[test]
fn it_tells_its_version_and_its_flags() {
    let say = |flag| {
        String::from_utf8(Command::new(PROGRAM).arg(flag).output().expect("pinger").stdout)
            .expect("text")
    };
    assert_eq!(say("--version"), format!("pinger {}\n", env!("CARGO_PKG_VERSION")));
    let help = say("--help");
    for part in [
        "-c, --config <FILE>",
        "[default: config.yaml, if it exists]",
        "--check-config",
        "PINGER__",
    ] {
        assert!(help.contains(part), "{part}: {help}");
    }
}
