//! Certificates and trust bundles are replaced while ponger runs; what is revoked ends.

use std::{
    io::{self, Read as _},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use rustls::{AlertDescription as Alert, pki_types::CertificateDer};
use testkit::{
    Ca, Issued, Leaf,
    client::{TlsClient, alert, read_response, request},
    clock::ManualClock,
    wait_until, write_private,
};
use time::Duration as Validity;

use crate::support::{
    Env, Ponger, connect_and_ping, ping, send_until_blocked, start, start_with_clock,
    wait_for_close, wait_for_connections,
};

const HOURS_2: Duration = Duration::from_secs(2 * 3600);
const REJECTED: &str = "identity_refreshes_total{result=\"rejected\",unit=\"certificate\"}";

fn presented(client: &TlsClient, ponger: &Ponger) -> CertificateDer<'static> {
    let connection = client.connect(ponger.address).unwrap();
    connection.tls().peer_certificates().unwrap()[0].clone()
}

/// Waits until new connections get this certificate.
#[track_caller]
fn wait_for_certificate(client: &TlsClient, ponger: &Ponger, issued: &Issued) {
    let expected = issued.chain_der();
    wait_until("the new certificate", || (presented(client, ponger) == expected[0]).then_some(()));
}

/// Waits until the client is rejected, and returns the alert.
#[track_caller]
fn wait_for_rejection(client: &TlsClient, ponger: &Ponger) -> Option<Alert> {
    let error = wait_until("a rejection", || client.get(ponger.address, "/ping").err());
    alert(&error)
}

#[test]
fn replaces_its_certificate_without_losing_a_request() {
    let env = Env::new();
    let ponger = env.start();
    let client = env.pinger();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let requests = scope.spawn(|| {
            let mut kept = client.connect(ponger.address).unwrap();
            while !stop.load(Ordering::Acquire) {
                ping(&mut kept);
                assert_eq!(client.get(ponger.address, "/ping").unwrap().status, 200);
            }
        });
        for _ in 0..5 {
            let issued = env.ca.issue(&Leaf::ponger("test"));
            env.install(&issued);
            wait_for_certificate(&client, &ponger, &issued);
        }
        stop.store(true, Ordering::Release);
        requests.join().unwrap();
    });
    let ok = "identity_refreshes_total{result=\"ok\",unit=\"certificate\"}";
    assert_eq!(ponger.metric(ok), 5.0);
    assert_eq!(ponger.metric(REJECTED), 0.0);
}

#[test]
fn rotates_roots_with_an_overlap() {
    let env = Env::new();
    let ponger = env.start();
    let new = Ca::new("new");
    let trusts_both = format!("{}{}", env.ca.pem(), new.pem());
    let old_client = TlsClient::new(&trusts_both, Some(&env.ca.issue(&Leaf::pinger("test"))));
    let new_client = TlsClient::new(&trusts_both, Some(&new.issue(&Leaf::pinger("test"))));
    let mut kept = connect_and_ping(&old_client, ponger.address);
    assert_eq!(wait_for_rejection(&new_client, &ponger), Some(Alert::UnknownCA));

    env.trust(&[&env.ca, &new]);
    connect_and_ping(&new_client, ponger.address);
    let issued = new.issue(&Leaf::ponger("test"));
    env.install(&issued);
    wait_for_certificate(&new_client, &ponger, &issued);
    // The old root is still trusted.
    ping(&mut kept);

    env.trust(&[&new]);
    wait_for_close(kept);
    assert_eq!(wait_for_rejection(&old_client, &ponger), Some(Alert::UnknownCA));
    connect_and_ping(&new_client, ponger.address);
}

#[test]
fn keeps_its_certificate_while_the_new_one_cannot_be_used() {
    let env = Env::new();
    let ponger = env.start();
    let client = env.pinger();
    let before = presented(&client, &ponger);
    let mut kept = connect_and_ping(&client, ponger.address);
    let issued = env.ca.issue(&Leaf::ponger("test"));
    let other = env.ca.issue(&Leaf::ponger("test"));
    env.install(&Issued { key: other.key, ..issued.clone() });
    ponger.wait_for_metric(REJECTED, 1.0);
    ponger.wait_for_value("identity_last_reload_successful{unit=\"certificate\"}", |it| it == 0.0);
    assert!(
        ponger.wait_for_readiness(200).contains("warning: the certificate on disk is rejected")
    );
    assert_eq!(presented(&client, &ponger), before);
    env.install(&issued);
    wait_for_certificate(&client, &ponger, &issued);
    assert_eq!(ponger.metric("identity_last_reload_successful{unit=\"certificate\"}"), 1.0);
    ping(&mut kept);
}

#[test]
fn closes_a_connection_when_the_clients_certificate_expires() {
    let (env, clock) = (Env::new(), ManualClock::new());
    env.install(&env.ca.issue(&Leaf::ponger("test").valid(-Validity::MINUTE, Validity::hours(12))));
    let ponger = start_with_clock(&env.config(), &clock);
    let short = connect_and_ping(&env.pinger(), ponger.address);
    let long = Leaf::pinger("test").valid(-Validity::MINUTE, Validity::hours(12));
    let mut long = connect_and_ping(&env.client_of(&long), ponger.address);
    clock.advance(HOURS_2);
    wait_for_close(short);
    ping(&mut long);
    let error = env.pinger().get(ponger.address, "/ping").unwrap_err();
    assert_eq!(alert(&error), Some(Alert::CertificateExpired));
}

#[test]
fn closes_connections_when_its_own_certificate_expires() {
    let (env, clock) = (Env::new(), ManualClock::new());
    let ponger = start_with_clock(&env.config(), &clock);
    let leaf = Leaf::pinger("test").valid(-Validity::MINUTE, Validity::hours(12));
    let client = env.client_of(&leaf);
    let old = connect_and_ping(&client, ponger.address);
    let issued = env.ca.issue(&Leaf::ponger("test").valid(-Validity::MINUTE, Validity::hours(12)));
    env.install(&issued);
    wait_for_certificate(&client, &ponger, &issued);
    let mut renewed = connect_and_ping(&client, ponger.address);
    clock.advance(HOURS_2);
    wait_for_close(old);
    ping(&mut renewed);
}

#[test]
fn is_not_ready_while_its_own_certificate_has_expired() {
    let (env, clock) = (Env::new(), ManualClock::new());
    let ponger = start_with_clock(&env.config(), &clock);
    ponger.wait_for_readiness(200);
    clock.advance(HOURS_2);
    assert_eq!(ponger.wait_for_readiness(503), "not ready: own certificate has expired\n");
    assert_eq!(ponger.admin_get("/livez").status, 200);
    let leaf = Leaf::ponger("test").valid(-Validity::MINUTE, Validity::hours(12));
    env.install(&env.ca.issue(&leaf));
    ponger.wait_for_readiness(200);
}

#[test]
fn closes_connections_of_a_root_that_expires() {
    let (env, clock) = (Env::new(), ManualClock::new());
    env.install(&env.ca.issue(&Leaf::ponger("test").valid(-Validity::MINUTE, Validity::hours(12))));
    let short = Ca::valid("short", -Validity::HOUR, Validity::HOUR);
    env.trust(&[&env.ca, &short]);
    let ponger = start_with_clock(&env.config(), &clock);
    // The leaf outlives its root, which chain verifiers do not check.
    let leaf = Leaf::pinger("test").valid(-Validity::MINUTE, Validity::hours(12));
    let client = env.client(Some(&short.issue(&leaf)));
    let kept = connect_and_ping(&client, ponger.address);
    clock.advance(HOURS_2);
    wait_for_close(kept);
    assert_eq!(wait_for_rejection(&client, &ponger), Some(Alert::UnknownCA));
    connect_and_ping(&env.client_of(&leaf), ponger.address);
}

#[test]
fn ignores_the_expiry_of_a_certificate_that_the_chain_does_not_need() {
    let env = Env::new();
    let ponger = env.start();
    let old = Ca::valid("old", -Validity::DAY, -Validity::HOUR);
    let mut issued = env.ca.issue(&Leaf::pinger("test"));
    issued.chain.push_str(old.pem());
    let mut kept = connect_and_ping(&env.client(Some(&issued)), ponger.address);
    // So that it is verified again.
    let new = Ca::new("new");
    env.trust(&[&env.ca, &new]);
    connect_and_ping(
        &TlsClient::new(env.ca.pem(), Some(&new.issue(&Leaf::pinger("test")))),
        ponger.address,
    );
    ping(&mut kept);
}

#[test]
fn does_not_hang_on_a_pipe_in_place_of_a_file() {
    let env = Env::new();
    let bundle = env.path("bundle.crt");
    write_private(&bundle, env.ca.pem()).unwrap();
    let ponger = env.start_with(|service| service.client_ca = Some(bundle.clone()));
    let pipe = env.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    std::fs::rename(&pipe, &bundle).unwrap();
    let rejected = "identity_refreshes_total{result=\"rejected\",unit=\"trust_bundle\"}";
    ponger.wait_for_metric(rejected, 1.0);
    let mut kept = connect_and_ping(&env.pinger(), ponger.address);
    let new = Ca::new("new");
    write_private(&bundle, &format!("{}{}", env.ca.pem(), new.pem())).unwrap();
    let client = TlsClient::new(env.ca.pem(), Some(&new.issue(&Leaf::pinger("test"))));
    connect_and_ping(&client, ponger.address);
    ping(&mut kept);
}

#[test]
fn responses_stay_whole_while_their_root_is_revoked() {
    const BURST: usize = 200;
    let env = Env::new();
    let ponger = env.start();
    let mut clients: Vec<_> =
        (0..4).map(|_| connect_and_ping(&env.pinger(), ponger.address)).collect();
    let served = "ponger_requests_total{code=\"200\",route=\"ping\"}";
    thread::scope(|scope| {
        let threads: Vec<_> = clients
            .iter_mut()
            .map(|connection| {
                scope.spawn(move || {
                    let burst = request("/ping", "keep-alive").repeat(BURST);
                    let mut denied = false;
                    loop {
                        if connection.send(burst.as_bytes()).is_err() {
                            return;
                        }
                        for _ in 0..BURST {
                            let mut first = [0];
                            // The end comes between two responses.
                            if !matches!(connection.read(&mut first), Ok(1)) {
                                return;
                            }
                            let mut rest = io::Cursor::new(first).chain(&mut *connection);
                            let status = read_response(&mut rest).unwrap().status;
                            assert!(status == 403 || (status == 200 && !denied), "{status}");
                            denied |= status == 403;
                        }
                    }
                })
            })
            .collect();
        ponger.wait_for_metric(served, 2000.0);
        env.trust(&[&Ca::new("new")]);
        for thread in threads {
            thread.join().unwrap();
        }
    });
    wait_for_connections(&ponger, 0);
    let count = ponger.metric(served);
    assert!(env.pinger().get(ponger.address, "/ping").is_err());
    assert_eq!(ponger.metric(served), count);
}

#[test]
fn closes_a_revoked_connection_whose_client_does_not_read() {
    let env = Env::new();
    let ponger = env.start();
    let mut connection = connect_and_ping(&env.pinger(), ponger.address);
    send_until_blocked(&mut connection);
    assert_eq!(ponger.metric("ponger_connections"), 1.0);
    env.trust(&[&Ca::new("new")]);
    wait_for_connections(&ponger, 0);
    drop(connection);
}

#[test]
fn reloads_at_once_on_request() {
    let env = Env::new();
    let mut config = env.config();
    config.identity.poll_interval = chassis::config::HumanDuration::seconds(3600);
    let ponger = start(&config);
    let client = env.pinger();
    connect_and_ping(&client, ponger.address);
    let issued = env.ca.issue(&Leaf::ponger("test"));
    env.install(&issued);
    ponger.signals.reload();
    wait_for_certificate(&client, &ponger, &issued);
}
