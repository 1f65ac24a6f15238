//! What is read from a certificate.

use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::{
    certificate::{X509Certificate, X509CertificateParser},
    nom::Parser as _,
    prelude::FromDer as _,
};

use super::clock::from_timestamp;

/// The end of a connection that a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A server: a client must be able to verify its DNS name or IP address.
    Server,
    /// A client: a server must be able to read its SPIFFE ID or DNS name.
    Client,
}

/// From when until when a certificate is valid, both seconds included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first second.
    pub not_before: UnixTime,
    /// The last second.
    pub not_after: UnixTime,
}

impl Validity {
    pub(super) fn from_parsed(certificate: &X509Certificate<'_>) -> Self {
        let validity = certificate.validity();
        Self {
            not_before: from_timestamp(validity.not_before.timestamp()),
            not_after: from_timestamp(validity.not_after.timestamp()),
        }
    }

    /// Whether `time` is in it.
    pub fn contains(&self, time: UnixTime) -> bool {
        self.not_before <= time && time <= self.not_after
    }
}

/// Parses one certificate; the error completes "a certificate in it ...".
pub(super) fn parse<'d>(der: &'d CertificateDer<'_>) -> Result<X509Certificate<'d>, String> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err("has bytes behind its end".to_owned()),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

/// The validity of a certificate, if it can be read.
pub fn validity(der: &CertificateDer<'_>) -> Option<Validity> {
    // A server reads it in each handshake. What extensions contain says nothing of it.
    let mut parser = X509CertificateParser::new().with_deep_parse_extensions(false);
    let Ok(([], certificate)) = parser.parse(der) else { return None };
    Some(Validity::from_parsed(&certificate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_bytes_behind_the_end_of_a_certificate() {
        let mut der = testkit::Leaf::new().self_signed().chain_der()[0].to_vec();
        assert!(parse(&der.clone().into()).is_ok());
        der.push(0);
        assert_eq!(parse(&der.into()).unwrap_err(), "has bytes behind its end");
    }
}
