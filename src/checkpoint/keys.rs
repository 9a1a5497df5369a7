//! JSON objects read key by key, so that an unknown key is always noticed.

use super::{files, json};
use crate::error::{Error, Result};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// The keys of a JSON file's object that have not been read yet.
pub(super) struct Keys {
    file: PathBuf,
    map: Map<String, Value>,
}

impl Keys {
    /// Reads a file that holds one JSON object.
    pub(super) fn read(file: &Path) -> Result<Keys> {
        Self::of(file, &files::read_text(file)?)
    }

    /// Reads a file's text; `file` names it in errors.
    pub(super) fn of(file: &Path, text: &str) -> Result<Keys> {
        let bad = |got: String| {
            Error::invalid(file.display().to_string(), "a JSON object", got, "is the file whole?")
        };
        match json::parse(&quote_infinities(text)).map_err(|e| bad(e.to_string()))? {
            Value::Object(map) => Ok(Keys { file: file.to_owned(), map }),
            other => Err(bad(shown(&other))),
        }
    }

    /// Whether a key is there and has not been read.
    pub(super) fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// A key's value, or `default` where the key is missing.
    pub(super) fn get<V: DeserializeOwned>(&mut self, key: &str, default: V, expected: &str) -> Result<V> {
        let Some(value) = self.map.remove(key) else { return Ok(default) };
        let got = shown(&value);
        serde_json::from_value(value).map_err(|_| self.refuse(key, expected, got, ""))
    }

    /// A key's value, which must be there.
    pub(super) fn require<V: DeserializeOwned>(
        &mut self,
        key: &str,
        expected: &str,
        help: &str,
    ) -> Result<V> {
        let Some(value) = self.map.remove(key) else {
            return Err(self.refuse(key, expected, "no such key", help));
        };
        let got = shown(&value);
        serde_json::from_value(value).map_err(|e| self.refuse(key, expected, format!("{got} ({e})"), help))
    }

    /// Whether a key's value is null, which then is read.
    pub(super) fn take_null(&mut self, key: &str) -> bool {
        let is_null = self.map.get(key).is_some_and(Value::is_null);
        if is_null {
            self.map.remove(key);
        }
        is_null
    }

    /// One of the names that are supported, as what it means; a missing key has the name `default`.
    pub(super) fn one_of<V: Clone>(&mut self, key: &str, default: &str, names: &[(&str, V)]) -> Result<V> {
        let expected = || names.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let name = self.get(key, default.to_owned(), &expected())?;
        match names.iter().find(|(known, _)| *known == name) {
            Some((_, value)) => Ok(value.clone()),
            None => Err(self.refuse(key, expected(), name, "other values are not supported")),
        }
    }

    /// One of the values that mean what this project does; a missing key means that too.
    pub(super) fn fixed(&mut self, key: &str, accepted: &[Value]) -> Result<()> {
        match self.map.remove(key) {
            Some(value) if !accepted.contains(&value) => {
                let expected: Vec<String> = accepted.iter().map(shown).collect();
                Err(self.refuse(key, expected.join(" or "), shown(&value), "other values are not supported"))
            }
            _ => Ok(()),
        }
    }

    /// Accepts keys whose values change nothing.
    pub(super) fn tolerate(&mut self, keys: &[&str]) {
        for key in keys {
            self.map.remove(*key);
        }
    }

    /// Refuses any key that has not been read.
    pub(super) fn finish(self) -> Result<()> {
        match self.map.iter().next() {
            None => Ok(()),
            Some((key, value)) => Err(self.refuse(
                key,
                "only keys that are supported",
                shown(value),
                "this program does not know what the key changes, so it refuses the file rather than misread \
                 it",
            )),
        }
    }

    /// The error for a key's value.
    pub(super) fn refuse(
        &self,
        key: &str,
        expected: impl Into<String>,
        got: impl Into<String>,
        help: &str,
    ) -> Error {
        Error::invalid(format!("{}, key {key:?}", self.file.display()), expected, got, help)
    }

    /// Adds the file's name to an error about values that do not fit each other.
    pub(super) fn in_file(&self, error: Error) -> Error {
        match error {
            Error::Invalid { what, expected, got, help } => {
                Error::Invalid { what: format!("{}: {what}", self.file.display()), expected, got, help }
            }
            other => other,
        }
    }
}

/// Python writes numbers that JSON has not; in quotes they can be read: -Infinity as "-Infinity".
fn quote_infinities(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut rest, mut is_quoted) = (text, false);
    while let Some(next) = rest.chars().next() {
        let words = ["-Infinity", "Infinity", "NaN"];
        if let Some(word) = words.into_iter().find(|word| !is_quoted && rest.starts_with(word)) {
            out.extend(["\"", word, "\""]);
            rest = &rest[word.len()..];
            continue;
        }
        let escaped = if is_quoted && next == '\\' { rest[1..].chars().next() } else { None };
        is_quoted ^= next == '"';
        let taken = next.len_utf8() + escaped.map_or(0, char::len_utf8);
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    out
}

/// A value as a message shows it.
fn shown(value: &Value) -> String {
    const LONGEST: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn infinities_are_quoted_outside_of_texts_alone() {
        for (text, want) in [
            (r#"{"a": -Infinity, "b": [NaN,Infinity]}"#, r#"{"a": "-Infinity", "b": ["NaN","Infinity"]}"#),
            (r#"{"NaN \" Infinity": "é\\", "x": -1}"#, r#"{"NaN \" Infinity": "é\\", "x": -1}"#),
            ("\"\\", "\"\\"),
        ] {
            assert_eq!(quote_infinities(text), want);
        }
    }
}
