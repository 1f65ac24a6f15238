//! The files of a unit of an identity, polled for changes.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash as _, Hasher as _},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::Arc,
};

use rustls::pki_types::UnixTime;

use super::{
    cert::CertKeyPaths,
    metrics::{IdentityMetrics, Unit},
    pem,
    trust::TrustSource,
};
use crate::{error::ConfigError, files::FileContents};

/// How often rejected files are verified again, in seconds: a certificate may become valid as time
/// passes.
const RETRY_INTERVAL: u64 = 10;

/// What a poll of the files has found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PollResult {
    /// Something was accepted or rejected.
    pub(super) changed: bool,
    /// Something was accepted.
    pub(super) accepted: bool,
    /// Something has changed and is not yet loaded.
    pub(super) settling: bool,
}

/// The files of one unit, and what was last seen in them.
pub(super) struct UnitFiles {
    pub(super) unit: Unit,
    paths: Box<dyn Fn() -> Vec<PathBuf> + Send>,
    metadata: Vec<Metadata>,
    /// The contents that were last accepted or rejected.
    digest: u64,
    /// Changed contents that the last poll read, and this one must read again.
    candidate: Option<u64>,
    /// When the contents were rejected, or last verified again.
    pub(super) rejected: Option<UnixTime>,
    /// Whether to verify rejected contents again now.
    pub(super) retry: bool,
}

impl UnitFiles {
    /// Those of an own certificate and its key.
    pub(super) fn certificate(paths: &CertKeyPaths) -> Self {
        let paths = vec![paths.certificate.clone(), paths.key.clone()];
        Self::new(Unit::Certificate, Box::new(move || paths.clone()))
    }

    /// Those of a trust bundle; `None` where there is none.
    pub(super) fn trust_bundle(source: &TrustSource) -> Option<Self> {
        let source = source.clone();
        (source != TrustSource::Disabled)
            .then(|| Self::new(Unit::TrustBundle, Box::new(move || source.files())))
    }

    fn new(unit: Unit, paths: Box<dyn Fn() -> Vec<PathBuf> + Send>) -> Self {
        let metadata = metadata(&paths());
        let digest = digest(&pem::read(paths()));
        Self { unit, paths, metadata, digest, candidate: None, rejected: None, retry: false }
    }

    /// Polls the files; returns what was loaded from them if that is valid and not `current`.
    pub(super) fn update<U: PartialEq>(
        &mut self,
        forced: bool,
        current: Option<&Arc<U>>,
        load: impl FnOnce(&[FileContents]) -> Result<U, ConfigError>,
        metrics: &IdentityMetrics,
        result: &mut PollResult,
        now: UnixTime,
    ) -> Option<Arc<U>> {
        // By the clock that certificates are verified by: when it is set, they are verified again.
        let is_due = |since: UnixTime| since.as_secs().abs_diff(now.as_secs()) >= RETRY_INTERVAL;
        let retry = std::mem::take(&mut self.retry) && self.rejected.is_some()
            || self.rejected.is_some_and(is_due);
        let paths = (self.paths)();
        let metadata = metadata(&paths);
        if !forced && !retry && self.candidate.is_none() && metadata == self.metadata {
            return None;
        }
        self.metadata = metadata;
        let contents = pem::read(paths);
        let digest = digest(&contents);
        let is_new = digest != self.digest;
        if is_new && self.candidate != Some(digest) {
            self.candidate = Some(digest);
            result.settling = true;
            return None;
        }
        self.candidate = None;
        let verify_again = retry || (forced && self.rejected.is_some());
        if !is_new && !verify_again {
            return None;
        }
        self.digest = digest;
        let unit = self.unit.label();
        match load(&contents) {
            Ok(loaded) if current.is_some_and(|current| **current == loaded) => {
                if self.rejected.take().is_some() {
                    metrics.record_loaded(self.unit);
                    tracing::info!(
                        unit,
                        "TLS identity unchanged: the files hold the current one again"
                    );
                }
                None
            }
            Ok(loaded) => {
                self.rejected = None;
                metrics.record_reload(self.unit, true);
                result.changed = true;
                result.accepted = true;
                Some(Arc::new(loaded))
            }
            Err(error) => {
                self.rejected = Some(now);
                if is_new || forced {
                    result.changed = true;
                    metrics.record_reload(self.unit, false);
                    tracing::error!(
                        unit,
                        cause = error.to_string(),
                        "TLS identity reload failed, keeping the current identity"
                    );
                }
                None
            }
        }
    }
}

fn digest(contents: &[FileContents]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in contents {
        match file.bytes() {
            Ok(bytes) => bytes.hash(&mut hasher),
            Err(error) => error.to_string().hash(&mut hasher),
        }
    }
    hasher.finish()
}

/// What tells, without reading a file, that it may have changed.
#[derive(Debug, PartialEq, Eq)]
struct Metadata {
    path: PathBuf,
    /// Device, inode, size, and the times of the last change of contents and of metadata; `None` if
    /// it cannot be read.
    state: Option<[i64; 7]>,
}

fn metadata(paths: &[PathBuf]) -> Vec<Metadata> {
    let state = |path: &PathBuf| {
        let file = std::fs::metadata(path).ok()?;
        let [device, inode, size] = [file.dev(), file.ino(), file.size()].map(u64::cast_signed);
        let (mtime, ctime) = ((file.mtime(), file.mtime_nsec()), (file.ctime(), file.ctime_nsec()));
        Some([device, inode, size, mtime.0, mtime.1, ctime.0, ctime.1])
    };
    paths.iter().map(|path| Metadata { path: path.clone(), state: state(path) }).collect()
}
