//! How the weights follow their gradients: the options of that.

use clap::{Args, ValueEnum};
use predictive_coding::{Adam, AdamOptions, AdamW, LearningRate, Optimizer, Parameters, Schedule, Sgd, SgdOptions};

use crate::console::Failure;
use crate::options::DatasetName;

/// PyTorch's weight decay for AdamW.
const ADAMW_WEIGHT_DECAY: f64 = 1e-2;
/// The usual factor of a change of the learning rate.
const DECAY: f64 = 0.1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OptimizerName {
    Sgd,
    Adam,
    Adamw,
}

/// What the learning rate does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ScheduleName {
    /// The same for the whole run
    Constant,
    /// Falls to 0 along half a period of a cosine
    Cosine,
    /// Multiplied by --decay-factor after every --decay-every epochs
    Step,
}

/// The optimiser of a single call of incremental.
#[derive(Args, Clone, Copy, Debug)]
pub struct Incrementing {
    /// incremental: optimizer of the parameters, with PyTorch's defaults [default: sgd]
    #[arg(long, value_enum, help_heading = "Relaxation")]
    optimizer: Option<OptimizerName>,
    /// incremental: learning rate
    #[arg(long, allow_hyphen_values = true, help_heading = "Relaxation")]
    lr: Option<f64>,
    /// incremental: weight decay, as in PyTorch [default: adamw 0.01, others 0]
    #[arg(long, value_name = "W", allow_hyphen_values = true, help_heading = "Relaxation")]
    weight_decay: Option<f64>,
}

impl Incrementing {
    pub fn is_given(&self) -> bool {
        self.optimizer.is_some() || self.lr.is_some() || self.weight_decay.is_some()
    }

    pub fn build(&self, parameters: &Parameters) -> Result<Box<dyn Optimizer>, Failure> {
        let Some(lr) = self.lr else {
            return Err(Failure::usage("--method incremental needs --lr; 0.001 is a usual learning rate"));
        };
        self.optimizer.unwrap_or(OptimizerName::Sgd).build(parameters, lr, 0.0, self.weight_decay)
    }
}

impl OptimizerName {
    fn build(
        self,
        parameters: &Parameters,
        lr: f64,
        momentum: f64,
        weight_decay: Option<f64>,
    ) -> Result<Box<dyn Optimizer>, Failure> {
        let usual = if self == OptimizerName::Adamw { ADAMW_WEIGHT_DECAY } else { 0.0 };
        let weight_decay = weight_decay.unwrap_or(usual);
        let adam = AdamOptions::default().with_lr(lr).with_weight_decay(weight_decay);
        Ok(match self {
            OptimizerName::Sgd => {
                let options = SgdOptions::default().with_lr(lr).with_momentum(momentum).with_weight_decay(weight_decay);
                Box::new(Sgd::with_options(parameters, options)?)
            }
            OptimizerName::Adam => Box::new(Adam::with_options(parameters, adam)?),
            OptimizerName::Adamw => Box::new(AdamW::with_options(parameters, adam)?),
        })
    }
}

/// How to take steps, for whatever method.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Optimisation")]
pub struct Optimizing {
    /// Optimiser
    #[arg(long, value_enum, default_value = "adam")]
    optimizer: OptimizerName,
    /// Learning rate [default: sgd 0.1, others 0.002, or 0.001 for digits and your own data]
    #[arg(long, allow_hyphen_values = true)]
    lr: Option<f64>,
    /// Momentum, for sgd [default: 0]
    #[arg(long, value_name = "M", allow_hyphen_values = true)]
    momentum: Option<f64>,
    /// Weight decay, as in PyTorch [default: adamw 0.01, others 0]
    #[arg(long, value_name = "W", allow_hyphen_values = true)]
    weight_decay: Option<f64>,
    /// Schedule of the learning rate
    #[arg(long, value_enum, default_value = "constant")]
    schedule: ScheduleName,
    /// Number of steps over which the learning rate rises from 0
    #[arg(long, value_name = "STEPS", default_value_t = 0)]
    warmup: u64,
    /// Epochs between two changes, for --schedule step [default: a third of all epochs]
    #[arg(long, value_name = "EPOCHS", value_parser = clap::value_parser!(u64).range(1..))]
    decay_every: Option<u64>,
    /// Factor of each change, for --schedule step [default: 0.1]
    #[arg(long, value_name = "F", allow_hyphen_values = true)]
    decay_factor: Option<f64>,
    /// Largest norm of the gradients; larger gradients are scaled down
    #[arg(long, value_name = "NORM", allow_hyphen_values = true)]
    clip: Option<f64>,
    /// Stop after this many epochs in a row without a lower test loss; needs --method
    #[arg(long, value_name = "EPOCHS", requires = "method", value_parser = clap::value_parser!(u64).range(1..))]
    pub patience: Option<u64>,
}

impl Optimizing {
    /// The learning rate that was given, or the one that goes with the data set's default model.
    fn lr(&self, dataset: &DatasetName) -> f64 {
        self.lr.unwrap_or(match (self.optimizer, dataset) {
            (OptimizerName::Sgd, _) => 0.1,
            (_, DatasetName::Digits | DatasetName::File(_)) => 1e-3,
            (_, DatasetName::Mnist | DatasetName::Cifar10) => 2e-3,
        })
    }

    pub fn build(&self, parameters: &Parameters, dataset: &DatasetName) -> Result<Box<dyn Optimizer>, Failure> {
        let lr = self.lr(dataset);
        if self.momentum.is_some() && self.optimizer != OptimizerName::Sgd {
            return Err(Failure::usage("--momentum was given, but is only for --optimizer sgd; leave it out"));
        }
        if let Some(clip) = self.clip.filter(|clip| !(clip.is_finite() && *clip > 0.0)) {
            return Err(Failure::usage(format!("--clip {clip}: expected a finite number above 0")));
        }
        self.optimizer.build(parameters, lr, self.momentum.unwrap_or(0.0), self.weight_decay)
    }

    /// The learning rate of each step of a run of so many epochs of so many steps.
    pub fn rate(&self, dataset: &DatasetName, epochs: u64, steps_per_epoch: u64) -> Result<LearningRate, Failure> {
        if (self.decay_every.is_some() || self.decay_factor.is_some()) && self.schedule != ScheduleName::Step {
            return Err(Failure::usage(
                "--decay-every or --decay-factor was given, but is only for --schedule step; leave it out",
            ));
        }
        let schedule = match self.schedule {
            ScheduleName::Constant => Schedule::Constant,
            ScheduleName::Cosine => Schedule::Cosine,
            ScheduleName::Step => {
                let every = self.decay_every.unwrap_or(epochs.div_ceil(3)).saturating_mul(steps_per_epoch);
                Schedule::Step { every, factor: self.decay_factor.unwrap_or(DECAY) }
            }
        };
        let steps = epochs.saturating_mul(steps_per_epoch);
        let rate = LearningRate::new(self.lr(dataset), steps).with_schedule(schedule).with_warmup(self.warmup);
        rate.validate()?;
        Ok(rate)
    }

    /// The norm that gradients are scaled down to.
    pub fn clip(&self) -> Option<f64> {
        self.clip
    }
}
