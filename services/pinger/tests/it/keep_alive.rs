//! Kept connections: reused, but not for longer than they may be.

use std::{
    io::Write as _,
    net::{SocketAddr, TcpListener},
    thread,
    time::Duration,
};

use socket2::{Domain, Socket, Type};
use testkit::{Ca, Leaf};
use time::Duration as Validity;

use crate::support::{
    Env, Pinger, accept, install, kind, pings, pong_forever, server_tls, until_closed,
    wait_for_further,
};

const MINUTE: Duration = Duration::from_secs(60);

fn keeping(env: &Env, address: SocketAddr) -> pinger::Config {
    let mut config = env.pinger_config(address);
    config.ponger.keep_alive.0 = 60 * MINUTE;
    // No kept connection is used whose certificates expire within this time.
    config.timeout.0 = 10 * MINUTE;
    config
}

/// A server that never closes a connection: only pinger can.
fn keeping_server(env: &Env, leaf: &Leaf) -> SocketAddr {
    let tls = server_tls(&env.ca.issue(leaf), None);
    env.serve(move |tcp| pong_forever(&tls, tcp))
}

/// Waits until pings have connections of their own, and checks that this stays so.
fn check_no_more_reuse(pinger: &Pinger) {
    let fresh = pinger.metric(&kind("full"));
    pinger.wait_for_metric(&kind("full"), fresh + 1.0);
    let reused = pinger.metric(&kind("reused"));
    pinger.wait_for_metric(&kind("full"), fresh + 6.0);
    assert_eq!(pinger.metric(&kind("reused")), reused);
}

#[test]
fn reuses_the_connection() {
    let env = Env::new();
    let ponger = env.start_ponger(&env.ponger_config());
    let pinger = env.start_pinger(&keeping(&env, ponger.address));
    pinger.wait_for_metric(&kind("reused"), 5.0);
    assert_eq!(pinger.metric(&kind("full")), 1.0);
    assert_eq!(ponger.metric("ponger_connections"), 1.0);
    assert_eq!(pinger.stop().unwrap().lost(), 0);
    // Ended with pinger.
    ponger.wait_for_value("ponger_connections", |open| open == 0.0);
}

#[test]
fn opens_a_connection_for_each_ping_without_keep_alive() {
    let env = Env::new();
    let pinger = env.start_pinger(&env.pinger_config(keeping_server(&env, &Leaf::ponger("test"))));
    pinger.wait_for_metric(&kind("full"), 5.0);
    assert_eq!(pinger.metric(&kind("reused")), 0.0);
}

/// A listener, and a socket that is bound to its port too: it refuses connections once the listener is
/// closed, and keeps the port from being given to another test.
fn listener_and_bound_socket() -> (TcpListener, Socket) {
    let mut address = SocketAddr::from(([127, 0, 0, 1], 0));
    let [listener, bound] = [(), ()].map(|()| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&address.into()).unwrap();
        address = socket.local_addr().unwrap().as_socket().unwrap();
        socket
    });
    listener.listen(1).unwrap();
    (listener.into(), bound)
}

#[test]
fn reports_the_new_connections_failure_and_not_that_the_kept_one_was_closed() {
    let env = Env::new();
    let tls = server_tls(&env.ca.issue(&Leaf::ponger("test")), None);
    let (listener, _bound) = listener_and_bound_socket();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let (tcp, _) = listener.accept().unwrap();
        drop(listener);
        let mut stream = accept(&tls, tcp).unwrap();
        // The response and the closure arrive together.
        let response = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npong";
        stream.conn.writer().write_all(response).unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        until_closed(&mut stream);
    });
    let mut config = keeping(&env, address);
    config.count = 2;
    let summary = env.start_pinger(&config).wait().unwrap().to_string();
    assert!(summary.starts_with("2 pings, 1 pong, 1 lost (connect_refused 1);"), "{summary}");
    server.join().unwrap();
}

#[test]
fn does_not_reuse_a_connection_past_the_expiry_of_pongers_certificate() {
    let env = Env::new();
    let pinger = env.start_pinger(&keeping(&env, keeping_server(&env, &Leaf::ponger("test"))));
    pinger.wait_for_metric(&kind("reused"), 1.0);
    env.clock.advance(55 * MINUTE);
    check_no_more_reuse(&pinger);
    env.clock.advance(10 * MINUTE);
    pinger.wait_for_metric(&pings("tls_expired"), 3.0);
    let pongs = pinger.metric(&pings("pong"));
    wait_for_further(&pinger, "tls_expired", 3);
    assert_eq!(pinger.metric(&pings("pong")), pongs);
}

#[test]
fn does_not_reuse_a_connection_past_the_expiry_of_its_own_certificate() {
    let env = Env::new();
    let leaf = Leaf::ponger("test").valid(-Validity::MINUTE, Validity::DAY);
    let pinger = env.start_pinger(&keeping(&env, keeping_server(&env, &leaf)));
    pinger.wait_for_metric(&kind("reused"), 1.0);
    env.clock.advance(55 * MINUTE);
    check_no_more_reuse(&pinger);
    assert_eq!(pinger.wait_for_readiness(200), "ready\n");
    env.clock.advance(10 * MINUTE);
    assert_eq!(pinger.wait_for_readiness(503), "not ready: own certificate has expired\n");
    check_no_more_reuse(&pinger);
}

#[test]
fn does_not_reuse_a_connection_after_its_root_was_removed() {
    let env = Env::new();
    let pinger = env.start_pinger(&keeping(&env, keeping_server(&env, &Leaf::ponger("test"))));
    pinger.wait_for_metric(&kind("reused"), 1.0);
    let another = Ca::new("another");
    install(&env.pinger, &another.issue(&Leaf::pinger("test")), another.pem());
    pinger.wait_for_metric(&pings("tls_untrusted"), 1.0);
    let pongs = pinger.metric(&pings("pong"));
    wait_for_further(&pinger, "tls_untrusted", 3);
    assert_eq!(pinger.metric(&pings("pong")), pongs);
    assert_eq!(pinger.metric(&pings("reset")), 0.0);
}

#[test]
fn does_not_reuse_a_connection_after_its_root_expired() {
    let mut env = Env::new();
    env.ca = Ca::valid("expires soon", -Validity::HOUR, Validity::HOUR);
    let leaf = Leaf::ponger("test").valid(-Validity::MINUTE, Validity::DAY);
    env.issue_pinger(&Leaf::pinger("test").valid(-Validity::MINUTE, Validity::DAY));
    let pinger = env.start_pinger(&keeping(&env, keeping_server(&env, &leaf)));
    pinger.wait_for_metric(&kind("reused"), 1.0);
    env.clock.advance(65 * MINUTE);
    pinger.wait_for_metric(&pings("tls_untrusted"), 1.0);
    let pongs = pinger.metric(&pings("pong"));
    wait_for_further(&pinger, "tls_untrusted", 3);
    assert_eq!(pinger.metric(&pings("pong")), pongs);
}
