//! An identity on disk that changes while it is in use.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use chassis::{
    config::{self, HumanDuration},
    error::ConfigError,
    metrics::{IdentityMetrics, Metrics},
    shutdown::on_hangup,
    tls::{
        cert::{LeafFiles, Purpose},
        clock::{now, utc},
        identity::{Identity, Sources, Trusted},
        peer_id::Name,
        reload::{Current, Follower, follow, follow_sources},
        trust::Roots,
    },
};
use testkit::{Ca, Issued, Leaf};

use crate::{
    logs,
    support::{Folder, chain, eventually, without_root},
};

/// So long that nothing is noticed by it.
const NEVER: Duration = Duration::from_secs(24 * 3600);

fn sources(place: &Path) -> Sources {
    Sources {
        leaf: Some(LeafFiles { certificate: place.join("tls.crt"), key: place.join("tls.key") }),
        roots: Trusted::File(place.join("ca.crt")),
        allowed: None,
    }
}

fn files(place: &Path) -> Vec<PathBuf> {
    ["tls.crt", "tls.key", "ca.crt"].map(|name| place.join(name)).into()
}

/// Someone who follows the identity in a folder.
struct Followed {
    follower: Follower,
    current: Current,
    metrics: Metrics,
    counted: IdentityMetrics,
    /// How many times the files were loaded.
    loads: Arc<AtomicUsize>,
}

impl Followed {
    fn at(place: &Path) -> Self {
        Self::polling(place, NEVER)
    }

    fn polling(place: &Path, poll: Duration) -> Self {
        Self::loading(place, poll, |sources| Identity::load(sources, Purpose::Server))
            .expect("a good identity")
    }

    fn loading(
        place: &Path,
        poll: Duration,
        load: impl Fn(&Sources) -> Result<Identity, ConfigError> + Send + 'static,
    ) -> Result<Self, ConfigError> {
        logs::remember();
        let metrics = Metrics::new("test", "0");
        let counted = IdentityMetrics::new(&metrics);
        let loads = Arc::new(AtomicUsize::new(0));
        let settings = config::Identity { poll_interval: Span(poll), expiry_warning: None };
        let (sources, count) = (sources(place), Arc::clone(&loads));
        let load = move || {
            let loaded = load(&sources);
            count.fetch_add(1, Ordering::SeqCst);
            loaded
        };
        let (follower, current) = follow(&settings, files(place), load, counted.clone())?;
        Ok(Self { follower, current, metrics, counted, loads })
    }

    fn counted(&self, result: &str) -> u64 {
        self.counted.refreshed.with_label_values(&[result]).get()
    }

    fn holds(&self, issued: &Issued) -> bool {
        let identity = self.current.get();
        identity.leaf.as_ref().is_some_and(|leaf| leaf.certified.cert == chain(&issued.chain))
    }

    #[track_caller]
    fn takes(&self, issued: &Issued) {
        eventually("the new leaf", || self.holds(issued));
    }

    /// Waits until so many looks have taken, and refused, what was there.
    #[track_caller]
    fn counts(&self, ok: u64, refused: u64) {
        // It is counted just after it is published.
        eventually("the count", || {
            let counted = (self.counted("ok"), self.counted("refused"));
            assert!(counted.0 <= ok && counted.1 <= refused, "{counted:?}");
            counted == (ok, refused)
        });
    }

    /// Orders a look, and waits until it and all before it are over.
    #[track_caller]
    fn look(&self) {
        // Orders that come together are one look: the second load cannot be of the first look.
        for _ in 0..2 {
            let before = self.loads.load(Ordering::SeqCst);
            self.follower.look();
            eventually("a look", || self.loads.load(Ordering::SeqCst) > before);
        }
    }
}

fn root() -> Ca {
    Ca::new("a root")
}

fn issue(root: &Ca) -> Issued {
    root.issue(&Leaf::ponger("a"))
}

fn write(place: &Path, root: &Ca, issued: &Issued) {
    fs::create_dir_all(place).expect("a folder");
    for (name, contents) in
        [("tls.crt", issued.chain.as_str()), ("tls.key", &issued.key), ("ca.crt", root.pem())]
    {
        fs::write(place.join(name), contents).expect("a file");
    }
}

/// Writes a new file and renames it to `path`.
fn replace(path: &Path, contents: &str) {
    let new = path.with_extension("new");
    fs::write(&new, contents).expect("a file");
    fs::rename(new, path).expect("a rename");
}

/// Makes `link` lead to `target`, by a rename.
fn relink(target: &str, link: &Path) {
    let new = PathBuf::from(format!("{}_tmp", link.display()));
    symlink(target, &new).expect("a link");
    fs::rename(new, link).expect("a rename");
}

/// A folder with an identity in it.
fn stage() -> (Folder, Ca, Issued) {
    let (folder, root) = (Folder::new(), root());
    let issued = issue(&root);
    write(&folder.path(""), &root, &issued);
    (folder, root, issued)
}

#[test]
fn the_first_identity_must_be_good() {
    let (folder, ..) = stage();
    folder.write("tls.key", "");
    let load = |sources: &Sources| Identity::load(sources, Purpose::Server);
    let error = Followed::loading(&folder.path(""), NEVER, load).err().expect("no key");
    assert!(folder.message(&error).starts_with("tls.key: it is empty"));
}

#[test]
fn a_pipe_in_place_of_a_file_is_refused_and_not_waited_for() {
    let (folder, ..) = stage();
    fs::remove_file(folder.path("tls.key")).expect("a file");
    rustix::fs::mkfifoat(rustix::fs::CWD, folder.path("tls.key"), rustix::fs::Mode::RWXU)
        .expect("a pipe");
    let place = folder.path("");
    let start = thread::spawn(move || {
        let load = |sources: &Sources| Identity::load(sources, Purpose::Server);
        Followed::loading(&place, NEVER, load).err().map(|error| error.to_string())
    });
    eventually("the refusal", || start.is_finished());
    let message = start.join().expect("no panic").expect("a refusal");
    assert!(message.contains("tls.key: it is not a regular file"), "{message}");
}

#[test]
fn kubelets_swap_is_taken() {
    let (folder, root) = (Folder::new(), root());
    let generation = |n: u32| {
        let issued = issue(&root);
        write(&folder.path(&format!("..{n}")), &root, &issued);
        issued
    };
    let first = generation(0);
    symlink("..0", folder.path("..data")).expect("a link");
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        symlink(format!("..data/{name}"), folder.path(name)).expect("a link");
    }
    let followed = Followed::at(&folder.path(""));
    assert!(followed.holds(&first));
    for n in 1..6 {
        let issued = generation(n);
        relink(&format!("..{n}"), &folder.path("..data"));
        fs::remove_dir_all(folder.path(&format!("..{}", n - 1))).expect("a folder");
        followed.takes(&issued);
        followed.counts(n.into(), 0);
    }
}

#[test]
fn files_that_are_renamed_over_the_old_ones_are_taken() {
    let (folder, root, _) = stage();
    let followed = Followed::at(&folder.path(""));
    for _ in 0..5 {
        let issued = issue(&root);
        replace(&folder.path("tls.key"), &issued.key);
        replace(&folder.path("tls.crt"), &issued.chain);
        followed.takes(&issued);
    }
}

#[test]
fn files_that_are_written_in_place_and_slowly_are_taken() {
    let (folder, root, _) = stage();
    let followed = Followed::at(&folder.path(""));
    let issued = issue(&root);
    for (name, contents) in [("tls.crt", &issued.chain), ("tls.key", &issued.key)] {
        let mut file = fs::File::create(folder.path(name)).expect("a file");
        for piece in contents.as_bytes().chunks(100) {
            file.write_all(piece).expect("to be written");
            thread::sleep(Duration::from_millis(20));
        }
    }
    followed.takes(&issued);
}

#[test]
fn new_roots_are_taken() {
    let (folder, root, _) = stage();
    let followed = Followed::at(&folder.path(""));
    let new = Ca::new("new");
    let peer = chain(&new.issue(&Leaf::pinger("a")).chain);
    assert!(followed.current.get().verify_client(&peer).is_err());
    replace(&folder.path("ca.crt"), &(root.pem().to_owned() + new.pem()));
    eventually("both roots", || followed.current.get().verify_client(&peer).is_ok());
    replace(&folder.path("ca.crt"), root.pem());
    eventually("the old root alone", || followed.current.get().verify_client(&peer).is_err());
}

#[test]
fn links_that_lead_to_an_archive_are_followed() {
    let (folder, root) = (Folder::new(), root());
    let generation = |n: u32| {
        let issued = issue(&root);
        fs::create_dir_all(folder.path("archive/ponger")).expect("a folder");
        for (name, contents) in
            [("tls.crt", issued.chain.as_str()), ("tls.key", &issued.key), ("ca.crt", root.pem())]
        {
            folder.write(&format!("archive/ponger/{n}-{name}"), contents);
        }
        issued
    };
    let first = generation(0);
    fs::create_dir_all(folder.path("live/ponger")).expect("a folder");
    let link = |n: u32| {
        for name in ["tls.crt", "tls.key", "ca.crt"] {
            let link = folder.path(&format!("live/ponger/{name}"));
            // certbot removes the link, and then makes it anew.
            let _ = fs::remove_file(&link);
            symlink(format!("../../archive/ponger/{n}-{name}"), link).expect("a link");
        }
    };
    link(0);
    let followed = Followed::at(&folder.path("live/ponger"));
    assert!(followed.holds(&first));
    for n in 1..4 {
        let issued = generation(n);
        link(n);
        followed.takes(&issued);
    }
    // A change of what the links lead to shows in the archive's folder alone.
    let issued = issue(&root);
    replace(&folder.path("archive/ponger/3-tls.key"), &issued.key);
    replace(&folder.path("archive/ponger/3-tls.crt"), &issued.chain);
    followed.takes(&issued);
}

#[test]
fn a_link_far_above_the_files_is_followed() {
    let (folder, root) = (Folder::new(), root());
    let release = |n: u32| {
        let issued = issue(&root);
        write(&folder.path(&format!("releases/{n}/etc/certs")), &root, &issued);
        issued
    };
    let first = release(0);
    symlink("releases/0", folder.path("now")).expect("a link");
    symlink("now/etc", folder.path("etc")).expect("a link");
    let place = folder.path("etc/certs");
    let followed = Followed::at(&place);
    assert!(followed.holds(&first));
    for n in 1..4 {
        let issued = release(n);
        relink(&format!("releases/{n}"), &folder.path("now"));
        followed.takes(&issued);
        // And what happens where it now leads.
        let issued = issue(&root);
        replace(&place.join("tls.key"), &issued.key);
        replace(&place.join("tls.crt"), &issued.chain);
        followed.takes(&issued);
    }
}

#[test]
fn links_that_lead_in_a_circle_end() {
    let (folder, _, first) = stage();
    let followed = Followed::at(&folder.path(""));
    fs::remove_file(folder.path("tls.crt")).expect("a file");
    symlink("tls.crt", folder.path("tls.crt")).expect("a link");
    eventually("the refusal", || followed.counted("refused") > 0);
    assert!(followed.holds(&first));
}

#[test]
fn a_folder_that_is_replaced_is_followed() {
    let (folder, root) = (Folder::new(), root());
    let place = folder.path("certs");
    write(&place, &root, &issue(&root));
    let followed = Followed::at(&place);
    for n in 0..3 {
        let issued = issue(&root);
        write(&folder.path("new"), &root, &issued);
        fs::rename(&place, folder.path(&format!("old{n}"))).expect("a rename");
        fs::rename(folder.path("new"), &place).expect("a rename");
        followed.takes(&issued);
        // And what happens in the new one.
        let issued = issue(&root);
        replace(&place.join("tls.key"), &issued.key);
        replace(&place.join("tls.crt"), &issued.chain);
        followed.takes(&issued);
    }
}

#[test]
fn a_folder_that_is_gone_for_a_while_is_followed() {
    let (folder, root) = (Folder::new(), root());
    let place = folder.path("certs");
    let first = issue(&root);
    write(&place, &root, &first);
    let followed = Followed::at(&place);
    fs::remove_dir_all(&place).expect("a folder");
    eventually("the refusal", || followed.counted("refused") > 0);
    assert!(followed.holds(&first));
    let issued = issue(&root);
    write(&place, &root, &issued);
    followed.takes(&issued);
    let issued = issue(&root);
    replace(&place.join("tls.key"), &issued.key);
    replace(&place.join("tls.crt"), &issued.chain);
    followed.takes(&issued);
}

#[test]
fn a_file_that_is_deleted_and_restored_changes_nothing() {
    let (folder, root, first) = stage();
    let followed = Followed::at(&folder.path(""));
    fs::remove_file(folder.path("tls.key")).expect("a file");
    eventually("the refusal", || followed.counted("refused") == 1);
    assert!(followed.holds(&first));
    folder.write("tls.key", &first.key);
    followed.look();
    assert!(followed.holds(&first));
    followed.counts(0, 1);
    let issued = issue(&root);
    folder.write("tls.key", &issued.key);
    folder.write("tls.crt", &issued.chain);
    followed.takes(&issued);
}

#[test]
fn a_key_that_comes_long_before_its_certificate_waits_for_it() {
    let (folder, root, first) = stage();
    let followed = Followed::at(&folder.path(""));
    let issued = issue(&root);
    replace(&folder.path("tls.key"), &issued.key);
    eventually("the refusal", || followed.counted("refused") == 1);
    assert!(followed.holds(&first));
    replace(&folder.path("tls.crt"), &issued.chain);
    followed.takes(&issued);
    followed.counts(1, 1);
}

#[test]
fn a_broken_set_is_told_of_once_and_taken_when_it_is_whole() {
    let (folder, root, first) = stage();
    let place = folder.path("").display().to_string();
    // Polled too, so that it is looked at many times while it is broken.
    let followed = Followed::polling(&folder.path(""), Duration::ZERO);
    let told = |parts: &[&str]| {
        logs::lines_with(&[&["ERROR", "Identity on disk refused", &place], parts].concat())
    };
    let issued = issue(&root);
    replace(&folder.path("tls.crt"), &issued.chain[..issued.chain.len() / 2]);
    eventually("the refusal", || followed.counted("refused") == 1);
    eventually("the line", || told(&["tls.crt: it is cut short", "write it again"]) == 1);
    replace(&folder.path("ca.crt"), "nothing");
    replace(&folder.path("tls.crt"), &issued.chain);
    replace(&folder.path("tls.key"), &issued.key);
    eventually("another refusal", || told(&["ca.crt: it holds no certificate"]) == 1);
    for _ in 0..5 {
        // Whoever looks at it again sees what was already told.
        let _ = fs::write(folder.path("other"), "");
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!((told(&[]), followed.counted("refused")), (2, 2));
    assert!(followed.holds(&first));
    replace(&folder.path("ca.crt"), root.pem());
    followed.takes(&issued);
    followed.counts(1, 2);
}

/// As a certificate that was put there before it was valid.
#[test]
fn what_was_refused_and_becomes_good_by_itself_is_taken() {
    let (folder, root, _) = stage();
    let is_good = Arc::new(AtomicBool::new(true));
    let judge = Arc::clone(&is_good);
    let load = move |sources: &Sources| match judge.load(Ordering::SeqCst) {
        true => Identity::load(sources, Purpose::Server),
        false => Err(ConfigError::new("tls.crt", "it is not valid yet")),
    };
    let followed =
        Followed::loading(&folder.path(""), Duration::from_millis(200), load).expect("good");
    is_good.store(false, Ordering::SeqCst);
    let next = issue(&root);
    write(&folder.path(""), &root, &next);
    followed.counts(0, 1);
    let looks = followed.loads.load(Ordering::SeqCst);
    eventually("two looks more", || followed.loads.load(Ordering::SeqCst) > looks + 1);
    followed.counts(0, 1);
    is_good.store(true, Ordering::SeqCst);
    followed.takes(&next);
    followed.counts(1, 1);
}

#[test]
fn a_leaf_that_the_same_roots_no_longer_vouch_for_is_not_taken() {
    let root = root();
    let below = root.intermediate("an intermediate");
    let folder = Folder::new();
    let first = below.issue(&Leaf::ponger("a"));
    write(&folder.path(""), &root, &first);
    let followed = Followed::at(&folder.path(""));

    // Without its intermediate, which is on its way.
    let second = below.issue(&Leaf::ponger("a"));
    let (leaf, _) = second.chain.split_at(second.chain.find("-----END").expect("an end") + 26);
    let alone = Issued { chain: leaf.to_owned(), ..second.clone() };
    alone.write(&folder.path("")).expect("files");
    followed.counts(0, 1);
    second.write(&folder.path("")).expect("files");
    followed.takes(&second);
    followed.counts(1, 1);

    // Of a root that nobody here trusts: taken once it is, and not before.
    let other = Ca::new("another root");
    let third = issue(&other);
    third.write(&folder.path("")).expect("files");
    followed.counts(1, 2);
    assert!(followed.holds(&second));
    replace(&folder.path("ca.crt"), &format!("{}{}", root.pem(), other.pem()));
    followed.takes(&third);
    // A root is withdrawn all the same, should our own leaf need it.
    replace(&folder.path("ca.crt"), root.pem());
    followed.counts(3, 2);
}

#[test]
fn an_order_to_look_is_answered_at_once_and_tells_again() {
    let (folder, ..) = stage();
    let followed = Followed::at(&folder.path(""));
    folder.write("tls.key", "");
    eventually("the refusal", || followed.counted("refused") == 1);
    followed.look();
    eventually("as many refusals as orders", || followed.counted("refused") == 3);
    let place = folder.path("").display().to_string();
    let told = || logs::lines_with(&["Identity on disk refused", &place]);
    eventually("as many lines", || told() == 3);
}

/// Changes the identity in `place` where no watcher sees it: by another name of the same file, in
/// another folder.
fn unseen(folder: &Folder, root: &Ca) -> Issued {
    let issued = issue(root);
    let elsewhere = folder.path("elsewhere");
    fs::create_dir_all(&elsewhere).expect("a folder");
    for (name, contents) in [("tls.crt", &issued.chain), ("tls.key", &issued.key)] {
        fs::write(elsewhere.join(name), contents).expect("a file");
    }
    issued
}

/// A folder with an identity that can be changed [`unseen`].
fn stage_of_hard_links() -> (Folder, Ca, PathBuf) {
    let (folder, root) = (Folder::new(), root());
    let (place, elsewhere) = (folder.path("here"), folder.path("elsewhere"));
    write(&elsewhere, &root, &issue(&root));
    fs::create_dir(&place).expect("a folder");
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        fs::hard_link(elsewhere.join(name), place.join(name)).expect("a link");
    }
    (folder, root, place)
}

#[test]
fn what_no_watcher_sees_is_found_by_order() {
    let (folder, root, place) = stage_of_hard_links();
    let followed = Followed::at(&place);
    let issued = unseen(&folder, &root);
    followed.follower.look();
    followed.takes(&issued);
}

#[test]
fn what_no_watcher_sees_is_found_by_polling() {
    let (folder, root, place) = stage_of_hard_links();
    let followed = Followed::polling(&place, Duration::from_millis(200));
    for _ in 0..2 {
        followed.takes(&unseen(&folder, &root));
    }
}

#[test]
fn a_folder_that_cannot_be_watched_is_polled() {
    without_root("follow::a_folder_that_cannot_be_watched_is_polled", || {
        use rustix::fs::{Mode, chmod};
        let (folder, root, _) = stage();
        // It may be entered, and not listed: so the kernel does not let it be watched.
        chmod(folder.path(""), Mode::WUSR | Mode::XUSR).expect("a mode");
        let followed = Followed::polling(&folder.path(""), Duration::from_millis(200));
        let issued = issue(&root);
        replace(&folder.path("tls.key"), &issued.key);
        replace(&folder.path("tls.crt"), &issued.chain);
        followed.takes(&issued);
        chmod(folder.path(""), Mode::RWXU).expect("a mode");
    });
}

#[test]
fn sighup_is_an_order_to_look() {
    let (folder, root, place) = stage_of_hard_links();
    let followed = Followed::at(&place);
    let issued = unseen(&folder, &root);
    let Followed { follower, mut current, .. } = followed;
    actix_rt::System::new().block_on(async {
        current.mark_seen();
        on_hangup(move || follower.look()).expect("to listen");
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP)
            .expect("a signal");
        tokio::time::timeout(Duration::from_secs(30), current.changed()).await.expect("a change");
    });
    let identity = current.get();
    let leaf = identity.leaf.as_ref().expect("a leaf");
    assert_eq!(leaf.certified.cert, chain(&issued.chain));
}

#[test]
fn unchanged_contents_publish_nothing() {
    let (folder, root, first) = stage();
    let followed = Followed::at(&folder.path(""));
    for _ in 0..3 {
        write(&folder.path(""), &root, &first);
        replace(&folder.path("tls.crt"), &first.chain);
        folder.write("other", "");
    }
    followed.look();
    followed.look();
    assert!(!followed.current.has_changed());
    followed.counts(0, 0);
    // The same root in other words is the same identity.
    let loads = followed.loads.load(Ordering::SeqCst);
    replace(&folder.path("ca.crt"), &format!("# the same\n{}", root.pem()));
    eventually("a look", || followed.loads.load(Ordering::SeqCst) > loads);
    followed.look();
    assert!(!followed.current.has_changed());
    followed.counts(0, 0);
}

#[test]
fn a_change_before_the_watch_begins_is_not_missed() {
    let (folder, root, _) = stage();
    let issued = issue(&root);
    let (place, new) = (folder.path(""), issued.clone());
    let load = move |sources: &Sources| {
        let loaded = Identity::load(sources, Purpose::Server);
        // After the files were read, and before anyone watches them.
        write(&place, &root, &new);
        loaded
    };
    let followed = Followed::loading(&folder.path(""), NEVER, load).expect("a good identity");
    followed.takes(&issued);
}

#[test]
fn a_bundle_is_not_taken_while_it_is_written() {
    let (folder, root, _) = stage();
    let followed = Followed::at(&folder.path(""));
    // Once this is taken, the folder is watched.
    let issued = issue(&root);
    replace(&folder.path("tls.key"), &issued.key);
    replace(&folder.path("tls.crt"), &issued.chain);
    followed.takes(&issued);
    followed.counts(1, 0);
    let (second, third) = (Ca::new("second"), Ca::new("third"));
    let first_peer = chain(&root.issue(&Leaf::pinger("a")).chain);
    let last_peer = chain(&third.issue(&Leaf::pinger("a")).chain);
    let mut file = fs::File::create(folder.path("ca.crt")).expect("a file");
    for whole in [second.pem(), root.pem(), third.pem()] {
        file.write_all(whole.as_bytes()).expect("to be written");
        // Each piece is a good bundle, and lies still for long.
        let pause = Instant::now() + Duration::from_millis(400);
        while Instant::now() < pause {
            thread::sleep(Duration::from_millis(10));
            assert!(followed.current.get().verify_client(&first_peer).is_ok(), "a half bundle");
        }
    }
    drop(file);
    eventually("the whole", || followed.current.get().verify_client(&last_peer).is_ok());
    assert!(followed.current.get().verify_client(&first_peer).is_ok());
    followed.counts(2, 0);
}

#[test]
fn a_file_that_someone_keeps_open_is_taken_after_a_while() {
    let (folder, root, _) = stage();
    let followed = Followed::at(&folder.path(""));
    let issued = issue(&root);
    let open: Vec<_> = [("tls.crt", &issued.chain), ("tls.key", &issued.key)]
        .map(|(name, contents)| {
            let mut file = fs::File::create(folder.path(name)).expect("a file");
            file.write_all(contents.as_bytes()).expect("to be written");
            file
        })
        .into();
    followed.takes(&issued);
    drop(open);
}

#[test]
fn two_hundred_rotations_never_show_what_does_not_belong_together() {
    let folder = Folder::new();
    let generation = |n: u32| {
        let root = Ca::new(&format!("root {n}"));
        let issued = issue(&root);
        write(&folder.path(&format!("..{n}")), &root, &issued);
        issued
    };
    let _ = generation(0);
    symlink("..0", folder.path("..data")).expect("a link");
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        symlink(format!("..data/{name}"), folder.path(name)).expect("a link");
    }
    let followed = Followed::at(&folder.path(""));
    let over = AtomicBool::new(false);
    /// Lets the reader end, however the writer does.
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut looks = 0;
            while !over.load(Ordering::SeqCst) {
                let identity = followed.current.get();
                let leaf = identity.leaf.as_ref().expect("a leaf");
                assert!(leaf.certified.keys_match().is_ok());
                assert!(identity.verify_client(&leaf.certified.cert).is_ok(), "another's roots");
                looks += 1;
                thread::sleep(Duration::from_millis(1));
            }
            looks
        });
        let writer = Over(&over);
        for n in 1..=200 {
            let issued = generation(n);
            relink(&format!("..{n}"), &folder.path("..data"));
            fs::remove_dir_all(folder.path(&format!("..{}", n - 1))).expect("a folder");
            if n % 40 == 0 {
                followed.takes(&issued);
            }
        }
        drop(writer);
        assert!(reader.join().expect("matching pairs") > 0);
    });
    assert!(followed.counted("ok") >= 5);
}

#[test]
fn who_waits_for_a_change_is_told_of_it() {
    let (folder, root, _) = stage();
    let mut followed = Followed::at(&folder.path(""));
    let first = followed.current.mark_seen();
    assert!(!followed.current.has_changed());
    let issued = issue(&root);
    write(&folder.path(""), &root, &issued);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let wait = Duration::from_secs(30);
        tokio::time::timeout(wait, followed.current.changed()).await.expect("a change");
        assert_ne!(followed.current.get(), first);
        assert!(!followed.current.has_changed(), "it was told");
        let issued = issue(&root);
        write(&folder.path(""), &root, &issued);
        eventually("another change", || followed.current.has_changed());
        assert_eq!(followed.current.mark_seen(), followed.current.get());
        assert!(!followed.current.has_changed(), "it is seen");
        // Without a follower there is nothing to wait for.
        let Followed { follower, mut current, loads, .. } = followed;
        drop(follower);
        eventually("the end of the thread", || Arc::strong_count(&loads) == 1);
        let wait = Duration::from_millis(50);
        assert!(tokio::time::timeout(wait, current.changed()).await.is_err());
        assert!(!current.has_changed());
        assert!(current.get().leaf.is_some());
    });
}

#[test]
fn allowed_names_are_followed_with_the_identity() {
    logs::remember();
    let (folder, ..) = stage();
    let file = folder.write("allowed", "ponger");
    let path = file.clone();
    // A file in which each line is a name, or that is empty and lets everyone in.
    let allowed = move || {
        let text = fs::read_to_string(&path).expect("a file");
        let names = text.lines().map(str::parse).collect::<Result<BTreeSet<Name>, _>>();
        let names = names.map_err(|error| ConfigError::new("allowed", error))?;
        Ok(Some(names).filter(|names| !names.is_empty()))
    };
    let metrics = IdentityMetrics::new(&Metrics::new("test", "0"));
    let settings = config::Identity { poll_interval: Span(NEVER), expiry_warning: None };
    let mut sources = sources(&folder.path(""));
    sources.allowed = allowed().expect("names");
    let followed =
        follow_sources(&settings, Purpose::Server, sources, &file, allowed, metrics.clone());
    let (_follower, current) = followed.expect("a good identity");
    let admits = |name: &str| current.get().admit(&[name.parse().expect("a name")]).is_ok();
    assert!(admits("ponger") && !admits("pinger"));
    replace(&file, "pinger\n");
    eventually("the other name", || admits("pinger") && !admits("ponger"));
    let refused = || metrics.refreshed.with_label_values(&["refused"]).get();
    for (n, bad) in [(1, ""), (2, "not a name")] {
        replace(&file, bad);
        eventually("the refusal", || refused() == n);
        assert!(admits("pinger") && !admits("ponger"));
    }
    let place = file.display().to_string();
    let cause = "the names of those who are let in are gone, and without them everyone is";
    eventually("the line", || logs::lines_with(&[&place, cause]) == 1);
    replace(&file, "ponger");
    eventually("the first name", || admits("ponger") && !admits("pinger"));
}

#[test]
fn who_lets_everyone_in_may_begin_to_choose() {
    let (folder, ..) = stage();
    let file = folder.write("allowed", "");
    let path = file.clone();
    let allowed = move || {
        let name = fs::read_to_string(&path).expect("a file");
        Ok(name.parse::<Name>().ok().map(|name| [name].into()))
    };
    let metrics = IdentityMetrics::new(&Metrics::new("test", "0"));
    let settings = config::Identity { poll_interval: Span(NEVER), expiry_warning: None };
    let sources = sources(&folder.path(""));
    let followed = follow_sources(&settings, Purpose::Server, sources, &file, allowed, metrics);
    let (_follower, current) = followed.expect("a good identity");
    let admits = |name: &str| current.get().admit(&[name.parse().expect("a name")]).is_ok();
    assert!(admits("ponger") && admits("pinger"));
    replace(&file, "pinger");
    eventually("the choice", || admits("pinger") && !admits("ponger"));
}

#[test]
fn ends_are_metrics_and_warned_about() {
    let (folder, root) = (Folder::new(), Ca::valid("short", -time(500), time(777)));
    let leaf = Leaf::ponger("a").valid(-time(1000), time(333));
    write(&folder.path(""), &root, &root.issue(&leaf));
    let followed = Followed::at(&folder.path(""));
    let identity = followed.current.get();
    let own = identity.leaf.as_ref().expect("a leaf").facts.not_after;
    let (_, roots) = identity.roots().and_then(Roots::longest).expect("a root");
    let metric = |role: &str| {
        let text = followed.metrics.text();
        let name = "identity_cert_expiration_timestamp_seconds";
        let line =
            text.lines().find(|line| line.starts_with(&format!("{name}{{role=\"{role}\"}} ")));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<i64>().ok())
    };
    assert_eq!(metric("own"), Some(own));
    assert_eq!(metric("roots"), Some(roots));
    assert_eq!(metric("peer"), None);
    followed.counted.peer(1_234_567_890);
    assert_eq!(metric("peer"), Some(1_234_567_890));
    let warned = |whose: &str, end: i64| {
        logs::lines_with(&["WARN", "Certificate expires soon", whose, &utc(end)])
    };
    eventually("a warning", || warned("our own", own) == 1);
    followed.look();
    assert_eq!(warned("our own", own), 1);
    assert_eq!(warned("the last trust root's", roots), 0, "more than a third is left");
    // The new one's end is a metric at once.
    let new = root.issue(&Leaf::ponger("a"));
    write(&folder.path(""), &root, &new);
    followed.takes(&new);
    eventually("its end", || metric("own").is_some_and(|end| end > own));
}

#[test]
fn a_certificate_that_ends_while_running_is_told_of_once() {
    let (folder, root) = (Folder::new(), root());
    write(&folder.path(""), &root, &root.issue(&Leaf::ponger("a").valid(-time(50), time(3))));
    let followed = Followed::polling(&folder.path(""), Duration::ZERO);
    let end = followed.current.get().leaf.as_ref().expect("a leaf").facts.not_after;
    let told = || {
        let lines = logs::lines_with(&["ERROR", "Certificate has expired", "our own", &utc(end)]);
        // Looked at after the lines, so that they cannot have been too late for it.
        assert!(lines == 0 || now() > end, "it is valid until its last second is over");
        lines
    };
    eventually("the line", || told() == 1);
    assert_eq!(logs::lines_with(&["WARN", "expires soon", "our own", &utc(end)]), 1);
}

#[test]
fn the_end_of_the_last_root_is_warned_about() {
    let (folder, root) = (Folder::new(), Ca::valid("short", -time(1000), time(222)));
    write(&folder.path(""), &root, &issue(&root));
    let followed = Followed::at(&folder.path(""));
    let identity = followed.current.get();
    let (_, end) = identity.roots().and_then(Roots::longest).expect("a root");
    eventually("a warning", || {
        logs::lines_with(&["WARN", "expires soon", "the last trust root's", &utc(end)]) == 1
    });
}

fn time(seconds: i64) -> time::Duration {
    time::Duration::seconds(seconds)
}
