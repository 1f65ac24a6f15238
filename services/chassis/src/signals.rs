//! Being asked to stop.

use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::ConfigError;

/// How soon after a signal another one is the same.
const SAME: Duration = Duration::from_millis(300);

/// The signals that ask a process to stop: SIGTERM, which orchestrators send, and SIGINT, which is
/// Ctrl-C.
#[derive(Debug)]
pub struct Stop {
    terminate: Signal,
    interrupt: Signal,
    last: Option<Instant>,
}

impl Stop {
    /// Begins to listen for the signals; from now on they no longer end the process by themselves.
    ///
    /// # Errors
    /// When the operating system does not allow it.
    pub fn listen() -> Result<Self, ConfigError> {
        let listen = |kind| signal(kind).map_err(|error| ConfigError::new("signals", error));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            last: None,
        })
    }

    /// Waits for the next signal, and says which it was. One that follows another at once is the
    /// same: `timeout`, for one, sends it to the process and to its group.
    pub async fn requested(&mut self) -> &'static str {
        loop {
            let signal = tokio::select! {
                _ = self.terminate.recv() => "SIGTERM",
                _ = self.interrupt.recv() => "SIGINT",
            };
            if self.last.is_none_or(|last| last.elapsed() > SAME) {
                self.last = Some(Instant::now());
                return signal;
            }
        }
    }
}

/// Waits for SIGHUP, the order to look at the identity on disk now, and calls `look` each time.
///
/// # Errors
/// When the operating system does not allow it.
pub fn on_hangup(look: impl Fn() + 'static) -> Result<(), ConfigError> {
    let mut hangup =
        signal(SignalKind::hangup()).map_err(|error| ConfigError::new("signals", error))?;
    actix_rt::spawn(async move {
        while hangup.recv().await.is_some() {
            look();
        }
    });
    Ok(())
}
