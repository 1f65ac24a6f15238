//! What a scenario needs of the environment that it runs in.

use std::{cell::RefCell, collections::BTreeMap, path::Path, rc::Rc};

use anyhow::Result;
use testkit::{Ca, Issued};

use crate::{
    metrics::{Labels, Samples},
    model::{OneShotPinger, RoguePonger, Service, Stream},
    tls_client::{self, ProbeOutcome},
    wait::{met, until},
};

/// A running pinger and ponger, and the means to observe and disturb them.
///
/// Every method that asks a service, or the API server, fails when it does not respond.
#[expect(async_fn_in_trait, reason = "scenarios run on one thread")]
pub trait Environment {
    /// The namespace in the SPIFFE IDs of the services.
    fn namespace(&self) -> &str;

    /// The CA that issues the certificates of the services.
    fn ca(&self) -> &RefCell<Rc<Ca>>;

    /// Reads the metrics of each running process of a service.
    async fn metrics(&self, service: Service) -> Result<BTreeMap<String, Samples>>;

    /// Reads the metrics of one process.
    async fn metrics_of(&self, name: &str) -> Result<Samples>;

    /// Connects to one ponger, and returns its name too.
    async fn connect(&self) -> Result<(String, Stream)>;

    /// Replaces the certificate and key of a service, both at once.
    async fn install_cert(&self, service: Service, issued: &Issued) -> Result<()>;

    /// Replaces the trust bundle of both services.
    async fn install_trust_bundle(&self, bundle: &str) -> Result<()>;

    /// Returns the log lines of each process of a service, terminated ones included.
    fn logs(&self, service: Service) -> BTreeMap<String, Vec<String>>;

    /// Runs an extra pinger until it exits, and returns the outcome of each of its pings.
    async fn run_pinger(&self, pinger: &OneShotPinger) -> Result<Vec<String>>;

    /// Starts an extra ponger and returns its URL.
    async fn start_ponger(&self, ponger: &RoguePonger) -> Result<String>;

    /// Stops an extra ponger.
    async fn stop(&self, ponger: &RoguePonger) -> Result<()>;

    /// Saves what helps to explain a failure in `dir`.
    async fn save_diagnostics(&self, dir: &Path) -> Result<()>;

    /// Stops every process and removes every object that was created.
    async fn clean_up(&self) -> Result<()>;

    /// Returns the current root CA.
    fn root(&self) -> Rc<Ca> {
        Rc::clone(&self.ca().borrow())
    }

    /// Issues a certificate for a service from the current root.
    fn issue(&self, service: Service) -> Issued {
        self.root().issue(&service.leaf(self.namespace()))
    }

    /// Requests `/ping` from one ponger with a client certificate, and returns its name too.
    async fn probe(&self, certificate: Option<&Issued>) -> Result<(String, ProbeOutcome)> {
        let (name, stream) = self.connect().await?;
        let roots = self.root();
        Ok((name, tls_client::probe(stream, roots.pem(), "ponger", certificate).await?))
    }

    /// Waits until the running pingers have received `count` more pongs.
    async fn wait_for_pongs(&self, count: u32) -> Result<()> {
        let pongs = async || {
            let metrics = self.metrics(Service::Pinger).await?;
            anyhow::Ok(metrics.values().map(Samples::pongs).sum::<f64>())
        };
        let before = pongs().await?;
        until(&format!("pinger receives {count} pongs"), 60, async || {
            let received = pongs().await? - before;
            met(received >= f64::from(count), received)
        })
        .await
    }

    /// Makes `change` to files of `services`, and waits until each of their processes has counted
    /// another `identity_refreshes_total` with the labels `refresh`, summed over all others.
    async fn rotate_and_wait(
        &self,
        services: &[Service],
        refresh: Labels<'_>,
        change: impl Future<Output = Result<()>>,
    ) -> Result<()> {
        let count = async |service| {
            let metrics = self.metrics(service).await?;
            let sum = |samples: Samples| samples.sum("identity_refreshes_total", refresh);
            let sums = metrics.into_iter().map(|(name, samples)| (name, sum(samples)));
            anyhow::Ok(sums.collect::<BTreeMap<_, _>>())
        };
        let mut before = BTreeMap::new();
        for service in services {
            before.insert(*service, count(*service).await?);
        }
        change.await?;
        for (service, before) in before {
            // kubelet takes up to two minutes.
            until(&format!("every {service} counts {refresh:?}"), 180, async || {
                let now = count(service).await?;
                let unchanged = |(name, before): &(&String, &f64)| {
                    now.get(*name).is_some_and(|now| now <= *before)
                };
                let missing: Vec<_> =
                    before.iter().filter(unchanged).map(|(name, _)| name.as_str()).collect();
                met(missing.is_empty(), missing.join(", "))
            })
            .await?;
        }
        Ok(())
    }
}
