//! The program: the command line of the library beside it.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(predictive_coding_cli::main(std::env::args_os()))
}
