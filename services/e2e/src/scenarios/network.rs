//! NetworkPolicies, proven by traffic: what they block is blocked, what they allow is allowed, and
//! once they are deleted, what was blocked is allowed too.

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;

use crate::{
    cluster::{Cluster, FAST_INTERVAL, objects::pod_ip},
    environment::Environment,
    model::{OneShotPinger, RoguePonger, Service, spiffe_id},
    wait::{met, until},
};

/// A pod that connects to a URL, and whether the policies allow that.
struct Flow<'f> {
    name: &'static str,
    namespace: &'f str,
    app: &'static str,
    url: String,
    allowed: bool,
}

pub(crate) async fn policies(cluster: &Cluster) -> Result<String> {
    let outside = format!("{}-outside", cluster.namespace);
    cluster.create_namespace(&outside).await?;
    let creates_monitoring = !cluster.has_namespace("monitoring").await?;
    if creates_monitoring {
        cluster.create_namespace("monitoring").await?;
    }
    let external = RoguePonger {
        name: "external",
        namespace: Some(outside.clone()),
        leaf: cluster.issue(Service::Ponger),
        client_roots: None,
    };
    let external_url = cluster.start_ponger(&external).await?;
    let result = check_flows(cluster, &outside, &external_url).await;
    cluster.stop(&external).await?;
    cluster.delete_namespace(&outside).await?;
    if creates_monitoring {
        cluster.delete_namespace("monitoring").await?;
    }
    result
}

async fn check_flows(cluster: &Cluster, outside: &str, external_url: &str) -> Result<String> {
    let own = cluster.namespace.as_str();
    let ponger = pod_ip(&cluster.ready_pod(Service::Ponger).await?)?;
    let pinger = pod_ip(&cluster.ready_pod(Service::Pinger).await?)?;
    let service = format!("https://ponger.{own}.svc");
    let direct = format!("https://{ponger}:8443");
    // The admin port is plain HTTP and its response is no pong, but any response proves the flow.
    let ponger_admin = format!("http://{ponger}:2112/livez");
    let pinger_admin = format!("http://{pinger}:2112/livez");
    let api = "https://kubernetes.default.svc";

    let flow = |name, namespace, app, url: &str, allowed| Flow {
        name,
        namespace,
        app,
        url: url.to_owned(),
        allowed,
    };
    let flows = [
        flow("outside-to-ponger", outside, "other", &service, false),
        flow("outside-to-ponger-admin", outside, "other", &ponger_admin, false),
        flow("outside-to-pinger-admin", outside, "other", &pinger_admin, false),
        flow("other-to-ponger", own, "other", &direct, false),
        flow("other-to-ponger-admin", own, "other", &ponger_admin, false),
        flow("other-to-outside", own, "other", external_url, false),
        flow("ponger-to-outside", own, "ponger", external_url, false),
        flow("pinger-to-ponger", own, "pinger", &service, true),
        flow("pinger-to-ponger-admin", own, "pinger", &ponger_admin, false),
        flow("pinger-to-api", own, "pinger", api, false),
        flow("pinger-to-outside", own, "pinger", external_url, false),
        flow("prometheus-to-ponger-admin", "monitoring", "prometheus", &ponger_admin, false),
        flow("prometheus-to-ponger", "monitoring", "prometheus", &direct, false),
    ];
    check_all(cluster, &flows).await?;
    // Creating the namespace `monitoring` alone opens nothing: only its component does.
    cluster.apply_directory("components/prometheus", own, &[]).await?;
    let with_component = [
        flow("prometheus-scrapes-ponger", "monitoring", "prometheus", &ponger_admin, true),
        flow("prometheus-scrapes-pinger", "monitoring", "prometheus", &pinger_admin, true),
        flow("prometheus-pings-ponger", "monitoring", "prometheus", &direct, false),
        flow("other-scrapes-ponger", "monitoring", "other", &ponger_admin, false),
    ];
    check_all(cluster, &with_component).await?;
    let policies = cluster.run_kubectl(&["get", "networkpolicies", "-o", "name"]).await?;
    let [to_ponger, _, to_admin, ..] = &flows;
    let opened = async {
        cluster.run_kubectl(&["delete", "networkpolicies", "--all"]).await?;
        until("blocked clients connect without the policies", 60, async || {
            let (ponger, _) = connects(cluster, to_ponger).await?;
            let (admin, last) = connects(cluster, to_admin).await?;
            met(ponger && admin, last)
        })
        .await
    }
    .await;
    cluster.apply_directory("base", own, &[FAST_INTERVAL]).await?;
    opened?;
    until("the policies are enforced again", 60, async || {
        let (connected, last) = connects(cluster, to_ponger).await?;
        met(!connected, last)
    })
    .await?;
    let flows = || flows.iter().chain(&with_component);
    let blocked = flows().filter(|flow| !flow.allowed).count();
    Ok(format!(
        "{blocked} flows blocked, {} allowed; without the {} policies the blocked ones connect",
        flows().count() - blocked,
        policies.lines().count()
    ))
}

async fn check_all(cluster: &Cluster, flows: &[Flow<'_>]) -> Result<()> {
    // A few at a time, for small nodes.
    for some in flows.chunks(4) {
        try_join_all(some.iter().map(async |flow| {
            let (connected, last) = connects(cluster, flow).await?;
            let Flow { name, url, allowed, .. } = flow;
            let expected = if *allowed { "allowed" } else { "blocked" };
            ensure!(connected == *allowed, "{name} to {url} should be {expected}: {last}");
            Ok(())
        }))
        .await?;
    }
    Ok(())
}

/// Runs a pinger for a flow, and returns whether it connects and the outcome of its last ping: a
/// policy may be enforced a moment after the pod starts.
async fn connects(cluster: &Cluster, flow: &Flow<'_>) -> Result<(bool, String)> {
    let tls = flow.url.starts_with("https");
    let pinger = OneShotPinger {
        name: flow.name.to_owned(),
        namespace: Some(flow.namespace.to_owned()),
        app: Some(flow.app),
        url: flow.url.clone(),
        // The right certificate: nothing but the network may stop it.
        leaf: tls.then(|| cluster.issue(Service::Pinger)),
        roots: tls.then(|| cluster.root().pem().to_owned()),
        server_id: tls.then(|| spiffe_id(&cluster.namespace, "ponger")),
        count: 3,
    };
    let last = cluster.run_pinger(&pinger).await?.pop().unwrap_or_default();
    Ok((!(last.starts_with("connect_") || last == "resolve"), last))
}
