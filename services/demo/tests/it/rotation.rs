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

#[test]
fn leaves_are_replaced_on_both_sides_and_no_ping_is_lost() {
    let world = World::new();
    let ponger = world.ponger("");
    let mut pinger = world.pinger(&ponger, "");
    pinger.wait_for("Got pong");
    for round in 1..=5 {
        world.issue("ponger", &Leaf::ponger("test"));
        world.issue("pinger", &Leaf::pinger("test"));
        ponger.wait_for_nth(round, REPLACED);
        pinger.wait_for_nth(round, REPLACED);
    }
    for service in [&ponger, &pinger] {
        assert_eq!(service.metric("identity_refreshes_total{result=\"ok\"}"), 5.0);
        assert_eq!(service.metric("identity_refreshes_total{result=\"refused\"}"), 0.0);
    }
    no_ping_is_lost(&mut pinger);
}

#[test]
fn the_systems_roots_are_followed_too() {
    let world = World::new();
    let ponger = world.ponger("");
    let config = world.pinger_config(ponger.address().port(), "");
    let text = fs::read_to_string(&config).expect("the configuration");
    let without: Vec<_> = text.lines().filter(|line| !line.contains("acceptCert")).collect();
    fs::write(&config, without.join("\n")).expect("written");
    let bundle = world.write("system.crt", world.ca.pem());
    let variables = [("SSL_CERT_FILE", bundle.to_str().expect("text"))];
    let pinger = Service::start_with("pinger", &config, &variables);
    pinger.wait_for("Got pong");
    fs::write(&bundle, Ca::new("another").pem()).expect("written");
    pinger.wait_for("reason=\"tls_untrusted\"");
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
fn roots_are_rotated_with_overlap_and_no_ping_is_lost() {
    for keep_alive in ["0s", "60s"] {
        let world = World::new();
        let ponger = world.ponger("");
        let config = world.pinger_config(ponger.address().port(), "");
        let text = fs::read_to_string(&config).expect("the configuration");
        fs::write(
            &config,
            text.replacen("ponger:\n", &format!("ponger:\n  keepAlive: {keep_alive}\n"), 1),
        )
        .expect("written");
        let mut pinger = Service::start("pinger", &config);
        pinger.wait_for("Got pong");
        let old_client = world.good_client();
        let mut old_kept = old_client.connect(ponger.address()).expect("a connection");
        ask(&mut old_kept);

        let new = Ca::new("new");
        let both_replaced = |round| {
            ponger.wait_for_nth(round, REPLACED);
            pinger.wait_for_nth(round, REPLACED);
        };
        write_private(&world.path("ca.crt"), &format!("{}{}", world.ca.pem(), new.pem()))
            .expect("both roots");
        both_replaced(1);
        new.issue(&Leaf::ponger("test")).write(&world.path("ponger")).expect("ponger's leaf");
        new.issue(&Leaf::pinger("test")).write(&world.path("pinger")).expect("pinger's leaf");
        both_replaced(2);
        // What the old root let in is still there.
        ask(&mut old_kept);
        write_private(&world.path("ca.crt"), new.pem()).expect("the new root");
        both_replaced(3);

        ended(old_kept);
        let trusts_both = format!("{}{}", world.ca.pem(), new.pem());
        let old_leaf = world.ca.issue(&Leaf::pinger("test"));
        let old = crate::support::Client::new(&trusts_both, Some(&old_leaf));
        assert_eq!(old.refusal(ponger.address()), rustls::AlertDescription::UnknownCA);
        no_ping_is_lost(&mut pinger);
    }
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

// Certificates that end within a test leave it time enough to begin, on a machine that is busy.

#[test]
fn pingers_kept_connection_is_not_used_past_a_withdrawn_root() {
    let world = World::new();
    let ponger = world.ponger("");
    // Its trust bundle is a file of its own, so that ponger's does not change.
    fs::write(world.path("pinger-roots.crt"), world.ca.pem()).expect("the root");
    let config = world.pinger_config(ponger.address().port(), "");
    let text = fs::read_to_string(&config).expect("the configuration");
    let text = text.replace("/ca.crt", "/pinger-roots.crt").replacen(
        "ponger:\n",
        "ponger:\n  keepAlive: 60s\n",
        1,
    );
    fs::write(&config, text).expect("written");
    let pinger = Service::start("pinger", &config);
    pinger.wait_for("kept=true");
    write_private(&world.path("pinger-roots.crt"), Ca::new("new").pem()).expect("another root");
    let line = pinger.wait_for("Lost ping");
    assert!(line.contains("reason=\"tls_untrusted\""), "{line}");
    // One connection was made at first, and none succeeded after that.
    assert_eq!(ponger.metric("pinger_pings_total{result=\"pong\"}"), 0.0);
}

/// A pinger that keeps its connection, with `interval` between pings.
fn keeping_pinger(world: &World, ponger: &Service) -> Service {
    let config = world.pinger_config(ponger.address().port(), "timeout: 1s\n");
    let text = fs::read_to_string(&config).expect("the configuration");
    fs::write(&config, text.replacen("ponger:\n", "ponger:\n  keepAlive: 1h\n", 1))
        .expect("written");
    Service::start("pinger", &config)
}

#[test]
fn pingers_kept_connection_is_not_used_past_its_own_certificate() {
    let world = World::new();
    let ponger = world.ponger("");
    world.issue("pinger", &Leaf::pinger("test").valid(-Validity::MINUTE, Validity::seconds(15)));
    let pinger = keeping_pinger(&world, &ponger);
    pinger.wait_for("kept=true");
    // From then on every ping shows the certificate anew, and is refused.
    let line = pinger.wait_for("reason=\"tls_refused_by_peer\"");
    assert!(line.contains("certificate_expired"), "{line}");
    // The first refusal may be of a request whose handshake was still in time; such a one comes
    // after pongs on new connections, and not after those on the kept one.
    let log = pinger.log();
    let refused = |line: &String| line.contains("\"denied\"") || line.contains("refused_by_peer");
    let first = log.iter().position(refused).expect("the refusal");
    let pong = log[..first].iter().rfind(|line| line.contains("Got pong")).expect("a pong");
    let at_the_door = log[first].contains("refused_by_peer");
    assert!(at_the_door || pong.contains("kept=false"), "{pong}\n{}", log[first]);
}

#[test]
fn a_dead_kept_connection_is_not_the_reason_of_the_next_ping() {
    let world = World::new();
    let mut ponger = world.ponger("");
    let pinger = keeping_pinger(&world, &ponger);
    pinger.wait_for("kept=true");
    ponger.signal(Signal::KILL);
    ponger.ended();
    pinger.wait_for("reason=\"connect_refused\"");
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
