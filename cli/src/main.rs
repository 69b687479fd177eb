//! Trains and examines predictive coding networks from the command line.

#![forbid(unsafe_code)]

mod arrays;
mod bench;
mod compare;
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
mod predict;
mod progress;
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

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::console::{Failure, flatten_usage_error, print};

/// Predictive coding networks on the CPU.
///
/// Without a command, trains a small convolutional network on handwritten digits by exact,
/// fixed-prediction and strict predictive coding and compares them, as `train` does without
/// options; results go to the directory `out`.
///
/// PREDICTIVE_CODING_LEVEL=portable|avx2|avx512 forces a SIMD level.
#[derive(Parser)]
#[command(name = "predictive-coding", version)]
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
}

fn run() -> Result<(), Failure> {
    let cli = match Cli::try_parse() {
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
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
