//! Algorithm 2, in errors alone: with predictions fixed at v-hat, v_l += eta (epsilon_l - J^T epsilon_{l+1})
//! is
//!
//! ```text
//! epsilon_l <- (1 - eta) epsilon_l + eta J_{l+1}(v-hat_l)^T epsilon_{l+1}      all l < L at once
//! ```
//!
//! from epsilon_l = 0, n - 1 times; one more such step gives v = v-hat - epsilon. The Jacobians are
//! constant and so is epsilon_L, so that epsilon_l stays a multiple of backpropagation's delta_l at all
//! times, and the multiples follow a recursion of their own ([`shares`](super::shares)). The iteration itself
//! is here for those who want to see it done.

use predictive_coding_kernels::Combine;

use super::Relaxation;
use crate::layer::{Gradients, Input};
use crate::method::first_pulled;
use crate::state::{Tile, Values, write_read};

pub(crate) fn fixed_prediction(mut tile: Relaxation<'_>, eta: f64, iterations: usize, gradients: &mut Gradients<'_>) {
    let last = tile.len() - 1;
    let hidden = tile.place(last).start;
    tile.tile.errors[..hidden].fill(0.0);
    tile.tile.deviations.fill(0.0);
    tile.output_error();
    tile.pull_to_product(last);
    let (eta, kept) = (eta as f32, (1.0 - eta) as f32);
    for iteration in 1..iterations {
        // Upwards, so that each layer still finds the one above as it was.
        for layer in first_pulled(last + 1, iteration)..=last {
            let (below, above) = (tile.place(layer - 1), tile.place(layer));
            let Relaxation { layers, tile: state, scratch, .. } = &mut tile;
            let values = Values::new(layers.plan, &scratch.values, &state.activations);
            let (out, error) = write_read(&mut state.errors, below, above);
            let combine = Combine { alpha: eta, beta: kept, ..Combine::default() };
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
        let combine = Combine { alpha: -eta, gamma: -kept, other: &errors[below.clone()], ..Combine::default() };
        let out = Some((combine, &mut deviations[below]));
        layers.backward(layer, values, Input::Activation, &errors[above], &mut scratch.work, None, out);
    }
    tile.pull_to_product(0);
    for layer in 0..=last {
        tile.gradient_at_activations(layer, gradients);
    }
}
