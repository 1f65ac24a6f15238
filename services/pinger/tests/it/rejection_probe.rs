//! The probe that verifies that ponger rejects untrusted clients.

use std::{
    io::Write as _,
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex, mpsc},
};

use chassis::tls::server::ClientAuth;
use pinger::config::ProbeCredential::{self, InvalidSignature, NoCertificate};
use testkit::{Ca, Leaf, client::TlsClient};

use crate::support::{
    Env, Pinger, Ponger, accept, ms, pong_forever, respond, server_tls, until_closed,
    wait_for_further,
};

const FAILED: &str = "Rejection probe failed: ponger accepted an untrusted client";

fn probing(env: &Env, address: SocketAddr) -> pinger::Config {
    let mut config = env.pinger_config(address);
    config.rejection_probe.interval = ms(20);
    config.rejection_probe.not_ready = true;
    config
}

fn probes(credential: ProbeCredential, result: &str) -> String {
    let credential = credential.label();
    format!("pinger_rejection_probes_total{{credential=\"{credential}\",result=\"{result}\"}}")
}

/// Waits for several probes with `result`, and checks that there were none with the others.
fn check_all(pinger: &Pinger, credentials: &[ProbeCredential], result: &str) {
    for credential in credentials {
        pinger.wait_for_metric(&probes(*credential, result), 3.0);
        for other in ["rejected", "accepted", "inconclusive"] {
            let none = pinger.metric(&probes(*credential, other)) == 0.0;
            assert_eq!(none, other != result, "{credential:?} {other}");
        }
    }
}

/// ponger without client authentication.
fn accepting_ponger(env: &Env) -> Ponger {
    let mut config = env.ponger_config();
    config.service.client_ca = None;
    config.service.allowed_clients.clear();
    env.start_ponger(&config)
}

#[test]
fn ponger_rejects_both_credentials() {
    let env = Env::new();
    let ponger = env.start_ponger(&env.ponger_config());
    let pinger = env.start_pinger(&probing(&env, ponger.address));
    check_all(&pinger, &ProbeCredential::ALL, "rejected");
    assert_eq!(pinger.wait_for_readiness(200), "ready\n");
    assert_eq!(pinger.count(FAILED), 0);
    // Probes are not pings, and are not what is measured of them.
    assert_eq!(pinger.metric("tls_handshake_failures_total{reason=\"tls_refused_by_peer\"}"), 0.0);
    assert_eq!(pinger.stop().unwrap().lost(), 0);
}

#[test]
fn ponger_counts_probes_apart_from_clients_that_must_be_looked_into() {
    let env = Env::new();
    let ponger = env.start_ponger(&env.ponger_config());
    // Before the first probe: from this address an authorized client came.
    let authorized = env.ca.issue(&Leaf::pinger("test"));
    TlsClient::new(env.ca.pem(), Some(&authorized)).get(ponger.address, "/ping").unwrap();
    let mut config = probing(&env, ponger.address);
    config.rejection_probe.interval = ms(1000);
    let pinger = env.start_pinger(&config);
    for (credential, reason) in
        [(NoCertificate, "tls_no_certificate"), (InvalidSignature, "tls_untrusted")]
    {
        pinger.wait_for_metric(&probes(credential, "rejected"), 1.0);
        ponger
            .wait_for_metric(&format!("ponger_rejection_probes_total{{reason=\"{reason}\"}}"), 1.0);
        let failures = format!("tls_handshake_failures_total{{reason=\"{reason}\"}}");
        assert_eq!(ponger.metric(&failures), 0.0, "{reason}");
    }
}

#[test]
fn denial_is_a_rejection() {
    let env = Env::new();
    let mut config = env.ponger_config();
    config.service.client_auth = Some(ClientAuth::Optional);
    let ponger = env.start_ponger(&config);
    let pinger = env.start_pinger(&probing(&env, ponger.address));
    check_all(&pinger, &ProbeCredential::ALL, "rejected");
    assert!(
        ponger.metric("ponger_authz_total{decision=\"denied\",reason=\"no_certificate\"}") > 0.0
    );
}

#[test]
fn reports_a_ponger_that_accepts_untrusted_clients() {
    let env = Env::new();
    let ponger = accepting_ponger(&env);
    let pinger = env.start_pinger(&probing(&env, ponger.address));
    let reason = "not ready: ponger accepted an untrusted client\n";
    assert_eq!(pinger.wait_for_readiness(503), reason);
    check_all(&pinger, &ProbeCredential::ALL, "accepted");
    let line = pinger.wait_for(FAILED);
    assert!(line.contains("ERROR") && line.contains("credential=\"no_certificate\""), "{line}");
    // It pings on.
    wait_for_further(&pinger, "pong", 1);
}

#[test]
fn stays_ready_unless_configured_otherwise() {
    let env = Env::new();
    let ponger = accepting_ponger(&env);
    let mut config = probing(&env, ponger.address);
    config.rejection_probe.not_ready = false;
    let pinger = env.start_pinger(&config);
    check_all(&pinger, &ProbeCredential::ALL, "accepted");
    assert_eq!(pinger.wait_for_readiness(200), "ready\n");
}

#[test]
fn is_ready_again_once_ponger_rejects_again() {
    let env = Env::new();
    let issued = env.ca.issue(&Leaf::ponger("test"));
    let [open, strict] = [None, Some(&env.ca)].map(|roots| server_tls(&issued, roots));
    let tls = Arc::new(Mutex::new(open));
    let current = Arc::clone(&tls);
    let address = env.serve(move |tcp| {
        let tls = Arc::clone(&current.lock().unwrap());
        pong_forever(&tls, tcp);
    });
    let pinger = env.start_pinger(&probing(&env, address));
    pinger.wait_for_readiness(503);
    *tls.lock().unwrap() = strict;
    pinger.wait_for_readiness(200);
    for credential in ProbeCredential::ALL {
        assert!(pinger.metric(&probes(credential, "accepted")) > 0.0);
        assert!(pinger.metric(&probes(credential, "rejected")) > 0.0);
    }
}

/// Checks that nothing is concluded from what a server does.
fn check_inconclusive(env: &Env, behave: impl Fn(TcpStream) + Send + Sync + 'static) {
    let pinger = env.start_pinger(&probing(env, env.serve(behave)));
    check_all(&pinger, &ProbeCredential::ALL, "inconclusive");
    assert_eq!(pinger.wait_for_readiness(200), "ready\n");
    let line = pinger.wait_for("Rejection probe inconclusive");
    assert!(line.contains(" WARN ") && line.contains("reason=\""), "{line}");
}

#[test]
fn another_service_rejects_by_status_400_401_or_403() {
    for (status, result) in [
        // nginx, which completes the handshake with any client.
        ("400 Bad Request", "rejected"),
        ("401 Unauthorized", "rejected"),
        ("403 Forbidden", "rejected"),
        ("404 Not Found", "accepted"),
        ("500 Internal Server Error", "accepted"),
    ] {
        let env = Env::new();
        let tls = server_tls(&env.ca.issue(&Leaf::ponger("test")), None);
        let address = env.serve(move |tcp| {
            let Some(mut stream) = accept(&tls, tcp) else { return };
            respond(&mut stream, status, "");
            until_closed(&mut stream);
        });
        check_all(&env.start_pinger(&probing(&env, address)), &ProbeCredential::ALL, result);
    }
}

#[test]
fn an_alert_before_the_handshake_is_complete_is_inconclusive() {
    check_inconclusive(&Env::new(), |mut tcp| {
        // Fatal: handshake_failure.
        let _ = tcp.write_all(&[21, 3, 3, 0, 2, 2, 40]);
        until_closed(&mut tcp);
    });
}

#[test]
fn a_reset_before_the_handshake_is_complete_is_inconclusive() {
    check_inconclusive(&Env::new(), drop);
}

#[test]
fn logs_an_error_after_many_inconclusive_probes() {
    let env = Env::new();
    let mut config = probing(&env, env.serve(drop));
    config.rejection_probe.interval = ms(1);
    let line = env.start_pinger(&config).wait_for("Rejection probe inconclusive for long");
    assert!(line.contains("ERROR") && line.contains("probes=10"), "{line}");
}

#[test]
fn a_reset_after_the_handshake_is_inconclusive() {
    let env = Env::new();
    let tls = server_tls(&env.ca.issue(&Leaf::ponger("test")), None);
    check_inconclusive(&env, move |tcp| drop(accept(&tls, tcp)));
}

#[test]
fn an_alert_about_something_else_is_inconclusive() {
    let env = Env::new();
    let tls = server_tls(&env.ca.issue(&Leaf::ponger("test")), None);
    check_inconclusive(&env, move |tcp| {
        let Some(mut stream) = accept(&tls, tcp) else { return };
        // A record that was not encrypted with the connection's key: bad_record_mac.
        let record = [&[23, 3, 3, 0, 32], &[0; 32][..]].concat();
        stream.conn.read_tls(&mut &*record).unwrap();
        stream.conn.process_new_packets().unwrap_err();
        while stream.conn.wants_write() && stream.conn.write_tls(&mut stream.sock).is_ok() {}
        until_closed(&mut stream.sock);
    });
}

#[test]
fn a_server_that_is_not_ponger_is_inconclusive() {
    let another = Ca::new("another");
    for (issuer, leaf) in [(&another, Leaf::ponger("test")), (&another, Leaf::ponger("another"))] {
        for client_roots in [None, Some(&another)] {
            let tls = server_tls(&issuer.issue(&leaf), client_roots);
            check_inconclusive(&Env::new(), move |tcp| pong_forever(&tls, tcp));
        }
    }
}

#[test]
fn without_an_own_certificate_only_one_credential_is_probed() {
    let env = Env::new();
    let ponger = env.start_ponger(&env.ponger_config());
    let mut config = probing(&env, ponger.address);
    config.ponger.client_certificate = None;
    config.ponger.client_private_key = None;
    let pinger = env.start_pinger(&config);
    check_all(&pinger, &[NoCertificate], "rejected");
    for result in ["rejected", "accepted", "inconclusive"] {
        assert_eq!(pinger.metric(&probes(InvalidSignature, result)), 0.0);
    }
}

#[test]
fn probes_only_the_configured_credentials() {
    let env = Env::new();
    let ponger = env.start_ponger(&env.ponger_config());
    for (credential, other) in
        [(NoCertificate, InvalidSignature), (InvalidSignature, NoCertificate)]
    {
        let mut config = probing(&env, ponger.address);
        config.rejection_probe.credentials = vec![credential];
        let pinger = env.start_pinger(&config);
        check_all(&pinger, &[credential], "rejected");
        assert_eq!(pinger.metric(&probes(other, "rejected")), 0.0);
    }
}

#[test]
fn a_probe_under_way_does_not_delay_the_end() {
    let env = Env::new();
    let (connected, connections) = mpsc::channel();
    let address = env.serve(move |mut tcp| {
        let _ = connected.send(());
        until_closed(&mut tcp);
    });
    let mut config = probing(&env, address);
    config.drain_timeout = ms(0);
    let pinger = env.start_pinger(&config);
    // The ping and the probe, which wait for the server longer than this test may take.
    for _ in 0..2 {
        connections.recv().unwrap();
    }
    let summary = pinger.stop().unwrap();
    assert_eq!((summary.pings(), summary.pongs()), (1, 0), "{summary}");
}
