//! Any bytes as a configuration file.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

#[expect(dead_code, reason = "other targets try the rest")]
#[path = "../../tests/it/properties.rs"]
mod properties;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder"));

fuzz_target!(|bytes: &[u8]| properties::configuration(FOLDER.path(), bytes));
