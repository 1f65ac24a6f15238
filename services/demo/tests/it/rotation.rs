//! Identities are replaced while both run, with nothing lost; and what is withdrawn is withdrawn.

use std::{fs, io::Read as _, os::unix::fs::symlink, path::Path, time::Duration};

use rustix::process::Signal;
use testkit::{Ca, Issued, Leaf, write_private};
use time::Duration as Validity;

use crate::support::{PATIENCE, PINGER, Service, Tls, World, exchange, get_kept, wait_until};

const REPLACED: &str = "Identity replaced";

/// Whether the peer ended the connection, in an orderly way, without sending anything more.
fn ended(mut stream: Tls) {
    stream.sock.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("an orderly end");
    assert!(rest.is_empty(), "{rest:?}");
}

fn ask(stream: &mut Tls) {
    assert_eq!(exchange(stream, &get_kept("/ping")).expect("an answer").2, "pong");
}

fn no_ping_is_lost(pinger: &mut Service) {
    let pongs = pinger.metric("pinger_pings_total{result=\"pong\"}");
    // What has just been replaced is in use.
    pinger.wait_for_metric("pinger_pings_total{result=\"pong\"}", |now| now >= pongs + 20.0);
    assert!(pinger.stop().success());
    assert_eq!(pinger.count("Lost ping"), 0);
    assert!(pinger.wait_for(" pings, ").contains(" 0 lost"));
}

/// Puts `issued` into `folder` as kubelet does: a new folder, a link that is swapped, the old one gone.
fn swap_as_kubelet(folder: &Path, round: usize, issued: &Issued) {
    let new = folder.join(format!("..{round}"));
    fs::create_dir(&new).expect("a folder");
    issued.write(&new).expect("files");
    symlink(format!("..{round}"), folder.join("..data_tmp")).expect("a link");
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect("a swap");
    for name in ["tls.crt", "tls.key"] {
        if !folder.join(name).is_symlink() {
            let _ = fs::remove_file(folder.join(name));
            symlink(format!("..data/{name}"), folder.join(name)).expect("a link");
        }
    }
    if round > 0 {
        fs::remove_dir_all(folder.join(format!("..{}", round - 1))).expect("to remove");
    }
}

#[test]
fn rotations_as_kubelet_does_them_leave_nothing_to_worry_about_in_the_log() {
    let world = World::new();
    let leaf = || world.ca.issue(&Leaf::ponger("test"));
    swap_as_kubelet(&world.path("ponger"), 0, &leaf());
    let ponger = world.ponger("");
    ponger.wait_for("Listening");
    for round in 1..=10 {
        swap_as_kubelet(&world.path("ponger"), round, &leaf());
        ponger.wait_for_nth(round, REPLACED);
    }
    let log = ponger.log();
    assert!(log.iter().all(|line| line.contains(" INFO ")), "{log:#?}");
}

#[test]
fn a_ticket_does_not_open_the_door_that_a_withdrawn_root_has_closed() {
    let world = World::new();
    let ponger = world.ponger("");
    // This client would resume: rustls keeps tickets by default.
    let client = world.good_client();
    for _ in 0..2 {
        let mut stream = client.connect(ponger.address()).expect("a connection");
        ask(&mut stream);
        assert_eq!(stream.conn.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
    let new = Ca::new("new");
    write_private(&world.path("ca.crt"), new.pem()).expect("the new root");
    ponger.wait_for(REPLACED);
    assert_eq!(client.refusal(ponger.address()), rustls::AlertDescription::UnknownCA);
}

#[test]
fn a_broken_set_harms_nobody_and_its_repair_is_taken() {
    let world = World::new();
    let ponger = world.ponger("");
    let mut pinger = world.pinger(&ponger, "");
    pinger.wait_for("Got pong");
    let other = world.ca.issue(&Leaf::ponger("test"));
    write_private(&world.path("ponger/tls.key"), &other.key).expect("another's key");
    let line = ponger.wait_for("Identity on disk refused");
    assert!(
        line.contains("it is not the key of the certificate") && line.contains("ERROR"),
        "{line}"
    );
    assert_eq!(ponger.metric("identity_refreshes_total{result=\"refused\"}"), 1.0);
    assert_eq!(ponger.admin_get("/readyz").0, 200);
    other.write(&world.path("ponger")).expect("a whole set");
    ponger.wait_for(REPLACED);
    no_ping_is_lost(&mut pinger);
}

#[test]
fn a_name_that_is_taken_away_loses_its_connections_and_is_denied() {
    let world = World::new();
    let ponger = world.ponger("");
    let client = world.good_client();
    let mut kept = client.connect(ponger.address()).expect("a connection");
    ask(&mut kept);
    let config = world.path("ponger.yaml");
    let text = fs::read_to_string(&config).expect("the configuration");
    fs::write(&config, text.replace(PINGER, "spiffe://cluster.local/ns/test/sa/other"))
        .expect("written");
    ponger.wait_for(REPLACED);
    ended(kept);
    assert_eq!(client.get(ponger.address(), "/ping").expect("an answer").0, 403);
}

#[test]
fn a_list_of_names_that_vanishes_lets_nobody_in_who_was_not_in_it() {
    let world = World::new();
    let ponger = world.ponger("");
    ponger.address();
    let config = world.path("ponger.yaml");
    let text = fs::read_to_string(&config).expect("the configuration");
    let without: String = text
        .lines()
        .filter(|line| !line.contains("allowedClients"))
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(&config, without).expect("written");
    let line = ponger.wait_for("Identity on disk refused");
    assert!(line.contains("the names of those who are let in are gone"), "{line}");
    let other = world.ca.issue(&Leaf::new().uri("spiffe://cluster.local/ns/test/sa/other"));
    assert_eq!(
        world.client(Some(&other)).get(ponger.address(), "/ping").expect("an answer").0,
        403
    );
}

// Certificates that end within a test leave it time enough to begin, on a machine that is busy.

#[test]
fn a_connection_does_not_outlive_the_clients_certificate() {
    let world = World::new();
    let ponger = world.ponger("");
    let brief = Leaf::pinger("test").valid(-Validity::MINUTE, Validity::seconds(15));
    let mut brief = world
        .client(Some(&world.ca.issue(&brief)))
        .connect(ponger.address())
        .expect("a connection");
    let mut long = world.good_client().connect(ponger.address()).expect("a connection");
    ask(&mut brief);
    ask(&mut long);
    ended(brief);
    ask(&mut long);
}

#[test]
fn a_connection_does_not_outlive_pongers_own_certificate() {
    let world = World::new();
    world.issue("ponger", &Leaf::ponger("test").valid(-Validity::MINUTE, Validity::seconds(15)));
    let ponger = world.ponger("");
    let mut kept = world.good_client().connect(ponger.address()).expect("a connection");
    ask(&mut kept);
    world.issue("ponger", &Leaf::ponger("test"));
    ponger.wait_for(REPLACED);
    let mut renewed = world.good_client().connect(ponger.address()).expect("a connection");
    ask(&mut renewed);
    ended(kept);
    ask(&mut renewed);
}

#[test]
fn a_root_that_expires_while_ponger_runs_vouches_no_longer() {
    let world = World::new();
    let brief = Ca::valid("brief", -Validity::HOUR, Validity::seconds(15));
    fs::write(world.path("ca.crt"), format!("{}{}", world.ca.pem(), brief.pem()))
        .expect("both roots");
    let ponger = world.ponger("");
    // The leaf outlives its root, which no verifier of chains looks at by itself.
    let leaf = brief.issue(&Leaf::pinger("test"));
    let client = world.client(Some(&leaf));
    let mut kept = client.connect(ponger.address()).expect("a connection");
    ask(&mut kept);
    ended(kept);
    assert_eq!(client.refusal(ponger.address()), rustls::AlertDescription::UnknownCA);
    assert_eq!(world.good_client().get(ponger.address(), "/ping").expect("an answer").0, 200);
}

#[test]
fn a_certificate_that_a_chain_does_not_need_may_have_expired() {
    let world = World::new();
    let ponger = world.ponger("");
    let old = Ca::valid("old", -Validity::DAY, -Validity::HOUR);
    let mut issued = world.ca.issue(&Leaf::pinger("test"));
    issued.chain.push_str(old.pem());
    let mut kept = world.client(Some(&issued)).connect(ponger.address()).expect("a connection");
    for _ in 0..10 {
        ask(&mut kept);
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_pipe_in_the_place_of_a_file_stops_nobody() {
    let world = World::new();
    let ponger = world.ponger("");
    ponger.address();
    let roots = world.path("ca.crt");
    fs::remove_file(&roots).expect("removed");
    assert!(std::process::Command::new("mkfifo").arg(&roots).status().expect("mkfifo").success());
    assert!(ponger.wait_for("Identity on disk refused").contains("it is not a regular file"));
    write_private(&roots, Ca::new("new").pem()).expect("another root");
    ponger.wait_for(REPLACED);
    let pipe = world.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    let text = format!("service: {{tlsCertificate: {0}, tlsPrivateKey: {0}}}\n", pipe.display());
    let mut other = Service::start("ponger", &world.write("pipe.yaml", &text));
    assert_eq!(other.ended().code(), Some(78));
}

#[test]
fn answers_stay_whole_while_their_root_is_withdrawn_and_none_follows() {
    use std::io::Write as _;
    let world = World::new();
    let ponger = world.ponger("");
    let address = ponger.address();
    let deadline = std::time::Instant::now() + PATIENCE;
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let mut stream = world.good_client().connect(address).expect("a connection");
            // Each sends many requests at once, which ponger reads before it answers the first.
            std::thread::spawn(move || {
                loop {
                    assert!(std::time::Instant::now() < deadline, "still served");
                    if stream
                        .write_all(get_kept("/ping").repeat(200).as_bytes())
                        .and_then(|()| stream.flush())
                        .is_err()
                    {
                        return;
                    }
                    for _ in 0..200 {
                        let mut first = [0];
                        match stream.read(&mut first) {
                            // The end comes before an answer's first byte, or not at all.
                            Ok(0) | Err(_) => return,
                            Ok(_) => {}
                        }
                        let mut rest = std::io::Cursor::new(first).chain(&mut stream);
                        let answer =
                            crate::support::read_answer(&mut rest).expect("a whole answer");
                        assert!(matches!(answer.0, 200 | 403), "{answer:?}");
                    }
                }
            })
        })
        .collect();
    ponger.wait_for_nth(2000, "Received GET /ping");
    write_private(&world.path("ca.crt"), Ca::new("new").pem()).expect("another root");
    for client in clients {
        client.join().expect("no torn answer");
    }
    ponger.wait_for_metric("ponger_connections", |open| open == 0.0);
    let log = ponger.log();
    let at = log.iter().position(|line| line.contains(REPLACED)).expect("the replacement");
    let after =
        log[at..].iter().filter(|line| line.contains("Received GET /ping status=200")).count();
    // One of each worker may have been under way when the line was written.
    assert!(after <= 8, "{after} requests were answered after the root was withdrawn");
}

#[test]
fn sighup_is_an_order_to_look_now() {
    let world = World::new();
    let ponger = world.ponger("");
    let pinger = world.pinger(&ponger, "");
    pinger.wait_for("Got pong");
    for service in [&ponger, &pinger] {
        service.signal(Signal::HUP);
        service.wait_for("Identity looked at: unchanged");
    }
}

#[test]
fn ends_of_certificates_are_metrics_that_stay_and_are_warned_about() {
    let world = World::new();
    let end = Validity::minutes(10);
    world.issue("ponger", &Leaf::ponger("test").valid(-Validity::HOUR, end));
    let mut ponger = world.ponger("");
    let pinger = world.pinger(&ponger, "");
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_secs_f64();
    let near = |value: f64| (value - now - 600.0).abs() < 120.0;
    let metric = |role| format!("identity_cert_expiration_timestamp_seconds{{role=\"{role}\"}}");
    ponger.wait_for_metric(&metric("own"), near);
    ponger.wait_for_metric(&metric("peer"), |value| value > now);
    ponger.wait_for_metric(&metric("roots"), |value| value > now + 3600.0);
    pinger.wait_for_metric(&metric("peer"), near);
    let line = ponger.wait_for("Certificate expires soon");
    assert!(line.contains("certificate=\"our own\"") && line.contains("WARN"), "{line}");
    assert!(pinger.wait_for("Certificate expires soon").contains("ponger's"));
    ponger.stop();
    pinger.wait_for("Lost ping");
    assert!(near(pinger.metric(&metric("peer"))));
    assert_eq!(pinger.count("Certificate expires soon"), 1, "and not at every ping");
}

#[test]
fn an_identity_whose_end_has_come_is_said_and_its_successor_is_taken() {
    let world = World::new();
    world.issue("ponger", &Leaf::ponger("test").valid(-Validity::MINUTE, Validity::seconds(8)));
    let ponger = world.ponger("");
    ponger.wait_for("Certificate has expired");
    let status = |wanted| {
        wait_until("readiness", || (ponger.admin_get("/readyz").0 == wanted).then_some(()));
    };
    status(503);
    let pinger = world.pinger(&ponger, "");
    pinger.wait_for("reason=\"tls_expired\"");
    world.issue("ponger", &Leaf::ponger("test"));
    pinger.wait_for("Got pong");
    status(200);
    wait_until("a moment of pongs", || {
        std::thread::sleep(Duration::from_millis(1));
        (pinger.count("Got pong") > 10).then_some(())
    });
}
