//! Other people's programs and libraries that tests compare with where they are installed.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::Mutex;

/// Prints, once, what is not compared because a peer is missing; fails where `PERFORMER_DDPM_REQUIRE_PEERS=1`
/// requires every peer.
pub fn skipped(what: impl Display) {
    static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let what = what.to_string();
    let required = std::env::var_os("PERFORMER_DDPM_REQUIRE_PEERS").is_some_and(|value| value == "1");
    assert!(!required, "PERFORMER_DDPM_REQUIRE_PEERS=1, but {what}");
    if TOLD.lock().expect("no thread panicked").insert(what.clone()) {
        println!("skipped, here and below: {what}");
    }
}
