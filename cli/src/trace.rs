//! `infer --trace`: the energy of each layer and the norm of its gradient, iteration by iteration.

use std::path::Path;

use predictive_coding::{Method, Network, Session, Solver, Strict, Traced};

use crate::console::Failure;
use crate::figure::{self, Curve, Figure, Look, Panel, Scale, colour};
use crate::relaxing::{strict, title};
use crate::report::write_csv;

/// What is known before an update.
struct Row {
    /// Of each layer, the loss last.
    energies: Vec<f64>,
    /// The norm of the gradient, over the whole batch.
    gradient: f64,
}

/// Writes trace.csv, trace.png and trace.svg of a session's last call, which was traced, to a directory.
pub fn write(directory: &Path, network: &Network, session: &Session) -> Result<(), Failure> {
    let row = |traced: Traced<'_>| Row { energies: traced.energies.to_vec(), gradient: traced.gradient };
    let rows: Vec<Row> = session.trace().map(row).collect();
    let hidden = network.layers().len() - 1;
    write_csv(&directory.join("trace.csv"), &csv(&rows, hidden))?;
    let variables = if by_errors(session.method()) { "errors" } else { "beliefs" };
    let title = format!("Relaxation by {}", title(session.method()));
    let settings = format!("{} loss, batch {}", network.loss(), session.samples());
    figure::write(&directory.join("trace"), &picture(&rows, hidden, title, settings, variables).scene())
}

/// Whether the errors are what moves.
fn by_errors(method: &Method) -> bool {
    let sweeps = |strict: &Strict| strict.solver == Solver::Sweeps;
    matches!(method, Method::ErrorBased(_)) || strict(method).is_some_and(sweeps)
}

fn csv(rows: &[Row], hidden: usize) -> Vec<Vec<String>> {
    let layers = (1..=hidden).map(|layer| format!("energy.{layer}"));
    let header =
        std::iter::once("iteration".to_string()).chain(layers).chain(["loss", "energy", "gradient"].map(String::from));
    let row = |(iteration, row): (usize, &Row)| {
        let numbers = row.energies.iter().copied().chain([row.energies.iter().sum(), row.gradient]);
        std::iter::once(iteration.to_string()).chain(numbers.map(|number| number.to_string())).collect()
    };
    std::iter::once(header.collect()).chain((1..).zip(rows).map(row)).collect()
}

fn picture(rows: &[Row], hidden: usize, title: String, settings: String, variables: &str) -> Figure {
    let curve = |name: String, index: usize, count: usize, value: &dyn Fn(&Row) -> f64| Curve {
        name,
        colour: colour(index, count),
        style: index,
        look: Look::Line,
        points: (1..).zip(rows).map(|(i, row)| (f64::from(i), value(row))).collect(),
    };
    let panel = |title: &str, y_label: &str, curves: Vec<Curve>| Panel {
        title: title.into(),
        x_label: "iteration".into(),
        y_label: y_label.into(),
        y_scale: Scale::Logarithmic,
        x_end: Some(rows.len() as f64),
        curves,
        ..Panel::default()
    };
    let layers = (0..=hidden).map(|layer| {
        let name = if layer == hidden { "loss".into() } else { format!("layer {}", layer + 1) };
        curve(name, layer, hidden + 2, &|row| row.energies[layer])
    });
    let sum = curve("sum".into(), hidden + 1, hidden + 2, &|row| row.energies.iter().sum());
    let gradient = curve("gradient".into(), 0, 1, &|row| row.gradient);
    Figure {
        title,
        settings,
        panels: vec![
            // What may cover others lies behind.
            panel("Energy", "energy", std::iter::once(sum).chain(layers).collect()),
            panel(&format!("Gradient of the energy by all {variables}"), "2-norm", vec![gradient]),
        ],
        columns: 2,
    }
}
