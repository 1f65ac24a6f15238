//! What threads of this process log: tests run in parallel, and a process has one subscriber.

use std::{
    collections::BTreeMap,
    io,
    sync::{Mutex, MutexGuard, Once, PoisonError},
    thread,
};

use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// The log of each thread by its name.
static LOGS: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());

/// Captures what the crates `targets` log from now on. Further calls change nothing.
pub fn capture(targets: &[&str]) {
    static INIT: Once = Once::new();
    INIT.call_once(|| {
        let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(|| ThreadLog);
        let targets = targets.iter().map(|target| (*target, LevelFilter::DEBUG));
        tracing_subscriber::registry()
            .with(lines)
            .with(Targets::new().with_targets(targets))
            .init();
    });
}

/// The captured lines of the thread with this name.
pub fn lines(thread: &str) -> Vec<String> {
    lock().get(thread).map(|log| log.lines().map(str::to_owned).collect()).unwrap_or_default()
}

fn lock() -> MutexGuard<'static, BTreeMap<String, String>> {
    // A test that has panicked must not fail the others.
    LOGS.lock().unwrap_or_else(PoisonError::into_inner)
}

struct ThreadLog;

impl io::Write for ThreadLog {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let thread = thread::current();
        let mut logs = lock();
        let log = logs.entry(thread.name().unwrap_or_default().to_owned()).or_default();
        log.push_str(&String::from_utf8_lossy(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
