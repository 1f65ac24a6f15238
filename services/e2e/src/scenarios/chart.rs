//! The Helm chart: upgrade, rollback, its test, and two releases in one cluster.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;

use crate::{
    cluster::{
        Cluster,
        helm::{self, Release},
    },
    environment::Environment as _,
    model::Service,
    ping_window::PingWindow,
};

/// A value of the chart that changes ponger's configuration, and its line there.
const CHANGE: (&str, &str) = ("ponger.config.service.maxConnections=299", "maxConnections: 299");

pub(crate) async fn upgrade_and_rollback(cluster: &Cluster) -> Result<String> {
    helm::ensure_installed().await?;
    let env = cluster.create_sibling("chart").await?;
    let result = run(&env).await;
    env.finish(result).await
}

async fn run(env: &Cluster) -> Result<String> {
    // The name of the release is the label `app.kubernetes.io/instance`, by which pods are found.
    let release = Release::new(env, "ping-pong")?;
    env.create_identities(&env.namespace).await?;
    release.upgrade(&[]).await?;
    env.wait_for_pongs(10).await?;

    let window = PingWindow::open(env).await?;
    replace_pongers(env, release.upgrade(&[CHANGE.0])).await?;
    ensure!(config(env).await?.contains(CHANGE.1), "the upgrade changed nothing");
    replace_pongers(env, release.roll_back()).await?;
    ensure!(!config(env).await?.contains(CHANGE.1), "the rollback changed nothing");
    env.wait_for_pongs(10).await?;
    let stats = window.close(env).await?;
    stats.ensure_none_lost()?;

    release.test().await?;
    install_second(env).await?;
    // The chart's test fails when there is no pong.
    env.run_kubectl(&["scale", "deployment/ponger", "--replicas=0"]).await?;
    env.wait_for_rollout(&env.namespace, Service::Ponger).await?;
    let error = release.test().await.err().context("the chart's test passes without ponger")?;
    ensure!(format!("{error:#}").contains("ping-test"), "{error:#}");
    Ok(format!("{stats}; a second release: in another namespace accepted, in the same one refused"))
}

/// Makes a change, and checks that no ponger from before is left: each has started with the changed
/// configuration.
async fn replace_pongers(env: &Cluster, change: impl Future<Output = Result<()>>) -> Result<()> {
    let names = async || -> Result<BTreeSet<String>> {
        Ok(env.ready_pods(Service::Ponger).await?.iter().map(ResourceExt::name_any).collect())
    };
    let before = names().await?;
    change.await?;
    env.wait_for_rollout(&env.namespace, Service::Ponger).await?;
    let after = names().await?;
    ensure!(after.len() == before.len(), "{before:?} were replaced by {after:?}");
    ensure!(before.is_disjoint(&after), "of {before:?}, some are left: {after:?}");
    Ok(())
}

/// Returns ponger's configuration.
async fn config(env: &Cluster) -> Result<String> {
    let files = env.api::<ConfigMap>().get("ponger").await?.data;
    files.and_then(|mut files| files.remove("config.yaml")).context("no config.yaml")
}

/// Installs a release under another name in a namespace of its own, and tries to in that of the first.
async fn install_second(env: &Cluster) -> Result<()> {
    let other = env.create_sibling("2").await?;
    other.create_identities(&other.namespace).await?;
    let release = Release::new(&other, "second")?;
    let result = match release.upgrade(&[]).await {
        Ok(()) => release.test().await,
        failed => failed,
    };
    other.finish(result.map(|()| String::new())).await?;

    let refused = Release::new(env, "second")?.upgrade(&[]).await;
    let error = refused.err().context("a second release in a namespace is accepted")?;
    ensure!(format!("{error:#}").contains("has the release ping-pong"), "{error:#}");
    Ok(())
}
