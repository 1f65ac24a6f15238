//! ponger is reachable from outside the cluster, as a browser would reach it.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use testkit::Leaf;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::{
    cluster::Cluster,
    environment::Environment,
    tls_client::{ProbeOutcome, probe},
};

pub(crate) async fn browser(cluster: &Cluster) -> Result<String> {
    let namespace = format!("{}-local", cluster.namespace);
    cluster.create_namespace(&namespace).await?;
    let result = probe_forwarded(cluster, &namespace).await;
    cluster.delete_namespace(&namespace).await?;
    result
}

async fn probe_forwarded(cluster: &Cluster, namespace: &str) -> Result<String> {
    cluster.create_identities(namespace).await?;
    cluster.apply_directory("overlays/local", namespace, &[]).await?;
    cluster.wait_for_rollouts(namespace).await?;
    // The original project's port, unless it is in use.
    let port = if TcpListener::bind("127.0.0.1:8080").await.is_ok() { "8080" } else { "" };
    let mut forward = cluster
        .kubectl
        .command()
        .args(["-n", namespace, "port-forward", "--address", "127.0.0.1", "svc/ponger"])
        .arg(format!("{port}:443"))
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = forward.stdout.take().context("kubectl has no standard output")?;
    // Stays open: kubectl exits when its output is closed.
    let mut lines = BufReader::new(stdout).lines();
    let line = lines.next_line().await?.context("kubectl port-forward exited")?;
    let port: u16 = line
        .split_once("127.0.0.1:")
        .and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok())
        .with_context(|| line.clone())?;

    let root = cluster.root();
    let connect = async || anyhow::Ok(Box::new(TcpStream::connect(("127.0.0.1", port)).await?));
    let outcome = probe(connect().await?, root.pem(), "localhost", None).await?;
    ensure!(outcome.is_pong(), "without a certificate: {outcome:?}");
    // A certificate is optional, but one that is presented must be valid.
    let self_signed = Leaf::pinger(namespace).self_signed();
    let outcome = probe(connect().await?, root.pem(), "localhost", Some(&self_signed)).await?;
    ensure!(
        matches!(outcome, ProbeOutcome::Rejected(_)),
        "with a self-signed certificate: {outcome:?}"
    );
    forward.kill().await?;
    Ok(format!("https://localhost:{port}/ping: pong"))
}
