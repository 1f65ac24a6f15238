//! Pods and nodes come and go.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Node},
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams},
};
use tokio::process::Command;

use crate::{
    cluster::{Cluster, LABEL, node_of},
    place::{Place, Service},
    report::Skip,
    stranger::knock,
    wait::{seconds, until},
    window::Window,
};

/// How long a ponger that leaves must go on answering: news of its leaving take a moment to reach
/// every node.
const NEWS: Duration = Duration::from_secs(3);

pub(crate) async fn roll_out(place: &Place, cluster: &Cluster) -> Result<String> {
    let spare = grace_to_spare(cluster).await?;
    let window = Window::open(place).await?;
    leaving_pod_answers(place, cluster).await?;
    for service in Service::BOTH {
        cluster.ours(&["rollout", "restart", &format!("deployment/{service}")]).await?;
        cluster.rolled_out(&cluster.namespace, service).await?;
    }
    let tally = window.close(place).await?;
    Ok(format!("{}; grace to spare {spare} s", tally.none_lost()?))
}

/// The seconds that are left of ponger's grace after its preStop sleep and its drain.
async fn grace_to_spare(cluster: &Cluster) -> Result<i64> {
    let api: Api<Deployment> = Api::namespaced(cluster.client(), &cluster.namespace);
    let spec =
        api.get("ponger").await?.spec.and_then(|spec| spec.template.spec).context("a spec")?;
    let volumes = spec.volumes.iter().flatten();
    let config = volumes.filter_map(|volume| volume.config_map.as_ref());
    let config = config.map(|source| source.name.as_str()).find(|name| name.starts_with("ponger"));
    let api: Api<ConfigMap> = Api::namespaced(cluster.client(), &cluster.namespace);
    let config = api.get(config.context("ponger's configuration")?).await?;
    let text =
        config.data.and_then(|mut data| data.remove("config.yaml")).context("config.yaml")?;
    let drain = |key: &str| -> Result<i64> {
        let value = text.lines().find_map(|line| line.trim().strip_prefix(key));
        let value = value.with_context(|| format!("{key} is not in ponger's configuration"))?;
        value.trim().trim_end_matches('s').parse().with_context(|| format!("{key} {value}"))
    };
    let lifecycle = spec.containers.first().and_then(|container| container.lifecycle.clone());
    let sleep = lifecycle
        .and_then(|lifecycle| lifecycle.pre_stop?.sleep)
        .context("ponger does not wait before it stops")?
        .seconds;
    let (delay, timeout) = (drain("drainDelay:")?, drain("drainTimeout:")?);
    ensure!(sleep >= 1 && timeout >= 1, "ponger drains for {sleep} + {timeout} s");
    let spare = spec.termination_grace_period_seconds.unwrap_or(30) - sleep - delay - timeout;
    ensure!(spare > 0, "the drain does not fit into the grace period");
    Ok(spare)
}

/// Deletes a ponger with grace, and asks it until the news have gone round.
async fn leaving_pod_answers(place: &Place, cluster: &Cluster) -> Result<()> {
    let pods = cluster.ready_pods(Service::Ponger).await?;
    let pod = pods.first().context("no ponger is ready")?.name_any();
    let certificate = place.issue(Service::Pinger);
    cluster.pods_api().delete(&pod, &DeleteParams::default()).await?;
    let began = Instant::now();
    while began.elapsed() < NEWS {
        let stream = cluster.forward(&pod, 8443).await;
        let answer = match stream {
            Ok(stream) => knock(stream, place.root().pem(), "ponger", Some(&certificate)).await,
            Err(error) => Err(error),
        };
        let after = began.elapsed().as_secs_f64();
        ensure!(
            answer.as_ref().is_ok_and(crate::stranger::Answer::is_pong),
            "a ponger that was leaving for {after:.1} s answered no more: {answer:?}"
        );
    }
    cluster.rolled_out(&cluster.namespace, Service::Ponger).await
}

pub(crate) async fn kill(place: &Place, cluster: &Cluster) -> Result<String> {
    let window = Window::open(place).await?;
    let pods = cluster.ready_pods(Service::Ponger).await?;
    let pod = pods.first().context("no ponger is ready")?.name_any();
    cluster.ours(&["delete", "pod", &pod, "--grace-period=0", "--force"]).await?;
    cluster.rolled_out(&cluster.namespace, Service::Ponger).await?;
    let tally = window.close(place).await?;

    ensure!(tally.unaccounted == 0, "{tally}");
    for reason in tally.lost.keys() {
        ensure!(
            matches!(
                reason.as_str(),
                "reset"
                    | "connect_refused"
                    | "connect_unreachable"
                    | "connect_timeout"
                    | "tls_timeout"
                    | "request_timeout"
            ),
            "no ping on its way to a dead pod is lost as {reason}: {tally}"
        );
    }
    // One pinger sends one ping at a time; until the node forgets the pod, the next few may go there.
    ensure!(tally.lost() <= 5, "more were lost than were on their way: {tally}");
    ensure!(tally.pongs > tally.lost(), "{tally}");
    Ok(tally.to_string())
}

pub(crate) async fn drain(place: &Place, cluster: &Cluster) -> Result<String> {
    let pinger = cluster.ready_pods(Service::Pinger).await?;
    let pongers = cluster.ready_pods(Service::Ponger).await?;
    let of_pinger = pinger.first().map(node_of).unwrap_or_default();
    // The pinger's node, if a ponger is on it too.
    let node = pongers
        .iter()
        .map(node_of)
        .find(|node| *node == of_pinger)
        .or_else(|| pongers.first().map(node_of))
        .context("no ponger is ready")?;
    let window = Window::open(place).await?;
    let drained = drained(cluster, &node).await;
    cluster.kubectl(&["uncordon", &node]).await?;
    drained?;
    let tally = window.close(place).await?;
    Ok(format!("{}; of two evictions at once, the budget refused one", tally.none_lost()?))
}

async fn drained(cluster: &Cluster, node: &str) -> Result<()> {
    // Only our own pods: whoever else lives in the cluster is left alone.
    let selector = format!("{LABEL}={}", cluster.namespace);
    let arguments =
        ["drain", node, "--ignore-daemonsets", "--timeout=180s", "--pod-selector", &selector];
    let mut drain = std::pin::pin!(cluster.kubectl(&arguments));
    loop {
        tokio::select! {
            done = &mut drain => {
                done?;
                break;
            }
            () = tokio::time::sleep(Duration::from_millis(200)) => {
                ensure!(!cluster.ready_pods(Service::Ponger).await?.is_empty(), "no ponger was ready");
            }
        }
    }
    for service in Service::BOTH {
        cluster.rolled_out(&cluster.namespace, service).await?;
    }
    // Two evictions at once: the budget allows one.
    let pods = cluster.ready_pods(Service::Ponger).await?;
    let [one, two] = &pods[..] else { bail!("there are {} pongers", pods.len()) };
    let (one, two) = (one.name_any(), two.name_any());
    let refused = match tokio::try_join!(cluster.evict(&one), cluster.evict(&two))? {
        (None, None) => bail!("both pongers may be evicted at once"),
        (None, Some(refused)) | (Some(refused), None) => refused,
        (Some(one), Some(_)) => bail!("no ponger may be evicted: {one}"),
    };
    ensure!(refused.contains("disruption budget"), "{refused}");
    cluster.rolled_out(&cluster.namespace, Service::Ponger).await?;
    Ok(())
}

pub(crate) async fn node_stop(place: &Place, cluster: &Cluster) -> Result<String> {
    let node = expendable(cluster).await?;
    let window = Window::open(place).await?;
    let began = Instant::now();
    docker(&["stop", "--time", "1", &node]).await?;
    let stopped = after_stop(place, cluster, &node, began).await;
    let begin = Instant::now();
    docker(&["start", &node]).await?;
    let quiet = stopped?;
    let nodes: Api<Node> = Api::all(cluster.client());
    until(&format!("the node {node} is ready"), seconds(120), || async {
        Ok(if is_ready(&nodes.get(&node).await?) { Ok(()) } else { Err("it is not".into()) })
    })
    .await?;
    until("two pongers are ready", seconds(180), || async {
        let ready = cluster.ready_pods(Service::Ponger).await?.len();
        Ok(if ready == 2 { Ok(()) } else { Err(format!("{ready}")) })
    })
    .await?;
    cluster.pair_ready(&cluster.namespace).await?;
    let whole = begin.elapsed().as_secs();
    let tally = window.close(place).await?;
    ensure!(tally.unaccounted == 0, "{tally}");
    Ok(format!("{tally}; none any more {quiet} s after the stop; whole {whole} s after the start"))
}

/// Waits until no ping is lost any more, and says how long that took.
async fn after_stop(place: &Place, cluster: &Cluster, node: &str, began: Instant) -> Result<u64> {
    let nodes: Api<Node> = Api::all(cluster.client());
    until(&format!("the node {node} is seen as gone"), seconds(180), || async {
        Ok(if is_ready(&nodes.get(node).await?) { Err("it is ready".into()) } else { Ok(()) })
    })
    .await?;
    until("no ping is lost any more", seconds(120), || async {
        let took = began.elapsed().as_secs();
        let window = Window::open(place).await?;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let tally = window.close(place).await?;
        Ok(if tally.none_lost().is_ok() { Ok(took) } else { Err(tally.to_string()) })
    })
    .await
}

/// An agent that is a container here, with a ponger on it and without pinger.
async fn expendable(cluster: &Cluster) -> Result<String> {
    let nodes: Api<Node> = Api::all(cluster.client());
    let nodes = nodes.list(&ListParams::default()).await?.items;
    let is_server =
        |node: &&Node| node.labels().contains_key("node-role.kubernetes.io/control-plane");
    let servers: Vec<_> = nodes.iter().filter(is_server).map(Node::name_any).collect();
    let agents: Vec<_> = nodes.iter().filter(|node| !is_server(node)).map(Node::name_any).collect();
    if agents.len() < 2 {
        return Err(Skip("there are not two agents, one to stop and one to go on".into()).into());
    }
    for agent in &agents {
        if docker(&["inspect", "--type", "container", agent]).await.is_err() {
            let cause = format!(
                "the node {agent} is no container of this machine, so it cannot be stopped"
            );
            return Err(Skip(cause).into());
        }
    }
    // pongers to the agents, one on each, and pinger to any node but one of them.
    let node = agents.first().context("an agent")?;
    move_off(cluster, &servers, Service::Ponger).await?;
    move_off(cluster, std::slice::from_ref(node), Service::Pinger).await?;
    let pongers = cluster.ready_pods(Service::Ponger).await?;
    ensure!(pongers.iter().any(|pod| node_of(pod) == *node), "no ponger went to {node}");
    Ok(node.clone())
}

/// Rolls a service out while it may not run on `nodes`.
async fn move_off(cluster: &Cluster, nodes: &[String], service: Service) -> Result<()> {
    for node in nodes {
        cluster.kubectl(&["cordon", node]).await?;
    }
    let moved = async {
        cluster.ours(&["rollout", "restart", &format!("deployment/{service}")]).await?;
        cluster.rolled_out(&cluster.namespace, service).await
    }
    .await;
    for node in nodes {
        cluster.kubectl(&["uncordon", node]).await?;
    }
    moved
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|is| is.type_ == "Ready" && is.status == "True")
}

async fn docker(arguments: &[&str]) -> Result<()> {
    let output = Command::new("docker").args(arguments).output().await.context("docker")?;
    ensure!(
        output.status.success(),
        "docker {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
