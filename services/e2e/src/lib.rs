//! The acceptance scenarios: each promise of the README, proven by running it.
//!
//! - [`scenario`]: the list of scenarios, and the environments that each of them supports
//! - [`environment`]: what a scenario needs of the environment that it runs in:
//!   [`local`], processes on this machine, or [`cluster`], pods in a namespace
//! - [`model`]: the services, and the extra ones that a scenario starts beside them
//! - [`ping_window`]: all pings between two moments, by pinger's metrics and by its log
//! - [`tls_client`]: a TLS client that presents any certificate, to probe ponger with
//! - [`report`]: results as text and as JUnit XML
//!
//! The scenarios themselves are in `scenarios`, one file for each subject. A module uses only those
//! below it: `scenario`, `scenarios`, `ping_window`, `local` and `cluster`, `environment`,
//! `tls_client`, `model`, and at the bottom `ping_log`, `metrics`, `http`, `wait` and `report`.

pub mod cluster;
pub mod environment;
pub mod http;
pub mod local;
pub mod metrics;
pub mod model;
pub mod ping_log;
pub mod ping_window;
pub mod report;
pub mod scenario;
mod scenarios;
pub mod tls_client;
pub mod wait;
