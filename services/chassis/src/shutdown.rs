//! Being asked to stop.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::unusable::Unusable;

/// The signals that ask a process to stop: SIGTERM, which orchestrators send, and SIGINT, which is
/// Ctrl-C.
#[derive(Debug)]
pub struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    /// Begins to listen for the signals; from now on they no longer end the process by themselves.
    ///
    /// # Errors
    /// When the operating system does not allow it.
    pub fn listen() -> Result<Self, Unusable> {
        let listen = |kind| signal(kind).map_err(|error| Unusable::new("signals", error));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next signal, and says which it was.
    pub async fn requested(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Waits for SIGHUP, the order to look at the identity on disk now, and calls `look` each time.
///
/// # Errors
/// When the operating system does not allow it.
pub fn on_hangup(look: impl Fn() + 'static) -> Result<(), Unusable> {
    let mut hangup =
        signal(SignalKind::hangup()).map_err(|error| Unusable::new("signals", error))?;
    actix_rt::spawn(async move {
        while hangup.recv().await.is_some() {
            look();
        }
    });
    Ok(())
}
