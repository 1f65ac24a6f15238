//! What every service of ping-pong stands on. Two consumers do not justify more than one library;
//! the modules are its rooms:
//!
//! - [`cli`], [`config`]: what a person says, and what is wrong with it
//! - [`tls`]: the way of a certificate, from files on disk to the handshake
//! - [`listener`]: the way of a connection into a service
//! - [`admin`], [`metrics`], [`health`]: what an operator sees, on a listener of its own
//! - [`telemetry`], [`throttle`]: logs, and keeping them short
//! - [`reason`]: the closed list of failures
//! - [`error`]: what a person must mend, and exit code 78
//! - [`shutdown`], [`bind`](mod@bind), [`files`]: signals, sockets and files

pub mod admin;
pub mod bind;
pub mod cli;
pub mod config;
pub mod files;
pub mod readiness;
pub mod listener;
pub mod metrics;
pub mod failure;
pub mod signals;
pub mod telemetry;
pub mod log_limiter;
pub mod tls;
pub mod error;
