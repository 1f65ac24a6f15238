//! Verifies periodically that ponger rejects untrusted clients.
//!
//! pinger pings with credentials that must be rejected: without a certificate, and with its own
//! certificate, one bit of whose signature is flipped. The second proves that ponger verifies
//! signatures, and needs no CA code, no fixed key and no second identity in pinger.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use chassis::{
    failure::FailureReason,
    metrics::Metrics,
    readiness::Readiness,
    tls::{REJECTION_PROBE_ALPN, client::ClientTls, identity::Identity},
};
use futures_util::future::join_all;
use prometheus::IntCounterVec;
use rustls::{ClientConfig, pki_types::CertificateDer, sign::CertifiedKey};
use tokio::{task::JoinHandle, time::sleep};
use tracing::field::display;

use crate::{
    client::Outcome,
    client_factory::PingClientFactory,
    config::{ProbeCredential, RejectionProbe},
    endpoints::Endpoints,
    expect::REJECTIONS,
};

/// How many inconclusive probes in a row are an error.
const MAX_INCONCLUSIVE: u32 = 10;

/// The reason for which pinger is not ready after a failed probe.
const NOT_READY: &str = "ponger accepted an untrusted client";

/// A configuration that verifies ponger as always, and presents `credential`; `None` where it cannot
/// be made, since pinger has no certificate of its own. It tells ponger that it is a probe, so that this
/// is no alarm there; a server that accepts the credential does not read that.
fn client_config(
    credential: ProbeCredential,
    identity: &Identity<ClientTls>,
) -> Option<ClientConfig> {
    let certified = match credential {
        ProbeCredential::NoCertificate => None,
        ProbeCredential::InvalidSignature => {
            Some(Arc::new(with_invalid_signature(&identity.own.as_ref()?.certified)?))
        }
    };
    let mut config = identity.tls.config_with_client_cert(certified);
    config.alpn_protocols.push(REJECTION_PROBE_ALPN.to_vec());
    Some(config)
}

/// `certified` with the last bit of the leaf's signature flipped: the signature is the last field of
/// a certificate (RFC 5280, 4.1).
fn with_invalid_signature(certified: &CertifiedKey) -> Option<CertifiedKey> {
    let mut chain = certified.cert.clone();
    let mut leaf = chain.first()?.to_vec();
    *leaf.last_mut()? ^= 1;
    chain[0] = CertificateDer::from(leaf);
    Some(CertifiedKey::new(chain, Arc::clone(&certified.key)))
}

/// What a probe has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeResult {
    /// ponger rejected the credential, as it must.
    Rejected,
    /// ponger accepted it.
    Accepted,
    /// Neither is proved.
    Inconclusive,
}

impl ProbeResult {
    /// The result that a probe's outcome proves.
    ///
    /// A rejection counts only if it came from ponger: after a handshake in which its certificate was
    /// verified. An alert or a reset before that may come from anyone. And it must be about the
    /// certificate.
    pub fn from_outcome(outcome: &Outcome) -> Self {
        let handshake_done =
            outcome.trace.info.as_ref().is_some_and(|info| info.handshake.is_some());
        let response = outcome.trace.response.as_ref();
        let is_rejection = response.is_some_and(|response| REJECTIONS.contains(&response.status));
        match outcome.result.as_ref().map_err(|failure| failure.reason) {
            _ if !handshake_done => Self::Inconclusive,
            Err(FailureReason::Denied | FailureReason::Status) if is_rejection => Self::Rejected,
            // Any other response comes from behind the authorization.
            Ok(()) | Err(FailureReason::Status | FailureReason::Header | FailureReason::Body) => {
                Self::Accepted
            }
            Err(_) if outcome.trace.certificate_rejected => Self::Rejected,
            Err(_) => Self::Inconclusive,
        }
    }

    /// The name in logs and labels.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Accepted => "accepted",
            Self::Inconclusive => "inconclusive",
        }
    }
}

/// A probe.
#[derive(Clone, Debug)]
pub struct LastProbe {
    /// The credential.
    pub credential: ProbeCredential,
    /// What it has shown.
    pub result: ProbeResult,
    /// The address that it was connected to.
    pub endpoint: Option<SocketAddr>,
    /// When it ended.
    pub ended: SystemTime,
    /// Why the ping failed, which it must.
    pub cause: Option<String>,
}

impl LastProbe {
    fn new(credential: ProbeCredential, result: ProbeResult, outcome: &Outcome) -> Self {
        Self {
            credential,
            result,
            endpoint: outcome.trace.info.as_ref().and_then(|info| info.address),
            ended: SystemTime::now(),
            cause: outcome.result.as_ref().err().map(|failure| failure.cause.clone()),
        }
    }
}

/// The results of probes: counted, and the last ones with each credential kept.
#[derive(Clone, Debug)]
pub struct ProbeResults {
    counts: IntCounterVec,
    last: Arc<Mutex<Vec<LastProbe>>>,
}

impl ProbeResults {
    /// Registers the metric.
    pub fn new(metrics: &Metrics) -> Self {
        let counts = metrics.int_counter_vec(
            "pinger_rejection_probes_total",
            "Pings with a credential that ponger must reject, by credential and result.",
            &["credential", "result"],
        );
        for credential in ProbeCredential::ALL {
            for result in [ProbeResult::Rejected, ProbeResult::Accepted, ProbeResult::Inconclusive]
            {
                counts.with_label_values(&[credential.label(), result.label()]);
            }
        }
        Self { counts, last: Arc::default() }
    }

    /// The last probes with each credential, one for each endpoint.
    pub fn last(&self) -> Vec<LastProbe> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn record(&self, credential: ProbeCredential, probes: Vec<LastProbe>) {
        for probe in &probes {
            self.counts.with_label_values(&[credential.label(), probe.result.label()]).inc();
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.retain(|probe| probe.credential != credential);
        last.extend(probes);
    }
}

/// Sends probes every `rejectionProbe.interval`, in a task. pinger is not ready if that ends.
pub fn spawn_rejection_probes(
    clients: PingClientFactory,
    endpoints: Endpoints,
    settings: RejectionProbe,
    recorder: ProbeResults,
    readiness: &Readiness,
) -> JoinHandle<()> {
    let probing = actix_rt::spawn(run(clients, endpoints, settings, recorder, readiness.clone()));
    let is_running = probing.abort_handle();
    readiness.add_check("the rejection probe has stopped", move || is_running.is_finished());
    probing
}

async fn run(
    clients: PingClientFactory,
    endpoints: Endpoints,
    settings: RejectionProbe,
    recorder: ProbeResults,
    readiness: Readiness,
) {
    let mut inconclusive = 0;
    loop {
        sleep(settings.interval.0).await;
        let mut results = Vec::new();
        for credential in &settings.credentials {
            let identity = clients.identity();
            let config = identity.and_then(|identity| client_config(*credential, &identity));
            let Some(config) = config else { continue };
            let probes = endpoints.current().into_iter().map(|endpoint| {
                let client = clients.for_endpoint(endpoint).client_with_config(config.clone());
                async move { client.ping().await }
            });
            let probes = join_all(probes).await.into_iter().map(|outcome| {
                let result = ProbeResult::from_outcome(&outcome);
                log(*credential, result, &outcome);
                results.push(result);
                LastProbe::new(*credential, result, &outcome)
            });
            recorder.record(*credential, probes.collect());
        }
        // An inconclusive probe changes nothing that was known; many of them are an alarm.
        if results.contains(&ProbeResult::Accepted) {
            readiness.set(NOT_READY, settings.not_ready);
        } else if !results.is_empty() && !results.contains(&ProbeResult::Inconclusive) {
            readiness.set(NOT_READY, false);
        }
        let is_inconclusive = results.contains(&ProbeResult::Inconclusive);
        inconclusive = if is_inconclusive { inconclusive + 1 } else { 0 };
        if inconclusive > 0 && inconclusive % MAX_INCONCLUSIVE == 0 {
            tracing::error!(
                probes = inconclusive,
                "Rejection probe inconclusive for long: nothing proves that ponger rejects untrusted clients"
            );
        }
    }
}

fn log(credential: ProbeCredential, result: ProbeResult, outcome: &Outcome) {
    let credential = credential.label();
    let failure = outcome.result.as_ref().err();
    let cause = failure.map(|failure| failure.cause.as_str());
    let endpoint = outcome.endpoint.map(|endpoint| display(endpoint.ip()));
    match result {
        ProbeResult::Accepted => tracing::error!(
            credential,
            endpoint,
            "Rejection probe failed: ponger accepted an untrusted client"
        ),
        ProbeResult::Inconclusive => tracing::warn!(
            credential,
            endpoint,
            reason = failure.map(|failure| failure.reason.label()),
            cause,
            "Rejection probe inconclusive"
        ),
        ProbeResult::Rejected => {
            tracing::debug!(credential, endpoint, cause, "Rejection probe passed");
        }
    }
}
