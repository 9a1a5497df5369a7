//! The index: where each equation is, what it says, and what the slides print where they are wrong.

/// One numbered equation or algorithm of the slides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Equation {
    /// `eq01` .. `eq26`, `alg1`, `alg2`, and the annexes' own numbers: the prefix of its functions and tests,
    /// and the filter of `cargo test`.
    pub id: &'static str,
    /// What it is, in a few words.
    pub title: &'static str,
    /// The equation as it is implemented, in plain text.
    pub statement: &'static str,
    /// What it says, in a sentence; what stands between dollars is LaTeX.
    pub says: &'static str,
    /// The same in LaTeX, a line for each line of a display.
    pub tex: &'static [&'static str],
    /// The function to read first, as a path in this crate.
    pub function: &'static str,
    /// The paper, section and equation that it comes from.
    pub source: &'static str,
    /// What the slides print where that differs from the statement.
    pub misprint: Option<&'static str>,
}

/// An id as it is read: (9), Algorithm 1, (S7).
pub fn label(id: &str) -> String {
    let letters = id.trim_end_matches(char::is_numeric);
    let number = id[letters.len()..].trim_start_matches('0');
    match letters {
        "alg" => format!("Algorithm {number}"),
        "eq" => format!("({number})"),
        annex => format!("({}{number})", annex.to_uppercase()),
    }
}

/// Every equation of the slides "Performers-backed Denoising Diffusion Probabilistic Models" (Pisa, October
/// 2022), in their order and under their numbers.
pub const INDEX: [Equation; 28] = [
    Equation {
        id: "eq01",
        title: "one step of the forward process",
        statement: "q(x_t | x_{t-1}) = N(x_t; sqrt(1 - beta_t) x_{t-1}, beta_t I)",
        says: "Noise is added in small steps: given $x_{t-1}$, the next image is Gaussian around a \
            slightly shrunk copy of it.",
        tex: &[r"q(x_t \mid x_{t-1}) = \mathcal N\left(x_t; \sqrt{1-\beta_t}\, x_{t-1}, \beta_t I\right)"],
        function: "equations::forward::eq01_log_q",
        source: "Ho et al. 2020, section 2, equation 2",
        misprint: Some("the variable of the density as x_{t-1}"),
    },
    Equation {
        id: "eq02",
        title: "a draw from one forward step",
        statement: "x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) eps, eps ~ N(0, I)",
        says: "The same step as a recipe: shrink the image a little and add a little noise.",
        tex: &[r"x_t = \sqrt{1-\beta_t}\, x_{t-1} + \sqrt{\beta_t}\, \varepsilon, \quad \varepsilon
                \sim \mathcal N(0, I)"],
        function: "equations::forward::eq02_q_step",
        source: "Ho et al. 2020, section 2",
        misprint: None,
    },
    Equation {
        id: "eq03",
        title: "a draw of x_t from x_0 at once",
        statement: "x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps; alpha_t = 1 - beta_t, abar_t = alpha_1 .. \
            alpha_t",
        says: "All $t$ steps at once: $x_t$ is a mix of the image and of one draw of noise, so training \
            can jump to any $t$.",
        tex: &[
            r"x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1-\bar\alpha_t}\, \varepsilon",
            r"\alpha_t = 1-\beta_t, \quad \bar\alpha_t = \prod_{s \le t} \alpha_s",
        ],
        function: "equations::forward::eq03_q_sample",
        source: "Ho et al. 2020, section 2, equation 4",
        misprint: None,
    },
    Equation {
        id: "eq04",
        title: "the reverse process's target",
        statement: "q(x_{t-1} | x_t) = q(x_t | x_{t-1}) q(x_{t-1}) / q(x_t); Gaussian only in the limit of \
            small beta_t",
        says: "What a sampler would have to know, by Bayes' rule; it is Gaussian only in the limit of \
            small $\\beta_t$.",
        tex: &[r"q(x_{t-1} \mid x_t) = \frac{q(x_t \mid x_{t-1})\, q(x_{t-1})}{q(x_t)}"],
        function: "equations::posterior::eq04_log_q_reverse",
        source: "Ho et al. 2020, section 2; Sohl-Dickstein et al. 2015, section 2.2",
        misprint: Some("as if it were exactly Gaussian"),
    },
    Equation {
        id: "eq05",
        title: "one step of the reverse process",
        statement: "p_theta(x_{t-1} | x_t) = N(x_{t-1}; mu_theta(x_t, t), Sigma_theta(x_t, t)), Sigma_theta \
            diagonal",
        says: "The network's step backwards is Gaussian, with a mean and variances of its own.",
        tex: &[r"p_\theta(x_{t-1} \mid x_t) = \mathcal N\left(x_{t-1}; \mu_\theta(x_t, t),
                \Sigma_\theta(x_t, t)\right)"],
        function: "equations::reverse::eq05_log_p_theta",
        source: "Ho et al. 2020, section 2, equation 1",
        misprint: None,
    },
    Equation {
        id: "eq06",
        title: "the reverse covariance",
        statement: "Sigma_theta = sigma_t^2 I",
        says: "Every pixel has the same variance, and no pixel varies with another.",
        tex: &[r"\Sigma_\theta = \sigma_t^2 I"],
        function: "equations::reverse::eq06_sigma_theta",
        source: "Ho et al. 2020, section 3.2",
        misprint: Some("the variance of q, barred: 1 - abar_t"),
    },
    Equation {
        id: "eq07",
        title: "the reverse variance",
        statement: "sigma_t^2 = (1 - abar_{t-1})/(1 - abar_t) beta_t, or sigma_t^2 = beta_t",
        says: "The variance is that of the posterior (10); the paper also allows $\\beta_t$, and both can \
            be chosen.",
        tex: &[r"\sigma_t^2 = \frac{1-\bar\alpha_{t-1}}{1-\bar\alpha_t}\, \beta_t \quad \text{or} \quad
                \sigma_t^2 = \beta_t"],
        function: "equations::reverse::eq07_sigma2",
        source: "Ho et al. 2020, section 3.2",
        misprint: None,
    },
    Equation {
        id: "eq08",
        title: "the forward process's posterior",
        statement: "q(x_{t-1} | x_t, x_0) = N(x_{t-1}; mu~_t(x_t, x_0), beta~_t I)",
        says: "Once $x_0$ is known too, the way back is exactly Gaussian.",
        tex: &[r"q(x_{t-1} \mid x_t, x_0) = \mathcal N\left(x_{t-1}; \tilde\mu_t(x_t, x_0),
                \tilde\beta_t I\right)"],
        function: "equations::posterior::eq08_log_q_posterior",
        source: "Ho et al. 2020, section 2, equation 6",
        misprint: None,
    },
    Equation {
        id: "eq09",
        title: "the posterior's mean, by precisions",
        statement: "mu~_t(x_t, x_0) = beta~_t ( sqrt(alpha_t)/beta_t x_t + sqrt(abar_{t-1})/(1 - abar_{t-1}) \
            x_0 ); x_0 at t = 1",
        says: "The posterior's mean weighs $x_t$ and $x_0$ by how precisely each of them tells $x_{t-1}$; \
            at $t = 1$ it is $x_0$.",
        tex: &[r"\tilde\mu_t(x_t, x_0) = \tilde\beta_t \left( \frac{\sqrt{\alpha_t}}{\beta_t}\, x_t +
                \frac{\sqrt{\bar\alpha_{t-1}}}{1-\bar\alpha_{t-1}}\, x_0 \right)"],
        function: "equations::posterior::eq09_posterior_mean",
        source: "Ho et al. 2020, section 2, equation 7, before it is simplified",
        misprint: Some("without the factor beta~_t, and singular at t = 1"),
    },
    Equation {
        id: "eq10",
        title: "the posterior's variance",
        statement: "beta~_t = (1 - abar_{t-1})/(1 - abar_t) beta_t",
        says: "The posterior's variance: smaller than $\\beta_t$, because $x_0$ is known, and 0 at $t = \
            1$.",
        tex: &[r"\tilde\beta_t = \frac{1-\bar\alpha_{t-1}}{1-\bar\alpha_t}\, \beta_t"],
        function: "equations::posterior::eq10_posterior_variance",
        source: "Ho et al. 2020, section 2, equation 7",
        misprint: None,
    },
    Equation {
        id: "eq11",
        title: "the posterior's mean, simplified",
        statement: "mu~_t(x_t, x_0) = sqrt(alpha_t)(1 - abar_{t-1})/(1 - abar_t) x_t + sqrt(abar_{t-1}) \
            beta_t/(1 - abar_t) x_0; x_0 at t = 1",
        says: "The same mean as (9), multiplied out, which is regular at $t = 1$.",
        tex: &[r"\tilde\mu_t(x_t, x_0) = \frac{\sqrt{\alpha_t}(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}\,
                x_t + \frac{\sqrt{\bar\alpha_{t-1}}\, \beta_t}{1-\bar\alpha_t}\, x_0"],
        function: "equations::posterior::eq11_posterior_mean",
        source: "Ho et al. 2020, section 2, equation 7",
        misprint: Some(
            "without the factor beta~_t: sqrt(alpha_t)/beta_t x_t + sqrt(abar_{t-1})/(1 - abar_{t-1}) x_0",
        ),
    },
    Equation {
        id: "eq12",
        title: "the posterior's mean from the noise",
        statement: "mu~_t(x_t) = 1/sqrt(alpha_t) ( x_t - (1 - alpha_t)/sqrt(1 - abar_t) eps_t )",
        says: "The same mean again with $x_0$ solved from (3): what is left to know is the noise.",
        tex: &[r"\tilde\mu_t(x_t) = \frac{1}{\sqrt{\alpha_t}} \left( x_t -
                \frac{1-\alpha_t}{\sqrt{1-\bar\alpha_t}}\, \varepsilon_t \right)"],
        function: "equations::posterior::eq12_posterior_mean",
        source: "Ho et al. 2020, section 3.2, equation 10",
        misprint: None,
    },
    Equation {
        id: "eq13",
        title: "the reverse mean from the predicted noise",
        statement: "mu_theta(x_t, t) = 1/sqrt(alpha_t) ( x_t - (1 - alpha_t)/sqrt(1 - abar_t) eps_theta(x_t, \
            t) ); with clipping, (11) at the clipped x_0",
        says: "The network's mean is (12) with the noise that it predicts; with clipping, (11) at the \
            $x_0$ cut to $[-1, 1]$.",
        tex: &[r"\mu_\theta(x_t, t) = \frac{1}{\sqrt{\alpha_t}} \left( x_t -
                \frac{1-\alpha_t}{\sqrt{1-\bar\alpha_t}}\, \varepsilon_\theta(x_t, t) \right)"],
        function: "equations::reverse::eq13_mu_theta",
        source: "Ho et al. 2020, section 3.2, equation 11; the clipping: their code",
        misprint: None,
    },
    Equation {
        id: "eq14",
        title: "the reverse step with its mean and variance",
        statement: "p_theta(x_{t-1} | x_t) = N(x_{t-1}; mu_theta(x_t, t), sigma_t^2 I)",
        says: "(5) with the mean (13) and the variance (7).",
        tex: &[r"p_\theta(x_{t-1} \mid x_t) = \mathcal N\left(x_{t-1}; \mu_\theta(x_t, t), \sigma_t^2
                I\right)"],
        function: "equations::reverse::eq14_log_p_theta",
        source: "Ho et al. 2020, section 3.2",
        misprint: Some("sigma_t I for the covariance"),
    },
    Equation {
        id: "eq15",
        title: "a draw from one reverse step",
        statement: "x_{t-1} = mu_theta(x_t, t) + sigma_t z, z ~ N(0, I), z = 0 at t = 1",
        says: "One step of sampling: go to the predicted mean and add fresh noise, but none in the last \
            step.",
        tex: &[
            r"x_{t-1} = \mu_\theta(x_t, t) + \sigma_t z, \quad z \sim \mathcal N(0, I)",
            r"z = 0 \quad \text{at } t = 1",
        ],
        function: "equations::reverse::eq15_step",
        source: "Ho et al. 2020, section 3.2 and Algorithm 2",
        misprint: Some("eps for z, and not that it is 0 at t = 1"),
    },
    Equation {
        id: "eq16",
        title: "the negative log-likelihood",
        statement: "E[-ln p_theta(x_0)], p_theta(x_0) = E_q[ p_theta(x_{0:T}) / q(x_{1:T} | x_0) ]",
        says: "How improbable the model finds a real image, on average: what one would like to make \
            small.",
        tex: &[r"E\left[-\ln p_\theta(x_0)\right], \quad p_\theta(x_0) = E_q\left[
                \frac{p_\theta(x_{0:T})}{q(x_{1:T} \mid x_0)} \right]"],
        function: "equations::bound::eq16_negative_log_likelihood",
        source: "Ho et al. 2020, section 2, equation 3",
        misprint: None,
    },
    Equation {
        id: "eq17",
        title: "the variational bound",
        statement: "(16) <= L_T + sum_{t=2..T} L_{t-1} + L_0; L_T = KL(q(x_T|x_0) || N(0, I)), L_{t-1} = \
            KL(q(x_{t-1}|x_t, x_0) || p_theta(x_{t-1}|x_t)), L_0 = -ln p_theta(x_0|x_1) on 256 levels",
        says: "The bound on (16): one term for the start of sampling, one for each step, and one for the \
            last pixels' rounding.",
        tex: &[
            r"E\left[-\ln p_\theta(x_0)\right] \le L_T + \sum_{t=2}^{T} L_{t-1} + L_0",
            r"L_T = \operatorname{KL}\left(q(x_T \mid x_0) \parallel \mathcal N(0, I)\right)",
            r"L_{t-1} = \operatorname{KL}\left(q(x_{t-1} \mid x_t, x_0) \parallel p_\theta(x_{t-1}
                \mid x_t)\right)",
            r"L_0 = -\ln p_\theta(x_0 \mid x_1) \quad \text{on 256 levels}",
        ],
        function: "equations::bound::eq17_bound",
        source: "Ho et al. 2020, section 2, equation 5; L_0: section 3.3, equation 13",
        misprint: Some("the middle terms as L_t, with t ending at T - 1"),
    },
    Equation {
        id: "eq18",
        title: "a middle term by the distance of the means",
        statement: "L_{t-1} - C_t = E[ ||mu~_t - mu_theta||^2 / (2 sigma_t^2) ], C_t = D/2 ( \
            beta~_t/sigma_t^2 - 1 + ln(sigma_t^2/beta~_t) ), t >= 2",
        says: "A term of the bound is the squared distance of the two means, and a constant that no \
            network changes.",
        tex: &[
            r"L_{t-1} - C_t = E\left[ \frac{1}{2\sigma_t^2} \lVert \tilde\mu_t - \mu_\theta \rVert^2
                \right], \quad t \ge 2",
            r"C_t = \frac{D}{2} \left( \frac{\tilde\beta_t}{\sigma_t^2} - 1 +
                \ln\frac{\sigma_t^2}{\tilde\beta_t} \right)",
        ],
        function: "equations::bound::eq18_mean_distance",
        source: "Ho et al. 2020, section 3.2, equation 8",
        misprint: Some("no word on C_t, which is part of the bound unless sigma_t^2 = beta~_t"),
    },
    Equation {
        id: "eq19",
        title: "a middle term by both means' formulas",
        statement: "(18) with (12) for mu~_t and (13) for mu_theta",
        says: "(18) with the formulas (12) and (13) for the two means.",
        tex: &[r"E\left[ \frac{1}{2\sigma_t^2} \left\lVert \frac{1}{\sqrt{\alpha_t}} \left( x_t -
                \tfrac{1-\alpha_t}{\sqrt{1-\bar\alpha_t}}\, \varepsilon_t \right) - \mu_\theta(x_t, t)
                \right\rVert^2 \right]"],
        function: "equations::bound::eq19_mean_distance",
        source: "Ho et al. 2020, section 3.2, equations 9 and 10",
        misprint: None,
    },
    Equation {
        id: "eq20",
        title: "a middle term by the distance of the noises",
        statement: "E[ (1 - alpha_t)^2 / (2 alpha_t (1 - abar_t) sigma_t^2) ||eps - eps_theta( sqrt(abar_t) \
            x_0 + sqrt(1 - abar_t) eps, t )||^2 ]",
        says: "The same distance in terms of noise: the network has to guess the noise that was added.",
        tex: &[
            r"E\left[ \frac{(1-\alpha_t)^2}{2 \alpha_t (1-\bar\alpha_t) \sigma_t^2} \lVert
                \varepsilon - \varepsilon_\theta(x_t, t) \rVert^2 \right]",
            r"x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1-\bar\alpha_t}\, \varepsilon",
        ],
        function: "equations::bound::eq20_noise_distance",
        source: "Ho et al. 2020, section 3.2, equation 12",
        misprint: Some("sqrt(alpha_t) x_0 inside eps_theta"),
    },
    Equation {
        id: "eq21",
        title: "the loss that is trained on",
        statement: "L_simple = E[ ||eps - eps_theta( sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, t )||^2 ], a \
            mean over C, H, W",
        says: "The loss that is trained on: (20) without its weight, as a mean over channels and pixels.",
        tex: &[
            r"L_{\text{simple}} = E\left[ \lVert \varepsilon - \varepsilon_\theta(x_t, t) \rVert^2 \right]",
            r"x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1-\bar\alpha_t}\, \varepsilon",
        ],
        function: "equations::loss::eq21_l_simple",
        source: "Ho et al. 2020, section 3.4, equation 14",
        misprint: Some("sqrt(alpha_t) x_0 inside eps_theta"),
    },
    Equation {
        id: "eq22",
        title: "attention",
        statement: "Att(Q, K, V) = D^-1 A V, A = exp(Q K^T / sqrt(d)), D = diag(A 1_L); cost O(L^2 d)",
        says: "Every pixel's output is a mean of all values, weighed by how well its query fits their \
            keys; the cost is $O(L^2 d)$.",
        tex: &[
            r"\operatorname{Att}(Q, K, V) = D^{-1} A V",
            r"A = \exp\left( \frac{Q K^\top}{\sqrt d} \right), \quad D = \operatorname{diag}(A 1_L)",
        ],
        function: "equations::attention::eq22_attention",
        source: "Choromanski et al. 2021, section 2.1, equation 1",
        misprint: None,
    },
    Equation {
        id: "eq23",
        title: "a kernel as a mean over random features",
        statement: "K(x, y) = E[ phi(x)^T phi(y) ]",
        says: "A kernel is the mean of a product of random features: that is what makes attention linear.",
        tex: &[r"K(x, y) = E\left[ \phi(x)^\top \phi(y) \right]"],
        function: "equations::kernel::eq23_kernel",
        source: "Choromanski et al. 2021, section 2.2, equation 3",
        misprint: None,
    },
    Equation {
        id: "eq24",
        title: "random features",
        statement: "phi(x) = h(x)/sqrt(m) ( f_1(w_1^T x), .., f_1(w_m^T x), .., f_l(w_1^T x), .., f_l(w_m^T \
            x) ), w_i orthogonal",
        says: "The general form of the features: functions of projections on random directions, which are \
            orthogonal.",
        tex: &[
            r"\phi(x) = \frac{h(x)}{\sqrt m} \left( f_1(w_1^\top x), \dots, f_1(w_m^\top x), \dots,
                \right.",
            r"\left. \qquad f_l(w_1^\top x), \dots, f_l(w_m^\top x) \right)",
        ],
        function: "equations::features::eq24_features",
        source: "Choromanski et al. 2021, section 2.3, equation 5; orthogonality: section 2.4",
        misprint: None,
    },
    Equation {
        id: "eq25",
        title: "positive features of attention's kernel",
        statement: "phi(x) = 1/sqrt(m) exp( -||x||^2/(2 sqrt(d)) ) ( exp(w_1^T x/d^(1/4)), .., exp(w_m^T \
            x/d^(1/4)) )",
        says: "FAVOR+'s features are exponentials, so that every estimate of a weight is positive.",
        tex: &[r"\phi(x) = \frac{1}{\sqrt m}\, e^{-\lVert x \rVert^2 / (2 \sqrt d)} \left( e^{w_1^\top
                x / d^{1/4}}, \dots, e^{w_m^\top x / d^{1/4}} \right)"],
        function: "equations::features::eq25_positive_features",
        source: "Choromanski et al. 2021, section 2.3, Lemma 1",
        misprint: Some("the last component with w_1 for w_m"),
    },
    Equation {
        id: "eq26",
        title: "linear attention",
        statement: "Att^(Q, K, V) = D^^-1 ( Q' ((K')^T V) ), Q' = phi(Q), K' = phi(K), D^ = diag( Q' ((K')^T \
            1_L) ); cost O(L m d), O(L d^2 log d) at m = d log d",
        says: "Attention from features: the products are taken from the right, so that no $L \\times L$ \
            matrix is ever formed; the cost is $O(L m d)$.",
        tex: &[
            r"\widehat{\operatorname{Att}}(Q, K, V) = \hat D^{-1} \left( Q^\prime \left(
                (K^\prime)^\top V \right) \right)",
            r"Q^\prime = \phi(Q), \quad K^\prime = \phi(K)",
            r"\hat D = \operatorname{diag}\left( Q^\prime \left( (K^\prime)^\top 1_L \right) \right)",
        ],
        function: "equations::attention::eq26_linear_attention",
        source: "Choromanski et al. 2021, section 2.2, equation 4",
        misprint: None,
    },
    Equation {
        id: "alg1",
        title: "training",
        statement: "x_0 ~ q, t ~ Uniform{1..T}, eps ~ N(0, I), gradient step on (21)",
        says: "Training draws an image, a timestep and noise, and takes a gradient step on (21).",
        tex: &[
            r"x_0 \sim q(x_0), \quad t \sim \operatorname{Uniform}\{1, \dots, T\}, \quad \varepsilon
                \sim \mathcal N(0, I)",
            r"\text{gradient step on } \nabla_\theta \lVert \varepsilon -
                \varepsilon_\theta(\sqrt{\bar\alpha_t}\, x_0 + \sqrt{1-\bar\alpha_t}\, \varepsilon, t)
                \rVert^2",
        ],
        function: "equations::algorithms::alg1_draw",
        source: "Ho et al. 2020, Algorithm 1",
        misprint: None,
    },
    Equation {
        id: "alg2",
        title: "sampling",
        statement: "x_T ~ N(0, I); for t = T..1: z ~ N(0, I) if t > 1 else 0, x_{t-1} by (15); return x_0",
        says: "Sampling starts from noise and takes the step (15) for $t = T$ down to 1.",
        tex: &[
            r"x_T \sim \mathcal N(0, I)",
            r"\text{for } t = T, \dots, 1: \quad z \sim \mathcal N(0, I) \text{ if } t > 1, \text{
                else } 0",
            r"\qquad x_{t-1} = \frac{1}{\sqrt{\alpha_t}} \left( x_t -
                \frac{1-\alpha_t}{\sqrt{1-\bar\alpha_t}}\, \varepsilon_\theta(x_t, t) \right) +
                \sigma_t z",
            r"\text{return } x_0",
        ],
        function: "equations::algorithms::alg2_sample",
        source: "Ho et al. 2020, Algorithm 2",
        misprint: Some("sqrt(1 - alpha_t) for sqrt(1 - abar_t), and eps where z is meant"),
    },
];
