//! Figures 1, 3, 5, 6 and 7: predictive coding and backpropagation learn from the same weights and
//! batches; loss, accuracy, and how far apart their gradients are at the weights of the former.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use predictive_coding::{
    Batch, FixedPrediction, Loss, Method, Options, Progress as RunProgress, RecordKind, Session, Settings,
    load_checkpoint, save_checkpoint,
};
use serde_json::{Value, json};

use super::Reproduce;
use super::iterations::angle_axis;
use super::setting::Setting;
use crate::console::{Failure, note, print};
use crate::deviation::{columns, deviations};
use crate::figure::{self, Curve, Figure, Look, Panel, Scale, colour, thin};
use crate::progress::Progress;
use crate::relaxing::title;
use crate::table::{percent, table};
use crate::training::{Flow, Score, Task, Training, Watcher, evaluate};
use crate::{interrupt, report};

/// How often the state of a run is kept.
const KEEP_EVERY: Duration = Duration::from_secs(60);

/// More points than this in a curve are averaged, and more of marks.
const MOST_POINTS: usize = 400;
const MOST_MARKS: usize = 40;

/// Errors are shown at least from the one to the other.
const ERRORS: (f64, f64) = (1e-3, 1.0);

/// The steps at the end whose gradients are told of in the table.
const TOLD_STEPS: usize = 10;

/// One measurement: of a training batch, with the gradients' relative errors and angles by layer if they
/// were compared, or of the test set.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    step: u64,
    kind: RecordKind,
    score: Score,
    errors: Vec<f64>,
    angles: Vec<f64>,
}

/// A way of learning: its name in files and on the axes, and its measurements.
struct Run {
    name: &'static str,
    label: &'static str,
    method: Method,
    rows: Vec<Row>,
    seconds: f64,
    /// Why it ended early.
    end: Option<String>,
}

pub fn run(asked: &Reproduce) -> Result<(), Failure> {
    let figure = asked.figure.unwrap_or_default();
    let (setting, method) = match figure {
        1 => (Setting::mnist(asked, Loss::MSE)?, asked.convention.strict(0.1, 20).into()),
        3 => (Setting::mnist(asked, Loss::CROSS_ENTROPY)?, literal(0.1, 20)),
        5 => (Setting::cifar10(asked)?, literal(0.1, 20)),
        _ => {
            let setting = match figure {
                6 => Setting::mnist(asked, Loss::CROSS_ENTROPY)?,
                _ => Setting::cifar10(asked)?,
            };
            let iterations = setting.network.layers().len();
            (setting, literal(1.0, iterations))
        }
    };
    let learner = |name, label, method| Run { name, label, method, rows: Vec::new(), seconds: 0.0, end: None };
    let mut runs = [learner("predictive-coding", "PC", method), learner("backpropagation", "BP", Method::Exact)];
    let work = |run: &Run| {
        let task = setting.task(run.method.clone());
        task.steps().saturating_mul(task.work())
    };
    let mut bar = Progress::new(runs.iter().map(work).fold(0, u64::saturating_add));
    let mut description = Value::Null;
    for run in &mut runs {
        bar.set_prefix(run.name);
        let learned = learn(asked, &setting, run, bar)?;
        bar = learned.bar;
        if run.name == "predictive-coding" {
            description = learned.description;
        }
    }
    bar.finish();
    let learned = |run: &Run| {
        json!({
            "name": run.name,
            "method": run.method.name(),
            "steps": run.rows.iter().map(|row| row.step).max(),
            "seconds": run.seconds,
            "train": run.last(RecordKind::Train).map(|row| report::score(row.score)),
            "test": run.last(RecordKind::Test).map(|row| report::score(row.score)),
            "ended_early": run.end,
        })
    };
    description["figure"] = json!(figure);
    description["quick"] = json!(asked.quick);
    description["convention"] = json!(asked.convention.name());
    description["learning_rate"] = json!(setting.lr);
    description["compared_every"] = json!(setting.compare_every);
    description["runs"] = runs.iter().map(learned).collect();
    let layers = setting.network.layers().len();
    let rows: Vec<Vec<String>> =
        std::iter::once(header(layers)).chain(runs.iter().flat_map(|run| cells(run.name, &run.rows, layers))).collect();
    report::write_csv(&asked.file().with_extension("csv"), &rows)?;
    figure::write(&asked.file(), &picture(asked, &setting, &runs).scene())?;
    report::write_json(&asked.out().join("run.json"), &description)?;
    print(&text(asked, &setting, &runs))?;
    for run in &runs {
        // What a later run would go on from has nothing left to do.
        let _ = state_files(asked, run.name).map(std::fs::remove_file);
    }
    Ok(())
}

/// Fixed-prediction as it stands: its errors would otherwise be backpropagation's by construction.
fn literal(eta: f64, iterations: usize) -> Method {
    FixedPrediction::new(eta, iterations).with_literal(true).into()
}

/// What a run leaves besides its rows.
struct Learned {
    bar: Progress,
    description: Value,
}

fn learn(asked: &Reproduce, setting: &Setting, run: &mut Run, mut bar: Progress) -> Result<Learned, Failure> {
    let task = setting.task(run.method.clone());
    let settings = Settings::from([
        ("figure".to_string(), asked.name()),
        ("run".to_string(), run.name.to_string()),
        ("data".to_string(), format!("{}, {} training samples", setting.title, setting.train.len())),
        ("checksum of the data".to_string(), setting.train.checksum()),
        ("method".to_string(), title(&run.method)),
        ("convention".to_string(), asked.convention.name().to_string()),
        ("batch".to_string(), setting.batch.to_string()),
        ("epochs".to_string(), setting.epochs.to_string()),
        ("seed".to_string(), setting.seed.to_string()),
    ]);
    let [checkpoint, kept_rows] = state_files(asked, run.name);
    let mut training = match resume(&task, setting, &settings, [&checkpoint, &kept_rows])? {
        Some((training, rows)) => {
            run.rows = rows;
            training
        }
        None => {
            let parameters = setting.network.initialize(setting.seed);
            Training::new(task.clone(), parameters, setting.optimizer()?, RunProgress::default())?
        }
    };
    bar.advance(training.progress().step.saturating_mul(task.work()));
    let exact = Session::new(task.network, task.batch, Method::Exact, Options::default())?;
    let mut recorder = Recorder {
        setting,
        bar,
        exact,
        rows: std::mem::take(&mut run.rows),
        compared: (Vec::new(), Vec::new()),
        settings,
        checkpoint,
        kept_rows,
        kept: Instant::now(),
    };
    let flow = training.run(&mut recorder);
    run.seconds = training.seconds();
    let description = report::describe(&task, setting.title, &training.optimizer().description(), training.session());
    match flow {
        Ok(Flow::Stop) => {
            recorder.bar.finish();
            let step = training.progress().step;
            return Err(asked.stopped(&format!("{}, after step {step} of {}", run.name, task.steps())));
        }
        Ok(Flow::Continue) => recorder.keep(&training)?,
        Err(Failure::Run(message)) => {
            note(&format!("{}: {message}; the figure ends there", run.name));
            run.end = Some(message);
        }
        Err(failure) => return Err(failure),
    }
    run.rows = recorder.rows;
    Ok(Learned { bar: recorder.bar, description })
}

/// Where the state of a run is kept.
fn state_files(asked: &Reproduce, run: &str) -> [PathBuf; 2] {
    ["checkpoint", "csv"].map(|ending| asked.out().join(format!("{}.{run}.state.{ending}", asked.name())))
}

/// A run that was stopped, if there is one with the same settings.
fn resume<'a>(
    task: &Task<'a>,
    setting: &Setting,
    settings: &Settings,
    [checkpoint, kept_rows]: [&Path; 2],
) -> Result<Option<(Training<'a>, Vec<Row>)>, Failure> {
    if !checkpoint.exists() {
        return Ok(None);
    }
    let mut optimizer = setting.optimizer()?;
    let state = load_checkpoint(checkpoint, task.network, settings, &mut *optimizer)
        .map_err(|e| e.to_string())
        .and_then(|state| Ok((state, read_rows(kept_rows, setting.network.layers().len())?)));
    match state {
        Ok(((parameters, progress), mut rows)) => {
            // The rows are kept first.
            rows.retain(|row| row.step <= progress.step);
            Ok(Some((Training::new(task.clone(), parameters, optimizer, progress)?, rows)))
        }
        Err(error) => {
            note(&format!("starting anew, because {error}"));
            Ok(None)
        }
    }
}

/// Measures while a run goes, and keeps its state.
struct Recorder<'a> {
    setting: &'a Setting,
    bar: Progress,
    exact: Session,
    rows: Vec<Row>,
    /// Relative errors and angles of the step under way.
    compared: (Vec<f64>, Vec<f64>),
    settings: Settings,
    checkpoint: PathBuf,
    kept_rows: PathBuf,
    kept: Instant,
}

impl Recorder<'_> {
    fn keep(&mut self, training: &Training) -> Result<(), Failure> {
        let layers = self.setting.network.layers().len();
        let rows: Vec<_> = std::iter::once(header(layers)).chain(cells("", &self.rows, layers)).collect();
        report::write_csv(&self.kept_rows, &rows)?;
        let (network, progress) = (&self.setting.network, training.progress());
        let (parameters, optimizer) = (training.parameters(), training.optimizer());
        save_checkpoint(&self.checkpoint, network, &self.settings, parameters, optimizer, progress)
            .map_err(Failure::run)?;
        self.kept = Instant::now();
        Ok(())
    }
}

impl Watcher for Recorder<'_> {
    fn before_update(&mut self, training: &Training, batch: &Batch) -> Result<(), Failure> {
        let step = training.progress().step;
        self.compared = (Vec::new(), Vec::new());
        if training.task().method != Method::Exact && step.is_multiple_of(self.setting.compare_every) {
            self.exact.infer(training.parameters(), &batch.x, &batch.y).map_err(Failure::run)?;
            let found = deviations(training.session().gradients(), self.exact.gradients());
            self.compared = found.into_iter().map(|(_, d)| (d.relative_error, d.angle)).unzip();
        }
        Ok(())
    }

    fn after_step(&mut self, training: &Training) -> Result<Flow, Failure> {
        let task = training.task();
        let step = training.progress().step;
        let latest = training.latest();
        let (errors, angles) = std::mem::take(&mut self.compared);
        let score = Score { loss: latest.loss, accuracy: latest.accuracy };
        self.rows.push(Row { step, kind: RecordKind::Train, score, errors, angles });
        let tested = match training.evaluation() {
            Some(record) => Some(Score { loss: record.loss, accuracy: record.accuracy }),
            None if step.is_multiple_of(self.setting.evaluate_every) => {
                Some(evaluate(&mut self.exact, task.network, training.parameters(), task.test, task.batch)?)
            }
            None => None,
        };
        if let Some(score) = tested {
            self.rows.push(Row { step, kind: RecordKind::Test, score, errors: Vec::new(), angles: Vec::new() });
        }
        self.bar.step(training, task.work());
        let asked = interrupt::asked() && step < task.steps();
        if asked || self.kept.elapsed() > KEEP_EVERY {
            self.keep(training)?;
        }
        Ok(if asked { Flow::Stop } else { Flow::Continue })
    }
}

impl Run {
    fn last(&self, kind: RecordKind) -> Option<&Row> {
        self.rows.iter().rev().find(|row| row.kind == kind)
    }
}

fn header(layers: usize) -> Vec<String> {
    let mut header = ["run", "step", "set", "loss", "accuracy"].map(String::from).to_vec();
    header.extend(columns(layers));
    header
}

fn cells<'a>(run: &'a str, rows: &'a [Row], layers: usize) -> impl Iterator<Item = Vec<String>> + 'a {
    rows.iter().map(move |row| {
        let mut cells = vec![
            run.to_string(),
            row.step.to_string(),
            row.kind.to_string(),
            row.score.loss.to_string(),
            row.score.accuracy.to_string(),
        ];
        for values in [&row.errors, &row.angles] {
            cells.extend((0..layers).map(|layer| values.get(layer).map_or(String::new(), f64::to_string)));
        }
        cells
    })
}

/// Rows as [`cells`] wrote them.
fn read_rows(path: &Path, layers: usize) -> Result<Vec<Row>, String> {
    let wrong = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
    let mut rows = Vec::new();
    for record in csv::Reader::from_path(path).map_err(|e| wrong(&e))?.records() {
        let record = record.map_err(|e| wrong(&e))?;
        let cells = 5 + 2 * layers;
        if record.len() != cells {
            return Err(wrong(&format!("a row of {} cells, expected {cells}", record.len())));
        }
        let number = |i: usize| record[i].parse::<f64>().map_err(|e| wrong(&e));
        let numbers = |first: usize| -> Result<Vec<f64>, String> {
            (first..first + layers).filter(|&i| !record[i].is_empty()).map(number).collect()
        };
        let (errors, angles) = (numbers(5)?, numbers(5 + layers)?);
        if [&errors, &angles].iter().any(|values| ![0, layers].contains(&values.len())) {
            return Err(wrong(&"a row with errors or angles of some layers alone, expected of all or of none"));
        }
        rows.push(Row {
            step: number(1)? as u64,
            kind: if record[2] == RecordKind::Test.to_string() { RecordKind::Test } else { RecordKind::Train },
            score: Score { loss: number(3)?, accuracy: number(4)? },
            errors,
            angles,
        });
    }
    Ok(rows)
}

/// The paper's four: loss and accuracy of both, error and angle of each layer.
fn picture(asked: &Reproduce, setting: &Setting, runs: &[Run]) -> Figure {
    let pc = &runs[0];
    let steps = setting.task(pc.method.clone()).steps() as f64;
    let panel = |title: &str, y_label: &str, y_scale, curves| Panel {
        title: title.into(),
        x_label: "step".into(),
        y_label: y_label.into(),
        y_scale,
        x_end: Some(steps),
        curves,
        ..Panel::default()
    };
    let scores = |value: fn(&Score) -> f64| {
        let sets = [(RecordKind::Train, Look::Smoothed, "training"), (RecordKind::Test, Look::Marks, "test")];
        // Backpropagation is blue, as in the paper, and lies behind.
        let curve = |(kind, look, set): (RecordKind, Look, &'static str)| {
            (0..).zip(runs.iter().rev()).map(move |(style, run)| {
                let of_kind = run.rows.iter().filter(|row| row.kind == kind);
                let points: Vec<_> = of_kind.map(|row| (row.step as f64, value(&row.score))).collect();
                let most = if look == Look::Marks { MOST_MARKS } else { MOST_POINTS };
                let name = format!("{} {set}", run.label);
                Curve { name, colour: colour(style, 2), style, look, points: thin(&points, most) }
            })
        };
        sets.into_iter().flat_map(curve).collect()
    };
    let count = setting.network.layers().len();
    let layers = |values: fn(&Row) -> &[f64]| {
        let curve = |layer: usize| {
            let compared = pc.rows.iter().filter_map(|row| Some((row.step as f64, *values(row).get(layer)?)));
            Curve {
                name: format!("layer {}", layer + 1),
                colour: colour(layer, count),
                style: layer,
                look: Look::Smoothed,
                points: thin(&compared.collect::<Vec<_>>(), MOST_POINTS),
            }
        };
        (0..count).map(curve).collect()
    };
    let (angle_scale, angle_reach) = angle_axis(pc.rows.iter().flat_map(|row| &row.angles));
    let (name, convention) = (pc.method.name(), asked.convention_title());
    let eta_and_n = pc.method.eta().zip(pc.method.iterations());
    let eta_and_n = eta_and_n.map_or(String::new(), |(eta, n)| format!(" (η = {eta}, n = {n})"));
    Figure {
        title: format!("{}: PC by {name}{eta_and_n} and BP, backpropagation{convention}", setting.title),
        settings: setting.settings(),
        panels: vec![
            panel("Loss", "loss", Scale::Logarithmic, scores(|score| score.loss)),
            panel("Accuracy", "accuracy (%)", Scale::Linear, scores(|score| 100.0 * score.accuracy)),
            Panel {
                reach: Some(ERRORS),
                ..panel("Error of PC's gradients", "relative error", Scale::Logarithmic, layers(|row| &row.errors))
            },
            Panel {
                reach: angle_reach,
                ..panel("Angle of PC's gradients to BP's", "angle (degrees)", angle_scale, layers(|row| &row.angles))
            },
        ],
        columns: 2,
    }
}

fn title_of(run: &Run) -> String {
    match (run.method.eta(), run.method.iterations()) {
        (Some(eta), Some(iterations)) => format!("{} ({eta}, {iterations})", run.method),
        _ => title(&run.method),
    }
}

fn text(asked: &Reproduce, setting: &Setting, runs: &[Run]) -> String {
    let rows = runs.iter().map(|run| {
        let test = run.last(RecordKind::Test);
        vec![
            title_of(run),
            run.rows.iter().map(|row| row.step).max().unwrap_or(0).to_string(),
            run.last(RecordKind::Train).map_or(String::new(), |row| format!("{:.5}", row.score.loss)),
            test.map_or(String::new(), |row| format!("{:.5}", row.score.loss)),
            test.map_or(String::new(), |row| percent(row.score.accuracy)),
            format!("{:.2}", run.seconds),
        ]
    });
    let header = ["method", "steps", "loss of the last batch", "test loss", "test accuracy", "seconds"];
    let mut text = table(&header, &rows.collect::<Vec<_>>());
    let compared: Vec<&Row> = runs[0].rows.iter().filter(|row| !row.errors.is_empty()).collect();
    let last = &compared[compared.len().saturating_sub(TOLD_STEPS)..];
    let mean = |values: fn(&Row) -> &[f64], layer: usize| {
        last.iter().map(|row| values(row)[layer]).sum::<f64>() / last.len() as f64
    };
    let most =
        |values: fn(&Row) -> &[f64], layer: usize| compared.iter().map(|row| values(row)[layer]).fold(0.0, f64::max);
    let rows = (0..setting.network.layers().len()).map(|layer| {
        vec![
            (layer + 1).to_string(),
            format!("{:.2e}", mean(|row| &row.errors, layer)),
            format!("{:.2e}", most(|row| &row.errors, layer)),
            format!("{:.2e}°", mean(|row| &row.angles, layer)),
            format!("{:.2e}°", most(|row| &row.angles, layer)),
        ]
    });
    text.push_str(&format!(
        "\n\nGradients of the weights compared with backpropagation, for the same weights and batch: mean of the last {} \
         comparisons, and maximum\n",
        last.len()
    ));
    text.push_str(&table(&["layer", "error", "maximum", "angle", "maximum"], &rows.collect::<Vec<_>>()));
    let name = asked.name();
    text.push_str(&format!("\n\nWritten to {}: {name}.csv, {name}.png, {name}.svg, run.json", asked.out().display()));
    text
}
