//! Formulas: LaTeX as it is written, MathML as browsers show it.

use super::html::escape;
use pulldown_latex::config::{DisplayMode, RenderConfig};
use pulldown_latex::mathml::push_mathml;
use pulldown_latex::{Parser, Storage};

/// A formula in a line of text.
pub(crate) fn inline(tex: &str) -> String {
    mathml(tex, DisplayMode::Inline)
}

/// A formula on a line of its own.
pub(crate) fn display(tex: &str) -> String {
    mathml(tex, DisplayMode::Block)
}

/// The formula as MathML; what is no LaTeX is shown as it is written.
fn mathml(tex: &str, display_mode: DisplayMode) -> String {
    let storage = Storage::new();
    let mut html = String::new();
    let config = RenderConfig { display_mode, ..RenderConfig::default() };
    match push_mathml(&mut html, Parser::new(tex, &storage), config) {
        Ok(()) if !html.contains("<merror") => repaired(html),
        _ => format!("<code>{}</code>", escape(tex)),
    }
}

/// What the converter writes otherwise than browsers show well: accents and operators that are marked as
/// letters, the micro sign for mu, and a bare less-than sign. Accents are not marked as such: fonts without
/// tables for mathematics would have them run into their letters.
fn repaired(mut html: String) -> String {
    for accent in ["~", "‾", "^"] {
        let operator = format!("<mo stretchy=\"false\">{}</mo></mover>", accent.replace('‾', "\u{af}"));
        html = html.replace(&format!("<mi>{accent}</mi></mover>"), &operator);
    }
    for operator in ["−", "…", "+"] {
        html = html.replace(&format!("<mi>{operator}</mi>"), &format!("<mo>{operator}</mo>"));
    }
    html.replace('\u{b5}', "\u{3bc}").replace("<mo><</mo>", "<mo>&lt;</mo>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_become_mathml() {
        let html = display(r"\tilde\mu_t = \frac{\sqrt{\bar\alpha_t}}{D^{-1}}");
        for part in ["display=\"block\"", "<mover><mi>\u{3bc}</mi><mo", "<mfrac>", "<msqrt>"] {
            assert!(html.contains(part), "{part} in {html}");
        }
        assert!(html.contains("<mo>\u{2212}</mo>") && !html.contains("<mi>\u{2212}"), "{html}");
        assert!(inline("a < b").contains("<mo>&lt;</mo>"));
        assert!(inline("x_t").starts_with("<math"), "{}", inline("x_t"));
    }

    #[test]
    fn what_is_no_latex_is_shown_as_it_is_written() {
        assert_eq!(inline(r"\nothing<"), r"<code>\nothing&lt;</code>");
    }
}
