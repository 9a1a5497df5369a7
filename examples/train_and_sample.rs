//! The library on one page: a few steps of Algorithm 1, then images by DDIM, without a run's folder.
//!
//! `cargo run --example train_and_sample`

use performer_ddpm::config::Preset;
use performer_ddpm::kernels::Isa;
use performer_ddpm::output::write_png;
use performer_ddpm::sample::{ClipX0, SampleOptions, Sampler, Spacing, sample};
use performer_ddpm::train::Trainer;
use performer_ddpm::{Result, data};
use std::path::Path;

fn main() -> Result<()> {
    let config = Preset::Tiny.config();
    let images = data::load(None, None)?.train;
    let mut trainer: Trainer<f32> = Trainer::new(&config, 2, Isa::detect())?;
    for _ in 0..100 {
        let step = trainer.advance(&images)?;
        if step.step % 20 == 0 {
            println!("step {}: loss {:.4}, gradient norm {:.3}", step.step, step.loss, step.gradient_norm);
        }
    }
    let (model, schedule) = (trainer.averaged_model(), trainer.schedule().clone());
    let options = SampleOptions {
        count: 16,
        batch: 16,
        seed: 0,
        sampler: Sampler::Ddim { eta: 0.0 },
        steps: Some(25),
        spacing: Spacing::Trailing,
        clip_x0: ClipX0::KeepEps,
    };
    let garments = sample(&model, &schedule, trainer.engine(), &options, None, |_| {})?;
    let path = Path::new("garments.png");
    write_png(path, garments.view(), None)?;
    println!("{}", path.display());
    Ok(())
}
