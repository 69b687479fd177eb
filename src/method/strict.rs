//! Strict and what only strict knows.

use std::fmt;
use std::str::FromStr;

use super::{Eta, USUAL};
use crate::error::{Error, Result};
use crate::names::names;
use crate::setters::setters;

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
    /// Whether the belief v_0 of the input moves too, and how it is tied to the input x. For steps.
    pub free_input: Option<FreeInput>,
}

/// An input that relaxes: its belief v_0 starts at the given x and moves as the others do. The energy has the term
/// p_0 / 2 |v_0 - x|^2 for it. See [`Conditions::with_input_mask`](crate::Conditions::with_input_mask) for an input of
/// which a part is known.
///
/// ```
/// use predictive_coding::{FreeInput, Linear, Loss, Network, Op, Options, Quantity, Session, Strict};
///
/// // The latent of a decoder that makes this output.
/// let network = Network::new(&[1], Loss::MSE, vec![vec![Op::Linear(Linear::new(2))]])?;
/// let method = Strict::new(0.1, 200).with_free_input(Some(FreeInput::default()));
/// let mut session = Session::new(&network, 1, method, Options::default())?;
/// let weights = network.initialize(1);
/// let output = session.predict(&weights, &[0.7])?;
/// session.infer(&weights, &[0.0], &output)?;
/// assert!((session.get(Quantity::Belief, 0)?[0] - 0.7).abs() < 1e-3);
/// # Ok::<(), predictive_coding::Error>(())
/// ```
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct FreeInput {
    /// p_0, finite and at least 0. By default 0: x is where the input starts, and no more.
    pub precision: f64,
}

setters!(FreeInput { with_precision(precision: f64) });

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

const USUAL_MOMENTUM: f64 = 0.9;

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
            free_input: None,
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
    with_free_input(free_input: Option<FreeInput>),
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

impl Nudge {
    /// A factor of the loss, on one side.
    pub fn new(beta: f64) -> Self {
        Nudge { beta, centred: false }
    }
}

setters!(Nudge { with_centred(centred: bool) });
