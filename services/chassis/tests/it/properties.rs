//! What is true of every input, tried with some.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use chassis::{
    config::{self, HumanDuration, MinTlsVersion},
    tls::{
        peer_id::{PeerId, SubjectAltNames},
        pem,
        x509::{Role, validity},
    },
};
use proptest::{
    collection::vec, prelude::any, proptest, sample::select, strategy::Strategy,
    test_runner::Config,
};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use testkit::{Ca, Leaf};

use crate::support::{bundle, own_from_pem};

/// So many cases, and no file of those that failed.
pub(crate) fn config(cases: u32) -> Config {
    Config { cases, failure_persistence: None, ..Default::default() }
}

/// Texts that are made of pieces of real ones.
fn of_pieces(pieces: &'static [&'static str]) -> impl Strategy<Value = String> {
    vec(select(pieces), 0..12).prop_map(|pieces| pieces.concat())
}

const YAML: &[&str] = &[
    "insecure",
    "service",
    "port",
    "host",
    "minTlsVersion",
    "idleTimeout",
    "allowedClients",
    "tlsCertificate",
    "maxConnections",
    "metrics",
    "endpoint",
    "log",
    "level",
    ": ",
    ":",
    " ",
    "\n",
    "\n  ",
    "- ",
    "{",
    "}",
    "[",
    "]",
    ", ",
    "true",
    "1",
    "1.2",
    "1.3",
    "0x10",
    "-1",
    "8080",
    "~",
    "null",
    "'",
    "\"",
    "&a ",
    "*a",
    "---\n",
    "# ",
    "10s",
    "250ms",
    "::1",
    "0.0.0.0",
    "info",
    "debug",
    "/x",
    "\t",
    "!",
    "|",
    ">",
    "%",
    "\u{feff}",
    "?",
    ".",
    "\\0",
];

const PEM: &[&str] = &[
    "-----BEGIN CERTIFICATE-----\n",
    "-----END CERTIFICATE-----\n",
    "-----BEGIN PRIVATE KEY-----\n",
    "-----END PRIVATE KEY-----\n",
    "-----BEGIN EC PRIVATE KEY-----",
    "-----END EC PRIVATE KEY-----",
    "-----BEGIN ",
    "-----END ",
    "-----",
    "-",
    "\n",
    "\r\n",
    "\r",
    " ",
    "AAAA",
    "MIIB",
    "=",
    "CERTIFICATE",
    "MAA=\n",
    "Proc-Type: 4,ENCRYPTED\n",
    "-----BEGIN X\n",
    "TRUSTED ",
];

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn any_bytes_are_a_valid_configuration_or_rejected(bytes in vec(any::<u8>(), 0..64)) {
        configuration(&bytes);
    }

    #[test]
    fn anything_like_yaml_is_a_valid_configuration_or_rejected(text in of_pieces(YAML)) {
        configuration(text.as_bytes());
    }

    #[test]
    fn anything_like_pem_is_read_whole_or_rejected(text in of_pieces(PEM)) {
        read_pem(text.as_bytes());
    }

    #[test]
    fn certificate_with_any_byte_changed_is_usable_or_rejected(at in 0_usize..1000, byte: u8) {
        let issued = Ca::new("a root").issue(&Leaf::ponger("a"));
        let mut text = issued.chain.into_bytes();
        let at = at % text.len();
        text[at] = byte;
        read_pem(&text);
        if let Ok(text) = std::str::from_utf8(&text) {
            identity(text, &issued.key);
        }
    }
}

/// PEM is read whole or rejected, and so is what it holds.
fn read_pem(bytes: &[u8]) {
    let file = Path::new("file.pem");
    let _ = pem::private_key(file, bytes);
    let Ok(certificates) = pem::certificates(file, bytes) else { return };
    let ends = bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| line.trim_ascii() == b"-----END CERTIFICATE-----");
    // Each is read once, however often it is there.
    assert!((1..=ends.count()).contains(&certificates.len()));
    certificates.iter().for_each(certificate);
}

/// A certificate identifies no one, or has IDs that can be compared and printed.
fn certificate(der: &CertificateDer<'_>) {
    let _ = validity(der);
    let Ok(names) = SubjectAltNames::from_der(der) else { return };
    match names.peer_ids() {
        Ok(ids) => {
            assert!(!ids.is_empty() && names.unreadable == 0 && names.uris.len() <= 1);
            for id in &ids {
                assert!(!id.to_string().contains(char::is_control));
                match id {
                    PeerId::Spiffe(id) => assert_eq!(names.uris, [id.as_str()]),
                    PeerId::Dns(name) => assert!(names.uris.is_empty() && names.dns.contains(name)),
                }
            }
        }
        Err(error) => assert!(!error.to_string().contains(char::is_control)),
    }
}

/// A certificate or trust bundle is usable, or rejected with the name of its file.
fn identity(certificate: &str, key: &str) {
    for role in [Role::Server, Role::Client] {
        match own_from_pem(certificate, key, role) {
            Ok(own) => assert!(own.certified.keys_match().is_ok()),
            Err(error) => assert!(error.starts_with("tls."), "{error}"),
        }
    }
    if let Err(error) = bundle(certificate) {
        assert!(error.starts_with("ca.crt: "), "{error}");
    }
}

/// A configuration with a key of every kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Sample {
    insecure: bool,
    service: Service,
    identity: config::Identity,
    metrics: config::Metrics,
    log: config::Log,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Service {
    host: IpAddr,
    port: u16,
    tls_certificate: Option<PathBuf>,
    allowed_clients: Vec<String>,
    min_tls_version: MinTlsVersion,
    idle_timeout: HumanDuration,
    max_connections: u32,
}

impl Default for Service {
    fn default() -> Self {
        Self {
            host: IpAddr::from([0, 0, 0, 0]),
            port: 8443,
            tls_certificate: None,
            allowed_clients: Vec::new(),
            min_tls_version: MinTlsVersion::default(),
            idle_timeout: HumanDuration::seconds(60),
            max_connections: 100,
        }
    }
}

/// A configuration of any bytes is rejected with the name of its file, or is what it says: written
/// out again, it is read as the same.
fn configuration(bytes: &[u8]) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("config.yaml");
    std::fs::write(&file, bytes).expect("written");
    let load = || config::load::<Sample>("sample", Some(&file), std::iter::empty(), |_| Ok(()));
    match load() {
        Ok(sample) => {
            let mut tree = serde_json::to_value(&sample).expect("JSON");
            remove_empty(&mut tree);
            std::fs::write(&file, tree.to_string()).expect("written");
            assert_eq!(load(), Ok(sample), "{tree}");
        }
        Err(error) => {
            let message = error.to_string();
            assert!(message.starts_with(&file.display().to_string()), "{message}");
            // The parser explains what is not YAML; we explain what is wrong in it.
            assert!(!message.contains("for key `"), "{message}");
        }
    }
}

/// Removes keys without a value and empty lists, which a file must not have.
fn remove_empty(tree: &mut serde_json::Value) {
    if let Some(table) = tree.as_object_mut() {
        table.retain(|_, value| {
            !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty())
        });
        table.values_mut().for_each(remove_empty);
    }
}
