//! Who a certificate says that its holder is, and whether that is who may enter.

use chassis::tls::{
    identity::{Identity, Sources, Trusted},
    leaf::Purpose,
    peer_id::{Name, Names, SpiffeId, WrongId, printable},
};
use proptest::{prop_assert, prop_assert_eq, proptest};
use rustls::pki_types::CertificateDer;
use testkit::{Ca, Leaf};

use crate::{
    properties,
    support::{Folder, bounded, chain},
};

const PINGER: &str = "spiffe://cluster.local/ns/a/sa/pinger";

/// The server's identity that lets `allowed` in.
fn door(allowed: Option<&[&str]>) -> Identity {
    let folder = Folder::new();
    let sources = Sources {
        leaf: None,
        roots: Trusted::File(folder.write("ca.crt", Ca::new("a root").pem())),
        allowed: allowed
            .map(|names| names.iter().map(|name| name.parse().expect("a name")).collect()),
    };
    Identity::load(&sources, Purpose::Server).expect("an identity")
}

fn certificate(leaf: &Leaf) -> CertificateDer<'static> {
    chain(&leaf.self_signed().chain).remove(0)
}

/// A certificate with the bytes `from` replaced by as many others.
fn patched(leaf: &Leaf, from: &[u8], to: &[u8]) -> CertificateDer<'static> {
    assert_eq!(from.len(), to.len());
    let mut der = certificate(leaf).to_vec();
    let at = der.windows(from.len()).position(|bytes| bytes == from).expect("to be there");
    der[at..at + to.len()].copy_from_slice(to);
    der.into()
}

/// As whom the holder of `certificate` is let in, or why not.
fn enter(door: &Identity, certificate: &CertificateDer<'_>) -> Result<String, WrongId> {
    let names = Names::of(certificate).map_err(|_| WrongId::Unreadable)?.identity()?;
    door.admit(&names).map(Name::to_string)
}

#[test]
fn spiffe_ids_of_workloads_are_read() {
    for id in [
        PINGER,
        "spiffe://a/b",
        "spiffe://a.b-c_d.0/E/f.g/h-i/_/0",
        "spiffe://a/...",
        "spiffe://a/.b",
        "spiffe://1.2.3.4/x",
    ] {
        let read: SpiffeId = id.parse().expect(id);
        assert_eq!((read.as_str(), read.to_string().as_str()), (id, id));
        assert_eq!(id.parse(), Ok(Name::Spiffe(read)));
    }
    let longest = format!("spiffe://{}/{}", "a".repeat(255), "b".repeat(2048 - 265));
    assert_eq!(longest.len(), 2048);
    assert!(longest.parse::<SpiffeId>().is_ok());
}

#[test]
fn what_is_no_spiffe_id_of_a_workload_is_refused() {
    let too_long = format!("spiffe://a/{}", "b".repeat(2048 - 10));
    let domain_too_long = format!("spiffe://{}/b", "a".repeat(256));
    for text in [
        "",
        "spiffe",
        "spiffe:",
        "spiffe:/a/b",
        "spiffe://",
        "spiffe:///",
        "spiffe:///b",
        "spiffe://a",
        "spiffe://a/",
        "spiffe://a//b",
        "spiffe://a/b/",
        "spiffe://a/b//c",
        "spiffe://a/.",
        "spiffe://a/../b",
        "spiffe://a/b/./c",
        "spiffe://a:8443/b",
        "spiffe://user@a/b",
        "spiffe://[::1]/b",
        "spiffe://A/b",
        "spiffe://a/b?c",
        "spiffe://a/b#c",
        "spiffe://a/%62",
        "spiffe://a/b c",
        "spiffe://a/b\0",
        "spiffe://a/b\n",
        "spiffe://a/*",
        "spiffe://*/b",
        "spiffe://a/ü",
        "spiffe://ü/b",
        "Spiffe://a/b",
        "SPIFFE://a/b",
        " spiffe://a/b",
        "spiffe://a/b ",
        "https://a/b",
        "spiffes://a/b",
        "spiffe//a/b",
        &too_long,
        &domain_too_long,
    ] {
        assert!(text.parse::<SpiffeId>().is_err(), "{text:?}");
    }
}

#[test]
fn names_are_read_as_a_configuration_has_them() {
    let dns = |name: &str| Ok(Name::Dns(name.to_owned()));
    assert_eq!("ponger".parse(), dns("ponger"));
    assert_eq!(" Ponger.NS-1.svc \n".parse(), dns("ponger.ns-1.svc"));
    assert_eq!("_a.0".parse(), dns("_a.0"));
    assert_eq!(format!(" {PINGER} ").parse(), PINGER.parse().map(Name::Spiffe));
    let label = "a".repeat(63);
    assert_eq!(label.parse(), dns(&label));
    let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
    assert_eq!(longest.len(), 253);
    assert_eq!(longest.parse(), dns(&longest));
    for text in [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "*.a",
        "a.*",
        "a b",
        "a/b",
        "ü",
        "a\0",
        "a:b",
        "::1",
        "spiffe:a",
        &"a".repeat(64),
        &format!("{longest}a"),
        &format!("{}.a", longest),
    ] {
        assert!(text.parse::<Name>().is_err(), "{text:?}");
    }
}

#[test]
fn a_certificate_says_its_names() {
    let leaf = Leaf::new()
        .common_name("nobody")
        .dns("Ponger")
        .dns("*.ponger")
        .uri("HTTPS://a")
        .ip([127, 0, 0, 1].into())
        .ip([0; 16].into());
    let names = Names::of(&certificate(&leaf)).expect("names");
    let expected = Names {
        uris: vec!["HTTPS://a".into()],
        dns: vec!["ponger".into(), "*.ponger".into()],
        addresses: 2,
        unreadable: 0,
    };
    assert_eq!(names, expected);
    assert_eq!(Names::of(&certificate(&Leaf::new())), Ok(Names::default()));
    assert!(Names::of(&CertificateDer::from(vec![0x30, 0])).is_err());
}

#[test]
fn the_right_name_is_let_in() {
    let only = door(Some(&[PINGER]));
    let several = door(Some(&["spiffe://a/b", PINGER, "ponger"]));
    let everyone = door(None);
    for door in [&only, &several, &everyone] {
        let certificate = certificate(&Leaf::pinger("a"));
        assert_eq!(enter(door, &certificate), Ok(PINGER.to_owned()));
    }
    let by_dns = certificate(&Leaf::new().dns("x").dns("PONGER").dns("y"));
    assert_eq!(enter(&several, &by_dns), Ok("ponger".to_owned()));
    assert_eq!(enter(&everyone, &by_dns), Ok("x".to_owned()));
}

#[test]
fn every_near_miss_of_the_right_name_is_refused() {
    let only = door(Some(&[PINGER]));
    let several = door(Some(&["spiffe://cluster.local/ns/b/sa/pinger", PINGER]));
    for name in [
        "spiffe://cluster.local/ns/a/sa/pinge",
        "spiffe://cluster.local/ns/a/sa/pinger2",
        "spiffe://cluster.local/ns/a/sa/pinger/x",
        "spiffe://cluster.local/ns/a/sa",
        "spiffe://cluster.local/ns/a/sa/ponger",
        "spiffe://cluster.local/ns/aa/sa/pinger",
        "spiffe://cluster.local/ns/a/sa/Pinger",
        "spiffe://cluster.local/NS/a/sa/pinger",
        "spiffe://cluster.loca/ns/a/sa/pinger",
        "spiffe://xcluster.local/ns/a/sa/pinger",
        "spiffe://cluster.local.evil/ns/a/sa/pinger",
        "spiffe://evil/cluster.local/ns/a/sa/pinger",
    ] {
        let certificate = certificate(&Leaf::new().uri(name));
        let another = WrongId::Another { found: name.into(), wanted: PINGER.into() };
        assert_eq!(enter(&only, &certificate), Err(another));
        assert_eq!(enter(&several, &certificate), Err(WrongId::NotAllowed(name.into())));
    }
}

#[test]
fn a_uri_that_is_no_spiffe_id_is_nobody() {
    for name in [
        "",
        " ",
        "spiffe://cluster.local/ns/a/sa/pinger/",
        "spiffe://cluster.local/ns/a/sa/pinger ",
        " spiffe://cluster.local/ns/a/sa/pinger",
        "spiffe://cluster.local/ns/a/sa/pinger\0",
        "spiffe://cluster.local/ns/a/sa/pinger\0.evil",
        "spiffe://cluster.local/ns/a/sa/pinger?x",
        "spiffe://cluster.local/ns/a/sa/pinger#x",
        "spiffe://cluster.local:443/ns/a/sa/pinger",
        "spiffe://x@cluster.local/ns/a/sa/pinger",
        "spiffe://cluster.local//ns/a/sa/pinger",
        "spiffe://cluster.local/ns/a/sa/./pinger",
        "spiffe://cluster.local/ns/a/sa/x/../pinger",
        "spiffe://cluster.local/ns/a/sa/%70inger",
        "spiffe://cluster.local/ns/a/sa/*",
        "spiffe://CLUSTER.LOCAL/ns/a/sa/pinger",
        "SPIFFE://cluster.local/ns/a/sa/pinger",
        "https://cluster.local/ns/a/sa/pinger",
        "pinger",
    ] {
        for door in [door(Some(&[PINGER, "pinger"])), door(None)] {
            // A DNS name does not stand in for a URI that is there.
            for leaf in [Leaf::new().uri(name), Leaf::new().dns("pinger").uri(name)] {
                let nobody = WrongId::NotSpiffe(printable(name));
                assert_eq!(enter(&door, &certificate(&leaf)), Err(nobody));
            }
        }
    }
}

#[test]
fn who_has_two_uris_is_nobody() {
    let door = door(Some(&[PINGER, "pinger"]));
    for second in [PINGER, "spiffe://a/b", "", "https://a"] {
        for leaf in [
            Leaf::new().uri(PINGER).uri(second),
            Leaf::new().uri(second).uri(PINGER),
            Leaf::new().dns("pinger").uri(second).uri(PINGER),
        ] {
            assert_eq!(enter(&door, &certificate(&leaf)), Err(WrongId::Several(2)));
        }
    }
    let three = Leaf::new().uri(PINGER).uri(PINGER).uri(PINGER);
    assert_eq!(enter(&door, &certificate(&three)), Err(WrongId::Several(3)));
}

#[test]
fn who_has_no_name_is_nobody() {
    let door = door(Some(&[PINGER, "pinger"]));
    for leaf in [
        Leaf::new(),
        Leaf::new().common_name("pinger"),
        Leaf::new().common_name(PINGER),
        Leaf::new().ip([127, 0, 0, 1].into()),
    ] {
        assert_eq!(enter(&door, &certificate(&leaf)), Err(WrongId::Nameless));
    }
    assert_eq!(door.admit(&[]), Err(WrongId::Nameless));
    assert_eq!(Names::default().identity(), Err(WrongId::Nameless));
}

#[test]
fn a_dns_name_is_compared_whole() {
    let door = door(Some(&["ponger"]));
    for name in ["ponger.evil", "evil.ponger", "xponger", "ponge", "*", "*.ponger", "ponger.", ""] {
        let certificate = certificate(&Leaf::new().dns(name));
        assert!(matches!(enter(&door, &certificate), Err(WrongId::Another { .. })), "{name:?}");
    }
}

#[test]
fn a_name_that_cannot_be_read_makes_its_holder_nobody() {
    let door = door(Some(&[PINGER, "pinger"]));
    for leaf in [
        Leaf::new().uri("spiffe://a/b-XX"),
        Leaf::new().uri(PINGER).uri("spiffe://a/b-XX"),
        Leaf::new().dns("pinger").dns("b-XX"),
        Leaf::new().uri(PINGER).dns("b-XX"),
    ] {
        let certificate = patched(&leaf, b"b-XX", b"b-\xff\xff");
        assert_eq!(enter(&door, &certificate), Err(WrongId::Unreadable));
    }
    for dns in [PINGER, "pinger\0", "pinger\0.evil", " pinger", "pinger/", "a:1", "a\x1b[2j\nb"] {
        for leaf in [Leaf::new(), Leaf::new().dns("pinger"), Leaf::new().uri(PINGER)] {
            let certificate = certificate(&leaf.dns(dns));
            assert_eq!(enter(&door, &certificate), Err(WrongId::Unreadable), "{dns:?}");
        }
    }
}

#[test]
fn a_name_does_not_disturb_a_log() {
    assert_eq!(printable("plain ü"), "plain ü");
    assert_eq!(printable("a\nb\x1b[31m\0"), "a\\nb\\u{1b}[31m\\0");
    assert_eq!(printable(&"x".repeat(1000)), "x".repeat(256));
}

#[test]
fn a_name_of_a_peer_does_not_disturb_a_log() {
    let wrong = door(Some(&[PINGER, "pinger"]));
    let leaf = certificate(&Leaf::new().uri("a\x1b[2j\nb"));
    let message = enter(&wrong, &leaf).expect_err("nobody").to_string();
    assert!(message.contains("a\\u{1b}[2j\\nb"), "{message:?}");
}

#[test]
fn refusals_say_who_came_and_who_may() {
    for (wrong, message) in [
        (WrongId::Nameless, "its certificate has neither a URI nor a DNS name"),
        (WrongId::Unreadable, "its certificate has a name that cannot be read"),
        (
            WrongId::Several(2),
            "its certificate has 2 URIs, where a SPIFFE identity has exactly one",
        ),
        (WrongId::NotSpiffe("x".into()), "its certificate's URI `x` is not a SPIFFE ID"),
        (
            WrongId::Another { found: "x".into(), wanted: "y".into() },
            "it is `x`, and only `y` will do",
        ),
        (WrongId::NotAllowed("x".into()), "it is `x`, which is not among the allowed names"),
    ] {
        assert_eq!(wrong.to_string(), message);
    }
}

proptest! {
    #![proptest_config(bounded(2000))]

    #[test]
    fn any_text_is_a_good_name_or_none(text in ".{0,40}") {
        properties::names(&text);
    }

    #[test]
    fn what_looks_like_a_spiffe_id_is_a_good_one_or_none(
        text in "spiffe://[a-zA.*/@:-]{0,8}/[a-zA%./ ]{0,12}"
    ) {
        properties::names(&text);
    }

    #[test]
    fn every_well_formed_spiffe_id_is_read(text in "spiffe://[a-z0-9._-]{1,20}(/[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,9}){1,4}") {
        prop_assert!(text.parse::<SpiffeId>().is_ok());
    }

    /// Nobody enters by a name that differs by one letter.
    #[test]
    fn one_letter_more_less_or_other_is_another_name(at in 0..PINGER.len(), letter in "[ -~]") {
        let letter = letter.chars().next().unwrap_or('x');
        let mut other = PINGER.to_owned();
        other.insert(at, letter);
        let mut less = PINGER.to_owned();
        less.remove(at);
        let mut swapped = less.clone();
        swapped.insert(at, letter);
        let allowed: Name = PINGER.parse().expect("a name");
        for text in [other, less, swapped] {
            if let Ok(id) = text.parse::<SpiffeId>() {
                prop_assert_eq!(Name::Spiffe(id) == allowed, text == PINGER);
            }
        }
    }
}
