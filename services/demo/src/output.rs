//! Both services' logs on one terminal, each line with the service's name before it.

use std::{
    fmt,
    io::{self, Write},
    sync::Arc,
};

use chassis::{
    config::LogPings,
    telemetry::{format::Text, ping_targets, use_colors},
};
use tokio::sync::Notify;
use tracing::{Event, Metadata, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    filter::Targets,
    fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter, format::Writer},
    layer::SubscriberExt as _,
    registry::LookupSpan,
    util::SubscriberInitExt as _,
};

/// The columns that a line of the tour may have.
const COLUMNS: usize = 100;

/// Which lines are printed, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// As the services log them.
    Normal,
    /// With TLS version, cipher, group and the time of each phase.
    Verbose,
    /// Without pings that have not failed.
    Quiet,
    /// Without times, wrapped, and only what becomes of pings and certificates.
    Tour,
}

impl Style {
    /// Which pings are logged.
    pub(crate) fn pings(self) -> LogPings {
        if self == Self::Quiet { LogPings::Failed } else { LogPings::All }
    }
}

/// Standard output. It may close while we run, as that of `cargo run | head` does.
#[derive(Clone)]
pub(crate) struct Output {
    closed: Arc<Notify>,
    columns: usize,
}

impl Output {
    /// Logs to standard output from now on.
    pub(crate) fn init(style: Style) -> Self {
        let columns = if style == Style::Tour { COLUMNS } else { usize::MAX };
        let output = Self { closed: Arc::default(), columns };
        let level = if style == Style::Verbose { LevelFilter::DEBUG } else { LevelFilter::INFO };
        let mut targets = Targets::new()
            .with_default(LevelFilter::WARN)
            .with_targets(["actix_http", "rustls"].map(|library| (library, LevelFilter::OFF)))
            .with_targets(["chassis", ponger::NAME, pinger::NAME].map(|own| (own, level)))
            .with_targets(ping_targets(style.pings(), level));
        let lines = tracing_subscriber::fmt::layer().with_ansi(use_colors());
        if style == Style::Tour {
            // That they listen, send, drain and stop is the same in each step.
            let same = ["ponger::startup", "pinger::startup", "chassis::telemetry"];
            targets = targets.with_targets(same.map(|module| (module, LevelFilter::ERROR)));
        }
        let format = WithService(Text { time: style != Style::Tour });
        let lines = lines.event_format(format).with_writer(output.clone());
        tracing_subscriber::registry().with(lines).with(targets).init();
        output
    }

    /// Prints a line.
    pub(crate) fn print(&self, line: &str) {
        // A failure is noticed by `closed`.
        let _ = writeln!(self.make_writer(), "{line}");
    }

    /// Waits until standard output is closed.
    pub(crate) async fn closed(&self) {
        self.closed.notified().await;
    }
}

/// Standard output, locked for one line.
pub(crate) struct LineWriter(Output);

impl<'w> MakeWriter<'w> for Output {
    type Writer = LineWriter;

    fn make_writer(&'w self) -> LineWriter {
        LineWriter(self.clone())
    }
}

impl Write for LineWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let wrapped: String =
            text.split_inclusive('\n').map(|line| wrap(line, self.0.columns)).collect();
        let mut stdout = io::stdout().lock();
        if stdout.write_all(wrapped.as_bytes()).and_then(|()| stdout.flush()).is_err() {
            self.0.closed.notify_one();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Breaks a line at spaces where it has more than `columns`. Colours take none.
fn wrap(line: &str, columns: usize) -> String {
    const INDENT: &str = "       |   ";
    let (mut wrapped, mut used) = (String::with_capacity(line.len()), 0);
    for word in line.split_inclusive(' ') {
        let width = width(word.trim_end());
        if used > INDENT.len() && used + width > columns {
            wrapped.truncate(wrapped.trim_end().len());
            wrapped += "\n";
            wrapped += INDENT;
            used = INDENT.len();
        }
        wrapped += word;
        used += width + usize::from(word.ends_with(' '));
    }
    wrapped
}

/// The columns of `text`, without its escape sequences.
fn width(text: &str) -> usize {
    let mut in_escape = false;
    text.chars()
        .filter(|letter| {
            let was_in_escape = in_escape;
            in_escape = *letter == '\u{1b}' || (in_escape && *letter != 'm');
            !in_escape && !was_in_escape
        })
        .count()
}

/// A line with the service's name before it.
struct WithService(Text);

impl<S, N> FormatEvent<S, N> for WithService
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let (name, color) = service(event.metadata());
        if writer.has_ansi_escapes() {
            write!(writer, "\u{1b}[{color}m{name}\u{1b}[0m | ")?;
        } else {
            write!(writer, "{name} | ")?;
        }
        self.0.format_event(context, writer, event)
    }
}

/// The service that an event is from, and its colour: by its crate, or by the thread of its reloader.
fn service(metadata: &Metadata<'_>) -> (&'static str, u8) {
    let thread = std::thread::current();
    let is_from = |name: &str| {
        metadata.target().starts_with(name)
            || thread.name().is_some_and(|thread| thread.starts_with(name))
    };
    if is_from(ponger::NAME) {
        (ponger::NAME, 36)
    } else if is_from(pinger::NAME) {
        (pinger::NAME, 35)
    } else {
        ("demo  ", 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wraps_at_spaces_and_counts_no_colours() {
        let line = "ponger |  WARN TLS handshake failed reason=\"tls_untrusted\"\n";
        assert_eq!(wrap(line, 58), line);
        assert_eq!(
            wrap(line, 40),
            "ponger |  WARN TLS handshake failed\n       |   reason=\"tls_untrusted\"\n"
        );
        let coloured = "\u{1b}[36mponger\u{1b}[0m | a \u{1b}[3mb\u{1b}[0m=1\n";
        assert_eq!(wrap(coloured, 14), coloured);
        // A word that is too long stays whole.
        assert_eq!(wrap("0123456789 0123456789\n", 5), "0123456789 0123456789\n");
    }
}
