//! The report of a diagnosis. Its fields are those of `--json`: `services/README.md` describes them.

use chassis::tls::cert_info::CertInfo;
use serde::Serialize;

/// Everything about one ping.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was requested.
    pub url: String,
    /// Whether the ping was answered as expected.
    pub good: bool,
    /// What broke; `null` if `good`.
    pub failure: Option<ReportedFailure>,
    /// How long it took, in milliseconds.
    pub duration_ms: f64,
    /// What was required of the server.
    pub expected: Expected,
    /// The addresses, in the order in which they are tried.
    pub addresses: Vec<ReportedAddress>,
    /// The phases that were entered, in order.
    pub phases: Vec<ReportedPhase>,
    /// What the handshake negotiated; `null` if it was not completed.
    pub tls: Option<ReportedTls>,
    /// The certificate chain that the server presented; `null` if none arrived.
    pub chain: Option<ReportedChain>,
    /// The client certificate; `null` with plain HTTP.
    pub client_certificate: Option<ReportedClientCertificate>,
    /// The response; `null` if none arrived.
    pub response: Option<ReportedResponse>,
}

/// What broke.
#[derive(Clone, Debug, Serialize)]
pub struct ReportedFailure {
    /// The phase.
    pub phase: &'static str,
    /// The reason, from the closed list.
    pub reason: &'static str,
    /// What happened.
    pub cause: String,
    /// What to do about it.
    pub hint: String,
}

/// What was required of the server.
#[derive(Clone, Debug, Serialize)]
pub struct Expected {
    /// The trust bundle's file; `null` for the system's roots.
    pub trust_bundle: Option<String>,
    /// How many roots of it are valid now.
    pub roots: Option<usize>,
    /// The name in the server's certificate; `null` with plain HTTP.
    pub server_name: Option<String>,
    /// The SPIFFE ID in the server's certificate; `null` for any.
    pub server_id: Option<String>,
    /// The status, such as `200` or `2xx`.
    pub status: String,
}

/// An address of the server.
#[derive(Clone, Debug, Serialize)]
pub struct ReportedAddress {
    /// Address and port.
    pub address: String,
    /// `connected`, `failed`, `timeout` (the whole time ran out) or `not_tried`.
    pub result: &'static str,
    /// Why it failed.
    pub cause: Option<String>,
    /// How long that took, in milliseconds.
    pub duration_ms: Option<f64>,
}

/// A phase of the ping.
#[derive(Clone, Debug, Serialize)]
pub struct ReportedPhase {
    /// Its name.
    pub phase: &'static str,
    /// How long it took, in milliseconds.
    pub duration_ms: f64,
}

/// What a handshake negotiated.
#[derive(Clone, Debug, Serialize)]
pub struct ReportedTls {
    /// The version.
    pub version: &'static str,
    /// The cipher suite.
    pub cipher: &'static str,
    /// The key-exchange group.
    pub group: &'static str,
}

/// A certificate chain, and where its verification stopped.
#[derive(Clone, Debug, Serialize)]
pub struct ReportedChain {
    /// Whether chain, name and ID were accepted.
    pub verified: bool,
    /// The number, from 1, of the certificate at which verification stopped; `null` if it did not, or
    /// not at one certificate.
    pub stopped_at: Option<usize>,
    /// The first certificates, the leaf first.
    pub certificates: Vec<ReportedCertificate>,
    /// How many more there were.
    pub more_certificates: usize,
    /// Whether an OCSP response was stapled, which pinger does not use.
    pub ocsp_stapled: bool,
}

/// A certificate of the chain.
#[derive(Clone, Debug, Serialize)]
pub struct ReportedCertificate {
    /// What it says; absent if it cannot be read.
    #[serde(flatten)]
    pub info: Option<CertInfo>,
    /// How verification goes on from it.
    pub note: String,
}

/// What the server asked for, and what was sent.
#[derive(Clone, Debug, Serialize)]
pub struct ReportedClientCertificate {
    /// Whether the server asked for a certificate; `null` if the handshake ended before that.
    pub requested: Option<bool>,
    /// The certificate authorities that it names; any if empty.
    pub ca_names: Vec<String>,
    /// How many more it named.
    pub more_ca_names: usize,
    /// What this end has; `null` if none.
    pub configured: Option<CertInfo>,
    /// Whether it was sent: only to a server that was verified.
    pub sent: bool,
}

/// A response.
#[derive(Clone, Debug, Serialize)]
pub struct ReportedResponse {
    /// The protocol's version, such as `HTTP/1.1`.
    pub version: String,
    /// The status code.
    pub status: u16,
    /// Some of the headers.
    pub headers: Vec<(String, String)>,
    /// The start of the body, as far as it arrived; `null` if it is longer than is read, or could not be read.
    pub body: Option<String>,
    /// How many bytes of the body arrived; `null` as there.
    pub body_bytes: Option<usize>,
}
