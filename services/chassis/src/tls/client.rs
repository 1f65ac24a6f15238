//! The client's end: presents our certificate, and verifies one server and its SPIFFE ID.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, SignatureScheme,
    SupportedProtocolVersion,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::{CertifiedKey, SingleCertAndKey},
};

use super::{
    ALPN,
    cert::OwnCertificate,
    clock::Clock,
    identity::VerifyPeer,
    peer_id::{PeerId, PeerIdError, SpiffeId, SubjectAltNames},
    provider,
    trust::{PeerVerifiers, TrustBundle},
    untrusted::record_issuer,
};
use crate::error::ConfigError;

/// The server that a client expects.
#[derive(Clone, Debug)]
pub struct ExpectedServer {
    /// The DNS name or IP address that its certificate must be for.
    pub name: ServerName<'static>,
    /// The SPIFFE ID that its certificate must have; any if `None`.
    pub id: Option<SpiffeId>,
}

/// What a client builds from its identity.
#[derive(Clone, Debug)]
pub struct ClientTls {
    /// The configuration of each handshake.
    pub config: Arc<ClientConfig>,
    /// The name to verify in each handshake.
    pub server_name: ServerName<'static>,
    pub(super) verifier: Arc<ServerVerifier>,
}

impl ClientTls {
    /// Builds it from our certificate, if there is one, and the trust bundle, for the moment `now`.
    ///
    /// Sessions are never resumed: see [`super::server::ServerTls::build`].
    ///
    /// # Errors
    /// When there is no trust bundle, or rustls does not accept the parameters.
    pub fn build(
        own: Option<&Arc<OwnCertificate>>,
        trust: Option<&TrustBundle>,
        server: &ExpectedServer,
        versions: &[&'static SupportedProtocolVersion],
        clock: &Clock,
        now: UnixTime,
    ) -> Result<Self, ConfigError> {
        let failed = |error: &dyn std::fmt::Display| ConfigError::new("TLS configuration", error);
        let trust = trust.ok_or_else(|| failed(&"a client needs a trust bundle"))?;
        let verifiers = PeerVerifiers::build(trust, now, |anchors| {
            WebPkiServerVerifier::builder_with_provider(anchors, Arc::clone(provider())).build()
        })?;
        let verifier = Arc::new(ServerVerifier { verifiers, id: server.id.clone() });
        let mut config =
            ClientConfig::builder_with_details(Arc::clone(provider()), clock.provider())
                .with_protocol_versions(versions)
                .map_err(|error| failed(&error))?
                // rustls calls every verifier but its own "dangerous"; this one asks rustls' own first.
                .dangerous()
                .with_custom_certificate_verifier(
                    Arc::clone(&verifier) as Arc<dyn ServerCertVerifier>
                )
                .with_no_client_auth();
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![ALPN.to_vec()];
        let mut tls = Self { config: Arc::new(config), server_name: server.name.clone(), verifier };
        tls.config =
            Arc::new(tls.config_with_client_cert(own.map(|own| Arc::clone(&own.certified))));
        Ok(tls)
    }

    /// The configuration with another certificate of ours, or none: for clients that must be
    /// rejected. It verifies the server as always.
    pub fn config_with_client_cert(&self, certified: Option<Arc<CertifiedKey>>) -> ClientConfig {
        let mut config = (*self.config).clone();
        config.client_auth_cert_resolver = match certified {
            // Presented whatever roots the server hints at: verifying it is the server's part.
            Some(certified) => Arc::new(SingleCertAndKey::from(certified)),
            None => Arc::new(NoCertificate),
        };
        config
    }
}

impl VerifyPeer for ClientTls {
    fn verify_peer(&self, chain: &[CertificateDer<'static>], now: UnixTime) -> Result<(), Error> {
        let (end_entity, intermediates) =
            chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        self.verifier.verify(end_entity, intermediates, &self.server_name, now)
    }
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// rustls' own verifier of servers, after a check of the chain's size and before one of the SPIFFE ID.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    verifiers: PeerVerifiers<WebPkiServerVerifier>,
    id: Option<SpiffeId>,
}

impl ServerVerifier {
    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let verifier = self.verifiers.select(end_entity, intermediates)?;
        verifier.verify_server_cert(end_entity, intermediates, name, &[], now)?;
        let Some(expected) = &self.id else { return Ok(()) };
        let names = SubjectAltNames::from_der(end_entity)
            .map_err(|_| Error::from(CertificateError::BadEncoding))?;
        match names.peer_ids() {
            Ok(ids) if ids.iter().any(|id| matches!(id, PeerId::Spiffe(id) if id == expected)) => {
                Ok(())
            }
            Ok(ids) => Err(PeerIdError::Mismatch {
                found: ids.first().map(ToString::to_string).unwrap_or_default(),
                wanted: expected.to_string(),
            }),
            Err(error) => Err(error),
        }
        .map_err(|error| CertificateError::Other(OtherError(Arc::new(error))).into())
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates, name, now)
            .inspect_err(|error| record_issuer(error, end_entity, intermediates))?;
        Ok(ServerCertVerified::assertion())
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
