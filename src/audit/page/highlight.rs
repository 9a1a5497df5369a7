//! Rust in colours, by its tokens alone.

use crate::output::html::escape;

/// The classes of tokens that have a colour; the others have none.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Comment,
    Text,
    Number,
    Keyword,
    Type,
    Function,
    Plain,
}

impl Kind {
    fn class(self) -> Option<&'static str> {
        match self {
            Kind::Comment => Some("c"),
            Kind::Text => Some("s"),
            Kind::Number => Some("n"),
            Kind::Keyword => Some("k"),
            Kind::Type => Some("t"),
            Kind::Function => Some("f"),
            Kind::Plain => None,
        }
    }
}

const KEYWORDS: [&str; 29] = [
    "as", "break", "const", "continue", "crate", "dyn", "else", "enum", "false", "fn", "for", "if", "impl",
    "in", "let", "loop", "match", "mod", "move", "mut", "pub", "ref", "return", "self", "struct", "super",
    "true", "use", "where",
];

/// The code as HTML. `link` gives the address of what an identifier names, where the page has it.
pub(super) fn highlight(code: &str, link: impl Fn(&str) -> Option<String>) -> String {
    let mut html = String::new();
    let mut rest = code;
    while !rest.is_empty() {
        let (len, kind) = token(rest);
        let (text, after) = rest.split_at(len);
        rest = after;
        let shown = escape(text);
        let shown = match kind {
            Kind::Function | Kind::Plain => match link(text) {
                Some(address) => format!("<a href=\"{address}\">{shown}</a>"),
                None => shown,
            },
            _ => shown,
        };
        match kind.class() {
            Some(class) => html += &format!("<span class=\"{class}\">{shown}</span>"),
            None => html += &shown,
        }
    }
    html
}

/// The length and the kind of the token at the beginning of a text that is not empty.
fn token(rest: &str) -> (usize, Kind) {
    let first = rest.chars().next().unwrap_or(' ');
    let length = |keep: fn(char) -> bool| rest.find(|c| !keep(c)).unwrap_or(rest.len());
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    if rest.starts_with("//") {
        return (rest.find('\n').unwrap_or(rest.len()), Kind::Comment);
    }
    match first {
        '"' => (text_length(rest), Kind::Text),
        '\'' => match rest.chars().nth(1) {
            Some('\\') => (rest[2..].find('\'').map_or(rest.len(), |end| end + 3), Kind::Text),
            Some(c) if rest[1 + c.len_utf8()..].starts_with('\'') => (2 + c.len_utf8(), Kind::Text),
            // A lifetime.
            _ => (1 + rest[1..].find(|c| !in_word(c)).unwrap_or(rest.len() - 1), Kind::Type),
        },
        c if c.is_ascii_digit() => (number_length(rest), Kind::Number),
        c if in_word(c) => {
            let len = length(|c| c.is_alphanumeric() || c == '_');
            let kind = match &rest[..len] {
                word if KEYWORDS.contains(&word) => Kind::Keyword,
                _ if first.is_uppercase() => Kind::Type,
                _ if rest[len..].starts_with(['(', '<']) => Kind::Function,
                _ => Kind::Plain,
            };
            (len, kind)
        }
        c if c.is_whitespace() => (length(char::is_whitespace), Kind::Plain),
        c => (c.len_utf8(), Kind::Plain),
    }
}

/// The length of the quoted text at the beginning, its quotes included.
fn text_length(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// The length of the number at the beginning: `0..m` begins with 0, `1e-12` is one number.
fn number_length(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let next_is_digit = bytes.get(at + 1).is_some_and(u8::is_ascii_digit);
        let goes_on = match byte {
            b'.' => next_is_digit,
            b'-' => next_is_digit && matches!(bytes.get(at.wrapping_sub(1)), Some(b'e' | b'E')),
            _ => byte.is_ascii_alphanumeric() || byte == b'_',
        };
        if !goes_on {
            break;
        }
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(code: &str) -> Vec<(&str, Option<&'static str>)> {
        let mut found = Vec::new();
        let mut rest = code;
        while !rest.is_empty() {
            let (len, kind) = token(rest);
            found.push((&rest[..len], kind.class()));
            rest = &rest[len..];
        }
        found.into_iter().filter(|(text, _)| !text.trim().is_empty()).collect()
    }

    #[test]
    fn tokens_are_what_rust_takes_them_for() {
        let (c, s, n, k, t, f) = (Some("c"), Some("s"), Some("n"), Some("k"), Some("t"), Some("f"));
        assert_eq!(
            tokens("let x: f64 = 1e-12; // a \"b\"\n"),
            [
                ("let", k),
                ("x", None),
                (":", None),
                ("f64", None),
                ("=", None),
                ("1e-12", n),
                (";", None),
                ("// a \"b\"", c)
            ]
        );
        assert_eq!(
            tokens("0..m 2.5 g(\"a\\\"b\") 'x' '\\n' &'a T"),
            [
                ("0", n),
                (".", None),
                (".", None),
                ("m", None),
                ("2.5", n),
                ("g", f),
                ("(", None),
                ("\"a\\\"b\"", s),
                (")", None),
                ("'x'", s),
                ("'\\n'", s),
                ("&", None),
                ("'a", t),
                ("T", t)
            ]
        );
        for odd in ["\"open", "'", "'\\", "é'", "1.", "//", "a-"] {
            assert_eq!(tokens(odd).concat_texts(), odd);
        }
    }

    trait Texts {
        fn concat_texts(&self) -> String;
    }

    impl Texts for Vec<(&str, Option<&'static str>)> {
        fn concat_texts(&self) -> String {
            self.iter().map(|(text, _)| *text).collect()
        }
    }

    #[test]
    fn names_are_linked_and_text_is_escaped() {
        let html = highlight("a < eq09_mean(x) // <", |name| name.strip_prefix("eq").map(|_| "#eq09".into()));
        assert_eq!(
            html,
            "a &lt; <span class=\"f\"><a href=\"#eq09\">eq09_mean</a></span>(x) \
             <span class=\"c\">// &lt;</span>"
        );
    }
}
