//! pinger knocks as a stranger, and says so when it is let in.

use anyhow::{Context as _, Result, ensure};
use kube::ResourceExt as _;
use serde_json::json;

use crate::{
    cluster::{Cluster, OFTEN},
    local::Local,
    metrics::Samples,
    place::{Impostor, Place, Service, spiffe},
    wait::{seconds, until},
};

const OFTEN_TOO: (&str, &str) = ("PINGER__REFUSAL__INTERVAL", "500ms");
const ALARM: &str = "A stranger was let in";

/// How many strangers' pings came to `result`.
fn strangers(samples: &Samples, result: &str) -> f64 {
    samples.sum("pinger_refusal_checks_total", &[("result", result)])
}

fn lax(place: &Place) -> Impostor {
    Impostor {
        name: "lax",
        namespace: String::new(),
        leaf: place.issue(Service::Ponger),
        client_roots: None,
    }
}

pub(crate) async fn local(place: &Place, local: &Local) -> Result<String> {
    let strict = format!("https://localhost:{}", local.said("ponger", "address").await?);
    let lax = lax(place);
    let lax_url = place.impostor(&lax).await?;
    let mut said = Vec::new();
    for (name, url, result, ready) in
        [("canary-strict", strict, "refused", 200), ("canary-lax", lax_url, "accepted", 503)]
    {
        let folder = local.folder(name)?;
        place.issue(Service::Pinger).write(&folder)?;
        std::fs::write(folder.join("ca.crt"), place.root().pem())?;
        let config = json!({
            "refusal": { "interval": "100ms", "notReady": true },
            "ponger": {
                "url": url,
                "acceptCert": folder.join("ca.crt"),
                "clientCertificate": folder.join("tls.crt"),
                "clientPrivateKey": folder.join("tls.key"),
                "serverId": spiffe(place.namespace(), "ponger"),
            },
        });
        local.run(name, Service::Pinger, config)?;
        until(&format!("strangers are {result}"), seconds(30), || async {
            let count = strangers(&local.metrics_of(name).await?, result);
            let status = local.ready(name).await?;
            let there = count >= 2.0 && status == ready;
            Ok(if there { Ok(()) } else { Err(format!("{count} {result}, readiness {status}")) })
        })
        .await?;
        let samples = local.metrics_of(name).await?;
        let other = if result == "refused" { "accepted" } else { "refused" };
        // One that asks nobody does not even see the certificate that a stranger shows.
        ensure!(strangers(&samples, other) == 0.0, "some strangers were {other} as well");
        said.push(format!("{result}, readiness {ready}"));
        local.dismiss(name).await?;
    }
    place.dismiss(&lax).await?;
    Ok(said.join("; then "))
}

pub(crate) async fn cluster(place: &Place, cluster: &Cluster) -> Result<String> {
    let ours = cluster.namespace.clone();
    cluster.apply_folder("base", &ours, &[OFTEN, OFTEN_TOO]).await?;
    cluster.rolled_out(&ours, Service::Pinger).await?;
    let lax = lax(place);
    place.impostor(&lax).await?;
    let done = alarms(cluster, lax.name).await;
    // The Service has its own selector again, and pinger knocks no more.
    cluster.apply_folder("base", &ours, &[OFTEN]).await?;
    place.dismiss(&lax).await?;
    cluster.rolled_out(&ours, Service::Pinger).await?;
    done
}

async fn alarms(cluster: &Cluster, lax: &str) -> Result<String> {
    let pods = cluster.ready_pods(Service::Pinger).await?;
    let canary = pods.first().context("no pinger is ready")?.name_any();
    until("strangers are refused", seconds(30), || async {
        let refused = strangers(&cluster.metrics_of(&canary).await?, "refused");
        Ok(if refused >= 4.0 { Ok(()) } else { Err(format!("{refused} were")) })
    })
    .await?;
    let accepted = strangers(&cluster.metrics_of(&canary).await?, "accepted");
    ensure!(accepted == 0.0, "{accepted} strangers were let in by the strict ponger");

    select(cluster, lax).await?;
    until("the canary is not ready, and says why", seconds(60), || async {
        let accepted = strangers(&cluster.metrics_of(&canary).await?, "accepted");
        let ready = cluster.is_ready(&canary).await?;
        let said = cluster.ours(&["logs", &canary, "--tail=200"]).await?.contains(ALARM);
        let there = accepted > 0.0 && !ready && said;
        Ok(if there {
            Ok(())
        } else {
            Err(format!("{accepted} accepted, ready {ready}, said {said}"))
        })
    })
    .await?;
    let accepted = strangers(&cluster.metrics_of(&canary).await?, "accepted");

    select(cluster, "ping-pong").await?;
    until("the canary is ready again", seconds(60), || async {
        Ok(if cluster.is_ready(&canary).await? { Ok(()) } else { Err("it is not".into()) })
    })
    .await?;
    Ok(format!(
        "refused by the strict one; {accepted} let in by the lax one: not ready; ready again"
    ))
}

/// Lets the Service lead to other pods.
async fn select(cluster: &Cluster, instance: &str) -> Result<()> {
    let patch = json!({ "spec": { "selector": { "app.kubernetes.io/instance": instance } } });
    let patch = patch.to_string();
    cluster.ours(&["patch", "service", "ponger", "--type=merge", "--patch", &patch]).await?;
    Ok(())
}
