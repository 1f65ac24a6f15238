//! How large a certificate chain may be.
//!
//! A peer's chain is checked against these limits before any of its signatures: searching a path
//! through many cross-signed intermediates would cost a second of CPU before the peer has proved
//! anything. Our own chain is checked at load, so that peers like ours accept it.

use std::sync::Arc;

use rustls::{CertificateError, Error, OtherError, pki_types::CertificateDer};

/// Intermediates in a chain, the root included if it is sent. Public chains have one to three.
pub const MAX_INTERMEDIATES: usize = 6;

/// Bytes of all certificates of a chain. Public chains have three to six thousand.
pub const MAX_CHAIN_BYTES: usize = 16 * 1024;

/// A certificate chain above the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "has a chain of {intermediates} intermediates and {bytes} bytes; at most {MAX_INTERMEDIATES} and {MAX_CHAIN_BYTES} are accepted"
)]
pub struct ChainTooLarge {
    intermediates: usize,
    bytes: usize,
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
        return Err(ChainTooLarge { intermediates: intermediates.len(), bytes });
    }
    Ok(())
}

impl From<ChainTooLarge> for Error {
    fn from(error: ChainTooLarge) -> Self {
        CertificateError::Other(OtherError(Arc::new(error))).into()
    }
}
