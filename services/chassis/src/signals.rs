//! Signals: SIGTERM and SIGINT ask a service to stop, SIGHUP to reload its certificates now.

use std::time::{Duration, Instant};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};

use crate::error::ConfigError;

/// A stop signal within this time of another is the same one: `timeout`, for one, sends it to the
/// process and to its group.
const DUPLICATE_WINDOW: Duration = Duration::from_millis(300);

/// What a service is asked to do while it runs, by signals or by a [`SignalSender`].
#[derive(Debug)]
pub struct Signals {
    stops: UnboundedReceiver<&'static str>,
    /// A request to stop that was seen, and not yet taken.
    peeked: Option<&'static str>,
    reloads: UnboundedReceiver<()>,
}

/// Asks a service that runs in this process to stop or to reload.
#[derive(Clone, Debug)]
pub struct SignalSender {
    stops: UnboundedSender<&'static str>,
    reloads: UnboundedSender<()>,
}

impl Signals {
    /// Handles this process' signals from now on, so that none ends it unasked. Call it first in the
    /// runtime.
    ///
    /// # Errors
    /// When the operating system does not allow it.
    pub fn install() -> Result<Self, ConfigError> {
        let listen = |kind| signal(kind).map_err(|error| ConfigError::new("signals", error));
        let mut terminate = listen(SignalKind::terminate())?;
        let mut interrupt = listen(SignalKind::interrupt())?;
        let mut hangup = listen(SignalKind::hangup())?;
        let (sender, signals) = Self::channel();
        tokio::spawn(async move {
            let mut last: Option<Instant> = None;
            loop {
                let stop = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                    _ = hangup.recv() => {
                        sender.reload();
                        continue;
                    }
                };
                if last.is_none_or(|last| last.elapsed() > DUPLICATE_WINDOW) {
                    last = Some(Instant::now());
                    sender.stop(stop);
                }
            }
        });
        Ok(signals)
    }

    /// Signals that the sender gives, for a service within another program.
    pub fn channel() -> (SignalSender, Self) {
        let ((stops, stop_receiver), (reloads, reload_receiver)) =
            (unbounded_channel(), unbounded_channel());
        let signals = Self { stops: stop_receiver, peeked: None, reloads: reload_receiver };
        (SignalSender { stops, reloads }, signals)
    }

    /// Waits for the next request to stop, and returns the signal's name. Without a sender, none
    /// comes any more.
    pub async fn stop(&mut self) -> &'static str {
        let name = self.peek_stop().await;
        self.peeked = None;
        name
    }

    /// As [`Signals::stop`], and leaves the request for the next call.
    pub async fn peek_stop(&mut self) -> &'static str {
        if let Some(name) = self.peeked {
            return name;
        }
        let Some(name) = self.stops.recv().await else { return std::future::pending().await };
        self.peeked = Some(name);
        name
    }

    /// Calls `reload` at each request to reload, also before it was called.
    pub fn on_reload(&mut self, reload: impl Fn() + Send + 'static) {
        let (_, closed) = unbounded_channel();
        let mut reloads = std::mem::replace(&mut self.reloads, closed);
        tokio::spawn(async move {
            while reloads.recv().await.is_some() {
                reload();
            }
            // Without a sender, `reload` stays: what it holds goes on polling the files.
            std::future::pending::<()>().await;
        });
    }
}

impl SignalSender {
    /// Asks the service to stop; `name` is what it logs.
    pub fn stop(&self, name: &'static str) {
        // A service that has ended needs no more signals.
        let _ = self.stops.send(name);
    }

    /// Asks the service to reload its certificates now.
    pub fn reload(&self) {
        let _ = self.reloads.send(());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    #[tokio::test]
    async fn receives_signals_and_requests_also_from_before_it_waits() {
        let mut signals = Signals::install().unwrap();
        kill_process(getpid(), Signal::TERM).unwrap();
        assert_eq!(signals.stop().await, "SIGTERM");
        kill_process(getpid(), Signal::HUP).unwrap();
        let (reloaded, mut reloads) = unbounded_channel();
        signals.on_reload(move || reloaded.send(()).unwrap());
        assert_eq!(reloads.recv().await, Some(()));

        let (sender, mut signals) = Signals::channel();
        sender.stop("a test");
        sender.stop("another");
        assert_eq!((signals.peek_stop().await, signals.peek_stop().await), ("a test", "a test"));
        assert_eq!((signals.stop().await, signals.stop().await), ("a test", "another"));
    }

    #[test]
    fn keeps_the_reload_handle_when_the_sender_is_gone() {
        actix_rt::System::new().block_on(async {
            let (sender, mut signals) = Signals::channel();
            let handle = Arc::new(());
            let held = Arc::clone(&handle);
            signals.on_reload(move || assert_eq!(*held, ()));
            drop(sender);
            // The task runs, and must not end.
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            assert_eq!(Arc::strong_count(&handle), 2);
        });
    }
}
