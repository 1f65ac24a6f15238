//! Who issued whom in a certificate chain, and so until when it can be verified.

use rustls::pki_types::UnixTime;
use x509_parser::certificate::X509Certificate;

use super::{peer_id::sanitize, signature, x509::Validity};

/// The certificates of a chain, the leaf first.
#[derive(Clone, Debug)]
pub(super) struct IssuerGraph(Vec<Link>);

#[derive(Clone, Debug)]
struct Link {
    subject: String,
    validity: Validity,
    is_self_signed: bool,
    /// The positions of those that have the issuer's name, and a key that made the signature.
    issuers: Vec<usize>,
}

impl IssuerGraph {
    pub(super) fn new(chain: &[X509Certificate<'_>]) -> Self {
        let issuers = |position: usize, certificate: &X509Certificate<'_>| {
            let is_issuer = |(other, issuer): &(usize, &X509Certificate<'_>)| {
                *other != position
                    && issuer.subject() == certificate.issuer()
                    && signature::is_signed_by(certificate, issuer)
            };
            chain.iter().enumerate().skip(1).filter(is_issuer).map(|(other, _)| other).collect()
        };
        let links = chain.iter().enumerate().map(|(position, certificate)| Link {
            subject: sanitize(&certificate.subject().to_string()).into_owned(),
            validity: Validity::from_parsed(certificate),
            is_self_signed: signature::is_self_signed(certificate),
            issuers: issuers(position, certificate),
        });
        Self(links.collect())
    }

    /// Whether the certificate at `position` is self-signed: a peer that needs it has it already.
    pub(super) fn is_self_signed(&self, position: usize) -> bool {
        self.0[position].is_self_signed
    }

    /// The positions of the certificates that lead from the leaf upwards, without the leaf, and are
    /// valid at `now`. Others are of no use to a verifier, which ignores them too.
    pub(super) fn path(&self, now: UnixTime) -> Vec<usize> {
        self.path_of(|issuer| self.0[issuer].validity.contains(now))
    }

    /// As [`IssuerGraph::path`], whether they are valid at `now` or not; where there is a choice, one
    /// that is.
    pub(super) fn path_at_any_time(&self, now: UnixTime) -> Vec<usize> {
        let valid = self.path(now);
        let any = self.path_of(|_| true);
        if any.len() > valid.len() { any } else { valid }
    }

    fn path_of(&self, is_usable: impl Fn(usize) -> bool) -> Vec<usize> {
        let (mut path, mut below) = (Vec::new(), 0);
        let is_next = |issuer: usize, path: &[usize]| !path.contains(&issuer) && is_usable(issuer);
        while let Some(issuer) = self.0[below].issuers.iter().find(|i| is_next(**i, &path)) {
            path.push(*issuer);
            below = *issuer;
        }
        path
    }

    /// The last second in which the chain can be verified, as far as that is known at `now`: the first
    /// expiry among those from the leaf upwards, by the way that lasts longest.
    ///
    /// The leaf needs one of its issuers, valid or not. What has expired above that is no longer needed
    /// by a peer that accepts the chain still, as DST Root X3 was not.
    pub(super) fn not_after(&self, now: UnixTime) -> UnixTime {
        self.end(0, &[], now)
    }

    /// That of the certificate at `position`, which is above those at `below`.
    fn end(&self, position: usize, below: &[usize], now: UnixTime) -> UnixTime {
        let (link, below) = (&self.0[position], [below, &[position]].concat());
        let is_needed = |issuer: &&usize| {
            let above = &self.0[**issuer];
            !below.contains(issuer)
                && !above.is_self_signed
                && (position == 0 || above.validity.contains(now))
        };
        let issuers = link.issuers.iter().filter(is_needed);
        let longest = issuers.map(|issuer| self.end(*issuer, &below, now)).max();
        longest.unwrap_or(link.validity.not_after).min(link.validity.not_after)
    }

    /// The subject and the validity of each certificate above the leaf that does not decide
    /// [`IssuerGraph::not_after`].
    pub(super) fn others(&self, now: UnixTime) -> impl Iterator<Item = (&str, Validity)> {
        let not_after = self.not_after(now);
        let links = self.0.iter().skip(1).filter(move |link| link.validity.not_after != not_after);
        links.map(|link| (link.subject.as_str(), link.validity))
    }
}
