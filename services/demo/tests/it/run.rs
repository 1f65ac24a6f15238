//! `cargo run`, as a person sees it.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::support::{has, wait_until};

fn local(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// The folder that the introduction names.
fn folder(text: &str) -> &str {
    let line = text.lines().find_map(|line| line.strip_prefix("Certificates and configurations: "));
    line.and_then(|line| line.split(' ').next()).expect("the folder")
}

#[test]
fn it_ends_by_itself_after_as_many_pongs_as_asked_for_and_leaves_nothing_behind() {
    let output = local(&["--count", "5", "--interval", "20ms"]).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert_eq!(text.matches("Got pong").count(), 5, "{text}");
    assert_eq!(text.matches("Received GET /ping").count(), 5, "{text}");
    assert!(text.starts_with("ponger answers at https://localhost:"), "{text}");
    assert!(
        text.trim_end()
            .lines()
            .last()
            .is_some_and(|line| line.starts_with("5 pings, 5 pongs, 0 lost; median")),
        "{text}"
    );
    let logs = text.lines().filter(|line| line.contains("INFO"));
    assert!(
        logs.into_iter().all(|line| line.starts_with("ponger | ") || line.starts_with("pinger | ")),
        "{text}"
    );
    assert!(!Path::new(folder(&text)).exists());
}

#[test]
fn the_folder_and_the_keys_are_private_and_stay_if_asked_to() {
    let output = local(&["--count", "1", "--interval", "1ms", "--keep"]).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let folder = Path::new(folder(&text));
    let mode =
        |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(folder), 0o700);
    for name in ["ponger", "pinger", "you"] {
        assert_eq!(mode(&folder.join(name).join("tls.key")), 0o600, "{name}");
    }
    std::fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn the_curl_command_that_it_prints_gets_pong() {
    if !has("curl") {
        return;
    }
    let mut process = local(&[]).stdout(Stdio::piped()).spawn().expect("it runs");
    let mut lines =
        BufReader::new(process.stdout.take().expect("its output")).lines().map_while(Result::ok);
    let command =
        lines.find(|line| line.trim_start().starts_with("curl ")).expect("a curl command");
    assert!(!command.contains(" -k") && !command.contains("--insecure"), "{command}");
    // The rest must be read, or it would wait for a reader.
    let rest = std::thread::spawn(move || lines.collect::<Vec<_>>());
    let output = Command::new("sh")
        .args(["-c", &format!("{command} --silent --show-error")])
        .output()
        .expect("curl");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "pong",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );

    // Without the certificate it gets nothing.
    let without: Vec<_> = command.split_whitespace().collect();
    let position = without.iter().position(|word| *word == "--cert").expect("a certificate");
    let without: Vec<_> = without
        .iter()
        .enumerate()
        .filter(|(at, _)| !(position..position + 4).contains(at))
        .map(|(_, word)| *word)
        .collect();
    let refused = Command::new("sh").args(["-c", &without.join(" ")]).output().expect("curl");
    assert!(!refused.status.success());
    assert!(refused.stdout.is_empty());

    kill_process(Pid::from_child(&process), Signal::INT).expect("a signal");
    assert!(process.wait().expect("its end").success());
    let rest = rest.join().expect("its output");
    assert!(rest.last().is_some_and(|line| line.contains(" pings, ")), "{rest:?}");
}

#[test]
fn a_taken_port_is_named_with_its_cure() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("its address").port().to_string();
    let output = local(&["--port", &port]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(78));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains(&port) && text.contains("choose another port"), "{text}");
}

#[test]
fn both_services_end_with_it_however_it_ends() {
    // What it would remove at its end stays when it is killed.
    let folder = tempfile::tempdir().expect("a folder");
    let mut process =
        local(&[]).env("TMPDIR", folder.path()).stdout(Stdio::piped()).spawn().expect("it runs");
    let mut lines =
        BufReader::new(process.stdout.take().expect("its output")).lines().map_while(Result::ok);
    lines.find(|line| line.contains("Got pong")).expect("a pong");
    let children = children(process.id());
    assert_eq!(children.len(), 2);
    process.kill().expect("killed");
    process.wait().expect("gone");
    for child in children {
        // A zombie that nobody reaps counts as gone.
        wait_until("a service ends with its parent", || {
            let status =
                std::fs::read_to_string(format!("/proc/{}/status", child.as_raw_nonzero()))
                    .unwrap_or_default();
            (test_kill_process(child).is_err() || status.contains("State:\tZ")).then_some(())
        });
    }
}

fn children(parent: u32) -> Vec<Pid> {
    let text = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))
        .unwrap_or_default();
    let mut pids: Vec<Pid> =
        text.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect();
    if pids.is_empty() {
        // Children may have been started from another thread.
        for task in
            std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten()
        {
            let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            pids.extend(text.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)));
        }
    }
    pids
}

#[test]
fn it_ends_when_nobody_reads_any_more_and_when_its_terminal_is_gone() {
    let folder = tempfile::tempdir().expect("a folder");
    let start = || {
        let mut command = local(&["--interval", "10ms"]);
        command.env("TMPDIR", folder.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("it runs");
        let mut lines = BufReader::new(process.stdout.take().expect("its output"))
            .lines()
            .map_while(Result::ok);
        lines.find(|line| line.contains("Got pong")).expect("a pong");
        (process, lines)
    };
    let (process, lines) = start();
    drop(lines);
    let output = process.wait_with_output().expect("its end");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");

    let (process, lines) = start();
    kill_process(Pid::from_child(&process), Signal::HUP).expect("a signal");
    let rest = std::thread::spawn(move || lines.count());
    assert!(process.wait_with_output().expect("its end").status.success());
    rest.join().expect("read");
    assert_eq!(
        std::fs::read_dir(folder.path()).expect("the folder").count(),
        0,
        "something is left behind"
    );
}

#[test]
fn a_folder_whose_name_needs_quotes_is_quoted() {
    let folder = tempfile::tempdir().expect("a folder");
    let odd = folder.path().join("it's a: #folder");
    std::fs::create_dir(&odd).expect("made");
    let output = local(&["--count", "1", "--interval", "1ms"])
        .env("TMPDIR", &odd)
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    let command =
        text.lines().find(|line| line.trim_start().starts_with("curl ")).expect("a curl command");
    let words = Command::new("sh")
        .args(["-c", &command.replacen("curl", "printf '%s\\n'", 1)])
        .output()
        .expect("sh");
    let words = String::from_utf8_lossy(&words.stdout).into_owned();
    assert_eq!(words.lines().count(), 7, "{words}");
}
