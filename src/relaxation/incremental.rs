//! Parameters that step in every iteration (Salvatori et al., arXiv 2212.00720). The forward pass v-hat is that of the
//! first parameters W_0. With the change V = W_t - W_0, which is summed from the optimiser's steps,
//!
//! ```text
//! D_l = f_l(v_{l-1}; W_t) - v-hat_l:    W_t d + V z  through a product whose input is z + d,  z that of the forward pass
//! epsilon_l = D_l - u_l,    epsilon_L = dLoss/dy at y = v-hat_L + D_L
//! gradients    p_l epsilon_l . df_l/dtheta_l  at v_{l-1}, for the optimiser's step after this iteration
//! u_l += eta (p_l epsilon_l - J_{l+1}(v_l; W_t)^T p_{l+1} epsilon_{l+1})               all l < L at once
//! ```
//!
//! so that nothing is subtracted from nearly the same: D and V are small from the start.

use super::Relaxation;
use super::strict::{Descent, Evaluated};
use crate::layer::Gradients;
use crate::method::Incremental;
use crate::state::{Descending, Tile};
use crate::wave::Front;

/// An iteration, from 1.
pub(crate) fn increment(
    mut tile: Relaxation<'_>,
    method: &Incremental,
    iteration: usize,
    descent: &mut Descent,
    gradients: &mut Gradients<'_, '_>,
) {
    let Incremental { ref eta, iterations } = *method;
    let layers = tile.len();
    let front = if iteration == 1 { Front::At(1) } else { Front::Parameters };
    // The energy of a sample may rise as parameters step down that of the batch.
    descent.begin(&tile.output, true);
    if iteration == 1 {
        let Tile { steps, deviations, .. } = &mut *tile.tile;
        steps.samples.fill(Descending { eta: eta.largest(), iterations, ..Descending::default() });
        steps.eta.fill(eta.largest() as f32);
        deviations.fill(0.0);
        tile.unpredicted_errors(front);
        descent.losses().copy_from_slice(&tile.tile.losses);
        (0..layers).for_each(|layer| tile.pull_to_product(layer));
    } else {
        tile.unpredicted_errors(front);
        tile.predict(front, descent.losses());
    }
    tile.energy(front, descent);
    descent.check(iteration, tile.tile.samples, None);
    tile.gradients_at_beliefs(front, Evaluated::Pulled, gradients);
    tile.trace(iteration, front, descent);
    tile.update(front);
    tile.mark_diverged(descent);
}
