//! What ponger says before it serves, and what it refuses to start with.

use std::{
    fs,
    net::TcpListener,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use testkit::{Ca, Leaf};
use time::Duration;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ponger");

/// A folder with a good certificate and a good configuration.
struct Stage {
    folder: tempfile::TempDir,
    ca: Ca,
}

impl Stage {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let ca = Ca::new("test");
        fs::write(folder.path().join("ca.crt"), ca.pem()).expect("the root");
        ca.issue(&Leaf::ponger("test")).write(folder.path()).expect("a certificate");
        let stage = Self { folder, ca };
        stage.configure("");
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn configure(&self, more: &str) {
        let at = self.folder.path().display();
        let text = format!(
            "service:\n  host: 127.0.0.1\n  port: 0\n  tlsCertificate: {at}/tls.crt\n  tlsPrivateKey: {at}/tls.key\n\
             {more}metrics: {{host: 127.0.0.1, port: 0}}\n"
        );
        fs::write(self.path("config.yaml"), text).expect("written");
    }

    /// Starts ponger, which must refuse, and gives what it says.
    fn refused(&self) -> String {
        refused(Command::new(PROGRAM).arg("-c").arg(self.path("config.yaml")))
    }
}

fn refused(command: &mut Command) -> String {
    let output = command.output().expect("ponger");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.starts_with("ponger: "), "{text}");
    text
}

fn check(path: &Path) -> std::process::Output {
    Command::new(PROGRAM).arg("--check-config").arg("-c").arg(path).output().expect("ponger")
}

#[test]
fn identities_that_cannot_be_used_are_refused_with_file_cause_and_cure() {
    type Damage = fn(&Stage);
    let cases: &[(&str, &str, Damage)] = &[
        ("tls.key", "it is not the key of the certificate", |stage| {
            let other = stage.ca.issue(&Leaf::ponger("test"));
            fs::write(stage.path("tls.key"), other.key).expect("written");
        }),
        ("tls.crt", "the certificate expired at", |stage| {
            let leaf = Leaf::ponger("test").valid(-Duration::HOUR, -Duration::MINUTE);
            stage.ca.issue(&leaf).write(stage.folder.path()).expect("written");
        }),
        ("tls.crt", "is not valid before", |stage| {
            let leaf = Leaf::ponger("test").valid(Duration::HOUR, Duration::DAY);
            stage.ca.issue(&leaf).write(stage.folder.path()).expect("written");
        }),
        ("tls.crt", "has no DNS name or IP address", |stage| {
            stage
                .ca
                .issue(&Leaf::new().common_name("ponger"))
                .write(stage.folder.path())
                .expect("written");
        }),
        ("tls.crt", "CA:TRUE", |stage| {
            Leaf::ponger("test")
                .ca_true()
                .self_signed()
                .write(stage.folder.path())
                .expect("written");
        }),
        ("tls.crt", "it is empty", |stage| fs::write(stage.path("tls.crt"), "").expect("written")),
        ("tls.crt", "it holds no certificate: it is not PEM", |stage| {
            fs::write(stage.path("tls.crt"), "hello").expect("written");
        }),
        ("tls.crt", "cut short", |stage| {
            let text = fs::read_to_string(stage.path("tls.crt")).expect("read");
            fs::write(stage.path("tls.crt"), &text[..text.len() / 2]).expect("written");
        }),
        ("tls.key", "cut short", |stage| {
            let text = fs::read_to_string(stage.path("tls.key")).expect("read");
            fs::write(stage.path("tls.key"), &text[..text.len() - 20]).expect("written");
        }),
        ("tls.key", "it holds no private key, only: CERTIFICATE", |stage| {
            fs::copy(stage.path("tls.crt"), stage.path("tls.key")).expect("copied");
        }),
        ("tls.crt", "there is no such file", |stage| {
            fs::remove_file(stage.path("tls.crt")).expect("removed");
        }),
    ];
    for (file, cause, damage) in cases {
        let stage = Stage::new();
        damage(&stage);
        let text = stage.refused();
        assert!(
            text.contains(&stage.path(file).display().to_string()) && text.contains(cause),
            "{cause}: {text}"
        );
    }
}

#[test]
fn a_key_that_may_not_be_read_is_refused() {
    let stage = Stage::new();
    let key = stage.path("tls.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o000)).expect("changed");
    let mut command = Command::new(PROGRAM);
    if rustix::process::geteuid().is_root() {
        // Root may read everything: ponger is started as nobody, from where nobody may go.
        let program = stage.path("ponger");
        fs::copy(PROGRAM, &program).expect("copied");
        for path in [stage.folder.path(), &program] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("changed");
        }
        command = Command::new(program);
        command.uid(65534).gid(65534);
    }
    let text = refused(command.arg("-c").arg(stage.path("config.yaml")));
    assert!(
        text.contains("tls.key") && text.contains("permission denied") && text.contains("uid "),
        "{text}"
    );
}

#[test]
fn a_taken_port_is_named_with_its_cure() {
    let stage = Stage::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("its address").port().to_string();
    for variable in ["PONGER__SERVICE__PORT", "PONGER__METRICS__PORT"] {
        let mut command = Command::new(PROGRAM);
        let text = refused(command.arg("-c").arg(stage.path("config.yaml")).env(variable, &port));
        assert!(
            text.contains(&format!("127.0.0.1:{port}")) && text.contains("choose another port"),
            "{text}"
        );
    }
}

#[test]
fn a_configuration_is_checked_with_its_certificates_and_no_port_is_bound() {
    let stage = Stage::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = stage.folder.path().display();
    let config = stage.path("other.yaml");
    let port = taken.local_addr().expect("its address").port();
    fs::write(
        &config,
        format!(
            "service: {{port: {port}, tlsCertificate: {at}/tls.crt, tlsPrivateKey: {at}/tls.key}}\n"
        ),
    )
    .expect("written");
    let output = check(&config);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        String::from_utf8_lossy(&output.stdout)
            .contains("configuration, certificates and keys are valid")
    );
    fs::remove_file(stage.path("tls.key")).expect("removed");
    assert_eq!(check(&config).status.code(), Some(78));
}

#[test]
fn it_tells_its_version_and_its_flags() {
    let say = |flag| {
        String::from_utf8(Command::new(PROGRAM).arg(flag).output().expect("ponger").stdout)
            .expect("text")
    };
    assert_eq!(say("--version"), format!("ponger {}\n", env!("CARGO_PKG_VERSION")));
    let help = say("--help");
    for part in [
        "-c, --config <FILE>",
        "[default: config.yaml, if it exists]",
        "--check-config",
        "PONGER__",
    ] {
        assert!(help.contains(part), "{part}: {help}");
    }
}

#[test]
fn nothing_falls_back_to_plain_http() {
    let stage = Stage::new();
    for text in ["service: {port: 0}\n", "log: {level: info}\n"] {
        fs::write(stage.path("config.yaml"), text).expect("written");
        let said = stage.refused();
        assert!(said.contains("insecure: true"), "{said}");
    }
}
