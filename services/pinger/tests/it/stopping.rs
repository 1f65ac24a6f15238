//! The end: the summary, and what becomes of a ping in flight.

use std::{
    sync::{Mutex, mpsc},
    time::Duration,
};

use testkit::Leaf;

use crate::support::{Env, accept, ms, pings, respond, server_tls, until_closed};

#[test]
fn sums_up_all_pings() {
    let env = Env::new();
    let ponger = env.start_ponger(&env.ponger_config());
    let pinger = env.start_pinger(&env.pinger_config(ponger.address));
    pinger.wait_for_metric(&pings("pong"), 3.0);
    assert_eq!(pinger.wait_for_readiness(200), "ready\n");
    let summary = pinger.stop().unwrap();
    assert!(summary.pongs() >= 3 && summary.lost() == 0, "{summary}");
    let expected = format!("{0} pings, {0} pongs, 0 lost; median ", summary.pongs());
    assert!(summary.to_string().starts_with(&expected), "{summary}");
}

#[test]
fn stops_in_a_pause() {
    let env = Env::new();
    let mut config = env.pinger_config(env.serve(drop));
    // The random pause is hardly ever short.
    config.interval.0 = Duration::from_secs(365 * 24 * 3600);
    let summary = env.start_pinger(&config).stop().unwrap();
    assert_eq!(summary.to_string(), "0 pings, 0 pongs, 0 lost");
}

#[test]
fn exits_after_a_number_of_pings() {
    let env = Env::new();
    let ponger = env.start_ponger(&env.ponger_config());
    let mut config = env.pinger_config(ponger.address);
    config.count = 5;
    let (summary, log) = env.start_pinger(&config).wait_with_log();
    let summary = summary.unwrap();
    assert_eq!((summary.pings(), summary.pongs()), (5, 5));
    let sent = |seq| log.iter().any(|line| line.contains(&format!("Sent ping seq={seq}")));
    assert!((1..=5).all(sent) && !sent(6), "{log:#?}");
    assert!(log.last().is_some_and(|line| line.contains("5 pings, 5 pongs, 0 lost")), "{log:#?}");
}

/// A server that reports each request, and responds when the test lets it.
fn waiting_server(env: &Env) -> (std::net::SocketAddr, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let tls = server_tls(&env.ca.issue(&Leaf::ponger("test")), None);
    let (request, requests) = mpsc::channel();
    let (go_on, permissions) = mpsc::channel();
    let channels = Mutex::new((request, permissions));
    let address = env.serve(move |tcp| {
        if let Some(mut stream) = accept(&tls, tcp) {
            let channels = channels.lock().unwrap();
            channels.0.send(()).unwrap();
            if channels.1.recv().is_ok() {
                respond(&mut stream, "200 OK", "pong");
            }
            until_closed(&mut stream);
        }
    });
    (address, requests, go_on)
}

#[test]
fn waits_for_the_ping_in_flight() {
    let env = Env::new();
    let (address, requests, go_on) = waiting_server(&env);
    let pinger = env.start_pinger(&env.pinger_config(address));
    requests.recv().unwrap();
    pinger.signals.stop("SIGTERM");
    pinger.wait_for("waiting for the ping in flight");
    go_on.send(()).unwrap();
    let summary = pinger.wait().unwrap();
    assert_eq!((summary.pings(), summary.pongs()), (1, 1), "{summary}");
}

#[test]
fn aborts_the_ping_in_flight_after_the_drain_timeout() {
    let env = Env::new();
    let (address, requests, _go_on) = waiting_server(&env);
    let mut config = env.pinger_config(address);
    config.drain_timeout = ms(50);
    let pinger = env.start_pinger(&config);
    requests.recv().unwrap();
    let summary = pinger.stop().unwrap();
    assert_eq!(summary.to_string(), "1 ping, 0 pongs, 1 lost (shutdown 1)");
}

#[test]
fn ends_at_once_after_a_second_signal() {
    let env = Env::new();
    let (address, requests, _go_on) = waiting_server(&env);
    let pinger = env.start_pinger(&env.pinger_config(address));
    requests.recv().unwrap();
    pinger.signals.stop("SIGTERM");
    pinger.signals.stop("SIGINT");
    let error = pinger.wait().unwrap_err().to_string();
    assert_eq!(error, "stopped by a second SIGINT with a ping in flight");
}
