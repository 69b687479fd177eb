//! `reproduce`: the figures and the table of run times of Rosenbaum, "On the relationship between
//! predictive coding and backpropagation" (PLoS ONE 17(3), e0266102, 2022).

mod iterations;
mod learning;
mod maps;
mod pictures;
mod runtimes;
mod setting;
mod state;
mod vgg;

use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum};
use predictive_coding::{Solver, Strict};

use crate::console::Failure;
use crate::machine::on_threads;
use crate::options::Threads;
use crate::{interrupt, writable};

/// Reproduce a figure of the paper, or its table of run times.
///
/// Figures 1, 3, 5, 6 and 7 train a network by predictive coding and by backpropagation, from the same weights and with
/// the same batches. Figures 2 and 4 show the gradients of one batch over the iterations, 8 and 9 beliefs and errors of
/// VGG-19. The results are figure-N.csv, .png and .svg (or runtimes.*), and run.json. Ctrl-C stops a run; the same command
/// continues it.
#[derive(Args, Clone, Debug)]
#[command(group = ArgGroup::new("what").required(true))]
pub struct Reproduce {
    /// Number of the figure
    #[arg(long, value_name = "N", group = "what", value_parser = clap::value_parser!(u8).range(1..=9))]
    figure: Option<u8>,
    /// The table of run times: seconds for two epochs on MNIST by each method
    #[arg(long, group = "what")]
    runtimes: bool,
    /// Directory with MNIST or CIFAR-10, or with the subdirectories mnist and cifar10 [default: the built-in digits
    /// instead of MNIST]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Figures 8 and 9: weights of VGG-19, safetensors with torchvision's names [default: random]
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Figures 8 and 9: JPEG or PNG files [default: two patterns]
    #[arg(long, value_name = "FILE", num_args = 1..)]
    images: Vec<PathBuf>,
    /// Directory for the results [default: out/figure-N or out/runtimes]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Use few steps, iterations and samples, as a quick trial
    #[arg(long)]
    quick: bool,
    /// Seed for the initial weights and the order of the samples
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Figures 1 and 2: sign convention of strict
    ///
    /// 2022 is the convention of the code that produced the paper's figures: beliefs move up the loss, and gradients are
    /// taken at the activations of the forward pass.
    #[arg(long, value_enum, default_value = "current")]
    convention: ConventionName,
    /// Figures 1, 3, 5, 6, 7 and --runtimes: number of passes over the training set [default: as in the paper]
    #[arg(long, value_name = "E", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    epochs: Option<u64>,
    /// Figures 8 and 9: number of iterations [default: 500]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    iterations: Option<u32>,
    #[command(flatten)]
    threads: Threads,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ConventionName {
    /// epsilon_l = f_l(v_{l-1}) - v_l
    Current,
    /// epsilon_l = v_l - f_l(v_{l-1}), and the same epsilon_L
    #[value(name = "2022")]
    Published2022,
}

impl ConventionName {
    /// Strict by steps of this size.
    fn strict(self, eta: f64, iterations: usize) -> Strict {
        match self {
            ConventionName::Current => Strict::new(eta, iterations),
            ConventionName::Published2022 => Strict::by(Solver::Published2022(eta.into()), iterations),
        }
    }

    fn name(self) -> &'static str {
        match self {
            ConventionName::Current => "current",
            ConventionName::Published2022 => "2022",
        }
    }
}

impl Reproduce {
    pub fn run(self) -> Result<(), Failure> {
        self.check()?;
        interrupt::listen()?;
        let threads = self.threads.count();
        on_threads(threads, || {
            writable::directory(&self.out())?;
            match self.figure {
                None => runtimes::run(&self),
                Some(2 | 4) => iterations::run(&self),
                Some(8 | 9) => maps::run(&self),
                Some(_) => learning::run(&self),
            }
        })
    }

    /// Refuses what the figure has no use for.
    fn check(&self) -> Result<(), Failure> {
        let figure = self.figure;
        let maps = matches!(figure, Some(8 | 9));
        let trains = !maps && !matches!(figure, Some(2 | 4));
        let wrong = [
            ("--data", maps && self.data.is_some(), "figures 1 to 7 and --runtimes"),
            ("--weights", !maps && self.weights.is_some(), "figures 8 and 9"),
            ("--images", !maps && !self.images.is_empty(), "figures 8 and 9"),
            ("--iterations", !maps && self.iterations.is_some(), "figures 8 and 9"),
            ("--epochs", !trains && self.epochs.is_some(), "figures 1, 3, 5, 6 and 7 and --runtimes"),
            (
                "--convention 2022",
                !matches!(figure, Some(1 | 2)) && self.convention == ConventionName::Published2022,
                "figures 1 and 2",
            ),
        ];
        match wrong.into_iter().find(|&(_, wrong, _)| wrong) {
            Some((option, _, of)) => Err(Failure::usage(format!(
                "{option} was given, but is only for {of}; leave it out for {}",
                self.name()
            ))),
            None => Ok(()),
        }
    }

    /// What the files of the results are called.
    fn name(&self) -> String {
        self.figure.map_or("runtimes".into(), |figure| format!("figure-{figure}"))
    }

    fn out(&self) -> PathBuf {
        self.out.clone().unwrap_or_else(|| PathBuf::from("out").join(self.name()))
    }

    /// A file of the results, without its ending.
    fn file(&self) -> PathBuf {
        self.out().join(self.name())
    }

    /// The convention as a part of a title.
    fn convention_title(&self) -> &'static str {
        match self.convention {
            ConventionName::Current => "",
            ConventionName::Published2022 => ", convention of 2022",
        }
    }

    /// What became of a run that the user stopped.
    fn stopped(&self, when: &str) -> Failure {
        Failure::Interrupted(format!("{}: {when}; the same command continues it", self.name()))
    }
}
