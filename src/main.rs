//! The program `performer-ddpm`. Its commands are in the library's hidden module `cli`: what both would use
//! of generic code is compiled once.
#![deny(unsafe_code)]

fn main() -> std::process::ExitCode {
    performer_ddpm::cli::main()
}
