//! Our own certificate and key.

use std::fs;

use chassis::tls::{
    cert::{Leaf as Loaded, Purpose, validity},
    clock,
    peer_id::SpiffeId,
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use testkit::{Ca, Leaf};
use time::Duration;

use crate::support::{Folder, chain, eventually, load, load_issued, openssl, version_1};

fn server() -> Leaf {
    Leaf::new().dns("ponger").server_only()
}

fn client() -> Leaf {
    Leaf::new().uri("spiffe://cluster.local/ns/a/sa/pinger").client_only()
}

#[track_caller]
fn refused(result: Result<Loaded, String>, message: &str) {
    assert_eq!(result.expect_err("not to be used"), message);
}

const CHAIN: &str = "; put the leaf first, then each certificate's issuer";

#[track_caller]
fn broken_chain(result: Result<Loaded, String>) {
    let message = result.expect_err("not to be used");
    assert!(
        message.starts_with("tls.crt: its chain does not hold: ") && message.ends_with(CHAIN),
        "{message}"
    );
}

#[test]
fn a_leaf_says_who_it_is_and_until_when() {
    let now = clock::now();
    let issued = Ca::new("a root").issue(
        &server()
            .dns("Ponger.A")
            .ip([127, 0, 0, 1].into())
            .uri("spiffe://a/b")
            .valid(Duration::seconds(-100), Duration::seconds(1000)),
    );
    let leaf = load_issued(&issued, Purpose::Server).expect("a good leaf");
    let facts = &leaf.facts;
    assert!((now - 100..now - 90).contains(&facts.not_before), "{facts:?}");
    assert!((now + 1000..now + 1010).contains(&facts.not_after), "{facts:?}");
    assert!(facts.serial.len() >= 16);
    assert!(facts.serial.bytes().all(|byte| byte.is_ascii_hexdigit()), "{}", facts.serial);
    assert_eq!(facts.names.dns, ["ponger", "ponger.a"]);
    assert_eq!(facts.names.uris, ["spiffe://a/b"]);
    assert_eq!((facts.names.addresses, facts.names.unreadable), (1, 0));

    let der = CertificateDer::from_pem_slice(issued.chain.as_bytes()).expect("PEM");
    assert_eq!(leaf.certified.cert, std::slice::from_ref(&der));
    assert_eq!(validity(&der), Some((facts.not_before, facts.not_after)));
    assert_eq!(validity(&CertificateDer::from(vec![1, 2, 3])), None);
}

#[test]
fn a_chain_ends_with_its_first_certificate_to_end() {
    let below = Ca::new("a root").intermediate_valid("between", -Duration::HOUR, Duration::MINUTE);
    let leaf = load_issued(&below.issue(&server()), Purpose::Server).expect("a good chain");
    assert!(leaf.facts.not_after <= clock::now() + 60);
    assert_eq!(leaf.certified.cert.len(), 2);
}

#[test]
fn leaves_are_the_same_when_their_certificates_are() {
    let ca = Ca::new("a root");
    let (one, two) = (ca.issue(&server()), ca.issue(&server()));
    let load = |issued| load_issued(issued, Purpose::Server).expect("a good leaf");
    assert_eq!(load(&one), load(&one));
    assert_ne!(load(&one), load(&two));
}

#[test]
fn a_key_stays_out_of_the_log() {
    let issued = Ca::new("a root").issue(&server());
    let leaf = load_issued(&issued, Purpose::Server).expect("a good leaf");
    let shown = format!("{leaf:?}");
    assert!(shown.contains("ponger") && !shown.contains("key"), "{shown}");
}

#[test]
fn both_files_must_be_there() {
    let issued = Ca::new("a root").issue(&server());
    let folder = Folder::new();
    let message = |folder: &Folder| {
        let error = Loaded::load(&folder.leaf_files(), Purpose::Server).expect_err("half");
        folder.message(&error)
    };
    folder.write("tls.crt", &issued.chain);
    assert_eq!(
        message(&folder),
        "tls.key: there is no such file; put it there, or name another in the configuration"
    );
    fs::rename(folder.path("tls.crt"), folder.path("tls.key")).expect("a rename");
    assert_eq!(
        message(&folder),
        "tls.crt: there is no such file; put it there, or name another in the configuration"
    );
}

#[test]
fn swapped_files_are_refused() {
    let issued = Ca::new("a root").issue(&server());
    refused(
        load(&issued.key, &issued.chain, Purpose::Server),
        "tls.crt: it holds a private key, where only certificates belong; keep the key in a file of its own",
    );
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let ca = Ca::new("a root");
    let (one, two) = (ca.issue(&server()), ca.issue(&server()));
    let message = load(&one.chain, &two.key, Purpose::Server).expect_err("no pair");
    assert!(message.starts_with("tls.key: it is not the key of the certificate in "), "{message}");
    assert!(message.ends_with("; put the key and the certificate that were made together"));
}

#[test]
fn a_key_that_is_none_is_refused() {
    let issued = Ca::new("a root").issue(&server());
    let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let message = load(&issued.chain, key, Purpose::Server).expect_err("no key");
    assert!(message.starts_with("tls.key: the key cannot be used: "), "{message}");
    assert!(message.contains("; use an ECDSA P-256 or P-384, an Ed25519, or an RSA key"));
}

#[test]
fn an_expired_certificate_is_refused() {
    let leaf = server().valid(-Duration::HOUR, Duration::seconds(-1));
    let message = load_issued(&Ca::new("a root").issue(&leaf), Purpose::Server);
    let message = message.expect_err("expired");
    assert!(message.starts_with("tls.crt: the certificate expired at 2"), "{message}");
    assert!(message.ends_with("Z; renew it"), "{message}");
}

#[test]
fn a_certificate_that_is_not_valid_yet_is_refused() {
    let leaf = server().valid(Duration::MINUTE, Duration::HOUR);
    let message = load_issued(&Ca::new("a root").issue(&leaf), Purpose::Server);
    let message = message.expect_err("not yet");
    assert!(message.starts_with("tls.crt: the certificate is not valid before 2"), "{message}");
    assert!(message.ends_with("Z; wait until then, or compare the clocks"), "{message}");
}

#[test]
fn a_certificate_is_valid_until_its_last_second_is_over() {
    let ca = Ca::new("a root");
    eventually("a look within the last second", || {
        let issued = ca.issue(&server().valid(-Duration::HOUR, Duration::ZERO));
        let loaded = load_issued(&issued, Purpose::Server);
        let (_, end) = validity(&chain(&issued.chain)[0]).expect("a certificate");
        let in_time = clock::now() == end;
        assert!(!in_time || loaded.is_ok(), "{loaded:?}");
        in_time
    });
}

#[test]
fn a_certificate_is_valid_from_its_first_second_on() {
    let leaf = server().valid(Duration::ZERO, Duration::HOUR);
    load_issued(&Ca::new("a root").issue(&leaf), Purpose::Server).expect("just valid");
}

#[test]
fn an_authoritys_certificate_is_refused() {
    for issued in [Ca::new("a root").issue(&server().ca_true()), server().ca_true().self_signed()] {
        let message = load_issued(&issued, Purpose::Server).expect_err("CA:TRUE");
        assert!(message.starts_with("tls.crt: the certificate says CA:TRUE: "), "{message}");
        assert!(
            message.contains(
                "; issue a leaf below it, or make it again with basicConstraints CA:FALSE"
            )
        );
    }
}

#[test]
fn a_server_needs_a_name_that_a_client_can_verify() {
    let ca = Ca::new("a root");
    for leaf in [
        Leaf::new(),
        Leaf::new().common_name("ponger"),
        Leaf::new().common_name("ponger").uri("spiffe://a/ponger"),
    ] {
        refused(
            load_issued(&ca.issue(&leaf), Purpose::Server),
            "tls.crt: the certificate has no DNS name or IP address that a client could verify \
             (a common name does not count); issue it with a subjectAltName, such as DNS:ponger",
        );
    }
    for leaf in [Leaf::new().dns("ponger"), Leaf::new().ip([127, 0, 0, 1].into())] {
        load_issued(&ca.issue(&leaf), Purpose::Server).expect("a name");
    }
    for name in ["", "a b", "*", "*.", "po*ger", "x.*.y", "ponger\0"] {
        let message = load_issued(&ca.issue(&Leaf::new().dns(name)), Purpose::Server);
        let message = message.expect_err(name);
        assert!(message.starts_with("tls.crt: the certificate has no DNS name"), "{message}");
    }
    for name in ["*.ponger", "a_b.c"] {
        load_issued(&ca.issue(&Leaf::new().dns(name)), Purpose::Server).expect(name);
    }
    // Which of its two identities counts, its peer decides; that it has a name is enough here.
    let leaf = Leaf::new().dns("ponger").uri("spiffe://a/b").uri("spiffe://a/c");
    load_issued(&ca.issue(&leaf), Purpose::Server).expect("a name");
}

#[test]
fn a_client_needs_a_name_that_a_server_can_read() {
    let ca = Ca::new("a root");
    let cure = "; issue it with one SPIFFE ID as its URI, or with a DNS name";
    for (leaf, cause) in [
        (Leaf::new(), "its certificate has neither a URI nor a DNS name"),
        (Leaf::new().common_name("pinger"), "its certificate has neither a URI nor a DNS name"),
        (Leaf::new().ip([127, 0, 0, 1].into()), "its certificate has neither a URI nor a DNS name"),
        (
            client().uri("spiffe://a/b"),
            "its certificate has 2 URIs, where a SPIFFE identity has exactly one",
        ),
        (
            Leaf::new().uri("https://pinger"),
            "its certificate's URI `https://pinger` is not a SPIFFE ID",
        ),
        (Leaf::new().uri("").dns("pinger"), "its certificate's URI `` is not a SPIFFE ID"),
    ] {
        refused(
            load_issued(&ca.issue(&leaf), Purpose::Client),
            &format!("tls.crt: the certificate names no client: {cause}{cure}"),
        );
    }
    load_issued(&ca.issue(&Leaf::new().dns("pinger")), Purpose::Client).expect("a name");
    assert!("spiffe://cluster.local/ns/a/sa/pinger".parse::<SpiffeId>().is_ok());
    load_issued(&ca.issue(&client()), Purpose::Client).expect("a name");
}

#[test]
fn a_certificate_for_another_purpose_is_refused() {
    let root = Ca::new("a root");
    let below = root.intermediate("between");
    let server = server();
    let client = client().dns("pinger");
    for issued in [root.issue(&client), below.issue(&client), client.self_signed()] {
        refused(
            load_issued(&issued, Purpose::Server),
            "tls.crt: its extended key usage does not let it stand for a server; issue it with serverAuth",
        );
    }
    for issued in [root.issue(&server), below.issue(&server), server.self_signed()] {
        refused(
            load_issued(&issued, Purpose::Client),
            "tls.crt: its extended key usage does not let it stand for a client; issue it with clientAuth",
        );
    }
    let either = root.issue(&Leaf::new().dns("either"));
    load_issued(&either, Purpose::Server).expect("both usages");
    load_issued(&either, Purpose::Client).expect("both usages");
}

#[test]
fn a_certificate_may_be_its_own_root() {
    load_issued(&server().self_signed(), Purpose::Server).expect("self-signed");
    load_issued(&client().common_name("p").self_signed(), Purpose::Client).expect("self-signed");
}

#[test]
fn a_chain_may_be_long_and_may_hold_its_root() {
    let root = Ca::new("a root");
    let below = root.intermediate("upper").intermediate("lower");
    for (leaf, purpose) in [(server(), Purpose::Server), (client(), Purpose::Client)] {
        let issued = below.issue(&leaf);
        assert_eq!(load_issued(&issued, purpose).expect("good").certified.cert.len(), 3);
        let chain = issued.chain.clone() + root.pem();
        load(&chain, &issued.key, purpose).expect("a chain with its root");
        // Its issuer is known to whoever has the root.
        let alone = root.issue(&leaf);
        load_issued(&alone, purpose).expect("a leaf alone");
    }
}

fn certificates(chain: &str) -> Vec<String> {
    chain.split_inclusive("-----END CERTIFICATE-----\n").map(str::to_owned).collect()
}

#[test]
fn a_chain_in_the_wrong_order_is_refused() {
    let issued = Ca::new("a root").intermediate("upper").intermediate("lower").issue(&server());
    let [leaf, lower, upper] = certificates(&issued.chain).try_into().expect("three certificates");
    broken_chain(load(&format!("{leaf}{upper}{lower}"), &issued.key, Purpose::Server));
    let message = load(&format!("{lower}{leaf}{upper}"), &issued.key, Purpose::Server);
    assert!(message.expect_err("upside down").contains("says CA:TRUE"));
}

#[test]
fn a_chain_with_a_gap_is_refused() {
    let issued = Ca::new("a root").intermediate("upper").intermediate("lower").issue(&server());
    let [leaf, _, upper] = certificates(&issued.chain).try_into().expect("three certificates");
    broken_chain(load(&format!("{leaf}{upper}"), &issued.key, Purpose::Server));
}

#[test]
fn a_foreign_intermediate_is_refused() {
    let issued = Ca::new("a root").intermediate("between").issue(&server());
    let [leaf, between] = certificates(&issued.chain).try_into().expect("two certificates");
    let foreign = Ca::new("another root").intermediate("foreign");
    let namesake = Ca::new("a root").intermediate("between");
    for foreign in [&foreign, &namesake] {
        broken_chain(load(&(leaf.clone() + foreign.pem()), &issued.key, Purpose::Server));
    }
    let both = format!("{leaf}{between}{}", foreign.pem());
    broken_chain(load(&both, &issued.key, Purpose::Server));
}

#[test]
fn an_expired_intermediate_is_refused() {
    let root = Ca::new("a root");
    let below = root.intermediate_valid("between", -Duration::HOUR, Duration::seconds(-1));
    let issued = below.issue(&server());
    for chain in [issued.chain.clone(), issued.chain.clone() + root.pem()] {
        let message = load(&chain, &issued.key, Purpose::Server).expect_err("expired");
        assert!(
            message.starts_with("tls.crt: the certificate `CN=between` above the leaf expired at ")
                && message.ends_with("; renew it"),
            "{message}"
        );
    }
}

#[test]
fn an_intermediate_that_is_not_valid_yet_is_refused() {
    let below = Ca::new("a root").intermediate_valid("between", Duration::HOUR, Duration::DAY);
    let message = load_issued(&below.issue(&server()), Purpose::Server).expect_err("not yet");
    assert!(message.contains("the certificate `CN=between` above the leaf is not valid before 2"));
}

#[test]
fn a_certificate_that_is_none_is_refused() {
    let issued = Ca::new("a root").issue(&server());
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for chain in [garbage.to_owned(), issued.chain.clone() + garbage] {
        let message = load(&chain, &issued.key, Purpose::Server).expect_err("garbage");
        assert!(message.starts_with("tls.crt: a certificate in it cannot be read: "), "{message}");
    }
}

#[test]
fn a_certificate_with_bytes_behind_its_end_is_refused() {
    let folder = Folder::new();
    if !openssl("leaf::a_certificate_with_bytes_behind_its_end_is_refused", &folder, &["version"]) {
        return;
    }
    let issued = Ca::new("a root").issue(&server());
    let mut der =
        CertificateDer::from_pem_slice(issued.chain.as_bytes()).expect("PEM").as_ref().to_vec();
    der.push(0);
    folder.write("long.der", &der);
    let base64 = ["base64", "-in", "long.der", "-out", "long.b64"];
    assert!(openssl("leaf", &folder, &base64));
    let body = fs::read_to_string(folder.path("long.b64")).expect("a file");
    let chain = format!("-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n");
    refused(
        load(&chain, &issued.key, Purpose::Server),
        "tls.crt: a certificate in it has bytes behind its end",
    );
}

/// Makes a self-signed `tls.crt` and `tls.key` by `openssl req -x509`.
fn by_openssl(test: &str, folder: &Folder, key: &[&str], more: &[&str]) -> bool {
    folder.write(
        "san.cnf",
        "[req]\ndistinguished_name = dn\nx509_extensions = ext\n[dn]\n[ext]\nsubjectAltName = DNS:ponger\n",
    );
    let fixed = ["req", "-x509", "-nodes", "-days", "1", "-subj", "/CN=ponger"];
    let files = ["-config", "san.cnf", "-keyout", "tls.key", "-out", "tls.crt"];
    openssl(test, folder, &[&fixed[..], &files[..], key, more].concat())
}

#[test]
fn keys_that_openssl_makes_are_taken() {
    let test = "leaf::keys_that_openssl_makes_are_taken";
    for key in [
        &["-newkey", "rsa:2048"][..],
        &["-newkey", "rsa:4096"],
        &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
        &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"],
        &["-newkey", "ed25519"],
    ] {
        let folder = Folder::new();
        if by_openssl(test, &folder, key, &[]) {
            let leaf = Loaded::load(&folder.leaf_files(), Purpose::Server);
            assert_eq!(leaf.expect("a good leaf").facts.names.dns, ["ponger"], "{key:?}");
        }
    }
}

#[test]
fn a_key_that_is_too_weak_is_refused() {
    let folder = Folder::new();
    let test = "leaf::a_key_that_is_too_weak_is_refused";
    if by_openssl(test, &folder, &["-newkey", "rsa:1024"], &[]) {
        let error = Loaded::load(&folder.leaf_files(), Purpose::Server).expect_err("weak");
        let message = folder.message(&error);
        assert!(message.starts_with("tls.crt: an RSA key in its chain has 1024 bits"), "{message}");
    }
}

#[test]
fn a_signature_that_is_too_weak_is_refused() {
    let folder = Folder::new();
    let test = "leaf::a_signature_that_is_too_weak_is_refused";
    if by_openssl(test, &folder, &["-newkey", "rsa:2048"], &["-sha1"]) {
        let error = Loaded::load(&folder.leaf_files(), Purpose::Server).expect_err("SHA-1");
        let message = folder.message(&error);
        let cause = "tls.crt: its chain does not hold: a signature in it is by an algorithm that is not accepted; ";
        assert!(message.starts_with(cause), "{message}");
        assert!(message.contains("all signed with SHA-256 or better"), "{message}");
    }
}

#[test]
fn a_critical_extension_that_nobody_knows_is_refused() {
    let folder = Folder::new();
    let test = "leaf::a_critical_extension_that_nobody_knows_is_refused";
    let more = ["-addext", "1.2.3.4.5=critical,ASN1:NULL"];
    if by_openssl(test, &folder, &["-newkey", "ed25519"], &more) {
        let error = Loaded::load(&folder.leaf_files(), Purpose::Server).expect_err("unknown");
        let message = folder.message(&error);
        assert!(message.contains("it has a critical extension that is not known"), "{message}");
    }
}

#[test]
fn a_certificate_of_version_1_is_refused() {
    let test = "leaf::a_certificate_of_version_1_is_refused";
    let folder = Folder::new();
    if version_1(test, &folder, "tls") {
        let error = Loaded::load(&folder.leaf_files(), Purpose::Server).expect_err("no names");
        let message = folder.message(&error);
        assert!(message.starts_with("tls.crt: the certificate has no DNS name"), "{message}");
    }
}
