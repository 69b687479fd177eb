//! Algorithm 1, in differences. With D_l = f_l(v_{l-1}) - v-hat_l,
//!
//! ```text
//! epsilon_l = D_l - u_l,    epsilon_L = dLoss/dy at y = v-hat_L + D_L
//! u_l += eta (epsilon_l - J_{l+1}(v_l)^T epsilon_{l+1})                        all l < L at once
//! ```
//!
//! D_1 = 0, since v_0 is clamped. Unless the caller gave beliefs to start from, u is 0 at first and
//! departs from it one layer per iteration, from the top: what is known to be 0 is not computed.

use predictive_coding_kernels::{Combine, elementwise, reduce};

use super::Relaxation;
use crate::error::Divergence;
use crate::layer::{Gradients, Input};
use crate::method::{first_pulled, first_pushed};
use crate::state::{Scratch, Tile, Values};

const NEGATED: Combine<'_> = Combine { alpha: -1.0, beta: 0.0, gamma: 0.0, other: &[], bias: None };

/// An energy above its start by more than this share of it has risen by more than rounding.
const ROUNDING: f64 = 1e-5;

/// The energies of a tile's samples on their way down.
#[derive(Debug)]
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
    /// F_1 .. F_n summed over the tiles that were recorded, if that was asked for.
    pub(crate) energies: Vec<f64>,
}

impl Descent {
    pub(crate) fn new(layers: usize, lanes: usize) -> Self {
        Descent {
            lanes,
            start: vec![0.0; layers * lanes],
            now: vec![0.0; layers * lanes],
            losses: vec![0.0; lanes],
            diverged: vec![None; lanes],
            energies: Vec::new(),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        size_of_val(self.start.as_slice()) * 2
            + size_of_val(self.losses.as_slice())
            + size_of_val(self.diverged.as_slice())
            + size_of_val(self.energies.as_slice())
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

    /// Takes the terms in `now` as those of an iteration (from 1).
    fn check(&mut self, iteration: usize, samples: usize) {
        if iteration == 1 {
            self.start.copy_from_slice(&self.now);
            self.diverged.fill(None);
        }
        let mut total = 0.0;
        for lane in 0..samples {
            let sum = |terms: &[f64]| terms.iter().skip(lane).step_by(self.lanes).sum::<f64>();
            let (start, now) = (sum(&self.start), sum(&self.now));
            total += now;
            let descends = now.is_finite() && now - start <= ROUNDING * start;
            if !descends && self.diverged[lane].is_none() {
                self.diverged[lane] = Some((iteration, self.blame(lane), now.is_finite()));
            }
        }
        if let Some(energy) = self.energies.get_mut(iteration - 1) {
            *energy += total;
        }
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

/// `started`: whether the caller has put beliefs into the tile's deviations; else they are cleared.
pub(crate) fn strict(
    mut tile: Relaxation<'_>,
    eta: f64,
    iterations: usize,
    started: bool,
    descent: &mut Descent,
    gradients: &mut Gradients<'_>,
) {
    let layers = tile.len();
    if !started {
        tile.tile.deviations.fill(0.0);
    }
    tile.output_error();
    tile.pull_to_product(layers - 1);
    for iteration in 1..=iterations {
        let pushed = if started { 1 } else { first_pushed(layers, iteration) };
        tile.predict(pushed, &mut descent.losses);
        tile.energy(pushed, descent);
        descent.check(iteration, tile.tile.samples);
        if iteration == iterations {
            tile.unpredicted_errors(pushed);
        }
        let pulled = if started { 1 } else { first_pulled(layers, iteration) };
        tile.update(pulled, pushed, eta as f32);
    }
    tile.gradients_at_beliefs(gradients);
}

impl Relaxation<'_> {
    /// The errors of the layers from `pushed` (index from 0) on, and of the one below, whose prediction is
    /// still v-hat, pulled back to their products; the loss of each lane.
    fn predict(&mut self, pushed: usize, losses: &mut [f64]) {
        let plan = self.layers.plan;
        let last = self.len() - 1;
        if pushed > last {
            return losses.copy_from_slice(&self.tile.losses);
        }
        let place = |layer: usize| plan.layers[layer].output.clone();
        let Tile { samples, activations, deviations, errors, output_difference, targets, .. } = &mut *self.tile;
        let Scratch { values, work } = &mut *self.scratch;
        let values = Values::new(plan, values, activations);
        if pushed > 1 {
            let (own, error) = (&deviations[place(pushed - 1)], &mut errors[place(pushed - 1)]);
            elementwise::combine(plan.level, own, NEGATED, error);
            self.layers.pull_to_product(pushed - 1, values, None, error, work);
        }
        for layer in pushed..last {
            let (u, own) = (&deviations[place(layer - 1)], &deviations[place(layer)]);
            self.layers.relax(layer, values, u, own, work, &mut errors[place(layer)]);
        }
        let u = &deviations[place(last - 1)];
        self.layers.push(last, values, u, work, output_difference);
        let (activation, error) = (&activations[place(last)], &mut errors[place(last)]);
        self.output.error(activation, output_difference, targets, *samples, error, losses);
        self.layers.pull_to_product(last, values, Some(u), error, work);
    }

    /// The gradients of all parameters, from inputs at the beliefs.
    fn gradients_at_beliefs(&mut self, gradients: &mut Gradients<'_>) {
        let plan = self.layers.plan;
        let place = |layer: usize| plan.layers[layer].output.clone();
        let Tile { activations, deviations, errors, .. } = &*self.tile;
        let Scratch { values, work } = &mut *self.scratch;
        let values = Values::new(plan, values, activations);
        for layer in 0..plan.layers.len() {
            let error = &errors[place(layer)];
            let input = if layer == 0 {
                self.layers.pull_to_product(layer, values, None, error, work);
                Input::Activation
            } else {
                let u = &deviations[place(layer - 1)];
                self.layers.renew(layer, values, u, error, work);
                Input::Moved(u)
            };
            self.layers.backward(layer, values, input, error, work, Some(&mut *gradients), None);
        }
    }

    /// epsilon = -u at the layers below `pushed`, whose prediction is still v-hat.
    fn unpredicted_errors(&mut self, pushed: usize) {
        let end = self.place(pushed - 1).end.min(self.tile.deviations.len());
        let Tile { deviations, errors, .. } = &mut *self.tile;
        elementwise::combine(self.layers.plan.level, &deviations[..end], NEGATED, &mut errors[..end]);
    }

    /// The terms of the energy: the loss, and half the squared errors of the layers below.
    fn energy(&self, pushed: usize, descent: &mut Descent) {
        let last = self.len() - 1;
        let Descent { lanes, now, losses, .. } = descent;
        now.fill(0.0);
        for (layer, terms) in now.chunks_mut(*lanes).enumerate() {
            if layer == last {
                terms.iter_mut().zip(losses.iter()).for_each(|(term, loss)| *term = loss * self.output.scale);
            } else {
                let from = if layer < pushed { &self.tile.deviations } else { &self.tile.errors };
                reduce::add_lane_squares(self.layers.plan.level, &from[self.place(layer)], terms);
                terms.iter_mut().for_each(|term| *term *= 0.5);
            }
        }
    }

    /// u_l += eta (epsilon_l - pulled) for the layers below `pulled` (index from 0) and above; epsilon_l is
    /// -u_l below `pushed`.
    fn update(&mut self, pulled: usize, pushed: usize, eta: f32) {
        for layer in pulled..self.len() {
            let (below, above) = (self.place(layer - 1), self.place(layer));
            let Tile { activations, deviations, errors, .. } = &mut *self.tile;
            let Scratch { values, work } = &mut *self.scratch;
            let values = Values::new(self.layers.plan, values, activations);
            let combine = match layer - 1 < pushed {
                true => Combine { alpha: -eta, beta: 1.0 - eta, ..Combine::default() },
                false => {
                    let other = &errors[below.clone()];
                    Combine { alpha: -eta, beta: 1.0, gamma: eta, other, ..Combine::default() }
                }
            };
            let input = if layer < pushed { Input::Activation } else { Input::Pushed };
            let out = Some((combine, &mut deviations[below]));
            self.layers.backward(layer, values, input, &errors[above], work, None, out);
        }
    }
}
