//! Reads small files that people and orchestrators provide.

use std::{
    fs::File,
    io::{ErrorKind, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use rustix::fs::OFlags;

use crate::error::ConfigError;

/// Reads the regular file `path`, of at most `largest` bytes.
///
/// # Errors
/// When it is absent, unreadable, not a regular file (a pipe would block for ever) or too large.
pub fn read(path: &Path, largest: u64) -> Result<Vec<u8>, ConfigError> {
    let thing = &path.display();
    let failed = |error: &std::io::Error| match error.kind() {
        ErrorKind::NotFound => ConfigError::new(thing, "there is no such file"),
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
        let kind = if metadata.is_dir() { "a folder" } else { "not a regular file" };
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
