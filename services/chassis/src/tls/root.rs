//! One root certificate of a trust bundle.

use std::path::Path;

use rustls::{RootCertStore, pki_types::CertificateDer};
use x509_parser::x509::X509Version;

use super::{
    cert_info::printable_name,
    signature, unsupported,
    x509::{self, Validity},
};
use crate::error::ConfigError;

/// A root certificate, and what verifiers of chains do not look at by themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Root {
    pub(super) der: CertificateDer<'static>,
    pub(super) validity: Validity,
    /// Whether it may issue certificates. One that may not is accepted itself, and nothing below it.
    pub(super) issues: bool,
}

impl Root {
    /// Checks that `der`, of the file `path`, can be a root.
    pub(super) fn from_der(path: &Path, der: CertificateDer<'static>) -> Result<Self, ConfigError> {
        let error = |reason: String| ConfigError::new(path.display(), reason);
        let certificate =
            x509::parse(&der).map_err(|reason| error(format!("a certificate in it {reason}")))?;
        if let Some(reason) = unsupported::as_issuer(&certificate) {
            let reason = unsupported::with_subject(&certificate, &reason);
            return Err(error(format!("a root in it {reason}")));
        }
        if !certificate.is_ca() && !signature::is_self_signed(&certificate) {
            let (subject, issuer) = (certificate.subject(), certificate.issuer());
            let why = if subject == issuer {
                "its own key did not sign it, or by an algorithm that is not accepted, such as SHA-1"
                    .to_owned()
            } else {
                format!("it was issued by `{issuer}`")
            };
            return Err(error(format!("`{subject}` in it is not a root: {why}"))
                .hint("put the certificate of the root that issued it"));
        }
        RootCertStore::empty()
            .add(der.clone())
            .map_err(|reason| error(format!("a root in it cannot be used: {reason}")))?;
        let validity = Validity::from_parsed(&certificate);
        // Version 1 knows no basicConstraints; such roots are old, and CAs.
        let issues = certificate.is_ca() || certificate.version() == X509Version::V1;
        Ok(Self { der, validity, issues })
    }

    /// Its subject, for a person.
    pub(super) fn subject(&self) -> String {
        x509::parse(&self.der).map_or_else(|_| String::new(), |root| printable_name(root.subject()))
    }
}
