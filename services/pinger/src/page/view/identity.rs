//! Sections about identities: who both are, how they are authenticated, and until when.

use std::time::{Duration, UNIX_EPOCH};

use chassis::tls::clock::duration_until;
use maud::{Markup, html};
use rustls::pki_types::UnixTime;

use super::text::{breakable, roughly, time};
use crate::{
    page::snapshot::{Certificate, Snapshot, Source},
    rejection_probe::{LastProbe, ProbeResult},
};

/// Why pinger is not ready, and what a person should know.
pub(super) fn alerts(source: &Source, snapshot: &Snapshot) -> Markup {
    html! {
        @if source.identity.is_none() {
            p class="alert bad" { "TLS is disabled: traffic is neither encrypted nor authenticated." }
        }
        @for reason in &snapshot.not_ready { p class="alert bad" { "Not ready: " (reason) } }
        @for warning in &snapshot.warnings { p class="alert" { "Warning: " (warning) } }
    }
}

/// Both ends of a connection, and what they negotiated.
pub(super) fn parties(source: &Source, snapshot: &Snapshot) -> Markup {
    let negotiated = |name: &str, value: &str| html! { div { dt { (name) } dd { (value) } } };
    let expected = source.config.ponger.server_id.as_deref();
    let kind = match (&source.identity, &snapshot.own_id) {
        (None, _) => "plain HTTP",
        (Some(_), None) => "TLS, pinger presents no certificate",
        (Some(_), Some(_)) => "mutual TLS",
    };
    html! {
        div class="party" {
            strong { "pinger" @if let Some(node) = &source.config.node { " on node " (node) } }
            span class="id" { (breakable(snapshot.own_id.as_deref().unwrap_or("no certificate"))) }
        }
        div class="link" {
            p { (kind) @if snapshot.handshake.is_none() && source.identity.is_some() { ", no handshake yet" } }
            @if let Some(handshake) = &snapshot.handshake {
                dl {
                    (negotiated("version", handshake.version))
                    (negotiated("cipher", handshake.cipher))
                    (negotiated("key exchange", handshake.group))
                }
            }
        }
        div class="party" {
            strong { "ponger" }
            span class="id" {
                @match (snapshot.peer_id.as_deref(), expected) {
                    (Some(peer), _) => (breakable(peer)),
                    (None, Some(expected)) => { "expected: " (breakable(expected)) },
                    (None, None) => "not known yet",
                }
            }
        }
    }
}

/// The certificate chains of both ends, and the trust bundle.
pub(super) fn certificates(source: &Source, snapshot: &Snapshot) -> Markup {
    let now = snapshot.now;
    let chain = |name: &str, chain: &[Certificate], none: &str| {
        html! {
            article {
                h3 { (name) }
                @if chain.is_empty() { p class="note" { (none) } } @else {
                    ol { @for one in chain { li { (certificate(one, now)) } } }
                }
            }
        }
    };
    html! {
        @if source.identity.is_none() { p class="note" { "TLS is disabled." } } @else {
            div class="chains" {
                (chain("pinger", &snapshot.own, "pinger presents no certificate."))
                (chain("ponger, as last presented", &snapshot.peer, "No handshake was completed yet."))
            }
            @if let Some(roots) = &snapshot.roots {
                p class=[roots.expires_soon.then_some("warn")] {
                    "Trust bundle: " (roots.count) @if roots.count == 1 { " root, which " } @else { " roots, the first of which " }
                    (expiry(roots.validity.not_after, now))
                }
            }
        }
    }
}

fn certificate(certificate: &Certificate, now: UnixTime) -> Markup {
    let info = &certificate.info;
    html! {
        p { strong { (certificate.name()) } }
        @if !info.dns_names.is_empty() { p class="note" { (info.dns_names.join(", ")) } }
        p class="note" { (info.key) ", issued by " (info.issuer) }
        p class=[certificate.expires_soon.then_some("warn")] { (expiry(certificate.validity.not_after, now)) }
    }
}

fn expiry(not_after: UnixTime, now: UnixTime) -> Markup {
    let at = time(UNIX_EPOCH + Duration::from_secs(not_after.as_secs()));
    html! {
        @if now > not_after { "has expired: " (at) } @else {
            "expires in " (roughly(duration_until(not_after, now))) ": " (at)
        }
    }
}

/// The last rejection probes.
pub(super) fn probe(source: &Source, probes: &[LastProbe]) -> Markup {
    let interval = source.config.rejection_probe.interval;
    html! {
        @if interval.0.is_zero() {
            p class="note" { "Off. With " code { "rejectionProbe.interval" } ", pinger verifies that ponger rejects untrusted clients." }
        } @else if probes.is_empty() { p class="note" { "None yet; one every " (interval) "." } } @else {
            ul {
                @for probe in probes {
                    @let class = match probe.result {
                        ProbeResult::Rejected => "good",
                        ProbeResult::Accepted => "bad",
                        ProbeResult::Inconclusive => "warn",
                    };
                    li {
                        p {
                            code { (probe.credential.label()) } ": " strong class=(class) { (probe.result.label()) }
                            ", " (time(probe.ended))
                            @if let Some(endpoint) = probe.endpoint { ", " (endpoint) }
                        }
                        @if let Some(cause) = &probe.cause { p class="note" { (cause) } }
                    }
                }
            }
        }
    }
}
