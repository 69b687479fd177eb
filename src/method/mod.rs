//! The ways of computing errors and gradients.

mod error_based;
mod eta;
mod fixed_prediction;
mod incremental;
mod strict;

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

pub use error_based::ErrorBased;
pub use eta::{Eta, StepSize};
pub use fixed_prediction::FixedPrediction;
pub use incremental::Incremental;
pub use strict::{FreeInput, Nudge, OnDivergence, Solver, Strict};

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
            Method::FixedPrediction(FixedPrediction { eta, .. }) | Method::Incremental(Incremental { eta, .. }) => {
                Some(eta)
            }
            Method::ErrorBased(ErrorBased { eta, .. }) => eta.given(),
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

    /// Whether each sample takes steps of its own largest stable size, and by how many products that is estimated.
    pub fn automatic_products(&self) -> Option<usize> {
        match *self {
            Method::Strict(Strict { solver: Solver::Automatic { products }, .. })
            | Method::ErrorBased(ErrorBased { eta: StepSize::Automatic { products }, .. }) => Some(products),
            _ => None,
        }
    }

    /// Products with the Hessian that lambda_max may be estimated by.
    pub(crate) fn products(&self) -> usize {
        match self {
            Method::Strict(strict) => strict.products(),
            Method::ErrorBased(error_based) => error_based.products(),
            Method::Exact | Method::FixedPrediction(_) | Method::Incremental(_) => 0,
        }
    }

    /// Whether each sample goes down an energy, iteration by iteration.
    pub(crate) fn descends(&self) -> bool {
        matches!(self, Method::Strict(_) | Method::ErrorBased(_) | Method::Incremental(_))
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
        let products = self.products();
        if products > MOST_PRODUCTS || self.automatic_products() == Some(0) {
            return Err(Error::Argument(format!(
                "the curvature is estimated by {products} products, expected 1 to {MOST_PRODUCTS}; 1 is enough for training"
            )));
        }
        let Method::Strict(Strict { solver, tolerance, nudge, free_input, .. }) = self else { return Ok(()) };
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
        if let Some(FreeInput { precision }) = free_input
            && !(precision.is_finite() && *precision >= 0.0)
        {
            return Err(Error::Argument(format!(
                "the precision of the input is {precision}, expected a finite number of at least 0"
            )));
        }
        if free_input.is_some() && matches!(solver, Solver::Published2022(_) | Solver::Sweeps) {
            return Err(Error::Argument(format!(
                "a free input was given to the solver {solver}, expected one of steps"
            )));
        }
        if nudge.is_some() && matches!(solver, Solver::Published2022(_) | Solver::Sweeps) {
            return Err(Error::Argument(format!("a nudge was given to the solver {solver}, expected one of steps")));
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
