//! Observes a handshake: what the server presented and asked for, whether it is accepted or not.
//!
//! Nothing is decided here. Verification and the choice of our certificate are those of [`ClientTls`];
//! a chain is recorded before it is verified, and one that is rejected still ends the handshake.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        ResolvesClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::CertifiedKey,
};

use super::{cert_info::distinguished_name, client::ClientTls};

/// How many names of certificate authorities are kept; a server may send thousands.
const MAX_CA_NAMES: usize = 16;

/// What was observed of a handshake. rustls bounds it: a handshake message has at most 64 KiB.
#[derive(Clone, Debug, Default)]
pub struct ObservedHandshake {
    /// The certificates that the server presented, the leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Whether a response about revocation came with them (OCSP stapling), which is not used.
    pub has_ocsp_response: bool,
    /// Whether the chain, the name and the ID were accepted; `None` if no chain arrived.
    pub verified: Option<Result<(), Error>>,
    /// Why the server did not prove that it has the leaf's key.
    pub signature_error: Option<Error>,
    /// What the server asked of this end; `None` if it did not ask for a certificate.
    pub certificate_request: Option<CertificateRequest>,
}

/// A server's request for a client certificate.
#[derive(Clone, Debug, Default)]
pub struct CertificateRequest {
    /// The names of the certificate authorities that the server accepts, as a hint; any if empty.
    pub ca_names: Vec<String>,
    /// How many more there were.
    pub more_ca_names: usize,
    /// Whether this end has a certificate.
    pub has_certificate: bool,
    /// Whether its key can make a signature that the server accepts.
    pub has_usable_key: bool,
}

/// Observes one handshake.
#[derive(Clone, Debug, Default)]
pub struct HandshakeObserver(Arc<Mutex<ObservedHandshake>>);

impl HandshakeObserver {
    /// The configuration of `tls`, which reports to this observer and decides as before.
    pub fn client_config(&self, tls: &ClientTls) -> ClientConfig {
        let mut config = (*tls.config).clone();
        config.client_auth_cert_resolver = Arc::new(ObservedResolver {
            observer: self.clone(),
            inner: Arc::clone(&config.client_auth_cert_resolver),
        });
        let inner = Arc::clone(&tls.verifier) as Arc<dyn ServerCertVerifier>;
        let verifier = ObservedVerifier { observer: self.clone(), inner };
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
        config
    }

    /// What was observed until now.
    pub fn observed(&self) -> ObservedHandshake {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, ObservedHandshake> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record_signature<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        result.inspect_err(|error| self.lock().signature_error = Some(error.clone()))
    }
}

#[derive(Debug)]
struct ObservedVerifier {
    observer: HandshakeObserver,
    inner: Arc<dyn ServerCertVerifier>,
}

impl ServerCertVerifier for ObservedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = [end_entity].into_iter().chain(intermediates);
        let chain = chain.map(|der| der.clone().into_owned()).collect();
        let result =
            self.inner.verify_server_cert(end_entity, intermediates, name, ocsp_response, now);
        let mut observed = self.observer.lock();
        observed.chain = chain;
        observed.has_ocsp_response = !ocsp_response.is_empty();
        observed.verified = Some(result.as_ref().map(|_| ()).map_err(Clone::clone));
        result
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let result = self.inner.verify_tls12_signature(message, certificate, signature);
        self.observer.record_signature(result)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let result = self.inner.verify_tls13_signature(message, certificate, signature);
        self.observer.record_signature(result)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[derive(Debug)]
struct ObservedResolver {
    observer: HandshakeObserver,
    inner: Arc<dyn ResolvesClientCert>,
}

impl ResolvesClientCert for ObservedResolver {
    fn resolve(
        &self,
        ca_names: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let certified = self.inner.resolve(ca_names, schemes);
        let usable = certified.as_ref().and_then(|own| own.key.choose_scheme(schemes));
        self.observer.lock().certificate_request = Some(CertificateRequest {
            ca_names: ca_names
                .iter()
                .take(MAX_CA_NAMES)
                .map(|der| distinguished_name(der))
                .collect(),
            more_ca_names: ca_names.len().saturating_sub(MAX_CA_NAMES),
            has_certificate: certified.is_some(),
            has_usable_key: usable.is_some(),
        });
        certified
    }

    fn has_certs(&self) -> bool {
        self.inner.has_certs()
    }
}
