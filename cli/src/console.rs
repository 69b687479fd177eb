//! Output: results on standard output, everything else on standard error, a failure as one line.

use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use clap::error::{ContextKind, ContextValue};

use crate::ranks;

/// The end of every help.
pub const EXIT_STATUS: &str = "\
Exit status:
  0    Success
  1    The run failed, for example because a relaxation diverged
  2    Wrong usage or input; nothing was run
  130  The run was stopped by Ctrl-C, SIGTERM or SIGHUP";

/// Why the program stops early.
#[derive(Debug)]
pub enum Failure {
    /// Wrong usage or input; nothing was run. Exit status 2.
    Usage(String),
    /// The run failed. Exit status 1.
    Run(String),
    /// The user stopped the run. Exit status 130, as for a program that Ctrl-C ends.
    Interrupted(String),
    /// Another rank has failed with this exit status, and tells why.
    Elsewhere(u8),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(message) | Failure::Run(message) | Failure::Interrupted(message) => f.write_str(message),
            Failure::Elsewhere(_) => f.write_str("another rank failed"),
        }
    }
}

impl Failure {
    /// Wrong usage or input.
    pub fn usage(message: impl ToString) -> Self {
        Failure::Usage(message.to_string())
    }

    /// A failed run.
    pub fn run(message: impl ToString) -> Self {
        Failure::Run(message.to_string())
    }

    /// The same failure, with the rank where it happened.
    pub fn on_rank(self, rank: usize) -> Self {
        let told = |message| format!("rank {rank}: {message}");
        match self {
            Failure::Usage(message) => Failure::Usage(told(message)),
            Failure::Run(message) => Failure::Run(told(message)),
            Failure::Interrupted(message) => Failure::Interrupted(told(message)),
            Failure::Elsewhere(status) => Failure::Elsewhere(status),
        }
    }

    /// The exit status.
    pub fn status(&self) -> u8 {
        match self {
            Failure::Run(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Interrupted(_) => 130,
            Failure::Elsewhere(status) => *status,
        }
    }

    /// Tells the failure in one line; returns the exit status.
    pub fn report(&self) -> u8 {
        match self {
            Failure::Interrupted(message) => write_line(&format!("stopped: {message}")),
            Failure::Usage(message) | Failure::Run(message) => write_line(&format!("error: {message}")),
            Failure::Elsewhere(_) => (),
        }
        self.status()
    }
}

/// What the library refuses before a run is wrong input.
impl From<predictive_coding::Error> for Failure {
    fn from(error: predictive_coding::Error) -> Self {
        Failure::usage(error)
    }
}

static SILENT: AtomicBool = AtomicBool::new(false);

/// From now on, nothing is told but the failures of this process.
pub fn silence() {
    SILENT.store(true, Ordering::Relaxed);
}

/// Whether this process tells how it goes on.
pub fn speaks() -> bool {
    ranks::leads() && !SILENT.load(Ordering::Relaxed)
}

/// Writes a result to standard output, on the rank that leads. A reader that has gone away is no failure.
pub fn print(text: &str) -> Result<(), Failure> {
    if !speaks() {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::run(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes one line to standard error, on the rank that leads.
pub fn note(text: &str) {
    if speaks() {
        write_line(text);
    }
}

fn write_line(text: &str) {
    // There is nowhere left to tell that standard error is closed.
    let _ = writeln!(io::stderr(), "{}", single_line(text));
}

/// The text without line ends and other control characters.
fn single_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The parser's complaint, which it spreads over paragraphs, as one line.
pub fn flatten_usage_error(error: &clap::Error) -> String {
    if let Some(told) = wrong_value(error) {
        return told;
    }
    let text = error.render().to_string();
    let parts: Vec<String> = text
        .split("\n\n")
        .map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|part| !part.is_empty() && !part.starts_with("Usage:") && !part.starts_with("For more information"))
        .collect();
    let message = parts.join("; ");
    format!("{}; see --help", message.strip_prefix("error: ").unwrap_or(&message))
}

/// As in `--batch 10x: expected a whole number`, if it is a value that is wrong.
fn wrong_value(error: &clap::Error) -> Option<String> {
    let text = |kind: ContextKind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let (argument, value) = (text(ContextKind::InvalidArg)?, text(ContextKind::InvalidValue)?);
    let option = argument.split_whitespace().next()?;
    let expected = match (error.source(), error.get(ContextKind::ValidValue)) {
        (Some(source), _) => match source.to_string().as_str() {
            "invalid digit found in string" | "cannot parse integer from empty string" => {
                "expected a whole number".into()
            }
            "invalid float literal" | "cannot parse float from empty string" => "expected a number".into(),
            other => other.to_string(),
        },
        (None, Some(ContextValue::Strings(names))) => format!("expected {}", names.join(", ")),
        (None, _) => return None,
    };
    (!value.is_empty()).then(|| format!("{option} {value}: {expected}; see --help"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_errors_become_one_line() {
        let command = || clap::Command::new("x").arg(clap::arg!(--eta <E>).value_parser(clap::value_parser!(f64)));
        let message = |arguments: &[&str]| flatten_usage_error(&command().try_get_matches_from(arguments).unwrap_err());
        let unknown = message(&["x", "--etta", "3"]);
        assert!(
            unknown.starts_with("unexpected argument '--etta' found; tip: ") && !unknown.contains('\n'),
            "{unknown}"
        );
        let invalid = message(&["x", "--eta", "small"]);
        assert_eq!(invalid, "--eta small: expected a number; see --help");
    }

    #[test]
    fn notes_stay_on_one_line() {
        assert_eq!(single_line("a\nb\u{1b}[c"), "a b [c");
    }
}
