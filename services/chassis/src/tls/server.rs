//! The server's end: presents our certificate, and verifies clients where it asks for theirs.

use std::sync::Arc;

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
    client::danger::HandshakeSignatureValid,
    crypto::{verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, UnixTime},
    server::{
        NoServerSessionStorage, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::SingleCertAndKey,
};
use serde::{Deserialize, Serialize};

use super::{
    ALPN,
    cert::OwnCertificate,
    clock::Clock,
    identity::VerifyPeer,
    provider,
    trust::{PeerVerifiers, TrustBundle},
    untrusted::record_issuer,
};
use crate::error::ConfigError;

/// Whether clients are asked for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ClientAuth {
    /// They are not asked.
    None,
    /// They may present one, which must be valid.
    Optional,
    /// They must present one, which must be valid.
    Required,
}

impl ClientAuth {
    /// The name in configurations and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Optional => "optional",
            Self::Required => "required",
        }
    }
}

/// What a server builds from its identity.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// The configuration of each handshake.
    pub config: Arc<ServerConfig>,
    verifier: Option<Arc<ClientVerifier>>,
}

impl ServerTls {
    /// Builds it from our certificate and the trust bundle, for the moment `now`.
    ///
    /// Sessions are never resumed: a ticket would let its holder skip the verification of its
    /// certificate, even after the root that it was verified by was removed.
    ///
    /// # Errors
    /// When there is no certificate, or rustls does not accept the parameters.
    pub fn build(
        own: Option<&Arc<OwnCertificate>>,
        trust: Option<&TrustBundle>,
        client_auth: ClientAuth,
        versions: &[&'static SupportedProtocolVersion],
        clock: &Clock,
        now: UnixTime,
    ) -> Result<Self, ConfigError> {
        let failed = |error: &dyn std::fmt::Display| ConfigError::new("TLS configuration", error);
        let own = own.ok_or_else(|| failed(&"a server needs a certificate"))?;
        let builder = ServerConfig::builder_with_details(Arc::clone(provider()), clock.provider())
            .with_protocol_versions(versions)
            .map_err(|error| failed(&error))?;
        let verifier = match trust {
            Some(trust) if client_auth != ClientAuth::None => {
                let verifiers = PeerVerifiers::build(trust, now, |anchors| {
                    WebPkiClientVerifier::builder_with_provider(anchors, Arc::clone(provider()))
                        .build()
                })?;
                let mandatory = client_auth == ClientAuth::Required;
                Some(Arc::new(ClientVerifier { verifiers, mandatory }))
            }
            _ => None,
        };
        let builder = match &verifier {
            Some(verifier) => builder
                .with_client_cert_verifier(Arc::clone(verifier) as Arc<dyn ClientCertVerifier>),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder
            // Whatever name the client asks for: verifying the name is the client's part.
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&own.certified))));
        // Our order is by strength.
        config.ignore_client_order = true;
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.alpn_protocols = vec![ALPN.to_vec(), b"http/1.0".to_vec()];
        Ok(Self { config: Arc::new(config), verifier })
    }
}

impl VerifyPeer for ServerTls {
    fn verify_peer(&self, chain: &[CertificateDer<'static>], now: UnixTime) -> Result<(), Error> {
        let (end_entity, intermediates) =
            chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        let verifier = self.verifier.as_ref().ok_or(Error::NoCertificatesPresented)?;
        verifier.verify_client_cert(end_entity, intermediates, now).map(|_| ())
    }
}

/// rustls' own verifier of clients, after a check of the chain's size.
#[derive(Debug)]
struct ClientVerifier {
    verifiers: PeerVerifiers<dyn ClientCertVerifier>,
    mandatory: bool,
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    /// No hints: a client need not learn whom this server trusts.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verifiers
            .select(end_entity, intermediates)
            .and_then(|verifier| verifier.verify_client_cert(end_entity, intermediates, now))
            .inspect_err(|error| record_issuer(error, end_entity, intermediates))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
