//! Logs: the original's messages, with facts as fields beside them.

use std::{io::IsTerminal as _, time::Duration};

use tracing_subscriber::{EnvFilter, fmt};

use crate::config::{Log, LogFormat, LogLevel};

/// How often a service without TLS says so.
const INSECURE_REMINDER: Duration = Duration::from_secs(60);

/// Begins to log to standard output. A second call in the same process changes nothing.
pub fn init(settings: &Log) {
    let level = match settings.level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    // What our own code says, and what the libraries have to say that an operator should see.
    // actix's own lines about connections are left out: a stranger who sends garbage would fill
    // the log with them, and we count and report those connections ourselves.
    let ours =
        ["chassis", "ponger", "pinger", "local"].map(|name| format!("{name}={level}")).join(",");
    let filter = EnvFilter::new(format!("warn,actix_http=off,{ours}"));
    let builder = fmt().with_env_filter(filter).with_target(false).with_writer(std::io::stdout);
    let _ = match settings.format {
        LogFormat::Text => builder.with_ansi(std::io::stdout().is_terminal()).try_init(),
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .try_init(),
    };
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
