//! A real Prometheus, which scrapes services and evaluates rules.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{PATIENCE, process::Service};

/// A service that Prometheus scrapes, and the labels that it has there.
#[derive(Clone, Debug)]
pub struct Target {
    /// The label `namespace`.
    pub namespace: String,
    /// The label `node`; none if it is empty.
    pub node: &'static str,
    /// The label `job`.
    pub job: &'static str,
    /// The admin listener.
    pub admin: SocketAddr,
}

/// A Prometheus on a free port.
#[derive(Debug)]
pub struct Prometheus {
    service: Service,
    address: SocketAddr,
    dir: tempfile::TempDir,
}

impl Prometheus {
    /// Starts it with `rules`, the text of a file of rules. It scrapes and evaluates once per `interval`.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn start(rules: &str, interval: Duration) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name).display().to_string();
        let ms = interval.as_millis();
        fs::write(path("rules.yaml"), rules).expect("written");
        let config = json!({
            "global": {
                "scrape_interval": format!("{ms}ms"),
                "scrape_timeout": format!("{ms}ms"),
                "evaluation_interval": format!("{ms}ms"),
            },
            "rule_files": [path("rules.yaml")],
            // Each target sets `job` itself.
            "scrape_configs": [{
                "job_name": "services",
                "file_sd_configs": [{"files": [path("targets.json")]}],
            }],
        });
        // JSON is YAML.
        fs::write(path("prometheus.yaml"), config.to_string()).expect("written");
        let service = Service::spawn(
            Command::new("prometheus")
                .arg(format!("--config.file={}", path("prometheus.yaml")))
                .arg(format!("--storage.tsdb.path={}", path("data")))
                .arg("--web.listen-address=127.0.0.1:0"),
        );
        service.wait_for("Server is ready to receive web requests");
        let line = service.wait_for("\"Listening on\"");
        let address = line.split("address=").nth(1).and_then(|rest| rest.split(' ').next());
        let address = address.and_then(|address| address.parse().ok()).expect("its address");
        Self { service, address, dir }
    }

    /// Scrapes these targets from now on, and no others.
    ///
    /// # Panics
    /// When its directory cannot be written.
    pub fn scrape(&self, targets: &[Target]) {
        let targets = targets.iter().map(|Target { namespace, node, job, admin }| {
            let labels = json!({"namespace": namespace, "node": node, "job": job});
            json!({"targets": [admin], "labels": labels})
        });
        // Renamed, so that Prometheus never reads a part of it.
        let new = self.dir.path().join("new");
        fs::write(&new, Value::from_iter(targets).to_string()).expect("written");
        fs::rename(new, self.dir.path().join("targets.json")).expect("renamed");
    }

    /// The data of a response of its API.
    ///
    /// # Panics
    /// When it does not respond, or with an error.
    #[track_caller]
    pub fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let parameters: Vec<_> = parameters
            .iter()
            .map(|(name, value)| format!("{name}={}", percent_encode(value)))
            .collect();
        let mut stream = TcpStream::connect(self.address).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        // HTTP/1.0, so that the body comes in one piece.
        let request = format!("GET /api/v1/{path}?{} HTTP/1.0\r\n\r\n", parameters.join("&"));
        stream.write_all(request.as_bytes()).expect("sent");
        let mut response = String::new();
        stream.read_to_string(&mut response).expect("a response");
        let (_, body) = response.split_once("\r\n\r\n").expect("a body");
        let mut body: Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(body["status"], "success", "{path} {parameters:?}: {body}");
        body["data"].take()
    }

    /// The values of a query's result, without those that are no number.
    ///
    /// # Panics
    /// When the query has an error.
    #[track_caller]
    pub fn query(&self, query: &str) -> Vec<f64> {
        let data = self.get("query", &[("query", query)]);
        let series = data["result"].as_array().into_iter().flatten();
        series
            .filter_map(|series| series["value"][1].as_str()?.parse().ok())
            .filter(|value: &f64| value.is_finite())
            .collect()
    }

    /// The alerts that fire now, each as its namespace and its name.
    ///
    /// # Panics
    /// When it does not respond.
    #[track_caller]
    pub fn firing_alerts(&self) -> BTreeSet<(String, String)> {
        let data = self.get("alerts", &[]);
        let alerts = data["alerts"].as_array().into_iter().flatten();
        let firing = alerts.filter(|alert| alert["state"] == "firing");
        let label = |alert: &Value, name: &str| {
            alert["labels"][name].as_str().unwrap_or_default().to_owned()
        };
        firing.map(|alert| (label(alert, "namespace"), label(alert, "alertname"))).collect()
    }

    /// Stops it.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn stop(mut self) {
        assert!(self.service.stop().success());
    }
}

fn percent_encode(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
