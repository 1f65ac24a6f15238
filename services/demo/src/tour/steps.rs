//! The steps of the tour, and what is different in each.

use std::time::Duration;

use testkit::Leaf;
use time::Duration as Validity;

use super::pair::{Settings, pinger_leaf};

/// A step: a ping, and what becomes of it.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) title: &'static str,
    /// What happens and why, in lines of at most 100 columns.
    pub(super) text: &'static str,
    /// Changes the settings of a pair that works.
    pub(super) change: fn(&mut Settings),
    /// How the ping must end: with `pong`, or for a failure reason.
    pub(super) result: &'static str,
    /// What ponger must count: a metric with its labels.
    pub(super) count: &'static str,
}

/// Every step.
pub(super) const STEPS: &[Step] = &[
    Step {
        title: "mutual TLS",
        text: "Each side presents a certificate that the other trusts, with the ID that the other expects.",
        change: |_| {},
        result: "pong",
        count: r#"ponger_authz_total{decision="allowed",reason="peer_id"}"#,
    },
    Step {
        title: "no certificate",
        text: "pinger presents no certificate. ponger ends the handshake, and reads no request.",
        change: |settings| settings.client = None,
        result: "tls_refused_by_peer",
        count: r#"tls_handshake_failures_total{reason="tls_no_certificate"}"#,
    },
    Step {
        title: "wrong root",
        text: "pinger's certificate has the right ID, but from a root that ponger does not trust.",
        change: |settings| settings.client = Some(settings.other_root.issue(&pinger_leaf())),
        result: "tls_refused_by_peer",
        count: r#"tls_handshake_failures_total{reason="tls_untrusted"}"#,
    },
    Step {
        title: "wrong ID",
        text: "The certificate is valid, but ponger does not allow its ID: status 403.",
        change: |settings| {
            let leaf = Leaf::new().uri("spiffe://cluster.local/ns/demo/sa/another").client_only();
            settings.client = Some(settings.root.issue(&leaf));
        },
        result: "denied",
        count: r#"ponger_authz_total{decision="denied",reason="not_allowed"}"#,
    },
    Step {
        title: "expired certificate",
        text: "pinger's clock is an hour behind, so that it still presents a certificate that has expired.",
        change: |settings| {
            let leaf = pinger_leaf().valid(-Validity::DAY, -Validity::MINUTE);
            settings.client = Some(settings.root.issue(&leaf));
            settings.clock_behind = Duration::from_secs(3600);
        },
        result: "tls_refused_by_peer",
        count: r#"tls_handshake_failures_total{reason="tls_expired"}"#,
    },
    Step {
        title: "revoked root",
        text: "After the first pong, the root of pinger's certificate is removed from ponger's trust bundle.\n\
               ponger closes the open connection, and rejects the next one.",
        change: |settings| {
            settings.client = Some(settings.other_root.issue(&pinger_leaf()));
            settings.revokes_other_root = true;
        },
        result: "tls_refused_by_peer",
        count: r#"tls_handshake_failures_total{reason="tls_untrusted"}"#,
    },
    Step {
        title: "plain HTTP",
        text: "pinger sends HTTP without TLS. ponger serves nothing that way: it answers with a TLS alert.",
        change: |settings| settings.plain_http = true,
        result: "body",
        count: r#"tls_handshake_failures_total{reason="tls_protocol"}"#,
    },
    Step {
        title: "fault: a late answer",
        text: "ponger's admin listener is told to delay answers by a minute. pinger waits for five seconds.",
        change: |settings| settings.fault = Some(r#""kind": "delay", "delay": "1m""#),
        result: "request_timeout",
        count: r#"ponger_faults_injected_total{kind="delay"}"#,
    },
    Step {
        title: "fault: an error",
        text: "ponger's admin listener is told to answer with status 500.",
        change: |settings| settings.fault = Some(r#""kind": "error""#),
        result: "status",
        count: r#"ponger_faults_injected_total{kind="error"}"#,
    },
];
