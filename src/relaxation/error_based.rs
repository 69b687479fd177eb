//! The errors of the hidden layers as the variables (arXiv 2505.20137). With v_l = f_l(v_{l-1}) - epsilon_l and the
//! precisions p_l,
//!
//! ```text
//! p_l epsilon_l += eta p_l (delta_l - p_l epsilon_l),    delta_L = dLoss/dy,    delta_l = J_{l+1}(v_l)^T delta_{l+1}
//! ```
//!
//! for all l < L at once, from epsilon = 0: gradient descent on the energy that sweeps go down as well, by steps of a
//! given size. An error passes all layers in every iteration.

use predictive_coding_kernels::{Combine, elementwise};

use super::strict::{Descent, weighted};
use super::{Relaxation, clear_shared, replacing};
use crate::layer::{Gradients, Input, Towards};
use crate::method::ErrorBased;
use crate::options::Options;
use crate::plan::LayerPlan;
use crate::state::{Descending, Scratch, Tile, Values};
use crate::wave::Front;

pub(crate) fn error_based(
    mut tile: Relaxation<'_>,
    method: &ErrorBased,
    options: &Options,
    descent: &mut Descent,
    gradients: &mut Gradients<'_>,
) {
    let ErrorBased { ref eta, iterations, on_divergence } = *method;
    let plan = tile.layers.plan;
    descent.begin(&tile.output, false);
    let eta = eta.largest();
    tile.tile.steps.samples.fill(Descending { eta, iterations, ..Descending::default() });
    tile.tile.errors.fill(0.0);
    let mut direction = std::mem::take(&mut tile.scratch.work.moments.direction);
    for iteration in 1..=iterations {
        if options.stopped() {
            break;
        }
        tile.push_errors(iteration, descent);
        tile.pull_errors(&mut direction);
        for LayerPlan { precision, rate, output, .. } in &plan.layers[..plan.layers.len() - 1] {
            let step = Combine { alpha: (eta * rate * precision) as f32, beta: 1.0, ..Combine::default() };
            elementwise::combine(plan.level, &direction[output.clone()], step, &mut tile.tile.errors[output.clone()]);
        }
    }
    tile.scratch.work.moments.direction = direction;
    tile.push_errors(0, descent);
    tile.mark_diverged(descent);
    tile.leave_out(on_divergence);
    tile.gradients_at_beliefs(gradients);
}

impl Relaxation<'_> {
    /// The beliefs that the errors stand for, the error of the output, and the energies: those of an iteration
    /// (from 1), or with 0 those at the end.
    pub(super) fn push_errors(&mut self, iteration: usize, descent: &mut Descent) {
        let plan = self.layers.plan;
        let last = self.len() - 1;
        let place = |layer: usize| plan.layers[layer].output.clone();
        let Tile { samples, activations, deviations, errors, output_difference, targets, mask, .. } = &mut *self.tile;
        let Scratch { values, work } = &mut *self.scratch;
        let values = Values::new(plan, values, activations);
        for layer in 0..last {
            let (u, out) = deviations.split_at_mut(place(layer).start);
            let out = &mut out[..place(layer).len()];
            let predicted = plan.layers[layer].wave.is_predicted(Front::Beliefs);
            if predicted {
                self.layers.push(layer, values, u, work, out);
            }
            let minus = weighted(-1.0 / plan.layers[layer].precision);
            let minus = Combine { beta: if predicted { 1.0 } else { 0.0 }, ..minus };
            elementwise::combine(plan.level, &errors[place(layer)], minus, out);
        }
        if plan.layers[last].wave.is_predicted(Front::Beliefs) {
            self.layers.push(last, values, deviations, work, output_difference);
        }
        let (activation, error) = (&activations[place(last)], &mut errors[place(last)]);
        self.output.error(activation, output_difference, [targets, mask], *samples, error, descent.losses());
        let samples = *samples;
        self.energy(Front::Parameters, descent);
        match iteration {
            0 => descent.end(samples),
            _ => descent.check(iteration, samples, None),
        }
    }

    /// r = delta - p epsilon of the hidden layers, the Jacobians taken where the layers were last pushed.
    pub(super) fn pull_errors(&mut self, residuals: &mut [f32]) {
        let plan = self.layers.plan;
        let last = self.len() - 1;
        let Tile { activations, errors, .. } = &*self.tile;
        let Scratch { values, work } = &mut *self.scratch;
        let values = Values::new(plan, values, activations);
        clear_shared(plan, residuals);
        for (layer, LayerPlan { output, wave, .. }) in plan.layers.iter().enumerate().rev() {
            if wave.is_predicted(Front::Beliefs) {
                let (beliefs, delta) = residuals.split_at_mut(output.start);
                let delta = if layer == last { &errors[output.clone()] } else { &delta[..output.len()] };
                self.layers.pull_to_product(layer, values, true, delta, work);
                let towards = Some(Towards { beliefs, combine: &replacing });
                self.layers.backward(layer, values, Input::Pushed, delta, work, None, towards);
            }
        }
        let minus = Combine { alpha: -1.0, beta: 1.0, ..Combine::default() };
        elementwise::combine(plan.level, &errors[..residuals.len()], minus, residuals);
    }
}
