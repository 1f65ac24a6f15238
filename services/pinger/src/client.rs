//! One ping: request, response, judgement. Nothing is retried: a lost ping is a lost ping.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::error::ParseError;
use awc::{
    Connector,
    error::{PayloadError, SendRequestError},
    http::{
        StatusCode,
        header::{CONTENT_LENGTH, USER_AGENT},
    },
};
use chassis::{
    failure::{Failure, FailureReason},
    tls::{credentials::Credentials, reload::Current, peer_id::printable},
};
use rustls::ClientConfig;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::{
    config::{Config, Target},
    connector::{Tls, Trace, Wire},
};

/// An answer is four bytes; whatever is longer than this is not one.
const LARGEST_ANSWER: usize = 1024;

/// What became of a ping.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// `pong`, or why not.
    pub result: Result<(), Failure>,
    /// How long it took, from the first look-up to the last byte or the failure.
    pub duration: Duration,
    /// What was noted on its way.
    pub trace: Trace,
}

/// Sends pings to one ponger. Dropping it closes the connections that it keeps.
#[derive(Clone)]
pub struct Pinger {
    http: awc::Client,
    wire: Wire,
    url: Rc<str>,
    timeout: Duration,
    keeps: bool,
}

impl std::fmt::Debug for Pinger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pinger").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Pinger {
    /// One that goes to `target` as `config` says, by `tls` if the target asks for TLS.
    pub fn new(target: &Target, tls: Option<(ClientConfig, Current)>, config: &Config) -> Self {
        Self::with_keep_alive(target, tls, config, config.ponger.keep_alive.0)
    }

    /// As [`Pinger::new`], keeping no connection.
    pub fn once(target: &Target, tls: Option<(ClientConfig, Current)>, config: &Config) -> Self {
        Self::with_keep_alive(target, tls, config, Duration::ZERO)
    }

    fn with_keep_alive(
        target: &Target,
        tls: Option<(ClientConfig, Current)>,
        config: &Config,
        keep_alive: Duration,
    ) -> Self {
        let Target { host, port, path, tls: name } = target;
        let tls = tls.zip(name.clone()).map(|((config, current), name)| Tls {
            connector: TlsConnector::from(Arc::new(config)),
            name,
            current,
        });
        let wire = Wire::new(host.clone(), *port, tls, config.connect_timeout.0);
        let http = awc::Client::builder()
            .connector(
                Connector::new()
                    .connector(wire.clone())
                    // A ping's time is kept by the ping; awc's own limits must not come first.
                    .timeout(config.timeout.0 * 2)
                    .conn_keep_alive(keep_alive),
            )
            .disable_timeout()
            .disable_redirects()
            .add_default_header((USER_AGENT, concat!("pinger/", env!("CARGO_PKG_VERSION"))))
            .finish();
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        // To awc it is plain HTTP: the wire does the TLS.
        let url = format!("http://{host}:{port}{path}").into();
        Self { http, wire, url, timeout: config.timeout.0, keeps: !keep_alive.is_zero() }
    }

    /// Sends one ping and judges what comes of it.
    pub async fn ping(&self) -> Outcome {
        self.wire.begin();
        let began = Instant::now();
        let result = match timeout(self.timeout, self.exchange()).await {
            Ok(result) => result,
            Err(_) => {
                let Trace { phase, tried, .. } = self.wire.trace();
                let mut cause = format!(
                    "no end of the phase `{}` within the ping's {:?}",
                    phase.label(),
                    self.timeout
                );
                for failure in tried {
                    cause = format!("{cause}; {failure}");
                }
                Err(Failure::new(phase.timed_out(), cause))
            }
        };
        Outcome { result, duration: began.elapsed(), trace: self.wire.trace() }
    }

    /// What a ping that is broken off at this moment has come to.
    pub fn broken_off(&self, began: Instant) -> Outcome {
        let failure = Failure::new(FailureReason::Shutdown, "pinger stopped before the answer came");
        Outcome { result: Err(failure), duration: began.elapsed(), trace: self.wire.trace() }
    }

    async fn exchange(&self) -> Result<(), Failure> {
        let mut request = self.http.get(&*self.url);
        if !self.keeps {
            request = request.force_close();
        }
        let mut response = request.send().await.map_err(|error| self.judge_send(&error))?;
        let status = response.status();
        let promised = response
            .headers()
            .get(CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse().ok());
        let body = response.body().limit(LARGEST_ANSWER).await;
        if status == StatusCode::FORBIDDEN {
            let cause = body.as_deref().map_or(String::new(), excerpt);
            return Err(Failure::new(
                FailureReason::Denied,
                format!("ponger does not let this identity in: {cause}"),
            ));
        }
        if status != StatusCode::OK {
            return Err(Failure::new(
                FailureReason::Status,
                format!("ponger answered with status {status}"),
            ));
        }
        match body {
            // awc takes a body that was cut off for a whole one.
            Ok(body) if promised.is_some_and(|length: usize| body.len() < length) => {
                Err(Failure::new(
                    FailureReason::Reset,
                    "ponger closed the connection before its answer was whole",
                ))
            }
            Ok(body) if body.trim_ascii() == b"pong" => Ok(()),
            Ok(body) => Err(Failure::new(
                FailureReason::Body,
                format!("ponger answered `{}`, not `pong`", excerpt(&body)),
            )),
            Err(error) => Err(self.judge_body(&error)),
        }
    }

    fn judge_send(&self, error: &SendRequestError) -> Failure {
        // The wire knows better than awc what broke.
        if let Some(failure) = self.wire.trace().failure {
            return failure;
        }
        match error {
            SendRequestError::Response(error)
                if !matches!(error, ParseError::Incomplete | ParseError::Io(_)) =>
            {
                Failure::new(FailureReason::Body, format!("ponger's answer is not HTTP/1.1: {error}"))
            }
            _ => Failure::new(FailureReason::Reset, "ponger closed the connection before it answered"),
        }
    }

    fn judge_body(&self, error: &PayloadError) -> Failure {
        if let Some(failure) = self.wire.trace().failure {
            return failure;
        }
        match error {
            PayloadError::Overflow => Failure::new(
                FailureReason::Body,
                format!("ponger's answer is longer than {LARGEST_ANSWER} bytes"),
            ),
            PayloadError::EncodingCorrupted => {
                Failure::new(FailureReason::Body, "ponger's answer is not HTTP/1.1")
            }
            _ => Failure::new(
                FailureReason::Reset,
                "ponger closed the connection before its answer was whole",
            ),
        }
    }

    /// Whether it keeps connections for the next ping.
    pub fn keeps(&self) -> bool {
        self.keeps
    }

    /// What the connection was opened with that the last ping took.
    pub fn credentials(&self) -> Option<Credentials> {
        self.wire.trace().facts.map(|facts| facts.credentials)
    }
}

fn excerpt(body: &[u8]) -> String {
    printable(String::from_utf8_lossy(&body[..body.len().min(200)]).trim())
}
