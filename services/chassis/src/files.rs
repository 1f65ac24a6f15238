//! Reads small files that people and orchestrators provide.

use std::{
    fs::File,
    io::{ErrorKind, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;
use zeroize::Zeroizing;

use crate::error::ConfigError;

/// Reads the regular file `path`, of at most `largest` bytes.
///
/// # Errors
/// When it is absent, unreadable, not a regular file (a pipe would block for ever) or too large.
pub fn read(path: &Path, largest: u64) -> Result<Vec<u8>, ConfigError> {
    let thing = &path.display();
    let failed = |error: &std::io::Error| match error.kind() {
        ErrorKind::NotFound => ConfigError::new(thing, "there is no such file")
            .hint("create it, or give the path of another one"),
        ErrorKind::PermissionDenied => ConfigError::new(thing, "permission denied").hint(format!(
            "let the user this service runs as (uid {}) read it",
            rustix::process::geteuid().as_raw()
        )),
        _ => ConfigError::new(thing, error),
    };
    // Without waiting: opening a pipe would, until someone writes to it.
    let file = File::options()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(|error| failed(&error))?;
    let metadata = file.metadata().map_err(|error| failed(&error))?;
    if !metadata.is_file() {
        let kind = if metadata.is_dir() { "a directory" } else { "not a regular file" };
        return Err(ConfigError::new(thing, format!("it is {kind}")));
    }
    // Room for all of it, so that no copy of a key stays behind in memory that was outgrown.
    let size = usize::try_from(metadata.len().min(largest)).unwrap_or_default();
    let mut bytes = Vec::with_capacity(size + 1);
    file.take(largest + 1).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
    if bytes.len() as u64 > largest {
        return Err(ConfigError::new(thing, format!("it is larger than {largest} bytes"))
            .hint("this cannot be the right file"));
    }
    Ok(bytes)
}

/// A file as it was read once. It is wiped after use, since it may hold a key.
#[derive(Debug)]
pub struct FileContents {
    /// Where it is.
    pub path: PathBuf,
    result: Result<Zeroizing<Vec<u8>>, ConfigError>,
}

impl FileContents {
    /// Reads `path` as [`read`] does.
    pub fn read(path: PathBuf, largest: u64) -> Self {
        let result = read(&path, largest).map(Zeroizing::new);
        Self { path, result }
    }

    /// What it holds.
    ///
    /// # Errors
    /// Why it could not be read.
    pub fn bytes(&self) -> Result<&[u8], ConfigError> {
        self.result.as_ref().map(|bytes| bytes.as_slice()).map_err(ConfigError::clone)
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, Mode, chmod, mkfifoat};

    use super::*;

    #[test]
    fn reads_regular_files_up_to_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "12345678").unwrap();
        assert_eq!(read(&path, 8).unwrap(), b"12345678");
        let error = read(&path, 7).unwrap_err().to_string();
        let expected = "it is larger than 7 bytes; this cannot be the right file";
        assert_eq!(error, format!("{}: {expected}", path.display()));
    }

    #[test]
    fn rejects_what_is_not_a_regular_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("directory")).unwrap();
        mkfifoat(CWD, dir.path().join("pipe"), Mode::RWXU).unwrap();
        for (name, reason) in [
            ("missing", "there is no such file; create it, or give the path of another one"),
            ("directory", "it is a directory"),
            // Opening it does not wait for a writer.
            ("pipe", "it is not a regular file"),
        ] {
            let path = dir.path().join(name);
            let error = read(&path, 100).unwrap_err().to_string();
            assert_eq!(error, format!("{}: {reason}", path.display()));
        }
    }

    #[test]
    fn rejects_file_that_may_not_be_read() {
        if rustix::process::geteuid().is_root() {
            return run_as_nobody("files::tests::rejects_file_that_may_not_be_read");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tls.key");
        std::fs::write(&path, "secret").unwrap();
        chmod(&path, Mode::empty()).unwrap();
        let error = read(&path, 100).unwrap_err().to_string();
        assert!(error.contains("tls.key: permission denied; let the user this service"), "{error}");
    }

    /// Runs `test` in another process, as a user who cannot read every file.
    fn run_as_nobody(test: &str) {
        use std::os::unix::process::CommandExt as _;
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test]).current_dir("/").uid(65534).gid(65534);
        match command.output() {
            Ok(output) => {
                let printed = String::from_utf8_lossy(&output.stdout);
                assert!(output.status.success() && printed.contains("1 passed"), "{output:?}");
            }
            Err(error) => testkit::process::skip(&format!("root cannot run it as nobody: {error}")),
        }
    }
}
