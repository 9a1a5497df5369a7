//! Values of a comparison as JSON, and where two of them differ.

use serde::Serialize;

/// A value as JSON. It is parsed from text, because a second serialiser for the large types here would add
/// seconds to every build.
pub(super) fn json(value: &impl Serialize) -> serde_json::Value {
    serde_json::from_str(&text(value)).expect("it was just written")
}

/// A value's JSON text.
pub(super) fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("numbers and text become JSON")
}

/// The first difference between two JSON values below the key `at`: its key, the value in `a` and the value
/// in `b`.
pub(super) fn first_difference(
    at: &str,
    a: &serde_json::Value,
    b: &serde_json::Value,
) -> Option<(String, String, String)> {
    match (a, b) {
        (serde_json::Value::Object(a), serde_json::Value::Object(b)) => {
            let null = serde_json::Value::Null;
            let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
            keys.into_iter().find_map(|key| {
                let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                first_difference(&at, a.get(key).unwrap_or(&null), b.get(key).unwrap_or(&null))
            })
        }
        _ if a == b => None,
        _ => Some((at.to_owned(), a.to_string(), b.to_string())),
    }
}
