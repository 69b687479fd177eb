//! From what the groups found to the gradients of the batch.

use predictive_coding_kernels::{Lhs, MatMut, MatRef, elementwise, gemm, pool_threads};
use rayon::prelude::*;

use super::Session;
use crate::method::Method;
use crate::plan::Step;
use crate::product::WeightGradient;

/// Values of the gradients that one task adds up.
const REDUCTION_BLOCK: usize = 1 << 16;

impl Session {
    /// Adds up what the groups found, in their order, and multiplies what is a product over the batch.
    pub(super) fn reduce(&mut self) {
        let level = self.plan.level;
        let used = self.samples.div_ceil(self.plan.images).div_ceil(self.groups[0].tiles.len());
        let (sums, others) = self.groups[..used].split_at_mut(1);
        let sums = &mut sums[0].gradients;
        for_each_block(sums, |start, sums| {
            for group in &*others {
                elementwise::accumulate(level, &group.gradients[start..start + sums.len()], sums);
            }
        });
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
                        let (row, side) = (self.plan.sizes.row, self.plan.sizes.side);
                        let multiple = multiple * product.scale();
                        for first in (0..row).step_by(side) {
                            let (a, b) = (&self.rows[first + errors.start..], &self.rows[first + inputs.start..]);
                            let a = MatRef::new(a, errors.len(), self.samples, 1, row as isize);
                            let b = MatRef::new(b, self.samples, inputs.len(), row as isize, 1);
                            let out = MatMut::row_major(&mut *out, errors.len(), inputs.len());
                            let beta = if first == 0 { 0.0 } else { 1.0 };
                            gemm(level, multiple, Lhs::Plain(a), b, beta, out, &mut self.gemm_scratch);
                        }
                    }
                }
                if let (Some(partial), Some(bias)) = (&product.partial_bias, &product.bias) {
                    let out = values[bias.clone()].iter_mut();
                    out.zip(&sums[partial.clone()]).for_each(|(out, sum)| *out = multiple * sum);
                }
            }
        }
        let groups = &self.groups[..used];
        for (iteration, energy) in self.energies.iter_mut().enumerate() {
            *energy = groups.iter().map(|group| group.descent.energies[iteration]).sum();
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
