//! What the ranks of a run have to have in common when it begins.

use super::optimizer::Adam;
use super::trainer::Progress;
use crate::config::Config;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::group::{Group, told};
use crate::kernels::Kernels;
use serde::{Deserialize, Serialize};

/// Where a call begins.
pub(super) struct Beginning {
    /// The run's configuration, with the limit of this call.
    pub(super) config: Config,
    /// Steps and seconds of earlier calls.
    pub(super) step: u64,
    pub(super) seconds: f64,
    /// What the checkpoint has; `None` at the beginning of a run.
    pub(super) progress: Option<Progress<f32>>,
}

/// What rank 0 tells the others before it sends them the checkpoint's numbers.
#[derive(Serialize, Deserialize)]
struct Message {
    config: String,
    step: u64,
    seconds: f64,
    /// The numbers of weights and of each projection in the checkpoint.
    lengths: Option<(usize, Vec<usize>)>,
}

/// Refuses ranks that read other images than rank 0 or compute with other kernels, each of which would change
/// the bits of all.
pub(crate) fn check_alike(group: &dyn Group<f32>, data: &Dataset, kernels: Kernels) -> Result<()> {
    if group.ranks() == 1 {
        return Ok(());
    }
    let images = f64::from(crc32fast::hash(data.contents().text().as_bytes()));
    let kernels = f64::from(crc32fast::hash(format!("{kernels:?}").as_bytes()));
    for (mine, what, expected, got, help) in [
        (
            images,
            data.name().to_owned(),
            "the same images on every rank",
            "others",
            "give every machine the same files",
        ),
        (
            kernels,
            "the kernels".to_owned(),
            "the same on every rank",
            "another instruction set or algorithm of convolutions",
            "choose `kernels` that all of the machines have",
        ),
    ] {
        let all = group.gather_number(mine);
        if let Some(other) = all.iter().position(|number| *number != all[0]) {
            return Err(Error::invalid(
                what,
                expected,
                format!("{got} on rank {other} than on rank 0"),
                help,
            ));
        }
    }
    Ok(())
}

/// What rank 0 has found, on every rank; the others need not be able to read the run's folder.
pub(super) fn share(group: &dyn Group<f32>, found: Option<Beginning>) -> Result<Beginning> {
    if group.ranks() == 1
        && let Some(found) = found
    {
        return Ok(found);
    }
    let message = found.as_ref().map(|found| {
        let lengths = |progress: &Progress<f32>| {
            (progress.weights.len(), progress.projections.iter().map(Vec::len).collect())
        };
        let (config, lengths) = (found.config.to_toml(), found.progress.as_ref().map(lengths));
        Message { config, step: found.step, seconds: found.seconds, lengths }
    });
    let Message { config, step, seconds, lengths } = told(group, message)?;
    let config = Config::from_toml(&config, "the configuration that rank 0 sends")?;
    let mut progress = found.and_then(|found| found.progress).or_else(|| {
        let (weights, projections) = lengths?;
        let numbers = || vec![0.0; weights];
        let adam = Adam { first_moment: numbers(), second_moment: numbers() };
        let projections = projections.into_iter().map(|len| vec![0.0; len]).collect();
        Some(Progress { step, weights: numbers(), average: numbers(), adam, projections })
    });
    if let Some(Progress { weights, average, adam, projections, .. }) = &mut progress {
        for numbers in [weights, average, &mut adam.first_moment, &mut adam.second_moment] {
            group.broadcast(numbers);
        }
        projections.iter_mut().for_each(|numbers| group.broadcast(numbers));
    }
    Ok(Beginning { config, step, seconds, progress })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;
    use crate::group::local::Local;
    use crate::group::{Group, Solo};
    use crate::kernels::Isa;
    use crate::train::{Event, Limit, Run, RunOptions, Trainer};
    use std::cell::Cell;
    use std::path::Path;

    /// A network of several blocks of parameters, and a batch of 7 shards of which the last is smaller.
    fn config() -> Config {
        let mut config = Preset::Tiny.config();
        config.unet.block_out_channels = vec![16, 32];
        config.unet.dropout = 0.1;
        config.unet.favor.redraw_every = 2;
        (config.train.batch, config.train.checkpoint_every, config.train.grids) = (26, 2, 2);
        config.for_images([8, 8, 1])
    }

    fn images(seed: usize) -> Dataset {
        let pixels = ndarray::Array4::from_shape_fn((40, 8, 8, 1), |(n, y, x, _)| {
            ((n * 37 + y * 11 + x * 5 + seed) % 256) as u8
        });
        Dataset::from_array("stripes", pixels.view()).expect("images")
    }

    fn progress_after(group: &dyn Group<f32>, threads: usize, steps: u64) -> Progress<f32> {
        let (config, images) = (config(), images(0));
        let mut trainer = Trainer::in_group(group, &config, threads, Isa::detect()).expect("a trainer");
        for _ in 0..steps {
            trainer.advance_in(group, &images).expect("a step");
        }
        trainer.progress_in(group)
    }

    #[test]
    fn a_step_has_the_same_bits_in_any_number_of_ranks() {
        let solo = progress_after(&Solo, 2, 3);
        for ranks in [1, 2, 3, 5, 7] {
            for (rank, got) in
                Local::with_ranks(ranks, |group| progress_after(&group, 1, 3)).into_iter().enumerate()
            {
                assert!(got == solo, "rank {rank} of {ranks}");
            }
        }
    }

    /// Trains in so many ranks until `stop_after` steps, where rank `stopper` is told to stop, or to the end.
    fn train(folder: &Path, ranks: usize, stop_after: u64, stopper: usize) -> Vec<(u64, bool)> {
        let (config, images) = (config(), images(0));
        if !folder.join("config.toml").exists() {
            Run::create(folder, &config).expect("a folder");
        }
        let options = RunOptions { threads: 1, ..RunOptions::from(Limit::Steps(6)) };
        Local::with_ranks(ranks, |group| {
            let rank = Group::<f32>::rank(&group);
            // The others cannot open the folder.
            let run = if rank == 0 { Run::open(folder).expect("a run").0 } else { Run::of_rank_0(folder) };
            let steps = Cell::new(0);
            let outcome = run.train_in(
                &group,
                &config,
                &images,
                options.clone(),
                || rank == stopper && steps.get() >= stop_after,
                |event| {
                    if let Event::Step { step, .. } = event {
                        steps.set(step.step);
                    }
                },
            );
            let outcome = outcome.expect("training");
            (outcome.step, outcome.interrupted)
        })
    }

    #[test]
    fn a_run_goes_on_to_the_same_bits_in_another_number_of_ranks() {
        let folders = tempfile::tempdir().expect("a folder");
        let [straight, changing] = ["straight", "changing"].map(|name| folders.path().join(name));
        assert_eq!(train(&straight, 1, 9, 0), [(6, false)]);
        assert_eq!(train(&changing, 3, 1, 2), [(1, true); 3]);
        assert_eq!(train(&changing, 7, 3, 0), [(3, true); 7]);
        assert_eq!(train(&changing, 2, 9, 0), [(6, false); 2]);
        let checkpoint = Path::new("checkpoints/step-00000006.safetensors");
        let saved = |folder: &Path| {
            let state = crate::checkpoint::state::load(&folder.join(checkpoint)).expect("a checkpoint");
            (state.weights, state.ema, state.first_moment, state.second_moment, state.projections)
        };
        assert!(saved(&straight) == saved(&changing));
        let grid = |folder: &Path| std::fs::read(folder.join("samples/step-00000006.png")).expect("a grid");
        assert!(grid(&straight) == grid(&changing));
        let ranks = |folder: &Path| {
            let metrics = Run::open(folder).expect("a run").0.metrics().expect("metrics");
            assert_eq!(metrics.iter().map(|m| m.step).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
            metrics.iter().map(|m| m.ranks).collect::<Vec<_>>()
        };
        assert_eq!(ranks(&straight), [None; 6]);
        assert_eq!(ranks(&changing), [Some(3), Some(7), Some(7), Some(2), Some(2), Some(2)]);
    }

    #[test]
    fn ranks_that_cannot_work_together_are_refused() {
        let refusal = |ranks: usize, of_rank: &(dyn Fn(usize) -> (Dataset, Kernels) + Sync)| {
            let outcomes = Local::with_ranks(ranks, |group| {
                let (images, kernels) = of_rank(Group::<f32>::rank(&group));
                check_alike(&group, &images, kernels)?;
                Trainer::in_group(&group, &config(), 1, kernels).map(|_: Trainer<f32>| ())
            });
            let messages: Vec<String> = outcomes.into_iter().map(|o| o.unwrap_err().to_string()).collect();
            assert!(messages.iter().all(|message| *message == messages[0]), "{messages:?}");
            messages[0].clone()
        };
        let plain = Kernels::from(Isa::Reference);
        let message = refusal(8, &|_| (images(0), plain));
        assert!(message.contains("at most 7, as a batch of 26 has 7 shards, got 8"), "{message}");
        assert!(message.contains("a `batch` of 29 or more"), "{message}");
        let message = refusal(3, &|rank| (images(rank / 2), plain));
        assert!(message.contains("the same images on every rank, got others on rank 2"), "{message}");
        let message = refusal(2, &|rank| (images(0), if rank == 1 { Isa::Portable.into() } else { plain }));
        assert!(message.contains("on rank 1 than on rank 0; choose `kernels`"), "{message}");
    }
}
