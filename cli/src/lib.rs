//! Trains and examines predictive coding networks from the command line.

#![forbid(unsafe_code)]

mod arrays;
mod bench;
mod compare;
mod completions;
mod console;
mod descents;
mod deviation;
mod evaluate;
mod figure;
mod infer;
mod interrupt;
mod machine;
mod optimizing;
mod options;
mod pixels;
mod predict;
mod progress;
mod ranks;
mod relaxing;
mod report;
mod reproduce;
mod shares;
mod summary;
mod table;
mod timing;
mod trace;
mod train;
mod training;
mod writable;

use std::ffi::OsString;
use std::sync::{Arc, LazyLock};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use predictive_coding::{Level, Ranks};

use crate::console::{EXIT_STATUS, Failure, flatten_usage_error, print};
use crate::relaxing::{INFERENCE_PRODUCTS, TRAINING_PRODUCTS};

/// The name of the program.
const PROGRAM: &str = "predictive-coding";

/// The version, and what the kernels run on.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let level = Level::from_environment().map_or_else(|error| error.to_string(), |level| level.name().into());
    let available: Vec<&str> = Level::available().iter().map(|level| level.name()).collect();
    format!(
        "{}\nSIMD level: {level} (available: {})\nfeatures: files, rayon",
        env!("CARGO_PKG_VERSION"),
        available.join(", ")
    )
});

/// Train and examine predictive coding networks on the CPU.
///
/// Without a command, the program trains a small convolutional network on handwritten digits by exact,
/// fixed-prediction and strict predictive coding, and compares them. This is `train` without options. Results are
/// written to the directory `out`.
///
/// The environment variable PREDICTIVE_CODING_LEVEL selects the SIMD level: portable, avx2 or avx512. The default is
/// the widest that the CPU has.
#[derive(Parser)]
#[command(name = PROGRAM, version, long_version = VERSION.as_str())]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    Train(train::Train),
    Infer(infer::Infer),
    Evaluate(evaluate::Evaluate),
    Predict(predict::Predict),
    Summary(summary::Summary),
    Reproduce(reproduce::Reproduce),
    Bench(bench::Bench),
    Completions(completions::Completions),
}

/// The command line, with the defaults of each command in its help.
fn command() -> clap::Command {
    Cli::command()
        .mut_subcommands(|command| command.after_help(EXIT_STATUS))
        .mut_subcommand("train", |command| relaxing::explain(command, true, TRAINING_PRODUCTS))
        .mut_subcommand("summary", |command| relaxing::explain(command, true, TRAINING_PRODUCTS))
        .mut_subcommand("infer", |command| relaxing::explain(command, false, INFERENCE_PRODUCTS))
        .after_help(EXIT_STATUS)
}

fn run(arguments: impl IntoIterator<Item = OsString>) -> Result<(), Failure> {
    let parsed = command()
        .try_get_matches_from(arguments.into_iter().collect::<Vec<_>>())
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(help) if !help.use_stderr() => return print(help.render().to_string().trim_end()),
        Err(error) => return Err(Failure::usage(flatten_usage_error(&error))),
    };
    match cli.command {
        None => train::Train::main_job().run(),
        Some(Command::Train(train)) => train.run(),
        Some(Command::Infer(infer)) => infer.run(),
        Some(Command::Evaluate(evaluate)) => evaluate.run(),
        Some(Command::Predict(predict)) => predict.run(),
        Some(Command::Summary(summary)) => summary.run(),
        Some(Command::Reproduce(reproduce)) => reproduce.run(),
        Some(Command::Bench(bench)) => bench.run(),
        Some(Command::Completions(completions)) => completions.run(&mut command()),
    }
}

/// Runs the program with these arguments, the first of which is its name, without a word.
///
/// # Errors
/// The exit status, and why it failed in one line.
pub fn run_quietly(arguments: impl IntoIterator<Item = OsString>) -> Result<(), (u8, String)> {
    console::silence();
    run(arguments).map_err(|failure| (failure.status(), failure.to_string()))
}

/// Runs the program on one of several ranks, which share the batches of `train`. Returns the exit status, and whether the run
/// failed under way, so that other ranks may wait for this one.
pub fn main_on_ranks(arguments: impl IntoIterator<Item = OsString>, ranks: Arc<dyn Ranks>) -> (u8, bool) {
    ranks::share(ranks);
    let Err(failure) = run(arguments) else { return (0, false) };
    let status = if ranks::leads() { failure.report() } else { failure.status() };
    (status, matches!(failure, Failure::Run(_)))
}

/// Runs the program with these arguments, the first of which is its name; returns the exit status.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    match run(arguments) {
        Ok(()) => 0,
        Err(failure) => failure.report(),
    }
}
