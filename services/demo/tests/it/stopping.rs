//! Ends well: drained, bounded, and nothing lost.

use std::{
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use rustix::process::Signal;

use crate::support::{World, exchange, get, get_kept, read_answer, read_to_end, wait_until};

#[test]
fn both_signals_end_both_services_with_success() {
    for signal in [Signal::TERM, Signal::INT] {
        let world = World::new();
        let mut ponger = world.ponger("");
        let mut pinger = world.pinger(&ponger, "");
        pinger.wait_for("Got pong");
        pinger.signal(signal);
        assert_eq!(pinger.ended().code(), Some(0));
        assert!(pinger.wait_for(" pings, ").contains("median"));
        ponger.signal(signal);
        assert_eq!(ponger.ended().code(), Some(0));
        ponger.wait_for("Stopped: all connections have ended");
    }
}

#[test]
fn a_ping_in_flight_at_the_signal_is_still_recorded() {
    let world = World::new();
    // A ponger that takes the connection and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let port = silent.local_addr().expect("its address").port();
    let config = world.pinger_config(port, "drainTimeout: 200ms\n");
    let mut pinger = crate::support::Service::start("pinger", &config);
    let (_stream, _) = silent.accept().expect("the ping");
    assert!(pinger.stop().success());
    assert!(pinger.wait_for("Lost ping").contains("reason=\"shutdown\""));
    assert!(pinger.wait_for(" pings, ").contains("1 lost (shutdown 1)"));
}

