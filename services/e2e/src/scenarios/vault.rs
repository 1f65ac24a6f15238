//! Certificates by Vault, through cert-manager.

use std::{
    env,
    fs::{self, Permissions},
    iter,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Stdio,
};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    cluster::{Cluster, production::Production},
    environment::Environment as _,
    model::{Service, spiffe_id},
    ping_window::PingWindow,
    report::Skip,
    scenarios::rotation::CERTIFICATE_LOADED,
    wait::until,
};

const COMPONENT: &str = "components/issuer-vault";

pub(crate) async fn issuer(cluster: &Cluster) -> Result<String> {
    let vault = find_vault(cluster).await?;
    let production = Production::create(cluster, "vault").await?;
    let namespace = production.env.namespace.clone();
    let result = run(&production, &vault).await;
    let result = production.finish(result).await;
    for path in ["pki/roles", "sys/policies/acl", "auth/kubernetes/role"] {
        run_vault(cluster, &vault, &["delete", &format!("{path}/{namespace}")]).await?;
    }
    result
}

/// Runs Vault's command line, by the arguments with which kubectl runs it.
async fn run_vault(cluster: &Cluster, vault: &str, arguments: &[&str]) -> Result<String> {
    let vault: Vec<_> = vault.split(' ').collect();
    cluster.kubectl.run(&[&vault[..], arguments].concat()).await
}

/// Returns the arguments with which kubectl runs Vault's command line.
async fn find_vault(cluster: &Cluster) -> Result<String> {
    for program in ["vault", "/vault"] {
        let vault = format!("-n vault exec -i deployment/vault -- {program}");
        if run_vault(cluster, &vault, &["token", "lookup"]).await.is_ok() {
            return Ok(vault);
        }
    }
    let cause = "no Deployment vault in the namespace vault, whose command line is logged in";
    Err(Skip(cause.into()).into())
}

async fn run(production: &Production, vault: &str) -> Result<String> {
    let env = &production.env;
    let script = env.manifests().join(COMPONENT).join("configure-vault");
    let root = configure_vault(production, &script, vault).await?;
    production.apply(COMPONENT, vec![issuer_patch(&env.namespace)]).await?;
    production.trust(&root).await?;
    production.wait_until_running().await?;

    let window = PingWindow::open(env).await?;
    env.rotate_and_wait(&Service::BOTH, CERTIFICATE_LOADED, production.renew()).await?;
    env.wait_for_pongs(10).await?;
    let refusal = request_other_id(production).await?;
    let stats = window.close(env).await?;
    Ok(format!("{}; another SPIFFE ID is refused: {refusal}", stats.ensure_none_lost()?))
}

/// Runs the script of the component with `$VAULT`, and again with a `vault` on PATH; returns the root that it
/// prints.
async fn configure_vault(production: &Production, script: &Path, vault: &str) -> Result<String> {
    let kubectl = production.env.kubectl.command();
    let kubectl: Vec<_> = iter::once(kubectl.as_std().get_program())
        .chain(kubectl.as_std().get_args())
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let vault = format!("{} {vault}", kubectl.join(" "));
    let command = || {
        let mut command = Command::new(script);
        command.arg(&production.env.namespace);
        command
    };
    let root = output_of(command().env("VAULT", &vault)).await?;

    let dir = tempfile::tempdir()?;
    let program = dir.path().join("vault");
    fs::write(&program, format!("#!/bin/sh\nexec {vault} \"$@\"\n"))?;
    fs::set_permissions(&program, Permissions::from_mode(0o755))?;
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(iter::once(dir.path().to_owned()).chain(env::split_paths(&path)))?;
    let repeated = output_of(command().env("PATH", path).env_remove("VAULT")).await?;
    ensure!(repeated == root, "repeated, the script prints another root:\n{repeated}");
    ensure!(root.ends_with("-----\n"), "the root does not end in a newline");
    Ok(root)
}

async fn output_of(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "configure-vault: {}", stderr.trim());
    Ok(String::from_utf8(output.stdout)?)
}

/// Vault is a development server, which speaks plain HTTP; its role is that of this namespace.
fn issuer_patch(namespace: &str) -> Value {
    let patch = json!([
        { "op": "replace", "path": "/spec/vault/server", "value": "http://vault.vault.svc:8200" },
        { "op": "remove", "path": "/spec/vault/caBundleSecretRef" },
        { "op": "replace", "path": "/spec/vault/path", "value": format!("pki/sign/{namespace}") },
        { "op": "replace", "path": "/spec/vault/auth/kubernetes/role", "value": namespace },
    ]);
    json!({ "target": { "kind": "Issuer", "name": "ping-pong" }, "patch": patch.to_string() })
}

/// Requests a certificate for the SPIFFE ID of another service, and returns Vault's reason to refuse it.
async fn request_other_id(production: &Production) -> Result<String> {
    let env = &production.env;
    let other = json!({
        "apiVersion": "cert-manager.io/v1", "kind": "Certificate",
        "metadata": { "name": "other", "namespace": env.namespace },
        "spec": {
            "secretName": "other-tls", "duration": "1h",
            "privateKey": { "algorithm": "ECDSA", "size": 256 },
            "uris": [spiffe_id(&env.namespace, "other")],
            "issuerRef": { "group": "cert-manager.io", "kind": "Issuer", "name": "ping-pong" },
        },
    });
    env.kubectl.apply(&other).await?;
    until("Vault refuses a certificate for another SPIFFE ID", 60, async || {
        let request = ["get", "certificaterequest", "other-1", "--ignore-not-found", "-o", "json"];
        let request = env.run_kubectl(&request).await?;
        let request: Value = serde_json::from_str(&request).unwrap_or_default();
        let conditions = request["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions.into_iter().find(|condition| condition["type"] == "Ready");
        let ready = ready.unwrap_or_default();
        ensure!(ready["status"] != "True", "Vault signed a certificate for another SPIFFE ID");
        let message = ready["message"].as_str().unwrap_or_default();
        Ok(match message.contains("not valid for this role") {
            true => {
                Ok(message.lines().last().unwrap_or_default().trim_start_matches("* ").to_owned())
            }
            false => Err(ready.to_string()),
        })
    })
    .await
}
