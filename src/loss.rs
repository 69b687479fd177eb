//! Losses and their targets.

use std::fmt;

use crate::error::{Error, Result};

/// What the last layer's output is compared by, as PyTorch's functions of the same names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Softmax cross-entropy with class labels, mean over the batch.
    CrossEntropy,
    /// Squared difference, mean over all elements of the batch.
    Mse,
}

impl Loss {
    /// The name in a model file.
    pub fn name(self) -> &'static str {
        match self {
            Loss::CrossEntropy => "cross_entropy",
            Loss::Mse => "mse",
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The targets of a batch.
#[derive(Clone, Copy, Debug)]
pub enum Targets<'a> {
    /// A class in 0..outputs per sample; [`Loss::Mse`] takes it as a one-hot vector.
    Labels(&'a [i64]),
    /// One value per output, `[batch, outputs]`; for [`Loss::Mse`] only.
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
                if loss == Loss::CrossEntropy {
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
