//! From outside the cluster, as a browser comes.

use std::{process::Stdio, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use testkit::Leaf;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::{
    cluster::Cluster,
    place::Place,
    stranger::{Answer, knock},
};

pub(crate) async fn forwarded(place: &Place, cluster: &Cluster) -> Result<String> {
    let namespace = format!("{}-local", cluster.namespace);
    cluster.make_namespace(&namespace).await?;
    let done = asked(place, cluster, &namespace).await;
    cluster.remove_namespace(&namespace).await?;
    done
}

async fn asked(place: &Place, cluster: &Cluster, namespace: &str) -> Result<String> {
    cluster.identities(namespace).await?;
    cluster.apply_folder("overlays/local", namespace, &[]).await?;
    cluster.pair_ready(namespace).await?;
    // The original's port, if nothing of this machine has it.
    let port = if TcpListener::bind("127.0.0.1:8080").await.is_ok() { "8080" } else { "" };
    let mut forward = cluster
        .command()
        .args(["-n", namespace, "port-forward", "--address", "127.0.0.1", "svc/ponger"])
        .arg(format!("{port}:443"))
        .stdout(Stdio::piped())
        .spawn()?;
    let output = forward.stdout.take().context("its output")?;
    // Kept until the end: kubectl ends when nobody hears it.
    let mut lines = BufReader::new(output).lines();
    let line = lines.next_line().await?.context("kubectl does not forward")?;
    let port: u16 = line
        .split_once("127.0.0.1:")
        .and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok())
        .with_context(|| line.clone())?;

    let root = Arc::clone(&place.root());
    let dial = || async { anyhow::Ok(Box::new(TcpStream::connect(("127.0.0.1", port)).await?)) };
    let answer = knock(dial().await?, root.pem(), "localhost", None).await?;
    ensure!(answer.is_pong(), "without a certificate: {answer:?}");
    // Whoever shows one must still show a good one.
    let stranger = Leaf::pinger(namespace).self_signed();
    let refused = knock(dial().await?, root.pem(), "localhost", Some(&stranger)).await?;
    ensure!(matches!(refused, Answer::Refused(_)), "with a self-signed one: {refused:?}");
    forward.kill().await?;
    Ok(format!("https://localhost:{port}/ping: pong"))
}
