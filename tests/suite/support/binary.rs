//! The program, run in a folder.

use std::path::Path;
use std::process::{Command, Output};

/// The program with these arguments. On Linux signals do what they do by default, also where the tests were
/// started by `nohup` or in the background and would pass on that they are ignored.
pub fn command(folder: &Path, arguments: &[&str]) -> Command {
    let program = env!("CARGO_BIN_EXE_performer-ddpm");
    let mut command = if cfg!(target_os = "linux") {
        let mut command = Command::new("/usr/bin/env");
        command.args(["--default-signal=HUP,INT,TERM", program]);
        command
    } else {
        Command::new(program)
    };
    command.current_dir(folder).args(arguments);
    command
}

/// Runs the program to its end.
pub fn run(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().expect("the binary starts")
}

/// What the program prints on stdout when it succeeds.
pub fn succeed(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}
