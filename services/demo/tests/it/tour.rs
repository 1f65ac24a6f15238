//! `cargo run -- --tour`, and the tour of the README.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use chassis::failure::FailureReason;
use tempfile::TempDir;
use testkit::{
    client::plain_get,
    process::{Service, Signal, is_installed},
    wait_until,
};

const DEMO: &str = env!("CARGO_BIN_EXE_demo");

fn tour(temporary: &TempDir) -> Command {
    let mut command = Command::new(DEMO);
    command.arg("--tour").stdin(Stdio::null()).env("TMPDIR", temporary.path());
    command
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).unwrap().next().is_none()
}

/// The quoted text after `before`.
fn quoted<'t>(text: &'t str, before: &str) -> &'t str {
    let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("no `{before}` in {text}"));
    rest.split('"').next().unwrap()
}

#[test]
fn each_step_of_the_tour_ends_for_its_reason_on_both_sides() {
    let temporary = tempfile::tempdir().unwrap();
    let Output { status, stdout, stderr } = tour(&temporary).output().unwrap();
    let text = String::from_utf8(stdout).unwrap();
    assert!(status.success(), "{text}{}", String::from_utf8_lossy(&stderr));
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    assert!(!text.contains('\u{1b}') && is_empty(temporary.path()), "{text}");

    let mut ends = Vec::new();
    for step in text.split("Step ").skip(1) {
        let result = quoted(step, "pinger_pings_total{result=\"");
        let is_reason = FailureReason::ALL.iter().any(|reason| reason.label() == result);
        assert!(is_reason || result == "pong", "{step}");
        let logged = if is_reason { &format!("reason=\"{result}\"") } else { "Got pong" };
        assert!(step.contains(logged), "{logged}: {step}");

        let count = step.rsplit_once("\nand ponger ").unwrap().1;
        let (label, logged) = match count.split('{').next().unwrap() {
            "tls_handshake_failures_total" => ("reason=\"", "reason="),
            "ponger_authz_total" => ("reason=\"", "denied="),
            "ponger_faults_injected_total" => ("kind=\"", "kind="),
            other => panic!("{other}: {step}"),
        };
        let counted = quoted(count, label);
        let line = format!("{logged}\"{counted}\"");
        assert!(step.contains(&line) || counted == "peer_id", "{line}: {step}");
        ends.push((result, counted));
    }
    let expected = [
        ("pong", "peer_id"),
        ("tls_refused_by_peer", "tls_no_certificate"),
        ("tls_refused_by_peer", "tls_untrusted"),
        ("denied", "not_allowed"),
        ("tls_refused_by_peer", "tls_expired"),
        ("tls_refused_by_peer", "tls_untrusted"),
        ("body", "tls_protocol"),
        ("request_timeout", "delay"),
        ("status", "error"),
    ];
    assert_eq!(ends, expected);
    assert!(text.ends_with("All 9 steps ended as expected.\n"), "{text}");
}

#[test]
fn a_signal_ends_the_tour() {
    let temporary = tempfile::tempdir().unwrap();
    let mut demo = Service::spawn(&mut tour(&temporary));
    demo.wait_for("Step 2 of 9");
    demo.signal(Signal::INT);
    assert_eq!(demo.wait().code(), Some(1));
    // Not the last line: those of standard output arrive by another pipe.
    let log = demo.log();
    let is_end =
        |line: &String| line.starts_with("demo: Step ") && line.ends_with(": stopped by SIGINT");
    assert!(log.iter().any(is_end), "{log:#?}");
    assert!(is_empty(temporary.path()));
}

/// The commands of the README's tour, in order.
fn commands_of_readme() -> Vec<String> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
    let readme = fs::read_to_string(file).unwrap();
    let section = readme.split("\n## ").find(|section| section.starts_with("The tour\n")).unwrap();
    let blocks = section.split("```").skip(1).step_by(2);
    let lines = blocks.filter_map(|block| block.strip_prefix("sh\n")).flat_map(str::lines);
    lines.map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn the_tour_of_the_readme_shows_what_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let commands = commands_of_readme();
    let [run, break_it, repair, without, trust_both, renew, trust_second] = &commands[..] else {
        panic!("seven commands: {commands:#?}");
    };
    let run = run.replace("cargo run --", &format!("exec {DEMO}"));
    let mut demo = Service::spawn(
        Command::new("sh").args(["-c", &run.replace("--port 8443", "--port 0")]).current_dir(&dir),
    );
    let port = demo.address().port().to_string();
    let sh = |command: &str| {
        let command = command.replace("8443", &port);
        Command::new("sh").args(["-c", &command]).current_dir(&dir).output().unwrap()
    };
    let line = demo.wait_for("Pinging ");
    let admin = line.split_once("admin=").and_then(|(_, rest)| rest.split(' ').next()).unwrap();
    let page = || plain_get(admin.parse().unwrap(), "/").unwrap().body;
    assert_eq!(demo.log()[0], format!("Live page: http://{}/", admin));
    demo.wait_for("Got pong");
    for part in ["mutual TLS", "TLSv1.3", "X25519MLKEM768", "first root"] {
        wait_until(part, || page().contains(part).then_some(()));
    }

    assert!(sh(break_it).status.success());
    let line = demo.wait_for("TLS identity reload failed, keeping the current identity");
    assert!(line.starts_with("pinger | ") && line.contains("unit=\"certificate\""), "{line}");
    wait_until("a warning", || {
        page().contains("the certificate on disk is rejected").then_some(())
    });
    assert!(sh(repair).status.success());
    demo.wait_for("TLS identity unchanged: the files hold the current one again");

    if is_installed("curl") {
        let output = sh(without);
        assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
        let line = demo.wait_for("TLS handshake failed");
        assert!(line.contains("reason=\"tls_no_certificate\""), "{line}");
    }

    for (command, unit, count) in [
        (trust_both, "trust_bundle", 2),
        (renew, "certificate", 2),
        (trust_second, "trust_bundle", 4),
    ] {
        assert!(sh(command).status.success(), "{command}");
        demo.wait_for_nth(count, &format!("TLS identity reloaded unit=\"{unit}\""));
    }
    demo.wait_for_nth(demo.count("Got pong") + 2, "Got pong");
    wait_until("the new issuer", || page().contains("second root").then_some(()));
    assert!(demo.stop().success());
    let log = demo.log();
    assert!(log.last().unwrap().contains(" 0 lost; "), "{log:#?}");
}
