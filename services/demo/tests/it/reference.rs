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
use proc_macro2::{TokenStream, TokenTree};
use testkit::client::plain_get;

/// Reads a file of the directory `services`.
fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).expect(path)
}

fn reference() -> String {
    read("README.md")
}

/// Returns the text below `heading`.
fn section(heading: &str) -> String {
    let reference = reference();
    let section = reference.split("\n## ").find(|section| section.starts_with(heading));
    section.expect("the heading").to_owned()
}

/// Returns the first column and column number `column` of the table below `heading`.
fn table(heading: &str, column: usize) -> BTreeMap<String, String> {
    let cell = |cell: &str| cell.trim().trim_matches('`').to_owned();
    let section = section(heading);
    let rows = section.lines().filter(|line| line.starts_with("| `"));
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

/// The levels of log messages, which are the macros that write them too.
const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// Log messages, each with its level, and the fields that it can have.
type Messages = BTreeMap<(String, String), BTreeSet<String>>;

/// The rows of the table of log messages: code in its columns, of the last one only what is a field.
fn documented_messages() -> Messages {
    let code = |cell: &str| -> Vec<String> {
        // Code with backticks has two of them around it.
        match cell.strip_prefix("``") {
            Some(cell) => vec![cell.split("``").next().unwrap().replace('`', "")],
            None => cell.split('`').skip(1).step_by(2).map(str::to_owned).collect(),
        }
    };
    let is_field =
        |code: &String| code.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    let mut messages = Messages::new();
    for row in section("Log messages").lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        for message in code(cells[1]) {
            for level in cells[2].split([' ', ',']).filter(|word| LEVELS.contains(word)) {
                let fields = messages.entry((message.clone(), level.to_owned())).or_default();
                fields.extend(code(cells[3]).into_iter().filter(is_field));
            }
        }
    }
    messages
}

/// The calls of `tracing`'s macros for events in the sources of `crate_name`, without tests.
fn logged_messages(crate_name: &str, messages: &mut Messages) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(crate_name).join("src");
    let mut dirs = vec![root];
    while let Some(dir) = dirs.pop() {
        for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("tests.rs")
            {
                let text = fs::read_to_string(path).unwrap();
                let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
                // Those of `event!`, which a macro of the same file is given.
                let levels = code.split("!(Level::").collect::<Vec<_>>();
                let levels = levels.windows(2).filter(|pair| !pair[0].ends_with("enabled"));
                let levels = levels.map(|pair| pair[1].split(')').next().unwrap().to_lowercase());
                find_events(code.parse().unwrap(), &levels.collect::<Vec<_>>(), messages);
            }
        }
    }
}

fn find_events(tokens: TokenStream, levels: &[String], messages: &mut Messages) {
    let tokens: Vec<_> = tokens.into_iter().collect();
    for (at, token) in tokens.iter().enumerate() {
        let TokenTree::Group(group) = token else { continue };
        let before: String =
            tokens[at.saturating_sub(5)..at].iter().map(ToString::to_string).collect();
        let name = before.strip_prefix("tracing::").and_then(|name| name.strip_suffix('!'));
        let levels_of_event = match name {
            Some("event") => levels,
            Some(level) if LEVELS.contains(&level) => &[level.to_owned()],
            _ => {
                find_events(group.stream(), levels, messages);
                continue;
            }
        };
        let (message, fields) = parse_event(group.stream());
        for level in levels_of_event {
            let key = (message.clone(), level.clone());
            messages.entry(key).or_default().extend(fields.clone());
        }
    }
}

/// Returns the message and the fields of an event by the arguments of its macro.
fn parse_event(arguments: TokenStream) -> (String, Vec<String>) {
    let tokens: Vec<_> = arguments.into_iter().collect();
    let is = |token: &TokenTree, sign: char| matches!(token, TokenTree::Punct(punct) if punct.as_char() == sign);
    let mut fields = Vec::new();
    for argument in tokens.split(|token| is(token, ',')) {
        // `%error` and `?error` are the field `error`.
        let argument = if argument.first().is_some_and(|token| is(token, '%') || is(token, '?')) {
            &argument[1..]
        } else {
            argument
        };
        match argument {
            [TokenTree::Literal(message), ..] => {
                let message = match message.to_string().trim_matches('"') {
                    "{summary}" => "N pings, N pongs, N lost ...".to_owned(),
                    "Received {} {}" => "Received GET /ping".to_owned(),
                    message => message.replace('`', ""),
                };
                return (message, fields);
            }
            // The level of `event!`; `parent: None`.
            [TokenTree::Punct(dollar), ..] if dollar.as_char() == '$' => {}
            [TokenTree::Ident(_), colon, ..] if is(colon, ':') => {}
            [TokenTree::Ident(field), ..] => fields.push(field.to_string()),
            _ => panic!("an event without a message, or a new kind of argument: {argument:?}"),
        }
    }
    panic!("an event without a message: {fields:?}")
}

#[test]
fn table_has_every_log_message_with_its_level_and_fields() {
    let mut messages = Messages::new();
    for crate_name in ["chassis", "ponger", "pinger"] {
        logged_messages(crate_name, &mut messages);
    }
    let documented = documented_messages();
    for message in messages.keys().chain(documented.keys()) {
        assert_eq!(documented.get(message), messages.get(message), "{message:?}");
    }
    assert!(messages.len() > 30, "{messages:?}");
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
    // The metric of traces is there only with a collector, which may be dead.
    for service in ["PINGER", "PONGER"] {
        demo.env(format!("{service}__OTEL__ENDPOINT"), "http://127.0.0.1:1");
    }
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
