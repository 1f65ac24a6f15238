//! A cluster: the base manifests, strict, in a namespace of their own.
//!
//! Manifests go in by kubectl, which has kustomize in it; everything else goes by the API, and all
//! of it to the one context that was named. Pods are spoken with through the API server's
//! port-forward, which passes by the NetworkPolicies; what must feel them is a pod itself.

use std::{
    collections::{BTreeMap, HashSet},
    fmt, fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::{AsyncBufReadExt as _, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Namespace, Pod},
};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{DeleteParams, ListParams, LogParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use testkit::Issued;
use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::{
    metrics::{Samples, get},
    place::{Impostor, Probe, Root, Service, Stream},
    wait::{seconds, until},
    window::Ledger,
};

/// On every pod of ours, with its namespace.
pub const LABEL: &str = "ping-pong/e2e";

/// More pings than one a second, so that no short gap passes between two of them.
pub const OFTEN: (&str, &str) = ("PINGER__INTERVAL", "40ms");

/// What the binary was told of the cluster.
#[derive(Clone, Debug)]
pub struct Target {
    /// The context of kubectl's configuration.
    pub context: String,
    /// The folder with the manifests.
    pub manifests: PathBuf,
    /// Images of ponger and pinger, as `name:tag`; without, those of the manifests.
    pub images: Vec<(Service, String)>,
}

/// The pair in its namespace.
pub struct Cluster {
    target: Target,
    /// The namespace.
    pub namespace: String,
    client: Client,
    journal: Journal,
    made: Mutex<Vec<String>>,
    follower: tokio::task::JoinHandle<()>,
    pub(crate) root: Root,
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
    /// Deploys base in a namespace of its own, and waits until both are ready.
    ///
    /// # Errors
    /// When the cluster does not answer, or the pair does not become ready.
    pub async fn start(target: Target) -> Result<Self> {
        let options =
            KubeConfigOptions { context: Some(target.context.clone()), ..Default::default() };
        let config = Config::from_custom_kubeconfig(Kubeconfig::read()?, &options)
            .await
            .with_context(|| format!("the context {}", target.context))?;
        let client = Client::try_from(config)?;
        let version = client.apiserver_version().await.context("the cluster does not answer")?;
        let namespace = format!("ping-pong-e2e-{:04x}", rand::random::<u16>());
        println!("Kubernetes {}, namespace {namespace}", version.git_version);
        let journal = Journal::default();
        let follower = tokio::spawn(journal.clone().follow(client.clone(), namespace.clone()));
        let cluster = Self {
            target,
            namespace: namespace.clone(),
            client,
            journal,
            made: Mutex::default(),
            follower,
            root: Root::new(),
        };
        if let Err(error) = cluster.deploy().await {
            // What would explain it is gone with the namespace.
            let folder = std::env::temp_dir().join(&namespace);
            let _ = fs::create_dir_all(&folder);
            let _ = cluster.save(&folder).await;
            let _ = cluster.clear().await;
            return Err(error.context(format!("what there was to see is in {}", folder.display())));
        }
        Ok(cluster)
    }

    async fn deploy(&self) -> Result<()> {
        let ours = &self.namespace;
        self.make_namespace(ours).await?;
        self.identities(ours).await?;
        self.apply_folder("base", ours, &[OFTEN]).await?;
        self.pair_ready(ours).await?;
        until("pinger gets its first pong", seconds(60), || async {
            let journal = self.journal(Service::Pinger);
            let there = journal.values().flatten().any(|line| line.contains("Got pong"));
            Ok(if there { Ok(()) } else { Err(format!("{journal:?}")) })
        })
        .await
    }

    /// Makes the Secrets and the trust bundle of the pair in `namespace`, as if it were there.
    ///
    /// # Errors
    /// When the API server refuses them.
    pub async fn identities(&self, namespace: &str) -> Result<()> {
        let root = self.root.get();
        self.apply(&roots(namespace, root.pem())).await?;
        for service in Service::BOTH {
            let issued = crate::place::issue(&self.root, service, namespace);
            self.apply(&tls_secret(namespace, &format!("{service}-tls"), &issued)).await?;
        }
        Ok(())
    }

    /// Applies a folder of the manifests in `namespace`, with opt-in components, and with `env` for
    /// pinger.
    ///
    /// # Errors
    /// When it cannot be rendered, or is refused.
    pub async fn apply_folder(
        &self,
        folder: &str,
        namespace: &str,
        env: &[(&str, &str)],
    ) -> Result<()> {
        let work = tempfile::tempdir()?;
        let here = work.path().canonicalize()?;
        let manifests = self
            .target
            .manifests
            .canonicalize()
            .with_context(|| format!("the manifests in {}", self.target.manifests.display()))?;
        // kustomize takes no absolute path.
        let up: PathBuf = here.components().skip(1).map(|_| "..").collect();
        let manifests = up.join(manifests.strip_prefix("/")?);
        let images: Vec<_> = self
            .target
            .images
            .iter()
            .filter_map(|(service, image)| {
                let (name, tag) = image.rsplit_once(':')?;
                Some(json!({ "name": service.name(), "newName": name, "newTag": tag }))
            })
            .collect();
        let env: Vec<_> =
            env.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
        let patch = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "pinger" },
            "spec": { "template": { "spec": { "containers": [{ "name": "pinger", "env": env }] } } },
        });
        let kustomization = json!({
            "resources": [manifests.join(folder)],
            "namespace": namespace,
            "images": images,
            // Ours among all that a cluster may have.
            "labels": [{ "pairs": { LABEL: namespace }, "includeTemplates": true }],
            "patches": [{
                "target": { "kind": "Deployment", "name": "pinger" },
                "patch": patch.to_string(),
            }],
        });
        fs::write(here.join("kustomization.yaml"), kustomization.to_string())?;
        let here = here.display().to_string();
        self.kubectl(&["apply", "--server-side", "--force-conflicts", "-k", &here]).await?;
        Ok(())
    }

    /// A folder of the manifests, rendered as it is.
    ///
    /// # Errors
    /// When it cannot be rendered.
    pub async fn render(&self, folder: &str) -> Result<String> {
        let folder = self.target.manifests.join(folder).display().to_string();
        self.kubectl(&["kustomize", &folder]).await
    }

    /// Waits until both Deployments in `namespace` are as they are meant to be.
    ///
    /// # Errors
    /// When they are not within three minutes.
    pub async fn pair_ready(&self, namespace: &str) -> Result<()> {
        for service in Service::BOTH {
            self.rolled_out(namespace, service).await?;
        }
        Ok(())
    }

    /// Waits until a Deployment is as it is meant to be, and its former pods are gone.
    ///
    /// # Errors
    /// When it is not within three minutes.
    pub async fn rolled_out(&self, namespace: &str, service: Service) -> Result<()> {
        let deployment = format!("deployment/{service}");
        self.kubectl(&["-n", namespace, "rollout", "status", &deployment, "--timeout=180s"])
            .await?;
        until(&format!("the former pods of {service} are gone"), seconds(90), || async {
            let pods = self.pods_in(namespace, service).await?;
            let leaving: Vec<_> = pods
                .iter()
                .filter(|pod| pod.metadata.deletion_timestamp.is_some())
                .map(kube::ResourceExt::name_any)
                .collect();
            Ok(if leaving.is_empty() { Ok(()) } else { Err(leaving.join(", ")) })
        })
        .await
    }

    /// The API of pods in the pair's namespace.
    pub fn pods_api(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The API server's client.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The pair's own pods of a service.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn pods(&self, service: Service) -> Result<Vec<Pod>> {
        self.pods_in(&self.namespace, service).await
    }

    async fn pods_in(&self, namespace: &str, service: Service) -> Result<Vec<Pod>> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let selector =
            format!("app.kubernetes.io/name={service},app.kubernetes.io/instance=ping-pong");
        Ok(api.list(&ListParams::default().labels(&selector)).await?.items)
    }

    /// The pods of a service that run and are ready, and stay.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn ready_pods(&self, service: Service) -> Result<Vec<Pod>> {
        Ok(self.pods(service).await?.into_iter().filter(is_ready).collect())
    }

    /// Whether a pod is ready.
    ///
    /// # Errors
    /// When there is no such pod.
    pub async fn is_ready(&self, pod: &str) -> Result<bool> {
        Ok(is_ready(&self.pods_api().get(pod).await?))
    }

    /// A connection to a port of a pod.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn forward(&self, pod: &str, port: u16) -> Result<Stream> {
        let mut forwarder = self.pods_api().portforward(pod, &[port]).await?;
        let stream = forwarder.take_stream(port).context("a stream")?;
        tokio::spawn(async move { forwarder.join().await });
        Ok(Box::new(stream))
    }

    /// The metrics of one pod.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metrics_of(&self, pod: &str) -> Result<Samples> {
        let answer = get(self.forward(pod, 2112).await?, pod, "/metrics").await;
        Ok(Samples::parse(&answer.with_context(|| format!("the metrics of {pod}"))?.1))
    }

    pub(crate) async fn metrics(&self, service: Service) -> Result<BTreeMap<String, Samples>> {
        let mut all = BTreeMap::new();
        for pod in self.ready_pods(service).await? {
            let name = pod.name_any();
            match self.metrics_of(&name).await {
                Ok(samples) => drop(all.insert(name, samples)),
                // One that was leaving may have left.
                Err(_)
                    if !self
                        .ready_pods(service)
                        .await?
                        .iter()
                        .any(|pod| pod.name_any() == name) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    pub(crate) async fn dial(&self) -> Result<(String, Stream)> {
        let pods = self.ready_pods(Service::Ponger).await?;
        let pod = pods.first().context("no ponger is ready")?.name_any();
        let stream = self.forward(&pod, 8443).await?;
        Ok((pod, stream))
    }

    pub(crate) async fn give(&self, service: Service, issued: &Issued) -> Result<()> {
        self.apply(&tls_secret(&self.namespace, &format!("{service}-tls"), issued)).await
    }

    pub(crate) async fn trust(&self, bundle: &str) -> Result<()> {
        self.apply(&roots(&self.namespace, bundle)).await
    }

    /// Lets kubelet look at the pair's files now: it does when a pod's object changes, and about
    /// once a minute otherwise.
    pub(crate) async fn nudge(&self) -> Result<()> {
        let now = format!("ping-pong/nudge={}", rand::random::<u32>());
        self.ours(&[
            "annotate",
            "pods",
            "--selector",
            "app.kubernetes.io/part-of=ping-pong",
            "--overwrite",
            &now,
        ])
        .await?;
        Ok(())
    }

    pub(crate) fn journal(&self, service: Service) -> BTreeMap<String, Vec<String>> {
        self.journal.of(|log| log.service == service.name() && log.instance == "ping-pong")
    }

    pub(crate) async fn probe(&self, probe: &Probe) -> Result<Vec<String>> {
        let namespace = self.or_ours(&probe.namespace);
        let mut labels: BTreeMap<_, _> = probe.labels.iter().copied().collect();
        labels.insert("app.kubernetes.io/instance", &probe.name);
        let (leaf, roots) = (probe.leaf.as_ref(), probe.roots.as_deref());
        self.apply(&extra_files(namespace, &probe.name, &probe.config("/files"), leaf, roots))
            .await?;
        self.apply(&self.extra_pod(namespace, &probe.name, Service::Pinger, &labels)).await?;
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let outcomes = until(&format!("the probe {} ends", probe.name), seconds(120), || async {
            let pod = api.get(&probe.name).await?;
            let phase = pod.status.and_then(|status| status.phase).unwrap_or_default();
            Ok(if phase == "Succeeded" || phase == "Failed" { Ok(()) } else { Err(phase) })
        })
        .await;
        let log = api.logs(&probe.name, &LogParams::default()).await.unwrap_or_default();
        self.remove(namespace, "pod", &probe.name).await?;
        self.remove(namespace, "secret", &probe.name).await?;
        outcomes.with_context(|| log.clone())?;
        let lines: Vec<_> = log.lines().map(str::to_owned).collect();
        let outcomes = Ledger::read(&lines).outcomes();
        ensure!(!outcomes.is_empty(), "the probe {} sent nothing: {log}", probe.name);
        Ok(outcomes)
    }

    pub(crate) async fn impostor(&self, impostor: &Impostor) -> Result<String> {
        let (name, namespace) = (impostor.name, self.or_ours(&impostor.namespace));
        let labels = BTreeMap::from([
            ("app.kubernetes.io/name", "ponger"),
            ("app.kubernetes.io/instance", name),
        ]);
        let (leaf, roots) = (Some(&impostor.leaf), impostor.client_roots.as_deref());
        self.apply(&extra_files(namespace, name, &impostor.config("/files"), leaf, roots)).await?;
        self.apply(&self.extra_pod(namespace, name, Service::Ponger, &labels)).await?;
        self.apply(&json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": name, "namespace": namespace },
            "spec": { "selector": labels, "ports": [{ "port": 443, "targetPort": 8443 }] },
        }))
        .await?;
        self.wait_for(namespace, &format!("pod/{name}"), "Ready").await?;
        Ok(format!("https://{name}.{namespace}.svc"))
    }

    pub(crate) async fn dismiss(&self, impostor: &Impostor) -> Result<()> {
        let namespace = self.or_ours(&impostor.namespace);
        for kind in ["pod", "service", "secret"] {
            self.remove(namespace, kind, impostor.name).await?;
        }
        Ok(())
    }

    /// A pod of a service beside the pair, with its files as [`extra_files`] made them.
    pub(crate) fn extra_pod(
        &self,
        namespace: &str,
        name: &str,
        service: Service,
        labels: &BTreeMap<&str, &str>,
    ) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "namespace": namespace, "labels": labels },
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "terminationGracePeriodSeconds": 1,
                "securityContext": {
                    "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
                    "seccompProfile": { "type": "RuntimeDefault" },
                },
                "containers": [{
                    "name": service.name(),
                    "image": self.image(service),
                    "imagePullPolicy": "IfNotPresent",
                    "args": ["--config", "/files/config.yaml"],
                    "securityContext": {
                        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                        "capabilities": { "drop": ["ALL"] },
                    },
                    // The policies name them.
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

    /// The image of a service: what was asked for, or what the manifests name.
    pub fn image(&self, service: Service) -> String {
        let asked = self.target.images.iter().find(|(name, _)| *name == service);
        asked.map_or_else(
            || format!("{service}:{}", env!("CARGO_PKG_VERSION")),
            |(_, image)| image.clone(),
        )
    }

    /// Makes a namespace that is removed at the end.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn make_namespace(&self, name: &str) -> Result<()> {
        self.apply(
            &json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } }),
        )
        .await?;
        self.made.lock().unwrap_or_else(PoisonError::into_inner).push(name.to_owned());
        Ok(())
    }

    /// Whether there is such a namespace.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn has_namespace(&self, name: &str) -> Result<bool> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        Ok(api.get_opt(name).await?.is_some())
    }

    /// Removes a namespace that was made here.
    ///
    /// # Errors
    /// When the API server refuses that.
    pub async fn remove_namespace(&self, name: &str) -> Result<()> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).retain(|made| made != name);
        let api: Api<Namespace> = Api::all(self.client.clone());
        match api.delete(name, &DeleteParams::background()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            done => {
                done?;
                Ok(())
            }
        }
    }

    /// Asks for a pod to be evicted, once: what the API server said against it.
    ///
    /// # Errors
    /// When kubectl cannot be started.
    pub async fn evict(&self, pod: &str) -> Result<Option<String>> {
        // Not by the kube crate, which asks again by itself until the budget allows it.
        let path = format!("/api/v1/namespaces/{}/pods/{pod}/eviction", self.namespace);
        let eviction = json!({
            "apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": { "name": pod, "namespace": self.namespace },
        });
        let asked =
            self.kubectl_with(&["create", "--raw", &path, "-f", "-"], Some(&eviction)).await;
        Ok(asked.err().map(|error| format!("{error:#}")))
    }

    /// Removes an object, at once.
    ///
    /// # Errors
    /// When the API server refuses that.
    pub async fn remove(&self, namespace: &str, kind: &str, name: &str) -> Result<()> {
        self.kubectl(&["-n", namespace, "delete", kind, name, "--ignore-not-found", "--wait=true"])
            .await?;
        Ok(())
    }

    /// Waits for a condition of an object.
    ///
    /// # Errors
    /// When it is not met within two minutes.
    pub async fn wait_for(&self, namespace: &str, object: &str, condition: &str) -> Result<()> {
        let condition = format!("--for=condition={condition}");
        self.kubectl(&["-n", namespace, "wait", object, &condition, "--timeout=120s"]).await?;
        Ok(())
    }

    /// Applies an object.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn apply(&self, object: &Value) -> Result<()> {
        self.kubectl_with(
            &["apply", "--server-side", "--force-conflicts", "-f", "-"],
            Some(object),
        )
        .await?;
        Ok(())
    }

    /// kubectl in the pair's namespace.
    ///
    /// # Errors
    /// When it fails.
    pub async fn ours(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl(&[&["-n", &self.namespace], arguments].concat()).await
    }

    /// kubectl, with the context that was named.
    ///
    /// # Errors
    /// When it fails.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl_with(arguments, None).await
    }

    /// kubectl, with the context that was named, not yet started.
    pub fn command(&self) -> Command {
        let mut command = Command::new("kubectl");
        command.args(["--context", &self.target.context]).kill_on_drop(true).process_group(0);
        command
    }

    async fn kubectl_with(&self, arguments: &[&str], input: Option<&Value>) -> Result<String> {
        let mut child = self
            .command()
            .args(arguments)
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("kubectl is not on PATH")?;
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
            stdin.write_all(input.to_string().as_bytes()).await?;
        }
        let output = child.wait_with_output().await?;
        if !output.status.success() {
            bail!(
                "kubectl {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    pub(crate) async fn save(&self, folder: &Path) -> Result<()> {
        for (name, lines) in self.journal.of(|_| true) {
            fs::write(folder.join(format!("{name}.log")), lines.join("\n") + "\n")?;
        }
        // No Secrets: keys belong in no report.
        let kinds = "deployments,replicasets,pods,services,endpointslices,configmaps,networkpolicies,poddisruptionbudgets";
        for (file, arguments) in [
            ("events.txt", &["get", "events", "--sort-by=.lastTimestamp"][..]),
            ("pods.txt", &["describe", "pods"][..]),
            ("manifests.yaml", &["get", kinds, "-o", "yaml"][..]),
        ] {
            let text = self.ours(arguments).await.unwrap_or_else(|error| format!("{error:#}\n"));
            fs::write(folder.join(file), text)?;
        }
        Ok(())
    }

    pub(crate) async fn clear(&self) -> Result<()> {
        self.follower.abort();
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for namespace in &made {
            self.remove_namespace(namespace).await?;
        }
        let api: Api<Namespace> = Api::all(self.client.clone());
        for namespace in &made {
            until(&format!("the namespace {namespace} is gone"), seconds(120), || async {
                Ok(if api.get_opt(namespace).await?.is_none() {
                    Ok(())
                } else {
                    Err("it is there".into())
                })
            })
            .await?;
        }
        Ok(())
    }

    fn or_ours<'n>(&'n self, namespace: &'n str) -> &'n str {
        if namespace.is_empty() { &self.namespace } else { namespace }
    }
}

/// Whether a pod is ready, and stays.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().flatten().any(|is| is.type_ == "Ready" && is.status == "True")
}

/// The node on which a pod runs.
pub fn node_of(pod: &Pod) -> String {
    pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default()
}

/// A pod's address.
///
/// # Errors
/// When it has none yet.
pub fn address_of(pod: &Pod) -> Result<String> {
    let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone());
    address.with_context(|| format!("{} has no address", pod.name_any()))
}

/// A Secret as the pair's.
pub fn tls_secret(namespace: &str, name: &str, issued: &Issued) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": { "name": name, "namespace": namespace },
        "stringData": { "tls.crt": issued.chain, "tls.key": issued.key },
    })
}

fn roots(namespace: &str, bundle: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "trust-bundle", "namespace": namespace },
        "data": { "ca.crt": bundle },
    })
}

/// The files of a pod beside the pair, in one Secret: roots and leaf may lie together in a test.
pub(crate) fn extra_files(
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

/// What pods have logged, kept when they are gone.
#[derive(Clone, Debug, Default)]
struct Journal(Arc<Mutex<BTreeMap<String, Log>>>);

#[derive(Clone, Debug, Default)]
struct Log {
    service: String,
    instance: String,
    lines: Vec<String>,
    seen: HashSet<String>,
}

impl Journal {
    fn of(&self, wanted: impl Fn(&Log) -> bool) -> BTreeMap<String, Vec<String>> {
        let logs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        logs.iter()
            .filter(|(_, log)| wanted(log))
            .map(|(name, log)| (name.clone(), log.lines.clone()))
            .collect()
    }

    /// Follows the log of each pod that ever appears.
    async fn follow(self, client: Client, namespace: String) {
        let api: Api<Pod> = Api::namespaced(client, &namespace);
        loop {
            // A list that fails is asked for again.
            for pod in
                api.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default()
            {
                let name = pod.name_any();
                let label = |key: &str| pod.labels().get(key).cloned().unwrap_or_default();
                let log = Log {
                    service: label("app.kubernetes.io/name"),
                    instance: label("app.kubernetes.io/instance"),
                    ..Log::default()
                };
                let mut logs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                if !logs.contains_key(&name) {
                    logs.insert(name.clone(), log);
                    tokio::spawn(self.clone().follow_pod(api.clone(), name));
                }
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    async fn follow_pod(self, api: Api<Pod>, pod: String) {
        loop {
            let wanted = LogParams { follow: true, ..LogParams::default() };
            if let Ok(stream) = api.log_stream(&pod, &wanted).await {
                let mut lines = stream.lines().into_stream().boxed();
                while let Ok(Some(line)) = lines.try_next().await {
                    let mut logs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                    // A stream that was cut off is read again from the start. Lines carry their time.
                    if let Some(log) = logs.get_mut(&pod)
                        && log.seen.insert(line.clone())
                    {
                        log.lines.push(line);
                    }
                }
            }
            match api.get_opt(&pod).await {
                Ok(None) => return,
                Ok(Some(_)) | Err(_) => tokio::time::sleep(Duration::from_millis(300)).await,
            }
        }
    }
}

/// The image that the pair in namespace `ping-pong` runs, if it is there.
///
/// # Errors
/// When the context cannot be used.
pub async fn deployed_image(context: &str, service: Service) -> Result<Option<String>> {
    let options = KubeConfigOptions { context: Some(context.to_owned()), ..Default::default() };
    let config = Config::from_custom_kubeconfig(Kubeconfig::read()?, &options)
        .await
        .with_context(|| format!("the context {context}"))?;
    let api: Api<Deployment> = Api::namespaced(Client::try_from(config)?, "ping-pong");
    let found = api.get_opt(service.name()).await.context("the cluster does not answer")?;
    let pod = found.and_then(|found| found.spec).and_then(|spec| spec.template.spec);
    Ok(pod.and_then(|pod| pod.containers.into_iter().next()).and_then(|first| first.image))
}
