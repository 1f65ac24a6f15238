//! pinger as it behaves: in this process, against ponger or against servers that follow a script. Only
//! [`process`] starts the program.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

mod alerts;
mod expect;
mod faults;
mod identity;
mod keep_alive;
mod metrics;
mod process;
mod reasons;
mod rejection_probe;
mod rotation;
mod scrapes;
mod slow;
mod stopping;
