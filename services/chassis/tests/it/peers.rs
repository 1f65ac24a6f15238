//! Whom an identity believes.

use std::io;

use chassis::{
    failure::{Failure, FailureReason},
    tls::{
        cert::{self, Purpose},
        clock,
        identity::{Identity, Sources, Trusted},
        peer_id::Name,
    },
};
use rustls::{Error, pki_types::ServerName};
use testkit::{Ca, Issued, Leaf};
use time::Duration;

use crate::support::{Folder, chain, eventually};

const PONGER: &str = "spiffe://cluster.local/ns/a/sa/ponger";

fn trusting(roots: &[&Ca], allowed: Option<&str>, purpose: Purpose) -> Identity {
    let folder = Folder::new();
    let roots: String = roots.iter().map(|root| root.pem()).collect();
    let sources = Sources {
        leaf: None,
        roots: Trusted::File(folder.write("ca.crt", roots)),
        allowed: allowed.map(|name| [name.parse().expect("a name")].into()),
    };
    Identity::load(&sources, purpose).expect("an identity")
}

fn server(roots: &[&Ca]) -> Identity {
    trusting(roots, None, Purpose::Server)
}

fn client(roots: &[&Ca]) -> Identity {
    trusting(roots, None, Purpose::Client)
}

/// What this verification would be called in logs and metrics.
fn judged(result: Result<(), Error>) -> Option<FailureReason> {
    result.err().map(|error| Failure::of_stream("the peer", &io::Error::other(error)).reason)
}

fn of_client(identity: &Identity, issued: &Issued) -> Option<FailureReason> {
    judged(identity.verify_client(&chain(&issued.chain)))
}

fn of_server(identity: &Identity, issued: &Issued, name: &str) -> Option<FailureReason> {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    judged(identity.verify_server(&chain(&issued.chain), &name))
}

#[test]
fn a_peer_whose_root_is_trusted_is_believed() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    for root in [&one, &two] {
        let issued = root.issue(&Leaf::pinger("a").client_only());
        assert_eq!(of_client(&server(&[&one, &two]), &issued), None);
        let below = root.intermediate("upper").intermediate("lower");
        assert_eq!(of_client(&server(&[&one, &two]), &below.issue(&Leaf::pinger("a"))), None);
        let issued = root.issue(&Leaf::ponger("a").server_only());
        assert_eq!(of_server(&client(&[&one, &two]), &issued, "ponger.a.svc"), None);
    }
}

#[test]
fn a_peer_whose_root_is_not_trusted_is_refused() {
    let trusted = Ca::new("a root");
    let namesake = Ca::new("a root");
    let other = Ca::new("another root");
    for root in [&namesake, &other] {
        let issued = root.issue(&Leaf::pinger("a"));
        assert_eq!(of_client(&server(&[&trusted]), &issued), Some(FailureReason::TlsUntrusted));
        let issued = root.issue(&Leaf::ponger("a"));
        assert_eq!(
            of_server(&client(&[&trusted]), &issued, "ponger"),
            Some(FailureReason::TlsUntrusted)
        );
    }
    let stranger = Leaf::ponger("a").self_signed();
    assert_eq!(of_client(&server(&[&trusted]), &stranger), Some(FailureReason::TlsUntrusted));
    assert_eq!(
        of_server(&client(&[&trusted]), &stranger, "ponger"),
        Some(FailureReason::TlsUntrusted)
    );
}

#[test]
fn a_self_signed_leaf_is_believed_where_it_is_the_root() {
    let issued = Leaf::ponger("a").self_signed();
    let folder = Folder::new();
    let sources = Sources {
        roots: Trusted::File(folder.write("ca.crt", &issued.chain)),
        ..Sources::default()
    };
    let identity = Identity::load(&sources, Purpose::Client).expect("an identity");
    assert_eq!(of_server(&identity, &issued, "ponger"), None);
    let other = Leaf::ponger("a").self_signed();
    assert_eq!(of_server(&identity, &other, "ponger"), Some(FailureReason::TlsUntrusted));
}

#[test]
fn a_peer_that_leaves_out_its_intermediate_is_refused() {
    let root = Ca::new("a root");
    let mut issued = root.intermediate("between").issue(&Leaf::pinger("a"));
    assert_eq!(of_client(&server(&[&root]), &issued), None);
    let end = issued.chain.find("-----END CERTIFICATE-----\n").expect("an end");
    issued.chain.truncate(end + 26);
    assert_eq!(of_client(&server(&[&root]), &issued), Some(FailureReason::TlsUntrusted));
}

#[test]
fn a_peer_whose_certificate_is_not_valid_now_is_refused() {
    let root = Ca::new("a root");
    for (from, to, reason) in [
        (-Duration::HOUR, -Duration::MINUTE, FailureReason::TlsExpired),
        (Duration::MINUTE, Duration::HOUR, FailureReason::TlsNotYetValid),
    ] {
        let issued = root.issue(&Leaf::ponger("a").valid(from, to));
        assert_eq!(of_client(&server(&[&root]), &issued), Some(reason));
        assert_eq!(of_server(&client(&[&root]), &issued, "ponger"), Some(reason));
    }
}

#[test]
fn a_peer_whose_certificate_is_for_something_else_is_refused() {
    let root = Ca::new("a root");
    let issued = root.issue(&Leaf::ponger("a").server_only());
    assert_eq!(of_client(&server(&[&root]), &issued), Some(FailureReason::TlsUntrusted));
    let issued = root.issue(&Leaf::ponger("a").client_only());
    assert_eq!(of_server(&client(&[&root]), &issued, "ponger"), Some(FailureReason::TlsUntrusted));
    let issued = root.issue(&Leaf::ponger("a").ca_true());
    assert_eq!(of_client(&server(&[&root]), &issued), Some(FailureReason::TlsUntrusted));
    assert_eq!(of_server(&client(&[&root]), &issued, "ponger"), Some(FailureReason::TlsUntrusted));
}

#[test]
fn a_server_with_another_name_is_refused() {
    let root = Ca::new("a root");
    let identity = client(&[&root]);
    let issued = root.issue(&Leaf::ponger("a").common_name("other").ip([127, 0, 0, 1].into()));
    for name in ["ponger", "PONGER", "ponger.a", "localhost", "127.0.0.1"] {
        assert_eq!(of_server(&identity, &issued, name), None, "{name}");
    }
    for name in ["ponger.b", "xponger", "ponge", "x.ponger", "other", "127.0.0.2", "::1"] {
        assert_eq!(
            of_server(&identity, &issued, name),
            Some(FailureReason::TlsWrongName),
            "{name}"
        );
    }
}

#[test]
fn a_server_with_another_id_is_refused() {
    let root = Ca::new("a root");
    let identity = trusting(&[&root], Some(PONGER), Purpose::Client);
    assert_eq!(of_server(&identity, &root.issue(&Leaf::ponger("a")), "ponger"), None);
    for leaf in [
        Leaf::ponger("b"),
        Leaf::ponger("a").uri(PONGER),
        Leaf::new().dns("ponger"),
        Leaf::new().dns("ponger").uri("spiffe://cluster.local/ns/a/sa/ponger/"),
        Leaf::new().dns("ponger").uri(""),
    ] {
        let reason = of_server(&identity, &root.issue(&leaf), "ponger");
        assert_eq!(reason, Some(FailureReason::TlsWrongId), "{leaf:?}");
    }
    // Its chain comes first: who it says that it is means nothing without.
    let stranger = Ca::new("another root").issue(&Leaf::ponger("b"));
    assert_eq!(of_server(&identity, &stranger, "ponger"), Some(FailureReason::TlsUntrusted));
}

#[test]
fn whoever_shows_nothing_is_refused() {
    let root = Ca::new("a root");
    assert_eq!(judged(server(&[&root]).verify_client(&[])), Some(FailureReason::TlsNoCertificate));
    let name = ServerName::try_from("ponger").expect("a name");
    let result = client(&[&root]).verify_server(&[], &name);
    assert_eq!(judged(result), Some(FailureReason::TlsNoCertificate));
}

#[test]
fn who_trusts_nobody_believes_nobody() {
    let root = Ca::new("a root");
    for purpose in [Purpose::Server, Purpose::Client] {
        let nobody = Identity::load(&Sources::default(), purpose).expect("an identity");
        assert!(nobody.roots().is_none() && nobody.leaf.is_none());
        let issued = root.issue(&Leaf::ponger("a"));
        assert_eq!(of_client(&nobody, &issued), Some(FailureReason::TlsUntrusted));
        assert_eq!(of_server(&nobody, &issued, "ponger"), Some(FailureReason::TlsUntrusted));
    }
}

#[test]
fn a_side_verifies_only_the_other_side() {
    let root = Ca::new("a root");
    let issued = root.issue(&Leaf::ponger("a"));
    assert!(of_client(&client(&[&root]), &issued).is_some());
    assert!(of_server(&server(&[&root]), &issued, "ponger").is_some());
}

#[test]
fn identities_are_the_same_when_all_of_them_is() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    assert_eq!(server(&[&one]), server(&[&one]));
    assert_ne!(server(&[&one]), server(&[&two]));
    assert_ne!(server(&[&one]), server(&[&one, &two]));
    assert_ne!(server(&[&one]), trusting(&[&one], Some(PONGER), Purpose::Server));
    let nobody = Identity::load(&Sources::default(), Purpose::Server).expect("an identity");
    assert_ne!(server(&[&one]), nobody);
}

#[test]
fn an_identity_is_refused_when_any_part_of_it_is() {
    let folder = Folder::new();
    let root = Ca::new("a root");
    root.issue(&Leaf::ponger("a")).write(&folder.path("")).expect("files");
    let mut sources = Sources {
        leaf: Some(folder.leaf_files()),
        roots: Trusted::File(folder.write("ca.crt", root.pem())),
        allowed: None,
    };
    let identity = Identity::load(&sources, Purpose::Server).expect("an identity");
    assert!(identity.roots().is_some() && identity.leaf.is_some());
    folder.write("ca.crt", "");
    let error = Identity::load(&sources, Purpose::Server).expect_err("no roots");
    assert!(folder.message(&error).starts_with("ca.crt: it is empty"));
    folder.write("ca.crt", root.pem());
    folder.write("tls.key", "");
    let error = Identity::load(&sources, Purpose::Server).expect_err("no key");
    assert!(folder.message(&error).starts_with("tls.key: it is empty"));
    sources.leaf = None;
    Identity::load(&sources, Purpose::Server).expect("a leaf is not asked for");
}

#[test]
fn a_peer_is_a_metrics_label_only_by_an_allowed_name() {
    let root = Ca::new("a root");
    let names = |texts: &[&str]| -> Vec<Name> {
        texts.iter().map(|text| text.parse().expect("a name")).collect()
    };
    let identity = trusting(&[&root], Some(PONGER), Purpose::Server);
    assert_eq!(identity.label(&names(&[PONGER])), PONGER);
    assert_eq!(identity.label(&names(&["x", PONGER])), PONGER);
    for others in [&["x"][..], &["spiffe://a/b"], &[]] {
        assert_eq!(identity.label(&names(others)), "other");
    }
    assert_eq!(server(&[&root]).label(&names(&[PONGER])), "other");
}

#[test]
fn an_identity_knows_its_files() {
    let folder = Folder::new();
    let mut sources = Sources {
        leaf: Some(folder.leaf_files()),
        roots: Trusted::File(folder.path("ca.crt")),
        allowed: None,
    };
    assert_eq!(sources.files(), ["tls.crt", "tls.key", "ca.crt"].map(|name| folder.path(name)));
    sources.roots = Trusted::System;
    // The system's roots lie in a file on most systems.
    let files = sources.files();
    assert_eq!(files[..2], ["tls.crt", "tls.key"].map(|name| folder.path(name)));
    assert!(files.len() <= 3);
    assert!(Sources::default().files().is_empty());
}

/// Waits for `reason`; until `end`, it must not come.
#[track_caller]
fn turns(
    end: clock::Seconds,
    from: Option<FailureReason>,
    to: Option<FailureReason>,
    judge: impl Fn() -> Option<FailureReason>,
) {
    eventually("another judgement", || {
        let judgement = judge();
        // Looked at after the judgement, so that it cannot have been too late for it.
        if clock::now() < end {
            assert_eq!(judgement, from);
        }
        judgement == to
    });
    assert!(clock::now() >= end);
}

#[test]
fn a_root_that_ends_while_running_vouches_for_nobody() {
    let end = clock::now() + 2;
    let short = Ca::valid("short", -Duration::HOUR, Duration::seconds(2));
    let lasting = Ca::new("lasting");
    let (server, client) = (server(&[&short, &lasting]), client(&[&short, &lasting]));
    let issued = short.issue(&Leaf::ponger("a"));
    let untrusted = Some(FailureReason::TlsUntrusted);
    turns(end, None, untrusted, || of_client(&server, &issued));
    assert_eq!(of_server(&client, &issued, "ponger"), untrusted);
    let other = lasting.issue(&Leaf::ponger("a"));
    assert_eq!(of_client(&server, &other), None);
    assert_eq!(of_server(&client, &other, "ponger"), None);
}

#[test]
fn without_a_root_that_is_left_nobody_is_believed() {
    let seconds = 4;
    let end = clock::now() + seconds;
    let short = Ca::valid("short", -Duration::HOUR, Duration::seconds(seconds));
    let (server, client) = (server(&[&short]), client(&[&short]));
    let issued = short.issue(&Leaf::ponger("a"));
    let untrusted = Some(FailureReason::TlsUntrusted);
    turns(end, None, untrusted, || of_client(&server, &issued));
    assert_eq!(of_server(&client, &issued, "ponger"), untrusted);
}

#[test]
fn a_root_that_begins_while_running_vouches_from_then_on() {
    let begin = clock::now() + 2;
    let future = Ca::valid("future", Duration::seconds(2), Duration::HOUR);
    let lasting = Ca::new("lasting");
    let (server, client) = (server(&[&lasting, &future]), client(&[&lasting, &future]));
    let issued = future.issue(&Leaf::ponger("a"));
    turns(begin, Some(FailureReason::TlsUntrusted), None, || of_client(&server, &issued));
    assert_eq!(of_server(&client, &issued, "ponger"), None);
}

#[test]
fn a_root_counts_in_each_second_of_its_validity_and_in_no_other() {
    let root = Ca::valid("short", -Duration::HOUR, Duration::seconds(600));
    let future = Ca::valid("future", Duration::seconds(300), Duration::HOUR);
    let roots = [&root, &future];
    let (server, client) = (server(&roots), client(&roots));
    let of_root = chain(&root.issue(&Leaf::ponger("a")).chain);
    let of_future = chain(&future.issue(&Leaf::ponger("a")).chain);
    let name = ServerName::try_from("ponger").expect("a name");
    let believes = |chain: &[_], time| {
        let believed = server.verify_client_at(chain, time).is_ok();
        assert_eq!(client.verify_server_at(chain, &name, time).is_ok(), believed);
        believed
    };
    let valid = |ca: &Ca| leaf::validity(&chain(ca.pem())[0]).expect("a certificate");
    let ((_, end), (begin, _)) = (valid(&root), valid(&future));
    for (time, by_root, by_future) in [
        (begin - 1, true, false),
        (begin, true, true),
        (begin + 1, true, true),
        (end, true, true),
        (end + 1, false, true),
        (end + 2, false, true),
    ] {
        assert_eq!((believes(&of_root, time), believes(&of_future, time)), (by_root, by_future));
    }
}
