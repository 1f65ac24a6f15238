//! What a pod may do, read from the live objects.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

use crate::{
    cluster::Cluster,
    place::{Place, Service},
};

pub(crate) async fn restricted(_: &Place, cluster: &Cluster) -> Result<String> {
    let mut seen = 0;
    for service in Service::BOTH {
        for pod in cluster.pods(service).await? {
            check(&pod).with_context(|| pod.name_any())?;
            seen += 1;
        }
    }
    ensure!(seen >= 3, "there are only {seen} pods");

    // As they are written, too: the images of this run may have been named beside the manifests.
    for folder in ["base", "overlays/local"] {
        for line in cluster.render(folder).await?.lines() {
            if let Some(image) = line.trim().trim_start_matches("- ").strip_prefix("image: ") {
                ensure!(is_pinned(image), "{folder} has the image {image}");
            }
        }
    }

    let labels = BTreeMap::from([("app.kubernetes.io/name", "intruder")]);
    let mut pod = cluster.extra_pod(&cluster.namespace, "intruder", Service::Pinger, &labels);
    pod["spec"]["containers"][0]["securityContext"] = serde_json::json!({ "privileged": true });
    let refused = match cluster.apply(&pod).await {
        Ok(()) => {
            cluster.remove(&cluster.namespace, "pod", "intruder").await?;
            anyhow::bail!("a privileged pod was let in");
        }
        Err(error) => format!("{error:#}"),
    };
    ensure!(
        refused.contains("violates PodSecurity") && refused.contains("privileged"),
        "a privileged pod was refused for another reason: {refused}"
    );
    Ok(format!("{seen} pods; the privileged one: violates PodSecurity \"restricted\""))
}

fn check(pod: &Pod) -> Result<()> {
    let spec = pod.spec.as_ref().context("a spec")?;
    ensure!(spec.automount_service_account_token == Some(false), "a token is mounted");
    let account = spec.service_account_name.as_deref().unwrap_or("default");
    ensure!(account != "default", "the account is the default one");
    ensure!(!spec.host_network.unwrap_or(false), "it shares the node's network");
    let of_pod = spec.security_context.clone().unwrap_or_default();
    ensure!(of_pod.run_as_non_root == Some(true), "it may run as root");
    ensure!(of_pod.run_as_user.is_some_and(|user| user >= 10_000), "its user is no high number");
    let seccomp = of_pod.seccomp_profile.map(|profile| profile.type_);
    ensure!(seccomp.as_deref() == Some("RuntimeDefault"), "its system calls are not confined");
    for volume in spec.volumes.iter().flatten() {
        let sources =
            volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        ensure!(
            sources.into_iter().all(|source| source.service_account_token.is_none()),
            "a token is mounted as {}",
            volume.name
        );
        ensure!(volume.host_path.is_none(), "{} is the node's", volume.name);
    }
    let secret = |name: &str| {
        let volume = spec.volumes.iter().flatten().find(|volume| volume.name == name);
        volume.is_some_and(|volume| volume.secret.is_some())
    };
    ensure!(secret("tls") && !secret("roots"), "leaf and roots are not of different objects");
    for container in &spec.containers {
        let may = container.security_context.clone().context("a security context")?;
        ensure!(may.allow_privilege_escalation == Some(false), "it may gain privileges");
        ensure!(may.read_only_root_filesystem == Some(true), "its files can be written");
        ensure!(!may.privileged.unwrap_or(false), "it is privileged");
        let capabilities = may.capabilities.unwrap_or_default();
        ensure!(
            capabilities.drop.is_some_and(|drop| drop == ["ALL"]) && capabilities.add.is_none(),
            "it has capabilities"
        );
        let image = container.image.as_deref().unwrap_or_default();
        ensure!(is_pinned(image), "its image, {image}, is whatever is latest");
        let resources = container.resources.clone().unwrap_or_default();
        let (requests, limits) =
            (resources.requests.unwrap_or_default(), resources.limits.unwrap_or_default());
        ensure!(
            requests.contains_key("cpu") && requests.contains_key("memory"),
            "it requests nothing"
        );
        ensure!(limits.contains_key("memory"), "its memory has no limit");
        ensure!(
            container.liveness_probe.is_some() && container.readiness_probe.is_some(),
            "nobody asks how it is"
        );
    }
    Ok(())
}

/// Whether an image has a digest, or a tag that is not `latest`.
fn is_pinned(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or(image);
    let tag = name.split_once(':').map(|(_, tag)| tag);
    name.contains("@sha256:") || tag.is_some_and(|tag| !tag.is_empty() && tag != "latest")
}

#[cfg(test)]
mod tests {
    use super::is_pinned;

    #[test]
    fn an_image_is_pinned_by_a_tag_of_its_own_or_a_digest() {
        for good in ["ponger:0.1.0", "host:5000/ponger:0.1.0", "host:5000/ponger@sha256:00"] {
            assert!(is_pinned(good), "{good}");
        }
        for bad in ["ponger", "ponger:latest", "host:5000/ponger", "ponger:"] {
            assert!(!is_pinned(bad), "{bad}");
        }
    }
}
