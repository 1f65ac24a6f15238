//! `overlays/production` in a namespace of its own: certificates by cert-manager, the trust bundle by
//! trust-manager.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use serde_json::{Value, json};
use testkit::Issued;

use crate::{
    cluster::{Cluster, FAST_INTERVAL, objects},
    environment::Environment as _,
    model::Service,
    report::Skip,
    wait::{met, until},
};

/// The namespace that trust-manager takes its sources from.
const TRUST_NAMESPACE: &str = "cert-manager";

/// The overlay, with an issuer.
pub struct Production {
    /// Its namespace.
    pub env: Cluster,
    /// The name of its Bundle, and so of the ConfigMap with the trust bundle. A Bundle belongs to no
    /// namespace, so the name contains that of this run.
    bundle: String,
    /// The name of the ConfigMap that the Bundle takes the roots from.
    roots: String,
    /// The owner of what is outside the namespace: the garbage collector deletes it after the namespace.
    owner: Value,
}

impl Production {
    /// Creates the namespace.
    ///
    /// # Errors
    /// [`Skip`] where cert-manager or trust-manager is missing.
    pub async fn create(cluster: &Cluster, suffix: &str) -> Result<Self> {
        for (group, name) in
            [("cert-manager.io", "cert-manager"), ("trust.cert-manager.io", "trust-manager")]
        {
            if !cluster.has_api_group(group).await? {
                return Err(Skip(format!("the cluster has no {name}")).into());
            }
        }
        let env = cluster.create_sibling(suffix).await?;
        let uid = env.cluster_api::<Namespace>().get(&env.namespace).await?.metadata.uid;
        let owner = json!([{
            "apiVersion": "v1", "kind": "Namespace", "name": env.namespace, "uid": uid,
        }]);
        let bundle = format!("trust-bundle-{}", env.namespace);
        let roots = format!("ping-pong-roots-{}", env.namespace);
        Ok(Self { env, bundle, roots, owner })
    }

    /// Applies the overlay with the component `issuer` and `patches`, and waits for the certificates. The
    /// pods wait for [`trust`](Self::trust).
    ///
    /// # Errors
    /// When one is not issued.
    pub async fn apply(&self, issuer: &str, patches: Vec<Value>) -> Result<()> {
        self.env.apply_overlay(|manifests| self.overlay(manifests, issuer, patches)).await?;
        self.wait_for_certificates().await
    }

    /// Waits until both services run and pinger receives pongs.
    pub async fn wait_until_running(&self) -> Result<()> {
        self.env.wait_for_rollouts(&self.env.namespace).await?;
        self.env.wait_for_pongs(10).await
    }

    /// Has trust-manager write `roots` into the trust bundle, and kubelet bring it to the pods.
    pub async fn trust(&self, roots: &str) -> Result<()> {
        let source = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {
                "name": self.roots, "namespace": TRUST_NAMESPACE, "ownerReferences": self.owner,
            },
            "data": { "ca.crt": roots },
        });
        self.env.kubectl.apply(&source).await?;
        until("trust-manager writes the trust bundle", 60, async || {
            let bundle = self.env.api::<ConfigMap>().get_opt(&self.bundle).await?;
            let bundle = bundle.and_then(|bundle| bundle.data?.remove("ca.crt"));
            let bundle = bundle.unwrap_or_default();
            met(certificates(&bundle) == certificates(roots), bundle)
        })
        .await?;
        self.env.trigger_kubelet_sync().await
    }

    /// Renews the certificates of both services, and has kubelet bring them to the pods.
    pub async fn renew(&self) -> Result<()> {
        for service in Service::BOTH {
            self.env.renew_certificate(service.name()).await?;
        }
        self.env.trigger_kubelet_sync().await
    }

    /// Waits until cert-manager has issued every Certificate.
    pub async fn wait_for_certificates(&self) -> Result<()> {
        let arguments = ["wait", "certificate", "--all", "--for=condition=Ready", "--timeout=120s"];
        self.env.run_kubectl(&arguments).await?;
        Ok(())
    }

    /// Reads the certificate and key in a Secret.
    pub async fn issued(&self, secret: &str) -> Result<Issued> {
        let data = self.env.api::<Secret>().get(secret).await?.data.unwrap_or_default();
        let text = |key: &str| -> Result<String> {
            let bytes = data.get(key).with_context(|| format!("no {key} in {secret}"))?;
            Ok(String::from_utf8(bytes.0.clone())?)
        };
        Ok(Issued { chain: text("tls.crt")?, key: text("tls.key")? })
    }

    /// Removes everything, and returns the result of the scenario; if it failed, with where the diagnostics
    /// are.
    pub async fn finish(self, result: Result<String>) -> Result<String> {
        self.env.finish(result).await
    }

    fn overlay(&self, manifests: &Path, issuer: &str, patches: Vec<Value>) -> Value {
        let production = manifests.join("overlays/production");
        let namespace = &self.env.namespace;
        let images = self.env.images();
        let mut overlay =
            objects::kustomization("resources", &production, namespace, images, &[FAST_INTERVAL]);
        overlay["components"] = json!([manifests.join(issuer)]);
        overlay["transformers"] = json!([production.join("namespace")]);
        let rename_bundle = json!([
            { "op": "replace", "path": "/metadata/name", "value": self.bundle },
            { "op": "add", "path": "/metadata/ownerReferences", "value": self.owner },
            { "op": "replace", "path": "/spec/sources/0/configMap/name", "value": self.roots },
            {
                "op": "replace", "path": "/spec/target/namespaceSelector/matchLabels",
                "value": { "kubernetes.io/metadata.name": namespace },
            },
        ]);
        let mount_bundle = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "any" },
            "spec": { "template": { "spec": { "volumes": [
                { "name": "roots", "configMap": { "name": self.bundle } },
            ] } } },
        });
        let own = [
            json!({
                "target": { "kind": "Bundle" }, "patch": rename_bundle.to_string(),
                "options": { "allowNameChange": true },
            }),
            json!({ "target": { "kind": "Deployment" }, "patch": mount_bundle.to_string() }),
        ];
        if let Some(all) = overlay["patches"].as_array_mut() {
            all.extend(own.into_iter().chain(patches));
        }
        overlay
    }
}

impl Cluster {
    /// Has cert-manager issue a Certificate anew, as `cmctl renew` does, and waits until it has.
    pub async fn renew_certificate(&self, name: &str) -> Result<()> {
        let issuing = json!([{ "op": "add", "path": "/status/conditions/-", "value": {
            "type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "e2e",
        } }]);
        let issuing = issuing.to_string();
        let patch = ["--subresource=status", "--type=json", "-p", &issuing];
        let before = self.certificate_revision(name).await?;
        self.run_kubectl(&[&["patch", "certificate", name][..], &patch].concat()).await?;
        until(&format!("cert-manager renews the certificate {name}"), 60, async || {
            let revision = self.certificate_revision(name).await?;
            met(revision > before, format!("revision {revision}"))
        })
        .await
    }

    /// How often cert-manager has issued a Certificate.
    async fn certificate_revision(&self, name: &str) -> Result<u32> {
        let revision = ["get", "certificate", name, "-o", "jsonpath={.status.revision}"];
        let revision = self.run_kubectl(&revision).await?;
        revision.parse().with_context(|| format!("revision {revision:?}"))
    }
}

/// Returns the certificates in a PEM file, in no order.
fn certificates(pem: &str) -> BTreeSet<String> {
    let blocks = pem.split_inclusive("-----END CERTIFICATE-----");
    blocks.map(|block| block.trim().to_owned()).filter(|block| !block.is_empty()).collect()
}
