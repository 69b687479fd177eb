//! `summary`: what a network is made of and what it costs.

use std::path::PathBuf;

use clap::Args;
use predictive_coding::{Branch, Choice, Layer, Network, Op, ParameterSpec, Reduction, Session};

use crate::console::{Failure, print};
use crate::figure::{self, Graph, Node};
use crate::machine::{check_memory, check_session};
use crate::options::{DatasetName, MethodName};
use crate::relaxing::{Relaxing, TRAINING_PRODUCTS, title, warn_of_unreached};
use crate::shares::shares_table;
use crate::table::table;

/// Show the layers, shapes, parameters and costs of a network.
#[derive(Args, Clone, Debug)]
pub struct Summary {
    /// Model file [default: one for the data set]
    #[arg(long, help_heading = "Network", value_name = "FILE")]
    model: Option<PathBuf>,
    /// Data set that the default model and batch size belong to
    #[arg(long, help_heading = "Network", default_value = "digits", value_name = "NAME")]
    dataset: DatasetName,
    /// Method whose cost is shown [default: all three]
    #[arg(long, value_enum, help_heading = "Relaxation")]
    method: Option<MethodName>,
    #[command(flatten)]
    relaxing: Relaxing,
    /// Draw the layers and what they read to FILE.svg and FILE.png
    #[arg(long, help_heading = "Output", value_name = "FILE")]
    graph: Option<PathBuf>,
    /// Number of samples per step [default: mnist 300, cifar10 256, others 64]
    #[arg(long, help_heading = "Network", value_parser = clap::value_parser!(u64).range(1..))]
    batch: Option<u64>,
}

impl Summary {
    pub fn run(self) -> Result<(), Failure> {
        self.relaxing.check(self.method)?;
        let network = self.dataset.network(self.model.as_deref())?;
        let batch =
            self.batch.map_or(self.dataset.default_batch(), |batch| usize::try_from(batch).unwrap_or(usize::MAX));
        check_memory(&network, batch)?;
        let mut costs = Vec::new();
        let mut shares = String::new();
        let mut convolutions = Vec::new();
        let all = [MethodName::Exact, MethodName::FixedPrediction, MethodName::Strict];
        for name in self.method.map_or(all.to_vec(), |method| vec![method]) {
            let (method, options) = (self.relaxing.method(name, TRAINING_PRODUCTS)?, self.relaxing.options());
            check_session(&network, batch, &method, &options)?;
            let session = Session::new(&network, batch, &method, options)?;
            if let Some(table) = shares_table(&method, &network) {
                shares = format!("\n\n{table}");
            }
            warn_of_unreached(&method, &network);
            for (index, (layer, choices)) in session.convolutions().enumerate() {
                let [forward, data, weights] = choices.map(told);
                let data = if index == 0 { "-".into() } else { data };
                let layout = session.layout().name().into();
                convolutions.push(vec![title(&method), layer.to_string(), layout, forward, data, weights]);
            }
            costs.push(vec![title(&method), network.flops(&method, batch).to_string(), session.bytes().to_string()]);
        }
        if let Some(path) = &self.graph {
            figure::write(path, &graph(&network).scene())?;
        }
        let parameters = network.parameters().last().map_or(0, |spec| spec.range.end);
        let mut columns = vec!["layer", "reads", "operation", "output", "parameters", "flops per sample"];
        if is_chain(&network) {
            columns.remove(1);
        }
        print(&format!(
            "input {}, loss {}{}\n{}\n{} parameters, {} flops in the forward pass of one sample\n\nOne step with a batch of {batch}\n{}{}{shares}",
            shape(network.input_shape()),
            network.loss(),
            match network.loss().reduction {
                Reduction::Mean => format!(
                    " (a mean: in a batch of {batch}, beliefs move about 1/{batch} as far as for a single sample; with reduction \
                     = \"sum\" they move as far)"
                ),
                _ => String::new(),
            },
            table(&columns, &operations(&network)),
            parameters,
            network.layers().iter().map(Layer::flops).sum::<u64>(),
            table(&["method", "flops", "memory of a session (bytes)"], &costs),
            match convolutions.is_empty() {
                true => String::new(),
                false => format!(
                    "\n\nAlgorithms of the convolutions (in brackets: estimated time of winograd relative to direct)\n{}",
                    table(
                        &["method", "layer", "layout", "forward", "backward data", "backward weights"],
                        &convolutions
                    )
                ),
            },
        ))
    }
}

/// The algorithm of a pass, and why.
fn told(choice: Choice) -> String {
    match choice.share {
        Some(share) => format!("{} ({share:.2})", choice.algorithm.name()),
        None => choice.algorithm.name().into(),
    }
}

/// Whether each layer reads the one before, and nothing else.
fn is_chain(network: &Network) -> bool {
    let mut layers = network.layers().iter().enumerate();
    layers.all(|(l, layer)| matches!(layer.branches(), [only] if only.from() == l && only.ops().is_empty()))
}

/// The name of what a branch reads: a layer (from 1), or 0 for the input.
fn source(network: &Network, from: usize) -> String {
    match from.checked_sub(1).map(|l| &network.layers()[l]) {
        None => "input".into(),
        Some(layer) => layer.name().map_or(format!("layer {from}"), str::to_string),
    }
}

/// A row for each operation; a layer's number and flops stand in its first, and what is read in the first of each branch.
fn operations(network: &Network) -> Vec<Vec<String>> {
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (l, layer) in network.layers().iter().enumerate() {
        let first = rows.len();
        let mut add = |reads: String, branch: Option<usize>, ops: &[Op], shapes: &[Vec<usize>]| {
            let parameters = |o: usize| {
                let own = |spec: &&ParameterSpec| (spec.layer, spec.branch, spec.op) == (l, branch, o);
                network.parameters().iter().filter(own).map(|spec| spec.range.len()).sum::<usize>().to_string()
            };
            let row = |reads: String, name: &str, output: &[usize], parameters: String| {
                vec![String::new(), reads, name.into(), shape(output), parameters, String::new()]
            };
            if ops.is_empty() {
                rows.push(row(reads.clone(), "-", &shapes[0], "0".into()));
            }
            for (o, op) in ops.iter().enumerate() {
                let reads = if o == 0 { reads.clone() } else { String::new() };
                rows.push(row(reads, op.name(), &shapes[o + 1], parameters(o)));
            }
        };
        let merged = layer.branches().len() == 1;
        for (index, branch) in layer.branches().iter().enumerate() {
            if !merged || !branch.ops().is_empty() {
                add(source(network, branch.from()), Some(index), branch.ops(), branch.shapes());
            }
        }
        if !layer.ops().is_empty() || (merged && layer.branches()[0].ops().is_empty()) {
            let reads = match layer.branches() {
                [only] if only.ops().is_empty() => source(network, only.from()),
                [_] => String::new(),
                _ => "their sum".into(),
            };
            add(reads, None, layer.ops(), layer.shapes());
        }
        rows[first][0] = layer.name().map_or(format!("{}", l + 1), |name| format!("{} ({name})", l + 1));
        rows[first][5] = layer.flops().to_string();
    }
    if is_chain(network) {
        rows.iter_mut().for_each(|row| drop(row.remove(1)));
    }
    rows
}

/// The network as a graph.
fn graph(network: &Network) -> Graph {
    let names = |ops: &[Op]| ops.iter().map(Op::name).collect::<Vec<_>>().join(", ");
    let input = Node { title: format!("input: {}", shape(network.input_shape())), reads: vec![], then: String::new() };
    let node = |(l, layer): (usize, &Layer)| {
        let name = layer.name().map_or(String::new(), |name| format!(" ({name})"));
        let several = layer.branches().len() > 1;
        let label = |branch: &Branch| match (several, branch.ops().is_empty()) {
            (false, _) => names(branch.ops()),
            (true, true) => format!("+ {}", source(network, branch.from())),
            (true, false) => format!("+ {} of {}", names(branch.ops()), source(network, branch.from())),
        };
        let reads = layer.branches().iter().map(|branch| (branch.from(), label(branch)));
        Node {
            title: format!("layer {l}{name}: {}", shape(layer.output_shape())),
            reads: reads.collect(),
            then: names(layer.ops()),
        }
    };
    let layers = (1..).zip(network.layers()).map(node);
    let last = network.layers().len();
    let title = format!("{last} layers, {} loss", network.loss());
    Graph { title, nodes: std::iter::once(input).chain(layers).collect() }
}

/// A shape as in `10 x 26 x 26`.
fn shape(shape: &[usize]) -> String {
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ")
}
