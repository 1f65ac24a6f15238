//! Kubernetes objects: those that scenarios create, and what is read of pods.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use serde_json::{Value, json};
use testkit::Issued;

use crate::model::Service;

/// The label of every object of a run; its value is the run's namespace.
pub const LABEL: &str = "ping-pong/e2e";

/// Labels of a pod.
pub type PodLabels<'l> = BTreeMap<&'l str, &'l str>;

/// Whether a pod is ready and not terminating.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().flatten().any(|is| is.type_ == "Ready" && is.status == "True")
}

/// Returns the node that a pod runs on.
pub fn node_name(pod: &Pod) -> String {
    pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default()
}

/// Returns a pod's IP address.
///
/// # Errors
/// When it has none yet.
pub fn pod_ip(pod: &Pod) -> Result<String> {
    let ip = pod.status.as_ref().and_then(|status| status.pod_ip.clone());
    ip.with_context(|| format!("{} has no IP address", pod.name_any()))
}

/// Builds a namespace.
pub fn namespace(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } })
}

/// Builds the Secret with the certificate of a service.
pub fn tls_secret(namespace: &str, service: Service, issued: &Issued) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": { "name": format!("{service}-tls"), "namespace": namespace },
        "stringData": { "tls.crt": issued.chain, "tls.key": issued.key },
    })
}

/// Builds the ConfigMap with the trust bundle.
pub fn trust_bundle(namespace: &str, bundle: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "trust-bundle", "namespace": namespace },
        "data": { "ca.crt": bundle },
    })
}

/// Builds a kustomization of a directory of the manifests, one of its `resources` or `components`, with
/// `images` and with `env` for pinger.
pub fn kustomization(
    kind: &str,
    dir: &Path,
    namespace: &str,
    images: &[(Service, String)],
    env: &[(&str, &str)],
) -> Value {
    let images: Vec<_> = images
        .iter()
        .filter_map(|(service, image)| {
            let (name, key, version) = split_image(image, "newTag")?;
            Some(json!({ "name": service.name(), "newName": name, (key): version }))
        })
        .collect();
    let env: Vec<_> =
        env.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
    let patch = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "pinger" },
        "spec": { "template": { "spec": { "containers": [{ "name": "pinger", "env": env }] } } },
    });
    json!({
        (kind): [dir],
        "namespace": namespace,
        "images": images,
        "labels": [{ "pairs": { LABEL: namespace }, "includeTemplates": true }],
        "patches": [{
            "target": { "kind": "Deployment", "name": "pinger" },
            "patch": patch.to_string(),
        }],
    })
}

/// Splits a reference to an image into its name, the key of its version, which is `digest` or `tag_key`, and
/// its version; `None` if it has neither digest nor tag.
pub fn split_image<'a>(
    reference: &'a str,
    tag_key: &'static str,
) -> Option<(&'a str, &'static str, &'a str)> {
    let (key, (name, version)) = match reference.split_once('@') {
        Some(by_digest) => ("digest", by_digest),
        None => (tag_key, reference.rsplit_once(':')?),
    };
    Some((name, key, version))
}

/// Builds the Secret with all files of an extra pod; a test may keep certificate and roots together.
pub fn files_secret(
    namespace: &str,
    name: &str,
    config: &Value,
    leaf: Option<&Issued>,
    roots: Option<&str>,
) -> Value {
    // A JSON document is a YAML document.
    let mut files = BTreeMap::from([("config.yaml", config.to_string())]);
    if let Some(leaf) = leaf {
        files.insert("tls.crt", leaf.chain.clone());
        files.insert("tls.key", leaf.key.clone());
    }
    if let Some(roots) = roots {
        files.insert("ca.crt", roots.to_owned());
    }
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": { "name": name, "namespace": namespace },
        "stringData": files,
    })
}

/// Builds an extra pod of a service, with the files of [`files_secret`].
///
/// It prefers nodes other than that of the API server, since no NetworkPolicy needs to block the
/// traffic between a pod and its own node.
pub fn pod(
    namespace: &str,
    name: &str,
    service: Service,
    image: &str,
    labels: &PodLabels<'_>,
) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": namespace, "labels": labels },
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 1,
            "affinity": { "nodeAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [{
                "weight": 100,
                "preference": { "matchExpressions": [{
                    "key": "node-role.kubernetes.io/control-plane", "operator": "DoesNotExist",
                }] },
            }] } },
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
                "seccompProfile": { "type": "RuntimeDefault" },
            },
            "containers": [{
                "name": service.name(),
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "args": ["--config", "/files/config.yaml"],
                "securityContext": {
                    "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                    "capabilities": { "drop": ["ALL"] },
                },
                // The NetworkPolicies refer to ports by name.
                "ports": [
                    { "name": "tls", "containerPort": 8443 },
                    { "name": "admin", "containerPort": 2112 },
                ],
                "readinessProbe": { "httpGet": { "path": "/readyz", "port": 2112 }, "periodSeconds": 1 },
                "volumeMounts": [{ "name": "files", "mountPath": "/files", "readOnly": true }],
            }],
            "volumes": [{ "name": "files", "secret": { "secretName": name } }],
        },
    })
}

/// Builds the Service of an extra ponger.
pub fn ponger_service(namespace: &str, name: &str, labels: &PodLabels<'_>) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "selector": labels, "ports": [{ "port": 443, "targetPort": 8443 }] },
    })
}
