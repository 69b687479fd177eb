//! The matrix products of images of one pixel, whose channels lie across the lanes: weights are read where they lie,
//! since each meets few pixels.
//!
//! ```text
//! forward    y[o] = sum over c of W[o][c] x[c]       dot products along the rows
//! backward   x[c] = sum over o of W[o][c] y[o]       rows as vectors, times broadcast elements
//! ```

use std::ops::Range;

use crate::blocking::Blocks;
use crate::combine::Combine;
use crate::conv::check_len;
use crate::dots::Dots;
use crate::elementwise::combine_vectors;
use crate::leaf::{Epilogue, Leaves, Operand, Product, Repeat, Segment, Tap, WIDEST};
use crate::level::Level;
use crate::parallel::{Shared, for_each_task, threads_for};
use crate::simd::MAX_LANES;

/// To read a weight takes as long as so many multiplications and additions where it is reused.
const MEMORY_BOUND: u64 = 8;

/// A matrix `[rows][columns]` by a vector of each image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix {
    pub(crate) level: Level,
    pub(crate) images: usize,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

impl Matrix {
    /// The product with a column of `columns` elements for each image.
    pub(crate) fn forward(&self, weight: &[f32], x: &[f32], combine: Combine<'_>, out: &mut [f32], parallel: bool) {
        let leaves = Leaves::of(self.level);
        self.in_vectors(weight, x, out, [self.columns, self.rows], combine, parallel, |x, vectors, sums| {
            let first = vectors.start * leaves.lanes;
            let rows = (self.rows - first).min(sums.len());
            let a = weight[first * self.columns..].as_ptr();
            let depth = self.columns;
            let dots = Dots { a, step: depth, rows, depth, b: x, stride: 0, columns: 1 };
            // SAFETY: the rows are those of the weights.
            unsafe { dots.each(self.level, |rows, _, products| sums[rows].copy_from_slice(products)) };
        });
    }

    /// The product of the transpose with a column of `rows` elements for each image.
    pub(crate) fn backward(&self, weight: &[f32], y: &[f32], combine: Combine<'_>, out: &mut [f32], parallel: bool) {
        let leaves = Leaves::of(self.level);
        self.in_vectors(weight, y, out, [self.rows, self.columns], combine, parallel, |y, vectors, sums| {
            let first = vectors.start * leaves.lanes;
            let whole = (self.columns - first).min(sums.len()) / leaves.lanes;
            if whole > 0 {
                let segments = [Segment { taps: &[Tap::ORIGIN], depth: self.rows }];
                let product = Product {
                    segments: &segments,
                    a: Operand::new(y.as_ptr(), 0, 1),
                    b: Operand::new(weight[first..].as_ptr(), leaves.lanes, self.columns),
                    down: Repeat::ONCE,
                    across: Repeat::ONCE,
                    ahead: 0,
                    epilogue: Epilogue::store(sums.as_mut_ptr(), 0, leaves.lanes),
                };
                // SAFETY: every row has these vectors, and `y` an element for every row.
                unsafe { leaves.product([1, whole], &product) };
            }
            let (start, end) = (first + whole * leaves.lanes, self.columns.min(first + sums.len()));
            for (row, y) in y[..self.rows].iter().enumerate().filter(|_| start < end) {
                let weights = &weight[row * self.columns..][start..end];
                sums[start - first..].iter_mut().zip(weights).for_each(|(sum, weight)| *sum += weight * y);
            }
        });
    }

    /// Calls `f` for a few vectors of the output of an image at a time, with zeros for their sums, and combines what it
    /// makes.
    #[expect(clippy::too_many_arguments, reason = "the operands of a product, and how it is computed")]
    fn in_vectors(
        &self,
        weight: &[f32],
        from: &[f32],
        out: &mut [f32],
        [depth, len]: [usize; 2],
        combine: Combine<'_>,
        parallel: bool,
        f: impl Fn(&[f32], Range<usize>, &mut [f32]) + Sync,
    ) {
        let lanes = Leaves::of(self.level).lanes;
        let (padded, vectors) = (len.next_multiple_of(lanes), len.div_ceil(lanes));
        check_len("weight", weight.len(), self.rows * self.columns);
        let source_len = depth.next_multiple_of(lanes);
        check_len("source", from.len(), self.images * source_len);
        check_len("output", out.len(), self.images * padded);
        if combine.gamma != 0.0 {
            check_len("third operand", combine.other.len(), out.len());
        }
        if let Some(bias) = combine.bias {
            check_len("bias", bias.len(), len);
        }
        if let Some(step) = combine.step {
            check_len("step", step.len(), self.images);
        }
        let threads = if parallel { threads_for(MEMORY_BOUND * weight.len() as u64) } else { 1 };
        let widest = Leaves::of(self.level).widest(1);
        let most = if threads > 1 { vectors.div_ceil(4 * threads).min(widest) } else { widest };
        let chunks = Blocks::new(vectors, most);
        let out = Shared(out.as_mut_ptr());
        for_each_task(threads > 1, chunks.count(), |chunk| {
            let vectors = chunks.get(chunk);
            let (first, end) = (vectors.start * lanes, vectors.end * lanes);
            let bias = combine.bias.map(|bias| &bias[first..end.min(len)]);
            for (image, from) in from.chunks_exact(source_len).enumerate() {
                let mut sums = [0.0; WIDEST * MAX_LANES];
                let sums = &mut sums[..end - first];
                f(from, vectors.clone(), sums);
                let at = image * padded + first;
                // SAFETY: the vectors are this task's own, and inside the output, whose length was checked.
                let out = unsafe { out.slice(at, sums.len()) };
                let other = if combine.gamma == 0.0 { &[] } else { &combine.other[at..][..sums.len()] };
                let step = combine.step.map(|step| &step[image..=image]);
                combine_vectors(self.level, sums, Combine { other, bias, step, ..combine }, out);
            }
        });
    }
}
