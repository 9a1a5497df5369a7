//! Model folders read and written by diffusers itself. Skipped, with a message, where Python has no
//! diffusers; `PERFORMER_DDPM_PYTHON` names the interpreter.

use crate::support::golden::{channels_last, tensors};
use crate::support::models::{bits, favor_in_the_middle, random, softmax};
use crate::support::parity::largest;
use crate::support::python;
use ndarray::Array5;
use performer_ddpm::checkpoint::model_folder::{LoadedModel, load, load_unet_config, save};
use performer_ddpm::config::{BetaSchedule, DiffusionConfig, Prediction, Preset, UnetConfig, VarianceKind};
use performer_ddpm::equations::solver::{DdimChoice, DpmSolver, Method, Outputs, UniPc, Variance};
use performer_ddpm::equations::{Schedule, Timestep};
use performer_ddpm::kernels::Isa;
use performer_ddpm::model::Engine;
use performer_ddpm::rng::{Stream, fill_normal, rng};
use performer_ddpm::sample::{ClipX0, SampleOptions, Sampler, Spacing, sample};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// A diffusion process in which no setting has its default.
fn diffusion() -> DiffusionConfig {
    DiffusionConfig {
        timesteps: 50,
        schedule: BetaSchedule::Linear { start: 3e-4, end: 0.3 },
        variance: VarianceKind::FixedLarge,
        clip_x0: false,
        ..DiffusionConfig::default()
    }
}

/// Loads a pipeline, checks that the file has exactly the weights of the network, and saves the pipeline
/// again.
const LOAD_AND_SAVE: &str = "
import sys, diffusers
ours, theirs = sys.argv[1:]
_, info = diffusers.UNet2DModel.from_pretrained(ours, subfolder='unet', output_loading_info=True)
for kind in ('missing_keys', 'unexpected_keys', 'mismatched_keys', 'error_msgs'):
    assert not info[kind], (kind, info[kind])
pipeline = diffusers.DiffusionPipeline.from_pretrained(ours)
assert type(pipeline).__name__ == 'DDPMPipeline', pipeline
pipeline.save_pretrained(theirs)
print(pipeline.unet.mid_block.attentions[0].heads, pipeline.unet.mid_block.attentions[0].group_norm.eps)
print(repr(pipeline.unet.time_proj.downscale_freq_shift), pipeline.unet.time_proj.flip_sin_to_cos)
s = diffusers.DDPMScheduler.from_config(pipeline.scheduler.config)
print(len(s.betas), '%.4g %.4g' % (s.betas[0], s.betas[-1]), s.config.variance_type, s.config.clip_sample)
";

#[test]
fn diffusers_loads_our_softmax_models_and_we_load_its() {
    if !python::has_diffusers() {
        return;
    }
    let rectangle = UnetConfig {
        sample_size: [12, 20],
        attn_norm_num_groups: Some(4),
        mid_block_scale_factor: 2.0,
        dropout: 0.25,
        downsample_padding: 1,
        ..softmax()
    };
    for config in [softmax(), rectangle] {
        let model = random(&config, 1);
        let raw = random(&config, 2);
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        save(ours.path(), &model, Some(&raw.weights), &diffusion()).unwrap();
        let printed = python::output(LOAD_AND_SAVE, &[ours.path(), theirs.path()]);
        assert_eq!(printed, "2 1e-06\n1.0 False\n50 0.0003 0.3 fixed_large False\n");
        let back = load::<f32>(theirs.path()).unwrap();
        assert_eq!(bits(&back.model.weights), bits(&model.weights));
        assert_eq!(back.model.config, config);
        assert_eq!((back.diffusion, back.note), (diffusion(), None));
    }
}

#[test]
fn diffusers_builds_our_cosine_schedule() {
    if !python::has_diffusers() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cosine =
        DiffusionConfig { timesteps: 40, schedule: BetaSchedule::Cosine, ..DiffusionConfig::default() };
    save(folder.path(), &random(&softmax(), 1), None, &cosine).unwrap();
    let script = "
import sys, diffusers
s = diffusers.DDPMScheduler.from_pretrained(sys.argv[1], subfolder='scheduler')
t = diffusers.DDPMScheduler(num_train_timesteps=40, beta_schedule='squaredcos_cap_v2')
assert (s.betas == t.betas).all() and len(s.betas) == 40
print(s.config.variance_type, s.config.clip_sample, s.config.prediction_type)
";
    assert_eq!(python::output(script, &[folder.path()]), "fixed_small True epsilon\n");
}

/// Samples our folder with `from_config` of the folder's file, from given noise, and prints the number of
/// steps; every step's noise is there, used or not. The network is random, not trained, and so are its
/// answers to rounding: it runs in f64, the time embedding's angle, which diffusers rounds to f32, included.
const SAMPLE: &str = "
import sys, json, math, torch, diffusers
from safetensors.torch import load_file, save_file
folder, files = sys.argv[1:]
asked = json.load(open(files + '/asked.json'))
numbers = load_file(files + '/noise.safetensors')
x, noises = numbers['x_T'].double(), numbers['noise'].double()
unet = diffusers.UNet2DModel.from_pretrained(folder, subfolder='unet').double()
def angles(t):
    half = unet.time_proj.num_channels // 2
    steps = torch.arange(half, dtype=torch.float64) / (half - unet.time_proj.downscale_freq_shift)
    angle = t.double()[:, None] * torch.exp(-math.log(10000) * steps)
    return torch.cat([angle.sin(), angle.cos()], -1)
unet.time_proj.forward = angles
config = json.load(open(folder + '/scheduler/scheduler_config.json'))
scheduler = getattr(diffusers, asked['class']).from_config(config)
scheduler.set_timesteps(asked['steps'])
if asked['class'] == 'DDPMScheduler':
    drawn = iter(noises)
    sys.modules[type(scheduler).__module__].randn_tensor = lambda *args, **kwargs: next(drawn)
with torch.no_grad():
    for k, t in enumerate(scheduler.timesteps):
        arguments = dict(asked['arguments'])
        if arguments.get('eta'):
            arguments['variance_noise'] = noises[k]
        x = scheduler.step(unet(x, t).sample, t, x, **arguments).prev_sample
save_file({'images': x}, files + '/images.safetensors')
print(len(scheduler.timesteps))
";

/// The defaults of a folder are the same on both sides: `DDIMScheduler.from_config` and `sample --sampler
/// ddim` with no further option, the folder's own scheduler and `sample`, and what can be said of both. The
/// bound is that of the issue, 1e-4 of the largest value; diffusers' tables are f32.
#[test]
fn diffusers_samples_our_folders_as_we_do() {
    if !python::has_diffusers() {
        return;
    }
    let ours = DiffusionConfig { clip_x0: true, ..DiffusionConfig::default() };
    let large = DiffusionConfig { variance: VarianceKind::FixedLarge, ..diffusion() };
    let cosine = DiffusionConfig { schedule: BetaSchedule::Cosine, ..ours.clone() };
    let (ddim, ddpm) =
        (DdimChoice::default(), Method::Ddpm { variance: Variance::FixedSmall, noise_at_last: true });
    let noisy = DdimChoice { eta: 0.7, ..ddim };
    let rederived = DdimChoice { rederive_eps: true, ..ddim };
    let all_large = Method::Ddpm { variance: Variance::FixedLarge, noise_at_last: true };
    let v = DiffusionConfig {
        prediction: Prediction::VPrediction,
        zero_terminal_snr: true,
        ..DiffusionConfig::default()
    };
    let x0 = DiffusionConfig { prediction: Prediction::Sample, ..ours.clone() };
    let learned = DiffusionConfig { learned_range: true, ..cosine.clone() };
    let learned_v = DiffusionConfig { learned_range: true, ..v.clone() };
    let range = Method::Ddpm { variance: Variance::LearnedRange, noise_at_last: true };
    for (config, class, steps, method, arguments) in [
        (&ours, "DDIMScheduler", 50, Method::Ddim(ddim), "{}"),
        // A number that does not divide T.
        (&cosine, "DDIMScheduler", 7, Method::Ddim(ddim), "{}"),
        (&ours, "DDIMScheduler", 20, Method::Ddim(noisy), r#"{"eta": 0.7}"#),
        (&ours, "DDIMScheduler", 10, Method::Ddim(rederived), r#"{"use_clipped_model_output": true}"#),
        (&ours, "DDPMScheduler", 9, ddpm, "{}"),
        (&large, "DDPMScheduler", 50, all_large, "{}"),
        (&large, "DDPMScheduler", 8, all_large, "{}"),
        (&ours, "DPMSolverMultistepScheduler", 12, Method::DpmSolver(DpmSolver::default()), "{}"),
        (&cosine, "DPMSolverMultistepScheduler", 15, Method::DpmSolver(DpmSolver::default()), "{}"),
        // All T steps; and no clipping for those that would.
        (&large, "DPMSolverMultistepScheduler", 50, Method::DpmSolver(DpmSolver::default()), "{}"),
        (&large, "DDIMScheduler", 9, Method::Ddim(ddim), "{}"),
        (&v, "DPMSolverMultistepScheduler", 20, Method::DpmSolver(DpmSolver::default()), "{}"),
        (&x0, "DPMSolverMultistepScheduler", 20, Method::DpmSolver(DpmSolver::default()), "{}"),
        (&ours, "UniPCMultistepScheduler", 12, Method::UniPc(UniPc::default()), "{}"),
        (&v, "DDIMScheduler", 20, Method::Ddim(ddim), "{}"),
        (&x0, "DDIMScheduler", 20, Method::Ddim(ddim), "{}"),
        (&learned, "DDPMScheduler", 12, range, "{}"),
        (&learned_v, "DDPMScheduler", 20, range, "{}"),
    ] {
        let (folder, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let unet = softmax();
        let mut model = random(&UnetConfig { out_channels: unet.out_channels * config.outputs(), ..unet }, 5);
        if config.learned_range {
            // The logarithm of the variance between bounds as far apart as 1e-20 and beta: a weight of
            // hundreds would raise the f32 rounding of these logarithms above the bound.
            model.weights.iter_mut().for_each(|w| *w *= 0.25);
        }
        let image = model.graph.shape(model.graph.input);
        save(folder.path(), &model, None, config).unwrap();
        let asked = format!(r#"{{"class": "{class}", "steps": {steps}, "arguments": {arguments}}}"#);
        fs::write(files.path().join("asked.json"), asked).unwrap();
        let noise = noises(steps, 2, [image.c, image.h, image.w]);
        write_noise(&noise, &files.path().join("noise.safetensors"));
        let printed = python::output(SAMPLE, &[folder.path(), files.path()]);
        assert_eq!(
            printed,
            format!(
                "{steps}
"
            )
        );
        let (shape, want) = &tensors(&files.path().join("images.safetensors"))["images"];
        let want = channels_last(want, shape[..].try_into().unwrap());

        let loaded = load::<f64>(folder.path()).unwrap();
        let scheduler = loaded.scheduler.with_method(method, loaded.diffusion.clip_x0);
        let is_its_own = class == "DPMSolverMultistepScheduler" || config.learned_range;
        if is_its_own && arguments == "{}" {
            assert_eq!(scheduler, loaded.scheduler, "no option is needed");
        }
        let options = SampleOptions {
            count: 2,
            batch: 2,
            seed: 0,
            sampler: Sampler::Scheduler(scheduler),
            steps: Some(steps),
            spacing: Spacing::Trailing,
            clip_x0: ClipX0::Off,
            ..SampleOptions::default()
        };
        let schedule = Schedule::from_config(&loaded.diffusion).unwrap();
        let mut engine = Engine::new(&loaded.model, 1, Isa::Reference).unwrap();
        let images =
            sample(&loaded.model, &schedule, &mut engine, &options, Some(noise.view()), |_| {}).unwrap();
        let error = images.iter().zip(&want).map(|(got, want)| (got - want).abs()).fold(0.0, f64::max);
        let relative = error / largest(&want);
        println!("{class} in {steps} steps {arguments}: {relative:.1e} of {:.1e}", largest(&want));
        assert!(relative <= 1e-4, "{class} in {steps} steps {arguments}: {relative:e}");
    }
}

/// A network with a learned variance is a DDPM pipeline there, whose own call samples from it.
#[test]
fn diffusers_calls_our_pipelines_with_a_learned_variance() {
    if !python::has_diffusers() {
        return;
    }
    let unet = softmax();
    let model = random(&UnetConfig { out_channels: 2 * unet.out_channels, ..unet }, 5);
    let folder = tempfile::tempdir().unwrap();
    let config =
        DiffusionConfig { learned_range: true, prediction: Prediction::VPrediction, ..Default::default() };
    save(folder.path(), &model, None, &config).unwrap();
    let script = "
import sys, diffusers, numpy
pipeline = diffusers.DiffusionPipeline.from_pretrained(sys.argv[1])
pipeline.set_progress_bar_config(disable=True)
images = pipeline(batch_size=2, num_inference_steps=3, output_type='np').images
assert numpy.isfinite(images).all()
c = pipeline.scheduler.config
print(type(pipeline).__name__, len(images), c.variance_type, c.prediction_type, c.timestep_spacing)
";
    let told = python::output(script, &[folder.path()]);
    assert_eq!(told, "DDPMPipeline 2 learned_range v_prediction trailing\n");
}

/// Every scheduler of `asked.json` from the same noise, around a network of one line; each one's timesteps
/// and images go to `images.safetensors`. diffusers' f32 is f64 here, tables included.
const SWEEP: &str = "
import sys, json, math, numpy, torch, diffusers
from safetensors.torch import load_file, save_file
files = sys.argv[1]
numbers = load_file(files + '/noise.safetensors')
torch.set_default_dtype(torch.float64)
torch.float32, numpy.float32 = torch.float64, numpy.float64
results = {}
for i, (config, steps, eta) in enumerate(json.load(open(files + '/asked.json'))):
    x, noises = numbers['x_T'].double(), numbers['noise'].double()
    scheduler = getattr(diffusers, config['_class_name']).from_config(config)
    scheduler.set_timesteps(steps)
    drawn = [0]
    def draw(*args, **kwargs):
        return noises[drawn[0]]
    sys.modules[type(scheduler).__module__].randn_tensor = draw
    for k, t in enumerate(scheduler.timesteps):
        drawn[0] = k
        m = 0.6 * x * math.cos(0.003 * int(t)) + 0.2
        if str(config.get('variance_type')).startswith('learned'):
            m = torch.cat([m, 0.25 + 0.2 * torch.sin(x)], 1)
        arguments = {'eta': eta} if config['_class_name'] == 'DDIMScheduler' else {}
        x = scheduler.step(m, t, x, **arguments).prev_sample
    results['t.%d' % i] = scheduler.timesteps.long()
    results['x.%d' % i] = x.double()
save_file(results, files + '/images.safetensors')
";

/// Some hundred schedulers, each with its own number of steps and eta.
fn schedulers() -> Vec<(Value, usize, f64)> {
    let mut all = Vec::new();
    let spacings = ["leading", "trailing", "linspace"];
    let schedules = [
        json!({"beta_schedule": "linear"}),
        json!({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}),
        json!({"beta_schedule": "scaled_linear", "rescale_betas_zero_snr": true}),
        json!({"beta_schedule": "linear", "num_train_timesteps": 300, "beta_end": 0.05}),
        json!({"trained_betas": (1..=50).map(|i| 0.004 * f64::from(i)).collect::<Vec<_>>(),
               "num_train_timesteps": 50}),
    ];
    let limits = [
        json!({"clip_sample": false}),
        json!({"clip_sample_range": 1.7}),
        json!({"thresholding": true, "dynamic_thresholding_ratio": 0.83, "sample_max_value": 1.4}),
    ];
    let methods = [
        json!({"_class_name": "DDPMScheduler", "variance_type": "fixed_small"}),
        json!({"_class_name": "DDPMScheduler", "variance_type": "fixed_small_log"}),
        json!({"_class_name": "DDPMScheduler", "variance_type": "fixed_large"}),
        json!({"_class_name": "DDPMScheduler", "variance_type": "learned"}),
        json!({"_class_name": "DDPMScheduler", "variance_type": "learned_range"}),
        json!({"_class_name": "DDIMScheduler"}),
        json!({"_class_name": "DDIMScheduler", "set_alpha_to_one": false}),
        json!({"_class_name": "DPMSolverMultistepScheduler", "solver_order": 1}),
        json!({"_class_name": "DPMSolverMultistepScheduler", "solver_type": "heun"}),
        json!({"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3, "use_karras_sigmas": true}),
        json!({"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3, "final_sigmas_type": "sigma_min",
               "lower_order_final": false}),
        json!({"_class_name": "DPMSolverMultistepScheduler", "euler_at_final": true,
               "final_sigmas_type": "sigma_min", "lambda_min_clipped": -3.0}),
        json!({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"}),
        json!({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++",
               "solver_type": "heun", "final_sigmas_type": "sigma_min", "use_karras_sigmas": true}),
        json!({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++",
               "solver_order": 3, "lower_order_final": false}),
        json!({"_class_name": "UniPCMultistepScheduler", "solver_order": 1}),
        json!({"_class_name": "UniPCMultistepScheduler", "solver_order": 2, "disable_corrector": [0, 1, 4]}),
        json!({"_class_name": "UniPCMultistepScheduler", "solver_order": 3, "final_sigmas_type": "sigma_min"}),
        json!({"_class_name": "UniPCMultistepScheduler", "solver_order": 3, "solver_type": "bh1",
               "final_sigmas_type": "sigma_min", "lower_order_final": false}),
        json!({"_class_name": "UniPCMultistepScheduler", "use_karras_sigmas": true, "sigma_min": 0.05}),
        json!({"_class_name": "UniPCMultistepScheduler", "use_karras_sigmas": true, "solver_type": "bh1",
               "final_sigmas_type": "sigma_min"}),
    ];
    for (i, method) in methods.iter().enumerate() {
        for (j, schedule) in schedules.iter().enumerate() {
            for (k, prediction) in ["epsilon", "sample", "v_prediction"].into_iter().enumerate() {
                let spacing = spacings[(i + j + k) % 3];
                let has_zero_snr = schedule.get("rescale_betas_zero_snr").is_some();
                if has_zero_snr && prediction == "epsilon" {
                    continue;
                }
                let mut config = json!({
                    "num_train_timesteps": 1000, "prediction_type": prediction, "timestep_spacing": spacing,
                    "steps_offset": i % 2,
                });
                for part in [method, schedule, &limits[(i + k) % 3]] {
                    let entries = part.as_object().unwrap().clone();
                    config.as_object_mut().unwrap().extend(entries);
                }
                all.push((config, [5, 12, 17][(i + 2 * j + k) % 3], [0.0, 0.4, 1.0][(i + j) % 3]));
            }
        }
    }
    all
}

/// Every choice of the four classes, against diffusers itself in f64: 1e-7 of the largest value, for its
/// differences of logarithms of levels that are almost equal (Karras' last two), which lose half of the
/// digits. Where a root of a rounding error below 0 makes its images no numbers, ours are numbers.
#[test]
fn diffusers_takes_the_same_steps_for_every_choice() {
    if !python::has_diffusers() {
        return;
    }
    let (folder, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    save(folder.path(), &random(&softmax(), 5), None, &DiffusionConfig::default()).unwrap();
    let schedulers = schedulers();
    fs::write(files.path().join("asked.json"), json!(schedulers).to_string()).unwrap();
    let noise = noises(17, 2, [1, 4, 4]);
    write_noise(&noise, &files.path().join("noise.safetensors"));
    python::output(SWEEP, &[files.path()]);
    let theirs = tensors(&files.path().join("images.safetensors"));
    let values: Vec<f64> = noise.iter().map(|z| f64::from(*z)).collect();
    let draws: Vec<&[f64]> = values.chunks(2 * 16).collect();
    let mut failures = Vec::new();
    for (i, (config, steps, eta)) in schedulers.iter().enumerate() {
        fs::write(folder.path().join("scheduler/scheduler_config.json"), config.to_string()).unwrap();
        let LoadedModel { mut scheduler, diffusion, .. } = load::<f32>(folder.path()).unwrap();
        if let Method::Ddim(choice) = &mut scheduler.method {
            choice.eta = *eta;
        }
        let plan = scheduler.plan(&Schedule::from_config(&diffusion).unwrap(), *steps).unwrap();
        let mut x = draws[0].to_vec();
        let z = |k: usize, _: Timestep, out: &mut [f64]| out.copy_from_slice(draws[k + 1]);
        let network = |x: &[f64], t: Timestep, outputs: Outputs<f64>| {
            for ((x, m), u) in x.iter().zip(outputs.prediction).zip(outputs.variance) {
                *m = 0.6 * x * (0.003 * t.index() as f64).cos() + 0.2;
                *u = 0.25 + 0.2 * x.sin();
            }
            Ok(())
        };
        plan.sample(&mut x, 16, z, network, |_, _, _| {}).unwrap();
        let want = &theirs[&format!("x.{i}")].1;
        let times: Vec<f64> = plan.steps().iter().map(|step| step.t.index() as f64).collect();
        let error = x.iter().zip(want).map(|(got, want)| (got - want).abs()).fold(0.0, f64::max);
        let relative = error / largest(want);
        let is_right = match want.iter().all(|x| x.is_finite()) {
            true => relative <= 1e-7,
            false => x.iter().all(|x| x.is_finite()),
        };
        if !(is_right && times == theirs[&format!("t.{i}")].1) {
            failures.push(format!("{config} in {steps} steps, eta {eta}: {relative:.1e} {times:?}"));
        }
    }
    println!("{} schedulers", schedulers.len());
    assert!(failures.is_empty(), "{} of {}\n{}", failures.len(), schedulers.len(), failures.join("\n"));
}

/// x_T and the noises of K steps, \[K + 1, n, c, h, w\].
fn noises(steps: usize, n: usize, [c, h, w]: [usize; 3]) -> Array5<f32> {
    let mut numbers = vec![0f32; (steps + 1) * n * c * h * w];
    fill_normal(&mut rng(3, Stream::Check, 0, 0), &mut numbers);
    Array5::from_shape_vec((steps + 1, n, c, h, w), numbers).unwrap()
}

fn write_noise(noise: &Array5<f32>, file: &Path) {
    let bytes: Vec<u8> = noise.iter().flat_map(|z| z.to_le_bytes()).collect();
    let image = bytes.len() / noise.shape()[0];
    let shape = noise.shape();
    let view = |shape: &[usize], bytes| TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap();
    let start = view(&shape[1..], &bytes[..image]);
    let rest = view(&[&[shape[0] - 1], &shape[1..]].concat(), &bytes[image..]);
    std::fs::write(file, safetensors::serialize([("x_T", start), ("noise", rest)], None).unwrap()).unwrap();
}

/// diffusers would compute softmax attention with the weights, had it not seen the block types.
#[test]
fn diffusers_refuses_favor_models() {
    if !python::has_diffusers() {
        return;
    }
    let script = "
import sys, diffusers
for load in (diffusers.DDIMPipeline.from_pretrained,
             lambda path: diffusers.UNet2DModel.from_pretrained(path, subfolder='unet')):
    try:
        load(sys.argv[1])
    except ValueError as error:
        print(error)
    else:
        raise AssertionError('loaded')
";
    let mut up_only = softmax();
    up_only.up_attention = Preset::Tiny.config().unet.up_attention;
    for (config, block) in [
        (Preset::Tiny.config().unet, "FavorAttnDownBlock2D"),
        (up_only, "FavorAttnUpBlock2D"),
        (favor_in_the_middle(), "FavorMidAttnDownBlock2D"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), &random(&config, 1), None, &DiffusionConfig::default()).unwrap();
        let printed = python::output(script, &[folder.path()]);
        assert_eq!(printed.matches(&format!("{block} does not exist")).count(), 2, "{printed}");
    }
}

/// The defaults that `config.json` and `scheduler_config.json` leave out are diffusers' own.
#[test]
fn our_defaults_are_diffusers_defaults() {
    if !python::has_diffusers() {
        return;
    }
    let script = "
import sys, json, inspect, diffusers
def defaults(cls):
    given = {k: p.default for k, p in inspect.signature(cls.__init__).parameters.items() if k != 'self'}
    return dict(given, _class_name=cls.__name__)
for cls, name in ((diffusers.UNet2DModel, 'config'), (diffusers.DDPMScheduler, 'DDPM'), (diffusers.DDIMScheduler, 'DDIM'),
                  (diffusers.DPMSolverMultistepScheduler, 'DPMSolverMultistep'),
                  (diffusers.UniPCMultistepScheduler, 'UniPCMultistep')):
    values = defaults(cls)
    if name == 'config':
        values['sample_size'] = 32
    json.dump(values, open(f'{sys.argv[1]}/{name}.json', 'w'))
";
    let folder = tempfile::tempdir().unwrap();
    python::output(script, &[folder.path()]);
    let theirs = load_unet_config(&folder.path().join("config.json")).unwrap();
    let bare = folder.path().join("bare.json");
    fs::write(&bare, r#"{"_class_name": "UNet2DModel", "sample_size": 32}"#).unwrap();
    assert_eq!(load_unet_config(&bare).unwrap(), theirs);

    for name in ["DDPM", "DDIM", "DPMSolverMultistep", "UniPCMultistep"] {
        let model = tempfile::tempdir().unwrap();
        save(model.path(), &random(&softmax(), 1), None, &diffusion()).unwrap();
        let scheduler = model.path().join("scheduler/scheduler_config.json");
        fs::copy(folder.path().join(format!("{name}.json")), &scheduler).unwrap();
        let read = || {
            let loaded = load::<f32>(model.path()).unwrap();
            (loaded.diffusion, loaded.scheduler)
        };
        let theirs = read();
        fs::write(&scheduler, format!(r#"{{"_class_name": "{name}Scheduler"}}"#)).unwrap();
        assert_eq!(read(), theirs);
    }
}
