//! What a figure is computed on: network, data, and how to train.

use std::path::PathBuf;

use predictive_coding::{Adam, AdamOptions, Dataset, LayerSpec, Loss, Method, Network, Options};

use super::Reproduce;
use crate::console::Failure;
use crate::options::{self, DatasetName};
use crate::training::Task;

/// Steps of an epoch, samples of a batch and of the test set in a quick run.
const QUICK: [usize; 3] = [4, 20, 100];

/// A data set with its network and the paper's way of training it.
pub struct Setting {
    /// As in a title.
    pub title: &'static str,
    pub network: Network,
    pub train: Dataset,
    pub test: Dataset,
    pub batch: usize,
    pub epochs: u64,
    pub lr: f64,
    pub seed: u64,
    /// Steps between comparisons of gradients, and between evaluations.
    pub compare_every: u64,
    pub evaluate_every: u64,
}

impl Setting {
    /// MNIST with this loss; digits of 8 x 8 pixels where no data are given.
    pub fn mnist(asked: &Reproduce, loss: Loss) -> Result<Self, Failure> {
        let (title, toml, (train, test), batch, epochs) = match &asked.data {
            Some(data) => {
                let toml = include_str!("../../models/mnist.toml");
                ("MNIST", toml, options::mnist(&directory(data, "mnist"))?, DatasetName::Mnist.default_batch(), 2)
            }
            None => {
                let toml = include_str!("../../models/mnist_8x8.toml");
                ("digits of 8 x 8 pixels instead of MNIST", toml, Dataset::digits(), 60, 20)
            }
        };
        let network = Network::from_toml(toml)?;
        let layers = network.layers().iter().map(LayerSpec::from).collect();
        let network = Network::new(network.input_shape(), loss, layers)?;
        let setting = Setting {
            title,
            network,
            train,
            test,
            batch,
            epochs: asked.epochs.unwrap_or(epochs),
            lr: 2e-3,
            seed: asked.seed,
            compare_every: 1,
            evaluate_every: 20,
        };
        Ok(setting.quick_if(asked.quick))
    }

    /// CIFAR-10 with cross-entropy.
    pub fn cifar10(asked: &Reproduce) -> Result<Self, Failure> {
        let Some(data) = &asked.data else {
            return Err(Failure::usage(format!(
                "{} needs --data DIR, the directory with the files of CIFAR-10",
                asked.name()
            )));
        };
        let (train, test) = Dataset::cifar10(directory(data, "cifar10"))?;
        let setting = Setting {
            title: "CIFAR-10",
            network: DatasetName::Cifar10.network(None)?,
            train,
            test,
            batch: DatasetName::Cifar10.default_batch(),
            epochs: asked.epochs.unwrap_or(5),
            lr: 1e-2,
            seed: asked.seed,
            compare_every: 5,
            evaluate_every: 50,
        };
        Ok(setting.quick_if(asked.quick))
    }

    /// What a figure was made with, as a line below its title.
    pub fn settings(&self) -> String {
        let plural = if self.epochs == 1 { "" } else { "s" };
        format!(
            "{} loss, batch {}, {} epoch{plural}, Adam at {}, seed {}",
            self.network.loss(),
            self.batch,
            self.epochs,
            self.lr,
            self.seed
        )
    }

    fn quick_if(self, quick: bool) -> Self {
        if !quick {
            return self;
        }
        let [steps, batch, tested] = QUICK;
        Setting {
            train: self.train.first(steps * batch),
            test: self.test.first(tested),
            batch,
            epochs: self.epochs.min(2),
            compare_every: 1,
            evaluate_every: 2,
            ..self
        }
    }

    /// Training by a method, with batches of one size.
    pub fn task(&self, method: Method) -> Task<'_> {
        Task {
            network: &self.network,
            train: &self.train,
            test: &self.test,
            method,
            options: Options::default(),
            batch: self.batch,
            epochs: self.epochs,
            seed: self.seed,
            rate: None,
            clip: None,
            patience: None,
            whole_batches: true,
            follow_divergence: true,
        }
    }

    pub fn optimizer(&self) -> Result<Box<dyn predictive_coding::Optimizer>, Failure> {
        let parameters = self.network.initialize(self.seed);
        Ok(Box::new(Adam::with_options(&parameters, AdamOptions::default().with_lr(self.lr))?))
    }
}

/// `data`, or its directory `name` if there is one.
fn directory(data: &std::path::Path, name: &str) -> PathBuf {
    let inside = data.join(name);
    if inside.is_dir() { inside } else { data.to_path_buf() }
}
