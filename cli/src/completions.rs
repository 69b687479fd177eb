//! `completions`: a script that completes commands and options in a shell.

use clap::{Args, Command};
use clap_complete::{Shell, generate};

use crate::console::{Failure, print};

/// Print a script that completes commands and options in a shell.
///
/// For bash: predictive-coding completions bash > ~/.local/share/bash-completion/completions/predictive-coding
#[derive(Args, Clone, Debug)]
pub struct Completions {
    /// Shell
    shell: Shell,
}

impl Completions {
    pub fn run(self, command: &mut Command) -> Result<(), Failure> {
        let mut script = Vec::new();
        generate(self.shell, command, crate::PROGRAM, &mut script);
        // clap_complete 4.6 takes the dash of the program's name for the start of a command in half of its script for bash.
        let script = String::from_utf8_lossy(&script).replace("predictive__subcmd__coding", "predictive__coding");
        print(script.trim_end())
    }
}
