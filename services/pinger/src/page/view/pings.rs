//! Sections about pings: whether they succeed, how fast they are, and which were lost.

use std::time::{Duration, UNIX_EPOCH};

use maud::{Markup, html};

use super::text::{breakable, hint, ms, percent, time};
use crate::{
    history::{FailureRecord, MAX_PINGS, PingRecord, Success},
    page::snapshot::Snapshot,
    phase::Phase,
};

/// How many of the latest pings say whether ponger answers.
const CURRENT: usize = 10;

fn current(snapshot: &Snapshot) -> &[PingRecord] {
    &snapshot.latest[snapshot.latest.len().saturating_sub(CURRENT)..]
}

/// How the latest pings ended, in a word that does not change with each ping.
pub(super) fn status(snapshot: &Snapshot) -> Markup {
    let current = current(snapshot);
    let lost = current.iter().filter(|ping| ping.reason.is_some()).count();
    let (class, text) = match lost {
        _ if current.is_empty() => ("wait", "Waiting for the first ping"),
        0 => ("good", "ponger answers"),
        lost if lost == current.len() => ("bad", "Every ping is lost"),
        _ => ("bad", "Some pings are lost"),
    };
    html! { p class={ "status " (class) } { (text) } }
}

/// What to do about the last failure, while it is among the latest pings.
pub(super) fn advice(snapshot: &Snapshot) -> Markup {
    let Some(reason) = current(snapshot).iter().rev().find_map(|ping| ping.reason) else {
        return html! {};
    };
    let cause = snapshot.failures.iter().find(|failure| failure.reason == reason);
    html! {
        p class="cause" {
            code { (reason.label()) } @if let Some(failure) = cause { " " (failure.cause) }
        }
        p { (hint(reason)) }
    }
}

/// The share of pongs in some time.
pub(super) fn success(success: Success) -> Markup {
    html! {
        @if success.pings() == 0 { b { "–" } " no ping" } @else {
            b class=[(success.lost > 0).then_some("bad")] { (percent(success)) }
            " " (success.pongs) " of " (success.pings())
        }
    }
}

/// How long the phases of the latest pongs took.
pub(super) fn phases(snapshot: &Snapshot) -> Markup {
    let pongs: Vec<_> = snapshot.latest.iter().filter(|ping| ping.reason.is_none()).collect();
    let row = |name: &str, class: &str, time: &dyn Fn(&PingRecord) -> u32| {
        let mut times: Vec<_> = pongs.iter().map(|ping| time(ping)).collect();
        let last = times.last().copied();
        times.sort_unstable();
        let (median, longest) = (times.get(times.len() / 2).copied(), times.last().copied());
        html! {
            tr class=(class) {
                th scope="row" { (name) }
                @for time in [last, median, longest] { td { (ms(time)) } }
            }
        }
    };
    html! {
        table {
            thead { tr {
                th scope="col" { "ms" }
                th scope="col" { "last" }
                th scope="col" { "median" }
                th scope="col" { "longest" }
            } }
            tbody {
                @for (at, phase) in Phase::ALL.iter().enumerate() {
                    (row(phase.label(), phase.label(), &|ping| ping.phases[at]))
                }
                (row("in all", "total", &|ping| ping.duration))
            }
        }
        p class="note" { "Of the last " (pongs.len()) " pongs, at most " (Snapshot::MAX_LATEST) "." }
    }
}

/// A row for each address that was connected to, of the pings that are kept.
pub(super) fn endpoints(snapshot: &Snapshot) -> Markup {
    html! {
        @if snapshot.endpoints.is_empty() { p class="note" { "No ping yet." } } @else {
            table {
                thead { tr {
                    th scope="col" { "address" }
                    th scope="col" { "success" }
                    th scope="col" { "last, ms" }
                } }
                tbody {
                    @for (address, endpoint) in &snapshot.endpoints {
                        tr {
                            th scope="row" {
                                @match address {
                                    None => "not connected",
                                    Some(address) if address.is_ipv4() => span class="whole" { (address) },
                                    Some(address) => (breakable(&address.to_string())),
                                }
                            }
                            td {
                                span class=[(endpoint.success.lost > 0).then_some("bad")] { (percent(endpoint.success)) }
                                " of " (endpoint.success.pings())
                            }
                            td {
                                @match endpoint.last {
                                    Some(PingRecord { reason: Some(reason), .. }) => code class="bad" { (breakable(reason.label())) },
                                    last => (ms(last.map(|ping| ping.duration))),
                                }
                            }
                        }
                    }
                }
            }
            p class="note" { "Of the last pings, at most " (MAX_PINGS) "." }
        }
    }
}

/// The last failures, each reason with what to do where it is first.
pub(super) fn failures(failures: &[FailureRecord]) -> Markup {
    let is_first =
        |at: usize| failures[..at].iter().all(|before| before.reason != failures[at].reason);
    html! {
        @if failures.is_empty() { p class="note" { "None since pinger was started." } } @else {
            ol reversed {
                @for (at, failure) in failures.iter().enumerate() {
                    li {
                        p {
                            (time(UNIX_EPOCH + Duration::from_millis(failure.ping.began)))
                            " " code class="bad" { (failure.reason.label()) }
                            span class="note" {
                                " ping " (failure.seq) ", phase " (failure.phase.label())
                                @if let Some(endpoint) = failure.ping.endpoint { ", " (endpoint) }
                            }
                        }
                        p class="cause" { (failure.cause) }
                        @if is_first(at) { p class="note" { (hint(failure.reason)) } }
                    }
                }
            }
        }
    }
}
