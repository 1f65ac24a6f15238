//! The original's files, as they were written.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    cluster::Cluster,
    place::{Place, Probe, Service},
    wait::{seconds, until},
};

const PONGER: &str = r#"service:
  port: 8080
  # If the following are uncommented, then the server will operate over TLS
  tlsCertificate: /app/certs/server.crt
  tlsPrivateKey: /app/certs/server.key

metrics:
  port: 2112
  endpoint: "/metrics"
"#;

const PINGER: &str = "ponger:
  url: https://ponger:8080
  # If uncommented, acceptCert will add
  # the certificates listed in the file to
  # the list of accepted certificates
  acceptCert: /app/certs/server.crt
";

/// What its README gives to `openssl req`.
const SAN: &str = "[req]
distinguished_name = req_distinguished_name
req_extensions = req_ext
x509_extensions = v3_req
prompt = no

[req_distinguished_name]
C = CA
ST = Ontario
L = Toronto
O = MyOrg
CN = ponger

[req_ext]
subjectAltName = @alt_names

[v3_req]
keyUsage = keyEncipherment, dataEncipherment
extendedKeyUsage = serverAuth
subjectAltName = @alt_names

[alt_names]
DNS.1 = ponger
";

pub(crate) async fn cluster(place: &Place, cluster: &Cluster) -> Result<String> {
    let namespace = format!("{}-original", cluster.namespace);
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("san.cnf"), SAN)?;
    let made = Command::new("openssl")
        .args("req -x509 -nodes -newkey rsa:2048 -keyout tls.key -out tls.crt -days 365 -config san.cnf".split(' '))
        .current_dir(folder.path())
        .output()
        .await
        .context("openssl")?;
    ensure!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
    let certificate = fs::read_to_string(folder.path().join("tls.crt"))?;
    let key = fs::read_to_string(folder.path().join("tls.key"))?;

    cluster.make_namespace(&namespace).await?;
    let done = runs(place, cluster, &namespace, &certificate, &key).await;
    cluster.remove_namespace(&namespace).await?;
    done
}

async fn runs(
    place: &Place,
    cluster: &Cluster,
    namespace: &str,
    certificate: &str,
    key: &str,
) -> Result<String> {
    cluster
        .apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "certs", "namespace": namespace },
            "stringData": { "server.crt": certificate, "server.key": key },
        }))
        .await?;
    for (service, config) in [(Service::Ponger, PONGER), (Service::Pinger, PINGER)] {
        for object in objects(cluster, namespace, service, config) {
            cluster.apply(&object).await?;
        }
    }
    for service in Service::BOTH {
        let deployment = format!("deployment/{service}");
        cluster
            .kubectl(&["-n", namespace, "rollout", "status", &deployment, "--timeout=120s"])
            .await?;
    }
    for (service, wanted) in
        [(Service::Pinger, "Got pong"), (Service::Ponger, "Received GET /ping")]
    {
        until(&format!("{service} logs `{wanted}`"), seconds(60), || async {
            let service = format!("svc/{service}");
            let log = cluster.kubectl(&["-n", namespace, "logs", &service, "--tail=20"]).await?;
            Ok(if log.contains(wanted) { Ok(()) } else { Err(log) })
        })
        .await?;
    }
    // The other port of its Service.
    let probe = Probe {
        name: "port-443".into(),
        namespace: namespace.to_owned(),
        url: "https://ponger:443".into(),
        roots: Some(certificate.to_owned()),
        count: 3,
        ..Probe::default()
    };
    let outcomes = place.probe(&probe).await?;
    ensure!(outcomes.iter().all(|outcome| outcome == "pong"), "by port 443: {outcomes:?}");
    Ok("pongs by 8080 and by 443, over its RSA certificate for DNS:ponger".into())
}

/// A Deployment and a Service in the original's shape, with what its image had mounted.
fn objects(cluster: &Cluster, namespace: &str, service: Service, config: &str) -> [Value; 3] {
    let name = service.name();
    let labels = json!({ "app.kubernetes.io/name": name });
    let metadata = json!({ "name": name, "namespace": namespace });
    [
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata,
            "data": { "config.yaml": config },
        }),
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
            "spec": {
                "replicas": 1,
                "selector": { "matchLabels": labels },
                "template": {
                    "metadata": { "labels": labels },
                    "spec": {
                        "containers": [{
                            "name": name,
                            "image": cluster.image(service),
                            "imagePullPolicy": "Never",
                            "workingDir": "/app",
                            "volumeMounts": [
                                { "name": "config", "mountPath": "/app/config.yaml", "subPath": "config.yaml" },
                                { "name": "certs", "mountPath": "/app/certs" },
                            ],
                        }],
                        "volumes": [
                            { "name": "config", "configMap": { "name": name } },
                            { "name": "certs", "secret": { "secretName": "certs" } },
                        ],
                    },
                },
            },
        }),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": { "selector": labels, "ports": [
                { "name": "http", "port": 8080, "targetPort": 8080 },
                { "name": "https", "port": 443, "targetPort": 8080 },
            ] },
        }),
    ]
}
