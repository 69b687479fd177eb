//! Algorithm 2, in errors alone: with e_l = p_l epsilon_l for the layers' precisions p_l and predictions fixed at
//! v-hat, v_l += eta (e_l - J^T e_{l+1}) is
//!
//! ```text
//! e_l <- (1 - eta p_l) e_l + eta p_l J_{l+1}(v-hat_l)^T e_{l+1}      all l < L at once
//! ```
//!
//! from e_l = 0, n - 1 times; one more such step gives v = v-hat - epsilon. The Jacobians are
//! constant and so is epsilon_L, so that e_l stays a multiple of backpropagation's delta_l at all
//! times, and the multiples follow a recursion of their own ([`shares`](super::shares)). The iteration itself
//! is here for those who want to see it done.

use predictive_coding_kernels::Combine;

use super::Relaxation;
use crate::layer::{Gradients, Input};
use crate::method::{FixedPrediction, first_pulled};
use crate::options::Options;
use crate::plan::LayerPlan;
use crate::state::{Tile, Values, write_read};

pub(crate) fn fixed_prediction(
    mut tile: Relaxation<'_>,
    method: &FixedPrediction,
    options: &Options,
    gradients: &mut Gradients<'_>,
) {
    let (eta, iterations) = (method.eta.largest(), method.iterations);
    let last = tile.len() - 1;
    let hidden = tile.place(last).start;
    tile.tile.errors[..hidden].fill(0.0);
    tile.tile.deviations.fill(0.0);
    tile.pull_to_product(last);
    for iteration in 1..iterations {
        if options.stopped() {
            return;
        }
        // Upwards, so that each layer still finds the one above as it was.
        for layer in first_pulled(last + 1, iteration)..=last {
            let (below, above) = (tile.place(layer - 1), tile.place(layer));
            let Relaxation { layers, tile: state, scratch, .. } = &mut tile;
            let values = Values::new(layers.plan, &scratch.values, &state.activations);
            let (out, error) = write_read(&mut state.errors, below, above);
            let LayerPlan { precision, rate, .. } = layers.plan.layers[layer - 1];
            let rate = eta * rate * precision;
            let combine = Combine { alpha: rate as f32, beta: (1.0 - rate) as f32, ..Combine::default() };
            layers.backward(layer, values, Input::Activation, error, &mut scratch.work, None, Some((combine, out)));
            if layer > 1 {
                tile.pull_to_product(layer - 1);
            }
        }
    }
    for layer in first_pulled(last + 1, iterations)..=last {
        let (below, above) = (tile.place(layer - 1), tile.place(layer));
        let Relaxation { layers, tile: Tile { activations, deviations, errors, .. }, scratch, .. } = &mut tile;
        let values = Values::new(layers.plan, &scratch.values, activations);
        let LayerPlan { precision, rate, .. } = layers.plan.layers[layer - 1];
        let eta = eta * rate;
        let kept = (1.0 - eta * precision) / precision;
        let other = &errors[below.clone()];
        let combine = Combine { alpha: -eta as f32, gamma: -kept as f32, other, ..Combine::default() };
        let out = Some((combine, &mut deviations[below]));
        layers.backward(layer, values, Input::Activation, &errors[above], &mut scratch.work, None, out);
    }
    tile.pull_to_product(0);
    for layer in 0..=last {
        tile.gradient_at_activations(layer, gradients);
    }
}
