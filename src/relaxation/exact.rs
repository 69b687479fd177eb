//! epsilon_l = J_{l+1}(v-hat)^T epsilon_{l+1} from epsilon_L = dLoss/dv-hat_L: backpropagation.

use predictive_coding_kernels::Combine;

use super::Relaxation;
use crate::layer::{Gradients, Input};
use crate::state::{Values, write_read};

pub(crate) fn backpropagate(mut tile: Relaxation<'_>, gradients: &mut Gradients<'_>) {
    for layer in (1..tile.len()).rev() {
        tile.pull_to_product(layer);
        let (below, above) = (tile.place(layer - 1), tile.place(layer));
        let Relaxation { layers, tile, scratch, .. } = &mut tile;
        let values = Values::new(layers.plan, &scratch.values, &tile.activations);
        let (out, error) = write_read(&mut tile.errors, below, above);
        let out = Some((Combine::default(), out));
        layers.backward(layer, values, Input::Activation, error, &mut scratch.work, Some(gradients), out);
    }
    tile.pull_to_product(0);
    tile.gradient_at_activations(0, gradients);
}
