//! Options that subcommands share, and what they stand for.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use predictive_coding::{Adam, AdamOptions, AdamW, Dataset, Network, Optimizer, Parameters, Sgd, SgdOptions};

use crate::console::Failure;

/// PyTorch's weight decay for AdamW.
const ADAMW_WEIGHT_DECAY: f64 = 1e-2;

/// The number of threads of a pool.
#[derive(Args, Clone, Debug)]
pub struct Threads {
    /// Number of threads [default: all cores]
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

impl Threads {
    /// The number, if it was given.
    pub fn count(&self) -> Option<usize> {
        self.threads.map(usize::from)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MethodName {
    /// Backpropagation
    Exact,
    /// Predictions and Jacobians stay those of the forward pass
    FixedPrediction,
    /// Predictions follow the beliefs
    Strict,
}

impl MethodName {
    pub fn name(self) -> &'static str {
        match self {
            MethodName::Exact => "exact",
            MethodName::FixedPrediction => "fixed-prediction",
            MethodName::Strict => "strict",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DatasetName {
    /// Handwritten digits of 8 x 8 pixels, inside the program
    Digits,
    /// MNIST, or another data set in its format
    Mnist,
    /// CIFAR-10, binary version
    Cifar10,
}

/// A choice of data.
#[derive(Args, Clone, Debug)]
pub struct Data {
    /// Data set
    #[arg(long, value_enum, default_value = "digits")]
    pub dataset: DatasetName,
    /// Directory with the files of mnist or cifar10, plain or .gz
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

impl Data {
    /// The training and the test set.
    pub fn load(&self) -> Result<(Dataset, Dataset), Failure> {
        let name = self.dataset.name();
        match (self.dataset, &self.data) {
            (DatasetName::Digits, None) => Ok(Dataset::digits()),
            (DatasetName::Digits, Some(_)) => Err(Failure::usage(
                "--data was given, but the digits are inside the program; leave it out or name another --dataset",
            )),
            (_, None) => {
                Err(Failure::usage(format!("--dataset {name} needs --data DIR, the directory with its files")))
            }
            (DatasetName::Mnist, Some(directory)) => Ok(Dataset::mnist(directory)?),
            (DatasetName::Cifar10, Some(directory)) => Ok(Dataset::cifar10(directory)?),
        }
    }
}

impl DatasetName {
    pub fn name(self) -> &'static str {
        match self {
            DatasetName::Digits => "digits",
            DatasetName::Mnist => "mnist",
            DatasetName::Cifar10 => "cifar10",
        }
    }

    /// The batch size that goes with the data set's default model.
    pub fn default_batch(self) -> usize {
        match self {
            DatasetName::Digits => 64,
            DatasetName::Mnist => 300,
            DatasetName::Cifar10 => 256,
        }
    }

    pub fn default_epochs(self) -> u64 {
        match self {
            DatasetName::Digits => 40,
            DatasetName::Mnist => 2,
            DatasetName::Cifar10 => 1,
        }
    }

    /// The network of the model file at `model`, or the data set's default model.
    pub fn network(self, model: Option<&Path>) -> Result<Network, Failure> {
        let built_in = match self {
            DatasetName::Digits => include_str!("../models/digits.toml"),
            DatasetName::Mnist => include_str!("../models/mnist.toml"),
            DatasetName::Cifar10 => include_str!("../models/cifar10.toml"),
        };
        Ok(match model {
            Some(path) => Network::from_file(path)?,
            None => Network::from_toml(built_in)?,
        })
    }
}

/// Refuses a network that does not take the images of `data` or has fewer outputs than classes.
/// A flat input takes images of as many pixels.
pub fn check_fit(network: &Network, data: &Dataset) -> Result<(), Failure> {
    let pixels: usize = data.shape().iter().product();
    let (input, outputs) = (network.input_shape(), network.output_shape());
    if input != data.shape() && input != [pixels] {
        return Err(Failure::usage(format!(
            "the model takes inputs of shape {input:?}, the images have {:?}; use a model or data set that fits",
            data.shape()
        )));
    }
    if outputs.iter().product::<usize>() < data.classes() {
        return Err(Failure::usage(format!(
            "the model has outputs of shape {outputs:?}, the data set {} classes; expected at least one output for each",
            data.classes()
        )));
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OptimizerName {
    Sgd,
    Adam,
    Adamw,
}

impl OptimizerName {
    /// The learning rate that goes with the data set's default model.
    pub fn default_lr(self, dataset: DatasetName) -> f64 {
        match (self, dataset) {
            (OptimizerName::Sgd, _) => 0.1,
            (_, DatasetName::Digits) => 1e-3,
            (_, DatasetName::Mnist | DatasetName::Cifar10) => 2e-3,
        }
    }

    pub fn build(self, parameters: &Parameters, lr: f64) -> Result<Box<dyn Optimizer>, Failure> {
        let adam = AdamOptions { lr, ..AdamOptions::default() };
        Ok(match self {
            OptimizerName::Sgd => Box::new(Sgd::with_options(parameters, SgdOptions { lr, ..SgdOptions::default() })?),
            OptimizerName::Adam => Box::new(Adam::with_options(parameters, adam)?),
            OptimizerName::Adamw => {
                Box::new(AdamW::with_options(parameters, AdamOptions { weight_decay: ADAMW_WEIGHT_DECAY, ..adam })?)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_data_set_has_a_model_that_fits_its_images() {
        for (name, shape) in
            [(DatasetName::Digits, [1, 8, 8]), (DatasetName::Mnist, [1, 28, 28]), (DatasetName::Cifar10, [3, 32, 32])]
        {
            let network = name.network(None).unwrap();
            let pixels = shape.iter().product();
            let data = Dataset::new(vec![0.0; pixels], vec![0], &shape, 10).unwrap();
            check_fit(&network, &data).unwrap();
            let transposed = Dataset::new(vec![0.0; pixels], vec![0], &[shape[1], shape[2], shape[0]], 10).unwrap();
            assert!(check_fit(&network, &transposed).is_err());
            let classes = Dataset::new(vec![0.0; pixels], vec![0], &shape, 11).unwrap();
            assert!(check_fit(&network, &classes).is_err());
        }
    }
}
