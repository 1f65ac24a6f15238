//! `pinger diagnose` in the pod of the running pinger, as the README has it.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{cluster::Cluster, environment::Environment as _};

const CONFIG: [&str; 2] = ["--config", "/etc/ping-pong/config/config.yaml"];

pub(crate) async fn in_pod(cluster: &Cluster) -> Result<String> {
    let (good, report) = diagnose(cluster, &CONFIG).await?;
    ensure!(good, "{report:#}");
    for pointer in ["/chain/verified", "/client_certificate/sent"] {
        ensure!(report.pointer(pointer) == Some(&Value::Bool(true)), "{pointer}: {report:#}");
    }
    let other_id = "spiffe://cluster.local/ns/another/sa/ponger";
    // The image has no roots, so that of ponger must be given.
    let (with_other_id, without_roots) =
        ([CONFIG[0], CONFIG[1], "--server-id", other_id], ["https://ponger/ping"]);
    for (arguments, reason) in
        [(&with_other_id[..], "tls_wrong_id"), (&without_roots, "tls_untrusted")]
    {
        let (good, report) = diagnose(cluster, arguments).await?;
        let chain = report.pointer("/chain/certificates").and_then(Value::as_array);
        ensure!(
            !good && report["failure"]["reason"] == reason && chain.is_some_and(|c| !c.is_empty()),
            "{arguments:?} must end with {reason} and show the chain: {report:#}"
        );
    }
    Ok(format!("{} in {} ms", report["tls"]["version"], report["duration_ms"]))
}

/// Runs it in pinger's pod, and returns whether it exited with 0, and its report.
async fn diagnose(cluster: &Cluster, arguments: &[&str]) -> Result<(bool, Value)> {
    // `/proc/1/exe` is pinger, whatever its path in the image is.
    let command = ["exec", "deploy/pinger", "--", "/proc/1/exe", "diagnose", "--json"];
    let mut kubectl = cluster.kubectl.command();
    let output =
        kubectl.args(["-n", cluster.namespace()]).args(command).args(arguments).output().await?;
    let report = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok((output.status.success(), report))
}
