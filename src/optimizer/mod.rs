//! Optimisers: one elementwise pass over parameters, gradients and moments, as PyTorch's
//! `torch.optim` computes it. Scalars that all elements share (bias corrections, step sizes) are
//! computed in f64 and rounded once.

mod adam;
mod schedule;
mod sgd;

pub use adam::{Adam, AdamOptions, AdamW};
pub use schedule::{LearningRate, Schedule};
pub use sgd::{Sgd, SgdOptions};

use crate::error::{Error, Result};
use crate::parameters::Parameters;

/// Changes parameters by their gradients.
///
/// ```
/// use predictive_coding::{Adam, Linear, Loss, Network, Op, Optimizer};
///
/// let network = Network::new(&[4], Loss::MSE, vec![vec![Op::Linear(Linear::new(3))]])?;
/// let mut parameters = network.initialize(1);
/// let gradients = network.initialize(2);
/// let mut optimizer: Box<dyn Optimizer> = Box::new(Adam::new(&parameters, 1e-3));
/// optimizer.step(&mut parameters, &gradients);
/// assert_eq!((optimizer.name(), optimizer.steps()), ("adam", 1));
/// # Ok::<(), predictive_coding::Error>(())
/// ```
pub trait Optimizer: Send + Sync {
    /// The name on the command line and in reports.
    fn name(&self) -> &'static str;

    /// Every setting that it was made with, as in `adam lr=0.001 beta1=0.9 ...`: two optimisers of the same description,
    /// learning rate and state take the same steps.
    fn description(&self) -> String;

    /// One step down the gradients. Allocates nothing.
    ///
    /// # Panics
    /// If `parameters` or `gradients` has another number of values than the parameters that the
    /// optimiser was made for.
    fn step(&mut self, parameters: &mut Parameters, gradients: &Parameters);

    /// A step of the parameters `first` + `change` that `change` alone takes, so that the sum of many small steps loses no
    /// digits. What weights decay by follows from the sum. [`Incremental`](crate::Incremental) takes such steps.
    ///
    /// # Panics
    /// As [`step`](Self::step).
    fn step_change(&mut self, first: &Parameters, change: &mut Parameters, gradients: &Parameters);

    /// The learning rate of the next step.
    fn lr(&self) -> f64;

    /// Takes the next steps by another learning rate than the one that it was made with.
    ///
    /// # Errors
    /// [`Error::Argument`] if it is not a finite number of at least 0.
    fn set_lr(&mut self, lr: f64) -> Result<()>;

    /// Steps taken so far.
    fn steps(&self) -> u64;

    /// The running averages, by name: everything that a step depends on besides its arguments, the
    /// settings and [`steps`](Self::steps).
    fn moments(&self) -> Vec<(&'static str, &Parameters)>;

    /// Takes over the state of an optimiser of the same description: `steps` taken, then the values
    /// of each moment by name.
    ///
    /// # Errors
    /// [`Error::Input`] if a moment is missing, unknown or has another number of values
    /// (nothing was changed).
    fn restore(&mut self, steps: u64, moments: &[(&str, &Parameters)]) -> Result<()>;
}

/// Values that one task steps, if they are more: all streams of memory of a machine are then busy, and a task is worth
/// its start.
const BLOCK: usize = 1 << 15;

/// Copies saved moments over those of an optimiser, all or none.
fn restore_moments(into: &mut [(&'static str, &mut Parameters)], from: &[(&str, &Parameters)]) -> Result<()> {
    let find = |name: &str| from.iter().find(|(saved, _)| *saved == name).map(|(_, moment)| *moment);
    for (name, moment) in into.iter() {
        let found =
            find(name).ok_or_else(|| Error::Input(format!("the saved state of the optimiser has no {name}")))?;
        if found.values().len() != moment.values().len() {
            return Err(Error::Input(format!(
                "the optimiser's {name} has {} values, expected {}, one for each parameter",
                found.values().len(),
                moment.values().len()
            )));
        }
    }
    if let Some((name, _)) = from.iter().find(|(name, _)| into.iter().all(|(known, _)| known != name)) {
        return Err(Error::Input(format!("the saved state has {name}, which this optimiser does not use")));
    }
    for (name, moment) in into.iter_mut() {
        if let Some(found) = find(name) {
            moment.values_mut().copy_from_slice(found.values());
        }
    }
    Ok(())
}

/// Refuses a setting that is not a finite number of at least 0.
fn check_not_negative(name: &str, value: f64) -> Result<()> {
    match value.is_finite() && value >= 0.0 {
        true => Ok(()),
        false => Err(Error::Argument(format!("{name} is {value}, expected a finite number of at least 0"))),
    }
}

/// Panics unless parameters and gradients have the size that the optimiser was made for.
fn check_sizes(made_for: usize, parameters: &Parameters, gradients: &Parameters) {
    assert!(
        parameters.values().len() == made_for && gradients.values().len() == made_for,
        "the optimiser was made for {made_for} parameters; it was given {} parameters and {} gradients",
        parameters.values().len(),
        gradients.values().len()
    );
}

#[cfg(test)]
mod tests;
