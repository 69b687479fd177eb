//! How steep the energy of a relaxation is: its largest curvature, sample by sample.
//!
//! Strict relaxation is gradient descent on F = loss + sum of p_l |epsilon_l|^2 / 2 over the hidden layers,
//! stable only while eta lambda_max < 2 for the largest eigenvalue of F's Hessian. Taken at v-hat, without
//! the second derivatives of activations (which are 0 for ReLU), that Hessian is
//!
//! ```text
//! H = A^T P A + K^T C K    (A p)_l = p_l - J_l p_{l-1} for l < L, p_0 = 0;  K p = J_L p_{L-1}
//! ```
//!
//! with P the layers' precisions and C the loss's Hessian by the output. One product with H is one push and one pull of every layer but
//! the first, as one iteration of the relaxation. lambda_max is estimated by Lanczos' method from a start
//! that is near: the top eigenvector of H with every activation open, which depends on the weights alone,
//! and is kept from step to step.
//!
//! Where the errors are the variables, the same energy has another Hessian:
//!
//! ```text
//! H = P + M^T C M    M q = J_L u_{L-1} with u_l = J_l u_{l-1} - q_l,  u_0 = 0
//! ```
//!
//! A product with it is one push up through the layers and one pull down. lambda_max is never below the largest precision.

use predictive_coding_kernels::{Buffer, Combine, elementwise};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::strict::weighted;
use super::{Relaxation, clear_clamped, clear_shared, replacing};
use crate::layer::{Input, Layers, Towards};
use crate::method::Method;
use crate::output::Output;
use crate::plan::{Inlet, LayerPlan, Link, Place, Plan, Step};
use crate::state::{Extras, Krylov, Moving, Scratch, Tile, Values, values_between};
use crate::wave::Front;

/// Norm of the vectors that H is multiplied with: pushed as deviations from v-hat, they must not reach the next
/// kink; differences that small lose no digits.
const NORM: f64 = 1e-6;
/// eta lambda_max of an automatic step; descent is stable below 2.
const STABLE: f64 = 1.8;
/// The vector that is kept has settled if its eigenvalue changes by less than this share, and is iterated at
/// least and at most so often.
const SETTLED: f64 = 1e-3;
const FEWEST: usize = 2;
const MOST: usize = 200;
/// A new direction shorter than this share of the first diagonal element is rounding.
const EXHAUSTED: f64 = 1e-5;
/// Halvings that find an eigenvalue to far below f32's rounding.
const BISECTIONS: usize = 40;

/// The image of the vector is all that it needs besides.
const EXTRAS: Extras = Extras { products: 1, settling: false, sweeping: false, moving: Moving::Straight };

/// What an energy is a function of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variables {
    Beliefs,
    Errors,
}

impl Variables {
    pub(crate) fn of(method: &Method) -> Self {
        if matches!(method, Method::ErrorBased(_)) { Variables::Errors } else { Variables::Beliefs }
    }
}

/// The top eigenvector of H with every activation open.
#[derive(Clone)]
pub(crate) struct Open {
    variables: Variables,
    tile: Tile,
    scratch: Scratch,
    /// The same for every sample, of norm [`NORM`].
    vector: Buffer,
}

impl Open {
    pub(crate) fn new(plan: &Plan, variables: Variables) -> Self {
        let (mut tile, mut scratch) = (Tile::new(plan, true, false), Scratch::new(plan, EXTRAS));
        for LayerPlan { steps, inlet, tail, .. } in &plan.layers {
            for b in steps.clone() {
                if let Inlet::Sum(sum) = inlet
                    && b == tail.start
                {
                    scratch.values[sum.value.clone()].fill(1.0);
                }
                if matches!(&plan.steps[b], Step::Local(local) if local.is_norm()) {
                    // An input of spread 1.
                    let z = match plan.inputs[b].clone() {
                        Place::Inside(place) => &mut scratch.values[place],
                        Place::Output(place) => &mut tile.activations[place],
                    };
                    let samples = if plan.layout.is_channels() { 1 } else { plan.images };
                    (0..).zip(z).for_each(|(i, z)| *z = (i / samples % 2 * 2) as f32);
                }
                if let Step::Dropout(dropout) = &plan.steps[b] {
                    scratch.values[dropout.mask.clone()].fill(1.0);
                }
                let (inside, activations) = (&mut scratch.values, &mut tile.activations);
                let (z, out) = values_between(&plan.inputs[b], &plan.outputs[b], inside, activations);
                match &plan.steps[b] {
                    Step::Local(local) if !local.is_norm() => local.forward(z, out, 0..local.output_rows(), false),
                    _ => out.fill(1.0),
                }
            }
        }
        let mut vector = Buffer::zeros(tile.deviations.len());
        for sample in 0..plan.images {
            let mut rng = ChaCha8Rng::seed_from_u64(0);
            for LayerPlan { output, image, .. } in &plan.layers[..plan.layers.len() - 1] {
                let places = plan.layout.places(plan.level, *image, sample);
                places.for_each(|i| vector[output.start + i] = rng.random_range(-1.0..1.0));
            }
        }
        let norm = vector.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / plan.images as f64;
        vector.iter_mut().for_each(|v| *v *= (NORM / norm.sqrt()) as f32);
        Open { variables, tile, scratch, vector }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.tile.bytes() + self.scratch.bytes() + self.vector.bytes()
    }

    /// The vector as it is.
    pub(crate) fn vector(&self) -> &[f32] {
        &self.vector
    }

    /// Elements of the buffers.
    pub(crate) fn len(plan: &Plan) -> usize {
        Tile::len(plan, false) + Scratch::len(plan, EXTRAS) + plan.outputs_len()
    }

    /// Follows the weights by power iterations; returns the vector.
    pub(crate) fn follow(&mut self, layers: Layers<'_>, output: Output) -> &[f32] {
        let mut image = std::mem::take(&mut self.scratch.work.krylov.image);
        let mut before = 0.0;
        // Without what all directions have in common, the top one stands out.
        let common = layers.plan.layers.iter().map(|layer| layer.precision).fold(f64::INFINITY, f64::min);
        for iteration in 1..=MOST {
            let (tile, scratch) = (&mut self.tile, &mut self.scratch);
            let mut relaxation = Relaxation { layers, output, tile, scratch };
            match self.variables {
                Variables::Beliefs => relaxation.hessian(&self.vector, &mut image, |_, _, error| error.fill(0.0)),
                Variables::Errors => {
                    let curve = |difference: &[f32], _: &[f32], error: &mut [f32]| output.steepest(difference, error);
                    relaxation.hessian_by_errors(&self.vector, common, &mut image, curve);
                }
            }
            let first = layers.plan.of_sample(0, image.len());
            let square: f64 = first.map(|i| f64::from(image[i]).powi(2)).sum();
            let eigenvalue = square.sqrt() / NORM;
            if !(eigenvalue.is_normal()) {
                break;
            }
            let factor = (1.0 / eigenvalue) as f32;
            self.vector.iter_mut().zip(image.iter()).for_each(|(v, image)| *v = image * factor);
            if iteration >= FEWEST && (eigenvalue - before).abs() <= SETTLED * eigenvalue {
                break;
            }
            before = eigenvalue;
        }
        self.scratch.work.krylov.image = image;
        &self.vector
    }
}

impl Relaxation<'_> {
    /// H times a vector of norm [`NORM`] per lane, at v-hat, where what is clamped does not move.
    /// `curve(difference, mask, error)` gives C times a difference of the output. Errors are lost.
    fn hessian(&mut self, vector: &[f32], image: &mut [f32], curve: impl Fn(&[f32], &[f32], &mut [f32])) {
        let plan = self.layers.plan;
        let last = self.len() - 1;
        let place = |layer: usize| plan.layers[layer].output.clone();
        let Tile { activations, errors, output_difference, mask, clamped, .. } = &mut *self.tile;
        let Scratch { values, work } = &mut *self.scratch;
        let values = Values::new(plan, values, activations);
        let moved = |layer: usize| plan.layers[layer].wave.is_predicted(Front::Beliefs);
        let input = plan.input.output.clone();
        elementwise::combine(plan.level, &vector[input.clone()], weighted(-plan.input.precision), &mut errors[input]);
        for layer in 0..last {
            let error = &mut errors[place(layer)];
            if moved(layer) {
                self.layers.relax(layer, values, vector, work, error);
            } else {
                let negated = weighted(-plan.layers[layer].precision);
                elementwise::combine(plan.level, &vector[place(layer)], negated, error);
            }
        }
        self.layers.push(last, values, vector, work, output_difference);
        curve(output_difference, mask, &mut errors[place(last)]);
        self.layers.pull_to_product(last, values, true, &errors[place(last)], work);
        for &source in &plan.shared {
            let place = plan.belief(source);
            elementwise::combine(plan.level, &errors[place.clone()], weighted(-1.0), &mut image[place]);
        }
        let combine = |link: &Link| match link.alone {
            true => Combine { gamma: -1.0, other: &errors[plan.belief(link.source)], ..Combine::default() },
            false => Combine { beta: 1.0, ..Combine::default() },
        };
        for layer in (0..=last).filter(|&layer| moved(layer)) {
            let towards = Some(Towards { beliefs: image, combine: &combine });
            self.layers.backward(layer, values, Input::Pushed, &errors[place(layer)], work, None, towards);
        }
        clear_clamped(clamped, image);
    }

    /// H by the errors less `shift` times the vector, for a vector of norm [`NORM`] per lane, at v-hat; else as
    /// [`hessian`](Self::hessian). Beliefs and errors are lost.
    fn hessian_by_errors(
        &mut self,
        vector: &[f32],
        shift: f64,
        image: &mut [f32],
        curve: impl Fn(&[f32], &[f32], &mut [f32]),
    ) {
        let plan = self.layers.plan;
        let (last, hidden) = plan.layers.split_last().expect("a network has layers");
        for LayerPlan { output, precision, .. } in hidden {
            let error = &mut self.tile.errors[output.clone()];
            elementwise::combine(plan.level, &vector[output.clone()], weighted(*precision), error);
        }
        self.unpredicted_deviations();
        self.push_beliefs();
        let Tile { errors, output_difference, mask, .. } = &mut *self.tile;
        curve(output_difference, mask, &mut errors[last.output.clone()]);
        clear_shared(self.layers.plan, image);
        self.pull_deltas(Input::Pushed, image, &replacing);
        for LayerPlan { output, precision, .. } in hidden {
            let own = Combine { beta: -1.0, ..weighted(precision - shift) };
            elementwise::combine(plan.level, &vector[output.clone()], own, &mut image[output.clone()]);
        }
    }

    /// Estimates lambda_max of each lane by so many steps of Lanczos' method from `start` as the tile's
    /// Krylov space has room for, and chooses the lanes' eta by it. Errors are lost, and by errors beliefs are too.
    pub(super) fn choose_steps(&mut self, variables: Variables, start: &[f32]) {
        let (plan, lanes) = (self.layers.plan, self.layers.plan.images);
        let output = self.output;
        let hidden = &self.layers.plan.layers[..self.len() - 1];
        let least = hidden.iter().map(|layer| layer.precision).fold(0.0, f64::max);
        let mut krylov = std::mem::take(&mut self.scratch.work.krylov);
        let Krylov { before, vector, image, diagonal, off_diagonal, sums, factors, probabilities } = &mut krylov;
        let error = &self.tile.errors[self.place(self.len() - 1)];
        output.probabilities(error, &self.tile.targets, self.tile.samples, probabilities);
        vector.copy_from_slice(start);
        if self.tile.clamped.contains(&1.0) {
            clear_clamped(&self.tile.clamped, vector);
            sums.fill(0.0);
            plan.add_squares(vector, sums);
            factors.iter_mut().zip(&*sums).for_each(|(factor, sum)| *factor = (NORM / sum.sqrt() - 1.0) as f32);
            image.copy_from_slice(vector);
            plan.add_steps(image, factors, vector);
        }
        let products = diagonal.len() / lanes;
        for product in 0..products {
            let curve = |difference: &[f32], mask: &[f32], error: &mut [f32]| {
                output.curvature(probabilities, difference, mask, error);
            };
            match variables {
                Variables::Beliefs => self.hessian(vector, image, curve),
                Variables::Errors => self.hessian_by_errors(vector, 0.0, image, curve),
            }
            let now = product * lanes..(product + 1) * lanes;
            sums.fill(0.0);
            plan.add_products(image, vector, sums);
            diagonal[now.clone()].iter_mut().zip(&*sums).for_each(|(a, sum)| *a = sum / NORM.powi(2));
            let (known, new) = off_diagonal.split_at_mut(now.start);
            let mut step = |sum: &[f32], out: &mut [f32], factor: &dyn Fn(usize) -> f64| {
                factors.iter_mut().enumerate().for_each(|(lane, of_lane)| *of_lane = factor(lane) as f32);
                plan.add_steps(sum, factors, out);
            };
            // What is orthogonal to the vectors before.
            step(vector, image, &|lane| -diagonal[now.start + lane]);
            if product > 0 {
                step(before, image, &|lane| -known[now.start - lanes + lane]);
            }
            sums.fill(0.0);
            plan.add_squares(image, sums);
            for ((b, a), sum) in new.iter_mut().zip(&diagonal[now]).zip(&*sums) {
                *b = sum.sqrt() / NORM;
                // What is left of an exhausted space is rounding.
                if *b <= EXHAUSTED * a.abs() {
                    *b = 0.0;
                }
            }
            if product + 1 == products {
                break;
            }
            std::mem::swap(before, vector);
            vector.fill(0.0);
            step(image, vector, &|lane| if new[lane] > 0.0 { 1.0 / new[lane] } else { 0.0 });
        }
        for (lane, steps) in self.tile.steps.samples.iter_mut().enumerate().take(self.tile.samples) {
            let of_lane = |values: &[f64], i: usize| values[i * lanes + lane];
            let lambda = largest_eigenvalue(products, |i| of_lane(diagonal, i), |i| of_lane(off_diagonal, i));
            let lambda = if variables == Variables::Errors && lambda < least { least } else { lambda };
            steps.lambda_max = Some(lambda);
            steps.eta = largest_step(lambda);
        }
        self.scratch.work.krylov = krylov;
    }
}

/// The step size for an energy of this curvature.
pub(super) fn largest_step(lambda_max: f64) -> f64 {
    STABLE / lambda_max
}

/// The largest eigenvalue of a symmetric matrix of which `n` steps of Lanczos' method made a tridiagonal one
/// with `diagonal(i)` and, between i and i + 1, `off_diagonal(i)`: the largest Ritz value, which is a lower
/// bound, plus the norm of its residual.
fn largest_eigenvalue(n: usize, diagonal: impl Fn(usize) -> f64, off_diagonal: impl Fn(usize) -> f64) -> f64 {
    let radius = |i: usize| off_diagonal(i) + if i > 0 { off_diagonal(i - 1) } else { 0.0 };
    let mut low = (0..n).map(&diagonal).fold(f64::NEG_INFINITY, f64::max);
    let mut high = (0..n).map(|i| diagonal(i) + radius(i)).fold(low, f64::max);
    // Some eigenvalue is x or above if and only if some pivot of T - x is not negative.
    let reached = |x: f64| {
        let mut pivot = f64::NEG_INFINITY;
        (0..n).any(|i| {
            let coupling = if i > 0 { off_diagonal(i - 1).powi(2) / pivot } else { 0.0 };
            pivot = diagonal(i) - x - coupling;
            pivot >= 0.0
        })
    };
    for _ in 0..BISECTIONS {
        let middle = 0.5 * (low + high);
        *(if reached(middle) { &mut low } else { &mut high }) = middle;
    }
    let ritz = 0.5 * (low + high);
    // The Ritz vector from its last component on, which is the direction in which it grows.
    let (mut component, mut next, mut square) = (1.0, 0.0, 1.0);
    for i in (0..n - 1).rev() {
        if off_diagonal(i) == 0.0 {
            return ritz;
        }
        let above = if i + 2 < n { off_diagonal(i + 1) * next } else { 0.0 };
        (component, next) = (((ritz - diagonal(i + 1)) * component - above) / off_diagonal(i), component);
        square += component * component;
    }
    ritz + off_diagonal(n - 1) / square.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2 on the diagonal and 1 beside it: the eigenvalues are 2 + 2 cos(pi k / (n + 1)).
    #[test]
    fn the_largest_eigenvalue_of_a_tridiagonal_matrix() {
        for n in 1..12 {
            let expected = 2.0 + 2.0 * (std::f64::consts::PI / (n as f64 + 1.0)).cos();
            let found = largest_eigenvalue(n, |_| 2.0, |i| if i + 1 < n { 1.0 } else { 0.0 });
            assert!((found - expected).abs() < 1e-9, "{n}: {found}, not {expected}");
        }
    }

    /// [2 1; 1 2] has (1, 1) / sqrt 2 for 3; a coupling of 0.1 to what is outside leaves a residual of 0.1 / sqrt 2.
    #[test]
    fn a_residual_is_added() {
        let found = largest_eigenvalue(2, |_| 2.0, |i| [1.0, 0.1][i]);
        assert!((found - (3.0 + 0.1 / 2f64.sqrt())).abs() < 1e-9, "{found}");
    }
}
