//! Which peers are accepted.

use chassis::{
    failure::FailureReason::{
        self, TlsExpired, TlsNoCertificate, TlsNotYetValid, TlsUntrusted, TlsWrongId, TlsWrongName,
    },
    tls::{
        classify,
        identity::VerifyPeer,
        limits::{self, ChainTooLarge},
        server::ClientAuth,
        x509::validity,
    },
};
use rustls::{
    CertificateError, Error,
    pki_types::{CertificateDer, UnixTime},
};
use testkit::{
    Ca, Issued, Leaf,
    pki::rcgen::{
        BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    },
};
use time::Duration;

use crate::support::{
    client_trusting, der, dns_constrained, rejection, server_tls, server_trusting, split,
};

const PONGER: &str = "spiffe://cluster.local/ns/a/sa/ponger";

/// Why a server that trusts `roots` rejects the client `issued`.
fn client_rejection(roots: &[&Ca], issued: &Issued) -> Option<FailureReason> {
    rejection(&server_trusting(&pem(roots)), &issued.chain_der())
}

/// Why a client that trusts `roots` and expects `ponger` rejects the server `issued`.
fn server_rejection(roots: &[&Ca], issued: &Issued) -> Option<FailureReason> {
    rejection(&client_trusting(&pem(roots), ("ponger", None)), &issued.chain_der())
}

fn pem(roots: &[&Ca]) -> String {
    roots.iter().map(|root| root.pem()).collect()
}

#[track_caller]
fn both_reject(roots: &[&Ca], issued: &Issued, reason: impl Into<Option<FailureReason>>) {
    let reason = reason.into();
    assert_eq!(client_rejection(roots, issued), reason);
    assert_eq!(server_rejection(roots, issued), reason);
}

#[test]
fn accepts_peer_of_any_trusted_root_directly_or_by_intermediates() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    for root in [&one, &two] {
        both_reject(&[&one, &two], &root.issue(&Leaf::ponger("a")), None);
        let below = root.intermediate("upper").intermediate("lower");
        both_reject(&[&one, &two], &below.issue(&Leaf::ponger("a")), None);
    }
}

#[test]
fn rejects_untrusted_peer() {
    let trusted = Ca::new("a root");
    let (namesake, other) = (Ca::new("a root"), Ca::new("another root"));
    for issued in [
        namesake.issue(&Leaf::ponger("a")),
        other.issue(&Leaf::ponger("a")),
        Leaf::ponger("a").self_signed(),
    ] {
        both_reject(&[&trusted], &issued, TlsUntrusted);
    }
    // It omits its intermediate.
    let mut issued = trusted.intermediate("between").issue(&Leaf::ponger("a"));
    issued.chain = split(&issued.chain)[0].to_owned();
    both_reject(&[&trusted], &issued, TlsUntrusted);
}

#[test]
fn path_length_and_usage_count_in_intermediates_and_not_in_roots() {
    let short = |params: &mut CertificateParams| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    };
    let mail = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection];
    };
    let root = Ca::customized("a root", |params| {
        short(params);
        mail(params);
    });
    // Nor does keyCertSign, in either.
    let no_signing = root.intermediate_customized("between", |params| {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    });
    both_reject(&[&root], &no_signing.issue(&Leaf::ponger("a")), None);
    let below = root.intermediate_customized("between", short).intermediate("below");
    both_reject(&[&root], &below.issue(&Leaf::ponger("a")), TlsUntrusted);
    let between = root.intermediate_customized("between", mail);
    both_reject(&[&root], &between.issue(&Leaf::ponger("a")), TlsUntrusted);
}

/// Keys decide, not names.
#[test]
fn accepts_leaf_with_its_roots_subject_or_none() {
    let nameless = Ca::customized("", |params| params.distinguished_name = Default::default());
    for root in [Ca::new("ponger"), nameless] {
        for leaf in [Leaf::ponger("a"), Leaf::ponger("a").common_name("ponger")] {
            both_reject(&[&root], &root.issue(&leaf), None);
            both_reject(&[&root], &root.intermediate("ponger").issue(&leaf), None);
        }
    }
}

#[test]
fn self_signed_leaf_in_the_bundle_is_accepted_itself_and_issues_nothing() {
    // With basicConstraints CA:FALSE and without.
    for is_ca in [IsCa::ExplicitNoCa, IsCa::NoCa] {
        let make = || {
            Ca::customized("ponger", |params| {
                params.is_ca = is_ca;
                params.subject_alt_names.clone_from(&ponger_names());
            })
        };
        let (pinned, other) = (make(), make());
        let server = client_trusting(pinned.pem(), ("ponger", None));
        assert_eq!(rejection(&server, &der(pinned.pem())), None);
        assert_eq!(rejection(&server_trusting(pinned.pem()), &der(pinned.pem())), None);
        assert_eq!(rejection(&server, &der(other.pem())), Some(TlsUntrusted));
        let issued = pinned.issue(&Leaf::ponger("a"));
        let below = pinned.intermediate("between").issue(&Leaf::ponger("a"));
        for issued in [issued, below] {
            both_reject(&[&pinned], &issued, TlsUntrusted);
            // Nor does it beside a real root, or when the peer presents it as its issuer.
            both_reject(&[&pinned, &Ca::new("a root")], &issued, TlsUntrusted);
            let chain = format!("{}{}", issued.chain, pinned.pem());
            both_reject(&[&pinned], &Issued { chain, ..issued }, TlsUntrusted);
        }
    }
}

fn ponger_names() -> Vec<testkit::pki::rcgen::SanType> {
    let name = "ponger".try_into().expect("a DNS name");
    vec![testkit::pki::rcgen::SanType::DnsName(name)]
}

#[test]
fn rejects_peer_whose_certificate_is_not_valid_now() {
    let root = Ca::new("a root");
    for (from, to, reason) in [
        (-Duration::HOUR, -Duration::MINUTE, TlsExpired),
        (Duration::HOUR, Duration::DAY, TlsNotYetValid),
    ] {
        both_reject(&[&root], &root.issue(&Leaf::ponger("a").valid(from, to)), reason);
        let below = root.intermediate_valid("between", from, to);
        both_reject(&[&root], &below.issue(&Leaf::ponger("a")), reason);
    }
}

#[test]
fn verifies_by_the_given_time() {
    let root = Ca::new("a root");
    let issued = root.issue(&Leaf::ponger("a"));
    let end = validity(&issued.chain_der()[0]).unwrap().not_after;
    let after = UnixTime::since_unix_epoch(std::time::Duration::from_secs(end.as_secs() + 1));
    let server = server_trusting(root.pem());
    server.verify_peer(&issued.chain_der(), end).unwrap();
    server.verify_peer(&issued.chain_der(), after).unwrap_err();
}

#[test]
fn rejects_certificate_for_another_purpose() {
    let root = Ca::new("a root");
    let server_only = root.issue(&Leaf::ponger("a").server_only());
    let client_only = root.issue(&Leaf::ponger("a").client_only());
    assert_eq!(client_rejection(&[&root], &server_only), Some(TlsUntrusted));
    assert_eq!(client_rejection(&[&root], &client_only), None);
    assert_eq!(server_rejection(&[&root], &client_only), Some(TlsUntrusted));
    assert_eq!(server_rejection(&[&root], &server_only), None);
    both_reject(&[&root], &root.issue(&Leaf::ponger("a").ca_true()), TlsUntrusted);
}

#[test]
fn name_constraints_on_dns_names_are_enforced() {
    let root = dns_constrained("example");
    for (name, reason) in [("ponger.example", None), ("ponger.other", Some(TlsUntrusted))] {
        let issued = root.issue(&Leaf::new().dns(name));
        assert_eq!(client_rejection(&[&root], &issued), reason, "{name}");
        let client = client_trusting(root.pem(), (name, None));
        assert_eq!(rejection(&client, &issued.chain_der()), reason, "{name}");
    }
}

#[test]
fn rejects_server_with_another_name() {
    let root = Ca::new("a root");
    let leaf = Leaf::ponger("a").common_name("other").ip([127, 0, 0, 1].into());
    let issued = root.issue(&leaf);
    let reason = |name| rejection(&client_trusting(root.pem(), (name, None)), &issued.chain_der());
    for name in ["ponger", "PONGER", "ponger.a", "localhost", "127.0.0.1"] {
        assert_eq!(reason(name), None, "{name}");
    }
    for name in ["ponger.b", "xponger", "ponge", "x.ponger", "other", "127.0.0.2", "::1"] {
        assert_eq!(reason(name), Some(TlsWrongName), "{name}");
    }
}

#[test]
fn rejects_server_with_another_id() {
    let root = Ca::new("a root");
    let client = client_trusting(root.pem(), ("ponger", Some(PONGER)));
    let reason = |issued: &Issued| rejection(&client, &issued.chain_der());
    assert_eq!(reason(&root.issue(&Leaf::ponger("a"))), None);
    for leaf in [
        Leaf::ponger("b"),
        Leaf::ponger("a").uri(PONGER),
        Leaf::new().dns("ponger"),
        Leaf::new().dns("ponger").uri(&format!("{PONGER}/")),
        Leaf::new().dns("ponger").uri(""),
    ] {
        assert_eq!(reason(&root.issue(&leaf)), Some(TlsWrongId), "{leaf:?}");
    }
    // The chain comes first: without it, the ID means nothing.
    let untrusted = Ca::new("another root").issue(&Leaf::ponger("b"));
    assert_eq!(reason(&untrusted), Some(TlsUntrusted));
}

#[test]
fn rejects_empty_chain_and_any_where_clients_are_not_verified() {
    let root = Ca::new("a root");
    let server = server_trusting(root.pem());
    assert_eq!(rejection(&server, &[]), Some(TlsNoCertificate));
    let client = client_trusting(root.pem(), ("ponger", None));
    assert_eq!(rejection(&client, &[]), Some(TlsNoCertificate));
    let own = root.issue(&Leaf::ponger("a"));
    let server = server_tls(&own, root.pem(), ClientAuth::None, rustls::DEFAULT_VERSIONS);
    assert_eq!(rejection(&server, &own.chain_der()), Some(TlsNoCertificate));
}

#[test]
fn rejects_chain_above_the_limits_before_verifying_it() {
    let root = Ca::new("a root");
    let leaf = root.issue(&Leaf::ponger("a")).chain_der();
    // Any certificates will do, since none is needed.
    let junk: Vec<_> = (0..20).flat_map(|n| der(Ca::new(&format!("junk {n}")).pem())).collect();
    let chain = |count| -> Vec<_> { leaf.iter().chain(&junk[..count]).cloned().collect() };
    let large = root.issue(
        &(0..700).fold(Leaf::ponger("a"), |leaf, n| leaf.dns(&format!("a-rather-long-name-{n}"))),
    );
    let server = server_trusting(root.pem());
    let client = client_trusting(root.pem(), ("ponger", None));
    let verifiers: [&dyn VerifyPeer; 2] = [&server, &client];
    for verifier in verifiers {
        let verify =
            |chain: &[CertificateDer<'static>]| verifier.verify_peer(chain, UnixTime::now());
        verify(&chain(limits::MAX_INTERMEDIATES)).unwrap();
        for chain in [chain(limits::MAX_INTERMEDIATES + 1), large.chain_der()] {
            let error = verify(&chain).unwrap_err();
            assert!(is_too_large(&error), "{error}");
            let failure = classify::from_io("the peer", &std::io::Error::other(error));
            assert_eq!(failure.reason, TlsUntrusted);
            assert!(
                failure.cause.starts_with("the peer's certificate has a chain of "),
                "{failure}"
            );
        }
    }
}

fn is_too_large(error: &Error) -> bool {
    matches!(error, Error::InvalidCertificate(CertificateError::Other(other)) if other.0.is::<ChainTooLarge>())
}

#[test]
fn accepts_two_intermediates_of_one_subject_and_no_more() {
    let root = Ca::new("a root");
    let between = root.intermediate("between");
    let leaf = between.issue(&Leaf::ponger("a")).chain_der();
    let (from, to) = (-Duration::HOUR, Duration::DAY);
    let crossed = |name| der(&Ca::new(name).cross_sign(&between, from, to));
    let server = server_trusting(root.pem());
    let two = [&leaf[..1], &crossed("another root"), &leaf[1..]].concat();
    assert_eq!(rejection(&server, &two), None);
    for chain in [
        [two.clone(), crossed("a third root")].concat(),
        // What we cannot read may be what the search can.
        [leaf, vec![CertificateDer::from(vec![0x30, 0]); 3]].concat(),
    ] {
        let error = server.verify_peer(&chain, UnixTime::now()).unwrap_err();
        let failure = classify::from_io("the peer", &std::io::Error::other(error));
        assert_eq!(
            failure.cause,
            "the peer's certificate has a chain of 3 intermediates with the same subject; at most 2 are accepted"
        );
    }
}

/// Webs of intermediates in which no path leads to a root: those that are searched in full cost a
/// second of CPU, and the limits of webpki's search 40 ms.
#[test]
fn chain_made_to_be_slow_is_rejected_by_its_size_or_searched_quickly() {
    // Named as the root, so that its key, the slowest, is tried at each turn.
    let root = Ca::with_p384("in the web");
    let server = server_trusting(root.pem());
    let (from, to) = (-Duration::HOUR, Duration::DAY);
    // The intermediates of `name`, each signed by each of `issuers`.
    let layer = |cas: &[Ca], issuers: &[Ca]| -> Vec<_> {
        let signed = |ca| issuers.iter().map(move |issuer: &Ca| issuer.cross_sign(ca, from, to));
        cas.iter().flat_map(signed).flat_map(|pem| der(&pem)).collect()
    };
    let two = |name: &str| [Ca::new(name), Ca::new(name)];
    let web: Vec<_> = (0..8).map(|_| Ca::new("in the web")).collect();
    let crossed = layer(&web, &web);
    let leaf = web[0].issue(&Leaf::ponger("a")).chain_der();
    let verify = |leaf: &[CertificateDer<'static>], intermediates: &[CertificateDer<'static>]| {
        let chain = [leaf, intermediates].concat();
        server.verify_peer(&chain, UnixTime::now()).expect_err("an untrusted chain")
    };
    for count in [limits::MAX_OF_ONE_SUBJECT + 1, limits::MAX_INTERMEDIATES, crossed.len()] {
        assert!(is_too_large(&verify(&leaf, &crossed[..count])));
    }
    // The largest that are searched: two of each of three subjects, in layers and as a ring.
    let [low, middle, high] = [two("low"), two("middle"), two("in the web")];
    let leaf = low[0].issue(&Leaf::ponger("a")).chain_der();
    let layers = [layer(&low[..1], &middle), layer(&middle[..1], &high), layer(&high[..1], &high)];
    let ring = [layer(&low[..1], &high), layer(&high[..1], &middle), layer(&middle[..1], &low)];
    for web in [layers.concat(), ring.concat()] {
        assert_eq!(web.len(), limits::MAX_INTERMEDIATES);
        let error = verify(&leaf[..1], &web);
        assert!(
            matches!(
                error,
                Error::InvalidCertificate(
                    CertificateError::UnknownIssuer | CertificateError::BadSignature
                )
            ),
            "{error:?}"
        );
    }
}
