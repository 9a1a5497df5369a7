//! The audit: every equation of [`INDEX`] and of [`ANNEX`] checked by independent means (numerical
//! integration, simulation, another algebraic form), and every misprint of the slides refuted by a number.
//!
//! [`run`] measures and returns a [`Report`]; printing is the caller's. Every random draw has a fixed seed,
//! so a report is the same on every run of a build.

mod algorithms;
mod attention;
mod bound;
mod edit;
mod favor;
mod forward;
mod guidance;
mod loss;
mod measure;
mod misprints;
mod objective;
mod page;
mod positive;
mod posterior;
mod reverse;
mod solver;
mod toy;

pub use page::write_page;

use crate::equations::{ANNEX, Equation, INDEX};
use rayon::prelude::*;
use serde::Serialize;

/// One measured error against its bound.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// What was compared with what.
    pub name: String,
    /// The measured error.
    pub error: f64,
    /// The largest error accepted; the function that makes the check says why.
    pub bound: f64,
    /// Whether the error is a number and within the bound.
    pub ok: bool,
}

impl Check {
    fn new(name: impl Into<String>, error: f64, bound: f64) -> Self {
        Check { name: name.into(), error, bound, ok: error <= bound }
    }
}

/// One equation's checks.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Item {
    /// `eq01` .. `eq26`, `alg1`, `alg2`; in an annex its own number.
    pub id: &'static str,
    /// What the equation is, in a few words.
    pub title: &'static str,
    /// The equation as implemented.
    pub statement: &'static str,
    /// The function to read first.
    pub function: &'static str,
    /// Paper, section, equation.
    pub source: &'static str,
    /// What was checked.
    pub checks: Vec<Check>,
}

/// A misprint of the slides, with the number that shows it wrong.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Misprint {
    /// The equation.
    pub id: &'static str,
    /// What the slides print.
    pub printed: &'static str,
    /// The quantity that was measured for both forms.
    pub measured: &'static str,
    /// The printed form's error.
    pub printed_error: f64,
    /// The implemented form's error.
    pub correct_error: f64,
    /// The bound between them: the implemented form's error must be below it, the printed form's above.
    pub bound: f64,
    /// Whether it does.
    pub refuted: bool,
}

impl Misprint {
    fn new(
        id: &'static str,
        printed: &'static str,
        measured: &'static str,
        printed_error: f64,
        correct_error: f64,
        bound: f64,
    ) -> Self {
        // An infinite or undefined printed value is as wrong as a large one.
        let refuted = correct_error <= bound && (printed_error > bound || printed_error.is_nan());
        Misprint { id, printed, measured, printed_error, correct_error, bound, refuted }
    }
}

/// What an audit found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// One item per equation, in the slides' order.
    pub items: Vec<Item>,
    /// One item per equation of the annexes.
    pub annex: Vec<Item>,
    /// The slides' misprints.
    pub misprints: Vec<Misprint>,
}

impl Report {
    /// Whether every equation was checked, every check is within its bound and every misprint is refuted.
    pub fn ok(&self) -> bool {
        let checked = |item: &Item| !item.checks.is_empty() && item.checks.iter().all(|check| check.ok);
        self.items.iter().chain(&self.annex).all(checked)
            && self.misprints.iter().all(|misprint| misprint.refuted)
    }
}

/// Runs every check, side by side on the threads of the machine; takes seconds.
pub fn run() -> Report {
    let item = |equation: &Equation| Item {
        id: equation.id,
        title: equation.title,
        statement: equation.statement,
        function: equation.function,
        source: equation.source,
        checks: checks(equation.id),
    };
    // Every check draws from a stream of its own, so that the numbers do not depend on the threads.
    let (items, (annex, misprints)) = rayon::join(
        || INDEX.par_iter().map(item).collect(),
        || rayon::join(|| ANNEX.par_iter().map(item).collect(), misprints::all),
    );
    Report { items, annex, misprints }
}

/// The checks of one equation; none for an unknown id.
fn checks(id: &str) -> Vec<Check> {
    match id {
        "eq01" => forward::eq01(),
        "eq02" => forward::eq02(),
        "eq03" => forward::eq03(),
        "eq04" => posterior::eq04(),
        "eq05" => reverse::eq05(),
        "eq06" => reverse::eq06(),
        "eq07" => reverse::eq07(),
        "eq08" => posterior::eq08(),
        "eq09" => posterior::eq09(),
        "eq10" => posterior::eq10(),
        "eq11" => posterior::eq11(),
        "eq12" => posterior::eq12(),
        "eq13" => reverse::eq13(),
        "eq14" => reverse::eq14(),
        "eq15" => reverse::eq15(),
        "eq16" => bound::eq16(),
        "eq17" => bound::eq17(),
        "eq18" => loss::eq18(),
        "eq19" => loss::eq19(),
        "eq20" => loss::eq20(),
        "eq21" => loss::eq21(),
        "eq22" => attention::eq22(),
        "eq23" => favor::eq23(),
        "eq24" => favor::eq24(),
        "eq25" => positive::eq25(),
        "eq26" => attention::eq26(),
        "alg1" => algorithms::alg1(),
        "alg2" => algorithms::alg2(),
        "g01" => guidance::g01(),
        "g02" => guidance::g02(),
        "g03" => guidance::g03(),
        "o01" => objective::o01(),
        "o02" => objective::o02(),
        "o03" => objective::o03(),
        "o04" => objective::o04(),
        "o05" => objective::o05(),
        "o06" => objective::o06(),
        "o07" => objective::o07(),
        "o08" => objective::o08(),
        "s01" => solver::s01(),
        "s02" => solver::s02(),
        "s03" => solver::s03(),
        "s04" => solver::s04(),
        "s05" => solver::s05(),
        "s06" => solver::s06(),
        "s07" => solver::s07(),
        "s08" => solver::s08(),
        "s09" => solver::s09(),
        "s10" => solver::s10(),
        "s11" => solver::s11(),
        "s12" => solver::s12(),
        "s13" => edit::s13(),
        "u01" => edit::u01(),
        "u02" => edit::u02(),
        "u03" => edit::u03(),
        "u04" => edit::u04(),
        _ => Vec::new(),
    }
}

/// Fails with every check that is beyond its bound.
#[cfg(test)]
fn assert_all(checks: &[Check]) {
    assert!(!checks.is_empty());
    let failed: Vec<&Check> = checks.iter().filter(|check| !check.ok).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_audit_passes_and_says_so_in_json() {
        let report = run();
        for item in report.items.iter().chain(&report.annex) {
            assert_all(&item.checks);
        }
        for misprint in &report.misprints {
            assert!(misprint.refuted, "{misprint:#?}");
        }
        assert!(report.ok());
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["items"].as_array().unwrap().len(), 28);
        assert_eq!(json["annex"].as_array().unwrap().len(), 28);
        for key in ["name", "error", "bound", "ok"] {
            assert!(!json["items"][2]["checks"][0][key].is_null(), "{key}");
        }
    }

    #[test]
    fn a_failed_or_missing_check_fails_the_report() {
        let item = |checks| Item { id: "eq01", title: "", statement: "", function: "", source: "", checks };
        let report = |item, misprints| Report { items: vec![item], annex: Vec::new(), misprints };
        let good = Check::new("", 1.0, 1.0);
        let annex = Report { annex: vec![item(vec![])], ..report(item(vec![good.clone()]), vec![]) };
        assert!(!annex.ok());
        assert!(report(item(vec![good.clone()]), vec![]).ok());
        assert!(!report(item(vec![]), vec![]).ok());
        assert!(!report(item(vec![good.clone(), Check::new("", 1.1, 1.0)]), vec![]).ok());
        assert!(!report(item(vec![Check::new("", f64::NAN, 1.0)]), vec![]).ok());
        let misprint = |printed, correct| Misprint::new("eq01", "", "", printed, correct, 1.0);
        assert!(report(item(vec![good.clone()]), vec![misprint(2.0, 0.5)]).ok());
        assert!(misprint(f64::NAN, 0.0).refuted && misprint(f64::INFINITY, 1.0).refuted);
        for bad in [misprint(1.0, 0.5), misprint(2.0, 1.5), misprint(2.0, f64::NAN)] {
            assert!(!report(item(vec![good.clone()]), vec![bad]).ok());
        }
    }

    #[test]
    fn every_misprint_of_the_index_is_refuted_and_no_other() {
        let mut listed: Vec<&str> = INDEX.iter().filter(|e| e.misprint.is_some()).map(|e| e.id).collect();
        let mut refuted: Vec<&str> = misprints::all().iter().map(|misprint| misprint.id).collect();
        listed.sort();
        refuted.sort();
        refuted.dedup();
        assert_eq!(listed, refuted);
    }
}
