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

/// Whole lines are written together up to this size, which a pipe takes at once (`PIPE_BUF`): what
/// others write to it never stands within a line.
const MAX_WRITE_BYTES: usize = 4 << 10;

/// How long a line waits for others that are written with it: under load, one wake-up of the thread then
/// serves many lines.
const GATHER_TIME: Duration = Duration::from_millis(1);

/// The capacity that a buffer keeps after it was written, in bytes.
const KEPT_BYTES: usize = 16 << 10;

/// How long the queued lines may take to be written at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Lines on their way to an output, which a thread writes to.
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
    /// How many bytes were ever queued.
    added: u64,
    /// How many of them the thread has written, or tried to.
    written: u64,
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

    /// Waits until all lines until now were written, for at most [`FLUSH_TIMEOUT`].
    pub(super) fn flush(&self) {
        let state = self.0.lock();
        let added = state.added;
        let waits = |state: &mut State| state.written < added;
        let _ = self.0.changed.wait_timeout_while(state, FLUSH_TIMEOUT, waits);
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
        let queued = state.queued();
        if queued + line.len() > MAX_QUEUED_BYTES {
            state.dropped += 1;
            return Ok(line.len());
        }
        state.lines.extend_from_slice(line);
        state.added += line.len() as u64;
        drop(state);
        // The thread waits only where nothing is queued.
        if queued == 0 {
            self.0.changed.notify_all();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl State {
    /// How many bytes wait, those included that are being written.
    fn queued(&self) -> usize {
        usize::try_from(self.added - self.written).unwrap_or(usize::MAX)
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
            drop(state);
            thread::sleep(GATHER_TIME);
            mem::swap(&mut self.lock().lines, &mut batch);
            let mut lost = 0;
            for lines in pieces(&batch) {
                if output.write_all(lines).and_then(|()| output.flush()).is_err() {
                    lost += lines.iter().filter(|byte| **byte == b'\n').count() as u64;
                }
            }
            state = self.lock();
            state.written += batch.len() as u64;
            state.dropped += lost;
            batch.clear();
            batch.shrink_to(KEPT_BYTES);
        }
    }
}

/// Splits lines into pieces of whole lines: of at most [`MAX_WRITE_BYTES`], or of one line.
fn pieces(mut lines: &[u8]) -> impl Iterator<Item = &[u8]> {
    let is_end = |byte: &u8| *byte == b'\n';
    std::iter::from_fn(move || {
        let most = &lines[..lines.len().min(MAX_WRITE_BYTES)];
        let last = most.iter().rposition(is_end).or_else(|| lines.iter().position(is_end));
        let (piece, rest) = lines.split_at(last.map_or(lines.len(), |end| end + 1));
        lines = rest;
        (!piece.is_empty()).then_some(piece)
    })
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
        testkit::wait_until("three dropped lines", || (queue.dropped() == 3).then_some(()));
    }

    #[test]
    fn writes_whole_lines_that_a_pipe_takes_at_once() {
        let line = |bytes: usize| [vec![b'x'; bytes - 1], vec![b'\n']].concat();
        let lengths = |lines: &[usize]| {
            let lines: Vec<u8> = lines.iter().flat_map(|bytes| line(*bytes)).collect();
            pieces(&lines).map(<[u8]>::len).collect::<Vec<_>>()
        };
        assert_eq!(lengths(&[]), [0; 0]);
        assert_eq!(lengths(&[100, 200]), [300]);
        assert_eq!(lengths(&[4000, 96, 1]), [4096, 1]);
        assert_eq!(lengths(&[4000, 97]), [4000, 97]);
        assert_eq!(lengths(&[10_000, 5, 5000]), [10_000, 5, 5000]);
    }

    #[test]
    fn a_flush_waits_for_the_lines_before_it() {
        let (mut reader, writer) = io::pipe().unwrap();
        let queue = LogQueue::start(writer).unwrap();
        (&queue).write_all(b"line\n").unwrap();
        queue.flush();
        let mut line = [0; 5];
        io::Read::read_exact(&mut reader, &mut line).unwrap();
        assert_eq!((&line, queue.0.lock().written), (b"line\n", 5));
    }
}
