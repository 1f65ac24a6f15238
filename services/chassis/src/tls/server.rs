//! rustls for a server whose identity changes while it runs.

use std::sync::Arc;

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, UnixTime},
    server::{
        ClientHello, NoServerSessionStorage, ResolvesServerCert,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};

use super::{ALPN, reload::Current, provider, versions};
use crate::config::MinTlsVersion;

/// Whether clients are asked for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// They are not asked.
    No,
    /// They may show one, and it must be good.
    Optional,
    /// They must show one, and it must be good.
    Required,
}

/// A configuration that presents the current leaf and verifies clients against the current roots.
///
/// Sessions are never resumed: a ticket would let its holder past the verification of its
/// certificate, so past a root that was withdrawn. Every connection proves both identities anew.
///
/// # Errors
/// When the cryptography does not support the TLS versions.
pub fn config(current: &Current, ask: Ask, oldest: MinTlsVersion) -> Result<ServerConfig, Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(versions(oldest))?
        .with_client_cert_verifier(Arc::new(Clients { current: current.clone(), ask }))
        .with_cert_resolver(Arc::new(OwnLeaf(current.clone())));
    // Ours is the order of strength, whatever a client would rather have.
    config.ignore_client_order = true;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// Presents the current leaf, whatever name the client asks for: the client judges the name.
#[derive(Debug)]
struct OwnLeaf(Current);

impl ResolvesServerCert for OwnLeaf {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.get().leaf.as_ref().map(|leaf| Arc::clone(&leaf.certified))
    }
}

/// Verifies clients against the roots of the moment.
#[derive(Debug)]
struct Clients {
    current: Current,
    ask: Ask,
}

impl ClientCertVerifier for Clients {
    fn offer_client_auth(&self) -> bool {
        self.ask != Ask::No
    }

    fn client_auth_mandatory(&self) -> bool {
        self.ask == Ask::Required
    }

    /// None: the roots change while this lives, and strangers need not be told who is trusted.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chain: Vec<_> = std::iter::once(leaf).chain(intermediates).cloned().collect();
        self.current.get().verify_client(&chain).map(|()| ClientCertVerified::assertion())
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
