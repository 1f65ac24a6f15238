//! Certificates, keys and roots are replaced at run time.

use std::rc::Rc;

use anyhow::{Result, ensure};
use testkit::{Ca, Issued};

use crate::{
    environment::Environment,
    metrics::Labels,
    model::Service,
    ping_window::PingWindow,
    tls_client::{PersistentConnection, ProbeOutcome, TlsClient},
};

pub(super) const CERTIFICATE_LOADED: Labels<'_> = &[("unit", "certificate"), ("result", "ok")];
const CERTIFICATE_REJECTED: Labels<'_> = &[("unit", "certificate"), ("result", "rejected")];
pub(super) const TRUST_BUNDLE_LOADED: Labels<'_> = &[("unit", "trust_bundle"), ("result", "ok")];

pub(crate) async fn certificates(env: &impl Environment) -> Result<String> {
    let window = PingWindow::open(env).await?;
    renew(env).await?;
    env.wait_for_pongs(10).await?;
    Ok(window.close(env).await?.ensure_none_lost()?.to_string())
}

pub(crate) async fn root(env: &impl Environment) -> Result<String> {
    let window = PingWindow::open(env).await?;
    let (old, new) = (env.root(), Rc::new(Ca::new("ping-pong e2e, next")));
    let both = format!("{}{}", old.pem(), new.pem());
    let client = TlsClient::new(&both, Some(&env.issue(Service::Pinger)));

    install_trust_bundle(env, &both).await?;
    env.ca().replace(Rc::clone(&new));
    renew(env).await?;
    let client = AcceptedClient::connect(env, client).await?;
    install_trust_bundle(env, new.pem()).await?;
    client.ensure_rejected(env).await?;
    env.wait_for_pongs(10).await?;
    let stats = window.close(env).await?;
    Ok(format!(
        "{}; a client of the old root is rejected, on an open connection and with a known session too",
        stats.ensure_none_lost()?
    ))
}

/// A client whose root is still trusted.
pub(super) struct AcceptedClient {
    client: TlsClient,
    ponger: String,
    connection: PersistentConnection,
}

impl AcceptedClient {
    /// Ensures that a client is accepted: with a new connection, whose session it would resume later,
    /// and with a connection that stays open.
    pub(super) async fn connect(env: &impl Environment, client: TlsClient) -> Result<Self> {
        let (ponger, stream) = env.connect().await?;
        let outcome = client.probe(stream, "ponger").await?;
        ensure!(outcome.is_pong(), "{ponger} rejected a client of a trusted root: {outcome:?}");
        let mut connection = client.connect(env.connect().await?.1, "ponger").await?;
        ensure!(
            !connection.is_resumed(),
            "{ponger} resumes sessions, without verifying certificates"
        );
        ensure!(
            connection.receives_pong().await,
            "{ponger} does not respond on an open connection"
        );
        Ok(Self { client, ponger, connection })
    }

    /// Ensures that the same ponger rejects it, now that its root was removed.
    pub(super) async fn ensure_rejected(mut self, env: &impl Environment) -> Result<()> {
        let open = self.connection.receives_pong().await;
        ensure!(!open, "a connection of the removed root stays open");
        let (ponger, stream) = env.connect().await?;
        ensure!(ponger == self.ponger, "{} was replaced by {ponger}", self.ponger);
        let outcome = self.client.probe(stream, "ponger").await?;
        ensure!(
            matches!(outcome, ProbeOutcome::Rejected(_)),
            "a client of the removed root was accepted: {outcome:?}"
        );
        Ok(())
    }
}

pub(crate) async fn mismatched_key(env: &impl Environment) -> Result<String> {
    let window = PingWindow::open(env).await?;
    let mut repaired = Vec::new();
    for service in Service::BOTH {
        let (good, other) = (env.issue(service), env.issue(service));
        let mismatched = Issued { chain: good.chain.clone(), key: other.key };
        let install = env.install_cert(service, &mismatched);
        env.rotate_and_wait(&[service], CERTIFICATE_REJECTED, install).await?;
        repaired.push((service, good));
    }
    env.wait_for_pongs(10).await?;
    for (service, good) in &repaired {
        let install = env.install_cert(*service, good);
        env.rotate_and_wait(&[*service], CERTIFICATE_LOADED, install).await?;
    }
    env.wait_for_pongs(10).await?;
    let stats = window.close(env).await?;
    Ok(format!("{}; rejected by both, then repaired in both", stats.ensure_none_lost()?))
}

/// Installs new certificates of the current root for both services.
async fn renew(env: &impl Environment) -> Result<()> {
    let install = async {
        for service in Service::BOTH {
            env.install_cert(service, &env.issue(service)).await?;
        }
        Ok(())
    };
    env.rotate_and_wait(&Service::BOTH, CERTIFICATE_LOADED, install).await
}

async fn install_trust_bundle(env: &impl Environment, bundle: &str) -> Result<()> {
    let install = env.install_trust_bundle(bundle);
    env.rotate_and_wait(&Service::BOTH, TRUST_BUNDLE_LOADED, install).await
}
