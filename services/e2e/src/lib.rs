//! The acceptance scenarios: what the README promises, as sentences that are run.
//!
//! - [`scenario`]: the list of sentences, and in which place each of them can be proven
//! - [`place`]: where they run: [`local`], processes on this machine, or [`cluster`]
//! - [`window`]: every ping from one moment to another, by pinger's metrics and by sequence
//! - [`stranger`]: a TLS client that knows no more than it is given
//! - [`report`]: what is printed, and JUnit XML
//!
//! `scenarios` holds the scenarios themselves, a file for each concern.

pub mod cluster;
pub mod local;
pub mod metrics;
pub mod place;
pub mod report;
pub mod scenario;
mod scenarios;
pub mod stranger;
pub mod wait;
pub mod window;
