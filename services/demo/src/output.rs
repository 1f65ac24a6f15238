//! Both services' logs on one terminal, each line with the service's name before it.

use std::{
    fmt,
    io::{self, Write},
    sync::Arc,
};

use chassis::telemetry::use_colors;
use tokio::sync::Notify;
use tracing::{Event, Metadata, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    filter::Targets,
    fmt::{
        FmtContext, FormatEvent, FormatFields, MakeWriter,
        format::{self, Writer},
    },
    layer::SubscriberExt as _,
    registry::LookupSpan,
    util::SubscriberInitExt as _,
};

/// Standard output. It may close while we run, as that of `cargo run | head` does.
#[derive(Clone, Default)]
pub(crate) struct Output(Arc<Notify>);

impl Output {
    /// Logs to standard output from now on.
    pub(crate) fn init(verbose: bool) -> Self {
        let output = Self::default();
        let level = if verbose { LevelFilter::DEBUG } else { LevelFilter::INFO };
        let targets = Targets::new()
            .with_default(LevelFilter::WARN)
            .with_targets(["actix_http", "rustls"].map(|library| (library, LevelFilter::OFF)))
            .with_targets(["chassis", ponger::NAME, pinger::NAME].map(|own| (own, level)));
        let lines = tracing_subscriber::fmt::layer()
            .with_ansi(use_colors())
            .event_format(WithService(format::format().with_target(false)))
            .with_writer(output.clone());
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
        self.0.notified().await;
    }
}

/// Standard output, locked for one line.
pub(crate) struct LineWriter(Arc<Notify>);

impl<'w> MakeWriter<'w> for Output {
    type Writer = LineWriter;

    fn make_writer(&'w self) -> LineWriter {
        LineWriter(Arc::clone(&self.0))
    }
}

impl Write for LineWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut stdout = io::stdout().lock();
        if stdout.write_all(bytes).and_then(|()| stdout.flush()).is_err() {
            self.0.notify_one();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A format with the service's name before each line.
struct WithService<F>(F);

impl<S, N, F> FormatEvent<S, N> for WithService<F>
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    N: for<'w> FormatFields<'w> + 'static,
    F: FormatEvent<S, N>,
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
