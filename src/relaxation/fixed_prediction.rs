//! The literal iteration of Algorithm 2, in errors alone: with predictions fixed at v-hat,
//! v_l += eta (epsilon_l - J^T epsilon_{l+1}) is
//!
//! ```text
//! epsilon_l <- (1 - eta) epsilon_l + eta J_{l+1}(v-hat_l)^T epsilon_{l+1}      all l < L at once
//! ```
//!
//! from epsilon_l = 0, n - 1 times; one more such step gives v = v-hat - epsilon.

use predictive_coding_kernels::Combine;

use super::Relaxation;
use crate::method::first_pulled;
use crate::state::write_read;

pub(crate) fn fixed_prediction(mut tile: Relaxation<'_>, eta: f64, iterations: usize, gradients: &mut [f32]) {
    let last = tile.len() - 1;
    let hidden = tile.place(last).start;
    tile.tile.errors[..hidden].fill(0.0);
    tile.tile.deviations.fill(0.0);
    tile.output_error();
    let (eta, kept) = (eta as f32, (1.0 - eta) as f32);
    for iteration in 1..iterations {
        // Upwards, so that each layer still finds the one above as it was.
        for layer in first_pulled(last + 1, iteration)..=last {
            let (below, above) = (tile.place(layer - 1), tile.place(layer));
            let (out, error) = write_read(&mut tile.tile.errors, below, above);
            let combine = Combine { alpha: eta, beta: kept, ..Combine::default() };
            tile.layers.pull(layer, error, tile.scratch, combine, out);
        }
    }
    for layer in first_pulled(last + 1, iterations)..=last {
        let (below, above) = (tile.place(layer - 1), tile.place(layer));
        let errors = &tile.tile.errors;
        let combine = Combine { alpha: -eta, gamma: -kept, other: &errors[below.clone()], ..Combine::default() };
        let out = &mut tile.tile.deviations[below];
        tile.layers.pull(layer, &errors[above], tile.scratch, combine, out);
    }
    tile.gradients_at_activations(gradients);
}
