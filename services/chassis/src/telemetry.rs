//! Logs: the original's messages, with facts as fields beside them.
//!
//! - [`mod@format`]: how an event is written as a line, as text or as JSON
//! - `queue`: lines that wait for standard output to be read

pub mod format;
mod queue;

use std::{
    io::{self, IsTerminal as _},
    panic,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer as _, filter::Targets, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use self::{
    format::{Json, Text},
    queue::LogQueue,
};
use crate::{
    config::{Log, LogFormat, LogLevel, LogPings},
    error::ConfigError,
    metrics::Metrics,
};

/// How often a service without TLS warns of that.
const INSECURE_REMINDER: Duration = Duration::from_secs(60);

/// How often dropped lines are counted.
const DROPPED_INTERVAL: Duration = Duration::from_secs(1);

/// Whether lines are JSON, once [`init`] has chosen.
static IS_JSON: AtomicBool = AtomicBool::new(false);

/// Writes the queued lines when it is dropped, and waits a moment for that.
#[derive(Debug)]
pub struct LogGuard(Arc<LogQueue>);

impl Drop for LogGuard {
    fn drop(&mut self) {
        self.0.flush();
    }
}

/// Begins to log to standard output, by a queue and a thread: a log that is not read must not stop
/// the service. Panics are logged too. A second call in the same process changes nothing.
///
/// # Errors
/// When no further thread can be started.
pub fn init(settings: &Log) -> Result<LogGuard, ConfigError> {
    let level = filter(settings.level);
    // Our own events, and what libraries report that an operator should see. actix's and rustls' own
    // lines about connections are off: peers that send garbage would fill the log with them, and we
    // count and log those connections ourselves.
    let targets = Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_targets(["actix_http", "rustls"].map(|library| (library, LevelFilter::OFF)))
        .with_targets(["chassis", "ponger", "pinger"].map(|own| (own, level)))
        .with_targets(ping_targets(settings.pings, level))
        .with_targets(settings.modules.iter().map(|own| (own.module.as_str(), filter(own.level))));
    let queue = LogQueue::start(io::stdout())
        .map_err(|error| ConfigError::new("the thread that writes the log", error))?;
    let queue = Arc::new(queue);
    let lines = fmt::layer().with_writer(Arc::clone(&queue));
    let lines = match settings.format {
        LogFormat::Text => lines.event_format(Text { time: true }).with_ansi(use_colors()).boxed(),
        LogFormat::Json => lines.event_format(Json).with_ansi(false).boxed(),
    };
    if tracing_subscriber::registry().with(lines).with(targets).try_init().is_ok() {
        log_panics();
    }
    IS_JSON.store(settings.format == LogFormat::Json, Ordering::Relaxed);
    Ok(LogGuard(queue))
}

/// The levels of lines about pings that have not failed, where `level` is that of all lines.
pub fn ping_targets(pings: LogPings, level: LevelFilter) -> [(&'static str, LevelFilter); 2] {
    let level = if pings == LogPings::Failed { level.min(LevelFilter::WARN) } else { level };
    ["ponger::pings", "pinger::pings"].map(|target| (target, level))
}

/// Whether the log is JSON, so that what is written elsewhere can be the same.
pub fn is_json() -> bool {
    IS_JSON.load(Ordering::Relaxed)
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// Logs each panic, which otherwise goes to standard error alone: one in a thread or a task ends only
/// that.
fn log_panics() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        tracing::error!(
            thread = thread::current().name(),
            location = info.location().map(tracing::field::display),
            cause = info.payload_as_str(),
            "Thread panicked"
        );
        print(info);
    }));
}

impl LogGuard {
    /// Counts the lines that were dropped because nothing read the log or it could not be written, and
    /// logs how many once it can be written again.
    pub fn count_dropped(&self, metrics: &Metrics) {
        let counter = metrics.int_counter(
            "log_lines_dropped_total",
            "Log lines that were dropped because standard output was not read or could not be written.",
        );
        let queue = Arc::clone(&self.0);
        actix_rt::spawn(async move {
            let mut interval = actix_rt::time::interval(DROPPED_INTERVAL);
            loop {
                interval.tick().await;
                let new = queue.dropped().saturating_sub(counter.get());
                if new > 0 {
                    counter.inc_by(new);
                    tracing::warn!(
                        lines = new,
                        "Log lines were dropped: standard output was not read or could not be written"
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_panics_of_threads() {
        testkit::log::capture(&["chassis"]);
        log_panics();
        let thread = thread::Builder::new().name("a-task".into());
        thread.spawn(|| panic!("the cause")).unwrap().join().unwrap_err();
        let log = testkit::log::lines("a-task");
        let [line] = &log[..] else { panic!("one line: {log:?}") };
        for part in ["ERROR", "thread=\"a-task\"", "telemetry.rs:", "cause=\"the cause\""] {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
}
