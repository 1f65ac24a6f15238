//! ponger answers `GET /ping` with `pong`, to authorized clients.
//!
//! - [`config`]: configuration keys, and which of them conflict
//! - [`startup`]: bind, reveal the ports, run, drain
//! - [`server`]: accepts connections: connection limit, TLS handshake
//! - [`handshake`]: the TLS handshake, and what a client may send in it
//! - [`rejection_probe`]: recognizes pinger's rejection probe
//! - [`connection`]: an open connection: its peer, its deadlines, and when it closes
//! - [`limits`]: how long a client may take, and how many may be connected
//! - [`log_limits`]: how many log lines clients can cause
//! - [`policy`]: which peers are authorized
//! - [`authz`]: authorizes requests
//! - [`routes`]: the responses
//! - [`access_log`]: the log line of a request
//! - [`request_span`]: the span of a request, which is exported
//! - [`faults`]: faults on demand

pub mod access_log;
pub mod authz;
pub mod config;
pub mod connection;
pub mod faults;
pub mod handshake;
pub mod limits;
pub mod log_limits;
pub mod policy;
pub mod rejection_probe;
pub mod request_span;
pub mod routes;
pub mod server;
pub mod startup;

pub use self::{config::Config, startup::Application};

/// The service's name, in logs, metrics and environment variables.
pub const NAME: &str = "ponger";
