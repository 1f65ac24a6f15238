//! Checks the reference, `services/README.md`, against the configuration of both services.

use std::{collections::BTreeMap, fs, path::Path};

fn reference() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).expect("README")
}

/// Returns keys and defaults of the table below `heading`.
fn table(heading: &str) -> BTreeMap<String, String> {
    let reference = reference();
    let section = reference.split("\n## ").find(|section| section.starts_with(heading));
    let cell = |cell: &str| cell.trim().trim_matches('`').to_owned();
    let rows = section.expect("the heading").lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| row.split('|').map(cell).collect::<Vec<_>>())
        .map(|row| (row[1].clone(), row[3].clone()))
        .collect()
}

/// Returns keys and defaults of `C`, as the table shows them.
fn keys<C: Default + serde::Serialize>() -> BTreeMap<String, String> {
    let keys = chassis::config::keys::<C>().into_iter();
    keys.map(|(key, default)| (key, default.to_string().trim_matches('"').to_owned()))
        .map(|(key, default)| (key, default.replace("null", "").replace("[]", "")))
        .collect()
}

#[test]
fn tables_have_every_key_with_its_default() {
    assert_eq!(table("ponger's keys"), keys::<ponger::Config>());
    assert_eq!(table("pinger's keys"), keys::<pinger::Config>());
}

#[test]
fn examples_are_valid() {
    let (dir, reference) = (tempfile::tempdir().unwrap(), reference());
    let example = |first: &str| {
        let example = reference.split("```yaml\n").find(|text| text.starts_with(first)).unwrap();
        let file = dir.path().join("config.yaml");
        fs::write(&file, example.split("```").next().unwrap()).unwrap();
        file
    };
    ponger::Config::load(Some(&example("service:"))).unwrap();
    pinger::Config::load(Some(&example("ponger:"))).unwrap();
}
