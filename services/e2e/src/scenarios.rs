//! The scenarios, one file for each subject. Each returns what it measured, or why it failed.

pub(crate) mod authz;
pub(crate) mod cert_manager;
pub(crate) mod chart;
pub(crate) mod diagnose;
pub(crate) mod disruption;
pub(crate) mod edge;
pub(crate) mod every_node;
pub(crate) mod network;
pub(crate) mod original;
pub(crate) mod ping;
pub(crate) mod pod_security;
pub(crate) mod port_forward;
pub(crate) mod rejection_probe;
pub(crate) mod rotation;
pub(crate) mod vault;
