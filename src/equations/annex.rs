//! The index of what the slides do not have.

use super::Equation;

/// Every equation of the annexes: (G1)-(G3), how images are led to their classes, (O1)-(O8), what a network
/// may be trained on, (S1)-(S13), samplers, and (U1)-(U4), uses of a model on given images.
pub const ANNEX: [Equation; 28] = [
    Equation {
        id: "g01",
        title: "guidance by a network that is told the class and that is not",
        statement: "m^ = m + w (m_c - m), m_c the prediction for the class and m for the null class",
        function: "equations::guidance::g01_guide",
        source: "Ho & Salimans 2022, equation 6, with w - 1 for w",
        misprint: None,
    },
    Equation {
        id: "g02",
        title: "guidance in a limited interval",
        statement: "(G1) where lo < sigma_t <= hi, sigma_t = sqrt((1 - abar_t)/abar_t); m_c elsewhere",
        function: "equations::guidance::Guidance::g02_applies",
        source: "Kynkaanniemi et al. 2024, the interval (sigma_lo, sigma_hi]",
        misprint: None,
    },
    Equation {
        id: "g03",
        title: "the spread of a guided prediction",
        statement: "phi (s_c/s^) m^ + (1 - phi) m^, s_c and s^ the standard deviations of m_c and m^ over an \
            image",
        function: "equations::guidance::g03_rescale",
        source: "Lin et al. 2023, equations 15 and 16",
        misprint: None,
    },
    Equation {
        id: "o01",
        title: "what a network is to say",
        statement: "y = eps, or x_0, or v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0",
        function: "equations::objective::o01_target",
        source: "Ho et al. 2020, section 3.2; Salimans & Ho 2022, section 4 and appendix D",
        misprint: None,
    },
    Equation {
        id: "o02",
        title: "the signal-to-noise ratio",
        statement: "snr_t = abar_t/(1 - abar_t)",
        function: "equations::objective::o02_snr",
        source: "Kingma et al. 2021, equation 2",
        misprint: None,
    },
    Equation {
        id: "o03",
        title: "min-SNR-gamma's weight",
        statement: "w_t = min(snr_t, gamma) on |x_0 - x_0^|^2, which is min(snr_t, gamma)/snr_t on |eps - \
            eps^|^2 and min(snr_t, gamma)/(snr_t + 1) on |v - v^|^2",
        function: "equations::objective::o03_min_snr",
        source: "Hang et al. 2023, section 3.4",
        misprint: None,
    },
    Equation {
        id: "o04",
        title: "P2's weight",
        statement: "w_t = 1/(k + snr_t)^gamma on |eps - eps^|^2, which is snr_t times that on |x_0 - \
            x_0^|^2 and snr_t/(snr_t + 1) times that on |v - v^|^2",
        function: "equations::objective::o04_p2",
        source: "Choi et al. 2022, section 3",
        misprint: None,
    },
    Equation {
        id: "o05",
        title: "a learned reverse variance",
        statement: "ln sigma_t^2 = (u + 1)/2 ln beta_t + (1 - u)/2 ln beta~_t, u the network's second \
            output; beta~_2 for beta~_1",
        function: "equations::objective::o05_log_variance",
        source: "Nichol & Dhariwal 2021, section 3.1, equation 15",
        misprint: None,
    },
    Equation {
        id: "o06",
        title: "the bound's term with a learned variance",
        statement: "L_{t-1} of (17) with the mean (11) at the predicted x_0 and the variance (O5), value by \
            value; d/du is left of its gradient",
        function: "equations::objective::LearnedRange::o06_term",
        source: "Nichol & Dhariwal 2021, section 3.1",
        misprint: None,
    },
    Equation {
        id: "o07",
        title: "the hybrid loss",
        statement: "L = E[ w_t |y - y^|^2 ], a mean over C, H, W, + 0.001 T L_vb where the variance is \
            learned, L_vb = (O6) in bits per dimension",
        function: "equations::objective::Objective::o07_gradient",
        source: "Nichol & Dhariwal 2021, section 3.1, equation 16, and their code",
        misprint: None,
    },
    Equation {
        id: "o08",
        title: "timesteps from strata",
        statement: "t = floor(T (i + r_i)/B) + 1, r_i ~ Uniform[0, 1), for sample i = 0..B-1 of a batch",
        function: "equations::objective::o08_stratified",
        source: "Kingma et al. 2021, appendix (low-discrepancy sampler)",
        misprint: None,
    },
    Equation {
        id: "s01",
        title: "x_0 and eps of any prediction",
        statement: "x_0 = (x_t - sqrt(1 - abar_t) eps)/sqrt(abar_t), or x_0, or sqrt(abar_t) x_t - \
            sqrt(1 - abar_t) v; eps = (x_t - sqrt(abar_t) x_0)/sqrt(1 - abar_t)",
        function: "equations::solver::s01_predict_x0",
        source: "Ho et al. 2020, equation 4; Salimans & Ho 2022, section 4 and appendix D",
        misprint: None,
    },
    Equation {
        id: "s02",
        title: "dynamic thresholding",
        statement: "x_0 cut to [-s, s] and divided by s, s the ratio-quantile of |x_0| between 1 and a \
            largest value; or cut to a range",
        function: "equations::solver::Limit::s02_limit",
        source: "Saharia et al. 2022, section 2.3",
        misprint: None,
    },
    Equation {
        id: "s03",
        title: "the corrected sample",
        statement: "base = c_0 base + c_1 x0 + c_2 x0' + c_3 x0'' + c_4 x0''', or x where nothing is \
            corrected",
        function: "equations::solver::State::advance",
        source: "the form of every step; the numbers: (S5)-(S11)",
        misprint: None,
    },
    Equation {
        id: "s04",
        title: "the next sample",
        statement: "x_next = b_x base + b_m m + b_0 x0 + b_1 x0' + b_2 x0'' + sigma z",
        function: "equations::solver::State::advance",
        source: "the form of every step; the numbers: (S5)-(S11)",
        misprint: None,
    },
    Equation {
        id: "s05",
        title: "Algorithm 2 for any prediction and variance",
        statement: "(15) with the mean (11) at the limited x_0 and sigma_t^2 of (7), (O5), or the \
            network's second output",
        function: "equations::solver::s05_ddpm",
        source: "Ho et al. 2020, section 3.2; Nichol & Dhariwal 2021, equation 15",
        misprint: None,
    },
    Equation {
        id: "s06",
        title: "DDIM for any prediction",
        statement: "x_{t-1} = sqrt(abar_{t-1}) x_0 + sqrt(1 - abar_{t-1} - sigma^2) eps + sigma z, \
            sigma^2 = eta^2 beta~_t",
        function: "equations::solver::s06_ddim",
        source: "Song, Meng & Ermon 2021, equations 12 and 16",
        misprint: None,
    },
    Equation {
        id: "s07",
        title: "DPM-Solver++ of first order",
        statement: "x_next = sigma_next/sigma x - alpha_next (e^-h - 1) x_0, h the step in lambda = \
            ln(alpha/sigma)",
        function: "equations::solver::dpm_solver::s07_s08_s09_dpm_solver",
        source: "Lu et al. 2022b, equation 11 and algorithm 2",
        misprint: None,
    },
    Equation {
        id: "s08",
        title: "DPM-Solver++ of second order",
        statement: "(S7) with - alpha_next (e^-h - 1) D_1/2 (midpoint) or + alpha_next ((e^-h - 1)/h + \
            1) D_1 (heun), D_1 the divided difference of the x_0",
        function: "equations::solver::dpm_solver::s07_s08_s09_dpm_solver",
        source: "Lu et al. 2022b, algorithm 2; heun: Lu et al. 2022a",
        misprint: None,
    },
    Equation {
        id: "s09",
        title: "DPM-Solver++ of third order",
        statement: "(S7) with + alpha_next ((e^-h - 1)/h + 1) D_1 - alpha_next ((e^-h - 1 + h)/h^2 - \
            1/2) D_2, as diffusers has it",
        function: "equations::solver::dpm_solver::s07_s08_s09_dpm_solver",
        source: "Lu et al. 2022b, appendix",
        misprint: None,
    },
    Equation {
        id: "s10",
        title: "UniPC's predictor",
        statement: "x_next = sigma_next/sigma x - alpha_next (e^-h - 1) x_0 - alpha_next B(h) sum_k a_k \
            (x_0^(k) - x_0)/r_k",
        function: "equations::solver::uni_pc::s10_uni_p",
        source: "Zhao et al. 2023, section 3.3 and equation 3",
        misprint: None,
    },
    Equation {
        id: "s11",
        title: "UniPC's corrector",
        statement: "(S10) once more from the level before, with a_p (x_0 - x_0') of the newest x_0 in \
            the sum",
        function: "equations::solver::uni_pc::s11_uni_c",
        source: "Zhao et al. 2023, section 3.2 and equation 5",
        misprint: None,
    },
    Equation {
        id: "s12",
        title: "the noise levels of Karras et al.",
        statement: "s_i = (s_max^(1/7) + i/(K - 1) (s_min^(1/7) - s_max^(1/7)))^7, i = 0..K-1",
        function: "equations::solver::ladder::s12_karras",
        source: "Karras et al. 2022, equation 5",
        misprint: None,
    },
    Equation {
        id: "s13",
        title: "DDIM run upwards",
        statement: "x_to = sqrt(abar_to) x_0 + sqrt(1 - abar_to) eps, with the x_0 of x_from and eps, what the \
            network says of x_from told t, the timestep of abar_to",
        function: "equations::solver::inverse::s13_ddim_up",
        source: "Song, Meng & Ermon 2021, section 4.3 and equation 14",
        misprint: None,
    },
    Equation {
        id: "u01",
        title: "spherical interpolation",
        statement: "x(s) = (sin((1 - s) theta) a + sin(s theta) b)/sin(theta), theta the angle between a and b",
        function: "equations::edit::u01_slerp",
        source: "Shoemake 1985; Song, Meng & Ermon 2021, equation 67",
        misprint: None,
    },
    Equation {
        id: "u02",
        title: "known pixels put back",
        statement: "x_t = m (sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps) + (1 - m) x_t, m = 1 where x_0 is known",
        function: "equations::edit::u02_put_back",
        source: "Lugmayr et al. 2022, equations 8a-8c",
        misprint: None,
    },
    Equation {
        id: "u03",
        title: "a jump up",
        statement: "x_t = sqrt(abar_t/abar_s) x_s + sqrt(1 - abar_t/abar_s) eps, s < t",
        function: "equations::edit::u03_jump",
        source: "Lugmayr et al. 2022, section 4.2 and Algorithm 1, line 9",
        misprint: None,
    },
    Equation {
        id: "u04",
        title: "the order of steps and jumps",
        statement: "after every j steps, from the lowest noisy level counted, j steps up and down again, r - 1 \
            times",
        function: "equations::edit::u04_repaint",
        source: "Lugmayr et al. 2022, appendix B",
        misprint: None,
    },
];
