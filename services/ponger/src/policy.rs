//! Which peers are authorized.

use std::collections::BTreeSet;

use chassis::tls::peer_id::{PeerId, PeerIdError};

/// Which peers are authorized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Policy {
    /// All: clients are not asked for a certificate.
    AllowAll,
    /// Those whose certificate has an allowed ID.
    RequirePeer {
        /// The allowed IDs; any if `None`.
        allowed: Option<BTreeSet<PeerId>>,
        /// Whether clients without a certificate are allowed too.
        allow_anonymous: bool,
    },
}

impl Policy {
    /// Decides about a peer by the IDs in its certificate, `None` without one. They must come from a
    /// verified chain.
    pub fn decide(&self, ids: Option<&Result<Vec<PeerId>, PeerIdError>>) -> Decision {
        let Self::RequirePeer { allowed, allow_anonymous } = self else {
            return Decision::Anonymous;
        };
        let ids = match ids {
            None if *allow_anonymous => return Decision::Anonymous,
            None => return Decision::NoCertificate,
            Some(Err(error)) => return Decision::InvalidId(error.clone()),
            Some(Ok(ids)) => ids,
        };
        let is_allowed =
            |id: &&PeerId| allowed.as_ref().is_none_or(|allowed| allowed.contains(*id));
        match (ids.iter().find(is_allowed), ids.first()) {
            (Some(id), _) => Decision::PeerId(id.clone()),
            (None, Some(id)) => Decision::NotAllowed(id.clone()),
            (None, None) => Decision::InvalidId(PeerIdError::MissingSan),
        }
    }

    /// A peer as a metric label: an allowed ID, else `other`, or `none` without a certificate. No peer
    /// can add to that set.
    pub fn metric_label(&self, ids: Option<&Result<Vec<PeerId>, PeerIdError>>) -> &str {
        let (Self::RequirePeer { allowed: Some(allowed), .. }, Some(Ok(ids))) = (self, ids) else {
            return if ids.is_none() { "none" } else { "other" };
        };
        let id = ids.iter().find_map(|id| allowed.get(id));
        id.map_or("other", PeerId::as_str)
    }
}

/// Whether a peer's requests are allowed, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Allowed by this ID.
    PeerId(PeerId),
    /// Allowed without one.
    Anonymous,
    /// Denied: it presented no certificate.
    NoCertificate,
    /// Denied: its certificate does not identify exactly one peer.
    InvalidId(PeerIdError),
    /// Denied: this ID is not among the allowed ones.
    NotAllowed(PeerId),
    /// Denied: its certificate is no longer valid, or no longer trusted.
    Revoked,
}

impl Decision {
    /// The labels of every decision, in the order of [`Decision::index`].
    pub(crate) const LABELS: [[&str; 2]; 6] = [
        ["allowed", "peer_id"],
        ["allowed", "anonymous"],
        ["denied", "no_certificate"],
        ["denied", "invalid_id"],
        ["denied", "not_allowed"],
        ["denied", "revoked"],
    ];

    pub(crate) const fn index(&self) -> usize {
        match self {
            Self::PeerId(_) => 0,
            Self::Anonymous => 1,
            Self::NoCertificate => 2,
            Self::InvalidId(_) => 3,
            Self::NotAllowed(_) => 4,
            Self::Revoked => 5,
        }
    }

    /// Whether requests are allowed.
    pub const fn is_allowed(&self) -> bool {
        matches!(self, Self::PeerId(_) | Self::Anonymous)
    }

    /// The reason in logs and labels.
    pub const fn reason(&self) -> &'static str {
        Self::LABELS[self.index()][1]
    }

    /// The explanation for a denied client. It names that client's ID, and not the allowed ones.
    pub(crate) fn denial(&self) -> Option<String> {
        match self {
            Self::PeerId(_) | Self::Anonymous => None,
            Self::NoCertificate => Some("client certificate required".into()),
            Self::InvalidId(error) => Some(error.to_string()),
            Self::NotAllowed(id) => Some(format!("`{id}` is not allowed")),
            Self::Revoked => Some("client certificate is no longer trusted".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> PeerId {
        text.parse().unwrap()
    }

    fn ids(texts: &[&str]) -> Option<Result<Vec<PeerId>, PeerIdError>> {
        Some(Ok(texts.iter().map(|text| id(text)).collect()))
    }

    fn policy(allowed: &[&str], allow_anonymous: bool) -> Policy {
        let allowed = Some(allowed.iter().map(|text| id(text)).collect());
        Policy::RequirePeer { allowed, allow_anonymous }
    }

    const PINGER: &str = "spiffe://cluster.local/ns/test/sa/pinger";
    const OTHER: &str = "spiffe://cluster.local/ns/test/sa/pinger2";

    #[test]
    fn allows_exactly_the_allowed_ids() {
        let policy = policy(&[PINGER, "client.example"], false);
        assert_eq!(policy.decide(ids(&[PINGER]).as_ref()), Decision::PeerId(id(PINGER)));
        assert_eq!(policy.decide(ids(&[OTHER]).as_ref()), Decision::NotAllowed(id(OTHER)));
        // One of several DNS names is enough.
        let decision = policy.decide(ids(&["other.example", "client.example"]).as_ref());
        assert_eq!(decision, Decision::PeerId(id("client.example")));
        let invalid = Err(PeerIdError::MultipleUris(2));
        let decision = policy.decide(Some(&invalid));
        assert_eq!(decision, Decision::InvalidId(PeerIdError::MultipleUris(2)));
    }

    #[test]
    fn denies_a_missing_certificate_unless_anonymous_clients_are_allowed() {
        assert_eq!(policy(&[PINGER], false).decide(None), Decision::NoCertificate);
        assert_eq!(policy(&[PINGER], true).decide(None), Decision::Anonymous);
        assert_eq!(Policy::AllowAll.decide(None), Decision::Anonymous);
    }

    #[test]
    fn metric_label_of_a_peer_is_an_allowed_id_or_a_constant() {
        let policy = policy(&[PINGER], false);
        assert_eq!(policy.metric_label(ids(&[PINGER]).as_ref()), PINGER);
        assert_eq!(policy.metric_label(ids(&[OTHER]).as_ref()), "other");
        assert_eq!(policy.metric_label(None), "none");
        let any = Policy::RequirePeer { allowed: None, allow_anonymous: false };
        assert_eq!(any.metric_label(ids(&[PINGER]).as_ref()), "other");
    }

    #[test]
    fn denial_names_the_denied_id_alone() {
        let denial = policy(&[PINGER], false).decide(ids(&[OTHER]).as_ref()).denial();
        assert_eq!(denial, Some(format!("`{OTHER}` is not allowed")));
    }
}
