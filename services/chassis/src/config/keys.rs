//! The known keys of a configuration, read from the schema of its struct.

use std::{fmt::Write as _, net::IpAddr};

use ::config::{Value, ValueKind};
use schemars::{JsonSchema, generate::SchemaSettings};
use serde::Serialize;
use serde_json::Value as Json;

use super::HumanDuration;

/// What a key takes.
#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Text,
    Flag,
    Duration,
    Address,
    Integer { least: i64, most: i64 },
    List,
    Choice(Vec<String>),
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text => f.write_str("text"),
            Self::Flag => f.write_str("`true` or `false`"),
            Self::Duration => f.write_str("a duration"),
            Self::Address => f.write_str("an IP address"),
            Self::Integer { least, most } => write!(f, "{least} to {most}"),
            Self::List => f.write_str("a list of texts"),
            Self::Choice(choices) => write!(f, "`{}`", choices.join("`, `")),
        }
    }
}

/// A key that a configuration may have.
#[derive(Clone, Debug)]
pub(super) struct Key {
    /// Its whole name, such as `service.tlsCertificate`.
    pub(super) path: String,
    kind: Kind,
    default: Option<String>,
    doc: String,
}

impl Key {
    /// Its environment variable: `PONGER__SERVICE__TLS_CERTIFICATE`.
    pub(super) fn variable(&self, prefix: &str) -> String {
        let mut name = prefix.to_owned();
        for letter in self.path.chars() {
            match letter {
                '.' => name.push_str("__"),
                upper if upper.is_ascii_uppercase() => {
                    name.push('_');
                    name.push(upper);
                }
                lower => name.push(lower.to_ascii_uppercase()),
            }
        }
        name
    }

    /// Makes a value from the text of an environment variable; [`Key::check`] judges it.
    pub(super) fn parse(&self, text: &str) -> Value {
        let kind = match self.kind {
            Kind::Integer { .. } => {
                text.parse().map_or_else(|_| ValueKind::String(text.into()), ValueKind::I64)
            }
            Kind::Flag => {
                text.parse().map_or_else(|_| ValueKind::String(text.into()), ValueKind::Boolean)
            }
            Kind::List => ValueKind::Array(
                text.split(',').map(|item| Value::new(None, item.trim())).collect(),
            ),
            Kind::Text | Kind::Duration | Kind::Address | Kind::Choice(_) => {
                ValueKind::String(text.into())
            }
        };
        Value::new(None, kind)
    }

    /// Makes of a value that fits what the struct takes: `minTlsVersion: 1.3` is a number to YAML.
    pub(super) fn settle(&self, value: Value) -> Value {
        match self.kind {
            Kind::Choice(_) => Value::new(None, value.to_string()),
            _ => value,
        }
    }

    /// Whether `value` fits; if not, the cause and the cure.
    pub(super) fn check(&self, value: &Value) -> Result<(), (String, String)> {
        let cure = || match self.kind {
            Kind::Text => "it takes text".to_owned(),
            Kind::Duration => {
                "it takes a duration with its unit, such as `10s` or `250ms`".to_owned()
            }
            ref kind => format!("it takes {kind}"),
        };
        let wrong = |cause: String| Err((cause, cure()));
        match (&self.kind, &value.kind) {
            (_, ValueKind::Nil) => wrong("it has no value".into()),
            (_, ValueKind::String(text)) if text.trim().is_empty() => wrong("it is empty".into()),
            (Kind::Text, ValueKind::String(text)) if text.contains('\0') => {
                wrong("it holds a zero byte".into())
            }
            (Kind::Text, ValueKind::String(_)) | (Kind::Flag, ValueKind::Boolean(_)) => Ok(()),
            (Kind::Duration, ValueKind::String(text)) => match HumanDuration::try_from(text.clone()) {
                Ok(_) => Ok(()),
                Err(error) => wrong(format!("`{text}` is not a duration: {error}")),
            },
            (Kind::Address, ValueKind::String(text)) => match text.parse::<IpAddr>() {
                Ok(_) => Ok(()),
                Err(_) => wrong(format!("`{text}` is not an IP address")),
            },
            (Kind::Choice(choices), ValueKind::String(_) | ValueKind::Float(_))
                if choices.contains(&value.to_string()) =>
            {
                Ok(())
            }
            (
                Kind::Integer { least, most },
                ValueKind::I64(_) | ValueKind::U64(_) | ValueKind::I128(_) | ValueKind::U128(_),
            ) => match value.clone().into_int() {
                Ok(number) if (*least..=*most).contains(&number) => Ok(()),
                _ => wrong(format!("{value} is out of range")),
            },
            (Kind::List, ValueKind::Array(items)) if items.is_empty() => {
                wrong("the list is empty".into())
            }
            (Kind::List, ValueKind::Array(items)) => {
                match items.iter().find(|item| !matches!(&item.kind, ValueKind::String(text) if !text.trim().is_empty())) {
                    Some(item) => wrong(format!("`{item}` is not a name")),
                    None => Ok(()),
                }
            }
            (_, ValueKind::Table(_)) => wrong("it has keys below it".into()),
            (_, ValueKind::Array(_)) => wrong("it is a list".into()),
            (Kind::Integer { .. }, ValueKind::String(text)) => {
                wrong(format!("`{text}` is text, not a number"))
            }
            _ => wrong(format!("`{value}` does not fit")),
        }
    }
}

/// All keys of a configuration, in the order in which its struct has them.
pub(super) struct Keys(Vec<Key>);

impl Keys {
    pub(super) fn of<C: JsonSchema + Default + Serialize>() -> Self {
        let schema = SchemaSettings::default()
            .with(|settings| settings.inline_subschemas = true)
            .into_generator()
            .into_root_schema_for::<C>();
        let defaults = serde_json::to_value(C::default()).unwrap_or_default();
        let mut keys = Vec::new();
        collect("", schema.as_value(), &defaults, &mut keys);
        Self(keys)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Key> {
        self.0.iter()
    }

    pub(super) fn find(&self, path: &str) -> Option<&Key> {
        self.iter().find(|key| key.path == path)
    }

    /// Whether known keys lie below `path`.
    pub(super) fn is_section(&self, path: &str) -> bool {
        !self.below(path).is_empty()
    }

    pub(super) fn below(&self, path: &str) -> Vec<&str> {
        let above = format!("{path}.");
        self.iter()
            .filter(|key| key.path.starts_with(&above))
            .map(|key| key.path.as_str())
            .collect()
    }

    /// The known key or section most like `path`: a key of the same last name in another place, or
    /// else the one that takes the fewest slips of the keyboard.
    pub(super) fn nearest(&self, path: &str) -> &str {
        let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_lowercase();
        let slips = |known: &str| {
            let whole = strsim::damerau_levenshtein(&known.to_lowercase(), &path.to_lowercase());
            // A key in the wrong section is one slip more than its name's own.
            whole.min(strsim::damerau_levenshtein(&last(known), &last(path)) + 1)
        };
        let sections =
            self.iter().filter_map(|key| key.path.split_once('.').map(|(section, _)| section));
        self.iter()
            .map(|key| key.path.as_str())
            .chain(sections)
            .min_by_key(|known| slips(known))
            .unwrap_or_default()
    }

    pub(super) fn nearest_variable(&self, prefix: &str, variable: &str) -> String {
        self.iter()
            .map(|key| key.variable(prefix))
            .min_by_key(|known| strsim::damerau_levenshtein(known, variable))
            .unwrap_or_default()
    }
}

/// The keys of a configuration as a Markdown table, for `services/README.md`.
pub fn table<C: JsonSchema + Default + Serialize>() -> String {
    let mut text =
        String::from("| key | takes | default | what it is |\n| --- | --- | --- | --- |\n");
    for key in Keys::of::<C>().iter() {
        let default = key.default.as_ref().map(|value| format!("`{value}`")).unwrap_or_default();
        let _ = writeln!(text, "| `{}` | {} | {default} | {} |", key.path, key.kind, key.doc);
    }
    text
}

fn collect(above: &str, schema: &Json, defaults: &Json, keys: &mut Vec<Key>) {
    let Some(properties) = schema["properties"].as_object() else {
        return;
    };
    for (name, schema) in properties {
        let path = if above.is_empty() { name.clone() } else { format!("{above}.{name}") };
        let default = &defaults[name];
        if schema["properties"].is_object() {
            collect(&path, schema, default, keys);
            continue;
        }
        let doc = schema["description"].as_str().unwrap_or_default().replace('\n', " ");
        let default = match default {
            Json::Null => None,
            Json::Array(items) if items.is_empty() => None,
            Json::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        };
        keys.push(Key { path, kind: kind(schema), default, doc });
    }
}

/// Reads what a key takes from its schema. An optional key's schema has `null` beside the type.
fn kind(schema: &Json) -> Kind {
    if let Some(choices) = schema["anyOf"].as_array() {
        return choices.iter().find(|choice| choice["type"] != "null").map_or(Kind::Text, kind);
    }
    if let Some(choices) = schema["enum"].as_array() {
        return Kind::Choice(choices.iter().filter_map(Json::as_str).map(str::to_owned).collect());
    }
    let types = match &schema["type"] {
        Json::Array(types) => types.iter().filter_map(Json::as_str).collect(),
        one => Vec::from_iter(one.as_str()),
    };
    match types.iter().find(|name| **name != "null").copied() {
        Some("boolean") => Kind::Flag,
        Some("array") => Kind::List,
        Some("integer") => Kind::Integer {
            least: schema["minimum"].as_i64().unwrap_or(i64::MIN),
            most: match schema["maximum"].as_i64() {
                Some(most) => most,
                None if schema["format"] == "uint32" => u32::MAX.into(),
                None => i64::MAX,
            },
        },
        _ if schema["format"] == "duration" => Kind::Duration,
        _ if schema["format"] == "ip" => Kind::Address,
        _ => Kind::Text,
    }
}
