//! Certificate files that are replaced all at once.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// A directory laid out as kubelet projects a Secret: each name links to `..data/NAME`, and a
/// rename of the link `..data` replaces all files at once.
#[derive(Debug)]
pub(crate) struct CertDir {
    path: PathBuf,
}

impl CertDir {
    /// Creates the directory without files.
    pub(crate) fn create(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        fs::create_dir_all(&path)?;
        Ok(Self { path })
    }

    /// Replaces all files at once by those in `files`.
    pub(crate) fn replace(&self, files: &[(&str, &[u8])]) -> io::Result<()> {
        let data = self.path.join("..data");
        let previous = fs::read_link(&data);
        let version = tempfile::Builder::new().prefix("..").tempdir_in(&self.path)?.keep();
        for (name, contents) in files {
            fs::write(version.join(name), contents)?;
            let link = self.path.join(name);
            if !link.is_symlink() {
                symlink(Path::new("..data").join(name), link)?;
            }
        }
        let new = self.path.join("..data_tmp");
        symlink(version.file_name().unwrap_or_default(), &new)?;
        fs::rename(new, data)?;
        // Readers that opened a file of the previous version still have it.
        previous.map_or(Ok(()), |name| fs::remove_dir_all(self.path.join(name)))
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::CertDir;

    #[test]
    fn replaces_all_files_at_once() -> std::io::Result<()> {
        let folder = tempfile::tempdir()?;
        let dir = CertDir::create(folder.path().join("certs"))?;
        for contents in ["old", "new"] {
            let files = ["tls.crt", "tls.key"].map(|name| (name, contents.as_bytes()));
            dir.replace(&files)?;
            for (name, expected) in files {
                assert_eq!(std::fs::read(dir.path().join(name))?, expected);
            }
        }
        // The two links, `..data` and the current version.
        assert_eq!(std::fs::read_dir(dir.path())?.count(), 4);
        Ok(())
    }
}
