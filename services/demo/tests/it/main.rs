//! Both services as real processes, seen from outside.

mod support;

mod identity;
mod metrics;
mod original;
mod pressure;
mod rotation;
mod serving;
mod stopping;
