//! A throw-away certificate authority, for tests and for the local mode.
//!
//! - [`Ca`]: a root (or an intermediate) that lives in memory and issues leaves;
//! - [`Leaf`]: what a certificate shall say, wrong things included, since tests need those;
//! - [`Issued`]: the certificate chain and the key that came out, as PEM.
//!
//! Nothing here is for production, and neither service links it: `.ci/run` checks their
//! dependency trees for that.

use std::{fs, io, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, string::Ia5String,
};
use time::{Duration, OffsetDateTime};

/// What a leaf certificate shall say.
///
/// Starts valid from a minute ago, for an hour, for clients and servers both, with no name.
#[derive(Clone, Debug)]
pub struct Leaf {
    common_name: Option<String>,
    names: Vec<SanType>,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    usages: Vec<ExtendedKeyUsagePurpose>,
    is_ca: bool,
}

impl Default for Leaf {
    fn default() -> Self {
        let now = OffsetDateTime::now_utc();
        Self {
            common_name: None,
            names: Vec::new(),
            not_before: now - Duration::MINUTE,
            not_after: now + Duration::HOUR,
            usages: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            is_ca: false,
        }
    }
}

impl Leaf {
    /// A leaf without a name.
    pub fn new() -> Self {
        Self::default()
    }

    /// ponger as a cluster knows it: the DNS names of its Service and its SPIFFE ID in
    /// `namespace`, and `localhost` so that the local mode can use it.
    pub fn ponger(namespace: &str) -> Self {
        Self::new()
            .dns("ponger")
            .dns(&format!("ponger.{namespace}"))
            .dns(&format!("ponger.{namespace}.svc"))
            .dns(&format!("ponger.{namespace}.svc.cluster.local"))
            .dns("localhost")
            .uri(&format!("spiffe://cluster.local/ns/{namespace}/sa/ponger"))
    }

    /// pinger as a cluster knows it: its SPIFFE ID in `namespace`.
    pub fn pinger(namespace: &str) -> Self {
        Self::new().uri(&format!("spiffe://cluster.local/ns/{namespace}/sa/pinger"))
    }

    /// Adds a subject common name, which no verifier looks at.
    pub fn common_name(mut self, name: &str) -> Self {
        self.common_name = Some(name.to_owned());
        self
    }

    /// Adds a DNS name.
    ///
    /// # Panics
    /// When `name` is not ASCII.
    pub fn dns(mut self, name: &str) -> Self {
        self.names.push(SanType::DnsName(ia5(name)));
        self
    }

    /// Adds a URI, which need not be a SPIFFE ID.
    ///
    /// # Panics
    /// When `uri` is not ASCII.
    pub fn uri(mut self, uri: &str) -> Self {
        self.names.push(SanType::URI(ia5(uri)));
        self
    }

    /// Adds an IP address.
    pub fn ip(mut self, address: std::net::IpAddr) -> Self {
        self.names.push(SanType::IpAddress(address));
        self
    }

    /// Sets the validity, as distances from now; negative ones lie in the past.
    pub fn valid(mut self, from: Duration, to: Duration) -> Self {
        let now = OffsetDateTime::now_utc();
        self.not_before = now + from;
        self.not_after = now + to;
        self
    }

    /// For servers alone.
    pub fn server_only(mut self) -> Self {
        self.usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self
    }

    /// For clients alone.
    pub fn client_only(mut self) -> Self {
        self.usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self
    }

    /// Says `CA:TRUE`, as `openssl req -x509 -addext` does: no verifier takes such a leaf.
    pub fn ca_true(mut self) -> Self {
        self.is_ca = true;
        self
    }

    /// Signs it with its own key, as a stranger would.
    ///
    /// # Panics
    /// When the cryptography library cannot make a key or a signature.
    pub fn self_signed(&self) -> Issued {
        let key = new_key();
        let certificate = self.params().self_signed(&key).expect("a self-signed certificate");
        Issued { chain: certificate.pem(), key: key.serialize_pem() }
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if let Some(name) = &self.common_name {
            params.distinguished_name.push(DnType::CommonName, name.clone());
        }
        params.subject_alt_names.clone_from(&self.names);
        params.not_before = self.not_before;
        params.not_after = self.not_after;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages.clone_from(&self.usages);
        if self.is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages.push(KeyUsagePurpose::KeyCertSign);
        }
        params
    }
}

/// A certificate chain, leaf first, and the leaf's private key, both as PEM.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The leaf, then the intermediates, without the root.
    pub chain: String,
    /// PKCS#8.
    pub key: String,
}

impl Issued {
    /// Writes `tls.crt` and `tls.key` (mode 0600) into `folder`.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        write_private(&folder.join("tls.key"), &self.key)?;
        fs::write(folder.join("tls.crt"), &self.chain)
    }
}

/// A certificate authority that lives in memory; its key is never written anywhere.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
    /// PEM of the intermediates above a leaf, from the lowest upwards.
    intermediates: String,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ca").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl Ca {
    /// A root, valid from an hour ago for a day.
    ///
    /// # Panics
    /// When the cryptography library cannot make a key or a signature.
    pub fn new(common_name: &str) -> Self {
        Self::valid(common_name, -Duration::HOUR, Duration::DAY)
    }

    /// A root with a validity of its own, as distances from now.
    ///
    /// # Panics
    /// When the cryptography library cannot make a key or a signature.
    pub fn valid(common_name: &str, from: Duration, to: Duration) -> Self {
        let key = new_key();
        let params = ca_params(common_name, from, to);
        let certificate = params.self_signed(&key).expect("a root").pem();
        Self { issuer: Issuer::new(params, key), certificate, intermediates: String::new() }
    }

    /// An intermediate below this authority.
    ///
    /// # Panics
    /// When the cryptography library cannot make a key or a signature.
    pub fn intermediate(&self, common_name: &str) -> Self {
        self.intermediate_valid(common_name, -Duration::HOUR, Duration::DAY)
    }

    /// An intermediate with a validity of its own, as distances from now.
    ///
    /// # Panics
    /// When the cryptography library cannot make a key or a signature.
    pub fn intermediate_valid(&self, common_name: &str, from: Duration, to: Duration) -> Self {
        let key = new_key();
        let params = ca_params(common_name, from, to);
        let certificate = params.signed_by(&key, &self.issuer).expect("an intermediate").pem();
        let intermediates = format!("{certificate}{}", self.intermediates);
        Self { issuer: Issuer::new(params, key), certificate, intermediates }
    }

    /// This authority's own certificate as PEM: for a root, the trust root.
    pub fn pem(&self) -> &str {
        &self.certificate
    }

    /// Issues a certificate with a new key.
    ///
    /// # Panics
    /// When the cryptography library cannot make a key or a signature.
    pub fn issue(&self, leaf: &Leaf) -> Issued {
        let key = new_key();
        let certificate = leaf.params().signed_by(&key, &self.issuer).expect("a leaf");
        Issued {
            chain: format!("{}{}", certificate.pem(), self.intermediates),
            key: key.serialize_pem(),
        }
    }
}

/// Writes a file that only its owner can read; an existing file is replaced whole, by a rename.
///
/// # Errors
/// When the folder cannot be written.
pub fn write_private(path: &Path, contents: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    let _ = fs::remove_file(&new);
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?
        .write_all(contents.as_bytes())?;
    fs::rename(&new, path)
}

fn ca_params(common_name: &str, from: Duration, to: Duration) -> CertificateParams {
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = now + from;
    params.not_after = now + to;
    params
}

fn new_key() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key")
}

fn ia5(text: &str) -> Ia5String {
    Ia5String::try_from(text).expect("an ASCII name")
}
