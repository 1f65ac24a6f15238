//! A real Prometheus scrapes a real run, evaluates the rules, and answers every query of the dashboard.

use std::{collections::BTreeSet, fs, net::SocketAddr, process::Command, time::Duration};

use serde_json::Value;
use testkit::{
    process::{Service, is_installed},
    prometheus::{Prometheus, Target},
    wait_until,
};

const MONITORING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../k8s/components/monitoring");

/// The values of a variable of the dashboard, `label_values(SELECTOR, LABEL)`, joined as Grafana does.
fn label_values(prometheus: &Prometheus, query: &str) -> String {
    let arguments = query.strip_prefix("label_values(").unwrap().strip_suffix(')').unwrap();
    let (selector, label) = arguments.rsplit_once(", ").unwrap();
    let data = prometheus.get(&format!("label/{label}/values"), &[("match[]", selector)]);
    let values: Vec<_> = data.as_array().unwrap().iter().filter_map(Value::as_str).collect();
    values.join("|")
}

fn start_demo() -> (Service, [SocketAddr; 2]) {
    let demo = Service::spawn(
        Command::new(env!("CARGO_BIN_EXE_demo"))
            .args(["--interval", "20ms"])
            .env("PINGER__PONGER__ENDPOINTS", "all")
            .env("PINGER__REJECTION_PROBE__INTERVAL", "1s"),
    );
    let admin = |event: &str| {
        let line = demo.wait_for(event);
        line.split("admin=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap()
    };
    let admins = ["Listening ", "Pinging "].map(admin);
    (demo, admins)
}

#[test]
fn prometheus_evaluates_the_rules_and_answers_the_dashboard() {
    if !is_installed("prometheus") {
        return;
    }
    let (mut demo, [ponger, pinger]) = start_demo();
    let rules = fs::read_to_string(format!("{MONITORING}/rules.yaml")).unwrap();
    let prometheus = Prometheus::start(&rules, Duration::from_secs(1));
    prometheus.scrape(&[("ponger", ponger), ("pinger", pinger)].map(|(job, admin)| Target {
        namespace: "demo".into(),
        node: "one",
        job,
        admin,
    }));
    wait_until("both are scraped", || (prometheus.query("count(up == 1)") == [2.0]).then_some(()));

    let dashboard = fs::read_to_string(format!("{MONITORING}/dashboard/ping-pong.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let mut variables =
        vec![("$__rate_interval".to_owned(), "30s".to_owned()), ("$__range".into(), "1m".into())];
    let fill = |text: &str, variables: &[(String, String)]| {
        let text =
            variables.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value));
        assert!(!text.contains('$'), "a variable without a value: {text}");
        text
    };
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if let Some(query) = variable["query"]["query"].as_str() {
            let values = label_values(&prometheus, &fill(query, &variables));
            variables.push((format!("${}", variable["name"].as_str().unwrap()), values));
        }
    }
    assert!(variables.contains(&("$namespace".into(), "demo".into())), "{variables:?}");
    assert!(variables.contains(&("$job".into(), "pinger|ponger".into())), "{variables:?}");

    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let queries: Vec<_> =
        targets.map(|target| fill(target["expr"].as_str().unwrap(), &variables)).collect();
    assert!(queries.len() >= panels.len());
    for query in &queries {
        wait_until(query, || (!prometheus.query(query).is_empty()).then_some(()));
    }

    // Every rule was evaluated, none with an error, and a healthy run raises no alert.
    wait_until("every rule was evaluated", || {
        let groups = prometheus.get("rules", &[]);
        let rules = groups["groups"].as_array()?.iter().flat_map(|group| group["rules"].as_array());
        let health: Vec<_> = rules.flatten().map(|rule| rule["health"].clone()).collect();
        assert!(!health.contains(&"err".into()), "{groups}");
        (!health.is_empty() && health.iter().all(|health| *health == "ok")).then_some(())
    });
    wait_until("the rejection probe is counted", || {
        let probes = prometheus
            .query("sum(increase(pinger_rejection_probes_total{result=\"rejected\"}[1m]))");
        probes.first().filter(|probes| **probes > 0.0).copied()
    });
    assert_eq!(prometheus.firing_alerts(), BTreeSet::new());
    assert!(demo.stop().success());
    prometheus.stop();
}
