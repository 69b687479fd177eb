//! `evaluate`: loss and accuracy of trained weights.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::console::{Failure, print};
use crate::machine::{check_memory, forward_session, on_threads};
use crate::options::{Data, Threads, check_fit, load_weights};
use crate::table::{percent, table};
use crate::training::evaluate;

/// Compute loss and accuracy of trained weights on the training set and the test set.
#[derive(Args, Clone, Debug)]
pub struct Evaluate {
    /// Number of samples per forward pass [default: mnist 300, cifar10 256, others 64]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    batch: Option<u64>,
    #[command(flatten)]
    threads: Threads,
    /// Print the results as one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    data: Data,
    /// Model file [default: one for the data set]
    #[arg(long, help_heading = "Network", value_name = "FILE")]
    model: Option<PathBuf>,
    /// Weights, in the format of infer
    #[arg(long, help_heading = "Network", value_name = "FILE")]
    weights: PathBuf,
}

impl Evaluate {
    pub fn run(self) -> Result<(), Failure> {
        let threads = self.threads.count();
        on_threads(threads, || self.evaluate())
    }

    fn evaluate(&self) -> Result<(), Failure> {
        let name = &self.data.dataset;
        let network = name.network(self.model.as_deref())?;
        check_memory(&network, 1)?;
        let parameters = load_weights(&network, &self.weights)?;
        let (train, test) = self.data.load()?;
        check_fit(&network, &train)?;
        check_fit(&network, &test)?;
        let batch = self.batch.map_or(name.default_batch(), |batch| usize::try_from(batch).unwrap_or(usize::MAX));
        let batch = batch.min(train.len().max(test.len()));
        let mut session = forward_session(&network, batch)?;
        let mut rows = Vec::new();
        let mut result = json!({ "dataset": name.name() });
        for (set, data) in [("train", &train), ("test", &test)] {
            let score = evaluate(&mut session, &network, &parameters, data, batch)?;
            rows.push(vec![
                set.to_string(),
                data.len().to_string(),
                format!("{:.6}", score.loss),
                percent(score.accuracy),
            ]);
            result[set] = json!({ "samples": data.len(), "loss": score.loss, "accuracy": score.accuracy });
        }
        match self.json {
            true => print(&result.to_string()),
            false => print(&table(&["set", "samples", "loss", "accuracy"], &rows)),
        }
    }
}
