//! Pings are answered, and logged as the original project logs them.

use anyhow::{Result, ensure};

use crate::{
    cluster::Cluster,
    environment::Environment,
    local::LocalProcesses,
    model::Service,
    ping_window::PingWindow,
    wait::{met, until},
};

/// The original project's log messages.
const MESSAGES: [(Service, &str); 3] = [
    (Service::Pinger, "Sent ping"),
    (Service::Pinger, "Got pong"),
    (Service::Ponger, "Received GET /ping"),
];

pub(crate) async fn local(local: &LocalProcesses) -> Result<String> {
    let measured = pongs(local).await?;
    for (service, message) in MESSAGES {
        let logs = local.logs(service);
        let logged = logs.values().flatten().any(|line| line.contains(message));
        ensure!(logged, "{service} has not logged `{message}`");
    }
    Ok(measured)
}

pub(crate) async fn cluster(cluster: &Cluster) -> Result<String> {
    let measured = pongs(cluster).await?;
    for (service, message) in MESSAGES {
        let target = format!("svc/{service}");
        until(&format!("`kubectl logs {target}` shows `{message}`"), 30, async || {
            let log = cluster.run_kubectl(&["logs", &target, "--tail=50"]).await?;
            met(log.contains(message), log)
        })
        .await?;
    }
    Ok(measured)
}

async fn pongs(env: &impl Environment) -> Result<String> {
    let window = PingWindow::open(env).await?;
    env.wait_for_pongs(20).await?;
    let stats = window.close(env).await?;
    stats.ensure_none_lost()?;
    let mut memory = Vec::new();
    for service in Service::BOTH {
        for samples in env.metrics(service).await?.values() {
            let mib = samples.sum("process_resident_memory_bytes", &[]) / 1_048_576.0;
            memory.push(format!("{service} {mib:.1} MiB"));
        }
    }
    Ok(format!("{stats}; resident: {}", memory.join(", ")))
}
