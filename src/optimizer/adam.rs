//! Adam (Kingma and Ba, arXiv 1412.6980) and AdamW (Loshchilov and Hutter, arXiv 1711.05101), as
//! `torch.optim.Adam` and `torch.optim.AdamW`:
//!
//! m += (1 - beta1) (g - m);  s = beta2 s + (1 - beta2) g^2;
//! theta -= lr / (1 - beta1^t) m / (sqrt(s / (1 - beta2^t)) + eps)
//!
//! Adam adds decay theta to g beforehand; AdamW multiplies theta by 1 - lr decay instead.

use rayon::prelude::*;

use super::{BLOCK, Optimizer, check_not_negative, check_sizes, restore_moments};
use crate::error::{Error, Result};
use crate::parameters::Parameters;
use crate::setters::setters;

/// The weight decay of [`AdamW::new`], PyTorch's default.
const ADAMW_WEIGHT_DECAY: f64 = 1e-2;

/// Settings of [`Adam`] and [`AdamW`], with PyTorch's defaults for Adam.
///
/// ```
/// use predictive_coding::{AdamOptions, AdamW, Linear, Loss, Network, Op, Optimizer};
///
/// let network = Network::new(&[4], Loss::MSE, vec![vec![Op::Linear(Linear::new(3))]])?;
/// let options = AdamOptions::default().with_lr(3e-4).with_weight_decay(0.1);
/// let adamw = AdamW::with_options(&network.initialize(1), options)?;
/// assert_eq!(adamw.lr(), 3e-4);
/// # Ok::<(), predictive_coding::Error>(())
/// ```
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct AdamOptions {
    /// Learning rate, default 1e-3.
    pub lr: f64,
    /// Decay rates of the averages of gradients and of their squares, in 0..1, default (0.9, 0.999).
    pub betas: (f64, f64),
    /// Added to the denominator, default 1e-8.
    pub eps: f64,
    /// For Adam a multiple of the parameters added to their gradients; for AdamW the rate, times
    /// `lr`, at which parameters shrink. Default 0, which PyTorch's AdamW replaces by 1e-2.
    pub weight_decay: f64,
}

setters!(AdamOptions {
    with_lr(lr: f64),
    with_betas(betas: (f64, f64)),
    with_eps(eps: f64),
    with_weight_decay(weight_decay: f64),
});

impl Default for AdamOptions {
    fn default() -> Self {
        AdamOptions { lr: 1e-3, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0 }
    }
}

/// Adam. See [`Optimizer`] for an example.
#[derive(Clone, Debug)]
pub struct Adam(State);

/// Adam with decoupled weight decay. See [`AdamOptions`] for an example.
#[derive(Clone, Debug)]
pub struct AdamW(State);

impl Adam {
    /// Adam with learning rate `lr` and PyTorch's other defaults.
    ///
    /// # Panics
    /// If `lr` is not a finite number of at least 0.
    pub fn new(parameters: &Parameters, lr: f64) -> Self {
        match Adam::with_options(parameters, AdamOptions { lr, ..AdamOptions::default() }) {
            Ok(adam) => adam,
            Err(error) => panic!("{error}"),
        }
    }

    /// With these settings.
    ///
    /// # Errors
    /// [`Error::Argument`] for settings out of their range.
    pub fn with_options(parameters: &Parameters, options: AdamOptions) -> Result<Self> {
        State::new(parameters, options).map(Adam)
    }

    /// What the parameters shrink by in a step, and what of them is added to their gradients.
    fn rates(&self) -> [f64; 2] {
        [0.0, self.0.options.weight_decay]
    }
}

impl AdamW {
    /// AdamW with learning rate `lr`, weight decay 1e-2 and PyTorch's other defaults.
    ///
    /// # Panics
    /// If `lr` is not a finite number of at least 0.
    pub fn new(parameters: &Parameters, lr: f64) -> Self {
        let options = AdamOptions { lr, weight_decay: ADAMW_WEIGHT_DECAY, ..AdamOptions::default() };
        match AdamW::with_options(parameters, options) {
            Ok(adamw) => adamw,
            Err(error) => panic!("{error}"),
        }
    }

    /// With these settings.
    ///
    /// # Errors
    /// [`Error::Argument`] for settings out of their range.
    pub fn with_options(parameters: &Parameters, options: AdamOptions) -> Result<Self> {
        State::new(parameters, options).map(AdamW)
    }

    /// What the parameters shrink by in a step, and what of them is added to their gradients.
    fn rates(&self) -> [f64; 2] {
        [self.0.lr * self.0.options.weight_decay, 0.0]
    }
}

/// Parts of the parameters that a step changes, of what they add to, of gradients, and of the two averages.
type Block<'a> = (&'a mut [f32], &'a [f32], &'a [f32], &'a mut [f32], &'a mut [f32]);

#[derive(Clone, Debug)]
struct State {
    options: AdamOptions,
    /// Of the next step.
    lr: f64,
    mean: Parameters,
    square: Parameters,
    steps: u64,
}

impl State {
    fn new(parameters: &Parameters, options: AdamOptions) -> Result<Self> {
        check_not_negative("lr", options.lr)?;
        check_not_negative("eps", options.eps)?;
        check_not_negative("weight_decay", options.weight_decay)?;
        for (name, beta) in [("beta1", options.betas.0), ("beta2", options.betas.1)] {
            if !(0.0..1.0).contains(&beta) {
                return Err(Error::Argument(format!("{name} is {beta}, expected at least 0 and less than 1")));
            }
        }
        let zeros = Parameters::zeros(parameters.specs().clone());
        Ok(State { options, lr: options.lr, mean: zeros.clone(), square: zeros, steps: 0 })
    }

    fn description(&self, name: &str) -> String {
        let AdamOptions { lr, betas: (beta1, beta2), eps, weight_decay } = self.options;
        format!("{name} lr={lr} beta1={beta1} beta2={beta2} eps={eps} weight_decay={weight_decay}")
    }

    /// A step of `theta`, or if `CHANGE` one of `first` + `theta` that `theta` takes. The parameters shrink by `shrink` of
    /// themselves beforehand; `decay` of them is added to g.
    fn take<const CHANGE: bool>(
        &mut self,
        first: &Parameters,
        theta: &mut Parameters,
        gradients: &Parameters,
        [shrink, decay]: [f64; 2],
    ) {
        check_sizes(self.mean.values().len(), theta, gradients);
        self.steps = self.steps.saturating_add(1);
        let (AdamOptions { betas: (beta1, beta2), eps, .. }, lr) = (self.options, self.lr);
        let t = self.steps as f64;
        let step_size = (lr / (1.0 - beta1.powf(t))) as f32;
        let inverse_root = (1.0 / (1.0 - beta2.powf(t)).sqrt()) as f32;
        let (shrink, keep, decay, eps) = (shrink as f32, (1.0 - shrink) as f32, decay as f32, eps as f32);
        let (rate1, keep2, rate2) = ((1.0 - beta1) as f32, beta2 as f32, (1.0 - beta2) as f32);
        let step = |(theta, first, g, m, s): Block<'_>| {
            for (((theta, first), g), (m, s)) in theta.iter_mut().zip(first).zip(g).zip(m.iter_mut().zip(s)) {
                let at = if CHANGE { first + *theta } else { *theta };
                let g = g + decay * at;
                *m += rate1 * (g - *m);
                *s = keep2 * *s + rate2 * (g * g);
                let step = step_size * (*m / (s.sqrt() * inverse_root + eps));
                *theta = if CHANGE { *theta - shrink * at - step } else { keep * at - step };
            }
        };
        let (theta, first, g) = (theta.trained_mut(), first.trained(), gradients.trained());
        let (m, s) = (self.mean.trained_mut(), self.square.trained_mut());
        if theta.len() <= BLOCK {
            return step((theta, first, g, m, s));
        }
        let operands = (
            theta.par_chunks_mut(BLOCK),
            first.par_chunks(BLOCK),
            g.par_chunks(BLOCK),
            m.par_chunks_mut(BLOCK),
            s.par_chunks_mut(BLOCK),
        );
        operands.into_par_iter().for_each(step);
    }

    fn set_lr(&mut self, lr: f64) -> Result<()> {
        check_not_negative("lr", lr)?;
        self.lr = lr;
        Ok(())
    }

    fn moments(&self) -> Vec<(&'static str, &Parameters)> {
        vec![("mean", &self.mean), ("square", &self.square)]
    }

    fn restore(&mut self, steps: u64, moments: &[(&str, &Parameters)]) -> Result<()> {
        restore_moments(&mut [("mean", &mut self.mean), ("square", &mut self.square)], moments)?;
        self.steps = steps;
        Ok(())
    }
}

impl Optimizer for Adam {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn description(&self) -> String {
        self.0.description(self.name())
    }

    fn step(&mut self, parameters: &mut Parameters, gradients: &Parameters) {
        let rates = self.rates();
        self.0.take::<false>(gradients, parameters, gradients, rates);
    }

    fn step_change(&mut self, first: &Parameters, change: &mut Parameters, gradients: &Parameters) {
        let rates = self.rates();
        self.0.take::<true>(first, change, gradients, rates);
    }

    fn lr(&self) -> f64 {
        self.0.lr
    }

    fn set_lr(&mut self, lr: f64) -> Result<()> {
        self.0.set_lr(lr)
    }

    fn steps(&self) -> u64 {
        self.0.steps
    }

    fn moments(&self) -> Vec<(&'static str, &Parameters)> {
        self.0.moments()
    }

    fn restore(&mut self, steps: u64, moments: &[(&str, &Parameters)]) -> Result<()> {
        self.0.restore(steps, moments)
    }
}

impl Optimizer for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn description(&self) -> String {
        self.0.description(self.name())
    }

    fn step(&mut self, parameters: &mut Parameters, gradients: &Parameters) {
        let rates = self.rates();
        self.0.take::<false>(gradients, parameters, gradients, rates);
    }

    fn step_change(&mut self, first: &Parameters, change: &mut Parameters, gradients: &Parameters) {
        let rates = self.rates();
        self.0.take::<true>(first, change, gradients, rates);
    }

    fn lr(&self) -> f64 {
        self.0.lr
    }

    fn set_lr(&mut self, lr: f64) -> Result<()> {
        self.0.set_lr(lr)
    }

    fn steps(&self) -> u64 {
        self.0.steps
    }

    fn moments(&self) -> Vec<(&'static str, &Parameters)> {
        self.0.moments()
    }

    fn restore(&mut self, steps: u64, moments: &[(&str, &Parameters)]) -> Result<()> {
        self.0.restore(steps, moments)
    }
}
