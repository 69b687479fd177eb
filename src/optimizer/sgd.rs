//! Stochastic gradient descent: g += decay theta; m = momentum m + g; theta -= lr d, where d is g
//! without momentum, m with it, and g + momentum m in Nesterov's form (`torch.optim.SGD`).

use rayon::prelude::*;

use super::{BLOCK, Optimizer, check_not_negative, check_sizes, restore_moments};
use crate::error::{Error, Result};
use crate::parameters::Parameters;
use crate::setters::setters;

/// Settings of [`Sgd`], with PyTorch's defaults.
///
/// ```
/// use predictive_coding::{Linear, Loss, Network, Op, Sgd, SgdOptions};
///
/// let network = Network::new(&[4], Loss::MSE, vec![vec![Op::Linear(Linear::new(3))]])?;
/// let options = SgdOptions::default().with_lr(0.1).with_momentum(0.9).with_nesterov(true);
/// let sgd = Sgd::with_options(&network.initialize(1), options)?;
/// # Ok::<(), predictive_coding::Error>(())
/// ```
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct SgdOptions {
    /// Learning rate, default 1e-3.
    pub lr: f64,
    /// Share of the last step's direction that is kept, in 0..1, default 0.
    pub momentum: f64,
    /// Whether the momentum is applied ahead (needs a momentum above 0), default false.
    pub nesterov: bool,
    /// Multiple of the parameters added to their gradients, default 0.
    pub weight_decay: f64,
}

setters!(SgdOptions {
    with_lr(lr: f64),
    with_momentum(momentum: f64),
    with_nesterov(nesterov: bool),
    with_weight_decay(weight_decay: f64),
});

impl Default for SgdOptions {
    fn default() -> Self {
        SgdOptions { lr: 1e-3, momentum: 0.0, nesterov: false, weight_decay: 0.0 }
    }
}

/// Stochastic gradient descent with momentum. See [`SgdOptions`] for an example.
#[derive(Clone, Debug)]
pub struct Sgd {
    options: SgdOptions,
    /// Of the next step.
    lr: f64,
    len: usize,
    /// Only there if the momentum is not 0.
    momentum: Option<Parameters>,
    steps: u64,
}

impl Sgd {
    /// Plain gradient descent with learning rate `lr`.
    ///
    /// # Panics
    /// If `lr` is not a finite number of at least 0.
    pub fn new(parameters: &Parameters, lr: f64) -> Self {
        match Sgd::with_options(parameters, SgdOptions { lr, ..SgdOptions::default() }) {
            Ok(sgd) => sgd,
            Err(error) => panic!("{error}"),
        }
    }

    /// With these settings.
    ///
    /// # Errors
    /// [`Error::Argument`] for settings out of their range.
    pub fn with_options(parameters: &Parameters, options: SgdOptions) -> Result<Self> {
        check_not_negative("lr", options.lr)?;
        check_not_negative("weight_decay", options.weight_decay)?;
        if !(0.0..1.0).contains(&options.momentum) {
            return Err(Error::Argument(format!(
                "momentum is {}, expected at least 0 and less than 1",
                options.momentum
            )));
        }
        if options.nesterov && options.momentum == 0.0 {
            return Err(Error::Argument("nesterov needs a momentum above 0; 0.9 is a usual choice".into()));
        }
        let momentum = (options.momentum > 0.0).then(|| Parameters::zeros(parameters.specs().clone()));
        Ok(Sgd { options, lr: options.lr, len: parameters.values().len(), momentum, steps: 0 })
    }
}

impl Sgd {
    /// A step of `theta`, or if `CHANGE` one of `first` + `theta` that `theta` takes.
    fn take<const CHANGE: bool>(&mut self, first: &Parameters, theta: &mut Parameters, gradients: &Parameters) {
        check_sizes(self.len, theta, gradients);
        self.steps = self.steps.saturating_add(1);
        let lr = self.lr as f32;
        let decay = self.options.weight_decay as f32;
        let keep = self.options.momentum as f32;
        let nesterov = self.options.nesterov;
        let decayed = move |g: f32, first: f32, theta: f32| g + decay * if CHANGE { first + theta } else { theta };
        let plain = |(theta, first, g): (&mut [f32], &[f32], &[f32])| {
            for ((theta, first), g) in theta.iter_mut().zip(first).zip(g) {
                *theta -= lr * decayed(*g, *first, *theta);
            }
        };
        let by_momentum = |(theta, first, g, m): (&mut [f32], &[f32], &[f32], &mut [f32])| {
            for (((theta, first), g), m) in theta.iter_mut().zip(first).zip(g).zip(m) {
                let g = decayed(*g, *first, *theta);
                *m = keep * *m + g;
                *theta -= lr * if nesterov { g + keep * *m } else { *m };
            }
        };
        let (theta, first, g) = (theta.trained_mut(), first.trained(), gradients.trained());
        let blocks = theta.len() > BLOCK;
        match &mut self.momentum {
            None if blocks => {
                let operands = (theta.par_chunks_mut(BLOCK), first.par_chunks(BLOCK), g.par_chunks(BLOCK));
                operands.into_par_iter().for_each(plain);
            }
            None => plain((theta, first, g)),
            Some(momentum) if blocks => {
                let m = momentum.trained_mut().par_chunks_mut(BLOCK);
                let operands = (theta.par_chunks_mut(BLOCK), first.par_chunks(BLOCK), g.par_chunks(BLOCK), m);
                operands.into_par_iter().for_each(by_momentum);
            }
            Some(momentum) => by_momentum((theta, first, g, momentum.trained_mut())),
        }
    }
}

impl Optimizer for Sgd {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn description(&self) -> String {
        let SgdOptions { lr, momentum, nesterov, weight_decay } = self.options;
        format!("sgd lr={lr} momentum={momentum} nesterov={nesterov} weight_decay={weight_decay}")
    }

    fn step(&mut self, parameters: &mut Parameters, gradients: &Parameters) {
        self.take::<false>(gradients, parameters, gradients);
    }

    fn step_change(&mut self, first: &Parameters, change: &mut Parameters, gradients: &Parameters) {
        self.take::<true>(first, change, gradients);
    }

    fn lr(&self) -> f64 {
        self.lr
    }

    fn set_lr(&mut self, lr: f64) -> Result<()> {
        check_not_negative("lr", lr)?;
        self.lr = lr;
        Ok(())
    }

    fn steps(&self) -> u64 {
        self.steps
    }

    fn moments(&self) -> Vec<(&'static str, &Parameters)> {
        self.momentum.iter().map(|momentum| ("momentum", momentum)).collect()
    }

    fn restore(&mut self, steps: u64, moments: &[(&str, &Parameters)]) -> Result<()> {
        let mut own: Vec<_> = self.momentum.iter_mut().map(|momentum| ("momentum", momentum)).collect();
        restore_moments(&mut own, moments)?;
        self.steps = steps;
        Ok(())
    }
}
