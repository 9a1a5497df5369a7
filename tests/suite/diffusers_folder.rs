//! Model folders read and written by diffusers itself. Skipped, with a message, where Python has no
//! diffusers; `PERFORMER_DDPM_PYTHON` names the interpreter.

use crate::support::models::{bits, favor_in_the_middle, random, softmax};
use crate::support::python;
use performer_ddpm::checkpoint::model_folder::{load, load_unet_config, save};
use performer_ddpm::config::{BetaSchedule, DiffusionConfig, Preset, UnetConfig, VarianceKind};
use std::fs;

/// A diffusion process in which no setting has its default.
fn diffusion() -> DiffusionConfig {
    DiffusionConfig {
        timesteps: 50,
        schedule: BetaSchedule::Linear { start: 3e-4, end: 0.3 },
        variance: VarianceKind::FixedLarge,
        clip_x0: false,
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
pipeline = diffusers.DDPMPipeline.from_pretrained(ours)
pipeline.save_pretrained(theirs)
print(pipeline.unet.mid_block.attentions[0].heads, pipeline.unet.mid_block.attentions[0].group_norm.eps)
print(repr(pipeline.unet.time_proj.downscale_freq_shift), pipeline.unet.time_proj.flip_sin_to_cos)
s = pipeline.scheduler
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

/// Without the block types, diffusers would compute softmax attention with these weights.
#[test]
fn diffusers_refuses_favor_models() {
    if !python::has_diffusers() {
        return;
    }
    let script = "
import sys, diffusers
for load in (diffusers.DDPMPipeline.from_pretrained,
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
for cls, name in ((diffusers.UNet2DModel, 'config'), (diffusers.DDPMScheduler, 'DDPM'), (diffusers.DDIMScheduler, 'DDIM')):
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

    for name in ["DDPM", "DDIM"] {
        let model = tempfile::tempdir().unwrap();
        save(model.path(), &random(&softmax(), 1), None, &diffusion()).unwrap();
        let scheduler = model.path().join("scheduler/scheduler_config.json");
        fs::copy(folder.path().join(format!("{name}.json")), &scheduler).unwrap();
        let theirs = load::<f32>(model.path()).unwrap().diffusion;
        fs::write(&scheduler, format!(r#"{{"_class_name": "{name}Scheduler"}}"#)).unwrap();
        assert_eq!(load::<f32>(model.path()).unwrap().diffusion, theirs);
    }
}
