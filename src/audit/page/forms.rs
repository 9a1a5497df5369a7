//! The slides' misprints as they are printed and as they should be.

/// A misprint in LaTeX.
pub(super) struct Forms {
    /// The equation.
    id: &'static str,
    /// The words of [`crate::audit::Misprint::printed`].
    words: &'static str,
    /// As the slides print it.
    pub printed: &'static str,
    /// As it is implemented.
    pub right: &'static str,
}

/// The forms of a misprint.
pub(super) fn of(id: &str, words: &str) -> Option<&'static Forms> {
    FORMS.iter().find(|forms| forms.id == id && forms.words == words)
}

const MEAN: &str = r"\tilde\mu_t = \frac{\sqrt{\alpha_t}}{\beta_t}\, x_t +
    \frac{\sqrt{\bar\alpha_{t-1}}}{1-\bar\alpha_{t-1}}\, x_0";

const FORMS: &[Forms] = &[
    Forms {
        id: "eq01",
        words: "the variable of the density as x_{t-1}",
        printed: r"\mathcal N\left(x_{t-1}; \sqrt{1-\beta_t}\, x_{t-1}, \beta_t I\right)",
        right: r"\mathcal N\left(x_t; \sqrt{1-\beta_t}\, x_{t-1}, \beta_t I\right)",
    },
    Forms {
        id: "eq04",
        words: "as if it were exactly Gaussian",
        printed: r"q(x_{t-1} \mid x_t) = \mathcal N(x_{t-1}; \mu, \sigma^2 I)",
        right: r"q(x_{t-1} \mid x_t) = \frac{q(x_t \mid x_{t-1})\, q(x_{t-1})}{q(x_t)}",
    },
    Forms {
        id: "eq06",
        words: "the variance of q, barred: 1 - abar_t",
        printed: r"\Sigma_\theta = (1-\bar\alpha_t) I",
        right: r"\Sigma_\theta = \sigma_t^2 I",
    },
    Forms {
        id: "eq09",
        words: "without the factor beta~_t, and singular at t = 1",
        printed: MEAN,
        right: r"\tilde\mu_t = \tilde\beta_t \left( \frac{\sqrt{\alpha_t}}{\beta_t}\, x_t +
            \frac{\sqrt{\bar\alpha_{t-1}}}{1-\bar\alpha_{t-1}}\, x_0 \right)",
    },
    Forms {
        id: "eq11",
        words: "without the factor beta~_t, and singular at t = 1",
        printed: MEAN,
        right: r"\tilde\mu_t = \frac{\sqrt{\alpha_t}(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}\, x_t +
            \frac{\sqrt{\bar\alpha_{t-1}}\, \beta_t}{1-\bar\alpha_t}\, x_0",
    },
    Forms {
        id: "eq14",
        words: "sigma_t I for the covariance",
        printed: r"\mathcal N(x_{t-1}; \mu_\theta, \sigma_t I)",
        right: r"\mathcal N(x_{t-1}; \mu_\theta, \sigma_t^2 I)",
    },
    Forms {
        id: "eq15",
        words: "eps for z",
        printed: r"x_{t-1} = \mu_\theta(x_t, t) + \sigma_t \varepsilon",
        right: r"x_{t-1} = \mu_\theta(x_t, t) + \sigma_t z, \quad z \sim \mathcal N(0, I)",
    },
    Forms {
        id: "eq15",
        words: "not that z is 0 at t = 1",
        printed: r"x_0 = \mu_\theta(x_1, 1) + \sigma_1 z",
        right: r"x_0 = \mu_\theta(x_1, 1)",
    },
    Forms {
        id: "eq17",
        words: "the middle terms as L_t, with t ending at T - 1",
        printed: r"L = L_T + \sum_{t=2}^{T-1} L_t + L_0",
        right: r"L = L_T + \sum_{t=2}^{T} L_{t-1} + L_0",
    },
    Forms {
        id: "eq18",
        words: "no word on C_t",
        printed: r"L_{t-1} = E\left[ \frac{1}{2\sigma_t^2} \lVert \tilde\mu_t - \mu_\theta \rVert^2 \right]",
        right: r"L_{t-1} = E\left[ \frac{1}{2\sigma_t^2} \lVert \tilde\mu_t - \mu_\theta \rVert^2 \right] +
            C_t",
    },
    Forms { id: "eq20", words: INSIDE, printed: INSIDE_PRINTED, right: INSIDE_RIGHT },
    Forms { id: "eq21", words: INSIDE, printed: INSIDE_PRINTED, right: INSIDE_RIGHT },
    Forms {
        id: "alg2",
        words: "sqrt(1 - alpha_t) for sqrt(1 - abar_t)",
        printed: r"x_t - \frac{1-\alpha_t}{\sqrt{1-\alpha_t}}\, \varepsilon_\theta(x_t, t)",
        right: r"x_t - \frac{1-\alpha_t}{\sqrt{1-\bar\alpha_t}}\, \varepsilon_\theta(x_t, t)",
    },
    Forms {
        id: "alg2",
        words: "eps where z is meant",
        printed: r"x_{t-1} = \mu_\theta(x_t, t) + \sigma_t \varepsilon",
        right: r"x_{t-1} = \mu_\theta(x_t, t) + \sigma_t z",
    },
    Forms {
        id: "eq25",
        words: "the last component with w_1 for w_m",
        printed: r"\left( e^{w_1^\top x / d^{1/4}}, \dots, e^{w_1^\top x / d^{1/4}} \right)",
        right: r"\left( e^{w_1^\top x / d^{1/4}}, \dots, e^{w_m^\top x / d^{1/4}} \right)",
    },
];

const INSIDE: &str = "sqrt(alpha_t) x_0 inside eps_theta";
const INSIDE_PRINTED: &str =
    r"\varepsilon_\theta\left( \sqrt{\alpha_t}\, x_0 + \sqrt{1-\bar\alpha_t}\, \varepsilon, t \right)";
const INSIDE_RIGHT: &str =
    r"\varepsilon_\theta\left( \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1-\bar\alpha_t}\, \varepsilon, t \right)";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::misprints;

    #[test]
    fn every_misprint_has_its_forms_and_no_other() {
        let all = misprints::all();
        for misprint in &all {
            let forms = of(misprint.id, misprint.printed);
            assert!(forms.is_some(), "{}: {}", misprint.id, misprint.printed);
        }
        assert_eq!(all.len(), FORMS.len());
    }
}
