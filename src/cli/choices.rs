//! Options whose values are names that the library gives: `--help` lists them with what each means.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use performer_ddpm::compare::Part;
use performer_ddpm::config::AttentionKind;

/// One of the kinds of attention, by name.
pub(super) fn attention_kinds() -> impl TypedValueParser<Value = AttentionKind> {
    let values = AttentionKind::ALL.map(|kind| PossibleValue::new(kind.name()).help(kind.summary()));
    PossibleValuesParser::new(values).try_map(|name| name.parse::<AttentionKind>())
}

/// One of the comparison's parts, by name.
pub(super) fn parts() -> impl TypedValueParser<Value = Part> {
    let values = Part::ALL.map(|part| PossibleValue::new(part.name()).help(part.summary()));
    PossibleValuesParser::new(values).try_map(|name| name.parse::<Part>())
}
