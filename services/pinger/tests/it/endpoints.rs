//! Several endpoints behind one name, each pinged by itself.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, mpsc},
};

use pinger::{config::EndpointSelection, resolver::Resolver};
use testkit::{Leaf, wait_until};

use crate::support::{
    Env, Pinger, Ponger, accept, ms, pings, respond, server_tls, until_closed, wait_for_further,
};

const IPS: [IpAddr; 3] = [ip(1), ip(2), ip(3)];

const fn ip(host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, host))
}

/// A name whose addresses the test changes; `None` cannot be resolved.
#[derive(Clone, Default)]
struct Name(Arc<Mutex<Option<Vec<IpAddr>>>>);

impl Name {
    fn of(addresses: &[IpAddr]) -> Self {
        let name = Self::default();
        name.set(Some(addresses));
        name
    }

    fn set(&self, addresses: Option<&[IpAddr]>) {
        *self.0.lock().unwrap() = addresses.map(<[_]>::to_vec);
    }

    fn resolver(&self) -> Resolver {
        let name = self.clone();
        Resolver::new(move |_| name.0.lock().unwrap().clone().ok_or(io::ErrorKind::NotFound.into()))
    }
}

/// A ponger at `address`.
fn ponger_at(env: &Env, address: SocketAddr) -> Ponger {
    let mut config = env.ponger_config();
    (config.service.host, config.service.port) = (address.ip(), address.port());
    env.start_ponger(&config)
}

/// A pinger of each endpoint behind a name.
fn config(env: &Env, port: u16) -> pinger::Config {
    let mut config = env.pinger_config((IPS[0], port).into());
    config.ponger.url = Some(format!("https://ponger:{port}"));
    config.ponger.endpoints = EndpointSelection::All;
    config.ponger.resolve_interval = ms(10);
    config
}

/// The metric of an endpoint's pings with `result`.
fn pings_of(endpoint: IpAddr, result: &str) -> String {
    format!("pinger_endpoint_pings_total{{endpoint=\"{endpoint}\",result=\"{result}\"}}")
}

fn has_series(pinger: &Pinger, endpoint: IpAddr) -> bool {
    pinger.admin_get("/metrics").body.contains(&format!("endpoint=\"{endpoint}\""))
}

#[test]
fn a_bad_replica_among_three_is_named() {
    let env = Env::new();
    let good = env.start_ponger(&env.ponger_config());
    let port = good.address.port();
    let _also_good = ponger_at(&env, (IPS[1], port).into());
    // Nothing listens at the third address.
    let pinger = env.start_pinger_with(&config(&env, port), Name::of(&IPS).resolver());
    pinger.wait_for_metric(&pings_of(IPS[2], "connect_refused"), 2.0);
    for endpoint in &IPS[..2] {
        pinger.wait_for_metric(&pings_of(*endpoint, "pong"), 2.0);
        assert_eq!(pinger.metric(&pings_of(*endpoint, "connect_refused")), 0.0);
    }
    assert_eq!(pinger.metric(&pings_of(IPS[2], "pong")), 0.0);
    assert_eq!(pinger.metric("pinger_endpoints"), 3.0);
    assert!(pinger.metric("pinger_endpoint_pong_seconds_total{endpoint=\"127.0.0.1\"}") > 0.0);
    let line = pinger.wait_for("Lost ping");
    assert!(line.contains("endpoint=127.0.0.3 reason=\"connect_refused\""), "{line}");
    let line = pinger.wait_for("Endpoints changed endpoints=3");
    assert!(line.contains("added=\"127.0.0.1 127.0.0.2 127.0.0.3\""), "{line}");
    let page = pinger.admin_get("/").body.replace("<wbr>", "");
    for endpoint in IPS {
        assert!(pinger.count(&format!("endpoint={endpoint}")) > 0, "{endpoint}");
        assert!(page.contains(&format!("{endpoint}:{port}")), "{endpoint}: {page}");
    }
    let summary = pinger.stop().unwrap();
    assert!(summary.pongs() >= 4 && summary.lost() >= 2, "{summary}");
}

#[test]
fn endpoints_follow_the_name() {
    let env = Env::new();
    let ponger = env.start_ponger(&env.ponger_config());
    let port = ponger.address.port();
    let _others = [1, 2].map(|at: usize| ponger_at(&env, (IPS[at], port).into()));
    let name = Name::of(&IPS[..2]);
    let pinger = env.start_pinger_with(&config(&env, port), name.resolver());
    for endpoint in &IPS[..2] {
        pinger.wait_for_metric(&pings_of(*endpoint, "pong"), 1.0);
    }
    name.set(Some(&IPS[1..]));
    pinger.wait_for_metric(&pings_of(IPS[2], "pong"), 1.0);
    // A ping in flight may end after its endpoint has left.
    wait_until("its metrics are removed", || (!has_series(&pinger, IPS[0])).then_some(()));
    wait_for_further(&pinger, "pong", 5);
    assert!(!has_series(&pinger, IPS[0]));
    let line = pinger.wait_for("removed=");
    assert!(line.contains("added=\"127.0.0.3\" removed=\"127.0.0.1\""), "{line}");

    // It is pinged again when it comes back.
    name.set(Some(&IPS));
    pinger.wait_for_metric(&pings_of(IPS[0], "pong"), 1.0);
    assert_eq!(pinger.metric("pinger_endpoints"), 3.0);
    assert_eq!(pinger.stop().unwrap().lost(), 0);
}

#[test]
fn a_failed_resolution_is_a_lost_ping_and_keeps_the_endpoints() {
    let env = Env::new();
    let ponger = env.start_ponger(&env.ponger_config());
    let name = Name::default();
    let pinger = env.start_pinger_with(&config(&env, ponger.address.port()), name.resolver());
    pinger.wait_for_metric(&pings("resolve"), 2.0);
    let line = pinger.wait_for("Lost ping");
    assert!(line.contains("reason=\"resolve\"") && !line.contains("endpoint="), "{line}");
    name.set(Some(&IPS[..1]));
    pinger.wait_for_metric(&pings_of(IPS[0], "pong"), 1.0);
    name.set(None);
    wait_for_further(&pinger, "resolve", 1);
    let pongs = pings_of(IPS[0], "pong");
    pinger.wait_for_metric(&pongs, pinger.metric(&pongs) + 2.0);
}

#[test]
fn the_number_of_pings_is_that_of_all_endpoints() {
    let env = Env::new();
    let ponger = env.start_ponger(&env.ponger_config());
    let port = ponger.address.port();
    let _other = ponger_at(&env, (IPS[1], port).into());
    let mut config = config(&env, port);
    config.count = 7;
    let pinger = env.start_pinger_with(&config, Name::of(&IPS[..2]).resolver());
    let (summary, log) = pinger.wait_with_log();
    assert_eq!(summary.unwrap().to_string().split(';').next(), Some("7 pings, 7 pongs, 0 lost"));
    for seq in 1..=7 {
        for message in ["Sent ping", "Got pong"] {
            let line = format!("{message} seq={seq} ");
            assert_eq!(log.iter().filter(|text| text.contains(&line)).count(), 1, "{line}");
        }
    }
}

#[test]
fn more_endpoints_than_the_limit_are_left_out_with_a_warning() {
    let env = Env::new();
    let many: Vec<_> = (1..=102).map(ip).collect();
    let pinger = env.start_pinger_with(&config(&env, 1), Name::of(&many).resolver());
    let line = pinger.wait_for("Too many endpoints");
    assert!(line.contains(" WARN ") && line.contains("endpoints=100 left_out=2"), "{line}");
    assert_eq!(pinger.metric("pinger_endpoints"), 100.0);
}

#[test]
fn the_node_is_in_the_log_and_on_the_page() {
    let env = Env::new();
    let mut config = config(&env, 1);
    config.node = Some("node-1".into());
    let pinger = env.start_pinger_with(&config, Name::default().resolver());
    assert!(pinger.wait_for("Pinging ").contains("node=\"node-1\""));
    assert!(pinger.admin_get("/").body.contains("on node node-1"));
}

/// A server at two endpoints, which reports each request, and responds when the test lets it.
fn waiting_servers(env: &Env) -> (u16, mpsc::Receiver<()>, Arc<Mutex<()>>) {
    let tls = server_tls(&env.ca.issue(&Leaf::ponger("test")), None);
    let (request, requests) = mpsc::channel();
    let held = Arc::<Mutex<()>>::default();
    let serve = |address: SocketAddr| {
        let (tls, request, held) = (tls.clone(), request.clone(), Arc::clone(&held));
        env.serve_at(address, move |tcp| {
            let Some(mut stream) = accept(&tls, tcp) else { return };
            request.send(()).unwrap();
            drop(held.lock());
            respond(&mut stream, "200 OK", "pong");
            until_closed(&mut stream);
        })
    };
    let port = serve((IPS[0], 0).into()).port();
    serve((IPS[1], port).into());
    (port, requests, held)
}

#[test]
fn waits_for_the_pings_in_flight_of_all_endpoints() {
    let env = Env::new();
    let (port, requests, held) = waiting_servers(&env);
    let holding = held.lock().unwrap();
    let pinger = env.start_pinger_with(&config(&env, port), Name::of(&IPS[..2]).resolver());
    for _ in 0..2 {
        requests.recv().unwrap();
    }
    pinger.signals.stop("SIGTERM");
    let line = pinger.wait_for("waiting for the ping in flight");
    assert!(line.contains("pings=2"), "{line}");
    drop(holding);
    let summary = pinger.wait().unwrap();
    assert_eq!((summary.pings(), summary.pongs()), (2, 2), "{summary}");
}

#[test]
fn aborts_the_pings_in_flight_of_all_endpoints_after_the_drain_timeout() {
    let env = Env::new();
    let (port, requests, held) = waiting_servers(&env);
    let holding = held.lock().unwrap();
    let mut config = config(&env, port);
    config.drain_timeout = ms(0);
    let pinger = env.start_pinger_with(&config, Name::of(&IPS[..2]).resolver());
    for _ in 0..2 {
        requests.recv().unwrap();
    }
    let summary = pinger.stop().unwrap();
    assert_eq!(summary.to_string(), "2 pings, 0 pongs, 2 lost (shutdown 2)");
    drop(holding);
}

#[test]
fn the_replica_that_accepts_untrusted_clients_is_named() {
    let env = Env::new();
    let strict = env.start_ponger(&env.ponger_config());
    let port = strict.address.port();
    let mut open = env.ponger_config();
    (open.service.host, open.service.port) = (IPS[1], port);
    open.service.client_ca = None;
    open.service.allowed_clients.clear();
    let _open = env.start_ponger(&open);
    let mut config = config(&env, port);
    config.rejection_probe.interval = ms(20);
    let pinger = env.start_pinger_with(&config, Name::of(&IPS[..2]).resolver());
    for credential in ["no_certificate", "invalid_signature"] {
        for result in ["accepted", "rejected"] {
            let labels = format!("credential=\"{credential}\",result=\"{result}\"");
            pinger.wait_for_metric(&format!("pinger_rejection_probes_total{{{labels}}}"), 2.0);
        }
    }
    let failed = "Rejection probe failed: ponger accepted an untrusted client";
    let line = pinger.wait_for(failed);
    assert!(line.contains("endpoint=127.0.0.2"), "{line}");
    for credential in ["no_certificate", "invalid_signature"] {
        let of_strict = format!("{failed} credential=\"{credential}\" endpoint=127.0.0.1");
        assert_eq!(pinger.count(&of_strict), 0);
    }
}

#[test]
fn each_endpoint_keeps_a_connection_of_its_own() {
    let env = Env::new();
    let ponger = env.start_ponger(&env.ponger_config());
    let port = ponger.address.port();
    let other = ponger_at(&env, (IPS[1], port).into());
    let mut config = config(&env, port);
    config.ponger.keep_alive = ms(3_600_000);
    let pinger = env.start_pinger_with(&config, Name::of(&IPS[..2]).resolver());
    for endpoint in &IPS[..2] {
        pinger.wait_for_metric(&pings_of(*endpoint, "pong"), 3.0);
    }
    for ponger in [&ponger, &other] {
        assert_eq!(ponger.metric("ponger_connections"), 1.0);
    }
    assert_eq!(pinger.stop().unwrap().lost(), 0);
}
