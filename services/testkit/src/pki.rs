//! A certificate authority in memory, and the certificates that it issues.

use std::{fs, io, path::Path, sync::Arc};

pub use rcgen;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, string::Ia5String,
};
use rustls::{
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use time::{Duration, OffsetDateTime};

use crate::files::write_private;

/// The contents of a leaf certificate, faults included, since tests need those.
///
/// The default is valid from a minute ago, for an hour, for clients and servers, and has no name.
#[derive(Clone, Debug)]
pub struct Leaf {
    common_name: Option<String>,
    names: Vec<SanType>,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    usages: Vec<ExtendedKeyUsagePurpose>,
    extensions: Vec<CustomExtension>,
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
            extensions: Vec::new(),
            is_ca: false,
        }
    }
}

impl Leaf {
    /// A leaf without a name.
    pub fn new() -> Self {
        Self::default()
    }

    /// ponger's: the DNS names of its Service and its SPIFFE ID in `namespace`, and `localhost` for
    /// tests and the demo.
    pub fn ponger(namespace: &str) -> Self {
        Self::new()
            .dns("ponger")
            .dns(&format!("ponger.{namespace}"))
            .dns(&format!("ponger.{namespace}.svc"))
            .dns(&format!("ponger.{namespace}.svc.cluster.local"))
            .dns("localhost")
            .uri(&format!("spiffe://cluster.local/ns/{namespace}/sa/ponger"))
    }

    /// pinger's: its SPIFFE ID in `namespace`.
    pub fn pinger(namespace: &str) -> Self {
        Self::new().uri(&format!("spiffe://cluster.local/ns/{namespace}/sa/pinger"))
    }

    /// Sets the subject's common name, which verifiers ignore.
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

    /// Adds a URI, a SPIFFE ID or any other.
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

    /// Sets the validity, relative to now; negative durations lie in the past.
    pub fn valid(mut self, from: Duration, to: Duration) -> Self {
        let now = OffsetDateTime::now_utc();
        self.not_before = now + from;
        self.not_after = now + to;
        self
    }

    /// Limits its use to servers.
    pub fn server_only(mut self) -> Self {
        self.usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self
    }

    /// Limits its use to clients.
    pub fn client_only(mut self) -> Self {
        self.usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self
    }

    /// Adds an extension that rcgen does not have.
    pub fn extension(mut self, extension: CustomExtension) -> Self {
        self.extensions.push(extension);
        self
    }

    /// Sets `CA:TRUE`, as `openssl req -x509 -addext` does; verifiers reject such a leaf.
    pub fn ca_true(mut self) -> Self {
        self.is_ca = true;
        self
    }

    /// Issues it signed by its own key.
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
        params.custom_extensions.clone_from(&self.extensions);
        if self.is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages.push(KeyUsagePurpose::KeyCertSign);
        }
        params
    }
}

/// An issued certificate chain and its private key, as PEM.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The leaf, then the intermediates, without the root.
    pub chain: String,
    /// PKCS#8.
    pub key: String,
}

impl Issued {
    /// The names and contents of its two files, as [`CertDir::replace`](crate::CertDir::replace)
    /// takes them.
    pub fn files(&self) -> [(&'static str, &[u8]); 2] {
        [("tls.crt", self.chain.as_bytes()), ("tls.key", self.key.as_bytes())]
    }

    /// Writes `tls.crt` and `tls.key` (mode 0600) into `dir`, one after the other: where a service
    /// is running on them, use a [`CertDir`](crate::CertDir).
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        write_private(&dir.join("tls.key"), &self.key)?;
        fs::write(dir.join("tls.crt"), &self.chain)
    }

    /// The chain as DER.
    ///
    /// # Panics
    /// When the chain is not PEM.
    pub fn chain_der(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(self.chain.as_bytes())
            .collect::<Result<_, _>>()
            .expect("a PEM chain")
    }

    /// Chain and key for a rustls configuration. Whether they belong together is not checked, so
    /// that a test can present a certificate without holding its key; rustls'
    /// [`SingleCertAndKey`](rustls::sign::SingleCertAndKey) presents it whatever the peer asks for.
    ///
    /// # Panics
    /// When chain or key is not PEM.
    pub fn certified_key(&self) -> Arc<CertifiedKey> {
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("a PEM key");
        let key = any_supported_type(&key).expect("a supported key");
        Arc::new(CertifiedKey::new(self.chain_der(), key))
    }
}

/// A certificate authority, root or intermediate, whose key stays in memory.
pub struct Ca {
    params: CertificateParams,
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

    /// A root with the given validity, relative to now.
    ///
    /// # Panics
    /// When the cryptography library cannot make a key or a signature.
    pub fn valid(common_name: &str, from: Duration, to: Duration) -> Self {
        Self::from_params(ca_params(common_name, from, to), None)
    }

    /// A root with the contents that `change` gives it: constraints, or faults.
    ///
    /// # Panics
    /// When the cryptography library cannot make a key or a signature.
    pub fn customized(common_name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = ca_params(common_name, -Duration::HOUR, Duration::DAY);
        change(&mut params);
        Self::from_params(params, None)
    }

    /// An intermediate below this authority.
    ///
    /// # Panics
    /// When the cryptography library cannot make a key or a signature.
    pub fn intermediate(&self, common_name: &str) -> Self {
        self.intermediate_valid(common_name, -Duration::HOUR, Duration::DAY)
    }

    /// An intermediate with the given validity, relative to now.
    ///
    /// # Panics
    /// When the cryptography library cannot make a key or a signature.
    pub fn intermediate_valid(&self, common_name: &str, from: Duration, to: Duration) -> Self {
        Self::from_params(ca_params(common_name, from, to), Some(self))
    }

    /// An intermediate below this authority with the contents that `change` gives it.
    ///
    /// # Panics
    /// When the cryptography library cannot make a key or a signature.
    pub fn intermediate_customized(
        &self,
        common_name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Self {
        let mut params = ca_params(common_name, -Duration::HOUR, Duration::DAY);
        change(&mut params);
        Self::from_params(params, Some(self))
    }

    /// A root with a key on P-384, which takes longest to verify by.
    ///
    /// # Panics
    /// When the cryptography library cannot make a key or a signature.
    pub fn with_p384(common_name: &str) -> Self {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("a key");
        let params = ca_params(common_name, -Duration::HOUR, Duration::DAY);
        Self::from_params_and_key(params, key, None)
    }

    fn from_params(params: CertificateParams, parent: Option<&Self>) -> Self {
        Self::from_params_and_key(params, new_key(), parent)
    }

    fn from_params_and_key(params: CertificateParams, key: KeyPair, parent: Option<&Self>) -> Self {
        let (certificate, intermediates) = match parent {
            None => (params.self_signed(&key).expect("a root").pem(), String::new()),
            Some(parent) => {
                let signed = params.signed_by(&key, &parent.issuer).expect("an intermediate").pem();
                (signed.clone(), format!("{signed}{}", parent.intermediates))
            }
        };
        Self { issuer: Issuer::new(params.clone(), key), params, certificate, intermediates }
    }

    /// A certificate for the subject and the key of `other`, issued by this authority, as PEM: a
    /// peer that trusts either of them accepts what `other` issued.
    ///
    /// # Panics
    /// When the cryptography library cannot make a signature.
    pub fn cross_sign(&self, other: &Self, from: Duration, to: Duration) -> String {
        let now = OffsetDateTime::now_utc();
        let mut params = other.params.clone();
        (params.not_before, params.not_after) = (now + from, now + to);
        let key = other.issuer.key();
        params.signed_by(key, &self.issuer).expect("a cross-signed certificate").pem()
    }

    /// Another certificate of this root for the same key, as before or after a renewal, as PEM.
    ///
    /// # Panics
    /// When the cryptography library cannot make a signature.
    pub fn self_signed_again(&self, from: Duration, to: Duration) -> String {
        self.cross_sign(self, from, to)
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
