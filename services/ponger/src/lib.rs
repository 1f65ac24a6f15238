//! ponger answers `GET /ping` with `pong`, to those who may ask.
//!
//! - [`config`]: its keys, and which of them exclude each other
//! - [`application`]: bind, reveal the ports, run, drain
//! - [`door`]: who is let in, at each request
//! - [`routes`]: what is answered, and the line in the log

pub mod startup;
pub mod config;
pub mod authz;
pub mod routes;

pub use self::{startup::Application, config::Config};

/// The service's name, in logs, metrics and environment variables.
pub const NAME: &str = "ponger";
