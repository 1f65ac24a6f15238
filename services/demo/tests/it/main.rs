//! The demonstration, as a person sees it; what its two services together show of the project's documents;
//! and real peers of theirs, Prometheus and an OpenTelemetry collector.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod prometheus;
mod reference;
mod run;
mod tour;
mod traces;
