//! Rows of a tensor into the lanes of vectors.

use crate::simd::{MAX_LANES, Simd};

/// Elements of LANES x LANES, at most.
pub(super) const SQUARE: usize = MAX_LANES * MAX_LANES;

/// Transposes `rows` rows of `len` elements, `stride` apart, into the first lanes of vectors `width` apart,
/// with 0 in the lanes beyond.
///
/// # Safety
/// The rows must be readable, `rows` at most LANES, and `to` valid for `len` vectors.
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
    for at in (0..len).step_by(lanes) {
        // SAFETY: the rows from `at` on are readable, and as many vectors writable, by contract.
        unsafe {
            if rows == lanes && len >= lanes {
                // The last block ends with the rows, and makes some vectors again.
                let at = at.min(len - lanes);
                s.transpose(from.add(at), stride, to.add(at * width), width);
            } else {
                let columns = lanes.min(len - at);
                s.transpose_part(from.add(at), stride, [rows, columns], to.add(at * width), width, lanes);
            }
        }
    }
}
