//! The life of a service's process and of the servers in it.

use std::{fmt, io, time::Duration};

use actix_web::dev::{Server, ServerHandle};
use anyhow::{Context as _, anyhow, bail};
use rustls::pki_types::UnixTime;
use serde_json::json;
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};

use crate::{
    error::{self, ConfigError},
    signals::Signals,
    telemetry,
    tls::clock::format_rfc3339,
};

/// How many descriptors the runtime needs at most: for its selector, wakers and signals.
const RUNTIME_DESCRIPTORS: usize = 8;

/// How long a start may still take after a signal to stop. One that does not hang ends before, and
/// the service then stops as at any other time.
const START_GRACE: Duration = Duration::from_secs(1);

/// Runs `main` of `service` in a runtime and ends the process with its exit code.
///
/// The process ends at once, as soon as `main` is done: a thread that hangs in a system call, as the
/// resolver's may, is not waited for.
pub fn run(service: &str, main: impl Future<Output = anyhow::Result<u8>>) -> ! {
    let fail = |error| error::exit_code(fatal_line(service, &error), &error);
    if let Err(error) = check_descriptors(RUNTIME_DESCRIPTORS) {
        std::process::exit(fail(error.into()).into());
    }
    // Dropped before the end, it would wait for such threads.
    let system = actix_rt::System::new();
    let code = system.block_on(main).unwrap_or_else(fail);
    std::process::exit(code.into())
}

/// The line that says why `service` exits, in the format of its log.
fn fatal_line(service: &str, error: &anyhow::Error) -> String {
    if !telemetry::is_json() && !is_json_requested(service) {
        return format!("{service}: {error:#}");
    }
    let timestamp = format_rfc3339(UnixTime::now());
    let cause = format!("{error:#}");
    let line = json!({
        "timestamp": timestamp, "level": "ERROR", "message": "Exiting", "cause": cause
    });
    line.to_string()
}

/// Whether the environment asks `service` for JSON. Of a configuration that cannot be used, nothing else
/// is known.
fn is_json_requested(service: &str) -> bool {
    let variable = format!("{}__LOG__FORMAT", service.to_uppercase());
    std::env::var(variable).is_ok_and(|format| format == "json")
}

/// Checks that `count` more descriptors can be had, an even number. tokio and actix panic without
/// theirs.
pub(crate) fn check_descriptors(count: usize) -> Result<(), ConfigError> {
    let pipes: io::Result<Vec<_>> = (0..count / 2).map(|_| io::pipe()).collect();
    pipes.map(drop).map_err(|error| {
        ConfigError::new("the limit of open files", error)
            .hint("raise it, for instance with `ulimit -n 1024`")
    })
}

/// Runs `start` on a thread of its own and returns its result. A disk or an output that hangs must not
/// keep a signal from ending the service.
///
/// # Errors
/// When `start` fails or panics, or does not end soon after a signal to stop.
pub async fn start<T: Send + 'static>(
    signals: &mut Signals,
    start: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    start_with_grace(START_GRACE, signals, start).await
}

/// As [`start`]; after a signal to stop, it may still take `grace`.
///
/// # Errors
/// As there.
pub async fn start_with_grace<T: Send + 'static>(
    grace: Duration,
    signals: &mut Signals,
    start: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let mut starting = spawn_blocking(start);
    let signal = tokio::select! {
        result = &mut starting => return result.context("the start")?,
        signal = signals.peek_stop() => signal,
    };
    match timeout(grace, starting).await {
        Ok(result) => result.context("the start")?,
        Err(_) => bail!("stopped by {signal} while it was starting"),
    }
}

/// A server that runs in a task.
pub struct RunningServer {
    name: &'static str,
    handle: ServerHandle,
    task: JoinHandle<io::Result<()>>,
}

impl fmt::Debug for RunningServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RunningServer").field(&self.name).finish()
    }
}

impl RunningServer {
    /// Runs `server`, which errors call `name`.
    pub fn spawn(name: &'static str, server: Server) -> Self {
        Self { name, handle: server.handle(), task: actix_rt::spawn(server) }
    }

    /// Waits until it has ended unasked, and returns why. Not to be called again after that.
    pub async fn failed(&mut self) -> anyhow::Error {
        let error = match (&mut self.task).await {
            Ok(Ok(())) => anyhow!("it ended by itself"),
            Ok(Err(error)) => error.into(),
            Err(error) => error.into(),
        };
        error.context(self.name)
    }

    /// Accepts no further connections.
    pub async fn pause(&self) {
        self.handle.pause().await;
    }

    /// Closes its connections and ends it.
    pub async fn stop(&self) {
        self.handle.stop(false).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use actix_web::{App, HttpServer};

    use super::*;

    #[tokio::test]
    async fn starts_and_leaves_a_signal_to_what_was_started() {
        let (sender, mut signals) = Signals::channel();
        assert_eq!(start(&mut signals, || Ok(1)).await.unwrap(), 1);
        let failed = start::<()>(&mut signals, || bail!("the cause")).await;
        assert_eq!(failed.unwrap_err().to_string(), "the cause");

        let (go_on, wait) = channel();
        let started = start_with_grace(testkit::PATIENCE, &mut signals, move || Ok(wait.recv()?));
        sender.stop("SIGTERM");
        go_on.send(2).unwrap();
        assert_eq!(started.await.unwrap(), 2);
        assert_eq!(signals.stop().await, "SIGTERM");
    }

    #[tokio::test]
    async fn a_signal_ends_a_start_that_hangs() {
        let (sender, mut signals) = Signals::channel();
        let (go_on, wait) = channel::<()>();
        let started = start(&mut signals, move || Ok(wait.recv()?));
        sender.stop("SIGTERM");
        let error = started.await.unwrap_err().to_string();
        assert_eq!(error, "stopped by SIGTERM while it was starting");
        // The runtime waits for the thread.
        drop(go_on);
    }

    #[test]
    fn reports_why_a_server_has_ended() {
        actix_rt::System::new().block_on(async {
            let server = HttpServer::new(App::new).workers(1).disable_signals();
            let server = server.bind(("127.0.0.1", 0)).unwrap().run();
            let mut server = RunningServer::spawn("the listener", server);
            assert!(timeout(Duration::from_millis(10), server.failed()).await.is_err());
            server.stop().await;
            let error = format!("{:#}", server.failed().await);
            assert_eq!(error, "the listener: it ended by itself");

            server.task = actix_rt::spawn(async { Err(io::ErrorKind::NotFound.into()) });
            let error = format!("{:#}", server.failed().await);
            assert_eq!(error, "the listener: entity not found");
            server.task = actix_rt::spawn(async { panic!("the cause") });
            let error = format!("{:#}", server.failed().await);
            assert!(
                error.starts_with("the listener: task ") && error.ends_with("\"the cause\""),
                "{error}"
            );
        });
    }
}
