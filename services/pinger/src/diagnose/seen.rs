//! Makes the report from what was seen of a ping.

use actix_web::web::Bytes;
use chassis::{
    failure::FailureReason,
    tls::{
        cert_info::CertInfo,
        client::ClientTls,
        explain::{ExplainedChain, Stopped, explain},
        identity::Identity,
        observer::ObservedHandshake,
        peer_id::sanitize,
    },
};
use rustls::{CertificateError, Error, pki_types::UnixTime};

use super::{
    args::DiagnoseArgs,
    hint::hint,
    report::{
        Expected, Report, ReportedAddress, ReportedCertificate, ReportedChain,
        ReportedClientCertificate, ReportedFailure, ReportedPhase, ReportedResponse, ReportedTls,
    },
};
use crate::{
    client::Outcome,
    config::{Config, Target},
    expect::excerpt,
    phase::Phase,
};

/// What was seen of a ping, and what it was to be.
pub(super) struct Seen<'a> {
    pub(super) args: &'a DiagnoseArgs,
    pub(super) config: &'a Config,
    pub(super) target: &'a Target,
    pub(super) identity: Option<&'a Identity<ClientTls>>,
    pub(super) now: UnixTime,
    pub(super) outcome: &'a Outcome,
    pub(super) handshake: &'a ObservedHandshake,
}

impl Seen<'_> {
    pub(super) fn report(&self) -> Report {
        let explained = self.explained_chain();
        Report {
            url: self.url(),
            good: self.outcome.result.is_ok(),
            failure: self.failure(explained.as_ref()),
            duration_ms: millis(self.outcome.duration),
            expected: self.expected(),
            addresses: self.addresses(),
            phases: self.phases(),
            tls: self.tls(),
            chain: explained.map(|chain| self.chain(chain)),
            client_certificate: self.identity.map(|identity| self.client_certificate(identity)),
            response: self.response(),
        }
    }

    pub(super) fn status(&self) -> Option<u16> {
        self.outcome.trace.response.as_ref().map(|response| response.status)
    }

    fn failure(&self, chain: Option<&ExplainedChain>) -> Option<ReportedFailure> {
        let failure = self.outcome.result.as_ref().err()?;
        let stopped = chain.and_then(|chain| Some((chain, chain.stopped.as_ref()?)));
        let (cause, remedy) = match stopped {
            Some((chain, Stopped { position, why })) => {
                let info = chain.certificates[*position].info.as_ref();
                let subject = info.map_or(String::new(), |info| format!(", {},", info.subject));
                let (number, reason) = (position + 1, &why.reason);
                let cause = format!("certificate {number} of the server's chain{subject} {reason}");
                (cause, why.remedy.as_deref())
            }
            // What to do with a certificate for another name stands in the hint.
            None if failure.reason == FailureReason::TlsWrongName => {
                let end = failure.cause.rfind("; ").unwrap_or(failure.cause.len());
                (failure.cause[..end].to_owned(), None)
            }
            None => (failure.cause.clone(), None),
        };
        let hint = hint(self, failure, remedy);
        let (phase, reason) = (self.outcome.trace.phase.label(), failure.reason.label());
        Some(ReportedFailure { phase, reason, cause, hint })
    }

    /// Whether the leaf, which is for another name, has one at all: rustls lists those of each kind.
    pub(super) fn has_names(&self) -> bool {
        let error = self.handshake.verified.as_ref().and_then(|result| result.as_ref().err());
        let Some(Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            presented,
            ..
        })) = error
        else {
            return true;
        };
        presented.iter().any(|name| name.starts_with("DnsName") || name.starts_with("IpAddress"))
    }

    fn url(&self) -> String {
        sanitize(&self.target.url()).into_owned()
    }

    /// How many roots the trust bundle has; `None` with plain HTTP.
    pub(super) fn roots(&self) -> Option<usize> {
        let trust = self.identity.and_then(|identity| identity.trust.as_ref());
        trust.map(|trust| trust.active_count(self.now))
    }

    fn expected(&self) -> Expected {
        let ponger = &self.config.ponger;
        let name = self.target.server_name.as_ref();
        Expected {
            trust_bundle: ponger.accept_cert.as_ref().map(|path| path.display().to_string()),
            roots: self.roots(),
            server_name: name.map(|name| name.to_str().into_owned()),
            server_id: ponger.server_id.as_ref().map(|id| id.trim().to_owned()),
            status: self.config.expect.status_text(),
        }
    }

    fn addresses(&self) -> Vec<ReportedAddress> {
        let trace = &self.outcome.trace;
        let attempts = trace.attempts.iter().map(|attempt| ReportedAddress {
            address: attempt.address.to_string(),
            result: if attempt.failure.is_some() { "failed" } else { "connected" },
            cause: attempt.failure.as_ref().map(|failure| {
                let prefix = format!("{}: ", attempt.address);
                failure.cause.strip_prefix(&prefix).unwrap_or(&failure.cause).to_owned()
            }),
            duration_ms: Some(millis(attempt.duration)),
        });
        let tried = trace.attempts.len();
        let rest = trace.addresses.iter().skip(tried).enumerate().map(|(position, address)| {
            let in_progress = position == 0 && trace.phase == Phase::Connect;
            ReportedAddress {
                address: address.to_string(),
                result: if in_progress { "timeout" } else { "not_tried" },
                cause: None,
                duration_ms: None,
            }
        });
        attempts.chain(rest).collect()
    }

    fn phases(&self) -> Vec<ReportedPhase> {
        let times = self.outcome.trace.times.iter();
        times
            .map(|(phase, time)| ReportedPhase { phase: phase.label(), duration_ms: millis(*time) })
            .collect()
    }

    fn tls(&self) -> Option<ReportedTls> {
        let handshake = self.outcome.trace.info.as_ref()?.handshake?;
        let (version, cipher, group) = (handshake.version, handshake.cipher, handshake.group);
        Some(ReportedTls { version, cipher, group })
    }

    fn explained_chain(&self) -> Option<ExplainedChain> {
        let trust = self.identity?.trust.as_ref()?;
        let chain = &self.handshake.chain;
        let error = self.handshake.verified.as_ref()?.as_ref().err();
        let error = error.or(self.handshake.signature_error.as_ref());
        Some(explain(chain, trust, self.now, error))
    }

    fn chain(&self, chain: ExplainedChain) -> ReportedChain {
        let certificates = chain.certificates.into_iter().map(|certificate| {
            let note = certificate.note;
            match certificate.info {
                Ok(info) => ReportedCertificate { info: Some(info), note },
                Err(reason) => {
                    ReportedCertificate { info: None, note: sanitize(&reason).into_owned() }
                }
            }
        });
        ReportedChain {
            verified: matches!(self.handshake.verified, Some(Ok(()))),
            stopped_at: chain.stopped.map(|stopped| stopped.position + 1),
            certificates: certificates.collect(),
            more_certificates: chain.more,
            ocsp_stapled: self.handshake.has_ocsp_response,
        }
    }

    fn client_certificate(&self, identity: &Identity<ClientTls>) -> ReportedClientCertificate {
        let request = self.handshake.certificate_request.clone();
        // Both TLS versions ask before the server's chain is verified.
        let is_known = request.is_some() || self.handshake.verified.is_some();
        let own = identity.own.as_ref().and_then(|own| own.certified.cert.first());
        let (requested, request) = (request.is_some(), request.unwrap_or_default());
        ReportedClientCertificate {
            requested: is_known.then_some(requested),
            ca_names: request.ca_names,
            more_ca_names: request.more_ca_names,
            configured: own.and_then(|der| CertInfo::from_der(der).ok()),
            sent: self.is_certificate_sent(),
        }
    }

    /// Whether a client certificate was sent: only to a server that asked for it and was verified.
    pub(super) fn is_certificate_sent(&self) -> bool {
        let request = self.handshake.certificate_request.as_ref();
        request.is_some_and(|request| request.has_usable_key)
            && matches!(self.handshake.verified, Some(Ok(())))
            && self.handshake.signature_error.is_none()
    }

    fn response(&self) -> Option<ReportedResponse> {
        let response = self.outcome.trace.response.as_ref()?;
        let headers = response.headers.iter().map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes());
            (name.to_string(), sanitize(&value).into_owned())
        });
        let body = response.body.as_ref();
        Some(ReportedResponse {
            version: format!("{:?}", response.version),
            status: response.status,
            headers: headers.collect(),
            body: body.map(|body| excerpt(body)),
            body_bytes: body.map(Bytes::len),
        })
    }
}

/// Milliseconds with three decimals.
fn millis(duration: std::time::Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
