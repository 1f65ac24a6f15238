//! Which keys and signatures the cryptography library can verify.

use rustls::pki_types::SignatureVerificationAlgorithm;
use x509_parser::{
    asn1_rs::{Any, FromDer as _},
    certificate::X509Certificate,
    public_key::PublicKey,
};

use super::provider;

/// Whether `certificate` names itself as its issuer, and its own key signed it: a root, or a
/// certificate that is trusted for itself.
///
/// The names alone decide nothing: a leaf may have the subject of its root.
pub(super) fn is_self_signed(certificate: &X509Certificate<'_>) -> bool {
    certificate.issuer() == certificate.subject() && is_signed_by(certificate, certificate)
}

/// Whether the key of `issuer` signed `certificate`, by an algorithm that can be verified.
pub(super) fn is_signed_by(
    certificate: &X509Certificate<'_>,
    issuer: &X509Certificate<'_>,
) -> bool {
    let key = &issuer.public_key().subject_public_key.data;
    let (message, signature) =
        (certificate.tbs_certificate.as_ref(), &certificate.signature_value.data);
    let Some(id) = signature_algorithm(certificate) else { return false };
    algorithms_of_key(issuer)
        .filter(|algorithm| algorithm.signature_alg_id().as_ref() == id)
        .any(|algorithm| algorithm.verify_signature(key, message, signature).is_ok())
}

/// Whether signatures by the key of `certificate` can be verified.
pub(super) fn is_supported_key(certificate: &X509Certificate<'_>) -> bool {
    let is_usable_size = match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => (2048..=8192).contains(&key.key_size()),
        _ => true,
    };
    is_usable_size && algorithms_of_key(certificate).next().is_some()
}

/// Whether the algorithm by which `certificate` was signed can be verified, with one key or another.
pub(super) fn is_accepted_algorithm(certificate: &X509Certificate<'_>) -> bool {
    let id = signature_algorithm(certificate);
    let mut all = provider().signature_verification_algorithms.all.iter();
    all.any(|algorithm| id == Some(algorithm.signature_alg_id().as_ref()))
}

/// The algorithms that signatures by the key of `certificate` are verified with.
fn algorithms_of_key(
    certificate: &X509Certificate<'_>,
) -> impl Iterator<Item = &'static dyn SignatureVerificationAlgorithm> {
    let id = sequence(certificate.public_key().raw).and_then(|(key, _)| Some(sequence(key)?.0));
    let all = provider().signature_verification_algorithms.all.iter().copied();
    all.filter(move |algorithm| id == Some(algorithm.public_key_alg_id().as_ref()))
}

/// The contents of the `AlgorithmIdentifier` between the signed part and the signature.
fn signature_algorithm<'d>(certificate: &X509Certificate<'d>) -> Option<&'d [u8]> {
    let (contents, _) = sequence(certificate.as_raw())?;
    let (_, behind_signed_part) = sequence(contents)?;
    Some(sequence(behind_signed_part)?.0)
}

/// The contents of the value at the start of `der`, and what follows it.
fn sequence(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (rest, value) = Any::from_der(der).ok()?;
    Some((value.data, rest))
}
