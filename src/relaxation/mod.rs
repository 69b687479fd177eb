//! From the forward pass of a tile to its errors and beliefs, by each method.
//!
//! The state is the deviation u_l = v_l - v-hat_l and the error epsilon_l, both computed in
//! differences: written in beliefs, as in the paper, epsilon is a difference of nearly equal
//! numbers, and in f32 the gradient of the lower layers is rounding noise.

mod exact;
mod fixed_prediction;
mod strict;

use std::ops::Range;

pub(crate) use exact::backpropagate;
pub(crate) use fixed_prediction::fixed_prediction;
pub(crate) use strict::{Descent, strict};

use crate::layer::Layers;
use crate::output::Output;
use crate::state::{Scratch, Tile};

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

    /// The place of a layer's output (index from 0) in deviations and errors.
    fn place(&self, layer: usize) -> Range<usize> {
        self.layers.plan.layers[layer].output.clone()
    }

    /// epsilon_L and the loss at v-hat_L, with D_L set to 0.
    pub(crate) fn output_error(&mut self) {
        let last = self.len() - 1;
        let (place, activation) = (self.place(last), self.layers.plan.activation(last));
        let Tile { samples, values, errors, output_difference, targets, losses, .. } = &mut *self.tile;
        output_difference.fill(0.0);
        self.output.error(&values[activation], output_difference, targets, *samples, &mut errors[place], losses);
    }

    /// The gradients of all parameters, from inputs at v-hat.
    pub(crate) fn gradients_at_activations(&mut self, gradients: &mut [f32]) {
        for layer in 0..self.len() {
            let error = &self.tile.errors[self.place(layer)];
            self.layers.gradient(layer, &self.tile.values, None, error, self.scratch, gradients);
        }
    }

    /// The gradients of all parameters, from inputs at the beliefs.
    pub(crate) fn gradients_at_beliefs(&mut self, gradients: &mut [f32]) {
        for layer in 0..self.len() {
            let error = &self.tile.errors[self.place(layer)];
            let deviation = match layer {
                0 => None,
                _ => Some(&self.tile.deviations[self.place(layer - 1)]),
            };
            if let Some(deviation) = deviation {
                self.layers.renew(layer, &self.tile.values, deviation, self.scratch);
            }
            self.layers.gradient(layer, &self.tile.values, deviation, error, self.scratch, gradients);
        }
    }
}
