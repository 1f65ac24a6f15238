//! A queue of lines before an output that may not be read.

use std::{
    io::{self, Write},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// How many bytes of lines wait for the output to be read before further lines are dropped.
const MAX_QUEUED_BYTES: usize = 1 << 20;

/// How much memory a queue keeps that has been written.
const KEPT_BYTES: usize = 16 << 10;

/// How long the queued lines may take to be written at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Lines on their way to an output. A thread writes them, all that wait at once.
#[derive(Debug)]
pub(super) struct LogQueue(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Notified when there is something to write, or nothing any more.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<u8>,
    count: u64,
    /// How many bytes the thread is writing.
    writing: usize,
    /// Lines that did not fit, or could not be written.
    dropped: u64,
    is_closed: bool,
}

impl LogQueue {
    /// Starts the thread that writes to `output`.
    pub(super) fn start(output: impl Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let queue = Self(Arc::clone(&shared));
        thread::Builder::new().name("log".into()).spawn(move || shared.write_to(output))?;
        Ok(queue)
    }

    /// Waits until all lines were written, for at most [`FLUSH_TIMEOUT`].
    pub(super) fn flush(&self) {
        let waits = |state: &mut State| state.queued() > 0;
        let _ = self.0.changed.wait_timeout_while(self.0.lock(), FLUSH_TIMEOUT, waits);
    }

    /// How many lines did not fit, or could not be written.
    pub(super) fn dropped(&self) -> u64 {
        self.0.lock().dropped
    }
}

impl Drop for LogQueue {
    fn drop(&mut self) {
        self.0.lock().is_closed = true;
        self.0.changed.notify_all();
    }
}

/// Queues a whole line.
impl Write for &LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.0.lock();
        if state.queued() + line.len() > MAX_QUEUED_BYTES {
            state.dropped += 1;
            return Ok(line.len());
        }
        state.lines.extend_from_slice(line);
        state.count += 1;
        // The thread waits only where nothing is queued.
        let is_waiting = state.queued() == line.len();
        drop(state);
        if is_waiting {
            self.0.changed.notify_all();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl State {
    fn queued(&self) -> usize {
        self.lines.len() + self.writing
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_to(&self, mut output: impl Write) {
        let mut batch = Vec::new();
        let mut state = self.lock();
        loop {
            while state.lines.is_empty() {
                if state.is_closed {
                    return;
                }
                self.changed.notify_all();
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            mem::swap(&mut state.lines, &mut batch);
            let count = mem::take(&mut state.count);
            state.writing = batch.len();
            drop(state);
            let is_written = output.write_all(&batch).and_then(|()| output.flush()).is_ok();
            batch.clear();
            batch.shrink_to(KEPT_BYTES);
            state = self.lock();
            state.writing = 0;
            state.dropped += if is_written { 0 } else { count };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_is_bounded_in_bytes_and_recovers() {
        let (reader, writer) = testkit::process::full_pipe();
        let queue = LogQueue::start(writer).unwrap();
        let line = [[b'x'; 2047].as_slice(), b"\n"].concat();
        let write = || (&queue).write_all(&line).unwrap();
        let mut written = 0;
        while queue.dropped() == 0 {
            write();
            written += 1;
        }
        let queued = queue.0.lock().queued();
        assert!(queued <= MAX_QUEUED_BYTES && queued > MAX_QUEUED_BYTES - line.len(), "{queued}");

        let read = thread::spawn(move || io::read_to_string(reader).unwrap());
        testkit::wait_until("room", || (queue.0.lock().queued() == 0).then_some(()));
        write();
        assert_eq!(queue.dropped(), 1);
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
        assert_eq!(queue.dropped(), 3);
    }
}
