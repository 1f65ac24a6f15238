//! Metrics that Prometheus' own tool finds nothing wrong with, and to which no peer can add.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use testkit::Leaf;

use crate::support::{World, exchange, get, has};

#[test]
fn promtool_finds_nothing_wrong_with_the_metrics() {
    if !has("promtool") {
        return;
    }
    let world = World::new();
    let ponger = world.ponger("");
    let pinger = world.pinger(&ponger, "");
    pinger.wait_for("Got pong");
    for service in [&ponger, &pinger] {
        let (_, text) = service.admin_get("/metrics");
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("promtool");
        promtool.stdin.take().expect("its input").write_all(text.as_bytes()).expect("written");
        let output = promtool.wait_with_output().expect("its verdict");
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
    }
}

#[test]
fn no_peer_can_add_a_series() {
    let world = World::new();
    let ponger = world.ponger("");
    let series = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
    let client = world.good_client();
    let ask = |number: usize| {
        let paths = [format!("/{number}"), "/ping".into(), format!("/ping?{number}")];
        for path in &paths {
            client.get(ponger.address(), path).expect("an answer");
        }
        let odd = get("/ping").replacen("GET", &format!("M{number}"), 1);
        exchange(client.connect(ponger.address()).expect("a connection"), &odd).expect("an answer");
        let other = Leaf::new().uri(&format!("spiffe://cluster.local/ns/test/sa/other-{number}"));
        world
            .client(Some(&world.ca.issue(&other)))
            .get(ponger.address(), "/ping")
            .expect("an answer");
    };
    ask(0);
    let before = series(&ponger.admin_get("/metrics").1);
    for number in 1..10 {
        ask(number);
    }
    assert_eq!(series(&ponger.admin_get("/metrics").1), before);
}

#[test]
fn a_client_that_is_not_let_in_does_not_say_when_our_peers_certificate_ends() {
    const END: &str = "identity_cert_expiration_timestamp_seconds{role=\"peer\"}";
    let world = World::new();
    let ponger = world.ponger("");
    world.good_client().get(ponger.address(), "/ping").expect("an answer");
    let end = ponger.metric(END);
    assert!(end > 0.0);
    let other = Leaf::new()
        .uri("spiffe://cluster.local/ns/test/sa/other")
        .valid(time::Duration::ZERO, time::Duration::minutes(3));
    let other = world.client(Some(&world.ca.issue(&other)));
    assert_eq!(other.get(ponger.address(), "/ping").expect("an answer").0, 403);
    assert_eq!(ponger.metric(END), end);
}

#[test]
fn the_reference_names_every_metric_of_ours_and_no_other() {
    let world = World::new();
    let ponger = world.ponger("");
    let pinger = world.pinger(&ponger, "");
    pinger.wait_for("Got pong");
    let mut shown = std::collections::BTreeSet::new();
    for service in [&ponger, &pinger] {
        let (_, text) = service.admin_get("/metrics");
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        // Those of the process and of the build are the same everywhere.
        let ours =
            types.filter(|name| !name.starts_with("process_") && !name.ends_with("_build_info"));
        shown.extend(ours.map(str::to_owned));
    }
    let reference = include_str!("../../../README.md");
    let (_, table) = reference.split_once("| metric | what it tells |").expect("the table");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let told = rows
        .flat_map(|row| row.split('|').nth(1).unwrap_or_default().split('`').skip(1).step_by(2));
    let told: std::collections::BTreeSet<_> =
        told.map(|name| name.split('{').next().unwrap_or_default().to_owned()).collect();
    assert_eq!(shown, told);
}
