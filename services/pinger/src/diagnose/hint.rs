//! What to do about a failure: what the server showed says more than the reason alone.

use actix_web::http::header::LOCATION;
use chassis::{
    config::MinTlsVersion,
    failure::{Failure, FailureReason},
    tls::clock::format_rfc3339,
};

use super::{args::FLAGS, seen::Seen};
use crate::phase::Phase;

const UNTRUSTED_CLIENT: &str = "Add the root above the client certificate to the server's bundle of client CAs, or present a certificate of a CA that the server trusts.";

const NO_ROOTS: &str = "Name the trust bundle with the server's root (`ponger.acceptCert`): the system has no roots here, as in an image.";

const SEND_LESS: &str = "Have the server send its certificate and the intermediates between it and the root, and nothing else.";

/// What to do about `failure`. `remedy` is what the certificate shows at which verification stopped.
pub(super) fn hint(seen: &Seen<'_>, failure: &Failure, remedy: Option<&str>) -> String {
    let hint = match (failure.reason, remedy) {
        (FailureReason::TlsUntrusted, _) if seen.roots() == Some(0) => NO_ROOTS.to_owned(),
        (FailureReason::TlsUntrusted, Some(remedy)) => {
            let (first, rest) = remedy.split_at(remedy.chars().next().map_or(0, char::len_utf8));
            format!("{}{rest}.", first.to_uppercase())
        }
        _ => specific(seen, failure).unwrap_or_else(|| failure.reason.hint().to_owned()),
    };
    if seen.args.url.is_none() {
        return hint;
    }
    FLAGS.iter().fold(hint, |hint, (key, flag)| hint.replace(&format!("`{key}`"), flag))
}

/// What to do about `failure`, where what was seen says more than its reason.
fn specific(seen: &Seen<'_>, failure: &Failure) -> Option<String> {
    let cause = failure.cause.as_str();
    let speaks_http_2 = cause.contains("HTTP/2") || cause.contains("no_application_protocol");
    let text = match failure.reason {
        FailureReason::TlsRefusedByPeer | FailureReason::Body if speaks_http_2 => {
            "Enable HTTP/1.1 on the server: pinger speaks no other version."
        }
        FailureReason::Body if cause.contains("it is TLS") => {
            "Use an `https` URL in `ponger.url`, without --insecure: what answers there speaks TLS."
        }
        // The size of a chain is checked before its certificates.
        FailureReason::TlsUntrusted if cause.contains(" are accepted") => SEND_LESS,
        FailureReason::TlsUntrusted => {
            "If this is the right server: add the root above that certificate, or the certificate itself if it is self-signed, to the trust bundle (`ponger.acceptCert`), or have the server send the intermediate that is missing."
        }
        FailureReason::TlsRefusedByPeer => return rejection(seen, cause),
        FailureReason::TlsProtocol if cause.contains("64 KiB") => SEND_LESS,
        FailureReason::TlsProtocol if cause.contains("did not speak TLS") => {
            "Correct the host or the port in `ponger.url`: what answers there speaks another protocol, or a proxy before it does."
        }
        FailureReason::TlsProtocol => return version(seen, cause),
        FailureReason::TlsWrongName if !seen.has_names() => {
            "Reissue the certificate with the name as a subject alternative name (SAN): the common name in its subject does not count."
        }
        FailureReason::TlsWrongName => {
            "Request one of these names in `ponger.url`, expect one of them by `ponger.serverName`, or reissue the certificate."
        }
        FailureReason::TlsExpired => {
            return Some(format!(
                "Renew that certificate on the server. If that was done, check that the server has loaded it, and compare the clocks: here it is {}.",
                format_rfc3339(seen.now)
            ));
        }
        FailureReason::TlsNotYetValid => {
            return Some(format!(
                "Compare the clocks, or wait: here it is {}.",
                format_rfc3339(seen.now)
            ));
        }
        FailureReason::Body if seen.status().is_none() || cause.contains("HTTP/1.1") => {
            "Request a port at which the server speaks HTTP/1.1, and a path with a short response head."
        }
        FailureReason::Status | FailureReason::Denied => {
            return client_certificate(seen).or_else(|| status(seen));
        }
        FailureReason::Reset if seen.outcome.trace.phase == Phase::Tls => {
            "The server or something between closed the connection in the handshake. Check its log, its limits of connections, and whether it expects something before TLS, such as the PROXY protocol of a load balancer."
        }
        FailureReason::Reset => {
            "The server or something between closed the connection. Check its log and restarts, its limits of connections, and the proxies before it."
        }
        FailureReason::RequestTimeout => {
            "The server was reached, and took too long: check its load and its log, or wait longer (`timeout`)."
        }
        _ => return None,
    };
    Some(text.to_owned())
}

/// About a handshake that the server rejected.
fn rejection(seen: &Seen<'_>, cause: &str) -> Option<String> {
    let text = if cause.contains("unrecognized_name") {
        "Request a name that the server serves, in `ponger.url` or by `ponger.serverName`."
    } else if seen.is_certificate_sent() && cause.contains("unknown_ca") {
        UNTRUSTED_CLIENT
    } else if seen.is_certificate_sent() && cause.contains("certificate_expired") {
        "Compare the server's clock with the validity of the client certificate, and renew the certificate."
    } else {
        let version = || version(seen, cause);
        return client_certificate(seen).or_else(version).or_else(|| before_certificate(seen));
    };
    Some(text.to_owned())
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
        "The server asked for a client certificate, and none is configured: set `ponger.clientCertificate` and `ponger.clientPrivateKey`.".to_owned()
    })
}

/// About a server without a TLS version that is accepted.
fn version(seen: &Seen<'_>, cause: &str) -> Option<String> {
    if !cause.contains("minTlsVersion") && !cause.contains("protocol_version") {
        return None;
    }
    Some(match seen.config.ponger.min_tls_version {
        MinTlsVersion::V1_3 => "The server does not support TLS 1.3: enable it there, with a certificate whose key TLS 1.3 allows, such as ECDSA on P-256, or accept TLS 1.2 (`ponger.minTlsVersion`).".to_owned(),
        MinTlsVersion::V1_2 => "The server supports neither TLS 1.2 nor 1.3, and older versions are not secure: enable one of them there.".to_owned(),
    })
}

/// About a server that ended the handshake before it presented a certificate.
fn before_certificate(seen: &Seen<'_>) -> Option<String> {
    let name = seen.target.server_name.as_ref().filter(|_| seen.handshake.verified.is_none())?;
    Some(format!(
        "The server ended the handshake before it presented a certificate. Check in its log and configuration that it serves the name `{}` and supports TLS 1.3 (or 1.2, if `ponger.minTlsVersion` allows it) with AES-GCM or ChaCha20, the group X25519, P-256 or P-384, and a key on P-256, P-384 or P-521, of Ed25519 or of RSA.",
        name.to_str()
    ))
}

/// About a status that was not expected.
fn status(seen: &Seen<'_>) -> Option<String> {
    let response = seen.outcome.trace.response.as_ref()?;
    Some(match response.status {
        300..=399 if response.headers.iter().any(|(name, _)| *name == LOCATION) => "The server redirects, which is not followed: request the URL in its header `location`.".to_owned(),
        // nginx completes the handshake with any client.
        400 if seen.is_certificate_sent() => format!("If the body is about the certificate, the server does not trust it. {UNTRUSTED_CLIENT}"),
        401 => "The server requires an authentication that pinger does not have: request a path that needs none.".to_owned(),
        403 => "The server denies access to this client: allow it there (in ponger, by `service.allowedClients`), or present another certificate.".to_owned(),
        404 if seen.target.path == "/ping" => "The server has nothing at /ping, which is requested where a URL has no path: add the path to the URL, such as `/`.".to_owned(),
        500.. => "The server was reached, and failed by itself: read its log.".to_owned(),
        _ => "The server was reached: correct the path in the URL, or the expected status (`expect.status`).".to_owned(),
    })
}
