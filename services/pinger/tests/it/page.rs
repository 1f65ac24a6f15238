//! The page, as it is served. `services/demo/tests/browser` opens it in browsers.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use testkit::{
    Leaf, PATIENCE,
    client::{Response, plain_get, request},
    wait_until,
};

use crate::support::{
    Env, PINGER_ID, PONGER_ID, Pinger, accept, ms, pings, respond, server_tls, until_closed,
};

const FILES: [&str; 6] = ["/", "/page.css", "/page.js", "/icon.svg", "/uPlot.css", "/uPlot.js"];

/// How many streams of events may be open.
const MAX_STREAMS: usize = 16;

/// An open stream of events.
struct Events {
    stream: TcpStream,
    received: String,
}

impl Events {
    fn open(pinger: &Pinger, path: &str) -> Self {
        let mut stream = TcpStream::connect(pinger.admin).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request(path, "keep-alive").as_bytes()).unwrap();
        let mut events = Self { stream, received: String::new() };
        events.wait_for("\r\n\r\n");
        events
    }

    /// Whether an update was received, rather than that there are too many streams.
    fn is_accepted(&mut self) -> bool {
        self.wait_for("data: ");
        !self.received.contains("event: limit")
    }

    /// Reads until `part` was received.
    #[track_caller]
    fn wait_for(&mut self, part: &str) {
        while !self.received.contains(part) {
            let mut bytes = [0; 4096];
            let count = self.stream.read(&mut bytes).unwrap();
            assert!(count > 0, "no {part} in {}", self.received);
            self.received.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    }

    /// The number after `key` where it is first.
    fn number(&self, key: &str) -> u64 {
        let (_, rest) = self.received.split_once(&format!("\"{key}\":")).unwrap();
        rest.split([',', '}']).next().unwrap().parse().unwrap()
    }
}

fn page(pinger: &Pinger) -> Response {
    pinger.admin_get("/")
}

/// Waits until the page contains `part`, and returns it.
#[track_caller]
fn wait_for_page(pinger: &Pinger, part: &str) -> String {
    wait_until(part, || Some(page(pinger).body).filter(|page| page.contains(part)))
}

/// A pinger of a server that answers each ping with `status` and `body`.
fn pinger_of(env: &Env, status: &'static str, body: &'static str) -> Pinger {
    let tls = server_tls(&env.ca.issue(&Leaf::ponger("test")), None);
    let address = env.serve(move |tcp| {
        if let Some(mut stream) = accept(&tls, tcp) {
            respond(&mut stream, status, body);
            until_closed(&mut stream);
        }
    });
    env.start_pinger(&env.pinger_config(address))
}

#[test]
fn shows_who_pings_whom_and_how_without_script() {
    let env = Env::new();
    let ponger = env.start_ponger(&env.ponger_config());
    let mut config = env.pinger_config(ponger.address);
    config.rejection_probe.interval = ms(1000);
    let pinger = env.start_pinger(&config);
    let text =
        wait_for_page(&pinger, "<strong class=\"good\">rejected</strong>").replace("<wbr>", "");
    for part in [
        "ponger answers",
        "mutual TLS",
        "TLSv1.3",
        "X25519MLKEM768",
        PINGER_ID,
        PONGER_ID,
        "<b>100 %</b>",
        "issued by CN=test",
        "no_certificate",
        &ponger.address.to_string(),
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("class=\"alert"), "{text}");
}

#[test]
fn waits_for_the_first_ping() {
    let env = Env::new();
    let mut config = env.pinger_config(([127, 0, 0, 1], 1).into());
    config.interval.0 = std::time::Duration::from_secs(365 * 24 * 3600);
    let pinger = env.start_pinger(&config);
    let text = page(&pinger).body;
    for part in ["Waiting for the first ping", "no handshake yet", "expected: ", "no ping"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn shows_failures_with_what_to_do() {
    let env = Env::new();
    let pinger = pinger_of(&env, "500 Internal Server Error", "");
    pinger.wait_for_metric(&pings("status"), 12.0);
    let text = wait_for_page(&pinger, "Every ping is lost");
    let hint = "Something other than ponger answers";
    let advice = text.split_once("id=\"advice\"").unwrap().1;
    assert!(advice.split_once("id=\"parties\"").unwrap().0.contains(hint), "{advice}");
    let failures = text.split_once("id=\"failures\"").unwrap().1;
    let failures = failures.split_once("id=\"certificates-title\"").unwrap().0;
    assert_eq!(failures.matches(hint).count(), 1, "{failures}");
    assert!(failures.matches("<code class=\"bad\">status</code>").count() >= 12, "{failures}");
}

#[test]
fn escapes_what_a_hostile_peer_sends() {
    let env = Env::new();
    let pinger = pinger_of(&env, "200 OK", "</p><script>alert(1)</script><img src=x>");
    let text = wait_for_page(&pinger, "&lt;script&gt;alert(1)&lt;/script&gt;");
    assert!(!text.contains("<script>") && !text.contains("<img"), "{text}");
    let mut events = Events::open(&pinger, "/events");
    events.wait_for("&lt;script&gt;alert(1)");
    assert!(!events.received.contains("<script>"), "{}", events.received);
}

#[test]
fn warns_of_certificates_that_expire_soon() {
    let env = Env::new();
    let ponger = env.start_ponger(&env.ponger_config());
    let mut config = env.pinger_config(ponger.address);
    config.identity.expiry_warning = Some(chassis::config::HumanDuration::seconds(u64::MAX / 4));
    let pinger = env.start_pinger(&config);
    wait_for_page(&pinger, &format!("a certificate of pinger expires soon: {PINGER_ID}"));
    wait_for_page(&pinger, &format!("a certificate of ponger expires soon: {PONGER_ID}"));
    wait_for_page(&pinger, "a root of the trust bundle expires soon");
}

#[test]
fn loads_nothing_from_elsewhere_and_is_small() {
    let env = Env::new();
    let pinger = env.start_pinger(&env.pinger_config(([127, 0, 0, 1], 1).into()));
    let mut bytes = 0;
    for path in FILES {
        let response = pinger.admin_get(path);
        assert_eq!(response.status, 200, "{path}");
        let policy = response.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; "), "{policy}");
        assert!(
            !policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"),
            "{policy}"
        );
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("cache-control", "no-store"),
            ("referrer-policy", "no-referrer"),
        ] {
            assert_eq!(response.header(name), Some(value), "{path}");
        }
        bytes += response.body.len();
    }
    assert!(bytes < 100_000, "{bytes}");
    // No script or style in the HTML, which the policy forbids.
    let text = page(&pinger).body;
    assert!(!text.contains(" style=") && !text.contains("<style"), "{text}");
    assert_eq!(text.matches("<script").count(), text.matches("<script src=").count(), "{text}");
}

#[test]
fn has_the_plotting_library_as_it_was_released() {
    let env = Env::new();
    let pinger = env.start_pinger(&env.pinger_config(([127, 0, 0, 1], 1).into()));
    // Of uplot 1.6.32 on npm.
    for (path, digest) in [
        ("/uPlot.js", "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f"),
        ("/uPlot.css", "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04"),
    ] {
        let sha256 = TLS13_AES_128_GCM_SHA256.tls13().unwrap().common.hash_provider;
        let found = sha256.hash(pinger.admin_get(path).body.as_bytes());
        let found: String = found.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found, digest, "{path}");
    }
}

#[test]
fn streams_the_history_and_each_further_ping() {
    let env = Env::new();
    let ponger = env.start_ponger(&env.ponger_config());
    let pinger = env.start_pinger(&env.pinger_config(ponger.address));
    pinger.wait_for_metric(&pings("pong"), 5.0);
    let mut events = Events::open(&pinger, "/events");
    events.wait_for("ponger answers");
    let (run, position) = (events.number("run"), events.number("position"));
    // A ping is counted just before it is in the history.
    assert!(position >= 4, "{position}");
    let later = format!("\"position\":{position},");
    events.received = events.received.replace(&later, "");
    events.wait_for("\"position\":");

    // A page that is loaded again has only what it lacks.
    let mut resumed = Events::open(&pinger, &format!("/events?run={run}&position={position}"));
    resumed.wait_for("\"position\":");
    let pings = resumed.received.split_once("\"pings\":[[").unwrap().1;
    assert!(
        pings.split_once("]],").unwrap().0.matches("],[").count() as u64 + 1
            == resumed.number("position") - position
    );
    // Of another run of pinger, it has nothing.
    let mut other = Events::open(&pinger, &format!("/events?run=1&position={position}"));
    other.wait_for("\"position\":");
    let begin = other.number("begin");
    assert_eq!(begin, events.number("begin"));
}

#[test]
fn limits_the_number_of_streams() {
    let env = Env::new();
    let pinger = pinger_of(&env, "200 OK", "pong");
    let mut open: Vec<_> = (0..MAX_STREAMS).map(|_| Events::open(&pinger, "/events")).collect();
    assert!(open.iter_mut().all(Events::is_accepted));
    let surplus = plain_get(pinger.admin, "/events").unwrap();
    let limit = "event: limit\ndata: 16 pages are open, which is the limit\n\n";
    assert_eq!((surplus.status, surplus.body.as_str()), (200, limit));
    assert_eq!(pinger.admin_get("/readyz").status, 200);
    drop(open);
    wait_until("a stream is free", || Events::open(&pinger, "/events").is_accepted().then_some(()));
}

#[test]
fn rejects_a_position_that_is_no_number() {
    let env = Env::new();
    let pinger = env.start_pinger(&env.pinger_config(([127, 0, 0, 1], 1).into()));
    for query in ["run=x", "position=-1", "run=1&position=1.5"] {
        let response = plain_get(pinger.admin, &format!("/events?{query}")).unwrap();
        let reason = "run and position: they are not the numbers that an event had\n";
        assert_eq!((response.status, response.body.as_str()), (400, reason), "{query}");
    }
}

#[test]
fn closes_streams_that_are_not_read() {
    if !cfg!(target_os = "linux") {
        return;
    }
    let env = Env::new();
    // Failures are what changes most.
    let pinger = pinger_of(&env, "500 Internal Server Error", "");
    let open: Vec<_> = (0..MAX_STREAMS).map(|_| Events::open(&pinger, "/events")).collect();
    for events in &open {
        rustix::net::sockopt::set_socket_recv_buffer_size(&events.stream, 1).unwrap();
    }
    wait_until("a stream is free", || Events::open(&pinger, "/events").is_accepted().then_some(()));
}

#[test]
fn open_streams_do_not_delay_a_stop() {
    let env = Env::new();
    let pinger = pinger_of(&env, "200 OK", "pong");
    let mut events = Events::open(&pinger, "/events");
    events.wait_for("\"position\":");
    // The stream itself has no end.
    pinger.stop().unwrap();
    // Closed or reset.
    let _ = events.stream.read_to_end(&mut Vec::new());
}
