//! What a connection was opened with, and for how long that holds.

use rustls::pki_types::{CertificateDer, ServerName};

use super::{
    clock::Seconds,
    identity::Identity,
    cert,
    peer_id::{Name, Names, WrongId},
};

/// The certificates at both ends of a connection. A connection does not outlive them, nor the root
/// and the name by which its peer was let in.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    chain: Vec<CertificateDer<'static>>,
    names: Option<Result<Vec<Name>, WrongId>>,
    /// Until when our own certificate is valid, if one was shown.
    own_end: Option<Seconds>,
}

impl Credentials {
    /// Those of a connection on which the peer showed `chain`, and this side, as far as it was
    /// asked, what `own` has.
    pub fn new(chain: Option<&[CertificateDer<'_>]>, own: &Identity) -> Self {
        let chain: Vec<_> =
            chain.unwrap_or_default().iter().map(|der| der.clone().into_owned()).collect();
        let names = chain.first().map(|leaf| {
            Names::of(leaf).map_err(|_| WrongId::Unreadable).and_then(|names| names.identity())
        });
        let own_end = own.leaf.as_ref().map(|leaf| leaf.facts.not_after);
        Self { chain, names, own_end }
    }

    /// Who the peer's certificate says that it is; `None` if it showed none.
    pub fn names(&self) -> Option<&Result<Vec<Name>, WrongId>> {
        self.names.as_ref()
    }

    /// The validity of the peer's leaf.
    pub fn leaf_validity(&self) -> Option<(Seconds, Seconds)> {
        self.chain.first().and_then(cert::validity)
    }

    /// Whether a handshake of a client with them would succeed at `time`. Whether a client must show
    /// a certificate, and whether its name is allowed, are other questions.
    pub fn hold_for_client(&self, identity: &Identity, time: Seconds) -> bool {
        let peer_holds =
            self.chain.is_empty() || identity.verify_client_at(&self.chain, time).is_ok();
        peer_holds && self.own_holds(time)
    }

    /// Whether the names in them are allowed ones.
    pub fn are_admitted(&self, identity: &Identity) -> bool {
        matches!(&self.names, Some(Ok(names)) if identity.admit(names).is_ok())
    }

    /// Whether a server with them would be spoken to at `time` under the name `name`.
    pub fn hold_for_server(
        &self,
        identity: &Identity,
        name: &ServerName<'_>,
        time: Seconds,
    ) -> bool {
        identity.verify_server_at(&self.chain, name, time).is_ok() && self.own_holds(time)
    }

    /// The first second after `time` in which they might hold no longer, should nothing on disk
    /// change: the one after a certificate's end, or a change among the roots. That a certificate
    /// ends does not say that it was needed.
    pub fn next_change(&self, identity: &Identity, time: Seconds) -> Seconds {
        let ends = self.chain.iter().filter_map(cert::validity).map(|(_, end)| end);
        let ends = ends.chain(self.own_end).map(|end| end.saturating_add(1));
        let roots = identity.roots().map(|roots| roots.next_change(time));
        ends.chain(roots).filter(|change| *change > time).min().unwrap_or(Seconds::MAX)
    }

    fn own_holds(&self, time: Seconds) -> bool {
        self.own_end.is_none_or(|end| time <= end)
    }
}
