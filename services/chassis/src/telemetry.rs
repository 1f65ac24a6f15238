//! Logs: the original's messages, with facts as fields beside them.

use std::{
    io::{self, IsTerminal as _, Write},
    panic,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer as _, filter::Targets, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
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

/// How many bytes of lines wait for standard output to be read before further lines are dropped.
const MAX_QUEUED_BYTES: usize = 1 << 20;

/// How long the queued lines may take to be written at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Whether lines are JSON, once [`init`] has chosen.
static IS_JSON: AtomicBool = AtomicBool::new(false);

/// Lines on their way to an output, which a thread writes to.
#[derive(Debug)]
struct LogQueue {
    messages: Sender<Message>,
    counts: Arc<Counts>,
}

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    /// Reports when all lines before it were written.
    Flush(Sender<()>),
}

#[derive(Debug, Default)]
struct Counts {
    queued_bytes: AtomicUsize,
    /// Lines that did not fit, or could not be written.
    dropped: AtomicU64,
}

impl LogQueue {
    /// Starts the thread that writes to `output`.
    fn start(output: impl Write + Send + 'static) -> io::Result<Self> {
        let (messages, receiver) = channel();
        let counts = Arc::<Counts>::default();
        let queue = Self { messages, counts: Arc::clone(&counts) };
        let write = move || write_lines(&receiver, output, &counts);
        thread::Builder::new().name("log".into()).spawn(write)?;
        Ok(queue)
    }

    /// Waits until all lines until now were written, for at most [`FLUSH_TIMEOUT`].
    fn flush(&self) {
        let (done, wait) = channel();
        let _ = self.messages.send(Message::Flush(done));
        let _ = wait.recv_timeout(FLUSH_TIMEOUT);
    }
}

fn write_lines(messages: &Receiver<Message>, mut output: impl Write, counts: &Counts) {
    for message in messages {
        match message {
            Message::Line(line) => {
                if output.write_all(&line).and_then(|()| output.flush()).is_err() {
                    counts.dropped.fetch_add(1, Ordering::Relaxed);
                }
                counts.queued_bytes.fetch_sub(line.len(), Ordering::Relaxed);
            }
            Message::Flush(done) => {
                // Nobody may wait any more.
                let _ = done.send(());
            }
        }
    }
}

/// Queues a whole line.
impl Write for &LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let Counts { queued_bytes, dropped } = &*self.counts;
        let queued = queued_bytes.fetch_add(line.len(), Ordering::Relaxed);
        if queued + line.len() > MAX_QUEUED_BYTES
            || self.messages.send(Message::Line(line.to_vec())).is_err()
        {
            queued_bytes.fetch_sub(line.len(), Ordering::Relaxed);
            dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

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
    let lines = fmt::layer().with_target(false).with_writer(Arc::clone(&queue));
    let lines = match settings.format {
        LogFormat::Text => lines.with_ansi(use_colors()).boxed(),
        LogFormat::Json => {
            lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
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
        let counts = Arc::clone(&self.0.counts);
        actix_rt::spawn(async move {
            let mut interval = actix_rt::time::interval(DROPPED_INTERVAL);
            loop {
                interval.tick().await;
                let new = counts.dropped.load(Ordering::Relaxed).saturating_sub(counter.get());
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
    fn queue_is_bounded_in_bytes_and_recovers() {
        let (reader, writer) = testkit::process::full_pipe();
        let queue = LogQueue::start(writer).unwrap();
        let dropped = || queue.counts.dropped.load(Ordering::Relaxed);
        let line = [[b'x'; 2047].as_slice(), b"\n"].concat();
        let write = || (&queue).write_all(&line).unwrap();
        let mut written = 0;
        while dropped() == 0 {
            write();
            written += 1;
        }
        let queued = queue.counts.queued_bytes.load(Ordering::Relaxed);
        assert!(queued <= MAX_QUEUED_BYTES && queued > MAX_QUEUED_BYTES - line.len(), "{queued}");

        let read = thread::spawn(move || io::read_to_string(reader).unwrap());
        testkit::wait_until("room", || {
            (queue.counts.queued_bytes.load(Ordering::Relaxed) == 0).then_some(())
        });
        write();
        assert_eq!(dropped(), 1);
        drop(queue);
        // One of them was dropped, and one came later.
        assert_eq!(read.join().unwrap().lines().count(), written);
    }

    #[test]
    fn counts_lines_that_cannot_be_written() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let queue = LogQueue::start(writer).unwrap();
        for _ in 0..3 {
            (&queue).write_all(b"line\n").unwrap();
        }
        queue.flush();
        assert_eq!(queue.counts.dropped.load(Ordering::Relaxed), 3);
    }

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
