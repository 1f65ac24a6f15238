//! The trust bundle.

use std::time::Duration as StdDuration;

use chassis::tls::{
    cert::validity,
    clock::{FOREVER, add},
    trust::TrustBundle,
};
use rustls::pki_types::UnixTime;
use testkit::{Ca, Leaf, process::is_installed};
use time::Duration;

use crate::support::{bundle, der, dns_constrained, uri_name_constraint, version_1_certificate};

fn valid() -> Ca {
    Ca::new("valid")
}

fn expired() -> Ca {
    Ca::valid("old", -Duration::DAY, -Duration::MINUTE)
}

fn future() -> Ca {
    Ca::valid("new", Duration::HOUR * 12, Duration::DAY * 2)
}

#[track_caller]
fn rejects(pem: &str, start: &str, end: &str) {
    let message = bundle(pem).expect_err("a rejection");
    assert!(message.starts_with(start) && message.ends_with(end), "{message}");
}

#[test]
fn contains_each_root_once() {
    let (one, two) = (valid(), valid());
    let roots = bundle(&format!("{}{}", one.pem(), two.pem())).unwrap();
    assert_eq!(roots.active_count(UnixTime::now()), 2);
    let repeated = bundle(&one.pem().repeat(3)).unwrap();
    assert_eq!(repeated, bundle(one.pem()).unwrap());
    assert_eq!(repeated.active_count(UnixTime::now()), 1);
}

#[test]
fn rejects_bundle_without_a_root_that_is_valid_now() {
    rejects(
        &(expired().pem().to_owned() + expired().pem()),
        "ca.crt: every root in it has expired, the last at 2",
        "Z; add a root that is valid now",
    );
    rejects(
        &(future().pem().to_owned() + expired().pem()),
        "ca.crt: no root in it is valid yet; add a root that is valid now",
        "",
    );
}

#[test]
fn roots_count_from_their_first_to_their_last_second() {
    let (now, second) = (UnixTime::now(), StdDuration::from_secs(1));
    let (expired, valid, future) = (expired(), valid(), future());
    let roots = bundle(&[expired.pem(), valid.pem(), future.pem()].concat()).unwrap();
    let [valid, future] = [&valid, &future].map(|ca| validity(&der(ca.pem())[0]).unwrap());
    assert_eq!(roots.active_count(now), 1);
    assert_eq!(roots.earliest_expiry(now), Some(valid));
    assert_eq!(roots.latest_expiry(), future);

    let mut counts = Vec::new();
    let mut change = roots.next_change(now);
    for expected in [future.not_before, add(valid.not_after, second), add(future.not_after, second)]
    {
        assert_eq!(change, expected);
        counts.push(roots.active_count(change));
        change = roots.next_change(change);
    }
    assert_eq!((change, counts), (FOREVER, vec![2, 1, 0]));
    assert_eq!(roots.active_count(valid.not_after), 2, "the last second is part of the validity");
    assert_eq!(roots.earliest_expiry(FOREVER), None);
}

#[test]
fn rejects_leaf_that_another_certificate_issued() {
    let leaf = valid().issue(&Leaf::new().common_name("pinger").dns("pinger"));
    rejects(
        &(valid().pem().to_owned() + &leaf.chain),
        "ca.crt: `CN=pinger` in it is not a root: it was issued by `CN=valid`; ",
        "put the certificate of the root that issued it",
    );
}

#[test]
fn accepts_self_signed_leaf_intermediate_and_constrained_root() {
    let leaf = Leaf::new().dns("ponger").self_signed();
    for pem in [&leaf.chain, valid().intermediate("between").pem(), dns_constrained("a").pem()] {
        assert_eq!(bundle(pem).unwrap().active_count(UnixTime::now()), 1);
    }
}

#[test]
fn accepts_root_of_version_1() {
    let dir = tempfile::tempdir().unwrap();
    if is_installed("openssl")
        && let Some(root) = version_1_certificate(dir.path())
    {
        bundle(&root.chain).unwrap();
    }
}

#[test]
fn rejects_bundle_with_a_key_garbage_or_an_unsupported_root() {
    let leaf = Leaf::new().dns("ponger").self_signed();
    rejects(&(leaf.chain + &leaf.key), "ca.crt: it holds a private key", "a file of its own");
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    rejects(
        &(valid().pem().to_owned() + garbage),
        "ca.crt: a certificate in it cannot be read: ",
        "",
    );
    let constrained = Ca::customized("constrained", |params| {
        params.custom_extensions.push(uri_name_constraint("cluster.local"));
    });
    rejects(
        constrained.pem(),
        "ca.crt: a root in it (`CN=constrained`) has a name constraint on URIs, ",
        "reissue it with constraints on DNS names only",
    );
}

#[test]
fn reads_the_roots_of_the_system_where_there_are_some() {
    match TrustBundle::native() {
        Ok(roots) => assert!(roots.active_count(UnixTime::now()) > 0),
        Err(error) => assert!(error.to_string().contains("install the package ca-certificates")),
    }
}
