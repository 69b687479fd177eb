//! The vector type that every kernel is written over, and the way in.
//!
//! A kernel is a struct with one generic method ([`Kernel::run`]); [`dispatch`] enters it once,
//! compiled for the instructions of a [`Level`](crate::Level). Nothing outside of this module
//! knows an instruction set.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod dispatch;
mod portable;

pub(crate) use dispatch::{Kernel, dispatch, lanes, registers, widths};

/// Vectors of f32 and the operations that the kernels need. A value is the proof that the CPU has
/// the instructions: it is made by [`dispatch`] alone.
///
/// Loads and stores are unsafe because they take pointers; everything else is plain arithmetic.
pub(crate) trait Simd: Copy {
    /// Elements of a vector.
    const LANES: usize;
    /// Vectors that the registers hold.
    const REGISTERS: usize;

    /// Vectors in the widest register tile of 1, 2, ... rows of a product of lanes: enough sums to hide
    /// the latency of the units, as few loads for each as the registers allow.
    const WIDTHS: [usize; MAX_ROWS];

    /// A vector.
    type V: Copy;
    /// The outcome of a comparison.
    type Mask: Copy;

    /// Runs a kernel in a function of its own, for the loops around a register tile: inlined among its
    /// sisters it would have to share the registers with them.
    fn outlined<K: Kernel<Output = ()>>(self, kernel: K);
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

    /// The elements at even places of both, one after the other, and those at odd places.
    #[inline(always)]
    fn split_pairs(self, a: Self::V, b: Self::V) -> (Self::V, Self::V) {
        let mut pairs = [0.0f32; 2 * MAX_LANES];
        let (mut even, mut odd) = ([0.0f32; MAX_LANES], [0.0f32; MAX_LANES]);
        // SAFETY: the arrays hold two and one vector of any level.
        unsafe {
            self.store(pairs.as_mut_ptr(), a);
            self.store(pairs.as_mut_ptr().add(Self::LANES), b);
            for i in 0..Self::LANES {
                even[i] = pairs[2 * i];
                odd[i] = pairs[2 * i + 1];
            }
            (self.load(even.as_ptr()), self.load(odd.as_ptr()))
        }
    }

    /// The elements of both in turn, as two vectors: undoes [`split_pairs`](Self::split_pairs).
    #[inline(always)]
    fn join_pairs(self, even: Self::V, odd: Self::V) -> (Self::V, Self::V) {
        let mut pairs = [0.0f32; 2 * MAX_LANES];
        let (mut evens, mut odds) = ([0.0f32; MAX_LANES], [0.0f32; MAX_LANES]);
        // SAFETY: the arrays hold two and one vector of any level.
        unsafe {
            self.store(evens.as_mut_ptr(), even);
            self.store(odds.as_mut_ptr(), odd);
            for i in 0..Self::LANES {
                pairs[2 * i] = evens[i];
                pairs[2 * i + 1] = odds[i];
            }
            (self.load(pairs.as_ptr()), self.load(pairs.as_ptr().add(Self::LANES)))
        }
    }

    /// As [`transpose`](Self::transpose), past the caches where the CPU can: for more than they hold.
    /// [`fence`](Self::fence) must follow before anybody reads the block.
    ///
    /// Rows of `to` must begin at multiples of a vector's size.
    #[inline(always)]
    unsafe fn transpose_past_caches(self, from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: the same contract.
        unsafe { self.transpose(from, from_stride, to, to_stride) }
    }

    /// Orders what was written past the caches before all that is written afterwards.
    #[inline(always)]
    fn fence(self) {}

    /// Asks for the cache line of an address, valid or not, to be brought to the second-level cache.
    #[inline(always)]
    fn prefetch_to_second(self, _: *const f32) {}

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

/// Rows of the tallest register tile.
pub(crate) const MAX_ROWS: usize = 12;
