//! pinger as it behaves: in this process, against ponger or against servers that follow a script. Only
//! [`process`] and [`diagnose`] start the program.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

mod alerts;
mod collector;
mod colors;
mod diagnose;
// Linux alone has all of 127.0.0.0/8 on its loopback interface.
#[cfg(target_os = "linux")]
mod endpoints;
mod expect;
mod faults;
mod identity;
mod keep_alive;
mod metrics;
mod page;
mod process;
mod reasons;
mod rejection_probe;
mod rotation;
mod scrapes;
mod slow;
mod stopping;
mod traces;
