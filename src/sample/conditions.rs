//! What the network is told of a batch beside x_t and t: the images' classes, and how far to lead there.

use super::SampleOptions;
use crate::config::ClassEmbedding;
use crate::equations::guidance::Guidance;
use crate::equations::{Schedule, Timestep};
use crate::error::{Error, Result};

/// The classes that a network knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Classes {
    /// Their number, the null class left out; 0 for a network without classes.
    pub count: usize,
    /// The null class, where there is one.
    pub null: Option<usize>,
}

impl From<ClassEmbedding<'_>> for Classes {
    fn from(labels: ClassEmbedding) -> Self {
        Classes { count: labels.classes(), null: labels.null_class() }
    }
}

/// The number of images, about so many, that shows every class as often; `about` itself for no classes, and
/// for more classes than that.
pub fn images_for(classes: usize, about: usize) -> usize {
    if (1..=about).contains(&classes) { about.next_multiple_of(classes) } else { about }
}

/// Which of the two predictions of guidance a step needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passes {
    /// The one for the class, or the only one of a network without classes.
    Class,
    /// The one for the null class.
    Null,
    /// Both, to be put together by guidance.
    Both,
}

/// What the network is told of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Conditions<'a> {
    /// The images' classes; none for a network without classes.
    pub classes: Vec<usize>,
    /// The null class, which there is where any step needs it.
    pub null: Option<usize>,
    /// How far the images are led towards their classes.
    pub guidance: Guidance,
    /// The levels of the process that the network was trained for.
    schedule: &'a Schedule,
}

impl Conditions<'_> {
    /// What the step that leaves timestep t needs.
    pub fn passes(&self, t: Timestep) -> Passes {
        let Some(level) = self.schedule.at(t).ok().filter(|_| self.null.is_some()) else {
            return Passes::Class;
        };
        match self.guidance {
            guidance if !guidance.g02_applies(level.alpha_bar) => Passes::Class,
            Guidance { weight: 0.0, rescale: 0.0, .. } => Passes::Null,
            _ => Passes::Both,
        }
    }
}

/// The conditions of every batch of a sampling run.
#[derive(Debug)]
pub(super) struct Turns<'a> {
    /// The images' classes in turn.
    classes: Vec<usize>,
    null: Option<usize>,
    guidance: Guidance,
    schedule: &'a Schedule,
}

impl<'a> Turns<'a> {
    /// What the options ask of a network that knows these classes and was trained with `schedule`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for classes that it does not know, for guidance of a network without a null class,
    /// and for numbers of guidance out of range.
    pub(super) fn new(known: Classes, options: &SampleOptions, schedule: &'a Schedule) -> Result<Self> {
        let guidance = options.guidance;
        guidance.validate()?;
        if guidance.is_some() && known.null.is_none() {
            let got = match known.count {
                0 => "a network without classes".to_owned(),
                count => format!("a network with {count} classes, none of which is the null class"),
            };
            return Err(Error::invalid(
                "`Guidance::weight`",
                "1 for a network without a null class, which was not trained for guidance",
                got,
                "train one with `TrainConfig::drop_label`, or leave guidance out",
            ));
        }
        let last = known.null.unwrap_or(known.count.saturating_sub(1));
        if let Some(class) = options.classes.iter().find(|class| known.count == 0 || **class > last) {
            let expected = match known.count {
                0 => "none: the network knows no classes".to_owned(),
                _ => format!("classes from 0 to {last}"),
            };
            return Err(Error::invalid("`SampleOptions::classes`", expected, class.to_string(), ""));
        }
        let all = || (0..known.count).collect();
        let classes = if options.classes.is_empty() { all() } else { options.classes.clone() };
        let null = known.null.filter(|_| guidance.is_some());
        Ok(Turns { classes, null, guidance, schedule })
    }

    /// The conditions of `n` images from the `first` on.
    pub(super) fn of(&self, first: usize, n: usize) -> Conditions<'a> {
        let classes = self.classes.iter().copied().cycle().skip(first % self.classes.len().max(1)).take(n);
        let Turns { null, guidance, schedule, .. } = *self;
        Conditions { classes: classes.collect(), null, guidance, schedule }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: Classes = Classes { count: 3, null: Some(3) };

    fn schedule() -> Schedule {
        Schedule::from_betas(&[0.1, 0.5, 0.9]).expect("a schedule")
    }

    #[test]
    fn image_i_is_of_class_i_in_turn_in_whatever_batch() {
        let schedule = schedule();
        let options = |classes: &[usize]| SampleOptions { classes: classes.to_vec(), ..Default::default() };
        let turns =
            |known, classes: &[usize]| Turns::new(known, &options(classes), &schedule).expect("classes");
        assert_eq!(turns(KNOWN, &[]).of(4, 4).classes, [1, 2, 0, 1]);
        assert_eq!(turns(KNOWN, &[2, 0]).of(1, 3).classes, [0, 2, 0]);
        assert_eq!(turns(Classes::default(), &[]).of(4, 4).classes, [0; 0]);
        // The null class is a class like any other to the network.
        assert_eq!(turns(KNOWN, &[3]).of(0, 1).classes, [3]);
    }

    #[test]
    fn a_step_needs_both_predictions_only_where_guidance_applies() {
        let schedule = schedule();
        let passes = |guidance: Guidance| {
            let options = SampleOptions { guidance, ..Default::default() };
            let conditions = Turns::new(KNOWN, &options, &schedule).expect("guidance").of(0, 1);
            [1, 2, 3].map(|t| conditions.passes(Timestep::new(t).expect("a timestep")))
        };
        use Passes::*;
        assert_eq!(passes(Guidance::default()), [Class; 3]);
        assert_eq!(passes(Guidance::weight(2.0)), [Both; 3]);
        assert_eq!(passes(Guidance::weight(0.0)), [Null; 3]);
        assert_eq!(passes(Guidance { rescale: 0.5, ..Guidance::weight(0.0) }), [Both; 3]);
        // abar = 0.9, 0.45 and 0.045: sigma = 0.33, 1.1 and 4.6.
        let interval = [0.5, 2.0];
        assert_eq!(passes(Guidance { interval, ..Guidance::weight(2.0) }), [Class, Both, Class]);
    }

    #[test]
    fn what_a_network_does_not_know_is_refused() {
        let schedule = schedule();
        let refused = |known, options: SampleOptions| {
            Turns::new(known, &options, &schedule).expect_err("refused").to_string()
        };
        let classes = |class| SampleOptions { classes: vec![0, class], ..Default::default() };
        assert!(
            refused(KNOWN, classes(4))
                .contains("`SampleOptions::classes`: expected classes from 0 to 3, got 4")
        );
        assert!(refused(Classes { null: None, ..KNOWN }, classes(3)).contains("from 0 to 2"));
        assert!(refused(Classes::default(), classes(0)).contains("knows no classes"));
        let guided = || SampleOptions { guidance: Guidance::weight(2.0), ..Default::default() };
        assert!(refused(Classes { null: None, ..KNOWN }, guided()).contains("null class"));
        assert!(refused(Classes::default(), guided()).contains("without classes"));
    }

    #[test]
    fn as_many_images_of_each_class() {
        let counts = [(0, 64), (1, 64), (10, 70), (64, 64), (65, 64)];
        assert!(counts.iter().all(|(classes, count)| images_for(*classes, 64) == *count));
    }
}
