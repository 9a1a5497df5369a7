//! Bytes to a reader. The first byte says which one, so that one program with one corpus fuzzes all of them;
//! `PERFORMER_DDPM_READER=NAME` lets it fuzz one alone.
#![no_main]

#[path = "../../tests/suite/support/readers.rs"]
mod readers;

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static ONLY: LazyLock<Option<usize>> = LazyLock::new(|| {
    let name = std::env::var("PERFORMER_DDPM_READER").ok()?;
    Some(readers::READERS.iter().position(|(reader, _)| *reader == name).expect("a reader's name"))
});

fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else { return };
    let reader = ONLY.unwrap_or(usize::from(*first) % readers::READERS.len());
    let _ = (readers::READERS[reader].1)(rest);
});
