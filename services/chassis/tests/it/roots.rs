//! The trust bundle.

use chassis::tls::{clock, roots::Roots};
use testkit::{Ca, Leaf};
use time::Duration;

use crate::support::{Folder, version_1};

fn load(text: &str) -> Result<Roots, String> {
    let folder = Folder::new();
    let path = folder.write("ca.crt", text);
    Roots::load(&path).map_err(|error| folder.message(&error))
}

fn good() -> Ca {
    Ca::new("good")
}

fn expired() -> Ca {
    Ca::valid("old", -Duration::DAY, Duration::seconds(-1))
}

fn future() -> Ca {
    Ca::valid("new", Duration::HOUR, Duration::DAY)
}

#[test]
fn a_bundle_of_several_roots_is_read() {
    let roots = load(&(good().pem().to_owned() + good().pem())).expect("two roots");
    assert_eq!(roots.store(clock::now()).len(), 2);
    assert_eq!(roots.idle(clock::now()), 0);
}

#[test]
fn a_root_that_is_there_twice_counts_once() {
    let root = good();
    let roots = load(&root.pem().repeat(3)).expect("a root");
    assert_eq!(roots.store(clock::now()).len(), 1);
    assert_eq!(roots, load(root.pem()).expect("a root"));
}

#[test]
fn an_expired_root_alone_is_refused() {
    let message = load(&(expired().pem().to_owned() + expired().pem())).expect_err("expired");
    assert!(
        message.starts_with("ca.crt: every root in it has expired, the last at 2")
            && message.ends_with("Z; put a root that is valid now"),
        "{message}"
    );
}

#[test]
fn a_root_that_is_not_valid_yet_alone_is_refused() {
    for text in [future().pem().to_owned(), future().pem().to_owned() + expired().pem()] {
        assert_eq!(
            load(&text).expect_err("not yet"),
            "ca.crt: no root in it is valid yet; put a root that is valid now"
        );
    }
}

#[test]
fn expired_and_future_roots_beside_a_good_one_have_no_effect_yet() {
    let now = clock::now();
    let text = [expired().pem(), good().pem(), future().pem()].concat();
    let roots = load(&text).expect("a good root");
    assert_eq!((roots.store(now).len(), roots.idle(now)), (1, 2));
    // An hour from now, the future one begins; a day from now, both end.
    assert_eq!(roots.store(now + 3700).len(), 2);
    assert_eq!(roots.store(now + 100_000).len(), 0);
    assert_eq!(roots.store(now - 10_000).len(), 1);
}

#[test]
fn a_bundle_knows_when_it_changes_by_itself() {
    let now = clock::now();
    let text = [expired().pem(), good().pem(), future().pem()].concat();
    let roots = load(&text).expect("a good root");
    let near = |end: i64, expected: i64| (expected - 10..=expected + 10).contains(&end);
    assert!(near(roots.next_change(now), now + 3600), "the future one begins");
    assert!(near(roots.next_change(now + 4000), now + 24 * 3600), "both end");
    assert_eq!(roots.next_change(now + 100_000), i64::MAX);
    let begin = roots.next_change(now);
    assert_eq!(roots.store(begin).len(), 2, "it is valid from then on");
    assert!(roots.next_change(begin) > begin);
    let end = roots.next_change(begin);
    assert!(roots.store(end - 1).len() > roots.store(end).len(), "it has ended then");
}

#[test]
fn a_bundle_knows_which_root_ends_first_and_last() {
    let now = clock::now();
    let short = Ca::valid("short", -Duration::HOUR, Duration::HOUR);
    let text = [expired().pem(), short.pem(), good().pem()].concat();
    let roots = load(&text).expect("good roots");
    let near = |end: i64, expected: i64| (expected - 10..=expected + 10).contains(&end);
    assert!(roots.earliest_end(now).is_some_and(|end| near(end, now + 3600)));
    assert!(
        roots
            .longest()
            .is_some_and(|(begin, end)| near(begin, now - 3600) && near(end, now + 24 * 3600))
    );
    assert_eq!(roots.earliest_end(now + 100_000), None);
}

#[test]
fn a_leaf_is_no_root() {
    let leaf = good().issue(&Leaf::new().common_name("pinger").dns("pinger"));
    assert_eq!(
        load(&(good().pem().to_owned() + &leaf.chain)).expect_err("a leaf"),
        "ca.crt: `CN=pinger` in it is no root: it was issued by `CN=good`; put the certificate of the root that issued it"
    );
}

#[test]
fn a_self_signed_leaf_may_be_its_own_root() {
    let leaf = Leaf::new().dns("ponger").self_signed();
    assert_eq!(load(&leaf.chain).expect("its own root").store(clock::now()).len(), 1);
}

#[test]
fn an_intermediate_may_be_trusted_as_a_root() {
    load(good().intermediate("between").pem()).expect("an authority");
}

#[test]
fn a_root_of_version_1_is_a_root() {
    let folder = Folder::new();
    if version_1("roots::a_root_of_version_1_is_a_root", &folder, "ca") {
        Roots::load(&folder.path("ca.crt")).expect("an old root");
    }
}

#[test]
fn a_bundle_with_a_key_or_garbage_is_refused_whole() {
    let leaf = Leaf::new().dns("ponger").self_signed();
    let message = load(&(leaf.chain + &leaf.key)).expect_err("a key");
    assert!(message.contains("it holds a private key"), "{message}");
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let message = load(&(good().pem().to_owned() + garbage)).expect_err("garbage");
    assert!(message.starts_with("ca.crt: a certificate in it cannot be read: "), "{message}");
}

#[test]
fn the_systems_roots_are_read_where_there_are_some() {
    match Roots::of_system() {
        Ok(roots) => assert!(!roots.store(clock::now()).is_empty()),
        Err(error) => assert!(error.to_string().contains("install the package ca-certificates")),
    }
}
