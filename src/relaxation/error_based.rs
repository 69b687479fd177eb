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

use super::strict::{Descent, Evaluated, weighted};
use super::{Relaxation, Variables, clear_shared, replacing};
use crate::layer::{Gradients, Input, Towards};
use crate::method::{ErrorBased, Eta};
use crate::options::Options;
use crate::plan::{LayerPlan, Link};
use crate::state::{Descending, Scratch, Tile, Values};
use crate::wave::Front;

/// `open`: where the estimate of lambda_max starts, if there is one.
pub(crate) fn error_based(
    mut tile: Relaxation<'_>,
    method: &ErrorBased,
    options: &Options,
    open: Option<&[f32]>,
    descent: &mut Descent,
    gradients: &mut Gradients<'_, '_>,
) {
    let ErrorBased { ref eta, iterations, on_divergence, .. } = *method;
    let samples = tile.tile.samples;
    descent.begin(&tile.output, false);
    let given = eta.given().map(Eta::largest);
    let adapts = given.is_none() && open.is_some();
    let eta = given.unwrap_or(1.0);
    tile.tile.steps.samples.fill(Descending { eta, iterations, ..Descending::default() });
    if let Some(open) = open {
        tile.choose_steps(Variables::Errors, open);
        if !adapts {
            tile.tile.steps.samples.iter_mut().for_each(|lane| lane.eta = eta);
        }
    }
    let Tile { steps, errors, deviations, .. } = &mut *tile.tile;
    steps.eta.iter_mut().zip(&steps.samples).for_each(|(eta, lane)| *eta = lane.eta as f32);
    errors.fill(0.0);
    deviations.fill(0.0);
    tile.output_error();
    for iteration in 1..=iterations {
        if options.stopped() {
            break;
        }
        let at = match iteration {
            1 => {
                descent.losses().copy_from_slice(&tile.tile.losses);
                tile.energy(Front::Beliefs, descent);
                Input::Activation
            }
            _ => {
                tile.push_errors(descent);
                Input::Pushed
            }
        };
        descent.check(iteration, samples, adapts.then_some(&mut tile.tile.steps));
        tile.trace_errors(at, iteration, descent);
        tile.update_errors(at);
        tile.begin_anew(&descent.back);
    }
    tile.push_errors(descent);
    descent.end(samples);
    if adapts && descent.back.contains(&true) {
        // There is no other iteration to begin anew with.
        tile.begin_anew(&descent.back);
        tile.push_errors(descent);
        descent.end(samples);
    }
    tile.unpredicted_errors(Front::Beliefs);
    tile.mark_diverged(descent);
    let evaluated = if tile.leave_out(on_divergence) { Evaluated::Before } else { Evaluated::Pushed };
    tile.gradients_at_beliefs(Front::Beliefs, evaluated, gradients);
}

impl Relaxation<'_> {
    /// A step of all errors. Those of layers that read no belief are minus their deviations times their precisions, and step
    /// as these. The deviations of the others, which the next push makes anew, hold delta until then.
    fn update_errors(&mut self, at: Input<'_>) {
        let plan = self.layers.plan;
        let (mut deviations, eta) =
            (std::mem::take(&mut self.tile.deviations), std::mem::take(&mut self.tile.steps.eta));
        let step = |alpha: f64| Combine { step: Some(&eta), ..weighted(alpha) };
        let errors = &mut self.tile.errors;
        for &source in &plan.shared {
            let (u, (precision, rate)) = (&mut deviations[plan.belief(source)], plan.pace(source));
            if plan.is_predicted(source, Front::Beliefs) {
                u.fill(0.0);
            } else {
                let error = &mut errors[plan.belief(source)];
                elementwise::combine(plan.level, u, weighted(-precision), error);
                plan.combine(error, step(rate), u);
            }
        }
        let combine = |link: &Link| {
            let (precision, rate) = plan.pace(link.source);
            match plan.is_predicted(link.source, Front::Beliefs) {
                true => replacing(link),
                false if link.alone => Combine { beta: -(rate * precision) as f32, ..step(-rate) },
                false => step(-rate),
            }
        };
        self.pull_deltas(at, &mut deviations, &combine);
        for LayerPlan { precision, rate, output, wave, .. } in &plan.layers[..plan.layers.len() - 1] {
            if wave.is_predicted(Front::Beliefs) {
                let rate = rate * precision;
                let combine = Combine { beta: -rate as f32, ..step(rate) };
                plan.combine(&deviations[output.clone()], combine, &mut self.tile.errors[output.clone()]);
            }
        }
        (self.tile.deviations, self.tile.steps.eta) = (deviations, eta);
    }

    /// Takes the marked samples back to v-hat.
    fn begin_anew(&mut self, marked: &[bool]) {
        let (plan, Tile { errors, deviations, .. }) = (self.layers.plan, &mut *self.tile);
        for vector in [&mut errors[..deviations.len()], deviations] {
            plan.clear_samples(marked.iter().copied(), vector);
        }
    }

    /// The deviations of the layers that read no belief, from their errors.
    pub(super) fn unpredicted_deviations(&mut self) {
        let plan = self.layers.plan;
        let Tile { deviations, errors, .. } = &mut *self.tile;
        let hidden = &plan.layers[..plan.layers.len() - 1];
        for LayerPlan { output, precision, .. } in
            hidden.iter().filter(|layer| !layer.wave.is_predicted(Front::Beliefs))
        {
            let (error, u) = (&errors[output.clone()], &mut deviations[output.clone()]);
            elementwise::combine(plan.level, error, weighted(-1.0 / precision), u);
        }
    }

    /// The deviations of the layers that read beliefs, from the errors and from the other deviations, and the difference of
    /// the output.
    pub(super) fn push_beliefs(&mut self) {
        let plan = self.layers.plan;
        let Tile { activations, deviations, errors, output_difference, .. } = &mut *self.tile;
        let Scratch { values, work } = &mut *self.scratch;
        let values = Values::new(plan, values, activations);
        let last = plan.layers.len() - 1;
        for (layer, LayerPlan { output, precision, wave, .. }) in plan.layers.iter().enumerate() {
            if !wave.is_predicted(Front::Beliefs) {
                continue;
            }
            if layer == last {
                self.layers.push(layer, values, deviations, work, output_difference);
                continue;
            }
            let (u, out) = deviations.split_at_mut(output.start);
            let out = &mut out[..output.len()];
            self.layers.push(layer, values, u, work, out);
            let minus = Combine { beta: 1.0, ..weighted(-1.0 / precision) };
            elementwise::combine(plan.level, &errors[output.clone()], minus, out);
        }
    }

    /// The beliefs that the errors stand for, the error of the output, and the energies.
    pub(super) fn push_errors(&mut self, descent: &mut Descent) {
        self.push_beliefs();
        let last = self.place(self.len() - 1);
        let Tile { samples, activations, errors, output_difference, targets, mask, .. } = &mut *self.tile;
        let (activation, error) = (&activations[last.clone()], &mut errors[last]);
        self.output.error(activation, output_difference, [targets, mask], *samples, error, descent.losses());
        self.energy(Front::Beliefs, descent);
    }

    /// Combines delta, pulled back from the error of the output, with what is at the hidden layers.
    pub(super) fn pull_deltas<'c>(
        &mut self,
        at: Input<'_>,
        deltas: &mut [f32],
        combine: &'c dyn Fn(&Link) -> Combine<'c>,
    ) {
        let plan = self.layers.plan;
        let last = self.len() - 1;
        let Tile { activations, errors, .. } = &*self.tile;
        let Scratch { values, work } = &mut *self.scratch;
        let values = Values::new(plan, values, activations);
        for (layer, LayerPlan { output, wave, .. }) in plan.layers.iter().enumerate().rev() {
            if wave.is_predicted(Front::Beliefs) {
                let (beliefs, delta) = deltas.split_at_mut(output.start);
                let delta = if layer == last { &errors[output.clone()] } else { &delta[..output.len()] };
                self.layers.pull_to_product(layer, values, matches!(at, Input::Pushed), delta, work);
                let towards = Some(Towards { beliefs, combine });
                self.layers.backward(layer, values, at, delta, work, None, towards);
            }
        }
    }

    /// r = delta - p epsilon of the hidden layers.
    pub(super) fn pull_errors(&mut self, at: Input<'_>, residuals: &mut [f32]) {
        clear_shared(self.layers.plan, residuals);
        self.pull_deltas(at, residuals, &replacing);
        let minus = Combine { alpha: -1.0, beta: 1.0, ..Combine::default() };
        elementwise::combine(self.layers.plan.level, &self.tile.errors[..residuals.len()], minus, residuals);
    }

    /// Records how steep the energy is by the errors, if the descent is traced.
    fn trace_errors(&mut self, at: Input<'_>, iteration: usize, descent: &mut Descent) {
        if !descent.is_traced() {
            return;
        }
        let mut residuals = std::mem::take(&mut self.scratch.work.traced);
        self.unpredicted_errors(Front::Beliefs);
        self.pull_errors(at, &mut residuals);
        descent.record_gradient(self.layers.plan, iteration, self.tile.samples, &residuals);
        self.scratch.work.traced = residuals;
    }
}
