//! A session: everything one network, batch size and method need, planned once.

use predictive_coding_kernels::Level;

use crate::error::{Error, Result};
use crate::loss::Targets;
use crate::method::Method;
use crate::network::Network;
use crate::parameters::Parameters;

/// A quantity that a session holds for a layer, one value per element of the layer's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// v-hat_l of the forward pass, for l = 1..=L.
    Activation,
    /// u_l = v_l - v-hat_l, for l = 1..L-1.
    Deviation,
    /// v_l, for l = 1..L-1.
    Belief,
    /// epsilon_l of the last iteration, for l = 1..=L.
    Error,
}

/// Where the belief of a layer starts in a strict relaxation.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a> {
    /// At v-hat.
    Activation,
    /// At v-hat plus these deviations, `[samples, layer shape]`.
    Deviation(&'a [f32]),
    /// At these beliefs, `[samples, layer shape]`. Their difference from v-hat is rounded once.
    Belief(&'a [f32]),
}

/// Planned once for a network, a batch size and a method; owns every buffer.
#[derive(Debug)]
pub struct Session {
    gradients: Parameters,
}

impl Session {
    /// Plans a session for batches of up to `batch` samples at the SIMD level of this machine, or
    /// the one that the environment variable `PREDICTIVE_CODING_LEVEL` names.
    pub fn new(network: &Network, batch: usize, method: Method) -> Result<Self> {
        let level = Level::from_environment().map_err(|e| Error::Argument(e.to_string()))?;
        Self::with_level(network, batch, method, level)
    }

    /// Plans a session at a given SIMD level.
    pub fn with_level(_network: &Network, _batch: usize, _method: Method, _level: Level) -> Result<Self> {
        todo!()
    }

    /// One step without the optimiser: forward pass, relaxation, gradients. `x` is
    /// `[samples, input shape]` with 1 to `batch` samples, which `y` must match. Returns the loss of
    /// the forward pass.
    ///
    /// Errors: [`Error::Input`] if sizes or labels do not fit (nothing was computed);
    /// [`Error::Diverged`] if a strict relaxation diverged (all n iterations were run and
    /// everything can be read).
    pub fn infer<'a>(&mut self, parameters: &Parameters, x: &[f32], y: impl Into<Targets<'a>>) -> Result<f32> {
        self.infer_from(parameters, x, y, &[])
    }

    /// As [`infer`](Self::infer), with a strict relaxation that starts at given beliefs: `start[l - 1]`
    /// for layer l in 1..L; layers beyond the end of the slice start at v-hat.
    pub fn infer_from<'a>(
        &mut self,
        _parameters: &Parameters,
        _x: &[f32],
        _y: impl Into<Targets<'a>>,
        _start: &[Start<'_>],
    ) -> Result<f32> {
        todo!()
    }

    /// The forward pass alone; returns the loss. Afterwards only activations can be read.
    pub fn forward<'a>(&mut self, _parameters: &Parameters, _x: &[f32], _y: impl Into<Targets<'a>>) -> Result<f32> {
        todo!()
    }

    /// A quantity of layer `layer` (from 1) of the last call, `[samples, layer shape]`.
    ///
    /// # Panics
    /// If the layer has no such quantity.
    pub fn get(&self, quantity: Quantity, layer: usize) -> Vec<f32> {
        let mut out = vec![0.0; self.samples() * self.elements(layer)];
        self.read(quantity, layer, &mut out);
        out
    }

    /// As [`get`](Self::get), into a buffer of exactly that size.
    ///
    /// # Panics
    /// If the layer has no such quantity or `out` has another size.
    pub fn read(&self, _quantity: Quantity, _layer: usize, _out: &mut [f32]) {
        todo!()
    }

    /// Elements of one sample of layer `layer` (from 1).
    pub fn elements(&self, _layer: usize) -> usize {
        todo!()
    }

    /// Samples of the last call.
    pub fn samples(&self) -> usize {
        todo!()
    }

    /// dLoss/dtheta as the method computes it, of the last [`infer`](Self::infer).
    pub fn gradients(&self) -> &Parameters {
        &self.gradients
    }

    /// Whether the next strict relaxations record their energies. Off by default.
    pub fn record_energies(&mut self, _record: bool) {
        todo!()
    }

    /// F_1 .. F_n of the last strict relaxation, summed over the batch: the loss at the current
    /// prediction plus half the squared errors of layers 1..L-1, each before the update of its
    /// iteration. Empty unless they were recorded.
    pub fn energies(&self) -> &[f64] {
        todo!()
    }

    /// Bytes of all buffers. Nothing is allocated after planning.
    pub fn bytes(&self) -> usize {
        todo!()
    }

    /// The SIMD level that this session computes with.
    pub fn level(&self) -> Level {
        todo!()
    }
}
