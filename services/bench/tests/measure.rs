//! Measurements of the server on hyper, and of peers that are none.

use std::{path::PathBuf, time::Duration};

use bench::{
    client::{Client, Groups, KeepAlive},
    credentials::{Credentials, Setup},
    load::{self, Load},
    measure::{Effort, Measurement, Outcome, measure},
    peer::{self, Kind, Peer},
    run::probe,
    server::Server,
};
use testkit::wait_until_async;

const EFFORT: Effort =
    Effort { warm_up: Duration::ZERO, duration: Duration::from_millis(100), processors: 1 };

fn hyper() -> Peer {
    let [server, client] =
        [env!("CARGO_BIN_EXE_hyper-server"), env!("CARGO_BIN_EXE_hyper-client")].map(PathBuf::from);
    Peer { name: "hyper".into(), version: String::new(), kind: Kind::Hyper { server, client } }
}

/// The values of a measurement, by the names of their metrics.
async fn values(measurement: Measurement, setup: &Setup) -> Vec<(&'static str, f64)> {
    let credentials = Credentials::create(setup).expect("certificates");
    match measure(measurement, &hyper(), setup, &credentials, &EFFORT).await.expect("values") {
        Outcome::Values(values) => {
            values.into_iter().map(|(metric, value)| (metric.name, value)).collect()
        }
        Outcome::Unsupported(why) => panic!("unsupported: {why}"),
    }
}

#[tokio::test]
async fn loses_no_ping_on_kept_and_on_new_connections() {
    // Chains and bundles of more than one certificate, too.
    let setup = Setup { roots: 3, chain: 3, ..Setup::MINIMAL };
    let credentials = Credentials::create(&setup).expect("certificates");
    let server = Server::start(&hyper(), &setup, &credentials).await.expect("a server");
    for (keep_alive, groups) in [
        (KeepAlive::Yes, Groups::Hybrid),
        (KeepAlive::No, Groups::Hybrid),
        (KeepAlive::No, Groups::X25519),
    ] {
        let client = Client::new(&credentials, groups).expect("a client");
        let Effort { warm_up, duration, .. } = EFFORT;
        let load = Load { connections: 4, keep_alive, warm_up, duration };
        let counts = load::run(&client, &server, load).await.expect("counts");
        assert_eq!(counts.lost, 0, "{keep_alive:?}, {groups:?}");
        assert!(counts.latencies.is_sorted());
        assert!(counts.elapsed >= duration);
        assert!(counts.server_memory.proportional > 0);
    }
}

#[tokio::test]
async fn counts_lost_pings() {
    let credentials = Credentials::create(&Setup::MINIMAL).expect("certificates");
    let server = Server::start(&hyper(), &Setup::MINIMAL, &credentials).await.expect("a server");
    let others = Credentials::create(&Setup::MINIMAL).expect("certificates");
    let untrusted = Client::new(&others, Groups::Hybrid).expect("a client");
    let Effort { warm_up, duration, .. } = EFFORT;
    let load = Load { connections: 1, keep_alive: KeepAlive::No, warm_up, duration };
    // On a busy machine, not even one may be lost in a short time.
    let lost = wait_until_async("a lost ping", async || {
        let counts = load::run(&untrusted, &server, load).await.expect("counts");
        assert!(counts.latencies.is_empty(), "{counts:?}");
        (counts.lost > 0).then_some(counts.lost)
    });
    lost.await;
}

#[tokio::test]
async fn measures_memory_and_latency() {
    let memory = values(Measurement::Memory { connections: 20 }, &Setup::MINIMAL).await;
    assert!(memory.iter().all(|(_, value)| *value > 0.0), "{memory:?}");
    let latency = values(Measurement::Latency { silent: 20 }, &Setup::MINIMAL).await;
    let [(_, p50), (_, p99)] = latency[..] else { panic!("two values: {latency:?}") };
    assert!(0.0 < p50 && p50 <= p99, "{latency:?}");
}

#[tokio::test]
async fn measures_the_client_of_a_peer() {
    let [("client CPU a ping, µs", each)] = values(Measurement::Ping, &Setup::MINIMAL).await[..]
    else {
        panic!("one value")
    };
    assert!(each > 0.0);
}

#[tokio::test]
async fn says_what_a_peer_negotiates() {
    let negotiated = probe(&hyper()).await.expect("a server");
    assert!(negotiated.starts_with("TLSv1_3, "), "{negotiated}");
    assert!(negotiated.ends_with("X25519MLKEM768, client certificate"), "{negotiated}");
}

#[tokio::test]
async fn names_what_a_peer_printed_before_it_ended() {
    let peer = peer::parse("broken=echo the reason; exit 3").expect("a peer");
    let error = probe(&peer).await.expect_err("no server");
    assert_eq!(format!("{error:#}"), "it ended at start: the reason\n");
}
