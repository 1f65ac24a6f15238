//! Creates clients of ponger, and reports when one must be replaced.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use chassis::{
    error::ConfigError,
    tls::{client::ClientTls, clock::Clock, identity::Identity, reload::IdentityWatch},
};
use rustls::ClientConfig;

use crate::{
    client::PingClient,
    config::{Config, Target},
    connector::ConnectorTls,
};

/// Creates clients of ponger that use the current identity.
#[derive(Clone, Debug)]
pub struct PingClientFactory {
    config: Arc<Config>,
    target: Target,
    identity: Option<IdentityWatch<ClientTls>>,
    clock: Clock,
}

impl PingClientFactory {
    /// Creates a factory of clients of the ponger that `config` names.
    ///
    /// # Errors
    /// When its URL cannot be used.
    pub fn new(
        config: Config,
        identity: Option<IdentityWatch<ClientTls>>,
        clock: Clock,
    ) -> Result<Self, ConfigError> {
        let target = config.target()?;
        Ok(Self { config: Arc::new(config), target, identity, clock })
    }

    /// A factory of clients that connect to `endpoint` alone, if there is one.
    pub fn for_endpoint(&self, endpoint: Option<SocketAddr>) -> Self {
        let mut factory = self.clone();
        factory.target.endpoint = endpoint;
        factory
    }

    /// Creates a client that presents our own certificate. Each connection uses the current one.
    pub fn client(&mut self) -> PingClient {
        if let Some(identity) = &mut self.identity {
            identity.borrow_and_update();
        }
        self.build(None, self.config.ponger.keep_alive.0)
    }

    /// Creates a client with another TLS configuration than the identity's own, which keeps no
    /// connection.
    pub fn client_with_config(&self, config: ClientConfig) -> PingClient {
        self.build(Some(Arc::new(config)), Duration::ZERO)
    }

    /// The current identity; `None` where TLS is disabled.
    pub fn identity(&self) -> Option<Arc<Identity<ClientTls>>> {
        self.identity.as_ref().map(IdentityWatch::current)
    }

    fn build(&self, config: Option<Arc<ClientConfig>>, keep_alive: Duration) -> PingClient {
        let tls = self.identity.clone().map(|identity| ConnectorTls {
            config,
            identity,
            clock: self.clock.clone(),
        });
        PingClient::new(&self.target, tls, &self.config, keep_alive)
    }

    /// Waits until the connection that `client` keeps may no longer be used: another identity was
    /// loaded, or a certificate expires within the time that a ping may take.
    pub async fn until_stale(&mut self, client: &PingClient) {
        let Some(identity) = &mut self.identity else {
            return std::future::pending().await;
        };
        let credentials = client.credentials();
        let ping_time = self.config.timeout.0 + Duration::from_secs(1);
        tokio::select! {
            () = identity.changed() => {}
            () = async {
                match &credentials {
                    Some(credentials) => credentials.until_revoked_within(ping_time).await,
                    None => std::future::pending().await,
                }
            } => {}
        }
    }
}
