//! Checks the reference, `services/README.md`, against the code of both services.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
};

use chassis::failure::FailureReason;
use testkit::client::plain_get;

/// Reads a file of the directory `services`.
fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).expect(path)
}

fn reference() -> String {
    read("README.md")
}

/// Returns the first column and column number `column` of the table below `heading`.
fn table(heading: &str, column: usize) -> BTreeMap<String, String> {
    let reference = reference();
    let section = reference.split("\n## ").find(|section| section.starts_with(heading));
    let cell = |cell: &str| cell.trim().trim_matches('`').to_owned();
    let rows = section.expect("the heading").lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| row.split('|').map(cell).collect::<Vec<_>>())
        .map(|row| (row[1].clone(), row[column].clone()))
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
    assert_eq!(table("ponger's keys", 3), keys::<ponger::Config>());
    assert_eq!(table("pinger's keys", 3), keys::<pinger::Config>());
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

#[test]
fn table_has_every_failure_reason_with_its_documentation() {
    let source = read("chassis/src/failure.rs");
    let lines: Vec<_> = source.lines().map(str::trim).collect();
    let reason = |pair: &[&str]| {
        let label = pair[1].strip_suffix("\",")?.split_once(" = \"")?.1;
        Some((label.to_owned(), pair[0].strip_prefix("/// ")?.to_owned()))
    };
    let reasons: BTreeMap<_, _> = lines.windows(2).filter_map(reason).collect();
    assert_eq!(reasons.len(), FailureReason::ALL.len());
    assert_eq!(table("Failure reasons", 2), reasons);
}

#[test]
fn troubleshooting_has_the_hint_of_every_failure_reason() {
    let readme = read("../README.md");
    let section = readme.split("\n## ").find(|section| section.starts_with("Troubleshooting"));
    let rows =
        section.unwrap().lines().filter_map(|line| line.strip_prefix("| `")?.split_once(" | "));
    let mut hints = BTreeMap::new();
    for (reasons, hint) in rows {
        let reasons = reasons.split(", ").map(|reason| reason.trim_matches('`').to_owned());
        hints.extend(reasons.map(|reason| (reason, hint.trim_end_matches(" |").to_owned())));
    }
    let expected = FailureReason::ALL.iter();
    let expected = expected.map(|reason| (reason.label().to_owned(), reason.hint().to_owned()));
    assert_eq!(hints, expected.collect());
}

#[test]
fn table_has_every_metric_of_both_services() {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_demo"));
    let mut demo = demo.args(["--interval", "10ms"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines().map(Result::unwrap);
    let (mut names, mut admin) = (BTreeSet::new(), Vec::new());
    for line in lines.by_ref() {
        let address = line.split_once("admin=").and_then(|(_, rest)| rest.split(' ').next());
        admin.extend(address.map(|address| address.parse::<SocketAddr>().unwrap()));
        // Everything about the first ping is recorded.
        if line.contains("Got pong seq=2") {
            break;
        }
    }
    assert_eq!(admin.len(), 2);
    for address in admin {
        let metrics = plain_get(address, "/metrics").unwrap().body;
        let types = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        names.extend(types.filter_map(|line| Some(line.split(' ').next()?.to_owned())));
    }
    names.retain(|name| !name.starts_with("process_"));
    // Of `endpoints: all` alone.
    names.extend(
        ["pinger_endpoint_pings_total", "pinger_endpoint_pong_seconds_total"].map(Into::into),
    );
    // Of a service's own process alone.
    names.insert("log_lines_dropped_total".into());
    assert_eq!(table("Metrics", 1).into_keys().collect::<BTreeSet<_>>(), names);
    // It stops when its output is closed.
    drop(lines);
    demo.wait().unwrap();
}
