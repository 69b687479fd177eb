//! The three ways of computing errors and gradients.

use crate::error::{Error, Result};

/// How the prediction errors epsilon_l are found, after Rosenbaum, "On the relationship between
/// predictive coding and backpropagation" (PLoS ONE 17(3), e0266102, 2022), in the sign convention
/// of Torch2PC since 2024. v-hat_l are the activations of the forward pass, v_l the beliefs,
/// delta_l = dLoss/dv-hat_l, J_l the Jacobian of layer l by its input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// epsilon_l = delta_l and v_l = v-hat_l - epsilon_l: backpropagation.
    Exact,
    /// Predictions and Jacobians stay those of the forward pass (Algorithm 2 of the paper): from
    /// v = v-hat, `iterations` times for all l < L at once, epsilon_l = v-hat_l - v_l, then
    /// v_l += eta (epsilon_l - J_{l+1}(v-hat_l)^T epsilon_{l+1}), with epsilon_L = delta_L.
    FixedPrediction {
        /// Step size, finite and above 0.
        eta: f64,
        /// Number of iterations n, at least 1.
        iterations: usize,
    },
    /// Predictions follow the beliefs (Algorithm 1 of the paper): `iterations` times for all l < L
    /// at once, epsilon_l = f_l(v_{l-1}) - v_l and epsilon_L = dLoss/df_L(v_{L-1}), then
    /// v_l += eta (epsilon_l - J_{l+1}(v_l)^T epsilon_{l+1}).
    Strict {
        /// Step size, finite and above 0.
        eta: f64,
        /// Number of iterations n, at least 1.
        iterations: usize,
    },
}

impl Method {
    /// The name on the command line and in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Method::Exact => "exact",
            Method::FixedPrediction { .. } => "fixed-prediction",
            Method::Strict { .. } => "strict",
        }
    }

    /// Step size and number of iterations, for the methods that relax.
    pub fn relaxation(&self) -> Option<(f64, usize)> {
        match *self {
            Method::Exact => None,
            Method::FixedPrediction { eta, iterations } | Method::Strict { eta, iterations } => Some((eta, iterations)),
        }
    }

    /// Refuses a step size that is not a finite number above 0, and 0 iterations.
    pub fn validate(&self) -> Result<()> {
        match self.relaxation() {
            Some((eta, _)) if !(eta.is_finite() && eta > 0.0) => {
                Err(Error::Argument(format!("eta is {eta}, expected a finite number above 0; 0.1 is a usual choice")))
            }
            Some((_, 0)) => Err(Error::Argument("iterations is 0, expected at least 1; 20 is a usual choice".into())),
            _ => Ok(()),
        }
    }
}

/// The lowest layer, as an index from 0, that iteration i (from 1) pulls an error back through
/// when the relaxation starts at v-hat: eps_l is still 0 for l <= L - i.
pub(crate) fn first_pulled(layers: usize, iteration: usize) -> usize {
    layers.saturating_sub(iteration).max(1)
}

/// The lowest layer, as an index from 0, whose input has left v-hat at iteration i (from 1).
pub(crate) fn first_pushed(layers: usize, iteration: usize) -> usize {
    (layers + 1).saturating_sub(iteration).max(1)
}
