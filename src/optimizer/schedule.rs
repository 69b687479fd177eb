//! How a learning rate changes over the steps of a run.

use std::fmt;

use crate::error::{Error, Result};
use crate::setters::setters;

/// What a learning rate does after its warm-up. See [`LearningRate`] for an example.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Schedule {
    /// It stays.
    #[default]
    Constant,
    /// It falls to 0 at the end of the run by half a period of a cosine, as PyTorch's `CosineAnnealingLR`.
    Cosine,
    /// It is multiplied by `factor` after every so many steps, as PyTorch's `StepLR`.
    Step {
        /// Number of steps, at least 1.
        every: u64,
        /// Finite and of at least 0.
        factor: f64,
    },
}

/// The learning rate of each step of a run.
///
/// ```
/// use predictive_coding::{LearningRate, Schedule};
///
/// let rate = LearningRate::new(1e-3, 100).with_schedule(Schedule::Cosine).with_warmup(10);
/// rate.validate()?;
/// assert!(rate.at(0) == 1e-4 && rate.at(10) == 1e-3 && rate.at(99) < 1e-6);
/// # Ok::<(), predictive_coding::Error>(())
/// ```
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct LearningRate {
    /// The learning rate after the warm-up.
    pub base: f64,
    /// How it changes after the warm-up.
    pub schedule: Schedule,
    /// Number of warm-up steps, over which it rises linearly to the base. The schedule begins after them.
    pub warmup: u64,
    /// Steps of the run.
    pub steps: u64,
}

setters!(LearningRate { with_schedule(schedule: Schedule), with_warmup(warmup: u64) });

impl LearningRate {
    /// A constant one for a run of so many steps.
    pub fn new(base: f64, steps: u64) -> Self {
        LearningRate { base, schedule: Schedule::Constant, warmup: 0, steps }
    }

    /// Refuses a schedule that makes no sense.
    ///
    /// # Errors
    /// [`Error::Argument`] for 0 steps or a factor that is not a finite number of at least 0.
    pub fn validate(&self) -> Result<()> {
        match self.schedule {
            Schedule::Step { every: 0, .. } => {
                Err(Error::Argument("the learning rate changes every 0 steps, expected every 1 or more".into()))
            }
            Schedule::Step { factor, .. } if !(factor.is_finite() && factor >= 0.0) => Err(Error::Argument(format!(
                "the factor of the learning rate is {factor}, expected a finite number of at least 0"
            ))),
            _ => Ok(()),
        }
    }

    /// The learning rate of a step, from 0.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.base * (step + 1) as f64 / self.warmup as f64;
        }
        let after = step - self.warmup;
        match self.schedule {
            Schedule::Constant => self.base,
            Schedule::Cosine => {
                let share = (after as f64 / self.steps.saturating_sub(self.warmup).max(1) as f64).min(1.0);
                0.5 * self.base * (1.0 + (std::f64::consts::PI * share).cos())
            }
            Schedule::Step { every, factor } => self.base * factor.powf((after / every.max(1)) as f64),
        }
    }
}

impl fmt::Display for LearningRate {
    /// All that the learning rates of a run follow from, besides the base.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.schedule {
            Schedule::Constant => write!(f, "constant")?,
            Schedule::Cosine => write!(f, "cosine over {} steps", self.steps)?,
            Schedule::Step { every, factor } => write!(f, "times {factor} every {every} steps")?,
        }
        if self.warmup > 0 {
            write!(f, ", warm-up of {} steps", self.warmup)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_their_definitions() {
        let rates = |schedule, warmup| {
            let rate = LearningRate { base: 0.8, schedule, warmup, steps: 8 };
            (0..8).map(|step| rate.at(step)).collect::<Vec<_>>()
        };
        assert_eq!(rates(Schedule::Constant, 0), [0.8; 8]);
        assert_eq!(rates(Schedule::Constant, 4), [0.2, 0.4, 0.6000000000000001, 0.8, 0.8, 0.8, 0.8, 0.8]);
        // Halfway it is half.
        let cosine = rates(Schedule::Cosine, 0);
        assert!((cosine[0] - 0.8).abs() < 1e-15 && (cosine[4] - 0.4).abs() < 1e-15 && cosine[7] > 0.0);
        assert!((cosine[2] - 0.4 * (1.0 + 0.5f64.sqrt())).abs() < 1e-15);
        let warm = rates(Schedule::Cosine, 4);
        assert!((warm[3] - 0.8).abs() < 1e-15 && (warm[4] - 0.8).abs() < 1e-15 && (warm[6] - 0.4).abs() < 1e-15);
        let steps = rates(Schedule::Step { every: 3, factor: 0.5 }, 1);
        assert_eq!(steps, [0.8, 0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 0.2]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (every, factor) in [(0, 0.5), (1, -0.5), (1, f64::NAN)] {
            let schedule = Schedule::Step { every, factor };
            assert!(LearningRate { base: 0.1, schedule, warmup: 0, steps: 1 }.validate().is_err());
        }
    }
}
