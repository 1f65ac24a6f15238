//! The list of scenarios: each a sentence, and how it is proven in each place where it can be.

use std::pin::Pin;

use anyhow::Result;

use crate::{cluster::Cluster, local::Local, place::Place, scenarios as s};

/// A scenario's run: what was measured, or why it does not hold.
pub type Run<'p> = Pin<Box<dyn Future<Output = Result<String>> + 'p>>;

/// How a scenario is proven.
#[derive(Clone, Copy)]
pub enum Proof {
    /// In the same way in both places.
    Anywhere(for<'p> fn(&'p Place) -> Run<'p>),
    /// In a way of its own in each place where it can be.
    Apart {
        /// On this machine.
        local: Option<for<'p> fn(&'p Place, &'p Local) -> Run<'p>>,
        /// In a cluster.
        cluster: for<'p> fn(&'p Place, &'p Cluster) -> Run<'p>,
    },
}

/// A sentence and its proof.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Its number, which stays.
    pub number: u8,
    /// What is true.
    pub sentence: &'static str,
    proof: Proof,
}

impl std::fmt::Debug for Scenario {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}. {}", self.number, self.sentence)
    }
}

impl Scenario {
    /// Whether it can be proven on this machine.
    pub fn is_local(&self) -> bool {
        matches!(self.proof, Proof::Anywhere(_) | Proof::Apart { local: Some(_), .. })
    }

    /// Runs it; `None` where it cannot be proven.
    pub fn run<'p>(&self, place: &'p Place) -> Option<Run<'p>> {
        match (&self.proof, place) {
            (Proof::Anywhere(run), _) => Some(run(place)),
            (Proof::Apart { local, .. }, Place::Local(here)) => local.map(|run| run(place, here)),
            (Proof::Apart { cluster, .. }, Place::Cluster(there)) => Some(cluster(place, there)),
        }
    }
}

macro_rules! anywhere {
    ($run:path) => {
        Proof::Anywhere(|place| Box::pin($run(place)))
    };
}
macro_rules! cluster {
    ($run:path) => {
        Proof::Apart { local: None, cluster: |place, at| Box::pin($run(place, at)) }
    };
}
macro_rules! apart {
    ($local:path, $cluster:path) => {
        Proof::Apart {
            local: Some(|place, at| Box::pin($local(place, at))),
            cluster: |place, at| Box::pin($cluster(place, at)),
        }
    };
}

/// All of them, in their order.
pub const ALL: &[Scenario] = &[
    Scenario {
        number: 1,
        sentence: "pinger gets pongs, and both log the original's lines",
        proof: apart!(s::pair::local, s::pair::cluster),
    },
    Scenario {
        number: 2,
        sentence: "every pod is restricted, non-root, read-only and without a token, and a privileged one is refused",
        proof: cluster!(s::pods::restricted),
    },
    Scenario {
        number: 3,
        sentence: "a stranger is refused, each for its own reason, and ponger counts it",
        proof: anywhere!(s::doors::strangers),
    },
    Scenario {
        number: 4,
        sentence: "pinger refuses a ponger with the right root and the wrong name",
        proof: anywhere!(s::doors::impostors),
    },
    Scenario {
        number: 5,
        sentence: "the NetworkPolicies stop everyone but the pair, and without them the same stranger gets in",
        proof: cluster!(s::network::policies),
    },
    Scenario {
        number: 6,
        sentence: "certificates are replaced while they run, and no ping is lost",
        proof: anywhere!(s::rotation::leaves),
    },
    Scenario {
        number: 7,
        sentence: "the root is replaced with overlap, no ping is lost, and the old root's holders are refused",
        proof: anywhere!(s::rotation::root),
    },
    Scenario {
        number: 8,
        sentence: "a certificate with another one's key harms nobody and is counted, and its repair is taken",
        proof: anywhere!(s::rotation::broken),
    },
    Scenario {
        number: 9,
        sentence: "ponger and pinger are rolled out, and no ping is lost",
        proof: cluster!(s::disruption::roll_out),
    },
    Scenario {
        number: 10,
        sentence: "a ponger that is killed takes with it only the pings that were on their way to it",
        proof: cluster!(s::disruption::kill),
    },
    Scenario {
        number: 11,
        sentence: "a node is drained, no ping is lost, and the disruption budget is kept",
        proof: cluster!(s::disruption::drain),
    },
    Scenario {
        number: 12,
        sentence: "a node stops and comes back: every lost ping has its reason, and the pair is whole again",
        proof: cluster!(s::disruption::node_stop),
    },
    Scenario {
        number: 13,
        sentence: "the original's own configuration and self-signed certificate run as they are",
        proof: cluster!(s::original::cluster),
    },
    Scenario {
        number: 14,
        sentence: "ponger answers a browser through a forwarded port, which trusts the root",
        proof: cluster!(s::outside::forwarded),
    },
    Scenario {
        number: 15,
        sentence: "the refusal canary alarms when a ponger that asks nobody takes ponger's place",
        proof: apart!(s::canary::local, s::canary::cluster),
    },
];
