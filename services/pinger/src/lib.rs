//! pinger sends `GET /ping` after a random pause, for ever, and says which part of the way broke.
//!
//! - [`config`]: its keys, and which of them exclude each other
//! - [`application`]: bind, reveal the port, run until asked to stop
//! - [`wire`]: the way to ponger: resolve, connect, TLS; each timed, each failure judged
//! - [`ping`]: one ping: request, response, judgement
//! - [`record`]: what becomes of each ping: log, metrics, summary
//! - [`stranger`]: proves again and again that strangers are refused

pub mod startup;
pub mod config;
pub mod client;
pub mod record;
pub mod rejection_probe;
pub mod connector;

pub use self::{startup::Application, config::Config};

/// The service's name, in logs, metrics and environment variables.
pub const NAME: &str = "pinger";
