//! The trust bundle.

use std::{ffi::OsStr, fs, os::unix::fs::symlink, path::PathBuf, time::Duration as StdDuration};

use chassis::{
    failure::FailureReason,
    tls::{
        clock::{FOREVER, add},
        trust::{TrustBundle, TrustSource},
        x509::validity,
    },
};
use rustix::fs::{CWD, Mode, mkfifoat};
use rustls::pki_types::UnixTime;
use testkit::{
    Ca, Leaf,
    pki::rcgen::{DistinguishedName, GeneralSubtree, IsCa, NameConstraints, SanType},
    process::is_installed,
};
use time::Duration;

use crate::support::{
    bundle, client_of, der, dns_constrained, openssl_certificate, rejection, run_in_own_process,
    uri_name_constraint, version_1_certificate,
};

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

/// Keys decide, not names.
#[test]
fn rejects_leaf_that_has_the_subject_of_its_root() {
    let nameless = Ca::customized("", |params| params.distinguished_name = Default::default());
    for (ca, leaf, subject) in
        [(&valid(), Leaf::new().common_name("valid"), "CN=valid"), (&nameless, Leaf::new(), "")]
    {
        let leaf = ca.issue(&leaf.dns("ponger"));
        rejects(
            &(valid().pem().to_owned() + &leaf.chain),
            &format!("ca.crt: `{subject}` in it is not a root: its own key did not sign it, or "),
            "put the certificate of the root that issued it",
        );
    }
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

/// What is wrong with the roots that the system has now, or how many there are.
fn native() -> String {
    match TrustBundle::load(&TrustSource::Native, UnixTime::now()) {
        Ok(Some(roots)) => format!("{} roots", roots.active_count(UnixTime::now())),
        Ok(None) => "no bundle".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// Otherwise every handshake would fail, with a reason that blames the leaf.
#[test]
fn rejects_root_that_verifies_nothing() {
    for is_permitted in [true, false] {
        let constrained = Ca::customized("constrained", |params| {
            let subtrees = vec![GeneralSubtree::DirectoryName(DistinguishedName::new())];
            let (permitted_subtrees, excluded_subtrees) =
                if is_permitted { (subtrees, Vec::new()) } else { (Vec::new(), subtrees) };
            params.name_constraints =
                Some(NameConstraints { permitted_subtrees, excluded_subtrees });
        });
        rejects(
            constrained.pem(),
            "ca.crt: a root in it (`CN=constrained`) has a name constraint on directory names, ",
            "reissue it with constraints on DNS names only",
        );
    }
    if !is_installed("openssl") {
        return;
    }
    for arguments in [
        "-newkey rsa:1024",
        "-newkey rsa-pss -pkeyopt rsa_keygen_bits:2048",
        "-newkey ec -pkeyopt ec_paramgen_curve:secp256k1",
        "-newkey ec -pkeyopt ec_paramgen_curve:brainpoolP256r1",
        "-newkey ed448",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let root = openssl_certificate(dir.path(), &Vec::from_iter(arguments.split(' ')));
        // A CA's or not, which the fault comes before.
        rejects(
            &root.chain,
            "ca.crt: a root in it (`CN=ponger`) has a key that is not supported; use an ECDSA key",
            "",
        );
    }
}

#[test]
fn reads_the_roots_of_the_system_where_there_are_some() {
    let found = native();
    // As in Nix' sandbox, where SSL_CERT_FILE names a file that is missing.
    let names_variable = found.contains("SSL_CERT_");
    assert!(
        found.ends_with(" roots")
            || found.contains("install the package ca-certificates")
            || names_variable,
        "{found}"
    );
}

/// The variables are those of a process of its own.
#[test]
fn native_roots_are_checked_as_a_bundle_is_and_faults_name_variable_and_path() {
    const EXPECTED: &str = "CHASSIS_TEST_EXPECTED";
    if let Some(expected) = std::env::var_os(EXPECTED) {
        let (found, expected) = (native(), expected.into_string().unwrap());
        return assert!(found.contains(&expected), "{found}\nand not\n{expected}");
    }
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let write = |name: &str, text: &str| fs::write(dir.join(name), text).unwrap();
    let (root, other) = (valid(), valid());
    let leaf = root.issue(&Leaf::new().common_name("pinger").dns("pinger"));
    let constrained = Ca::customized("constrained", |params| {
        params.custom_extensions.push(uri_name_constraint("cluster.local"));
    });
    write("two", &[root.pem(), other.pem(), root.pem()].concat());
    write("cut", &root.pem()[..100]);
    write("odd", &root.pem().replace('\n', "\n!"));
    write("no-der", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    write("empty", "");
    write("expired", expired().pem());
    write("leaf", &leaf.chain);
    write("constrained", constrained.pem());
    mkfifoat(CWD, dir.join("pipe"), Mode::RWXU).unwrap();
    for name in ["good", "bad", "none", "with-pipe"] {
        fs::create_dir_all(dir.join(name).join("a directory")).unwrap();
        write(&format!("{name}/notes"), "which roots these are");
        write(
            &format!("{name}/list.r0"),
            "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
        );
        symlink("nowhere", dir.join(name).join("link")).unwrap();
    }
    write("good/one", root.pem());
    symlink("one", dir.join("good/00000000.0")).unwrap();
    write("good/two", other.pem());
    write("bad/leaf", &leaf.chain);
    mkfifoat(CWD, dir.join("with-pipe/pipe"), Mode::RWXU).unwrap();
    let (file, directory) = ("SSL_CERT_FILE", "SSL_CERT_DIR");
    let issued = "`CN=pinger` in it is not a root: it was issued by `CN=valid`; put the certificate of the root that issued it";
    for (variable, name, fault, cause) in [
        (file, "two", "", "2 roots"),
        (file, "missing", "missing", "there is no such file; create it, "),
        (file, "good", "good", "it is a directory"),
        (file, "pipe", "pipe", "it is not a regular file"),
        (file, "empty", "empty", "it is empty; it must hold a certificate as PEM"),
        (file, "cut", "cut", "it is cut short or damaged (`CERTIFICATE` has no end); "),
        (file, "odd", "odd", "it is cut short or damaged ("),
        (file, "no-der", "no-der", "a certificate in it cannot be read: "),
        (file, "leaf", "leaf", issued),
        (file, "constrained", "constrained", "a root in it (`CN=constrained`) has a name "),
        (directory, "good", "", "2 roots"),
        (directory, "bad", "bad/leaf", issued),
        (directory, "with-pipe", "with-pipe/pipe", "it is not a regular file"),
        (directory, "missing", "missing/", "there is no such file; "),
        (directory, "two", "two/", "Not a directory"),
    ] {
        let fault = format!("{} (environment variable {variable}): ", dir.join(fault).display());
        let message = if cause.ends_with("roots") { String::new() } else { fault } + cause;
        run_for_native_roots(EXPECTED, &message, &[(variable, dir.join(name))]);
    }
    for variable in [file, directory] {
        let message = format!("environment variable {variable}: it is empty; correct it, or unset");
        run_for_native_roots(EXPECTED, &message, &[(variable, PathBuf::new())]);
    }
    run_for_native_roots(
        EXPECTED,
        "environment variable SSL_CERT_DIR: no file in the directories that it names holds a certificate; correct it, or unset it",
        &[(directory, dir.join("none"))],
    );
    run_for_native_roots(
        EXPECTED,
        "the system's trust roots: every root in it has expired, the last at 2",
        &[(file, dir.join("expired"))],
    );
    run_for_native_roots(
        EXPECTED,
        "2 roots",
        &[(file, dir.join("two")), (directory, dir.join("good"))],
    );
}

fn run_for_native_roots(expected: &str, message: &str, variables: &[(&str, PathBuf)]) {
    let name = "trust::native_roots_are_checked_as_a_bundle_is_and_faults_name_variable_and_path";
    let variables = variables.iter().map(|(name, path)| (*name, path.as_os_str()));
    let all = Vec::from_iter(variables.chain([(expected, OsStr::new(message))]));
    run_in_own_process(name, &all);
}

/// A self-signed certificate of no CA is trusted for itself, wherever it stands.
#[test]
fn self_signed_leaf_among_the_native_roots_issues_nothing() {
    const DIR: &str = "CHASSIS_TEST_SELF_SIGNED";
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else {
        let dir = tempfile::tempdir().unwrap();
        let pinned = Ca::customized("pinned", |params| {
            params.is_ca = IsCa::ExplicitNoCa;
            params.subject_alt_names = vec![SanType::DnsName("ponger".try_into().unwrap())];
        });
        fs::write(dir.path().join("pinned"), pinned.pem()).unwrap();
        fs::write(dir.path().join("issued"), pinned.issue(&Leaf::ponger("a")).chain).unwrap();
        return run_in_own_process(
            "trust::self_signed_leaf_among_the_native_roots_issues_nothing",
            &[
                (DIR, dir.path().as_os_str()),
                ("SSL_CERT_FILE", dir.path().join("pinned").as_os_str()),
            ],
        );
    };
    let roots = TrustBundle::load(&TrustSource::Native, UnixTime::now()).unwrap().unwrap();
    let client = client_of(&roots, "ponger");
    let chain = |name| der(&fs::read_to_string(dir.join(name)).unwrap());
    assert_eq!(rejection(&client, &chain("pinned")), None);
    assert_eq!(rejection(&client, &chain("issued")), Some(FailureReason::TlsUntrusted));
}
