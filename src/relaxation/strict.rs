//! Algorithm 1, in differences. With D_l = f_l(v_{l-1}) - v-hat_l,
//!
//! ```text
//! epsilon_l = D_l - u_l,    epsilon_L = dLoss/dy at y = v-hat_L + D_L
//! u_l += eta (p_l epsilon_l - J_{l+1}(v_l)^T p_{l+1} epsilon_{l+1})            all l < L at once
//! ```
//!
//! with the layers' precisions p_l, 1 at the output.
//!
//! D_1 = 0, since v_0 is clamped. Unless the caller gave beliefs to start from, u is 0 at first and
//! departs from it one layer per iteration, from the top: what is known to be 0 is not computed.

use predictive_coding_kernels::{Combine, elementwise, reduce};

use super::Relaxation;
use crate::error::Divergence;
use crate::layer::{Gradients, Input};
use crate::method::{Eta, OnDivergence, Solver, Strict};
use crate::options::Options;
use crate::output::Output;
use crate::plan::{LayerPlan, Plan};
use crate::relaxation::curvature::{Variables, largest_step};
use crate::state::{Descending, Scratch, Steps, Tile, Values};
use crate::wave::Front;

/// An energy above the one before by more than this share of it asks for a smaller step.
const RISE: f64 = 1e-6;
/// Iterations that a smaller step has before it may be made smaller again.
const PATIENCE: usize = 2;
/// No step is made smaller than this share of what it began with: on a kink energies rise with any.
const SMALLEST: f64 = 0.125;
/// A sample whose energy is above its start goes back there, and on by this share of its step.
const AFTER_RETURN: f64 = 0.25;

/// An energy above its start by more than this share of it has risen by more than rounding: a small loss of large
/// outputs, where descent has nowhere to go, was seen to creep up by 1e-5 of itself.
const ROUNDING: f64 = 1e-4;

/// The energies of a tile's samples on their way down.
#[derive(Clone)]
pub(crate) struct Descent {
    lanes: usize,
    /// The terms of each sample's energy at the first iteration, and now: `[layers][lanes]`.
    start: Vec<f64>,
    now: Vec<f64>,
    /// Unscaled loss of each lane, now.
    losses: Vec<f64>,
    /// The first iteration at which each lane was above its start, the layer to blame, and whether the
    /// energy was finite.
    diverged: Vec<Option<(usize, usize, bool)>>,
    /// Each sample's energy at the iteration before, and the iteration from which its step may be halved.
    before: Vec<(f64, usize)>,
    /// Whether each lane goes back to v-hat.
    pub(super) back: Vec<bool>,
    /// Whether energies may rise: where beliefs move up the loss, or each by about eta however steep the energy is.
    may_rise: bool,
    /// Whether energies are recorded: those of samples that relax a second time are not.
    recording: bool,
    /// Of each lane, |u_new - u|^2 and |u_new|^2.
    moved: Vec<f64>,
    reached: Vec<f64>,
    /// F_1 .. F_n summed over the tiles that were recorded, if that was asked for.
    pub(crate) energies: Vec<f64>,
    /// What else was recorded of them, if that was asked for.
    pub(crate) trace: Trace,
    /// |dF/dv|^2 of the tile.
    square: f64,
}

/// The terms of the energy, and its gradient, in each iteration.
#[derive(Clone, Default)]
pub(crate) struct Trace {
    /// `[iterations][layers]`.
    pub(crate) terms: Vec<f64>,
    /// |dF/dv|^2, by errors |dF/depsilon|^2.
    pub(crate) squares: Vec<f64>,
}

impl Trace {
    /// For so many iterations and layers.
    pub(crate) fn new(iterations: usize, layers: usize) -> Self {
        Trace { terms: vec![0.0; iterations * layers], squares: vec![0.0; iterations] }
    }

    pub(crate) fn clear(&mut self) {
        self.terms.fill(0.0);
        self.squares.fill(0.0);
    }

    pub(crate) fn add(&mut self, other: &Trace) {
        let terms = self.terms.iter_mut().zip(&other.terms);
        terms.chain(self.squares.iter_mut().zip(&other.squares)).for_each(|(sum, term)| *sum += term);
    }

    pub(crate) fn bytes(&self) -> usize {
        size_of_val(self.terms.as_slice()) + size_of_val(self.squares.as_slice())
    }
}

impl Descent {
    pub(crate) fn new(layers: usize, lanes: usize) -> Self {
        Descent {
            lanes,
            start: vec![0.0; layers * lanes],
            now: vec![0.0; layers * lanes],
            losses: vec![0.0; lanes],
            diverged: vec![None; lanes],
            before: vec![(0.0, 0); lanes],
            back: vec![false; lanes],
            may_rise: false,
            recording: true,
            moved: vec![0.0; lanes],
            reached: vec![0.0; lanes],
            energies: Vec::new(),
            trace: Trace::default(),
            square: 0.0,
        }
    }

    /// Makes ready for a relaxation, whose energies are recorded unless it is the other side of a centred nudge.
    pub(super) fn begin(&mut self, output: &Output, may_rise: bool) {
        self.may_rise = may_rise || output.ascending;
        self.diverged.fill(None);
        self.recording = !output.opposite;
    }

    /// As many elements of f32 as its numbers take.
    pub(crate) fn len(layers: usize, lanes: usize) -> usize {
        (4 * layers + 16) * lanes
    }

    pub(crate) fn bytes(&self) -> usize {
        size_of_val(self.start.as_slice()) * 2
            + size_of_val(self.losses.as_slice()) * 3
            + size_of_val(self.before.as_slice())
            + size_of_val(self.back.as_slice())
            + size_of_val(self.diverged.as_slice())
            + size_of_val(self.energies.as_slice())
            + self.trace.bytes()
    }

    /// The earliest divergence of the tile's samples, which begin at `first` in the batch.
    pub(crate) fn divergence(&self, first: usize) -> Option<Divergence> {
        let found = self.diverged.iter().enumerate().filter_map(|(lane, diverged)| {
            diverged.map(|(iteration, layer, finite)| Divergence {
                sample: first + lane,
                layer: layer + 1,
                iteration,
                finite,
            })
        });
        found.min_by_key(|divergence| (divergence.iteration, divergence.sample))
    }

    /// Takes the terms in `now` as those of an iteration (from 1). The steps that are given are made smaller
    /// where energies have risen, and `back` tells whose has risen above its start.
    pub(super) fn check(&mut self, iteration: usize, samples: usize, mut steps: Option<&mut Steps>) {
        if iteration == 1 {
            self.start.copy_from_slice(&self.now);
            self.diverged.fill(None);
            self.before.fill((f64::INFINITY, 0));
            self.back.fill(false);
        }
        let mut total = 0.0;
        for lane in 0..samples {
            let sum = |terms: &[f64]| terms.iter().skip(lane).step_by(self.lanes).sum::<f64>();
            let (start, now) = (sum(&self.start), sum(&self.now));
            total += now;
            let descends = now.is_finite() && (self.may_rise || now - start <= ROUNDING * start.abs());
            if descends && steps.is_some() {
                // A smaller step has brought it back.
                self.diverged[lane] = None;
            }
            if !descends && self.diverged[lane].is_none() {
                self.diverged[lane] = Some((iteration, self.blame(lane), now.is_finite()));
            }
            let (before, patient) = self.before[lane];
            self.before[lane].0 = now;
            self.back[lane] = false;
            if let Some(Steps { samples: lanes, eta }) = &mut steps
                && (now > before * (1.0 + RISE) || !now.is_finite())
                && (iteration >= patient || !descends)
                && let Some(lambda_max) = lanes[lane].lambda_max
            {
                self.back[lane] = !descends;
                let own = &mut lanes[lane].eta;
                *own = match descends {
                    true => (0.5 * *own).max((SMALLEST * largest_step(lambda_max)).min(*own)),
                    false => AFTER_RETURN * *own,
                };
                eta[lane] = if eta[lane] == 0.0 { 0.0 } else { *own as f32 };
                self.before[lane].1 = iteration + 1 + PATIENCE;
            }
        }
        if let Some(energy) = self.energies.get_mut(iteration - 1).filter(|_| self.recording) {
            *energy += total;
        }
        self.record_terms(iteration, samples);
    }

    fn record_terms(&mut self, iteration: usize, samples: usize) {
        if self.is_traced() {
            let terms = self.trace.terms.chunks_exact_mut(self.now.len() / self.lanes).nth(iteration - 1);
            for (term, now) in terms.into_iter().flatten().zip(self.now.chunks(self.lanes)) {
                *term += now[..samples].iter().sum::<f64>();
            }
        }
    }

    /// All samples have settled in this iteration: in those that are left out, their traces stay as they are.
    pub(super) fn settled(&mut self, iteration: usize, samples: usize) {
        for left_out in iteration + 1..=self.trace.squares.len() {
            self.record_terms(left_out, samples);
            if self.is_traced() {
                self.trace.squares[left_out - 1] += self.square;
            }
        }
    }

    /// Whether the terms of energies and their gradients are recorded.
    pub(super) fn is_traced(&self) -> bool {
        self.recording && !self.trace.squares.is_empty()
    }

    /// Takes minus the gradient of the energies in an iteration (from 1), if they are traced.
    pub(super) fn record_gradient(&mut self, plan: &Plan, iteration: usize, samples: usize, gradient: &[f32]) {
        if self.is_traced() {
            self.moved.fill(0.0);
            plan.add_squares(gradient, &mut self.moved);
            self.square = self.moved[..samples].iter().sum();
            self.trace.squares[iteration - 1] += self.square;
        }
    }

    /// Takes the terms in `now` as those at the end, without recording them: a sample that is back below its
    /// start has not diverged. `back` tells whose is above.
    pub(super) fn end(&mut self, samples: usize) {
        for lane in 0..samples {
            let now = self.now.iter().skip(lane).step_by(self.lanes).sum();
            self.before[lane].0 = now;
            let (start, _) = self.energies_of(lane);
            self.back[lane] = !(now.is_finite() && now - start <= ROUNDING * start.abs());
            if !self.back[lane] {
                self.diverged[lane] = None;
            }
        }
    }

    /// A sample's energy at the first iteration, and as it was last taken.
    pub(super) fn energies_of(&self, lane: usize) -> (f64, f64) {
        (self.start.iter().skip(lane).step_by(self.lanes).sum(), self.before[lane].0)
    }

    /// Unscaled loss of each lane, to be filled in.
    pub(super) fn losses(&mut self) -> &mut [f64] {
        &mut self.losses
    }

    /// Whether each lane has diverged.
    pub(super) fn diverged(&self) -> impl Iterator<Item = bool> {
        self.diverged.iter().map(Option::is_some)
    }

    /// The layer whose term rose most, or is the first that is not finite.
    fn blame(&self, lane: usize) -> usize {
        let (mut worst, mut layer) = (f64::NEG_INFINITY, 0);
        for (l, (now, start)) in self.now.chunks(self.lanes).zip(self.start.chunks(self.lanes)).enumerate() {
            if !now[lane].is_finite() {
                return l;
            }
            if now[lane] - start[lane] > worst {
                (worst, layer) = (now[lane] - start[lane], l);
            }
        }
        layer
    }
}

/// What a strict relaxation is given.
#[derive(Clone, Copy)]
pub(crate) struct Given<'a> {
    pub(crate) method: &'a Strict,
    pub(crate) options: &'a Options,
    /// Where an estimate of the largest stable eta starts, if there may be one.
    pub(crate) open: Option<&'a [f32]>,
    /// Whether the caller has put beliefs into the tile's deviations; else they are cleared.
    pub(crate) started: bool,
}

pub(crate) fn strict(
    mut tile: Relaxation<'_>,
    given: Given<'_>,
    descent: &mut Descent,
    gradients: &mut Gradients<'_, '_>,
) {
    let Strict { ref solver, iterations, on_divergence, .. } = *given.method;
    let open = given.open.filter(|_| tile.layers.plan.hidden_len() > 0);
    let automatic = matches!(solver, Solver::Automatic { .. });
    let eta = solver.eta().map_or(1.0, Eta::largest);
    descent.begin(&tile.output, matches!(solver, Solver::Adam(_)));
    tile.tile.steps.samples.fill(Descending { eta, iterations, ..Descending::default() });
    if let Some(open) = open.filter(|_| automatic) {
        tile.choose_steps(Variables::Beliefs, open);
        tile.output_error();
    }
    tile.descend(given, automatic, descent);
    let shrinks = on_divergence == OnDivergence::Shrink && matches!(solver, Solver::Steps(_)) && !given.started;
    if let Some(open) = open.filter(|_| shrinks && descent.diverged().any(|diverged| diverged)) {
        // The other samples relax once more to what they were.
        tile.choose_steps(Variables::Beliefs, open);
        for (sample, diverged) in tile.tile.steps.samples.iter_mut().zip(descent.diverged()) {
            *sample = match diverged {
                true => Descending { eta: sample.eta.min(eta), shrunk: true, iterations, ..*sample },
                false => Descending { eta, iterations, ..Descending::default() },
            };
        }
        tile.output_error();
        descent.recording = false;
        tile.descend(given, true, descent);
    }
    if given.method.fresh_errors {
        tile.predict(Front::Beliefs, &mut descent.losses);
        tile.unpredicted_errors(Front::Beliefs);
    }
    tile.leave_out(on_divergence);
    match tile.output.ascending {
        true => tile.gradients_of_2022(gradients),
        false => tile.gradients_at_beliefs(Front::Beliefs, Evaluated::Before, gradients),
    }
}

/// Where the layers were evaluated last.
pub(super) enum Evaluated {
    /// Where beliefs were before their last step.
    Before,
    /// At the beliefs, and what they read was kept.
    Pushed,
    /// The same, and their errors were pulled back to their products.
    Pulled,
}

impl Relaxation<'_> {
    /// All iterations from the start, by each sample's eta, which is made smaller where energies rise if it was chosen
    /// by an estimate.
    fn descend(&mut self, given: Given<'_>, adapts: bool, descent: &mut Descent) {
        let Given { method: &Strict { iterations, tolerance, .. }, started, .. } = given;
        let waves = self.layers.plan.layers.iter().map(|layer| layer.wave.wrong);
        let last_reached = waves.filter(|&wrong| wrong != usize::MAX).max().unwrap_or(1);
        self.clear_moments();
        let Tile { steps, deviations, .. } = &mut *self.tile;
        steps.eta.iter_mut().zip(&steps.samples).for_each(|(eta, lane)| *eta = lane.eta as f32);
        if !started {
            deviations.fill(0.0);
        }
        self.pull_to_product(self.len() - 1);
        for iteration in 1..=iterations {
            if given.options.stopped() {
                break;
            }
            let front = if started { Front::Beliefs } else { Front::At(iteration) };
            self.predict(front, &mut descent.losses);
            self.energy(front, descent);
            descent.check(iteration, self.tile.samples, adapts.then_some(&mut self.tile.steps));
            let returning = !started && descent.back.contains(&true);
            if returning && iteration == iterations {
                // There is no other iteration to begin anew with.
                self.go_back(descent);
                self.predict(front, &mut descent.losses);
                self.energy(front, descent);
                descent.end(self.tile.samples);
            }
            if iteration == iterations || tolerance.is_some() {
                self.unpredicted_errors(front);
            }
            if tolerance.is_some() {
                self.scratch.work.previous.copy_from_slice(&self.tile.deviations);
            }
            self.trace(iteration, front, descent);
            match self.scratch.work.moments.mean.is_empty() {
                true => self.update(front),
                false => self.update_by_moments(&given.method.solver, iteration, front),
            }
            // Until then there are layers that nothing has reached.
            if let Some(tolerance) = tolerance.filter(|_| iteration + 1 >= last_reached)
                && self.settle(iteration, tolerance, descent)
            {
                descent.settled(iteration, self.tile.samples);
                break;
            }
            if returning && iteration < iterations {
                self.go_back(descent);
            }
        }
        self.mark_diverged(descent);
    }

    pub(super) fn mark_diverged(&mut self, descent: &Descent) {
        let lanes = self.tile.steps.samples.iter_mut();
        lanes.zip(descent.diverged()).for_each(|(lane, diverged)| lane.diverged = diverged);
    }

    /// Makes samples that have diverged count for nothing in the gradients, unless they end the call; returns whether any
    /// were left out.
    pub(super) fn leave_out(&mut self, on_divergence: OnDivergence) -> bool {
        let Tile { samples, errors, deviations, steps, .. } = &mut *self.tile;
        if on_divergence == OnDivergence::Stop || !steps.samples[..*samples].iter().any(|sample| sample.diverged) {
            return false;
        }
        for vector in [errors, deviations] {
            let diverged = steps.samples[..*samples].iter().map(|sample| sample.diverged);
            self.layers.plan.clear_samples(diverged, vector);
        }
        true
    }

    /// The samples whose energy is above its start begin anew.
    fn go_back(&mut self, descent: &Descent) {
        self.layers.plan.clear_samples(descent.back.iter().copied(), &mut self.tile.deviations);
    }
}

/// So many times what is there.
pub(super) fn weighted(factor: f64) -> Combine<'static> {
    Combine { alpha: factor as f32, ..Combine::default() }
}

impl Relaxation<'_> {
    /// The errors of the layers that are predicted, or wrong and read beliefs, pulled back to their products; the loss of
    /// each lane.
    pub(super) fn predict(&mut self, front: Front, losses: &mut [f64]) {
        let plan = self.layers.plan;
        let Tile { samples, activations, deviations, errors, output_difference, targets, mask, .. } = &mut *self.tile;
        let Scratch { values, work } = &mut *self.scratch;
        let values = Values::new(plan, values, activations);
        let (last, hidden) = plan.layers.split_last().expect("a network has layers");
        for (layer, LayerPlan { output, pulled, precision, wave, .. }) in hidden.iter().enumerate() {
            let error = &mut errors[output.clone()];
            if wave.is_predicted(front) {
                self.layers.relax(layer, values, deviations, work, error);
                if front == Front::Parameters {
                    // Changed parameters make differences in lanes without a sample too.
                    plan.clear_unused(*samples, error);
                    plan.clear_unused(*samples, &mut work.pulled[pulled.clone()]);
                }
            } else if wave.is_wrong(front) && wave.is_predicted(Front::Beliefs) {
                elementwise::combine(plan.level, &deviations[output.clone()], weighted(-precision), error);
                self.layers.pull_to_product(layer, values, false, error, work);
            }
        }
        if !last.wave.is_predicted(front) {
            return losses.copy_from_slice(&self.tile.losses);
        }
        self.layers.push(hidden.len(), values, deviations, work, output_difference);
        let (activation, error) = (&activations[last.output.clone()], &mut errors[last.output.clone()]);
        self.output.error(activation, output_difference, [targets, mask], *samples, error, losses);
        self.layers.pull_to_product(hidden.len(), values, true, error, work);
    }

    /// The gradients of all parameters, from inputs at the beliefs.
    pub(super) fn gradients_at_beliefs(
        &mut self,
        front: Front,
        evaluated: Evaluated,
        gradients: &mut Gradients<'_, '_>,
    ) {
        if self.output.opposite {
            self.tile.errors.iter_mut().for_each(|error| *error = -*error);
        }
        let plan = self.layers.plan;
        let place = |layer: usize| plan.layers[layer].output.clone();
        let Tile { activations, deviations, errors, .. } = &*self.tile;
        let Scratch { values, work } = &mut *self.scratch;
        let values = Values::new(plan, values, activations);
        for layer in (0..plan.layers.len()).rev() {
            let error = &errors[place(layer)];
            let moved = plan.layers[layer].wave.is_predicted(front);
            match evaluated {
                Evaluated::Before if moved => self.layers.renew(layer, values, deviations, error, work),
                Evaluated::Before | Evaluated::Pushed => {
                    self.layers.pull_to_product(layer, values, moved, error, work);
                }
                Evaluated::Pulled => {}
            }
            let input = if moved { Input::Moved(deviations) } else { Input::Activation };
            self.layers.backward(layer, values, input, error, work, Some(&mut *gradients), None);
        }
    }

    /// The gradients of all parameters, from inputs at v-hat, with the signs of
    /// [`Published2022`](Solver::Published2022).
    fn gradients_of_2022(&mut self, gradients: &mut Gradients<'_, '_>) {
        self.tile.errors.iter_mut().for_each(|error| *error = -*error);
        for layer in (0..self.len()).rev() {
            self.pull_to_product(layer);
            self.gradient_at_activations(layer, gradients);
        }
    }

    /// epsilon = -u at the layers whose prediction is still v-hat.
    pub(super) fn unpredicted_errors(&mut self, front: Front) {
        let plan = self.layers.plan;
        let Tile { deviations, errors, .. } = &mut *self.tile;
        let hidden = &plan.layers[..plan.layers.len() - 1];
        for LayerPlan { output, precision, .. } in hidden.iter().filter(|layer| !layer.wave.is_predicted(front)) {
            let (u, error) = (&deviations[output.clone()], &mut errors[output.clone()]);
            elementwise::combine(plan.level, u, weighted(-precision), error);
        }
    }

    /// The terms of the energy: the loss, and half the squared errors of the layers below times their precisions. Those of
    /// a free input count to the first layer's.
    pub(super) fn energy(&self, front: Front, descent: &mut Descent) {
        let plan = self.layers.plan;
        let last = self.len() - 1;
        let Descent { lanes, now, losses, .. } = descent;
        now.fill(0.0);
        let add = |from: &[f32], factor: f64, terms: &mut [f64]| {
            terms.iter_mut().for_each(|term| *term /= factor);
            reduce::add_squares(plan.level, plan.layout, from, terms);
            terms.iter_mut().for_each(|term| *term *= factor);
        };
        for (layer, terms) in now.chunks_mut(*lanes).enumerate() {
            if layer == last {
                terms.iter_mut().zip(losses.iter()).for_each(|(term, loss)| *term = loss * self.output.weight());
            } else {
                let (place, precision) = (self.place(layer), self.precision(layer));
                // The errors are weighted already.
                match self.is_predicted(layer, front) {
                    true => add(&self.tile.errors[place], 0.5 / precision, terms),
                    false => add(&self.tile.deviations[place], 0.5 * precision, terms),
                }
            }
        }
        let input = &plan.input;
        if !input.output.is_empty() && input.precision > 0.0 {
            add(&self.tile.deviations[input.output.clone()], 0.5 * input.precision, &mut now[..*lanes]);
        }
    }

    /// Holds the samples that have moved by no more than `tolerance` of where they are; returns whether all
    /// are held.
    fn settle(&mut self, iteration: usize, tolerance: f64, descent: &mut Descent) -> bool {
        let plan = self.layers.plan;
        let Tile { samples, deviations, steps, .. } = &mut *self.tile;
        let Descent { moved, reached, .. } = descent;
        moved.fill(0.0);
        reached.fill(0.0);
        let previous = &mut self.scratch.work.previous;
        elementwise::combine(plan.level, deviations, Combine { beta: -1.0, ..Combine::default() }, previous);
        plan.add_squares(previous, moved);
        plan.add_squares(deviations, reached);
        let mut all = true;
        for lane in 0..*samples {
            if steps.eta[lane] != 0.0 && moved[lane] <= tolerance.powi(2) * reached[lane] {
                steps.eta[lane] = 0.0;
                steps.samples[lane].iterations = iteration;
            }
            all &= steps.eta[lane] == 0.0;
        }
        all
    }
}
