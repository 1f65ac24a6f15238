//! Deploys the services behind Traefik, in a namespace of their own.

use std::path::Path;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1 as core;
use kube::{ResourceExt as _, api::ListParams};
use serde_json::{Value, json};
use testkit::{Ca, Leaf};

use crate::{
    cluster::{
        Cluster,
        objects::{self, is_ready},
    },
    environment::Environment as _,
    metrics::Labels,
    model::{Service, Stream},
    report::Skip,
    tls_client::{ProbeOutcome, probe},
    wait::{met, until},
};

/// How Traefik is configured.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// By the Gateway API.
    Gateway,
    /// By an Ingress.
    Ingress,
}

impl Kind {
    /// Returns the name of the component.
    pub(super) const fn component(self) -> &'static str {
        match self {
            Self::Gateway => "gateway-traefik",
            Self::Ingress => "ingress",
        }
    }
}

/// The services in their namespace, and Traefik in front of them.
pub(super) struct Edge<'c> {
    /// The namespace.
    pub(super) env: Cluster,
    /// The public name.
    pub(super) host: String,
    kind: Kind,
    acme: Option<&'c AcmeServer>,
    traefik: Traefik,
}

impl<'c> Edge<'c> {
    /// Creates the namespace. The certificate of the public name is issued by `acme`, or else provided by
    /// [`provide_certificate`](Self::provide_certificate).
    ///
    /// # Errors
    /// [`Skip`] where cert-manager, Traefik or the Gateway API is missing.
    pub(super) async fn create(
        cluster: &Cluster,
        kind: Kind,
        acme: Option<&'c AcmeServer>,
    ) -> Result<Self> {
        let groups = ["cert-manager.io", "traefik.io", "gateway.networking.k8s.io"];
        let needed = if let Kind::Gateway = kind { &groups[..] } else { &groups[..2] };
        for group in needed {
            if !cluster.has_api_group(group).await? {
                return Err(Skip(format!("the cluster has no {group}")).into());
            }
        }
        let traefik = Traefik::find(cluster).await?;
        let name = kind.component();
        let env = match acme {
            Some(_) => cluster.create_sibling(&format!("acme-{name}")).await?,
            None => cluster.create_sibling(name).await?,
        };
        // The ACME server resolves the name of a Service.
        let host = match acme {
            Some(_) => format!("edge.{}.svc.cluster.local", env.namespace),
            None => format!("{}.example.com", env.namespace),
        };
        Ok(Self { env, host, kind, acme, traefik })
    }

    /// Creates a certificate for the public name, and returns its root.
    pub(super) async fn provide_certificate(&self) -> Result<String> {
        let root = Ca::new("public root");
        let issued = root.issue(&Leaf::new().dns(&self.host));
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": { "name": "edge-tls", "namespace": self.env.namespace },
            "stringData": { "tls.crt": issued.chain, "tls.key": issued.key },
        });
        self.env.kubectl.apply(&secret).await?;
        Ok(root.pem().to_owned())
    }

    /// Deploys the services with certificates of this run, and the component. A root of cert-manager signs
    /// its client certificate, so the services trust that too.
    pub(super) async fn deploy(&self) -> Result<()> {
        let (env, namespace) = (&self.env, &self.env.namespace);
        env.create_identities(namespace).await?;
        env.apply_directory("components/issuer-ca", namespace, &[]).await?;
        let root = until("cert-manager creates its root", 60, async || {
            let root = self.certificate_in("ping-pong-root").await?;
            Ok(root.ok_or_else(|| "no certificate".to_owned()))
        })
        .await?;
        let bundle = format!("{}{root}", env.root().pem());
        env.kubectl.apply(&objects::trust_bundle(namespace, &bundle)).await?;
        if self.acme.is_some() {
            let service = json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": { "name": "edge", "namespace": namespace },
                "spec": { "type": "ExternalName", "externalName": self.traefik.service },
            });
            env.kubectl.apply(&service).await?;
        }
        env.apply_overlay(|manifests| self.overlay(manifests)).await?;
        env.wait_for_rollouts(namespace).await
    }

    fn overlay(&self, manifests: &Path) -> Value {
        let components = manifests.join("components");
        let base = manifests.join("base");
        let images = self.env.images();
        let mut overlay =
            objects::kustomization("resources", &base, &self.env.namespace, images, &[]);
        let mut names = vec!["issuer-ca", self.kind.component()];
        names.extend(self.acme.map(|_| "acme"));
        overlay["components"] = names.iter().map(|name| json!(components.join(name))).collect();
        overlay["transformers"] = json!([components.join("edge/namespace")]);
        if let Some(patches) = overlay["patches"].as_array_mut() {
            patches.extend(self.patches());
        }
        overlay
    }

    /// Returns the patches of what an overlay must change: the public name, and where the edge's pods run.
    fn patches(&self) -> Vec<Value> {
        let replace =
            |path: &str, value: Value| json!({ "op": "replace", "path": path, "value": value });
        let patch = |kind: &str, operations: &[Value]| json!({ "target": { "kind": kind }, "patch": json!(operations).to_string() });
        let (kind, mut way_in) = match self.kind {
            Kind::Gateway => (
                "Gateway",
                vec![
                    replace("/spec/listeners/0/hostname", json!(self.host)),
                    replace("/spec/listeners/0/port", json!(self.traefik.websecure)),
                    replace("/spec/listeners/1/port", json!(self.traefik.web)),
                ],
            ),
            Kind::Ingress => (
                "Ingress",
                vec![
                    replace("/spec/tls/0/hosts/0", json!(self.host)),
                    replace("/spec/rules/0/host", json!(self.host)),
                ],
            ),
        };
        let mut patches = Vec::new();
        if let Some(server) = self.acme {
            let acme = json!({ "server": server.directory, "caBundle": server.ca_bundle });
            let issuer = json!({
                "apiVersion": "cert-manager.io/v1", "kind": "Issuer", "metadata": { "name": "edge" },
                "spec": { "acme": acme },
            });
            patches.push(json!({
                "target": { "kind": "Issuer", "name": "edge" }, "patch": issuer.to_string(),
            }));
        } else {
            let issuer = "/metadata/annotations/cert-manager.io~1issuer";
            way_in.push(json!({ "op": "remove", "path": issuer }));
        }
        patches.push(patch(kind, &way_in));
        let from =
            "/spec/ingress/0/from/0/namespaceSelector/matchLabels/kubernetes.io~1metadata.name";
        let from = json!([replace(from, json!(self.traefik.namespace))]).to_string();
        let target = json!({ "kind": "NetworkPolicy", "name": ".*-from-edge" });
        patches.push(json!({ "target": target, "patch": from }));
        patches
    }

    /// Waits until a client that trusts `roots` receives a pong from the edge.
    pub(super) async fn until_pong(&self, roots: &str) -> Result<()> {
        self.until(roots, "the edge serves a pong", ProbeOutcome::is_pong).await?;
        Ok(())
    }

    /// Waits until a client that trusts `roots` receives from the edge what `expected` accepts.
    pub(super) async fn until(
        &self,
        roots: &str,
        what: &str,
        expected: impl Fn(&ProbeOutcome) -> bool,
    ) -> Result<ProbeOutcome> {
        until(what, 90, async || {
            Ok(match self.request(roots).await {
                Ok(outcome) if expected(&outcome) => Ok(outcome),
                Ok(outcome) => Err(format!("{outcome:?}")),
                // Traefik serves a certificate of its own until it has read that of the edge.
                Err(error) => Err(format!("{error:#}")),
            })
        })
        .await
    }

    /// Sends a request to the edge, by a client that trusts `roots`.
    pub(super) async fn request(&self, roots: &str) -> Result<ProbeOutcome> {
        let stream = self.connect(self.traefik.websecure).await?;
        probe(stream, roots, &self.host, None).await
    }

    /// Connects to Traefik's port for plain HTTP.
    pub(super) async fn connect_plain(&self) -> Result<Stream> {
        self.connect(self.traefik.web).await
    }

    async fn connect(&self, port: u16) -> Result<Stream> {
        self.env.forward_in(&self.traefik.namespace, &self.traefik.pod, port).await
    }

    /// Changes fields of the `spec` of an object.
    pub(super) async fn patch(&self, object: &str, spec: &Value) -> Result<()> {
        let patch = json!({ "spec": spec }).to_string();
        self.env.run_kubectl(&["patch", object, "--type=merge", "-p", &patch]).await?;
        Ok(())
    }

    /// Returns the certificate chain in a Secret, if it is there.
    pub(super) async fn certificate_in(&self, secret: &str) -> Result<Option<String>> {
        let secret = self.env.api::<core::Secret>().get_opt(secret).await?;
        let chain = secret.and_then(|secret| secret.data?.remove("tls.crt"));
        Ok(chain.map(|chain| String::from_utf8(chain.0)).transpose()?)
    }

    /// Waits until the pods of ponger have counted `name` with `labels`.
    pub(super) async fn until_ponger_counts(&self, name: &str, labels: Labels<'_>) -> Result<()> {
        until(&format!("ponger counts {name} {labels:?}"), 10, async || {
            let metrics = self.env.metrics(Service::Ponger).await?;
            let count: f64 = metrics.values().map(|samples| samples.sum(name, labels)).sum();
            met(count > 0.0, count)
        })
        .await
    }
}

/// A pod of Traefik, with the labels and the names of ports that its Helm chart gives it.
#[derive(Clone, Debug)]
struct Traefik {
    namespace: String,
    pod: String,
    web: u16,
    websecure: u16,
    /// The DNS name of its Service.
    service: String,
}

impl Traefik {
    async fn find(cluster: &Cluster) -> Result<Self> {
        let label = ListParams::default().labels("app.kubernetes.io/name=traefik");
        let pods = cluster.cluster_api::<core::Pod>().list(&label).await?.items;
        let pod = pods.into_iter().find(is_ready);
        let pod = pod.ok_or_else(|| Skip("no Traefik is running in the cluster".to_owned()))?;
        let namespace = pod.namespace().context("a pod without a namespace")?;
        let services = cluster.cluster_api::<core::Service>().list(&ListParams::default()).await?;
        // Challenges of ACME come to port 80.
        let has_port_80 = |service: &core::Service| {
            let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
            ports.into_iter().flatten().any(|port| port.port == 80)
        };
        let service = services.into_iter().find(|service| {
            service.namespace().as_ref() == Some(&namespace) && has_port_80(service)
        });
        let service = service.context("Traefik has no Service with port 80")?;
        Ok(Self {
            web: port(&pod, "web")?,
            websecure: port(&pod, "websecure")?,
            service: format!("{}.{namespace}.svc.cluster.local", service.name_any()),
            pod: pod.name_any(),
            namespace,
        })
    }
}

/// Returns the number of a pod's port.
fn port(pod: &core::Pod, name: &str) -> Result<u16> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    let port = ports.find(|port| port.name.as_deref() == Some(name));
    let port = port.with_context(|| format!("{} has no port {name}", pod.name_any()))?;
    Ok(port.container_port.try_into()?)
}

/// An ACME server in the cluster.
#[derive(Clone, Debug)]
pub(super) struct AcmeServer {
    directory: String,
    ca_bundle: String,
}

impl AcmeServer {
    /// Finds the one that a ClusterIssuer names.
    ///
    /// # Errors
    /// [`Skip`] where none does.
    pub(super) async fn find(cluster: &Cluster) -> Result<Self> {
        if cluster.has_api_group("cert-manager.io").await? {
            let issuers = cluster.kubectl.run(&["get", "clusterissuers", "-o", "json"]).await?;
            let issuers: Value = serde_json::from_str(&issuers)?;
            for issuer in issuers["items"].as_array().into_iter().flatten() {
                let acme = &issuer["spec"]["acme"];
                // One of its own CA: others are public.
                if let (Some(server), Some(ca)) =
                    (acme["server"].as_str(), acme["caBundle"].as_str())
                {
                    return Ok(Self { directory: server.to_owned(), ca_bundle: ca.to_owned() });
                }
            }
        }
        let cause = "no ClusterIssuer names an ACME server with a CA of its own";
        Err(Skip(cause.to_owned()).into())
    }
}
