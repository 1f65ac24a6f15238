//! The scenarios, a file for each concern. Each says what it measured, or why it does not hold.

pub(crate) mod canary;
pub(crate) mod disruption;
pub(crate) mod doors;
pub(crate) mod network;
pub(crate) mod original;
pub(crate) mod outside;
pub(crate) mod pair;
pub(crate) mod pods;
pub(crate) mod rotation;
