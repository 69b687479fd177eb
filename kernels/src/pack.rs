//! Packing of operands into panels.

use std::ops::Range;

use crate::parallel::for_each_chunk;
use crate::simd::Simd;
use crate::view::MatRef;

/// Packs some rows of a matrix, over some of its columns, the depth, into a panel `[depth][width]`;
/// elements behind the last row are 0.
///
/// # Panics
/// If the rows or the depth are not in the matrix, there are more rows than `width`, or `packed` is too
/// short.
#[inline(always)]
pub(crate) fn pack_panel<S: Simd>(
    s: S,
    from: MatRef<'_>,
    rows: Range<usize>,
    depth: Range<usize>,
    width: usize,
    packed: &mut [f32],
) {
    assert!(rows.end <= from.rows() && depth.end <= from.columns() && rows.len() <= width);
    let packed = &mut packed[..depth.len() * width];
    let (row_stride, depth_stride) = (from.row_stride(), from.column_stride());
    let start = rows.start * row_stride + depth.start * depth_stride;
    if row_stride != 1 && depth_stride != 1 {
        for (k, packed) in packed.chunks_exact_mut(width).enumerate() {
            for (i, packed) in packed[..rows.len()].iter_mut().enumerate() {
                *packed = from.data()[start + i * row_stride + k * depth_stride];
            }
            packed[rows.len()..].fill(0.0);
        }
        return;
    }
    let from = from.data().as_ptr().wrapping_add(start);
    // (first row, rows, elements to write) of the vectors of the panel.
    let vectors = (0..width.div_ceil(S::LANES)).map(|i| i * S::LANES).map(|i| {
        let left = |n: usize| n.saturating_sub(i).min(S::LANES);
        (i, left(rows.len()), left(width))
    });
    if row_stride == 1 && rows.len() == width && width.is_multiple_of(S::LANES) {
        // SAFETY: `width` rows are in the matrix, of whose elements a `MatRef` has all, and `packed` has as many
        // elements for each k.
        unsafe { copy_rows(s, from, depth_stride, packed.as_mut_ptr(), [depth.len(), width]) }
    } else if row_stride == 1 {
        for (k, packed) in packed.chunks_exact_mut(width).enumerate() {
            for (i, filled, wide) in vectors.clone() {
                // SAFETY: `filled` rows from `i` on are in the matrix, `wide` elements from `i` on in the row of the
                // panel.
                unsafe {
                    let v = s.load_first(from.add(k * depth_stride + i), filled);
                    s.store_first(packed.as_mut_ptr().add(i), v, wide);
                }
            }
        }
    } else {
        for (k, packed) in packed.chunks_mut(width * S::LANES).enumerate() {
            for (i, filled, wide) in vectors.clone() {
                let deep = packed.len() / width;
                // SAFETY: as above, for `deep` columns of the matrix and rows of the panel.
                unsafe {
                    let (from, to) = (from.add(i * row_stride + k * S::LANES), packed.as_mut_ptr().add(i));
                    if [filled, deep, wide] == [S::LANES; 3] {
                        s.transpose(from, row_stride, to, width);
                    } else {
                        s.transpose_part(from, row_stride, [filled, deep], to, width, wide);
                    }
                }
            }
        }
    }
}

/// Copies rows of whole vectors.
///
/// # Safety
/// `from` must be valid for `depth` rows of `width` elements, a multiple of LANES, `stride` apart, and
/// `to` for as many one behind the other.
#[inline(always)]
unsafe fn copy_rows<S: Simd>(s: S, from: *const f32, stride: usize, to: *mut f32, [depth, width]: [usize; 2]) {
    for k in 0..depth {
        for i in (0..width).step_by(S::LANES) {
            // SAFETY: a vector from `i` on is inside of row k by contract.
            unsafe { s.store(to.add(k * width + i), s.load(from.add(k * stride + i))) }
        }
    }
}

/// Where element (row, k) of the operand lies: `row * row_stride + (k / inner) * outer_stride + k % inner * inner_stride`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    pub(crate) row_stride: usize,
    pub(crate) outer_stride: usize,
    pub(crate) inner: usize,
    pub(crate) inner_stride: usize,
}

/// Elements of `rows` x `depth` packed into panels of `height` rows.
pub(crate) fn packed_len(rows: usize, depth: usize, height: usize) -> usize {
    rows.next_multiple_of(height) * depth
}

/// Packs `rows` x `depth` elements into panels `[row / height][k][row % height]`; rows beyond the
/// last are 0.
///
/// # Panics
/// If an operand is outside `from`, or `packed` is shorter than [`packed_len`].
pub(crate) fn pack(
    from: &[f32],
    source: Source,
    rows: usize,
    depth: usize,
    height: usize,
    packed: &mut [f32],
    parallel: bool,
) {
    let packed = &mut packed[..packed_len(rows, depth, height)];
    for_each_chunk(parallel, (rows * depth) as u64, packed, depth * height, |panel_index, panel| {
        let first = panel_index * height;
        let filled = height.min(rows - first);
        let mut k = 0;
        for outer in 0..depth.div_ceil(source.inner.max(1)) {
            for inner in 0..source.inner.min(depth - k) {
                let base = first * source.row_stride + outer * source.outer_stride + inner * source.inner_stride;
                let to = &mut panel[k * height..(k + 1) * height];
                for (m, to) in to[..filled].iter_mut().enumerate() {
                    *to = from[base + m * source.row_stride];
                }
                to[filled..].fill(0.0);
                k += 1;
            }
        }
    });
}
