//! kubectl, which renders and applies manifests.

use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tokio::{io::AsyncWriteExt as _, process::Command};

/// kubectl with one context; every method fails when kubectl does.
#[derive(Clone, Debug)]
pub struct Kubectl {
    context: String,
}

impl Kubectl {
    /// Creates it for a context of kubectl's configuration.
    pub fn new(context: &str) -> Self {
        Self { context: context.to_owned() }
    }

    /// Returns a command to which arguments can be added.
    pub fn command(&self) -> Command {
        let mut command = Command::new("kubectl");
        command.args(["--context", &self.context]).kill_on_drop(true).process_group(0);
        command
    }

    /// Runs kubectl and returns its output.
    pub async fn run(&self, arguments: &[&str]) -> Result<String> {
        self.run_with_input(arguments, None).await
    }

    /// Runs kubectl in a namespace and returns its output.
    pub async fn run_in(&self, namespace: &str, arguments: &[&str]) -> Result<String> {
        self.run(&[&["-n", namespace], arguments].concat()).await
    }

    /// Runs kubectl with an object as its standard input, and returns its output.
    pub async fn run_with_input(
        &self,
        arguments: &[&str],
        input: Option<&Value>,
    ) -> Result<String> {
        let mut child = self
            .command()
            .args(arguments)
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start kubectl")?;
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
            stdin.write_all(input.to_string().as_bytes()).await?;
        }
        let output = child.wait_with_output().await?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("kubectl {}: {}", arguments.join(" "), stderr.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Applies an object.
    pub async fn apply(&self, object: &Value) -> Result<()> {
        let arguments = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        self.run_with_input(&arguments, Some(object)).await?;
        Ok(())
    }

    /// Applies the kustomization in a directory.
    pub async fn apply_kustomization(&self, dir: &str) -> Result<()> {
        self.run(&["apply", "--server-side", "--force-conflicts", "-k", dir]).await?;
        Ok(())
    }

    /// Deletes an object and waits until it is gone.
    pub async fn delete(&self, namespace: &str, kind: &str, name: &str) -> Result<()> {
        self.run_in(namespace, &["delete", kind, name, "--ignore-not-found", "--wait=true"])
            .await?;
        Ok(())
    }

    /// Waits up to three minutes for a rollout.
    pub async fn wait_for_rollout(&self, namespace: &str, deployment: &str) -> Result<()> {
        let deployment = format!("deployment/{deployment}");
        self.run_in(namespace, &["rollout", "status", &deployment, "--timeout=180s"]).await?;
        Ok(())
    }
}
