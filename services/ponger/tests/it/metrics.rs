//! What the metrics show, and that no peer can add to them.

use std::{
    io::Write as _,
    process::{Command, Stdio},
    time::SystemTime,
};

use testkit::{Leaf, client::request, process::is_installed, wait_until};
use time::Duration;

use crate::support::{Env, OTHER};

fn expiry(role: &str) -> String {
    format!("identity_cert_expiration_timestamp_seconds{{role=\"{role}\"}}")
}

#[test]
fn promtool_accepts_the_metrics() {
    if !is_installed("promtool") {
        return;
    }
    let env = Env::new();
    let ponger = env.start();
    env.pinger().get(ponger.address, "/ping").unwrap();
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let text = ponger.admin_get("/metrics").body;
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let printed = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && printed.is_empty(), "{}", String::from_utf8_lossy(&printed));
}

#[test]
fn labels_the_route_by_the_decoded_path() {
    let env = Env::new();
    let ponger = env.start();
    assert_eq!(env.pinger().get(ponger.address, "/%70ing?a").unwrap().body, "pong");
    assert_eq!(ponger.metric("ponger_requests_total{code=\"200\",route=\"ping\"}"), 1.0);
}

#[test]
fn no_client_can_add_a_series() {
    let env = Env::new();
    let ponger = env.start();
    let series = || {
        let text = ponger.admin_get("/metrics").body;
        text.lines().filter(|line| !line.starts_with('#')).count()
    };
    let client = env.pinger();
    let send_odd_requests = |number: usize| {
        for path in [&format!("/{number}"), "/ping", &format!("/ping?{number}")] {
            client.get(ponger.address, path).unwrap();
        }
        let odd = request("/ping", "close").replacen("GET", &format!("M{number}"), 1);
        client.connect(ponger.address).unwrap().exchange(&odd).unwrap();
        let other = Leaf::new().uri(&format!("spiffe://cluster.local/ns/test/sa/other-{number}"));
        env.client_of(&other).get(ponger.address, "/ping").unwrap();
    };
    send_odd_requests(0);
    let before = series();
    for number in 1..5 {
        send_odd_requests(number);
    }
    assert_eq!(series(), before);
}

#[test]
fn only_an_allowed_client_sets_the_expiry_of_the_peer() {
    let env = Env::new();
    let ponger = env.start();
    env.pinger().get(ponger.address, "/ping").unwrap();
    let end = ponger.metric(&expiry("peer"));
    assert!(end > 0.0);
    let other = Leaf::new().uri(OTHER).valid(-Duration::MINUTE, Duration::minutes(30));
    assert_eq!(env.client_of(&other).get(ponger.address, "/ping").unwrap().status, 403);
    assert_eq!(ponger.metric(&expiry("peer")), end);
}

#[test]
fn shows_which_certificate_is_in_use_and_no_earlier_one() {
    let env = Env::new();
    let ponger = env.start();
    let infos = || {
        let text = ponger.admin_get("/metrics").body;
        let lines = text.lines().filter(|line| line.starts_with("identity_cert_info{"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let first = infos();
    assert_eq!(first.len(), 1, "{first:?}");
    for label in ["id=\"spiffe://cluster.local/ns/test/sa/ponger\"", "issuer=\"CN=test\""] {
        assert!(first[0].contains(label), "{label}: {first:?}");
    }
    env.install(&env.ca.issue(&Leaf::ponger("test")));
    wait_until("the new certificate", || {
        matches!(&infos()[..], [new] if *new != first[0]).then_some(())
    });
}

#[test]
fn shows_when_certificates_expire() {
    let env = Env::new();
    env.install(&env.ca.issue(&Leaf::ponger("test").valid(-Duration::HOUR, Duration::hours(3))));
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    let ponger = env.start();
    env.pinger().get(ponger.address, "/ping").unwrap();
    // Within half an hour, however slow this machine is.
    for (role, hours) in [("own", 3.0), ("roots", 24.0), ("peer", 1.0)] {
        let left = ponger.metric(&expiry(role)) - now;
        assert!((left - hours * 3600.0).abs() < 1800.0, "{role}: {left}");
    }
    let begin = ponger.metric("identity_cert_not_before_timestamp_seconds{role=\"own\"}");
    assert!((now - begin - 3600.0).abs() < 1800.0, "{begin}, {now}");
}
