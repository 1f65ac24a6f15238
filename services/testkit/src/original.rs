//! The files of the original project, word for word.

use std::{fs, io, path::Path};

use crate::process::openssl;

/// ponger's `config.yaml`.
pub const PONGER_CONFIG: &str = "\
service:
  port: 8080
  # If the following are uncommented, then the server will operate over TLS
  tlsCertificate: /app/certs/server.crt
  tlsPrivateKey: /app/certs/server.key

metrics:
  port: 2112
  endpoint: \"/metrics\"
";

/// pinger's `config.yaml`.
pub const PINGER_CONFIG: &str = "\
ponger:
  url: https://ponger:8080
  # If uncommented, acceptCert will add
  # the certificates listed in the file to
  # the list of accepted certificates
  acceptCert: /app/certs/server.crt
";

/// `san.cnf` of its README.
pub const SAN_CONFIG: &str = "\
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

/// The arguments of `openssl` in its README.
pub const OPENSSL_ARGUMENTS: &str =
    "req -x509 -nodes -newkey rsa:2048 -keyout tls.key -out tls.crt -days 365 -config san.cnf";

/// Writes `san.cnf` into `dir`, and makes `tls.crt` and `tls.key` there: a self-signed RSA
/// certificate for `ponger`, valid for a year.
///
/// # Errors
/// When `openssl` is not installed (`NotFound`) or fails.
pub fn make_certificate(dir: &Path) -> io::Result<()> {
    fs::write(dir.join("san.cnf"), SAN_CONFIG)?;
    openssl(dir, &OPENSSL_ARGUMENTS.split(' ').collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::is_installed;

    #[test]
    fn makes_a_certificate_and_its_key() {
        if !is_installed("openssl") {
            return;
        }
        let dir = tempfile::tempdir().expect("a directory");
        make_certificate(dir.path()).expect("a certificate");
        for name in ["tls.crt", "tls.key"] {
            assert!(fs::read_to_string(dir.path().join(name)).expect("a file").contains("BEGIN"));
        }
    }
}
