//! Our own certificate and key.

use std::os::unix::fs::symlink;

use chassis::tls::{
    cert::{CertKeyPaths, OwnCertificate},
    clock::from_timestamp,
    x509::{Role, validity},
};
use rustls::pki_types::{CertificateDer, UnixTime};
use testkit::{
    Ca, Issued, Leaf,
    pki::rcgen::{CustomExtension, ExtendedKeyUsagePurpose, IsCa},
    process::{is_installed, openssl},
};
use time::Duration;

use crate::support::{
    der, dns_constrained, openssl_certificate, own, own_from_pem, paths, split,
    uri_name_constraint, version_1_certificate,
};

fn server() -> Leaf {
    Leaf::new().dns("ponger").server_only()
}

fn client() -> Leaf {
    Leaf::new().uri("spiffe://cluster.local/ns/a/sa/pinger").client_only()
}

fn seconds_from_now(time: UnixTime) -> i64 {
    let seconds = |time: UnixTime| i64::try_from(time.as_secs()).expect("a time of this age");
    seconds(time) - seconds(UnixTime::now())
}

#[track_caller]
fn rejects(result: Result<OwnCertificate, String>, start: &str, end: &str) {
    let message = result.expect_err("a rejection");
    assert!(message.starts_with(start) && message.ends_with(end), "{message}");
}

#[test]
fn reads_names_validity_and_serial_number() {
    let leaf = server()
        .dns("Ponger.A")
        .ip([127, 0, 0, 1].into())
        .uri("spiffe://a/b")
        .valid(-Duration::HOUR, Duration::DAY);
    let issued = Ca::new("a root").issue(&leaf);
    let own = own(&issued, Role::Server).unwrap();
    // A busy machine may take minutes to get here.
    assert!((-4000..=-3600).contains(&seconds_from_now(own.leaf.not_before)), "{own:?}");
    assert!((86_000..=86_400).contains(&seconds_from_now(own.leaf.not_after)), "{own:?}");
    assert_eq!(own.not_after(UnixTime::now()), own.leaf.not_after);
    assert!(own.serial.len() >= 16 && own.serial.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_eq!(own.names.dns, ["ponger", "ponger.a"]);
    assert_eq!(own.names.uris, ["spiffe://a/b"]);
    assert_eq!((own.names.addresses, own.names.unreadable), (1, 0));
    assert_eq!(own.certified.cert, issued.chain_der());
    assert_eq!(validity(&issued.chain_der()[0]), Some(own.leaf));
    assert_eq!(validity(&CertificateDer::from(vec![1, 2, 3])), None);
}

#[test]
fn equals_another_of_the_same_chain() {
    let ca = Ca::new("a root");
    let (one, two) = (ca.issue(&server()), ca.issue(&server()));
    assert_eq!(own(&one, Role::Server), own(&one, Role::Server));
    assert_ne!(own(&one, Role::Server), own(&two, Role::Server));
}

#[test]
fn debug_output_has_no_key() {
    let own = own(&Ca::new("a root").issue(&server()), Role::Server).unwrap();
    let shown = format!("{own:?}");
    assert!(shown.contains("ponger") && !shown.contains("key"), "{shown}");
}

#[test]
fn requires_both_files() {
    let dir = tempfile::tempdir().unwrap();
    let paths =
        CertKeyPaths { certificate: dir.path().join("tls.crt"), key: dir.path().join("tls.key") };
    let load = || OwnCertificate::load(&paths, Role::Server, UnixTime::now());
    Ca::new("a root").issue(&server()).write(dir.path()).unwrap();
    load().unwrap();
    for path in [&paths.key, &paths.certificate] {
        std::fs::remove_file(path).unwrap();
        let expected = format!(
            "{}: there is no such file; create it, or give the path of another one",
            path.display()
        );
        assert_eq!(load().unwrap_err().to_string(), expected);
        Ca::new("a root").issue(&server()).write(dir.path()).unwrap();
    }
}

#[test]
fn one_file_may_hold_certificate_and_key() {
    let issued = Ca::new("a root").intermediate("between").issue(&server());
    let dir = tempfile::tempdir().unwrap();
    let [file, link] = ["both.pem", "link.pem"].map(|name| dir.path().join(name));
    symlink("both.pem", &link).unwrap();
    for text in
        [format!("{}{}", issued.chain, issued.key), format!("{}{}", issued.key, issued.chain)]
    {
        std::fs::write(&file, &text).unwrap();
        // By whatever path.
        for (certificate, key) in [(&file, &file), (&file, &link), (&link, &file)] {
            let paths = CertKeyPaths { certificate: certificate.clone(), key: key.clone() };
            let own = OwnCertificate::load(&paths, Role::Server, UnixTime::now());
            assert_eq!(own.unwrap().certified.cert.len(), 2);
        }
        // A key beside the certificates is a mistake where it is meant to be elsewhere.
        rejects(
            own_from_pem(&text, &issued.key, Role::Server),
            "tls.crt: it holds a private key, where only certificates belong; ",
            "keep the key in a file of its own",
        );
    }
}

#[test]
fn rejects_swapped_files() {
    let issued = Ca::new("a root").issue(&server());
    rejects(
        own_from_pem(&issued.key, &issued.chain, Role::Server),
        "tls.crt: it holds no certificate, only: PRIVATE KEY; ",
        "check that the certificate's and the key's paths are not swapped",
    );
}

#[test]
fn rejects_key_of_another_certificate() {
    let ca = Ca::new("a root");
    let (one, two) = (ca.issue(&server()), ca.issue(&server()));
    rejects(
        own_from_pem(&one.chain, &two.key, Role::Server),
        "tls.key: it is not the key of the certificate in tls.crt; ",
        "use the key and the certificate that were made together",
    );
}

#[test]
fn rejects_key_that_cannot_be_read() {
    let issued = Ca::new("a root").issue(&server());
    let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    rejects(
        own_from_pem(&issued.chain, key, Role::Server),
        "tls.key: the key cannot be used: ",
        "use an ECDSA key on P-256, P-384 or P-521, an Ed25519 key, or an RSA key of 2048 to 8192 bits",
    );
}

#[test]
fn is_valid_from_its_first_to_its_last_second() {
    let issued = Ca::new("a root").issue(&server().valid(-Duration::MINUTE, Duration::MINUTE));
    let (chain, key) = (issued.chain.as_bytes(), issued.key.as_bytes());
    let valid = validity(&issued.chain_der()[0]).unwrap();
    let load = |time: UnixTime| {
        OwnCertificate::from_pem(&paths(), chain, key, Role::Server, time)
            .map_err(|error| error.to_string())
    };
    let at = |time: UnixTime, offset: i64| {
        from_timestamp(i64::try_from(time.as_secs()).unwrap() + offset)
    };
    load(valid.not_before).unwrap();
    load(valid.not_after).unwrap();
    rejects(
        load(at(valid.not_before, -1)),
        "tls.crt: the certificate is not valid before 2",
        "Z; wait until then, or compare the clocks",
    );
    rejects(load(at(valid.not_after, 1)), "tls.crt: the certificate expired at 2", "Z; renew it");
}

#[test]
fn rejects_certificate_of_a_ca() {
    for issued in [Ca::new("a root").issue(&server().ca_true()), server().ca_true().self_signed()] {
        rejects(
            own(&issued, Role::Server),
            "tls.crt: the certificate says CA:TRUE, so verifiers reject it",
            "unless its configuration has an x509_extensions section)",
        );
    }
}

#[test]
fn server_needs_a_name_that_clients_can_verify() {
    let ca = Ca::new("a root");
    for leaf in [Leaf::new(), Leaf::new().common_name("ponger").uri("spiffe://a/ponger")]
        .into_iter()
        .chain(["", "a b", "*", "*.", "po*ger", "x.*.y", "ponger\0"].map(|n| Leaf::new().dns(n)))
    {
        rejects(
            own(&ca.issue(&leaf), Role::Server),
            "tls.crt: the certificate has no DNS name or IP address that a client could verify \
             (a common name does not count); ",
            "issue it with a subjectAltName, such as DNS:ponger",
        );
    }
    for leaf in [
        Leaf::new().ip([127, 0, 0, 1].into()),
        Leaf::new().dns("*.ponger"),
        Leaf::new().dns("a_b.c"),
        // Which of its two IDs counts is for its peer to decide.
        Leaf::new().dns("ponger").uri("spiffe://a/b").uri("spiffe://a/c"),
    ] {
        own(&ca.issue(&leaf), Role::Server).unwrap();
    }
}

#[test]
fn client_may_have_any_name_or_none() {
    let ca = Ca::new("a root");
    for leaf in [
        Leaf::new().common_name("pinger"),
        Leaf::new().ip([127, 0, 0, 1].into()),
        client().uri("spiffe://a/b"),
        Leaf::new().uri("https://pinger"),
        Leaf::new().dns("pinger"),
        client(),
    ] {
        own(&ca.issue(&leaf), Role::Client).unwrap();
    }
}

#[test]
fn rejects_certificate_for_another_purpose() {
    let root = Ca::new("a root");
    let below = root.intermediate("between");
    for (leaf, role, part, wanted) in [
        (client().dns("pinger"), Role::Server, "server", "serverAuth"),
        (server(), Role::Client, "client", "clientAuth"),
    ] {
        for issued in [root.issue(&leaf), below.issue(&leaf), leaf.self_signed()] {
            rejects(
                own(&issued, role),
                &format!("tls.crt: its extended key usage does not allow it for a {part}; "),
                &format!("issue it with {wanted}"),
            );
        }
    }
    let both = root.issue(&Leaf::new().dns("both"));
    own(&both, Role::Server).unwrap();
    own(&both, Role::Client).unwrap();
}

#[test]
fn may_be_self_signed_with_or_without_a_subject() {
    own(&server().self_signed(), Role::Server).unwrap();
    own(&client().common_name("pinger").self_signed(), Role::Client).unwrap();
}

#[test]
fn may_have_the_subject_of_its_root_or_none() {
    let roots = [
        Ca::new("ponger"),
        Ca::customized("", |params| {
            params.distinguished_name = Default::default();
        }),
    ];
    for root in &roots {
        for leaf in [server(), server().common_name("ponger")] {
            for ca in [root, &root.intermediate("ponger"), &root.intermediate("between")] {
                let issued = ca.issue(&leaf);
                own(&issued, Role::Server).unwrap();
                own_from_pem(&(issued.chain + root.pem()), &issued.key, Role::Server).unwrap();
            }
        }
    }
}

#[test]
fn chain_may_be_long_unordered_and_hold_its_root_twice() {
    let root = Ca::new("a root");
    let below = root.intermediate("upper").intermediate("lower");
    for (leaf, role) in [(server(), Role::Server), (client(), Role::Client)] {
        own(&root.issue(&leaf), role).unwrap();
        let issued = below.issue(&leaf);
        assert_eq!(own(&issued, role).unwrap().certified.cert.len(), 3);
        let chain = format!("{}{}{}", issued.chain, root.pem(), root.pem());
        assert_eq!(own_from_pem(&chain, &issued.key, role).unwrap().certified.cert.len(), 4);
        let parts = split(&issued.chain);
        let unordered = [parts[0], parts[2], parts[1]].concat();
        own_from_pem(&unordered, &issued.key, role).unwrap();
    }
}

#[test]
fn rejects_chain_above_the_limits() {
    let root = Ca::new("a root");
    let mut ca = root.intermediate("0");
    for n in 1..6 {
        ca = ca.intermediate(&n.to_string());
    }
    own(&ca.issue(&server()), Role::Server).unwrap();
    let issued = ca.intermediate("6").issue(&server());
    let end = "at most 6 and 16384 are accepted; leave out what is not needed, such as the root";
    rejects(own(&issued, Role::Server), "tls.crt: it has a chain of 7 intermediates and ", end);
    let namesakes = [(); 3].map(|()| Ca::new("a namesake").pem().to_owned()).concat();
    let issued = root.issue(&server());
    rejects(
        own_from_pem(&(issued.chain + &namesakes), &issued.key, Role::Server),
        "tls.crt: it has a chain of 3 intermediates with the same subject; ",
        "at most 2 are accepted; leave out what is not needed, such as the root",
    );
    let large = (0..700).fold(server(), |leaf, n| leaf.dns(&format!("a-rather-long-name-{n}")));
    rejects(
        own(&root.issue(&large), Role::Server),
        "tls.crt: it has a chain of 0 intermediates and ",
        end,
    );
}

#[test]
fn rejects_chain_that_does_not_begin_with_the_leaf() {
    let issued = Ca::new("a root").intermediate("between").issue(&server());
    let parts = split(&issued.chain);
    rejects(
        own_from_pem(&[parts[1], parts[0]].concat(), &issued.key, Role::Server),
        "tls.crt: the certificate says CA:TRUE",
        "",
    );
}

#[test]
fn rejects_chain_without_the_leafs_issuer() {
    let issued = Ca::new("a root").intermediate("upper").intermediate("lower").issue(&server());
    let parts = split(&issued.chain);
    rejects(
        own_from_pem(&[parts[0], parts[2]].concat(), &issued.key, Role::Server),
        "tls.crt: no certificate after the leaf is its issuer `CN=lower`; the first is `CN=upper`; ",
        "put the leaf first, then each certificate's issuer",
    );
}

#[test]
fn rejects_intermediate_of_the_same_name_and_another_key() {
    let issued = Ca::new("a root").intermediate("between").issue(&server());
    let namesake = Ca::new("a root").intermediate("between");
    rejects(
        own_from_pem(
            &(split(&issued.chain)[0].to_owned() + namesake.pem()),
            &issued.key,
            Role::Server,
        ),
        "tls.crt: the certificate chain cannot be verified: ",
        "the file must hold the leaf first, then the intermediates up to the root",
    );
}

/// Keys decide, not names, and what verification does not need does no harm.
#[test]
fn chain_may_hold_other_cas_of_the_same_names() {
    let issued = Ca::new("a root").intermediate("between").issue(&server());
    let namesakes = [Ca::new("a root").intermediate("between"), Ca::new("a root")];
    let [leaf, between] = split(&issued.chain)[..] else { panic!("two certificates") };
    let [other, root] = namesakes.each_ref().map(Ca::pem);
    for chain in [[leaf, other, between, root], [leaf, root, between, other]] {
        own_from_pem(&chain.concat(), &issued.key, Role::Server).unwrap();
    }
}

#[test]
fn rejects_leaf_whose_issuer_is_not_valid_now() {
    let root = Ca::new("a root");
    let between = "tls.crt: the intermediate `CN=between`";
    for (from, to, start, end) in [
        (-Duration::HOUR, -Duration::SECOND, "expired at 2", "; renew it"),
        (Duration::HOUR, Duration::DAY, "is not valid before 2", "compare the clocks"),
    ] {
        let issued = root.intermediate_valid("between", from, to).issue(&server());
        for chain in [issued.chain.clone(), issued.chain.clone() + root.pem()] {
            rejects(
                own_from_pem(&chain, &issued.key, Role::Server),
                &format!("{between} {start}"),
                end,
            );
        }
    }
}

/// As DST Root X3 expired above a root that had long been trusted by itself.
#[test]
fn expired_certificates_above_the_issuer_do_not_count() {
    let (old, root) = (Ca::new("an old root"), Ca::new("a root"));
    let issued = root.intermediate("between").issue(&server());
    let cross = |to| old.cross_sign(&root, -Duration::HOUR, to);
    let with = |certificate: &str| {
        own_from_pem(&(issued.chain.clone() + certificate), &issued.key, Role::Server).unwrap()
    };
    let expired = with(&cross(-Duration::SECOND));
    assert_eq!(expired.not_after(UnixTime::now()), expired.leaf.not_after);

    // It counts until it expires.
    let soon = cross(Duration::MINUTE * 10);
    let (own, end) = (with(&soon), validity(&der(&soon)[0]).unwrap().not_after);
    assert_eq!(own.not_after(end), end);
    let after = from_timestamp(i64::try_from(end.as_secs()).unwrap() + 1);
    assert_eq!(own.not_after(after), own.leaf.not_after);
}

/// A peer that needs a root has it, in one form or another.
#[test]
fn self_signed_certificates_above_the_leaf_do_not_count() {
    let root = Ca::new("a root");
    let old = |to| root.self_signed_again(-Duration::HOUR, to);
    let junk = Ca::valid("junk", -Duration::HOUR, -Duration::MINUTE);
    for issued in [root.issue(&server()), root.intermediate("between").issue(&server())] {
        for other in [
            old(Duration::MINUTE * 10),
            old(-Duration::SECOND),
            Ca::new("a root").pem().to_owned(),
            Ca::new("of others").pem().to_owned(),
            junk.pem().to_owned(),
        ] {
            let own = own_from_pem(&(issued.chain.clone() + &other), &issued.key, Role::Server);
            let own = own.unwrap();
            assert_eq!(own.not_after(UnixTime::now()), own.leaf.not_after);
        }
    }
}

/// One is enough, valid or not, and in any order.
#[test]
fn expires_with_the_last_of_several_issuers() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let between = one.intermediate("between");
    let issued = between.issue(&server().valid(-Duration::HOUR, Duration::DAY * 2));
    let leaf = split(&issued.chain)[0];
    let cross = |to| two.cross_sign(&between, -Duration::HOUR, to);
    let end = |pem: &str| validity(&der(pem)[0]).unwrap().not_after;
    for short in [cross(Duration::MINUTE * 10), cross(-Duration::SECOND)] {
        for chain in [[leaf, &short, between.pem()], [leaf, between.pem(), &short]] {
            let own = own_from_pem(&chain.concat(), &issued.key, Role::Server).unwrap();
            assert_eq!(own.not_after(UnixTime::now()), end(between.pem()));
            assert_eq!(own.not_after(own.leaf.not_after), end(between.pem()));
        }
    }
}

#[test]
fn expires_with_its_issuer() {
    let below =
        Ca::new("a root").intermediate_valid("between", -Duration::HOUR, Duration::MINUTE * 10);
    let own = own(&below.issue(&server()), Role::Server).unwrap();
    assert_eq!(own.not_after(UnixTime::now()), validity(&der(below.pem())[0]).unwrap().not_after);
}

#[test]
fn rejects_what_is_not_a_certificate() {
    let issued = Ca::new("a root").issue(&server());
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for chain in [garbage.to_owned(), issued.chain.clone() + garbage] {
        rejects(
            own_from_pem(&chain, &issued.key, Role::Server),
            "tls.crt: a certificate in it cannot be read: ",
            "",
        );
    }
}

#[test]
fn rejects_names_and_extensions_that_cannot_be_verified() {
    let uri_constraint = Ca::customized("constrained", |params| {
        params.custom_extensions.push(uri_name_constraint("cluster.local"));
    });
    let mut unknown = CustomExtension::from_oid_content(&[1, 2, 3, 4, 5], vec![5, 0]);
    unknown.set_criticality(true);
    for (issued, cause) in [
        (
            Ca::new("a root").issue(&server().extension(unknown)),
            "has a critical extension that is not supported",
        ),
        (
            with_root(&uri_constraint, &server().uri("spiffe://cluster.local/a")),
            "tls.crt: a certificate in it (`CN=constrained`) has a name constraint on URIs, which cannot be verified here",
        ),
        (
            with_root(&dns_constrained("b.example"), &Leaf::new().dns("a.example")),
            "has a name that its CA may not issue for (nameConstraints)",
        ),
        (
            with_root(
                &Ca::customized("no CA", |params| {
                    params.is_ca = IsCa::ExplicitNoCa;
                }),
                &server(),
            ),
            "`CN=no CA` in it is not the certificate of a CA, so verifiers reject what it issued",
        ),
    ] {
        let message = own(&issued, Role::Server).unwrap_err();
        assert!(message.starts_with("tls.crt: ") && message.contains(cause), "{message}");
    }
    own(&with_root(&dns_constrained("example"), &Leaf::new().dns("a.example")), Role::Server)
        .unwrap();
}

/// The uppermost certificate of a chain is an intermediate, unless it is self-signed: peers, which hold
/// the root, look at it as a whole.
#[test]
fn rejects_uppermost_intermediate_that_verifiers_reject() {
    let usage = |usages: &[ExtendedKeyUsagePurpose]| {
        let usages = usages.to_vec();
        Ca::new("a root").intermediate_customized("between", |params| {
            params.extended_key_usages = usages;
        })
    };
    let policies = || {
        Ca::new("a root").intermediate_customized("between", |params| {
            params.custom_extensions.push(critical_policies());
        })
    };
    let both = Leaf::new().dns("ponger");
    use ExtendedKeyUsagePurpose::{ClientAuth, EmailProtection, ServerAuth};
    let between = "tls.crt: a certificate in it (`CN=between`) has ";
    let kind = "an extended key usage that does not allow it for a";
    for (ca, role, cause) in [
        (usage(&[EmailProtection]), Role::Server, format!("{kind} server's certificate; ")),
        (usage(&[ClientAuth]), Role::Server, format!("{kind} server's certificate; ")),
        (usage(&[ServerAuth]), Role::Client, format!("{kind} client's certificate; ")),
        (
            policies(),
            Role::Client,
            "a critical extension that is not supported (2.5.29.32); ".to_owned(),
        ),
    ] {
        rejects(own(&ca.issue(&both), role), &(between.to_owned() + &cause), "that extension");
        let below = ca.intermediate("below");
        rejects(own(&below.issue(&both), role), &(between.to_owned() + &cause), "that extension");
    }
    own(&usage(&[ServerAuth, ClientAuth]).issue(&both), Role::Server).unwrap();
    // A root is trusted as it is.
    let root = Ca::customized("a root", |params| {
        params.extended_key_usages = vec![EmailProtection];
        params.custom_extensions.push(critical_policies());
    });
    own(&with_root(&root, &both), Role::Server).unwrap();
}

fn critical_policies() -> CustomExtension {
    // One policy, 1.2.3.
    let mut policies =
        CustomExtension::from_oid_content(&[2, 5, 29, 32], vec![0x30, 6, 0x30, 4, 6, 2, 0x2a, 3]);
    policies.set_criticality(true);
    policies
}

fn with_root(root: &Ca, leaf: &Leaf) -> Issued {
    let issued = root.issue(leaf);
    Issued { chain: issued.chain + root.pem(), key: issued.key }
}

#[test]
fn rejects_intermediate_that_is_signed_with_sha_1() {
    if !is_installed("openssl") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let config = "[req]\ndistinguished_name = dn\n[dn]\n[ca]\nbasicConstraints = CA:TRUE\n[leaf]\nsubjectAltName = DNS:ponger\n";
    std::fs::write(dir.path().join("conf"), config).unwrap();
    let new = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -config conf";
    for command in [
        format!("req -x509 {new} -days 1 -extensions ca -subj /CN=root -keyout root.key -out root.crt"),
        format!("req -new {new} -subj /CN=between -keyout between.key -out between.csr"),
        "x509 -req -sha1 -days 1 -in between.csr -CA root.crt -CAkey root.key -CAcreateserial -extfile conf -extensions ca -out between.crt".to_owned(),
        format!("req -new {new} -subj /CN=ponger -keyout tls.key -out tls.csr"),
        "x509 -req -days 1 -in tls.csr -CA between.crt -CAkey between.key -CAcreateserial -extfile conf -extensions leaf -out tls.crt".to_owned(),
    ] {
        openssl(dir.path(), &command.split(' ').collect::<Vec<_>>()).unwrap();
    }
    let read = |name| std::fs::read_to_string(dir.path().join(name)).unwrap();
    rejects(
        own_from_pem(&(read("tls.crt") + &read("between.crt")), &read("tls.key"), Role::Server),
        "tls.crt: a certificate in it (`CN=between`) is signed by an algorithm that is not accepted, such as SHA-1; ",
        "reissue it with SHA-256 or better",
    );
}

#[test]
fn accepts_every_kind_of_key_that_openssl_makes() {
    if !is_installed("openssl") {
        return;
    }
    for arguments in [
        &["-newkey", "rsa:2048"][..],
        &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
        &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"],
        &["-newkey", "ed25519"],
    ] {
        let dir = tempfile::tempdir().unwrap();
        let own = own(&openssl_certificate(dir.path(), arguments), Role::Server);
        assert_eq!(own.expect("a usable key").names.dns, ["ponger"], "{arguments:?}");
    }
}

#[test]
fn rejects_old_keys_signatures_and_versions() {
    if !is_installed("openssl") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let explicit = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -pkeyopt ec_param_enc:explicit";
    for (arguments, cause) in [
        (
            "-newkey rsa:1024",
            "(`CN=ponger`) has a key that is not supported; use an ECDSA key on P-256, P-384 ",
        ),
        (
            "-newkey ec -pkeyopt ec_paramgen_curve:secp256k1",
            "(`CN=ponger`) has a key that is not supported; use an ECDSA key on P-256, P-384 ",
        ),
        ("-newkey ed448", "(`CN=ponger`) has a key that is not supported; "),
        (
            "-newkey rsa:2048 -sha1",
            "the certificate chain cannot be verified: the certificate is signed by an algorithm that is not accepted, such as SHA-1",
        ),
        (
            explicit,
            "(`CN=ponger`) has an EC key with explicit parameters, which is not supported; ",
        ),
    ] {
        let arguments: Vec<_> = arguments.split(' ').collect();
        let message = own(&openssl_certificate(dir.path(), &arguments), Role::Server).unwrap_err();
        assert!(message.starts_with("tls.") && message.contains(cause), "{message}");
    }
    if let Some(issued) = version_1_certificate(dir.path()) {
        rejects(own(&issued, Role::Server), "tls.crt: the certificate has no DNS name", "");
    }
}
