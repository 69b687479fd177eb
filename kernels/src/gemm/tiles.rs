//! Register tiles of a matrix product, one below the other, and how their sums are stored.

use std::ops::Range;

use crate::activation::{Activation, activate_matrix};
use crate::gemm::lhs::{LhsBlock, ROW};
use crate::microkernel::*;
use crate::simd::{Kernel, MAX_LANES, Simd};

/// Where and how sums are stored.
#[derive(Clone, Copy)]
pub(super) struct Output {
    pub(super) alpha: f32,
    pub(super) beta: f32,
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
    pub(super) columns: usize,
    pub(super) out: *mut f32,
    /// What becomes of the sums when they are complete.
    pub(super) then: Option<Then>,
}

/// A bias and an activation.
#[derive(Clone, Copy)]
pub(super) struct Then {
    /// Null for none.
    pub(super) bias: *const f32,
    /// Distances of the biases of neighbouring rows and columns: one of them is 0.
    pub(super) strides: [usize; 2],
    pub(super) activation: Activation,
}

// SAFETY: parts of a product write disjoint rows or columns of the one C that is borrowed mutably.
unsafe impl Send for Output {}
// SAFETY: as above; the pointer is used by `finish` alone.
unsafe impl Sync for Output {}

impl Output {
    pub(super) fn transposed(self, columns: usize) -> Self {
        let then = self.then.map(|then| Then { strides: [then.strides[1], then.strides[0]], ..then });
        Output { row_stride: self.column_stride, column_stride: self.row_stride, columns, then, ..self }
    }

    /// Of one of several blocks of the depth: after the first the output holds the sum so far, and before the
    /// last it is not complete.
    #[inline(always)]
    pub(super) fn of_block(self, first: bool, last: bool) -> Self {
        Output { beta: if first { self.beta } else { 1.0 }, then: self.then.filter(|_| last), ..self }
    }

    /// Adds the bias to some complete sums that were just stored, and activates them.
    ///
    /// # Safety
    /// The rows and columns must be those of C.
    #[inline(always)]
    pub(super) unsafe fn complete<S: Simd>(self, s: S, rows: Range<usize>, columns: Range<usize>) {
        if let Some(Then { bias, strides, activation }) = self.then {
            let out = self.out.wrapping_add(rows.start * self.row_stride + columns.start * self.column_stride);
            let bias = match bias.is_null() {
                true => None,
                false => Some((bias.wrapping_add(rows.start * strides[0] + columns.start * strides[1]), strides)),
            };
            let counts = [rows.len(), columns.len()];
            // SAFETY: the rows and columns are inside of C by contract, and of biases there is one for each row or
            // for each column.
            unsafe { activate_matrix(s, activation, bias, out, [self.row_stride, self.column_stride], counts) }
        }
    }
}

impl Epilogue for Output {
    /// Whole vectors of a row-major C are stored from the registers, any other go through memory. One
    /// operand after the other, in loops that unroll, so that sums stay in registers.
    #[inline(always)]
    unsafe fn finish<S: Simd, const M: usize, const N: usize>(self, s: S, mut sums: [[S::V; N]; M], place: Place) {
        let columns = (self.columns - place.at).min(N * S::LANES);
        if self.alpha != 1.0 {
            let alpha = s.splat(self.alpha);
            for sums in &mut sums {
                for sum in sums {
                    *sum = s.mul(alpha, *sum);
                }
            }
        }
        // SAFETY: rows are inside of C by contract, `columns` ends at its last column; a tile has at most MAX_TILE
        // elements.
        unsafe {
            if columns < N * S::LANES || self.column_stride != 1 {
                let mut tile = [0.0; MAX_TILE];
                for (m, sums) in sums.iter().enumerate() {
                    for (n, &sum) in sums.iter().enumerate() {
                        s.store(tile.as_mut_ptr().add((m * N + n) * S::LANES), sum);
                    }
                }
                let sums = &tile[..M * N * S::LANES];
                return s.outlined(StoreParts { output: self, sums, width: N * S::LANES, columns, place });
            }
            let first = self.out.add(place.row * self.row_stride + place.at);
            if self.beta != 0.0 {
                let beta = s.splat(self.beta);
                for (m, sums) in sums.iter_mut().enumerate() {
                    for (n, sum) in sums.iter_mut().enumerate() {
                        let old = s.load(first.add(m * self.row_stride + n * S::LANES));
                        *sum = s.add(s.mul(beta, old), *sum);
                    }
                }
            }
            for (m, sums) in sums.iter().enumerate() {
                for (n, &sum) in sums.iter().enumerate() {
                    s.store(first.add(m * self.row_stride + n * S::LANES), sum);
                }
            }
        }
    }
}

/// Stores the first `columns` of the `width` columns of a tile that is not whole vectors of C, with the
/// arithmetic of vectors. They are columns of C, and the rows of `place` rows of it.
struct StoreParts<'a> {
    output: Output,
    sums: &'a [f32],
    width: usize,
    columns: usize,
    place: Place,
}

impl Kernel for StoreParts<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let StoreParts { output, sums, width, columns, place } = self;
        for (m, sums) in sums.chunks_exact(width).enumerate() {
            let row = output.out.wrapping_add((place.row + m) * output.row_stride + place.at * output.column_stride);
            // SAFETY: the row and the columns are inside of C.
            unsafe {
                if output.column_stride == 1 {
                    for n in (0..columns).step_by(S::LANES) {
                        let (out, part) = (row.add(n), (columns - n).min(S::LANES));
                        let sum = s.load(sums[n..n + S::LANES].as_ptr());
                        let old = || s.mul(s.splat(output.beta), s.load_first(out, part));
                        s.store_first(out, if output.beta == 0.0 { sum } else { s.add(old(), sum) }, part);
                    }
                } else {
                    for (n, &sum) in sums[..columns].iter().enumerate() {
                        let out = row.add(n * output.column_stride);
                        *out = if output.beta == 0.0 { sum } else { output.beta * *out + sum };
                    }
                }
            }
        }
    }
}

/// Elements of the largest tile: fewer vectors than registers.
const MAX_TILE: usize = 32 * MAX_LANES;

/// Tiles of the same size: `down` of them one below the other, and `across` such columns of tiles.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    /// For each k, vectors of B.
    pub(super) b: *const f32,
    /// Distance of the vectors of the next column of tiles.
    pub(super) b_step: usize,
    pub(super) depth: Strided,
    /// The first row.
    pub(super) row: usize,
    pub(super) down: usize,
    /// The first column.
    pub(super) column: usize,
    pub(super) across: usize,
    pub(super) output: Output,
    pub(super) next: Option<Next>,
}

/// The part of B that will be packed when the tiles are done, to be brought near meanwhile.
#[derive(Clone, Copy)]
pub(super) struct Next {
    pub(super) from: *const f32,
    pub(super) rows: usize,
    pub(super) stride: usize,
}

/// Multiplies tiles of `height` rows and `vectors` vectors.
#[inline(always)]
pub(super) fn multiply_tiles<S: Simd>(s: S, lhs: LhsBlock<'_>, [height, vectors]: [usize; 2], tiles: &Tiles) {
    match lhs {
        LhsBlock::Rows(rows, first) => {
            let a = rows[(tiles.row - first) * ROW..].as_ptr();
            with_tile!(height, vectors, tiles_of::<S, Rows<ROW>>(s, a, height * ROW, Rows, tiles));
        }
        LhsBlock::Matrix(a, k) => {
            let (row_stride, depth_stride) = (a.row_stride(), a.column_stride());
            let broadcast = Matrix { row_stride, depth_stride };
            let a = a.data().as_ptr().wrapping_add(tiles.row * row_stride + k * depth_stride);
            with_tile!(height, vectors, tiles_of::<S, Matrix>(s, a, height * row_stride, broadcast, tiles));
        }
    }
}

/// The rows of the first tile start at `a`, those of each next one `step` elements further.
#[inline(always)]
fn tiles_of<S: Simd, A: Broadcast, const M: usize, const N: usize>(
    s: S,
    a: *const f32,
    step: usize,
    broadcast: A,
    tiles: &Tiles,
) {
    struct Outlined<'a, A, const M: usize, const N: usize> {
        a: *const f32,
        step: usize,
        broadcast: A,
        tiles: &'a Tiles,
    }
    impl<A: Broadcast, const M: usize, const N: usize> Kernel for Outlined<'_, A, M, N> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let Outlined { a, step, broadcast, tiles } = self;
            for across in 0..tiles.across {
                let b = tiles.b.wrapping_add(across * tiles.b_step);
                let at = tiles.column + across * N * S::LANES;
                for down in 0..tiles.down {
                    // SAFETY: `a` is whole panels, or rows inside of A; `b` holds N vectors for each k (packed or
                    // inside B); the rows and the first column handed to the epilogue are inside C.
                    unsafe {
                        let a = a.wrapping_add(down * step);
                        let sums = multiply::<S, A, Strided, M, N>(s, a, broadcast, b, S::LANES, tiles.depth);
                        let place = Place { row: tiles.row + down * M, rows: M, at, step: S::LANES };
                        tiles.output.finish(s, sums, place);
                        let end = tiles.output.columns.min(at + N * S::LANES);
                        tiles.output.complete(s, place.row..place.row + M, at..end);
                    }
                    if let Some(Next { from, rows, stride }) = tiles.next {
                        for k in down * rows / tiles.down..(down + 1) * rows / tiles.down {
                            for n in 0..N {
                                s.prefetch(from.wrapping_add(k * stride + (across * N + n) * S::LANES));
                            }
                        }
                    }
                }
            }
        }
    }
    if N > tile_width(S::REGISTERS, M) {
        unreachable!("tiles are cut to the level's width");
    }
    s.outlined(Outlined::<'_, A, M, N> { a, step, broadcast, tiles });
}
