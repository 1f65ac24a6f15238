//! Configuration: defaults, then a YAML file, then the environment; typed, and strict.
//!
//! Each service describes its keys once, as a struct with `serde` and `schemars` derives. From that
//! one description come the reading ([`load`]), the check of every key and value with a message that
//! names file, key, cause and the nearest known key, and the table in `services/README.md` ([`table`]).
//!
//! Values from the environment are named like their key: `service.tlsCertificate` of ponger is
//! `PONGER__SERVICE__TLS_CERTIFICATE`; lists are separated by commas.

mod keys;
mod sections;
mod duration;

use std::{ffi::OsString, path::Path};

use ::config::{Config, File, FileFormat, Map, Source as _, Value, ValueKind};
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use yaml_rust2::parser::{Event, Parser};

use self::keys::{Key, Keys};
pub use self::{
    keys::table,
    sections::{Identity, Log, LogFormat, LogLevel, Metrics, MinTlsVersion},
    duration::HumanDuration,
};
use crate::error::ConfigError;

/// A configuration file is text that a person writes: anything above this many bytes is not one.
const LARGEST_FILE: u64 = 1 << 20;

/// Its keys lie two levels deep, and lists one deeper.
const DEEPEST: usize = 16;

/// Each may double what a file stands for.
const MOST_ALIASES: usize = 10;

/// Reads the configuration of the service `name`: its defaults, then `file`, then those variables
/// of `environment` that start with `NAME__`.
///
/// # Errors
/// The first thing that is wrong, with its place, its cause and what would be right.
pub fn load<C>(
    name: &str,
    file: &Path,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<C, ConfigError>
where
    C: DeserializeOwned + Default + Serialize + JsonSchema,
{
    let text = read(file)?;
    let keys = Keys::of::<C>();
    let mut builder = Config::builder();
    for (key, value) in from_file(&keys, file, &text)?.into_iter().chain(from_environment(
        &keys,
        name,
        environment,
    )?) {
        builder = builder
            .set_override(&key.path, value)
            .map_err(|error| ConfigError::new(&key.path, error))?;
    }
    builder
        .build()
        .and_then(Config::try_deserialize)
        .map_err(|error| ConfigError::new(file.display(), error))
}

fn read(file: &Path) -> Result<String, ConfigError> {
    let bytes = crate::files::read(file, LARGEST_FILE)
        .map_err(|error| error.or_hint("name the configuration file with --config FILE"))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        ConfigError::new(file.display(), format!("it is not UTF-8 text (byte {place})"))
            .hint("save it as UTF-8")
    })?;
    // Some editors begin a file with a byte order mark, which is no part of its first key.
    let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
    // The parser takes a zero byte for the end of the file, and would pass over what follows it.
    if let Some(place) =
        text.find(|letter: char| letter.is_control() && !matches!(letter, '\n' | '\r' | '\t'))
    {
        return Err(ConfigError::new(
            file.display(),
            format!("it holds a control character (byte {place})"),
        )
        .hint("write it as plain text"));
    }
    let blank =
        text.lines().all(|line| matches!(line.trim(), "" | "---") || line.trim().starts_with('#'));
    if blank {
        return Err(ConfigError::new(file.display(), "it is empty")
            .hint("services/README.md shows one to start from"));
    }
    Ok(text)
}

/// Refuses what the YAML reader would follow to the end of its stack or of the memory. What is not
/// YAML at all is left for it to explain.
fn bound(file: &Path, text: &str) -> Result<(), ConfigError> {
    let mut parser = Parser::new_from_str(text);
    let (mut depth, mut aliases) = (0, 0);
    while let Ok((event, _)) = parser.next_token() {
        match event {
            Event::MappingStart(..) | Event::SequenceStart(..) => depth += 1,
            Event::MappingEnd | Event::SequenceEnd => depth -= 1,
            Event::Alias(_) => aliases += 1,
            Event::StreamEnd => break,
            _ => {}
        }
        let cause = if depth > DEEPEST {
            format!("it is nested more than {DEEPEST} levels deep")
        } else if aliases > MOST_ALIASES {
            format!("it has more than {MOST_ALIASES} aliases")
        } else {
            continue;
        };
        return Err(ConfigError::new(file.display(), cause).hint("this is not a configuration"));
    }
    Ok(())
}

fn from_file<'k>(
    keys: &'k Keys,
    file: &Path,
    text: &str,
) -> Result<Vec<(&'k Key, Value)>, ConfigError> {
    bound(file, text)?;
    let tree = File::from_str(text, FileFormat::Yaml).collect().map_err(|error| {
        let cause = match error {
            ::config::ConfigError::FileParse { cause, .. } => cause.to_string(),
            other => other.to_string(),
        };
        // The parser shows a key as its own type: `String("port"): duplicated key in mapping`.
        let cause = cause.replace("String(\"", "key `").replace("\"):", "`:");
        ConfigError::new(file.display(), cause).hint("mend the YAML; services/README.md shows one")
    })?;
    let mut found = Vec::new();
    walk(keys, file, "", tree, &mut found)?;
    Ok(found)
}

/// Sorts a table of the file into known keys and their values, and refuses what is neither.
fn walk<'k>(
    keys: &'k Keys,
    file: &Path,
    above: &str,
    tree: Map<String, Value>,
    found: &mut Vec<(&'k Key, Value)>,
) -> Result<(), ConfigError> {
    for (name, value) in tree {
        // `service.port` would stand beside `port` below `service`, and who knows which is meant.
        if let Some((section, last)) = name.rsplit_once('.') {
            let place = format!("{}: key `{name}`", file.display());
            return Err(ConfigError::new(place, "a key has no dots")
                .hint(format!("write `{last}` below `{section}`")));
        }
        let path = if above.is_empty() { name } else { format!("{above}.{name}") };
        let place = format!("{}: key `{path}`", file.display());
        if let Some(key) = keys.find(&path) {
            key.check(&value).map_err(|(cause, cure)| ConfigError::new(&place, cause).hint(cure))?;
            found.push((key, key.settle(value)));
        } else if keys.is_section(&path) {
            match value.kind {
                ValueKind::Table(table) => walk(keys, file, &path, table, found)?,
                ValueKind::Nil => {
                    return Err(ConfigError::new(place, "it has no keys below it")
                        .hint("give it some, or leave it out"));
                }
                _ => {
                    return Err(ConfigError::new(place, "it must have keys below it, not a value")
                        .hint(format!("known keys: {}", keys.below(&path).join(", "))));
                }
            }
        } else {
            return Err(ConfigError::new(place, "there is no such key")
                .hint(format!("the nearest known key is `{}`", keys.nearest(&path))));
        }
    }
    Ok(())
}

fn from_environment<'k>(
    keys: &'k Keys,
    name: &str,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Vec<(&'k Key, Value)>, ConfigError> {
    let prefix = format!("{}__", name.to_uppercase());
    let mut found = Vec::new();
    for (variable, text) in environment {
        let variable = variable.to_string_lossy();
        if !variable.starts_with(&prefix) {
            continue;
        }
        let place = format!("environment variable {variable}");
        let Some(key) = keys.iter().find(|key| key.variable(&prefix) == variable) else {
            let nearest = keys.nearest_variable(&prefix, &variable);
            return Err(ConfigError::new(place, "there is no such key")
                .hint(format!("the nearest known one is {nearest}")));
        };
        let text =
            text.to_str().ok_or_else(|| ConfigError::new(&place, "its value is not UTF-8 text"))?;
        let value = key.parse(text);
        key.check(&value).map_err(|(cause, cure)| ConfigError::new(&place, cause).hint(cure))?;
        found.push((key, value));
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
