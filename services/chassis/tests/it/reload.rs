//! Files that change while they are in use.

use std::{
    fs,
    io::Write as _,
    mem::MaybeUninit,
    os::unix::fs::{FileExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use chassis::{
    error::ConfigError,
    metrics::Metrics,
    readiness::Readiness,
    tls::{
        cert::CertKeyPaths,
        clock::{Clock, format_rfc3339},
        identity::{Identity, IdentitySources, VerifyPeer as _},
        metrics::{IdentityMetrics, Unit},
        reload::{IdentityWatch, ReloadHandle, ReloadSettings, spawn_reloader},
        server::{ClientAuth, ServerTls},
        trust::TrustSource,
        x509::Role,
    },
};
use rustix::{
    fs::inotify::{self, CreateFlags, WatchFlags},
    io::Errno,
};
use rustls::{
    pki_types::{PrivateKeyDer, UnixTime, pem::PemObject as _},
    time_provider::TimeProvider,
};
use tempfile::TempDir;
use testkit::{
    Ca, CertDir, Issued, Leaf, client::metric, clock::ManualClock, wait_until, wait_until_async,
};
use time::Duration as Span;

use crate::support::{run_in_own_process, split};

const POLL: Duration = Duration::from_millis(2);

/// So long that nothing is noticed by it.
const NEVER: Duration = Duration::from_secs(24 * 3600);

const FAILED: &str = "TLS identity reload failed, keeping the current identity";

/// A clock that a test sets, and that counts how often it was read: each poll of the files reads it.
#[derive(Clone, Debug, Default)]
pub(crate) struct TestClock {
    pub(crate) manual: ManualClock,
    reads: Arc<AtomicUsize>,
}

impl TestClock {
    pub(crate) fn clock(&self) -> Clock {
        Clock::new(Arc::new(self.clone()))
    }

    pub(crate) fn reads(&self) -> usize {
        self.reads.load(Ordering::SeqCst)
    }
}

impl TimeProvider for TestClock {
    fn current_time(&self) -> Option<UnixTime> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        Some(self.manual.now())
    }
}

/// A server that reloads its identity.
pub(crate) struct Server {
    pub(crate) clock: TestClock,
    pub(crate) watch: IdentityWatch<ServerTls>,
    handle: ReloadHandle,
    metrics: Metrics,
    /// The name of the thread that reloads.
    thread: String,
}

impl Server {
    /// Starts it on `tls.crt`, `tls.key` and `ca.crt` in `dir`.
    fn start(dir: &Path, poll_interval: Duration) -> Result<Self, ConfigError> {
        Self::start_with(dir, TrustSource::Bundle(dir.join("ca.crt")), poll_interval)
    }

    fn start_with(
        dir: &Path,
        trust: TrustSource,
        poll_interval: Duration,
    ) -> Result<Self, ConfigError> {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        testkit::log::capture(&["chassis"]);
        let service: &str = format!("server-{}", STARTED.fetch_add(1, Ordering::SeqCst)).leak();
        let metrics = Metrics::new("test", "0");
        let clock = TestClock::default();
        let settings =
            ReloadSettings { service, poll_interval, expiry_warning: None, clock: clock.clock() };
        let paths = CertKeyPaths { certificate: dir.join("tls.crt"), key: dir.join("tls.key") };
        let sources = IdentitySources { own: Some(paths), trust };
        let identity_metrics = IdentityMetrics::new(&metrics);
        let (versions, tls_clock) = (rustls::DEFAULT_VERSIONS, clock.clock());
        let build = Box::new(move |own: Option<&Arc<_>>, trust: Option<&_>, now| {
            ServerTls::build(own, trust, ClientAuth::Required, versions, &tls_clock, now)
        });
        let (handle, watch) =
            spawn_reloader(settings, sources, Role::Server, identity_metrics, build)?;
        Ok(Self { clock, watch, handle, metrics, thread: format!("{service}-reload") })
    }

    pub(crate) fn current(&self) -> Arc<Identity<ServerTls>> {
        self.watch.current()
    }

    fn uses(&self, issued: &Issued) -> bool {
        self.current().own.as_ref().expect("a certificate").certified.cert == issued.chain_der()
    }

    #[track_caller]
    fn wait_for(&self, issued: &Issued) {
        wait_until("the new certificate", || self.uses(issued).then_some(()));
    }

    pub(crate) fn accepts(&self, peer: &Issued) -> bool {
        let now = self.clock.manual.now();
        self.current().tls.verify_peer(&peer.chain_der(), now).is_ok()
    }

    #[track_caller]
    fn wait_until_accepts(&self, peer: &Issued, expected: bool) {
        let what = format!("peer accepted: {expected}");
        wait_until(&what, || (self.accepts(peer) == expected).then_some(()));
    }

    fn metric(&self, name: &str) -> Option<f64> {
        metric(&self.metrics.encode(), name)
    }

    fn reloads(&self, unit: Unit, result: &str) -> f64 {
        let labels = format!("{{result=\"{result}\",unit=\"{}\"}}", unit.label());
        self.metric(&format!("identity_refreshes_total{labels}")).expect("a counter")
    }

    fn last_reload_successful(&self, unit: Unit) -> Option<f64> {
        self.metric(&format!("identity_last_reload_successful{{unit=\"{}\"}}", unit.label()))
    }

    #[track_caller]
    fn wait_for_rejections(&self, unit: Unit, at_least: f64) {
        let what = format!("{at_least} rejections");
        wait_until(&what, || (self.reloads(unit, "rejected") >= at_least).then_some(()));
        // It is logged after it is counted.
        wait_until("the log line", || (self.logged(&[FAILED, unit.label()]) > 0).then_some(()));
    }

    fn logged(&self, parts: &[&str]) -> usize {
        let lines = testkit::log::lines(&self.thread);
        lines.iter().filter(|line| parts.iter().all(|part| line.contains(part))).count()
    }

    /// Waits for several further polls of the files.
    #[track_caller]
    pub(crate) fn wait_for_polls(&self) {
        let before = self.clock.reads();
        wait_until("several polls", || (self.clock.reads() >= before + 25).then_some(()));
    }
}

fn issue(root: &Ca) -> Issued {
    root.issue(&Leaf::ponger("a"))
}

/// A directory as kubelet makes it, with an identity.
struct Mounted {
    dir: CertDir,
    root: Ca,
    first: Issued,
    _temporary: TempDir,
}

impl Mounted {
    fn new(root: Ca) -> Self {
        let temporary = tempfile::tempdir().expect("a directory");
        let dir = CertDir::create(temporary.path().join("certs")).expect("a directory");
        let mounted = Self { dir, first: issue(&root), root, _temporary: temporary };
        mounted.replace(&mounted.first, mounted.root.pem());
        mounted
    }

    fn replace(&self, issued: &Issued, bundle: &str) {
        let [certificate, key] = issued.files();
        self.dir.replace(&[certificate, key, ("ca.crt", bundle.as_bytes())]).expect("replaced");
    }

    fn start(&self) -> Server {
        Server::start(self.dir.path(), POLL).expect("a valid identity")
    }
}

/// A directory with plain files.
fn plain(root: &Ca) -> (TempDir, Issued) {
    let dir = tempfile::tempdir().expect("a directory");
    let issued = issue(root);
    write(dir.path(), root, &issued);
    (dir, issued)
}

fn write(dir: &Path, root: &Ca, issued: &Issued) {
    fs::create_dir_all(dir).expect("a directory");
    issued.write(dir).expect("written");
    fs::write(dir.join("ca.crt"), root.pem()).expect("written");
}

/// Starts a server for other modules' tests, on a bundle of `roots`, with its own certificate from
/// another root.
pub(crate) struct Running {
    pub(crate) server: Server,
    mounted: Mounted,
}

impl Running {
    pub(crate) fn new(leaf: &Leaf, roots: &str) -> Self {
        let mounted = Mounted::new(Ca::new("the server's own"));
        let first = mounted.root.issue(leaf);
        mounted.replace(&first, roots);
        let mounted = Mounted { first, ..mounted };
        Self { server: mounted.start(), mounted }
    }

    pub(crate) fn replace_roots(&self, roots: &str) {
        self.mounted.replace(&self.mounted.first, roots);
    }
}

#[test]
fn requires_a_valid_identity_at_start() {
    let root = Ca::new("a root");
    let (dir, _) = plain(&root);
    let key = dir.path().join("tls.key");
    let start = || Server::start(dir.path(), NEVER).err().expect("a rejection").to_string();
    fs::write(&key, "").unwrap();
    assert!(start().ends_with("tls.key: it is empty; it must hold a private key as PEM"));
    // A pipe is not waited for.
    fs::remove_file(&key).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &key, rustix::fs::Mode::RWXU).unwrap();
    assert!(start().ends_with("tls.key: it is not a regular file"));
}

#[test]
fn loads_new_certificate_and_new_bundle_of_a_mounted_secret() {
    let mounted = Mounted::new(Ca::new("a root"));
    let server = mounted.start();
    assert!(server.uses(&mounted.first));
    let other = Ca::new("another root");
    let (peer, foreign) = (issue(&mounted.root), issue(&other));
    let both = format!("{}{}", mounted.root.pem(), other.pem());
    for bundle in [&both, mounted.root.pem(), &both] {
        // Certificate and bundle together, then each by itself.
        for (new, bundle) in [(issue(&mounted.root), bundle), (issue(&mounted.root), bundle)] {
            mounted.replace(&new, bundle);
            server.wait_for(&new);
            server.wait_until_accepts(&foreign, bundle == both);
            assert!(server.accepts(&peer));
        }
    }
    for unit in Unit::ALL {
        assert!(server.reloads(unit, "ok") >= 3.0);
        assert_eq!(server.last_reload_successful(unit), Some(1.0));
    }
    let units = [Unit::Certificate, Unit::TrustBundle];
    assert!(units.iter().all(|u| server.logged(&["TLS identity reloaded", u.label()]) >= 3));
}

#[test]
fn loads_files_that_are_renamed_rewritten_removed_or_linked() {
    let root = Ca::new("a root");
    let (dir, _) = plain(&root);
    let server = Server::start(dir.path(), POLL).unwrap();
    let path = |name: &str| dir.path().join(name);
    let rename = |issued: &Issued| {
        for (name, contents) in issued.files() {
            fs::write(path("new"), contents).unwrap();
            fs::rename(path("new"), path(name)).unwrap();
        }
    };
    let rewrite = |issued: &Issued| {
        for (name, contents) in issued.files() {
            let mut file = fs::File::create(path(name)).unwrap();
            for piece in contents.chunks(100) {
                file.write_all(piece).unwrap();
                thread::sleep(Duration::from_millis(1));
            }
        }
    };
    let remove = |issued: &Issued| {
        fs::remove_file(path("tls.key")).unwrap();
        server.wait_for_polls();
        assert!(server.current().own.is_some());
        rename(issued);
    };
    // As certbot does: `live` has links to `archive`.
    let link = |issued: &Issued| {
        let archive = path(&format!("archive-{}", issued.key.len() + issued.chain.len()));
        fs::create_dir_all(&archive).unwrap();
        for (name, contents) in issued.files() {
            fs::write(archive.join(name), contents).unwrap();
            fs::remove_file(path(name)).unwrap();
            symlink(archive.join(name), path(name)).unwrap();
        }
    };
    let ways: [&dyn Fn(&Issued); 5] = [&rename, &rewrite, &remove, &link, &rename];
    for way in ways {
        let issued = issue(&root);
        way(&issued);
        server.wait_for(&issued);
    }
}

#[test]
fn follows_replaced_directories_and_links_above_the_files() {
    let root = Ca::new("a root");
    let (dir, first) = plain(&root);
    let release = |n: u32| {
        let issued = issue(&root);
        write(&dir.path().join(format!("release-{n}/certs")), &root, &issued);
        issued
    };
    let switch = |n: u32| {
        symlink(format!("release-{n}"), dir.path().join("link")).unwrap();
        fs::rename(dir.path().join("link"), dir.path().join("current")).unwrap();
    };
    let zeroth = release(0);
    switch(0);
    let certs = dir.path().join("current/certs");
    let server = Server::start(&certs, POLL).unwrap();
    assert!(server.uses(&zeroth) && !server.uses(&first));
    for n in 1..3 {
        let issued = release(n);
        switch(n);
        server.wait_for(&issued);
        // Missing for a while.
        fs::rename(&certs, dir.path().join(format!("old-{n}"))).unwrap();
        server.wait_for_rejections(Unit::Certificate, 1.0);
        assert!(server.uses(&issued));
        let issued = issue(&root);
        write(&certs, &root, &issued);
        server.wait_for(&issued);
    }
}

#[test]
fn rejected_certificate_is_counted_and_logged_once_and_the_current_one_stays() {
    let mounted = Mounted::new(Ca::new("a root"));
    let server = mounted.start();
    let (unit, successful) =
        (Unit::Certificate, || server.last_reload_successful(Unit::Certificate));
    let new = issue(&mounted.root);
    let mixed = Issued { chain: new.chain.clone(), key: mounted.first.key.clone() };
    let half = Issued { chain: new.chain[..new.chain.len() / 2].to_owned(), ..new.clone() };
    for (n, bad, cause) in [
        (1.0, &mixed, "tls.key: it is not the key of the certificate in "),
        (2.0, &half, "tls.crt: it is cut short or damaged"),
    ] {
        mounted.replace(bad, mounted.root.pem());
        server.wait_for_rejections(unit, n);
        server.wait_for_polls();
        assert_eq!(server.reloads(unit, "rejected"), n);
        assert_eq!(server.logged(&["ERROR", FAILED, cause]), 1);
        assert_eq!(successful(), Some(0.0));
        assert!(server.uses(&mounted.first));
    }
    // The files have what is in use again: there is nothing to load, and no fault.
    mounted.replace(&mounted.first, mounted.root.pem());
    wait_until("recovery", || (successful() == Some(1.0)).then_some(()));
    assert_eq!(server.reloads(unit, "ok"), 0.0);

    mounted.replace(&mixed, mounted.root.pem());
    server.wait_for_rejections(unit, 3.0);
    mounted.replace(&new, mounted.root.pem());
    server.wait_for(&new);
    wait_until("recovery", || (successful() == Some(1.0)).then_some(()));
    assert_eq!((server.reloads(unit, "ok"), server.reloads(unit, "rejected")), (1.0, 3.0));
}

#[test]
fn fault_in_one_unit_does_not_hold_back_the_other() {
    let mounted = Mounted::new(Ca::new("a root"));
    let other = Ca::new("another root");
    let both = format!("{}{}", mounted.root.pem(), other.pem());
    mounted.replace(&mounted.first, &both);
    let server = mounted.start();
    let peer = issue(&other);
    assert!(server.accepts(&peer));

    // A root is removed beside a broken certificate.
    let broken = Issued { chain: "nothing".into(), key: mounted.first.key.clone() };
    mounted.replace(&broken, mounted.root.pem());
    server.wait_until_accepts(&peer, false);
    server.wait_for_rejections(Unit::Certificate, 1.0);
    assert!(server.uses(&mounted.first));

    // A certificate is renewed beside a broken bundle.
    let new = issue(&mounted.root);
    mounted.replace(&new, "nothing");
    server.wait_for(&new);
    server.wait_for_rejections(Unit::TrustBundle, 1.0);
    assert!(server.accepts(&issue(&mounted.root)) && !server.accepts(&peer));
    assert_eq!(server.last_reload_successful(Unit::Certificate), Some(1.0));
    assert_eq!(server.last_reload_successful(Unit::TrustBundle), Some(0.0));
}

#[test]
fn certificate_and_key_in_use_always_belong_together() {
    let mounted = Mounted::new(Ca::new("a root"));
    let server = mounted.start();
    let done = AtomicBool::new(false);
    let mut last = mounted.first.clone();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                let identity = server.current();
                let own = identity.own.as_ref().expect("a certificate");
                let matching = own.certified.keys_match().is_ok();
                let verified = identity.tls.verify_peer(&own.certified.cert, UnixTime::now());
                if !matching || verified.is_err() {
                    done.store(true, Ordering::SeqCst);
                    panic!("certificate, key and bundle do not belong together");
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
        for _ in 0..100 {
            if done.load(Ordering::SeqCst) {
                break;
            }
            last = issue(&mounted.root);
            mounted.replace(&last, mounted.root.pem());
        }
        done.store(true, Ordering::SeqCst);
    });
    server.wait_for(&last);
}

#[test]
fn certificate_is_rejected_until_the_bundle_that_verified_the_current_one_verifies_it() {
    let mounted = Mounted::new(Ca::new("a root"));
    let server = mounted.start();
    let cause = "certificate does not chain to any root in the trust bundle";

    // Its intermediate is missing.
    let mut second = mounted.root.intermediate("between").issue(&Leaf::ponger("a"));
    let whole = second.clone();
    second.chain = split(&whole.chain)[0].to_owned();
    mounted.replace(&second, mounted.root.pem());
    server.wait_for_rejections(Unit::Certificate, 1.0);
    assert_eq!(server.logged(&[FAILED, cause]), 1);
    mounted.replace(&whole, mounted.root.pem());
    server.wait_for(&whole);

    // It arrives before its root.
    let other = Ca::new("another root");
    let third = issue(&other);
    mounted.replace(&third, mounted.root.pem());
    server.wait_for_rejections(Unit::Certificate, 2.0);
    server.wait_for_polls();
    assert!(server.uses(&whole));
    mounted.replace(&third, &format!("{}{}", mounted.root.pem(), other.pem()));
    server.wait_for(&third);
    wait_until("recovery", || {
        (server.last_reload_successful(Unit::Certificate) == Some(1.0)).then_some(())
    });

    // A root is removed even where our own certificate needs it, which then stays.
    mounted.replace(&third, mounted.root.pem());
    server.wait_until_accepts(&third, false);
    assert!(server.uses(&third));
}

#[test]
fn certificate_that_is_not_valid_yet_is_loaded_once_it_is() {
    let mounted = Mounted::new(Ca::new("a root"));
    let server = mounted.start();
    let leaf = Leaf::ponger("a").valid(Span::HOUR * 2, Span::HOUR * 20);
    let new = mounted.root.issue(&leaf);
    mounted.replace(&new, mounted.root.pem());
    server.wait_for_rejections(Unit::Certificate, 1.0);
    server.clock.manual.advance(Duration::from_secs(3600));
    server.wait_for_polls();
    assert!(server.uses(&mounted.first));
    assert_eq!(server.reloads(Unit::Certificate, "rejected"), 1.0, "nothing new was rejected");
    server.clock.manual.advance(Duration::from_secs(2 * 3600));
    server.wait_for(&new);
    assert_eq!(server.logged(&[FAILED]), 1);
}

#[test]
fn root_that_begins_or_ends_counts_from_then_on() {
    let hour = Duration::from_secs(3600);
    let ending = Ca::valid("ending", -Span::HOUR, Span::HOUR * 4);
    let beginning = Ca::valid("beginning", Span::HOUR * 2, Span::HOUR * 20);
    let mounted = Mounted::new(Ca::new("a root"));
    let bundle = [mounted.root.pem(), ending.pem(), beginning.pem()].concat();
    mounted.replace(&mounted.first, &bundle);
    let server = mounted.start();
    let valid = Leaf::ponger("a").valid(-Span::HOUR, Span::HOUR * 90);
    let [old, new] = [&ending, &beginning].map(|root| root.issue(&valid));
    let generation = || server.current().trust_generation;
    assert_eq!((server.accepts(&old), server.accepts(&new), generation()), (true, false, 0));
    server.clock.manual.advance(hour * 3);
    server.wait_until_accepts(&new, true);
    assert_eq!((server.accepts(&old), generation()), (true, 1));
    server.clock.manual.advance(hour * 2);
    server.wait_until_accepts(&old, false);
    assert_eq!((server.accepts(&new), generation()), (true, 2));
    // When the last root has ended, no peer is accepted, and nothing breaks.
    server.clock.manual.advance(hour * 40);
    server.wait_until_accepts(&new, false);
    assert!(server.watch.is_reloading());
    for unit in Unit::ALL {
        assert_eq!((server.reloads(unit, "ok"), server.reloads(unit, "rejected")), (0.0, 0.0));
    }
}

#[test]
fn reload_checks_the_files_at_once_and_reports_each_time() {
    let root = Ca::new("a root");
    let (dir, _) = plain(&root);
    let server = Server::start(dir.path(), NEVER).unwrap();
    server.handle.reload();
    let unchanged = || server.logged(&["INFO", "TLS identity unchanged"]);
    wait_until("the log line", || (unchanged() >= 1).then_some(()));

    let new = issue(&root);
    new.write(dir.path()).unwrap();
    server.handle.reload();
    server.wait_for(&new);

    fs::write(dir.path().join("tls.key"), "").unwrap();
    for n in 1_u8..4 {
        // Requests that arrive together are one poll: the next one waits for this one's result.
        server.handle.reload();
        server.wait_for_rejections(Unit::Certificate, f64::from(n));
        wait_until("a line for each", || {
            (server.logged(&[FAILED]) >= usize::from(n)).then_some(())
        });
    }
    assert!(server.uses(&new));
}

#[test]
fn unchanged_contents_publish_nothing() {
    let mounted = Mounted::new(Ca::new("a root"));
    let mut server = mounted.start();
    server.watch.borrow_and_update();
    let before = server.current();
    for bundle in [mounted.root.pem().to_owned(), format!("# the same\n{}", mounted.root.pem())] {
        mounted.replace(&mounted.first, &bundle);
        server.wait_for_polls();
    }
    assert!(Arc::ptr_eq(&before, &server.current()));
    for unit in Unit::ALL {
        assert_eq!((server.reloads(unit, "ok"), server.reloads(unit, "rejected")), (0.0, 0.0));
    }
}

#[test]
fn change_after_the_first_load_and_before_the_first_poll_is_seen() {
    let mounted = Mounted::new(Ca::new("a root"));
    let new = issue(&mounted.root);
    let server = mounted.start();
    mounted.replace(&new, mounted.root.pem());
    server.wait_for(&new);
}

#[tokio::test]
async fn watch_notifies_of_changes_until_the_handle_is_dropped() {
    let mounted = Mounted::new(Ca::new("a root"));
    let Server { mut watch, handle, .. } = mounted.start();
    let first = watch.borrow_and_update();
    mounted.replace(&issue(&mounted.root), mounted.root.pem());
    // It also notifies when the system clock was set, or seems so on a busy machine.
    while Arc::ptr_eq(&first, &watch.borrow_and_update()) {
        let changed = tokio::time::timeout(testkit::PATIENCE, watch.changed());
        changed.await.expect("a change");
    }
    assert!(watch.is_reloading());
    drop(handle);
    wait_until_async("the end of the thread", async || (!watch.is_reloading()).then_some(())).await;
    watch.borrow_and_update();
    let wait = tokio::time::timeout(Duration::from_millis(20), watch.changed());
    assert!(wait.await.is_err(), "there is nothing to wait for");
    assert!(watch.current().own.is_some());
}

#[test]
fn is_not_ready_once_nothing_reloads() {
    let mounted = Mounted::new(Ca::new("a root"));
    let Server { watch, handle, clock, .. } = mounted.start();
    let readiness = Readiness::default();
    readiness.watch_identity(&watch, &clock.clock());
    assert_eq!(readiness.not_ready_reasons(), [] as [&str; 0]);
    drop(handle);
    wait_until("the end of the thread", || {
        (readiness.not_ready_reasons() == ["certificates are no longer reloaded"]).then_some(())
    });
}

#[test]
fn expiry_is_a_metric_and_logged() {
    let root = Ca::valid("short", -Span::HOUR, Span::HOUR * 10);
    let mounted = Mounted::new(root);
    let server = mounted.start();
    let identity = server.current();
    let own = identity.own.as_ref().unwrap().leaf.not_after;
    let last_root = identity.trust.as_ref().unwrap().latest_expiry().not_after;
    let seconds = |time: UnixTime| Duration::from_secs(time.as_secs());
    let expiration = |role: &str| {
        let name = format!("identity_cert_expiration_timestamp_seconds{{role=\"{role}\"}}");
        server.metric(&name).map(Duration::from_secs_f64)
    };
    assert_eq!(expiration("own"), Some(seconds(own)));
    assert_eq!(expiration("roots"), Some(seconds(last_root)));
    assert_eq!(expiration("peer"), None);
    for unit in Unit::ALL {
        let name = "identity_last_reload_success_timestamp_seconds";
        let loaded = server.metric(&format!("{name}{{unit=\"{}\"}}", unit.label())).unwrap();
        // Within an hour, however slow the machine.
        assert!((UnixTime::now().as_secs() as f64 - loaded).abs() < 3600.0);
        assert_eq!(server.last_reload_successful(unit), Some(1.0));
    }

    let [own, last_root] = [own, last_root].map(|time| format!("={:?}", format_rfc3339(time)));
    let warned = |certificate: &str, at: &str| {
        server.logged(&["WARN", "Certificate expires soon", certificate, &format!("expires{at}")])
    };
    server.wait_for_polls();
    assert_eq!((warned("own", &own), warned("last trust root", &last_root)), (0, 0));
    server.clock.manual.advance(Duration::from_secs(45 * 60));
    wait_until("a warning", || (warned("own", &own) == 1).then_some(()));
    server.clock.manual.advance(Duration::from_secs(8 * 3600));
    wait_until("a warning", || (warned("last trust root", &last_root) == 1).then_some(()));
    let expired = || server.logged(&["ERROR", "Certificate has expired", "own", &own]);
    wait_until("an error", || (expired() == 1).then_some(()));
    server.wait_for_polls();
    assert_eq!((warned("own", &own), expired()), (1, 1), "once is enough");
    assert!(server.current().own_expired(server.clock.manual.now()));
}

/// What no peer needs is warned about, and does no harm.
#[test]
fn other_certificates_of_the_own_chain_are_warned_about_when_they_expire() {
    let mounted = Mounted::new(Ca::new("a root"));
    let between = mounted.root.intermediate("between");
    let mut issued = between.issue(&Leaf::ponger("a").valid(-Span::HOUR, Span::HOUR * 20));
    let cross = Ca::new("an old root").cross_sign(&between, -Span::HOUR, Span::HOUR * 10);
    let junk = Ca::valid("junk", -Span::HOUR, -Span::MINUTE);
    issued.chain += &(cross + junk.pem());
    mounted.replace(&issued, mounted.root.pem());
    let server = mounted.start();
    let expired = |subject: &str| {
        let subject = format!("own chain: CN={subject}");
        server.logged(&["WARN", "Certificate has expired, which no peer needs", &subject])
    };
    let soon = || server.logged(&["WARN", "Certificate expires soon", "own chain: CN=between"]);
    wait_until("a warning", || (expired("junk") == 1).then_some(()));
    server.wait_for_polls();
    assert_eq!((soon(), expired("between")), (0, 0));
    server.clock.manual.advance(Duration::from_secs(9 * 3600));
    wait_until("a warning", || (soon() == 1).then_some(()));
    server.clock.manual.advance(Duration::from_secs(2 * 3600));
    wait_until("a warning", || (expired("between") == 1).then_some(()));
    server.wait_for_polls();
    let now = server.clock.manual.now();
    assert!(!server.current().own_expired(now) && server.accepts(&issued));
    assert_eq!((server.logged(&["ERROR"]), expired("between"), expired("junk")), (0, 1, 1));
}

#[test]
fn key_that_every_user_may_read_is_warned_about_once_for_each_change_of_its_mode() {
    let root = Ca::new("a root");
    let (dir, _) = plain(&root);
    let key = dir.path().join("tls.key");
    let set_mode = |mode| fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
    set_mode(0o644);
    let server = Server::start(dir.path(), POLL).unwrap();
    let warned = |mode: &str| {
        // The first is logged where the server is started.
        let lines = testkit::log::lines(thread::current().name().unwrap());
        let path = key.display().to_string();
        let mode = format!("mode={mode:?}");
        let parts = ["WARN", "Private key is readable by every user", &path, &mode];
        let here = lines.iter().filter(|line| parts.iter().all(|part| line.contains(part)));
        here.count() + server.logged(&parts)
    };
    server.wait_for_polls();
    assert_eq!(warned("0644"), 1);
    for (mode, text, times) in [(0o600, "0600", 0), (0o666, "0666", 1), (0o640, "0640", 0)] {
        set_mode(mode);
        server.wait_for_polls();
        assert_eq!(warned(text), times);
    }
    // With new files as well.
    set_mode(0o604);
    let new = issue(&root);
    fs::write(&key, &new.key).unwrap();
    fs::write(dir.path().join("tls.crt"), &new.chain).unwrap();
    server.wait_for(&new);
    server.wait_for_polls();
    assert_eq!((warned("0604"), warned("0644")), (1, 1));
}

/// Contents are read when metadata has changed, and not at every poll: a key least of all.
#[test]
fn files_are_opened_only_when_they_have_changed() {
    let root = Ca::new("a root");
    let (dir, _) = plain(&root);
    let server = Server::start(dir.path(), POLL).unwrap();
    server.wait_for_polls();
    let opened = match inotify::init(CreateFlags::NONBLOCK) {
        // By default a user may have 128, which a few local clusters take.
        Err(Errno::MFILE) => return testkit::process::skip("no inotify instance is left"),
        opened => opened.unwrap(),
    };
    inotify::add_watch(&opened, dir.path(), WatchFlags::OPEN).unwrap();
    let names = || {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let (mut events, mut names) = (inotify::Reader::new(&opened, &mut buffer), Vec::new());
        while let Ok(event) = events.next() {
            names.extend(event.file_name().map(|name| name.to_string_lossy().into_owned()));
        }
        names
    };
    server.wait_for_polls();
    assert_eq!(names(), [""; 0]);
    issue(&root).write(dir.path()).unwrap();
    server.wait_for_polls();
    assert!(names().contains(&"tls.key".to_owned()));
}

/// Of a key that was loaded, and of one that was replaced, nothing is left but what signs.
///
/// In a process of its own, whose memory never had them otherwise: it gets what to search for masked.
#[test]
fn no_copy_of_a_key_stays_in_memory() {
    const DIR: &str = "CHASSIS_TEST_SECRETS";
    const MASK: u8 = 0x55;
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else {
        let root = Ca::new("a root");
        let (dir, first) = plain(&root);
        let second = issue(&root);
        fs::create_dir(dir.path().join("next")).unwrap();
        second.write(&dir.path().join("next")).unwrap();
        let mut secrets = Vec::new();
        for issued in [&first, &second] {
            let text = issued.key.lines().filter(|line| !line.starts_with('-'));
            secrets.extend(text.map(|line| line.as_bytes().to_vec()));
            let der = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
            secrets.push(der.secret_der()[..68].to_vec());
        }
        for (number, secret) in secrets.iter().enumerate() {
            let masked: Vec<_> = secret.iter().map(|byte| byte ^ MASK).collect();
            fs::write(dir.path().join(format!("masked-{number}")), masked).unwrap();
        }
        let variables = [(DIR, dir.path().as_os_str())];
        return run_in_own_process("reload::no_copy_of_a_key_stays_in_memory", &variables);
    };
    let masked: Vec<_> =
        (0..).map_while(|n| fs::read(dir.join(format!("masked-{n}"))).ok()).collect();
    assert!(masked.len() >= 8, "both keys");
    let find = || {
        let memory = fs::File::open("/proc/self/mem").unwrap();
        let (mut found, mut contents) = (Vec::new(), Vec::new());
        for line in fs::read_to_string("/proc/self/maps").unwrap().lines() {
            let (range, rest) = line.split_once(' ').unwrap();
            let (start, end) = range.split_once('-').unwrap();
            let [start, end] = [start, end].map(|hex| u64::from_str_radix(hex, 16).unwrap());
            contents.resize(usize::try_from(end - start).unwrap(), 0);
            if !rest.starts_with("rw") || memory.read_exact_at(&mut contents, start).is_err() {
                continue;
            }
            let starts_with = |(at, _): &(usize, _), secret: &&Vec<u8>| {
                let here = contents[*at..].iter().map(|byte| byte ^ MASK);
                contents.len() - at >= secret.len() && here.zip(secret.iter()).all(|(a, b)| a == *b)
            };
            for place in contents.iter().map(|byte| byte ^ MASK).enumerate() {
                let likely = masked.iter().filter(|secret| secret[0] == place.1);
                if likely.clone().any(|secret| starts_with(&place, &secret)) {
                    found.push(line.to_owned());
                }
            }
        }
        found
    };
    let server = Server::start(&dir, POLL).unwrap();
    assert_eq!(find(), [""; 0], "after the start");
    for name in ["tls.crt", "tls.key"] {
        fs::rename(dir.join("next").join(name), dir.join(name)).unwrap();
    }
    let chain = fs::read_to_string(dir.join("tls.crt")).unwrap();
    server.wait_for(&Issued { chain, key: String::new() });
    assert_eq!(find(), [""; 0], "after a reload");
    // The search finds what is there.
    let copy: Vec<_> = masked[0].iter().map(|byte| byte ^ MASK).collect();
    assert!(!find().is_empty(), "{} bytes", copy.len());
    std::hint::black_box(&copy);
}

/// `SSL_CERT_FILE` and `SSL_CERT_DIR` are read in a process of its own, which has them.
#[test]
fn follows_native_roots_that_variables_name() {
    const DIR: &str = "CHASSIS_TEST_NATIVE_ROOTS";
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else {
        let (dir, _) = plain(&Ca::new("a root"));
        fs::create_dir(dir.path().join("roots")).unwrap();
        fs::write(dir.path().join("roots/00000000.0"), Ca::new("in the directory").pem()).unwrap();
        return run_in_own_process(
            "reload::follows_native_roots_that_variables_name",
            &[
                (DIR, dir.path().as_os_str()),
                ("SSL_CERT_FILE", dir.path().join("ca.crt").as_os_str()),
                ("SSL_CERT_DIR", dir.path().join("roots").as_os_str()),
            ],
        );
    };
    let file = dir.join("ca.crt");
    let server = Server::start_with(&dir, TrustSource::Native, POLL).unwrap();
    let trust = || server.current().trust.clone().unwrap().active_count(UnixTime::now());
    assert_eq!(trust(), 2);
    fs::write(dir.join("roots/00000001.0"), Ca::new("another root").pem()).unwrap();
    wait_until("a third root", || (trust() == 3).then_some(()));
    let other = Ca::new("another root");
    fs::write(dir.join("new"), other.pem()).unwrap();
    fs::rename(dir.join("new"), &file).unwrap();
    server.wait_until_accepts(&issue(&other), true);
    fs::remove_file(dir.join("roots/00000000.0")).unwrap();
    wait_until("two roots", || (trust() == 2).then_some(()));
    // What is not a certificate is rejected as a whole.
    fs::write(dir.join("roots/00000002.0"), "-----BEGIN CERTIFICATE-----\nAAAA").unwrap();
    server.wait_for_rejections(Unit::TrustBundle, 1.0);
    assert_eq!(trust(), 2);
    // A pipe is not waited for, now and when it is there at the next reload.
    fs::remove_file(&file).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &file, rustix::fs::Mode::RWXU).unwrap();
    let pipe = format!("{} (environment variable SSL_CERT_FILE): it is not a", file.display());
    wait_until("the log line", || (server.logged(&[FAILED, &pipe]) > 0).then_some(()));
    fs::remove_file(&file).unwrap();
    fs::write(&file, Ca::new("a third root").pem()).unwrap();
    fs::remove_file(dir.join("roots/00000002.0")).unwrap();
    server.wait_until_accepts(&issue(&other), false);
}
