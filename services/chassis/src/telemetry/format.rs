//! How an event is written as a line: as text, or as JSON.
//!
//! Both look as tracing-subscriber writes them, for a third of its instructions: a line is written for
//! each ping and each request. They differ in that names of spans are not bold, and that more control
//! characters are escaped.

use std::{
    cell::RefCell,
    fmt::{self, Write as _},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::pki_types::UnixTime;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, format::Writer},
    registry::{LookupSpan, Scope},
};

use crate::tls::clock::format_rfc3339;

/// The field that holds an event's message.
const MESSAGE: &str = "message";

/// Time, level, spans, message and fields, coloured where the writer allows it.
#[derive(Clone, Copy, Debug)]
pub struct Text {
    /// Whether a line begins with the time.
    pub time: bool,
}

/// An object with `timestamp`, `level`, `message` and the fields.
#[derive(Clone, Copy, Debug)]
pub struct Json;

impl<S, N> FormatEvent<S, N> for Text
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut line: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let colors = line.has_ansi_escapes();
        if self.time {
            line.write_str(if colors { "\x1b[2m" } else { "" })?;
            write_now(&mut line)?;
            line.write_str(if colors { "\x1b[0m " } else { " " })?;
        }
        line.write_str(level_text(*event.metadata().level(), colors))?;
        let mut in_span = false;
        for span in context.event_scope().into_iter().flat_map(Scope::from_root) {
            in_span = true;
            line.write_str(span.name())?;
            match span.extensions().get::<FormattedFields<N>>() {
                Some(fields) if !fields.is_empty() => write!(line, "{{{fields}}}:")?,
                _ => line.write_str(":")?,
            }
        }
        line.write_str(if in_span { " " } else { "" })?;
        let mut fields = TextFields { line: line.by_ref(), colors, is_first: true, result: Ok(()) };
        event.record(&mut fields);
        fields.result?;
        line.write_char('\n')
    }
}

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut line: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        line.write_str("{\"timestamp\":\"")?;
        write_now(&mut line)?;
        line.write_str("\",\"level\":\"")?;
        line.write_str(event.metadata().level().as_str())?;
        line.write_char('"')?;
        let mut fields = JsonFields { line: line.by_ref(), result: Ok(()) };
        event.record(&mut fields);
        fields.result?;
        line.write_str("}\n")
    }
}

/// The level, in five columns, and a space.
const fn level_text(level: Level, colors: bool) -> &'static str {
    match (level, colors) {
        (Level::TRACE, false) => "TRACE ",
        (Level::DEBUG, false) => "DEBUG ",
        (Level::INFO, false) => " INFO ",
        (Level::WARN, false) => " WARN ",
        (Level::ERROR, false) => "ERROR ",
        (Level::TRACE, true) => "\x1b[35mTRACE\x1b[0m ",
        (Level::DEBUG, true) => "\x1b[34mDEBUG\x1b[0m ",
        (Level::INFO, true) => "\x1b[32m INFO\x1b[0m ",
        (Level::WARN, true) => "\x1b[33m WARN\x1b[0m ",
        (Level::ERROR, true) => "\x1b[31mERROR\x1b[0m ",
    }
}

/// Writes the time as RFC 3339 has it, in UTC, with microseconds.
fn write_now(line: &mut impl fmt::Write) -> fmt::Result {
    // A clock before 1970 is shown as 1970.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    thread_local! {
        /// The text of a second, which many lines share.
        static SECOND: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
    }
    SECOND.with_borrow_mut(|(second, text)| {
        if *second != now.as_secs() {
            (*second, *text) = (now.as_secs(), second_text(now.as_secs()));
        }
        line.write_str(text)
    })?;
    let mut digits = *b"000000Z";
    let mut micros = now.subsec_micros();
    for digit in digits[..6].iter_mut().rev() {
        *digit += u8::try_from(micros % 10).unwrap_or_default();
        micros /= 10;
    }
    line.write_str(str::from_utf8(&digits).unwrap_or_default())
}

/// `2026-01-31T23:59:59.`
fn second_text(second: u64) -> String {
    let text = format_rfc3339(UnixTime::since_unix_epoch(Duration::from_secs(second)));
    text.replace('Z', ".")
}

/// The name that a field is written with.
fn name_of(field: &Field) -> &'static str {
    field.name().strip_prefix("r#").unwrap_or(field.name())
}

/// Writes the fields of an event as text.
struct TextFields<'w> {
    line: Writer<'w>,
    colors: bool,
    is_first: bool,
    result: fmt::Result,
}

impl TextFields<'_> {
    /// Writes the name of `field`, then the value by `write`. Of the message, only the value.
    fn record(
        &mut self,
        field: &Field,
        write: impl FnOnce(&mut Escaped<Writer<'_>>) -> fmt::Result,
    ) {
        let name = name_of(field);
        // Where a record of the `log` crate is from.
        if name.starts_with("log.") {
            return;
        }
        self.result = self.result.and_then(|()| {
            if !std::mem::take(&mut self.is_first) {
                self.line.write_char(' ')?;
            }
            if name != MESSAGE {
                self.line.write_str(if self.colors { "\x1b[3m" } else { "" })?;
                self.line.write_str(name)?;
                self.line.write_str(if self.colors { "\x1b[0m\x1b[2m=\x1b[0m" } else { "=" })?;
            }
            write(&mut Escaped { text: self.line.by_ref(), escape: escape_control })
        });
    }
}

impl Visit for TextFields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record(field, |line| {
            if field.name() == MESSAGE {
                line.write_str(value)
            } else if is_plain(value) {
                line.text.write_char('"')?;
                line.text.write_str(value)?;
                line.text.write_char('"')
            } else {
                write!(line, "{value:?}")
            }
        });
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record(field, |line| write!(line, "{value:?}"));
    }
}

/// Writes the fields of an event into an object that has others already.
struct JsonFields<'w> {
    line: Writer<'w>,
    result: fmt::Result,
}

impl JsonFields<'_> {
    /// Writes the name of `field`, then the value by `write`.
    fn record(&mut self, field: &Field, write: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        self.result = self.result.and_then(|()| {
            self.line.write_str(",\"")?;
            self.line.write_str(name_of(field))?;
            self.line.write_str("\":")?;
            write(&mut self.line)
        });
    }
}

impl Visit for JsonFields<'_> {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.record(field, |line| write!(line, "{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.record(field, |line| write!(line, "{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.record(field, |line| write!(line, "{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.record(field, |line| match value.is_finite() {
            true => write!(line, "{value:?}"),
            false => line.write_str("null"),
        });
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record(field, |line| {
            line.write_char('"')?;
            Escaped { text: line.by_ref(), escape: escape_json }.write_str(value)?;
            line.write_char('"')
        });
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record(field, |line| {
            line.write_char('"')?;
            write!(Escaped { text: line.by_ref(), escape: escape_json }, "{value:?}")?;
            line.write_char('"')
        });
    }
}

/// Whether neither format escapes anything in `text`.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\')
}

/// Writes what `escape` returns in place of a character.
struct Escaped<W> {
    text: W,
    escape: fn(char) -> Option<String>,
}

impl<W: fmt::Write> fmt::Write for Escaped<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if is_plain(text) {
            return self.text.write_str(text);
        }
        for character in text.chars() {
            match (self.escape)(character) {
                Some(escaped) => self.text.write_str(&escaped)?,
                None => self.text.write_char(character)?,
            }
        }
        Ok(())
    }
}

/// Control characters, by which a peer could command a terminal. A message may have several lines.
fn escape_control(character: char) -> Option<String> {
    let is_escaped = character.is_control() && !matches!(character, '\n' | '\t');
    is_escaped.then(|| character.escape_unicode().to_string())
}

/// The escape of a character that may not stand in a string (RFC 8259, section 7).
fn escape_json(character: char) -> Option<String> {
    match character {
        '"' => Some("\\\"".into()),
        '\\' => Some("\\\\".into()),
        '\n' => Some("\\n".into()),
        '\t' => Some("\\t".into()),
        ..' ' => Some(format!("\\u{:04x}", u32::from(character))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use proptest::{collection::vec, prelude::*};
    use serde_json::{Value, json};
    use tracing_subscriber::{
        fmt::format::{DefaultFields, format},
        layer::SubscriberExt as _,
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What `log` logs, in a format.
    fn lines<F>(format: F, colors: bool, log: impl FnOnce()) -> String
    where
        F: FormatEvent<tracing_subscriber::Registry, DefaultFields> + Send + Sync + 'static,
    {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer()
            .event_format(format)
            .with_ansi(colors)
            .with_writer(move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, log);
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
    }

    fn log_each_kind_of_field() {
        let none: Option<&str> = None;
        tracing::info!(
            status = 200_u16,
            peer = "spiffe://a/b",
            none,
            "Received {} {}",
            "GET",
            "/ping"
        );
        tracing::error!(
            signed = -1_i64,
            float = 0.5,
            whole = 5.0,
            flag = true,
            r#type = "quoted \"b\\",
            "Failed"
        );
        tracing::warn!(shown = tracing::field::display("a b"), debug = ?[1, 2], "two\nlines");
        tracing::debug!("é");
    }

    fn log_in_spans() {
        let _entered = tracing::trace_span!("request", method = "GET").entered();
        let _inner = tracing::info_span!("inner").entered();
        tracing::trace!(last = "field");
    }

    #[test]
    fn text_is_that_of_tracing_subscriber() {
        let theirs = || format().with_target(false).without_time();
        let ours = Text { time: false };
        for colors in [false, true] {
            let expected = lines(theirs(), colors, log_each_kind_of_field);
            assert_eq!(lines(ours, colors, log_each_kind_of_field), expected);
        }
        // Theirs has the names of spans in bold.
        assert_eq!(lines(ours, false, log_in_spans), lines(theirs(), false, log_in_spans));
    }

    #[test]
    fn json_has_the_fields_of_the_event() {
        let text = lines(Json, false, || {
            log_each_kind_of_field();
            log_in_spans();
        });
        let objects: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .map(without_time)
            .collect();
        let expected = [
            json!({"level": "INFO", "message": "Received GET /ping", "status": 200, "peer": "spiffe://a/b"}),
            json!({"level": "ERROR", "message": "Failed", "signed": -1, "float": 0.5, "whole": 5.0, "flag": true, "type": "quoted \"b\\"}),
            json!({"level": "WARN", "message": "two\nlines", "shown": "a b", "debug": "[1, 2]"}),
            json!({"level": "DEBUG", "message": "é"}),
            json!({"level": "TRACE", "last": "field"}),
        ];
        assert_eq!(objects, expected);
    }

    fn without_time(mut object: Value) -> Value {
        assert!(object["timestamp"].is_string());
        object.as_object_mut().unwrap().remove("timestamp");
        object
    }

    #[test]
    fn a_line_begins_with_the_time() {
        let text = lines(Text { time: true }, false, || tracing::info!("now"));
        let (time, rest) = text.split_once(' ').unwrap();
        assert_eq!(rest, " INFO now\n");
        let known = "2026-01-31T23:59:59.123456Z";
        let shape = |text: &str| text.replace(|character: char| character.is_ascii_digit(), "0");
        assert_eq!(shape(time), shape(known));
        assert_eq!(second_text(1_769_903_999), "2026-01-31T23:59:59.");
    }

    #[test]
    fn peers_cannot_command_a_terminal() {
        let hostile = "\x1b[2J\u{9b}2J\x07";
        let text = lines(Text { time: false }, true, || {
            tracing::info!(text = hostile, shown = tracing::field::display(hostile), "{hostile}");
        });
        let colors = ["\x1b[32m", "\x1b[0m", "\x1b[3m", "\x1b[2m"];
        let rest = colors.iter().fold(text, |text, color| text.replace(color, ""));
        assert!(!rest.trim_end().contains(char::is_control), "{rest:?}");
    }

    proptest! {
        #[test]
        fn json_holds_any_text(text in vec(any::<char>(), 0..40)) {
            let text = String::from_iter(text);
            let line = lines(Json, false, || tracing::info!(text, "{text}"));
            prop_assert_eq!(line.lines().count(), 1);
            let object: Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(&object["message"], &*text);
            prop_assert_eq!(&object["text"], &*text);
        }
    }
}
