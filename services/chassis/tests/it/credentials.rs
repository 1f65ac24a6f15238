//! For how long a connection may live with what it was opened with.

use chassis::tls::{
    clock::{Seconds, now},
    credentials::Credentials,
    identity::{Identity, Sources, Trusted},
    leaf::Purpose,
    peer_id::WrongId,
};
use rustls::pki_types::{CertificateDer, ServerName};
use testkit::{Ca, Leaf};
use time::Duration;

use crate::support::{Folder, chain};

/// An identity that trusts `root`, lets `allowed` in, and has a leaf of its own for `own` seconds.
fn identity(root: &Ca, allowed: Option<&str>, own: Option<i64>, purpose: Purpose) -> Identity {
    let folder = Folder::new();
    if let Some(seconds) = own {
        let leaf = Leaf::ponger("a").valid(-Duration::HOUR, Duration::seconds(seconds));
        root.issue(&leaf).write(&folder.path("")).expect("files");
    }
    let sources = Sources {
        leaf: own.map(|_| folder.leaf_files()),
        roots: Trusted::File(folder.write("ca.crt", root.pem())),
        allowed: allowed.map(|name| [name.parse().expect("a name")].into()),
    };
    Identity::load(&sources, purpose).expect("an identity")
}

fn shown(root: &Ca, seconds: i64) -> Vec<CertificateDer<'static>> {
    let leaf = Leaf::ponger("a").valid(-Duration::HOUR, Duration::seconds(seconds));
    chain(&root.issue(&leaf).chain)
}

const PONGER: &str = "spiffe://cluster.local/ns/a/sa/ponger";

fn near(time: Seconds, expected: Seconds) -> bool {
    (expected - 5..=expected + 5).contains(&time)
}

#[test]
fn a_clients_certificate_holds_until_its_end() {
    let root = Ca::new("a root");
    let server = identity(&root, None, None, Purpose::Server);
    let credentials = Credentials::new(Some(&shown(&root, 1000)), &server);
    let (_, end) = credentials.leaf_validity().expect("a leaf");
    assert!(near(end, now() + 1000));
    for (time, holds) in [(now(), true), (end, true), (end + 1, false)] {
        assert_eq!(credentials.hold_for_client(&server, time), holds, "{}", time - end);
    }
    assert_eq!(credentials.next_change(&server, now()), end + 1);
    assert!(near(credentials.next_change(&server, end + 1), now() + 24 * 3600), "the root's end");
    assert_eq!(credentials.next_change(&server, now() + 100_000), Seconds::MAX);
}

#[test]
fn our_own_certificate_counts_too() {
    let root = Ca::new("a root");
    let (own, peers) = (500, 1000);
    let server = identity(&root, None, Some(own), Purpose::Server);
    let end = server.leaf.as_ref().expect("a leaf").facts.not_after;
    let credentials = Credentials::new(Some(&shown(&root, peers)), &server);
    assert!(credentials.hold_for_client(&server, end));
    assert!(!credentials.hold_for_client(&server, end + 1));
    assert_eq!(credentials.next_change(&server, now()), end + 1);

    let client = identity(&root, None, Some(own), Purpose::Client);
    let end = client.leaf.as_ref().expect("a leaf").facts.not_after;
    let credentials = Credentials::new(Some(&shown(&root, peers)), &client);
    let name = ServerName::try_from("ponger").expect("a name");
    assert!(credentials.hold_for_server(&client, &name, end));
    assert!(!credentials.hold_for_server(&client, &name, end + 1));
    let other = ServerName::try_from("other").expect("a name");
    assert!(!credentials.hold_for_server(&client, &other, now()));
}

#[test]
fn a_root_that_is_withdrawn_takes_what_it_vouched_for_with_it() {
    let (root, other) = (Ca::new("a root"), Ca::new("another root"));
    let server = identity(&root, None, None, Purpose::Server);
    let credentials = Credentials::new(Some(&shown(&root, 1000)), &server);
    assert!(credentials.hold_for_client(&server, now()));
    let without = identity(&other, None, None, Purpose::Server);
    assert!(!credentials.hold_for_client(&without, now()));
}

#[test]
fn a_name_that_is_withdrawn_is_not_admitted() {
    let root = Ca::new("a root");
    let allowing = |name| identity(&root, Some(name), None, Purpose::Server);
    let credentials = Credentials::new(Some(&shown(&root, 1000)), &allowing(PONGER));
    assert!(credentials.are_admitted(&allowing(PONGER)));
    assert!(!credentials.are_admitted(&allowing("pinger")));
    assert!(credentials.are_admitted(&identity(&root, None, None, Purpose::Server)));
}

#[test]
fn who_shows_no_certificate_has_no_name_and_nothing_that_ends() {
    let root = Ca::new("a root");
    let server = identity(&root, None, None, Purpose::Server);
    for nothing in [None, Some(&[][..])] {
        let credentials = Credentials::new(nothing, &server);
        assert_eq!((credentials.names(), credentials.leaf_validity()), (None, None));
        assert!(credentials.hold_for_client(&server, now()));
        assert!(!credentials.are_admitted(&server));
        let name = ServerName::try_from("ponger").expect("a name");
        let client = identity(&root, None, None, Purpose::Client);
        assert!(!credentials.hold_for_server(&client, &name, now()));
    }
}

#[test]
fn who_is_nobody_is_not_admitted() {
    let root = Ca::new("a root");
    let server = identity(&root, None, None, Purpose::Server);
    let two = chain(&root.issue(&Leaf::ponger("a").uri("spiffe://a/b")).chain);
    let credentials = Credentials::new(Some(&two), &server);
    assert_eq!(credentials.names(), Some(&Err(WrongId::Several(2))));
    assert!(!credentials.are_admitted(&server));
    let garbage = [CertificateDer::from(vec![0x30, 0])];
    let credentials = Credentials::new(Some(&garbage), &server);
    assert_eq!(credentials.names(), Some(&Err(WrongId::Unreadable)));
    assert!(!credentials.hold_for_client(&server, now()));
}
