//! ponger as a process: flags, exit codes, signals, log lines, descriptors, the original's files.

use std::{
    fs,
    io::{self, BufRead as _, BufReader},
    net::{SocketAddr, TcpStream},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::{Command, Output, Stdio},
    time::Instant,
};

use rustix::process::{Pid, kill_process};
use testkit::{
    Ca, Issued, Leaf,
    client::{TlsClient, metric, plain_get, read_response, request},
    original,
    process::{Service, Signal, is_installed, openssl, with_descriptors},
    wait_until,
};
use time::Duration;

use crate::support::{
    Env, HALF_A_HEAD, OTHER, PINGER, PROGRAM, connect_and_ping, send_until_blocked,
};

fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).output().unwrap()
}

/// Runs ponger, which must not start because of its configuration; returns what it prints.
#[track_caller]
fn rejection(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.starts_with("ponger: "), "{text}");
    text
}

#[test]
fn prints_its_version_and_its_flags() {
    let print = |flag| String::from_utf8(run(&[flag]).stdout).unwrap();
    assert_eq!(print("--version"), format!("ponger {}\n", env!("CARGO_PKG_VERSION")));
    let help = print("--help");
    let default = "[default: config.yaml, if it exists]";
    for part in ["-c, --config <FILE>", default, "--check-config", "PONGER__"] {
        assert!(help.contains(part), "{part}: {help}");
    }
    assert_eq!(run(&["--unknown"]).status.code(), Some(2));
}

#[test]
fn never_prints_a_key_in_place_of_an_argument() {
    let pem = Leaf::new().self_signed().key;
    let base64: String = pem.lines().filter(|line| !line.starts_with("---")).collect();
    for (key, code) in [(&*pem, 2), (pem.trim(), 2), (&base64, 78)] {
        for arguments in [&["-c", key][..], &["--config", key], &["--check-config", "-c", key]] {
            let output = run(arguments);
            let text = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(code), "{text}");
            assert!(text.contains(", not shown)") && !text.contains(&base64[40..48]), "{text}");
        }
        for argument in [key, &format!("--config={key}"), &format!("-c{key}"), &format!("-{key}")] {
            let text = String::from_utf8(run(&[argument]).stderr).unwrap();
            assert!(!text.is_empty() && !text.contains(&base64[40..48]), "{text}");
        }
    }
}

#[test]
fn checks_a_configuration_with_its_certificates_and_binds_no_port() {
    let env = Env::new();
    let config = env.write_config("");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let check = |path: &Path| {
        let mut command = Command::new(PROGRAM);
        command.arg("--check-config").arg("-c").arg(path).env("PONGER__SERVICE__PORT", &port);
        command
    };
    let output = check(&config).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.ends_with("config.yaml: configuration, certificates and keys are valid\n"),
        "{text}"
    );
    env.install(&Issued { key: String::new(), ..env.ca.issue(&Leaf::ponger("test")) });
    assert!(
        rejection(&mut check(&config)).contains("tls.key (service.tlsPrivateKey): it is empty")
    );
}

#[test]
fn logs_only_failed_pings_where_configured() {
    let env = Env::new();
    let mut command = Command::new(PROGRAM);
    command.arg("-c").arg(env.write_config("")).env("PONGER__LOG__PINGS", "failed");
    let mut ponger = Service::spawn(&mut command);
    let address = ponger.address();
    assert_eq!(env.pinger().get(address, "/ping").unwrap().status, 200);
    assert_eq!(env.pinger().get(address, "/other").unwrap().status, 404);
    let other = env.client_of(&Leaf::new().uri(OTHER));
    assert_eq!(other.get(address, "/ping").unwrap().status, 403);
    ponger.wait_for("Received GET /other status=404");
    ponger.wait_for("Received GET /ping status=403");
    assert!(ponger.stop().success());
    assert_eq!(ponger.count("Received GET"), 2, "{:#?}", ponger.log());
}

#[test]
fn does_not_fall_back_to_plain_http() {
    let env = Env::new();
    for text in ["service: {port: 0}\n", "log: {level: info}\n"] {
        fs::write(env.path("config.yaml"), text).unwrap();
        let text = rejection(Command::new(PROGRAM).arg("-c").arg(env.path("config.yaml")));
        assert!(text.contains("insecure: true"), "{text}");
    }
}

#[test]
fn names_a_key_that_it_may_not_read() {
    let env = Env::new();
    let config = env.write_config("");
    let key = fs::canonicalize(env.path("own/tls.key")).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o000)).unwrap();
    let mut command = Command::new(PROGRAM);
    if rustix::process::geteuid().is_root() {
        // Root may read everything, so ponger is started as `nobody`, from where that user may go.
        let program = env.path("ponger");
        // Not by this process, which may fork elsewhere while it writes: "text file busy".
        assert!(Command::new("cp").arg(PROGRAM).arg(&program).status().unwrap().success());
        for path in [&env.path(""), &program] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        command = Command::new(program);
        command.uid(65534).gid(65534);
    }
    let text = rejection(command.arg("-c").arg(config));
    for part in ["tls.key (service.tlsPrivateKey): ", "permission denied", "uid "] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn ends_with_success_at_either_signal() {
    let env = Env::new();
    for (signal, name) in [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT")] {
        let mut ponger = env.spawn("");
        ponger.address();
        ponger.signal(signal);
        assert_eq!(ponger.wait().code(), Some(0));
        assert!(ponger.wait_for("Draining").contains(&format!("signal=\"{name}\"")));
        ponger.wait_for("Stopped");
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let env = Env::new();
    let mut ponger = env.spawn("  drainTimeout: 1h\n");
    // A request that is not finished delays the drain.
    let mut stuck = connect_and_ping(&env.pinger(), ponger.address());
    stuck.send(HALF_A_HEAD).unwrap();
    ponger.signal(Signal::TERM);
    ponger.wait_for("Draining");
    // One that comes right after the first counts as the same, so it is repeated.
    let status = wait_until("the end", || {
        let status = ponger.try_wait();
        if status.is_none() {
            ponger.signal(Signal::TERM);
        }
        status
    });
    assert_eq!(status.code(), Some(1));
}

#[test]
fn a_second_signal_waits_for_no_output() {
    use testkit::process::full_pipe;

    let env = Env::new();
    let config = env.write_config("  drainTimeout: 1h\n");
    let (_unread, full) = full_pipe();
    let mut command = Command::new(PROGRAM);
    command.arg("-c").arg(config).stdout(Stdio::piped()).stderr(full);
    let mut ponger = command.spawn().unwrap();
    let mut log = BufReader::new(ponger.stdout.take().unwrap()).lines().map(Result::unwrap);
    let line = log.find(|line| line.contains("Listening")).unwrap();
    let address = line.split_whitespace().find_map(|word| word.strip_prefix("address=")).unwrap();
    let mut stuck = connect_and_ping(&env.pinger(), address.parse().unwrap());
    stuck.send(HALF_A_HEAD).unwrap();
    kill_process(Pid::from_child(&ponger), Signal::TERM).unwrap();
    log.find(|line| line.contains("Draining")).unwrap();
    let start = Instant::now();
    let status = wait_until("the end", || {
        kill_process(Pid::from_child(&ponger), Signal::TERM).unwrap();
        ponger.try_wait().unwrap()
    });
    assert_eq!(status.code(), Some(1));
    // After other errors, it waits at least that long for standard error to be read.
    assert!(start.elapsed() < std::time::Duration::from_secs(10));
}

#[test]
fn reports_connections_that_it_closes_after_the_drain_timeout() {
    let env = Env::new();
    let mut ponger = env.spawn("  drainTimeout: 300ms\n  requestTimeout: 1h\n");
    let mut stuck = connect_and_ping(&env.pinger(), ponger.address());
    stuck.send(HALF_A_HEAD).unwrap();
    assert!(ponger.stop().success());
    assert!(ponger.wait_for("Drain timeout exceeded").contains("connections=1"));
}

#[test]
fn sighup_reloads_and_does_not_end_it() {
    let env = Env::new();
    let mut ponger = env.spawn("");
    ponger.wait_for("Listening");
    for count in 1..=2 {
        ponger.signal(Signal::HUP);
        ponger.wait_for_nth(count, "TLS identity unchanged");
    }
    assert!(ponger.stop().success());
}

#[test]
#[cfg(target_os = "linux")]
fn sighup_does_not_end_it_while_it_starts() {
    let env = Env::new();
    for _ in 0..5 {
        let mut ponger = env.spawn("");
        // From the first moment at which the signal is handled, which is before it listens.
        testkit::process::wait_until_handled(ponger.id(), Signal::HUP);
        // Again and again: one in the very moment in which the handler is installed is lost.
        wait_until("a reload", || {
            ponger.signal(Signal::HUP);
            (ponger.count("TLS identity unchanged") > 0).then_some(())
        });
        assert!(ponger.stop().success());
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_signal_ends_it_while_its_start_hangs() {
    use testkit::process::{full_pipe, wait_until_handled};

    let env = Env::new();
    let config = env.write_config("");
    let (_unread, full) = full_pipe();
    let config = config.to_str().unwrap();
    for arguments in [&["--help"][..], &["--check-config", "-c", config]] {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).stdout(full.try_clone().unwrap()).stderr(Stdio::piped());
        let mut ponger = command.spawn().unwrap();
        wait_until_handled(ponger.id(), Signal::TERM);
        // Again and again: one in the very moment in which the handler is installed is lost.
        let status = wait_until("the end", || {
            let status = ponger.try_wait().unwrap();
            if status.is_none() {
                kill_process(Pid::from_child(&ponger), Signal::TERM).unwrap();
            }
            status
        });
        let text = io::read_to_string(ponger.stderr.unwrap()).unwrap();
        assert_eq!(status.code(), Some(1), "{text}");
        assert_eq!(text, "ponger: stopped by SIGTERM while it was starting\n");
    }
}

#[test]
fn logs_requests_with_their_peers() {
    let env = Env::new();
    let mut ponger = env.spawn("");
    let address = ponger.address();
    env.pinger().get(address, "/ping").unwrap();
    env.client_of(&Leaf::new().uri(OTHER)).get(address, "/ping").unwrap();
    let forged = format!("/{}", "a%0aINFO".repeat(100));
    assert_eq!(env.pinger().get(address, &forged).unwrap().status, 404);
    env.client(None).get(address, "/ping").unwrap_err();
    // Load balancers connect and disconnect.
    drop(TcpStream::connect(address));

    let line = ponger.wait_for("Received GET /ping status=200");
    assert!(line.contains(" INFO ") && line.contains(&format!("peer=\"{PINGER}\"")), "{line}");
    assert!(line.contains(" duration_us="), "{line}");
    let line = ponger.wait_for("status=403");
    assert!(line.contains(" WARN ") && line.contains(&format!("peer=\"{OTHER}\"")), "{line}");
    assert!(line.contains("denied=\"not_allowed\""), "{line}");
    let line = ponger.wait_for("Received GET /a");
    assert!(line.len() < 500, "{line}");
    let line = ponger.wait_for("TLS handshake failed");
    assert!(line.contains("reason=\"tls_no_certificate\"") && line.contains("address="), "{line}");
    assert!(ponger.stop().success());
    assert_eq!(ponger.count("TLS handshake failed"), 1);
}

#[test]
fn logs_json() {
    let env = Env::new();
    let config = env.write_config("");
    let mut command = Command::new(PROGRAM);
    command.arg("-c").arg(config).env("PONGER__LOG__FORMAT", "json");
    let ponger = Service::spawn(&mut command);
    let line = ponger.wait_for("\"message\":\"Listening\"");
    assert!(line.starts_with('{') && line.contains("\"address\":\"127.0.0.1:"), "{line}");
    // A configuration that cannot be read does not say so.
    for (variable, value, cause) in [
        ("PONGER__SERVICE__PORT", "x", "expected a number from 0 to 65535"),
        ("PONGER__SERVICE__CLIENT_CA", "/nowhere.crt", "/nowhere.crt (service.clientCa): "),
    ] {
        let output = command.env(variable, value).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(output.status.code(), Some(78));
        let line: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!((&line["level"], &line["message"]), (&"ERROR".into(), &"Exiting".into()));
        assert!(line["cause"].as_str().unwrap().contains(cause), "{line}");
        command.env_remove(variable);
    }
}

#[test]
fn logs_reloads_and_the_connections_that_they_close() {
    let env = Env::new();
    let ponger = env.spawn("");
    ponger.wait_for("Listening");
    for round in 1..=3 {
        env.install(&env.ca.issue(&Leaf::ponger("test")));
        ponger.wait_for_nth(round, "TLS identity reloaded unit=\"certificate\"");
    }
    let log = ponger.log();
    assert!(log.iter().all(|line| line.contains(" INFO ")), "{log:#?}");

    let other = env.ca.issue(&Leaf::ponger("test"));
    env.install(&Issued { key: other.key.clone(), ..env.ca.issue(&Leaf::ponger("test")) });
    let line = ponger.wait_for("TLS identity reload failed, keeping the current identity");
    assert!(line.contains("ERROR") && line.contains("it is not the key"), "{line}");

    let _kept = connect_and_ping(&env.pinger(), ponger.address());
    env.trust(&[&Ca::new("new")]);
    let line = ponger.wait_for("Closing connection: peer credentials are no longer valid");
    assert!(line.contains(&format!("peer=\"{PINGER}\"")), "{line}");
}

#[test]
fn keeps_serving_and_stops_while_nothing_reads_its_log() {
    let env = Env::new();
    let config = env.write_config("");
    let mut command = Command::new(PROGRAM);
    let mut child = command.arg("--config").arg(&config).stdout(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("Listening") {
        line.clear();
        assert_ne!(log.read_line(&mut line).unwrap(), 0);
    }
    let address = |field: &str| -> SocketAddr {
        line.split_whitespace().find_map(|word| word.strip_prefix(field)).unwrap().parse().unwrap()
    };
    let (address, admin) = (address("address="), address("admin="));
    // From here on the pipe fills, then the queue of lines.
    let dropped = || metric(&plain_get(admin, "/metrics").unwrap().body, "log_lines_dropped_total");
    let mut connection = env.pinger().connect(address).unwrap();
    // As many at once as ponger reads before it responds.
    let requests = request("/ping", "keep-alive").repeat(200);
    wait_until("dropped lines", || {
        connection.send(requests.as_bytes()).unwrap();
        for _ in 0..200 {
            assert_eq!(read_response(&mut connection).unwrap().body, "pong");
        }
        (dropped()? > 0.0).then_some(())
    });
    assert_eq!(plain_get(admin, "/readyz").unwrap().status, 200);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn warns_of_a_certificate_that_expires_soon() {
    let env = Env::new();
    env.install(&env.ca.issue(&Leaf::ponger("test").valid(-Duration::DAY, Duration::hours(2))));
    let line = env.spawn("").wait_for("Certificate expires soon");
    assert!(line.contains(" WARN ") && line.contains("certificate=\"own\""), "{line}");
}

#[test]
fn warns_that_tls_is_disabled() {
    let env = Env::new();
    let text = "insecure: true\nservice: {host: 127.0.0.1, port: 0}\nmetrics: {host: 127.0.0.1, port: 0}\n";
    fs::write(env.path("config.yaml"), text).unwrap();
    let ponger = Service::spawn(Command::new(PROGRAM).arg("-c").arg(env.path("config.yaml")));
    assert!(ponger.wait_for("TLS is disabled").contains(" WARN "));
}

#[test]
fn rejects_connections_at_the_descriptor_limit_and_recovers() {
    let env = Env::new();
    let config = env.write_config("  handshakeTimeout: 1h\n");
    // Each worker takes some.
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let limit = u32::try_from(64 + 8 * workers).unwrap();
    let ponger = Service::spawn(with_descriptors(limit, PROGRAM).arg("-c").arg(config));
    let address = ponger.address();
    let line = ponger.wait_for("maxConnections lowered to fit");
    assert!(line.contains(&format!("limit={limit} ")), "{line}");
    let held: Vec<_> = (0..limit).map(|_| TcpStream::connect(address).unwrap()).collect();
    let line = ponger.wait_for("Connection limit reached, rejecting connections");
    assert!(line.contains(" WARN ") && line.contains("suppressed="), "{line}");
    assert_eq!(ponger.admin_get("/livez").status, 200);
    drop(held);
    connect_and_ping(&env.pinger(), address);
}

#[test]
fn a_client_that_does_not_read_costs_little_memory() {
    let env = Env::new();
    let ponger = env.spawn("");
    let mut connection = connect_and_ping(&env.pinger(), ponger.address());
    let memory = || ponger.metric("process_resident_memory_bytes").unwrap();
    let before = memory();
    send_until_blocked(&mut connection);
    let grown = memory() - before;
    assert!(grown < f64::from(16 << 20), "{grown} bytes");
}

#[test]
fn runs_with_the_originals_configuration_and_certificate() {
    if !is_installed("openssl") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    original::make_certificate(dir.path()).unwrap();
    fs::write(dir.path().join("config.yaml"), original::PONGER_CONFIG).unwrap();
    // In its working directory, as in the original's container.
    let ponger = Service::spawn(
        Command::new(PROGRAM)
            .current_dir(dir.path())
            .env("PONGER__SERVICE__TLS_CERTIFICATE", "tls.crt")
            .env("PONGER__SERVICE__TLS_PRIVATE_KEY", "tls.key")
            .env("PONGER__SERVICE__HOST", "127.0.0.1")
            .env("PONGER__SERVICE__PORT", "0")
            .env("PONGER__METRICS__PORT", "0"),
    );
    let certificate = fs::read_to_string(dir.path().join("tls.crt")).unwrap();
    let client = TlsClient::new(&certificate, None).with_server_name("ponger");
    assert_eq!(client.get(ponger.address(), "/ping").unwrap().body, "pong");
    ponger.wait_for("Received GET /ping");
}

#[test]
fn explains_why_a_self_signed_ca_certificate_cannot_be_used() {
    if !is_installed("openssl") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let arguments = "req -x509 -nodes -newkey rsa:2048 -keyout tls.key -out tls.crt -days 365 -subj /CN=localhost -addext subjectAltName=DNS:localhost";
    openssl(dir.path(), &arguments.split(' ').collect::<Vec<_>>()).unwrap();
    fs::write(dir.path().join("config.yaml"), original::PONGER_CONFIG).unwrap();
    let text = rejection(
        Command::new(PROGRAM)
            .current_dir(dir.path())
            .env("PONGER__SERVICE__TLS_CERTIFICATE", "tls.crt")
            .env("PONGER__SERVICE__TLS_PRIVATE_KEY", "tls.key"),
    );
    for part in ["tls.crt", "CA:TRUE", "CA:FALSE"] {
        assert!(text.contains(part), "{text}");
    }
}
