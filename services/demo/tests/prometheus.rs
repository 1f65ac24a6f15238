//! A real Prometheus scrapes a real run, evaluates the rules, and answers every query of the dashboard.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::Command,
};

use serde_json::Value;
use testkit::{
    PATIENCE,
    process::{Service, is_installed},
    wait_until,
};

const MONITORING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../k8s/components/monitoring");

/// A Prometheus on a free port, which scrapes as the components have it do.
struct Prometheus {
    service: Service,
    address: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Prometheus {
    fn start(ponger: SocketAddr, pinger: SocketAddr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let target = |job: &str, admin: SocketAddr| {
            format!(
                "- job_name: {job}
  static_configs:
    - targets: [\"{admin}\"]
      labels: {{ namespace: demo }}
"
            )
        };
        let targets = target("ponger", ponger) + &target("pinger", pinger);
        let config = dir.path().join("prometheus.yaml");
        let settings = "scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s";
        let text = format!(
            "global: {{ {settings} }}\nrule_files: ['{MONITORING}/rules.yaml']\nscrape_configs:\n{targets}"
        );
        fs::write(&config, text).unwrap();
        let service = Service::spawn(
            Command::new("prometheus")
                .arg(format!("--config.file={}", config.display()))
                .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
                .arg("--web.listen-address=127.0.0.1:0"),
        );
        service.wait_for("Server is ready to receive web requests");
        let line = service.wait_for("\"Listening on\"");
        let address = line.split("address=").nth(1).unwrap().split(' ').next().unwrap();
        Self { address: address.parse().unwrap(), service, _dir: dir }
    }

    /// The data of a response of its API.
    fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let parameters: Vec<_> = parameters
            .iter()
            .map(|(name, value)| format!("{name}={}", percent_encode(value)))
            .collect();
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // HTTP/1.0, so that the body comes in one piece.
        let request = format!("GET /api/v1/{path}?{} HTTP/1.0\r\n\r\n", parameters.join("&"));
        stream.write_all(request.as_bytes()).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        let body = response.split_once("\r\n\r\n").unwrap().1;
        let mut body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["status"], "success", "{path} {parameters:?}: {body}");
        body["data"].take()
    }

    /// The values of a query's result, without those that are no number.
    fn query(&self, query: &str) -> Vec<f64> {
        let data = self.get("query", &[("query", query)]);
        let values = data["result"].as_array().unwrap().iter();
        values
            .map(|series| series["value"][1].as_str().unwrap().parse::<f64>().unwrap())
            .filter(|value| value.is_finite())
            .collect()
    }

    /// The values of a variable of the dashboard, `label_values(SELECTOR, LABEL)`, joined as Grafana
    /// does.
    fn label_values(&self, query: &str) -> String {
        let arguments = query.strip_prefix("label_values(").unwrap().strip_suffix(')').unwrap();
        let (selector, label) = arguments.rsplit_once(", ").unwrap();
        let data = self.get(&format!("label/{label}/values"), &[("match[]", selector)]);
        let values: Vec<_> = data.as_array().unwrap().iter().filter_map(Value::as_str).collect();
        values.join("|")
    }
}

fn percent_encode(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn start_demo() -> (Service, [SocketAddr; 2]) {
    let demo = Service::spawn(
        Command::new(env!("CARGO_BIN_EXE_demo"))
            .args(["--interval", "20ms"])
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
    let mut prometheus = Prometheus::start(ponger, pinger);
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
            let values = prometheus.label_values(&fill(query, &variables));
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
    let firing = prometheus.query("ALERTS{alertstate=\"firing\"}");
    assert!(firing.is_empty(), "{}", prometheus.get("alerts", &[]));
    assert!(demo.stop().success());
    assert!(prometheus.service.stop().success());
}
