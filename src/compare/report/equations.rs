//! The equations of the report.

use crate::output::math;

/// An equation on a line of its own, with its number on the slides, if it has one.
fn display(tex: &str, what: &str) -> String {
    format!("<dt>{what}</dt>\n<dd class=\"equation\">{}</dd>\n", math::display(tex))
}

/// The loss that is trained and measured: equation (21).
pub(super) fn loss() -> String {
    let tex = r"L_{\text{simple}} = E \lVert \varepsilon - \varepsilon_\theta(\sqrt{\bar\alpha_t} x_0 +
        \sqrt{1-\bar\alpha_t} \varepsilon, t) \rVert^2";
    display(tex, "The loss, as its mean over pixels (21)")
}

/// The bound (17).
pub(super) fn bound() -> String {
    let tex = r"E[-\log p_\theta(x_0)] \le L_T + \sum_{t=2}^T L_{t-1} + L_0";
    display(tex, "The variational bound (17), here in bits per dimension")
}

/// The Fréchet distance of two sets of features.
pub(super) fn frechet() -> String {
    let tex = r"\lVert \mu_1 - \mu_2 \rVert^2 + \operatorname{tr}(\Sigma_1 + \Sigma_2 - 2
        \sqrt{\Sigma_1 \Sigma_2})";
    display(tex, "The Fr\u{e9}chet distance of features with means \u{3bc} and covariances \u{3a3}")
}

/// Exact attention (22).
pub(super) fn softmax() -> String {
    let tex = r"\operatorname{Att}(Q, K, V) = D^{-1} A V, \quad A = \exp\left(\frac{Q K^T}{\sqrt d}\right),
        \quad D = \operatorname{diag}(A 1_L)";
    display(tex, "Softmax attention (22)")
}

/// FAVOR+ (26) and its positive features (25).
pub(super) fn favor() -> String {
    let attention = r"\widehat{\operatorname{Att}}(Q, K, V) = \hat D^{-1} (Q^\prime ((K^\prime)^T V)),
        \quad Q^\prime = \phi(Q), \quad K^\prime = \phi(K)";
    let features = r"\phi(x) = \frac{1}{\sqrt m} e^{-\frac{\lVert x \rVert^2}{2 \sqrt d}}
        \left(e^{\frac{w_1^T x}{d^{1/4}}}, \dots, e^{\frac{w_m^T x}{d^{1/4}}}\right)";
    display(attention, "FAVOR+ attention (26)") + &display(features, "Its positive features (25)")
}

/// Operations of both, and where they are equal.
pub(super) fn break_even() -> String {
    let tex = r"4 L^2 d = 8 L m d \Rightarrow L = 2 m; \qquad 4 L^2 d = 12 L m d \Rightarrow L = 3 m";
    display(tex, "Operations of a head's forward pass: one function of the features, and two")
}

/// The relative variance of the kernel's estimate: Lemma 2 of Choromanski et al. (2021).
pub(super) fn variance() -> String {
    let tex = r"\operatorname{Var}\left[\frac{\phi(x)^T \phi(y)}{e^{x^T y}}\right] =
        \frac{e^{\lVert x + y \rVert^2} - 1}{m}";
    display(tex, "Relative variance of i.i.d. positive features (Choromanski et al. 2021, Lemma 2)")
}
