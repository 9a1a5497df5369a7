//! The options of models that know classes: which, and how far images are led towards them.

use crate::sample::Guidance;
use clap::Args;

/// Classifier-free guidance; all have defaults.
#[derive(Debug, Args)]
pub struct GuidanceArgs {
    /// Lead the images to their classes by the prediction m + W (m_c - m), m_c with and m without the class:
    /// 1 is m_c alone, 2 to 4 are usual (classifier-free guidance, Ho & Salimans 2022) [default: 1]
    #[arg(long, value_name = "W", allow_negative_numbers = true)]
    guidance: Option<f64>,
    /// Only at noise levels LO < sigma_t <= HI, sigma_t = sqrt((1 - abar_t)/abar_t), such as 0.3,5
    /// (Kynkaanniemi et al. 2024); m_c elsewhere [default: 0,inf]
    #[arg(long, value_name = "LO,HI", requires = "guidance", allow_negative_numbers = true,
          value_parser = parse_interval)]
    guidance_interval: Option<[f64; 2]>,
    /// Scale the led prediction towards the standard deviation of m_c: 0 not, 1 wholly, 0.7 usual (Lin et al.
    /// 2023) [default: 0]
    #[arg(long, value_name = "PHI", requires = "guidance", allow_negative_numbers = true)]
    guidance_rescale: Option<f64>,
}

impl GuidanceArgs {
    /// The guidance that the arguments describe.
    pub fn choose(&self) -> Guidance {
        let usual = Guidance::default();
        Guidance {
            weight: self.guidance.unwrap_or(usual.weight),
            interval: self.guidance_interval.unwrap_or(usual.interval),
            rescale: self.guidance_rescale.unwrap_or(usual.rescale),
        }
    }

    /// The options that were given.
    pub fn given(&self) -> impl Iterator<Item = &'static str> {
        self.guidance.is_some().then_some("--guidance").into_iter()
    }
}

fn parse_interval(text: &str) -> Result<[f64; 2], String> {
    let ends: Option<Vec<f64>> = text.split(',').map(|end| end.trim().parse().ok()).collect();
    match ends.as_deref() {
        Some([low, high]) => Ok([*low, *high]),
        _ => Err("expected two noise levels such as 0.3,5 or 0,inf".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_interval;

    #[test]
    fn an_interval_has_two_ends() {
        assert_eq!(parse_interval("0.3, 5"), Ok([0.3, 5.0]));
        assert_eq!(parse_interval("0,inf"), Ok([0.0, f64::INFINITY]));
        assert!(["", "1", "1,2,3", "a,b", "1;2"].into_iter().all(|text| parse_interval(text).is_err()));
    }
}
