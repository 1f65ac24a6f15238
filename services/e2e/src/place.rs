//! Where the scenarios run. What a scenario needs of either place is here; what only one of them
//! has, it asks of that one.

use std::{collections::BTreeMap, fmt, path::Path, sync::Arc};

use anyhow::{Result, ensure};
use testkit::{Ca, Issued, Leaf};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    cluster::Cluster,
    local::Local,
    metrics::Samples,
    stranger::{self, Answer},
    wait::{seconds, until},
};

/// A connection, however it came about.
pub type Stream = Box<dyn Duplex>;

/// What can be read from and written to.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// The server.
    Ponger,
    /// The client.
    Pinger,
}

impl Service {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Ponger, Self::Pinger];

    /// Its name, everywhere.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ponger => "ponger",
            Self::Pinger => "pinger",
        }
    }

    /// What its certificate says in `namespace`.
    pub fn leaf(self, namespace: &str) -> Leaf {
        match self {
            Self::Ponger => Leaf::ponger(namespace),
            Self::Pinger => Leaf::pinger(namespace),
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The SPIFFE ID of a service account.
pub fn spiffe(namespace: &str, account: &str) -> String {
    format!("spiffe://cluster.local/ns/{namespace}/sa/{account}")
}

/// A pinger beside the pair, that sends a few pings and ends.
#[derive(Clone, Debug, Default)]
pub struct Probe {
    /// A name that no other has.
    pub name: String,
    /// In a cluster, where it runs; the pair's own if empty.
    pub namespace: String,
    /// In a cluster, its labels.
    pub labels: Vec<(&'static str, &'static str)>,
    /// Who is pinged.
    pub url: String,
    /// What it shows.
    pub leaf: Option<Issued>,
    /// What it trusts; without, the URL is plain HTTP.
    pub roots: Option<String>,
    /// Whom it expects.
    pub server_id: Option<String>,
    /// How many pings.
    pub count: u32,
}

impl Probe {
    /// Its configuration, with its files in `folder`.
    pub(crate) fn config(&self, folder: &str) -> serde_json::Value {
        let mut ponger = serde_json::json!({ "url": self.url });
        if self.leaf.is_some() {
            ponger["clientCertificate"] = format!("{folder}/tls.crt").into();
            ponger["clientPrivateKey"] = format!("{folder}/tls.key").into();
        }
        if self.roots.is_some() {
            ponger["acceptCert"] = format!("{folder}/ca.crt").into();
        }
        if let Some(id) = &self.server_id {
            ponger["serverId"] = id.as_str().into();
        }
        serde_json::json!({
            "insecure": self.roots.is_none(),
            "ponger": ponger,
            "count": self.count,
            "interval": "500ms",
        })
    }
}

/// A ponger beside the pair's own.
#[derive(Clone, Debug)]
pub struct Impostor {
    /// A name that no other has; in a cluster also that of its Service.
    pub name: &'static str,
    /// In a cluster, where it runs; the pair's own if empty.
    pub namespace: String,
    /// What it shows.
    pub leaf: Issued,
    /// Whom it asks for certificates: those that these roots vouch for, or nobody.
    pub client_roots: Option<String>,
}

impl Impostor {
    /// Its configuration, with its files in `folder`.
    pub(crate) fn config(&self, folder: &str) -> serde_json::Value {
        let mut service = serde_json::json!({
            "tlsCertificate": format!("{folder}/tls.crt"),
            "tlsPrivateKey": format!("{folder}/tls.key"),
        });
        if self.client_roots.is_some() {
            service["clientCa"] = format!("{folder}/ca.crt").into();
        }
        serde_json::json!({ "service": service })
    }
}

/// A place where the pair runs.
#[derive(Debug)]
pub enum Place {
    /// Processes on this machine.
    Local(Local),
    /// Pods in a namespace of their own.
    Cluster(Box<Cluster>),
}

impl Place {
    /// The namespace in the pair's SPIFFE IDs.
    pub fn namespace(&self) -> &str {
        match self {
            Self::Local(_) => crate::local::NAMESPACE,
            Self::Cluster(cluster) => &cluster.namespace,
        }
    }

    /// The root that vouches for the pair.
    pub fn root(&self) -> Arc<Ca> {
        match self {
            Self::Local(local) => local.root.get(),
            Self::Cluster(cluster) => cluster.root.get(),
        }
    }

    /// Notes another root as the one that vouches for the pair.
    pub fn set_root(&self, root: Arc<Ca>) {
        match self {
            Self::Local(local) => local.root.set(root),
            Self::Cluster(cluster) => cluster.root.set(root),
        }
    }

    /// The metrics of each process of a service that runs.
    ///
    /// # Errors
    /// When one does not answer.
    pub async fn metrics(&self, service: Service) -> Result<BTreeMap<String, Samples>> {
        match self {
            Self::Local(local) => local.metrics(service).await,
            Self::Cluster(cluster) => cluster.metrics(service).await,
        }
    }

    /// The metrics of one process.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metrics_of(&self, name: &str) -> Result<Samples> {
        match self {
            Self::Local(local) => local.metrics_of(name).await,
            Self::Cluster(cluster) => cluster.metrics_of(name).await,
        }
    }

    /// A connection to one ponger, and which it is.
    ///
    /// # Errors
    /// When there is none.
    pub async fn dial(&self) -> Result<(String, Stream)> {
        match self {
            Self::Local(local) => local.dial().await,
            Self::Cluster(cluster) => cluster.dial().await,
        }
    }

    /// Replaces a service's certificate and key.
    ///
    /// # Errors
    /// When they cannot be written.
    pub async fn give(&self, service: Service, issued: &Issued) -> Result<()> {
        match self {
            Self::Local(local) => local.give(service, issued),
            Self::Cluster(cluster) => cluster.give(service, issued).await,
        }
    }

    /// Replaces the roots that both trust.
    ///
    /// # Errors
    /// When they cannot be written.
    pub async fn trust(&self, roots: &[&Ca]) -> Result<()> {
        let bundle: String = roots.iter().map(|root| root.pem()).collect();
        match self {
            Self::Local(local) => local.trust(&bundle),
            Self::Cluster(cluster) => cluster.trust(&bundle).await,
        }
    }

    /// What each process of a service has logged, the ended ones included.
    pub fn journal(&self, service: Service) -> BTreeMap<String, Vec<String>> {
        match self {
            Self::Local(local) => local.journal(service),
            Self::Cluster(cluster) => cluster.journal(service),
        }
    }

    /// Runs a probe to its end: what came of each of its pings, in order.
    ///
    /// # Errors
    /// When it does not run, or does not end.
    pub async fn probe(&self, probe: &Probe) -> Result<Vec<String>> {
        let outcomes = match self {
            Self::Local(local) => local.probe(probe).await?,
            Self::Cluster(cluster) => cluster.probe(probe).await?,
        };
        ensure!(
            outcomes.len() == probe.count as usize,
            "the probe {} sent {} of {} pings",
            probe.name,
            outcomes.len(),
            probe.count
        );
        Ok(outcomes)
    }

    /// Starts an impostor, and says at which URL.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn impostor(&self, impostor: &Impostor) -> Result<String> {
        match self {
            Self::Local(local) => local.impostor(impostor).await,
            Self::Cluster(cluster) => cluster.impostor(impostor).await,
        }
    }

    /// Ends an impostor.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub async fn dismiss(&self, impostor: &Impostor) -> Result<()> {
        match self {
            Self::Local(local) => local.dismiss(impostor.name).await,
            Self::Cluster(cluster) => cluster.dismiss(impostor).await,
        }
    }

    /// Issues a leaf for a service from the root that there is.
    pub fn issue(&self, service: Service) -> Issued {
        match self {
            Self::Local(local) => issue(&local.root, service, self.namespace()),
            Self::Cluster(cluster) => issue(&cluster.root, service, self.namespace()),
        }
    }

    /// Knocks at one ponger with a certificate, and says at which.
    ///
    /// # Errors
    /// When there is none, or it is not to be trusted.
    pub async fn knock(&self, certificate: Option<&Issued>) -> Result<(String, Answer)> {
        let (at, stream) = self.dial().await?;
        Ok((at, stranger::knock(stream, self.root().pem(), "ponger", certificate).await?))
    }

    /// Changes the identity on disk by `change`, and waits until every process that runs has come
    /// to `result` about it once more.
    ///
    /// # Errors
    /// When one has not within three minutes: kubelet takes up to two.
    pub async fn changed<F>(
        &self,
        services: &[Service],
        result: &str,
        change: impl FnOnce() -> F,
    ) -> Result<()>
    where
        F: Future<Output = Result<()>>,
    {
        let mut before = BTreeMap::new();
        for service in services {
            before.insert(*service, self.refreshes(*service, result).await?);
        }
        change().await?;
        if let Self::Cluster(cluster) = self {
            cluster.nudge().await?;
        }
        for (service, before) in &before {
            until(
                &format!("every {service} says `{result}` of its new identity"),
                seconds(180),
                || async {
                    let now = self.refreshes(*service, result).await?;
                    let missing: Vec<_> = before
                        .iter()
                        .filter(|(name, count)| now.get(*name).is_some_and(|now| now <= count))
                        .map(|(name, _)| name.as_str())
                        .collect();
                    Ok(if missing.is_empty() { Ok(()) } else { Err(missing.join(", ")) })
                },
            )
            .await?;
        }
        Ok(())
    }

    async fn refreshes(&self, service: Service, result: &str) -> Result<BTreeMap<String, f64>> {
        let metrics = self.metrics(service).await?;
        let count =
            |samples: Samples| samples.sum("identity_refreshes_total", &[("result", result)]);
        Ok(metrics.into_iter().map(|(name, samples)| (name, count(samples))).collect())
    }

    /// Saves what may explain a failure in `folder`.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub async fn save(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        for service in Service::BOTH {
            for (name, lines) in self.journal(service) {
                std::fs::write(folder.join(format!("{name}.log")), lines.join("\n") + "\n")?;
            }
        }
        match self {
            Self::Local(_) => Ok(()),
            Self::Cluster(cluster) => cluster.save(folder).await,
        }
    }

    /// Ends everything that was started, and removes everything that was made.
    ///
    /// # Errors
    /// When something stays.
    pub async fn clear(&self) -> Result<()> {
        match self {
            Self::Local(local) => local.clear().await,
            Self::Cluster(cluster) => cluster.clear().await,
        }
    }
}

pub(crate) fn issue(root: &Root, service: Service, namespace: &str) -> Issued {
    root.get().issue(&service.leaf(namespace))
}

/// The root of the moment.
#[derive(Debug)]
pub struct Root(std::sync::Mutex<Arc<Ca>>);

impl Root {
    pub(crate) fn new() -> Self {
        Self(std::sync::Mutex::new(Arc::new(Ca::new("ping-pong e2e"))))
    }

    pub(crate) fn get(&self) -> Arc<Ca> {
        Arc::clone(&self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    fn set(&self, root: Arc<Ca>) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = root;
    }
}
