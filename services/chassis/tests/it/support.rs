//! What the tests share beyond testkit.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use chassis::{
    failure::FailureReason,
    tls::{
        cert::{CertKeyPaths, OwnCertificate},
        classify,
        client::{ClientTls, ExpectedServer},
        clock::Clock,
        identity::VerifyPeer,
        server::{ClientAuth, ServerTls},
        trust::TrustBundle,
        x509::Role,
    },
};
use rustls::{
    SupportedProtocolVersion,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};
use testkit::{
    Ca, Issued, Leaf,
    pki::rcgen::{CustomExtension, GeneralSubtree, NameConstraints},
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _, x509::X509Version};

/// Where the files of the certificate would be, in messages.
pub(crate) fn paths() -> CertKeyPaths {
    CertKeyPaths { certificate: PathBuf::from("tls.crt"), key: PathBuf::from("tls.key") }
}

/// An own certificate from the texts of its two files.
pub(crate) fn own_from_pem(chain: &str, key: &str, role: Role) -> Result<OwnCertificate, String> {
    let (chain, key) = (chain.as_bytes(), key.as_bytes());
    OwnCertificate::from_pem(&paths(), chain, key, role, UnixTime::now())
        .map_err(|error| error.to_string())
}

pub(crate) fn own(issued: &Issued, role: Role) -> Result<OwnCertificate, String> {
    own_from_pem(&issued.chain, &issued.key, role)
}

pub(crate) fn bundle(pem: &str) -> Result<TrustBundle, String> {
    TrustBundle::from_pem(Path::new("ca.crt"), pem.as_bytes(), UnixTime::now())
        .map_err(|error| error.to_string())
}

/// A server that presents `issued`, and verifies clients by the bundle `roots`.
pub(crate) fn server_tls(
    issued: &Issued,
    roots: &str,
    client_auth: ClientAuth,
    versions: &[&'static SupportedProtocolVersion],
) -> ServerTls {
    let own = Arc::new(own(issued, Role::Server).expect("what the test needs"));
    let (clock, trust) = (Clock::system(), bundle(roots).expect("what the test needs"));
    ServerTls::build(Some(&own), Some(&trust), client_auth, versions, &clock, clock.now())
        .expect("what the test needs")
}

/// A client that presents `issued`, or nothing, and expects the server `name` with the SPIFFE ID `id`.
pub(crate) fn client_tls(
    issued: Option<&Issued>,
    roots: &str,
    (name, id): (&str, Option<&str>),
    versions: &[&'static SupportedProtocolVersion],
) -> ClientTls {
    let own =
        issued.map(|issued| Arc::new(own(issued, Role::Client).expect("what the test needs")));
    let (clock, trust) = (Clock::system(), bundle(roots).expect("what the test needs"));
    let name = ServerName::try_from(name.to_owned()).expect("what the test needs");
    let server = ExpectedServer { name, id: id.map(|id| id.parse().expect("what the test needs")) };
    ClientTls::build(own.as_ref(), Some(&trust), &server, versions, &clock, clock.now())
        .expect("what the test needs")
}

/// A server that verifies clients by `roots`.
pub(crate) fn server_trusting(roots: &str) -> ServerTls {
    let own = Ca::new("the server's own").issue(&Leaf::ponger("a"));
    server_tls(&own, roots, ClientAuth::Required, rustls::DEFAULT_VERSIONS)
}

/// A client that expects `server`, and verifies it by `roots`.
pub(crate) fn client_trusting(roots: &str, server: (&str, Option<&str>)) -> ClientTls {
    client_tls(None, roots, server, rustls::DEFAULT_VERSIONS)
}

/// A client that expects the server `name`, and verifies it by `roots`.
pub(crate) fn client_of(roots: &TrustBundle, name: &'static str) -> ClientTls {
    let name = ServerName::try_from(name).expect("what the test needs");
    let (server, clock) = (ExpectedServer { name, id: None }, Clock::system());
    let versions = rustls::DEFAULT_VERSIONS;
    ClientTls::build(None, Some(roots), &server, versions, &clock, clock.now())
        .expect("what the test needs")
}

/// Why `verifier` rejects the chain now, if it does.
pub(crate) fn rejection(
    verifier: &impl VerifyPeer,
    chain: &[CertificateDer<'static>],
) -> Option<FailureReason> {
    verifier.verify_peer(chain, UnixTime::now()).err().map(reason)
}

/// What logs and metrics call this error.
pub(crate) fn reason(error: rustls::Error) -> FailureReason {
    classify::from_io("the peer", &std::io::Error::other(error)).reason
}

/// The certificates of a PEM text.
pub(crate) fn der(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .expect("what the test needs")
}

/// The PEM of each certificate of `pem`.
pub(crate) fn split(pem: &str) -> Vec<&str> {
    pem.split_inclusive("-----END CERTIFICATE-----\n").collect()
}

/// Runs the test `name` again in a process of its own, with the `variables` and none that name
/// trust roots.
pub(crate) fn run_in_own_process(name: &str, variables: &[(&str, &OsStr)]) {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", name]).env_remove("SSL_CERT_FILE").env_remove("SSL_CERT_DIR");
    command.envs(variables.iter().copied());
    let output = command.output().expect("a process");
    let printed = String::from_utf8_lossy(&output.stdout);
    let context = String::from_utf8_lossy(&output.stderr);
    let passed = output.status.success() && printed.contains("1 passed");
    assert!(passed, "{variables:?}\n{printed}\n{context}");
}

/// Makes a certificate signed by its own key with `openssl`, `tls.crt` and `tls.key` in `dir`, for
/// what rcgen cannot make.
pub(crate) fn openssl_certificate(dir: &Path, arguments: &[&str]) -> Issued {
    let config = "[req]\ndistinguished_name = dn\nx509_extensions = ext\n[dn]\n[ext]\nsubjectAltName = DNS:ponger\n";
    std::fs::write(dir.join("san.cnf"), config).expect("what the test needs");
    let fixed = ["req", "-x509", "-nodes", "-days", "1", "-subj", "/CN=ponger"];
    let files = ["-config", "san.cnf", "-keyout", "tls.key", "-out", "tls.crt"];
    testkit::process::openssl(dir, &[&fixed[..], &files, arguments].concat())
        .expect("what the test needs");
    read_pair(dir)
}

/// Makes a self-signed certificate of X.509 version 1; `None` where `openssl` makes none.
pub(crate) fn version_1_certificate(dir: &Path) -> Option<Issued> {
    let new = "req -new -newkey ed25519 -nodes -subj /CN=old -keyout tls.key -out old.csr";
    let sign = "x509 -req -days 1 -in old.csr -signkey tls.key -out tls.crt";
    for arguments in [new, sign] {
        testkit::process::openssl(dir, &arguments.split(' ').collect::<Vec<_>>())
            .expect("what the test needs");
    }
    let issued = read_pair(dir);
    let certificate = issued.chain_der().remove(0);
    let (_, certificate) = X509Certificate::from_der(&certificate).expect("a certificate");
    if certificate.version() == X509Version::V1 {
        return Some(issued);
    }
    testkit::process::skip("openssl makes no certificates of version 1");
    None
}

fn read_pair(dir: &Path) -> Issued {
    let read = |name| std::fs::read_to_string(dir.join(name)).expect("what the test needs");
    Issued { chain: read("tls.crt"), key: read("tls.key") }
}

/// A root that may issue for names below `domain` only.
pub(crate) fn dns_constrained(domain: &str) -> Ca {
    Ca::customized("constrained", |params| {
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(domain.to_owned())],
            excluded_subtrees: Vec::new(),
        });
    })
}

/// A name constraint on URIs, which rcgen does not have: RFC 5280, 4.2.1.10.
pub(crate) fn uri_name_constraint(host: &str) -> CustomExtension {
    let wrap = |tag: u8, content: &[u8]| {
        let length = u8::try_from(content.len()).expect("a short name");
        [&[tag, length], content].concat()
    };
    // NameConstraints, permittedSubtrees [0], GeneralSubtree, uniformResourceIdentifier [6].
    let content = wrap(0x30, &wrap(0xa0, &wrap(0x30, &wrap(0x86, host.as_bytes()))));
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], content);
    extension.set_criticality(true);
    extension
}
