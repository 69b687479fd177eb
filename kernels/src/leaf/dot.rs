//! The microkernel of dot products along vectors, whose lanes are added up by others.
//!
//! ```text
//! C[m][n][lane] += sum over rows r and vectors v of  A[m * step + ...][lane] * B[offsets[n] + ...][lane]
//! ```
//!
//! A tile of M by N loads M + N vectors for M N products.

use crate::simd::Simd;

/// Vectors at equal distances in both operands.
#[derive(Clone, Copy)]
pub(crate) struct Walk {
    pub(crate) count: usize,
    pub(crate) a: usize,
    pub(crate) b: usize,
}

/// Some dot products.
#[derive(Clone, Copy)]
pub(crate) struct Dot<'a> {
    pub(crate) a: *const f32,
    /// Distance of the rows of A.
    pub(crate) step: usize,
    pub(crate) b: *const f32,
    /// Of each row of B, and of its sums.
    pub(crate) offsets: &'a [[usize; 2]],
    pub(crate) rows: Walk,
    pub(crate) vectors: Walk,
    /// The vectors that are added to, and the distance of those of neighbouring rows of A.
    pub(crate) sums: *mut f32,
    pub(crate) sums_step: usize,
}

/// Dot products of M rows of A with N rows of B.
///
/// # Safety
/// There must be N offsets; the vectors of the walks must be readable from each row of A and of B, and the sums
/// readable and writable.
#[inline(always)]
pub(super) unsafe fn dot<S: Simd, const M: usize, const N: usize>(s: S, dot: &Dot<'_>) {
    let Dot { a, step, b, offsets, rows, vectors, sums, sums_step } = *dot;
    // SAFETY: as the caller promises.
    unsafe {
        let offsets = &*offsets.as_ptr().cast::<[[usize; 2]; N]>();
        let place = |m: usize, n: usize| sums.add(m * sums_step + offsets[n][1]);
        let mut tile: [[S::V; N]; M] = std::array::from_fn(|m| std::array::from_fn(|n| s.load(place(m, n))));
        for row in 0..rows.count {
            let mut a = a.wrapping_add(row * rows.a);
            let mut b = b.wrapping_add(row * rows.b);
            for _ in 0..vectors.count {
                let right: [S::V; N] = std::array::from_fn(|n| s.load(b.add(offsets[n][0])));
                for (m, sums) in tile.iter_mut().enumerate() {
                    let left = s.load(a.add(m * step));
                    for (sum, right) in sums.iter_mut().zip(right) {
                        *sum = s.fma(left, right, *sum);
                    }
                }
                a = a.wrapping_add(vectors.a);
                b = b.wrapping_add(vectors.b);
            }
        }
        for (m, sums) in tile.into_iter().enumerate() {
            for (n, sum) in sums.into_iter().enumerate() {
                s.store(place(m, n), sum);
            }
        }
    }
}
