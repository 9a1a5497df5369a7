//! The functions' texts as this build has them.

/// The files of [`crate::equations`], by their paths below `src/`.
macro_rules! files {
    ($($path:literal)*) => { &[$(($path, include_str!(concat!("../../", $path)))),*] };
}

const FILES: &[(&str, &str)] = files! {
    "equations/algorithms.rs" "equations/attention.rs" "equations/bound.rs" "equations/edit.rs"
    "equations/features.rs" "equations/forward.rs" "equations/guidance.rs" "equations/kernel.rs"
    "equations/loss.rs" "equations/objective/learned.rs" "equations/objective/loss.rs"
    "equations/objective/target.rs" "equations/objective/timesteps.rs" "equations/objective/variance.rs"
    "equations/objective/weight.rs" "equations/posterior.rs" "equations/reverse.rs"
    "equations/solver/dpm_solver.rs" "equations/solver/inverse.rs" "equations/solver/ladder.rs"
    "equations/solver/limit.rs" "equations/solver/single.rs" "equations/solver/step.rs"
    "equations/solver/uni_pc.rs"
};

/// A function's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// Its file, from the repository's root.
    pub file: String,
    /// The line of its first comment or attribute.
    pub line: usize,
    /// Its comments, attributes and body, not indented.
    pub text: String,
}

/// The function of this name; `None` if no file has it. Names of equations' functions are unique.
pub(super) fn of(name: &str) -> Option<Source> {
    FILES.iter().find_map(|(path, text)| {
        let lines: Vec<&str> = text.lines().collect();
        let at = lines.iter().position(|line| declares(line, name))?;
        let indent = &lines[at][..lines[at].len() - lines[at].trim_start().len()];
        let belongs = |line: &&str| {
            let line = line.trim_start();
            line.starts_with("///") || line.starts_with("#[")
        };
        let begin = at - lines[..at].iter().rev().take_while(|line| belongs(line)).count();
        // The formatter ends every function by a brace on a line of its own.
        let end = at + lines[at..].iter().position(|line| *line == format!("{indent}}}"))?;
        let text: Vec<&str> =
            lines[begin..=end].iter().map(|line| line.strip_prefix(indent).unwrap_or(line)).collect();
        Some(Source { file: format!("src/{path}"), line: begin + 1, text: text.join("\n") })
    })
}

/// Whether a line declares the function `name` for others to call.
fn declares(line: &str, name: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("pub")
        && line
            .split_once("fn ")
            .is_some_and(|(_, rest)| rest.strip_prefix(name).is_some_and(|rest| rest.starts_with(['(', '<'])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::equations::{ANNEX, INDEX};

    #[test]
    fn every_function_of_the_index_is_found_whole() {
        for equation in INDEX.iter().chain(&ANNEX) {
            let name = equation.function.rsplit("::").next().unwrap();
            let source = of(name).unwrap_or_else(|| panic!("{}: no file has it", equation.function));
            let text = &source.text;
            assert!(text.starts_with("///") && text.ends_with("\n}"), "{}:\n{text}", equation.function);
            assert!(text.contains(&format!("fn {name}")), "{}", equation.function);
            let count = |c: &str| text.matches(c).count();
            assert_eq!(count("{"), count("}"), "{}:\n{text}", equation.function);
            assert_eq!(count("\nfn ") + count("\npub fn ") + count("\npub(super) fn "), 1, "{text}");
        }
        assert_eq!(of("no_such_function"), None);
    }

    #[test]
    fn no_name_is_declared_twice() {
        for equation in INDEX.iter().chain(&ANNEX) {
            let name = equation.function.rsplit("::").next().unwrap();
            let lines = FILES.iter().flat_map(|(_, text)| text.lines());
            assert_eq!(lines.filter(|line| declares(line, name)).count(), 1, "{name}");
        }
    }

    #[test]
    fn what_is_shown_is_the_file() {
        let source = of("eq09_posterior_mean").unwrap();
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(&source.file);
        let text = std::fs::read_to_string(file).unwrap();
        assert!(text.contains(&source.text));
        assert_eq!(text.lines().nth(source.line - 1), source.text.lines().next());
    }
}
