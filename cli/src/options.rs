//! Options that subcommands share, and what they stand for.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, ValueEnum};
use predictive_coding::{BatchTargets, Dataset, LossFunction, Network, Parameters};

use crate::arrays::{self, Array};
use crate::console::{Failure, note};

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
    /// Predictive coding; predictions and Jacobians stay those of the forward pass
    FixedPrediction,
    /// Predictive coding; predictions follow the beliefs
    Strict,
    /// Predictive coding; errors are optimised instead of beliefs, which follow from them
    ErrorBased,
    /// Predictive coding; the parameters step in every iteration
    Incremental,
}

impl MethodName {
    pub fn name(self) -> &'static str {
        match self {
            MethodName::Exact => "exact",
            MethodName::FixedPrediction => "fixed-prediction",
            MethodName::Strict => "strict",
            MethodName::ErrorBased => "error-based",
            MethodName::Incremental => "incremental",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatasetName {
    /// Handwritten digits of 8 x 8 pixels, inside the program.
    Digits,
    /// MNIST, or another data set in its format.
    Mnist,
    /// CIFAR-10, binary version.
    Cifar10,
    /// Arrays of somebody's own.
    File(PathBuf),
}

impl FromStr for DatasetName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "digits" => Ok(DatasetName::Digits),
            "mnist" => Ok(DatasetName::Mnist),
            "cifar10" => Ok(DatasetName::Cifar10),
            _ if arrays::is_known(Path::new(text)) => Ok(DatasetName::File(text.into())),
            _ => Err("expected digits, mnist, cifar10 or a file that ends in .safetensors, .npz or .npy".into()),
        }
    }
}

/// A choice of data.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Data")]
pub struct Data {
    /// Data set: digits, mnist, cifar10, or a file of your own
    ///
    /// digits are images of 8 x 8 pixels that are part of the program. mnist and cifar10 need --data. A file
    /// (.safetensors, .npz, or x.npy with y.npy beside it) holds x of shape [samples, shape of a sample] and y with a
    /// label or a row of numbers for each sample. It may also hold x_test and y_test; without these, the training set is
    /// also the test set. Bytes are divided by 255.
    #[arg(long, default_value = "digits", value_name = "NAME|FILE")]
    pub dataset: DatasetName,
    /// Directory with the files of mnist or cifar10, plain or .gz; subdirectories are searched too
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Use only the first N samples of the training set and of the test set
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

impl Data {
    /// The training and the test set.
    pub fn load(&self) -> Result<(Dataset, Dataset), Failure> {
        let (train, test) = self.load_all()?;
        let Some(limit) = self.limit else { return Ok((train, test)) };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok((train.first(limit), test.first(limit)))
    }

    fn load_all(&self) -> Result<(Dataset, Dataset), Failure> {
        match (&self.dataset, &self.data) {
            (DatasetName::Digits, None) => Ok(Dataset::digits()),
            (DatasetName::File(path), None) => own_data(path),
            (DatasetName::Digits | DatasetName::File(_), Some(_)) => Err(Failure::usage(
                "--data was given, but is only for --dataset mnist and cifar10; leave it out or name one of them",
            )),
            (name, None) => {
                Err(Failure::usage(format!("--dataset {} needs --data DIR, the directory with its files", name.name())))
            }
            (DatasetName::Mnist, Some(directory)) => mnist(directory),
            (DatasetName::Cifar10, Some(directory)) => Ok(Dataset::cifar10(directory)?),
        }
    }
}

/// MNIST from a directory; says which files are read where others would have fitted too.
pub fn mnist(directory: &Path) -> Result<(Dataset, Dataset), Failure> {
    let files = Dataset::mnist_files(directory)?;
    if files.others > 0 {
        let names = files.paths.iter().map(|path| path.display().to_string());
        let names = names.collect::<Vec<_>>().join(", ");
        note(&format!("note: found more than one set of files; reading {names}"));
    }
    Ok(Dataset::mnist(directory)?)
}

/// The data of a file of arrays.
fn own_data(path: &Path) -> Result<(Dataset, Dataset), Failure> {
    let mut arrays = arrays::read(path, &["x", "y", "x_test", "y_test"])?;
    let wrong = |message: String| Failure::usage(format!("{}: {message}", path.display()));
    let mut pair = |x: &str, y: &str| match (arrays.remove(x), arrays.remove(y)) {
        (Some(inputs), Some(targets)) => Ok(Some((inputs, targets))),
        (None, None) => Ok(None),
        (found, _) => {
            let (has, lacks) = if found.is_some() { (x, y) } else { (y, x) };
            Err(wrong(format!("holds {has} but not {lacks}; expected both")))
        }
    };
    let train =
        pair("x", "y")?.ok_or_else(|| wrong("holds no x and y; expected the samples x and their targets y".into()))?;
    let test = pair("x_test", "y_test")?;
    let largest = |(_, y): &(Array, Array)| y.values.labels().and_then(|labels| labels.into_iter().max());
    let classes = largest(&train).max(test.as_ref().and_then(largest)).map_or(0, |label| label.max(0) as usize + 1);
    let set = |(x, y): (Array, Array)| {
        let Some((&samples, shape)) = x.shape.split_first().filter(|(_, shape)| !shape.is_empty()) else {
            return Err(wrong(format!("x has shape {:?}; expected [samples, shape of a sample]", x.shape)));
        };
        let of_sample = y.shape.iter().skip(1).product::<usize>();
        if y.shape.first() != Some(&samples) {
            return Err(wrong(format!(
                "y has shape {:?}; expected one target for each of the {samples} samples",
                y.shape
            )));
        }
        match y.values.labels() {
            Some(labels) if of_sample == 1 => Dataset::new(x.values.numbers(), labels, shape, classes),
            Some(_) => return Err(wrong(format!("y has shape {:?}; expected one label per sample", y.shape))),
            None => Dataset::with_values(x.values.numbers(), y.values.numbers(), shape, of_sample),
        }
        .map_err(|e| wrong(e.to_string()))
    };
    let train = set(train)?;
    let test = match test {
        Some(test) => set(test)?,
        None => {
            note(&format!(
                "note: {} holds no x_test and y_test; the training set is also the test set",
                path.display()
            ));
            train.clone()
        }
    };
    if test.shape() != train.shape() {
        return Err(wrong(format!(
            "x_test has samples of shape {:?}; expected {:?} like x",
            test.shape(),
            train.shape()
        )));
    }
    Ok((train, test))
}

impl DatasetName {
    pub fn name(&self) -> String {
        match self {
            DatasetName::Digits => "digits".into(),
            DatasetName::Mnist => "mnist".into(),
            DatasetName::Cifar10 => "cifar10".into(),
            DatasetName::File(path) => {
                path.file_stem().map_or("data".into(), |stem| stem.to_string_lossy().into_owned())
            }
        }
    }

    /// The batch size that goes with the data set's default model.
    pub fn default_batch(&self) -> usize {
        match self {
            DatasetName::Digits | DatasetName::File(_) => 64,
            DatasetName::Mnist => 300,
            DatasetName::Cifar10 => 256,
        }
    }

    pub fn default_epochs(&self) -> u64 {
        match self {
            DatasetName::Digits => 40,
            DatasetName::File(_) => 10,
            DatasetName::Mnist => 2,
            DatasetName::Cifar10 => 1,
        }
    }

    /// The network of the model file at `model`, or the data set's default model.
    pub fn network(&self, model: Option<&Path>) -> Result<Network, Failure> {
        let built_in = match (model, self) {
            (Some(path), _) => return Ok(Network::from_file(path)?),
            (None, DatasetName::Digits) => include_str!("../models/digits.toml"),
            (None, DatasetName::Mnist) => include_str!("../models/mnist.toml"),
            (None, DatasetName::Cifar10) => include_str!("../models/cifar10.toml"),
            (None, DatasetName::File(path)) => {
                return Err(Failure::usage(format!(
                    "--dataset {} needs --model FILE; only digits, mnist and cifar10 have a default model",
                    path.display()
                )));
            }
        };
        Ok(Network::from_toml(built_in)?)
    }
}

/// The weights of a file, with a note of whatever was not as usual.
pub fn load_weights(network: &Network, path: &Path) -> Result<Parameters, Failure> {
    let (parameters, notes) = Parameters::load_noted(network, path)?;
    notes.iter().for_each(|line| note(&format!("note: {}: {line}", path.display())));
    Ok(parameters)
}

/// Refuses a network that does not take the images of `data` or has fewer outputs than classes.
/// A flat input takes images of as many pixels.
pub fn check_fit(network: &Network, data: &Dataset) -> Result<(), Failure> {
    let pixels: usize = data.shape().iter().product();
    let (input, outputs) = (network.input_shape(), network.output_shape());
    if input != data.shape() && input != [pixels] {
        return Err(Failure::usage(format!(
            "the model takes inputs of shape {input:?}, but the samples have shape {:?}; use another model or data set",
            data.shape()
        )));
    }
    let count = outputs.iter().product::<usize>();
    match data.targets() {
        BatchTargets::Labels(_) if count < data.classes() => Err(Failure::usage(format!(
            "the model has outputs of shape {outputs:?}, but the data set has {} classes; expected at least one output per class",
            data.classes()
        ))),
        BatchTargets::Values(_) if network.loss().function == LossFunction::CrossEntropy => Err(Failure::usage(
            "the model's loss is cross_entropy, which needs labels, but the data set has rows of numbers; use mse",
        )),
        BatchTargets::Values(_) if count != data.classes() => Err(Failure::usage(format!(
            "the model has outputs of shape {outputs:?}, but the targets have {} numbers; expected the same number",
            data.classes()
        ))),
        _ => Ok(()),
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
