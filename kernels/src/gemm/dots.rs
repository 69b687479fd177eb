//! The last columns of a product, too few for a vector: each element is a dot product of a row of A and a
//! column of B, summed in vectors along the depth.

use std::ops::Range;

use crate::gemm::tiles::Output;
use crate::pack::pack_panel;
use crate::simd::{Kernel, Simd};
use crate::view::MatRef;

/// The most columns that are summed so.
pub(super) const MAX_DOTS: usize = 8;

/// Some elements of C, over a block of the depth.
pub(super) struct Dots<'a> {
    /// The rows of A from the block on, and their distance.
    pub(super) lhs: (&'a [f32], usize),
    pub(super) b: MatRef<'a>,
    pub(super) rows: Range<usize>,
    pub(super) depth: Range<usize>,
    pub(super) columns: Range<usize>,
    pub(super) output: Output,
}

/// Copies the columns of B, so that each lies in vectors, and multiplies.
#[inline(always)]
pub(super) fn dots<S: Simd>(s: S, dots: Dots<'_>, scratch: &mut [f32]) {
    let stride = dots.depth.len().next_multiple_of(S::LANES);
    let columns = &mut scratch[..dots.columns.len() * stride];
    pack_panel(s, dots.b, dots.depth.clone(), dots.columns.clone(), [stride; 2], columns);
    match dots.columns.len() {
        1 => s.outlined(Columns::<8, 1>(dots, columns)),
        2 => s.outlined(Columns::<4, 2>(dots, columns)),
        3 => s.outlined(Columns::<3, 3>(dots, columns)),
        4 => s.outlined(Columns::<2, 4>(dots, columns)),
        5 => s.outlined(Columns::<4, 5>(dots, columns)),
        6 => s.outlined(Columns::<4, 6>(dots, columns)),
        7 => s.outlined(Columns::<3, 7>(dots, columns)),
        8 => s.outlined(Columns::<3, 8>(dots, columns)),
        columns => unreachable!("{columns} columns, of at most {MAX_DOTS}"),
    }
}

/// M rows at a time by all N columns.
struct Columns<'a, const M: usize, const N: usize>(Dots<'a>, &'a [f32]);

impl<const M: usize, const N: usize> Kernel for Columns<'_, M, N> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut row = self.0.rows.start;
        while row + M <= self.0.rows.end {
            self.rows::<S, M>(s, row);
            row += M;
        }
        for row in row..self.0.rows.end {
            self.rows::<S, 1>(s, row);
        }
    }
}

impl<const M: usize, const N: usize> Columns<'_, M, N> {
    #[inline(always)]
    fn rows<S: Simd, const R: usize>(&self, s: S, row: usize) {
        let Columns(Dots { lhs: (lhs, row_stride), depth, columns, output, .. }, b) = self;
        let (kc, stride) = (depth.len(), b.len() / N);
        let a = lhs[row * row_stride..].as_ptr();
        let mut sums = [[s.splat(0.0); N]; R];
        let mut k = 0;
        while k < kc {
            // SAFETY: R rows from `row` on have `kc` elements behind `a`, the columns of B whole vectors of them.
            unsafe {
                let mut column = [s.splat(0.0); N];
                for (n, column) in column.iter_mut().enumerate() {
                    *column = s.load(b.as_ptr().add(n * stride + k));
                }
                for (m, sums) in sums.iter_mut().enumerate() {
                    let from = a.add(m * row_stride + k);
                    let v = if k + S::LANES <= kc { s.load(from) } else { s.load_first(from, kc - k) };
                    for (sum, column) in sums.iter_mut().zip(column) {
                        *sum = s.fma(v, column, *sum);
                    }
                }
            }
            k += S::LANES;
        }
        for (m, sums) in sums.iter().enumerate() {
            for (n, &sum) in sums.iter().enumerate() {
                let sum = output.alpha * s.sum(sum);
                let at = (row + m) * output.row_stride + (columns.start + n) * output.column_stride;
                // SAFETY: the rows and columns are those of C.
                unsafe {
                    let out = output.out.add(at);
                    *out = if output.beta == 0.0 { sum } else { output.beta * *out + sum };
                }
            }
        }
        // SAFETY: as above.
        unsafe { output.complete(s, row..row + R, columns.clone()) }
    }
}
