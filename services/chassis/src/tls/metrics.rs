//! Metrics of identities and of handshakes.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec};
use rustls::pki_types::UnixTime;

use super::{handshake_info::HandshakeInfo, identity::Identity, peer_id::PeerId, x509::Validity};
use crate::{failure::FailureReason, metrics::Metrics};

/// One of the two parts of an identity that are reloaded independently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Our own certificate chain and key.
    Certificate,
    /// The trust bundle.
    TrustBundle,
}

impl Unit {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Certificate, Self::TrustBundle];

    /// The name in logs and labels.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::TrustBundle => "trust_bundle",
        }
    }
}

/// Metrics of our own identity, and of the peer's.
#[derive(Clone, Debug)]
pub struct IdentityMetrics {
    info: IntGaugeVec,
    not_before: GaugeVec,
    expiration: GaugeVec,
    reloads: IntCounterVec,
    last_reload_successful: IntGaugeVec,
    last_success: GaugeVec,
}

impl IdentityMetrics {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Self {
        let info = metrics.int_gauge_vec(
            "identity_cert_info",
            "Our own certificate, as labels of a constant 1: its ID, its issuer and its serial number.",
            &["id", "issuer", "serial"],
        );
        let not_before = metrics.gauge_vec(
            "identity_cert_not_before_timestamp_seconds",
            "When the validity of a certificate began, in seconds since 1970: of those of identity_cert_expiration_timestamp_seconds.",
            &["role"],
        );
        let expiration = metrics.gauge_vec(
            "identity_cert_expiration_timestamp_seconds",
            "When a certificate expires, in seconds since 1970: our own, the first of the trust roots, the last that a peer presented.",
            &["role"],
        );
        let reloads = metrics.int_counter_vec(
            "identity_refreshes_total",
            "Reloads of changed files, by unit and whether they were accepted.",
            &["unit", "result"],
        );
        let last_reload_successful = metrics.int_gauge_vec(
            "identity_last_reload_successful",
            "Whether what is on disk now is in use, by unit; 0 after a rejected reload.",
            &["unit"],
        );
        let last_success = metrics.gauge_vec(
            "identity_last_reload_success_timestamp_seconds",
            "When a unit was last loaded successfully, in seconds since 1970.",
            &["unit"],
        );
        for unit in Unit::ALL {
            for result in ["ok", "rejected"] {
                reloads.with_label_values(&[unit.label(), result]);
            }
        }
        Self { info, not_before, expiration, reloads, last_reload_successful, last_success }
    }

    /// Records the validity of our own certificate and of the first trust root to expire.
    pub fn record_identity<T>(&self, identity: &Identity<T>, now: UnixTime) {
        if let Some(own) = &identity.own {
            let validity = Validity { not_after: own.not_after(now), ..own.leaf };
            self.set_validity("own", validity);
        }
        if let Some(root) = identity.trust.as_ref().and_then(|trust| trust.earliest_expiry(now)) {
            self.set_validity("roots", root);
        }
    }

    /// Records which certificate of our own is in use, instead of the one before.
    pub fn record_own<T>(&self, identity: &Identity<T>) {
        self.info.reset();
        let Some(own) = &identity.own else { return };
        let ids = own.names.peer_ids().unwrap_or_default();
        let id = ids.first().map_or("", PeerId::as_str);
        self.info.with_label_values(&[id, &own.issuer(), &own.serial]).set(1);
    }

    /// Records the validity of a peer's certificate. The values stay when later handshakes fail.
    pub fn record_peer(&self, validity: Validity) {
        self.set_validity("peer", validity);
    }

    /// Records that a unit was loaded at start, or found to be unchanged after a rejected reload.
    pub fn record_loaded(&self, unit: Unit) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_reload_successful.with_label_values(&[unit.label()]).set(1);
        self.last_success.with_label_values(&[unit.label()]).set(now.as_secs_f64());
    }

    /// Records a reload of changed files.
    pub fn record_reload(&self, unit: Unit, accepted: bool) {
        let result = if accepted { "ok" } else { "rejected" };
        self.reloads.with_label_values(&[unit.label(), result]).inc();
        if accepted {
            self.record_loaded(unit);
        } else {
            self.last_reload_successful.with_label_values(&[unit.label()]).set(0);
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "seconds up to the year 9999 fit in 52 bits")]
    fn set_validity(&self, role: &str, validity: Validity) {
        let Validity { not_before, not_after } = validity;
        self.not_before.with_label_values(&[role]).set(not_before.as_secs() as f64);
        self.expiration.with_label_values(&[role]).set(not_after.as_secs() as f64);
    }
}

/// Metrics of handshakes.
#[derive(Clone, Debug)]
pub struct HandshakeMetrics {
    successes: IntCounterVec,
    peers: IntCounterVec,
    failures: IntCounterVec,
}

impl HandshakeMetrics {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Self {
        let successes = metrics.int_counter_vec(
            "tls_handshakes_total",
            "Successful handshakes, by what was negotiated.",
            &["version", "cipher", "group", "kind"],
        );
        let peers = metrics.int_counter_vec(
            "tls_peers_total",
            "Successful handshakes, by the peer's ID: an expected one, `other`, or `none` without a certificate.",
            &["peer"],
        );
        let failures = metrics.int_counter_vec(
            "tls_handshake_failures_total",
            "Failed handshakes, by reason.",
            &["reason"],
        );
        for reason in FailureReason::ALL {
            let label = reason.label();
            if label.starts_with("tls_") || *reason == FailureReason::Reset {
                failures.with_label_values(&[label]);
            }
        }
        Self { successes, peers, failures }
    }

    /// Counts a successful handshake. `peer` must come from a closed set: a configured ID, `other` or
    /// `none`.
    pub fn record_success(&self, info: &HandshakeInfo, peer: &str) {
        self.peers.with_label_values(&[peer]).inc();
        self.successes.with_label_values(&[info.version, info.cipher, info.group, info.kind]).inc();
    }

    /// Counts a failed handshake.
    pub fn record_failure(&self, reason: FailureReason) {
        self.failures.with_label_values(&[reason.label()]).inc();
    }
}
