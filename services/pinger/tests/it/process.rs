//! pinger as a program: what it prints, its exit codes, and signals.

use std::{
    fmt::Display,
    fs, io,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use chassis::error::EX_CONFIG;
use testkit::{
    Ca, Leaf,
    original::{PINGER_CONFIG, make_certificate},
    process::{Service, Signal, is_installed, with_descriptors},
    wait_until,
};
use time::Duration;

use crate::support::Env;

const PROGRAM: &str = env!("CARGO_BIN_EXE_pinger");

/// Writes a configuration file, with `more` at its top level.
pub(crate) fn write_config(env: &Env, address: SocketAddr, more: impl Display) -> PathBuf {
    let dir = env.pinger.path().display();
    let file = env.dir.path().join("pinger.yaml");
    let text = format!(
        "ponger:
  url: https://{address}
  serverName: localhost
  acceptCert: {dir}/ca.crt
  clientCertificate: {dir}/tls.crt
  clientPrivateKey: {dir}/tls.key
metrics: {{host: 127.0.0.1, port: 0}}
interval: 5ms
timeout: 1m
{more}"
    );
    fs::write(&file, text).unwrap();
    file
}

pub(crate) fn pinger(config: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("-c").arg(config);
    command
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs it, expects that it rejects its configuration, and returns what it prints.
fn rejection(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(EX_CONFIG.into()), "{text}");
    assert!(text.starts_with("pinger: ") && text.lines().count() == 1, "{text}");
    text
}

#[test]
fn rejects_a_trust_bundle_that_cannot_verify_anything() {
    let env = Env::new();
    let config = write_config(&env, ([127, 0, 0, 1], 1).into(), "");
    let expired = Ca::valid("old", -Duration::DAY, -Duration::HOUR);
    let leaf = env.ca.issue(&Leaf::ponger("test"));
    for (contents, reason) in [
        (expired.pem(), "every root in it has expired"),
        (&leaf.chain, "is not a root"),
        (&leaf.key, "it holds no certificate, only: PRIVATE KEY"),
        ("", "it is empty"),
    ] {
        env.pinger.replace(&[("ca.crt", contents.as_bytes())]).unwrap();
        let text = rejection(&mut pinger(&config));
        assert!(
            text.contains("ca.crt (ponger.acceptCert): ") && text.contains(reason),
            "{reason}: {text}"
        );
    }
}

#[test]
fn rejects_a_configuration_that_cannot_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.yaml");
    for (text, reason) in [
        ("ponger: {url: 'https://a', clientCertificate: b}", "one is set without the other"),
        ("ponger: {url: 'http://a'}", "plain HTTP, which requires insecure: true"),
        ("interval: 1s", "ponger.url: required"),
        ("ponger: {url: 'https://a', acceptCert: nowhere.crt}", "nowhere.crt"),
    ] {
        fs::write(&config, text).unwrap();
        let text = rejection(&mut pinger(&config));
        assert!(text.contains(reason), "{reason}: {text}");
    }
}

#[test]
fn names_the_admin_port_that_is_taken() {
    let env = Env::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap();
    let config = write_config(&env, taken, "");
    let port = taken.port().to_string();
    let text = rejection(pinger(&config).env("PINGER__METRICS__PORT", &port));
    assert!(text.contains("metrics.port") && text.contains(&port), "{text}");

    // Nothing is bound to check a configuration.
    let mut check = pinger(&config);
    let output = check.arg("--check-config").env("PINGER__METRICS__PORT", port).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = stdout(&output);
    assert!(text.contains("configuration, certificates and keys are valid"), "{text}");
    fs::remove_file(env.pinger.file("tls.key")).unwrap();
    assert!(rejection(pinger(&config).arg("--check-config")).contains("tls.key"));
}

#[test]
fn prints_version_and_help() {
    let print = |flag| stdout(&Command::new(PROGRAM).arg(flag).output().unwrap());
    assert_eq!(print("--version"), format!("pinger {}\n", env!("CARGO_PKG_VERSION")));
    let help = print("--help");
    for part in ["-c, --config <FILE>", "--check-config", "PINGER__"] {
        assert!(help.contains(part), "{part}: {help}");
    }
}

#[test]
fn fails_if_one_of_a_number_of_pings_was_lost() {
    let env = Env::new();
    let ponger = env.start_ponger(&env.ponger_config());
    let config = write_config(&env, ponger.address, "count: 2\n");
    let run = || pinger(&config).output().unwrap();
    let output = run();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = stdout(&output);
    assert!(text.lines().last().unwrap().contains("2 pings, 2 pongs, 0 lost; median "), "{text}");
    ponger.stop().unwrap();
    let output = run();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stdout(&output).contains("2 pings, 0 pongs, 2 lost (connect_refused 2)"), "{output:?}");
}

#[test]
fn stops_with_a_summary_after_either_signal() {
    let env = Env::new();
    let ponger = env.start_ponger(&env.ponger_config());
    let config = write_config(&env, ponger.address, "");
    for signal in [Signal::TERM, Signal::INT] {
        let mut pinger = Service::spawn(&mut pinger(&config));
        pinger.wait_for("Got pong");
        pinger.signal(signal);
        assert_eq!(pinger.wait().code(), Some(0));
        let log = pinger.log();
        assert!(log.last().unwrap().contains(" 0 lost; median "), "{log:#?}");
    }
}

#[test]
fn reloads_its_certificates_after_sighup() {
    let env = Env::new();
    let ponger = env.start_ponger(&env.ponger_config());
    let config = write_config(&env, ponger.address, "identity: {pollInterval: 1h}\n");
    let mut pinger = Service::spawn(&mut pinger(&config));
    pinger.wait_for("Pinging");
    pinger.signal(Signal::HUP);
    pinger.wait_for("TLS identity unchanged");
    env.issue_pinger(&Leaf::pinger("test"));
    pinger.signal(Signal::HUP);
    pinger.wait_for("TLS identity reloaded");
    assert!(pinger.stop().success());
}

/// Starts pinger with `signal` ignored until it handles it, and sends it from the first moment on,
/// until it logs `until`. It is in its first pause then: with a ping in flight, one stop signal too many
/// would end it at once.
fn signal_while_starting(config: &Path, signal: Signal, until: &str) -> Service {
    let name = if signal == Signal::HUP { "HUP" } else { "TERM" };
    let mut command = Command::new("sh");
    command.args(["-c", &format!("trap '' {name}; echo ready; exec \"$0\" -c \"$1\""), PROGRAM]);
    let mut pinger = Service::spawn(command.arg(config).env("PINGER__INTERVAL", "8760h"));
    pinger.wait_for("ready");
    wait_until(until, || {
        if pinger.count(until) == 0 && pinger.try_wait().is_none() {
            pinger.signal(signal);
            return None;
        }
        Some(())
    });
    pinger
}

#[test]
fn handles_signals_while_it_starts() {
    let env = Env::new();
    let ponger = env.start_ponger(&env.ponger_config());
    let config = write_config(&env, ponger.address, "");
    let mut pinger = signal_while_starting(&config, Signal::HUP, "Pinging");
    assert!(pinger.stop().success());
    let mut pinger = signal_while_starting(&config, Signal::TERM, "Stopping");
    // A busy machine may not complete the start in the time that it has left.
    match pinger.wait().code() {
        Some(0) => pinger.wait_for(" pings, "),
        _ => pinger.wait_for("pinger: stopped by SIGTERM while it was starting"),
    };
}

#[test]
#[cfg(target_os = "linux")]
fn a_signal_ends_it_while_its_start_hangs() {
    use rustix::process::{Pid, kill_process};
    use testkit::process::{full_pipe, wait_until_handled};

    let (_unread, full) = full_pipe();
    let mut command = Command::new(PROGRAM);
    let mut pinger = command.arg("--help").stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    wait_until_handled(pinger.id(), Signal::TERM);
    // Again and again: one in the very moment in which the handler is installed is lost.
    wait_until("the end", || {
        let status = pinger.try_wait().unwrap();
        if status.is_none() {
            kill_process(Pid::from_child(&pinger), Signal::TERM).unwrap();
        }
        status
    });
    let text = io::read_to_string(pinger.stderr.unwrap()).unwrap();
    assert_eq!(text, "pinger: stopped by SIGTERM while it was starting\n");
}

#[test]
fn reloads_the_roots_of_the_system() {
    let env = Env::new();
    let ponger = env.start_ponger(&env.ponger_config());
    let config = write_config(&env, ponger.address, "identity: {pollInterval: 20ms}\n");
    let text = fs::read_to_string(&config).unwrap();
    let without: Vec<_> = text.lines().filter(|line| !line.contains("acceptCert")).collect();
    fs::write(&config, without.join("\n")).unwrap();
    let roots = env.dir.path().join("system.crt");
    fs::write(&roots, env.ca.pem()).unwrap();
    let pinger = Service::spawn(pinger(&config).env("SSL_CERT_FILE", &roots));
    pinger.wait_for("Got pong");
    testkit::write_private(&roots, Ca::new("another").pem()).unwrap();
    pinger.wait_for("reason=\"tls_untrusted\"");
}

#[test]
fn accepts_the_original_configuration_and_certificate() {
    if !is_installed("openssl") {
        return;
    }
    let env = Env::new();
    let dir = env.dir.path();
    make_certificate(dir).unwrap();
    let mut config = env.ponger_config();
    config.service.tls_certificate = Some(dir.join("tls.crt"));
    config.service.tls_private_key = Some(dir.join("tls.key"));
    config.service.client_ca = None;
    config.service.allowed_clients.clear();
    let ponger = env.start_ponger(&config);
    let file = dir.join("config.yaml");
    fs::write(&file, PINGER_CONFIG).unwrap();
    // Paths and ports of this machine come from the environment.
    let output = pinger(&file)
        .env("PINGER__PONGER__URL", format!("https://{}", ponger.address))
        // The certificate is for `ponger` and nothing else.
        .env("PINGER__PONGER__SERVER_NAME", "ponger")
        .env("PINGER__PONGER__ACCEPT_CERT", dir.join("tls.crt"))
        .env("PINGER__INTERVAL", "10ms")
        .env("PINGER__COUNT", "5")
        .env("PINGER__METRICS__PORT", "0")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(stdout(&output).matches("Got pong").count(), 5);
}

#[test]
fn rejects_a_descriptor_limit_that_is_too_low() {
    let env = Env::new();
    let ponger = env.start_ponger(&env.ponger_config());
    let config = write_config(&env, ponger.address, "count: 1\n");
    let run = |limit| with_descriptors(limit, PROGRAM).arg("-c").arg(&config).output().unwrap();
    let output = run(16);
    assert_eq!(output.status.code(), Some(EX_CONFIG.into()), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("the limit of open files: "));
    for limit in (10..40).step_by(3) {
        let output = run(limit);
        let rejected = output.status.code() == Some(EX_CONFIG.into());
        assert!(rejected || output.status.success(), "{limit}: {output:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!text.contains("panicked"), "{limit}: {text}");
    }
}
