//! From what the groups found to the gradients of the batch.

use std::ops::Range;

use predictive_coding_kernels::{Lhs, MatMut, MatRef, elementwise, gemm, pool_threads};
use rayon::prelude::*;

use super::Session;
use crate::method::Method;
use crate::plan::Step;
use crate::product::WeightGradient;
use crate::ranks::{Ranks, SUMMANDS, parts, share, tree_sum};

/// Values of the gradients that one task adds up.
const REDUCTION_BLOCK: usize = 1 << 16;

impl Session {
    /// Adds up what the groups found, in a tree of them, and multiplies what is a product over the batch.
    pub(super) fn reduce(&mut self) {
        let ranks = self.ranks.clone();
        // Where sums are taken in any order, each rank makes the gradients of its own samples.
        let ordered = ranks.as_deref().filter(|ranks| !ranks.any_order());
        match ordered {
            Some(ranks) => {
                self.share_sums(ranks);
                self.share_rows(ranks);
            }
            None => self.sum_groups(),
        }
        let samples = if ordered.is_some() { self.batch_samples } else { self.samples };
        let (row, side) = (self.plan.sizes.row, self.plan.sizes.side);
        let rows = if ordered.is_some() { &self.rows[..] } else { &self.rows[self.first * row..] };
        let sums = &self.groups[0].gradients;
        let unnudged = if let Method::Strict(strict) = &self.method { strict.gradient_factor() as f32 } else { 1.0 };
        let values = self.gradients.values_mut();
        for (l, layer) in self.plan.layers.iter().enumerate() {
            let multiple = self.multiples.as_ref().map_or(unnudged, |multiples| multiples.weighted[l] as f32);
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
                    WeightGradient::Rows { errors, inputs } => {
                        let multiple = multiple * product.scale();
                        let outputs = ordered.map_or(0..errors.len(), |r| share(errors.len(), r.rank(), r.size()));
                        let own = &mut out[outputs.start * inputs.len()..outputs.end * inputs.len()];
                        if samples == 0 {
                            own.fill(0.0);
                        }
                        for first in (0..if samples == 0 { 0 } else { row }).step_by(side) {
                            let (a, b) = (&rows[first + errors.start + outputs.start..], &rows[first + inputs.start..]);
                            let a = MatRef::new(a, outputs.len(), samples, 1, row as isize);
                            let b = MatRef::new(b, samples, inputs.len(), row as isize, 1);
                            let own = MatMut::row_major(&mut *own, outputs.len(), inputs.len());
                            let beta = if first == 0 { 0.0 } else { 1.0 };
                            gemm(self.plan.level, multiple, Lhs::Plain(a), b, beta, own, &mut self.gemm_scratch);
                        }
                        if let Some(ranks) = ordered {
                            let count = |rank| share(errors.len(), rank, ranks.size()).len() * inputs.len();
                            ranks.all_gather(out, &(0..ranks.size()).map(count).collect::<Vec<_>>());
                        }
                    }
                }
                if let (Some(partial), Some(bias)) = (&product.partial_bias, &product.bias) {
                    let out = values[bias.clone()].iter_mut();
                    out.zip(&sums[partial.clone()]).for_each(|(out, sum)| *out = multiple * sum);
                }
            }
        }
        if let Some(ranks) = ranks.filter(|ranks| ranks.any_order()) {
            ranks.all_reduce(values);
        }
        let groups = &self.groups[..self.used];
        self.trace.clear();
        groups.iter().for_each(|group| self.trace.add(&group.descent.trace));
        for (iteration, energy) in self.energies.iter_mut().enumerate() {
            *energy = groups.iter().map(|group| group.descent.energies[iteration]).sum();
        }
    }

    /// The sum of the partial gradients of all groups here, into those of the first.
    fn sum_groups(&mut self) {
        let (level, used) = (self.plan.level, self.used);
        let (sums, others) = self.groups.split_at_mut(1);
        let sums = &mut sums[0].gradients;
        if used == 0 {
            return sums.fill(0.0);
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

    /// The sum of the partial gradients of the groups of all ranks: every rank sends the sums of its parts of the tree, cut
    /// into slices, to the ranks that sum those up.
    fn share_sums(&mut self, ranks: &dyn Ranks) {
        let (level, size, own) = (self.plan.level, ranks.size(), ranks.rank());
        let leaves = self.batch_samples.div_ceil(self.plan.images).div_ceil(self.tiles_per_group);
        let all: Vec<Vec<Range<usize>>> = (0..size).map(|rank| parts(leaves, &share(leaves, rank, size))).collect();
        let slice = |rank| share(self.plan.sizes.partial, rank, size);
        let first = share(leaves, own, size).start;
        let add = |values: &[f32], sums: &mut [f32]| elementwise::accumulate(level, values, sums);

        let groups = &self.groups;
        let mut send = vec![0.0; all[own].len() * self.plan.sizes.partial];
        let mut rest = &mut send[..];
        for slice in (0..size).map(slice) {
            for part in &all[own] {
                let sums;
                (sums, rest) = rest.split_at_mut(slice.len());
                for_each_block(sums, |start, sums| {
                    for (start, sums) in (slice.start + start..).step_by(SUMMANDS).zip(sums.chunks_mut(SUMMANDS)) {
                        let place = start..start + sums.len();
                        let leaf = |group: usize| &groups[group - first].gradients[place.clone()];
                        sums.copy_from_slice(leaf(part.start));
                        let known = |range: &Range<usize>| (range.len() == 1).then(|| leaf(range.start));
                        tree_sum(part.clone(), &known, &add, sums);
                    }
                });
            }
        }
        let counts: Vec<usize> = (0..size).map(|rank| all[own].len() * slice(rank).len()).collect();
        let received_counts: Vec<usize> = all.iter().map(|parts| parts.len() * slice(own).len()).collect();
        let mut received = vec![0.0; received_counts.iter().sum()];
        ranks.all_to_all(&send, &counts, &mut received, &received_counts);

        let all: Vec<&Range<usize>> = all.iter().flatten().collect();
        let mine = slice(own);
        let of_part = |part: usize, place: Range<usize>| &received[part * mine.len()..][place];
        let sums = &mut self.groups[0].gradients;
        for_each_block(&mut sums[mine.clone()], |start, sums| {
            for (start, sums) in (start..).step_by(SUMMANDS).zip(sums.chunks_mut(SUMMANDS)) {
                let place = start..start + sums.len();
                sums.copy_from_slice(of_part(0, place.clone()));
                let part = |range: &Range<usize>| {
                    all.binary_search_by_key(&(range.start, range.end), |part| (part.start, part.end))
                };
                let known = |range: &Range<usize>| Some(of_part(part(range).ok()?, place.clone()));
                tree_sum(0..leaves, &known, &add, sums);
            }
        });
        ranks.all_gather(sums, &(0..size).map(|rank| slice(rank).len()).collect::<Vec<_>>());
    }

    /// The rows of the samples of all ranks.
    fn share_rows(&mut self, ranks: &dyn Ranks) {
        let row = self.plan.sizes.row;
        if row > 0 {
            let counts: Vec<usize> = self.samples_of_ranks(ranks).iter().map(|samples| samples * row).collect();
            ranks.all_gather(&mut self.rows[..self.batch_samples * row], &counts);
        }
    }
}

/// Calls `f(start, block)` for the blocks of some values, on several threads if they are many.
fn for_each_block(values: &mut [f32], f: impl Fn(usize, &mut [f32]) + Sync) {
    let block = |(index, block): (usize, &mut [f32])| f(index * REDUCTION_BLOCK, block);
    match values.len() > REDUCTION_BLOCK && pool_threads() > 1 {
        true => values.par_chunks_mut(REDUCTION_BLOCK).enumerate().for_each(block),
        false => block((0, values)),
    }
}
