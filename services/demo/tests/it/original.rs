//! The original project's configuration and certificate, word for word.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use crate::support::{Service, has};

/// The original's README, "Create the SAN configuration".
const SAN_CNF: &str = "\
[req]
distinguished_name = req_distinguished_name
req_extensions = req_ext
x509_extensions = v3_req
prompt = no

[req_distinguished_name]
C = CA
ST = Ontario
L = Toronto
O = MyOrg
CN = ponger

[req_ext]
subjectAltName = @alt_names

[v3_req]
keyUsage = keyEncipherment, dataEncipherment
extendedKeyUsage = serverAuth
subjectAltName = @alt_names

[alt_names]
DNS.1 = ponger
";

/// The original's README, "Generate the certificate".
const GENERATE: &str =
    "req -x509 -nodes -newkey rsa:2048 -keyout tls.key -out tls.crt -days 365 -config san.cnf";

const PONGER_YAML: &str = "\
service:
  port: 8080
  # If the following are uncommented, then the server will operate over TLS
  tlsCertificate: /app/certs/server.crt
  tlsPrivateKey: /app/certs/server.key

metrics:
  port: 2112
  endpoint: \"/metrics\"
";

const PINGER_YAML: &str = "\
ponger:
  url: https://ponger:8080
  # If uncommented, acceptCert will add
  # the certificates listed in the file to
  # the list of accepted certificates
  acceptCert: /app/certs/server.crt
";

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(folder)
        .output()
        .expect("openssl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_originals_configuration_and_certificate_run_with_paths_and_ports_from_the_environment() {
    if !has("openssl") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    fs::write(path("san.cnf"), SAN_CNF).expect("written");
    openssl(folder.path(), GENERATE);
    fs::write(path("ponger.yaml"), PONGER_YAML).expect("written");
    fs::write(path("pinger.yaml"), PINGER_YAML).expect("written");

    let text = |name: &str| path(name).display().to_string();
    let ponger = Service::start_with(
        "ponger",
        &path("ponger.yaml"),
        &[
            ("PONGER__SERVICE__TLS_CERTIFICATE", &text("tls.crt")),
            ("PONGER__SERVICE__TLS_PRIVATE_KEY", &text("tls.key")),
            ("PONGER__SERVICE__HOST", "127.0.0.1"),
            ("PONGER__SERVICE__PORT", "0"),
            ("PONGER__METRICS__PORT", "0"),
        ],
    );
    let url = format!("https://{}", ponger.address());
    let mut pinger = Service::start_with(
        "pinger",
        &path("pinger.yaml"),
        &[
            ("PINGER__PONGER__URL", &url),
            // The certificate is for `ponger` and nothing else.
            ("PINGER__PONGER__SERVER_NAME", "ponger"),
            ("PINGER__PONGER__ACCEPT_CERT", &text("tls.crt")),
            ("PINGER__INTERVAL", "10ms"),
            ("PINGER__COUNT", "5"),
            ("PINGER__METRICS__PORT", "0"),
        ],
    );
    assert!(pinger.ended().success());
    assert_eq!(pinger.count("Got pong"), 5);
    ponger.wait_for_nth(5, "Received GET /ping");
}

#[test]
fn a_self_signed_ca_true_certificate_is_refused_at_start_and_explained_by_pinger() {
    if !has("openssl") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    openssl(
        folder.path(),
        "req -x509 -nodes -newkey rsa:2048 -keyout tls.key -out tls.crt -days 365 -subj /CN=localhost -addext subjectAltName=DNS:localhost",
    );
    let text = |name: &str| path(name).display().to_string();
    fs::write(path("ponger.yaml"), PONGER_YAML).expect("written");
    let mut ponger = Service::start_with(
        "ponger",
        &path("ponger.yaml"),
        &[
            ("PONGER__SERVICE__TLS_CERTIFICATE", &text("tls.crt")),
            ("PONGER__SERVICE__TLS_PRIVATE_KEY", &text("tls.key")),
            ("PONGER__SERVICE__PORT", "0"),
            ("PONGER__METRICS__PORT", "0"),
        ],
    );
    assert_eq!(ponger.ended().code(), Some(78));
    let line = ponger.wait_for("CA:TRUE");
    assert!(line.contains("tls.crt") && line.contains("CA:FALSE"), "{line}");

    // OpenSSL itself serves what ours refuses to.
    let mut server = Command::new("openssl")
        .args(["s_server", "-accept", "127.0.0.1:0", "-cert", "tls.crt", "-key", "tls.key", "-www"])
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl s_server");
    let port = {
        use std::io::BufRead as _;
        let lines = std::io::BufReader::new(server.stdout.as_mut().expect("its output")).lines();
        lines
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("ACCEPT ")?.rsplit_once(':')?.1.parse::<u16>().ok())
            .expect("its port")
    };
    fs::write(path("pinger.yaml"), PINGER_YAML).expect("written");
    let pinger = Service::start_with(
        "pinger",
        &path("pinger.yaml"),
        &[
            ("PINGER__PONGER__URL", &format!("https://localhost:{port}")),
            ("PINGER__PONGER__ACCEPT_CERT", &text("tls.crt")),
            ("PINGER__COUNT", "1"),
            ("PINGER__METRICS__PORT", "0"),
        ],
    );
    let line = pinger.wait_for("Lost ping");
    let _ = server.kill();
    let _ = server.wait();
    assert!(line.contains("reason=\"tls_untrusted\"") && line.contains("CA:TRUE"), "{line}");
}
