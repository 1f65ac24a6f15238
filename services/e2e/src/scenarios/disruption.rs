//! Pods and nodes stop and start.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Node, Pod},
};
use kube::{
    ResourceExt as _,
    api::{DeleteParams, ListParams},
};
use tokio::process::Command;

use crate::{
    cluster::{
        Cluster,
        objects::{LABEL, node_name},
    },
    environment::Environment,
    model::Service,
    ping_window::PingWindow,
    report::Skip,
    tls_client::{self, ProbeOutcome},
    wait::{met, until},
};

/// How long a terminating ponger must still respond, until every node has removed its endpoint.
const ENDPOINT_PROPAGATION: Duration = Duration::from_secs(3);

pub(crate) async fn rolling_update(cluster: &Cluster) -> Result<String> {
    let spare = spare_grace_period(cluster).await?;
    let window = PingWindow::open(cluster).await?;
    terminating_pod_responds(cluster).await?;
    for service in Service::BOTH {
        cluster.restart(service).await?;
    }
    let stats = window.close(cluster).await?;
    Ok(format!("{}; {spare} s of the grace period to spare", stats.ensure_none_lost()?))
}

/// Returns the seconds of ponger's grace period that its preStop sleep and its drain leave.
async fn spare_grace_period(cluster: &Cluster) -> Result<i64> {
    let deployment = cluster.api::<Deployment>().get("ponger").await?;
    let pod = deployment.spec.and_then(|spec| spec.template.spec).context("no pod template")?;
    let mut config_maps =
        pod.volumes.iter().flatten().filter_map(|volume| Some(&volume.config_map.as_ref()?.name));
    let name = config_maps.find(|name| name.starts_with("ponger")).context("no ConfigMap")?;
    let config = cluster.api::<ConfigMap>().get(name).await?;
    let config = config.data.and_then(|mut data| data.remove("config.yaml"));
    let config = config.context("no config.yaml in ponger's ConfigMap")?;
    let seconds = |key: &str| -> Result<i64> {
        let value = config.lines().find_map(|line| line.trim().strip_prefix(key));
        let value = value.with_context(|| format!("no {key} in ponger's configuration"))?;
        value.trim().trim_end_matches('s').parse().with_context(|| format!("{key} {value}"))
    };
    let lifecycle = pod.containers.first().and_then(|container| container.lifecycle.clone());
    let sleep = lifecycle.and_then(|lifecycle| lifecycle.pre_stop?.sleep);
    let sleep = sleep.context("ponger has no preStop sleep")?.seconds;
    let (delay, timeout) = (seconds("drainDelay:")?, seconds("drainTimeout:")?);
    ensure!(sleep >= 1 && timeout >= 1, "preStop sleep {sleep} s, drain timeout {timeout} s");
    let spare = pod.termination_grace_period_seconds.unwrap_or(30) - sleep - delay - timeout;
    ensure!(spare > 0, "the drain does not fit into the grace period");
    Ok(spare)
}

/// Deletes a ponger, and checks that it responds until its endpoint is removed everywhere.
async fn terminating_pod_responds(cluster: &Cluster) -> Result<()> {
    let pod = cluster.ready_pod(Service::Ponger).await?.name_any();
    let certificate = cluster.issue(Service::Pinger);
    let root = cluster.root();
    let start = Instant::now();
    cluster.api::<Pod>().delete(&pod, &DeleteParams::default()).await?;
    let mut pongs = 0;
    while start.elapsed() < ENDPOINT_PROPAGATION {
        let outcome = match cluster.forward(&pod, 8443).await {
            Ok(stream) => tls_client::probe(stream, root.pem(), "ponger", Some(&certificate)).await,
            Err(error) => Err(error),
        };
        let elapsed = start.elapsed();
        if outcome.as_ref().is_ok_and(ProbeOutcome::is_pong) {
            pongs += 1;
        } else if elapsed < ENDPOINT_PROPAGATION {
            // A probe that fails later was slow: the pod may have stopped meanwhile.
            bail!("{pod} did not respond {elapsed:.1?} after its deletion: {outcome:?}");
        }
    }
    ensure!(pongs > 0, "{pod} did not respond after its deletion");
    cluster.wait_for_rollout(&cluster.namespace, Service::Ponger).await
}

pub(crate) async fn kill(cluster: &Cluster) -> Result<String> {
    let window = PingWindow::open(cluster).await?;
    let pod = cluster.ready_pod(Service::Ponger).await?.name_any();
    cluster.run_kubectl(&["delete", "pod", &pod, "--grace-period=0", "--force"]).await?;
    // How many are lost depends on how soon every node removes the pod's endpoint.
    wait_for_no_loss(cluster).await?;
    cluster.wait_for_rollout(&cluster.namespace, Service::Ponger).await?;
    let stats = window.close(cluster).await?;

    ensure!(stats.unaccounted == 0, "{stats}");
    for reason in stats.lost.keys() {
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
            "{reason} is not a loss that a killed pod causes: {stats}"
        );
    }
    // The other ponger served the rest.
    ensure!(stats.pongs > stats.lost_total(), "{stats}");
    Ok(stats.to_string())
}

/// Waits until no ping is lost for five seconds.
async fn wait_for_no_loss(cluster: &Cluster) -> Result<()> {
    until("no ping is lost for 5 s", 120, async || {
        let window = PingWindow::open(cluster).await?;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let stats = window.close(cluster).await?;
        met(stats.ensure_none_lost().is_ok(), stats)
    })
    .await
}

pub(crate) async fn drain(cluster: &Cluster) -> Result<String> {
    let pinger_node = node_name(&cluster.ready_pod(Service::Pinger).await?);
    let pongers = cluster.ready_pods(Service::Ponger).await?;
    let mut nodes = pongers.iter().map(node_name);
    // pinger's node, if a ponger runs there too.
    let node = nodes.clone().find(|node| *node == pinger_node).or_else(|| nodes.next());
    let node = node.context("no ponger is ready")?;
    let window = PingWindow::open(cluster).await?;
    let drained = drain_node(cluster, &node).await;
    cluster.kubectl.run(&["uncordon", &node]).await?;
    drained?;
    deny_second_eviction(cluster).await?;
    let stats = window.close(cluster).await?;
    Ok(format!("{}; of two evictions at once, one was denied", stats.ensure_none_lost()?))
}

async fn drain_node(cluster: &Cluster, node: &str) -> Result<()> {
    // Only the pods of this run.
    let selector = format!("{LABEL}={}", cluster.namespace);
    let arguments =
        ["drain", node, "--ignore-daemonsets", "--timeout=180s", "--pod-selector", &selector];
    let mut drain = std::pin::pin!(cluster.kubectl.run(&arguments));
    loop {
        tokio::select! {
            result = &mut drain => {
                result?;
                break;
            }
            () = tokio::time::sleep(Duration::from_millis(200)) => {
                cluster.ready_pod(Service::Ponger).await?;
            }
        }
    }
    cluster.wait_for_rollouts(&cluster.namespace).await
}

/// Evicts both pongers at once, and checks that the disruption budget allows one eviction only.
async fn deny_second_eviction(cluster: &Cluster) -> Result<()> {
    let pods = cluster.ready_pods(Service::Ponger).await?;
    let [one, two] = &pods[..] else { bail!("expected 2 pongers, got {}", pods.len()) };
    let (one, two) = (one.name_any(), two.name_any());
    let error = match tokio::join!(cluster.evict(&one), cluster.evict(&two)) {
        (None, None) => bail!("both pongers may be evicted at once"),
        (None, Some(error)) | (Some(error), None) => error,
        (Some(error), Some(_)) => bail!("no ponger may be evicted: {error}"),
    };
    ensure!(error.contains("disruption budget"), "{error}");
    cluster.wait_for_rollout(&cluster.namespace, Service::Ponger).await
}

pub(crate) async fn node_stop(cluster: &Cluster) -> Result<String> {
    let node = pick_agent_to_stop(cluster).await?;
    let window = PingWindow::open(cluster).await?;
    let stop = Instant::now();
    docker(&["stop", "--time", "1", &node]).await?;
    let recovered = wait_for_recovery(cluster, &node).await;
    let recovery = stop.elapsed().as_secs();
    let start = Instant::now();
    docker(&["start", &node]).await?;
    recovered?;
    wait_for_node(cluster, &node, true).await?;
    until("two pongers are ready", 180, async || {
        let ready = cluster.ready_pods(Service::Ponger).await?.len();
        met(ready == 2, ready)
    })
    .await?;
    cluster.wait_for_rollouts(&cluster.namespace).await?;
    let restart = start.elapsed().as_secs();
    let stats = window.close(cluster).await?;
    ensure!(stats.unaccounted == 0, "{stats}");
    Ok(format!(
        "{stats}; no losses for 5 s within {recovery} s of the stop; all ready {restart} s after the start"
    ))
}

/// Waits until the stopped node is not ready, and no ping is lost any more.
async fn wait_for_recovery(cluster: &Cluster, node: &str) -> Result<()> {
    wait_for_node(cluster, node, false).await?;
    wait_for_no_loss(cluster).await
}

async fn wait_for_node(cluster: &Cluster, node: &str, ready: bool) -> Result<()> {
    until(&format!("the node {node} has ready={ready}"), 180, async || {
        met(is_node_ready(&cluster.cluster_api().get(node).await?) == ready, !ready)
    })
    .await
}

/// Returns an agent that is a container on this machine, and moves ponger to it and pinger off it.
async fn pick_agent_to_stop(cluster: &Cluster) -> Result<String> {
    let nodes = cluster.cluster_api::<Node>().list(&ListParams::default()).await?.items;
    let (servers, agents): (Vec<_>, Vec<_>) = nodes
        .iter()
        .partition(|node| node.labels().contains_key("node-role.kubernetes.io/control-plane"));
    let names = |nodes: Vec<&Node>| nodes.into_iter().map(Node::name_any).collect::<Vec<_>>();
    let (servers, agents) = (names(servers), names(agents));
    let [agent, _, ..] = &agents[..] else {
        return Err(Skip("it needs two agents: one to stop, one to continue".into()).into());
    };
    for agent in &agents {
        if docker(&["inspect", "--type", "container", agent]).await.is_err() {
            let cause = format!("the node {agent} is no container of this machine");
            return Err(Skip(cause).into());
        }
    }
    // One ponger on each agent, pinger on any other node.
    restart_off(cluster, &servers, Service::Ponger).await?;
    restart_off(cluster, std::slice::from_ref(agent), Service::Pinger).await?;
    let pongers = cluster.ready_pods(Service::Ponger).await?;
    ensure!(pongers.iter().any(|pod| node_name(pod) == *agent), "no ponger runs on {agent}");
    Ok(agent.clone())
}

/// Restarts a service while `nodes` accept no pods.
async fn restart_off(cluster: &Cluster, nodes: &[String], service: Service) -> Result<()> {
    for node in nodes {
        cluster.kubectl.run(&["cordon", node]).await?;
    }
    let restarted = cluster.restart(service).await;
    for node in nodes {
        cluster.kubectl.run(&["uncordon", node]).await?;
    }
    restarted
}

fn is_node_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|is| is.type_ == "Ready" && is.status == "True")
}

async fn docker(arguments: &[&str]) -> Result<()> {
    let output = Command::new("docker").args(arguments).output().await;
    let output = output.context("cannot start docker")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "docker {}: {}", arguments.join(" "), stderr.trim());
    Ok(())
}
