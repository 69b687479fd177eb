//! Fixed-prediction.

use super::{Eta, USUAL};
use crate::setters::setters;

/// Predictions and Jacobians stay those of the forward pass (Algorithm 2 of the paper): from
/// v = v-hat, `iterations` times for all l < L at once, epsilon_l = v-hat_l - v_l, then
/// v_l += eta (epsilon_l - J_{l+1}(v-hat_l)^T epsilon_{l+1}), with epsilon_L = delta_L. Where layers have precisions,
/// each of the errors is multiplied by that of its layer.
///
/// ```
/// use predictive_coding::{FixedPrediction, Linear, Loss, Network, Op, Options, Session};
///
/// let network = Network::new(&[4], Loss::MSE, vec![vec![Op::Linear(Linear::new(3))]])?;
/// let iterated = FixedPrediction::new(0.1, 20).with_literal(true);
/// let session = Session::new(&network, 8, iterated, Options::default())?;
/// # Ok::<(), predictive_coding::Error>(())
/// ```
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct FixedPrediction {
    /// Step size.
    pub eta: Eta,
    /// Number of iterations n, at least 1.
    pub iterations: usize,
    /// Whether to run every iteration. By default the same errors, up to rounding, are computed from those of
    /// backpropagation ([`Network::shares`](crate::Network::shares)).
    pub literal: bool,
}

impl FixedPrediction {
    /// `iterations` iterations with a step size, or with one for each hidden layer.
    pub fn new(eta: impl Into<Eta>, iterations: usize) -> Self {
        FixedPrediction { eta: eta.into(), iterations, literal: false }
    }
}

setters!(FixedPrediction { with_iterations(iterations: usize), with_literal(literal: bool) });

impl Default for FixedPrediction {
    /// 20 iterations by 0.1.
    fn default() -> Self {
        FixedPrediction::new(USUAL.0, USUAL.1)
    }
}
