//! The privileges of the pods, read from the live objects.

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::ResourceExt as _;
use serde_json::json;

use crate::{
    cluster::{
        Cluster,
        objects::{self, PodLabels},
    },
    model::Service,
};

pub(crate) async fn restricted(cluster: &Cluster) -> Result<String> {
    let mut count = 0;
    for service in Service::BOTH {
        for pod in cluster.pods(service).await? {
            check_pod(&pod).with_context(|| pod.name_any())?;
            count += 1;
        }
    }
    ensure!(count >= 3, "there are only {count} pods");

    // The manifests too: this run may have replaced their images.
    for dir in ["base", "overlays/local", "overlays/production"] {
        for line in cluster.render(dir).await?.lines() {
            if let Some(image) = line.trim().trim_start_matches("- ").strip_prefix("image: ") {
                ensure!(is_pinned(image), "{dir} has the image {image}");
            }
        }
    }

    let (namespace, name) = (&cluster.namespace, "privileged");
    let image = cluster.image(Service::Pinger);
    let labels = PodLabels::from([("app.kubernetes.io/name", name)]);
    let mut pod = objects::pod(namespace, name, Service::Pinger, &image, &labels);
    pod["spec"]["containers"][0]["securityContext"] = json!({ "privileged": true });
    let Err(error) = cluster.kubectl.apply(&pod).await else {
        cluster.kubectl.delete(namespace, "pod", name).await?;
        bail!("a privileged pod was accepted");
    };
    let error = format!("{error:#}");
    ensure!(
        error.contains("violates PodSecurity") && error.contains("privileged"),
        "a privileged pod was rejected for another reason: {error}"
    );
    Ok(format!("{count} pods; the privileged one: violates PodSecurity \"restricted\""))
}

fn check_pod(pod: &Pod) -> Result<()> {
    let spec = pod.spec.as_ref().context("no spec")?;
    ensure!(spec.automount_service_account_token == Some(false), "a token is mounted");
    let account = spec.service_account_name.as_deref().unwrap_or("default");
    ensure!(account != "default", "it uses the default service account");
    ensure!(!spec.host_network.unwrap_or(false), "it uses the host network");
    let security = spec.security_context.clone().unwrap_or_default();
    ensure!(security.run_as_non_root == Some(true), "it may run as root");
    ensure!(security.run_as_user.is_some_and(|user| user >= 10_000), "its UID is below 10000");
    let seccomp = security.seccomp_profile.map(|profile| profile.type_);
    ensure!(seccomp.as_deref() == Some("RuntimeDefault"), "it has no seccomp profile");
    for volume in spec.volumes.iter().flatten() {
        let name = &volume.name;
        let projected = volume.projected.iter();
        let mut sources = projected.flat_map(|projected| projected.sources.iter().flatten());
        ensure!(
            sources.all(|source| source.service_account_token.is_none()),
            "the volume {name} has a token"
        );
        ensure!(volume.host_path.is_none(), "the volume {name} is a host path");
    }
    let is_secret = |name: &str| {
        let volume = spec.volumes.iter().flatten().find(|volume| volume.name == name);
        volume.is_some_and(|volume| volume.secret.is_some())
    };
    ensure!(
        is_secret("tls") && !is_secret("roots"),
        "certificate and roots are not from different objects"
    );
    spec.containers.iter().try_for_each(check_container)
}

fn check_container(container: &Container) -> Result<()> {
    let security = container.security_context.clone().context("no security context")?;
    ensure!(security.allow_privilege_escalation == Some(false), "it may escalate its privileges");
    ensure!(security.read_only_root_filesystem == Some(true), "its root file system is writable");
    ensure!(!security.privileged.unwrap_or(false), "it is privileged");
    let capabilities = security.capabilities.unwrap_or_default();
    ensure!(
        capabilities.drop.is_some_and(|drop| drop == ["ALL"]) && capabilities.add.is_none(),
        "it has capabilities"
    );
    let image = container.image.as_deref().unwrap_or_default();
    ensure!(is_pinned(image), "its image {image} is not pinned");
    let resources = container.resources.clone().unwrap_or_default();
    let (requests, limits) =
        (resources.requests.unwrap_or_default(), resources.limits.unwrap_or_default());
    ensure!(
        requests.contains_key("cpu") && requests.contains_key("memory"),
        "it lacks resource requests"
    );
    ensure!(limits.contains_key("memory"), "it has no memory limit");
    ensure!(
        container.liveness_probe.is_some() && container.readiness_probe.is_some(),
        "it lacks probes"
    );
    Ok(())
}

/// Whether an image has a digest, or a tag other than `latest`.
fn is_pinned(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or(image);
    let tag = name.split_once(':').map(|(_, tag)| tag);
    name.contains("@sha256:") || tag.is_some_and(|tag| !tag.is_empty() && tag != "latest")
}

#[cfg(test)]
mod tests {
    use super::is_pinned;

    #[test]
    fn accepts_digest_or_tag_other_than_latest() {
        for good in ["ponger:0.1.0", "host:5000/ponger:0.1.0", "host:5000/ponger@sha256:00"] {
            assert!(is_pinned(good), "{good}");
        }
        for bad in ["ponger", "ponger:latest", "host:5000/ponger", "ponger:"] {
            assert!(!is_pinned(bad), "{bad}");
        }
    }
}
