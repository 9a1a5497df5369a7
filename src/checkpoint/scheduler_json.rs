//! `scheduler_config.json` of diffusers' `DDPMScheduler`, `DDIMScheduler`, `DPMSolverMultistepScheduler` and
//! `UniPCMultistepScheduler`, read; the third and, for a learned variance, the first, written.

use super::keys::Keys;
use crate::config::{BetaSchedule, DiffusionConfig, Prediction, VarianceKind};
use crate::equations::solver::{
    Bh, DdimChoice, DpmSolver, Limit, Method, Scheduler, SecondOrder, StepSet, UniPc, Variance,
};
use crate::equations::{Schedule, Spacing};
use crate::error::Result;
use serde_json::{Value, json};
use std::path::Path;

/// Keys of the four classes. diffusers keeps what it does not know when it makes one scheduler from
/// another's file, and ignores it.
const OF_OTHER_CLASSES: [&str; 12] = [
    "clip_sample",
    "clip_sample_range",
    "set_alpha_to_one",
    "skip_prk_steps",
    "variance_type",
    "algorithm_type",
    "lambda_min_clipped",
    "euler_at_final",
    "use_lu_lambdas",
    "solver_order",
    "solver_type",
    "lower_order_final",
];

/// Reads a `scheduler_config.json`: the process that the model was trained for, and how its users sample. A
/// missing key has the default of diffusers' constructors.
///
/// # Errors
/// [`crate::Error::Invalid`] naming the file and the first key or value that is not supported.
pub(super) fn read(file: &Path) -> Result<(DiffusionConfig, Scheduler)> {
    scheduler(Keys::read(file)?)
}

/// What a `scheduler_config.json` holds.
///
/// # Errors
/// As [`read`].
pub(super) fn scheduler(mut keys: Keys) -> Result<(DiffusionConfig, Scheduler)> {
    let classes = "DDPMScheduler, DDIMScheduler, DPMSolverMultistepScheduler or UniPCMultistepScheduler";
    let name: String = keys.require("_class_name", classes, "")?;
    keys.tolerate(&["_diffusers_version"]);
    // Of diffusers' first versions.
    keys.fixed("timestep_values", &[Value::Null])?;
    keys.fixed("tensor_format", &[Value::Null, json!("pt"), json!("np")])?;
    let schedule = betas(&mut keys)?;
    let usual = if let BetaSchedule::Trained { betas } = &schedule { betas.len() } else { 1000 };
    let timesteps = keys.get("num_train_timesteps", usual, "a positive whole number")?;
    let zero_terminal_snr = keys.get("rescale_betas_zero_snr", false, "true or false")?;
    let predictions = [
        ("epsilon", Prediction::Epsilon),
        ("sample", Prediction::Sample),
        ("v_prediction", Prediction::VPrediction),
    ];
    let prediction = keys.one_of("prediction_type", "epsilon", &predictions)?;
    let threshold = threshold(&mut keys)?;
    let (method, limit, usual) = match name.as_str() {
        "DDPMScheduler" => {
            let variance = variance_type(&mut keys)?;
            let method = Method::Ddpm { variance, noise_at_last: true };
            (method, clip(&mut keys)?, "leading")
        }
        "DDIMScheduler" => (ddim(&mut keys)?, clip(&mut keys)?, "leading"),
        MULTISTEP => (dpm_solver(&mut keys)?, Limit::Off, "linspace"),
        "UniPCMultistepScheduler" => (uni_pc(&mut keys)?, Limit::Off, "linspace"),
        other => {
            return Err(keys.refuse("_class_name", classes, other, "other schedulers are not supported"));
        }
    };
    let spacings =
        [("leading", Spacing::Leading), ("trailing", Spacing::Trailing), ("linspace", Spacing::Linspace)];
    let scheduler = Scheduler {
        prediction,
        spacing: keys.one_of("timestep_spacing", usual, &spacings)?,
        steps_offset: keys.get("steps_offset", 0, "a whole number")?,
        limit: threshold.unwrap_or(limit),
        method,
    };
    // What Algorithm 2 takes where the file's own sampler is another.
    let variance = match (method, keys.has("variance_type") && !keys.take_null("variance_type")) {
        (Method::Ddpm { variance, .. }, _) => variance,
        (_, true) => variance_type(&mut keys)?,
        _ => Variance::FixedSmall,
    };
    // The multistep classes do not clip, but keep the key for those that do and are made from their file.
    let clip_x0 = match method {
        Method::DpmSolver(_) | Method::UniPc(_) => clip(&mut keys).map(|usual| threshold.unwrap_or(usual))?,
        Method::Ddpm { .. } | Method::Ddim(_) => scheduler.limit,
    } == Limit::Clip { range: 1.0 };
    let config = DiffusionConfig {
        timesteps,
        schedule,
        variance: match variance {
            Variance::FixedLarge => VarianceKind::FixedLarge,
            Variance::FixedSmall | Variance::Learned | Variance::LearnedRange => VarianceKind::FixedSmall,
        },
        clip_x0,
        zero_terminal_snr,
        prediction,
        learned_range: variance == Variance::LearnedRange,
    };
    config.validate().map_err(|e| keys.in_file(e))?;
    scheduler.validate().map_err(|e| keys.in_file(e))?;
    keys.tolerate(&OF_OTHER_CLASSES);
    keys.finish()?;
    Ok((config, scheduler))
}

fn betas(keys: &mut Keys) -> Result<BetaSchedule> {
    let start: f64 = keys.get("beta_start", 1e-4, "a number")?;
    let end: f64 = keys.get("beta_end", 0.02, "a number")?;
    let named = [
        ("linear", BetaSchedule::Linear { start, end }),
        ("scaled_linear", BetaSchedule::ScaledLinear { start, end }),
        ("squaredcos_cap_v2", BetaSchedule::Cosine),
        ("sigmoid", BetaSchedule::Sigmoid { start, end }),
    ];
    let trained: Option<Vec<f64>> = keys.get("trained_betas", None, "null or a list of numbers")?;
    let named = keys.one_of("beta_schedule", "linear", &named)?;
    Ok(trained.map_or(named, |betas| BetaSchedule::Trained { betas }))
}

/// Dynamic thresholding, which has precedence over clipping. Where s can only be 1 it is clipping: the one
/// way in which a file says it of the multistep classes.
fn threshold(keys: &mut Keys) -> Result<Option<Limit>> {
    let ratio = keys.get("dynamic_thresholding_ratio", 0.995, "a number")?;
    let max = keys.get("sample_max_value", 1.0, "a number")?;
    let is_on = keys.get("thresholding", false, "true or false")?;
    let clips = max == 1.0 && (0.0..=1.0).contains(&ratio);
    let limit = if clips { Limit::Clip { range: 1.0 } } else { Limit::Threshold { ratio, max } };
    Ok(is_on.then_some(limit))
}

fn clip(keys: &mut Keys) -> Result<Limit> {
    let range = keys.get("clip_sample_range", 1.0, "a number")?;
    let is_on = keys.get("clip_sample", true, "true or false")?;
    Ok(if is_on { Limit::Clip { range } } else { Limit::Off })
}

fn variance_type(keys: &mut Keys) -> Result<Variance> {
    let kinds = [
        ("fixed_small", Variance::FixedSmall),
        ("fixed_large", Variance::FixedLarge),
        // The exponentials of the logarithms: the same numbers. (diffusers 0.42 forgets the exponential of
        // the second and samples what is not a number.)
        ("fixed_small_log", Variance::FixedSmall),
        ("fixed_large_log", Variance::FixedLarge),
        ("learned", Variance::Learned),
        ("learned_range", Variance::LearnedRange),
    ];
    keys.one_of("variance_type", "fixed_small", &kinds)
}

fn ddim(keys: &mut Keys) -> Result<Method> {
    let set_alpha_to_one = keys.get("set_alpha_to_one", true, "true or false")?;
    Ok(Method::Ddim(DdimChoice { eta: 0.0, rederive_eps: false, set_alpha_to_one }))
}

/// The keys of both multistep classes that name what is not supported.
fn refuse_flows(keys: &mut Keys) -> Result<()> {
    for key in ["use_exponential_sigmas", "use_beta_sigmas", "use_flow_sigmas", "use_dynamic_shifting"] {
        keys.fixed(key, &[json!(false)])?;
    }
    // They matter to flows alone.
    keys.tolerate(&["flow_shift", "time_shift_type"]);
    Ok(())
}

fn final_sigma_zero(keys: &mut Keys) -> Result<bool> {
    keys.one_of("final_sigmas_type", "zero", &[("zero", true), ("sigma_min", false)])
}

fn dpm_solver(keys: &mut Keys) -> Result<Method> {
    refuse_flows(keys)?;
    keys.fixed("use_lu_lambdas", &[json!(false)])?;
    let usual = DpmSolver::default();
    let forms = [
        ("midpoint", SecondOrder::Midpoint),
        ("heun", SecondOrder::Heun),
        // As diffusers reads them, which are other solvers' names.
        ("logrho", SecondOrder::Midpoint),
        ("bh1", SecondOrder::Midpoint),
        ("bh2", SecondOrder::Midpoint),
    ];
    let kinds = [("dpmsolver++", false), ("sde-dpmsolver++", true), ("deis", false)];
    let lowest: Value = keys.get("lambda_min_clipped", json!("-Infinity"), "a number")?;
    let lambda_min = match &lowest {
        Value::String(text) if text == "-Infinity" => f64::NEG_INFINITY,
        other => other.as_f64().ok_or_else(|| {
            keys.refuse("lambda_min_clipped", "a number or -Infinity", other.to_string(), "")
        })?,
    };
    Ok(Method::DpmSolver(DpmSolver {
        order: keys.get("solver_order", usual.order, "1, 2 or 3")?,
        second_order: keys.one_of("solver_type", "midpoint", &forms)?,
        sde: keys.one_of("algorithm_type", "dpmsolver++", &kinds)?,
        karras: keys.get("use_karras_sigmas", usual.karras, "true or false")?,
        final_sigma_zero: final_sigma_zero(keys)?,
        euler_at_final: keys.get("euler_at_final", usual.euler_at_final, "true or false")?,
        lower_order_final: keys.get("lower_order_final", usual.lower_order_final, "true or false")?,
        lambda_min,
    }))
}

fn uni_pc(keys: &mut Keys) -> Result<Method> {
    refuse_flows(keys)?;
    keys.fixed("predict_x0", &[json!(true)])?;
    keys.fixed("solver_p", &[Value::Null])?;
    keys.fixed("shift_terminal", &[Value::Null])?;
    let usual = UniPc::default();
    let kinds = [
        ("bh1", Bh::Bh1),
        ("bh2", Bh::Bh2),
        // As diffusers reads them, which are other solvers' names.
        ("midpoint", Bh::Bh2),
        ("heun", Bh::Bh2),
        ("logrho", Bh::Bh2),
    ];
    let off: Vec<usize> = keys.get("disable_corrector", Vec::new(), "a list of steps, from 0")?;
    Ok(Method::UniPc(UniPc {
        order: keys.get("solver_order", usual.order, "1, 2 or 3")?,
        b: keys.one_of("solver_type", "bh2", &kinds)?,
        karras: keys.get("use_karras_sigmas", usual.karras, "true or false")?,
        sigma_min: keys.get("sigma_min", None, "null or a number")?,
        sigma_max: keys.get("sigma_max", None, "null or a number")?,
        final_sigma_zero: final_sigma_zero(keys)?,
        lower_order_final: keys.get("lower_order_final", usual.lower_order_final, "true or false")?,
        corrector_off: StepSet::new(&off).map_err(|e| keys.in_file(e))?,
    }))
}

const MULTISTEP: &str = "DPMSolverMultistepScheduler";

/// The class of the `scheduler_config.json` that says to diffusers what [`Scheduler::of`] says here. Of its
/// classes, `DDPMScheduler` alone makes use of a network's second output.
pub(super) fn class(config: &DiffusionConfig) -> &'static str {
    if config.learned_range { "DDPMScheduler" } else { MULTISTEP }
}

/// The text of the `scheduler_config.json` of [`class`]. `DDPMScheduler.from_config` makes Algorithm 2 of it,
/// `DDIMScheduler.from_config` DDIM.
///
/// # Errors
/// [`crate::Error::Invalid`] where the process is out of range.
pub(super) fn text(config: &DiffusionConfig) -> Result<String> {
    // Where diffusers does not look at the two numbers, they are its defaults.
    let (name, start, end, trained) = match &config.schedule {
        BetaSchedule::Linear { start, end } => ("linear", *start, *end, None),
        BetaSchedule::ScaledLinear { start, end } => ("scaled_linear", *start, *end, None),
        BetaSchedule::Cosine => ("squaredcos_cap_v2", 1e-4, 0.02, None),
        // Its DDIM and DPM-Solver++ do not know the name.
        BetaSchedule::Sigmoid { .. } => {
            let plain = DiffusionConfig { zero_terminal_snr: false, ..config.clone() };
            ("linear", 1e-4, 0.02, Some(Schedule::from_config(&plain)?.betas()))
        }
        BetaSchedule::Trained { betas } => ("linear", 1e-4, 0.02, Some(betas.clone())),
    };
    let prediction = match config.prediction {
        Prediction::Epsilon => "epsilon",
        Prediction::Sample => "sample",
        Prediction::VPrediction => "v_prediction",
    };
    let mut value = json!({
        "_class_name": class(config),
        "beta_end": end,
        "beta_schedule": name,
        "beta_start": start,
        "dynamic_thresholding_ratio": 0.995,
        "num_train_timesteps": config.timesteps,
        "prediction_type": prediction,
        "rescale_betas_zero_snr": config.zero_terminal_snr,
        "sample_max_value": 1.0,
        "steps_offset": 0,
        "thresholding": !config.learned_range && config.clip_x0,
        "timestep_spacing": "trailing",
        "trained_betas": trained,
    });
    let put = |(key, of_class): (&str, Value)| value[key] = of_class;
    if config.learned_range {
        let keys = [
            ("clip_sample", json!(config.clip_x0)),
            ("clip_sample_range", json!(1.0)),
            ("variance_type", json!("learned_range")),
        ];
        keys.into_iter().for_each(put);
    } else {
        let keys = [
            ("algorithm_type", json!("dpmsolver++")),
            ("euler_at_final", json!(false)),
            ("final_sigmas_type", json!("zero")),
            ("lower_order_final", json!(true)),
            ("solver_order", json!(2)),
            ("solver_type", json!("midpoint")),
            ("use_karras_sigmas", json!(false)),
        ];
        // Keys of the other classes, which diffusers carries along with a warning: only where they are not
        // the defaults.
        let clip = (!config.clip_x0).then_some(("clip_sample", Value::Bool(false)));
        let large = config.variance == VarianceKind::FixedLarge;
        let variance = large.then(|| ("variance_type", json!("fixed_large")));
        keys.into_iter().chain(clip).chain(variance).for_each(put);
    }
    Ok(format!("{value:#}\n"))
}
