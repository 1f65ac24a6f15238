//! How large a certificate chain may be.
//!
//! A peer's chain is checked against these limits before any of its signatures: searching a path
//! through many cross-signed intermediates would cost a second of CPU before the peer has proved
//! anything. Our own chain is checked at load, so that peers like ours accept it.

use std::{collections::HashMap, sync::Arc};

use rustls::{CertificateError, Error, OtherError, pki_types::CertificateDer};

use super::x509;

/// Intermediates in a chain, the root included if it is sent. Public chains have one to three.
pub const MAX_INTERMEDIATES: usize = 6;

/// Bytes of all certificates of a chain. Public chains have three to six thousand.
pub const MAX_CHAIN_BYTES: usize = 16 * 1024;

/// Intermediates of one subject: the search tries each wherever one of them fits. Two are enough for
/// a CA that is cross-signed, or that renews its certificate.
pub const MAX_OF_ONE_SUBJECT: usize = 2;

/// A certificate chain above the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainTooLarge {
    /// It has too many intermediates, or too many bytes.
    #[error(
        "has a chain of {intermediates} intermediates and {bytes} bytes; at most {MAX_INTERMEDIATES} and {MAX_CHAIN_BYTES} are accepted"
    )]
    Size {
        /// How many.
        intermediates: usize,
        /// Of all certificates.
        bytes: usize,
    },
    /// It is made to be searched for long, or by mistake holds certificates that no one needs.
    #[error(
        "has a chain of {0} intermediates with the same subject; at most {MAX_OF_ONE_SUBJECT} are accepted"
    )]
    SameSubject(usize),
}

/// Checks the size of a chain.
///
/// # Errors
/// When it is above the limits.
pub fn check_chain(
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Result<(), ChainTooLarge> {
    let bytes = end_entity.len() + intermediates.iter().map(|der| der.len()).sum::<usize>();
    if intermediates.len() > MAX_INTERMEDIATES || bytes > MAX_CHAIN_BYTES {
        return Err(ChainTooLarge::Size { intermediates: intermediates.len(), bytes });
    }
    if intermediates.len() <= MAX_OF_ONE_SUBJECT {
        return Ok(());
    }
    let mut counts = HashMap::new();
    for der in intermediates {
        // What cannot be read here may still be searched: it counts as if it had one subject.
        let subject = x509::parse(der).map(|certificate| certificate.subject().as_raw().to_vec());
        *counts.entry(subject.ok()).or_insert(0) += 1;
    }
    match counts.into_values().max() {
        Some(count) if count > MAX_OF_ONE_SUBJECT => Err(ChainTooLarge::SameSubject(count)),
        _ => Ok(()),
    }
}

impl From<ChainTooLarge> for Error {
    fn from(error: ChainTooLarge) -> Self {
        CertificateError::Other(OtherError(Arc::new(error))).into()
    }
}
