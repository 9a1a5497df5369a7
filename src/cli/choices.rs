//! Options whose values are names that the library gives: `--help` lists them with what each means.

use crate::compare::Part;
use crate::config::AttentionKind;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

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
