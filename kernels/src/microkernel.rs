//! The register tile that every product runs on.
//!
//! ```text
//! C[m, n] = sum over k of A[m, k] * B[offset(k) + n * step + lane]
//! ```
//!
//! for M rows by N vectors, held in registers from the first k to the last. A is packed into
//! panels `[k][M]`, or read where it lies ([`Broadcast`]); B is whatever memory holds the
//! activations, addressed by a [`Depth`], so that a matrix, a convolution and its transpose differ in
//! nothing but their addresses and no patch is ever copied. An [`Epilogue`] takes the sums while they are still in registers.

use crate::buffer::LINE;
use crate::combine::Combine;
use crate::simd::{MAX_ROWS, Simd};

/// The addresses of the K products that an element sums.
pub(crate) trait Depth: Copy {
    /// K.
    fn len(self) -> usize;
    /// For k < K: the row of the packed panel, and the offset in B in elements.
    ///
    /// # Safety
    /// k must be less than `len()`.
    unsafe fn at(self, k: usize) -> (usize, usize);
}

/// Rows of B `stride` elements apart: matrices.
#[derive(Clone, Copy)]
pub(crate) struct Strided {
    pub(crate) len: usize,
    pub(crate) stride: usize,
}

impl Depth for Strided {
    #[inline(always)]
    fn len(self) -> usize {
        self.len
    }
    #[inline(always)]
    unsafe fn at(self, k: usize) -> (usize, usize) {
        (k, k * self.stride)
    }
}

/// The addresses of the elements of A, each of which is broadcast over a vector.
pub(crate) trait Broadcast: Copy {
    /// The offset of row m < M of the tile at panel row k.
    fn offset<const M: usize>(self, m: usize, k: usize) -> usize;
    /// What is worth asking for at panel row k, ahead of time: the caches' own prediction comes late for a
    /// stream that is as slow as this.
    fn ahead<const M: usize>(self, _k: usize) -> Option<usize> {
        None
    }
}

/// A panel `[k][M]`.
#[derive(Clone, Copy)]
pub(crate) struct Panel;

impl Broadcast for Panel {
    #[inline(always)]
    fn offset<const M: usize>(self, m: usize, k: usize) -> usize {
        k * M + m
    }
}

/// Rows at a distance that is known to the compiler, so that one register addresses them all, and that
/// spreads them over the sets of the caches.
#[derive(Clone, Copy)]
pub(crate) struct Rows<const STRIDE: usize>;

impl<const STRIDE: usize> Broadcast for Rows<STRIDE> {
    #[inline(always)]
    fn offset<const M: usize>(self, m: usize, k: usize) -> usize {
        m * STRIDE + k
    }
    #[inline(always)]
    fn ahead<const M: usize>(self, k: usize) -> Option<usize> {
        Some((k % LINE).min(M - 1) * STRIDE + k + LINE)
    }
}

/// A matrix with any strides.
#[derive(Clone, Copy)]
pub(crate) struct Matrix {
    pub(crate) row_stride: usize,
    pub(crate) depth_stride: usize,
}

impl Broadcast for Matrix {
    #[inline(always)]
    fn offset<const M: usize>(self, m: usize, k: usize) -> usize {
        m * self.row_stride + k * self.depth_stride
    }
}

/// One entry of a table of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tap {
    /// The row of the packed panel: which (channel, tap) of the kernel.
    pub(crate) row: u32,
    /// Offset in elements from the first operand of the run.
    pub(crate) offset: u32,
}

impl Tap {
    /// # Panics
    /// If either does not fit 32 bits.
    pub(crate) fn new(row: usize, offset: usize) -> Self {
        let narrow = |n: usize| {
            u32::try_from(n)
                .unwrap_or_else(|_| panic!("weights or a padded block of {n} elements, expected less than 2^32"))
        };
        Tap { row: narrow(row), offset: narrow(offset) }
    }
}

/// Addresses from a table: convolutions, where the table is the im2col matrix.
impl Depth for &[Tap] {
    #[inline(always)]
    fn len(self) -> usize {
        <[Tap]>::len(self)
    }
    #[inline(always)]
    unsafe fn at(self, k: usize) -> (usize, usize) {
        // SAFETY: k < len() by contract.
        let tap = unsafe { self.get_unchecked(k) };
        (tap.row as usize, tap.offset as usize)
    }
}

/// What becomes of the sums of a tile while they are still in registers.
pub(crate) trait Epilogue: Copy {
    /// Takes the first `place.rows` rows of the tile.
    ///
    /// # Safety
    /// Those rows of `place`, and LANES elements at each of its vectors, must be inside of what the
    /// epilogue reads and writes.
    unsafe fn finish<S: Simd, const M: usize, const N: usize>(self, s: S, sums: [[S::V; N]; M], place: Place);
}

/// Where a tile lies in the output.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// The row of the output that the first row of the tile is.
    pub(crate) row: usize,
    /// Rows of the tile that are in the output.
    pub(crate) rows: usize,
    /// Offset of the first vector in its row.
    pub(crate) at: usize,
    /// Distance of the vectors of a row.
    pub(crate) step: usize,
}

/// [`Combine`] as the kernels use it, on rows `row_stride` elements apart.
#[derive(Clone, Copy)]
pub(crate) struct LinearEpilogue {
    alpha: f32,
    beta: f32,
    gamma: f32,
    other: *const f32,
    /// Null for none.
    bias: *const f32,
    /// Null for none.
    step: *const f32,
    out: *mut f32,
    row_stride: usize,
}

impl LinearEpilogue {
    pub(crate) fn new(combine: &Combine<'_>, out: &mut [f32], row_stride: usize) -> Self {
        let out = out.as_mut_ptr();
        LinearEpilogue {
            alpha: combine.alpha,
            beta: combine.beta,
            gamma: combine.gamma,
            // A step, which reads the output in any case, needs no way of its own for want of a third operand.
            other: if combine.gamma == 0.0 { out.cast_const() } else { combine.other.as_ptr() },
            bias: combine.bias.map_or(std::ptr::null(), |bias| bias.as_ptr()),
            step: combine.step.map_or(std::ptr::null(), |step| step.as_ptr()),
            out,
            row_stride,
        }
    }

    /// One vector, `sums` of row `row`.
    ///
    /// # Safety
    /// As for [`Epilogue::finish`].
    #[inline(always)]
    pub(crate) unsafe fn combine<S: Simd>(self, s: S, row: usize, at: usize, sum: S::V) {
        // SAFETY: as the caller promises.
        unsafe {
            let bias = self.bias(row);
            match (self.gamma != 0.0, self.beta != 0.0) {
                _ if !self.step.is_null() => self.take_step(s, bias, at, sum),
                (false, false) => self.store::<S, true, false, false>(s, bias, at, sum),
                (true, false) => self.store::<S, true, true, false>(s, bias, at, sum),
                (false, true) => self.store::<S, true, false, true>(s, bias, at, sum),
                (true, true) => self.store::<S, true, true, true>(s, bias, at, sum),
            }
        }
    }

    /// The bias of a row, or else what changes no sum.
    ///
    /// # Safety
    /// The row must be one of the output.
    #[inline(always)]
    unsafe fn bias(self, row: usize) -> f32 {
        // SAFETY: a bias has an element for every row.
        if self.bias.is_null() { -0.0 } else { unsafe { *self.bias.add(row) } }
    }

    /// # Safety
    /// LANES elements from `at` must be inside the output, and inside the operands that are read.
    #[inline(always)]
    unsafe fn store<S: Simd, const SCALE: bool, const OTHER: bool, const OUT: bool>(
        self,
        s: S,
        bias: f32,
        at: usize,
        sum: S::V,
    ) {
        let bias = s.splat(bias);
        // SAFETY: as the caller promises.
        unsafe {
            // An addition need not wait for the units that multiply.
            let mut v = if SCALE { s.fma(s.splat(self.alpha), sum, bias) } else { s.add(sum, bias) };
            if OTHER {
                v = s.fma(s.splat(self.gamma), s.load(self.other.add(at)), v);
            }
            if OUT {
                v = s.fma(s.splat(self.beta), s.load(self.out.add(at)), v);
            }
            s.store(self.out.add(at), v);
        }
    }

    /// # Safety
    /// As for [`store`](Self::store); there must be a factor for every lane.
    #[inline(always)]
    unsafe fn take_step<S: Simd>(self, s: S, bias: f32, at: usize, sum: S::V) {
        // SAFETY: as the caller promises.
        unsafe {
            let own = s.load(self.out.add(at));
            let v = s.fma(s.splat(self.alpha), sum, s.splat(bias));
            let v = s.fma(s.splat(self.gamma), s.load(self.other.add(at)), v);
            let v = s.fma(s.splat(self.beta), own, v);
            s.store(self.out.add(at), s.fma(s.load(self.step), v, own));
        }
    }

    /// # Safety
    /// As for [`Epilogue::finish`].
    #[inline(always)]
    unsafe fn step_tile<S: Simd, const M: usize, const N: usize>(self, s: S, sums: [[S::V; N]; M], place: Place) {
        for (m, sums) in sums.into_iter().enumerate().take(place.rows) {
            let row = place.row + m;
            // SAFETY: the row and its vectors are inside the operands by contract.
            unsafe {
                let bias = self.bias(row);
                for (n, sum) in sums.into_iter().enumerate() {
                    self.take_step(s, bias, row * self.row_stride + place.at + n * place.step, sum);
                }
            }
        }
    }

    /// # Safety
    /// As for [`Epilogue::finish`].
    #[inline(always)]
    unsafe fn store_tile<
        S: Simd,
        const SCALE: bool,
        const OTHER: bool,
        const OUT: bool,
        const M: usize,
        const N: usize,
    >(
        self,
        s: S,
        sums: [[S::V; N]; M],
        place: Place,
    ) {
        for (m, sums) in sums.into_iter().enumerate() {
            if m == place.rows {
                return;
            }
            let row = place.row + m;
            // SAFETY: the row and its vectors are inside the operands by contract.
            unsafe {
                let bias = self.bias(row);
                for (n, sum) in sums.into_iter().enumerate() {
                    let at = row * self.row_stride + place.at + n * place.step;
                    self.store::<S, SCALE, OTHER, OUT>(s, bias, at, sum);
                }
            }
        }
    }
}

impl Epilogue for LinearEpilogue {
    /// Asks once per tile which operands there are: sums that are chosen by a branch each would go
    /// through memory.
    #[inline(always)]
    unsafe fn finish<S: Simd, const M: usize, const N: usize>(self, s: S, sums: [[S::V; N]; M], place: Place) {
        // SAFETY: as the caller promises.
        unsafe {
            match (self.alpha != 1.0, self.gamma != 0.0, self.beta != 0.0) {
                _ if !self.step.is_null() => self.step_tile(s, sums, place),
                (false, false, false) => self.store_tile::<S, false, false, false, M, N>(s, sums, place),
                (true, false, false) => self.store_tile::<S, true, false, false, M, N>(s, sums, place),
                (_, true, false) => self.store_tile::<S, true, true, false, M, N>(s, sums, place),
                (_, false, true) => self.store_tile::<S, true, false, true, M, N>(s, sums, place),
                (_, true, true) => self.store_tile::<S, true, true, true, M, N>(s, sums, place),
            }
        }
    }
}

/// The sums of an M x N tile.
///
/// # Safety
/// For every k < K, the M elements that `broadcast` finds for panel row `at(k).0` must be readable
/// from `a`, and LANES elements from `at(k).1 + n * step` from `b` for n < N.
#[inline(always)]
pub(crate) unsafe fn multiply<S: Simd, A: Broadcast, D: Depth, const M: usize, const N: usize>(
    s: S,
    a: *const f32,
    broadcast: A,
    b: *const f32,
    step: usize,
    depth: D,
) -> [[S::V; N]; M] {
    let mut sums = [[s.splat(0.0); N]; M];
    for k in 0..depth.len() {
        // SAFETY: k < K; the addresses are valid by contract.
        unsafe {
            let (row, offset) = depth.at(k);
            if let Some(ahead) = broadcast.ahead::<M>(row) {
                s.prefetch(a.wrapping_add(ahead));
            }
            // The fewer operands stay in registers, the others pass.
            if M < N {
                let mut w = [s.splat(0.0); M];
                for (m, w) in w.iter_mut().enumerate() {
                    *w = s.splat(*a.add(broadcast.offset::<M>(m, row)));
                }
                for n in 0..N {
                    let v = s.load(b.add(offset + n * step));
                    for (sums, w) in sums.iter_mut().zip(w) {
                        sums[n] = s.fma(w, v, sums[n]);
                    }
                }
            } else {
                let mut v = [s.splat(0.0); N];
                for (n, v) in v.iter_mut().enumerate() {
                    *v = s.load(b.add(offset + n * step));
                }
                for (m, sums) in sums.iter_mut().enumerate() {
                    let w = s.splat(*a.add(broadcast.offset::<M>(m, row)));
                    for (sum, v) in sums.iter_mut().zip(v) {
                        *sum = s.fma(w, v, *sum);
                    }
                }
            }
        }
    }
    sums
}

/// Vectors in a tile of `rows` rows: as many as leave registers for a vector of B each and for one
/// of A.
#[inline(always)]
pub(crate) fn tile_width(registers: usize, rows: usize) -> usize {
    ((registers - 1) / (rows + 1)).clamp(1, WIDEST)
}

/// Vectors of the widest tile.
pub(crate) const WIDEST: usize = 8;

/// Rows of a tile of two vectors or more, of which one row needs a register and each vector one for
/// every row.
#[inline(always)]
pub(crate) fn tallest_tile<S: Simd>(_: S) -> usize {
    ((S::REGISTERS - 1) / 2 - 1).min(MAX_ROWS)
}

/// Calls `$call::<M, N>` with the constants for a height of at most [`MAX_ROWS`] and a width of at
/// most [`tile_width`].
macro_rules! with_tile {
    ($rows:expr, $columns:expr, $function:ident :: < $($generic:ty),* > $arguments:tt) => {
        match ($rows, $columns) {
            (1, 1) => $function::<$($generic,)* 1, 1> $arguments,
            (1, 2) => $function::<$($generic,)* 1, 2> $arguments,
            (1, 3) => $function::<$($generic,)* 1, 3> $arguments,
            (1, 4) => $function::<$($generic,)* 1, 4> $arguments,
            (1, 5) => $function::<$($generic,)* 1, 5> $arguments,
            (1, 6) => $function::<$($generic,)* 1, 6> $arguments,
            (1, 7) => $function::<$($generic,)* 1, 7> $arguments,
            (1, 8) => $function::<$($generic,)* 1, 8> $arguments,
            (2, 1) => $function::<$($generic,)* 2, 1> $arguments,
            (2, 2) => $function::<$($generic,)* 2, 2> $arguments,
            (2, 3) => $function::<$($generic,)* 2, 3> $arguments,
            (2, 4) => $function::<$($generic,)* 2, 4> $arguments,
            (2, 5) => $function::<$($generic,)* 2, 5> $arguments,
            (2, 6) => $function::<$($generic,)* 2, 6> $arguments,
            (2, 7) => $function::<$($generic,)* 2, 7> $arguments,
            (2, 8) => $function::<$($generic,)* 2, 8> $arguments,
            (3, 1) => $function::<$($generic,)* 3, 1> $arguments,
            (3, 2) => $function::<$($generic,)* 3, 2> $arguments,
            (3, 3) => $function::<$($generic,)* 3, 3> $arguments,
            (3, 4) => $function::<$($generic,)* 3, 4> $arguments,
            (3, 5) => $function::<$($generic,)* 3, 5> $arguments,
            (3, 6) => $function::<$($generic,)* 3, 6> $arguments,
            (3, 7) => $function::<$($generic,)* 3, 7> $arguments,
            (4, 1) => $function::<$($generic,)* 4, 1> $arguments,
            (4, 2) => $function::<$($generic,)* 4, 2> $arguments,
            (4, 3) => $function::<$($generic,)* 4, 3> $arguments,
            (4, 4) => $function::<$($generic,)* 4, 4> $arguments,
            (4, 5) => $function::<$($generic,)* 4, 5> $arguments,
            (4, 6) => $function::<$($generic,)* 4, 6> $arguments,
            (5, 1) => $function::<$($generic,)* 5, 1> $arguments,
            (5, 2) => $function::<$($generic,)* 5, 2> $arguments,
            (5, 3) => $function::<$($generic,)* 5, 3> $arguments,
            (5, 4) => $function::<$($generic,)* 5, 4> $arguments,
            (5, 5) => $function::<$($generic,)* 5, 5> $arguments,
            (6, 1) => $function::<$($generic,)* 6, 1> $arguments,
            (6, 2) => $function::<$($generic,)* 6, 2> $arguments,
            (6, 3) => $function::<$($generic,)* 6, 3> $arguments,
            (6, 4) => $function::<$($generic,)* 6, 4> $arguments,
            (7, 1) => $function::<$($generic,)* 7, 1> $arguments,
            (7, 2) => $function::<$($generic,)* 7, 2> $arguments,
            (7, 3) => $function::<$($generic,)* 7, 3> $arguments,
            (8, 1) => $function::<$($generic,)* 8, 1> $arguments,
            (8, 2) => $function::<$($generic,)* 8, 2> $arguments,
            (8, 3) => $function::<$($generic,)* 8, 3> $arguments,
            (9, 1) => $function::<$($generic,)* 9, 1> $arguments,
            (9, 2) => $function::<$($generic,)* 9, 2> $arguments,
            (9, 3) => $function::<$($generic,)* 9, 3> $arguments,
            (10, 1) => $function::<$($generic,)* 10, 1> $arguments,
            (10, 2) => $function::<$($generic,)* 10, 2> $arguments,
            (11, 1) => $function::<$($generic,)* 11, 1> $arguments,
            (11, 2) => $function::<$($generic,)* 11, 2> $arguments,
            (12, 1) => $function::<$($generic,)* 12, 1> $arguments,
            (12, 2) => $function::<$($generic,)* 12, 2> $arguments,
            (rows, columns) => unreachable!("no tile of {rows} x {columns}"),
        }
    };
}
pub(crate) use with_tile;
