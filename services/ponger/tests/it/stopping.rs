//! The drain: requests in flight are finished, and no client delays the stop for ever.

use std::{
    net::{SocketAddr, TcpStream},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use chassis::config::HumanDuration;
use testkit::{
    client::{read_response, request},
    wait_until,
};

use crate::support::{
    Env, HALF_A_HEAD, Ponger, connect_and_ping, ms, send_until_blocked, wait_for_close,
    wait_for_connections,
};

const HOUR: HumanDuration = HumanDuration::seconds(3600);

#[test]
fn while_draining_it_is_alive_and_not_ready_and_closes_after_each_response() {
    let env = Env::new();
    let ponger = env.start_with(|service| service.drain_delay = HOUR);
    let mut kept = env.pinger().connect(ponger.address).unwrap();
    assert_eq!(kept.get("/ping").unwrap().header("connection"), None);

    ponger.signals.stop("SIGTERM");
    assert_eq!(ponger.wait_for_readiness(503), "not ready: draining\n");
    assert_eq!(ponger.admin_get("/livez").status, 200);
    let response = wait_until("a last response", || {
        let response = kept.get("/ping").unwrap();
        assert_eq!(response.status, 200);
        response.header("connection").is_some().then_some(response)
    });
    assert_eq!(response.header("connection"), Some("close"));
    wait_for_close(kept);
    assert_eq!(env.pinger().get(ponger.address, "/ping").unwrap().status, 200);

    let error = ponger.stop().unwrap_err();
    assert_eq!(error.to_string(), "stopped by a second SIGTERM without draining");
}

#[test]
fn closes_idle_connections_and_answers_what_was_sent() {
    let env = Env::new();
    let ponger = env.start_with(|service| service.drain_timeout = HOUR);
    let idle = connect_and_ping(&env.pinger(), ponger.address);
    let unused = env.pinger().connect(ponger.address).unwrap();
    let mut busy = connect_and_ping(&env.pinger(), ponger.address);
    busy.send(request("/ping", "keep-alive").as_bytes()).unwrap();
    ponger.stop().unwrap();
    assert_eq!(read_response(&mut busy).unwrap().body, "pong");
    wait_for_close(busy);
    wait_for_close(idle);
    wait_for_close(unused);
}

#[test]
fn answers_a_request_that_is_half_sent() {
    let env = Env::new();
    let ponger = env.start_with(|service| service.drain_timeout = HOUR);
    let mut connection = connect_and_ping(&env.pinger(), ponger.address);
    connection.send(HALF_A_HEAD).unwrap();
    let other = connect_and_ping(&env.pinger(), ponger.address);
    ponger.signals.stop("SIGTERM");
    wait_for_close(other);
    connection.send(b"localhost\r\n\r\n").unwrap();
    let response = read_response(&mut connection).unwrap();
    assert_eq!((response.status, response.header("connection")), (200, Some("close")));
    wait_for_close(connection);
    ponger.wait().unwrap();
}

#[test]
fn a_request_that_is_never_finished_does_not_delay_the_stop_for_ever() {
    let env = Env::new();
    let ponger = env.start_with(|service| service.drain_timeout = ms(300));
    let mut stuck = connect_and_ping(&env.pinger(), ponger.address);
    stuck.send(HALF_A_HEAD).unwrap();
    ponger.stop().unwrap();
}

#[test]
fn unfinished_handshakes_do_not_delay_the_stop() {
    let env = Env::new();
    let ponger = env.start_with(|service| service.drain_timeout = HOUR);
    let silent: Vec<_> = (0..10).map(|_| TcpStream::connect(ponger.address).unwrap()).collect();
    wait_for_connections(&ponger, 10);
    ponger.stop().unwrap();
    drop(silent);
}

#[test]
fn a_client_that_does_not_read_does_not_delay_the_stop_for_ever() {
    let env = Env::new();
    let ponger = env.start_with(|service| service.drain_timeout = ms(300));
    let mut stuck = connect_and_ping(&env.pinger(), ponger.address);
    send_until_blocked(&mut stuck);
    ponger.stop().unwrap();
}

#[test]
fn no_connection_is_reported_as_above_the_limit_while_draining() {
    let env = Env::new();
    let ponger = env.start_with(|service| service.drain_timeout = HOUR);
    let mut last = connect_and_ping(&env.pinger(), ponger.address);
    last.send(HALF_A_HEAD).unwrap();
    let connect = || TcpStream::connect(ponger.address).unwrap();
    // Some are accepted after the drain has begun.
    let before: Vec<_> = (0..100).map(|_| connect()).collect();
    ponger.signals.stop("SIGTERM");
    let after: Vec<_> = (0..50).map(|_| connect()).collect();
    wait_for_connections(&ponger, 1);
    drop((before, after));
    assert_eq!(ponger.metric("ponger_connections_rejected_total"), 0.0);
    last.send(b"localhost\r\n\r\n").unwrap();
    assert_eq!(read_response(&mut last).unwrap().status, 200);
    ponger.wait().unwrap();
}

#[test]
fn loses_no_request_while_replicas_are_replaced_one_by_one() {
    const CLIENTS: usize = 4;
    let env = Env::new();
    let start = || env.start_with(|service| service.drain_delay = ms(2000));
    let mut replicas = [start(), start()];
    // What a Service of a cluster does: it leads new connections to those that are ready.
    let ready: Mutex<Vec<SocketAddr>> =
        Mutex::new(replicas.iter().map(|replica| replica.address).collect());
    let (done, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (client, ready, done, answered) = (env.pinger(), &ready, &done, &answered);
            scope.spawn(move || {
                let mut kept = None;
                while !done.load(Ordering::Acquire) {
                    let mut connection = kept.take().unwrap_or_else(|| {
                        // Locked, so that no replica stops between the choice and the connection.
                        let ready = ready.lock().unwrap();
                        client.connect(ready[number % ready.len()]).unwrap()
                    });
                    let response = connection.get("/ping").unwrap();
                    assert_eq!((response.status, response.body.as_str()), (200, "pong"));
                    answered.fetch_add(1, Ordering::AcqRel);
                    // A pace that leaves the cores to other tests.
                    thread::sleep(Duration::from_millis(5));
                    if response.header("connection").is_none() {
                        kept = Some(connection);
                    }
                }
            });
        }
        let mut stopped = Vec::new();
        for replica in &mut replicas {
            let old: Ponger = std::mem::replace(replica, start());
            let mut list = ready.lock().unwrap();
            list.retain(|address| *address != old.address);
            list.push(replica.address);
            drop(list);
            let before = answered.load(Ordering::Acquire);
            stopped.push(old.stop());
            wait_until("further responses", || {
                (answered.load(Ordering::Acquire) > before).then_some(())
            });
        }
        done.store(true, Ordering::Release);
        assert!(stopped.iter().all(Result::is_ok), "{stopped:?}");
        for replica in replicas {
            scope.spawn(|| replica.stop().unwrap());
        }
    });
}
