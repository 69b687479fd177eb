//! The state of a tile, which is one or several vectors' worth of samples or a few samples, and the scratch to compute it
//! with.

use std::ops::Range;

use predictive_coding_kernels::Buffer;

use crate::method::{Method, Solver, Strict};
use crate::plan::{Place, Plan};

/// What is kept of a tile.
#[derive(Clone)]
pub(crate) struct Tile {
    /// Samples in use; the lanes of others hold zeros.
    pub(crate) samples: usize,
    /// v-hat_l at every layer.
    pub(crate) activations: Buffer,
    /// u_l = v_l - v-hat_l at every layer but the last.
    pub(crate) deviations: Buffer,
    /// precision_l epsilon_l at every layer, which is what is pulled back and what gradients are made of.
    pub(crate) errors: Buffer,
    /// D_L = f_L(v_{L-1}) - v-hat_L.
    pub(crate) output_difference: Buffer,
    /// 1 at the elements of a free input that are clamped; empty if there are none.
    pub(crate) clamped: Buffer,
    /// The targets: as the outputs lie, or one label per sample.
    pub(crate) targets: Buffer,
    /// 1 at the targets that count, if the call has a mask of them.
    pub(crate) mask: Buffer,
    /// Unscaled loss of the forward pass of each sample.
    pub(crate) losses: Vec<f64>,
    pub(crate) steps: Steps,
    /// z of the forward pass inside of layers, where it outlasts the call of the group.
    pub(crate) inside: Buffer,
}

/// How the samples of a tile relax.
#[derive(Clone)]
pub(crate) struct Steps {
    pub(crate) samples: Vec<Descending>,
    /// eta of each sample, as the kernels take it; 0 where a sample has settled.
    pub(crate) eta: Vec<f32>,
}

/// How the relaxation of one sample went, as [`Session::descents`](crate::Session::descents) tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Descending {
    /// Its last step size.
    pub eta: f64,
    /// The estimate of the largest eigenvalue of the Hessian of its energy, if there was one.
    pub lambda_max: Option<f64>,
    /// Number of iterations until it settled, or all of them.
    pub iterations: usize,
    /// Whether its energy rose above its initial value by more than rounding, or was not finite.
    pub diverged: bool,
    /// Whether it was relaxed again with its own largest stable step size, after it had diverged with the given one.
    pub shrunk: bool,
}

impl Descending {
    /// Its last step size as a share of the limit of stability, eta lambda_max / 2: from 1 on, descent is unstable.
    pub fn share_of_limit(&self) -> Option<f64> {
        self.lambda_max.map(|lambda_max| 0.5 * self.eta * lambda_max)
    }
}

impl Tile {
    /// `deviations`: whether beliefs are iterated, rather than known from the errors; `inside`: whether the values inside
    /// of layers are kept.
    pub(crate) fn new(plan: &Plan, deviations: bool, inside: bool) -> Self {
        let outputs = plan.outputs_len();
        let last = plan.layers[plan.layers.len() - 1].output.clone();
        Tile {
            samples: 0,
            activations: Buffer::zeros(outputs),
            deviations: Buffer::zeros(if deviations { last.start } else { 0 }),
            errors: Buffer::zeros(outputs),
            output_difference: Buffer::zeros(last.len()),
            clamped: Buffer::zeros(if deviations { plan.input.output.len() } else { 0 }),
            targets: Buffer::zeros(last.len()),
            mask: Buffer::zeros(last.len()),
            losses: vec![0.0; plan.images],
            steps: Steps { samples: vec![Descending::default(); plan.images], eta: vec![0.0; plan.images] },
            inside: Buffer::zeros(if inside { plan.sizes.values } else { 0 }),
        }
    }

    /// At least as many elements as a tile's buffers have.
    pub(crate) fn len(plan: &Plan, inside: bool) -> usize {
        6 * plan.outputs_len() + if inside { plan.sizes.values } else { 0 }
    }

    pub(crate) fn bytes(&self) -> usize {
        let Tile { activations, deviations, errors, output_difference, clamped, targets, mask, inside, .. } = self;
        let buffers = [activations, deviations, errors, output_difference, clamped, targets, mask, inside];
        buffers.iter().map(|buffer| buffer.bytes()).sum::<usize>()
            + size_of_val(self.losses.as_slice())
            + size_of_val(self.steps.samples.as_slice())
            + size_of_val(self.steps.eta.as_slice())
    }
}

/// Buffers that one tile after the other computes in.
#[derive(Clone)]
pub(crate) struct Scratch {
    /// The input, and z of the forward pass at the boundaries inside of layers.
    pub(crate) values: Buffer,
    pub(crate) work: Work,
}

/// What is computed from the values.
#[derive(Clone)]
pub(crate) struct Work {
    /// D at the boundaries inside of layers.
    pub(crate) differences: Buffer,
    /// D of the rows of a band.
    pub(crate) band: Buffer,
    /// The errors of the layers that do not end with a product, pulled back to the end of what does.
    pub(crate) pulled: Buffer,
    /// Two gradients on their way back through a layer.
    pub(crate) gradients: [Buffer; 2],
    /// That at a sum of branches.
    pub(crate) sum: Buffer,
    /// z + D at the input of a product.
    pub(crate) input: Buffer,
    /// For products and the weight gradients of convolutions.
    pub(crate) products: Buffer,
    /// u before an iteration, where samples may settle.
    pub(crate) previous: Buffer,
    /// Minus the gradient of the energy, where relaxations are traced.
    pub(crate) traced: Buffer,
    pub(crate) krylov: Krylov,
    pub(crate) sweeping: Sweeping,
    pub(crate) moments: Moments,
}

/// What beliefs move by other than straight along the energy's gradient.
#[derive(Clone, Default)]
pub(crate) struct Moments {
    /// The running sum or average of minus the energy's gradient.
    pub(crate) mean: Buffer,
    /// Minus the energy's gradient, if a step takes that too.
    pub(crate) direction: Buffer,
    /// The running average of its square.
    pub(crate) square: Buffer,
}

/// What sweeps to the equilibrium work with, besides the errors of the tile.
#[derive(Clone, Default)]
pub(crate) struct Sweeping {
    /// The errors and their residuals before the last step.
    pub(crate) base: Buffer,
    pub(crate) base_residuals: Buffer,
    pub(crate) residuals: Buffer,
    /// Per sample, the length of the step, which is 0 for one that has settled, and the energy before it.
    pub(crate) lengths: Vec<f64>,
    pub(crate) energies: Vec<f64>,
    /// Sums per sample.
    pub(crate) along: Vec<f64>,
    pub(crate) square: Vec<f64>,
}

impl Sweeping {
    fn new(plan: &Plan) -> Self {
        let vector = || Buffer::zeros(plan.hidden_len());
        let numbers = || vec![0.0; plan.images];
        Sweeping {
            base: vector(),
            base_residuals: vector(),
            residuals: vector(),
            lengths: numbers(),
            energies: numbers(),
            along: numbers(),
            square: numbers(),
        }
    }

    fn bytes(&self) -> usize {
        let buffers = [&self.base, &self.base_residuals, &self.residuals];
        buffers.iter().map(|buffer| buffer.bytes()).sum::<usize>() + 4 * size_of_val(self.lengths.as_slice())
    }
}

/// What a session's options make a scratch hold.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extras {
    /// Products with the Hessian that step sizes are chosen by.
    pub(crate) products: usize,
    /// Whether iterations end for samples that have settled.
    pub(crate) settling: bool,
    pub(crate) sweeping: bool,
    pub(crate) moving: Moving,
}

/// How many of the [`Moments`] there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Moving {
    #[default]
    Straight,
    ByMean,
    ByMeanAndDirection,
    BySquare,
}

impl Moving {
    pub(crate) fn new(method: &Method) -> Self {
        match method {
            Method::Strict(Strict { solver: Solver::Momentum { nesterov: false, .. }, .. }) => Moving::ByMean,
            Method::Strict(Strict { solver: Solver::Momentum { .. }, .. }) => Moving::ByMeanAndDirection,
            Method::Strict(Strict { solver: Solver::Adam(_), .. }) => Moving::BySquare,
            _ => Moving::Straight,
        }
    }
}

impl Moments {
    fn new(plan: &Plan, moving: Moving) -> Self {
        let vector = |from: Moving| Buffer::zeros(if moving >= from { plan.hidden_len() } else { 0 });
        let [mean, direction, square] = [Moving::ByMean, Moving::ByMeanAndDirection, Moving::BySquare].map(vector);
        Moments { mean, direction, square }
    }

    fn bytes(&self) -> usize {
        [&self.direction, &self.mean, &self.square].iter().map(|buffer| buffer.bytes()).sum()
    }
}

/// What Lanczos' method works with: three vectors of all beliefs, and `[products][samples]` numbers.
#[derive(Clone, Default)]
pub(crate) struct Krylov {
    pub(crate) before: Buffer,
    pub(crate) vector: Buffer,
    pub(crate) image: Buffer,
    pub(crate) diagonal: Vec<f64>,
    pub(crate) off_diagonal: Vec<f64>,
    /// Per sample.
    pub(crate) sums: Vec<f64>,
    pub(crate) factors: Vec<f32>,
    /// Of the classes at the output.
    pub(crate) probabilities: Buffer,
}

impl Krylov {
    /// For so many products; nothing for none.
    fn new(plan: &Plan, products: usize) -> Self {
        if products == 0 {
            return Krylov::default();
        }
        let outputs = plan.outputs_len() - plan.hidden_len();
        let vector = || Buffer::zeros(plan.hidden_len());
        let numbers = || vec![0.0; products * plan.images];
        Krylov {
            before: vector(),
            vector: vector(),
            image: vector(),
            diagonal: numbers(),
            off_diagonal: numbers(),
            sums: vec![0.0; plan.images],
            factors: vec![0.0; plan.images],
            probabilities: Buffer::zeros(outputs),
        }
    }

    fn bytes(&self) -> usize {
        let buffers = [&self.before, &self.vector, &self.image, &self.probabilities];
        let numbers = [&self.diagonal, &self.off_diagonal, &self.sums];
        buffers.iter().map(|buffer| buffer.bytes()).sum::<usize>()
            + numbers.iter().map(|numbers| size_of_val(numbers.as_slice())).sum::<usize>()
            + size_of_val(self.factors.as_slice())
    }
}

impl Scratch {
    pub(crate) fn new(plan: &Plan, extras: Extras) -> Self {
        Scratch {
            values: Buffer::zeros(plan.sizes.values),
            work: Work {
                differences: Buffer::zeros(plan.sizes.differences),
                band: Buffer::zeros(plan.sizes.band),
                pulled: Buffer::zeros(plan.sizes.pulled),
                gradients: [Buffer::zeros(plan.sizes.gradient), Buffer::zeros(plan.sizes.gradient)],
                sum: Buffer::zeros(plan.sizes.sum),
                input: Buffer::zeros(plan.sizes.product_input),
                products: Buffer::zeros(plan.sizes.product_scratch),
                previous: Buffer::zeros(if extras.settling { plan.hidden_len() } else { 0 }),
                traced: Buffer::default(),
                krylov: Krylov::new(plan, extras.products),
                sweeping: if extras.sweeping { Sweeping::new(plan) } else { Sweeping::default() },
                moments: Moments::new(plan, extras.moving),
            },
        }
    }

    /// Elements of the scratch's buffers.
    pub(crate) fn len(plan: &Plan, extras: Extras) -> usize {
        let sizes = &plan.sizes;
        let vectors = 3 * usize::from(extras.products > 0)
            + usize::from(extras.settling)
            + 3 * usize::from(extras.sweeping)
            + extras.moving as usize;
        vectors * plan.outputs_len()
            + 4 * extras.products * plan.images
            + sizes.values
            + sizes.differences
            + sizes.band
            + sizes.pulled
            + 2 * sizes.gradient
            + sizes.sum
            + sizes.product_input
            + sizes.product_scratch
    }

    pub(crate) fn bytes(&self) -> usize {
        let Work {
            differences,
            band,
            pulled,
            gradients: [a, b],
            sum,
            input,
            products,
            previous,
            traced,
            krylov,
            sweeping,
            moments,
        } = &self.work;
        let buffers = [&self.values, differences, band, pulled, a, b, sum, input, products, previous, traced];
        buffers.iter().map(|buffer| buffer.bytes()).sum::<usize>() + krylov.bytes() + sweeping.bytes() + moments.bytes()
    }
}

/// The values of the forward pass.
#[derive(Clone, Copy)]
pub(crate) struct Values<'a> {
    plan: &'a Plan,
    inside: &'a [f32],
    activations: &'a [f32],
}

impl<'a> Values<'a> {
    pub(crate) fn new(plan: &'a Plan, inside: &'a [f32], activations: &'a [f32]) -> Self {
        Values { plan, inside, activations }
    }

    /// What step `b` reads.
    pub(crate) fn input(self, b: usize) -> &'a [f32] {
        self.at(&self.plan.inputs[b])
    }

    /// What step `b` makes, where it is not a product at the end of a branch.
    pub(crate) fn output(self, b: usize) -> &'a [f32] {
        self.at(&self.plan.outputs[b])
    }

    /// What lies inside of layers at this place.
    pub(crate) fn inside(self, place: &Range<usize>) -> &'a [f32] {
        &self.inside[place.clone()]
    }

    fn at(self, place: &Place) -> &'a [f32] {
        match place.clone() {
            Place::Inside(range) => &self.inside[range],
            Place::Output(range) => &self.activations[range],
        }
    }
}

/// Two places, the first before the second if they are in one buffer: one to read and one to write.
pub(crate) fn values_between<'a>(
    read: &Place,
    write: &Place,
    inside: &'a mut [f32],
    activations: &'a mut [f32],
) -> (&'a [f32], &'a mut [f32]) {
    match (read.clone(), write.clone()) {
        (Place::Inside(read), Place::Inside(write)) => read_write(inside, read, write),
        (Place::Inside(read), Place::Output(write)) => (&inside[read], &mut activations[write]),
        (Place::Output(read), Place::Inside(write)) => (&activations[read], &mut inside[write]),
        (Place::Output(read), Place::Output(write)) => read_write(activations, read, write),
    }
}

/// Two places of one buffer, the first before the second: one to read and one to write.
pub(crate) fn read_write(buffer: &mut [f32], read: Range<usize>, write: Range<usize>) -> (&[f32], &mut [f32]) {
    let (low, high) = buffer.split_at_mut(write.start);
    (&low[read], &mut high[..write.end - write.start])
}
