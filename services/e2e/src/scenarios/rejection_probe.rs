//! pinger verifies that ponger rejects untrusted clients, and raises an alarm if it does not.

use anyhow::{Result, ensure};
use kube::ResourceExt as _;
use serde_json::json;

use crate::{
    cluster::{Cluster, FAST_INTERVAL, objects::is_ready},
    environment::Environment,
    local::LocalProcesses,
    metrics::Samples,
    model::{OneShotPinger, RoguePonger, Service, spiffe_id},
    wait::{met, until},
};

const FAST_PROBES: (&str, &str) = ("PINGER__REJECTION_PROBE__INTERVAL", "1s");
const ALARM: &str = "Rejection probe failed: ponger accepted an untrusted client";

/// Returns how many probes had a result.
fn probes(samples: &Samples, result: &str) -> f64 {
    samples.sum("pinger_rejection_probes_total", &[("result", result)])
}

/// A ponger that requests no client certificate.
fn permissive_ponger(env: &impl Environment) -> RoguePonger {
    RoguePonger {
        name: "permissive",
        namespace: None,
        leaf: env.issue(Service::Ponger),
        client_roots: None,
    }
}

pub(crate) async fn local(local: &LocalProcesses) -> Result<String> {
    let permissive = permissive_ponger(local);
    let cases = [
        ("strict", local.url("ponger").await?, "rejected", "accepted", 200),
        ("permissive", local.start_ponger(&permissive).await?, "accepted", "rejected", 503),
    ];
    let mut measured = Vec::new();
    for (case, url, expected, other, readiness) in cases {
        let name = format!("pinger-of-{case}");
        let root = local.root();
        let pinger = OneShotPinger {
            name: name.clone(),
            url,
            leaf: Some(local.issue(Service::Pinger)),
            roots: Some(root.pem().to_owned()),
            server_id: Some(spiffe_id(local.namespace(), "ponger")),
            // Without end.
            count: 0,
            ..OneShotPinger::default()
        };
        let dir = local.write_files(&name, pinger.leaf.as_ref(), pinger.roots.as_deref())?;
        let mut config = pinger.config(&dir);
        config["rejectionProbe"] = json!({ "interval": "1s", "notReady": true });
        local.run(&name, Service::Pinger, config)?;
        until(&format!("probes are {expected}"), 30, async || {
            let count = probes(&local.metrics_of(&name).await?, expected);
            let status = local.readiness(&name).await?;
            met(count >= 2.0 && status == readiness, format!("{count} probes, readiness {status}"))
        })
        .await?;
        // A ponger that requests no certificate does not see an invalid one, so it accepts it too.
        let count = probes(&local.metrics_of(&name).await?, other);
        ensure!(count == 0.0, "{count} probes were {other}");
        measured.push(format!("{case} ponger: {expected}, readiness {readiness}"));
        local.kill(&name);
    }
    local.stop(&permissive).await?;
    Ok(measured.join("; "))
}

pub(crate) async fn cluster(cluster: &Cluster) -> Result<String> {
    let namespace = &cluster.namespace;
    cluster.apply_directory("base", namespace, &[FAST_INTERVAL, FAST_PROBES]).await?;
    cluster.wait_for_rollout(namespace, Service::Pinger).await?;
    let permissive = permissive_ponger(cluster);
    cluster.start_ponger(&permissive).await?;
    let result = replace_ponger(cluster, permissive.name).await;
    // Restores the Service's selector and the interval.
    cluster.apply_directory("base", namespace, &[FAST_INTERVAL]).await?;
    cluster.stop(&permissive).await?;
    cluster.wait_for_rollout(namespace, Service::Pinger).await?;
    result
}

async fn replace_ponger(cluster: &Cluster, permissive: &str) -> Result<String> {
    let pinger = cluster.ready_pod(Service::Pinger).await?.name_any();
    let probes = async |result| anyhow::Ok(probes(&cluster.metrics_of(&pinger).await?, result));
    let ready = async || anyhow::Ok(is_ready(&cluster.api().get(&pinger).await?));
    until("probes are rejected", 30, async || {
        let rejected = probes("rejected").await?;
        met(rejected >= 4.0, rejected)
    })
    .await?;
    let accepted = probes("accepted").await?;
    ensure!(accepted == 0.0, "the real ponger accepted {accepted} probes");

    select(cluster, permissive).await?;
    let accepted = until("pinger is not ready and logs the cause", 60, async || {
        let (accepted, ready) = (probes("accepted").await?, ready().await?);
        let logged = cluster.run_kubectl(&["logs", &pinger, "--tail=200"]).await?.contains(ALARM);
        Ok(match accepted > 0.0 && !ready && logged {
            true => Ok(accepted),
            false => Err(format!("{accepted} accepted, ready: {ready}, logged: {logged}")),
        })
    })
    .await?;

    select(cluster, "ping-pong").await?;
    until("pinger is ready again", 60, async || met(ready().await?, "not ready")).await?;
    Ok(format!(
        "rejected by the real ponger; {accepted} accepted by the permissive one: not ready; ready again"
    ))
}

/// Makes the Service `ponger` select another instance.
async fn select(cluster: &Cluster, instance: &str) -> Result<()> {
    let patch = json!({ "spec": { "selector": { "app.kubernetes.io/instance": instance } } });
    let patch = patch.to_string();
    cluster.run_kubectl(&["patch", "service", "ponger", "--type=merge", "-p", &patch]).await?;
    Ok(())
}
