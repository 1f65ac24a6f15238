//! Every reason for which a ping is lost, provoked on a real socket.

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
    net::{SocketAddr, TcpListener, ToSocketAddrs as _},
    time::Duration,
};

use chassis::failure::FailureReason;
use testkit::{Ca, Issued, Leaf, PATIENCE};
use time::Duration as Validity;

use crate::support::{
    Env, PONGER_ID, TlsStream, accept, bind, full_listener, ms, respond, server_tls, until_closed,
    wait_for_further,
};

/// Sends one ping, which is lost, and returns the line about it.
fn lose_ping(env: &Env, mut config: pinger::Config) -> String {
    config.count = 1;
    let (summary, log) = env.start_pinger(&config).wait_with_log();
    let summary = summary.unwrap();
    assert_eq!((summary.pings(), summary.lost()), (1, 1), "{summary}");
    let line = log.into_iter().find(|line| line.contains("Lost ping")).unwrap();
    assert!(line.contains(" WARN ") && line.contains("cause=\""), "{line}");
    assert!(!line.contains("cause=\"\""), "{line}");
    line
}

fn has_reason(line: &str, reason: FailureReason) -> bool {
    line.contains(&format!("reason=\"{reason}\""))
}

/// A server with the certificate `issued` that does `respond` after the first request.
fn tls(
    env: &Env,
    issued: &Issued,
    respond: impl Fn(&mut TlsStream) + Send + Sync + 'static,
) -> SocketAddr {
    let config = server_tls(issued, None);
    env.serve(move |tcp| {
        if let Some(mut stream) = accept(&config, tcp) {
            respond(&mut stream);
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    })
}

/// The reasons that other tests provoke.
const ELSEWHERE: [FailureReason; 5] = [
    FailureReason::ConnectTimeout,
    FailureReason::TlsTimeout,
    FailureReason::RequestTimeout,
    FailureReason::Shutdown,
    // Only servers have it.
    FailureReason::TlsNoCertificate,
];

#[test]
fn skips_interim_responses() {
    let env = Env::new();
    let address = tls(&env, &env.ca.issue(&Leaf::ponger("test")), |stream| {
        let hints = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n";
        let pong = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npong";
        let _ = stream.write_all(format!("{hints}{hints}{pong}").as_bytes());
    });
    let pinger = env.start_pinger(&env.pinger_config(address));
    wait_for_further(&pinger, "pong", 2);
}

#[test]
fn reports_the_reason_of_every_loss() {
    let env = Env::new();
    let ponger = || Leaf::ponger("test");
    let issue = |leaf: Leaf| env.ca.issue(&leaf);
    let unused =
        |issued: &Issued| tls(&env, issued, |_| panic!("a request to a server not verified"));
    let responding = |status: &'static str, body: &'static str| {
        tls(&env, &issue(ponger()), move |stream| respond(stream, status, body))
    };
    let writing = |text: &'static str| {
        tls(&env, &issue(ponger()), move |stream| {
            let _ = stream.write_all(text.as_bytes());
        })
    };
    let without_close_notify = |text: &'static str| {
        let config = server_tls(&issue(ponger()), None);
        env.serve(move |tcp| {
            if let Some(mut stream) = accept(&config, tcp) {
                let _ = stream.write_all(text.as_bytes());
            }
        })
    };
    let (_bound, refusing) = bind();
    let requires_another_ca = server_tls(&issue(ponger()), Some(&Ca::new("another")));
    let url = |address: SocketAddr| format!("https://{address}");
    let expired = ponger().valid(-Validity::HOUR, -Validity::MINUTE);
    let future = ponger().valid(Validity::HOUR, Validity::DAY);
    let cases = [
        // No resolver asks a server for a label that is longer than DNS allows.
        (FailureReason::Resolve, format!("https://{}", "a".repeat(64))),
        (FailureReason::ConnectRefused, url(refusing)),
        // The kernel opens no TCP connection to a multicast address.
        (FailureReason::ConnectUnreachable, "https://224.0.0.1".into()),
        // A link-local address without its link is not valid.
        (FailureReason::ConnectFailed, "https://[fe80::1]".into()),
        (FailureReason::TlsUntrusted, url(unused(&Ca::new("another").issue(&ponger())))),
        (FailureReason::TlsExpired, url(unused(&issue(expired)))),
        (FailureReason::TlsNotYetValid, url(unused(&issue(future)))),
        (
            FailureReason::TlsWrongName,
            url(unused(&issue(Leaf::new().dns("another").uri(PONGER_ID)))),
        ),
        (FailureReason::TlsWrongId, url(unused(&issue(Leaf::ponger("another"))))),
        (FailureReason::TlsWrongId, url(unused(&issue(ponger().uri(&format!("{PONGER_ID}2")))))),
        (FailureReason::TlsWrongId, url(unused(&issue(Leaf::new().dns("localhost"))))),
        (
            FailureReason::TlsRefusedByPeer,
            url(env.serve(move |tcp| assert!(accept(&requires_another_ca, tcp).is_none()))),
        ),
        (
            FailureReason::TlsProtocol,
            url(env.serve(|mut tcp| {
                let _ = tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
                until_closed(&mut tcp);
            })),
        ),
        (FailureReason::Denied, url(responding("403 Forbidden", "denied: not allowed"))),
        (FailureReason::Status, url(responding("500 Internal Server Error", ""))),
        (FailureReason::Status, url(writing("HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n"))),
        (FailureReason::Header, url(responding("200 OK", "pong"))),
        (FailureReason::Body, url(responding("200 OK", "pang"))),
        (FailureReason::Body, url(writing("HTTP/1.1 200 OK\r\nContent-Length: 99000\r\n\r\npong"))),
        (FailureReason::Body, url(writing("SSH-2.0-server\r\n\r\n"))),
        (FailureReason::Reset, url(writing(""))),
        (FailureReason::Reset, url(writing("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"))),
        (FailureReason::Reset, url(env.serve(drop))),
        (FailureReason::Reset, url(without_close_notify(""))),
        (
            FailureReason::Reset,
            url(without_close_notify("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")),
        ),
    ];
    let mut provoked = BTreeSet::from(ELSEWHERE);
    for (reason, url) in cases {
        let mut config = env.pinger_config(refusing);
        config.ponger.url = Some(url.clone());
        if reason == FailureReason::Header {
            config.expect.header = Some("X-Served-By: ponger".to_owned().try_into().unwrap());
        }
        let line = lose_ping(&env, config);
        assert!(has_reason(&line, reason), "{reason}, {url}: {line}");
        assert!(!line.contains("docs.rs"), "the words of a library: {line}");
        let names_issuer = line.contains("issuer=\"CN=another\" trusted_roots=\"CN=test\"");
        assert_eq!(names_issuer, reason == FailureReason::TlsUntrusted, "{line}");
        provoked.insert(reason);
    }
    assert_eq!(provoked, FailureReason::ALL.iter().copied().collect());
}

/// Sends pings with longer and longer timeouts until one is lost for `reason`: on a busy machine, the
/// shorter ones may pass in an earlier phase.
fn lose_ping_by_timeout(reason: FailureReason, lose: impl Fn(Duration) -> String) {
    let mut timeout = Duration::from_millis(100);
    loop {
        let line = lose(timeout);
        if has_reason(&line, reason) {
            return;
        }
        assert!(timeout < PATIENCE, "{reason}: {line}");
        timeout *= 5;
    }
}

#[test]
fn reports_the_phase_in_which_time_ran_out() {
    let env = Env::new();
    let full = full_listener(2);
    let no_handshake = env.serve(|mut tcp| until_closed(&mut tcp));
    let no_response = tls(&env, &env.ca.issue(&Leaf::ponger("test")), until_closed);
    for (reason, address) in [
        (FailureReason::ConnectTimeout, full.address),
        (FailureReason::TlsTimeout, no_handshake),
        (FailureReason::RequestTimeout, no_response),
    ] {
        lose_ping_by_timeout(reason, |timeout| {
            let mut config = env.pinger_config(address);
            config.timeout.0 = timeout;
            lose_ping(&env, config)
        });
    }
    // Of one address, rather than of the whole ping.
    lose_ping_by_timeout(FailureReason::ConnectTimeout, |timeout| {
        let mut config = env.pinger_config(full.address);
        config.connect_timeout.0 = timeout;
        lose_ping(&env, config)
    });
}

#[test]
fn names_every_address_that_failed() {
    let env = Env::new();
    let (_bound, address) = bind();
    let mut config = env.pinger_config(address);
    config.ponger.url = Some(format!("https://localhost:{}", address.port()));
    config.interval = ms(0);
    let line = lose_ping(&env, config);
    for address in ("localhost", address.port()).to_socket_addrs().unwrap() {
        assert!(line.contains(&address.to_string()), "{address}: {line}");
    }
}

#[test]
fn explains_a_self_signed_ca_certificate() {
    let env = Env::new();
    let issued = Leaf::ponger("test").ca_true().self_signed();
    let roots = env.dir.path().join("roots.crt");
    std::fs::write(&roots, &issued.chain).unwrap();
    let mut config = env.pinger_config(tls(&env, &issued, |_| {}));
    config.ponger.accept_cert = Some(roots);
    let line = lose_ping(&env, config);
    assert!(has_reason(&line, FailureReason::TlsUntrusted), "{line}");
    assert!(line.contains("CA:TRUE") && line.contains("CA:FALSE"), "{line}");
}

/// A path with an MTU that is too small drops large packets and says nothing of it.
#[cfg(target_os = "linux")]
#[test]
fn says_that_large_packets_are_not_acknowledged() {
    use socket2::{SockFilter, SockRef};

    let env = Env::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // Drop what is longer than 600 bytes; the handshake of TCP is not.
    let filter = [
        SockFilter::new(0x80, 0, 0, 0),
        SockFilter::new(0x25, 0, 1, 600),
        SockFilter::new(0x06, 0, 0, 0),
        SockFilter::new(0x06, 0, 0, u32::MAX),
    ];
    match SockRef::from(&listener).attach_filter(&filter) {
        // As in the sandbox of a Nix build.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return testkit::process::skip("packet filters are not permitted here");
        }
        attached => attached.unwrap(),
    }
    let mut config = env.pinger_config(listener.local_addr().unwrap());
    // Linux sends again after 0.2 s.
    config.timeout.0 = Duration::from_secs(1);
    let line = lose_ping(&env, config);
    assert!(has_reason(&line, FailureReason::TlsTimeout), "{line}");
    assert!(line.contains("in phase tls; what was sent is not acknowledged, though"), "{line}");
}
