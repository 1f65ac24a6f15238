//! Certificates and roots are replaced while both services run, and no ping is lost.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use testkit::{Ca, Issued, Leaf, client::TlsClient, wait_until};
use time::Duration as Validity;

use crate::support::{Env, Pinger, Ponger, expiration, install, kind, ms, pings, wait_for_further};

fn refreshes(unit: &str, result: &str) -> String {
    format!("identity_refreshes_total{{result=\"{result}\",unit=\"{unit}\"}}")
}

/// Waits until ponger presents `issued`.
fn wait_until_presented(ponger: &Ponger, issued: &Issued, roots: &str) {
    let client = TlsClient::new(roots, None);
    wait_until("ponger presents its new certificate", || {
        let connection = client.connect(ponger.address).unwrap();
        (connection.tls().peer_certificates() == Some(&issued.chain_der())).then_some(())
    });
}

/// Pings with what is in use now, then checks that none was lost.
fn check_none_lost(pinger: Pinger) {
    wait_for_further(&pinger, "pong", 5);
    let summary = pinger.stop().unwrap();
    assert_eq!(summary.lost(), 0, "{summary}");
}

#[test]
fn loses_no_ping_while_certificates_are_replaced_on_both_sides() {
    // Also where each ping follows the last one at once.
    for (keep_alive, interval) in [(0, 5), (3600, 5), (3600, 0)] {
        let env = Env::new();
        let ponger = env.start_ponger(&env.ponger_config());
        let mut config = env.pinger_config(ponger.address);
        config.ponger.keep_alive.0 = Duration::from_secs(keep_alive);
        config.interval = ms(interval);
        let pinger = env.start_pinger(&config);
        pinger.wait_for_metric(&pings("pong"), 1.0);
        for round in 1..=5 {
            let minutes = Validity::minutes(60 + round);
            let [for_ponger, for_pinger] = [Leaf::ponger("test"), Leaf::pinger("test")]
                .map(|leaf| env.ca.issue(&leaf.valid(-Validity::MINUTE, minutes)));
            let before = ponger.metric(&expiration("peer"));
            install(&env.ponger, &for_ponger, env.ca.pem());
            wait_until_presented(&ponger, &for_ponger, env.ca.pem());
            install(&env.pinger, &for_pinger, env.ca.pem());
            // pinger has presented its new certificate.
            ponger.wait_for_value(&expiration("peer"), |expiry| expiry > before);
        }
        // A connection for each certificate, also where connections are kept.
        pinger.wait_for_metric(&kind("full"), 6.0);
        // The previous ones are closed.
        ponger.wait_for_value("ponger_connections", |open| open <= 1.0);
        check_none_lost(pinger);
    }
}

#[test]
fn loses_no_ping_while_roots_are_replaced_with_overlap() {
    for keep_alive in [0, 3600] {
        let env = Env::new();
        let ponger = env.start_ponger(&env.ponger_config());
        let mut config = env.pinger_config(ponger.address);
        config.ponger.keep_alive.0 = Duration::from_secs(keep_alive);
        let day = |leaf: Leaf| leaf.valid(-Validity::MINUTE, Validity::DAY);
        let old = [Leaf::ponger("test"), Leaf::pinger("test")].map(|leaf| env.ca.issue(&leaf));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let in_two_hours = now.as_secs_f64() + 7200.0;
        let new_ca = Ca::new("new");
        let new = [Leaf::ponger("test"), Leaf::pinger("test")].map(|leaf| new_ca.issue(&day(leaf)));
        let both_roots = format!("{}{}", env.ca.pem(), new_ca.pem());
        let install_both = |[for_ponger, for_pinger]: &[Issued; 2], roots: &str| {
            install(&env.ponger, for_ponger, roots);
            install(&env.pinger, for_pinger, roots);
        };
        install_both(&old, env.ca.pem());
        let pinger = env.start_pinger(&config);
        pinger.wait_for_metric(&pings("pong"), 1.0);
        let wait_for_bundles = |count| {
            ponger.wait_for_metric(&refreshes("trust_bundle", "ok"), count);
            pinger.wait_for_metric(&refreshes("trust_bundle", "ok"), count);
        };

        install_both(&old, &both_roots);
        wait_for_bundles(1.0);
        // A reload is counted a moment before it takes effect.
        let new_client = TlsClient::new(&both_roots, Some(&new[1]));
        wait_until("ponger trusts the new root", || new_client.get(ponger.address, "/ping").ok());
        wait_for_further(&pinger, "pong", 2);
        // The last certificate that ponger saw is an old one again.
        let old_client = TlsClient::new(&both_roots, Some(&old[1]));
        old_client.get(ponger.address, "/ping").unwrap();

        install_both(&new, &both_roots);
        wait_until_presented(&ponger, &new[0], &both_roots);
        // pinger has presented its new certificate.
        ponger.wait_for_value(&expiration("peer"), |expiry| expiry > in_two_hours);

        install_both(&new, new_ca.pem());
        wait_for_bundles(2.0);
        wait_until("ponger rejects the old root", || old_client.get(ponger.address, "/ping").err());
        check_none_lost(pinger);
    }
}

#[test]
fn keeps_its_certificate_while_a_reload_fails() {
    let env = Env::new();
    let ponger = env.start_ponger(&env.ponger_config());
    let pinger = env.start_pinger(&env.pinger_config(ponger.address));
    let [whole, other] = [(); 2].map(|()| env.ca.issue(&Leaf::pinger("test")));
    let mismatched = Issued { key: other.key, ..whole.clone() };
    install(&env.pinger, &mismatched, env.ca.pem());
    pinger.wait_for_metric(&refreshes("certificate", "rejected"), 1.0);
    pinger.wait_for_value("identity_last_reload_successful{unit=\"certificate\"}", |ok| ok == 0.0);
    wait_for_further(&pinger, "pong", 2);
    let readyz = pinger.wait_for_readiness(200);
    assert!(readyz.contains("warning: the certificate on disk is rejected"), "{readyz}");
    install(&env.pinger, &whole, env.ca.pem());
    pinger.wait_for_metric(&refreshes("certificate", "ok"), 1.0);
    pinger.wait_for_value("identity_last_reload_successful{unit=\"certificate\"}", |ok| ok == 1.0);
    check_none_lost(pinger);
}

#[test]
fn expired_certificates_are_reported_and_their_successors_used() {
    let env = Env::new();
    let hour = Duration::from_secs(3600);
    let ponger = env.start_ponger(&env.ponger_config());
    let day = |leaf: Leaf| leaf.valid(-Validity::MINUTE, Validity::DAY);
    env.issue_pinger(&day(Leaf::pinger("test")));
    let pinger = env.start_pinger(&env.pinger_config(ponger.address));
    pinger.wait_for_metric(&pings("pong"), 1.0);
    env.clock.advance(2 * hour);
    pinger.wait_for_metric(&pings("tls_expired"), 1.0);
    env.issue_ponger(&day(Leaf::ponger("test")));
    wait_for_further(&pinger, "pong", 1);

    env.issue_pinger(&Leaf::pinger("test").valid(-Validity::MINUTE, Validity::hours(3)));
    pinger.wait_for_metric(&refreshes("certificate", "ok"), 1.0);
    env.clock.advance(2 * hour);
    assert_eq!(pinger.wait_for_readiness(503), "not ready: own certificate has expired\n");
    pinger.wait_for_metric(&pings("tls_refused_by_peer"), 1.0);
    let line = pinger.wait_for("reason=\"tls_refused_by_peer\"");
    assert!(line.contains("certificate_expired"), "{line}");
    env.issue_pinger(&day(Leaf::pinger("test")));
    assert_eq!(pinger.wait_for_readiness(200), "ready\n");
    wait_for_further(&pinger, "pong", 1);
}
