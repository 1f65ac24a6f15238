//! helm, which installs the chart.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::{
    cluster::{Cluster, FAST_INTERVAL, objects::split_image},
    model::Service,
    report::Skip,
};

/// Checks that helm is installed.
///
/// # Errors
/// [`Skip`] if it is not.
pub async fn ensure_installed() -> Result<()> {
    match Command::new("helm").arg("version").output().await {
        Ok(_) => Ok(()),
        Err(error) => Err(Skip(format!("helm does not start: {error}")).into()),
    }
}

/// A release of the chart in a namespace; every method fails when helm does.
#[derive(Debug)]
pub struct Release {
    context: String,
    namespace: String,
    chart: PathBuf,
    name: &'static str,
    values: TempDir,
}

impl Release {
    /// Prepares a release with the images of this run, in the namespace of `env`.
    ///
    /// # Errors
    /// When its values cannot be written.
    pub fn new(env: &Cluster, name: &'static str) -> Result<Self> {
        let values = tempfile::tempdir()?;
        let mut text = json!({
            "pinger": { "extraEnv": [{ "name": FAST_INTERVAL.0, "value": FAST_INTERVAL.1 }] },
        });
        for service in Service::BOTH {
            text[service.name()]["image"] = image(&env.image(service))?;
        }
        fs::write(values.path().join("values.yaml"), text.to_string())?;
        Ok(Self {
            context: env.context().to_owned(),
            namespace: env.namespace.clone(),
            chart: env.manifests().join("chart"),
            name,
            values,
        })
    }

    /// Installs the chart, or upgrades the release, with `values` as `key=value`, and waits until all pods are
    /// ready.
    pub async fn upgrade(&self, values: &[&str]) -> Result<()> {
        let chart = self.chart.display().to_string();
        let file = self.values.path().join("values.yaml").display().to_string();
        let mut arguments = vec!["upgrade", "--install", self.name, &chart, "--values", &file];
        arguments.extend(["--wait", "--timeout", "3m"]);
        arguments.extend(values.iter().flat_map(|value| ["--set", *value]));
        self.run(&arguments).await
    }

    /// Goes back to the revision before, and waits until all pods are ready.
    pub async fn roll_back(&self) -> Result<()> {
        self.run(&["rollback", self.name, "--wait", "--timeout", "3m"]).await
    }

    /// Runs the chart's test.
    pub async fn test(&self) -> Result<()> {
        self.run(&["test", self.name, "--timeout", "1m"]).await
    }

    async fn run(&self, arguments: &[&str]) -> Result<()> {
        let output = Command::new("helm")
            .args(["--kube-context", &self.context, "--namespace", &self.namespace])
            .args(arguments)
            .kill_on_drop(true)
            .process_group(0)
            .output()
            .await
            .context("cannot start helm")?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "helm {}: {}", arguments.join(" "), stderr.trim());
        Ok(())
    }
}

/// Splits a reference into the values of the chart.
fn image(reference: &str) -> Result<Value> {
    let (repository, key, version) =
        split_image(reference, "tag").context("an image without tag and digest")?;
    Ok(json!({ "repository": repository, (key): version }))
}
