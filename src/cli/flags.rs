//! Messages of the library in the words of the command line: the one place that knows which option fills
//! which field.

use crate::Error;

/// What the library's messages call a value, in backquotes, and the option that gives it.
const FLAGS: &[(&str, &str)] = &[
    ("SampleOptions::count", "-n"),
    ("SampleOptions::batch", "--batch"),
    ("SampleOptions::classes", "--class"),
    ("Guidance::weight", "--guidance"),
    ("Guidance::interval", "--guidance-interval"),
    ("Guidance::rescale", "--guidance-rescale"),
    ("FeatureOptions::batch", "--batch"),
    ("FeatureOptions::input", "--features-input NAME"),
    ("FeatureOptions::output", "--features-output NAME"),
    ("FeatureOptions::range", "--features-range"),
    ("FeatureOptions::size", "--features-size"),
    ("NllConfig::batch", "--batch"),
    ("NllConfig::draws", "--draws"),
    ("NllConfig::timesteps", "--strata"),
    ("NllConfig::given_class", "--given-class"),
    ("Resampling::jump", "--jump"),
    ("Resampling::times", "--resample"),
    ("ExportOptions::check", "--check"),
    ("GraphSpec::Sampler::per_run", "--steps-per-run"),
    ("Source::guided", "export --guided"),
    ("Run::open", "train --resume"),
    ("Budget::Steps", "--steps"),
    ("Budget::Minutes", "--minutes"),
    ("Part::FullResolution", "full-resolution of --only"),
    ("Plan::variants", "--variants"),
    ("TrainConfig::lr", "--lr"),
    ("TrainConfig::on_nan", "--on-nan backtrack"),
    ("TrainConfig::drop_label", "train --classes and --drop-label"),
    ("Choice::eta", "--eta"),
    ("Family::Ddim", "--sampler ddim"),
    ("schedule", "--schedule"),
    ("timesteps", "--timesteps"),
    ("noise", "--noise"),
    ("size", "--size"),
    ("data", "--data"),
    ("channels", "--channels"),
    ("held_out", "--held-out"),
    ("strict", "--strict"),
    ("cache", "--cache"),
    ("head", "--head"),
    ("batch", "--batch"),
    ("kernels", "--isa and --conv"),
    ("threads", "--threads"),
    ("folder", "--out"),
];

/// An error as the command line tells it.
pub fn message(error: &Error) -> String {
    let mut text = in_flags(&error.to_string());
    if let Error::OutOfMemory { fits: Some(batch), .. } = error {
        text += &format!(": --batch {batch}");
    }
    text
}

/// A text of the library in the words of the command line.
pub fn in_flags(text: &str) -> String {
    FLAGS.iter().fold(text.to_owned(), |text, (field, flag)| text.replace(&format!("`{field}`"), flag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_become_flags_and_other_words_stay() {
        let told = |what: &str, help: &str| message(&Error::invalid(what, "at least 1", "0", help));
        assert_eq!(told("`SampleOptions::batch`", ""), "--batch: expected at least 1, got 0");
        assert_eq!(told("a.png", "give a `size`"), "a.png: expected at least 1, got 0; give a --size");
        assert_eq!(told("the size", "`schedule`s"), "the size: expected at least 1, got 0; --schedules");
        let full = |fits| Error::OutOfMemory { device: "cuda:0".into(), batch: 40, fits };
        assert!(message(&full(Some(10))).ends_with("a batch of 10 fits: --batch 10"));
        assert!(message(&full(None)).ends_with("no smaller one was seen to fit"));
    }

    /// Every name stands once, so that no flag depends on the order of the table.
    #[test]
    fn no_name_is_there_twice() {
        let mut names: Vec<&str> = FLAGS.iter().map(|(field, _)| *field).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    }
}
