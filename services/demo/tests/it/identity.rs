//! Who is let in, and who is refused out loud.

use std::sync::Arc;

use rustls::AlertDescription as Alert;
use testkit::{Ca, Leaf};
use time::Duration;

use crate::support::{Client, PINGER, World};


#[test]
fn pinger_refuses_a_ponger_of_another_name_or_id_before_it_asks() {
    for (leaf, reason) in [
        (Leaf::ponger("other"), "tls_wrong_id"),
        (Leaf::ponger("test").uri("spiffe://cluster.local/ns/test/sa/second"), "tls_wrong_id"),
        (Leaf::new().dns("localhost"), "tls_wrong_id"),
        (Leaf::new().dns("elsewhere").uri(crate::support::PONGER), "tls_wrong_name"),
    ] {
        let world = World::new();
        world.issue("ponger", &leaf);
        let ponger = world.ponger("");
        let mut pinger = world.pinger(&ponger, "count: 1\n");
        assert_eq!(pinger.ended().code(), Some(1));
        let line = pinger.wait_for("Lost ping");
        assert!(line.contains(&format!("reason=\"{reason}\"")), "{line}");
        assert_eq!(ponger.count("Received"), 0);
    }
}

#[test]
fn two_of_ours_speak_tls_1_3_with_the_post_quantum_hybrid() {
    let world = World::new();
    let ponger = world.ponger("");
    let pinger = world.pinger(&ponger, "");
    let line = pinger.wait_for("Got pong");
    for part in
        ["version=\"TLSv1.3\"", "group=\"X25519MLKEM768\"", "kind=\"full\"", "peer=spiffe://"]
    {
        assert!(line.contains(part), "{line}");
    }
    let metric = "tls_handshakes_total{cipher=\"TLS13_AES_256_GCM_SHA384\",group=\"X25519MLKEM768\",kind=\"full\",version=\"TLSv1.3\"}";
    for service in [&ponger, &pinger] {
        service.wait_for_metric(metric, |count| count >= 1.0);
    }
    let peer = |name| format!("tls_peers_total{{peer=\"{name}\"}}");
    ponger.wait_for_metric(&peer(PINGER), |count| count >= 1.0);
    pinger.wait_for_metric(&peer(crate::support::PONGER), |count| count >= 1.0);
}

#[test]
fn strangers_are_refused_and_that_is_proven_again_and_again() {
    let world = World::new();
    let ponger = world.ponger("");
    let pinger = world.pinger(&ponger, "refusal: {interval: 50ms, notReady: true}\n");
    for stranger in ["no_certificate", "self_signed"] {
        let metric = format!(
            "pinger_refusal_checks_total{{expected=\"refused\",result=\"refused\",stranger=\"{stranger}\"}}"
        );
        pinger.wait_for_metric(&metric, |count| count >= 3.0);
    }
    assert_eq!(pinger.admin_get("/readyz").0, 200);
    assert_eq!(pinger.count("A stranger was let in"), 0);
    // The strangers' pings are not pings.
    assert_eq!(pinger.count("Lost ping"), 0);
}

#[test]
fn a_ponger_that_lets_strangers_in_raises_the_alarm() {
    let world = World::new();
    let config = world.ponger_config("");
    let open = std::fs::read_to_string(&config).expect("the configuration");
    let open: String = open
        .lines()
        .filter(|line| !line.contains("clientCa") && !line.contains("allowedClients"))
        .map(|line| format!("{line}\n"))
        .collect();
    std::fs::write(&config, open).expect("written");
    let ponger = crate::support::Service::start("ponger", &config);
    let pinger = world.pinger(&ponger, "refusal: {interval: 50ms, notReady: true}\n");
    for stranger in ["no_certificate", "self_signed"] {
        let metric = format!(
            "pinger_refusal_checks_total{{expected=\"refused\",result=\"accepted\",stranger=\"{stranger}\"}}"
        );
        pinger.wait_for_metric(&metric, |count| count >= 1.0);
    }
    let line = pinger.wait_for("A stranger was let in");
    assert!(line.contains("ERROR"), "{line}");
    crate::support::wait_until("not ready", || {
        (pinger.admin_get("/readyz").0 == 503).then_some(())
    });
}
