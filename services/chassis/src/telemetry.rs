//! Logs: the original's messages, with facts as fields beside them.

use std::{io::IsTerminal as _, time::Duration};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer as _, filter::Targets, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::config::{Log, LogFormat, LogLevel};

/// How often a service without TLS warns of that.
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
    // Our own events, and what libraries report that an operator should see. actix's and rustls' own
    // lines about connections are off: peers that send garbage would fill the log with them, and we
    // count and log those connections ourselves.
    let targets = Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_targets(["actix_http", "rustls"].map(|library| (library, LevelFilter::OFF)))
        .with_targets(["chassis", "ponger", "pinger"].map(|own| (own, level)));
    let lines = fmt::layer().with_target(false);
    let lines = match settings.format {
        LogFormat::Text => lines.with_ansi(use_colors()).boxed(),
        LogFormat::Json => {
            lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
    };
    let _ = tracing_subscriber::registry().with(lines).with(targets).try_init();
}

/// Whether to colour what is written to standard output: on a terminal that can, and not where
/// `NO_COLOR` asks not to (no-color.org).
pub fn use_colors() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    std::io::stdout().is_terminal()
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
