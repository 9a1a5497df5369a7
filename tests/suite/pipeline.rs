//! The library's front door: what is trained, saved, loaded and sampled through a pipeline.

use performer_ddpm::config::{DiffusionConfig, Preset, VarianceKind};
use performer_ddpm::data::Dataset;
use performer_ddpm::equations::Schedule;
use performer_ddpm::equations::solver::{Limit, Scheduler};
use performer_ddpm::kernels::Isa;
use performer_ddpm::sample::{ClipX0, Compute, Sampler};
use performer_ddpm::{Pipeline, SampleOptions, Trainer};

fn trainer() -> Trainer<f32> {
    let pixels = ndarray::Array4::from_shape_fn((12, 8, 8, 1), |(n, y, x, _)| (n * y + 9 * x) as u8);
    let images = Dataset::from_array("ramps", pixels.view()).expect("images");
    let mut config = Preset::Tiny.config().for_images(images.shape());
    config.diffusion.timesteps = 20;
    let mut trainer = Trainer::new(&config, 2, Isa::detect()).expect("a trainer");
    for _ in 0..3 {
        trainer.advance(&images).expect("a step");
    }
    trainer
}

#[test]
fn what_is_saved_is_loaded_with_the_same_bits() {
    let mut pipeline = trainer().pipeline().expect("a pipeline");
    assert_eq!((pipeline.step(), pipeline.image(), pipeline.note()), (Some(3), [8, 8, 1], None));
    let folder = tempfile::tempdir().expect("a folder");
    pipeline.save(folder.path()).expect("a model folder");
    let one_thread = Compute::Engine { threads: Some(1), kernels: Isa::detect().into() };
    let mut again = Pipeline::load_with(folder.path(), &one_thread).expect("the folder");
    let options = SampleOptions { count: 3, batch: 2, ..pipeline.options() };
    assert_eq!(options, SampleOptions { count: 3, batch: 2, ..again.options() });
    let images = pipeline.sample(&options).expect("images");
    assert_eq!(images.dim(), (3, 8, 8, 1));
    assert_eq!(images, again.sample(&options).expect("images"));
}

#[test]
fn the_usual_options_follow_the_model() {
    let mut trainer = trainer();
    let options = trainer.pipeline().expect("a pipeline").options();
    let diffusion = trainer.config().diffusion.clone();
    let schedule = Schedule::from_config(&diffusion).expect("a schedule");
    let wanted = SampleOptions::default().with_scheduler(&Scheduler::of(&diffusion), &schedule, Some(15));
    assert_eq!(options, wanted);
    // The engine that trains goes on after its pipeline has been made.
    assert_eq!(trainer.engine().threads(), 2);
    // Algorithm 2 is what a learned variance is sampled by; it clips where the process says so.
    let learned = |clip_x0| {
        let diffusion = DiffusionConfig { clip_x0, learned_range: true, ..diffusion.clone() };
        let pipeline = Pipeline::new(trainer.averaged_model(), diffusion, &Compute::default());
        pipeline.expect("a pipeline").options().scheduler().limit
    };
    assert_eq!([true, false].map(learned), [Limit::Clip { range: 1.0 }, Limit::Off]);
}

#[test]
fn a_scheduler_and_options_say_the_same() {
    let schedule = Schedule::from_config(&DiffusionConfig::default()).expect("a schedule");
    for sampler in [Sampler::Ddim { eta: 0.3 }, Sampler::Ddpm { variance: VarianceKind::FixedLarge }] {
        for clip_x0 in [ClipX0::Off, ClipX0::RederiveEps] {
            let options = SampleOptions { sampler, clip_x0, ..SampleOptions::default() };
            let again = SampleOptions::default().with_scheduler(&options.scheduler(), &schedule, Some(50));
            assert_eq!(again, options);
        }
    }
}

#[test]
fn a_path_that_is_no_model_is_named() {
    let message = Pipeline::load("nowhere/at/all").expect_err("nothing is there").to_string();
    assert!(message.contains("nowhere/at/all") && message.contains("model folder"), "{message}");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("model.onnx");
    std::fs::write(&file, "no model").expect("a file");
    let message = Pipeline::load_with(&file, &Compute::default()).expect_err("a file").to_string();
    assert!(message.contains("model.onnx") && message.contains("runtime"), "{message}");
}
