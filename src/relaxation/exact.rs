//! epsilon_l = J_{l+1}(v-hat)^T epsilon_{l+1} from epsilon_L = dLoss/dv-hat_L: backpropagation.

use super::{Relaxation, clear_shared, replacing};
use crate::layer::{Gradients, Input, Towards};
use crate::state::Values;

pub(crate) fn backpropagate(mut tile: Relaxation<'_>, gradients: &mut Gradients<'_, '_>) {
    clear_shared(tile.layers.plan, &mut tile.tile.errors);
    for layer in (0..tile.len()).rev() {
        tile.pull_to_product(layer);
        let above = tile.place(layer);
        let Relaxation { layers, tile, scratch, .. } = &mut tile;
        let values = Values::new(layers.plan, &scratch.values, &tile.activations);
        let (beliefs, errors) = tile.errors.split_at_mut(above.start);
        let towards = Some(Towards { beliefs, combine: &replacing });
        let error = &errors[..above.len()];
        layers.backward(layer, values, Input::Activation, error, &mut scratch.work, Some(gradients), towards);
    }
}
