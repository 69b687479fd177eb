//! Error-based inference.

use super::{Eta, OnDivergence, StepSize, USUAL};
use crate::setters::setters;

/// The errors are the variables (Goemaere et al., arXiv 2505.20137): with s_0 = x and s_l = f_l(s_{l-1}) - epsilon_l, from
/// epsilon = 0, `iterations` times for all l < L at once epsilon_l += eta (J_{l+1}^T ... J_L^T epsilon_L - p_l epsilon_l),
/// where epsilon_L = dLoss/df_L(s_{L-1}), p_l are the precisions and the Jacobians are taken at s. The beliefs are s
/// in the end; errors and gradients are taken there. An error reaches every layer in each iteration.
///
/// ```
/// use predictive_coding::{ErrorBased, Linear, Loss, Network, Op, Options, Session};
///
/// let linear = |outputs| Op::Linear(Linear::new(outputs));
/// let network = Network::new(&[4], Loss::MSE, vec![vec![linear(8), Op::Tanh], vec![linear(3)]])?;
/// for method in [ErrorBased::new(0.1, 10), ErrorBased::automatic(16, 10)] {
///     let mut session = Session::new(&network, 1, method, Options::default())?;
///     session.infer(&network.initialize(1), &[0.1, -0.5, 0.3, 0.9], &[0.0f32, 1.0, 0.0])?;
/// }
/// # Ok::<(), predictive_coding::Error>(())
/// ```
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ErrorBased {
    /// Step size.
    pub eta: StepSize,
    /// Number of iterations n, at least 1.
    pub iterations: usize,
    /// What to do with a sample that diverges; there is no [`Shrink`](OnDivergence::Shrink).
    pub on_divergence: OnDivergence,
    /// Number of products with the Hessian to estimate lambda_max of each sample where `eta` is given, which tells how far
    /// its steps are [from unstable](crate::Descending::share_of_limit); 0 for no estimate. Each costs as much as an iteration.
    pub curvature: usize,
}

impl ErrorBased {
    /// `iterations` iterations with a step size, or with one for each hidden layer.
    pub fn new(eta: impl Into<Eta>, iterations: usize) -> Self {
        ErrorBased { eta: StepSize::Given(eta.into()), iterations, on_divergence: OnDivergence::Stop, curvature: 0 }
    }

    /// `iterations` iterations with the [largest stable step size of each sample](StepSize::Automatic), estimated by
    /// `products` products with the Hessian.
    pub fn automatic(products: usize, iterations: usize) -> Self {
        ErrorBased { eta: StepSize::Automatic { products }, ..ErrorBased::new(USUAL.0, iterations) }
    }

    /// Products with the Hessian by which lambda_max is estimated.
    pub(crate) fn products(&self) -> usize {
        match self.eta {
            StepSize::Automatic { products } => products,
            StepSize::Given(_) => self.curvature,
        }
    }
}

setters!(ErrorBased {
    with_eta(eta: StepSize),
    with_iterations(iterations: usize),
    with_on_divergence(on_divergence: OnDivergence),
    with_curvature(curvature: usize),
});

impl Default for ErrorBased {
    /// 20 iterations by 0.1.
    fn default() -> Self {
        ErrorBased::new(USUAL.0, USUAL.1)
    }
}
