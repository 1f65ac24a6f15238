//! Slow pongs, and connections that were slow to open.

use std::time::Duration;

use crate::support::{Env, pings, wait_for_further};

#[test]
fn a_slow_pong_is_a_warning_with_its_slowest_phase_and_is_counted() {
    let env = Env::new();
    let ponger = env.start_ponger(&env.ponger_config());
    let mut config = env.pinger_config(ponger.address);
    // Every pong is slower.
    config.slow_after.0 = Duration::from_nanos(1);
    config.count = 1;
    let (summary, log) = env.start_pinger(&config).wait_with_log();
    let line = log.iter().find(|line| line.contains("Got pong")).unwrap();
    assert!(line.contains(" WARN ") && line.contains("address=127.0.0.1"), "{line}");
    let phase = line.split("slow_phase=\"").nth(1).unwrap().split('"').next().unwrap();
    assert!(line.contains(&format!("{phase}_ms=")) || phase == "transfer", "{line}");
    let summary = summary.unwrap();
    assert_eq!(summary.lost(), 0);
    assert!(summary.to_string().ends_with(&format!("; 1 slow ({phase} 1)")), "{summary}");

    config.count = 0;
    let pinger = env.start_pinger(&config);
    wait_for_further(&pinger, "pong", 2);
    let phases = ["resolve", "connect", "tls", "processing", "transfer"];
    let count = |phase| pinger.metric(&format!("pinger_slow_pongs_total{{phase=\"{phase}\"}}"));
    assert!(phases.into_iter().map(count).sum::<f64>() >= 2.0);
}

#[test]
fn no_pong_is_slow_without_a_threshold() {
    let env = Env::new();
    let ponger = env.start_ponger(&env.ponger_config());
    let mut config = env.pinger_config(ponger.address);
    config.slow_after.0 = Duration::ZERO;
    config.count = 2;
    let (summary, log) = env.start_pinger(&config).wait_with_log();
    assert!(!log.iter().any(|line| line.contains(" WARN ")), "{log:?}");
    assert!(!summary.unwrap().to_string().contains("slow"));
}

/// Linux sends the SYN again after a second, and other systems do not tell.
#[cfg(target_os = "linux")]
#[test]
fn a_syn_that_was_sent_again_is_reported() {
    use std::{fs, net::TcpListener};

    use testkit::{Leaf, wait_until};

    use crate::support::{accept, full_listener, respond, server_tls};

    let env = Env::new();
    let tls = server_tls(&env.ca.issue(&Leaf::ponger("test")), None);
    let full = full_listener(1);
    let mut config = env.pinger_config(full.address);
    config.drain_timeout.0 = Duration::ZERO;
    config.slow_after.0 = Duration::from_secs(1);
    let pinger = env.start_pinger(&config);
    // The state SYN_SENT, and at least one retransmission.
    let port = format!(":{:04X}", full.address.port());
    wait_until("the SYN is sent again", || {
        let sockets = fs::read_to_string("/proc/net/tcp").unwrap();
        let mut rows = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        rows.any(|row| row[2].ends_with(&port) && row[3] == "02" && row[6] != "00000000")
            .then_some(())
    });
    // The first connection is that which filled the queue.
    let listener = TcpListener::from(full.listener);
    listener.set_nonblocking(true).unwrap();
    let mut connections = Vec::new();
    while connections.len() < 2 {
        connections.push(wait_until("a connection", || listener.accept().ok()).0);
    }
    let tcp = connections.pop().unwrap();
    tcp.set_nonblocking(false).unwrap();
    respond(&mut accept(&tls, tcp).unwrap(), "200 OK", "pong");
    pinger.wait_for_metric(&pings("pong"), 1.0);
    assert!(pinger.metric("pinger_syn_retransmits_total") >= 1.0);
    let line = pinger.wait_for("Got pong");
    assert!(line.contains(" WARN ") && line.contains("syn_retransmits="), "{line}");
    let connect_ms = line.split("connect_ms=").nth(1).unwrap().split(' ').next().unwrap();
    assert!(connect_ms.parse::<f64>().unwrap() >= 1000.0, "{line}");
}
