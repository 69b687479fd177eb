//! Losses and their targets.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::names::names;
use crate::setters::setters;

/// The loss of the output: a function and a reduction with PyTorch's definitions, times a weight.
///
/// Relaxation uses the loss of the whole batch. With [`Reduction::Mean`], the share of each sample, and so the movement of its
/// beliefs, shrinks as the batch grows. With [`Reduction::Sum`], every sample relaxes as if it were alone.
///
/// ```
/// use predictive_coding::{Loss, Reduction};
///
/// let half_squares = Loss::MSE.with_reduction(Reduction::Sum).with_weight(0.5);
/// assert_eq!(half_squares.to_string(), "mse, sum, weight 0.5");
/// assert_eq!("cross_entropy".parse::<Loss>()?, Loss::CROSS_ENTROPY);
/// # Ok::<(), predictive_coding::Error>(())
/// ```
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Loss {
    /// The loss of one sample.
    #[cfg_attr(feature = "serde", serde(rename = "type"))]
    pub function: LossFunction,
    /// How the terms of the samples are combined.
    pub reduction: Reduction,
    /// Factor of the loss in the energy, the gradients and all reports; finite and above 0.
    pub weight: f64,
}

/// A loss of one sample, as PyTorch's function of the same name. See [`Loss`] for an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LossFunction {
    /// Softmax cross-entropy with class labels.
    CrossEntropy,
    /// Squared difference of each element.
    Mse,
}

/// How the terms of a batch are combined into one number. See [`Loss`] for an example.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reduction {
    /// Cross-entropy: mean over the batch. Squared differences: mean over all elements of the batch.
    #[default]
    Mean,
    /// The sum of all terms.
    Sum,
}

impl Loss {
    /// The mean softmax cross-entropy.
    pub const CROSS_ENTROPY: Loss = Loss::mean(LossFunction::CrossEntropy);
    /// The mean squared difference.
    pub const MSE: Loss = Loss::mean(LossFunction::Mse);

    const fn mean(function: LossFunction) -> Self {
        Loss { function, reduction: Reduction::Mean, weight: 1.0 }
    }

    /// The factor of the sum of all terms, for `samples` outputs of `outputs` elements each.
    pub fn scale(self, samples: usize, outputs: usize) -> f64 {
        let terms = match (self.reduction, self.function) {
            (Reduction::Sum, _) => 1,
            (Reduction::Mean, LossFunction::CrossEntropy) => samples,
            (Reduction::Mean, LossFunction::Mse) => samples * outputs,
        };
        self.weight / terms as f64
    }

    /// The loss of a data set from the losses of its batches, each with its number of samples.
    pub fn of_batches(self, batches: impl Iterator<Item = (usize, f64)>) -> f64 {
        let by_samples = |samples: usize| if self.reduction == Reduction::Mean { samples as f64 } else { 1.0 };
        let (sum, samples) =
            batches.fold((0.0, 0), |(sum, all), (samples, loss)| (sum + loss * by_samples(samples), all + samples));
        sum / by_samples(samples)
    }

    /// Refuses a weight that is not a number above 0 in the range of f32.
    pub(crate) fn validate(self) -> Result<()> {
        match is_factor(self.weight) {
            true => Ok(()),
            false => Err(Error::Network(format!(
                "the weight of the loss is {}, expected a number above 0, from 1e-37 to 1e37",
                self.weight
            ))),
        }
    }
}

/// Whether a number above 0 and its inverse are in the range of f32.
pub(crate) fn is_factor(number: f64) -> bool {
    number > 0.0 && [number, 1.0 / number].iter().all(|&x| (x as f32).is_normal())
}

names!(LossFunction, "loss", { CrossEntropy => "cross_entropy", Mse => "mse" });
names!(Reduction, "reduction", { Mean => "mean", Sum => "sum" });
setters!(Loss { with_reduction(reduction: Reduction), with_weight(weight: f64) });

impl FromStr for Loss {
    type Err = Error;

    /// The mean of the function of that name.
    fn from_str(name: &str) -> Result<Self> {
        name.parse().map(Loss::mean)
    }
}

impl fmt::Display for Loss {
    /// The name of the function, followed by the reduction and the weight if they are not the defaults.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let usual = Loss::mean(self.function);
        f.write_str(self.function.name())?;
        if self.reduction != usual.reduction {
            write!(f, ", {}", self.reduction.name())?;
        }
        if self.weight != usual.weight {
            write!(f, ", weight {}", self.weight)?;
        }
        Ok(())
    }
}

/// The targets of a batch. See [`Session`](crate::Session) for an example.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Targets<'a> {
    /// A class in 0..outputs per sample; [`LossFunction::Mse`] takes it as a one-hot vector.
    Labels(&'a [i64]),
    /// One value per output, `[batch, outputs]`; for [`LossFunction::Mse`] only.
    Values(&'a [f32]),
}

impl<'a> From<&'a [i64]> for Targets<'a> {
    fn from(labels: &'a [i64]) -> Self {
        Targets::Labels(labels)
    }
}

impl<'a> From<&'a [f32]> for Targets<'a> {
    fn from(values: &'a [f32]) -> Self {
        Targets::Values(values)
    }
}

impl<'a, const N: usize> From<&'a [i64; N]> for Targets<'a> {
    fn from(labels: &'a [i64; N]) -> Self {
        Targets::Labels(labels)
    }
}

impl<'a, const N: usize> From<&'a [f32; N]> for Targets<'a> {
    fn from(values: &'a [f32; N]) -> Self {
        Targets::Values(values)
    }
}

impl<'a> From<&'a Vec<i64>> for Targets<'a> {
    fn from(labels: &'a Vec<i64>) -> Self {
        Targets::Labels(labels)
    }
}

impl<'a> From<&'a Vec<f32>> for Targets<'a> {
    fn from(values: &'a Vec<f32>) -> Self {
        Targets::Values(values)
    }
}

impl Targets<'_> {
    /// Refuses targets that do not fit `samples` outputs of `outputs` elements each under `loss`.
    pub(crate) fn validate(&self, loss: Loss, samples: usize, outputs: usize) -> Result<()> {
        match *self {
            Targets::Labels(labels) => {
                if labels.len() != samples {
                    return Err(Error::Input(format!(
                        "found {} labels for {samples} samples, expected one per sample",
                        labels.len()
                    )));
                }
                if let Some((i, label)) = labels.iter().enumerate().find(|&(_, &y)| y < 0 || y as usize >= outputs) {
                    return Err(Error::Input(format!(
                        "label {label} of sample {i} is out of range: the network has {outputs} outputs, expected 0..={}",
                        outputs - 1
                    )));
                }
            }
            Targets::Values(values) => {
                if loss.function == LossFunction::CrossEntropy {
                    return Err(Error::Input(
                        "cross_entropy takes one class label (i64) per sample, found floating-point targets; use the mse loss for those".into(),
                    ));
                }
                if values.len() != samples * outputs {
                    return Err(Error::Input(format!(
                        "found {} target values, expected {samples} samples x {outputs} outputs = {}",
                        values.len(),
                        samples * outputs
                    )));
                }
            }
        }
        Ok(())
    }
}
