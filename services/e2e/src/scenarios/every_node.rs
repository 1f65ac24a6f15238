//! `components/every-node`: pinger on each node pings each pod of ponger by itself.

use anyhow::Result;
use k8s_openapi::api::core::v1::Node;
use kube::{ResourceExt as _, api::ListParams};
use serde_json::json;

use crate::{
    cluster::{
        Cluster,
        objects::{self, node_name, pod_ip},
    },
    environment::Environment as _,
    model::Service,
    wait::{met, until},
};

pub(crate) async fn matrix(cluster: &Cluster) -> Result<String> {
    let env = cluster.create_sibling("every-node").await?;
    let result = check(&env).await;
    env.finish(result).await
}

async fn check(env: &Cluster) -> Result<String> {
    env.create_identities(&env.namespace).await?;
    env.apply_overlay(|manifests| {
        let (base, images) = (manifests.join("base"), env.images());
        let mut overlay = objects::kustomization("resources", &base, &env.namespace, images, &[]);
        overlay["components"] = json!([manifests.join("components/every-node")]);
        overlay
    })
    .await?;
    env.wait_for_rollout(&env.namespace, Service::Ponger).await?;
    env.run_kubectl(&["rollout", "status", "daemonset/pinger", "--timeout=180s"]).await?;
    let nodes = env.cluster_api::<Node>().list(&ListParams::default()).await?.items;
    let pongers = env.ready_pods(Service::Ponger).await?;
    let addresses = pongers.iter().map(pod_ip).collect::<Result<Vec<_>>>()?;
    until("each node receives a pong of each ponger", 120, async || {
        let pingers = env.ready_pods(Service::Pinger).await?;
        let mut missing = Vec::new();
        for node in nodes.iter().map(Node::name_any) {
            let Some(pinger) = pingers.iter().find(|pod| node_name(pod) == node) else {
                missing.push(format!("pinger on {node}"));
                continue;
            };
            let metrics = env.metrics_of(&pinger.name_any()).await?;
            for address in &addresses {
                let labels = [("endpoint", address.as_str()), ("result", "pong")];
                if metrics.sum("pinger_endpoint_pings_total", &labels) < 1.0 {
                    missing.push(format!("{node} to {address}"));
                }
            }
        }
        met(missing.is_empty(), missing.join(", "))
    })
    .await?;
    Ok(format!("pongs from {} nodes to {} pods each", nodes.len(), addresses.len()))
}
