//! Whether training fits into the machine's free memory.

use crate::config::Config;
use crate::error::{Error, Result};
use crate::group::{Group, Solo};
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
    check_memory_in(&Solo, config, threads)
}

/// The same for each rank of a group: what all of those on this machine take together.
///
/// # Errors
/// Those of [`check_memory`].
pub fn check_memory_in(group: &dyn Group<f32>, config: &Config, threads: usize) -> Result<()> {
    let graph = unet::build(&config.unet)?;
    if config.runtime.is_some() {
        return Ok(());
    }
    let batch = config.train.batch;
    let ranks = group.ranks_here();
    let of_all = |batch, threads| Ok::<_, Error>(bytes(&graph, batch, threads)?.saturating_mul(ranks as u64));
    let need = of_all(batch, threads)?;
    let Some(free) = shortage(need) else { return Ok(()) };
    let fits = |batch: usize, threads: usize| of_all(batch, threads).is_ok_and(|need| need <= free);
    let halves = |n: usize| std::iter::successors(Some(n), |n| (*n > 1).then_some(n / 2)).skip(1);
    // Fewer threads give the same bits.
    let fewer = halves(threads).find(|threads| fits(batch, *threads)).map(|n| format!("{n} `threads` fit"));
    let alone = need / ranks as u64;
    let fewer =
        fewer.or((ranks > 1 && alone <= free).then(|| format!("ranks that fit here: {}", free / alone)));
    let smaller = halves(batch).find(|batch| fits(*batch, threads)).map(|n| format!("a `batch` of {n} fits"));
    let help = fewer
        .or(smaller)
        .unwrap_or_else(|| "no batch fits: give images of a smaller `size`, or a smaller network".to_owned());
    let [h, w] = config.unet.sample_size;
    let in_ranks = if ranks > 1 { format!(" in each of {ranks} ranks here") } else { String::new() };
    Err(Error::invalid(
        format!("training on {h}x{w} images with a batch of {batch} on {threads} threads{in_ranks}"),
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
    use std::ops::Range;

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

    /// Each of a million ranks has the machine's memory beside the others.
    #[test]
    fn ranks_on_one_machine_share_its_memory() {
        #[derive(Debug)]
        struct Crowd(usize);
        impl Group<f32> for Crowd {
            fn rank(&self) -> usize {
                0
            }
            fn ranks(&self) -> usize {
                self.0
            }
            fn all_to_all(&self, _: &[bool], _: &[f32], _: &[Range<usize>], _: &mut [f32]) {}
            fn all_gather(&self, _: &mut [f32], _: &[Range<usize>]) {}
            fn all_gather_numbers(&self, _: &mut [f64], _: &[Range<usize>]) {}
            fn broadcast(&self, _: &mut [f32]) {}
            fn broadcast_bytes(&self, bytes: Vec<u8>) -> Vec<u8> {
                bytes
            }
        }
        let config = Preset::Fashion.config();
        check_memory_in(&Crowd(2), &config, 1).unwrap();
        let message = check_memory_in(&Crowd(1_000_000), &config, 1).unwrap_err().to_string();
        assert!(message.contains("in each of 1000000 ranks here"), "{message}");
        assert!(message.contains("ranks that fit here: "), "{message}");
    }
}
