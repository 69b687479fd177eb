//! `summary`: what a network is made of and what it costs.

use std::path::PathBuf;

use clap::Args;
use predictive_coding::{Choice, Layer, Network, ParameterSpec, Reduction, Session};

use crate::console::{Failure, print};
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
        let parameters = network.parameters().last().map_or(0, |spec| spec.range.end);
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
            table(&["layer", "operation", "output", "parameters", "flops per sample"], &operations(&network)),
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

/// A row for each operation; a layer's number and flops stand in its first.
fn operations(network: &Network) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for (l, layer) in network.layers().iter().enumerate() {
        if layer.ops().is_empty() {
            rows.push(vec![(l + 1).to_string(), "-".into(), shape(layer.output_shape()), "0".into(), "0".into()]);
        }
        for (o, op) in layer.ops().iter().enumerate() {
            let of_op = |spec: &&ParameterSpec| spec.layer == l && spec.op == o;
            let parameters: usize = network.parameters().iter().filter(of_op).map(|spec| spec.range.len()).sum();
            rows.push(vec![
                if o == 0 { (l + 1).to_string() } else { String::new() },
                op.name().to_string(),
                shape(&layer.shapes()[o + 1]),
                parameters.to_string(),
                if o == 0 { layer.flops().to_string() } else { String::new() },
            ]);
        }
    }
    rows
}

/// A shape as in `10 x 26 x 26`.
fn shape(shape: &[usize]) -> String {
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ")
}
