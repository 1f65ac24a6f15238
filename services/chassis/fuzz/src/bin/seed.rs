//! Writes what the fuzzer starts from into `corpus/`: good inputs, of which it makes bad ones.

use std::{fs, io, path::Path};

use testkit::{Ca, Leaf};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let write = |target: &str, name: &str, bytes: &[u8]| {
        let folder = corpus.join(target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(name), bytes)
    };
    let ca = Ca::new("a root").intermediate("between");
    for (name, leaf) in [
        ("ponger", Leaf::ponger("a")),
        ("pinger", Leaf::pinger("a")),
        ("two", Leaf::pinger("a").uri("spiffe://a/b").ip([127, 0, 0, 1].into())),
        ("none", Leaf::new().common_name("nobody")),
    ] {
        let issued = ca.issue(&leaf);
        let pair = format!("{}\0{}", issued.chain, issued.key);
        write("identity", name, pair.as_bytes())?;
        let der =
            CertificateDer::from_pem_slice(issued.chain.as_bytes()).map_err(io::Error::other)?;
        write("names", name, &der)?;
    }
    write("identity", "root", ca.pem().as_bytes())?;
    for (name, text) in [("id", "spiffe://cluster.local/ns/a/sa/ponger"), ("dns", "ponger.a.svc")] {
        write("names", name, text.as_bytes())?;
    }
    write(
        "configuration",
        "whole",
        b"# A key of every kind
insecure: false
service:
  host: '::'
  port: 8443
  tlsCertificate: /certs/tls.crt
  allowedClients: [ponger, \"spiffe://a/b\"]
  minTlsVersion: 1.2
  idleTimeout: 1m 30s
  maxConnections: 1000
identity: {pollInterval: &span 250ms, expiryWarning: *span}
metrics: {host: 127.0.0.1, port: 0, endpoint: /metrics}
log: {format: json, level: trace}
",
    )
}
