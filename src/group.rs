//! Tiles that one task takes through a whole call: forward pass, relaxation, their share of the gradients.

use std::ops::Range;

use predictive_coding_kernels::Buffer;

use crate::error::Divergence;
use crate::layer::{Gradients, Layers};
use crate::loss::Targets;
use crate::method::{Incremental, Method, OnDivergence, Solver};
use crate::options::Options;
use crate::output::Output;
use crate::plan::{InputPlan, LayerPlan, Place, Plan};
use crate::relaxation::{
    Descent, Given, Relaxation, backpropagate, error_based, fixed_prediction, increment, strict, sweep,
};
use crate::state::{Scratch, Tile};
use crate::sums::Handing;

/// The initial belief of a layer in a strict relaxation. See
/// [`Session::infer_from`](crate::Session::infer_from) for an example.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Start<'a> {
    /// The activation v-hat.
    Activation,
    /// v-hat plus these deviations, `[samples, layer shape]`.
    Deviation(&'a [f32]),
    /// These beliefs, `[samples, layer shape]`. Their difference from v-hat is rounded once.
    Belief(&'a [f32]),
}

/// What a call is given besides a batch: where beliefs start, and which part of the input and of the targets is known. A mask
/// is 1 where a value is clamped, and 0 where it is free.
///
/// ```
/// use predictive_coding::{Conditions, FreeInput, Linear, Loss, Network, Op, Options, Quantity, Session, Strict};
///
/// // Of two inputs the first is known; which second makes an output of 1?
/// let network = Network::new(&[2], Loss::MSE, vec![vec![Op::Linear(Linear::new(1))]])?;
/// let method = Strict::new(0.1, 500).with_free_input(Some(FreeInput::default()));
/// let mut session = Session::new(&network, 1, method, Options::default())?;
/// let weights = network.initialize(1);
/// let conditions = Conditions::default().with_input_mask(&[1.0, 0.0]);
/// session.infer_with(&weights, &[0.5, 0.0], &[1.0f32], conditions)?;
/// let completed = session.get(Quantity::Belief, 0)?;
/// assert_eq!(completed[0], 0.5);
/// assert!((session.predict(&weights, &completed)?[0] - 1.0).abs() < 1e-2);
/// # Ok::<(), predictive_coding::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Conditions<'a> {
    pub(crate) start: &'a [Start<'a>],
    pub(crate) input_mask: Option<&'a [f32]>,
    pub(crate) mask: Option<&'a [f32]>,
}

impl<'a> Conditions<'a> {
    /// The initial beliefs of a strict relaxation: `start[l - 1]` for layer l in 1..L; layers beyond the end of the slice
    /// start at v-hat.
    pub fn with_start(self, start: &'a [Start<'a>]) -> Self {
        Conditions { start, ..self }
    }

    /// The clamped part of a [free input](crate::FreeInput), `[samples, input shape]`. Without it, nothing is clamped.
    pub fn with_input_mask(self, input_mask: &'a [f32]) -> Self {
        Conditions { input_mask: Some(input_mask), ..self }
    }

    /// The targets of [`Loss::MSE`](crate::Loss::MSE) that count, `[samples, output shape]`. A mean is over all elements,
    /// as without a mask.
    pub fn with_mask(self, mask: &'a [f32]) -> Self {
        Conditions { mask: Some(mask), ..self }
    }
}

/// A checked call, as the groups see it.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) layers: Layers<'a>,
    pub(crate) output: Output,
    pub(crate) x: &'a [f32],
    /// None where only outputs are asked for.
    pub(crate) targets: Option<Targets<'a>>,
    pub(crate) conditions: Conditions<'a>,
    pub(crate) samples: usize,
}

impl Call<'_> {
    /// Puts the samples from `first` on into a tile.
    fn load(&self, first: usize, tile: &mut Tile, scratch: &mut Scratch) {
        let plan = self.layers.plan;
        let InputPlan { image, value, .. } = &plan.input;
        let rows = rows_of(first, tile.samples, image.iter().product());
        let out = match value.clone() {
            Place::Inside(place) => &mut scratch.values[place],
            Place::Output(place) => &mut tile.activations[place],
        };
        plan.layout.load(plan.level, &self.x[rows.clone()], *image, out);
        if let Some(targets) = self.targets {
            self.output.load(targets, first, tile.samples, &mut tile.targets);
        }
        if let Some(mask) = self.conditions.mask {
            self.output.load_mask(mask, first, tile.samples, &mut tile.mask);
        }
        match self.conditions.input_mask {
            Some(mask) => plan.layout.load(plan.level, &mask[rows], *image, &mut tile.clamped),
            None => tile.clamped.fill(0.0),
        }
    }

    /// The forward pass of the samples from `first` on, with its loss.
    fn start(&self, first: usize, tile: &mut Tile, scratch: &mut Scratch) {
        self.load(first, tile, scratch);
        self.layers.forward(first, tile, scratch);
        if self.targets.is_some() {
            Relaxation { layers: self.layers, output: self.output, tile, scratch }.output_error();
        }
    }

    /// Puts the caller's beliefs into the deviations of a tile that has gone through the forward pass.
    fn load_start(&self, first: usize, tile: &mut Tile) {
        let plan = self.layers.plan;
        tile.deviations.fill(0.0);
        for (layer, start) in self.conditions.start.iter().enumerate() {
            let (Start::Deviation(values) | Start::Belief(values)) = start else { continue };
            let LayerPlan { output, image, .. } = &plan.layers[layer];
            let out = &mut tile.deviations[output.clone()];
            let rows = rows_of(first, tile.samples, image.iter().product());
            plan.layout.load(plan.level, &values[rows], *image, out);
            if let Start::Belief(_) = start {
                let activation = &tile.activations[output.clone()];
                for sample in 0..tile.samples {
                    plan.layout.places(plan.level, *image, sample).for_each(|i| out[i] -= activation[i]);
                }
            }
        }
    }
}

/// Consecutive tiles that share a partial gradient.
#[derive(Clone)]
pub(crate) struct Group {
    /// Index of the first tile.
    pub(crate) first: usize,
    pub(crate) tiles: Vec<Tile>,
    pub(crate) descent: Descent,
    /// The gradients of convolutions and biases.
    pub(crate) gradients: Buffer,
    pub(crate) divergence: Option<Divergence>,
}

impl Group {
    /// The tiles of these indices; `deviations`: whether beliefs are iterated, rather than known from the errors; `inside`:
    /// whether the values inside of layers are kept.
    pub(crate) fn new(plan: &Plan, tiles: Range<usize>, deviations: bool, inside: bool) -> Self {
        Group {
            first: tiles.start,
            tiles: tiles.map(|_| Tile::new(plan, deviations, inside)).collect(),
            descent: Descent::new(plan.layers.len(), plan.images),
            gradients: Buffer::zeros(plan.sizes.partial),
            divergence: None,
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.tiles.iter().map(Tile::bytes).sum::<usize>() + self.descent.bytes() + self.gradients.bytes()
    }
}

/// A group at its turn.
pub(crate) struct Task<'s, 'r> {
    pub(crate) group: &'r mut Group,
    /// The rows of its samples.
    pub(crate) rows: &'r mut [f32],
    /// The way of its gradients to other ranks, if those share the batch.
    pub(crate) handing: Option<Handing<'s, 'r>>,
}

impl Task<'_, '_> {
    /// The forward pass and the loss.
    pub(crate) fn forward(self, call: Call<'_>, scratch: &mut Scratch) {
        for_each_tile(self.group.first, &mut self.group.tiles, call, |Turn { first, .. }, tile| {
            call.start(first, tile, scratch)
        });
    }

    /// A whole step.
    ///
    /// `open`: where the estimate of the largest stable step starts, if it is asked for.
    pub(crate) fn step(
        self,
        call: Call<'_>,
        method: &Method,
        options: &Options,
        open: Option<&[f32]>,
        scratch: &mut Scratch,
    ) {
        let Task { group, rows, handing } = self;
        let Group { first, tiles, descent, gradients: partial, divergence } = group;
        partial.fill(0.0);
        descent.energies.fill(0.0);
        descent.trace.clear();
        *divergence = None;
        let plan = call.layers.plan;
        let gradients = &mut Gradients { partial, rows, first: 0, handing, is_last: false };
        for_each_tile(*first, tiles, call, |turn, tile| {
            call.start(turn.first, tile, scratch);
            let mut side = |output: Output, is_last: bool| {
                let started = !call.conditions.start.is_empty();
                if started {
                    call.load_start(turn.first, tile);
                }
                gradients.first = turn.row + if output.opposite { plan.sizes.side } else { 0 };
                gradients.is_last = is_last;
                let mut relaxation = Relaxation { layers: call.layers, output, tile, scratch };
                let on_divergence = match method {
                    // Else its beliefs are known from backpropagation's errors.
                    Method::FixedPrediction(fixed) if !relaxation.tile.deviations.is_empty() => {
                        return fixed_prediction(relaxation, fixed, options, gradients);
                    }
                    Method::Exact | Method::FixedPrediction(_) => return backpropagate(relaxation, gradients),
                    Method::Incremental(_) => unreachable!("its iterations are calls of their own"),
                    Method::Strict(method) => {
                        let given = Given { method, open, options, started };
                        if method.is_centred() {
                            relaxation.output_error();
                        }
                        match method.solver {
                            // A network of one layer has nothing to sweep through.
                            Solver::Sweeps if plan.layers.len() > 1 => sweep(relaxation, given, descent, gradients),
                            _ => strict(relaxation, given, descent, gradients),
                        }
                        method.on_divergence
                    }
                    Method::ErrorBased(method) => {
                        error_based(relaxation, method, options, open, descent, gradients);
                        method.on_divergence
                    }
                };
                if on_divergence == OnDivergence::Stop {
                    blame(divergence, descent, turn.first);
                }
            };
            if matches!(method, Method::Strict(strict) if strict.is_centred()) {
                // First, so that everything but the gradients is that of the other.
                side(call.output.other_side(), false);
            }
            side(call.output, turn.is_last);
        });
        // A relaxation that was stopped has made no gradients.
        gradients.passed(&plan.layers[0]);
    }

    /// An iteration (from 1) of incremental.
    pub(crate) fn increment(self, call: Call<'_>, method: &Incremental, iteration: usize, scratch: &mut Scratch) {
        let Task { group, rows, handing } = self;
        let Group { first, tiles, descent, gradients: partial, divergence } = group;
        partial.fill(0.0);
        if iteration == 1 {
            descent.energies.fill(0.0);
            descent.trace.clear();
            *divergence = None;
        }
        let gradients = &mut Gradients { partial, rows, first: 0, handing, is_last: false };
        for_each_tile(*first, tiles, call, |turn, tile| {
            std::mem::swap(&mut tile.inside, &mut scratch.values);
            if iteration == 1 {
                call.start(turn.first, tile, scratch);
            }
            (gradients.first, gradients.is_last) = (turn.row, turn.is_last);
            let relaxation = Relaxation { layers: call.layers, output: call.output, tile, scratch };
            increment(relaxation, method, iteration, descent, gradients);
            blame(divergence, descent, turn.first);
            std::mem::swap(&mut tile.inside, &mut scratch.values);
        });
    }
}

/// A tile of a group that has samples.
struct Turn {
    /// Index of its first sample in the batch.
    first: usize,
    /// Where its rows begin among those of the group.
    row: usize,
    is_last: bool,
}

/// Calls `work` for each tile of a group that has samples; `begin` is the index of the first tile.
fn for_each_tile(begin: usize, tiles: &mut [Tile], call: Call<'_>, mut work: impl FnMut(Turn, &mut Tile)) {
    let Plan { images, sizes, .. } = call.layers.plan;
    let count = (call.samples.div_ceil(*images) - begin).min(tiles.len());
    tiles[count..].iter_mut().for_each(|tile| tile.samples = 0);
    for (index, tile) in tiles[..count].iter_mut().enumerate() {
        let first = (begin + index) * images;
        tile.samples = (call.samples - first).min(*images);
        work(Turn { first, row: index * images * sizes.row, is_last: index + 1 == count }, tile);
    }
}

/// Keeps the divergence of the tile that begins with this sample, if it is the earliest.
fn blame(divergence: &mut Option<Divergence>, descent: &Descent, first: usize) {
    let found = divergence.take().into_iter().chain(descent.divergence(first));
    *divergence = found.min_by_key(|divergence| divergence.iteration);
}

/// The place of some samples' rows.
fn rows_of(first: usize, samples: usize, elements: usize) -> Range<usize> {
    first * elements..(first + samples) * elements
}
