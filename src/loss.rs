//! Losses and their targets.

use std::fmt;

use crate::error::{Error, Result};

/// What the last layer's output is compared by: a function and a reduction as PyTorch has them, times a weight.
///
/// Relaxation sees the loss of the whole batch. With [`Reduction::Mean`] a sample's share of it, and so how far its
/// beliefs move, shrinks with the batch; with [`Reduction::Sum`] every sample relaxes as if it were alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loss {
    /// What is computed of each sample.
    pub function: LossFunction,
    /// How the samples' terms become one number.
    pub reduction: Reduction,
    /// What that number is multiplied by, in the energy, the gradients and all reports; finite and above 0.
    pub weight: f64,
}

/// A loss of one sample, as PyTorch's function of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossFunction {
    /// Softmax cross-entropy with class labels.
    CrossEntropy,
    /// Squared difference of each element.
    Mse,
}

/// How the terms of a batch become one number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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

    /// What the sum of the terms of `samples` outputs of `outputs` elements each is multiplied by.
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

impl LossFunction {
    /// The name in a model file.
    pub fn name(self) -> &'static str {
        match self {
            LossFunction::CrossEntropy => "cross_entropy",
            LossFunction::Mse => "mse",
        }
    }
}

impl Reduction {
    /// The name in a model file.
    pub fn name(self) -> &'static str {
        match self {
            Reduction::Mean => "mean",
            Reduction::Sum => "sum",
        }
    }
}

impl fmt::Display for Loss {
    /// The function's name, with what is not as usual behind it.
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

/// The targets of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
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
                        "{} labels for {samples} samples, expected one each",
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
                        "{} target values, expected {samples} samples x {outputs} outputs = {}",
                        values.len(),
                        samples * outputs
                    )));
                }
            }
        }
        Ok(())
    }
}
