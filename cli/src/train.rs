//! `train`: one method, or all three side by side.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, Parser};
use predictive_coding::{
    Dataset, Method, Network, OnDivergence, Parameters, Progress as RunProgress, Settings, load_checkpoint,
    load_checkpoint_overriding, save_checkpoint,
};
use serde_json::json;

use crate::compare;
use crate::console::{Failure, note, print};
use crate::descents::Descents;
use crate::machine::{check_memory, on_threads};
use crate::optimizing::Optimizing;
use crate::options::{Data, DatasetName, MethodName, Threads, check_fit, load_weights};
use crate::progress::Progress;
use crate::relaxing::{OnDivergenceName, Relaxing, TRAINING_PRODUCTS, adapts, on_divergence, title, warn_of_unreached};
use crate::shares::shares_table;
use crate::table::{percent, table};
use crate::training::{Flow, Task, Training, Watcher};
use crate::{figure, interrupt, ranks, report, writable};

/// What a run by one method writes.
const RESULTS: [&str; 5] = ["weights.safetensors", "history.csv", "curves.png", "curves.svg", "run.json"];

/// Settings by which the steps of an epoch are counted.
const COUNTED_BY: [&str; 2] = ["batch:", "training samples:"];

/// The directory of results where none is named.
const DEFAULT_OUT: &str = "out";

/// How often curves are drawn while a run goes.
const DRAW_EVERY: Duration = Duration::from_secs(5);

/// Train a network by one method, or by all three to compare them.
///
/// With --method, one method is trained. The results are weights.safetensors, history.csv (a row for each step and
/// each evaluation), curves.png and curves.svg (rewritten every few seconds), and run.json (all settings). Ctrl-C stops
/// the run. With --checkpoint, it can be continued by --resume, and the results are bit-identical to those of a run that
/// was never stopped. With --eta auto they are only nearly identical, because the estimate of the step sizes is not
/// part of the checkpoint.
///
/// Without --method, exact, fixed-prediction and strict are trained one after the other, from the same weights and with
/// the same batches. The results are a table on standard output, comparison.csv, comparison.png, comparison.svg,
/// history.csv and run.json. --eta auto, --tolerance and --solver then apply to strict only (fixed-prediction uses
/// --eta 0.1), and --literal to fixed-prediction only.
#[derive(Args, Clone, Debug)]
pub struct Train {
    #[command(flatten)]
    threads: Threads,
    #[command(flatten)]
    data: Data,
    /// Model file [default: one for the data set; for mnist and cifar10 the paper's network]
    #[arg(long, value_name = "FILE", help_heading = "Network")]
    model: Option<PathBuf>,
    /// Initial weights, in the format of infer [default: random, see --seed]; with --resume, the checkpoint's are used
    #[arg(long, value_name = "FILE", help_heading = "Network")]
    weights: Option<PathBuf>,
    /// How errors and gradients are computed [default: all three, to compare them]
    #[arg(long, value_enum, help_heading = "Relaxation")]
    method: Option<MethodName>,
    #[command(flatten)]
    relaxing: Relaxing,
    /// strict, error-based: what to do with a sample whose relaxation diverges [default: shrink, or stop for error-based]
    #[arg(long, value_enum, value_name = "WHAT", help_heading = "Relaxation")]
    on_divergence: Option<OnDivergenceName>,
    /// Number of passes over the training set [default: digits 40, mnist 2, cifar10 1, your own data 10]
    #[arg(long, help_heading = "Optimisation", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    epochs: Option<u64>,
    /// Number of samples per step [default: mnist 300, cifar10 256, others 64]
    #[arg(long, help_heading = "Optimisation", value_parser = clap::value_parser!(u64).range(1..))]
    batch: Option<u64>,
    /// Fewest groups that a batch is cut into, to be shared by several processes
    #[arg(long, value_name = "N", help_heading = "Optimisation", value_parser = clap::value_parser!(u16).range(1..))]
    groups: Option<u16>,
    #[command(flatten)]
    optimizing: Optimizing,
    /// Seed for the initial weights, the order of the samples and the masks of dropout
    #[arg(long, default_value_t = 0, help_heading = "Optimisation")]
    seed: u64,
    /// Directory for the results; created if missing [default: out, with --method a new directory in it]
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    out: Option<PathBuf>,
    /// Replace the results and the checkpoint of another run
    #[arg(long, help_heading = "Output")]
    overwrite: bool,
    /// File for the state of the run, written after every epoch and when the run is stopped; needs --method
    #[arg(long, value_name = "FILE", requires = "method", help_heading = "Checkpoint")]
    checkpoint: Option<PathBuf>,
    /// Also write the checkpoint after every so many steps
    #[arg(long, value_name = "STEPS", requires = "checkpoint", help_heading = "Checkpoint",
        value_parser = clap::value_parser!(u64).range(1..))]
    checkpoint_every: Option<u64>,
    /// Continue from the checkpoint
    #[arg(long, requires = "checkpoint", help_heading = "Checkpoint")]
    resume: bool,
    /// Continue with settings other than those of the checkpoint; run.json lists the differences
    #[arg(long = "override", requires = "resume", help_heading = "Checkpoint")]
    overrides: bool,
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
    /// The weights that a run starts from.
    pub initial: Parameters,
    pub train: Dataset,
    pub test: Dataset,
    pub dataset: String,
    pub relaxing: Relaxing,
    pub on_divergence: Option<OnDivergence>,
    pub batch: usize,
    pub groups: Option<usize>,
    pub epochs: u64,
    pub seed: u64,
    pub optimizing: Optimizing,
    pub name: DatasetName,
    pub out: PathBuf,
    /// Whether this run made the directory.
    pub out_is_new: bool,
}

impl Setup {
    /// Training by one method.
    pub fn task(&self, method: MethodName) -> Result<Task<'_>, Failure> {
        let method = match self.relaxing.method(method, TRAINING_PRODUCTS)? {
            Method::Strict(strict) => {
                strict.with_on_divergence(self.on_divergence.unwrap_or(OnDivergence::Shrink)).into()
            }
            Method::ErrorBased(errors) => errors.with_on_divergence(self.on_divergence.unwrap_or_default()).into(),
            other => other,
        };
        method.validate()?;
        let options = self.relaxing.options().with_dropout_seed(Some(self.seed)).with_groups(self.groups);
        let options = options.with_stop(Some(interrupt::flag()));
        let per_epoch = self.train.len().div_ceil(self.batch) as u64;
        Ok(Task {
            rate: Some(self.optimizing.rate(&self.name, self.epochs, per_epoch)?),
            clip: self.optimizing.clip(),
            patience: self.optimizing.patience,
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
        let optimizer = self.optimizing.build(&self.initial, &self.name)?;
        Training::new(task, self.initial.clone(), optimizer, RunProgress::default())
    }
}

impl Train {
    /// `train` without options.
    pub fn main_job() -> Self {
        Defaults::parse_from([crate::PROGRAM]).train
    }

    pub fn run(self) -> Result<(), Failure> {
        self.relaxing.check(self.method)?;
        if self.method == Some(MethodName::Incremental) && self.optimizing.clip().is_some() {
            return Err(Failure::usage(
                "--clip was given, but the steps of --method incremental are not clipped; leave it out",
            ));
        }
        interrupt::listen()?;
        let threads = self.threads.count();
        on_threads(threads, || {
            let setup = ranks::agree(self.setup())?;
            ranks::check_same(
                "data set",
                [setup.train.checksum(), setup.test.checksum()],
                "copy the data, or name it by --data",
            )?;
            let outcome = match self.method {
                Some(method) => self.train_one(method, &setup),
                None => compare::run(&setup),
            };
            if outcome.is_err() && setup.out_is_new {
                // Fails if something is in it.
                let _ = std::fs::remove_dir(&setup.out);
            }
            outcome
        })
    }

    fn setup(&self) -> Result<Setup, Failure> {
        let name = &self.data.dataset;
        self.relaxing.method(self.method.unwrap_or(MethodName::Strict), TRAINING_PRODUCTS)?;
        let network = name.network(self.model.as_deref())?;
        let initial = match &self.weights {
            Some(path) => load_weights(&network, path)?,
            None => network.initialize(self.seed),
        };
        let (train, test) = self.data.load()?;
        check_fit(&network, &train)?;
        check_fit(&network, &test)?;
        let batch = self.batch.map_or(name.default_batch(), |batch| usize::try_from(batch).unwrap_or(usize::MAX));
        let batch = batch.min(train.len());
        check_memory(&network, batch.div_ceil(ranks::size()))?;
        let (out, out_is_new) = self.directory()?;
        Ok(Setup {
            network,
            initial,
            train,
            test,
            dataset: name.name(),
            relaxing: self.relaxing.clone(),
            on_divergence: self.on_divergence.map(OnDivergenceName::choice),
            batch,
            groups: self.groups.map(usize::from),
            epochs: self.epochs.unwrap_or(name.default_epochs()),
            seed: self.seed,
            optimizing: self.optimizing,
            name: name.clone(),
            out,
            out_is_new,
        })
    }

    /// The directory of the results, in which no other run's are lost, and whether it is new.
    fn directory(&self) -> Result<(PathBuf, bool), Failure> {
        let results: &[&str] = if self.method.is_some() { &RESULTS } else { &RESULTS[..1] };
        let holds_a_run = |directory: &Path| results.iter().any(|name| directory.join(name).exists());
        let out = match (&self.out, self.method) {
            (Some(out), _) => out.clone(),
            (None, None) => PathBuf::from(DEFAULT_OUT),
            (None, Some(method)) => {
                let name = format!("{}-{}", self.data.dataset.name(), method.name());
                let numbered = (2..).map(|number| format!("{name}-{number}"));
                let mut names = std::iter::once(name.clone()).chain(numbered);
                let free = names.find(|name| !holds_a_run(&Path::new(DEFAULT_OUT).join(name)));
                Path::new(DEFAULT_OUT).join(free.unwrap_or(name))
            }
        };
        if holds_a_run(&out) && !self.overwrite && !(self.resume && self.wrote(&out)) {
            return Err(Failure::usage(format!(
                "{}: holds the results of another run; choose another --out, or replace them with --overwrite",
                out.display()
            )));
        }
        let is_new = !out.exists() && ranks::leads();
        if ranks::leads() {
            writable::directory(&out)?;
        }
        Ok((out, is_new))
    }

    /// Whether the results in a directory may be those of the run that is in the checkpoint: one that was killed has not
    /// come to say so.
    fn wrote(&self, out: &Path) -> bool {
        let run = std::fs::read(out.join("run.json")).ok();
        let run = run.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
        run.is_none_or(|run| run["checkpoint"] == json!(self.checkpoint))
    }

    /// Refuses a place for the checkpoint where something else would be lost.
    fn check_checkpoint(&self, setup: &Setup) -> Result<(), Failure> {
        let Some(path) = &self.checkpoint else { return Ok(()) };
        let results = RESULTS.map(|name| setup.out.join(name));
        let results = results.iter().map(|result| ("a result of the run", result.as_path()));
        let own = match &self.data.dataset {
            DatasetName::File(path) => Some(path),
            _ => None,
        };
        let inputs = [("--model", self.model.as_ref()), ("--weights", self.weights.as_ref()), ("--dataset", own)];
        let inputs = inputs.into_iter().filter_map(|(name, path)| Some((name, path?.as_path())));
        writable::apart(path, results.chain(inputs))?;
        if path.is_file() && !self.resume && !self.overwrite {
            return Err(Failure::usage(format!(
                "{}: holds the state of a run; continue it with --resume, choose another --checkpoint, or replace it with \
                 --overwrite",
                path.display()
            )));
        }
        writable::file(path)
    }

    /// The run from its first step or from the checkpoint, and the settings that differ from the latter's.
    fn begin<'a>(
        &self,
        task: &Task<'a>,
        setup: &Setup,
        settings: &Settings,
    ) -> Result<(Training<'a>, Vec<String>), Failure> {
        if ranks::leads() {
            self.check_checkpoint(setup)?;
        }
        let Some(path) = self.checkpoint.as_ref().filter(|_| self.resume) else {
            return Ok((setup.start(task.clone())?, Vec::new()));
        };
        let mut optimizer = setup.optimizing.build(&setup.initial, &setup.name)?;
        let (network, optimiser) = (&setup.network, &mut *optimizer);
        let (parameters, progress, overridden) = match self.overrides {
            true => {
                let found = load_checkpoint_overriding(path, network, settings, optimiser)?;
                if found.2.iter().any(|told| COUNTED_BY.iter().any(|setting| told.starts_with(setting))) {
                    return Err(Failure::usage(format!(
                        "{}: is a checkpoint of a run with {}; these settings cannot be overridden, because they determine the steps of an epoch",
                        path.display(),
                        found.2.join("; ")
                    )));
                }
                found
            }
            false => {
                let (parameters, progress) = load_checkpoint(path, network, settings, optimiser)?;
                (parameters, progress, Vec::new())
            }
        };
        Ok((Training::new(task.clone(), parameters, optimizer, progress)?, overridden))
    }

    fn train_one(&self, method: MethodName, setup: &Setup) -> Result<(), Failure> {
        let task = setup.task(method)?;
        warn_of_unreached(&task.method, &setup.network);
        let settings = self.checkpoint.as_ref().map_or(Settings::new(), |_| checkpoint_settings(setup, &task));
        let (mut training, overridden) = ranks::agree(self.begin(&task, setup, &settings))?;
        let progress = training.progress();
        let state = (format!("{settings:?} {progress:?}"), training.parameters().values().iter().map(|v| v.to_bits()));
        ranks::check_same(
            "state",
            (state.0, state.1.collect::<Vec<_>>()),
            "give all ranks the same options and files",
        )?;
        let groups = training.session().batch_groups();
        if groups < ranks::size() {
            note(&format!(
                "warning: {} of {} ranks have nothing to do, because the batch is cut into {groups} groups; try --groups {1}",
                ranks::size() - groups,
                ranks::size()
            ));
        }
        let mut bar = Progress::new(task.steps().saturating_mul(task.work()));
        bar.advance(training.progress().step.saturating_mul(task.work()));
        bar.set_prefix(task.method.name());
        let mut keeper = Keeper {
            path: self.checkpoint.as_deref(),
            every: self.checkpoint_every,
            settings,
            bar,
            setup,
            drawn: Instant::now(),
        };
        let outcome = training.run(&mut keeper);
        keeper.bar.finish();
        let status = match &outcome {
            Ok(Flow::Continue) if training.progress().step < task.steps() => "ended early",
            Ok(Flow::Continue) => "finished",
            Ok(Flow::Stop) => "interrupted",
            Err(_) => "failed",
        };
        let scores = match outcome {
            Ok(Flow::Continue) => Some((training.evaluate(task.train)?, training.evaluate(task.test)?)),
            _ => None,
        };
        let optimizer = training.optimizer().description();
        let mut run = report::describe(&task, &setup.dataset, &optimizer, training.session());
        run["status"] = json!(status);
        run["checkpoint"] = json!(self.checkpoint);
        run["overridden"] = json!(overridden);
        run["steps"] = json!(training.progress().step);
        run["seconds"] = json!(training.seconds());
        let [shrunk, skipped] = training.diverged();
        run["shrunk"] = json!(shrunk);
        run["skipped"] = json!(skipped);
        run["last_step"] = json!(training.descents().map(Descents::to_json));
        run["train"] = json!(scores.map(|(train, _)| report::score(train)));
        run["test"] = json!(scores.map(|(_, test)| report::score(test)));
        let written = match training.progress().step {
            // Nothing has come of it.
            0 => Ok(()),
            _ if !ranks::leads() => Ok(()),
            _ => write_results(setup, &training, &run),
        };
        let flow = outcome?;
        written?;
        match (flow, scores) {
            (Flow::Continue, Some((train, test))) => {
                let row = vec![
                    title(&task.method),
                    format!("{:.5}", train.loss),
                    percent(train.accuracy),
                    format!("{:.5}", test.loss),
                    percent(test.accuracy),
                    format!("{:.2}", training.seconds()),
                ];
                let header = ["method", "train loss", "train accuracy", "test loss", "test accuracy", "seconds"];
                let mut text = table(&header, &[row]);
                if training.progress().step < task.steps() {
                    let (epoch, patience) = (training.progress().epoch, task.patience.unwrap_or(0));
                    text.push_str(&format!(
                        "\n\nStopped after epoch {epoch} of {}: the test loss did not decrease in {patience} epochs",
                        task.epochs
                    ));
                }
                if let Some(told) = told_of_divergence(training.diverged()) {
                    text.push_str(&format!("\n\n{}: {told}", task.method.name()));
                }
                if let Some(descents) = training.descents().filter(|_| adapts(&task.method)) {
                    text.push_str(&format!("\n\nLast step: {descents}"));
                }
                if let Some(shares) = shares_table(&task.method, &setup.network) {
                    text.push_str("\n\n");
                    text.push_str(&shares);
                }
                text.push_str(&format!("\n\nWritten to {}: {}", setup.out.display(), RESULTS.join(", ")));
                print(&text)
            }
            _ => Err(stopped(training.progress().step, self.checkpoint.is_some())),
        }
    }
}

/// How many samples of a run diverged, and what became of them, if any did.
pub fn told_of_divergence([shrunk, skipped]: [u64; 2]) -> Option<String> {
    (shrunk + skipped > 0).then(|| {
        format!("diverged relaxations: {shrunk} succeeded with a smaller step size, {skipped} were left out of the gradients")
    })
}

fn stopped(step: u64, kept: bool) -> Failure {
    let advice =
        if kept { "continue with --resume" } else { "it cannot be continued; use --checkpoint FILE to save its state" };
    Failure::Interrupted(format!("after step {step}; {advice}"))
}

/// What a checkpoint must agree with besides network and optimiser.
fn checkpoint_settings(setup: &Setup, task: &Task) -> Settings {
    Settings::from([
        ("dataset".to_string(), setup.dataset.clone()),
        ("training samples".to_string(), setup.train.len().to_string()),
        ("checksum of the training samples".to_string(), setup.train.checksum()),
        ("method".to_string(), title(&task.method)),
        ("on divergence".to_string(), on_divergence(&task.method).unwrap_or_default().to_string()),
        ("batch".to_string(), setup.batch.to_string()),
        ("seed".to_string(), setup.seed.to_string()),
        ("learning rate".to_string(), task.rate.map_or(String::new(), |rate| rate.to_string())),
        ("layout".to_string(), task.options.layout.to_string()),
        ("groups".to_string(), task.options.groups.map_or("auto".into(), |groups| groups.to_string())),
        ("clip".to_string(), task.clip.map_or("none".into(), |clip| clip.to_string())),
    ])
}

fn write_results(setup: &Setup, training: &Training, run: &serde_json::Value) -> Result<(), Failure> {
    training.parameters().save(setup.out.join("weights.safetensors")).map_err(Failure::run)?;
    write_curves(&setup.out, &setup.dataset, training)?;
    report::write_json(&setup.out.join("run.json"), run)
}

fn write_curves(out: &Path, dataset: &str, training: &Training) -> Result<(), Failure> {
    let history = &training.progress().history;
    let rows: Vec<_> =
        std::iter::once(report::history_header()).chain(history.iter().map(report::history_row)).collect();
    report::write_csv(&out.join("history.csv"), &rows)?;
    let picture = report::curves(training.task(), dataset, &training.optimizer().description(), history);
    figure::write(&out.join("curves"), &picture.scene())
}

/// Keeps checkpoints, moves the bar, and ends the run when the user asks.
struct Keeper<'a> {
    path: Option<&'a Path>,
    every: Option<u64>,
    settings: Settings,
    bar: Progress,
    /// Where the curves go, and what they are of.
    setup: &'a Setup,
    drawn: Instant,
}

impl Keeper<'_> {
    /// Writes the checkpoint, if one is kept.
    fn keep(&self, training: &Training) -> Result<(), Failure> {
        let Some(path) = self.path.filter(|_| ranks::leads()) else { return Ok(()) };
        let network = training.task().network;
        let (parameters, optimizer) = (training.parameters(), training.optimizer());
        save_checkpoint(path, network, &self.settings, parameters, optimizer, training.progress()).map_err(Failure::run)
    }
}

impl Watcher for Keeper<'_> {
    fn stopped(&mut self, training: &Training) -> Result<(), Failure> {
        self.keep(training)
    }

    fn after_step(&mut self, training: &Training) -> Result<Flow, Failure> {
        self.bar.step(training, training.task().work());
        let progress = training.progress();
        let asked = ranks::any(interrupt::asked());
        let due =
            training.evaluation().is_some() || self.every.is_some_and(|every| progress.step.is_multiple_of(every));
        if asked || due {
            self.keep(training)?;
        }
        if ranks::leads() && self.drawn.elapsed() > DRAW_EVERY {
            if let Err(failure) = write_curves(&self.setup.out, &self.setup.dataset, training) {
                note(&format!("warning: {failure}"));
            }
            self.drawn = Instant::now();
        }
        // A run that is asked to stop with its last step has nothing left to go on with.
        Ok(if asked && progress.step < training.task().steps() { Flow::Stop } else { Flow::Continue })
    }
}
