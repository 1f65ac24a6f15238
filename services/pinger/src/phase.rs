//! The phases of a ping, and what is recorded while it goes through them.

use std::{
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use actix_web::{
    http::{
        Version,
        header::{self, HeaderMap, HeaderName, HeaderValue},
    },
    web::Bytes,
};
use chassis::{
    failure::{Failure, FailureReason},
    tls::{client::ClientTls, credentials::ConnectionCredentials, handshake_info::HandshakeInfo},
};

/// How many bytes of a response are kept to say what it is, if it is not HTTP/1.1.
const MAX_RESPONSE_START: usize = 64;

/// The headers of a response that are kept: what a person needs to understand it.
static KEPT_HEADERS: [HeaderName; 6] = [
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::LOCATION,
    header::SERVER,
    header::VIA,
    header::WWW_AUTHENTICATE,
];

/// A phase of a ping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// The name is looked up.
    #[default]
    Resolve,
    /// A TCP connection is made.
    Connect,
    /// The handshake is made.
    Tls,
    /// The request was sent, and ponger processes it.
    Processing,
    /// The response is being received.
    Transfer,
}

impl Phase {
    /// Every phase, in order.
    pub const ALL: [Self; 5] =
        [Self::Resolve, Self::Connect, Self::Tls, Self::Processing, Self::Transfer];

    /// The reason for a ping whose time runs out in this phase.
    pub const fn timeout_reason(self) -> FailureReason {
        match self {
            Self::Resolve => FailureReason::Resolve,
            Self::Connect => FailureReason::ConnectTimeout,
            Self::Tls => FailureReason::TlsTimeout,
            Self::Processing | Self::Transfer => FailureReason::RequestTimeout,
        }
    }

    /// The name in logs and labels.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Processing => "processing",
            Self::Transfer => "transfer",
        }
    }
}

/// The other end of a connection.
#[derive(Clone, Debug, Default)]
pub struct ConnectionInfo {
    /// The address that was connected to.
    pub address: Option<SocketAddr>,
    /// How often the first packet, the SYN, was sent again because no answer came.
    pub syn_retransmits: u32,
    /// What the handshake negotiated; `None` without TLS.
    pub handshake: Option<HandshakeInfo>,
    /// The certificates of both ends; `None` without TLS.
    pub credentials: Option<Rc<ConnectionCredentials<ClientTls>>>,
}

/// A server whose certificate no root of the trust bundle verifies.
#[derive(Clone, Debug)]
pub struct Untrusted {
    /// The issuer that the presented chain ends with.
    pub issuer: String,
    /// The roots of the trust bundle.
    pub trusted_roots: String,
}

/// An attempt to connect to an address.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The address.
    pub address: SocketAddr,
    /// How long it took.
    pub duration: Duration,
    /// Why it failed; `None` if it did not.
    pub failure: Option<Failure>,
}

/// A response, as far as it arrived.
#[derive(Clone, Debug)]
pub struct Response {
    /// The protocol's version.
    pub version: Version,
    /// The status code.
    pub status: u16,
    /// Of the headers, those that say what it is: of each name, the first.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body, if it arrived and is not longer than is read.
    pub body: Option<Bytes>,
}

impl Response {
    /// A response whose head has arrived.
    pub(crate) fn from_head(version: Version, status: u16, headers: &HeaderMap) -> Self {
        let kept =
            KEPT_HEADERS.iter().filter_map(|name| Some((name.clone(), headers.get(name)?.clone())));
        Self { version, status, headers: kept.collect(), body: None }
    }
}

/// What was recorded of one ping.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// The phase that it is in, or that it ended in.
    pub phase: Phase,
    /// How long each phase took that it went through.
    pub times: Vec<(Phase, Duration)>,
    /// When each phase began, in their order.
    starts: [Option<Instant>; 5],
    /// The connection that it used.
    pub info: Option<ConnectionInfo>,
    /// Whether that connection was there before.
    pub reused: bool,
    /// The response, as far as it arrived.
    pub response: Option<Response>,
    /// Whether the response is one of HTTP/1.1 whose body ends with the connection.
    pub ends_with_connection: bool,
    /// Whether the server closed the connection while more was read.
    pub is_closed: bool,
    /// The addresses that the name was resolved to.
    pub addresses: Vec<SocketAddr>,
    /// The attempts to connect to them, in turn.
    pub attempts: Vec<Attempt>,
    /// The first bytes of the response.
    pub response_start: Vec<u8>,
    /// How many bytes of the response were received.
    pub response_bytes: usize,
    /// The first failure.
    pub failure: Option<Failure>,
    /// Whether that was an alert about this end's certificate.
    pub certificate_rejected: bool,
    /// Whom the server's certificate is from, if that is why it was rejected.
    pub untrusted: Option<Untrusted>,
    began: Option<Instant>,
}

impl Trace {
    /// Ends the current phase, and begins `phase`.
    pub(crate) fn enter(&mut self, phase: Phase) {
        self.leave();
        self.phase = phase;
        self.began = Some(Instant::now());
        self.starts[phase as usize] = self.began;
    }

    /// When `phase` began; `None` if it did not.
    pub fn start_of(&self, phase: Phase) -> Option<Instant> {
        self.starts[phase as usize]
    }

    /// The failures of the addresses that could not be connected to.
    pub fn failed_attempts(&self) -> impl Iterator<Item = &Failure> {
        self.attempts.iter().filter_map(|attempt| attempt.failure.as_ref())
    }

    /// Records that `bytes` of the response were received.
    pub(crate) fn received(&mut self, bytes: &[u8]) {
        if self.phase == Phase::Processing && !bytes.is_empty() {
            self.enter(Phase::Transfer);
        }
        self.response_bytes += bytes.len();
        let missing = MAX_RESPONSE_START.saturating_sub(self.response_start.len());
        self.response_start.extend_from_slice(&bytes[..bytes.len().min(missing)]);
    }

    /// The phase that took longest, of those that ended.
    pub fn slowest(&self) -> Option<Phase> {
        self.times.iter().max_by_key(|(_, time)| *time).map(|(phase, _)| *phase)
    }

    /// Ends the current phase.
    pub fn leave(&mut self) {
        if let Some(began) = self.began.take() {
            self.times.push((self.phase, began.elapsed()));
        }
    }

    /// Records a failure, unless there was one before.
    pub(crate) fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
    }
}
