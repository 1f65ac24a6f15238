//! Polls an identity's files and publishes what is valid.
//!
//! The writer is a thread, and the reader an [`IdentityWatch`] that anyone may clone. Own certificate
//! and trust bundle are two units, each accepted or rejected as a whole: a fault in one does not hold
//! back the other. A rejected reload is logged and counted, and what was in use stays in use.
//!
//! Files are polled, not watched: kubelet takes a minute to update them anyway, and inotify instances
//! run out on busy nodes. A poll compares metadata and reads the files when it changed; contents are
//! accepted when two polls in a row read the same.

use std::{
    fmt,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use rustls::pki_types::UnixTime;
use tokio::sync::watch;

use super::{
    cert::OwnCertificate,
    clock::{Clock, FOREVER, format_rfc3339},
    expiry::ExpiryMonitor,
    identity::{Build, Identity, IdentitySources},
    metrics::{IdentityMetrics, Unit},
    trust::TrustBundle,
    unit_files::{PollResult, UnitFiles},
    x509::Role,
};
use crate::{error::ConfigError, files::FileContents};

/// The pause between two polls of the files after [`ReloadHandle::reload`].
const SETTLE_INTERVAL: Duration = Duration::from_millis(100);

/// How many times [`SETTLE_INTERVAL`] is waited for before such a reload goes on as ordinary polls.
const MAX_SETTLE_ATTEMPTS: usize = 50;

/// How long after it is due a poll of the files may end; a disk may hang. Reloading counts as stopped
/// after that.
const MAX_POLL_DURATION: Duration = Duration::from_secs(60);

/// By how much the system clock must be set to wake those who wait for a certificate's expiry.
const CLOCK_STEP: Duration = Duration::from_secs(2);

/// The reader's half: the last identity that was valid.
pub struct IdentityWatch<T> {
    identity: watch::Receiver<Arc<Identity<T>>>,
    rejected: Arc<RejectedUnits>,
    last_poll: Arc<LastPoll>,
}

/// Whether what is on disk of each unit is rejected.
#[derive(Debug, Default)]
struct RejectedUnits {
    certificate: AtomicBool,
    trust_bundle: AtomicBool,
}

impl RejectedUnits {
    fn flag(&self, unit: Unit) -> &AtomicBool {
        match unit {
            Unit::Certificate => &self.certificate,
            Unit::TrustBundle => &self.trust_bundle,
        }
    }
}

/// When the files were last polled.
#[derive(Debug)]
struct LastPoll {
    poll_interval: Duration,
    ended: Mutex<Instant>,
}

impl LastPoll {
    fn record(&self, now: Instant) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// Whether the next poll should have ended by `now`.
    fn is_overdue(&self, now: Instant) -> bool {
        let ended = *self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        now.duration_since(ended) > self.poll_interval.saturating_add(MAX_POLL_DURATION)
    }
}

impl<T> Clone for IdentityWatch<T> {
    fn clone(&self) -> Self {
        Self {
            identity: self.identity.clone(),
            rejected: Arc::clone(&self.rejected),
            last_poll: Arc::clone(&self.last_poll),
        }
    }
}

impl<T> fmt::Debug for IdentityWatch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityWatch").finish_non_exhaustive()
    }
}

impl<T> IdentityWatch<T> {
    /// The current identity.
    pub fn current(&self) -> Arc<Identity<T>> {
        Arc::clone(&self.identity.borrow())
    }

    /// The current identity, which this receiver has then seen.
    pub fn borrow_and_update(&mut self) -> Arc<Identity<T>> {
        Arc::clone(&self.identity.borrow_and_update())
    }

    /// Waits until something was published that this receiver has not seen: another identity, or the
    /// same one after the system clock was set. Never ends once the reloader is gone.
    pub async fn changed(&mut self) {
        if self.identity.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether the files of `unit` were rejected, so that the previous ones are in use.
    pub fn is_rejected(&self, unit: Unit) -> bool {
        self.rejected.flag(unit).load(Ordering::Relaxed)
    }

    /// Whether the files are still polled. A reloader that ended by a panic reloads nothing, nor does
    /// one that waits for a disk.
    pub fn is_reloading(&self) -> bool {
        self.is_reloading_at(Instant::now())
    }

    fn is_reloading_at(&self, now: Instant) -> bool {
        self.identity.has_changed().is_ok() && !self.last_poll.is_overdue(now)
    }
}

/// The writer's half. When it is dropped, reloading ends and the last identity stays.
#[derive(Clone, Debug)]
pub struct ReloadHandle(Arc<CommandSender>);

#[derive(Debug)]
struct CommandSender(Sender<Command>);

#[derive(Debug)]
enum Command {
    Reload,
    Shutdown,
}

impl ReloadHandle {
    /// Polls the files now, as after SIGHUP.
    pub fn reload(&self) {
        // The thread lives as long as this does, unless it panicked.
        let _ = self.0.0.send(Command::Reload);
    }
}

impl Drop for CommandSender {
    fn drop(&mut self) {
        let _ = self.0.send(Command::Shutdown);
    }
}

/// How a service reloads its identity.
#[derive(Clone, Debug)]
pub struct ReloadSettings {
    /// The service, which names the thread.
    pub service: &'static str,
    /// How often the files are polled.
    pub poll_interval: Duration,
    /// How long before it expires a certificate is warned about; `None` for a third of its lifetime.
    pub expiry_warning: Option<Duration>,
    /// The time by which certificates are verified.
    pub clock: Clock,
}

/// Loads the identity that `sources` name, builds its rustls side by `build`, and keeps both current.
///
/// # Errors
/// When the first identity cannot be used.
pub fn spawn_reloader<T: Send + Sync + 'static>(
    settings: ReloadSettings,
    sources: IdentitySources,
    role: Role,
    metrics: IdentityMetrics,
    build: Box<Build<T>>,
) -> Result<(ReloadHandle, IdentityWatch<T>), ConfigError> {
    // Metadata first: what changes while it is read is seen as a change by the next poll.
    let certificate = sources.own.as_ref().map(UnitFiles::certificate);
    let trust = UnitFiles::trust_bundle(&sources.trust);
    let first = Arc::new(Identity::load(&sources, role, &settings.clock, &*build)?);
    let now = settings.clock.now();
    // Not in the thread, which may start later than the first connection is opened.
    let started = (Instant::now(), now);
    let mut key_mode = KeyMode::default();
    if let Some(paths) = &sources.own {
        key_mode.check(&paths.key);
    }
    metrics.record_identity(&first, now);
    metrics.record_own(&first);
    for unit in [certificate.as_ref(), trust.as_ref()].into_iter().flatten() {
        metrics.record_loaded(unit.unit);
    }
    let next_root_change = next_root_change(&first, now);
    let (publish, watch) = watch::channel(first);
    let rejected = Arc::<RejectedUnits>::default();
    let last_poll = Arc::new(LastPoll {
        poll_interval: settings.poll_interval,
        ended: Mutex::new(Instant::now()),
    });
    let (sender, commands) = mpsc::channel();
    let reloader = Reloader {
        next_root_change,
        own_expiry: ExpiryMonitor::new(settings.expiry_warning),
        chain_expiry: ExpiryMonitor::new(settings.expiry_warning),
        root_expiry: ExpiryMonitor::new(settings.expiry_warning),
        settings,
        sources,
        role,
        metrics,
        build,
        publish,
        certificate,
        trust,
        rejected: Arc::clone(&rejected),
        last_poll: Arc::clone(&last_poll),
        key_mode,
    };
    thread::Builder::new()
        .name(format!("{}-reload", reloader.settings.service))
        .spawn(move || reloader.run(&commands, started))
        .map_err(|error| ConfigError::new("the thread that reloads the identity", error))?;
    let watch = IdentityWatch { identity: watch, rejected, last_poll };
    Ok((ReloadHandle(Arc::new(CommandSender(sender))), watch))
}

struct Reloader<T> {
    settings: ReloadSettings,
    sources: IdentitySources,
    role: Role,
    metrics: IdentityMetrics,
    build: Box<Build<T>>,
    publish: watch::Sender<Arc<Identity<T>>>,
    certificate: Option<UnitFiles>,
    trust: Option<UnitFiles>,
    rejected: Arc<RejectedUnits>,
    last_poll: Arc<LastPoll>,
    /// When a root next becomes valid or expires.
    next_root_change: UnixTime,
    own_expiry: ExpiryMonitor,
    chain_expiry: ExpiryMonitor,
    root_expiry: ExpiryMonitor,
    key_mode: KeyMode,
}

impl<T: Send + Sync> Reloader<T> {
    /// `before` is a moment by both clocks, from which on steps of the system clock are noticed.
    fn run(mut self, commands: &Receiver<Command>, mut before: (Instant, UnixTime)) {
        loop {
            self.warn_of_expiry();
            match commands.recv_timeout(self.settings.poll_interval) {
                Ok(Command::Reload) => self.reload_now(commands),
                Err(RecvTimeoutError::Timeout) => {
                    self.poll(false);
                }
                Ok(Command::Shutdown) | Err(RecvTimeoutError::Disconnected) => return,
            }
            self.last_poll.record(Instant::now());
            before = self.wake_after_clock_step(before);
        }
    }

    /// Polls the files until they have settled.
    fn reload_now(&mut self, commands: &Receiver<Command>) {
        // One poll serves all commands that came before it. A later one may be about later files.
        while let Ok(Command::Reload) = commands.try_recv() {}
        let mut result = PollResult::default();
        for _ in 0..MAX_SETTLE_ATTEMPTS {
            let next = self.poll(true);
            result.changed |= next.changed;
            result.settling = next.settling;
            if !result.settling {
                break;
            }
            thread::sleep(SETTLE_INTERVAL);
        }
        if !result.changed && !result.settling {
            tracing::info!("TLS identity unchanged");
        }
    }

    /// Polls the files once, and loads what has changed and settled. `forced` reads them even where
    /// their metadata did not change.
    fn poll(&mut self, forced: bool) -> PollResult {
        let mut result = PollResult::default();
        let now = self.settings.clock.now();
        let current = Arc::clone(&self.publish.borrow());
        let (mut own, mut trust) = (current.own.clone(), current.trust.clone());
        // First: a certificate is checked against the new bundle.
        let mut trust_changed = false;
        if let Some(mut files) = self.trust.take() {
            let source = &self.sources.trust;
            let load =
                |contents: &[FileContents]| TrustBundle::from_contents(source, contents, now);
            if let Some(loaded) =
                files.update(forced, trust.as_ref(), load, &self.metrics, &mut result, now)
            {
                tracing::info!(
                    unit = Unit::TrustBundle.label(),
                    roots = loaded.active_count(now),
                    expires = format_rfc3339(loaded.latest_expiry().not_after),
                    "TLS identity reloaded"
                );
                trust = Some(loaded);
                trust_changed = true;
            }
            self.trust = Some(files);
        }
        if let (Some(mut files), Some(paths)) = (self.certificate.take(), &self.sources.own) {
            files.retry |= trust_changed;
            let role = self.role;
            let chains = |own: &OwnCertificate| {
                trust.as_ref().is_some_and(|trust| trust.verifies(own, role, now))
            };
            let load = |contents: &[FileContents]| {
                let loaded = OwnCertificate::from_contents(paths, contents, role, now)?;
                // Where both ends share a bundle, a certificate that it does not verify is a mistake,
                // or arrived before its root.
                if current.own.as_deref().is_some_and(chains) && !chains(&loaded) {
                    return Err(ConfigError::new(
                        paths.certificate.display(),
                        "certificate does not chain to any root in the trust bundle",
                    )
                    .hint("include its intermediates or add its root first; a restart takes it as it is"));
                }
                // A client's need not have an ID, but a server that reads the one in use would deny it.
                let has_id = current.own.as_deref().is_some_and(|own| own.names.peer_ids().is_ok());
                if let (Role::Client, true, Err(error)) = (role, has_id, loaded.names.peer_ids()) {
                    let reason = format!("{error}, unlike the one in use");
                    return Err(ConfigError::new(paths.certificate.display(), reason).hint(
                        "issue it with one SPIFFE ID as its URI, or with a DNS name; a restart takes it as it is",
                    ));
                }
                Ok(loaded)
            };
            if let Some(loaded) =
                files.update(forced, own.as_ref(), load, &self.metrics, &mut result, now)
            {
                tracing::info!(
                    unit = Unit::Certificate.label(),
                    serial = loaded.serial,
                    expires = format_rfc3339(loaded.not_after(now)),
                    "TLS identity reloaded"
                );
                own = Some(loaded);
            }
            self.key_mode.check(&paths.key);
            self.certificate = Some(files);
        }
        for files in [&self.certificate, &self.trust].into_iter().flatten() {
            self.rejected.flag(files.unit).store(files.rejected.is_some(), Ordering::Relaxed);
        }
        let roots_changed = trust_changed || now >= self.next_root_change;
        if result.accepted || roots_changed {
            let generation = current.trust_generation + u64::from(roots_changed);
            self.publish(own, trust, generation, now);
        } else {
            self.metrics.record_identity(&current, now);
        }
        result
    }

    fn publish(
        &mut self,
        own: Option<Arc<OwnCertificate>>,
        trust: Option<Arc<TrustBundle>>,
        generation: u64,
        now: UnixTime,
    ) {
        match Identity::new(own, trust, generation, now, &*self.build) {
            Ok(identity) => {
                self.metrics.record_identity(&identity, now);
                self.metrics.record_own(&identity);
                self.next_root_change = next_root_change(&identity, now);
                self.publish.send_replace(Arc::new(identity));
            }
            Err(error) => tracing::error!(
                cause = error.to_string(),
                "TLS identity reload failed, keeping the current identity"
            ),
        }
    }

    /// Wakes those who wait for a certificate's expiry, since a sleep does not notice that the clock
    /// was set. Returns the time to compare with the next time.
    fn wake_after_clock_step(&self, before: (Instant, UnixTime)) -> (Instant, UnixTime) {
        let now = (Instant::now(), self.settings.clock.now());
        let expected = super::clock::add(before.1, now.0 - before.0);
        if expected.as_secs().abs_diff(now.1.as_secs()) > CLOCK_STEP.as_secs() {
            self.publish.send_modify(|_| {});
        }
        now
    }

    fn warn_of_expiry(&mut self) {
        let identity = Arc::clone(&self.publish.borrow());
        let now = self.settings.clock.now();
        if let Some(own) = &identity.own {
            self.own_expiry.check("own", own.leaf.not_before, own.not_after(now), now);
            for (subject, validity) in own.others(now) {
                self.chain_expiry.check_other(subject, validity, now);
            }
        }
        if let Some(trust) = &identity.trust {
            let last = trust.latest_expiry();
            self.root_expiry.check("last trust root", last.not_before, last.not_after, now);
        }
    }
}

fn next_root_change<T>(identity: &Identity<T>, now: UnixTime) -> UnixTime {
    identity.trust.as_ref().map_or(FOREVER, |trust| trust.next_change(now))
}

/// The mode of the key's file when it was last looked at.
#[derive(Debug, Default)]
struct KeyMode(u32);

impl KeyMode {
    /// Logs a warning if every user may read `key` now, and could not or by another mode before.
    fn check(&mut self, key: &Path) {
        let mode = std::fs::metadata(key).map_or(0, |metadata| metadata.mode() & 0o777);
        if std::mem::replace(&mut self.0, mode) != mode && mode & 0o007 != 0 {
            tracing::warn!(
                file = %key.display(),
                mode = format!("{mode:04o}"),
                "Private key is readable by every user; restrict it to mode 0640 or 0600"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{metrics::Metrics, tls::trust::TrustSource};

    #[test]
    fn reloading_has_stopped_once_a_poll_is_a_minute_overdue() {
        let (start, poll_interval) = (Instant::now(), Duration::from_secs(5));
        let after = |seconds| start + Duration::from_secs(seconds);
        let last_poll = Arc::new(LastPoll { poll_interval, ended: Mutex::new(start) });
        let identity = Identity::new(None, None, 0, UnixTime::now(), &|_, _, _| Ok(())).unwrap();
        let (_publish, identity) = watch::channel(Arc::new(identity));
        let watch =
            IdentityWatch { identity, rejected: Arc::default(), last_poll: Arc::clone(&last_poll) };
        assert!(watch.is_reloading_at(after(65)) && !watch.is_reloading_at(after(66)));
        last_poll.record(after(5));
        assert!(watch.is_reloading_at(after(66)) && !watch.is_reloading_at(after(71)));

        // The first poll may be far away.
        let never = LastPoll { poll_interval: Duration::MAX, ended: Mutex::new(start) };
        assert!(!never.is_overdue(after(1_000_000)));
    }

    #[test]
    fn records_each_poll() {
        let settings = ReloadSettings {
            service: "test",
            poll_interval: Duration::from_millis(1),
            expiry_warning: None,
            clock: Clock::system(),
        };
        let metrics = IdentityMetrics::new(&Metrics::new("test", "0"));
        let sources = IdentitySources { own: None, trust: TrustSource::Disabled };
        let build = Box::new(|_: Option<&_>, _: Option<&_>, _| Ok(()));
        let (_handle, watch) =
            spawn_reloader(settings, sources, Role::Server, metrics, build).unwrap();
        let ended = || *watch.last_poll.ended.lock().unwrap();
        for _ in 0..2 {
            let before = ended();
            testkit::wait_until("the next poll", || (ended() > before).then_some(()));
        }
    }
}
