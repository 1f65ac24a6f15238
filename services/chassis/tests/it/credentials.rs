//! For how long the certificates that a connection was opened with are valid.

use std::time::Duration;

use chassis::tls::{
    credentials::ConnectionCredentials, peer_id::PeerIdError, server::ServerTls, x509::validity,
};
use rustls::pki_types::{CertificateDer, UnixTime};
use testkit::{Ca, Issued, Leaf, PATIENCE};
use time::Duration as Span;

use crate::reload::{Running, TestClock};

fn lasting() -> Leaf {
    Leaf::ponger("a").valid(-Span::HOUR, Span::HOUR * 20)
}

fn credentials(
    running: &Running,
    chain: &[CertificateDer<'_>],
) -> ConnectionCredentials<ServerTls> {
    let server = &running.server;
    let (watch, clock) = (server.watch.clone(), server.clock.clock());
    ConnectionCredentials::new(chain, &server.current(), watch, clock)
}

fn after(time: UnixTime) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(time.as_secs() + 1))
}

fn not_after(issued: &Issued) -> UnixTime {
    validity(&issued.chain_der()[0]).expect("a certificate").not_after
}

async fn revoked(credentials: &ConnectionCredentials<ServerTls>) {
    let revoked = credentials.until_revoked();
    tokio::time::timeout(PATIENCE, revoked).await.expect("a revocation");
}

#[test]
fn end_with_the_peers_certificate() {
    let root = Ca::new("a root");
    let running = Running::new(&lasting(), root.pem());
    let peer = root.issue(&Leaf::ponger("a"));
    let credentials = credentials(&running, &peer.chain_der());
    assert_eq!(credentials.peer_validity(), validity(&peer.chain_der()[0]));
    assert!(credentials.is_valid());
    running.server.clock.manual.set(not_after(&peer));
    assert!(credentials.is_valid(), "the last second is part of the validity");
    running.server.clock.manual.set(after(not_after(&peer)));
    assert!(!credentials.is_valid());
}

#[test]
fn end_with_our_own_certificate() {
    let root = Ca::new("a root");
    let running = Running::new(&Leaf::ponger("a"), root.pem());
    let own = running.server.current().own.as_ref().expect("a certificate").leaf.not_after;
    for chain in [root.issue(&lasting()).chain_der(), Vec::new()] {
        running.server.clock.manual.set(own);
        let credentials = credentials(&running, &chain);
        assert!(credentials.is_valid());
        running.server.clock.manual.set(after(own));
        assert!(!credentials.is_valid());
    }
}

#[tokio::test]
async fn end_when_the_root_is_removed() {
    let (root, other) = (Ca::new("a root"), Ca::new("another root"));
    let running = Running::new(&lasting(), &format!("{}{}", root.pem(), other.pem()));
    let [removed, kept] =
        [&root, &other].map(|root| credentials(&running, &root.issue(&lasting()).chain_der()));
    let anonymous = credentials(&running, &[]);
    running.replace_roots(other.pem());
    revoked(&removed).await;
    assert!(!removed.is_valid() && kept.is_valid() && anonymous.is_valid());
}

/// The handshake may have used another identity than the current one.
#[test]
fn are_verified_again_where_the_bundle_has_changed_since_the_handshake() {
    let (root, other) = (Ca::new("a root"), Ca::new("another root"));
    let running = Running::new(&lasting(), root.pem());
    let used = running.server.current();
    let peer = root.issue(&lasting());
    running.replace_roots(other.pem());
    testkit::wait_until("the other root", || (!running.server.accepts(&peer)).then_some(()));
    let (watch, clock) = (running.server.watch.clone(), running.server.clock.clock());
    assert!(!ConnectionCredentials::new(&peer.chain_der(), &used, watch, clock).is_valid());
}

#[tokio::test]
async fn end_when_the_root_expires() {
    let ending = Ca::valid("ending", -Span::HOUR, Span::HOUR);
    let running = Running::new(&lasting(), &format!("{}{}", ending.pem(), Ca::new("b").pem()));
    let credentials = credentials(&running, &ending.issue(&lasting()).chain_der());
    running.server.clock.manual.advance(Duration::from_secs(2 * 3600));
    revoked(&credentials).await;
}

/// The connection's clock is not the reloader's, which therefore notices nothing.
#[tokio::test]
async fn end_by_a_timer_with_the_certificate_that_expires_first() {
    let root = Ca::new("a root");
    for (own, peer) in [(lasting(), Leaf::ponger("a")), (Leaf::ponger("a"), lasting())] {
        let running = Running::new(&own, root.pem());
        let peer = root.issue(&peer);
        let (current, watch) = (running.server.current(), running.server.watch.clone());
        let own = current.own.as_ref().expect("a certificate").leaf.not_after;
        let clock = TestClock::default();
        clock.manual.set(own.min(not_after(&peer)));
        let credentials =
            ConnectionCredentials::new(&peer.chain_der(), &current, watch, clock.clock());
        assert!(credentials.is_valid());
        revoked(&credentials).await;
    }
}

#[tokio::test]
async fn end_when_the_clock_is_set_past_the_peers_certificate() {
    let root = Ca::new("a root");
    let running = Running::new(&lasting(), root.pem());
    let credentials = credentials(&running, &root.issue(&Leaf::ponger("a")).chain_der());
    // The reloader must have read the clock before.
    running.server.wait_for_polls();
    let advance = async { running.server.clock.manual.advance(Duration::from_secs(2 * 3600)) };
    tokio::join!(revoked(&credentials), advance);
}

#[tokio::test]
async fn end_early_by_the_given_duration() {
    let root = Ca::new("a root");
    let running = Running::new(&lasting(), root.pem());
    let credentials = credentials(&running, &root.issue(&Leaf::ponger("a")).chain_der());
    let revoked = credentials.until_revoked_within(Duration::from_secs(2 * 3600));
    tokio::time::timeout(PATIENCE, revoked).await.expect("at once");
    assert!(credentials.is_valid());
}

/// Only what verification uses counts, and waiting costs nothing.
#[tokio::test]
async fn unused_expired_certificates_neither_end_nor_wake_a_connection() {
    let (root, clock) = (Ca::new("a root"), TestClock::default());
    let running = Running::new(&lasting(), root.pem());
    let expired = Leaf::new().valid(-Span::HOUR, -Span::MINUTE).self_signed().chain_der();
    let chain = [root.issue(&lasting()).chain_der(), vec![expired[0].clone(); 3]].concat();
    let server = &running.server;
    let (current, watch) = (server.current(), server.watch.clone());
    let credentials = ConnectionCredentials::new(&chain, &current, watch, clock.clock());
    let wait = tokio::time::timeout(Duration::from_millis(100), credentials.until_revoked());
    assert!(wait.await.is_err());
    assert!(clock.reads() < 5, "read {} times", clock.reads());
    assert!(credentials.is_valid());
}

#[test]
fn identify_the_peer_by_its_certificate() {
    let root = Ca::new("a root");
    let running = Running::new(&lasting(), root.pem());
    let ids = |chain: &[CertificateDer<'_>]| credentials(&running, chain).peer_ids();
    let ponger = root.issue(&Leaf::ponger("a")).chain_der();
    let expected = "spiffe://cluster.local/ns/a/sa/ponger".parse().unwrap();
    // Its DNS names do not count beside its URI.
    assert_eq!(ids(&ponger), Some(Ok(vec![expected])));
    let two = root.issue(&Leaf::ponger("a").uri("spiffe://a/b")).chain_der();
    assert_eq!(ids(&two), Some(Err(PeerIdError::MultipleUris(2))));
    let garbage = [CertificateDer::from(vec![0x30, 0])];
    assert_eq!(ids(&garbage), Some(Err(PeerIdError::Unreadable)));
    let anonymous = credentials(&running, &[]);
    assert_eq!((anonymous.peer_ids(), anonymous.peer_validity()), (None, None));
    assert!(anonymous.is_valid());
}
