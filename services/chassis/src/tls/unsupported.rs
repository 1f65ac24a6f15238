//! What webpki and the cryptography library do not support in a certificate, and would report at each
//! handshake, with a misleading reason. Each reason completes "it ...", and says after a semicolon what to do.

use x509_parser::{
    asn1_rs::{Oid, Tagged as _, oid},
    certificate::X509Certificate,
    extensions::GeneralName,
    oid_registry::OID_KEY_TYPE_EC_PUBLIC_KEY,
};

use super::{cert_info::printable_name, signature, x509::Role};

/// What to use instead of an unsupported key.
pub(super) const SUPPORTED_KEYS: &str =
    "use an ECDSA key on P-256, P-384 or P-521, an Ed25519 key, or an RSA key of 2048 to 8192 bits";

/// A certificate whose signature is not accepted.
pub(super) const WEAK_SIGNATURE: &str = "is signed by an algorithm that is not accepted, such as SHA-1; reissue it with SHA-256 or better";

/// `reason` with the subject of the certificate that it is about; completes "a certificate in it ...".
pub(super) fn with_subject(certificate: &X509Certificate<'_>, reason: &str) -> String {
    format!("(`{}`) {reason}", printable_name(certificate.subject()))
}

/// Why no certificate that `certificate` issued could be verified, whatever is in it.
pub(super) fn as_issuer(certificate: &X509Certificate<'_>) -> Option<String> {
    key(certificate).or_else(|| name_constraints(certificate))
}

/// Why a verifier in whose chain `certificate` stands below a root rejects that chain, which is that
/// of a peer in `role`.
pub(super) fn as_intermediate(certificate: &X509Certificate<'_>, role: Role) -> Option<String> {
    if !signature::is_accepted_algorithm(certificate) {
        return Some(WEAK_SIGNATURE.to_owned());
    }
    if let Some(id) = critical_extension(certificate) {
        return Some(format!(
            "has a critical extension that is not supported ({id}); reissue it without that extension"
        ));
    }
    let usage = certificate.extended_key_usage().ok()??.value;
    let (usable, part, wanted) = match role {
        Role::Server => (usage.server_auth, "server's", "serverAuth"),
        Role::Client => (usage.client_auth, "client's", "clientAuth"),
    };
    (!usable).then(|| {
        format!(
            "has an extended key usage that does not allow it for a {part} certificate; reissue it with {wanted}, or without that extension"
        )
    })
}

/// Why no signature by the key of `certificate` could be verified.
pub(super) fn key(certificate: &X509Certificate<'_>) -> Option<String> {
    let key = &certificate.public_key().algorithm;
    let is_named_curve = || key.parameters.as_ref().is_some_and(|curve| curve.tag() == Oid::TAG);
    if key.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && !is_named_curve() {
        return Some("has an EC key with explicit parameters, which is not supported; make the key with a named curve, such as P-256".to_owned());
    }
    (!signature::is_supported_key(certificate))
        .then(|| format!("has a key that is not supported; {SUPPORTED_KEYS}"))
}

fn name_constraints(certificate: &X509Certificate<'_>) -> Option<String> {
    let constraints = certificate.name_constraints().ok().flatten()?.value;
    let subtrees = [&constraints.permitted_subtrees, &constraints.excluded_subtrees];
    let kind = subtrees.into_iter().flatten().flatten().find_map(|subtree| match subtree.base {
        GeneralName::URI(_) => Some("URIs"),
        GeneralName::DirectoryName(_) => Some("directory names"),
        _ => None,
    })?;
    Some(format!(
        "has a name constraint on {kind}, which cannot be verified here, so every certificate below it would be rejected; reissue it with constraints on DNS names only"
    ))
}

/// The first critical extension that webpki does not know.
fn critical_extension(certificate: &X509Certificate<'_>) -> Option<String> {
    let known = [
        oid!(2.5.29.15),               // keyUsage
        oid!(2.5.29.17),               // subjectAltName
        oid!(2.5.29.19),               // basicConstraints
        oid!(2.5.29.30),               // nameConstraints
        oid!(2.5.29.31),               // cRLDistributionPoints
        oid!(2.5.29.37),               // extKeyUsage
        oid!(1.3.6.1.4.1.11129.2.4.2), // signed certificate timestamps
    ];
    let unknown = |id: &Oid<'_>| !known.contains(id);
    let extensions = certificate.extensions().iter();
    let found = extensions.filter(|extension| extension.critical).map(|extension| &extension.oid);
    found.into_iter().find(|id| unknown(id)).map(Oid::to_id_string)
}
