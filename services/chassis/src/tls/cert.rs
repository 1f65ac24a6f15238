//! This service's own certificate chain and private key, verified before use.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    CertificateError, RootCertStore,
    pki_types::{CertificateDer, DnsName, UnixTime},
    server::WebPkiClientVerifier,
    sign::CertifiedKey,
};
use x509_parser::{certificate::X509Certificate, x509::X509Version};

use super::{
    classify::describe,
    clock::format_rfc3339,
    issuers::IssuerGraph,
    limits,
    peer_id::SubjectAltNames,
    pem, provider, unsupported,
    x509::{Role, Validity, parse},
};
use crate::{error::ConfigError, files::FileContents};

/// Where a certificate and its key are on disk. Both may be the same file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertKeyPaths {
    /// The leaf and its intermediates, as PEM.
    pub certificate: PathBuf,
    /// The leaf's private key, as PEM.
    pub key: PathBuf,
}

impl CertKeyPaths {
    /// The pair that the two `keys` of the configuration name; `None` if neither is set.
    ///
    /// # Errors
    /// When one is set without the other.
    pub fn from_config(
        certificate: Option<&Path>,
        key: Option<&Path>,
        keys: &str,
    ) -> Result<Option<Self>, ConfigError> {
        match (certificate, key) {
            (Some(certificate), Some(key)) => {
                Ok(Some(Self { certificate: certificate.to_owned(), key: key.to_owned() }))
            }
            (None, None) => Ok(None),
            _ => Err(ConfigError::new(keys, "one is set without the other")
                .hint("set both to PEM files, or remove both")),
        }
    }
}

/// An own certificate chain with its key, found to be usable.
#[derive(Clone)]
pub struct OwnCertificate {
    /// What rustls presents.
    pub certified: Arc<CertifiedKey>,
    /// The leaf's validity.
    pub leaf: Validity,
    chain: IssuerGraph,
    /// The leaf's serial number, in hexadecimal.
    pub serial: String,
    /// The leaf's subject alternative names.
    pub names: SubjectAltNames,
}

impl fmt::Debug for OwnCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the key, which stays out of every log.
        f.debug_struct("OwnCertificate")
            .field("serial", &self.serial)
            .field("leaf", &self.leaf)
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

impl PartialEq for OwnCertificate {
    fn eq(&self, other: &Self) -> bool {
        // The key belongs to the leaf, so the chain says it all.
        self.certified.cert == other.certified.cert
    }
}

impl OwnCertificate {
    /// Reads `paths` and verifies that the certificate can be used in `role` at `now`.
    ///
    /// # Errors
    /// As [`OwnCertificate::from_pem`], and when a file cannot be read.
    pub fn load(paths: &CertKeyPaths, role: Role, now: UnixTime) -> Result<Self, ConfigError> {
        let contents = pem::read([paths.certificate.clone(), paths.key.clone()]);
        Self::from_contents(paths, &contents, role, now)
    }

    /// Verifies the `contents` of `paths`, certificate and key, which were read together.
    pub(super) fn from_contents(
        paths: &CertKeyPaths,
        contents: &[FileContents],
        role: Role,
        now: UnixTime,
    ) -> Result<Self, ConfigError> {
        let [certificate, key] = contents else {
            return Err(ConfigError::new(paths.certificate.display(), "it was not read"));
        };
        Self::from_pem(paths, certificate.bytes()?, key.bytes()?, role, now)
    }

    /// Verifies the contents of `paths`.
    ///
    /// # Errors
    /// When a file is damaged, the key belongs to another certificate, the certificate or its issuer
    /// has expired or is not valid yet, is a CA's, is a server's without a usable name, or is one that
    /// verifiers reject.
    pub fn from_pem(
        paths: &CertKeyPaths,
        certificate: &[u8],
        key: &[u8],
        role: Role,
        now: UnixTime,
    ) -> Result<Self, ConfigError> {
        // Where both paths are one file, whatever links lead to it, it holds the key too.
        let chain = if certificate == key {
            pem::certificates_beside_key(&paths.certificate, certificate)?
        } else {
            pem::certificates(&paths.certificate, certificate)?
        };
        let preflight = Preflight { paths, chain: &chain, role, now };
        let (leaf, serial, names) = preflight.check_leaf()?;
        let own_chain = preflight.check_chain()?;
        // Last: rustls wipes the key.
        let key = pem::private_key(&paths.key, key)?;
        let certified = CertifiedKey::from_der(chain.clone(), key, provider())
            .map_err(|error| preflight.describe_key_error(&error))?;
        Ok(Self { certified: Arc::new(certified), leaf, chain: own_chain, serial, names })
    }

    /// The leaf's issuer, as the leaf names it.
    pub(super) fn issuer(&self) -> String {
        let leaf = self.certified.cert.first().and_then(|leaf| parse(leaf).ok());
        leaf.map(|leaf| leaf.issuer().to_string()).unwrap_or_default()
    }

    /// The last second in which the chain can be verified, as far as it is known at `now`.
    pub fn not_after(&self, now: UnixTime) -> UnixTime {
        self.chain.not_after(now)
    }

    /// The subject and the validity of each certificate in the chain that does not decide that.
    pub(super) fn others(&self, now: UnixTime) -> impl Iterator<Item = (&str, Validity)> {
        self.chain.others(now)
    }
}

/// The checks of an own certificate before it is used.
struct Preflight<'a> {
    paths: &'a CertKeyPaths,
    chain: &'a [CertificateDer<'static>],
    role: Role,
    now: UnixTime,
}

impl Preflight<'_> {
    fn error(&self, reason: impl fmt::Display) -> ConfigError {
        ConfigError::new(self.paths.certificate.display(), reason)
    }

    fn parse<'d>(&self, der: &'d CertificateDer<'_>) -> Result<X509Certificate<'d>, ConfigError> {
        parse(der).map_err(|reason| self.error(format!("a certificate in it {reason}")))
    }

    fn check_leaf(&self) -> Result<(Validity, String, SubjectAltNames), ConfigError> {
        let leaf = self.parse(&self.chain[0])?;
        let validity = self.check_validity(&leaf, "the certificate")?;
        if leaf.is_ca() {
            return Err(self
                .error("the certificate says CA:TRUE, so verifiers reject it as a server's or client's")
                .hint("issue a certificate with it as the CA; to keep it self-signed, make it again with basicConstraints CA:FALSE and put it into the peer's trust bundle (`openssl req -x509` adds CA:TRUE unless its configuration has an x509_extensions section)"));
        }
        let names = SubjectAltNames::from_parsed(&leaf).map_err(|error| {
            self.error(format!("its subject alternative names cannot be read: {error}"))
        })?;
        let is_usable = |name: &String| {
            DnsName::try_from(name.strip_prefix("*.").unwrap_or(name.as_str())).is_ok()
        };
        // By what a client is identified is for the server to decide: many take the common name.
        if self.role == Role::Server && !names.dns.iter().any(is_usable) && names.addresses == 0 {
            return Err(self
                .error("the certificate has no DNS name or IP address that a client could verify (a common name does not count)")
                .hint("issue it with a subjectAltName, such as DNS:ponger"));
        }
        let usage = leaf.extended_key_usage().map_err(|error| {
            self.error(format!("its extended key usage cannot be read: {error}"))
        })?;
        let (usable, part, wanted) = match (usage.map(|usage| usage.value), self.role) {
            (None, _) => (true, "", ""),
            (Some(usage), Role::Server) => (usage.server_auth, "server", "serverAuth"),
            (Some(usage), Role::Client) => (usage.client_auth, "client", "clientAuth"),
        };
        if !usable {
            return Err(self
                .error(format!("its extended key usage does not allow it for a {part}"))
                .hint(format!("issue it with {wanted}")));
        }
        Ok((validity, leaf.raw_serial_as_string().replace(':', ""), names))
    }

    fn check_validity(
        &self,
        certificate: &X509Certificate<'_>,
        subject: &str,
    ) -> Result<Validity, ConfigError> {
        let validity = Validity::from_parsed(certificate);
        if validity.not_after < self.now {
            let at = format_rfc3339(validity.not_after);
            return Err(self.error(format!("{subject} expired at {at}")).hint("renew it"));
        }
        if validity.not_before > self.now {
            let at = format_rfc3339(validity.not_before);
            return Err(self
                .error(format!("{subject} is not valid before {at}"))
                .hint("wait until then, or compare the clocks"));
        }
        Ok(validity)
    }

    /// Verifies the chain as a peer would that trusts its upper end. A leaf alone, issued by a CA that
    /// is not in the file, can only be verified by its peers.
    fn check_chain(&self) -> Result<IssuerGraph, ConfigError> {
        let [leaf, rest @ ..] = self.chain else {
            return Err(self.error("it holds no certificate"));
        };
        limits::check_chain(leaf, rest).map_err(|error| {
            self.error(format!("it {error}")).hint("leave out what is not needed, such as the root")
        })?;
        let parsed = self.chain.iter().map(|der| self.parse(der)).collect::<Result<Vec<_>, _>>()?;
        let chain = IssuerGraph::new(&parsed);
        let in_it = |certificate: &X509Certificate<'_>, reason: &str| {
            let reason = unsupported::with_subject(certificate, reason);
            self.error(format!("a certificate in it {reason}"))
        };
        if let Some(reason) = unsupported::key(&parsed[0]) {
            return Err(in_it(&parsed[0], &reason));
        }
        let path = self.path_of_issuers(&chain, &parsed)?;
        for position in &path {
            // The uppermost is the anchor of the verification below, which does not look at this.
            let issuer = &parsed[*position];
            if !issuer.is_ca() && issuer.version() != X509Version::V1 {
                return Err(self
                    .error(format!(
                        "`{}` in it is not the certificate of a CA, so verifiers reject what it issued",
                        issuer.subject()
                    ))
                    .hint("issue the leaf with a CA whose certificate says CA:TRUE"));
            }
            let as_intermediate = || unsupported::as_intermediate(issuer, self.role);
            let is_root = chain.is_self_signed(*position);
            let reason = unsupported::as_issuer(issuer)
                .or_else(|| if is_root { None } else { as_intermediate() });
            if let Some(reason) = reason {
                return Err(in_it(issuer, &reason));
            }
        }
        let path: Vec<_> = path.iter().map(|position| &self.chain[*position]).collect();
        let verified = match path.as_slice() {
            [below @ .., anchor] => self.verify(below, anchor),
            [] => self.verify(&[], leaf),
        };
        match verified {
            Ok(()) => {}
            // It is not self-signed: whether its signature is good, only its issuer's key tells.
            Err(error) if path.is_empty() && is_not_its_issuers(&error) => {}
            Err(rustls::Error::InvalidCertificate(error)) => {
                return Err(self
                    .error(format!(
                        "the certificate chain cannot be verified: the certificate {}",
                        describe(&error)
                    ))
                    .hint(
                        "the file must hold the leaf first, then the intermediates up to the root",
                    ));
            }
            Err(error) => {
                return Err(
                    self.error(format!("the certificate chain cannot be verified: {error}"))
                );
            }
        }
        Ok(chain)
    }

    /// The positions of the certificates that lead from the leaf upwards, where it has an issuer in the
    /// file or needs none there.
    fn path_of_issuers(
        &self,
        chain: &IssuerGraph,
        parsed: &[X509Certificate<'_>],
    ) -> Result<Vec<usize>, ConfigError> {
        let path = chain.path(self.now);
        let intermediates =
            || (1..parsed.len()).filter(|position| !chain.is_self_signed(*position));
        let (Some(first), true) = (intermediates().next(), path.is_empty()) else {
            return Ok(path);
        };
        let (leaf, first) = (&parsed[0], &parsed[first]);
        let is_namesake = |position: &usize| {
            let certificate = &parsed[*position];
            certificate.subject() == leaf.issuer()
                && Validity::from_parsed(certificate).contains(self.now)
        };
        // The verification says why it is not the issuer.
        if let Some(namesake) = intermediates().find(is_namesake) {
            return Ok(vec![namesake]);
        }
        self.check_validity(first, &format!("the intermediate `{}`", first.subject()))?;
        Err(self
            .error(format!(
                "no certificate after the leaf is its issuer `{}`; the first is `{}`",
                leaf.issuer(),
                first.subject()
            ))
            .hint("put the leaf first, then each certificate's issuer"))
    }

    /// Verifies the leaf by the intermediates `below` up to `anchor`.
    fn verify(
        &self,
        below: &[&CertificateDer<'static>],
        anchor: &CertificateDer<'static>,
    ) -> Result<(), rustls::Error> {
        let below: Vec<_> = below.iter().map(|der| (*der).clone()).collect();
        let mut store = RootCertStore::empty();
        store.add(anchor.clone())?;
        verify(&self.chain[0], &below, Arc::new(store), self.role, self.now)
    }

    fn describe_key_error(&self, error: &rustls::Error) -> ConfigError {
        let key = self.paths.key.display();
        match error {
            rustls::Error::InconsistentKeys(_) => ConfigError::new(
                key,
                format!(
                    "it is not the key of the certificate in {}",
                    self.paths.certificate.display()
                ),
            )
            .hint("use the key and the certificate that were made together"),
            rustls::Error::InvalidCertificate(error) => self
                .error(format!("the certificate {}", describe(error)))
                .hint("reissue it without what is not supported"),
            other => {
                let reason = match other {
                    rustls::Error::General(reason) => reason.clone(),
                    other => other.to_string(),
                };
                ConfigError::new(key, format!("the key cannot be used: {reason}"))
                    .hint(unsupported::SUPPORTED_KEYS)
            }
        }
    }
}

/// Verifies a chain as a peer does that trusts `roots`, except for names.
pub(super) fn verify(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: Arc<RootCertStore>,
    role: Role,
    now: UnixTime,
) -> Result<(), rustls::Error> {
    match role {
        Role::Server => rustls::client::verify_server_cert_signed_by_trust_anchor(
            &rustls::server::ParsedCertificate::try_from(leaf)?,
            &roots,
            intermediates,
            now,
            provider().signature_verification_algorithms.all,
        ),
        Role::Client => WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider()))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_client_cert(leaf, intermediates, now)
            .map(|_| ()),
    }
}

/// Whether `error` only says that a certificate was not signed by the key it was verified with.
fn is_not_its_issuers(error: &rustls::Error) -> bool {
    use CertificateError::{
        BadSignature, UnknownIssuer, UnsupportedSignatureAlgorithmForPublicKeyContext as OtherKind,
    };
    matches!(
        error,
        rustls::Error::InvalidCertificate(UnknownIssuer | BadSignature | OtherKind { .. })
    )
}
