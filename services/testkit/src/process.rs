//! Services as child processes.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, BufRead as _, BufReader, PipeReader, PipeWriter, Read, Write as _},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Instant,
};

pub use rustix::process::Signal;
use rustix::{
    fs::{Mode, OFlags, open},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};

use crate::{
    client::{Response, metric, plain_get},
    wait::{PATIENCE, wait_until},
};

/// A service as a child process. Killed when dropped; its log is printed if the test has failed.
#[derive(Debug)]
pub struct Service {
    child: Child,
    log: Arc<Log>,
    readers: Vec<JoinHandle<()>>,
}

/// The lines of standard output and standard error, as they arrive.
#[derive(Debug, Default)]
struct Log {
    state: Mutex<LogState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct LogState {
    lines: Vec<String>,
    /// How many of the two streams have ended.
    ended: usize,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, LogState> {
        // A test that has panicked still wants to print it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, stream: impl Read) {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            self.lock().lines.push(line);
            self.changed.notify_all();
        }
        self.lock().ended += 1;
        self.changed.notify_all();
    }
}

impl Service {
    /// Starts `command`, with its output captured.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the service starts");
        let log = Arc::<Log>::default();
        let streams: [Box<dyn Read + Send>; 2] = [
            Box::new(child.stdout.take().expect("standard output")),
            Box::new(child.stderr.take().expect("standard error")),
        ];
        let readers = streams.map(|stream| {
            let log = Arc::clone(&log);
            thread::spawn(move || log.read(stream))
        });
        Self { child, log, readers: readers.into() }
    }

    /// Its process ID.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// All log lines until now.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().lines.clone()
    }

    /// How many log lines contain `part`.
    pub fn count(&self, part: &str) -> usize {
        self.log.lock().lines.iter().filter(|line| line.contains(part)).count()
    }

    /// Waits for a log line that contains `part`.
    ///
    /// # Panics
    /// As [`wait_for_nth`](Self::wait_for_nth) does.
    #[track_caller]
    pub fn wait_for(&self, part: &str) -> String {
        self.wait_for_nth(1, part)
    }

    /// Waits for the `n`th log line, from 1, that contains `part`.
    ///
    /// # Panics
    /// When the service ends without it, or after [`PATIENCE`].
    #[track_caller]
    pub fn wait_for_nth(&self, n: usize, part: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut log = self.log.lock();
        loop {
            if let Some(line) = log.lines.iter().filter(|line| line.contains(part)).nth(n - 1) {
                return line.clone();
            }
            assert!(log.ended < 2, "the service ended without logging `{part}` {n} times");
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "timed out waiting for `{part}` {n} times in the log");
            let waited = self.log.changed.wait_timeout(log, left);
            log = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The address that ponger listens on.
    ///
    /// # Panics
    /// When it is not logged.
    #[track_caller]
    pub fn address(&self) -> SocketAddr {
        address_in(&self.wait_for("Listening "), "address=")
    }

    /// The address of the admin listener.
    ///
    /// # Panics
    /// When it is not logged.
    #[track_caller]
    pub fn admin(&self) -> SocketAddr {
        address_in(&self.wait_for(" admin="), "admin=")
    }

    /// Sends one request to the admin listener.
    ///
    /// # Panics
    /// When no whole response arrives.
    #[track_caller]
    pub fn admin_get(&self, path: &str) -> Response {
        plain_get(self.admin(), path).expect("a response of the admin listener")
    }

    /// The value of a metric now; see [`metric`].
    ///
    /// # Panics
    /// When the admin listener does not respond.
    #[track_caller]
    pub fn metric(&self, name_and_labels: &str) -> Option<f64> {
        metric(&self.admin_get("/metrics").body, name_and_labels)
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it has ended and been waited for.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("a running service");
    }

    /// Its exit status, if it has ended.
    ///
    /// # Panics
    /// When the operating system does not return it.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the state of a child process")
    }

    /// Waits until it has ended, and its log is complete.
    ///
    /// # Panics
    /// After [`PATIENCE`].
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let status = wait_until("the service ends", || self.try_wait());
        for reader in self.readers.drain(..) {
            reader.join().expect("its output is read");
        }
        status
    }

    /// Sends SIGTERM, and waits until it has ended.
    ///
    /// # Panics
    /// As [`wait`](Self::wait) does.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- log of the service:\n{}", self.log().join("\n"));
        }
    }
}

#[track_caller]
fn address_in(line: &str, field: &str) -> SocketAddr {
    line.split_whitespace()
        .find_map(|word| word.strip_prefix(field)?.parse().ok())
        .unwrap_or_else(|| panic!("no `{field}` in: {line}"))
}

/// Runs `command` on a terminal, and returns what it prints there.
///
/// # Panics
/// When it cannot be started, or the operating system does not give a terminal.
pub fn run_on_terminal(command: &mut Command) -> String {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&controller).and_then(|()| unlockpt(&controller)).expect("a terminal");
    let path = ptsname(&controller, Vec::new()).expect("its path");
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let terminal = open(path, flags, Mode::empty()).expect("a terminal");
    let command = command.stdin(Stdio::null()).stdout(terminal).stderr(Stdio::null());
    let mut child = command.spawn().expect("a program");
    // Once nothing has the terminal open, reading from its other end fails.
    command.stdout(Stdio::null());
    let mut printed = Vec::new();
    let _ = File::from(controller).read_to_end(&mut printed);
    child.wait().expect("the state of a child process");
    String::from_utf8_lossy(&printed).into_owned()
}

/// A command that starts `program` with a limit of open file descriptors.
pub fn with_descriptors(limit: u32, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -n {limit}; exec \"$0\" \"$@\"")]).arg(program);
    command
}

/// Waits until the process `id` handles `signal`, which before that would end it.
///
/// # Panics
/// When the process has ended, or after [`PATIENCE`].
#[cfg(target_os = "linux")]
#[track_caller]
pub fn wait_until_handled(id: u32, signal: Signal) {
    wait_until("a handler of the signal", || {
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("a process");
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
        let caught = u64::from_str_radix(caught.trim(), 16).expect("a mask of signals");
        (caught & (1 << (signal.as_raw() - 1)) != 0).then_some(())
    });
}

/// A pipe that is full: a writer hangs, as long as the reader is kept.
///
/// # Panics
/// When the operating system does not give one.
pub fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = io::pipe().expect("a pipe");
    rustix::io::ioctl_fionbio(&writer, true).expect("writes that do not wait");
    while writer.write(&[b'x'; 4096]).is_ok() {}
    while writer.write(b"x").is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).expect("writes that wait");
    (reader, writer)
}

/// Runs `openssl` in `dir`.
///
/// # Errors
/// When it is not installed (`NotFound`), or fails: then with what it printed.
pub fn openssl(dir: &Path, arguments: &[&str]) -> io::Result<()> {
    let output = Command::new("openssl").args(arguments).current_dir(dir).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
}

/// Whether `program` can be started; prints that the test is skipped where it cannot.
pub fn is_installed(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let started = command.status().is_ok();
    if !started {
        skip(&format!("`{program}` is not installed"));
    }
    started
}

/// Prints that the current test is skipped.
pub fn skip(why: &str) {
    let thread = thread::current();
    let test = thread.name().unwrap_or("a test");
    // `eprintln!` would be captured by the test harness.
    let _ = writeln!(io::stderr(), "SKIPPED {test}: {why}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Service {
        Service::spawn(Command::new("sh").args(["-c", script]))
    }

    #[test]
    fn captures_the_log_until_the_service_ends() {
        let mut service =
            shell("echo 'Listening address=127.0.0.1:1 admin=[::1]:2'; echo b >&2; exec cat");
        assert_eq!(service.address(), ([127, 0, 0, 1], 1).into());
        assert_eq!(service.admin(), "[::1]:2".parse().expect("an address"));
        assert_eq!(service.wait_for("b"), "b");
        assert!(service.wait().success());
        assert_eq!((service.count("address"), service.log().len()), (1, 2));
    }

    #[test]
    #[should_panic(expected = "the service ended without logging `b` 1 times")]
    fn does_not_wait_for_a_line_of_an_ended_service() {
        shell("echo a").wait_for("b");
    }

    #[test]
    fn stops_with_a_signal() {
        use std::os::unix::process::ExitStatusExt as _;
        let mut service = shell("echo started; exec sleep 600");
        service.wait_for("started");
        assert_eq!(service.try_wait(), None);
        assert_eq!(service.stop().signal(), Some(Signal::TERM.as_raw()));
    }

    #[test]
    fn limits_descriptors_and_passes_arguments() {
        let mut command = with_descriptors(64, "sh");
        let mut service = Service::spawn(command.args(["-c", "ulimit -n; echo $0", "a b"]));
        service.wait();
        assert_eq!(service.log(), ["64", "a b"]);
    }
}
