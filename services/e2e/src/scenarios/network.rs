//! NetworkPolicies, by traffic: what is to be stopped is stopped, what is to flow flows, and with
//! the policies taken away what was stopped flows too.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;

use crate::{
    cluster::{Cluster, address_of},
    place::{Impostor, Place, Probe, Service, spiffe},
    wait::until,
};

/// Where a probe runs, and as what.
struct Who<'w> {
    name: &'static str,
    namespace: &'w str,
    label: &'static str,
}

pub(crate) async fn policies(place: &Place, cluster: &Cluster) -> Result<String> {
    let ours = cluster.namespace.as_str();
    let outside = format!("{ours}-outside");
    cluster.make_namespace(&outside).await?;
    let monitoring = !cluster.has_namespace("monitoring").await?;
    if monitoring {
        cluster.make_namespace("monitoring").await?;
    }
    let listener = Impostor {
        name: "bystander",
        namespace: outside.clone(),
        leaf: place.issue(Service::Ponger),
        client_roots: None,
    };
    place.impostor(&listener).await?;
    let done = proven(place, cluster, &outside).await;
    place.dismiss(&listener).await?;
    cluster.remove_namespace(&outside).await?;
    if monitoring {
        cluster.remove_namespace("monitoring").await?;
    }
    done
}

async fn proven(place: &Place, cluster: &Cluster, outside: &str) -> Result<String> {
    let ours = cluster.namespace.as_str();
    let address = |pods: Vec<_>| address_of(pods.first().context("no pod")?);
    let ponger = address(cluster.ready_pods(Service::Ponger).await?)?;
    let pinger = address(cluster.ready_pods(Service::Pinger).await?)?;
    let service = format!("https://ponger.{ours}.svc");
    let admin = |address: &str| format!("http://{address}:2112/livez");

    let stranger = |name| Who { name, namespace: outside, label: "stranger" };
    let neighbour = |name| Who { name, namespace: ours, label: "neighbour" };
    let as_pinger = |name| Who { name, namespace: ours, label: "pinger" };
    let as_ponger = |name| Who { name, namespace: ours, label: "ponger" };
    let bystander = format!("https://bystander.{outside}.svc");
    let monitor = |name| Who { name, namespace: "monitoring", label: "monitor" };
    // The admin port is plain HTTP, and what it says is no pong: that it says it, is reaching it.
    let ways: [(Who<'_>, String, bool); 13] = [
        (stranger("stranger-ponger"), service.clone(), false),
        (stranger("stranger-ponger-admin"), admin(&ponger), false),
        (stranger("stranger-pinger-admin"), admin(&pinger), false),
        (neighbour("neighbour-ponger"), format!("https://{ponger}:8443"), false),
        (neighbour("neighbour-admin"), admin(&ponger), false),
        (neighbour("neighbour-outside"), bystander.clone(), false),
        (as_ponger("ponger-outside"), bystander.clone(), false),
        (as_pinger("pinger-ponger"), service.clone(), true),
        (as_pinger("pinger-ponger-admin"), admin(&ponger), false),
        (as_pinger("pinger-api"), "https://kubernetes.default.svc".into(), false),
        (as_pinger("pinger-outside"), bystander, false),
        (monitor("monitoring-admin"), admin(&ponger), true),
        (monitor("monitoring-ponger"), format!("https://{ponger}:8443"), false),
    ];
    // A few at a time, so that small nodes keep up.
    for some in ways.chunks(4) {
        try_join_all(some.iter().map(|(who, url, wanted)| async move {
            let (reached, last) = reaches(place, cluster, who, url).await?;
            ensure!(
                reached == *wanted,
                "{} should {}reach {url}: {last}",
                who.name,
                if *wanted { "" } else { "not " }
            );
            Ok(())
        }))
        .await?;
    }
    let policies = cluster.ours(&["get", "networkpolicies", "-o", "name"]).await?;
    let open = async {
        cluster.ours(&["delete", "networkpolicies", "--all"]).await?;
        until("the same strangers get in without the policies", Duration::from_secs(60), || async {
            let (one, _) = reaches(place, cluster, &stranger("stranger-again"), &service).await?;
            let (two, last) =
                reaches(place, cluster, &stranger("stranger-admin-again"), &admin(&pinger)).await?;
            Ok(if one && two { Ok(()) } else { Err(last) })
        })
        .await
    }
    .await;
    cluster.apply_folder("base", ours, &[crate::cluster::OFTEN]).await?;
    open?;
    until("the policies are in force again", Duration::from_secs(60), || async {
        let (reached, last) =
            reaches(place, cluster, &stranger("stranger-at-last"), &service).await?;
        Ok(if reached { Err(last) } else { Ok(()) })
    })
    .await?;
    let count = ways.iter().filter(|(_, _, wanted)| !wanted).count();
    Ok(format!(
        "{count} ways closed, {} open; without the {} policies the strangers got in",
        ways.len() - count,
        policies.lines().count()
    ))
}

/// Whether a pod reaches a URL, and what came of its last ping: a policy may take hold a moment
/// after the pod starts.
async fn reaches(
    place: &Place,
    cluster: &Cluster,
    who: &Who<'_>,
    url: &str,
) -> Result<(bool, String)> {
    let tls = url.starts_with("https");
    let probe = Probe {
        name: who.name.to_owned(),
        namespace: who.namespace.to_owned(),
        labels: vec![("app.kubernetes.io/name", who.label)],
        url: url.to_owned(),
        // The right certificate: nothing but the network is in the way.
        leaf: tls.then(|| place.issue(Service::Pinger)),
        roots: tls.then(|| place.root().pem().to_owned()),
        server_id: tls.then(|| spiffe(&cluster.namespace, "ponger")),
        count: 3,
    };
    let outcomes = place.probe(&probe).await?;
    let last = outcomes.last().cloned().unwrap_or_default();
    Ok((!(last.starts_with("connect_") || last == "resolve"), last))
}
