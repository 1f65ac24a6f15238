//! The list of scenarios, and the environments that each of them supports.

use std::{fmt, pin::Pin};

use anyhow::Result;

use crate::{cluster::Cluster, local::LocalProcesses, scenarios as s};

/// A running scenario: returns what was measured, or why it failed.
pub type Run<'e> = Pin<Box<dyn Future<Output = Result<String>> + 'e>>;

/// Starts a scenario in an environment.
pub type Start<E> = for<'e> fn(&'e E) -> Run<'e>;

/// A scenario: a sentence, and how to prove it.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Its number, which never changes.
    pub number: u8,
    /// What it proves.
    pub sentence: &'static str,
    /// Runs it on this machine, if it needs no cluster.
    pub local: Option<Start<LocalProcesses>>,
    /// Runs it in a cluster.
    pub cluster: Start<Cluster>,
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = if self.local.is_some() { "" } else { " [cluster]" };
        write!(f, "{}. {}{suffix}", self.number, self.sentence)
    }
}

macro_rules! scenario {
    ($number:literal, $sentence:literal, cluster: $cluster:path) => {
        Scenario {
            number: $number,
            sentence: $sentence,
            local: None,
            cluster: |env| Box::pin($cluster(env)),
        }
    };
    ($number:literal, $sentence:literal, local: $local:path, cluster: $cluster:path) => {
        Scenario {
            local: Some(|env| Box::pin($local(env))),
            ..scenario!($number, $sentence, cluster: $cluster)
        }
    };
    ($number:literal, $sentence:literal, any: $any:path) => {
        scenario!($number, $sentence, local: $any, cluster: $any)
    };
}

/// All scenarios in order.
pub const ALL: &[Scenario] = &[
    scenario!(1, "pinger receives pongs, and both services log the original project's lines",
        local: s::ping::local, cluster: s::ping::cluster),
    scenario!(2, "every pod is restricted: non-root, read-only and without a token; a privileged pod is rejected",
        cluster: s::pod_security::restricted),
    scenario!(3, "ponger rejects untrusted clients, and counts each rejection by its reason",
        any: s::authz::untrusted_clients),
    scenario!(4, "pinger rejects a ponger with a wrong name, a wrong ID or an untrusted root",
        any: s::authz::rogue_pongers),
    scenario!(5, "NetworkPolicies block all but the intended traffic; without them the blocked clients connect",
        cluster: s::network::policies),
    scenario!(6, "certificates are replaced at run time, and no ping is lost",
        any: s::rotation::certificates),
    scenario!(7, "the root is replaced with overlap, no ping is lost, and certificates of the old root are rejected",
        any: s::rotation::root),
    scenario!(8, "a certificate with a mismatched key is rejected and counted, no ping is lost, and the repaired one is loaded",
        any: s::rotation::mismatched_key),
    scenario!(9, "a rolling update of ponger and pinger loses no ping",
        cluster: s::disruption::rolling_update),
    scenario!(10, "killing a ponger loses only the pings that were sent to it",
        cluster: s::disruption::kill),
    scenario!(11, "draining a node loses no ping and respects the disruption budget",
        cluster: s::disruption::drain),
    scenario!(12, "a node stops and returns: every lost ping has a reason, and all pods are ready again",
        cluster: s::disruption::node_stop),
    scenario!(13, "the original project's configuration and self-signed certificate work unchanged",
        cluster: s::original::unchanged),
    scenario!(14, "a client that trusts the root, as a browser does, receives a pong through a forwarded port",
        cluster: s::port_forward::browser),
    scenario!(15, "the rejection probe fails when ponger is replaced by one that accepts any client",
        local: s::rejection_probe::local, cluster: s::rejection_probe::cluster),
    scenario!(16, "production: cert-manager renews both certificates, and a new root replaces the old one; no ping is lost",
        cluster: s::cert_manager::renewal_and_new_root),
    scenario!(17, "an upgrade and a rollback by Helm lose no ping, and two releases run in one cluster",
        cluster: s::chart::upgrade_and_rollback),
    scenario!(18, "through a Gateway, clients receive a pong; the edge verifies ponger, and ponger allows no ID but the edge's",
        cluster: s::edge::gateway),
    scenario!(19, "through an Ingress, clients receive a pong; the edge verifies ponger, and ponger allows no ID but the edge's",
        cluster: s::edge::ingress),
    scenario!(20, "ACME issues the edge's certificate, and clients that trust it receive a pong",
        cluster: s::edge::acme),
    scenario!(21, "every node pings every pod of ponger by itself, with components/every-node",
        cluster: s::every_node::matrix),
    scenario!(22, "`pinger diagnose` in a pod explains a good ping, a ponger with another ID, and one whose root is not given",
        cluster: s::diagnose::in_pod),
    scenario!(23, "production with Vault: it signs and renews both certificates, no ping is lost, and another name is refused",
        cluster: s::vault::issuer),
];

#[cfg(test)]
mod tests {
    use super::ALL;

    #[test]
    fn numbers_are_consecutive() {
        assert!(ALL.iter().map(|scenario| scenario.number).eq(1..=23));
    }
}
