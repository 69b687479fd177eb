//! Numbers that are not finite, and where they stand.

use std::fmt::Display;

use predictive_coding_kernels::Level;
use predictive_coding_kernels::reduce::first_not_finite;

use crate::error::{Error, Result};

/// Refuses a tensor of `samples` samples of a shape, called `what`, that holds NaN or infinity.
pub(crate) fn check_samples(level: Level, what: impl Display, values: &[f32], sample: &[usize]) -> Result<()> {
    match first_not_finite(level, values) {
        None => Ok(()),
        Some(at) => {
            let samples = values.len() / sample.iter().product::<usize>();
            Err(Error::Input(not_finite(what, values[at], at, &[&[samples], sample].concat())))
        }
    }
}

/// Says that a row-major tensor holds such a value at a place of its flat buffer.
pub(crate) fn not_finite(what: impl Display, value: f32, position: usize, shape: &[usize]) -> String {
    format!("{what} holds {value} at {:?}, expected finite numbers", index(position, shape))
}

/// The index along each axis of the element at `position` of a row-major tensor.
fn index(mut position: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (i, &size) in index.iter_mut().zip(shape).rev() {
        *i = position % size;
        position /= size;
    }
    index
}
