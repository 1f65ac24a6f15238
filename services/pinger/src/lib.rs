//! pinger repeatedly sends `GET /ping` after a random pause, and reports which phase failed.
//!
//! - [`config`]: configuration keys, and which of them conflict
//! - [`startup`]: bind, reveal the port, run until asked to stop
//! - [`phase`]: the phases of a ping, and what is recorded of one
//! - [`connector`]: connects to ponger: resolve, connect, TLS; each phase timed
//! - [`resolver`]: addresses of a name
//! - `first_bytes`: keeps what a server sent first, which may not be TLS
//! - `response_head`: the head of a response, before awc reads it
//! - `tcp_info`: what Linux knows about a TCP connection
//! - [`expect`]: the response that counts as a pong
//! - [`client`]: one ping: request, response, and its outcome
//! - [`client_factory`]: clients that use the current identity
//! - [`endpoints`]: the addresses that are pinged, one or all behind the name
//! - `schedule`: pings each endpoint after random pauses
//! - `endpoint_metrics`: metrics by endpoint
//! - [`record`]: log and metrics of pings
//! - [`summary`]: how many were answered and lost, and how long they took
//! - [`history`]: the latest pings and failures, in memory of fixed size
//! - [`ping_span`]: the spans of a ping
//! - [`rejection_probe`]: verifies that ponger rejects untrusted clients
//! - [`page`]: the live page
//! - [`diagnose`]: `pinger diagnose`, one ping explained

pub mod client;
pub mod client_factory;
pub mod config;
pub mod connector;
pub mod diagnose;
mod endpoint_metrics;
pub mod endpoints;
pub mod expect;
mod first_bytes;
pub mod history;
pub mod page;
pub mod phase;
pub mod ping_span;
pub mod record;
pub mod rejection_probe;
pub mod resolver;
mod response_head;
mod schedule;
pub mod startup;
pub mod summary;
mod tcp_info;

pub use self::{config::Config, startup::Application};

/// The service's name, in logs, metrics and environment variables.
pub const NAME: &str = "pinger";
