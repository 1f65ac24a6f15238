//! Certificates on disk.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::Mutex,
    time::SystemTime,
};

/// A directory laid out as kubelet projects a Secret or a ConfigMap.
///
/// Each visible name is a link to `..data/NAME`, and `..data` is a link to a directory named after
/// the time of its making. All files are replaced at once, by renaming a new link over `..data`.
#[derive(Debug)]
pub struct CertDir {
    path: PathBuf,
    /// Held while the files are replaced.
    replacing: Mutex<()>,
}

impl CertDir {
    /// Creates the directory, and its parents, where they are missing.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn create(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        fs::create_dir_all(&path)?;
        Ok(Self { path, replacing: Mutex::default() })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of the file `name`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Replaces all files at once: afterwards the directory has these and no others. Files named
    /// `*.key` get mode 0600.
    ///
    /// # Errors
    /// When the directory cannot be written.
    ///
    /// # Panics
    /// When another thread panicked in here.
    pub fn replace(&self, files: &[(&str, &[u8])]) -> io::Result<()> {
        let _replacing = self.replacing.lock().expect("no panic in another thread");
        let old = fs::read_link(self.file("..data")).ok();

        let new = self.create_data_dir()?;
        for (name, contents) in files {
            let mode = if name.ends_with(".key") { 0o600 } else { 0o644 };
            create_file(&self.path.join(&new).join(name), mode, contents)?;
        }
        self.link(&new, "..data")?;

        for (name, _) in files {
            let target = format!("..data/{name}");
            // An unchanged link stays, as with kubelet: its metadata do not change either.
            if fs::read_link(self.file(name)).ok() != Some(PathBuf::from(&target)) {
                self.link(&target, name)?;
            }
        }
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let stale = !files.iter().any(|(kept, _)| name == *kept);
            if stale && !name.as_encoded_bytes().starts_with(b"..") {
                fs::remove_file(self.path.join(name))?;
            }
        }
        old.map_or(Ok(()), |old| fs::remove_dir_all(self.path.join(old)))
    }

    /// Creates a directory for the files, and returns its name.
    fn create_data_dir(&self) -> io::Result<String> {
        loop {
            let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
            let name = format!("..{}", since_1970.as_nanos());
            match fs::create_dir(self.file(&name)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                created => return created.map(|()| name),
            }
        }
    }

    /// Makes `name` a link to `target`, whatever it was before.
    fn link(&self, target: &str, name: &str) -> io::Result<()> {
        let temporary = self.file("..link");
        let _ = fs::remove_file(&temporary);
        symlink(target, &temporary)?;
        fs::rename(temporary, self.file(name))
    }
}

/// Writes a file that only its owner can read, and renames it over an existing one.
///
/// # Errors
/// When the directory cannot be written.
pub fn write_private(path: &Path, contents: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    let _ = fs::remove_file(&new);
    create_file(&new, 0o600, contents.as_bytes())?;
    fs::rename(&new, path)
}

fn create_file(path: &Path, mode: u32, contents: &[u8]) -> io::Result<()> {
    fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?.write_all(contents)
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::PermissionsExt as _,
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    use rustix::fs::{Mode, OFlags, open, openat};

    use super::*;

    fn temporary() -> (tempfile::TempDir, CertDir) {
        let parent = tempfile::tempdir().expect("a directory");
        let dir = CertDir::create(parent.path().join("certs")).expect("a directory");
        (parent, dir)
    }

    /// The entries of `dir`, without the timestamped directory.
    fn names(dir: &CertDir) -> Vec<String> {
        let entries = fs::read_dir(dir.path()).expect("a directory");
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
            .filter(|name| !name.starts_with("..") || name == "..data")
            .collect();
        names.sort();
        names
    }

    #[test]
    fn replaces_the_whole_set_and_removes_the_old_one() {
        let (_parent, dir) = temporary();
        dir.replace(&[("tls.crt", b"1"), ("tls.key", b"1"), ("old.crt", b"1")]).expect("replaced");
        dir.replace(&[("tls.crt", b"2"), ("tls.key", b"2"), ("ca.crt", b"2")]).expect("replaced");
        assert_eq!(names(&dir), ["..data", "ca.crt", "tls.crt", "tls.key"]);
        assert_eq!(fs::read(dir.file("tls.crt")).expect("a file"), b"2");
        let key = fs::metadata(dir.file("tls.key")).expect("a file").permissions();
        assert_eq!(key.mode() & 0o777, 0o600);
        // `..data`, the directory that it points to, and three files.
        assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 5);
    }

    #[test]
    fn replaces_a_plain_file_of_the_same_name() {
        let (_parent, dir) = temporary();
        fs::write(dir.file("tls.crt"), "plain").expect("written");
        dir.replace(&[("tls.crt", b"1")]).expect("replaced");
        assert_eq!(fs::read(dir.file("tls.crt")).expect("a file"), b"1");
    }

    #[test]
    fn readers_of_one_data_directory_never_see_a_mix() {
        const WRITES: usize = 200;
        let (_parent, dir) = temporary();
        dir.replace(&[("tls.crt", b"first"), ("tls.key", b"first")]).expect("replaced");
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let writers: Vec<_> = (0..2)
                .map(|writer| {
                    let dir = &dir;
                    scope.spawn(move || {
                        for round in 0..WRITES {
                            let text = format!("{writer} {round}");
                            dir.replace(&[
                                ("tls.crt", text.as_bytes()),
                                ("tls.key", text.as_bytes()),
                            ])
                            .expect("replaced");
                        }
                    })
                })
                .collect();
            let reader = scope.spawn(|| {
                // Reads once more after the last write, so that at least one read succeeds.
                let mut last = false;
                while !last {
                    last = done.load(Ordering::Acquire);
                    match read_both(&dir) {
                        Ok([certificate, key]) => assert_eq!(certificate, key),
                        // The old directory may be removed between two calls.
                        Err(error) => assert!(!last, "{error}"),
                    }
                }
            });
            for writer in writers {
                writer.join().expect("a writer");
            }
            done.store(true, Ordering::Release);
            reader.join().expect("a reader");
        });
        assert_eq!(names(&dir), ["..data", "tls.crt", "tls.key"]);
    }

    fn read_both(dir: &CertDir) -> io::Result<[String; 2]> {
        let data = open(dir.file("..data"), OFlags::DIRECTORY, Mode::empty())?;
        let read = |name| {
            let file = openat(&data, name, OFlags::RDONLY, Mode::empty())?;
            io::read_to_string(fs::File::from(file))
        };
        Ok([read("tls.crt")?, read("tls.key")?])
    }
}
