//! The three ways of computing errors and gradients.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use predictive_coding_kernels::{Algorithm, Level};

use crate::error::{Error, Result};
use crate::relaxation::{iterations_for, shares};

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
    /// v_l += eta (epsilon_l - J_{l+1}(v-hat_l)^T epsilon_{l+1}), with epsilon_L = delta_L. Where layers have precisions,
    /// each of the errors is multiplied by that of its layer.
    FixedPrediction {
        /// Step size, finite and above 0.
        eta: f64,
        /// Number of iterations n, at least 1.
        iterations: usize,
    },
    /// Predictions follow the beliefs (Algorithm 1 of the paper): `iterations` times for all l < L
    /// at once, epsilon_l = f_l(v_{l-1}) - v_l and epsilon_L = dLoss/df_L(v_{L-1}), then
    /// v_l += eta (epsilon_l - J_{l+1}(v_l)^T epsilon_{l+1}). As there, errors are multiplied by precisions.
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

    /// How much of each layer's gradient gets through to it, for a network whose layers have these precisions p_l
    /// ([`Network::precisions`](crate::Network::precisions)): p_l times the errors of fixed-prediction is c_l times
    /// backpropagation's, with c_L = 1, and from 0 c_l <- (1 - eta p_l) c_l + eta p_l c_{l+1} for all l < L at once,
    /// n - 1 times. All 1 for exact; strict has no such numbers.
    ///
    /// ```
    /// use predictive_coding::Method;
    ///
    /// let method = Method::FixedPrediction { eta: 0.1, iterations: 20 };
    /// let shares = method.shares(&[1.0; 5]).unwrap();
    /// assert!((shares[0] - 0.115).abs() < 1e-4 && shares[4] == 1.0);
    /// assert_eq!(method.iterations_for(&[1.0; 5], 0.99), Some(98));
    /// ```
    ///
    /// # Panics
    /// If there is no layer.
    pub fn shares(&self, precisions: &[f64]) -> Option<Vec<f64>> {
        match *self {
            Method::Exact => Some(vec![1.0; precisions.len()]),
            Method::FixedPrediction { eta, iterations } => {
                let [errors, _] = shares(precisions, eta, iterations);
                Some(errors)
            }
            Method::Strict { .. } => None,
        }
    }

    /// The least number of iterations with which fixed-prediction at this eta lets at least `share`, below 1,
    /// of its gradient through to every layer of a network of these precisions ([`shares`](Self::shares)), and from
    /// which on more iterations only let more through. None where there is no such number: if eta is above
    /// 1, so that the c_l overshoot 1 and swing about it (for good from 2 on), if the number is too large
    /// to be counted, and for exact and strict. Its cost does not depend on eta.
    ///
    /// # Panics
    /// If there is no layer.
    pub fn iterations_for(&self, precisions: &[f64], share: f64) -> Option<usize> {
        match *self {
            Method::FixedPrediction { eta, .. } => iterations_for(precisions, eta, share),
            Method::Exact | Method::Strict { .. } => None,
        }
    }

    /// The layers (from 1) of a network of so many that no error reaches within the iterations, so that their gradients
    /// are 0: errors come down one layer per iteration from the forward pass, so that n reach the n uppermost. A sweep
    /// goes through all of them.
    pub fn unreached(&self, options: &Options, layers: usize) -> Range<usize> {
        match self.relaxation() {
            Some((_, iterations)) if options.solver == Solver::Steps => 1..layers.saturating_sub(iterations) + 1,
            _ => 1..1,
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

/// The most products that the largest eigenvalue is estimated by.
const MOST_PRODUCTS: usize = 1 << 12;

/// What a session does otherwise than usual.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Options {
    /// The SIMD level; the machine's own, or the one that the environment names, if none.
    pub level: Option<Level>,
    /// What lies across the lanes of vectors.
    pub layout: LayoutChoice,
    /// How convolutions are computed.
    pub convolution: Algorithm,
    /// Fixed-prediction runs its iterations one by one, to the same result as without but for rounding:
    /// usually its errors are found from backpropagation's ([`Method::shares`]).
    pub literal: bool,
    /// How strict relaxations find their step sizes.
    pub step: StepSize,
    /// A step size for each hidden layer, from the lowest on, instead of the method's eta.
    pub etas: Option<&'static [f64]>,
    /// Strict relaxations of a sample end before their iterations are done, once |u_new - u| is at most this
    /// times |u_new|, over all hidden layers; a sample that has settled stays as it is.
    ///
    /// For sweeps the same is asked of the errors of the hidden layers and of what a step adds to them.
    pub tolerance: Option<f64>,
    /// How strict relaxations find where they end.
    pub solver: Solver,
    /// Which way the beliefs of strict relaxations move.
    pub convention: Convention,
    /// What becomes of a sample whose strict relaxation diverges.
    pub on_divergence: OnDivergence,
    /// Ends a call between two iterations, with [`Error::Stopped`].
    pub stop: Option<StopFlag>,
}

/// What becomes of a sample whose strict relaxation diverges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDivergence {
    /// The call ends with [`Error::Diverged`].
    #[default]
    Stop,
    /// The sample is left out of the gradients; its errors and deviations are 0.
    Skip,
    /// The sample relaxes again from v-hat by its own largest stable step ([`StepSize::Automatic`] with 16 products)
    /// and is left out if it diverges even then. One that began elsewhere than at v-hat, or whose step was chosen that
    /// way to begin with, is left out at once.
    Shrink,
}

/// A flag that whoever holds it sets to end a relaxation.
#[derive(Clone, Copy, Debug)]
pub struct StopFlag(pub &'static AtomicBool);

impl StopFlag {
    /// Whether it was set.
    pub fn is_set(self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl PartialEq for StopFlag {
    /// Whether it is the same flag.
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

/// What lies across the lanes of a session's vectors. Results differ between layouts by rounding alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LayoutChoice {
    /// The one that takes less time for the network and the batch, by a count of operations.
    #[default]
    Auto,
    /// A sample in every lane: for few channels and full batches.
    Images,
    /// The channels of one sample: for many channels, and for batches smaller than a vector.
    Channels,
}

/// The signs of strict, and where its gradients are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Convention {
    /// As in [`Method::Strict`], with gradients at the beliefs: Torch2PC since 2024.
    #[default]
    Current,
    /// As the code computed that the paper's figures come from: epsilon_l = v_l - f_l(v_{l-1}), epsilon_L =
    /// dLoss/df_L(v_{L-1}), v_l += eta (-epsilon_l + J_{l+1}(v_l)^T epsilon_{l+1}), and gradients at v-hat.
    /// Beliefs move up the loss, so that [`Error::Diverged`] tells of energies that are not finite alone.
    Published2022,
}

/// How a strict relaxation goes down its energy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Solver {
    /// n steps of gradient descent in all beliefs at once, as in the paper.
    #[default]
    Steps,
    /// At most n sweeps straight to the equilibrium that the steps tend to: up through the layers for the beliefs
    /// that the errors stand for, down for how the errors should change. A sweep costs what an iteration costs;
    /// a few reach what takes hundreds of steps. No sample's energy ends above its start, whatever the weights:
    /// there is no step size. The method's eta is not used.
    Sweeps,
}

/// The step size of a strict relaxation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StepSize {
    /// The method's eta, for every sample.
    #[default]
    Given,
    /// For each sample the largest with which descent is stable, by a margin: eta lambda_max = 1.8, where
    /// lambda_max is the largest eigenvalue of the Hessian of its energy at v-hat (of Gauss and Newton: without
    /// second derivatives of activations). The method's eta is not used. A sample whose energy rises all the
    /// same halves its eta, and above its start goes back to v-hat with a quarter of it. The estimate starts from a vector that follows the weights from call to call, so
    /// that results depend on the calls before, in the last digits of lambda_max.
    Automatic {
        /// Products with the Hessian that lambda_max is estimated by, each as costly as an iteration: 1 while
        /// training, 16 for it to be right to about a percent; at most 4096.
        products: usize,
    },
}

impl Options {
    /// Whether a call is to end.
    pub(crate) fn stopped(&self) -> bool {
        self.stop.is_some_and(StopFlag::is_set)
    }

    /// Products with the Hessian that a step size may be chosen by.
    pub(crate) fn products(&self) -> usize {
        const TO_SHRINK: usize = 16;
        match (self.step, self.on_divergence) {
            (StepSize::Automatic { products }, _) => products,
            (StepSize::Given, OnDivergence::Shrink) if self.solver == Solver::Steps => TO_SHRINK,
            (StepSize::Given, _) => 0,
        }
    }

    /// Refuses what does not fit the method.
    pub fn validate(&self, method: Method) -> Result<()> {
        if let Some(etas) = self.etas {
            if method.relaxation().is_none() || self.step != StepSize::Given || self.solver != Solver::Steps {
                return Err(Error::Argument(
                    "step sizes of the layers were given, but only steps of given sizes take them; leave them out"
                        .into(),
                ));
            }
            if let Some(eta) = etas.iter().find(|eta| !(eta.is_finite() && **eta > 0.0)) {
                return Err(Error::Argument(format!(
                    "eta is {eta} for a layer, expected a finite number above 0; 0.1 is a usual choice"
                )));
            }
        }
        if !matches!(method, Method::Strict { .. })
            && (self.step != StepSize::Given
                || self.tolerance.is_some()
                || self.solver != Solver::Steps
                || self.on_divergence != OnDivergence::Stop
                || self.convention != Convention::Current)
        {
            return Err(Error::Argument(format!(
                "an automatic step size, a tolerance, a way to go on after a divergence, another solver or convention was \
                 asked for, but only strict knows these; leave it out for {}",
                method.name()
            )));
        }
        let chosen = self.step != StepSize::Given || self.on_divergence == OnDivergence::Shrink;
        if self.convention != Convention::Current && (chosen || self.solver != Solver::Steps) {
            return Err(Error::Argument(
                "an automatic step size or sweeps were asked for in the convention of 2022, whose beliefs climb; expected \
                 steps of a given size"
                    .into(),
            ));
        }
        if self.solver == Solver::Sweeps && self.step != StepSize::Given {
            return Err(Error::Argument("sweeps have no step size to choose; leave out the automatic one".into()));
        }
        if let StepSize::Automatic { products } = self.step
            && !(1..=MOST_PRODUCTS).contains(&products)
        {
            return Err(Error::Argument(format!(
                "an automatic step size by {products} products, expected 1 to {MOST_PRODUCTS}; 1 is enough for training"
            )));
        }
        if let Some(tolerance) = self.tolerance.filter(|tolerance| !(tolerance.is_finite() && *tolerance > 0.0)) {
            return Err(Error::Argument(format!(
                "the tolerance is {tolerance}, expected a finite number above 0; 1e-3 is a usual choice"
            )));
        }
        match method {
            Method::FixedPrediction { .. } => Ok(()),
            _ if self.literal => Err(Error::Argument(format!(
                "the literal iteration was asked for, but only fixed-prediction has another way than that; leave it out for {}",
                method.name()
            ))),
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
