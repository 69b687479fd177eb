//! epsilon_l = J_{l+1}(v-hat)^T epsilon_{l+1} from epsilon_L = dLoss/dv-hat_L: backpropagation.
//! Beliefs are v_l = v-hat_l - epsilon_l.

use predictive_coding_kernels::{Combine, elementwise};

use super::Relaxation;
use crate::state::write_read;

pub(crate) fn backpropagate(mut tile: Relaxation<'_>, gradients: &mut [f32]) {
    tile.output_error();
    for layer in (1..tile.len()).rev() {
        let (below, above) = (tile.place(layer - 1), tile.place(layer));
        let (out, error) = write_read(&mut tile.tile.errors, below, above);
        tile.layers.pull(layer, error, tile.scratch, Combine::default(), out);
    }
    let hidden = tile.tile.deviations.len();
    let negated = Combine { alpha: -1.0, ..Combine::default() };
    elementwise::combine(tile.layers.plan.level, &tile.tile.errors[..hidden], negated, &mut tile.tile.deviations);
    tile.gradients_at_activations(gradients);
}
