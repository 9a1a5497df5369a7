//! The index of what the slides do not have.

use super::Equation;

/// Every equation of the annexes: (G1)-(G3), how images are led to their classes, (O1)-(O8), what a network
/// may be trained on, (S1)-(S13), samplers, and (U1)-(U4), uses of a model on given images.
pub const ANNEX: [Equation; 28] = [
    Equation {
        id: "g01",
        title: "guidance by a network that is told the class and that is not",
        statement: "m^ = m + w (m_c - m), m_c the prediction for the class and m for the null class",
        says: "The prediction for a class is pushed away from the prediction for no class; $w = 1$ is no \
            push.",
        tex: &[r"\hat m = m + w\,(m_c - m)"],
        function: "equations::guidance::g01_guide",
        source: "Ho & Salimans 2022, equation 6, with w - 1 for w",
        misprint: None,
    },
    Equation {
        id: "g02",
        title: "guidance in a limited interval",
        statement: "(G1) where lo < sigma_t <= hi, sigma_t = sqrt((1 - abar_t)/abar_t); m_c elsewhere",
        says: "The push is applied only at noise levels between two bounds, where it helps.",
        tex: &[
            r"\hat m = m + w\,(m_c - m) \quad \text{where } lo < \sigma_t \le hi, \text{ else } m_c",
            r"\sigma_t = \sqrt{(1-\bar\alpha_t)/\bar\alpha_t}",
        ],
        function: "equations::guidance::Guidance::g02_applies",
        source: "Kynkaanniemi et al. 2024, the interval (sigma_lo, sigma_hi]",
        misprint: None,
    },
    Equation {
        id: "g03",
        title: "the spread of a guided prediction",
        statement: "phi (s_c/s^) m^ + (1 - phi) m^, s_c and s^ the standard deviations of m_c and m^ over an \
            image",
        says: "A guided prediction is scaled back towards the spread that the prediction for the class \
            has.",
        tex: &[r"\varphi\, \frac{s_c}{\hat s}\, \hat m + (1-\varphi)\, \hat m"],
        function: "equations::guidance::g03_rescale",
        source: "Lin et al. 2023, equations 15 and 16",
        misprint: None,
    },
    Equation {
        id: "o01",
        title: "what a network is to say",
        statement: "y = eps, or x_0, or v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0",
        says: "A network may be asked for the noise, for the image, or for a mix of both.",
        tex: &[
            r"y = \varepsilon \quad \text{or} \quad y = x_0 \quad \text{or} \quad y = v",
            r"v = \sqrt{\bar\alpha_t}\, \varepsilon - \sqrt{1-\bar\alpha_t}\, x_0",
        ],
        function: "equations::objective::o01_target",
        source: "Ho et al. 2020, section 3.2; Salimans & Ho 2022, section 4 and appendix D",
        misprint: None,
    },
    Equation {
        id: "o02",
        title: "the signal-to-noise ratio",
        statement: "snr_t = abar_t/(1 - abar_t)",
        says: "How much of the image there is in $x_t$ for each part of noise.",
        tex: &[r"\operatorname{snr}_t = \frac{\bar\alpha_t}{1-\bar\alpha_t}"],
        function: "equations::objective::o02_snr",
        source: "Kingma et al. 2021, equation 2",
        misprint: None,
    },
    Equation {
        id: "o03",
        title: "min-SNR-gamma's weight",
        statement: "w_t = min(snr_t, gamma) on |x_0 - x_0^|^2, which is min(snr_t, gamma)/snr_t on |eps - \
            eps^|^2 and min(snr_t, gamma)/(snr_t + 1) on |v - v^|^2",
        says: "Timesteps with little noise are not given more weight than a bound $\\gamma$ allows.",
        tex: &[
            r"w_t = \min(\operatorname{snr}_t, \gamma) \quad \text{on } \lVert x_0 - \hat x_0 \rVert^2",
            r"w_t = \frac{\min(\operatorname{snr}_t, \gamma)}{\operatorname{snr}_t} \quad \text{on }
                \lVert \varepsilon - \hat\varepsilon \rVert^2",
            r"w_t = \frac{\min(\operatorname{snr}_t, \gamma)}{\operatorname{snr}_t + 1} \quad
                \text{on } \lVert v - \hat v \rVert^2",
        ],
        function: "equations::objective::o03_min_snr",
        source: "Hang et al. 2023, section 3.4",
        misprint: None,
    },
    Equation {
        id: "o04",
        title: "P2's weight",
        statement: "w_t = 1/(k + snr_t)^gamma on |eps - eps^|^2, which is snr_t times that on |x_0 - \
            x_0^|^2 and snr_t/(snr_t + 1) times that on |v - v^|^2",
        says: "Timesteps at which only fine detail is left to learn are given less weight.",
        tex: &[r"w_t = \frac{1}{(k + \operatorname{snr}_t)^\gamma} \quad \text{on } \lVert \varepsilon
                - \hat\varepsilon \rVert^2"],
        function: "equations::objective::o04_p2",
        source: "Choi et al. 2022, section 3",
        misprint: None,
    },
    Equation {
        id: "o05",
        title: "a learned reverse variance",
        statement: "ln sigma_t^2 = (u + 1)/2 ln beta_t + (1 - u)/2 ln beta~_t, u the network's second \
            output; beta~_2 for beta~_1",
        says: "The network's second output $u$ says where the variance lies between $\\tilde\\beta_t$ and \
            $\\beta_t$, on a logarithmic scale.",
        tex: &[r"\ln \sigma_t^2 = \frac{u+1}{2} \ln \beta_t + \frac{1-u}{2} \ln \tilde\beta_t"],
        function: "equations::objective::o05_log_variance",
        source: "Nichol & Dhariwal 2021, section 3.1, equation 15",
        misprint: None,
    },
    Equation {
        id: "o06",
        title: "the bound's term with a learned variance",
        statement: "L_{t-1} of (17) with the mean (11) at the predicted x_0 and the variance (O5), value by \
            value; d/du is left of its gradient",
        says: "What teaches the second output: the bound's own term, whose gradient reaches the variance \
            and not the mean.",
        tex: &[r"L_{t-1} = \operatorname{KL}\left( q(x_{t-1} \mid x_t, x_0) \parallel \mathcal
                N(\tilde\mu_t(x_t, \hat x_0), \sigma_t^2(u)) \right)"],
        function: "equations::objective::LearnedRange::o06_term",
        source: "Nichol & Dhariwal 2021, section 3.1",
        misprint: None,
    },
    Equation {
        id: "o07",
        title: "the hybrid loss",
        statement: "L = E[ w_t |y - y^|^2 ], a mean over C, H, W, + 0.001 T L_vb where the variance is \
            learned, L_vb = (O6) in bits per dimension",
        says: "The whole loss: the weighed squared error, and a little of the bound where the variance is \
            learned.",
        tex: &[r"L = E\left[ w_t \lVert y - \hat y \rVert^2 \right] + 0.001\, T\, L_{\text{vb}}"],
        function: "equations::objective::Objective::o07_gradient",
        source: "Nichol & Dhariwal 2021, section 3.1, equation 16, and their code",
        misprint: None,
    },
    Equation {
        id: "o08",
        title: "timesteps from strata",
        statement: "t = floor(T (i + r_i)/B) + 1, r_i ~ Uniform[0, 1), for sample i = 0..B-1 of a batch",
        says: "A batch's timesteps are spread evenly over $1, \\dots, T$, one in each stratum, which \
            makes the loss less noisy.",
        tex: &[r"t = \left\lfloor \frac{T (i + r_i)}{B} \right\rfloor + 1, \quad r_i \sim
                \operatorname{Uniform}[0, 1)"],
        function: "equations::objective::o08_stratified",
        source: "Kingma et al. 2021, appendix (low-discrepancy sampler)",
        misprint: None,
    },
    Equation {
        id: "s01",
        title: "x_0 and eps of any prediction",
        statement: "x_0 = (x_t - sqrt(1 - abar_t) eps)/sqrt(abar_t), or x_0, or sqrt(abar_t) x_t - \
            sqrt(1 - abar_t) v; eps = (x_t - sqrt(abar_t) x_0)/sqrt(1 - abar_t)",
        says: "From whatever a network predicts, both the image and the noise follow.",
        tex: &[
            r"x_0 = \frac{x_t - \sqrt{1-\bar\alpha_t}\, \varepsilon}{\sqrt{\bar\alpha_t}} \quad
                \text{or} \quad x_0 = \sqrt{\bar\alpha_t}\, x_t - \sqrt{1-\bar\alpha_t}\, v",
            r"\varepsilon = \frac{x_t - \sqrt{\bar\alpha_t}\, x_0}{\sqrt{1-\bar\alpha_t}}",
        ],
        function: "equations::solver::s01_predict_x0",
        source: "Ho et al. 2020, equation 4; Salimans & Ho 2022, section 4 and appendix D",
        misprint: None,
    },
    Equation {
        id: "s02",
        title: "dynamic thresholding",
        statement: "x_0 cut to [-s, s] and divided by s, s the ratio-quantile of |x_0| between 1 and a \
            largest value; or cut to a range",
        says: "Predicted pixels beyond $[-1, 1]$ are pulled in with the whole image, rather than cut one \
            by one.",
        tex: &[r"x_0 \leftarrow \frac{\operatorname{clip}(x_0, -s, s)}{s}, \quad s = \text{a quantile
                of } |x_0|, \; s \ge 1"],
        function: "equations::solver::Limit::s02_limit",
        source: "Saharia et al. 2022, section 2.3",
        misprint: None,
    },
    Equation {
        id: "s03",
        title: "the corrected sample",
        statement: "base = c_0 base + c_1 x0 + c_2 x0' + c_3 x0'' + c_4 x0''', or x where nothing is \
            corrected",
        says: "Every sampler's step begins with a sample corrected by the predictions so far.",
        tex: &[r"b \leftarrow c_0 b + c_1 x_0 + c_2 x_0^\prime + c_3 x_0^{\prime\prime} + c_4
                x_0^{\prime\prime\prime}"],
        function: "equations::solver::State::advance",
        source: "the form of every step; the numbers: (S5)-(S11)",
        misprint: None,
    },
    Equation {
        id: "s04",
        title: "the next sample",
        statement: "x_next = b_x base + b_m m + b_0 x0 + b_1 x0' + b_2 x0'' + sigma z",
        says: "Every sampler's next sample is a weighed sum of the same few images; samplers differ in \
            the weights alone.",
        tex: &[r"x_{\text{next}} = b_x b + b_m m + b_0 x_0 + b_1 x_0^\prime + b_2 x_0^{\prime\prime} +
                \sigma z"],
        function: "equations::solver::State::advance",
        source: "the form of every step; the numbers: (S5)-(S11)",
        misprint: None,
    },
    Equation {
        id: "s05",
        title: "Algorithm 2 for any prediction and variance",
        statement: "(15) with the mean (11) at the limited x_0 and sigma_t^2 of (7), (O5), or the \
            network's second output",
        says: "Algorithm 2 in the form (S4), for networks that predict something else or their variance \
            too.",
        tex: &[r"x_{t-1} = \tilde\mu_t(x_t, \hat x_0) + \sigma_t z"],
        function: "equations::solver::s05_ddpm",
        source: "Ho et al. 2020, section 3.2; Nichol & Dhariwal 2021, equation 15",
        misprint: None,
    },
    Equation {
        id: "s06",
        title: "DDIM for any prediction",
        statement: "x_{t-1} = sqrt(abar_{t-1}) x_0 + sqrt(1 - abar_{t-1} - sigma^2) eps + sigma z, \
            sigma^2 = eta^2 beta~_t",
        says: "A sampler that keeps the predicted noise instead of drawing all of it anew; $\\eta = 0$ \
            draws none.",
        tex: &[
            r"x_{t-1} = \sqrt{\bar\alpha_{t-1}}\, x_0 + \sqrt{1-\bar\alpha_{t-1}-\sigma^2}\,
                \varepsilon + \sigma z",
            r"\sigma^2 = \eta^2 \tilde\beta_t",
        ],
        function: "equations::solver::s06_ddim",
        source: "Song, Meng & Ermon 2021, equations 12 and 16",
        misprint: None,
    },
    Equation {
        id: "s07",
        title: "DPM-Solver++ of first order",
        statement: "x_next = sigma_next/sigma x - alpha_next (e^-h - 1) x_0, h the step in lambda = \
            ln(alpha/sigma)",
        says: "One step of the exact solution if the predicted image stayed the same over the step.",
        tex: &[
            r"x_{\text{next}} = \frac{\sigma_{\text{next}}}{\sigma}\, x - \alpha_{\text{next}}
                (e^{-h} - 1)\, x_0",
            r"h = \lambda_{\text{next}} - \lambda, \quad \lambda = \ln(\alpha/\sigma)",
        ],
        function: "equations::solver::dpm_solver::s07_s08_s09_dpm_solver",
        source: "Lu et al. 2022b, equation 11 and algorithm 2",
        misprint: None,
    },
    Equation {
        id: "s08",
        title: "DPM-Solver++ of second order",
        statement: "(S7) with - alpha_next (e^-h - 1) D_1/2 (midpoint) or + alpha_next ((e^-h - 1)/h + \
            1) D_1 (heun), D_1 the divided difference of the x_0",
        says: "The same if the predicted image changed along a line through its last two values.",
        tex: &[r"\text{(S7)} - \tfrac12 \alpha_{\text{next}} (e^{-h} - 1) D_1 \quad \text{or} \quad
                \text{(S7)} + \alpha_{\text{next}} \left( \frac{e^{-h}-1}{h} + 1 \right) D_1"],
        function: "equations::solver::dpm_solver::s07_s08_s09_dpm_solver",
        source: "Lu et al. 2022b, algorithm 2; heun: Lu et al. 2022a",
        misprint: None,
    },
    Equation {
        id: "s09",
        title: "DPM-Solver++ of third order",
        statement: "(S7) with + alpha_next ((e^-h - 1)/h + 1) D_1 - alpha_next ((e^-h - 1 + h)/h^2 - \
            1/2) D_2, as diffusers has it",
        says: "The same along a parabola through the last three.",
        tex: &[r"\text{(S7)} + \alpha_{\text{next}} \left( \frac{e^{-h}-1}{h} + 1 \right) D_1 -
                \alpha_{\text{next}} \left( \frac{e^{-h}-1+h}{h^2} - \frac12 \right) D_2"],
        function: "equations::solver::dpm_solver::s07_s08_s09_dpm_solver",
        source: "Lu et al. 2022b, appendix",
        misprint: None,
    },
    Equation {
        id: "s10",
        title: "UniPC's predictor",
        statement: "x_next = sigma_next/sigma x - alpha_next (e^-h - 1) x_0 - alpha_next B(h) sum_k a_k \
            (x_0^(k) - x_0)/r_k",
        says: "A predictor of any order from the differences of the last predicted images.",
        tex: &[r"x_{\text{next}} = \frac{\sigma_{\text{next}}}{\sigma}\, x - \alpha_{\text{next}}
                (e^{-h}-1)\, x_0 - \alpha_{\text{next}} B(h) \sum_k a_k \frac{x_0^{(k)} - x_0}{r_k}"],
        function: "equations::solver::uni_pc::s10_uni_p",
        source: "Zhao et al. 2023, section 3.3 and equation 3",
        misprint: None,
    },
    Equation {
        id: "s11",
        title: "UniPC's corrector",
        statement: "(S10) once more from the level before, with a_p (x_0 - x_0') of the newest x_0 in \
            the sum",
        says: "The step is taken once more when the new prediction is known, which costs no further call \
            of the network.",
        tex: &[r"\text{(S10) from the level before, with } a_p (x_0 - x_0^\prime) \text{ in the sum}"],
        function: "equations::solver::uni_pc::s11_uni_c",
        source: "Zhao et al. 2023, section 3.2 and equation 5",
        misprint: None,
    },
    Equation {
        id: "s12",
        title: "the noise levels of Karras et al.",
        statement: "s_i = (s_max^(1/7) + i/(K - 1) (s_min^(1/7) - s_max^(1/7)))^7, i = 0..K-1",
        says: "Noise levels that are dense where there is little noise.",
        tex: &[r"s_i = \left( s_{\max}^{1/7} + \frac{i}{K-1} \left( s_{\min}^{1/7} - s_{\max}^{1/7}
                \right) \right)^7"],
        function: "equations::solver::ladder::s12_karras",
        source: "Karras et al. 2022, equation 5",
        misprint: None,
    },
    Equation {
        id: "s13",
        title: "DDIM run upwards",
        statement: "x_to = sqrt(abar_to) x_0 + sqrt(1 - abar_to) eps, with the x_0 of x_from and eps, what the \
            network says of x_from told t, the timestep of abar_to",
        says: "DDIM run from the image to noise, so that an image's own noise can be found and changed.",
        tex: &[r"x_{\text{to}} = \sqrt{\bar\alpha_{\text{to}}}\, x_0 +
                \sqrt{1-\bar\alpha_{\text{to}}}\, \varepsilon"],
        function: "equations::solver::inverse::s13_ddim_up",
        source: "Song, Meng & Ermon 2021, section 4.3 and equation 14",
        misprint: None,
    },
    Equation {
        id: "u01",
        title: "spherical interpolation",
        statement: "x(s) = (sin((1 - s) theta) a + sin(s theta) b)/sin(theta), theta the angle between a and b",
        says: "The way from one noise to another along the sphere, where noise is at home, and not \
            through its middle.",
        tex: &[r"x(s) = \frac{\sin((1-s)\theta)\, a + \sin(s\theta)\, b}{\sin\theta}"],
        function: "equations::edit::u01_slerp",
        source: "Shoemake 1985; Song, Meng & Ermon 2021, equation 67",
        misprint: None,
    },
    Equation {
        id: "u02",
        title: "known pixels put back",
        statement: "x_t = m (sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps) + (1 - m) x_t, m = 1 where x_0 is known",
        says: "Pixels that are known are put back at each step, at that step's level of noise.",
        tex: &[r"x_t = m \left( \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1-\bar\alpha_t}\, \varepsilon \right)
                + (1-m)\, x_t"],
        function: "equations::edit::u02_put_back",
        source: "Lugmayr et al. 2022, equations 8a-8c",
        misprint: None,
    },
    Equation {
        id: "u03",
        title: "a jump up",
        statement: "x_t = sqrt(abar_t/abar_s) x_s + sqrt(1 - abar_t/abar_s) eps, s < t",
        says: "Some noise is added again, so that known and new pixels can be made to fit.",
        tex: &[r"x_t = \sqrt{\frac{\bar\alpha_t}{\bar\alpha_s}}\, x_s + \sqrt{1 -
                \frac{\bar\alpha_t}{\bar\alpha_s}}\, \varepsilon, \quad s < t"],
        function: "equations::edit::u03_jump",
        source: "Lugmayr et al. 2022, section 4.2 and Algorithm 1, line 9",
        misprint: None,
    },
    Equation {
        id: "u04",
        title: "the order of steps and jumps",
        statement: "after every j steps, from the lowest noisy level counted, j steps up and down again, r - 1 \
            times",
        says: "After every $j$ steps down, $j$ steps up and down again, $r - 1$ times.",
        tex: &[r"\underbrace{t, \dots, t-j}_{\text{down}}, \; \underbrace{t-j, \dots, t}_{\text{up}},
                \; \dots \quad r - 1 \text{ times}"],
        function: "equations::edit::u04_repaint",
        source: "Lugmayr et al. 2022, appendix B",
        misprint: None,
    },
];
