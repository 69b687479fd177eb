//! From the forward pass of a tile to its errors and beliefs, by each method.
//!
//! The state is the deviation u_l = v_l - v-hat_l and the error epsilon_l, both computed in
//! differences: written in beliefs, as in the paper, epsilon is a difference of nearly equal
//! numbers, and in f32 the gradient of the lower layers is rounding noise. Errors are kept times their
//! layers' precisions: so they are pulled back, and so they make gradients.

mod curvature;
mod error_based;
mod exact;
mod fixed_prediction;
mod incremental;
mod strict;
mod sweep;
mod update;

use std::ops::Range;

use predictive_coding_kernels::Combine;

pub(crate) use curvature::{Open, Variables};
pub(crate) use error_based::error_based;
pub(crate) use exact::backpropagate;
pub(crate) use fixed_prediction::fixed_prediction;
pub(crate) use incremental::increment;
pub(crate) use strict::{Descent, Given, Trace, strict};
pub(crate) use sweep::sweep;

use crate::layer::{Gradients, Input, Layers};
use crate::output::Output;
use crate::plan::{Link, Plan};
use crate::state::{Scratch, Tile, Values};
use crate::wave::Front;

/// A tile in the hands of a method.
pub(crate) struct Relaxation<'a> {
    pub(crate) layers: Layers<'a>,
    pub(crate) output: Output,
    pub(crate) tile: &'a mut Tile,
    pub(crate) scratch: &'a mut Scratch,
}

impl Relaxation<'_> {
    /// Number of layers L.
    fn len(&self) -> usize {
        self.layers.plan.layers.len()
    }

    /// The place of a layer's output (index from 0) in activations, deviations and errors.
    fn place(&self, layer: usize) -> Range<usize> {
        self.layers.plan.layers[layer].output.clone()
    }

    /// What a layer's error (index from 0) is weighted by.
    fn precision(&self, layer: usize) -> f64 {
        self.layers.plan.layers[layer].precision
    }

    /// epsilon_L and the loss at v-hat_L, with D_L set to 0.
    pub(crate) fn output_error(&mut self) {
        let place = self.place(self.len() - 1);
        let Tile { samples, activations, errors, output_difference, targets, mask, losses, .. } = &mut *self.tile;
        let (activation, error) = (&activations[place.clone()], &mut errors[place]);
        output_difference.fill(0.0);
        self.output.error(activation, output_difference, [targets, mask], *samples, error, losses);
    }

    /// Pulls the error of a layer back to the end of its last product, at v-hat.
    fn pull_to_product(&mut self, layer: usize) {
        let values = Values::new(self.layers.plan, &self.scratch.values, &self.tile.activations);
        let error = &self.tile.errors[self.place(layer)];
        self.layers.pull_to_product(layer, values, false, error, &mut self.scratch.work);
    }

    /// The gradients of a layer's parameters, from inputs at v-hat and an error that has been pulled back
    /// to the end of its last product.
    fn gradient_at_activations(&mut self, layer: usize, gradients: &mut Gradients<'_, '_>) {
        let values = Values::new(self.layers.plan, &self.scratch.values, &self.tile.activations);
        let error = &self.tile.errors[self.place(layer)];
        self.layers.backward(layer, values, Input::Activation, error, &mut self.scratch.work, Some(gradients), None);
    }

    /// Whether the prediction of a layer (index from 0) may have left v-hat.
    fn is_predicted(&self, layer: usize, front: Front) -> bool {
        self.layers.plan.layers[layer].wave.is_predicted(front)
    }
}

/// Zeros for what is pulled to beliefs that several links read, or none, to be added up.
fn clear_shared(plan: &Plan, vector: &mut [f32]) {
    plan.shared.iter().for_each(|&source| vector[plan.belief(source)].fill(0.0));
}

/// What is pulled over a link replaces what is there, or is added to what other links have pulled.
fn replacing(link: &Link) -> Combine<'static> {
    Combine { beta: if link.alone { 0.0 } else { 1.0 }, ..Combine::default() }
}

/// Zeros in a vector of all beliefs at the clamped elements of a free input, where it begins.
fn clear_clamped(clamped: &[f32], vector: &mut [f32]) {
    vector.iter_mut().zip(clamped).filter(|(_, clamped)| **clamped != 0.0).for_each(|(value, _)| *value = 0.0);
}
