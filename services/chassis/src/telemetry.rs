//! Logs: the original's messages, with facts as fields beside them.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    Layer as _, filter::Targets, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::{
    config::{Log, LogFormat, LogLevel},
    metrics::Metrics,
};

/// How often a service without TLS warns of that.
const INSECURE_REMINDER: Duration = Duration::from_secs(60);

/// How often dropped lines are counted.
const DROPPED_INTERVAL: Duration = Duration::from_secs(1);

/// How many lines wait for standard output to be read before further ones are dropped.
const MAX_QUEUED_LINES: usize = 4096;

/// How long the queued lines may take to be written at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Writes the queued lines when it is dropped, and waits a moment for that.
#[derive(Debug)]
pub struct LogGuard {
    dropped: ErrorCounter,
    worker: Option<WorkerGuard>,
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        // In a thread: the guard waits for standard output where its queue is full.
        let worker = self.worker.take();
        let (flushed, done) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            drop(worker);
            let _ = flushed.send(());
        });
        let _ = done.recv_timeout(FLUSH_TIMEOUT);
    }
}

/// Begins to log to standard output, by a queue and a thread: whoever does not read the log must not
/// stop the service. A second call in the same process changes nothing.
pub fn init(settings: &Log) -> LogGuard {
    let level = match settings.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // Our own events, and what libraries report that an operator should see. actix's and rustls' own
    // lines about connections are off: peers that send garbage would fill the log with them, and we
    // count and log those connections ourselves.
    let targets = Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_targets(["actix_http", "rustls"].map(|library| (library, LevelFilter::OFF)))
        .with_targets(["chassis", "ponger", "pinger"].map(|own| (own, level)));
    let (writer, worker) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(MAX_QUEUED_LINES)
        .thread_name("log")
        .finish(io::stdout());
    let dropped = writer.error_counter();
    let lines = fmt::layer().with_target(false).with_writer(writer);
    let lines = match settings.format {
        LogFormat::Text => lines.with_ansi(use_colors()).boxed(),
        LogFormat::Json => {
            lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
    };
    let _ = tracing_subscriber::registry().with(lines).with(targets).try_init();
    LogGuard { dropped, worker: Some(worker) }
}

impl LogGuard {
    /// Counts the lines that were dropped because nothing read the log, and logs how many once they
    /// can be written again.
    pub fn count_dropped(&self, metrics: &Metrics) {
        let counter = metrics.int_counter(
            "log_lines_dropped_total",
            "Log lines that were dropped because standard output was not read.",
        );
        let dropped = self.dropped.clone();
        actix_rt::spawn(async move {
            let mut interval = actix_rt::time::interval(DROPPED_INTERVAL);
            loop {
                interval.tick().await;
                let new = (dropped.dropped_lines() as u64).saturating_sub(counter.get());
                if new > 0 {
                    counter.inc_by(new);
                    tracing::warn!(
                        lines = new,
                        "Log lines were dropped: standard output was not read"
                    );
                }
            }
        });
    }
}

/// Whether to colour what is written to standard output: on a terminal that can, and not where
/// `NO_COLOR` asks not to (no-color.org).
pub fn use_colors() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal()
        && !is_set("NO_COLOR")
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Warns, now and once a minute, that TLS is disabled.
pub fn warn_insecure_periodically() {
    actix_rt::spawn(async {
        let mut reminder = actix_rt::time::interval(INSECURE_REMINDER);
        loop {
            reminder.tick().await;
            tracing::warn!(
                "TLS is disabled (`insecure: true`): traffic is neither encrypted nor authenticated"
            );
        }
    });
}
