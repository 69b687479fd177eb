//! Incremental: parameters step in every iteration.

use super::{Eta, USUAL};
use crate::setters::setters;

/// The parameters step in every iteration (Salvatori et al., arXiv 2212.00720): `iterations` times, at once, beliefs step
/// as those of [`Strict`](crate::Strict) and the optimiser of [`Session::learn`](crate::Session::learn) takes a step along the gradients
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
