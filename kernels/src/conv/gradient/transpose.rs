//! Rows of a tensor into the lanes of vectors.

use crate::simd::{MAX_LANES, Simd};

/// Elements of LANES x LANES, at most.
pub(super) const SQUARE: usize = MAX_LANES * MAX_LANES;

/// Transposes `rows` rows of `len` elements, `stride` apart, into the first lanes of vectors `width` apart,
/// with 0 in the lanes beyond. Up to LANES - 1 vectors that follow may be overwritten.
///
/// # Safety
/// The rows must be readable, `rows` at most LANES, and `to` valid for `len` vectors rounded up to a
/// multiple of LANES.
#[inline(always)]
pub(super) unsafe fn transpose<S: Simd>(
    s: S,
    from: *const f32,
    stride: usize,
    [rows, len]: [usize; 2],
    to: *mut f32,
    width: usize,
) {
    let lanes = S::LANES;
    if rows == lanes && len >= lanes {
        for at in (0..len).step_by(lanes) {
            // The last block ends with the rows, and makes some vectors again.
            let at = at.min(len - lanes);
            // SAFETY: `at + LANES <= len` elements of LANES rows are readable, and so many vectors writable.
            unsafe { s.transpose(from.add(at), stride, to.add(at * width), width) };
        }
        return;
    }
    let mut square = [0.0; SQUARE];
    for at in (0..len).step_by(lanes) {
        let n = lanes.min(len - at);
        for row in 0..rows {
            // SAFETY: `at + n <= len` elements of the row are readable; the square has LANES rows.
            unsafe {
                let v = s.load_first(from.add(row * stride + at), n);
                s.store(square.as_mut_ptr().add(row * lanes), v);
            }
        }
        // SAFETY: the square has LANES rows, and `to` room for LANES vectors from each multiple of LANES below `len`.
        unsafe { s.transpose(square.as_ptr(), lanes, to.add(at * width), width) };
    }
}
