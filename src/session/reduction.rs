//! From what the groups found to the gradients of the batch.

use std::collections::VecDeque;
use std::ops::Range;

use predictive_coding_kernels::{Level, Lhs, MatMut, MatRef, elementwise, gemm};

use super::Session;
use super::draft::Multiples;
use crate::method::Method;
use crate::plan::{LayerPlan, Sizes, Step};
use crate::product::{Product, WeightGradient};
use crate::ranks::{Arrival, Exchange, Ranks, SUMMANDS, share, sliced, tree_sum};
use crate::sums::{Division, Rounds, for_each_block};

/// The fewest rows of the gradient of a matrix that a rank multiplies at a time: products of fewer read their operands too
/// often.
const FEWEST_ROWS: usize = 64;
/// Values of a part of that gradient, in buckets: rows of matrices are long.
const BUCKETS: usize = 4;

impl Session {
    /// Adds up what the groups found, in a tree of them, and multiplies what is a product over the batch. What other ranks
    /// sum or multiply is on its way meanwhile.
    pub(super) fn reduce(&mut self, [rounds, buckets]: [Vec<Arrival>; 2]) {
        let ranks = self.ranks.clone();
        let mut gathers = ranks.as_deref().map(|ranks| {
            self.place_rows(ranks, rounds);
            let mut gathers = Gathers::new(ranks);
            self.sum_buckets(ranks, buckets, &mut gathers);
            self.multiply_matrices(ranks, &mut gathers);
            gathers.start();
            gathers
        });
        if ranks.is_none() {
            self.sum_groups();
        }
        let sums = &mut self.groups[0].gradients;
        let values = self.gradients.values_mut();
        if let Some(gathers) = &mut gathers {
            gathers.finish(self.buckets.len(), sums, values);
        }
        let sums = &*sums;
        for (l, layer) in self.plan.layers.iter().enumerate() {
            let multiple = multiple(&self.method, self.multiples.as_ref(), l);
            for step in &self.plan.steps[layer.steps.clone()] {
                let product = match step {
                    Step::Product(product) => product,
                    Step::Affine(affine) => {
                        affine.unpack_gradient(sums, multiple, values);
                        continue;
                    }
                    Step::Dropout(_) | Step::Local(_) => continue,
                };
                let out = &mut values[product.weight.clone()];
                match &product.gradient {
                    WeightGradient::Partial(partial) => {
                        product.unpack_gradient(&sums[partial.clone()], multiple, out, &mut self.gemm_scratch);
                    }
                    WeightGradient::Rows { errors, .. } if ranks.is_none() => {
                        let operands = Operands::new(&self.plan.sizes, self.plan.level, &self.rows, self.samples);
                        operands.multiply(product, multiple, 0..errors.len(), out, &mut self.gemm_scratch);
                    }
                    WeightGradient::Rows { .. } => {}
                }
                if let (Some(partial), Some(bias)) = (&product.partial_bias, &product.bias) {
                    let out = values[bias.clone()].iter_mut();
                    out.zip(&sums[partial.clone()]).for_each(|(out, sum)| *out = multiple * sum);
                }
            }
        }
        if let Some(gathers) = &mut gathers {
            gathers.finish(usize::MAX, &mut [], values);
        }
        let groups = &self.groups[..self.used];
        self.trace.clear();
        groups.iter().for_each(|group| self.trace.add(&group.descent.trace));
        for (iteration, energy) in self.energies.iter_mut().enumerate() {
            *energy = groups.iter().map(|group| group.descent.energies[iteration]).sum();
        }
    }

    /// The sum of the partial gradients of all groups, into those of the first.
    fn sum_groups(&mut self) {
        let (level, used) = (self.plan.level, self.used);
        let (sums, others) = self.groups.split_at_mut(1);
        let sums = &mut sums[0].gradients;
        if used == 1 {
            // To wake a thread for nothing takes longer than a step of a small network.
            return;
        }
        for_each_block(sums, |start, sums| {
            // What is known of the first group is in the sums already.
            let known = |range: &Range<usize>, place: Range<usize>| match range.start {
                _ if range.len() > 1 => None,
                0 => Some(&[][..]),
                group => Some(&others[group - 1].gradients[place]),
            };
            for (start, sums) in (start..).step_by(SUMMANDS).zip(sums.chunks_mut(SUMMANDS)) {
                let place = start..start + sums.len();
                let add = |values: &[f32], sums: &mut [f32]| elementwise::accumulate(level, values, sums);
                tree_sum(0..used, &|range| known(range, place.clone()), &add, sums);
            }
        });
    }

    /// Puts the rows of the samples of other ranks beside those of this one.
    fn place_rows(&mut self, ranks: &dyn Ranks, arrivals: Vec<Arrival>) {
        let row = self.plan.sizes.row;
        let rounds = Rounds::new(self.division(self.batch_samples), row, ranks.bucket());
        for (round, arrival) in arrivals.into_iter().enumerate() {
            let arrived = arrival();
            let mut rest = &arrived[..];
            for (rank, samples) in rounds.samples(round).enumerate() {
                let (rows, others) = rest.split_at(samples.len() * row);
                if rank != ranks.rank() {
                    self.rows[samples.start * row..samples.end * row].copy_from_slice(rows);
                }
                rest = others;
            }
        }
    }

    /// Finishes the tree for this rank's slice of each bucket.
    fn sum_buckets(&self, ranks: &dyn Ranks, arrivals: Vec<Arrival>, gathers: &mut Gathers<'_>) {
        let division = self.division(self.batch_samples);
        for (place, arrival) in self.buckets.iter().zip(arrivals) {
            let arrived = arrival();
            if ranks.any_order() {
                gathers.arrived(place.start, arrived);
                continue;
            }
            let counts: Vec<usize> = (0..division.size).map(|r| share(place.len(), r, division.size).len()).collect();
            let len = counts[division.rank];
            gathers.add(Part { into: Target::Sums, start: place.start, counts }, len, |own| {
                finish_tree(self.plan.level, division, &arrived, own);
            });
        }
    }

    /// Multiplies this rank's part of the gradient of each matrix, some rows of all ranks at a time.
    fn multiply_matrices(&mut self, ranks: &dyn Ranks, gathers: &mut Gathers<'_>) {
        let (rank, size, any_order) = (ranks.rank(), ranks.size(), ranks.any_order());
        let (sizes, level) = (&self.plan.sizes, self.plan.level);
        let operands = match any_order {
            true => Operands::new(sizes, level, &self.rows[self.first * sizes.row..], self.samples),
            false => Operands::new(sizes, level, &self.rows, self.batch_samples),
        };
        for (l, LayerPlan { steps, .. }) in self.plan.layers.iter().enumerate().rev() {
            let multiple = multiple(&self.method, self.multiples.as_ref(), l);
            for step in self.plan.steps[steps.clone()].iter().rev() {
                let Step::Product(product) = step else { continue };
                let WeightGradient::Rows { errors, inputs } = &product.gradient else { continue };
                let rows = (BUCKETS * ranks.bucket() / inputs.len()).max(FEWEST_ROWS * size);
                for first in (0..errors.len()).step_by(rows) {
                    let block = first..errors.len().min(first + rows);
                    // In any order, each rank has all rows, of its own samples.
                    let of_rank = |rank: usize| match any_order {
                        true => block.clone(),
                        false => {
                            let share = share(block.len(), rank, size);
                            first + share.start..first + share.end
                        }
                    };
                    let own = of_rank(rank);
                    let start = product.weight.start + first * inputs.len();
                    let count = |rank: usize| of_rank(rank).len() * inputs.len();
                    let counts = if any_order { vec![count(rank)] } else { (0..size).map(count).collect() };
                    gathers.add(Part { into: Target::Values, start, counts }, own.len() * inputs.len(), |out| {
                        operands.multiply(product, multiple, own, out, &mut self.gemm_scratch);
                    });
                }
            }
        }
    }
}

/// What a part of the gathered values is: sums of partial gradients, or gradients.
#[derive(Clone, Copy, PartialEq)]
enum Target {
    Sums,
    Values,
}

/// Values of all ranks that belong one behind the other.
struct Part {
    into: Target,
    start: usize,
    /// How many each rank has; in any order, those of the sum.
    counts: Vec<usize>,
}

/// What ranks have finished, on the way to all ranks: small parts go together.
struct Gathers<'a> {
    ranks: &'a dyn Ranks,
    /// What has not started: of this rank, and what belongs where.
    own: Vec<f32>,
    parts: Vec<Part>,
    started: VecDeque<(Vec<Part>, Arrival)>,
    /// How many parts have arrived.
    finished: usize,
}

impl<'a> Gathers<'a> {
    fn new(ranks: &'a dyn Ranks) -> Self {
        Gathers { ranks, own: Vec::new(), parts: Vec::new(), started: VecDeque::new(), finished: 0 }
    }

    /// Adds a part, of which this rank has `len` values that `fill` finishes.
    fn add(&mut self, part: Part, len: usize, fill: impl FnOnce(&mut [f32])) {
        let first = self.own.len();
        self.own.resize(first + len, 0.0);
        fill(&mut self.own[first..]);
        self.parts.push(part);
        // All ranks start at the same parts.
        if self.parts.iter().flat_map(|part| &part.counts).sum::<usize>() >= sliced(self.ranks) {
            self.start();
        }
    }

    /// Adds sums that are here already.
    fn arrived(&mut self, start: usize, sums: Vec<f32>) {
        let part = Part { into: Target::Sums, start, counts: vec![sums.len()] };
        self.started.push_back((vec![part], Box::new(|| sums)));
    }

    fn start(&mut self) {
        if self.parts.is_empty() {
            return;
        }
        let (own, parts) = (std::mem::take(&mut self.own), std::mem::take(&mut self.parts));
        let counts = (0..self.ranks.size()).map(|rank| parts.iter().map(|part| part.counts[rank]).sum());
        let exchange = match self.ranks.any_order() {
            true => Exchange::AllReduce(own),
            false => Exchange::AllGather { counts: counts.collect(), own },
        };
        self.started.push_back((parts, self.ranks.start(exchange)));
    }

    /// Puts so many parts in their places, counted from the first, and what comes with them.
    fn finish(&mut self, parts: usize, sums: &mut [f32], values: &mut [f32]) {
        while self.finished < parts
            && let Some((parts, arrival)) = self.started.pop_front()
        {
            self.finished += parts.len();
            let arrived = arrival();
            let mut rest = &arrived[..];
            for rank in 0..parts[0].counts.len() {
                for Part { into, start, counts } in &parts {
                    let start = start + counts[..rank].iter().sum::<usize>();
                    let out = if *into == Target::Sums { &mut *sums } else { &mut *values };
                    let own;
                    (own, rest) = rest.split_at(counts[rank]);
                    out[start..start + own.len()].copy_from_slice(own);
                }
            }
        }
    }
}

/// What the gradients of a layer (index from 0) are multiplied by.
fn multiple(method: &Method, multiples: Option<&Multiples>, layer: usize) -> f32 {
    let unnudged = if let Method::Strict(strict) = method { strict.gradient_factor() as f32 } else { 1.0 };
    multiples.map_or(unnudged, |multiples| multiples.weighted[layer] as f32)
}

/// The sums of the whole tree from those of all ranks' parts of it.
fn finish_tree(level: Level, division: Division, received: &[f32], sums: &mut [f32]) {
    let all: Vec<Range<usize>> = division.parts().concat();
    let len = sums.len();
    let of_part = |part: usize, place: Range<usize>| &received[part * len..][place];
    for_each_block(sums, |start, sums| {
        for (start, sums) in (start..).step_by(SUMMANDS).zip(sums.chunks_mut(SUMMANDS)) {
            let place = start..start + sums.len();
            sums.copy_from_slice(of_part(0, place.clone()));
            let part = |range: &Range<usize>| all.iter().position(|part| part == range);
            let known = |range: &Range<usize>| Some(of_part(part(range)?, place.clone()));
            let add = |values: &[f32], sums: &mut [f32]| elementwise::accumulate(level, values, sums);
            tree_sum(0..division.groups(), &known, &add, sums);
        }
    });
}

/// The operands of the gradients of matrices: a row for each of so many samples.
struct Operands<'a> {
    level: Level,
    rows: &'a [f32],
    samples: usize,
    row: usize,
    side: usize,
}

impl<'a> Operands<'a> {
    fn new(sizes: &Sizes, level: Level, rows: &'a [f32], samples: usize) -> Self {
        Operands { level, rows, samples, row: sizes.row, side: sizes.side }
    }

    /// Some rows of `multiple` times the gradient of a matrix.
    fn multiply(&self, product: &Product, multiple: f32, outputs: Range<usize>, out: &mut [f32], scratch: &mut [f32]) {
        let Operands { level, rows, samples, row, side } = *self;
        let WeightGradient::Rows { errors, inputs } = &product.gradient else { unreachable!("it is that of a matrix") };
        if samples == 0 {
            return out.fill(0.0);
        }
        let (row, multiple) = (row as isize, multiple * product.scale());
        for first in (0..self.row).step_by(side) {
            let (a, b) = (&rows[first + errors.start + outputs.start..], &rows[first + inputs.start..]);
            let a = MatRef::new(a, outputs.len(), samples, 1, row);
            let b = MatRef::new(b, samples, inputs.len(), row, 1);
            let out = MatMut::row_major(&mut *out, outputs.len(), inputs.len());
            let beta = if first == 0 { 0.0 } else { 1.0 };
            gemm(level, multiple, Lhs::Plain(a), b, beta, out, scratch);
        }
    }
}
