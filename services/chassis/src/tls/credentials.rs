//! Whether the certificates that a connection was opened with are still valid.

use std::{cell::Cell, time::Duration};

use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::time::sleep;

use super::{
    clock::{Clock, FOREVER, add, duration_until},
    identity::{Identity, VerifyPeer},
    peer_id::{PeerId, PeerIdError, SubjectAltNames},
    reload::IdentityWatch,
    x509::{self, Validity},
};

/// Tokio's timers reach two years.
const MAX_SLEEP: Duration = Duration::from_secs(365 * 24 * 3600);

/// The certificates at both ends of a connection. No connection outlives them, nor the trust in the
/// root that the peer's was verified by.
///
/// The handshake has verified them; they are verified again only when the trust bundle changed since
/// or a certificate of the peer's chain expired.
#[derive(Debug)]
pub struct ConnectionCredentials<T> {
    peer_chain: Vec<CertificateDer<'static>>,
    peer_validity: Option<Validity>,
    identity: IdentityWatch<T>,
    clock: Clock,
    own_not_after: UnixTime,
    /// The trust generation that the chain was last verified by.
    generation: Cell<u64>,
    /// The last second in which that verification is known to hold.
    verified_until: Cell<UnixTime>,
}

impl<T: VerifyPeer> ConnectionCredentials<T> {
    /// Those of a connection whose handshake began under `used` and on which the peer presented
    /// `peer_chain`. `identity` need not be at `used` any more.
    pub fn new(
        peer_chain: &[CertificateDer<'_>],
        used: &Identity<T>,
        identity: IdentityWatch<T>,
        clock: Clock,
    ) -> Self {
        let peer_chain: Vec<_> = peer_chain.iter().map(|der| der.clone().into_owned()).collect();
        let validities: Vec<_> = peer_chain.iter().map(x509::validity).collect();
        let verified_until = Cell::new(next_expiry(&validities, clock.now()));
        Self {
            peer_validity: validities.first().copied().flatten(),
            peer_chain,
            identity,
            clock,
            own_not_after: used.own.as_ref().map_or(FOREVER, |own| own.leaf.not_after),
            generation: Cell::new(used.trust_generation),
            verified_until,
        }
    }

    /// The certificates that the peer presented, its own first.
    pub fn peer_chain(&self) -> &[CertificateDer<'static>] {
        &self.peer_chain
    }

    /// The IDs in the peer's certificate; `None` if it presented none.
    pub fn peer_ids(&self) -> Option<Result<Vec<PeerId>, PeerIdError>> {
        let leaf = self.peer_chain.first()?;
        let names = SubjectAltNames::from_der(leaf).map_err(|_| PeerIdError::Unreadable);
        Some(names.and_then(|names| names.peer_ids()))
    }

    /// The validity of the peer's certificate; `None` if it presented none.
    pub fn peer_validity(&self) -> Option<Validity> {
        self.peer_validity
    }

    /// Whether they are valid now.
    pub fn is_valid(&self) -> bool {
        self.is_valid_until(self.clock.now())
    }

    fn is_valid_until(&self, time: UnixTime) -> bool {
        if time > self.own_not_after {
            return false;
        }
        if self.peer_chain.is_empty() {
            return true;
        }
        let identity = self.identity.current();
        if self.generation.get() == identity.trust_generation && time <= self.verified_until.get() {
            return true;
        }
        let valid = identity.tls.verify_peer(&self.peer_chain, time).is_ok();
        if valid {
            self.generation.set(identity.trust_generation);
            let validities: Vec<_> = self.peer_chain.iter().map(x509::validity).collect();
            self.verified_until.set(next_expiry(&validities, time));
        }
        valid
    }

    /// Waits until they are no longer valid. Idle, this costs nothing: it wakes when the identity
    /// changes, when the system clock was set, and when a certificate expires.
    pub async fn until_revoked(&self) {
        self.until_revoked_within(Duration::ZERO).await;
    }

    /// Waits until they will no longer be valid in `duration` from then on.
    pub async fn until_revoked_within(&self, duration: Duration) {
        let mut identity = self.identity.clone();
        loop {
            identity.borrow_and_update();
            let time = add(self.clock.now(), duration);
            if !self.is_valid_until(time) {
                return;
            }
            let next = self.own_not_after.min(self.verified_until.get());
            // The last second of a certificate is part of its validity (RFC 5280, 4.1.2.5).
            let pause = duration_until(next, time) + Duration::from_secs(1);
            tokio::select! {
                () = identity.changed() => {}
                () = sleep(pause.min(MAX_SLEEP)) => {}
            }
        }
    }
}

/// When the first certificate expires that is still valid at `time`.
fn next_expiry(validities: &[Option<Validity>], time: UnixTime) -> UnixTime {
    let ends = validities.iter().flatten().map(|validity| validity.not_after);
    ends.filter(|end| *end >= time).min().unwrap_or(FOREVER)
}
