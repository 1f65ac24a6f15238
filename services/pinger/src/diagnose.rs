//! `pinger diagnose`: one ping, explained for a person, with the code that pings.
//!
//! - [`args`]: the command line, and the configuration that it makes
//! - [`report`]: what was seen, as the fields of `--json`
//! - `seen`: makes it
//! - `hint`: what to do about a failure
//! - `text`: the report for a terminal

pub mod args;
mod hint;
pub mod report;
mod seen;
mod text;

use std::{io::Write as _, time::Duration};

use anyhow::Context as _;
use chassis::{
    error::ConfigError,
    metrics::Metrics,
    telemetry,
    tls::{
        clock::Clock,
        metrics::IdentityMetrics,
        observer::HandshakeObserver,
        reload::{IdentityWatch, ReloadHandle, spawn_reloader},
        trust::TrustSource,
        x509::Role,
    },
};

use self::{args::DiagnoseArgs, report::Report, seen::Seen};
use crate::{
    client::PingClient,
    config::{Config, Target},
    connector::{ConnectorTls, PingConnector},
};

/// What failures call the server, which need not be ponger.
const PEER: &str = "the server";

/// A ping to explain, with the certificates loaded and verified.
#[derive(Debug)]
pub struct Diagnosis {
    args: DiagnoseArgs,
    config: Config,
    target: Target,
    clock: Clock,
    identity: Option<(ReloadHandle, IdentityWatch<chassis::tls::client::ClientTls>)>,
}

impl Diagnosis {
    /// Reads the configuration, and loads what it names.
    ///
    /// # Errors
    /// When the configuration, a certificate or a key cannot be used.
    pub fn prepare(args: DiagnoseArgs) -> Result<Self, ConfigError> {
        let given = args.clone();
        Self::load(args).map_err(|error| given.name_flags(error))
    }

    fn load(args: DiagnoseArgs) -> Result<Self, ConfigError> {
        let config = args.config()?;
        let (target, clock) = (config.target()?, Clock::system());
        let identity = if config.insecure {
            None
        } else {
            let settings = config.identity.reload_settings(crate::NAME, &clock);
            let metrics = IdentityMetrics::new(&Metrics::new(crate::NAME, ""));
            let tls = config.tls_builder(&clock)?;
            let mut sources = config.sources()?;
            if sources.trust == TrustSource::Native {
                // Without a root, what the server presents can still be shown.
                sources.trust = TrustSource::NativeOrNone;
            }
            let loaded = spawn_reloader(settings, sources, Role::Client, metrics, tls);
            Some(loaded.map_err(|error| error.name_key(&config.files()))?)
        };
        Ok(Self { args, config, target, clock, identity })
    }

    /// Pings once, prints the report, and returns the exit code: 0, or 1 if the ping was lost.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub async fn run(self) -> anyhow::Result<u8> {
        let report = self.ping().await;
        let text = if self.args.json {
            serde_json::to_string_pretty(&report)? + "\n"
        } else {
            text::render(&report, telemetry::use_colors())
        };
        std::io::stdout().write_all(text.as_bytes()).context("standard output")?;
        Ok(u8::from(!report.good))
    }

    async fn ping(&self) -> Report {
        let observer = HandshakeObserver::default();
        let identity = self.identity.as_ref().map(|(_, identity)| identity);
        let tls = identity.map(|identity| ConnectorTls {
            config: Some(observer.client_config(&identity.current().tls).into()),
            identity: identity.clone(),
            clock: self.clock.clone(),
        });
        let (host, port) = match &self.args.connect_to {
            Some(to) => (to.host.clone(), to.port.unwrap_or(self.target.port)),
            None => (self.target.host.clone(), self.target.port),
        };
        let connect_timeout = self.config.connect_timeout.0;
        let connector = PingConnector::to_peer(PEER, host, port, tls, connect_timeout);
        let client =
            PingClient::with_connector(connector, &self.target, &self.config, Duration::ZERO);
        let outcome = client.ping().await;
        let identity = identity.map(IdentityWatch::current);
        let seen = Seen {
            args: &self.args,
            config: &self.config,
            target: &self.target,
            identity: identity.as_deref(),
            now: self.clock.now(),
            outcome: &outcome,
            handshake: &observer.observed(),
        };
        seen.report()
    }
}
