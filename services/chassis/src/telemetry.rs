//! Logs: the original's messages, with facts as fields beside them.

use std::{io::IsTerminal as _, time::Duration};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer as _, filter::Targets, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::config::{Log, LogFormat, LogLevel};

/// How often a service without TLS says so.
const INSECURE_REMINDER: Duration = Duration::from_secs(60);

/// Begins to log to standard output. A second call in the same process changes nothing.
pub fn init(settings: &Log) {
    let level = match settings.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // What our own code says, and what the libraries have to say that an operator should see.
    // actix's and rustls' own lines about connections are left out: a stranger who sends garbage
    // would fill the log with them, and we count and report those connections ourselves. So are the
    // watcher's about folders that are gone, which is what kubelet does to them at every rotation.
    let targets = Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_targets(["actix_http", "notify", "rustls"].map(|theirs| (theirs, LevelFilter::OFF)))
        .with_targets(["chassis", "ponger", "pinger", "demo"].map(|ours| (ours, level)));
    let lines = fmt::layer().with_target(false);
    let lines = match settings.format {
        LogFormat::Text => lines.with_ansi(std::io::stdout().is_terminal()).boxed(),
        LogFormat::Json => {
            lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
    };
    let _ = tracing_subscriber::registry().with(lines).with(targets).try_init();
}

/// Warns, now and once a minute, that this service speaks plain HTTP.
pub fn remind_of_insecurity() {
    actix_rt::spawn(async {
        let mut reminder = actix_rt::time::interval(INSECURE_REMINDER);
        loop {
            reminder.tick().await;
            tracing::warn!(
                "Plain HTTP, as `insecure: true` asks for: anyone on the way can read and change it"
            );
        }
    });
}
