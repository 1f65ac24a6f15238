//! The page as HTML. Each section has an `id`, by which the script replaces it. Everything is escaped by
//! maud, and what comes from a peer was made printable before.
//!
//! - [`pings`], [`identity`]: the sections
//! - [`text`]: what several of them write

mod identity;
mod pings;
mod text;

use chassis::failure::FailureReason;
use maud::{DOCTYPE, Markup, html};

use self::text::{breakable, hint, time};
use super::snapshot::{RANGES, Snapshot, Source};

/// The whole page.
pub(super) fn document(source: &Source, snapshot: &Snapshot) -> Markup {
    let mut sections = sections(source, snapshot);
    let mut section = |id| {
        let at = sections.iter().position(|(known, _)| *known == id).expect("a known section");
        sections.swap_remove(at).1
    };
    let url = source.config.ponger.url.as_deref().unwrap_or_default();
    let slow_after = source.config.slow_after;
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                meta name="color-scheme" content="light dark";
                title { "pinger: " (url) }
                link rel="icon" href="icon.svg";
                link rel="stylesheet" href="uPlot.css";
                link rel="stylesheet" href="page.css";
                script src="uPlot.js" defer {}
                script src="page.js" defer {}
            }
            body {
                main {
                    header {
                        h1 { "pinger " span aria-hidden="true" { "→" } " " span class="url" { (breakable(url)) } }
                        p id="connection" role="status" {
                            noscript { "Without script, this page shows the moment at which it was loaded." }
                        }
                    }
                    div id="alerts" { (section("alerts")) }
                    div id="status" role="status" { (section("status")) }
                    div id="advice" { (section("advice")) }
                    div id="parties" { (section("parties")) }
                    section aria-labelledby="success-title" {
                        h2 id="success-title" { "Success" }
                        div class="ranges" role="radiogroup" aria-labelledby="success-title" {
                            @for ((duration, name), id) in RANGES.iter().zip(SUCCESS_IDS) {
                                label {
                                    input type="radio" name="range" value=(duration.as_secs())
                                        checked[*name == RANGES[0].1];
                                    span class="range" { "last " (name) }
                                    span id=(id) class="rate" { (section(id)) }
                                }
                            }
                        }
                        figure id="latency" hidden {
                            figcaption id="latency-title" {
                                "Latency of each ping, by phase. ✕ is lost"
                                @if !slow_after.0.is_zero() { ", △ slower than " (slow_after) }
                            }
                            div id="plot" data-slow-after=[(!slow_after.0.is_zero()).then_some(slow_after.0.as_millis())] role="slider" tabindex="0" aria-labelledby="latency-title"
                                aria-valuemin="0" aria-valuemax="0" aria-valuenow="0" aria-valuetext="no ping" {}
                            p id="readout" aria-hidden="true" {}
                        }
                    }
                    div class="columns" {
                        (titled("phases", "Phases", &section("phases")))
                        (titled("endpoints", "Endpoints", &section("endpoints")))
                    }
                    (titled("failures", "Last failures", &section("failures")))
                    (titled("certificates", "Certificates", &section("certificates")))
                    (titled("probe", "Rejection probe", &section("probe")))
                    details {
                        summary { "What to do about each reason" }
                        dl id="hints" {
                            @for reason in FailureReason::ALL {
                                dt { code { (reason.label()) } }
                                dd data-reason=(reason.label()) { (hint(*reason)) }
                            }
                        }
                    }
                    footer {
                        p {
                            "pinger " (env!("CARGO_PKG_VERSION")) ", started " (time(source.started)) ", pings after a random pause of 0 to "
                            (source.config.interval) ". "
                            a href=(source.config.metrics.endpoint.trim_start_matches('/')) { "Metrics" } ", "
                            a href="readyz" { "readiness" } "."
                        }
                    }
                }
            }
        }
    }
}

/// A section with its heading.
fn titled(id: &str, title: &str, content: &Markup) -> Markup {
    html! {
        section aria-labelledby={ (id) "-title" } {
            h2 id={ (id) "-title" } { (title) }
            div id=(id) { (content) }
        }
    }
}

const SUCCESS_IDS: [&str; RANGES.len()] = ["success-1min", "success-10min", "success-1h"];

/// Each section's `id` and HTML.
pub(super) fn sections(source: &Source, snapshot: &Snapshot) -> Vec<(&'static str, Markup)> {
    let mut sections = vec![
        ("alerts", identity::alerts(source, snapshot)),
        ("status", pings::status(snapshot)),
        ("advice", pings::advice(snapshot)),
        ("parties", identity::parties(source, snapshot)),
        ("phases", pings::phases(snapshot)),
        ("endpoints", pings::endpoints(snapshot)),
        ("failures", pings::failures(&snapshot.failures)),
        ("certificates", identity::certificates(source, snapshot)),
        ("probe", identity::probe(source, &snapshot.probes)),
    ];
    sections.extend(SUCCESS_IDS.into_iter().zip(snapshot.success.map(pings::success)));
    sections
}
