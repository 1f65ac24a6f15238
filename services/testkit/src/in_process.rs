//! Services on threads of this process.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
};

use crate::{
    client::{Response, metric, plain_get},
    log,
    wait::wait_until,
};

/// A service on a thread of its own, which takes signals by `S` and ends with a `T`. It is stopped when
/// dropped: no thread may use aws-lc while the process exits, since aws-lc aborts then.
#[derive(Debug)]
pub struct ServiceThread<S, T> {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where its admin listener listens.
    pub admin: SocketAddr,
    /// Sends it signals.
    pub signals: S,
    stop: fn(&S),
    name: String,
    thread: Option<JoinHandle<T>>,
}

impl<S, T: fmt::Debug + Send + 'static> ServiceThread<S, T> {
    /// Starts a thread that runs `run`, and waits until that has sent the addresses of the service and
    /// of its admin listener. `stop` asks the service to stop.
    ///
    /// # Panics
    /// When the service ends without sending its addresses.
    #[track_caller]
    pub fn start(
        signals: S,
        stop: fn(&S),
        run: impl FnOnce(mpsc::Sender<[SocketAddr; 2]>) -> T + Send + 'static,
    ) -> Self {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let name = format!("service-{}", STARTED.fetch_add(1, Ordering::Relaxed));
        let (sender, started) = mpsc::channel();
        let thread = thread::Builder::new().name(name.clone()).spawn(move || run(sender));
        let thread = thread.expect("a new thread");
        match started.recv() {
            Ok([address, admin]) => {
                Self { address, admin, signals, stop, name, thread: Some(thread) }
            }
            Err(_) => panic!("the service does not start: {:?}", thread.join()),
        }
    }

    /// Waits until it has ended, and returns its result.
    ///
    /// # Panics
    /// When it panics, or after [`PATIENCE`](crate::PATIENCE).
    #[track_caller]
    pub fn wait(mut self) -> T {
        let thread = self.thread.take().expect("a running service");
        wait_until("the service ends", || thread.is_finished().then_some(()));
        thread.join().expect("no panic in the service")
    }

    /// As [`wait`](Self::wait), and returns the log of its thread too.
    ///
    /// # Panics
    /// As there.
    #[track_caller]
    pub fn wait_with_log(self) -> (T, Vec<String>) {
        let name = self.name.clone();
        (self.wait(), log::lines(&name))
    }

    /// Asks it to stop, waits until it has ended, and returns its result.
    ///
    /// # Panics
    /// As [`wait`](Self::wait) does.
    #[track_caller]
    pub fn stop(self) -> T {
        (self.stop)(&self.signals);
        self.wait()
    }
}

impl<S, T> ServiceThread<S, T> {
    /// Sends one request to the admin listener.
    ///
    /// # Panics
    /// When no whole response arrives.
    #[track_caller]
    pub fn admin_get(&self, path: &str) -> Response {
        // 408 where this machine was too slow to send the request.
        wait_until("a response of the admin listener", || {
            plain_get(self.admin, path).ok().filter(|response| response.status != 408)
        })
    }

    /// The value of a metric now; 0 if it is absent.
    ///
    /// # Panics
    /// When the admin listener does not respond.
    #[track_caller]
    pub fn metric(&self, name_and_labels: &str) -> f64 {
        metric(&self.admin_get("/metrics").body, name_and_labels).unwrap_or(0.0)
    }

    /// Waits until a metric is at least `minimum`.
    ///
    /// # Panics
    /// After [`PATIENCE`](crate::PATIENCE).
    #[track_caller]
    pub fn wait_for_metric(&self, name_and_labels: &str, minimum: f64) {
        self.wait_for_value(name_and_labels, |value| value >= minimum);
    }

    /// Waits until `accept` is true of a metric.
    ///
    /// # Panics
    /// After [`PATIENCE`](crate::PATIENCE).
    #[track_caller]
    pub fn wait_for_value(&self, name_and_labels: &str, accept: impl Fn(f64) -> bool) {
        wait_until(name_and_labels, || accept(self.metric(name_and_labels)).then_some(()));
    }

    /// Waits until `/readyz` responds with `status`, and returns the body.
    ///
    /// # Panics
    /// After [`PATIENCE`](crate::PATIENCE).
    #[track_caller]
    pub fn wait_for_readiness(&self, status: u16) -> String {
        wait_until("readiness", || {
            let response = self.admin_get("/readyz");
            (response.status == status).then_some(response.body)
        })
    }

    /// Waits for a line that contains `part` in the log of its thread.
    ///
    /// # Panics
    /// After [`PATIENCE`](crate::PATIENCE).
    #[track_caller]
    pub fn wait_for(&self, part: &str) -> String {
        wait_until(part, || log::lines(&self.name).into_iter().find(|line| line.contains(part)))
    }

    /// How many lines in the log of its thread contain `part`.
    pub fn count(&self, part: &str) -> usize {
        log::lines(&self.name).iter().filter(|line| line.contains(part)).count()
    }
}

impl<S, T> Drop for ServiceThread<S, T> {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            (self.stop)(&self.signals);
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "the service has panicked");
        }
    }
}
