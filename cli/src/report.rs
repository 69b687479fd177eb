//! What a run leaves in its directory: history, curves, settings and results.

use std::path::Path;

use predictive_coding::{Record, RecordKind, Session, write_atomically};
use serde_json::{Value, json};

use crate::console::Failure;
use crate::figure::{Curve, Figure, Look, Panel, Scale, colour, thin};
use crate::machine;
use crate::relaxing::{settings, title};
use crate::training::{Score, Task};

/// More points than this in a curve are averaged, and more of marks.
const MOST_POINTS: usize = 400;
const MOST_MARKS: usize = 40;

/// Writes rows of text as CSV.
pub fn write_csv(path: &Path, rows: &[Vec<String>]) -> Result<(), Failure> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows {
        writer.write_record(row).map_err(Failure::run)?;
    }
    let bytes = writer.into_inner().map_err(Failure::run)?;
    write_atomically(path, &bytes).map_err(Failure::run)
}

/// The columns of a history.
pub fn history_header() -> Vec<String> {
    ["step", "epoch", "kind", "loss", "accuracy", "shrunk", "skipped"].map(String::from).to_vec()
}

/// The row of a step or an evaluation.
pub fn history_row(record: &Record) -> Vec<String> {
    let Record { step, epoch, kind, loss, accuracy, shrunk, skipped } = record;
    let (loss, accuracy) = (loss.to_string(), accuracy.to_string());
    vec![step.to_string(), epoch.to_string(), kind.to_string(), loss, accuracy, shrunk.to_string(), skipped.to_string()]
}

/// One measurement over the steps, as a curve: of training batches smoothed, of the test set as marks, both to be told
/// from those of other runs by `style`.
pub fn curve(name: &str, style: usize, history: &[Record], kind: RecordKind, value: impl Fn(&Record) -> f64) -> Curve {
    let of_kind = history.iter().filter(|record| record.kind == kind);
    let points: Vec<(f64, f64)> = of_kind.map(|record| (record.step as f64, value(record))).collect();
    let (look, most) = match kind {
        RecordKind::Test => (Look::Marks, MOST_MARKS),
        _ => (Look::Smoothed, MOST_POINTS),
    };
    Curve { name: name.to_string(), colour: colour(style, 2), style, look, points: thin(&points, most) }
}

/// Loss and accuracy over the steps of a run.
pub fn curves(task: &Task, dataset: &str, optimizer: &str, history: &[Record]) -> Figure {
    let panel = |title: &str, y_label: &str, y_scale, value: &dyn Fn(&Record) -> f64| Panel {
        title: title.into(),
        x_label: "step".into(),
        y_label: y_label.into(),
        y_scale,
        x_end: Some(task.steps() as f64),
        curves: vec![
            curve("training batches", 0, history, RecordKind::Train, value),
            curve("test set", 1, history, RecordKind::Test, value),
        ],
        ..Panel::default()
    };
    Figure {
        title: format!("{dataset}: {}", title(&task.method)),
        settings: told_settings(task, optimizer),
        panels: vec![
            panel("Loss", "loss", Scale::Logarithmic, &|record| record.loss),
            panel("Accuracy", "accuracy (%)", Scale::Linear, &|record| 100.0 * record.accuracy),
        ],
        columns: 2,
    }
}

/// What a run is made with, as a line below the title of a figure.
pub fn told_settings(task: &Task, optimizer: &str) -> String {
    let (loss, batch, epochs, seed) = (task.network.loss(), task.batch, task.epochs, task.seed);
    format!("{loss} loss, batch {batch}, {epochs} epochs, {optimizer}, seed {seed}")
}

/// Everything that makes a run what it is.
pub fn describe(task: &Task, dataset: &str, optimizer: &str, session: &Session) -> Value {
    let command: Vec<String> = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let mut run = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "command": command,
        "dataset": dataset,
        "training_samples": task.train.len(),
        "test_samples": task.test.len(),
        "model": task.network.to_toml(),
        "epochs": task.epochs,
        "batch": task.batch,
        "optimizer": optimizer,
        "schedule": task.rate.map(|rate| rate.to_string()),
        "clip": task.clip,
        "patience": task.patience,
        "seed": task.seed,
        "threads": rayon::current_num_threads(),
        "level": session.level().name(),
        "layout": session.layout().name(),
        "machine": machine::describe(),
    });
    merge(&mut run, settings(&task.method));
    run
}

/// Adds the entries of one object to another.
pub fn merge(to: &mut Value, from: Value) {
    if let (Value::Object(to), Value::Object(from)) = (to, from) {
        to.extend(from);
    }
}

/// A score with its names.
pub fn score(score: Score) -> Value {
    json!({ "loss": score.loss, "accuracy": score.accuracy })
}

/// Writes JSON, indented.
pub fn write_json(path: &Path, value: &Value) -> Result<(), Failure> {
    write_atomically(path, format!("{value:#}\n").as_bytes()).map_err(Failure::run)
}
