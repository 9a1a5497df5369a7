//! TOML read as JSON of the same lines, and written from JSON.
//!
//! Configurations are JSON as well, in checkpoints and ONNX files. With one reader and one writer for both
//! texts, what `serde` derives for each type is compiled once.

use serde::de::{DeserializeOwned, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt::{self, Write};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What cannot be read, and where.
#[derive(Debug, PartialEq)]
pub(super) struct Unreadable {
    /// The line, from 1. Where a table lacks a key it is that of the table's last key.
    pub line: usize,
    /// What is wrong there.
    pub message: String,
}

/// The value of a TOML document.
pub(super) fn read<T: DeserializeOwned>(text: &str) -> Result<T, Unreadable> {
    let ends = text.match_indices('\n').map(|(at, _)| at).collect();
    let mut json = Json { ends, written: 1, text: String::new() };
    let document = DeTable::parse(text).map_err(|error| {
        Unreadable::at(json.line(error.span().map_or(0, |span| span.start)), error.message())
    })?;
    json.table(document.get_ref())?;
    serde_json::from_str(&json.text).map_err(|error| {
        let message = error.to_string();
        let place = format!(" at line {} column {}", error.line(), error.column());
        Unreadable::at(error.line(), message.strip_suffix(&place).unwrap_or(&message))
    })
}

/// The TOML text of a value; what is `None` is left out.
///
/// # Errors
/// Those of `serde_json` and `toml` for what has no form in their texts.
pub(super) fn write<T: Serialize>(value: &T) -> Result<String, Box<dyn std::error::Error>> {
    let value: Value = serde_json::from_str(&serde_json::to_string(value)?)?;
    Ok(toml::to_string(&value)?)
}

impl Unreadable {
    /// With the file's words in quotes: in backquotes are those that this library has for its own values.
    fn at(line: usize, message: &str) -> Unreadable {
        Unreadable { line, message: message.replace('`', "\"") }
    }
}

/// The JSON text, in which each key and value stands on its line of the TOML document. Tables that are
/// continued after others are the exception: what follows on earlier lines stands on the last one written.
struct Json {
    /// Where the document's lines end.
    ends: Vec<usize>,
    /// The lines of `text`.
    written: usize,
    text: String,
}

impl Json {
    /// The line of a place in the document, from 1.
    fn line(&self, place: usize) -> usize {
        self.ends.partition_point(|end| *end < place) + 1
    }

    /// Begins the lines up to the one of that place.
    fn go_to(&mut self, place: usize) {
        for _ in self.written..self.line(place) {
            self.text.push('\n');
            self.written += 1;
        }
    }

    fn table(&mut self, table: &DeTable<'_>) -> Result<(), Unreadable> {
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        self.text.push('{');
        for (i, (key, value)) in entries.into_iter().enumerate() {
            if i > 0 {
                self.text.push(',');
            }
            self.go_to(key.span().start);
            self.string(key.get_ref());
            self.text.push(':');
            self.value(value)?;
        }
        self.text.push('}');
        Ok(())
    }

    fn value(&mut self, value: &Spanned<DeValue<'_>>) -> Result<(), Unreadable> {
        self.go_to(value.span().start);
        let line = self.line(value.span().start);
        let refuse = |expected: &str, got: &str| {
            Err(Unreadable::at(line, &format!("invalid value: {got}, expected {expected}")))
        };
        match value.get_ref() {
            DeValue::Table(table) => self.table(table)?,
            DeValue::Array(items) => {
                self.text.push('[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        self.text.push(',');
                    }
                    self.value(item)?;
                }
                self.text.push(']');
            }
            DeValue::String(text) => self.string(text),
            DeValue::Datetime(time) => return refuse("quotes around a date", &time.to_string()),
            DeValue::Boolean(is_true) => self.number(is_true),
            DeValue::Integer(integer) => {
                let all = i128::from(i64::MIN)..=i128::from(u64::MAX);
                match i128::from_str_radix(integer.as_str(), integer.radix()) {
                    Ok(integer) if all.contains(&integer) => self.number(&integer),
                    _ => return refuse("an integer of 64 bits", integer.as_str()),
                }
            }
            // JSON has neither infinities nor NaN.
            DeValue::Float(float) => match float.as_str().parse::<f64>() {
                Ok(x) if x.is_finite() => self.number(&format_args!("{x:?}")),
                _ => return refuse("a finite number", float.as_str()),
            },
        }
        Ok(())
    }

    /// A number or a truth value, which both texts write alike.
    fn number(&mut self, number: &dyn std::fmt::Display) {
        write!(self.text, "{number}").expect("a text takes all that is written to it");
    }

    fn string(&mut self, text: &str) {
        self.text.push_str(&serde_json::Value::from(text).to_string());
    }
}

/// A value whose tables have their keys in order, which those of `serde_json` have not.
#[derive(Debug)]
enum Value {
    Nothing,
    Truth(bool),
    Natural(u64),
    Negative(i64),
    Real(f64),
    Text(String),
    List(Vec<Value>),
    Table(Vec<(String, Value)>),
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Nothing => serializer.serialize_none(),
            Value::Truth(is_true) => serializer.serialize_bool(*is_true),
            Value::Natural(n) => serializer.serialize_u64(*n),
            Value::Negative(n) => serializer.serialize_i64(*n),
            Value::Real(x) => serializer.serialize_f64(*x),
            Value::Text(text) => serializer.serialize_str(text),
            Value::List(items) => serializer.collect_seq(items),
            Value::Table(entries) => {
                let there = entries.iter().filter(|(_, value)| !matches!(value, Value::Nothing));
                serializer.collect_map(there.map(|(key, value)| (key, value)))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Nothing)
            }

            fn visit_bool<E>(self, is_true: bool) -> Result<Value, E> {
                Ok(Value::Truth(is_true))
            }

            fn visit_u64<E>(self, n: u64) -> Result<Value, E> {
                Ok(Value::Natural(n))
            }

            fn visit_i64<E>(self, n: i64) -> Result<Value, E> {
                Ok(Value::Negative(n))
            }

            fn visit_f64<E>(self, x: f64) -> Result<Value, E> {
                Ok(Value::Real(x))
            }

            fn visit_str<E>(self, text: &str) -> Result<Value, E> {
                Ok(Value::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Value::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
                let mut table = Vec::new();
                while let Some(entry) = entries.next_entry()? {
                    table.push(entry);
                }
                Ok(Value::Table(table))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::{read, write};
    use crate::config::Preset;
    use serde_json::{Value, json};

    #[test]
    fn every_kind_of_value_is_read() {
        let text = "# A document.\n\
            whole = 1_000\nhex = 0xff\nlarge = 18446744073709551615\nnegative = -5\n\
            half = 0.5\ntiny = 1e-300\ntext = \"a \\\"b\\\" \\u00e9\\n\"\nyes = true\n\
            list = [1, [2.5],\n  \"x\"]\ninline = { a = 1, \"b c\" = false }\n\
            [table]\nx = 1\n[[rows]]\nn = 1\n[[rows]]\nn = 2\n[table.inner]\ny = 2\n";
        let got: Value = read(text).expect("a document");
        let want = json!({
            "whole": 1000, "hex": 255, "large": u64::MAX, "negative": -5, "half": 0.5, "tiny": 1e-300,
            "text": "a \"b\" é\n", "yes": true, "list": [1, [2.5], "x"],
            "inline": { "a": 1, "b c": false }, "table": { "x": 1, "inner": { "y": 2 } },
            "rows": [{ "n": 1 }, { "n": 2 }],
        });
        assert_eq!(got, want);
    }

    /// As the `toml` crate writes it from the types themselves.
    #[test]
    fn a_configuration_is_written_as_toml_writes_it() {
        for preset in Preset::ALL {
            let names = ["a \"b\"", "c = d"].map(str::to_owned);
            let mut config = preset.config().for_classes(&names, 0.1);
            config.train.lr = 1e-7;
            config.train.seed = 1 << 62;
            assert_eq!(write(&config).expect("TOML"), toml::to_string(&config).expect("TOML"), "{preset:?}");
        }
    }

    /// A place's line is found without reading the text again up to it: a reader that did took half a minute.
    #[test]
    fn a_long_document_is_read_in_time_that_grows_with_its_length() {
        let text: String = (0..60_000).map(|i| format!("k{i} = {i}\n")).collect();
        let start = std::time::Instant::now();
        let got: std::collections::BTreeMap<String, u64> = read(&text).expect("a document");
        assert!(got.len() == 60_000 && got["k59999"] == 59_999);
        assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Pair {
        #[allow(dead_code)]
        a: u32,
        #[allow(dead_code)]
        b: Vec<f32>,
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_line() {
        let refused = |text: &str| read::<Pair>(text).map(drop).expect_err(text);
        let is = |text: &str, line: usize, words: &str| {
            let error = refused(text);
            assert!(error.line == line && error.message.contains(words), "{text:?}: {error:?}");
            assert!(!error.message.contains("column"), "{error:?}");
        };
        is("a = 1\nb = [", 2, "array");
        is("a = 1\n\na = 2", 3, "duplicate key");
        is("a = \"x\"\nb = []\n", 1, "invalid type: string \"x\", expected u32");
        is("\n\na = 1.5\nb = []\n", 3, "floating point \"1.5\", expected u32");
        is("a = -1\nb = []\n", 1, "invalid value: integer \"-1\", expected u32");
        is("a = 1\nb = [0.5,\n  true]\n", 3, "invalid type: boolean \"true\", expected f32");
        is("a = 1\nb = []\n# comment\n'c d' = 1\n", 4, "unknown field \"c d\", expected \"a\" or \"b\"");
        is("# comment\n\na = 1\n", 3, "missing field \"b\"");
        is("a = 1\nb = [1, nan]", 2, "nan, expected a finite number");
        is("a = 1\nb = [-inf]", 2, "-inf, expected a finite number");
        is("a = 1\nb = [1e999]", 2, "expected a finite number");
        let digits = format!("a = 1{}\nb = []", "0".repeat(40));
        is(&digits, 1, "expected an integer of 64 bits");
        is("a = 18446744073709551616\nb = []", 1, "expected an integer of 64 bits");
        is("\na = 2026-01-31\nb = []", 2, "2026-01-31, expected quotes around a date");
        is(&format!("a{} = 1", ".a".repeat(100_000)), 1, "recursion limit");
    }
}
