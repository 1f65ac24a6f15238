//! Both services as real processes, seen from outside.

mod support;

mod identity;
mod metrics;
mod original;
mod pressure;
mod rotation;
mod run;
mod serving;
mod stopping;
