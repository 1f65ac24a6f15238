//! What a peer presented whose certificate no root of the trust bundle verifies: for the log.
//!
//! Of a rejected handshake, rustls keeps the error alone, and the error decides which alert the peer
//! gets. So it stays as it is, and the verifiers of both ends record the issuer for the task of the
//! handshake.

use std::cell::Cell;

use rustls::{CertificateError, Error, pki_types::CertificateDer};
use tokio::task_local;

use super::{cert_info::printable_name, limits::MAX_INTERMEDIATES, x509::parse};

task_local! {
    static ISSUER: Cell<Option<String>>;
}

/// Makes a handshake. Returns its output, and if no trusted root had issued the peer's certificate, the
/// issuer that the presented chain ends with.
pub async fn observe_issuer<F: Future>(handshake: F) -> (F::Output, Option<String>) {
    let handshake = async {
        let output = handshake.await;
        (output, ISSUER.with(Cell::take))
    };
    ISSUER.scope(Cell::default(), handshake).await
}

/// Records the issuer of a chain that was rejected with `error`, if the error is about that.
pub(super) fn record_issuer(
    error: &Error,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) {
    use CertificateError::{BadSignature, UnknownIssuer};
    if let Error::InvalidCertificate(UnknownIssuer | BadSignature) = error {
        // Established connections are verified again, and outside of a handshake.
        let _ = ISSUER.try_with(|issuer| issuer.set(last_issuer(end_entity, intermediates)));
    }
}

/// The name of the issuer that is reached from the leaf by names alone.
fn last_issuer(
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Option<String> {
    let leaf = parse(end_entity).ok()?;
    let above: Vec<_> = intermediates.iter().filter_map(|der| parse(der).ok()).collect();
    let mut top = &leaf;
    for _ in 0..MAX_INTERMEDIATES {
        let is_root = top.issuer() == top.subject();
        match above.iter().find(|issuer| !is_root && issuer.subject() == top.issuer()) {
            Some(issuer) => top = issuer,
            None => break,
        }
    }
    Some(printable_name(top.issuer()))
}

#[cfg(test)]
mod tests {
    use testkit::{Ca, Leaf};

    use super::*;

    fn issuer_of(chain: &[CertificateDer<'_>]) -> Option<String> {
        last_issuer(&chain[0], &chain[1..])
    }

    #[test]
    fn names_the_issuer_that_the_chain_ends_with() {
        let root = Ca::new("root");
        let leaf = Leaf::ponger("test").common_name("ponger");
        assert_eq!(issuer_of(&root.issue(&leaf).chain_der()).as_deref(), Some("CN=root"));
        let mut chain = root.intermediate("middle").issue(&leaf).chain_der();
        assert_eq!(issuer_of(&chain).as_deref(), Some("CN=root"));
        // In any order, and with what is not needed.
        chain.insert(1, Ca::new("another").issue(&leaf).chain_der().remove(0));
        assert_eq!(issuer_of(&chain).as_deref(), Some("CN=root"));
        chain.remove(2);
        assert_eq!(issuer_of(&chain).as_deref(), Some("CN=middle"));
        assert_eq!(issuer_of(&leaf.self_signed().chain_der()).as_deref(), Some("CN=ponger"));
        assert_eq!(issuer_of(&[b"garbage".to_vec().into()]), None);
    }

    #[tokio::test]
    async fn is_kept_for_the_handshake_in_which_it_was_recorded() {
        let chain = Ca::new("root").issue(&Leaf::ponger("test")).chain_der();
        let record = |error: CertificateError| record_issuer(&error.into(), &chain[0], &chain[1..]);
        // Outside of a handshake.
        record(CertificateError::UnknownIssuer);
        let (output, issuer) = observe_issuer(async {
            record(CertificateError::UnknownIssuer);
            1
        })
        .await;
        assert_eq!((output, issuer.as_deref()), (1, Some("CN=root")));
        let expired = observe_issuer(async { record(CertificateError::Expired) }).await;
        assert_eq!(expired, ((), None));
    }
}
