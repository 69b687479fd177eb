//! Figures 2 and 4: the gradients of one batch against backpropagation's over the number of
//! iterations, at weights that backpropagation learned.

use predictive_coding::data::epoch_rng;
use predictive_coding::{
    Batch, Error, FixedPrediction, Loss, Method, Options, Parameters, Progress as RunProgress, Quantity, Session,
    Start, Strict,
};
use serde_json::{Value, json};

use super::Reproduce;
use super::setting::Setting;
use super::state::{State, numbers};
use crate::console::{Failure, print};
use crate::deviation::{columns, deviations};
use crate::figure::{self, Curve, Figure, Look, Panel, Scale, colour};
use crate::progress::Progress;
use crate::table::table;
use crate::training::{Flow, Training};
use crate::{interrupt, report};

const ETAS: [f64; 4] = [0.1, 0.2, 0.5, 1.0];

/// Iterations of a quick run.
const QUICK: usize = 8;

/// A relative error above this leaves the figure.
const HIGHEST: f64 = 100.0;

/// Angles below this, in degrees, are those of rounding.
const ROUNDING: f64 = 1e-2;

/// The gradients after n iterations: their relative errors and angles by layer.
struct Row {
    eta: f64,
    iterations: usize,
    errors: Vec<f64>,
    angles: Vec<f64>,
}

/// The step sizes that were followed to their end, and what was found.
#[derive(Default)]
struct Followed {
    etas: Vec<f64>,
    rows: Vec<Row>,
}

impl Followed {
    fn from_json(kept: &Value) -> Self {
        let row = |value: &Value| Row {
            eta: value["eta"].as_f64().unwrap_or(f64::NAN),
            iterations: value["iterations"].as_u64().unwrap_or(0) as usize,
            errors: numbers(&value["errors"]),
            angles: numbers(&value["angles"]),
        };
        let rows = kept["rows"].as_array().into_iter().flatten().map(row).collect();
        Followed { etas: numbers(&kept["etas"]), rows }
    }

    fn to_json(&self) -> Value {
        let row = |row: &Row| json!({ "eta": row.eta, "iterations": row.iterations, "errors": row.errors, "angles": row.angles });
        json!({ "etas": self.etas, "rows": self.rows.iter().map(row).collect::<Vec<_>>() })
    }
}

/// What is to be followed.
struct Question<'a> {
    asked: &'a Reproduce,
    setting: &'a Setting,
    parameters: &'a Parameters,
    batch: &'a Batch,
    exact: &'a Session,
    /// The largest number of iterations.
    most: usize,
}

pub fn run(asked: &Reproduce) -> Result<(), Failure> {
    let strict = asked.figure == Some(2);
    let (loss, most) = if strict { (Loss::MSE, 400) } else { (Loss::CROSS_ENTROPY, 200) };
    let most = if asked.quick { QUICK } else { most };
    let setting = Setting::mnist(asked, loss)?;
    let task = setting.task(Method::Exact);
    let network = &setting.network;
    let work = |eta: f64, n: usize| match strict {
        true => network.flops(&Strict::new(eta, 1).into(), setting.batch),
        false => network.flops(&literal(eta, n), setting.batch),
    };
    let all = ETAS.iter().map(|&eta| (1..=most).map(|n| work(eta, n)).sum::<u64>()).sum::<u64>();
    let mut bar = Progress::new(all + task.steps() * task.work());
    bar.set_prefix("backpropagation");
    let parameters = setting.network.initialize(setting.seed);
    let mut training = Training::new(task, parameters, setting.optimizer()?, RunProgress::default())?;
    if training.run(&mut bar)? == Flow::Stop {
        bar.finish();
        return Err(asked.stopped("while backpropagation learned the weights"));
    }
    let batch = setting.train.batches(setting.batch, &mut epoch_rng(setting.seed, 1)).next();
    let batch = batch.expect("a data set, which is never empty, has a batch");
    let mut exact = Session::new(network, setting.batch, Method::Exact, Options::default())?;
    exact.infer(training.parameters(), &batch.x, &batch.y).map_err(Failure::run)?;
    let parameters = training.parameters();
    let question = Question { asked, setting: &setting, parameters, batch: &batch, exact: &exact, most };

    let state = State::new(
        asked,
        json!({
            "data": setting.title,
            "samples": setting.train.len(),
            "seed": setting.seed,
            "convention": asked.convention.name(),
            "iterations": most,
        }),
    );
    let mut followed = state.read().map_or(Followed::default(), |kept| Followed::from_json(&kept));
    bar.set_prefix(if strict { "strict" } else { "fixed-prediction" });
    for eta in ETAS {
        if followed.etas.contains(&eta) {
            bar.advance((1..=most).map(|n| work(eta, n)).sum());
            continue;
        }
        let mut rows = Vec::new();
        let mut see = |n: usize, gradients: &Parameters| {
            let deviations = deviations(gradients, exact.gradients());
            let finite = gradients.values().iter().all(|g| g.is_finite());
            if finite {
                let (errors, angles) = deviations.into_iter().map(|(_, d)| (d.relative_error, d.angle)).unzip();
                rows.push(Row { eta, iterations: n, errors, angles });
            }
            bar.work(work(eta, n), format!("eta {eta}  iteration {n}/{most}"));
            if !finite {
                Follow::NotFinite
            } else if interrupt::asked() {
                Follow::Stop
            } else {
                Follow::On
            }
        };
        let end = if strict { question.strict(eta, &mut see) } else { question.fixed_prediction(eta, &mut see) }?;
        if let Follow::Stop = end {
            bar.finish();
            state.write(followed.to_json())?;
            return Err(asked.stopped(&format!("at eta {eta}")));
        }
        followed.rows.extend(rows);
        followed.etas.push(eta);
    }
    bar.finish();
    question.write(&followed.rows, &training)?;
    print(&question.text(&followed.rows))?;
    state.remove();
    Ok(())
}

/// The iteration as it stands.
fn literal(eta: f64, iterations: usize) -> Method {
    FixedPrediction::new(eta, iterations).with_literal(true).into()
}

/// Whether to go on with more iterations.
enum Follow {
    On,
    NotFinite,
    Stop,
}

impl Question<'_> {
    /// One relaxation serves all n: each iteration starts from the beliefs of the one before.
    fn strict(&self, eta: f64, see: &mut dyn FnMut(usize, &Parameters) -> Follow) -> Result<Follow, Failure> {
        let method = self.asked.convention.strict(eta, 1);
        let mut session = Session::new(&self.setting.network, self.batch.samples(), method, Options::default())?;
        let hidden = self.setting.network.layers().len() - 1;
        let mut beliefs: Vec<Vec<f32>> = Vec::new();
        for n in 1..=self.most {
            let starts: Vec<Start> = beliefs.iter().map(|u| Start::Deviation(u)).collect();
            match session.infer_from(self.parameters, &self.batch.x, &self.batch.y, &starts) {
                Ok(_) | Err(Error::Diverged(_)) => {}
                Err(error) => return Err(Failure::run(error)),
            }
            match see(n, session.gradients()) {
                Follow::On => {}
                end => return Ok(end),
            }
            beliefs = (1..=hidden).map(|layer| session.get(Quantity::Deviation, layer)).collect::<Result<_, _>>()?;
        }
        Ok(Follow::On)
    }

    fn fixed_prediction(&self, eta: f64, see: &mut dyn FnMut(usize, &Parameters) -> Follow) -> Result<Follow, Failure> {
        for n in 1..=self.most {
            let (network, samples) = (&self.setting.network, self.batch.samples());
            let mut session = Session::new(network, samples, literal(eta, n), Options::default())?;
            session.infer(self.parameters, &self.batch.x, &self.batch.y).map_err(Failure::run)?;
            match see(n, session.gradients()) {
                Follow::On => {}
                end => return Ok(end),
            }
        }
        Ok(Follow::On)
    }

    fn method(&self) -> &'static str {
        if self.asked.figure == Some(2) { "strict" } else { "fixed-prediction" }
    }

    fn layers(&self) -> usize {
        self.setting.network.layers().len()
    }

    fn write(&self, rows: &[Row], training: &Training) -> Result<(), Failure> {
        let mut header = vec!["eta".to_string(), "iterations".to_string()];
        header.extend(columns(self.layers()));
        let cells = rows.iter().map(|row| {
            let numbers = row.errors.iter().chain(&row.angles).map(f64::to_string);
            [row.eta.to_string(), row.iterations.to_string()].into_iter().chain(numbers).collect()
        });
        let cells: Vec<Vec<String>> = std::iter::once(header).chain(cells).collect();
        report::write_csv(&self.asked.file().with_extension("csv"), &cells)?;
        figure::write(&self.asked.file(), &self.picture(rows).scene())?;
        let optimizer = training.optimizer().description();
        let mut description = report::describe(training.task(), self.setting.title, &optimizer, self.exact);
        description["figure"] = json!(self.asked.figure);
        description["quick"] = json!(self.asked.quick);
        description["convention"] = json!(self.asked.convention.name());
        description["learned_by"] = description["method"].take();
        description["method"] = json!(self.method());
        description["eta"] = json!(ETAS);
        description["iterations"] = json!(self.most);
        report::write_json(&self.asked.out().join("run.json"), &description)
    }

    /// The errors of each eta, and below them the angles.
    fn picture(&self, rows: &[Row]) -> Figure {
        let strict = self.asked.figure == Some(2);
        let panel = |eta: f64, what: &str, y_label: &str, values: fn(&Row) -> &[f64]| {
            let curve = |layer: usize| {
                let of_eta = rows.iter().filter(|row| row.eta == eta);
                let points: Vec<_> = of_eta.map(|row| (row.iterations as f64, values(row)[layer])).collect();
                Curve {
                    name: format!("layer {}", layer + 1),
                    colour: colour(layer, self.layers()),
                    style: layer,
                    look: Look::Smoothed,
                    points,
                }
            };
            let reached = rows.iter().filter(|row| row.eta == eta).map(|row| row.iterations).max().unwrap_or(0);
            let end = if reached < self.most { format!(", finite to n = {reached}") } else { String::new() };
            Panel {
                title: format!("{what}, η = {eta}{end}"),
                x_label: "iterations n".into(),
                y_label: y_label.into(),
                x_scale: Scale::Logarithmic,
                x_end: Some(self.most as f64),
                curves: (0..self.layers()).map(curve).collect(),
                ..Panel::default()
            }
        };
        let error = |eta: f64| Panel {
            y_scale: Scale::Logarithmic,
            highest: Some(HIGHEST),
            // All of them have one axis.
            reach: Some(if strict { (1e-5, HIGHEST) } else { (1e-7, 2.0) }),
            ..panel(eta, "Error", "relative error", |row| &row.errors)
        };
        let (y_scale, reach) = angle_axis(rows.iter().flat_map(|row| &row.angles));
        let angle = |eta: f64| Panel { y_scale, reach, ..panel(eta, "Angle", "angle (degrees)", |row| &row.angles) };
        Figure {
            title: format!(
                "{}: gradients of {} against backpropagation's over the iterations{}",
                self.setting.title,
                self.method(),
                self.asked.convention_title()
            ),
            settings: format!("a batch at the weights that backpropagation learned with {}", self.setting.settings()),
            panels: ETAS.into_iter().map(error).chain(ETAS.into_iter().map(angle)).collect(),
            columns: ETAS.len(),
        }
    }

    fn text(&self, rows: &[Row]) -> String {
        let mut header = vec!["eta".to_string(), "finite up to n".to_string(), "climbs from n".to_string()];
        header.extend((1..=self.layers()).map(|layer| format!("error of layer {layer}")));
        let cells = ETAS.iter().filter_map(|&eta| {
            let of_eta: Vec<&Row> = rows.iter().filter(|row| row.eta == eta).collect();
            let last = of_eta.last()?;
            let climbs = of_eta.iter().find(|row| row.errors.iter().any(|&error| error > HIGHEST));
            let mut cells = vec![
                eta.to_string(),
                last.iterations.to_string(),
                climbs.map_or("never".into(), |row| row.iterations.to_string()),
            ];
            cells.extend(last.errors.iter().map(|error| format!("{error:.2e}")));
            Some(cells)
        });
        let header: Vec<&str> = header.iter().map(String::as_str).collect();
        let (name, out) = (self.asked.name(), self.asked.out());
        format!(
            "{}\n\nErrors are those of the last finite n; climbs: above {HIGHEST}.\nWritten to {}: {name}.csv, {name}.png, \
             {name}.svg, run.json",
            table(&header, &cells.collect::<Vec<_>>()),
            out.display()
        )
    }
}

/// The axis of angles, and what it reaches over at least: those of rounding are seen on a logarithmic one alone.
pub fn angle_axis<'a>(angles: impl Iterator<Item = &'a f64>) -> (Scale, Option<(f64, f64)>) {
    let largest = angles.copied().fold(0.0, f64::max);
    if largest < ROUNDING { (Scale::Logarithmic, Some((1e-6, 1e-3))) } else { (Scale::Linear, Some((0.0, 1.0))) }
}
