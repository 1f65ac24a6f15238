//! What holds for every input. `tried` tries it with some, within a bound, and `fuzz/` with as many
//! as there is time for.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use chassis::{
    config::{self, HumanDuration, MinTlsVersion},
    tls::{
        cert::{Leaf, LeafFiles, Purpose, validity},
        peer_id::{Name, Names, SpiffeId, printable},
        pem,
        trust::Roots,
    },
};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

/// A name that is read is one that can be compared whole: it prints as it was written.
pub(crate) fn names(text: &str) {
    let printed = printable(text);
    assert!(!printed.contains(char::is_control) && printed.chars().count() <= 256 * 10);
    let id = text.parse::<SpiffeId>();
    if let Ok(id) = &id {
        assert_eq!(id.as_str(), text);
        assert_eq!(printed, text[..text.len().min(256)]);
        assert!(text.len() <= 2048 && text.is_ascii());
        let parts: Vec<_> = text.split('/').collect();
        assert!(parts.len() >= 4, "a trust domain and a path");
        assert_eq!(parts[..2], ["spiffe:", ""]);
        assert_eq!(parts[2], parts[2].to_lowercase());
        assert!(
            parts[2..].iter().all(|part| !matches!(*part, "" | "." | "..") || part == &parts[2])
        );
        assert!(
            !text.contains([':', '?', '#', '%', '@', '*', ' ']) || text.matches(':').count() == 1
        );
    }
    match text.parse::<Name>() {
        Ok(Name::Spiffe(read)) => assert_eq!(read.as_str(), text.trim()),
        Ok(Name::Dns(name)) => {
            assert_eq!(name, text.trim().to_ascii_lowercase());
            assert!(
                name.len() <= 253 && name.split('.').all(|label| (1..64).contains(&label.len()))
            );
            assert_eq!(name.parse(), Ok(Name::Dns(name.clone())), "it is read as it prints");
        }
        Err(_) => assert!(id.is_err()),
    }
}

/// PEM is taken whole or refused, whatever it holds; and so is what it holds.
pub(crate) fn pem(bytes: &[u8]) {
    let file = Path::new("fuzz.pem");
    let _ = pem::parse_private_key(file, bytes);
    let Ok(certificates) = pem::parse_certificates(file, bytes) else {
        return;
    };
    let ends = bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| line.trim_ascii_end() == b"-----END CERTIFICATE-----")
        .count();
    assert_eq!(certificates.len(), ends, "none is passed over");
    for der in &certificates {
        certificate(der);
    }
}

/// A certificate's holder is nobody, or has names that can be compared and printed.
pub(crate) fn certificate(der: &CertificateDer<'_>) {
    let _ = validity(der);
    let Ok(names) = Names::of(der) else {
        return;
    };
    match names.identity() {
        Ok(known) => {
            assert!(!known.is_empty() && names.unreadable == 0 && names.uris.len() <= 1);
            for name in &known {
                assert!(!name.to_string().contains(char::is_control));
                match name {
                    Name::Spiffe(id) => assert_eq!(names.uris, [id.as_str()]),
                    Name::Dns(name) => {
                        assert!(names.uris.is_empty() && names.dns.contains(name));
                    }
                }
            }
        }
        Err(wrong) => assert!(!wrong.to_string().contains(char::is_control)),
    }
}

/// A leaf, or a trust bundle, of any bytes is refused in words or is good. `folder` is for the files.
pub(crate) fn identity(folder: &Path, certificate: &[u8], key: &[u8]) {
    let files = LeafFiles { certificate: folder.join("tls.crt"), key: folder.join("tls.key") };
    fs::write(&files.certificate, certificate).expect("a file");
    fs::write(&files.key, key).expect("a file");
    let place = folder.display().to_string();
    for purpose in [Purpose::Server, Purpose::Client] {
        match Leaf::load(&files, purpose) {
            Ok(leaf) => {
                assert!(leaf.certified.keys_match().is_ok());
                assert!(leaf.facts.not_before < leaf.facts.not_after);
            }
            Err(error) => assert!(error.to_string().starts_with(&place)),
        }
    }
    if let Err(error) = Roots::load(&files.certificate) {
        assert!(error.to_string().starts_with(&place));
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

/// A configuration of any bytes is refused in words that name the file, or is what it says: written
/// out again, it is read as the same. `folder` is for the file.
pub(crate) fn configuration(folder: &Path, bytes: &[u8]) {
    let file = folder.join("config.yaml");
    fs::write(&file, bytes).expect("a file");
    let load = || config::load::<Sample>("sample", Some(&file), std::iter::empty(), |_| Ok(()));
    match load() {
        Ok(sample) => {
            let mut tree = serde_json::to_value(&sample).expect("JSON");
            remove_empty(&mut tree);
            fs::write(&file, tree.to_string()).expect("a file");
            assert_eq!(load(), Ok(sample), "{tree}");
        }
        Err(error) => {
            let message = error.to_string();
            assert!(message.starts_with(&file.display().to_string()), "{message}");
            // What is not YAML, the parser explains; what is wrong in it, we do.
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
