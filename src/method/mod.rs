//! The ways of computing errors and gradients.

mod error_based;
mod eta;
mod fixed_prediction;
mod incremental;
mod strict;

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::relaxation::{iterations_for, shares};

pub use error_based::ErrorBased;
pub use eta::Eta;
pub use fixed_prediction::FixedPrediction;
pub use incremental::Incremental;
pub use strict::{Nudge, OnDivergence, Solver, Strict};

/// How the prediction errors epsilon_l are computed, after Rosenbaum, "On the relationship between
/// predictive coding and backpropagation" (PLoS ONE 17(3), e0266102, 2022), in the sign convention
/// of Torch2PC since 2024. v-hat_l are the activations of the forward pass, v_l the beliefs,
/// delta_l = dLoss/dv-hat_l, J_l the Jacobian of layer l by its input.
///
/// A name alone means the default settings:
///
/// ```
/// use predictive_coding::{FixedPrediction, Method, Strict};
///
/// let method: Method = "fixed-prediction".parse()?;
/// assert_eq!(method, FixedPrediction::new(0.1, 20).into());
/// assert_eq!(Method::from(Strict::sweeps(5)).to_string(), "strict");
/// # Ok::<(), predictive_coding::Error>(())
/// ```
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(tag = "type", rename_all = "kebab-case")
)]
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Method {
    /// epsilon_l = delta_l and v_l = v-hat_l - epsilon_l: backpropagation.
    Exact,
    /// Predictions and Jacobians stay those of the forward pass.
    FixedPrediction(FixedPrediction),
    /// Predictions follow the beliefs.
    Strict(Strict),
    /// Errors are optimised instead of beliefs, which follow from them.
    ErrorBased(ErrorBased),
    /// The parameters step in every iteration of strict.
    Incremental(Incremental),
}

/// Step size and iterations where none are given.
const USUAL: (f64, usize) = (0.1, 20);
/// The most products that the largest eigenvalue is estimated by.
const MOST_PRODUCTS: usize = 1 << 12;

impl Method {
    /// `exact`, `fixed-prediction`, `strict`, `error-based` or `incremental`.
    pub fn name(&self) -> &'static str {
        match self {
            Method::Exact => "exact",
            Method::FixedPrediction(_) => "fixed-prediction",
            Method::Strict(_) => "strict",
            Method::ErrorBased(_) => "error-based",
            Method::Incremental(_) => "incremental",
        }
    }

    /// The given step size, if the method has one.
    pub fn eta(&self) -> Option<&Eta> {
        match self {
            Method::Exact => None,
            Method::FixedPrediction(FixedPrediction { eta, .. })
            | Method::ErrorBased(ErrorBased { eta, .. })
            | Method::Incremental(Incremental { eta, .. }) => Some(eta),
            Method::Strict(Strict { solver, .. }) => solver.eta(),
        }
    }

    /// Number of iterations, for the methods that relax.
    pub fn iterations(&self) -> Option<usize> {
        match *self {
            Method::Exact => None,
            Method::FixedPrediction(FixedPrediction { iterations, .. })
            | Method::Strict(Strict { iterations, .. })
            | Method::ErrorBased(ErrorBased { iterations, .. })
            | Method::Incremental(Incremental { iterations, .. }) => Some(iterations),
        }
    }

    /// Whether each sample goes down an energy, iteration by iteration.
    pub(crate) fn descends(&self) -> bool {
        matches!(self, Method::Strict(_) | Method::ErrorBased(_) | Method::Incremental(_))
    }

    /// How much of each layer's gradient gets through to it, for a network whose layers have these precisions p_l
    /// ([`Network::precisions`](crate::Network::precisions)): p_l times the errors of fixed-prediction is c_l times
    /// backpropagation's, with c_L = 1, and from 0 c_l <- (1 - eta_l p_l) c_l + eta_l p_l c_{l+1} for all l < L at once,
    /// n - 1 times. All 1 for exact; the others have no such numbers.
    ///
    /// ```
    /// use predictive_coding::{FixedPrediction, Method};
    ///
    /// let method = Method::from(FixedPrediction::new(0.1, 20));
    /// let shares = method.shares(&[1.0; 5]).unwrap();
    /// assert!((shares[0] - 0.115).abs() < 1e-4 && shares[4] == 1.0);
    /// assert_eq!(method.iterations_for(&[1.0; 5], 0.99), Some(98));
    /// ```
    ///
    /// # Panics
    /// If there is no layer, or step sizes are for another number of hidden layers.
    pub fn shares(&self, precisions: &[f64]) -> Option<Vec<f64>> {
        match self {
            Method::Exact => Some(vec![1.0; precisions.len()]),
            Method::FixedPrediction(FixedPrediction { eta, iterations, .. }) => {
                let [errors, _] = shares(&eta.times(precisions), *iterations);
                Some(errors)
            }
            Method::Strict(_) | Method::ErrorBased(_) | Method::Incremental(_) => None,
        }
    }

    /// The least number of iterations with which fixed-prediction at this eta lets at least `share`, below 1,
    /// of its gradient through to every layer of a network of these precisions ([`shares`](Self::shares)), and from
    /// which on more iterations only let more through. None where there is no such number: if an eta is above
    /// 1, so that the c_l overshoot 1 and swing about it (for good from 2 on), if the number is too large
    /// to be counted, and for the other methods. Its cost does not depend on eta.
    ///
    /// # Panics
    /// If there is no layer, or step sizes are for another number of hidden layers.
    pub fn iterations_for(&self, precisions: &[f64], share: f64) -> Option<usize> {
        match self {
            Method::FixedPrediction(FixedPrediction { eta, .. }) => iterations_for(&eta.times(precisions), share),
            _ => None,
        }
    }

    /// The layers (from 1) of a network of so many that no error reaches within the iterations, so that their gradients
    /// are 0: errors come down one layer per iteration from the forward pass, so that n reach the n uppermost. Sweeps and
    /// error-based reach all of them.
    ///
    /// ```
    /// use predictive_coding::{Method, Strict};
    ///
    /// assert_eq!(Method::from(Strict::new(0.1, 3)).unreached(5), 1..3);
    /// ```
    pub fn unreached(&self, layers: usize) -> Range<usize> {
        match self {
            Method::Strict(Strict { solver: Solver::Sweeps, .. }) | Method::ErrorBased(_) => 1..1,
            _ => 1..self.iterations().map_or(1, |iterations| layers.saturating_sub(iterations) + 1),
        }
    }

    /// Refuses invalid numbers. Every session calls this.
    ///
    /// # Errors
    /// [`Error::Argument`] for a step size or a tolerance that is not a finite number above 0, 0 iterations, a number of
    /// products that is not in 1..=4096, a momentum that is not in 0..1, a nudge that is 0, not finite, or of beliefs that
    /// move up the loss, and a way to go on after a divergence that error-based does not have.
    pub fn validate(&self) -> Result<()> {
        let etas = self.eta().map_or(&[][..], Eta::values);
        if let Some(eta) = etas.iter().find(|eta| !(eta.is_finite() && **eta > 0.0)) {
            return Err(Error::Argument(format!(
                "eta is {eta}, expected a finite number above 0; 0.1 is a usual choice"
            )));
        }
        if self.iterations() == Some(0) {
            return Err(Error::Argument("iterations is 0, expected at least 1; 20 is a usual choice".into()));
        }
        if let Method::ErrorBased(ErrorBased { on_divergence: OnDivergence::Shrink, .. }) = self {
            return Err(Error::Argument("error-based has no smaller step to shrink to, expected stop or skip".into()));
        }
        let Method::Strict(Strict { solver, tolerance, nudge, .. }) = self else { return Ok(()) };
        if let Solver::Momentum { momentum, .. } = solver
            && !(0.0..1.0).contains(momentum)
        {
            return Err(Error::Argument(format!("the momentum is {momentum}, expected at least 0 and less than 1")));
        }
        if let Some(Nudge { beta, .. }) = nudge
            && !(beta.is_finite() && *beta != 0.0)
        {
            return Err(Error::Argument(format!("the nudge is {beta}, expected a finite number other than 0")));
        }
        if nudge.is_some() && matches!(solver, Solver::Published2022(_) | Solver::Sweeps) {
            return Err(Error::Argument(format!("a nudge was given to the solver {solver}, expected one of steps")));
        }
        if let Solver::Automatic { products } = solver
            && !(1..=MOST_PRODUCTS).contains(products)
        {
            return Err(Error::Argument(format!(
                "the automatic step size is estimated by {products} products, expected 1 to {MOST_PRODUCTS}; 1 is enough for training"
            )));
        }
        match tolerance {
            Some(tolerance) if !(tolerance.is_finite() && *tolerance > 0.0) => Err(Error::Argument(format!(
                "the tolerance is {tolerance}, expected a finite number above 0; 1e-3 is a usual choice"
            ))),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Method {
    /// The [name](Self::name).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Method {
    type Err = Error;

    /// The method of that name with the default settings.
    fn from_str(name: &str) -> Result<Self> {
        match name {
            "exact" => Ok(Method::Exact),
            "fixed-prediction" => Ok(FixedPrediction::default().into()),
            "strict" => Ok(Strict::default().into()),
            "error-based" => Ok(ErrorBased::default().into()),
            "incremental" => Ok(Incremental::default().into()),
            _ => {
                let known = ["exact", "fixed-prediction", "strict", "error-based", "incremental"];
                Err(Error::unknown("method", name, &known))
            }
        }
    }
}

impl From<FixedPrediction> for Method {
    fn from(fixed: FixedPrediction) -> Self {
        Method::FixedPrediction(fixed)
    }
}

impl From<Strict> for Method {
    fn from(strict: Strict) -> Self {
        Method::Strict(strict)
    }
}

impl From<ErrorBased> for Method {
    fn from(error_based: ErrorBased) -> Self {
        Method::ErrorBased(error_based)
    }
}

impl From<Incremental> for Method {
    fn from(incremental: Incremental) -> Self {
        Method::Incremental(incremental)
    }
}

impl From<&Method> for Method {
    fn from(method: &Method) -> Self {
        method.clone()
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
