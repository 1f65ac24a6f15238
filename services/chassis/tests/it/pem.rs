//! PEM files, and what is wrong with them.

use std::fs;

use chassis::tls::pem::{certificates, parse_certificates, parse_private_key, private_key};
use proptest::{prop_assert, prop_assert_eq, prop_assert_ne, proptest, sample::Index};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use testkit::{Ca, Leaf};

use crate::support::{Folder, nowhere, openssl, without_root};

fn bundle(of: usize) -> String {
    (0..of).map(|n| Ca::new(&format!("root {n}")).pem().to_owned()).collect()
}

fn key() -> String {
    Leaf::new().self_signed().key
}

#[track_caller]
fn no_certificates(contents: impl AsRef<[u8]>, message: &str) {
    let error = parse_certificates(nowhere(), contents.as_ref()).expect_err("not certificates");
    assert_eq!(error.to_string(), format!("file.pem: {message}"));
}

#[track_caller]
fn no_key(contents: impl AsRef<[u8]>, message: &str) {
    let error = parse_private_key(nowhere(), contents.as_ref()).expect_err("not a key");
    assert_eq!(error.to_string(), format!("file.pem: {message}"));
}

const DAMAGED: &str = "; write it again, and replace it whole (write a new file, then rename it)";

#[track_caller]
fn damaged(contents: impl AsRef<[u8]>) {
    let contents = contents.as_ref();
    let text = String::from_utf8_lossy(contents);
    for error in [
        parse_certificates(nowhere(), contents).expect_err(&text),
        parse_private_key(nowhere(), contents).expect_err(&text),
    ] {
        let message = error.to_string();
        assert!(
            message.starts_with("file.pem: it is cut short or damaged (")
                && message.ends_with(DAMAGED),
            "{message}"
        );
    }
}

#[test]
fn certificates_come_in_the_order_of_the_file() {
    let text = bundle(3);
    let expected: Vec<_> =
        CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>().expect("PEM");
    assert_eq!(parse_certificates(nowhere(), text.as_bytes()), Ok(expected));
}

#[test]
fn text_between_sections_is_passed_over() {
    let (one, two) = (bundle(1), bundle(1));
    let text = format!("# The first\n - of two\n{one}\r\n\nsubject=CN = b\n{two}\n  \n# - -\n");
    assert_eq!(parse_certificates(nowhere(), text.as_bytes()).map(|found| found.len()), Ok(2));
}

#[test]
fn windows_line_ends_and_trailing_blanks_do_no_harm() {
    let text = bundle(2);
    let expected = parse_certificates(nowhere(), text.as_bytes()).expect("good");
    for end in ["\r\n", " \n", "  \r\n"] {
        let text = text.replace('\n', end);
        assert_eq!(parse_certificates(nowhere(), text.as_bytes()).as_ref(), Ok(&expected));
    }
    assert_eq!(parse_certificates(nowhere(), text.trim_end().as_bytes()), Ok(expected));
}

#[test]
fn keys_of_each_encoding_are_read() {
    let folder = Folder::new();
    let pkcs8 = key();
    assert!(matches!(parse_private_key(nowhere(), pkcs8.as_bytes()), Ok(PrivateKeyDer::Pkcs8(_))));
    let test = "pem::keys_of_each_encoding_are_read";
    let rsa = ["genrsa", "-traditional", "-out", "rsa.key", "2048"];
    if openssl(test, &folder, &rsa) {
        assert!(matches!(private_key(&folder.path("rsa.key")), Ok(PrivateKeyDer::Pkcs1(_))));
    }
    // It writes EC PARAMETERS before the key.
    let ec = ["ecparam", "-name", "prime256v1", "-genkey", "-out", "ec.key"];
    if openssl(test, &folder, &ec) {
        let text = fs::read_to_string(folder.path("ec.key")).expect("a file");
        assert!(text.contains("EC PARAMETERS"));
        assert!(matches!(private_key(&folder.path("ec.key")), Ok(PrivateKeyDer::Sec1(_))));
    }
}

#[test]
fn no_file_and_what_is_none_are_refused() {
    let folder = Folder::new();
    fs::create_dir(folder.path("folder")).expect("a folder");
    rustix::fs::mkfifoat(rustix::fs::CWD, folder.path("pipe"), rustix::fs::Mode::RWXU)
        .expect("a pipe");
    for (name, message) in [
        (
            "nothing",
            "nothing: there is no such file; put it there, or name another in the configuration",
        ),
        ("folder", "folder: it is a folder; put it there, or name another in the configuration"),
        (
            "pipe",
            "pipe: it is not a regular file; put it there, or name another in the configuration",
        ),
    ] {
        let error = certificates(&folder.path(name)).expect_err(name);
        assert_eq!(folder.message(&error), message);
        let error = private_key(&folder.path(name)).expect_err(name);
        assert_eq!(folder.message(&error), message);
    }
}

#[test]
fn a_file_that_may_not_be_read_is_refused() {
    without_root("pem::a_file_that_may_not_be_read_is_refused", || {
        let folder = Folder::new();
        let path = folder.write("tls.key", key());
        rustix::fs::chmod(&path, rustix::fs::Mode::empty()).expect("a mode");
        let uid = rustix::process::geteuid().as_raw();
        let error = private_key(&path).expect_err("unreadable");
        assert_eq!(
            folder.message(&error),
            format!(
                "tls.key: permission denied; let the user this service runs as (uid {uid}) read it"
            )
        );
    });
}

#[test]
fn a_very_large_file_is_refused_and_a_large_one_is_not() {
    let folder = Folder::new();
    let text = bundle(1);
    let largest = 1 << 20;
    let path = folder.write("roots", text.clone() + &"\n".repeat(largest - text.len()));
    assert_eq!(certificates(&path).map(|found| found.len()), Ok(1));
    folder.write("roots", text.clone() + &"\n".repeat(largest + 1 - text.len()));
    assert_eq!(
        folder.message(&certificates(&path).expect_err("too large")),
        "roots: it is larger than 1048576 bytes; this is not the file that is meant"
    );
}

#[test]
fn a_file_without_pem_is_refused() {
    no_certificates("", "it is empty; it must hold a certificate as PEM");
    no_key("", "it is empty; it must hold a private key as PEM");
    for text in ["\n", "hello", "# CERTIFICATE\n"] {
        no_certificates(text, "it holds no certificate: it is not PEM");
        no_key(text, "it holds no private key: it is not PEM");
    }
}

#[test]
fn a_byte_order_mark_is_recognised() {
    let message = "it begins with a byte order mark; save it as UTF-8 without one";
    no_certificates(format!("\u{feff}{}", bundle(1)), message);
    no_key(format!("\u{feff}{}", key()), message);
}

#[test]
fn der_instead_of_pem_is_recognised() {
    let der = CertificateDer::from_pem_slice(bundle(1).as_bytes()).expect("PEM");
    let cure = "; convert it with `openssl x509 -inform der` or `openssl pkey -inform der`";
    no_certificates(&der, &format!("it holds no certificate as PEM: it looks like DER{cure}"));
    no_key(&der, &format!("it holds no private key as PEM: it looks like DER{cure}"));
}

#[test]
fn a_key_among_certificates_is_refused() {
    let message =
        "it holds a private key, where only certificates belong; keep the key in a file of its own";
    no_certificates(bundle(1) + &key(), message);
    no_certificates(key() + &bundle(1), message);
    no_certificates(key(), message);
}

#[test]
fn certificates_instead_of_a_key_are_refused() {
    no_key(
        bundle(2),
        "it holds no private key, only: CERTIFICATE, CERTIFICATE; were the certificate's and the key's file confused?",
    );
}

#[test]
fn two_keys_are_refused() {
    no_key(
        key() + &key(),
        "it holds more than one private key; leave only the one that belongs to the certificate",
    );
}

#[test]
fn other_sections_are_named() {
    let text = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
    no_certificates(
        text,
        "it holds no certificate, only: PUBLIC KEY; were the certificate's and the key's file confused?",
    );
}

const ENCRYPTED: &str = "its private key is encrypted; decrypt it (`openssl pkey -in FILE -out NEW`): no one is there to type a password";

#[test]
fn an_encrypted_key_is_recognised() {
    no_key(key().replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"), ENCRYPTED);
}

#[test]
fn a_key_that_is_encrypted_in_the_old_way_is_recognised() {
    no_key(
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\
         DEK-Info: AES-256-CBC,A1B2C3D4A1B2C3D4A1B2C3D4A1B2C3D4\n\nQUFBQQ==\n\
         -----END RSA PRIVATE KEY-----\n",
        ENCRYPTED,
    );
}

#[test]
fn a_file_that_was_cut_is_refused_wherever_that_was() {
    let text = bundle(1) + &bundle(1);
    let second = text.rfind("-----BEGIN").expect("a second one");
    let end = text.rfind("-----END").expect("an end");
    for (cut, place) in [
        (second + 2, "in the dashes before BEGIN"),
        (second + 7, "in the word BEGIN"),
        (second + 15, "in the label"),
        (second + 25, "in the dashes after the label"),
        (second + 28, "after the first line"),
        (second + 60, "in the body"),
        (end, "before the last line"),
        (end + 3, "in the dashes before END"),
        (end + 7, "in the word END"),
        (end + 12, "in the last label"),
        (end + 22, "in the last dashes"),
    ] {
        println!("{place}: {:?}", &text[second..cut]);
        damaged(&text[..cut]);
    }
}

#[test]
fn a_file_that_was_cut_after_one_dash_is_refused() {
    let text = bundle(1);
    damaged(text.clone() + "-");
    damaged(text + "\n-\n");
}

#[test]
fn a_file_whose_sections_do_not_fit_is_refused() {
    let (one, key) = (bundle(1), key());
    let begin = "-----BEGIN CERTIFICATE-----\n";
    let end = "-----END CERTIFICATE-----\n";
    let body = &one[begin.len()..one.len() - end.len()];
    for text in [
        format!("{begin}{body}"),
        format!("{body}{end}"),
        format!("{begin}{begin}{body}{end}"),
        format!("{begin}{body}{end}{end}"),
        format!("{begin}{body}-----END PRIVATE KEY-----\n"),
        format!("{begin}{body}----END CERTIFICATE----\n"),
        format!("{begin}{body}{key}"),
        // Put together without a line end between them.
        format!("{}{one}", one.trim_end()),
        format!("{begin}!{body}{end}"),
        format!("{begin}{body}A{end}"),
    ] {
        damaged(text);
    }
}

#[test]
fn the_line_where_sections_do_not_fit_is_named() {
    no_certificates(
        bundle(1) + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END X509 CRL-----\n",
        &format!(
            "it is cut short or damaged (line {}: no whole edge of a section){DAMAGED}",
            bundle(1).lines().count() + 3
        ),
    );
}

#[test]
fn an_indented_section_is_refused_and_not_passed_over() {
    let (one, two) = (bundle(1), bundle(1));
    for indented in [format!(" {two}"), two.replace('\n', "\n  ")] {
        damaged(format!("{one}{indented}\n"));
    }
    let indented: String = two.lines().map(|line| format!("    {line}\n")).collect();
    damaged(format!("{one}{indented}"));
    damaged(indented);
}

#[test]
fn certificates_in_a_dress_that_is_not_read_are_refused() {
    let (one, two) = (bundle(1), bundle(1));
    for label in ["TRUSTED CERTIFICATE", "X509 CERTIFICATE", "PKCS7"] {
        no_certificates(
            one.clone() + &two.replace("CERTIFICATE", label),
            &format!(
                "it holds a section `{label}`, which is not read; convert it to CERTIFICATE (`openssl x509`, or `openssl pkcs7 -print_certs`)"
            ),
        );
    }
}

proptest! {
    #![proptest_config(crate::support::bounded(256))]

    /// Whoever sees the first bytes of a good bundle sees it whole, sees whole certificates of it,
    /// or is told.
    #[test]
    fn a_cut_bundle_is_whole_certificates_or_refused(at: Index) {
        let text = bundle(3);
        let whole = parse_certificates(nowhere(), text.as_bytes()).expect("good");
        let cut = &text[..at.index(text.len())];
        if let Ok(found) = parse_certificates(nowhere(), cut.as_bytes()) {
            prop_assert!(cut.trim_end().ends_with("-----END CERTIFICATE-----"));
            prop_assert_eq!(cut.matches("-----END").count(), found.len());
            prop_assert_eq!(&whole[..found.len()], &found[..]);
        }
    }

    /// What lacks a piece in its middle does not pass for what it was.
    #[test]
    fn a_bundle_with_a_hole_is_never_the_whole(from: Index, to: Index) {
        let text = bundle(2);
        let whole = parse_certificates(nowhere(), text.as_bytes()).expect("good");
        let (from, to) = (from.index(text.len()), to.index(text.len()));
        let (from, to) = (from.min(to), from.max(to));
        let hole = &text[from..to];
        if !hole.trim().is_empty() {
            let text = text[..from].to_owned() + &text[to..];
            prop_assert_ne!(parse_certificates(nowhere(), text.as_bytes()), Ok(whole));
        }
    }

    #[test]
    fn a_cut_key_is_refused(at: Index) {
        let text = key();
        let cut = &text[..at.index(text.trim_end().len())];
        prop_assert!(parse_private_key(nowhere(), cut.as_bytes()).is_err());
    }
}

/// The commonest slips with keys that came through a variable or a template.
#[test]
fn no_message_about_a_damaged_key_shows_any_of_it() {
    let key = key();
    let secret: String = key.lines().filter(|line| !line.starts_with("--")).collect();
    let (half, _) = key.split_at(key.len() / 2);
    for damaged in [
        key.replace('\n', " "),
        key.replace('\n', " ").trim_end().to_owned(),
        key.replace('\n', "\\n"),
        key.replace('\n', ""),
        key.replacen('\n', "", 1),
        key.replacen("-----\n", "----- ", 1),
        key.replace("-----END", "\n--END"),
        key.replacen("KEY-----", "KEY", 1),
        format!("{half}-----END PRIVATE KEY-----"),
        format!("--{key}"),
        key.replacen('\n', "\n--", 1),
        key.replacen('\n', "\n!", 1),
        key.to_lowercase(),
    ] {
        for error in [
            parse_private_key(nowhere(), damaged.as_bytes()).expect_err(&damaged).to_string(),
            parse_certificates(nowhere(), damaged.as_bytes()).expect_err(&damaged).to_string(),
        ] {
            for window in secret.as_bytes().windows(6) {
                let part = std::str::from_utf8(window).expect("base64");
                assert!(!error.contains(part) && !error.contains(&part.to_lowercase()), "{error}");
            }
        }
    }
}
