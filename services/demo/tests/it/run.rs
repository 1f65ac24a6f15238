//! `cargo run`, as a person sees it.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

#[cfg(target_os = "linux")]
use testkit::process::wait_until_handled;
use testkit::{
    process::{Service, Signal, is_installed},
    wait_until,
};

/// A directory for temporary files, to see what is left in it.
struct Temp(tempfile::TempDir);

impl Temp {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn demo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
        command.args(arguments).stdin(Stdio::null()).env("TMPDIR", self.0.path());
        command
    }

    fn entries(&self) -> Vec<PathBuf> {
        fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

fn run(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

/// The printed curl command.
fn curl_command(text: &str) -> &str {
    text.lines().map(str::trim_start).find(|line| line.starts_with("curl ")).unwrap()
}

#[test]
fn exits_after_a_number_of_pongs_and_leaves_nothing_behind() {
    let temp = Temp::new();
    let (code, text) = run(&mut temp.demo(&["--count", "5", "--interval", "20ms"]));
    assert_eq!(code, Some(0), "{text}");
    assert!(text.starts_with("Live page: http://127.0.0.1:"), "{text}");
    assert!(text.contains("\nponger serves https://localhost:"), "{text}");
    for (event, count) in [("pinger | ", 1), ("Got pong", 5), ("Received GET /ping", 5)] {
        assert!(text.matches(event).count() >= count, "{event}: {text}");
    }
    let summary = text.trim_end().lines().last().unwrap();
    assert!(summary.starts_with("5 pings, 5 pongs, 0 lost; median "), "{text}");
    let mut logs = text.lines().filter(|line| line.contains(" INFO "));
    assert!(logs.all(|line| line.starts_with("ponger | ") || line.starts_with("pinger | ")));
    assert!(!text.contains("group="), "{text}");
    assert_eq!(temp.entries(), [] as [PathBuf; 0]);
}

#[test]
fn keeps_a_private_directory_where_asked_to() {
    let temp = Temp::new();
    let (code, text) = run(&mut temp.demo(&["--count", "1", "--interval", "1ms", "--keep"]));
    assert_eq!(code, Some(0), "{text}");
    let [dir] = &temp.entries()[..] else { panic!("one directory: {text}") };
    let last = text.trim_end().lines().last().unwrap();
    assert_eq!(last, format!("Certificates and configurations stay in {}", dir.display()));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(dir), 0o700);
    for name in ["ponger", "pinger", "user"] {
        assert_eq!(mode(&dir.join(name).join("tls.key")), 0o600, "{name}");
    }
}

#[test]
fn the_printed_curl_command_gets_pong() {
    if !is_installed("curl") {
        return;
    }
    let temp = Temp::new();
    let mut demo = Service::spawn(&mut temp.demo(&[]));
    let command = curl_command(&demo.wait_for("  curl ")).to_owned();
    assert!(!command.contains(" -k") && !command.contains("--insecure"), "{command}");
    let curl = |command: &str| {
        let silent = format!("{command} --silent --show-error");
        Command::new("sh").args(["-c", &silent]).output().unwrap()
    };
    let output = curl(&command);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "pong", "{output:?}");

    let certificate = command.find("--cert ").unwrap()..command.find("https://").unwrap();
    let mut without = command.clone();
    without.replace_range(certificate, "");
    let output = curl(&without);
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert!(demo.stop().success());
}

/// Writes a program `xdg-open` that does `script`, and returns its directory.
#[cfg(not(target_os = "macos"))]
fn xdg_open(temp: &Temp, script: &str) -> PathBuf {
    let dir = temp.0.path().join("bin");
    fs::create_dir(&dir).unwrap();
    let file = dir.join("xdg-open");
    fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

#[test]
#[cfg(not(target_os = "macos"))]
fn opens_the_page_where_asked_to() {
    let temp = Temp::new();
    let opened = temp.0.path().join("opened");
    let path = xdg_open(&temp, &format!("echo $1 >'{}'", opened.display()));
    let mut demo = Service::spawn(temp.demo(&["--open"]).env("PATH", path));
    let page = demo.wait_for("Live page: ").replace("Live page: ", "");
    let url = wait_until("the page's URL", || {
        fs::read_to_string(&opened).ok().filter(|url| url.ends_with('\n'))
    });
    assert_eq!(url.trim(), page);
    assert!(demo.stop().success());
}

#[test]
#[cfg(not(target_os = "macos"))]
fn says_why_the_page_cannot_be_opened() {
    let temp = Temp::new();
    let failing = xdg_open(&temp, "exit 3");
    for (path, reason) in
        [(Path::new("/nonexistent"), "No such file or directory"), (&failing, "exit status: 3")]
    {
        let mut demo = Service::spawn(temp.demo(&["--open"]).env("PATH", path));
        let line = demo.wait_for("--open: ");
        assert!(line.contains(reason) && line.contains("yourself"), "{line}");
        assert!(demo.stop().success());
    }
}

#[test]
fn names_the_port_that_is_taken() {
    let temp = Temp::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, text) = run(&mut temp.demo(&["--port", &port]));
    assert_eq!(code, Some(78), "{text}");
    assert!(text.contains(&format!("--port {port}: ")), "{text}");
    assert_eq!(temp.entries(), [] as [PathBuf; 0]);
}

#[test]
fn creates_the_directory_that_is_named_and_takes_no_existing_one() {
    let temp = Temp::new();
    let dir = temp.0.path().join("new/demo");
    let arguments = ["--count", "1", "--interval", "1ms", "--dir", dir.to_str().unwrap()];
    let (code, text) = run(&mut temp.demo(&arguments));
    assert!(code == Some(0) && !dir.exists(), "{text}");
    fs::create_dir(&dir).unwrap();
    let (code, text) = run(&mut temp.demo(&arguments));
    assert_eq!(code, Some(78), "{text}");
    let error = format!("demo: --dir {}: ", dir.display());
    assert!(
        text.starts_with(&error) && text.contains("; name a directory that does not"),
        "{text}"
    );
    assert!(dir.exists());
}

#[cfg(target_os = "linux")]
#[test]
fn stops_with_a_summary_after_a_signal_during_the_start() {
    let temp = Temp::new();
    let mut demo = Service::spawn(&mut temp.demo(&[]));
    wait_until_handled(demo.id(), Signal::INT);
    demo.signal(Signal::INT);
    assert_eq!(demo.wait().code(), Some(0), "{:#?}", demo.log());
    assert!(demo.log().last().unwrap().contains(" lost"), "{:#?}", demo.log());
    assert_eq!(temp.entries(), [] as [PathBuf; 0]);
}

#[test]
fn stops_with_a_summary_after_each_signal() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let temp = Temp::new();
        let mut demo = Service::spawn(&mut temp.demo(&["--interval", "10ms"]));
        demo.wait_for("Got pong");
        demo.signal(signal);
        assert_eq!(demo.wait().code(), Some(0), "{signal:?}");
        let log = demo.log();
        assert!(log.last().unwrap().contains(" 0 lost; median "), "{log:#?}");
        assert_eq!(temp.entries(), [] as [PathBuf; 0], "{signal:?}");
    }
}

#[test]
fn ends_when_its_output_is_closed() {
    let temp = Temp::new();
    let mut command = temp.demo(&["--interval", "10ms"]);
    let mut demo = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines().map_while(Result::ok);
    lines.find(|line| line.contains("Got pong")).unwrap();
    drop(lines);
    let output = demo.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert_eq!(temp.entries(), [] as [PathBuf; 0]);
}

#[test]
fn is_one_process() {
    let temp = Temp::new();
    let mut demo = Service::spawn(&mut temp.demo(&[]));
    let address = demo.address();
    demo.wait_for("Got pong");
    TcpStream::connect(address).unwrap();
    demo.signal(Signal::KILL);
    demo.wait();
    wait_until("ponger is gone", || TcpStream::connect(address).err());
}

#[test]
fn quotes_a_directory_whose_name_has_special_characters() {
    let temp = Temp::new();
    let odd = temp.0.path().join("it's a: #directory");
    fs::create_dir(&odd).unwrap();
    let mut command = temp.demo(&["--count", "1", "--interval", "1ms"]);
    let (code, text) = run(command.env("TMPDIR", &odd));
    assert_eq!(code, Some(0), "{text}");
    let print = curl_command(&text).replacen("curl", "printf '%s\\n'", 1);
    let (_, words) = run(Command::new("sh").args(["-c", &print]));
    assert_eq!(words.lines().count(), 7, "{words}");
}

#[test]
fn shows_only_failures_where_quiet() {
    let temp = Temp::new();
    let mut demo = temp.demo(&["--count", "4", "--interval", "1ms", "--quiet"]);
    // ponger does not allow pinger.
    let (code, text) = run(demo.env("PONGER__SERVICE__ALLOWED_CLIENTS", "other"));
    assert_eq!(code, Some(1), "{text}");
    assert_eq!(text.matches("Lost ping").count(), 4);
    assert!(text.contains("denied=\"not_allowed\""), "{text}");
    let (code, text) = run(&mut temp.demo(&["--count", "4", "--interval", "1ms", "--quiet"]));
    assert_eq!(code, Some(0), "{text}");
    for line in ["Sent ping", "Got pong", "Received GET"] {
        assert!(!text.contains(line), "{line}: {text}");
    }
    assert!(text.contains("Listening") && text.contains("4 pings, 4 pongs, 0 lost"), "{text}");
}

#[test]
fn shows_tls_where_verbose() {
    let temp = Temp::new();
    let (code, text) = run(&mut temp.demo(&["--count", "1", "--interval", "1ms", "--verbose"]));
    assert_eq!(code, Some(0), "{text}");
    let pong = text.lines().find(|line| line.contains("Got pong")).unwrap();
    for field in ["version=\"TLSv1.3\"", "group=\"X25519MLKEM768\"", "tls_ms="] {
        assert!(pong.contains(field), "{field}: {pong}");
    }
}
