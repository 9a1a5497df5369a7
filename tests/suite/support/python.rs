//! Python with diffusers, where there is one.

use super::peers;
use std::path::Path;
use std::process::{Command, Output};

fn run(script: &str, arguments: &[&Path]) -> std::io::Result<Output> {
    let interpreter = std::env::var_os("PERFORMER_DDPM_PYTHON").unwrap_or_else(|| "python3".into());
    let mut command = Command::new(interpreter);
    command.args(["-c", script]).args(arguments);
    // Nothing may be downloaded.
    command.env("HF_HUB_OFFLINE", "1").env("OMP_NUM_THREADS", "1").output()
}

/// Whether there is a Python with diffusers; prints a message where there is none, since the test then proves
/// nothing.
pub fn has_diffusers() -> bool {
    let found = run("import diffusers, safetensors, torch", &[]).is_ok_and(|output| output.status.success());
    if !found {
        peers::skipped(
            "no Python with diffusers (PERFORMER_DDPM_PYTHON names another interpreter than python3)",
        );
    }
    found
}

/// The standard output of a script that has to succeed.
pub fn output(script: &str, arguments: &[&Path]) -> String {
    let output = run(script, arguments).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}
