//! rustls for a client whose identity changes while it runs.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        ResolvesClientCert, Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::CertifiedKey,
};

use super::{ALPN, reload::Current, provider, versions};
use crate::config::MinTlsVersion;

/// A configuration that presents the current leaf, if there is one and the server asks for it, and
/// verifies the server against the current roots and allowed names.
///
/// Sessions are never resumed: see [`super::server::config`].
///
/// # Errors
/// When the cryptography does not support the TLS versions.
pub fn config(current: &Current, oldest: MinTlsVersion) -> Result<ClientConfig, Error> {
    config_presenting(current, oldest, Arc::new(OwnLeaf(current.clone())))
}

/// As [`config()`], presenting what `leaf` says instead of our own: for those who want to be refused.
///
/// # Errors
/// As there.
pub fn config_presenting(
    current: &Current,
    oldest: MinTlsVersion,
    leaf: Arc<dyn ResolvesClientCert>,
) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(versions(oldest))?
        // "Dangerous" is any verifier that is not rustls' own; ours asks rustls' own, and then more.
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Servers(current.clone())))
        .with_client_cert_resolver(leaf);
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

#[derive(Debug)]
struct OwnLeaf(Current);

impl ResolvesClientCert for OwnLeaf {
    /// Presents the current leaf whatever roots the server hints at: it judges for itself.
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.get().leaf.as_ref().map(|leaf| Arc::clone(&leaf.certified))
    }

    fn has_certs(&self) -> bool {
        self.0.get().leaf.is_some()
    }
}

/// Verifies servers against the roots and allowed names of the moment.
#[derive(Debug)]
struct Servers(Current);

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain: Vec<_> = std::iter::once(leaf).chain(intermediates).cloned().collect();
        self.0.get().verify_server(&chain, name).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            leaf,
            signature,
            &provider().signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            leaf,
            signature,
            &provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
