//! Timesteps cut into strata.

use super::Timesteps;

/// The strata (first, last), which together are t = 2..=`total`, ascending.
///
/// The terms of the bound fall about as 1/t, so the strata grow with t: equal shares of ln t, but at least
/// one timestep each. So the small t, where most bits are, are all evaluated.
pub(super) fn strata(total: usize, timesteps: Timesteps) -> Vec<(usize, usize)> {
    let all = total.saturating_sub(1);
    let count = match timesteps {
        Timesteps::Full => all,
        Timesteps::Stratified(count) => count.clamp(1, all.max(1)),
    };
    let mut strata = Vec::with_capacity(count);
    let mut first = 2;
    for left in (1..=count).rev() {
        if first > total {
            break;
        }
        let growth = ((total + 1) as f64 / first as f64).powf(1.0 / left as f64);
        let end = (first as f64 * growth).round() as usize;
        // At least one here, and at least one for each that is left.
        let last = if left == 1 { total } else { (end - 1).clamp(first, total + 1 - left) };
        strata.push((first, last));
        first = last + 1;
    }
    strata
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strata_are_a_partition_that_grows() {
        for total in [2, 3, 10, 100, 1000] {
            for count in [1, 2, 5, 9, 32, 99, 5000] {
                let strata = strata(total, Timesteps::Stratified(count));
                assert_eq!(strata.len(), count.min(total - 1), "{total} {count}");
                assert_eq!((strata[0].0, strata[strata.len() - 1].1), (2, total));
                assert!(strata.windows(2).all(|w| w[0].1 + 1 == w[1].0), "{strata:?}");
                assert!(strata.iter().all(|(first, last)| first <= last));
            }
        }
        let strata = strata(1000, Timesteps::Stratified(32));
        let widths: Vec<usize> = strata.iter().map(|(first, last)| last - first + 1).collect();
        assert!(widths[0] == 1 && widths[31] > 100 && widths[31] < 250, "{widths:?}");
        // Rounding may shorten a stratum by one.
        assert!(widths.windows(2).all(|w| w[0] <= w[1] + 1), "{widths:?}");
    }

    #[test]
    fn all_of_them_are_strata_of_one() {
        let full = strata(9, Timesteps::Full);
        assert_eq!(full, (2..=9).map(|t| (t, t)).collect::<Vec<_>>());
        assert_eq!(strata(9, Timesteps::Stratified(8)), full);
        assert!(strata(1, Timesteps::Full).is_empty());
    }
}
