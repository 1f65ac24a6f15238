//! `pinger diagnose` against good and broken servers: what it prints, compared with the files in
//! `diagnose/`. `UPDATE_GOLDEN=1 cargo test -p pinger diagnose` writes them anew: read the difference.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use rustls::{ServerConfig, ServerConnection, version::TLS12};
use testkit::{
    Ca, Issued, Leaf, PATIENCE,
    pki::rcgen::{GeneralSubtree, NameConstraints},
    process::openssl,
};
use time::Duration as Validity;

use crate::support::{
    Env, PONGER_ID, TlsStream, accept, bind, full_listener, respond, server_tls, server_tls_of,
    until_closed,
};

/// A run of `pinger diagnose`.
struct Diagnosis {
    code: i32,
    stdout: String,
    stderr: String,
}

/// Runs it with `arguments` and nothing in the environment.
fn run(arguments: &[&str]) -> Diagnosis {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pinger"));
    let Output { status, stdout, stderr } =
        command.env_clear().arg("diagnose").args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Diagnosis { code: status.code().unwrap(), stdout: text(stdout), stderr: text(stderr) }
}

/// Runs it on `https://localhost/ping` at `address`, with the trust bundle of `env` and `more`.
fn diagnose(env: &Env, address: SocketAddr, more: &[&str]) -> Diagnosis {
    // Long, so that a busy machine does not become the reason.
    diagnose_within("1m", env, address, more)
}

/// As [`diagnose`], with a timeout.
fn diagnose_within(timeout: &str, env: &Env, address: SocketAddr, more: &[&str]) -> Diagnosis {
    let bundle = env.pinger.file("ca.crt").display().to_string();
    let url = format!("https://localhost:{}/ping", address.port());
    let address = address.to_string();
    let all = ["--timeout", timeout, "--connect-timeout", timeout, "--connect-to", &address];
    run(&[&[url.as_str(), "--accept-cert", &bundle], all.as_slice(), more].concat())
}

/// The arguments for the client certificate of `env`.
fn with_certificate(env: &Env) -> [String; 4] {
    let file = |name| env.pinger.file(name).display().to_string();
    ["--client-certificate".into(), file("tls.crt"), "--client-private-key".into(), file("tls.key")]
}

fn strs(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// `text` with a word for what differs between two runs: times, the port, and the directory.
fn normalize(env: &Env, address: SocketAddr, text: &str) -> String {
    let dir = env.dir.path().display().to_string();
    let port = format!(":{}", address.port());
    let text = text.replace(&dir, "DIR").replace(&port, ":PORT");
    let mut normal: String = text.lines().map(|line| normalize_times(line) + "\n").collect();
    // A signature has 70 to 72 bytes.
    if let Some(end) = normal.find(" bytes; at most").or(normal.find(" bytes\nTo do: At most")) {
        let start = normal[..end].rfind(' ').unwrap() + 1;
        normal.replace_range(start..end, "N");
    }
    // The resolver of the C library has words of its own.
    if let Some(start) = normal.find("lookup address information: ") {
        let start = start + "lookup address information: ".len();
        let end = normal[start..].find('\n').map_or(normal.len(), |length| start + length);
        normal.replace_range(start..end, "ERROR");
    }
    normal
}

fn normalize_times(line: &str) -> String {
    let mut normal = String::new();
    for word in line.split_inclusive(' ') {
        let bare = word.trim_matches([' ', ',', '.', ';']);
        let is_time = bare.len() == 20 && bare.starts_with("20") && bare.ends_with('Z');
        let is_number = |text: &str| !text.is_empty() && text.parse::<f64>().is_ok();
        let is_json = matches!(line.trim().split_once("_ms\": "), Some((_, value)) if value.trim_end_matches(',') == bare);
        let quoted = bare.trim_matches('"');
        if is_time || quoted.len() == 20 && quoted.starts_with("20") && quoted.ends_with('Z') {
            normal.push_str(&word.replace(quoted, "TIME"));
        } else if is_json && is_number(bare) {
            normal.push_str(&word.replace(bare, "N"));
        } else {
            normal.push_str(word);
        }
    }
    // `    12.3 ms` is aligned to the right.
    while let Some(end) =
        normal.find(" ms").filter(|end| normal[..*end].ends_with(|c: char| c.is_ascii_digit()))
    {
        let start =
            normal[..end].rfind(|c: char| !(c.is_ascii_digit() || c == '.')).map_or(0, |at| at + 1);
        let number = start..end;
        let padded = normal[..start].trim_end().len();
        let padding = if start - padded > 1 { "  " } else { " " };
        normal.replace_range(padded..number.end, &format!("{padding}TIME"));
    }
    normal
}

/// Compares what was printed with the file `name`.
#[track_caller]
fn assert_golden(env: &Env, address: SocketAddr, name: &str, diagnosis: &Diagnosis) {
    assert_eq!(diagnosis.stderr, "");
    assert!(!diagnosis.stdout.contains('\x1b'), "colors, and not on a terminal");
    let file: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/diagnose").join(name);
    let printed = normalize(env, address, &diagnosis.stdout);
    let printed = format!("{printed}exit code {}\n", diagnosis.code);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&file, &printed).unwrap();
    }
    let golden = fs::read_to_string(&file).unwrap_or_default();
    assert!(golden == printed, "{name} differs from:\n{printed}");
}

fn ponger() -> Leaf {
    Leaf::ponger("test").common_name("ponger")
}

/// A server with the certificate `issued` that does `respond` after the first request.
fn serve(
    env: &Env,
    config: Arc<ServerConfig>,
    respond: impl Fn(&mut TlsStream) + Send + Sync + 'static,
) -> SocketAddr {
    env.serve(move |tcp| {
        if let Some(mut stream) = accept(&config, tcp) {
            respond(&mut stream);
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    })
}

/// As [`serve`]; the server answers `pong`.
fn serve_pong(env: &Env, issued: &Issued) -> SocketAddr {
    serve(env, server_tls(issued, None), |stream| respond(stream, "200 OK", "pong"))
}

#[test]
fn explains_a_good_ping_with_certificates_on_both_sides() {
    let env = Env::new();
    env.issue_pinger(&Leaf::pinger("test").common_name("pinger"));
    let tls = server_tls(&env.ca.issue(&ponger()), Some(&env.ca));
    let address = serve(&env, tls, |stream| respond(stream, "200 OK", "pong"));
    let certificate = with_certificate(&env);
    let arguments = [&["--server-id", PONGER_ID], strs(&certificate).as_slice()].concat();
    let diagnosis = diagnose(&env, address, &arguments);
    assert_golden(&env, address, "good.txt", &diagnosis);
}

#[test]
fn prints_one_json_object() {
    let env = Env::new();
    let address = serve_pong(&env, &env.ca.issue(&ponger()));
    let diagnosis = diagnose(&env, address, &["--json"]);
    let json: serde_json::Value = serde_json::from_str(&diagnosis.stdout).unwrap();
    let serial = json["chain"]["certificates"][0]["serial"].as_str().unwrap().to_owned();
    let diagnosis = Diagnosis { stdout: diagnosis.stdout.replace(&serial, "SERIAL"), ..diagnosis };
    assert_golden(&env, address, "good.json", &diagnosis);
}

/// Adds the path of every value in `json` to `paths`.
fn collect_paths(path: &str, json: &serde_json::Value, paths: &mut BTreeSet<String>) {
    match json {
        serde_json::Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            let path = format!("{path}.{name}").trim_start_matches('.').to_owned();
            collect_paths(&path, value, paths);
        }),
        serde_json::Value::Array(values) => {
            values.iter().for_each(|value| collect_paths(&format!("{path}[]"), value, paths));
        }
        _ => drop(paths.insert(path.to_owned())),
    }
}

#[test]
fn reference_has_every_field_of_the_json_object() {
    let env = Env::new();
    let tls = server_tls(&env.ca.issue(&ponger().ip([127, 0, 0, 1].into())), Some(&env.ca));
    let address = serve(&env, tls, |stream| respond(stream, "500 Internal Server Error", "why"));
    let certificate = with_certificate(&env);
    let diagnosis = diagnose(&env, address, &[&["--json"], strs(&certificate).as_slice()].concat());
    let json: serde_json::Value = serde_json::from_str(&diagnosis.stdout).unwrap();
    let (mut paths, mut fields) = (BTreeSet::new(), BTreeSet::new());
    collect_paths("", &json, &mut paths);
    // Fields that the table describes in one row.
    for path in paths {
        let whole = ["client_certificate.configured", "response.headers"];
        let whole = whole.into_iter().find(|whole| path.starts_with(whole));
        fields.insert(whole.map_or(path, str::to_owned));
    }
    let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let reference = fs::read_to_string(reference).unwrap();
    let section = reference.split("\n## ").find(|part| part.starts_with("`pinger diagnose`"));
    let rows = section.unwrap().lines().filter_map(|line| line.strip_prefix("| `"));
    let names = rows.flat_map(|row| row.split('|').next().unwrap().split(", "));
    let documented: BTreeSet<_> =
        names.map(|name| name.trim_matches([' ', '`']).to_owned()).collect();
    // Objects that may be null have a row of their own.
    let is_object =
        |name: &String| fields.iter().any(|field| field.starts_with(&format!("{name}.")));
    let documented: BTreeSet<_> = documented.into_iter().filter(|name| !is_object(name)).collect();
    assert_eq!(documented, fields);
}

#[test]
fn names_what_broke_before_tls() {
    let env = Env::new();
    let (_bound, refusing) = bind();
    assert_golden(&env, refusing, "refused.txt", &diagnose(&env, refusing, &[]));

    let listener = full_listener(2);
    let full = listener.address;
    let timeout = ["--connect-to", &full.to_string(), "--connect-timeout", "300ms"];
    let url = format!("https://localhost:{}", full.port());
    let bundle = env.pinger.file("ca.crt").display().to_string();
    let arguments = [&[url.as_str(), "--accept-cert", &bundle], timeout.as_slice()].concat();
    assert_golden(&env, full, "black_hole.txt", &run(&arguments));

    // No resolver asks a server for a label that is longer than DNS allows.
    let url = format!("https://{}/", "a".repeat(64));
    let diagnosis = run(&[&url, "--server-name", "localhost", "--accept-cert", &bundle]);
    assert_golden(&env, refusing, "no_name.txt", &diagnosis);
}

#[test]
fn names_what_broke_in_the_handshake() {
    let env = Env::new();
    let good = env.ca.issue(&ponger());
    let check = |name: &str, address: SocketAddr, arguments: &[&str]| {
        assert_golden(&env, address, name, &diagnose(&env, address, arguments));
    };
    let plain_http = env.serve(|mut tcp| {
        let _ = tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        until_closed(&mut tcp);
    });
    check("plain_http.txt", plain_http, &[]);
    let ssh = env.serve(|mut tcp| {
        let _ = tcp.write_all(b"SSH-2.0-\x1b[2Jserver\r\n");
        until_closed(&mut tcp);
    });
    check("ssh.txt", ssh, &[]);
    let closing = env.serve(|mut tcp| {
        tcp.shutdown(Shutdown::Write).unwrap();
        until_closed(&mut tcp);
    });
    check("closed_in_handshake.txt", closing, &[]);
    let tls12 = server_tls_of(&[&TLS12], &good, None);
    let tls12 = serve(&env, tls12, |stream| respond(stream, "200 OK", "pong"));
    check("tls12_rejected.txt", tls12, &[]);
    check("tls12_accepted.txt", tls12, &["--min-tls-version", "1.2"]);
    let mut http2 = ServerConfig::clone(&server_tls(&good, None));
    http2.alpn_protocols = vec![b"h2".to_vec()];
    check("http2_only.txt", serve(&env, http2.into(), |_| {}), &[]);
}

#[test]
fn names_the_certificate_at_which_verification_stopped() {
    let env = Env::new();
    let check = |name: &str, issued: &Issued, arguments: &[&str]| {
        let address =
            serve(&env, server_tls(issued, None), |_| panic!("a request to a server not verified"));
        assert_golden(&env, address, name, &diagnose(&env, address, arguments));
    };
    let issue = |leaf: Leaf| env.ca.issue(&leaf);
    check("expired.txt", &issue(ponger().valid(-Validity::HOUR, -Validity::MINUTE)), &[]);
    check("not_yet_valid.txt", &issue(ponger().valid(Validity::HOUR, Validity::DAY)), &[]);
    check("wrong_name.txt", &issue(Leaf::new().common_name("localhost").dns("another")), &[]);
    check("wrong_id.txt", &issue(Leaf::ponger("another")), &["--server-id", PONGER_ID]);
    check("ip_without_san.txt", &issue(ponger()), &["--server-name", "127.0.0.1"]);
    check("other_root.txt", &Ca::new("another").issue(&ponger()), &[]);
    check("same_name_other_key.txt", &Ca::new("test").issue(&ponger()), &[]);
    check("self_signed.txt", &ponger().self_signed(), &[]);
    check("client_only.txt", &issue(ponger().client_only()), &[]);

    let middle = env.ca.intermediate("middle");
    let mut incomplete = middle.issue(&ponger());
    let end = incomplete.chain.find("-----END CERTIFICATE-----\n").unwrap();
    incomplete.chain.truncate(end + "-----END CERTIFICATE-----\n".len());
    check("missing_intermediate.txt", &incomplete, &[]);
    let expired = env.ca.intermediate_valid("middle", -Validity::DAY, -Validity::HOUR);
    check("expired_intermediate.txt", &expired.issue(&ponger()), &[]);
    let constrained = env.ca.intermediate_customized("constrained", |params| {
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("example.com".into())],
            excluded_subtrees: Vec::new(),
        });
    });
    check("name_constraint.txt", &constrained.issue(&ponger()), &[]);
    check("common_name_alone.txt", &issue(Leaf::new().common_name("localhost")), &[]);
    // Cross-signed by a root that is not trusted, and by one that is, which has expired.
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let mut crossed = new.issue(&ponger());
    crossed.chain.push_str(&old.cross_sign(&new, -Validity::HOUR, Validity::DAY));
    check("cross_signed_untrusted.txt", &crossed, &[]);
    let mut crossed = new.issue(&ponger());
    crossed.chain.push_str(&env.ca.cross_sign(&new, -Validity::DAY, -Validity::HOUR));
    check("cross_signed_expired.txt", &crossed, &[]);
    let mut with_root = Ca::new("another").issue(&ponger());
    with_root.chain.push_str(Ca::new("unrelated").pem());
    check("unneeded_certificate.txt", &with_root, &[]);

    let mut long = env.ca.issue(&ponger());
    (0..9).for_each(|number| long.chain.push_str(Ca::new(&format!("extra {number}")).pem()));
    check("long_chain.txt", &long, &[]);
    let extra = Ca::new("extra");
    (0..1000).for_each(|_| long.chain.push_str(extra.pem()));
    check("huge_chain.txt", &long, &[]);
}

#[test]
fn explains_a_chain_that_a_cross_signed_root_completes() {
    let env = Env::new();
    let new = Ca::new("new");
    let mut issued = new.intermediate("middle").issue(&ponger());
    issued.chain.push_str(&env.ca.cross_sign(&new, -Validity::HOUR, Validity::DAY));
    let address = serve_pong(&env, &issued);
    assert_golden(&env, address, "cross_signed.txt", &diagnose(&env, address, &[]));
}

#[test]
fn explains_a_leaf_that_is_a_ca_in_the_trust_bundle() {
    let env = Env::new();
    let issued = ponger().ca_true().self_signed();
    env.pinger.replace(&[("ca.crt", issued.chain.as_bytes())]).unwrap();
    let address = serve_pong(&env, &issued);
    assert_golden(&env, address, "leaf_is_ca.txt", &diagnose(&env, address, &[]));
}

#[test]
fn names_signatures_and_keys_that_are_not_accepted() {
    if !testkit::process::is_installed("openssl") {
        return;
    }
    let env = Env::new();
    let dir = env.dir.path();
    let extensions = "[leaf]\nsubjectAltName = DNS:localhost\n[ca]\nbasicConstraints = CA:TRUE\n";
    let config =
        format!("[req]\ndistinguished_name = dn\nx509_extensions = leaf\n[dn]\n{extensions}");
    fs::write(dir.join("openssl.cnf"), config).unwrap();
    let make = |options: &str| {
        let all = format!("req -x509 -nodes -config openssl.cnf {options}");
        openssl(dir, &all.split(' ').collect::<Vec<_>>()).unwrap();
    };
    let read = |file| fs::read_to_string(dir.join(file)).unwrap();
    let check = |name: &str, issued: &Issued| {
        let address = serve_pong(&env, issued);
        assert_golden(&env, address, name, &diagnose(&env, address, &[]));
    };
    make("-newkey rsa:2048 -sha1 -subj /CN=sha1 -keyout sha1.key -out sha1.crt");
    check("sha1.txt", &Issued { chain: read("sha1.crt"), key: read("sha1.key") });

    make("-newkey rsa:1024 -extensions ca -subj /CN=small -keyout ca.key -out small.crt");
    make(
        "-newkey rsa:2048 -CA small.crt -CAkey ca.key -subj /CN=leaf -keyout leaf.key -out leaf.crt",
    );
    let chain = read("leaf.crt") + &read("small.crt");
    check("rsa1024.txt", &Issued { chain, key: read("leaf.key") });
}

#[test]
fn names_what_the_server_asked_of_the_client() {
    let env = Env::new();
    let good = env.ca.issue(&ponger());
    let certificate = with_certificate(&env);
    let check = |name: &str, tls: Arc<ServerConfig>, arguments: &[&str]| {
        let address = serve(&env, tls, |stream| respond(stream, "200 OK", "pong"));
        assert_golden(&env, address, name, &diagnose(&env, address, arguments));
    };
    let required = server_tls(&good, Some(&env.ca));
    check("certificate_required.txt", Arc::clone(&required), &[]);
    let tls12 = server_tls_of(&[&TLS12], &good, Some(&env.ca));
    check("certificate_required_tls12.txt", tls12, &["--min-tls-version", "1.2"]);
    let other = server_tls(&good, Some(&Ca::new("another")));
    check("certificate_rejected.txt", other, &strs(&certificate));
    // As nginx does it.
    let address = serve(&env, required, |stream| {
        respond(stream, "400 Bad Request", "The SSL certificate error");
    });
    let diagnosis = diagnose(&env, address, &strs(&certificate));
    assert_golden(&env, address, "certificate_rejected_by_status.txt", &diagnosis);
}

#[test]
fn names_what_is_wrong_with_the_response() {
    let env = Env::new();
    let good = env.ca.issue(&ponger());
    let tls = server_tls(&good, None);
    let writing = |text: &'static str| {
        serve(&env, Arc::clone(&tls), move |stream| {
            let _ = stream.write_all(text.as_bytes());
        })
    };
    for (name, text) in [
        ("denied.txt", "HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\ndenied"),
        ("status_500.txt", "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"),
        ("not_found.txt", "HTTP/1.1 404 Not Found\r\nServer: test\r\nContent-Length: 0\r\n\r\n"),
        (
            "redirect.txt",
            "HTTP/1.1 302 Found\r\nLocation: https://a/b\r\nContent-Length: 0\r\n\r\n",
        ),
        ("bad_header.txt", "HTTP/1.1 200 OK\r\nServer: \x1b[2J\r\n\r\n"),
        (
            "unauthorized.txt",
            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"a\"\r\nContent-Length: 0\r\n\r\n",
        ),
        ("no_content.txt", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("http10.txt", "HTTP/1.0 200 OK\r\n\r\nanything \u{202e}at all"),
        ("until_close.txt", "HTTP/1.1 200 OK\r\nServer: another\r\n\r\nanything at all"),
        (
            "chunked.txt",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npong\r\n0\r\n\r\n",
        ),
        ("cut_off.txt", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npong"),
        ("cut_off_chunk.txt", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\npong"),
        ("cut_off_201.txt", "HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\npong"),
        ("cut_off_head.txt", "HTTP/1.1 200 OK\r\nConte"),
        ("bad_chunk.txt", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\npong"),
        ("no_response.txt", ""),
        ("not_http.txt", "220 mail.example.com ESMTP\r\n\r\n"),
        ("http2_frames.txt", "\0\0\x06\x04\0\0\0\0\0\0\0\0\0\0\0"),
    ] {
        let address = writing(text);
        assert_golden(&env, address, name, &diagnose(&env, address, &[]));
    }
    let large = serve(&env, Arc::clone(&tls), |stream| {
        respond(stream, "200 OK", &"x".repeat(1_000_000));
    });
    assert_golden(&env, large, "large.txt", &diagnose(&env, large, &[]));
    let many_headers = serve(&env, tls, |stream| {
        let headers: String = (0..1000).map(|number| format!("X-{number}: x\r\n")).collect();
        let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\n{headers}\r\n").as_bytes());
    });
    assert_golden(&env, many_headers, "many_headers.txt", &diagnose(&env, many_headers, &[]));
}

#[test]
fn says_how_much_of_a_response_arrived_before_time_ran_out() {
    let env = Env::new();
    let tls = server_tls(&env.ca.issue(&ponger()), None);
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n";
    let address = serve(&env, tls, move |stream| {
        for byte in head.bytes() {
            let _ = stream.write_all(&[byte]).and_then(|()| stream.flush());
            thread::yield_now();
        }
        until_closed(stream);
    });
    let wanted = format!("in phase transfer; {} bytes of the response were received", head.len());
    // On a busy machine, the shorter ones may run out before all of it arrived.
    let mut timeout = Duration::from_millis(500);
    loop {
        let diagnosis = diagnose_within(&format!("{}ms", timeout.as_millis()), &env, address, &[]);
        assert_eq!(diagnosis.code, 1);
        if diagnosis.stdout.contains(&wanted) {
            break;
        }
        assert!(timeout < PATIENCE, "{}", diagnosis.stdout);
        timeout *= 5;
    }
}

#[test]
fn reaches_a_server_by_its_ipv6_address() {
    let any_port = (Ipv6Addr::LOCALHOST, 0);
    if TcpListener::bind(any_port).is_err() {
        return;
    }
    let env = Env::new();
    let issued = env.ca.issue(&Leaf::new().common_name("v6").ip(Ipv6Addr::LOCALHOST.into()));
    let tls = server_tls(&issued, None);
    let address = env.serve_at(any_port.into(), move |tcp| {
        if let Some(mut stream) = accept(&tls, tcp) {
            respond(&mut stream, "200 OK", "pong");
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    });
    let bundle = env.pinger.file("ca.crt").display().to_string();
    let url = format!("https://{address}/ping");
    let diagnosis = run(&[&url, "--accept-cert", &bundle, "--timeout", "1m"]);
    assert_golden(&env, address, "ipv6.txt", &diagnosis);
    assert_golden(&env, address, "ipv6_wrong_name.txt", &diagnose(&env, address, &[]));
}

#[test]
fn a_certificate_cannot_control_the_terminal_or_the_advice() {
    let env = Env::new();
    let hostile = "\x1b[2J\u{202e}`; run this";
    let leaf = Leaf::new().common_name(hostile).dns("a\x1b[2Jb; run this");
    for (name, issued) in [
        ("hostile_name.txt", env.ca.issue(&leaf)),
        ("hostile_issuer.txt", Ca::new(hostile).issue(&ponger())),
    ] {
        let address = serve_pong(&env, &issued);
        assert_golden(&env, address, name, &diagnose(&env, address, &[]));
    }
}

#[test]
fn names_the_phase_in_which_time_ran_out() {
    let env = Env::new();
    let silent = env.serve(|mut tcp| until_closed(&mut tcp));
    let tls = server_tls(&env.ca.issue(&ponger()), None);
    let hung = serve(&env, tls, until_closed);
    for (name, reason, address) in
        [("silent.txt", "tls_timeout", silent), ("hung.txt", "request_timeout", hung)]
    {
        // On a busy machine, the shorter ones may run out in an earlier phase.
        let mut timeout = Duration::from_millis(500);
        let diagnosis = loop {
            let text = format!("{}ms", timeout.as_millis());
            let mut diagnosis = diagnose_within(&text, &env, address, &[]);
            diagnosis.stdout = diagnosis.stdout.replace(&format!("{timeout:?}"), "TIME");
            if diagnosis.stdout.contains(reason) || timeout > PATIENCE {
                break diagnosis;
            }
            timeout *= 5;
        };
        assert_golden(&env, address, name, &diagnosis);
    }
}

#[test]
fn with_a_configuration_expects_what_pinger_expects() {
    let env = Env::new();
    let address = serve(&env, server_tls(&env.ca.issue(&ponger()), None), |stream| {
        respond(stream, "200 OK", "pang");
    });
    let config = env.dir.path().join("config.yaml");
    let bundle = env.pinger.file("ca.crt").display().to_string();
    let url = format!("https://{address}");
    let text = format!(
        "ponger: {{url: '{url}', serverName: localhost, acceptCert: {bundle}}}\ntimeout: 1m\n"
    );
    fs::write(&config, text).unwrap();
    let config = config.display().to_string();
    let diagnosis = run(&["--config", &config]);
    assert_golden(&env, address, "wrong_body.txt", &diagnosis);
    // A flag takes precedence.
    let diagnosis = run(&["--config", &config, "--server-name", "another"]);
    assert_eq!(diagnosis.code, 1);
    assert!(diagnosis.stdout.contains("tls_wrong_name"), "{}", diagnosis.stdout);
    // Of another server, any success is good.
    let diagnosis = run(&[&url, "--server-name", "localhost", "--accept-cert", &bundle]);
    assert_eq!(diagnosis.code, 0, "{}", diagnosis.stdout);
    let expectation =
        ["--server-name", "localhost", "--accept-cert", &bundle, "--expect-status", "204"];
    let diagnosis = run(&[&[url.as_str()], expectation.as_slice()].concat());
    assert_eq!(diagnosis.code, 1, "{}", diagnosis.stdout);
}

#[test]
fn shows_an_untrusted_server_neither_certificate_nor_request() {
    let env = Env::new();
    let untrusted = Ca::new("another").issue(&ponger());
    for versions in [rustls::DEFAULT_VERSIONS, &[&TLS12]] {
        let tls = server_tls_of(versions, &untrusted, Some(&env.ca));
        let (seen, received) = mpsc::channel();
        let address = env.serve(move |tcp: TcpStream| {
            let mut tcp = tcp;
            let mut connection = ServerConnection::new(Arc::clone(&tls)).unwrap();
            let mut handshake = Ok(());
            while handshake.is_ok() && connection.is_handshaking() {
                handshake = connection.complete_io(&mut tcp).map(drop);
            }
            seen.send((handshake.is_err(), connection.peer_certificates().is_none())).unwrap();
        });
        let certificate = with_certificate(&env);
        let version = ["--min-tls-version", "1.2", "--json"];
        let diagnosis =
            diagnose(&env, address, &[&version, strs(&certificate).as_slice()].concat());
        assert_eq!(diagnosis.code, 1, "{}", diagnosis.stdout);
        let json: serde_json::Value = serde_json::from_str(&diagnosis.stdout).unwrap();
        assert_eq!(json["failure"]["reason"], "tls_untrusted");
        assert_eq!(json["chain"]["certificates"][0]["issuer"], "CN=another");
        assert_eq!(json["client_certificate"]["requested"], true);
        assert_eq!(json["client_certificate"]["sent"], false);
        assert_eq!(received.recv_timeout(PATIENCE), Ok((true, true)));
    }
}

#[test]
fn rejects_what_cannot_be_diagnosed() {
    let env = Env::new();
    for (arguments, code, text) in [
        (
            &["http://user:secret@a"] as &[&str],
            78,
            "URL: it is plain HTTP, not TLS; use an `https` URL, or give --insecure",
        ),
        (&["https://a", "--accept-cert", "/nowhere.crt"], 78, "/nowhere.crt (--accept-cert): "),
        (
            &["https://a", "--client-certificate", "a"],
            78,
            "--client-certificate and --client-private-key: one is set without the other",
        ),
        (&["https://a", "--server-id", "a"], 78, "--server-id: `a`: a SPIFFE ID starts with"),
        (&["https://user:secret@a"], 78, "contains a user"),
        (&["https://"], 78, "is not a URL"),
        (&["https://a", "--insecure"], 78, "conflicts with the `https` URL"),
        (&["https://a", "--config", "/nowhere.yaml"], 78, "/nowhere.yaml"),
        (&["https://a", "--timeout", "1"], 2, "is not a duration"),
        (&["https://a", "--connect-to", ":1"], 2, "it is no address"),
        (&["https://a", "--min-tls-version", "1.1"], 2, "expected `1.2` or `1.3`"),
        (&["https://a", "b"], 2, "unexpected argument"),
    ] {
        let diagnosis = run(arguments);
        assert_eq!(diagnosis.code, code, "{arguments:?}: {}", diagnosis.stderr);
        assert!(diagnosis.stderr.contains(text), "{arguments:?}: {}", diagnosis.stderr);
        assert!(!diagnosis.stderr.contains("secret"), "{arguments:?}: {}", diagnosis.stderr);
        assert_eq!(diagnosis.stdout, "", "{arguments:?}");
    }
    let key = fs::read_to_string(env.pinger.file("tls.key")).unwrap();
    let diagnosis = run(&["https://a", "--client-certificate", "a", "--client-private-key", &key]);
    assert!(!diagnosis.stderr.contains("PRIVATE KEY"), "{}", diagnosis.stderr);
}
