//! ponger in this process, seen by its clients; as a process of its own where a signal, an exit code,
//! a descriptor limit or a log line is the matter.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod authorization;
mod faults;
mod limits;
mod log;
mod metrics;
mod process;
mod rejection_probe;
mod reload;
mod requests;
mod startup;
mod stopping;
mod support;
mod workers;
