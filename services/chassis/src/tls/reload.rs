//! Follows an identity on disk: notices changes, verifies them, publishes what is good.
//!
//! The writer is a thread of its own, and the reader a [`Current`] that anyone may clone. A change
//! is noticed by watching the *folders* (kubelet swaps a link, people rename), by reading the files
//! again every so often, or by SIGHUP. A set that is not wholly good is counted and logged, and what
//! was there before stays.

use std::{
    collections::{BTreeMap, BTreeSet, hash_map::DefaultHasher},
    hash::{Hash as _, Hasher as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode, ModifyKind},
};
use tokio::sync::watch;

use super::{
    clock::utc,
    expiry::Warner,
    identity::{Identity, Sources},
    cert::Purpose,
    peer_id::Name,
    trust::Roots,
};
use crate::{config, files, metrics::IdentityMetrics, error::ConfigError};

/// None of the files that are followed is larger: they are PEM, or a configuration.
const LARGEST_FILE: u64 = 1 << 20;

/// How long files must lie still before they are read: whoever replaces several is given the time.
const SETTLE: Duration = Duration::from_millis(150);

/// How long events are gathered before the files are looked at.
const LULL: Duration = Duration::from_millis(100);

/// How many times [`SETTLE`] is waited for; files that never lie still, or that someone keeps open
/// for writing, are read as they are.
const PATIENCE: usize = 40;

/// The reader's half: always the last identity that was good.
#[derive(Clone, Debug)]
pub struct Current(watch::Receiver<Arc<Identity>>);

impl Current {
    /// The identity of this moment.
    pub fn get(&self) -> Arc<Identity> {
        Arc::clone(&self.0.borrow())
    }

    /// Waits until another identity than the one seen before is published. Never ends when the
    /// follower is gone.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether another identity was published since the last [`Current::changed`] of this value.
    pub fn has_changed(&self) -> bool {
        self.0.has_changed().unwrap_or(false)
    }

    /// Takes note of the identity of this moment.
    pub fn mark_seen(&mut self) -> Arc<Identity> {
        Arc::clone(&self.0.borrow_and_update())
    }
}

/// The writer's half. When it is dropped, nothing is followed any more and the last identity stays.
#[derive(Debug)]
pub struct Follower {
    order: Sender<Order>,
}

#[derive(Debug)]
enum Order {
    /// Something happened in a folder.
    Stir,
    /// Someone wants the files to be looked at now.
    Look,
    Stop,
}

impl Follower {
    /// A handle by which to order a look at the files, as SIGHUP does.
    pub fn look(&self) {
        // The thread lives as long as this does.
        let _ = self.order.send(Order::Look);
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.order.send(Order::Stop);
    }
}

/// Follows what `sources` name, and the names of those who are let in, which `allowed` reads anew
/// from the configuration `file`. Its other keys take effect at the next start.
///
/// # Errors
/// When the first identity cannot be used.
pub fn follow_sources(
    settings: &config::Identity,
    purpose: Purpose,
    sources: Sources,
    file: &Path,
    allowed: impl Fn() -> Result<Option<BTreeSet<Name>>, ConfigError> + Send + 'static,
    metrics: IdentityMetrics,
) -> Result<(Follower, Current), ConfigError> {
    let mut files = sources.files();
    files.push(file.to_owned());
    let file = file.to_owned();
    let load = move || {
        let allowed = allowed()?;
        if allowed.is_none() && sources.allowed.is_some() {
            // A file that is being written, or a slip: not a reason to let everyone in.
            let cause = "the names of those who are let in are gone, and without them everyone is";
            return Err(ConfigError::new(file.display(), cause)
                .hint("put them back, or start again without them"));
        }
        Identity::load(&Sources { allowed, ..sources.clone() }, purpose)
    };
    follow(settings, files, load, metrics)
}

/// Loads an identity by `load`, and again whenever one of `files` changes.
///
/// # Errors
/// When the first identity cannot be used.
pub fn follow(
    settings: &config::Identity,
    files: Vec<PathBuf>,
    load: impl Fn() -> Result<Identity, ConfigError> + Send + 'static,
    metrics: IdentityMetrics,
) -> Result<(Follower, Current), ConfigError> {
    let seen = fingerprint(&files);
    let first = load()?;
    metrics.publish(&first);
    let (publish, current) = watch::channel(Arc::new(first));
    let (order, orders) = mpsc::channel();
    let folders = Folders::new(order.clone());
    let thread = Thread {
        files,
        load,
        publish,
        metrics,
        seen,
        refused: false,
        folders,
        poll: settings.poll_interval.0.max(SETTLE),
        warner: Warner::new(settings.expiry_warning.map(|span| span.0)),
        roots_warner: Warner::new(settings.expiry_warning.map(|span| span.0)),
    };
    thread::Builder::new()
        .name("identity".into())
        .spawn(move || thread.run(&orders))
        .map_err(|error| ConfigError::new("the thread that follows the identity", error))?;
    Ok((Follower { order }, Current(current)))
}

struct Thread<L> {
    files: Vec<PathBuf>,
    load: L,
    publish: watch::Sender<Arc<Identity>>,
    metrics: IdentityMetrics,
    /// The contents that were last looked at, whether they were good or not.
    seen: u64,
    /// Whether they were refused.
    refused: bool,
    folders: Folders,
    poll: Duration,
    warner: Warner,
    roots_warner: Warner,
}

impl<L: Fn() -> Result<Identity, ConfigError>> Thread<L> {
    fn run(mut self, orders: &Receiver<Order>) {
        loop {
            let fresh = self.folders.watch(&self.files);
            self.warn();
            let mut ordered = if fresh {
                // What happened in a folder before it was watched, nobody tells.
                false
            } else {
                match orders.recv_timeout(self.poll) {
                    Ok(Order::Look) => true,
                    Ok(Order::Stir) | Err(RecvTimeoutError::Timeout) => false,
                    Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                }
            };
            // One look is enough for all that has happened until now, in a busy folder too.
            thread::sleep(LULL);
            for order in orders.try_iter() {
                match order {
                    Order::Look => ordered = true,
                    Order::Stir => {}
                    Order::Stop => return,
                }
            }
            self.look(ordered);
        }
    }

    /// Looks at the files, and takes them if they are other than before and wholly good.
    fn look(&mut self, ordered: bool) {
        // What was refused may have become good by itself: a certificate that was not valid yet.
        if fingerprint(&self.files) == self.seen && !ordered && !self.refused {
            return;
        }
        let (print, loaded) = self.load_whole();
        let changed = print != self.seen;
        self.seen = print;
        self.refused = loaded.is_err();
        match loaded {
            Ok(identity) if identity == **self.publish.borrow() => {
                if ordered {
                    tracing::info!("Identity looked at: unchanged");
                }
            }
            Ok(identity) => {
                let identity = Arc::new(identity);
                // Before it is said: whoever reads the line may count on it.
                self.publish.send_replace(Arc::clone(&identity));
                self.metrics.publish(&identity);
                self.metrics.refreshed.with_label_values(&["ok"]).inc();
                let leaf = identity.leaf.as_ref().map(|leaf| &leaf.facts);
                tracing::info!(
                    serial = leaf.map(|leaf| leaf.serial.as_str()),
                    expires = leaf.map(|leaf| utc(leaf.not_after)),
                    "Identity replaced"
                );
            }
            Err(error) => {
                if changed || ordered {
                    self.metrics.refreshed.with_label_values(&["refused"]).inc();
                    tracing::error!(cause = %error, "Identity on disk refused, keeping the one before");
                }
            }
        }
    }

    /// Loads what lies still: the same contents before and after, so that no two moments are mixed.
    fn load_whole(&self) -> (u64, Result<Identity, ConfigError>) {
        let mut print = fingerprint(&self.files);
        for _ in 0..PATIENCE {
            thread::sleep(SETTLE);
            let again = fingerprint(&self.files);
            if again == print && !self.folders.see_a_writer(&self.files) {
                let loaded = self.load();
                if fingerprint(&self.files) == print {
                    return (print, loaded);
                }
            }
            print = again;
        }
        (print, self.load())
    }

    /// Loads them. A leaf for which no root vouches, where the same roots did for the one in use, is
    /// a slip, or came before its intermediates.
    fn load(&self) -> Result<Identity, ConfigError> {
        let next = (self.load)()?;
        let current = self.publish.borrow();
        if next.judges_as(&current) && current.vouches_for_itself() && !next.vouches_for_itself() {
            let cause =
                "no root of the trust bundle vouches for it, as one does for the one in use";
            return Err(ConfigError::new("our own certificate", cause)
                .hint("put its intermediates below it, or its root into the bundle first; a restart takes it as it is"));
        }
        Ok(next)
    }

    fn warn(&mut self) {
        let identity = Arc::clone(&self.publish.borrow());
        // A root may have ended since.
        self.metrics.publish(&identity);
        if let Some(leaf) = &identity.leaf {
            self.warner.look("our own", leaf.facts.not_before, leaf.facts.not_after);
        }
        if let Some((not_before, not_after)) = identity.roots().and_then(Roots::longest) {
            self.roots_warner.look("the last trust root's", not_before, not_after);
        }
    }
}

/// A fingerprint of what the files hold at this moment, or of why they cannot be read.
fn fingerprint(files: &[PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in files {
        match files::read(file, LARGEST_FILE) {
            Ok(bytes) => bytes.hash(&mut hasher),
            Err(error) => error.to_string().hash(&mut hasher),
        }
    }
    hasher.finish()
}

/// The folders in which a change of the files shows.
struct Folders {
    watcher: Option<RecommendedWatcher>,
    /// Each with its device and inode: another folder may have taken its place.
    watched: BTreeMap<PathBuf, (u64, u64)>,
    noticed: Arc<Mutex<Noticed>>,
}

impl Folders {
    fn new(order: Sender<Order>) -> Self {
        let noticed = Arc::new(Mutex::new(Noticed::default()));
        let notebook = Arc::clone(&noticed);
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if let Ok(event) = &event {
                lock(&notebook).note(event);
            }
            // Reading a file is an event too, and not a change.
            let is_read = event.as_ref().is_ok_and(|event| {
                matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write))
            });
            if !is_read {
                let _ = order.send(Order::Stir);
            }
        });
        let watcher = watcher
            .inspect_err(|error| tracing::warn!(%error, "Folders cannot be watched; files are read every so often"))
            .ok();
        Self { watcher, watched: BTreeMap::new(), noticed }
    }

    /// Watches the folders of `files` as they are now; links may lead elsewhere than before. Whether
    /// there are any that were not watched until now.
    fn watch(&mut self, files: &[PathBuf]) -> bool {
        let Some(watcher) = &mut self.watcher else {
            return false;
        };
        let wanted: BTreeMap<_, _> = files
            .iter()
            .flat_map(|file| folders_of(file))
            .filter_map(|folder| nearest_existing(&folder))
            .collect();
        let lost = {
            let mut noticed = lock(&self.noticed);
            // Of the others nobody will tell when they are closed.
            noticed
                .open
                .retain(|file| file.parent().is_some_and(|folder| wanted.contains_key(folder)));
            std::mem::take(&mut noticed.lost)
        };
        self.watched.retain(|folder, inode| {
            let stays = wanted.get(folder) == Some(inode) && !lost.contains(folder);
            if !stays {
                let _ = watcher.unwatch(folder);
            }
            stays
        });
        let mut fresh = false;
        for (folder, inode) in wanted {
            if self.watched.contains_key(&folder) {
                continue;
            }
            if watcher.watch(&folder, RecursiveMode::NonRecursive).is_ok() {
                self.watched.insert(folder, inode);
                fresh = true;
            } else if nearest_existing(&folder) != Some((folder, inode)) {
                // It has gone away since it was found.
                fresh = true;
            }
        }
        fresh
    }

    /// Whether someone was seen to write one of `files` who has not closed it yet.
    fn see_a_writer(&self, files: &[PathBuf]) -> bool {
        let noticed = lock(&self.noticed);
        files
            .iter()
            .filter_map(|file| file.canonicalize().ok())
            .any(|file| noticed.open.contains(&file))
    }
}

/// What the watcher has noticed. Its paths are without links, as those that are watched are.
#[derive(Default)]
struct Noticed {
    /// What was moved or removed. If it is a folder, another may have its name by now, even with the
    /// same inode, and the watch is not on that one.
    lost: BTreeSet<PathBuf>,
    /// Files that someone has begun to write, and not closed yet.
    open: BTreeSet<PathBuf>,
}

impl Noticed {
    fn note(&mut self, event: &Event) {
        if event.need_rescan() {
            // Events were lost, so perhaps that of a file's closing.
            self.open.clear();
        }
        for path in &event.paths {
            match event.kind {
                EventKind::Modify(ModifyKind::Data(_)) => {
                    self.open.insert(path.clone());
                }
                EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                    self.open.remove(path);
                }
                EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => {
                    self.open.remove(path);
                    self.lost.insert(path.clone());
                }
                _ => {}
            }
        }
    }
}

fn lock(noticed: &Mutex<Noticed>) -> MutexGuard<'_, Noticed> {
    noticed.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The folder itself, without links in its path, or the nearest above it while it is not there; with
/// its device and inode.
fn nearest_existing(folder: &Path) -> Option<(PathBuf, (u64, u64))> {
    folder.ancestors().find_map(|folder| {
        let folder = folder.canonicalize().ok()?;
        let metadata = std::fs::metadata(&folder).ok()?;
        Some((folder, (metadata.dev(), metadata.ino())))
    })
}

/// Each folder whose change can make `file` another one: its own, and those of the links on the way.
fn folders_of(file: &Path) -> BTreeSet<PathBuf> {
    let mut folders = BTreeSet::new();
    let mut ways = vec![std::path::absolute(file).unwrap_or_else(|_| file.to_owned())];
    // As many links as Linux follows.
    for _ in 0..40 {
        let Some(way) = ways.pop() else { break };
        folders.extend(way.parent().map(Path::to_owned));
        for part in way.ancestors() {
            let (Ok(target), Some(folder)) = (std::fs::read_link(part), part.parent()) else {
                continue;
            };
            let rest = way.strip_prefix(part).unwrap_or(Path::new(""));
            folders.insert(folder.to_owned());
            ways.push(folder.join(target).join(rest));
        }
    }
    folders
}

#[cfg(test)]
mod tests {
    use notify::event::{DataChange, Flag, RemoveKind, RenameMode};

    use super::*;

    const WRITTEN: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));
    const CLOSED: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));
    const REMOVED: EventKind = EventKind::Remove(RemoveKind::File);
    const MOVED: EventKind = EventKind::Modify(ModifyKind::Name(RenameMode::From));

    fn noticed(events: &[EventKind]) -> Noticed {
        let mut noticed = Noticed::default();
        for event in events {
            noticed.note(&Event::new(*event).add_path("/identity/tls.crt".into()));
        }
        noticed
    }

    #[test]
    fn a_file_is_open_from_its_first_write_until_it_is_closed_removed_or_moved() {
        let file = Path::new("/identity/tls.crt");
        assert!(noticed(&[WRITTEN]).open.contains(file));
        for end in [CLOSED, REMOVED, MOVED] {
            assert!(noticed(&[WRITTEN, end]).open.is_empty(), "{end:?}");
            assert!(noticed(&[WRITTEN, end, WRITTEN]).open.contains(file), "{end:?}");
        }
    }

    #[test]
    fn what_was_removed_or_moved_is_to_be_watched_anew() {
        for end in [REMOVED, MOVED] {
            assert!(noticed(&[end]).lost.contains(Path::new("/identity/tls.crt")), "{end:?}");
        }
        assert!(noticed(&[WRITTEN, CLOSED]).lost.is_empty());
    }

    #[test]
    fn lost_events_leave_no_file_open_for_ever() {
        let mut noticed = noticed(&[WRITTEN]);
        noticed.note(&Event::new(EventKind::Other).set_flag(Flag::Rescan));
        assert!(noticed.open.is_empty());
    }
}
