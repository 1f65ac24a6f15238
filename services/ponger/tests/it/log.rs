//! Lines that clients cause: what they say, and how many there are at most.

use testkit::{Ca, Leaf, wait_until};

use crate::support::{Env, OTHER};

#[test]
fn names_the_issuer_and_the_trusted_roots_for_an_untrusted_client() {
    let env = Env::new();
    let ponger = env.spawn("");
    let client = env.client(Some(&Ca::new("another").issue(&Leaf::pinger("test"))));
    client.get(ponger.address(), "/ping").unwrap_err();
    let line = ponger.wait_for("TLS handshake failed");
    let fields = "issuer=\"CN=another\" trusted_roots=\"CN=test\"";
    assert!(line.contains("reason=\"tls_untrusted\"") && line.contains(fields), "{line}");
    // Not of other failures.
    env.client(None).get(ponger.address(), "/ping").unwrap_err();
    let line = ponger.wait_for("reason=\"tls_no_certificate\"");
    assert!(!line.contains("issuer=") && !line.contains("trusted_roots="), "{line}");
}

#[test]
fn limits_lines_about_denied_requests_and_says_how_many_were_suppressed() {
    const REPORT: &str = "Further log lines were suppressed similar_to=\"denied request\"";
    let env = Env::new();
    let mut ponger = env.spawn("");
    let (address, other) = (ponger.address(), env.client_of(&Leaf::new().uri(OTHER)));
    let send = || assert_eq!(other.get(address, "/ping").unwrap().status, 403);
    let mut sent = 0;
    // A machine that needs a second for each logs each.
    while ponger.count(REPORT) == 0 {
        (0..20).for_each(|_| send());
        sent += 20;
        wait_until("all are in the log", || (denied_requests(&ponger.log()) == sent).then_some(()));
    }
    let line = ponger.wait_for(REPORT);
    assert!(line.contains(" WARN ") && line.contains("reason=\"not_allowed\""), "{line}");
    // At the end, nothing is waited for.
    (0..5).for_each(|_| send());
    assert!(ponger.stop().success());
    assert_eq!(denied_requests(&ponger.log()), sent + 5, "{:#?}", ponger.log());
}

/// How many requests the log says were denied: in a line of their own, or suppressed.
fn denied_requests(log: &[String]) -> usize {
    let number =
        |line: &str| line.split_once("suppressed=")?.1.split(' ').next()?.parse::<usize>().ok();
    let lines = log.iter().filter(|line| line.contains("not_allowed"));
    lines.map(|line| usize::from(line.contains("denied=")) + number(line).unwrap()).sum()
}
