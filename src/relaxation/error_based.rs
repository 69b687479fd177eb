//! The errors of the hidden layers as the variables (arXiv 2505.20137). With v_l = f_l(v_{l-1}) - epsilon_l and the
//! precisions p_l,
//!
//! ```text
//! p_l epsilon_l += eta p_l (delta_l - p_l epsilon_l),    delta_L = dLoss/dy,    delta_l = J_{l+1}(v_l)^T delta_{l+1}
//! ```
//!
//! for all l < L at once, from epsilon = 0: gradient descent on the energy that sweeps go down as well. An error passes all
//! layers in every iteration. Steps have a given size, or that which is stable by the energy's curvature.

use predictive_coding_kernels::{Combine, elementwise};

use super::strict::{Descent, clear_lanes, weighted};
use super::{Relaxation, Variables, clear_shared, replacing};
use crate::layer::{Gradients, Input, Towards};
use crate::method::{ErrorBased, Eta};
use crate::options::Options;
use crate::plan::LayerPlan;
use crate::state::{Descending, Scratch, Tile, Values};
use crate::wave::Front;

/// `open`: where the estimate of the largest stable eta starts, if it is chosen by that.
pub(crate) fn error_based(
    mut tile: Relaxation<'_>,
    method: &ErrorBased,
    options: &Options,
    open: Option<&[f32]>,
    descent: &mut Descent,
    gradients: &mut Gradients<'_, '_>,
) {
    let ErrorBased { ref eta, iterations, on_divergence } = *method;
    let plan = tile.layers.plan;
    let samples = tile.tile.samples;
    descent.begin(&tile.output, false);
    let eta = eta.given().map_or(1.0, Eta::largest);
    tile.tile.steps.samples.fill(Descending { eta, iterations, ..Descending::default() });
    if let Some(open) = open {
        tile.choose_steps(Variables::Errors, open);
    }
    let Tile { steps, errors, .. } = &mut *tile.tile;
    steps.eta.iter_mut().zip(&steps.samples).for_each(|(eta, lane)| *eta = lane.eta as f32);
    errors.fill(0.0);
    let mut deltas = std::mem::take(&mut tile.scratch.work.moments.direction);
    for iteration in 1..=iterations {
        if options.stopped() {
            break;
        }
        tile.push_errors(descent);
        descent.check(iteration, samples, open.and(Some(&mut tile.tile.steps)));
        tile.pull_deltas(&mut deltas);
        tile.trace_errors(iteration, &deltas, descent);
        let Tile { steps, errors, .. } = &mut *tile.tile;
        for LayerPlan { precision, rate, output, .. } in &plan.layers[..plan.layers.len() - 1] {
            let rate = (rate * precision) as f32;
            let step = Combine { alpha: rate, beta: -rate, step: Some(&steps.eta), ..Combine::default() };
            elementwise::combine(plan.level, &deltas[output.clone()], step, &mut errors[output.clone()]);
        }
        clear_lanes(&descent.back, &mut errors[..plan.hidden_len()]);
    }
    tile.scratch.work.moments.direction = deltas;
    tile.push_errors(descent);
    descent.end(samples);
    if open.is_some() && descent.back.contains(&true) {
        // There is no other iteration to begin anew with.
        clear_lanes(&descent.back, &mut tile.tile.errors[..plan.hidden_len()]);
        tile.push_errors(descent);
        descent.end(samples);
    }
    tile.mark_diverged(descent);
    tile.leave_out(on_divergence);
    tile.gradients_at_beliefs(gradients);
}

impl Relaxation<'_> {
    /// The beliefs that the errors stand for, and the difference of the output.
    pub(super) fn push_beliefs(&mut self) {
        let plan = self.layers.plan;
        let last = self.len() - 1;
        let place = |layer: usize| plan.layers[layer].output.clone();
        let Tile { activations, deviations, errors, output_difference, .. } = &mut *self.tile;
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
    }

    /// The beliefs that the errors stand for, the error of the output, and the energies.
    pub(super) fn push_errors(&mut self, descent: &mut Descent) {
        self.push_beliefs();
        let last = self.place(self.len() - 1);
        let Tile { samples, activations, errors, output_difference, targets, mask, .. } = &mut *self.tile;
        let (activation, error) = (&activations[last.clone()], &mut errors[last]);
        self.output.error(activation, output_difference, [targets, mask], *samples, error, descent.losses());
        self.energy(Front::Parameters, descent);
    }

    /// delta of the hidden layers from the error of the output, the Jacobians taken where the layers were last pushed.
    pub(super) fn pull_deltas(&mut self, deltas: &mut [f32]) {
        let plan = self.layers.plan;
        let last = self.len() - 1;
        let Tile { activations, errors, .. } = &*self.tile;
        let Scratch { values, work } = &mut *self.scratch;
        let values = Values::new(plan, values, activations);
        clear_shared(plan, deltas);
        for (layer, LayerPlan { output, wave, .. }) in plan.layers.iter().enumerate().rev() {
            if wave.is_predicted(Front::Beliefs) {
                let (beliefs, delta) = deltas.split_at_mut(output.start);
                let delta = if layer == last { &errors[output.clone()] } else { &delta[..output.len()] };
                self.layers.pull_to_product(layer, values, true, delta, work);
                let towards = Some(Towards { beliefs, combine: &replacing });
                self.layers.backward(layer, values, Input::Pushed, delta, work, None, towards);
            }
        }
    }

    /// r = delta - p epsilon of the hidden layers.
    pub(super) fn pull_errors(&mut self, residuals: &mut [f32]) {
        self.pull_deltas(residuals);
        self.subtract_errors(residuals);
    }

    fn subtract_errors(&self, deltas: &mut [f32]) {
        let minus = Combine { alpha: -1.0, beta: 1.0, ..Combine::default() };
        elementwise::combine(self.layers.plan.level, &self.tile.errors[..deltas.len()], minus, deltas);
    }

    /// Records how steep the energy is by the errors, if the descent is traced.
    fn trace_errors(&mut self, iteration: usize, deltas: &[f32], descent: &mut Descent) {
        if !descent.is_traced() {
            return;
        }
        let mut residuals = std::mem::take(&mut self.scratch.work.traced);
        residuals.copy_from_slice(deltas);
        self.subtract_errors(&mut residuals);
        descent.record_gradient(self.layers.plan.level, iteration, self.tile.samples, &residuals);
        self.scratch.work.traced = residuals;
    }
}
