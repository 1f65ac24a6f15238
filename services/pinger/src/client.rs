//! One ping: request, response, and its outcome. Nothing is retried: a lost ping is a lost ping.

use std::{
    io,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use actix_web::error::ParseError;
use awc::{
    Connector,
    error::{PayloadError, SendRequestError},
    http::{
        Version,
        header::{CONTENT_LENGTH, TRANSFER_ENCODING, USER_AGENT},
    },
};
use chassis::{
    failure::{Failure, FailureReason},
    tls::{client::ClientTls, credentials::ConnectionCredentials},
    traces::context::TRACEPARENT,
};
use tokio::time::timeout;

use crate::{
    config::{Config, Target},
    connector::{ConnectorTls, PingConnector},
    expect::{BodyMatch, DENIALS, Expect, excerpt},
    phase::{Phase, Response, Trace},
};

/// The largest response body that is read, in bytes. `pong` has four, the status of another service
/// may have more.
const MAX_BODY: usize = 64 * 1024;

/// The outcome of a ping.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// `pong`, or why not.
    pub result: Result<(), Failure>,
    /// The address that had to be pinged; `None` for whichever accepts a connection.
    pub endpoint: Option<SocketAddr>,
    /// How long it took, from resolving the name to the last byte or the failure.
    pub duration: Duration,
    /// The phases that it went through.
    pub trace: Trace,
}

/// Sends pings to one ponger. Dropping it closes the connections that it keeps.
#[derive(Clone)]
pub struct PingClient {
    http: awc::Client,
    connector: PingConnector,
    url: Rc<str>,
    endpoint: Option<SocketAddr>,
    expect: Rc<Expect>,
    timeout: Duration,
    keep_alive: bool,
}

impl std::fmt::Debug for PingClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PingClient").field("url", &self.url).finish_non_exhaustive()
    }
}

impl PingClient {
    /// Creates a client of `target`, over TLS unless `tls` is `None`. A connection is kept for
    /// `keep_alive`.
    pub fn new(
        target: &Target,
        tls: Option<ConnectorTls>,
        config: &Config,
        keep_alive: Duration,
    ) -> Self {
        let connect_to = match target.endpoint {
            Some(endpoint) => endpoint.ip().to_string(),
            None => target.host.clone(),
        };
        let timeout = config.connect_timeout.0;
        let connector = PingConnector::new(connect_to, target.port, tls, timeout);
        Self::with_connector(connector, target, config, keep_alive)
    }

    /// As [`PingClient::new`], which connects by `connector`.
    pub fn with_connector(
        connector: PingConnector,
        target: &Target,
        config: &Config,
        keep_alive: Duration,
    ) -> Self {
        let Target { path, endpoint, .. } = target;
        let http = awc::Client::builder()
            .connector(
                Connector::new()
                    .connector(connector.clone())
                    // The ping has a timeout of its own; awc's limits must not come first.
                    .timeout(config.timeout.0 * 2)
                    .conn_keep_alive(keep_alive),
            )
            .disable_timeout()
            .disable_redirects()
            .add_default_header((USER_AGENT, concat!("pinger/", env!("CARGO_PKG_VERSION"))))
            .finish();
        // Plain HTTP to awc: TLS is the connector's part.
        let url = format!("http://{}{path}", target.authority()).into();
        Self {
            http,
            connector,
            url,
            endpoint: *endpoint,
            expect: Rc::new(config.expect.clone()),
            timeout: config.timeout.0,
            keep_alive: !keep_alive.is_zero(),
        }
    }

    /// Sends one ping.
    pub async fn ping(&self) -> Outcome {
        self.ping_in_trace(None).await
    }

    /// As [`PingClient::ping`], with the header `traceparent`.
    pub async fn ping_in_trace(&self, traceparent: Option<String>) -> Outcome {
        self.connector.begin();
        let began = Instant::now();
        let response = timeout(self.timeout, self.exchange(traceparent)).await;
        let result = response.unwrap_or_else(|_| Err(self.timed_out()));
        self.connector.end();
        self.outcome(result, began)
    }

    fn timed_out(&self) -> Failure {
        let unacknowledged = self.connector.unacknowledged();
        self.connector.with_trace(|trace| {
            let phase = trace.phase;
            let mut causes =
                vec![format!("timed out after {:?} in phase {}", self.timeout, phase.label())];
            if phase == Phase::Transfer {
                let count = trace.response_bytes;
                causes.push(format!("{count} bytes of the response were received"));
            }
            causes.extend(trace.failed_attempts().map(|failure| failure.cause.clone()));
            causes.extend(unacknowledged);
            Failure::new(phase.timeout_reason(), causes.join("; "))
        })
    }

    /// The outcome of a ping that is aborted now.
    pub fn aborted(&self, began: Instant) -> Outcome {
        let failure =
            Failure::new(FailureReason::Shutdown, "pinger stopped before the response arrived");
        self.outcome(Err(failure), began)
    }

    fn outcome(&self, result: Result<(), Failure>, began: Instant) -> Outcome {
        let (endpoint, duration, trace) =
            (self.endpoint, began.elapsed(), self.connector.take_trace());
        Outcome { result, endpoint, duration, trace }
    }

    async fn exchange(&self, traceparent: Option<String>) -> Result<(), Failure> {
        let peer = self.connector.peer();
        let mut request = self.http.get(&*self.url);
        if let Some(traceparent) = traceparent {
            request = request.insert_header((TRACEPARENT, traceparent));
        }
        if !self.keep_alive {
            request = request.force_close();
        }
        let mut response = request.send().await.map_err(|error| self.classify_send(&error))?;
        let status = response.status().as_u16();
        let content_length = response
            .headers()
            .get(CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse().ok());
        let ends_with_connection = self.connector.with_trace(|trace| trace.ends_with_connection);
        let version = if ends_with_connection { Version::HTTP_11 } else { response.version() };
        self.connector.record_response(Response::from_head(version, status, response.headers()));
        let checked = self.expect.check_head(peer, status, response.headers());
        let is_chunked = response.headers().contains_key(TRANSFER_ENCODING);
        let body = response.body().limit(MAX_BODY).await;
        if let Ok(body) = &body {
            self.connector.record_body(body.clone());
        }
        if DENIALS.contains(&status) && !self.expect.has_status(status) {
            let cause = match body.as_deref().map(excerpt) {
                Ok(text) if !text.is_empty() => format!(": {text}"),
                _ => String::new(),
            };
            return Err(Failure::new(
                FailureReason::Denied,
                format!("{peer} denied access to this identity{cause}"),
            ));
        }
        checked?;
        match body {
            // awc accepts a body that was cut off.
            Ok(body)
                if content_length.is_some_and(|length: usize| body.len() < length)
                    || is_chunked && self.connector.with_trace(|trace| trace.is_closed) =>
            {
                Err(self.cut_off())
            }
            Ok(body) => self.expect.check_body(peer, &body),
            // Of a body that does not matter, the length does not either.
            Err(PayloadError::Overflow) if self.expect.body_match == BodyMatch::Any => Ok(()),
            Err(error) => Err(self.classify_body(&error)),
        }
    }

    fn classify_send(&self, error: &SendRequestError) -> Failure {
        // The connector's failure is more precise than awc's.
        let (peer, mut trace) = (self.connector.peer(), self.connector.trace());
        if let Some(failure) = trace.failure.take() {
            return failure;
        }
        match error {
            SendRequestError::Response(ParseError::TooLarge) => Failure::new(
                FailureReason::Body,
                format!("{peer}'s response has too many headers, or too long ones"),
            ),
            SendRequestError::Response(error)
                if !matches!(error, ParseError::Incomplete | ParseError::Io(_)) =>
            {
                Failure::new(
                    FailureReason::Body,
                    format!("{peer}'s response is not valid HTTP/1.1{}", start_of(&trace)),
                )
            }
            _ if trace.response_bytes > 0 => self.cut_off(),
            _ => Failure::new(
                FailureReason::Reset,
                format!("{peer} closed the connection before it responded"),
            ),
        }
    }

    fn classify_body(&self, error: &PayloadError) -> Failure {
        let (peer, mut trace) = (self.connector.peer(), self.connector.trace());
        if let Some(failure) = trace.failure.take() {
            return failure;
        }
        match error {
            PayloadError::Overflow => Failure::new(
                FailureReason::Body,
                format!("{peer}'s response is longer than {MAX_BODY} bytes"),
            ),
            PayloadError::Incomplete(Some(error))
                if error.kind() == io::ErrorKind::InvalidInput =>
            {
                Failure::new(
                    FailureReason::Body,
                    format!("{peer}'s response is not valid HTTP/1.1{}", start_of(&trace)),
                )
            }
            _ => self.cut_off(),
        }
    }

    fn cut_off(&self) -> Failure {
        let cause = format!(
            "{} closed the connection before its response was complete",
            self.connector.peer()
        );
        Failure::new(FailureReason::Reset, cause)
    }

    /// Whether connections are kept for the next ping.
    pub fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    /// The certificates of the connection that the last ping used.
    pub fn credentials(&self) -> Option<Rc<ConnectionCredentials<ClientTls>>> {
        self.connector.with_trace(|trace| trace.info.as_ref()?.credentials.clone())
    }
}

/// What the response of a ping begins with, for a person; nothing if nothing arrived.
fn start_of(trace: &Trace) -> String {
    let start = trace.response_start.as_slice();
    match start {
        [] => String::new(),
        // The type of the first frame of HTTP/2 is SETTINGS, of stream 0 (RFC 9113, 3.4).
        [0, 0, _, 4, _, 0, 0, 0, 0, ..] => "; it is HTTP/2".to_owned(),
        // A record of TLS is an alert or of a handshake, of version 3.x (RFC 8446, 5.1).
        [21 | 22, 3, 0..=4, ..] => "; it is TLS: use an `https` URL".to_owned(),
        _ => format!("; it begins with `{}`", excerpt(start)),
    }
}
