//! What to do about a failure: what the server showed says more than the reason alone.

use chassis::{
    config::MinTlsVersion,
    failure::{Failure, FailureReason},
    tls::clock::format_rfc3339,
};

use super::seen::Seen;

/// Splits `cause`, that of `failure`, into what happened and what to do about it.
pub(super) fn split_hint(seen: &Seen<'_>, failure: &Failure, cause: &str) -> (String, String) {
    // What is wrong with a certificate comes with its remedy, where the reason alone does not say it.
    match (failure.reason, cause.split_once("; ")) {
        (FailureReason::TlsUntrusted, Some((cause, remedy))) => {
            let (first, rest) = remedy.split_at(remedy.chars().next().map_or(0, char::len_utf8));
            (cause.to_owned(), format!("{}{rest}.", first.to_uppercase()))
        }
        (
            FailureReason::TlsExpired | FailureReason::TlsNotYetValid | FailureReason::TlsWrongName,
            Some((cause, _)),
        ) => (cause.to_owned(), hint(seen, failure)),
        _ => (cause.to_owned(), hint(seen, failure)),
    }
}

/// What to do about `failure`.
fn hint(seen: &Seen<'_>, failure: &Failure) -> String {
    let speaks_http_2 =
        failure.cause.contains("HTTP/2") || failure.cause.contains("no_application_protocol");
    let specific = match failure.reason {
        FailureReason::TlsRefusedByPeer | FailureReason::Body if speaks_http_2 => {
            Some("Enable HTTP/1.1 on the server: pinger speaks no other version.".to_owned())
        }
        FailureReason::TlsUntrusted => Some("If this is the right server: add the root above that certificate, or the certificate itself if it is self-signed, to the trust bundle (--accept-cert, `ponger.acceptCert`), or have the server send the intermediate that is missing.".to_owned()),
        FailureReason::TlsRefusedByPeer => {
            let version = || version(seen, &failure.cause);
            client_certificate(seen).or_else(version).or_else(|| before_certificate(seen))
        }
        FailureReason::TlsProtocol if failure.cause.contains("64 KiB") => Some(
            "Have the server send its certificate and the intermediates, and nothing else.".to_owned(),
        ),
        FailureReason::TlsProtocol => version(seen, &failure.cause),
        FailureReason::Body if seen.status().is_none() => Some(
            "Request a port at which the server speaks HTTP/1.1, and a path with a short response head.".to_owned(),
        ),
        FailureReason::TlsExpired | FailureReason::TlsNotYetValid => {
            let now = format_rfc3339(seen.now);
            Some(format!("{} Here it is {now}.", failure.reason.hint()))
        }
        FailureReason::Status | FailureReason::Denied => {
            client_certificate(seen).or_else(|| status(seen))
        }
        _ => None,
    };
    specific.unwrap_or_else(|| failure.reason.hint().to_owned())
}

/// About a client certificate that the server asked for and did not get.
fn client_certificate(seen: &Seen<'_>) -> Option<String> {
    let request = seen.handshake.certificate_request.as_ref()?;
    if request.has_usable_key
        || seen.status().is_some_and(|status| !matches!(status, 400 | 401 | 403))
    {
        return None;
    }
    Some(if request.has_certificate {
        "The server accepts no signature that the key of the client certificate can make: use a key of another type, such as ECDSA on P-256.".to_owned()
    } else {
        "The server asked for a client certificate, and none is configured: give --client-certificate and --client-private-key (`ponger.clientCertificate`, `ponger.clientPrivateKey`).".to_owned()
    })
}

/// About a server without a TLS version that is accepted.
fn version(seen: &Seen<'_>, cause: &str) -> Option<String> {
    if !cause.contains("minTlsVersion") && !cause.contains("protocol_version") {
        return None;
    }
    Some(match seen.config.ponger.min_tls_version {
        MinTlsVersion::V1_3 => "The server does not support TLS 1.3: enable it there, or accept TLS 1.2 with --min-tls-version 1.2 (`ponger.minTlsVersion`).".to_owned(),
        MinTlsVersion::V1_2 => "The server supports neither TLS 1.2 nor 1.3, and older versions are not secure: enable one of them there.".to_owned(),
    })
}

/// About a server that ended the handshake before it presented a certificate.
fn before_certificate(seen: &Seen<'_>) -> Option<String> {
    let name = seen.target.server_name.as_ref().filter(|_| seen.handshake.verified.is_none())?;
    Some(format!(
        "The server ended the handshake before it presented a certificate. Check in its log and configuration that it serves the name `{}` and supports TLS 1.3 (or 1.2, with --min-tls-version 1.2) with AES-GCM or ChaCha20, the group X25519, P-256 or P-384, and a key on P-256, P-384 or P-521, of Ed25519 or of RSA.",
        name.to_str()
    ))
}

/// About a status that was not expected.
fn status(seen: &Seen<'_>) -> Option<String> {
    let response = seen.outcome.trace.response.as_ref()?;
    Some(match response.status {
        300..=399 if response.headers.contains_key("location") => "The server redirects, which is not followed: request the URL in its header `location`.".to_owned(),
        401 => "The server requires an authentication that pinger does not have: request a path that needs none.".to_owned(),
        403 => "The server denies access to this client: allow it there (in ponger, by `service.allowedClients`), or present another certificate.".to_owned(),
        404 if seen.target.path == "/ping" => "The server has nothing at /ping, which is requested where a URL has no path: add the path to the URL, such as `/`.".to_owned(),
        500.. => "The server was reached, and failed by itself: read its log.".to_owned(),
        _ => "The server was reached: correct the path in the URL, or the expected status (--expect-status, `expect.status`).".to_owned(),
    })
}
