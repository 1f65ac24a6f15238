//! ponger answers `GET /ping` with `pong`, to those who may ask.
//!
//! - [`config`]: its keys, and which of them exclude each other
//! - [`application`]: bind, reveal the ports, run, drain
//! - [`door`]: who is let in, at each request
//! - [`routes`]: what is answered, and the line in the log

pub mod application;
pub mod config;
pub mod door;
pub mod routes;

pub use self::{application::Application, config::Config};

/// The service's name, in logs, metrics and environment variables.
pub const NAME: &str = "ponger";
