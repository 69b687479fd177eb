//! The main job: the three methods side by side, from the same weights and batches.

use predictive_coding::{Batch, Method, Options, Record, RecordKind, Session};
use serde_json::{Value, json};

use crate::console::{Failure, print};
use crate::deviation::{Deviation, deviations};
use crate::figure::{self, Curve, Figure, Look, Panel, Scale, colour};
use crate::options::MethodName;
use crate::progress::Progress;
use crate::relaxing::{settings, step, title, warn_of_unreached};
use crate::table::{percent, table};
use crate::train::{Setup, told_of_divergence};
use crate::training::{Flow, Score, Task, Training, Watcher};
use crate::{interrupt, ranks, report};

const METHODS: [MethodName; 3] = [MethodName::Exact, MethodName::FixedPrediction, MethodName::Strict];

/// The gradients of this many last steps are compared with exact's.
const COMPARED_STEPS: u64 = 10;

/// What came of one method.
struct Outcome {
    method: Method,
    train: Score,
    test: Score,
    seconds: f64,
    /// Samples that relaxed again by a smaller step, and those that were left out.
    diverged: [u64; 2],
    /// By layer, for those with weights.
    deviations: Vec<(usize, Deviation)>,
    history: Vec<Record>,
}

impl Outcome {
    fn title(&self) -> String {
        title(&self.method)
    }
}

/// Trains by each method, prints the table and writes everything to the directory of results.
pub fn run(setup: &Setup) -> Result<(), Failure> {
    let tasks = METHODS.iter().map(|&method| setup.task(method)).collect::<Result<Vec<Task>, _>>()?;
    let compared = COMPARED_STEPS.min(tasks[0].steps());
    let work = |task: &Task| task.steps().saturating_mul(task.work());
    let mut bar = Progress::new(tasks.iter().map(work).fold(0, u64::saturating_add));
    let mut outcomes = Vec::new();
    let mut failures = Vec::new();
    let mut description = Value::Null;
    let mut told = String::new();
    for task in tasks {
        warn_of_unreached(&task.method, &setup.network);
        bar.set_prefix(task.method.name());
        let mut training = setup.start(task.clone())?;
        told = report::told_settings(&task, &training.optimizer().description());
        description = report::describe(&task, &setup.dataset, &training.optimizer().description(), training.session());
        let options = Options::default().with_dropout_seed(task.options.dropout_seed);
        let exact = Session::new(task.network, task.batch, Method::Exact, options)?;
        let mut comparison = Comparison { bar, exact, sums: Vec::new(), from: task.steps() - compared };
        let flow = training.run(&mut comparison);
        bar = comparison.bar;
        match flow {
            Ok(Flow::Continue) => outcomes.push(Outcome {
                method: task.method.clone(),
                train: training.evaluate(task.train)?,
                test: training.evaluate(task.test)?,
                seconds: training.seconds(),
                diverged: training.diverged(),
                deviations: mean(comparison.sums, compared),
                history: training.progress().history.clone(),
            }),
            Ok(Flow::Stop) => {
                bar.finish();
                let step = training.progress().step;
                return Err(Failure::Interrupted(format!(
                    "during {}, after step {step}; nothing was written",
                    task.method.name()
                )));
            }
            Err(Failure::Run(message)) => failures.push((task.method, message)),
            Err(failure) => return Err(failure),
        }
    }
    bar.finish();
    if ranks::leads() {
        write(setup, &outcomes, &failures, description, told)?;
    }
    if !outcomes.is_empty() {
        print(&text(setup, &outcomes, compared))?;
    }
    match failures.into_iter().next() {
        None => Ok(()),
        Some((method, message)) => Err(Failure::run(format!("{}: {message}", method.name()))),
    }
}

/// Compares the gradients of the last steps with exact's at the same weights and batch.
struct Comparison {
    bar: Progress,
    exact: Session,
    sums: Vec<(usize, Deviation)>,
    /// The number of steps after which the comparison begins.
    from: u64,
}

impl Watcher for Comparison {
    fn before_update(&mut self, training: &Training, batch: &Batch) -> Result<(), Failure> {
        if training.progress().step < self.from {
            return Ok(());
        }
        self.exact.set_dropout_step(training.progress().step);
        self.exact.infer(training.parameters(), &batch.x, &batch.y).map_err(Failure::run)?;
        let found = deviations(training.session().gradients(), self.exact.gradients());
        if self.sums.is_empty() {
            self.sums = found.iter().map(|&(layer, _)| (layer, Deviation::default())).collect();
        }
        for ((_, sum), (_, deviation)) in self.sums.iter_mut().zip(found) {
            sum.relative_error += deviation.relative_error;
            sum.angle += deviation.angle;
        }
        Ok(())
    }

    fn after_step(&mut self, training: &Training) -> Result<Flow, Failure> {
        self.bar.step(training, training.task().work());
        Ok(if ranks::any(interrupt::asked()) { Flow::Stop } else { Flow::Continue })
    }
}

fn mean(sums: Vec<(usize, Deviation)>, count: u64) -> Vec<(usize, Deviation)> {
    let count = count as f64;
    sums.into_iter()
        .map(|(layer, sum)| (layer, Deviation { relative_error: sum.relative_error / count, angle: sum.angle / count }))
        .collect()
}

fn text(setup: &Setup, outcomes: &[Outcome], compared: u64) -> String {
    let exact = exact_seconds(outcomes);
    let rows: Vec<Vec<String>> = outcomes
        .iter()
        .map(|outcome| {
            vec![
                outcome.title(),
                format!("{:.5}", outcome.train.loss),
                percent(outcome.train.accuracy),
                format!("{:.5}", outcome.test.loss),
                percent(outcome.test.accuracy),
                format!("{:.2}", outcome.seconds),
                format!("{:.1}", outcome.seconds / exact),
            ]
        })
        .collect();
    let header = ["method", "train loss", "train accuracy", "test loss", "test accuracy", "seconds", "ratio to exact"];
    let mut text = table(&header, &rows);

    let mut header = vec!["layer".to_string()];
    for outcome in outcomes {
        header.extend([format!("{}: error", outcome.method.name()), "angle".to_string()]);
    }
    let rows: Vec<Vec<String>> = (0..outcomes[0].deviations.len())
        .map(|i| {
            let mut row = vec![outcomes[0].deviations[i].0.to_string()];
            for outcome in outcomes {
                let Deviation { relative_error, angle } = outcome.deviations[i].1;
                row.extend([format!("{relative_error:.2e}"), format!("{angle:.3}°")]);
            }
            row
        })
        .collect();
    text.push_str(&format!(
        "\n\nGradients of the weights compared with those of exact, for the same weights and batch: relative error and \
         angle, mean of the last {compared} steps\n"
    ));
    text.push_str(&table(&header.iter().map(String::as_str).collect::<Vec<_>>(), &rows));
    for outcome in outcomes {
        if let Some(told) = told_of_divergence(outcome.diverged) {
            text.push_str(&format!("\n\n{}: {told}", outcome.method.name()));
        }
    }
    text.push_str(&format!(
        "\n\nWritten to {}: comparison.csv, comparison.png, comparison.svg, history.csv, run.json",
        setup.out.display()
    ));
    text
}

fn exact_seconds(outcomes: &[Outcome]) -> f64 {
    outcomes.iter().find(|outcome| outcome.method == Method::Exact).map_or(f64::NAN, |outcome| outcome.seconds)
}

fn write(
    setup: &Setup,
    outcomes: &[Outcome],
    failures: &[(Method, String)],
    mut run: Value,
    told: String,
) -> Result<(), Failure> {
    let results: Vec<Value> = outcomes.iter().map(|outcome| to_json(outcome, exact_seconds(outcomes))).collect();
    run["method"] = METHODS.iter().map(|method| method.name()).collect();
    // Each of the results has its own.
    ["eta", "iterations", "literal", "on_divergence", "solver", "tolerance"]
        .iter()
        .for_each(|&setting| run[setting] = Value::Null);
    run["compared_steps"] = json!(COMPARED_STEPS);
    run["results"] = json!(results);
    let failed = |(method, message): &(Method, String)| json!({ "method": method.name(), "reason": message });
    run["failures"] = failures.iter().map(failed).collect();
    report::write_json(&setup.out.join("run.json"), &run)?;
    report::write_csv(&setup.out.join("comparison.csv"), &csv_rows(outcomes))?;
    let mut rows = vec![[vec!["method".to_string()], report::history_header()].concat()];
    for outcome in outcomes {
        let method = outcome.method.name().to_string();
        rows.extend(outcome.history.iter().map(|record| [vec![method.clone()], report::history_row(record)].concat()));
    }
    report::write_csv(&setup.out.join("history.csv"), &rows)?;
    figure::write(&setup.out.join("comparison"), &picture(setup, outcomes, told).scene())
}

fn to_json(outcome: &Outcome, exact: f64) -> Value {
    let layers: Vec<Value> = outcome
        .deviations
        .iter()
        .map(|(layer, d)| json!({ "layer": layer, "relative_error": d.relative_error, "angle_degrees": d.angle }))
        .collect();
    let mut result = settings(&outcome.method);
    let measured = json!({
        "train": report::score(outcome.train),
        "test": report::score(outcome.test),
        "seconds": outcome.seconds,
        "ratio_to_exact": outcome.seconds / exact,
        "shrunk": outcome.diverged[0],
        "skipped": outcome.diverged[1],
        "layers": layers,
    });
    report::merge(&mut result, measured);
    result
}

fn csv_rows(outcomes: &[Outcome]) -> Vec<Vec<String>> {
    let mut header: Vec<String> = [
        "method",
        "solver",
        "eta",
        "iterations",
        "train_loss",
        "train_accuracy",
        "test_loss",
        "test_accuracy",
        "seconds",
        "ratio_to_exact",
    ]
    .map(String::from)
    .to_vec();
    for (layer, _) in outcomes.first().map_or(&[][..], |outcome| &outcome.deviations) {
        header.extend([format!("relative_error.{layer}"), format!("angle_degrees.{layer}")]);
    }
    let exact = exact_seconds(outcomes);
    let row = |outcome: &Outcome| {
        let mut row = vec![
            outcome.method.name().to_string(),
            settings(&outcome.method)["solver"].as_str().unwrap_or_default().to_string(),
            step(&outcome.method).unwrap_or_default(),
            outcome.method.iterations().map_or(String::new(), |iterations| iterations.to_string()),
            outcome.train.loss.to_string(),
            outcome.train.accuracy.to_string(),
            outcome.test.loss.to_string(),
            outcome.test.accuracy.to_string(),
            outcome.seconds.to_string(),
            (outcome.seconds / exact).to_string(),
        ];
        row.extend(outcome.deviations.iter().flat_map(|(_, d)| [d.relative_error.to_string(), d.angle.to_string()]));
        row
    };
    std::iter::once(header).chain(outcomes.iter().map(row)).collect()
}

/// Loss and accuracy over the steps; how far the gradients of those that relax are from exact's, over the layers.
fn picture(setup: &Setup, outcomes: &[Outcome], settings: String) -> Figure {
    let panel = |title: &str, y_label: &str, y_scale, curves| Panel {
        title: title.into(),
        y_label: y_label.into(),
        y_scale,
        curves,
        ..Panel::default()
    };
    // A method has one colour in all panels, and one mark or dash.
    let drawn = |index: usize, curve: Curve| Curve { colour: colour(index, METHODS.len()), ..curve };
    let steps =
        outcomes.iter().flat_map(|outcome| &outcome.history).map(|record| record.step as f64).fold(0.0, f64::max);
    let history = |title: &str, y_label: &str, y_scale, kind, value: fn(&Record) -> f64| {
        let curve = |(i, outcome): (usize, &Outcome)| {
            drawn(i, report::curve(&outcome.title(), i, &outcome.history, kind, value))
        };
        let curves = outcomes.iter().enumerate().map(curve).collect();
        Panel { x_label: "step".into(), x_end: Some(steps), ..panel(title, y_label, y_scale, curves) }
    };
    let layers = |title: &str, y_label: &str, y_scale, value: fn(&Deviation) -> f64| {
        let curve = |(i, outcome): (usize, &Outcome)| {
            let points = outcome.deviations.iter().map(|(layer, d)| (*layer as f64, value(d))).collect();
            drawn(i, Curve { name: outcome.title(), style: i, look: Look::Marks, points, ..Curve::default() })
        };
        let relaxing = outcomes.iter().enumerate().filter(|(_, outcome)| outcome.method != Method::Exact);
        Panel {
            x_label: "layer".into(),
            categories: true,
            ..panel(title, y_label, y_scale, relaxing.map(curve).collect())
        }
    };
    let accuracy = |record: &Record| 100.0 * record.accuracy;
    let (logarithmic, linear) = (Scale::Logarithmic, Scale::Linear);
    Figure {
        title: format!("{}: predictive coding (η, n) and exact backpropagation", setup.dataset),
        settings,
        panels: vec![
            history("Training loss", "loss", logarithmic, RecordKind::Train, |record| record.loss),
            history("Test accuracy", "accuracy (%)", linear, RecordKind::Test, accuracy),
            layers("Error of the gradients", "relative error", logarithmic, |deviation| deviation.relative_error),
            layers("Angle to exact's gradients", "angle (degrees)", linear, |deviation| deviation.angle),
        ],
        columns: 2,
    }
}
