//! `infer --trace`: the energy of each layer and the norm of its gradient, iteration by iteration.

use std::path::Path;

use predictive_coding::{Error, Eta, Network, Options, Parameters, Quantity, Session, Start, Strict, Targets};

use crate::console::Failure;
use crate::figure::{self, Curve, Figure, Look, Panel, Scale, colour};
use crate::relaxing::title;
use crate::report::write_csv;

/// What is known of the beliefs before an update.
struct Row {
    /// Of each layer, the loss last.
    energies: Vec<f64>,
    /// |dF/dv|, over the whole batch.
    gradient: f64,
}

/// Relaxes a batch by strict, one iteration at a time, from v-hat or `starts` on, and writes trace.csv, trace.png and
/// trace.svg to a directory.
pub fn write(
    directory: &Path,
    network: &Network,
    parameters: &Parameters,
    (x, y): (&[f32], Targets<'_>),
    (eta, iterations, options): (&Eta, usize, Options),
    starts: &[Start<'_>],
) -> Result<(), Failure> {
    let samples = x.len() / network.input_shape().iter().product::<usize>();
    let mut session = Session::new(network, samples, Strict::new(eta.clone(), 1), options)?;
    session.record_energies(true)?;
    let hidden = network.layers().len() - 1;
    let mut rows = Vec::new();
    let mut beliefs: Vec<Vec<f32>> = Vec::new();
    for iteration in 1..=iterations {
        let own: Vec<Start> = beliefs.iter().map(|u| Start::Deviation(u)).collect();
        match session.infer_from(parameters, x, y, if iteration == 1 { starts } else { &own }) {
            Ok(_) | Err(Error::Diverged(_)) => {}
            Err(error) => return Err(Failure::run(error)),
        }
        let mut energies = Vec::new();
        for layer in 1..=hidden {
            let squares = session.get(Quantity::Error, layer)?.iter().map(|&e| f64::from(e).powi(2)).sum::<f64>();
            energies.push(0.5 * network.layers()[layer - 1].precision() * squares);
        }
        energies.push(session.energies()[0] - energies.iter().sum::<f64>());
        let moved = (1..=hidden).map(|layer| session.get(Quantity::Deviation, layer));
        let moved = moved.collect::<Result<Vec<_>, _>>()?;
        if beliefs.is_empty() {
            beliefs = moved.iter().map(|u| vec![0.0; u.len()]).collect();
        }
        let mut square = 0.0;
        for (layer, (new, old)) in (1..).zip(moved.iter().zip(&beliefs)) {
            let eta = eta.of_layer(layer);
            let moves = new.iter().zip(old).map(|(new, old)| (f64::from(*new) - f64::from(*old)) / eta);
            square += moves.map(|g| g * g).sum::<f64>();
        }
        // Where the caller's beliefs lie is known after their first update.
        let gradient = if iteration == 1 && !starts.is_empty() { f64::NAN } else { square.sqrt() };
        rows.push(Row { energies, gradient });
        beliefs = moved;
    }
    write_csv(&directory.join("trace.csv"), &csv(&rows, hidden))?;
    let title = format!("Relaxation by {}", title(&Strict::new(eta.clone(), iterations).into()));
    let settings = format!("{} loss, batch {samples}", network.loss());
    figure::write(&directory.join("trace"), &picture(&rows, hidden, title, settings).scene())
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

fn picture(rows: &[Row], hidden: usize, title: String, settings: String) -> Figure {
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
            panel("Gradient of the energy by all beliefs", "2-norm", vec![gradient]),
        ],
        columns: 2,
    }
}
