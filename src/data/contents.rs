//! What images were made from, so that a change is noticed where a run goes on.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A picture's file, or all images of another source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The file's path from the folder of the pictures.
    pub name: String,
    /// Its length in bytes; of another source the number of images.
    pub length: u64,
    /// CRC-32 of the file's first and last 64 KiB; of another source, of all pixels and labels.
    pub crc: u32,
}

/// What a dataset was made from, in the order of its images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents(pub Vec<Entry>);

impl Contents {
    /// The text of a file that records them, a JSON object a line.
    pub fn text(&self) -> String {
        let line = |entry| serde_json::to_string(entry).expect("names and numbers have a JSON form") + "\n";
        self.0.iter().map(line).collect()
    }

    /// Reads that text; `source` names it in errors.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the first line that is none.
    pub fn from_text(text: &str, source: &str) -> Result<Contents> {
        let read = |(i, line): (usize, &str)| {
            serde_json::from_str(line).map_err(|e| {
                let what = format!("{source}, line {}", i + 1);
                Error::invalid(what, "a picture's name, length and crc", e.to_string(), "")
            })
        };
        Ok(Contents(text.lines().enumerate().map(read).collect::<Result<_>>()?))
    }

    /// How `now` differs from these, in words; `None` where it does not.
    pub fn difference(&self, now: &Contents) -> Option<String> {
        if self == now {
            return None;
        }
        let by_name = |contents: &Contents| -> BTreeMap<String, (u64, u32)> {
            contents.0.iter().map(|entry| (entry.name.clone(), (entry.length, entry.crc))).collect()
        };
        let (before, after) = (by_name(self), by_name(now));
        let added = after.keys().filter(|name| !before.contains_key(*name)).collect::<Vec<_>>();
        let missing = before.keys().filter(|name| !after.contains_key(*name)).collect::<Vec<_>>();
        let is_changed = |(name, was): &(&String, &(u64, u32))| after.get(*name).is_some_and(|is| is != *was);
        let changed = before.iter().filter(is_changed).map(|(name, _)| name).collect::<Vec<_>>();
        let kinds = [("added", added), ("missing", missing), ("changed", changed)];
        let told: Vec<String> = kinds
            .iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(kind, names)| told(kind, names))
            .collect();
        Some(if told.is_empty() { "another order".to_owned() } else { told.join("; ") })
    }
}

/// The count of a kind and its first names: "2 added (a.png, b.png)".
fn told(kind: &str, names: &[&String]) -> String {
    const SHOWN: usize = 5;
    let first: Vec<&str> = names.iter().take(SHOWN).map(|name| name.as_str()).collect();
    let rest = if names.len() > SHOWN { ", ..." } else { "" };
    format!("{} {kind} ({}{rest})", names.len(), first.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(entries: &[(&str, u64, u32)]) -> Contents {
        Contents(
            entries.iter().map(|&(name, length, crc)| Entry { name: name.to_owned(), length, crc }).collect(),
        )
    }

    #[test]
    fn what_was_added_taken_away_or_changed_is_told_by_name() {
        let before = contents(&[("a b.png", 3, 7), ("c\n.png", 4, 8), ("d.png", 5, 9)]);
        assert_eq!(Contents::from_text(&before.text(), "x").expect("round trip"), before);
        assert_eq!(before.difference(&before), None);
        let after = contents(&[("a b.png", 3, 6), ("d.png", 5, 9), ("e.png", 1, 1)]);
        let told = before.difference(&after).expect("a difference");
        assert_eq!(told, "1 added (e.png); 1 missing (c\n.png); 1 changed (a b.png)");
        let turned = Contents(before.0.iter().rev().cloned().collect());
        assert_eq!(before.difference(&turned).as_deref(), Some("another order"));
        let message = Contents::from_text("{}\n", "data.jsonl").expect_err("no entry").to_string();
        assert!(message.starts_with("data.jsonl, line 1: expected a picture's name"), "{message}");
        let many: Vec<String> = (0..7).map(|i| format!("{i}.png")).collect();
        let many: Vec<(&str, u64, u32)> = many.iter().map(|name| (name.as_str(), 1, 1)).collect();
        let told = contents(&[]).difference(&contents(&many)).expect("a difference");
        assert_eq!(told, "7 added (0.png, 1.png, 2.png, 3.png, 4.png, ...)");
    }
}
