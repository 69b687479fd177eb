//! Straight to the equilibrium of a strict relaxation, rather than n steps towards it.
//!
//! The errors of the hidden layers can be the unknowns instead of their beliefs: v_l = f_l(v_{l-1}) - epsilon_l
//! gives one from the other, and the energy is G(epsilon) = loss + sum of p_l |epsilon_l|^2 / 2, where the loss
//! depends on all and p_l are the precisions. Its negative gradient is
//!
//! ```text
//! r_l = delta_l - p_l epsilon_l,    delta_L = dLoss/dy,    delta_l = J_{l+1}(v_l)^T delta_{l+1}
//! ```
//!
//! and 0 exactly where that of the energy by the beliefs is. A sweep is one push through all layers from the
//! bottom up, one pull from the top down, and p epsilon += tau r: the products of one iteration, in sequence
//! rather than at once. The Hessian is the identity but for as many directions as there are outputs, so that tau
//! = 1 is nearly Newton's step: a few sweeps reach what hundreds of iterations do not. Where a sweep climbs, the
//! sample goes back to where it was and takes a shorter one: no energy ever ends above its start.

use super::Relaxation;
use super::strict::{Descent, Evaluated, Given};
use crate::layer::{Gradients, Input};
use crate::method::Strict;
use crate::state::{Descending, Sweeping, Tile};
use crate::wave::Front;

/// A sweep may raise a sample's energy by this share of what it began with: more is not rounding.
const RISE: f64 = 1e-6;
/// The most by which a length shrinks at once.
const SHRINK: f64 = 0.1;

pub(crate) fn sweep(
    mut tile: Relaxation<'_>,
    given: Given<'_>,
    descent: &mut Descent,
    gradients: &mut Gradients<'_, '_>,
) {
    let Strict { iterations, tolerance, on_divergence, .. } = *given.method;
    tile.tile.steps.samples.fill(Descending { eta: 1.0, iterations, ..Descending::default() });
    tile.tile.errors.fill(0.0);
    let mut sweeping = std::mem::take(&mut tile.scratch.work.sweeping);
    for iteration in 1..=iterations {
        if given.options.stopped() {
            break;
        }
        tile.push_all_errors(descent);
        descent.check(iteration, tile.tile.samples, None);
        tile.pull_errors(Input::Pushed, &mut sweeping.residuals);
        descent.record_gradient(tile.layers.plan, iteration, tile.tile.samples, &sweeping.residuals);
        tile.choose_lengths(iteration, descent, &mut sweeping);
        if tile.settle_errors(iteration, tolerance, &mut sweeping) {
            descent.settled(iteration, tile.tile.samples);
            break;
        }
        tile.take_lengths(&mut sweeping);
    }
    // Where the last step climbed, it is taken back.
    tile.push_all_errors(descent);
    descent.end(tile.tile.samples);
    if tile.take_back(descent, &sweeping) {
        tile.push_all_errors(descent);
        descent.end(tile.tile.samples);
    }
    tile.scratch.work.sweeping = sweeping;
    tile.mark_diverged(descent);
    let evaluated = if tile.leave_out(on_divergence) { Evaluated::Before } else { Evaluated::Pushed };
    tile.gradients_at_beliefs(Front::Beliefs, evaluated, gradients);
}

impl Relaxation<'_> {
    /// As [`push_errors`](Self::push_errors), where the layers that read no belief have moved by their errors too.
    fn push_all_errors(&mut self, descent: &mut Descent) {
        self.unpredicted_deviations();
        self.push_errors(descent);
    }

    /// The length tau of each sample's next step: by the secant of its last one, at most 1; samples whose last
    /// step climbed go back and take a shorter one.
    fn choose_lengths(&mut self, iteration: usize, descent: &Descent, sweeping: &mut Sweeping) {
        let plan = self.layers.plan;
        let Sweeping { base, base_residuals, residuals, lengths, energies, along, square } = sweeping;
        if iteration > 1 {
            along.fill(0.0);
            square.fill(0.0);
            plan.add_products(base_residuals, residuals, along);
            plan.add_squares(base_residuals, square);
        }
        for lane in 0..self.tile.samples {
            let (start, now) = descent.energies_of(lane);
            if iteration == 1 {
                lengths[lane] = 1.0;
            } else if lengths[lane] > 0.0 {
                let curvature = (1.0 - along[lane] / square[lane]) / lengths[lane];
                let secant = if curvature > 0.0 { 1.0 / curvature } else { 1.0 };
                if now <= energies[lane] + RISE * start {
                    lengths[lane] = secant.min(1.0);
                } else {
                    lengths[lane] = secant.min(0.5 * lengths[lane]).max(SHRINK * lengths[lane]);
                    for i in plan.of_sample(lane, base.len()) {
                        self.tile.errors[i] = base[i];
                        residuals[i] = base_residuals[i];
                    }
                    continue;
                }
            }
            energies[lane] = now;
        }
    }

    /// Holds the samples that would move by no more than `tolerance` of where they are; returns whether all
    /// are held.
    fn settle_errors(&mut self, iteration: usize, tolerance: Option<f64>, sweeping: &mut Sweeping) -> bool {
        let Some(tolerance) = tolerance else { return false };
        let plan = self.layers.plan;
        let Sweeping { residuals, lengths, along, square, .. } = sweeping;
        along.fill(0.0);
        square.fill(0.0);
        plan.add_squares(residuals, along);
        plan.add_squares(&self.tile.errors[..residuals.len()], square);
        let mut all = true;
        for lane in 0..self.tile.samples {
            if lengths[lane] > 0.0 && lengths[lane].powi(2) * along[lane] <= tolerance.powi(2) * square[lane] {
                lengths[lane] = 0.0;
                self.tile.steps.samples[lane].iterations = iteration;
            }
            all &= lengths[lane] == 0.0;
        }
        all
    }

    /// p epsilon += tau r.
    fn take_lengths(&mut self, sweeping: &mut Sweeping) {
        let Sweeping { base, base_residuals, residuals, lengths, .. } = sweeping;
        let Tile { errors, steps, .. } = &mut *self.tile;
        let errors = &mut errors[..base.len()];
        base.copy_from_slice(errors);
        base_residuals.copy_from_slice(residuals);
        for (lane, length) in lengths.iter().enumerate() {
            steps.eta[lane] = *length as f32;
            if *length > 0.0 {
                steps.samples[lane].eta = *length;
            }
        }
        self.layers.plan.add_steps(residuals, &steps.eta, errors);
    }

    /// Takes the samples back whose last step climbed; returns whether there were any.
    fn take_back(&mut self, descent: &Descent, sweeping: &Sweeping) -> bool {
        let Sweeping { base, lengths, energies, .. } = sweeping;
        let plan = self.layers.plan;
        let mut any = false;
        for lane in 0..self.tile.samples {
            let (start, now) = descent.energies_of(lane);
            let descended = now <= energies[lane] + RISE * start;
            if lengths[lane] > 0.0 && !descended {
                plan.of_sample(lane, base.len()).for_each(|i| self.tile.errors[i] = base[i]);
                any = true;
            }
        }
        any
    }
}
