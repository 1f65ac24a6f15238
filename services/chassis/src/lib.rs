//! What every service stands on (a "microservice chassis").
//!
//! - [`cli`], [`config`]: the command line and the configuration
//! - [`error`]: errors that a person must fix, and exit code 78
//! - [`tls`]: certificates, from files on disk to the handshake
//! - [`failure`]: the closed list of failure reasons
//! - [`admin`], [`metrics`], [`readiness`]: metrics and probes, on a listener of their own
//! - [`telemetry`], [`log_limiter`]: logs, and how often a line is written
//! - [`traces`]: spans, exported to an OpenTelemetry collector
//! - [`process`], [`signals`], [`bind`](mod@bind), [`files`]: process, signals, sockets and files

pub mod admin;
pub mod bind;
pub mod cli;
pub mod config;
pub mod error;
pub mod failure;
pub mod files;
pub mod log_limiter;
pub mod metrics;
pub mod process;
pub mod readiness;
pub mod signals;
pub mod telemetry;
pub mod tls;
pub mod traces;
