//! A cluster: the base manifests in a namespace of their own.
//!
//! Manifests are applied by kubectl, which includes kustomize; everything else uses the API, and all
//! of it the one context that was named. Scenarios connect to pods through the API server's
//! port-forward, which bypasses the NetworkPolicies; what must be subject to them is a pod itself.
//!
//! Every method fails when the API server or kubectl does.

pub mod helm;
pub mod kubectl;
pub mod objects;
pub mod pod_logs;
pub mod production;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
    rc::Rc,
};

use anyhow::{Context as _, Result};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::Deployment,
        core::v1::{Namespace, Pod},
    },
};
use kube::{
    Api, Client, Config, Resource, ResourceExt as _,
    api::{DeleteParams, ListParams, LogParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use testkit::{Ca, Issued};

use self::{
    kubectl::Kubectl,
    objects::{PodLabels, is_ready},
    pod_logs::PodLogs,
};
use crate::{
    environment::Environment,
    http,
    metrics::Samples,
    model::{OneShotPinger, RoguePonger, Service, Stream},
    wait::{met, until},
};

/// A short ping interval for pinger, so that an outage of any length loses a ping.
pub const FAST_INTERVAL: (&str, &str) = ("PINGER__INTERVAL", "40ms");

/// What to deploy, and where.
#[derive(Clone, Debug)]
pub struct Target {
    /// The context of kubectl's configuration.
    pub context: String,
    /// The directory with the manifests.
    pub manifests: PathBuf,
    /// Images as `name:tag`, in place of those that the manifests name.
    pub images: Vec<(Service, String)>,
}

/// pinger and ponger in their namespace.
pub struct Cluster {
    target: Target,
    /// kubectl for this cluster.
    pub kubectl: Kubectl,
    /// The namespace of the services.
    pub namespace: String,
    client: Client,
    pod_logs: PodLogs,
    log_follower: tokio::task::JoinHandle<()>,
    created_namespaces: RefCell<Vec<String>>,
    ca: RefCell<Rc<Ca>>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("target", &self.target)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// Deploys the base manifests in a new namespace, and waits until pinger receives a pong.
    pub async fn start(target: Target) -> Result<Self> {
        let client = connect(&target.context).await?;
        let version =
            client.apiserver_version().await.context("the API server does not respond")?;
        let namespace = format!("ping-pong-e2e-{:04x}", rand::random::<u16>());
        println!("Kubernetes {}, namespace {namespace}", version.git_version);
        let cluster = Self::new(target, client, namespace);
        if let Err(error) = cluster.deploy().await {
            let error = cluster.with_diagnostics(error).await;
            let _ = cluster.clean_up().await;
            return Err(error);
        }
        Ok(cluster)
    }

    fn new(target: Target, client: Client, namespace: String) -> Self {
        let pod_logs = PodLogs::default();
        let pods = Api::namespaced(client.clone(), &namespace);
        Self {
            kubectl: Kubectl::new(&target.context),
            target,
            namespace,
            client,
            log_follower: tokio::spawn(pod_logs.clone().follow(pods)),
            pod_logs,
            created_namespaces: RefCell::default(),
            ca: RefCell::new(Rc::new(Ca::new("ping-pong e2e"))),
        }
    }

    /// Creates another namespace in the same cluster, in which nothing is deployed yet.
    pub async fn create_sibling(&self, suffix: &str) -> Result<Self> {
        let namespace = format!("{}-{suffix}", self.namespace);
        // Here, so that `clean_up` deletes it even if the scenario is interrupted.
        self.create_namespace(&namespace).await?;
        Ok(Self::new(self.target.clone(), self.client.clone(), namespace))
    }

    /// Deletes the namespace of a sibling, and returns the result of the scenario in it; if it failed, with
    /// where the diagnostics are.
    pub async fn finish(&self, result: Result<String>) -> Result<String> {
        let result = match result {
            Err(error) => Err(self.with_diagnostics(error).await),
            measured => measured,
        };
        self.delete_namespace(&self.namespace).await?;
        self.clean_up().await?;
        result
    }

    /// Saves what explains `error`, which is deleted with the namespace, and adds where it is.
    async fn with_diagnostics(&self, error: anyhow::Error) -> anyhow::Error {
        let dir = std::env::temp_dir().join(&self.namespace);
        // The failure itself matters more than one to save these.
        let _ = self.save_diagnostics(&dir).await;
        error.context(format!("diagnostics are in {}", dir.display()))
    }

    async fn deploy(&self) -> Result<()> {
        self.create_namespace(&self.namespace).await?;
        self.create_identities(&self.namespace).await?;
        self.apply_directory("base", &self.namespace, &[FAST_INTERVAL]).await?;
        self.wait_for_rollouts(&self.namespace).await?;
        until("pinger receives a pong", 60, async || {
            let logs = self.logs(Service::Pinger);
            let received = logs.values().flatten().any(|line| line.contains("Got pong"));
            met(received, format!("{logs:?}"))
        })
        .await
    }

    /// Creates the Secrets and the trust bundle of both services in a namespace.
    pub async fn create_identities(&self, namespace: &str) -> Result<()> {
        let root = self.root();
        self.kubectl.apply(&objects::trust_bundle(namespace, root.pem())).await?;
        for service in Service::BOTH {
            let issued = root.issue(&service.leaf(namespace));
            self.kubectl.apply(&objects::tls_secret(namespace, service, &issued)).await?;
        }
        Ok(())
    }

    /// Applies a directory of the manifests in a namespace, with `env` for pinger.
    pub async fn apply_directory(
        &self,
        dir: &str,
        namespace: &str,
        env: &[(&str, &str)],
    ) -> Result<()> {
        let kind = if dir.starts_with("components/") { "components" } else { "resources" };
        self.apply_overlay(|manifests| {
            objects::kustomization(kind, &manifests.join(dir), namespace, &self.target.images, env)
        })
        .await
    }

    /// Applies the kustomization that `build` returns; it receives the path of the manifests.
    pub async fn apply_overlay(&self, build: impl FnOnce(&Path) -> Value) -> Result<()> {
        let work = tempfile::tempdir()?;
        let here = work.path().canonicalize()?;
        let manifests = self.target.manifests.canonicalize();
        let manifests =
            manifests.with_context(|| format!("manifests {}", self.target.manifests.display()))?;
        // kustomize accepts no absolute path.
        let up: PathBuf = here.components().skip(1).map(|_| "..").collect();
        let overlay = build(&up.join(manifests.strip_prefix("/")?));
        fs::write(here.join("kustomization.yaml"), overlay.to_string())?;
        self.kubectl.apply_kustomization(&here.display().to_string()).await
    }

    /// Renders a directory of the manifests without changes.
    pub async fn render(&self, dir: &str) -> Result<String> {
        let dir = self.target.manifests.join(dir).display().to_string();
        self.kubectl.run(&["kustomize", &dir]).await
    }

    /// Waits for the rollout of both services in a namespace.
    pub async fn wait_for_rollouts(&self, namespace: &str) -> Result<()> {
        for service in Service::BOTH {
            self.wait_for_rollout(namespace, service).await?;
        }
        Ok(())
    }

    /// Waits until a rollout is complete, and the terminating pods are gone.
    pub async fn wait_for_rollout(&self, namespace: &str, service: Service) -> Result<()> {
        self.kubectl.wait_for_rollout(namespace, service.name()).await?;
        until(&format!("the terminating pods of {service} are gone"), 90, async || {
            let pods = self.pods_in(namespace, service).await?;
            let terminating: Vec<_> = pods
                .iter()
                .filter(|pod| pod.metadata.deletion_timestamp.is_some())
                .map(kube::ResourceExt::name_any)
                .collect();
            met(terminating.is_empty(), terminating.join(", "))
        })
        .await
    }

    /// Restarts a service and waits for its rollout.
    pub async fn restart(&self, service: Service) -> Result<()> {
        self.run_kubectl(&["rollout", "restart", &format!("deployment/{service}")]).await?;
        self.wait_for_rollout(&self.namespace, service).await
    }

    /// Returns the API of a kind of object in the namespace of the services.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Returns the API of a kind of object of the whole cluster.
    pub fn cluster_api<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    /// Returns the pods of a service.
    pub async fn pods(&self, service: Service) -> Result<Vec<Pod>> {
        self.pods_in(&self.namespace, service).await
    }

    async fn pods_in(&self, namespace: &str, service: Service) -> Result<Vec<Pod>> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let selector =
            format!("app.kubernetes.io/name={service},app.kubernetes.io/instance=ping-pong");
        Ok(api.list(&ListParams::default().labels(&selector)).await?.items)
    }

    /// Returns the pods of a service that are ready and not terminating.
    pub async fn ready_pods(&self, service: Service) -> Result<Vec<Pod>> {
        Ok(self.pods(service).await?.into_iter().filter(is_ready).collect())
    }

    /// Returns one pod of a service that is ready and not terminating.
    pub async fn ready_pod(&self, service: Service) -> Result<Pod> {
        let pod = self.ready_pods(service).await?.into_iter().next();
        pod.with_context(|| format!("no pod of {service} is ready"))
    }

    /// Opens a connection to a port of a pod in the namespace of the services.
    pub async fn forward(&self, pod: &str, port: u16) -> Result<Stream> {
        self.forward_in(&self.namespace, pod, port).await
    }

    /// Opens a connection to a port of a pod.
    pub async fn forward_in(&self, namespace: &str, pod: &str, port: u16) -> Result<Stream> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let mut forwarder = api.portforward(pod, &[port]).await?;
        let stream = forwarder.take_stream(port).context("the port-forward has no stream")?;
        tokio::spawn(async move { forwarder.join().await });
        Ok(Box::new(stream))
    }

    /// Returns the image of a service: the one that was given, or the one that the manifests name.
    pub fn image(&self, service: Service) -> String {
        let given = self.target.images.iter().find(|(name, _)| *name == service);
        given.map_or_else(
            || format!("{service}:{}", env!("CARGO_PKG_VERSION")),
            |(_, image)| image.clone(),
        )
    }

    /// The images that were given in place of those that the manifests name.
    pub fn images(&self) -> &[(Service, String)] {
        &self.target.images
    }

    /// The context of kubectl's configuration.
    pub fn context(&self) -> &str {
        &self.target.context
    }

    /// The directory with the manifests.
    pub fn manifests(&self) -> &Path {
        &self.target.manifests
    }

    /// Creates a namespace; [`Environment::clean_up`] deletes it.
    pub async fn create_namespace(&self, name: &str) -> Result<()> {
        self.kubectl.apply(&objects::namespace(name)).await?;
        self.created_namespaces.borrow_mut().push(name.to_owned());
        Ok(())
    }

    /// Whether a namespace exists.
    pub async fn has_namespace(&self, name: &str) -> Result<bool> {
        Ok(self.cluster_api::<Namespace>().get_opt(name).await?.is_some())
    }

    /// Deletes a namespace that was created here, without waiting until it is gone.
    pub async fn delete_namespace(&self, name: &str) -> Result<()> {
        self.created_namespaces.borrow_mut().retain(|created| created != name);
        match self.cluster_api::<Namespace>().delete(name, &DeleteParams::background()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            result => drop(result?),
        }
        Ok(())
    }

    /// Requests the eviction of a pod once, and returns the error of the API server if it denies it.
    pub async fn evict(&self, pod: &str) -> Option<String> {
        // The kube crate would repeat the request until the disruption budget allows it.
        let path = format!("/api/v1/namespaces/{}/pods/{pod}/eviction", self.namespace);
        let eviction = json!({
            "apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": { "name": pod, "namespace": self.namespace },
        });
        let arguments = ["create", "--raw", &path, "-f", "-"];
        let result = self.kubectl.run_with_input(&arguments, Some(&eviction)).await;
        result.err().map(|error| format!("{error:#}"))
    }

    /// Runs kubectl in the namespace of the services and returns its output.
    pub async fn run_kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl.run_in(&self.namespace, arguments).await
    }

    /// Whether the API server knows a group of kinds, such as `cert-manager.io`.
    pub async fn has_api_group(&self, name: &str) -> Result<bool> {
        let groups = self.client.list_api_groups().await?.groups;
        Ok(groups.iter().any(|group| group.name == name))
    }

    /// Makes kubelet update the files of the pods now: it does so when a pod's object changes, and
    /// otherwise about once a minute.
    pub async fn trigger_kubelet_sync(&self) -> Result<()> {
        let annotation = format!("ping-pong/sync={}", rand::random::<u32>());
        let selector = "app.kubernetes.io/part-of=ping-pong";
        self.run_kubectl(&["annotate", "pods", "-l", selector, "--overwrite", &annotation]).await?;
        Ok(())
    }
}

impl Environment for Cluster {
    fn namespace(&self) -> &str {
        &self.namespace
    }

    fn ca(&self) -> &RefCell<Rc<Ca>> {
        &self.ca
    }

    async fn metrics(&self, service: Service) -> Result<BTreeMap<String, Samples>> {
        let mut metrics = BTreeMap::new();
        for pod in self.ready_pods(service).await? {
            let name = pod.name_any();
            match self.metrics_of(&name).await {
                Ok(samples) => drop(metrics.insert(name, samples)),
                Err(error) => {
                    // A pod that began to terminate meanwhile may fail.
                    let ready = self.ready_pods(service).await?;
                    if ready.iter().any(|pod| pod.name_any() == name) {
                        return Err(error);
                    }
                }
            }
        }
        Ok(metrics)
    }

    async fn metrics_of(&self, pod: &str) -> Result<Samples> {
        let response = http::get(self.forward(pod, 2112).await?, pod, "/metrics").await;
        Ok(Samples::parse(&response.with_context(|| format!("metrics of {pod}"))?.1))
    }

    async fn connect(&self) -> Result<(String, Stream)> {
        let pod = self.ready_pod(Service::Ponger).await?.name_any();
        let stream = self.forward(&pod, 8443).await?;
        Ok((pod, stream))
    }

    async fn install_cert(&self, service: Service, issued: &Issued) -> Result<()> {
        self.kubectl.apply(&objects::tls_secret(&self.namespace, service, issued)).await?;
        self.trigger_kubelet_sync().await
    }

    async fn install_trust_bundle(&self, bundle: &str) -> Result<()> {
        self.kubectl.apply(&objects::trust_bundle(&self.namespace, bundle)).await?;
        self.trigger_kubelet_sync().await
    }

    fn logs(&self, service: Service) -> BTreeMap<String, Vec<String>> {
        self.pod_logs.select(|log| log.app == service.name() && log.instance == "ping-pong")
    }

    async fn run_pinger(&self, pinger: &OneShotPinger) -> Result<Vec<String>> {
        let name = pinger.name.as_str();
        let namespace = pinger.namespace.as_deref().unwrap_or(&self.namespace);
        let mut labels = PodLabels::from([("app.kubernetes.io/instance", name)]);
        labels.extend(pinger.app.map(|app| ("app.kubernetes.io/name", app)));
        let (leaf, roots) = (pinger.leaf.as_ref(), pinger.roots.as_deref());
        let files = objects::files_secret(namespace, name, &pinger.config("/files"), leaf, roots);
        let image = self.image(Service::Pinger);
        let pod = objects::pod(namespace, name, Service::Pinger, &image, &labels);
        self.kubectl.apply(&files).await?;
        self.kubectl.apply(&pod).await?;
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let exited = until(&format!("the pod {name} exits"), 120, async || {
            let status = api.get(name).await?.status;
            let phase = status.and_then(|status| status.phase).unwrap_or_default();
            met(phase == "Succeeded" || phase == "Failed", phase)
        })
        .await;
        let log = api.logs(name, &LogParams::default()).await.unwrap_or_default();
        self.kubectl.delete(namespace, "pod", name).await?;
        self.kubectl.delete(namespace, "secret", name).await?;
        exited.with_context(|| log.clone())?;
        pinger.outcomes(&log.lines().map(str::to_owned).collect::<Vec<_>>())
    }

    async fn start_ponger(&self, ponger: &RoguePonger) -> Result<String> {
        let name = ponger.name;
        let namespace = ponger.namespace.as_deref().unwrap_or(&self.namespace);
        let labels = PodLabels::from([
            ("app.kubernetes.io/name", "ponger"),
            ("app.kubernetes.io/instance", name),
        ]);
        let (leaf, roots) = (Some(&ponger.leaf), ponger.client_roots.as_deref());
        let files = objects::files_secret(namespace, name, &ponger.config("/files"), leaf, roots);
        let image = self.image(Service::Ponger);
        let pod = objects::pod(namespace, name, Service::Ponger, &image, &labels);
        for object in [files, pod, objects::ponger_service(namespace, name, &labels)] {
            self.kubectl.apply(&object).await?;
        }
        let pod = format!("pod/{name}");
        let arguments = ["wait", &pod, "--for=condition=Ready", "--timeout=120s"];
        self.kubectl.run_in(namespace, &arguments).await?;
        Ok(format!("https://{name}.{namespace}.svc"))
    }

    async fn stop(&self, ponger: &RoguePonger) -> Result<()> {
        let namespace = ponger.namespace.as_deref().unwrap_or(&self.namespace);
        for kind in ["pod", "service", "secret"] {
            self.kubectl.delete(namespace, kind, ponger.name).await?;
        }
        Ok(())
    }

    async fn save_diagnostics(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir)?;
        for (name, lines) in self.pod_logs.select(|_| true) {
            fs::write(dir.join(format!("{name}.log")), lines.join("\n") + "\n")?;
        }
        // No Secrets: private keys belong in no report.
        let kinds = "deployments,replicasets,pods,services,endpointslices,configmaps,networkpolicies,poddisruptionbudgets";
        for (file, arguments) in [
            ("events.txt", &["get", "events", "--sort-by=.lastTimestamp"][..]),
            ("pods.txt", &["describe", "pods"]),
            ("manifests.yaml", &["get", kinds, "-o", "yaml"]),
        ] {
            let output = self.run_kubectl(arguments).await;
            let text = output.unwrap_or_else(|error| format!("{error:#}\n"));
            fs::write(dir.join(file), text)?;
        }
        Ok(())
    }

    async fn clean_up(&self) -> Result<()> {
        self.log_follower.abort();
        let namespaces = self.created_namespaces.borrow().clone();
        for namespace in &namespaces {
            self.delete_namespace(namespace).await?;
        }
        for namespace in &namespaces {
            until(&format!("the namespace {namespace} is gone"), 120, async || {
                met(!self.has_namespace(namespace).await?, "it exists")
            })
            .await?;
        }
        Ok(())
    }
}

/// Returns the image of a service that is deployed in the namespace `ping-pong`.
pub async fn deployed_image(context: &str, service: Service) -> Result<Option<String>> {
    let api: Api<Deployment> = Api::namespaced(connect(context).await?, "ping-pong");
    let found = api.get_opt(service.name()).await.context("the API server does not respond")?;
    let pod = found.and_then(|found| found.spec).and_then(|spec| spec.template.spec);
    Ok(pod.and_then(|pod| pod.containers.into_iter().next()).and_then(|first| first.image))
}

async fn connect(context: &str) -> Result<Client> {
    let options = KubeConfigOptions { context: Some(context.to_owned()), ..Default::default() };
    let config = Config::from_custom_kubeconfig(Kubeconfig::read()?, &options).await;
    Ok(Client::try_from(config.with_context(|| format!("context {context}"))?)?)
}
