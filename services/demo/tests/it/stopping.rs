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
fn while_draining_ponger_answers_and_says_close_and_is_alive_and_not_ready() {
    let world = World::new();
    let config = world.ponger_config("");
    let text = std::fs::read_to_string(&config).expect("the configuration");
    std::fs::write(&config, text.replace("drainDelay: 0s", "drainDelay: 30s")).expect("written");
    let mut ponger = crate::support::Service::start("ponger", &config);
    let client = world.good_client();
    let mut kept = client.connect(ponger.address()).expect("a connection");
    let (_, headers, _) = exchange(&mut kept, &get_kept("/ping")).expect("an answer");
    assert!(!headers.contains(&"connection: close".to_owned()));

    ponger.signal(Signal::TERM);
    wait_until("not ready", || (ponger.admin_get("/readyz").0 == 503).then_some(()));
    assert_eq!(ponger.admin_get("/readyz").1, "not ready: draining\n");
    assert_eq!(ponger.admin_get("/livez").0, 200);
    let (status, headers, _) = exchange(&mut kept, &get_kept("/ping")).expect("an answer");
    assert_eq!(status, 200);
    assert!(headers.contains(&"connection: close".to_owned()), "{headers:?}");
    read_to_end(&mut kept).expect("an orderly end");
    assert_eq!(client.get(ponger.address(), "/ping").expect("a new connection").0, 200);

    // A second signal ends it at once, which is no success.
    // One that comes at once after the first is the same, so it is sent until it counts.
    let status = wait_until("the end", || {
        ponger.signal(Signal::TERM);
        ponger.try_ended()
    });
    assert_eq!(status.code(), Some(1));
}

#[test]
fn idle_connections_end_and_what_was_sent_is_answered() {
    let world = World::new();
    let mut ponger = world.ponger("");
    let client = world.good_client();
    let mut idle = client.connect(ponger.address()).expect("a connection");
    exchange(&mut idle, &get_kept("/ping")).expect("an answer");
    let mut busy = client.connect(ponger.address()).expect("a connection");
    // The request is on its way when the signal comes.
    busy.write_all(get("/ping").as_bytes()).expect("written");
    busy.flush().expect("sent");
    ponger.signal(Signal::TERM);
    assert_eq!(read_answer(&mut busy).expect("an answer").2, "pong");
    read_to_end(&mut idle).expect("an orderly end");
    assert!(ponger.ended().success());
    ponger.wait_for("Stopped: all connections have ended");
}

#[test]
fn a_client_that_never_ends_does_not_hold_the_stop_up_for_ever() {
    let world = World::new();
    let mut ponger = world.ponger("  drainTimeout: 300ms\n");
    let client = world.good_client();
    let mut stuck = client.connect(ponger.address()).expect("a connection");
    // Half a request head.
    stuck.write_all(b"GET /ping HTTP/1.1\r\nHost: ").expect("written");
    stuck.flush().expect("sent");
    assert!(ponger.stop().success());
}

#[test]
fn none_of_10_000_requests_is_lost_while_replicas_are_replaced_one_by_one() {
    const CLIENTS: usize = 8;
    const REQUESTS: usize = 10_000;
    let world = World::new();
    let config = world.ponger_config("");
    let text = std::fs::read_to_string(&config).expect("the configuration");
    let text =
        text.replace("drainDelay: 0s", "drainDelay: 1s").replace("level: debug", "level: info");
    std::fs::write(&config, text).expect("written");
    let start = || crate::support::Service::start("ponger", &config);
    let mut replicas = [start(), start()];
    // What a Service of a cluster does: it leads new connections to those that are ready.
    let ready: Arc<std::sync::Mutex<Vec<std::net::SocketAddr>>> = Arc::new(std::sync::Mutex::new(
        replicas.iter().map(crate::support::Service::address).collect(),
    ));
    let left = Arc::new(AtomicUsize::new(REQUESTS));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (client, ready, left) =
                (world.good_client(), Arc::clone(&ready), Arc::clone(&left));
            thread::spawn(move || {
                let mut answered = 0;
                let mut kept = None;
                while left
                    .fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1))
                    .is_ok()
                {
                    let mut stream = kept.take().unwrap_or_else(|| {
                        let ready = ready.lock().expect("the list");
                        client.connect(ready[number % ready.len()]).expect("a connection")
                    });
                    let (status, headers, body) =
                        exchange(&mut stream, &get_kept("/ping")).expect("an answer");
                    assert_eq!((status, body.as_str()), (200, "pong"));
                    answered += 1;
                    if !headers.contains(&"connection: close".to_owned()) {
                        kept = Some(stream);
                    }
                }
                answered
            })
        })
        .collect();
    // One after the other is replaced, as a roll-out does it, for as long as requests are made.
    let mut replaced = 0;
    while left.load(Ordering::Acquire) > 0 || replaced < 2 {
        let which = replaced % 2;
        let new = start();
        let (old, new_address) = (replicas[which].address(), new.address());
        replicas[which].signal(Signal::TERM);
        let mut list = ready.lock().expect("the list");
        list.retain(|address| *address != old);
        list.push(new_address);
        drop(list);
        assert!(replicas[which].ended().success());
        replicas[which] = new;
        replaced += 1;
        if left.load(Ordering::Acquire) == 0 {
            break;
        }
    }
    let answered: usize =
        clients.into_iter().map(|client| client.join().expect("no request was lost")).sum();
    assert_eq!(answered, REQUESTS);
    eprintln!("{answered} requests answered, {replaced} replicas replaced meanwhile");
}
