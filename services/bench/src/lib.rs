//! Measures ponger and pinger beside their peers, all in one interleaved run.
//!
//! - [`mod@line`]: what is measured, a table; [`select`](line::select) chooses from it
//! - [`run`]: the rounds, interleaved, with progress
//! - [`measure`]: one file for each kind of measurement
//! - [`load`]: the load generator, on connections of [`client`]
//! - [`server`]: a server as a process group, with its CPU time, memory and wake-ups
//! - [`peer`]: the servers that are compared, and how each is started
//! - [`credentials`]: certificates for one server and its clients
//! - [`programs`]: builds the services and the peers
//! - [`machine`]: processors, limits and versions
//! - [`stats`], [`report`], [`chart`]: medians with their range, as Markdown and as SVG
//! - [`flame`]: where ponger's CPU time goes, as SVG
//! - [`gate`]: fails when what is stable gets worse
//! - [`environment`]: the variables that tell a peer its port and its certificates
//!
//! A module uses only those below it in this order: `gate`, `flame` and `run`, `report`, `chart`, `line`,
//! `measure`, `load`, `server`, `client`, `peer`, `credentials`, and the others.

pub mod chart;
pub mod client;
pub mod credentials;
pub mod environment;
pub mod flame;
pub mod gate;
pub mod line;
pub mod load;
pub mod machine;
pub mod measure;
pub mod peer;
pub mod programs;
pub mod report;
pub mod run;
pub mod server;
pub mod stats;
