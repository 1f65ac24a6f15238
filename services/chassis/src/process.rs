//! The life of a service's process.

use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::{task::spawn_blocking, time::timeout};

use crate::{error, signals::Signals};

/// How long a start may still take after a signal to stop. One that does not hang ends before, and
/// the service then stops as at any other time.
const START_GRACE: Duration = Duration::from_secs(1);

/// Runs `main` of `service` in a runtime and ends the process with its exit code.
///
/// The process ends at once, as soon as `main` is done: a thread that hangs in a system call, as the
/// resolver's may, is not waited for.
pub fn run(service: &str, main: impl Future<Output = anyhow::Result<u8>>) -> ! {
    let system = actix_rt::System::new();
    let code = system.block_on(main).unwrap_or_else(|error| error::exit_code(service, &error));
    std::process::exit(code.into())
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

async fn start_with_grace<T: Send + 'static>(
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

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
}
