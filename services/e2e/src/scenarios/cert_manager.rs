//! Certificates by cert-manager, the trust bundle by trust-manager: renewal, and a new root.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, objects::node_name, production::Production},
    environment::Environment as _,
    model::Service,
    ping_window::PingWindow,
    scenarios::rotation::{AcceptedClient, CERTIFICATE_LOADED, TRUST_BUNDLE_LOADED},
    tls_client::TlsClient,
    wait::{met, until},
};

const OLD_ROOT: &str = "ping-pong-root";
const NEW_ROOT: &str = "ping-pong-root-2";

pub(crate) async fn renewal_and_new_root(cluster: &Cluster) -> Result<String> {
    let production = Production::create(cluster, "certs").await?;
    let result = run(&production).await;
    production.finish(result).await
}

async fn run(production: &Production) -> Result<String> {
    let env = &production.env;
    production.apply("components/issuer-ca", Vec::new()).await?;
    let old = production.issued(OLD_ROOT).await?.chain;
    production.trust(&old).await?;
    production.wait_until_running().await?;
    let pongers = env.ready_pods(Service::Ponger).await?;
    let nodes: BTreeSet<_> = pongers.iter().map(node_name).collect();
    ensure!(pongers.len() == 3, "{} pongers are ready", pongers.len());

    let window = PingWindow::open(env).await?;
    env.rotate_and_wait(&Service::BOTH, CERTIFICATE_LOADED, production.renew()).await?;
    env.wait_for_pongs(10).await?;

    // As k8s/README.md describes it.
    create_root(production, NEW_ROOT).await?;
    let new = production.issued(NEW_ROOT).await?.chain;
    let both = format!("{old}{new}");
    let client = TlsClient::new(&both, Some(&production.issued("pinger-tls").await?));
    env.rotate_and_wait(&Service::BOTH, TRUST_BUNDLE_LOADED, production.trust(&both)).await?;
    sign_with(production, NEW_ROOT).await?;
    env.rotate_and_wait(&Service::BOTH, CERTIFICATE_LOADED, production.renew()).await?;
    let client = AcceptedClient::connect(env, client).await?;
    env.rotate_and_wait(&Service::BOTH, TRUST_BUNDLE_LOADED, production.trust(&new)).await?;
    client.ensure_rejected(env).await?;
    env.wait_for_pongs(10).await?;
    let stats = window.close(env).await?;
    Ok(format!(
        "{}; 3 pongers on {} nodes; a client of the old root is rejected, on an open connection too",
        stats.ensure_none_lost()?,
        nodes.len(),
    ))
}

/// Creates a copy of the Certificate of the root, with a Secret of its own.
async fn create_root(production: &Production, name: &str) -> Result<()> {
    let root = ["get", "certificate", OLD_ROOT, "-o", "json"];
    let root: Value = serde_json::from_str(&production.env.run_kubectl(&root).await?)?;
    let mut spec = root["spec"].clone();
    spec["secretName"] = name.into();
    let root = json!({
        "apiVersion": root["apiVersion"], "kind": "Certificate", "spec": spec,
        "metadata": { "name": name, "namespace": production.env.namespace },
    });
    production.env.kubectl.apply(&root).await?;
    production.wait_for_certificates().await
}

/// Has the Issuer sign with another root.
async fn sign_with(production: &Production, root: &str) -> Result<()> {
    let patch = json!({ "spec": { "ca": { "secretName": root } } }).to_string();
    let arguments = ["patch", "issuer", "ping-pong", "--type=merge", "-p", &patch];
    production.env.run_kubectl(&arguments).await?;
    until("cert-manager has read the change of the Issuer", 60, async || {
        let issuer = ["get", "issuer", "ping-pong", "-o", "json"];
        let issuer: Value = serde_json::from_str(&production.env.run_kubectl(&issuer).await?)?;
        let ready = &issuer["status"]["conditions"][0];
        let current = ready["observedGeneration"] == issuer["metadata"]["generation"];
        met(current && ready["status"] == "True", ready)
    })
    .await
}
