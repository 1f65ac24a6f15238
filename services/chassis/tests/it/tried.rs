//! What holds for every input, tried with some.

use proptest::{collection::vec, prelude::any, proptest, sample::select, strategy::Strategy};
use testkit::Ca;

use crate::{
    properties,
    support::{Folder, bounded},
};

/// Texts that are made of pieces of real ones.
fn of_pieces(pieces: &'static [&'static str]) -> impl Strategy<Value = String> {
    vec(select(pieces), 0..12).prop_map(|pieces| pieces.concat())
}

const YAML: &[&str] = &[
    "insecure",
    "service",
    "port",
    "host",
    "minTlsVersion",
    "idleTimeout",
    "allowedClients",
    "tlsCertificate",
    "maxConnections",
    "metrics",
    "endpoint",
    "log",
    "level",
    ": ",
    ":",
    " ",
    "\n",
    "\n  ",
    "- ",
    "{",
    "}",
    "[",
    "]",
    ", ",
    "true",
    "1",
    "1.2",
    "1.3",
    "0x10",
    "-1",
    "8080",
    "~",
    "null",
    "'",
    "\"",
    "&a ",
    "*a",
    "---\n",
    "# ",
    "10s",
    "250ms",
    "::1",
    "0.0.0.0",
    "info",
    "debug",
    "/x",
    "\t",
    "!",
    "|",
    ">",
    "%",
    "\u{feff}",
    "?",
    ".",
    "\\0",
];

const PEM: &[&str] = &[
    "-----BEGIN CERTIFICATE-----\n",
    "-----END CERTIFICATE-----\n",
    "-----BEGIN PRIVATE KEY-----\n",
    "-----END PRIVATE KEY-----\n",
    "-----BEGIN EC PRIVATE KEY-----",
    "-----END EC PRIVATE KEY-----",
    "-----BEGIN ",
    "-----END ",
    "-----",
    "-",
    "\n",
    "\r\n",
    "\r",
    " ",
    "AAAA",
    "MIIB",
    "=",
    "CERTIFICATE",
    "MAA=\n",
    "Proc-Type: 4,ENCRYPTED\n",
    "-----BEGIN X\n",
    "TRUSTED ",
];

proptest! {
    #![proptest_config(bounded(200))]

    #[test]
    fn any_bytes_are_a_good_configuration_or_refused(bytes in vec(any::<u8>(), 0..64)) {
        properties::configuration(&Folder::new().path(""), &bytes);
    }

    #[test]
    fn anything_like_yaml_is_a_good_configuration_or_refused(text in of_pieces(YAML)) {
        properties::configuration(&Folder::new().path(""), text.as_bytes());
    }

    #[test]
    fn anything_like_pem_is_taken_whole_or_refused(text in of_pieces(PEM)) {
        properties::pem(text.as_bytes());
    }

    #[test]
    fn a_certificate_with_any_byte_changed_is_taken_or_refused(at in 0_usize..1000, byte: u8) {
        let issued = Ca::new("a root").issue(&testkit::Leaf::ponger("a"));
        let mut text = issued.chain.into_bytes();
        let at = at % text.len();
        text[at] = byte;
        properties::pem(&text);
        properties::identity(&Folder::new().path(""), &text, issued.key.as_bytes());
    }
}
