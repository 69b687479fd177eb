//! `train`: one method, or all three side by side.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Parser};
use predictive_coding::{Dataset, Network, Progress as RunProgress, Settings, load_checkpoint, save_checkpoint};
use serde_json::json;

use crate::compare;
use crate::console::{Failure, print};
use crate::descents::Descents;
use crate::machine::{check_memory, on_threads};
use crate::options::{Data, MethodName, OptimizerName, Threads, check_fit};
use crate::progress::Progress;
use crate::relaxing::{Relaxing, TRAINING_PRODUCTS, adapts, title, warn_of_unreached};
use crate::shares::shares_table;
use crate::table::{percent, table};
use crate::training::{Flow, Task, Training, Watcher};
use crate::{figure, interrupt, report, writable};

/// What a run by one method writes.
const RESULTS: [&str; 5] = ["weights.safetensors", "history.csv", "curves.png", "curves.svg", "run.json"];

/// How often curves are drawn while a run goes.
const DRAW_EVERY: Duration = Duration::from_secs(5);

/// Train a network, by default a small one on digits by all three methods.
///
/// With --method one method is trained; the directory of results gets weights.safetensors,
/// history.csv (a row per step and per evaluation) and curves.png and .svg, both written anew every few
/// seconds, and run.json (every setting). Ctrl-C stops it after its step; with --checkpoint it can go on with --resume, and ends
/// with the same bits as a run that was never stopped. With --eta auto it ends near it: the estimate of
/// the largest stable steps follows the weights from step to step, is not kept, and starts anew.
///
/// Without --method exact, fixed-prediction and strict are trained one after the other, each from
/// the same weights and batches, and compared: a table on standard output, and comparison.csv,
/// comparison.png, comparison.svg, history.csv and run.json. --eta auto and --tolerance are then for
/// strict, and fixed-prediction takes 0.1; --literal is for fixed-prediction.
#[derive(Args, Clone, Debug)]
pub struct Train {
    #[command(flatten)]
    data: Data,
    /// Model file [default: the data set's own, for mnist and cifar10 the paper's]
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// How errors and gradients are found [default: all three, compared]
    #[arg(long, value_enum)]
    method: Option<MethodName>,
    #[command(flatten)]
    relaxing: Relaxing,
    /// Passes over the training set [default: digits 40, mnist 2, cifar10 1]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    epochs: Option<u64>,
    /// Samples of a step [default: digits 64, mnist 300, cifar10 256]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    batch: Option<u64>,
    /// What steps down the gradients
    #[arg(long, value_enum, default_value = "adam")]
    optimizer: OptimizerName,
    /// Learning rate [default: sgd 0.1, adam and adamw 0.002, on digits 0.001]
    #[arg(long, allow_hyphen_values = true)]
    lr: Option<f64>,
    /// Seed of the initial weights and of the order of the samples
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    threads: Threads,
    /// Directory of the results, created if it is not there
    #[arg(long, value_name = "DIR", default_value = "out")]
    out: PathBuf,
    /// Where to keep the state of the run: at the end of every epoch, and when it is stopped
    #[arg(long, value_name = "FILE", requires = "method")]
    checkpoint: Option<PathBuf>,
    /// Keep it every so many steps as well
    #[arg(long, value_name = "STEPS", requires = "checkpoint", value_parser = clap::value_parser!(u64).range(1..))]
    checkpoint_every: Option<u64>,
    /// Go on from the checkpoint
    #[arg(long, requires = "checkpoint")]
    resume: bool,
}

/// A parser that knows these options alone.
#[derive(Parser)]
struct Defaults {
    #[command(flatten)]
    train: Train,
}

/// What the options stand for.
pub struct Setup {
    pub network: Network,
    pub train: Dataset,
    pub test: Dataset,
    pub dataset: &'static str,
    pub relaxing: Relaxing,
    pub batch: usize,
    pub epochs: u64,
    pub seed: u64,
    pub optimizer: OptimizerName,
    pub lr: f64,
    pub out: PathBuf,
}

impl Setup {
    /// Training by one method.
    pub fn task(&self, method: MethodName) -> Result<Task<'_>, Failure> {
        let (method, options) = self.relaxing.with(method, TRAINING_PRODUCTS)?;
        Ok(Task {
            network: &self.network,
            train: &self.train,
            test: &self.test,
            method,
            options,
            batch: self.batch,
            epochs: self.epochs,
            seed: self.seed,
            whole_batches: false,
            follow_divergence: false,
        })
    }

    /// A run of `task` from its first step.
    pub fn start<'a>(&self, task: Task<'a>) -> Result<Training<'a>, Failure> {
        let parameters = task.network.initialize(task.seed);
        let optimizer = self.optimizer.build(&parameters, self.lr)?;
        Training::new(task, parameters, optimizer, RunProgress::default())
    }
}

impl Train {
    /// `train` without options.
    pub fn main_job() -> Self {
        Defaults::parse_from([env!("CARGO_BIN_NAME")]).train
    }

    pub fn run(self) -> Result<(), Failure> {
        self.relaxing.check(self.method)?;
        interrupt::listen()?;
        let threads = self.threads.count();
        on_threads(threads, || {
            let setup = self.setup()?;
            match self.method {
                Some(method) => self.train_one(method, &setup),
                None => compare::run(&setup),
            }
        })
    }

    fn setup(&self) -> Result<Setup, Failure> {
        let name = self.data.dataset;
        self.relaxing.with(self.method.unwrap_or(MethodName::Strict), TRAINING_PRODUCTS)?;
        let network = name.network(self.model.as_deref())?;
        let (train, test) = self.data.load()?;
        check_fit(&network, &train)?;
        let batch = self.batch.map_or(name.default_batch(), |batch| usize::try_from(batch).unwrap_or(usize::MAX));
        let batch = batch.min(train.len());
        check_memory(&network, batch)?;
        writable::directory(&self.out)?;
        Ok(Setup {
            network,
            train,
            test,
            dataset: name.name(),
            relaxing: self.relaxing,
            batch,
            epochs: self.epochs.unwrap_or(name.default_epochs()),
            seed: self.seed,
            optimizer: self.optimizer,
            lr: self.lr.unwrap_or(self.optimizer.default_lr(name)),
            out: self.out.clone(),
        })
    }

    fn train_one(&self, method: MethodName, setup: &Setup) -> Result<(), Failure> {
        let task = setup.task(method)?;
        warn_of_unreached(task.method, &task.options, setup.network.layers().len());
        let settings = self.checkpoint.as_ref().map_or(Settings::new(), |_| checkpoint_settings(setup, &task));
        let mut training = match &self.checkpoint {
            Some(path) if self.resume => {
                let mut optimizer = setup.optimizer.build(&setup.network.initialize(setup.seed), setup.lr)?;
                let (parameters, progress) = load_checkpoint(path, &setup.network, &settings, &mut *optimizer)?;
                Training::new(task, parameters, optimizer, progress)?
            }
            _ => setup.start(task)?,
        };
        if let Some(path) = &self.checkpoint {
            let results = RESULTS.map(|name| setup.out.join(name));
            let results = results.iter().map(|result| ("a file of the results", result.as_path()));
            writable::apart(path, results.chain(self.model.as_deref().map(|model| ("--model", model))))?;
            writable::file(path)?;
        }

        let mut bar = Progress::new(task.steps().saturating_mul(task.work()));
        bar.advance(training.progress().step.saturating_mul(task.work()));
        bar.set_prefix(task.method.name());
        let mut keeper = Keeper {
            path: self.checkpoint.as_deref(),
            every: self.checkpoint_every,
            settings,
            bar,
            out: &setup.out,
            drawn: Instant::now(),
        };
        let outcome = training.run(&mut keeper);
        keeper.bar.finish();
        let status = match &outcome {
            Ok(Flow::Continue) => "finished",
            Ok(Flow::Stop) => "interrupted",
            Err(_) => "failed",
        };
        let scores = match outcome {
            Ok(Flow::Continue) => Some((training.evaluate(task.train)?, training.evaluate(task.test)?)),
            _ => None,
        };
        let optimizer = training.optimizer().description();
        let mut run = report::describe(&task, setup.dataset, &optimizer, training.session());
        run["status"] = json!(status);
        run["steps"] = json!(training.progress().step);
        run["seconds"] = json!(training.seconds());
        run["last_step"] = json!(training.descents().map(Descents::to_json));
        run["train"] = json!(scores.map(|(train, _)| report::score(train)));
        run["test"] = json!(scores.map(|(_, test)| report::score(test)));
        let written = write_results(setup, &training, &run);
        let flow = outcome?;
        written?;
        match (flow, scores) {
            (Flow::Continue, Some((train, test))) => {
                let row = vec![
                    title(task.method, &task.options),
                    format!("{:.5}", train.loss),
                    percent(train.accuracy),
                    format!("{:.5}", test.loss),
                    percent(test.accuracy),
                    format!("{:.2}", training.seconds()),
                ];
                let header = ["method", "train loss", "train accuracy", "test loss", "test accuracy", "seconds"];
                let mut text = table(&header, &[row]);
                if let Some(descents) = training.descents().filter(|_| adapts(&task.options)) {
                    text.push_str(&format!("\n\nLast step: {descents}"));
                }
                if let Some(shares) = shares_table(task.method, &setup.network.precisions()) {
                    text.push_str("\n\n");
                    text.push_str(&shares);
                }
                print(&text)
            }
            _ => Err(stopped(training.progress().step, self.checkpoint.is_some())),
        }
    }
}

fn stopped(step: u64, kept: bool) -> Failure {
    let advice = if kept { "go on with --resume" } else { "nothing was kept to go on from; --checkpoint FILE does" };
    Failure::Interrupted(format!("after step {step}; {advice}"))
}

/// What a checkpoint must agree with besides network and optimiser.
fn checkpoint_settings(setup: &Setup, task: &Task) -> Settings {
    Settings::from([
        ("dataset".to_string(), setup.dataset.to_string()),
        ("training samples".to_string(), setup.train.len().to_string()),
        ("checksum of the training samples".to_string(), setup.train.checksum()),
        ("method".to_string(), title(task.method, &task.options)),
        ("batch".to_string(), setup.batch.to_string()),
        ("seed".to_string(), setup.seed.to_string()),
    ])
}

fn write_results(setup: &Setup, training: &Training, run: &serde_json::Value) -> Result<(), Failure> {
    training.parameters().save(setup.out.join("weights.safetensors")).map_err(Failure::run)?;
    write_curves(&setup.out, training)?;
    report::write_json(&setup.out.join("run.json"), run)
}

fn write_curves(out: &std::path::Path, training: &Training) -> Result<(), Failure> {
    let history = &training.progress().history;
    let rows: Vec<_> =
        std::iter::once(report::history_header()).chain(history.iter().map(report::history_row)).collect();
    report::write_csv(&out.join("history.csv"), &rows)?;
    figure::write(&out.join("curves"), &report::curves(&title(training.task().method, &training.task().options), history))
}

/// Keeps checkpoints, moves the bar, and ends the run when the user asks.
struct Keeper<'a> {
    path: Option<&'a std::path::Path>,
    every: Option<u64>,
    settings: Settings,
    bar: Progress,
    /// Where the curves go.
    out: &'a std::path::Path,
    drawn: Instant,
}

impl Watcher for Keeper<'_> {
    fn after_step(&mut self, training: &Training) -> Result<Flow, Failure> {
        self.bar.step(training, training.task().work());
        let progress = training.progress();
        let asked = interrupt::asked();
        let due =
            training.evaluation().is_some() || self.every.is_some_and(|every| progress.step.is_multiple_of(every));
        if let Some(path) = self.path.filter(|_| asked || due) {
            let network = training.task().network;
            save_checkpoint(path, network, &self.settings, training.parameters(), training.optimizer(), progress)
                .map_err(Failure::run)?;
        }
        if self.drawn.elapsed() > DRAW_EVERY {
            write_curves(self.out, training)?;
            self.drawn = Instant::now();
        }
        // A run that is asked to stop with its last step has nothing left to go on with.
        Ok(if asked && progress.step < training.task().steps() { Flow::Stop } else { Flow::Continue })
    }
}
