//! The phases of a ping, and what is recorded while it goes through them.

use std::{
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use chassis::{
    failure::{Failure, FailureReason},
    tls::{client::ClientTls, credentials::ConnectionCredentials, handshake_info::HandshakeInfo},
};

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

/// What was recorded of one ping.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// The phase that it is in, or that it ended in.
    pub phase: Phase,
    /// How long each phase took that it went through.
    pub times: Vec<(Phase, Duration)>,
    /// The connection that it used.
    pub info: Option<ConnectionInfo>,
    /// Whether that connection was there before.
    pub reused: bool,
    /// The status code of the response.
    pub status: Option<u16>,
    /// The addresses that could not be connected to, each with its cause.
    pub failed_attempts: Vec<String>,
    /// The first failure.
    pub failure: Option<Failure>,
    /// Whether that was an alert about this end's certificate.
    pub certificate_rejected: bool,
    began: Option<Instant>,
}

impl Trace {
    /// Ends the current phase, and begins `phase`.
    pub(crate) fn enter(&mut self, phase: Phase) {
        self.leave();
        self.phase = phase;
        self.began = Some(Instant::now());
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
