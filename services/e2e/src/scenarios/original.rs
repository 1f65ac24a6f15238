//! The original project's configuration and certificate, unchanged.

use std::fs;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use testkit::original;

use crate::{
    cluster::Cluster,
    environment::Environment,
    model::{OneShotPinger, Service},
    wait::{met, until},
};

pub(crate) async fn unchanged(cluster: &Cluster) -> Result<String> {
    let namespace = format!("{}-original", cluster.namespace);
    let dir = tempfile::tempdir()?;
    original::make_certificate(dir.path())?;
    let certificate = fs::read_to_string(dir.path().join("tls.crt"))?;
    let key = fs::read_to_string(dir.path().join("tls.key"))?;

    cluster.create_namespace(&namespace).await?;
    let result = deploy_and_ping(cluster, &namespace, &certificate, &key).await;
    cluster.delete_namespace(&namespace).await?;
    result
}

async fn deploy_and_ping(
    cluster: &Cluster,
    namespace: &str,
    certificate: &str,
    key: &str,
) -> Result<String> {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "certs", "namespace": namespace },
        "stringData": { "server.crt": certificate, "server.key": key },
    });
    cluster.kubectl.apply(&secret).await?;
    for (service, config) in
        [(Service::Ponger, original::PONGER_CONFIG), (Service::Pinger, original::PINGER_CONFIG)]
    {
        for object in objects(cluster, namespace, service, config) {
            cluster.kubectl.apply(&object).await?;
        }
    }
    for service in Service::BOTH {
        cluster.kubectl.wait_for_rollout(namespace, service.name()).await?;
    }
    for (target, message) in [("svc/pinger", "Got pong"), ("svc/ponger", "Received GET /ping")] {
        until(&format!("`kubectl logs {target}` shows `{message}`"), 60, async || {
            let log = cluster.kubectl.run_in(namespace, &["logs", target, "--tail=20"]).await?;
            met(log.contains(message), log)
        })
        .await?;
    }
    // The other port of its Service.
    let pinger = OneShotPinger {
        name: "port-443".into(),
        namespace: Some(namespace.to_owned()),
        url: "https://ponger:443".into(),
        roots: Some(certificate.to_owned()),
        count: 3,
        ..OneShotPinger::default()
    };
    let outcomes = cluster.run_pinger(&pinger).await?;
    ensure!(outcomes.iter().all(|outcome| outcome == "pong"), "port 443: {outcomes:?}");
    Ok("pongs on ports 8080 and 443, with its RSA certificate for DNS:ponger".into())
}

/// Builds the ConfigMap, Deployment and Service of a service as the original project has them.
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
