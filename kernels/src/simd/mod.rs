//! The vector type that every kernel is written over, and the way in.
//!
//! A kernel is a struct with one generic method ([`Kernel::run`]); [`dispatch`] enters it once,
//! compiled for the instructions of a [`Level`](crate::Level). Nothing outside of this module and the
//! table of leaves knows an instruction set.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
mod dispatch;
pub(crate) mod portable;

pub(crate) use dispatch::{Kernel, dispatch, lanes};

/// Vectors of f32 and the operations that the kernels need. A value is the proof that the CPU has
/// the instructions: it is made by [`dispatch`] and the table of leaves alone.
///
/// Loads and stores are unsafe because they take pointers; everything else is plain arithmetic.
pub(crate) trait Simd: Copy {
    /// Elements of a vector.
    const LANES: usize;
    /// A vector.
    type V: Copy;
    /// The outcome of a comparison.
    type Mask: Copy;

    fn splat(self, x: f32) -> Self::V;
    /// Asks for the cache line of an address, which may be any, to be brought into the first cache.
    #[inline(always)]
    fn prefetch(self, _: *const f32) {}
    /// Reads LANES elements. The pointer must be valid for them; no alignment is needed.
    unsafe fn load(self, from: *const f32) -> Self::V;
    /// Writes LANES elements. The pointer must be valid for them; no alignment is needed.
    unsafe fn store(self, to: *mut f32, v: Self::V);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// a b + c, rounded once where the CPU can.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger; b if either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; b if either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    fn abs(self, a: Self::V) -> Self::V;
    /// To the nearest integer, ties to even; |a| < 2^22.
    fn round(self, a: Self::V) -> Self::V;
    /// 2^a for an integer a in -126..=127.
    fn exp2i(self, a: Self::V) -> Self::V;
    fn lt(self, a: Self::V, b: Self::V) -> Self::Mask;
    fn eq(self, a: Self::V, b: Self::V) -> Self::Mask;
    fn select(self, mask: Self::Mask, yes: Self::V, no: Self::V) -> Self::V;
    /// The sum of the elements, in an order that depends on LANES alone.
    fn sum(self, v: Self::V) -> f32;

    #[inline(always)]
    fn neg(self, a: Self::V) -> Self::V {
        self.sub(self.splat(-0.0), a)
    }

    /// Writes the transpose of a LANES x LANES block: element (i, j), at `from + i * from_stride + j`,
    /// goes to `to + j * to_stride + i`.
    ///
    /// Both pointers must be valid for LANES rows of LANES elements; the blocks must not overlap.
    unsafe fn transpose(self, from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize);

    /// Writes the transpose of a block of `rows` x `columns`, up to LANES each, `width` <= LANES elements of
    /// each of its columns, of which those behind the last row are 0.
    ///
    /// `from` must be valid for the rows and columns, `to` for `columns` rows of `width` elements; they
    /// must not overlap.
    #[inline(always)]
    unsafe fn transpose_part(
        self,
        from: *const f32,
        from_stride: usize,
        [rows, columns]: [usize; 2],
        to: *mut f32,
        to_stride: usize,
        width: usize,
    ) {
        if [rows, columns, width] == [Self::LANES; 3] {
            // SAFETY: a whole block is valid at both by contract.
            return unsafe { self.transpose(from, from_stride, to, to_stride) };
        }
        if columns <= 2 {
            for j in 0..columns {
                for i in 0..width {
                    // SAFETY: the rows and columns of a part are valid by contract.
                    unsafe { *to.add(j * to_stride + i) = if i < rows { *from.add(i * from_stride + j) } else { 0.0 } };
                }
            }
            return;
        }
        let mut block = [0.0f32; MAX_LANES * MAX_LANES];
        let mut transposed = [0.0f32; MAX_LANES * MAX_LANES];
        // SAFETY: the operands are valid by contract, and the arrays hold LANES x LANES elements.
        unsafe {
            for i in 0..rows {
                let row = self.load_first(from.add(i * from_stride), columns);
                self.store(block.as_mut_ptr().add(i * Self::LANES), row);
            }
            self.transpose(block.as_ptr(), Self::LANES, transposed.as_mut_ptr(), Self::LANES);
            for j in 0..columns {
                let column = self.load(transposed.as_ptr().add(j * Self::LANES));
                self.store_first(to.add(j * to_stride), column, width);
            }
        }
    }

    /// a^2 - square, where `square` is the rounded a^2: from halves of a whose products are exact, since
    /// not every CPU fuses.
    #[inline(always)]
    fn lost_by_square(self, a: Self::V, square: Self::V) -> Self::V {
        let spread = self.mul(a, self.splat(4097.0));
        let high = self.sub(spread, self.sub(spread, a));
        let low = self.sub(a, high);
        let rest = self.sub(self.mul(high, high), square);
        self.add(self.add(rest, self.mul(self.add(high, high), low)), self.mul(low, low))
    }

    /// Reads the first `n` elements, the others are 0. The pointer must be valid for n <= LANES elements.
    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, n: usize) -> Self::V {
        let mut block = [0.0f32; MAX_LANES];
        // SAFETY: n <= LANES <= MAX_LANES elements are valid at `from` by contract, and `block` holds MAX_LANES.
        unsafe {
            std::ptr::copy_nonoverlapping(from, block.as_mut_ptr(), n);
            self.load(block.as_ptr())
        }
    }

    /// Writes the first `n` elements. The pointer must be valid for n <= LANES elements.
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, v: Self::V, n: usize) {
        let mut block = [0.0f32; MAX_LANES];
        // SAFETY: n <= LANES <= MAX_LANES elements are valid at `to` by contract, and `block` holds MAX_LANES.
        unsafe {
            self.store(block.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(block.as_ptr(), to, n);
        }
    }
}

/// Elements of the widest vector of any level.
pub(crate) const MAX_LANES: usize = 16;
