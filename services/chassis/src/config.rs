//! Configuration: defaults, then a YAML file, then environment variables; typed and strict.
//!
//! Each service describes its keys once, as a `serde` struct with defaults and `deny_unknown_fields`.
//! The `config` crate reads and merges the sources; every error names the file or the variable, the
//! key, the reason and a hint.
//!
//! `service.tlsCertificate` of ponger is the variable `PONGER__SERVICE__TLS_CERTIFICATE`; lists are
//! separated by commas.

mod duration;
mod otel;
mod sections;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    path::Path,
};

use ::config::{
    Case, Config, ConfigError as SourceError, Environment, File, FileFormat, FileSourceString, Map,
    Source as _, builder::DefaultState,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value as Json;
use yaml_rust2::{Event, parser::Parser};

pub use self::{
    duration::HumanDuration,
    otel::{Collector, Otel},
    sections::{Identity, Log, LogFormat, LogLevel, LogPings, Metrics, MinTlsVersion, ModuleLevel},
};
use crate::error::{ConfigError, find_key};

/// The file that is read where none is named, if it exists.
pub const DEFAULT_FILE: &str = "config.yaml";

/// Room for 100,000 allowed clients. A ConfigMap has an eighth of it.
const MAX_FILE_BYTES: u64 = 8 * 1024 * 1024;
const MAX_LEVELS: usize = 16;
const MAX_ANCHORS: usize = 10;
/// A larger file may have no anchors.
const MAX_COPIED_BYTES: usize = 64 * 1024;
const MAX_NODES: usize = 250_000;
/// A longer unknown key is not compared with the known ones.
const MAX_KEY_LENGTH: usize = 100;

/// Keys with their default values.
type Keys = BTreeMap<String, Json>;
type Builder = ::config::ConfigBuilder<DefaultState>;

/// Reads the configuration of the service `name`: its defaults, then `file`, then the variables of
/// `environment` that start with `NAME__`. Without `file`, [`DEFAULT_FILE`] is read; it may be absent
/// if there are such variables.
///
/// # Errors
/// The first fault of a source, or of the whole as `validate` finds it.
pub fn load<C>(
    name: &str,
    file: Option<&Path>,
    environment: impl Iterator<Item = (OsString, OsString)>,
    validate: impl FnOnce(&C) -> Result<(), ConfigError>,
) -> Result<C, ConfigError>
where
    C: DeserializeOwned + Default + Serialize,
{
    let default = Path::new(DEFAULT_FILE);
    let is_absent = matches!(file.unwrap_or(default).try_exists(), Ok(false));
    let file = if is_absent { file } else { file.or(Some(default)) };
    let prefix = prefix(name);
    let variables = variables(&keys::<C>(), &prefix, environment)?;
    if file.is_none() && variables.is_empty() {
        return Err(ConfigError::new(default.display(), "there is no such file").hint(format!(
            "give the path of a configuration with --config FILE, or set variables {prefix}*"
        )));
    }
    merge(name, file, variables, validate)
}

/// As [`load`], where there need be no source, and without validation of the whole: without `file`, no
/// file is read.
///
/// # Errors
/// The first fault of a source.
pub fn load_named<C>(
    name: &str,
    file: Option<&Path>,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<C, ConfigError>
where
    C: DeserializeOwned + Default + Serialize,
{
    let variables = variables(&keys::<C>(), &prefix(name), environment)?;
    merge(name, file, variables, |_| Ok(()))
}

fn prefix(name: &str) -> String {
    format!("{}__", name.to_uppercase())
}

/// Merges the defaults, `file` and `variables`.
fn merge<C>(
    name: &str,
    file: Option<&Path>,
    variables: Map<String, String>,
    validate: impl FnOnce(&C) -> Result<(), ConfigError>,
) -> Result<C, ConfigError>
where
    C: DeserializeOwned + Default + Serialize,
{
    let (keys, prefix) = (keys::<C>(), prefix(name));
    let mut builder = Config::builder();
    let mut sources = Vec::new();
    if let Some(path) = file {
        let file = path.display().to_string();
        builder = builder.add_source(read(path)?);
        // By itself first, so that each fault is attributed to its source.
        deserialize::<C>(builder.clone(), &keys, |key| format!("{file}: key `{key}`"))?;
        sources.push(file);
    }
    let set: BTreeMap<_, _> = keys
        .keys()
        .map(|key| (key.clone(), variable(&prefix, key)))
        .filter(|(_, variable)| variables.contains_key(variable))
        .collect();
    let variables = Environment::with_prefix(name)
        .separator("__")
        .convert_case(Case::Camel)
        .try_parsing(true)
        .source(Some(variables));
    // Only with a list key: a separator by itself makes a list of every text.
    let lists = keys.iter().filter(|(_, default)| default.is_array());
    let variables =
        lists.fold(variables, |all, (key, _)| all.list_separator(",").with_list_parse_key(key));
    let config = deserialize(builder.add_source(variables), &keys, |key| {
        let key = key.split('[').next().unwrap_or(key);
        format!("environment variable {}", variable(&prefix, key))
    })?;
    validate(&config).map_err(|error| {
        let text = error.to_string();
        let words = text.split(|c: char| !c.is_alphanumeric() && c != '.');
        let named: BTreeSet<_> = words.filter_map(|word| set.get(word)).collect();
        sources.extend(named.into_iter().map(|name| format!("environment variable {name}")));
        if sources.is_empty() {
            sources.push("environment".to_owned());
        }
        ConfigError::new(sources.join(" and "), error)
    })?;
    Ok(config)
}

/// Returns every key of `C` with its default value.
pub fn keys<C: Default + Serialize>() -> BTreeMap<String, Json> {
    flatten("", &serde_json::to_value(C::default()).unwrap_or_default())
}

/// Returns what is not a table in `tree`, with the path of its key.
fn flatten(parent: &str, tree: &Json) -> Keys {
    let Json::Object(table) = tree else {
        return Keys::from([(parent.to_owned(), tree.clone())]);
    };
    let path = |name: &str| format!("{parent}.{name}").trim_start_matches('.').to_owned();
    table.iter().flat_map(|(name, value)| flatten(&path(name), value)).collect()
}

/// Reads a YAML file, and rejects what the parser would misread or could not bear.
fn read(file: &Path) -> Result<File<FileSourceString, FileFormat>, ConfigError> {
    let fault = |reason: String| {
        ConfigError::new(file.display(), reason).hint("see services/README.md for an example")
    };
    let text = String::from_utf8(crate::files::read(file, MAX_FILE_BYTES)?)
        .map_err(|error| fault(format!("it is not UTF-8 text ({error})")))?;
    // Some editors write a byte order mark, which is not part of the first key.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    // The parser stops at a zero byte, and would ignore what follows it.
    let control = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t');
    if let Some(position) = text.find(control) {
        return Err(fault(format!("it contains a control character (byte {position})")));
    }
    let mut lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    if lines.all(|line| matches!(line.trim(), "" | "---")) {
        return Err(fault("it is empty".into()));
    }
    if let Some(excess) = excess(text) {
        return Err(fault(format!("it has {excess}")));
    }
    let yaml = File::from_str(text, FileFormat::Yaml);
    let table = yaml.collect().map_err(|error| match error {
        SourceError::FileParse { cause, .. } => {
            // The parser prints a key as its own type: `String("port"): duplicated key in mapping`.
            let cause = cause.to_string();
            let key = cause.strip_prefix("String(\"").and_then(|cause| cause.split_once("\"):"));
            fault(key.map_or(cause.clone(), |(key, reason)| format!("key `{key}`:{reason}")))
        }
        other => fault(other.to_string()),
    })?;
    // `config` would read these names as paths: `service.port`, `service[99999999999]`.
    match table.keys().filter(|name| name.contains(['.', '['])).min() {
        Some(name) => Err(fault(format!("key `{name}` contains `.` or `[`"))
            .hint("indent keys below their section: `service:`, then `  port: 8443`")),
        None => Ok(yaml),
    }
}

/// What `yaml` has too much of for `config`, which recurses into each level, copies each anchored node
/// and what each alias stands for, and takes hundreds of bytes for a node. The events of its parser tell
/// without that. `None` for faulty YAML too, which `config` reports.
fn excess(yaml: &str) -> Option<String> {
    // Each may copy all of the file.
    let max_anchors = if yaml.len() > MAX_COPIED_BYTES { 0 } else { MAX_ANCHORS };
    let mut parser = Parser::new_from_str(yaml);
    let (mut levels, mut anchors, mut nodes) = (0, 0, 0);
    loop {
        let (event, position) = parser.next_token().ok()?;
        match event {
            Event::StreamEnd => return None,
            Event::SequenceStart(..) | Event::MappingStart(..) => levels += 1,
            Event::SequenceEnd | Event::MappingEnd => levels -= 1,
            _ => {}
        }
        if let Event::Alias(anchor)
        | Event::Scalar(_, _, anchor, _)
        | Event::SequenceStart(anchor, _)
        | Event::MappingStart(anchor, _) = event
        {
            nodes += 1;
            // What has no anchor has the number 0.
            anchors += usize::from(anchor != 0);
        }
        let what = if levels > MAX_LEVELS {
            format!("more than {MAX_LEVELS} levels")
        } else if anchors > MAX_ANCHORS {
            format!("more than {MAX_ANCHORS} anchors and aliases")
        } else if anchors > max_anchors {
            format!("an anchor, and more than {MAX_COPIED_BYTES} bytes")
        } else if nodes > MAX_NODES {
            format!("more than {MAX_NODES} keys and values")
        } else {
            continue;
        };
        return Some(format!("{what} (line {})", position.line()));
    }
}

/// Returns those variables that start with `prefix`.
fn variables(
    keys: &Keys,
    prefix: &str,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Map<String, String>, ConfigError> {
    let known = || keys.keys().map(|key| variable(prefix, key));
    let mut found = Map::new();
    for (name, value) in environment {
        let name = name.to_string_lossy().into_owned();
        if !name.starts_with(prefix) {
            continue;
        }
        let subject = format!("environment variable {name}");
        if !known().any(|known| known == name) {
            let upper = name.to_uppercase();
            let distance = |known: &String| strsim::damerau_levenshtein(known, &upper);
            let near = known().filter(|known| is_near(distance(known), name.len() - prefix.len()));
            let hint = near.min_by_key(distance).map_or_else(
                || "services/README.md lists the keys".to_owned(),
                |known| format!("the nearest known one is {known}"),
            );
            return Err(ConfigError::new(subject, "unknown key").hint(hint));
        }
        let value = value
            .into_string()
            .map_err(|_| ConfigError::new(subject, "its value is not UTF-8 text"))?;
        found.insert(name, value);
    }
    Ok(found)
}

/// Returns the environment variable of `key`: `PONGER__SERVICE__TLS_CERTIFICATE`.
fn variable(prefix: &str, key: &str) -> String {
    key.chars().fold(prefix.to_owned(), |name, letter| match letter {
        '.' => name + "__",
        'A'..='Z' => format!("{name}_{letter}"),
        _ => format!("{name}{}", letter.to_ascii_uppercase()),
    })
}

/// Reads `C` from the sources of `builder`; `subject` names a key for an error.
///
/// By way of JSON, because `config` converts silently: `8080.5` to a port, `1` to `true`.
fn deserialize<C: DeserializeOwned>(
    builder: Builder,
    keys: &Keys,
    subject: impl Fn(&str) -> String,
) -> Result<C, ConfigError> {
    let tree: Json = builder
        .build()
        .and_then(Config::try_deserialize)
        .map_err(|error| ConfigError::new("configuration", error))?;
    // serde accepts these for an optional value, a text or a list.
    let blank = |value: &Json| value.as_str().is_some_and(|text| text.trim().is_empty());
    for (key, value) in flatten("", &tree) {
        if value.as_str().and_then(find_key).is_some() {
            let reason = "its value is a certificate or a key";
            return Err(ConfigError::new(subject(&key), reason)
                .hint("write it to a file, and give the path of that"));
        }
        let reason = match value {
            Json::Null => "it has no value",
            Json::Array(items) if items.is_empty() || items.iter().any(blank) => {
                "the list or an item of it is empty"
            }
            value if blank(&value) => "it is empty",
            _ => continue,
        };
        return Err(ConfigError::new(subject(&key), reason).hint("give it a value, or remove it"));
    }
    serde_path_to_error::deserialize(&tree).map_err(|error| {
        let key = error.path().to_string();
        let message = error.inner().to_string();
        let (reason, expected) = message.split_once(", expected ").unwrap_or((&message, ""));
        if reason.starts_with("unknown field") {
            let hint = match nearest(keys, &key).as_str() {
                "" => "services/README.md lists the keys".to_owned(),
                near => format!("the nearest known key is {near}"),
            };
            return ConfigError::new(subject(&key), "unknown key").hint(hint);
        }
        let expected = match expected {
            // Only addresses have an error without it.
            "" => "an IP address, such as `0.0.0.0` or `::`",
            "u16" => "a number from 0 to 65535",
            "u32" => "a number from 0 to 4294967295",
            "f64" => "a number",
            "a boolean" => "`true` or `false`",
            "a string" | "path string" | "string or map" => "text",
            "a sequence" => "a list",
            other => other,
        };
        ConfigError::new(subject(&key), reason.replace("variant", "value"))
            .hint(format!("expected {expected}"))
    })
}

/// Whether a name of `length` that is `distance` edits away may have been meant.
fn is_near(distance: usize, length: usize) -> bool {
    distance <= 2 + length / 3
}

/// Returns the known keys and sections most like `key`; nothing if none is like it.
fn nearest(keys: &Keys, key: &str) -> String {
    if key.len() > MAX_KEY_LENGTH {
        return String::new();
    }
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_lowercase();
    let distance = |known: &str| {
        let whole = strsim::damerau_levenshtein(&known.to_lowercase(), &key.to_lowercase());
        // The same name in another section is one step away.
        whole.min(strsim::damerau_levenshtein(&last(known), &last(key)) + 1)
    };
    let sections = keys.keys().filter_map(|known| Some(known.split_once('.')?.0));
    let known: BTreeSet<&str> = keys.keys().map(String::as_str).chain(sections).collect();
    let least = known.iter().map(|known| distance(known)).min();
    let least = least.filter(|least| is_near(*least, last(key).len()));
    let nearest = known.iter().filter(|known| Some(distance(known)) == least).take(3);
    nearest.map(|known| format!("`{known}`")).collect::<Vec<_>>().join(" or ")
}

#[cfg(test)]
mod tests;
