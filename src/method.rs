//! The ways of computing errors and gradients.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::names::names;
use crate::relaxation::{iterations_for, shares};
use crate::setters::setters;

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
    /// backpropagation ([`Method::shares`]).
    pub literal: bool,
}

/// Predictions follow the beliefs (Algorithm 1 of the paper): `iterations` times for all l < L
/// at once, epsilon_l = f_l(v_{l-1}) - v_l and epsilon_L = dLoss/df_L(v_{L-1}), then
/// v_l += eta (epsilon_l - J_{l+1}(v_l)^T epsilon_{l+1}). Where layers have precisions, each of the errors is multiplied
/// by that of its layer.
///
/// ```
/// use predictive_coding::{Linear, Loss, Network, OnDivergence, Op, Options, Session, Strict};
///
/// let linear = |outputs| Op::Linear(Linear::new(outputs));
/// let network = Network::new(&[4], Loss::MSE, vec![vec![linear(8), Op::Tanh], vec![linear(3)]])?;
/// let steps = Strict::new(0.1, 20).with_on_divergence(OnDivergence::Shrink);
/// let sweeps = Strict::sweeps(5).with_tolerance(Some(1e-3));
/// for method in [steps, sweeps] {
///     let mut session = Session::new(&network, 1, method, Options::default())?;
///     session.infer(&network.initialize(1), &[0.1, -0.5, 0.3, 0.9], &[0.0f32, 1.0, 0.0])?;
/// }
/// # Ok::<(), predictive_coding::Error>(())
/// ```
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Strict {
    /// How the beliefs move.
    pub solver: Solver,
    /// Number of iterations n, at least 1; of sweeps the most.
    pub iterations: usize,
    /// The relaxation of a sample ends early once |u_new - u| is at most this times |u_new|, over all hidden layers.
    /// Afterwards the sample does not change.
    ///
    /// With sweeps, the same condition applies to the errors of the hidden layers and their change in a step.
    pub tolerance: Option<f64>,
    /// What to do with a sample that diverges.
    pub on_divergence: OnDivergence,
    /// Whether errors and gradients are computed at the final beliefs. By default, the errors are those of the last
    /// iteration, from before its update.
    pub fresh_errors: bool,
    /// A factor of the loss in the relaxation.
    pub nudge: Option<Nudge>,
}

/// A factor beta of the loss: the relaxation minimises beta Loss plus the errors' part of the energy, and the gradients are
/// divided by beta. For small beta they approach backpropagation's.
///
/// ```
/// use predictive_coding::{Nudge, Strict};
///
/// let method = Strict::new(0.1, 50).with_nudge(Some(Nudge::new(1e-3).with_centred(true)));
/// # let _ = method;
/// ```
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Nudge {
    /// Factor of the loss, of either sign, finite and not 0.
    pub beta: f64,
    /// Whether to relax with -beta as well. The gradients are then (gradients(beta) + gradients(-beta)) / 2, each already
    /// divided by its beta, and their distance from backpropagation's decreases with the square of beta. All other results
    /// are those of beta.
    pub centred: bool,
}

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
/// let mut session = Session::new(&network, 1, ErrorBased::new(0.1, 10), Options::default())?;
/// session.infer(&network.initialize(1), &[0.1, -0.5, 0.3, 0.9], &[0.0f32, 1.0, 0.0])?;
/// # Ok::<(), predictive_coding::Error>(())
/// ```
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ErrorBased {
    /// Step size.
    pub eta: Eta,
    /// Number of iterations n, at least 1.
    pub iterations: usize,
    /// What to do with a sample that diverges; there is no [`Shrink`](OnDivergence::Shrink).
    pub on_divergence: OnDivergence,
}

/// The parameters step in every iteration (Salvatori et al., arXiv 2212.00720): `iterations` times, at once, beliefs step
/// as those of [`Strict`] and the optimiser of [`Session::learn`](crate::Session::learn) takes a step along the gradients
/// of the energy at the same beliefs and parameters. Errors are those of the last iteration, activations those of the
/// first parameters.
///
/// ```
/// use predictive_coding::{Incremental, Linear, Loss, Network, Op, Options, Session, Sgd};
///
/// let linear = |outputs| Op::Linear(Linear::new(outputs));
/// let network = Network::new(&[4], Loss::MSE, vec![vec![linear(8), Op::Tanh], vec![linear(3)]])?;
/// let mut parameters = network.initialize(1);
/// let mut sgd = Sgd::new(&parameters, 1e-3);
/// let mut session = Session::new(&network, 1, Incremental::new(0.1, 10), Options::default())?;
/// session.learn(&mut parameters, &mut sgd, &[0.1, -0.5, 0.3, 0.9], &[0.0f32, 1.0, 0.0])?;
/// # Ok::<(), predictive_coding::Error>(())
/// ```
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Incremental {
    /// Step size of the beliefs.
    pub eta: Eta,
    /// Number of iterations n, at least 1, and of steps of the parameters.
    pub iterations: usize,
}

/// A step size of beliefs, finite and above 0. See [`Strict`] for an example.
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

/// How the beliefs of a strict relaxation move. See [`Strict`] for an example.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Solver {
    /// n steps of gradient descent in all beliefs at once, as in the paper.
    Steps(Eta),
    /// Steps with momentum, m = momentum m + d, like `torch.optim.SGD`.
    Momentum {
        /// Step size.
        eta: Eta,
        /// Momentum, at least 0 and less than 1.
        momentum: f64,
        /// Whether the step is along d + momentum m instead of m.
        nesterov: bool,
    },
    /// Steps by `torch.optim.Adam` with its defaults. Energies may rise on the way, so a sample diverges only if its energy
    /// is not finite.
    Adam(Eta),
    /// Steps of the largest stable size of each sample, with a margin: eta = 1.8 / lambda_max, where lambda_max is the
    /// largest eigenvalue of the Gauss-Newton Hessian of its energy at v-hat (without second derivatives of activations).
    /// If the energy of a sample still rises, its eta is halved. If the energy exceeds its initial value, the sample
    /// returns to v-hat with a quarter of its eta. The estimate starts from a vector that is updated from call to call, so
    /// results depend on previous calls in the last digits of lambda_max.
    Automatic {
        /// Number of products with the Hessian to estimate lambda_max, each as costly as an iteration. 1 is enough for
        /// training, and 16 give lambda_max to about a percent. At most 4096.
        products: usize,
    },
    /// At most n sweeps towards the equilibrium that the steps converge to. A sweep goes up through the layers to compute
    /// the beliefs that belong to the errors, and down to compute how the errors should change. It costs as much as an
    /// iteration, and a few sweeps do the work of hundreds of steps. A step that raises a sample's energy is undone. There
    /// is no step size.
    Sweeps,
    /// The convention of the code behind the paper's figures: epsilon_l = v_l - f_l(v_{l-1}), epsilon_L =
    /// dLoss/df_L(v_{L-1}), v_l += eta (-epsilon_l + J_{l+1}(v_l)^T epsilon_{l+1}), and gradients at v-hat.
    /// Beliefs move up the loss, so a sample diverges only if its energy is not finite.
    #[cfg_attr(feature = "serde", serde(rename = "published-2022"))]
    Published2022(Eta),
}

/// What to do with a sample whose strict relaxation diverges. See [`Strict`] for an example.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnDivergence {
    /// Return [`Error::Diverged`] from the call.
    #[default]
    Stop,
    /// Leave the sample out of the gradients. Its errors and deviations become 0.
    Skip,
    /// Relax the sample again from v-hat, with its own largest stable step size ([`Solver::Automatic`] with 16 products),
    /// and leave it out if it still diverges. A sample that did not start at v-hat is left out at once, and so are all
    /// samples of solvers other than [`Solver::Steps`].
    Shrink,
}

names!(OnDivergence, "action on divergence", { Stop => "stop", Skip => "skip", Shrink => "shrink" });

/// Step size and iterations where none are given.
const USUAL: (f64, usize) = (0.1, 20);
const USUAL_MOMENTUM: f64 = 0.9;
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

impl ErrorBased {
    /// `iterations` iterations with a step size, or with one for each hidden layer.
    pub fn new(eta: impl Into<Eta>, iterations: usize) -> Self {
        ErrorBased { eta: eta.into(), iterations, on_divergence: OnDivergence::Stop }
    }
}

setters!(ErrorBased { with_iterations(iterations: usize), with_on_divergence(on_divergence: OnDivergence) });

impl Default for ErrorBased {
    /// 20 iterations by 0.1.
    fn default() -> Self {
        ErrorBased::new(USUAL.0, USUAL.1)
    }
}

impl Incremental {
    /// So many iterations by a step size of the beliefs, or by one for each hidden layer.
    pub fn new(eta: impl Into<Eta>, iterations: usize) -> Self {
        Incremental { eta: eta.into(), iterations }
    }
}

setters!(Incremental { with_iterations(iterations: usize) });

impl Default for Incremental {
    /// 20 iterations by 0.1.
    fn default() -> Self {
        Incremental::new(USUAL.0, USUAL.1)
    }
}

impl Nudge {
    /// A factor of the loss, on one side.
    pub fn new(beta: f64) -> Self {
        Nudge { beta, centred: false }
    }
}

setters!(Nudge { with_centred(centred: bool) });

impl Strict {
    /// `iterations` steps with a step size, or with one for each hidden layer.
    pub fn new(eta: impl Into<Eta>, iterations: usize) -> Self {
        Strict::by(Solver::Steps(eta.into()), iterations)
    }

    /// `iterations` steps with the [largest stable step size of each sample](Solver::Automatic), estimated by `products`
    /// products with the Hessian.
    pub fn automatic(products: usize, iterations: usize) -> Self {
        Strict::by(Solver::Automatic { products }, iterations)
    }

    /// At most `iterations` [sweeps](Solver::Sweeps).
    pub fn sweeps(iterations: usize) -> Self {
        Strict::by(Solver::Sweeps, iterations)
    }

    /// `iterations` iterations of a solver.
    pub fn by(solver: Solver, iterations: usize) -> Self {
        Strict {
            solver,
            iterations,
            tolerance: None,
            on_divergence: OnDivergence::Stop,
            fresh_errors: false,
            nudge: None,
        }
    }

    /// Whether there are two relaxations.
    pub(crate) fn is_centred(&self) -> bool {
        self.nudge.is_some_and(|nudge| nudge.centred)
    }

    /// What the loss is multiplied by.
    pub(crate) fn beta(&self) -> f64 {
        self.nudge.map_or(1.0, |nudge| nudge.beta)
    }

    /// What the sums over the errors are multiplied by to be gradients of the loss.
    pub(crate) fn gradient_factor(&self) -> f64 {
        1.0 / if self.is_centred() { 2.0 * self.beta() } else { self.beta() }
    }

    /// Products with the Hessian that a step size may be chosen by.
    pub(crate) fn products(&self) -> usize {
        const TO_SHRINK: usize = 16;
        match self.solver {
            Solver::Automatic { products } => products,
            Solver::Steps(_) if self.on_divergence == OnDivergence::Shrink => TO_SHRINK,
            _ => 0,
        }
    }
}

setters!(Strict {
    with_iterations(iterations: usize),
    with_tolerance(tolerance: Option<f64>),
    with_on_divergence(on_divergence: OnDivergence),
    with_fresh_errors(fresh_errors: bool),
    with_nudge(nudge: Option<Nudge>),
});

impl Default for Strict {
    /// 20 steps of 0.1.
    fn default() -> Self {
        Strict::new(USUAL.0, USUAL.1)
    }
}

impl Solver {
    /// `steps`, `momentum`, `nesterov`, `adam`, `automatic`, `sweeps` or `published-2022`.
    pub fn name(&self) -> &'static str {
        match self {
            Solver::Steps(_) => "steps",
            Solver::Momentum { nesterov: false, .. } => "momentum",
            Solver::Momentum { nesterov: true, .. } => "nesterov",
            Solver::Adam(_) => "adam",
            Solver::Automatic { .. } => "automatic",
            Solver::Sweeps => "sweeps",
            Solver::Published2022(_) => "published-2022",
        }
    }

    /// The given step size, if the solver has one.
    pub fn eta(&self) -> Option<&Eta> {
        match self {
            Solver::Steps(eta) | Solver::Momentum { eta, .. } | Solver::Adam(eta) | Solver::Published2022(eta) => {
                Some(eta)
            }
            Solver::Automatic { .. } | Solver::Sweeps => None,
        }
    }
}

impl fmt::Display for Solver {
    /// The [name](Self::name).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Solver {
    type Err = Error;

    /// The solver of that name, with steps of 0.1, or of a size that one product estimates, and a momentum of 0.9.
    fn from_str(name: &str) -> Result<Self> {
        let eta = || USUAL.0.into();
        match name {
            "steps" => Ok(Solver::Steps(eta())),
            "momentum" | "nesterov" => {
                Ok(Solver::Momentum { eta: eta(), momentum: USUAL_MOMENTUM, nesterov: name == "nesterov" })
            }
            "adam" => Ok(Solver::Adam(eta())),
            "automatic" => Ok(Solver::Automatic { products: 1 }),
            "sweeps" => Ok(Solver::Sweeps),
            "published-2022" => Ok(Solver::Published2022(eta())),
            _ => {
                let known = ["steps", "momentum", "nesterov", "adam", "automatic", "sweeps", "published-2022"];
                Err(Error::unknown("solver", name, &known))
            }
        }
    }
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

/// The lowest layer, as an index from 0, that iteration i (from 1) pulls an error back through
/// when the relaxation starts at v-hat: eps_l is still 0 for l <= L - i.
pub(crate) fn first_pulled(layers: usize, iteration: usize) -> usize {
    layers.saturating_sub(iteration).max(1)
}

/// The lowest layer, as an index from 0, whose input has left v-hat at iteration i (from 1).
pub(crate) fn first_pushed(layers: usize, iteration: usize) -> usize {
    (layers + 1).saturating_sub(iteration).max(1)
}
