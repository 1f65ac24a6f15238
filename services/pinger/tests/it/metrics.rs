//! pinger's metrics.

use std::{
    process::{Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

use chassis::failure::FailureReason;
use testkit::{Leaf, process::is_installed};
use time::Duration as Validity;

use crate::support::{Env, expiration, pings, wait_for_further};

#[test]
fn promtool_accepts_the_metrics() {
    if !is_installed("promtool") {
        return;
    }
    let env = Env::new();
    let ponger = env.start_ponger(&env.ponger_config());
    let pinger = env.start_pinger(&env.pinger_config(ponger.address));
    pinger.wait_for_metric(&pings("pong"), 1.0);
    let file = env.dir.path().join("metrics");
    std::fs::write(&file, pinger.admin_get("/metrics").body).unwrap();
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::from(std::fs::File::open(file).unwrap()));
    let output = promtool.output().unwrap();
    let printed = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && printed.is_empty(), "{}", String::from_utf8_lossy(&printed));
}

#[test]
fn every_result_has_a_series_from_the_start() {
    let env = Env::new();
    let mut config = env.pinger_config(([127, 0, 0, 1], 1).into());
    config.interval.0 = std::time::Duration::from_secs(365 * 24 * 3600);
    let text = env.start_pinger(&config).admin_get("/metrics").body;
    for result in FailureReason::ALL.iter().map(|reason| reason.label()).chain(["pong"]) {
        assert!(text.contains(&format!("{} 0\n", pings(result))), "{result}");
    }
}

#[test]
fn shows_the_url_that_is_pinged() {
    let env = Env::new();
    let pinger = env.start_pinger(&env.pinger_config(([127, 0, 0, 1], 1).into()));
    assert_eq!(pinger.metric("pinger_target_info{url=\"https://127.0.0.1:1\"}"), 1.0);
}

#[test]
fn the_time_of_the_last_pong_is_zero_before_the_first_and_stays_after_a_loss() {
    const LAST_PONG: &str = "pinger_last_success_timestamp_seconds";
    let env = Env::new();
    let ponger = env.start_ponger(&env.ponger_config());
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64().floor();
    let pinger = env.start_pinger(&env.pinger_config(ponger.address));
    pinger.wait_for_metric(LAST_PONG, before);
    ponger.stop().unwrap();
    pinger.wait_for_metric(&pings("connect_refused"), 1.0);
    let last = pinger.metric(LAST_PONG);
    env.clock.advance(std::time::Duration::from_secs(60));
    wait_for_further(&pinger, "connect_refused", 2);
    assert_eq!(pinger.metric(LAST_PONG), last);

    let config = env.pinger_config(([127, 0, 0, 1], 1).into());
    let pinger = env.start_pinger(&config);
    pinger.wait_for_metric(&pings("connect_refused"), 1.0);
    assert!(pinger.admin_get("/metrics").body.contains(&format!("{LAST_PONG} 0\n")));
}

#[test]
fn each_phase_of_a_ping_is_timed() {
    let env = Env::new();
    let ponger = env.start_ponger(&env.ponger_config());
    let pinger = env.start_pinger(&env.pinger_config(ponger.address));
    for phase in ["resolve", "connect", "tls", "processing", "transfer"] {
        let metric =
            format!("pinger_phase_duration_seconds_count{{kind=\"full\",phase=\"{phase}\"}}");
        pinger.wait_for_metric(&metric, 2.0);
    }
    pinger.wait_for_metric("pinger_ping_duration_seconds_count{result=\"pong\"}", 2.0);
}

#[test]
fn the_expiry_of_pongers_certificate_stays_known_and_is_warned_about_once() {
    let env = Env::new();
    // In the last third of its lifetime.
    env.issue_ponger(&Leaf::ponger("test").valid(-Validity::HOUR, Validity::minutes(10)));
    let ponger = env.start_ponger(&env.ponger_config());
    let pinger = env.start_pinger(&env.pinger_config(ponger.address));
    wait_for_further(&pinger, "pong", 3);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let expiry = pinger.metric(&expiration("peer"));
    // This test cannot last for ten minutes.
    assert!((now..=now + 600.0).contains(&expiry), "{expiry}, {now}");
    assert!(pinger.metric(&expiration("own")) > expiry);
    assert!(pinger.metric(&expiration("roots")) > expiry);
    let line = pinger.wait_for("Certificate expires soon");
    assert!(line.contains(" WARN ") && line.contains("certificate=\"ponger\""), "{line}");
    ponger.stop().unwrap();
    pinger.wait_for_metric(&pings("connect_refused"), 1.0);
    assert_eq!(pinger.metric(&expiration("peer")), expiry);
    assert_eq!(pinger.count("Certificate expires soon"), 1);
}
