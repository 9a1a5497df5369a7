//! Whether training fits into the machine's free memory.

use crate::config::Config;
use crate::error::{Error, Result};
use crate::machine::{in_words, shortage};
use crate::model::graph::Graph;
use crate::model::report::report;
use crate::model::unet;

/// Copies of the weights that a checkpoint makes: of the weights, their average and the two moments.
const SAVED: usize = 4;

/// Builds the network and compares what training it takes with what is free, before anything is allocated.
/// A [runtime](Config::runtime) has memory of its own and is not asked.
///
/// # Errors
/// [`Error::Invalid`] for a network that cannot be built, and naming the batch or the number of threads that
/// fits.
pub fn check_memory(config: &Config, threads: usize) -> Result<()> {
    let graph = unet::build(&config.unet)?;
    if config.runtime.is_some() {
        return Ok(());
    }
    let batch = config.train.batch;
    let need = bytes(&graph, batch, threads)?;
    let Some(free) = shortage(need) else { return Ok(()) };
    let fits = |batch: usize, threads: usize| bytes(&graph, batch, threads).is_ok_and(|need| need <= free);
    let halves = |n: usize| std::iter::successors(Some(n), |n| (*n > 1).then_some(n / 2)).skip(1);
    // Fewer threads give the same bits.
    let fewer = halves(threads).find(|threads| fits(batch, *threads)).map(|n| format!("{n} `threads` fit"));
    let smaller = halves(batch).find(|batch| fits(*batch, threads)).map(|n| format!("a `batch` of {n} fits"));
    let help = fewer
        .or(smaller)
        .unwrap_or_else(|| "no batch fits: give images of a smaller `size`, or a smaller network".to_owned());
    let [h, w] = config.unet.sample_size;
    Err(Error::invalid(
        format!("training on {h}x{w} images with a batch of {batch} on {threads} threads"),
        format!("what fits into the {} of memory that are free", in_words(free)),
        in_words(need),
        help,
    ))
}

/// Bytes that training takes at its peak.
fn bytes(graph: &Graph, batch: usize, threads: usize) -> Result<u64> {
    let report = report(graph, batch, threads)?;
    let saved = SAVED * size_of::<f32>() * report.parameters;
    Ok((report.training_mib * f64::from(1 << 20)) as u64 + saved as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;

    /// Pictures of 16 million pixels are more than any machine here trains on; a small network fits everywhere.
    #[test]
    fn what_no_machine_holds_is_refused_with_what_to_do() {
        check_memory(&Preset::Tiny.config(), 2).unwrap();
        let mut config = Preset::Cifar10.config();
        config.unet.sample_size = [4096, 4096];
        let error = check_memory(&config, 2).unwrap_err();
        let message = error.to_string();
        assert_eq!(error.exit_status(), 2, "{message}");
        assert!(message.contains("4096x4096") && message.contains("smaller `size`"), "{message}");
    }
}
