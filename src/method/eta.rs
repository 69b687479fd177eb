//! Step sizes of beliefs.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{Error, Result};

/// A step size of beliefs, finite and above 0. See [`Strict`](crate::Strict) for an example.
///
/// ```
/// use predictive_coding::{Eta, Strict};
///
/// let method = Strict::new([0.1, 0.05], 20);
/// assert_eq!("0.1,0.05".parse::<Eta>()?.of_layer(2), 0.05);
/// # Ok::<(), predictive_coding::Error>(())
/// ```
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(untagged))]
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Eta {
    /// The same for all layers.
    Uniform(f64),
    /// One for each hidden layer, from the lowest on.
    PerLayer(Arc<[f64]>),
}

impl Eta {
    /// That of hidden layer `layer` (from 1).
    ///
    /// # Panics
    /// If there is none for that layer.
    pub fn of_layer(&self, layer: usize) -> f64 {
        match self {
            Eta::Uniform(eta) => *eta,
            Eta::PerLayer(etas) => etas[layer - 1],
        }
    }

    /// The one, or those of the layers.
    pub fn values(&self) -> &[f64] {
        match self {
            Eta::Uniform(eta) => std::slice::from_ref(eta),
            Eta::PerLayer(etas) => etas,
        }
    }

    /// The largest one.
    pub(crate) fn largest(&self) -> f64 {
        self.values().iter().copied().reduce(f64::max).unwrap_or(1.0)
    }

    /// Each layer's precision times its step size; the output, which takes no step, keeps its own.
    pub(crate) fn times(&self, precisions: &[f64]) -> Vec<f64> {
        let hidden = precisions.len().saturating_sub(1);
        let layer = |(l, precision): (usize, &f64)| if l <= hidden { self.of_layer(l) * precision } else { *precision };
        (1..).zip(precisions).map(layer).collect()
    }
}

/// The step size of a method that can choose it by itself. See [`ErrorBased`](crate::ErrorBased) for an example.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(untagged))]
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum StepSize {
    /// As it is given.
    Given(Eta),
    /// The largest stable one of each sample, with a margin: eta = 1.8 / lambda_max, where lambda_max is the largest
    /// eigenvalue of the Gauss-Newton Hessian of its energy at v-hat (without second derivatives of activations). A sample
    /// whose energy still rises takes smaller steps. The estimate starts from a vector that is updated from call to call,
    /// so results depend on previous calls in the last digits of lambda_max.
    Automatic {
        /// Number of products with the Hessian to estimate lambda_max, each as costly as an iteration. 1 is enough for
        /// training, and 16 give lambda_max to about a percent. At most 4096.
        products: usize,
    },
}

impl StepSize {
    /// The step size, if it is given.
    pub fn given(&self) -> Option<&Eta> {
        if let StepSize::Given(eta) = self { Some(eta) } else { None }
    }
}

impl fmt::Display for Eta {
    /// As in `0.1` or `0.1,0.05`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.values().iter().map(f64::to_string).collect::<Vec<_>>().join(","))
    }
}

impl FromStr for Eta {
    type Err = Error;

    /// A number, or several with commas between them.
    fn from_str(text: &str) -> Result<Self> {
        let numbers = text.split(',').map(str::parse).collect::<std::result::Result<Vec<f64>, _>>().map_err(|_| {
            Error::Argument(format!(
                "eta is {text:?}, expected a number above 0, such as 0.1, or one for each hidden layer"
            ))
        })?;
        Ok(if let [eta] = numbers[..] { eta.into() } else { numbers.into() })
    }
}

impl From<f64> for Eta {
    fn from(eta: f64) -> Self {
        Eta::Uniform(eta)
    }
}

impl From<Vec<f64>> for Eta {
    fn from(etas: Vec<f64>) -> Self {
        Eta::PerLayer(etas.into())
    }
}

impl<const N: usize> From<[f64; N]> for Eta {
    fn from(etas: [f64; N]) -> Self {
        Eta::PerLayer(etas.into())
    }
}
