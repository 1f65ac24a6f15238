//! Both services as real processes, seen from outside.

mod support;

mod identity;
mod metrics;
mod original;
mod rotation;
mod run;
mod stopping;
