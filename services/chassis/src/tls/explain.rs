//! Explains the verification of a server's certificate chain: who issued whom, and where it stopped.
//!
//! rustls reports one error for a whole chain. This looks for the certificate that caused it, with the
//! same signatures, limits and roots. It explains a decision, and makes none.

use rustls::{
    CertificateError, Error,
    pki_types::{CertificateDer, UnixTime},
};
use x509_parser::certificate::X509Certificate;

use super::{
    cert_info::{CertInfo, printable_name},
    classify,
    clock::format_rfc3339,
    issuers::IssuerGraph,
    limits,
    peer_id::PeerIdError,
    root::Root,
    signature,
    trust::TrustBundle,
    unsupported,
    x509::{Role, Validity, parse},
};

/// How many certificates are shown; no longer chain is accepted.
const MAX_SHOWN: usize = limits::MAX_INTERMEDIATES + 1;

/// A certificate chain, certificate by certificate.
#[derive(Clone, Debug)]
pub struct ExplainedChain {
    /// The first certificates, the leaf first.
    pub certificates: Vec<ExplainedCertificate>,
    /// How many more there were.
    pub more: usize,
    /// Where verification stopped; `None` if it did not, or not at one certificate.
    pub stopped: Option<Stopped>,
}

/// A certificate of a chain.
#[derive(Clone, Debug)]
pub struct ExplainedCertificate {
    /// What it says, or why it cannot be read.
    pub info: Result<CertInfo, String>,
    /// How verification goes on from it.
    pub note: String,
}

/// Where verification stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// The position of the certificate, from 0.
    pub position: usize,
    /// Why, and what to do about it.
    pub why: Why,
}

/// Why verification stops at a certificate. Reason and remedy are apart because the reason may quote a
/// name in the certificate, in which the server can write anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    /// Completes "it ...".
    pub reason: String,
    /// What to do about it, where the certificate shows that.
    pub remedy: Option<String>,
}

impl Why {
    /// Of a text of ours, which has the remedy after a semicolon and quotes no name.
    fn from_text(text: &str) -> Self {
        match text.split_once("; ") {
            Some((reason, remedy)) => {
                Self { reason: reason.to_owned(), remedy: Some(remedy.to_owned()) }
            }
            None => Self::from(text.to_owned()),
        }
    }

    fn with_remedy(reason: String, remedy: &str) -> Self {
        Self { reason, remedy: Some(remedy.to_owned()) }
    }
}

impl From<String> for Why {
    fn from(reason: String) -> Self {
        Self { reason, remedy: None }
    }
}

/// Explains `chain`, which a server presented at `now` to a client that trusts `trust` and rejected it
/// with `error`, or accepted it.
pub fn explain(
    chain: &[CertificateDer<'_>],
    trust: &TrustBundle,
    now: UnixTime,
    error: Option<&Error>,
) -> ExplainedChain {
    let shown = &chain[..chain.len().min(MAX_SHOWN)];
    let notes = |note: &dyn Fn(usize) -> String| {
        let certificates = shown.iter().enumerate().map(|(position, der)| ExplainedCertificate {
            info: CertInfo::from_der(der),
            note: note(position),
        });
        certificates.collect()
    };
    let explained = |certificates, stopped| ExplainedChain {
        certificates,
        more: chain.len() - shown.len(),
        stopped,
    };
    let Some((leaf, intermediates)) = chain.split_first() else {
        return explained(Vec::new(), None);
    };
    // A larger chain is not verified, and would take long to explain.
    if limits::check_chain(leaf, intermediates).is_err() {
        return explained(notes(&|_| "not verified".to_owned()), None);
    }
    let parsed: Result<Vec<_>, _> = chain.iter().map(parse).collect();
    let Ok(parsed) = parsed else {
        let unreadable = chain.iter().position(|der| parse(der).is_err());
        let stopped = unreadable.map(|position| Stopped {
            position,
            why: parse(&chain[position]).err().unwrap_or_default().into(),
        });
        return explained(notes(&|_| "not verified".to_owned()), stopped);
    };
    let graph = IssuerGraph::new(&parsed);
    let above =
        if is_about_validity(error) { graph.path_at_any_time(now) } else { graph.path(now) };
    let path = [&[0], above.as_slice()].concat();
    let explanation = Explanation { chain, parsed: &parsed, trust, now, path };
    let stopped = error.and_then(|error| explanation.stop(error));
    explained(notes(&|position| explanation.note(position)), stopped)
}

fn is_about_validity(error: Option<&Error>) -> bool {
    use CertificateError as E;
    matches!(
        error,
        Some(Error::InvalidCertificate(
            E::Expired | E::ExpiredContext { .. } | E::NotValidYet | E::NotValidYetContext { .. }
        ))
    )
}

struct Explanation<'a> {
    chain: &'a [CertificateDer<'a>],
    parsed: &'a [X509Certificate<'a>],
    trust: &'a TrustBundle,
    now: UnixTime,
    /// The positions from the leaf upwards, each issued by the next.
    path: Vec<usize>,
}

impl Explanation<'_> {
    fn note(&self, position: usize) -> String {
        let validity = Validity::from_parsed(&self.parsed[position]);
        let prefix = if validity.not_after < self.now {
            "expired; "
        } else if validity.not_before > self.now {
            "not valid yet; "
        } else {
            ""
        };
        format!("{prefix}{}", self.issuance(position))
    }

    fn issuance(&self, position: usize) -> String {
        let Some(step) = self.path.iter().position(|on_path| *on_path == position) else {
            return "not needed: it did not issue the one before it".to_owned();
        };
        if self.is_trusted_itself(position) {
            return "in the trust bundle itself".to_owned();
        }
        if self.path[..step].iter().any(|below| self.is_anchored(*below)) {
            return "not needed: a root of the trust bundle is reached before it".to_owned();
        }
        if let Some(root) = self.issuing_root(position) {
            return format!("issued by the root `{}` of the trust bundle", root.subject());
        }
        match self.path.get(step + 1) {
            Some(issuer) => format!("issued by certificate {}", issuer + 1),
            None => self.why_no_issuer(position).reason,
        }
    }

    fn is_trusted_itself(&self, position: usize) -> bool {
        self.valid_roots().any(|root| root.der == self.chain[position])
    }

    fn is_anchored(&self, position: usize) -> bool {
        self.is_trusted_itself(position) || self.issuing_root(position).is_some()
    }

    fn valid_roots(&self) -> impl Iterator<Item = &Root> {
        self.trust.roots().filter(|root| root.validity.contains(self.now))
    }

    /// The trusted root that issued the certificate at `position`.
    fn issuing_root(&self, position: usize) -> Option<&Root> {
        let certificate = &self.parsed[position];
        self.valid_roots().find(|root| {
            root.issues
                && parse(&root.der).is_ok_and(|issuer| {
                    issuer.subject() == certificate.issuer()
                        && signature::is_signed_by(certificate, &issuer)
                })
        })
    }

    /// Why no issuer of the certificate at `position` is known; completes "it ...".
    fn why_no_issuer(&self, position: usize) -> Why {
        let certificate = &self.parsed[position];
        let issuer = printable_name(certificate.issuer());
        let has_issuers_name =
            |other: &X509Certificate<'_>| other.subject() == certificate.issuer();
        if signature::is_self_signed(certificate) {
            return match position {
                0 => "is self-signed, and not in the trust bundle".to_owned().into(),
                _ => "is a root that is not in the trust bundle".to_owned().into(),
            };
        }
        if !signature::is_accepted_algorithm(certificate) {
            return Why::from_text(unsupported::WEAK_SIGNATURE);
        }
        let namesake = |root: &&Root| parse(&root.der).is_ok_and(|other| has_issuers_name(&other));
        if let Some(root) = self.trust.roots().find(namesake) {
            let Validity { not_before, not_after } = root.validity;
            if not_after < self.now {
                let at = format_rfc3339(not_after);
                let reason = format!(
                    "was issued by the root `{issuer}` of the trust bundle, which expired at {at}"
                );
                return Why::with_remedy(
                    reason,
                    "replace that root in the trust bundle by its successor",
                );
            }
            if not_before > self.now {
                let at = format_rfc3339(not_before);
                let reason = format!(
                    "was issued by the root `{issuer}` of the trust bundle, which is not valid before {at}"
                );
                return Why::with_remedy(reason, "compare the clocks, or wait");
            }
            let reason = format!(
                "names `{issuer}` as its issuer, and the root of that name in the trust bundle has another key"
            );
            return Why::with_remedy(
                reason,
                "if that root was replaced, add the new one to the trust bundle",
            );
        }
        let sent = (1..self.parsed.len())
            .find(|other| *other != position && has_issuers_name(&self.parsed[*other]));
        let reason = match sent {
            Some(sent) if !Validity::from_parsed(&self.parsed[sent]).contains(self.now) => format!(
                "was issued by `{issuer}`, and certificate {} of that name is not valid now",
                sent + 1
            ),
            Some(sent) => format!(
                "names `{issuer}` as its issuer, and the key of certificate {}, which has that name, did not sign it",
                sent + 1
            ),
            None => format!(
                "was issued by `{issuer}`, which the server did not send and the trust bundle does not have"
            ),
        };
        reason.into()
    }

    /// Where `error` arose.
    fn stop(&self, error: &Error) -> Option<Stopped> {
        use CertificateError as E;
        let Error::InvalidCertificate(error) = error else { return None };
        let top = *self.path.last()?;
        match error {
            E::Expired
            | E::ExpiredContext { .. }
            | E::NotValidYet
            | E::NotValidYetContext { .. } => self.stop_by_validity(),
            E::NotValidForName | E::NotValidForNameContext { .. } => None,
            E::Other(other) if other.0.is::<PeerIdError>() => None,
            // The chain is verified, but not the proof that the server has the leaf's key.
            E::BadSignature if self.path.iter().any(|position| self.is_anchored(*position)) => {
                let reason = "is not the certificate of the key that the server has".to_owned();
                self.stop_by_support().or(Some(Stopped { position: 0, why: reason.into() }))
            }
            E::UnknownIssuer | E::BadSignature => {
                let stop = || Stopped { position: top, why: self.why_no_issuer(top) };
                self.stop_by_support().or_else(|| Some(stop()))
            }
            other => self.stop_by_support().or_else(|| {
                Some(Stopped { position: 0, why: Why::from_text(&classify::describe(other)) })
            }),
        }
    }

    fn stop_by_validity(&self) -> Option<Stopped> {
        self.path.iter().find_map(|position| {
            let Validity { not_before, not_after } = Validity::from_parsed(&self.parsed[*position]);
            let reason = if not_after < self.now {
                format!("expired at {}", format_rfc3339(not_after))
            } else if not_before > self.now {
                format!("is not valid before {}", format_rfc3339(not_before))
            } else {
                return None;
            };
            Some(Stopped { position: *position, why: reason.into() })
        })
    }

    /// The first certificate that cannot be verified, or cannot verify others, regardless of its issuer: on
    /// the path, or with the name of the issuer where the path ends.
    fn stop_by_support(&self) -> Option<Stopped> {
        let top = &self.parsed[*self.path.last()?];
        let is_namesake = |position: &usize| {
            *position > 0
                && !self.path.contains(position)
                && self.parsed[*position].subject() == top.issuer()
        };
        let namesakes = (0..self.parsed.len()).filter(is_namesake);
        self.path.iter().copied().chain(namesakes).find_map(|position| {
            let certificate = &self.parsed[position];
            let is_root = signature::is_self_signed(certificate);
            let reason = if position == 0 {
                unsupported::key(certificate)
            } else {
                let intermediate = || unsupported::as_intermediate(certificate, Role::Server);
                unsupported::as_issuer(certificate)
                    .or_else(|| if is_root { None } else { intermediate() })
            };
            reason.map(|reason| Stopped { position, why: Why::from_text(&reason) })
        })
    }
}
