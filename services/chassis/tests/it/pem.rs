//! PEM files, and what is wrong with them.

use std::path::Path;

use chassis::tls::pem::{certificates, private_key};
use proptest::{prop_assert, prop_assert_eq, prop_assert_ne, proptest, sample::Index};
use rustls::pki_types::PrivateKeyDer;
use testkit::{
    Ca, Leaf,
    process::{is_installed, openssl},
};

use crate::support::der;

fn file() -> &'static Path {
    Path::new("file.pem")
}

fn bundle(of: usize) -> String {
    (0..of).map(|n| Ca::new(&format!("root {n}")).pem().to_owned()).collect()
}

fn key() -> String {
    Leaf::new().self_signed().key
}

#[track_caller]
fn no_certificates(contents: impl AsRef<[u8]>, message: &str) {
    let error = certificates(file(), contents.as_ref()).expect_err("no certificates");
    assert_eq!(error.to_string(), format!("file.pem: {message}"));
}

#[track_caller]
fn no_key(contents: impl AsRef<[u8]>, message: &str) {
    let error = private_key(file(), contents.as_ref()).expect_err("no key");
    assert_eq!(error.to_string(), format!("file.pem: {message}"));
}

const DAMAGED: &str =
    "; write it again, and replace it as a whole (write a new file, then rename it)";

#[track_caller]
fn damaged(contents: impl AsRef<[u8]>) {
    let contents = contents.as_ref();
    let text = String::from_utf8_lossy(contents);
    for error in [
        certificates(file(), contents).expect_err(&text),
        private_key(file(), contents).expect_err(&text),
    ] {
        let message = error.to_string();
        assert!(message.starts_with("file.pem: it is cut short or damaged ("), "{message}");
        assert!(message.ends_with(DAMAGED), "{message}");
    }
}

#[test]
fn reads_certificates_in_the_order_of_the_file_and_each_once() {
    let text = bundle(3);
    assert_eq!(certificates(file(), text.as_bytes()), Ok(der(&text)));
    assert_eq!(certificates(file(), (text.clone() + &text).as_bytes()), Ok(der(&text)));
}

/// RFC 7468, section 2: parsers ignore text before, between and after sections.
#[test]
fn ignores_explanatory_text_of_any_shape() {
    let (one, two) = (bundle(1), bundle(1));
    let expected = Ok(der(&(one.clone() + &two)));
    for text in [
        "# The first\n - of two\n",
        "subject=CN = a\nissuer=CN = b\n---\n",
        "-----\n",
        "--- a title ---\n",
        "- one\n-- two\n",
        "-----CERTIFICATE-----\n",
        "Bag Attributes\n    localKeyID: 01 00 00 00\nKey Attributes: <No Attributes>\n",
        "    Signature Value:\n        30:45:02:21:00\n",
        "\u{e9}\u{1f512}\n\n\n",
        "-----BEGIN of the list of CAs\n",
        "-----BEGIN CERTIFICATES of two CAs\n",
        "-----END OF NOTES-----\n-----BEGIN NOTES-----\n-----BEGINNING\n",
        // Other sections, with labels of any characters that RFC 7468 allows.
        "-----BEGIN X9.42 DH PARAMETERS-----\nMIIB\n-----END X9.42 DH PARAMETERS-----\n",
        "-----BEGIN PKCS #7 SIGNED DATA-----\nMIIB\n-----END PKCS #7 SIGNED DATA-----\n",
        "-----BEGIN Certificate-info-----\nMIIB\n-----END Certificate-info-----\n",
        "-----BEGIN X509 CRL-----\n!\n-----END X509 CRL-----\n",
        "-----BEGIN PGP SIGNATURE-----\n\niQEz=\n=abcd\n-----END PGP SIGNATURE-----\n",
        "  \r\n\t\r\n",
    ] {
        let whole = format!("{text}{one}{text}{two}{text}");
        assert_eq!(certificates(file(), whole.as_bytes()), expected, "{text:?}");
        let key = key();
        private_key(file(), format!("{text}{key}{text}").as_bytes()).expect(text);
    }
}

#[test]
fn accepts_byte_order_mark_line_endings_and_missing_last_line_ending() {
    let text = bundle(2);
    let expected = Ok(der(&text));
    for end in ["\r\n", " \n", "  \r\n"] {
        assert_eq!(certificates(file(), text.replace('\n', end).as_bytes()), expected, "{end:?}");
    }
    assert_eq!(certificates(file(), text.trim_end().as_bytes()), expected);
    assert_eq!(certificates(file(), format!("\u{feff}{text}").as_bytes()), expected);
}

#[test]
fn reads_keys_of_each_encoding() {
    assert!(matches!(private_key(file(), key().as_bytes()), Ok(PrivateKeyDer::Pkcs8(_))));
    if !is_installed("openssl") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let read = |name: &str| {
        let text = std::fs::read_to_string(dir.path().join(name)).unwrap();
        (private_key(file(), text.as_bytes()), text)
    };
    openssl(dir.path(), &["genrsa", "-traditional", "-out", "rsa.key", "2048"]).unwrap();
    assert!(matches!(read("rsa.key").0, Ok(PrivateKeyDer::Pkcs1(_))));
    // It writes EC PARAMETERS before the key.
    let ec = ["ecparam", "-name", "prime256v1", "-genkey", "-out", "ec.key"];
    openssl(dir.path(), &ec).unwrap();
    let (key, text) = read("ec.key");
    assert!(text.contains("EC PARAMETERS") && matches!(key, Ok(PrivateKeyDer::Sec1(_))));
}

#[test]
fn rejects_file_without_pem() {
    no_certificates("", "it is empty; it must hold a certificate as PEM");
    no_key("", "it is empty; it must hold a private key as PEM");
    for text in ["\n", "hello", "# CERTIFICATE\n"] {
        no_certificates(text, "it holds no certificate: it is not PEM");
        no_key(text, "it holds no private key: it is not PEM");
    }
    let binary = &der(&bundle(1))[0];
    let hint = "; convert it with `openssl x509 -inform der` or `openssl pkey -inform der`";
    no_certificates(binary, &format!("it holds no certificate as PEM: it looks like DER{hint}"));
    no_key(binary, &format!("it holds no private key as PEM: it looks like DER{hint}"));
}

#[test]
fn rejects_file_of_another_kind() {
    let among =
        "it holds a private key, where only certificates belong; keep the key in a file of its own";
    no_certificates(bundle(1) + &key(), among);
    no_certificates(key() + &bundle(1), among);
    let swapped = "; check that the certificate's and the key's paths are not swapped";
    no_certificates(key(), &format!("it holds no certificate, only: PRIVATE KEY{swapped}"));
    let certificates = "it holds no private key, only: CERTIFICATE, CERTIFICATE";
    no_key(bundle(2), &format!("{certificates}{swapped}"));
    let public = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
    no_certificates(public, &format!("it holds no certificate, only: PUBLIC KEY{swapped}"));
    let two =
        "it holds more than one private key; leave only the one that belongs to the certificate";
    no_key(key() + &key(), two);
    for label in ["TRUSTED CERTIFICATE", "X509 CERTIFICATE", "PKCS7"] {
        no_certificates(
            bundle(1) + &bundle(1).replace("CERTIFICATE", label),
            &format!(
                "it holds a section `{label}`, which is not supported; convert it to CERTIFICATE (`openssl x509`, or `openssl pkcs7 -print_certs`)"
            ),
        );
    }
}

#[test]
fn rejects_encrypted_key() {
    let message = "its private key is encrypted; decrypt it (`openssl pkey -in FILE -out NEW`): a service cannot ask for a passphrase";
    no_key(key().replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"), message);
    no_key(
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\
         DEK-Info: AES-256-CBC,A1B2C3D4A1B2C3D4A1B2C3D4A1B2C3D4\n\nQUFBQQ==\n\
         -----END RSA PRIVATE KEY-----\n",
        message,
    );
}

#[test]
fn rejects_file_that_was_cut_wherever_it_was() {
    let text = bundle(2);
    let second = text.rfind("-----BEGIN").unwrap();
    let end = text.rfind("-----END").unwrap();
    for cut in [
        second + 1,
        second + 2,
        second + 7,
        second + 15,
        second + 25,
        second + 28,
        second + 60,
        end,
        end + 3,
        end + 7,
        end + 12,
        end + 22,
    ] {
        println!("{:?}", &text[second..cut]);
        damaged(&text[..cut]);
    }
}

#[test]
fn rejects_sections_that_do_not_fit() {
    let (one, key) = (bundle(1), key());
    let (begin, end) = ("-----BEGIN CERTIFICATE-----\n", "-----END CERTIFICATE-----\n");
    let body = &one[begin.len()..one.len() - end.len()];
    for text in [
        format!("{begin}{body}"),
        format!("{body}{end}"),
        format!("{begin}{begin}{body}{end}"),
        format!("{begin}{body}{end}{end}"),
        format!("{begin}{body}-----END PRIVATE KEY-----\n"),
        format!("{begin}{body}----END CERTIFICATE----\n"),
        format!("{begin}{body}{key}"),
        // Put together without a line ending between them.
        format!("{}{one}", one.trim_end()),
        format!("{begin}!{body}{end}"),
        format!("{begin}{body}A{end}"),
    ] {
        damaged(text);
    }
    let line = one.lines().count() + 3;
    no_certificates(
        one.clone() + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END X509 CRL-----\n",
        &format!(
            "it is cut short or damaged (line {line}: not a whole boundary of a section){DAMAGED}"
        ),
    );
}

/// The parser takes an indented boundary for text: a certificate must not be missing without a word.
#[test]
fn never_ignores_an_indented_section() {
    let (one, two) = (bundle(1), bundle(1));
    let all: String = two.lines().map(|line| format!("    {line}\n")).collect();
    for indented in [format!(" {two}"), two.replace('\n', "\n  "), all] {
        let text = format!("{one}{indented}\n");
        match certificates(file(), text.as_bytes()) {
            Ok(found) => assert_eq!(found, der(&(one.clone() + &two)), "{indented}"),
            Err(error) => assert!(error.to_string().contains("damaged"), "{error}"),
        }
    }
}

proptest! {
    #![proptest_config(crate::properties::config(256))]

    /// The first bytes of a valid bundle are all of it, whole certificates of it, or rejected.
    #[test]
    fn cut_bundle_is_whole_certificates_or_rejected(at: Index) {
        let text = bundle(3);
        let whole = certificates(file(), text.as_bytes()).unwrap();
        let cut = &text[..at.index(text.len())];
        if let Ok(found) = certificates(file(), cut.as_bytes()) {
            prop_assert!(cut.trim_end().ends_with("-----END CERTIFICATE-----"));
            prop_assert_eq!(cut.matches("-----END").count(), found.len());
            prop_assert_eq!(&whole[..found.len()], &found[..]);
        }
    }

    #[test]
    fn bundle_with_a_hole_is_never_the_whole(from: Index, to: Index) {
        let text = bundle(2);
        let whole = certificates(file(), text.as_bytes()).unwrap();
        let (from, to) = (from.index(text.len()), to.index(text.len()));
        let (from, to) = (from.min(to), from.max(to));
        if !text[from..to].trim().is_empty() {
            let text = text[..from].to_owned() + &text[to..];
            prop_assert_ne!(certificates(file(), text.as_bytes()), Ok(whole));
        }
    }

    #[test]
    fn cut_key_is_rejected(at: Index) {
        let text = key();
        let cut = &text[..at.index(text.trim_end().len())];
        prop_assert!(private_key(file(), cut.as_bytes()).is_err());
    }
}

/// The commonest damages to keys that came through a variable or a template.
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
            private_key(file(), damaged.as_bytes()).expect_err(&damaged).to_string(),
            certificates(file(), damaged.as_bytes()).expect_err(&damaged).to_string(),
        ] {
            for window in secret.as_bytes().windows(6) {
                let part = std::str::from_utf8(window).unwrap();
                assert!(!error.contains(part) && !error.contains(&part.to_lowercase()), "{error}");
            }
        }
    }
}
