//! Packing of operands into panels.

use std::ops::Range;

use crate::parallel::for_each_chunk;
use crate::simd::Simd;
use crate::view::MatRef;

/// Rows of memory that are asked for ahead of time: each is too short for the caches to foresee the next.
const AHEAD: usize = 12;

/// Packs some rows of a matrix, over some of its columns, the depth, into a panel of `width` elements
/// for each k, `stride` apart; elements behind the last row are 0.
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
    [width, stride]: [usize; 2],
    packed: &mut [f32],
) {
    assert!(rows.end <= from.rows() && depth.end <= from.columns() && rows.len() <= width && width <= stride);
    if rows.is_empty() || depth.is_empty() {
        return;
    }
    let packed = &mut packed[..(depth.len() - 1) * stride + width];
    let (row_stride, depth_stride) = (from.row_stride(), from.column_stride());
    let start = rows.start * row_stride + depth.start * depth_stride;
    if row_stride != 1 && depth_stride != 1 {
        for (k, packed) in packed.chunks_mut(stride).enumerate() {
            for (i, packed) in packed[..rows.len()].iter_mut().enumerate() {
                *packed = from.data()[start + i * row_stride + k * depth_stride];
            }
            packed[rows.len()..width].fill(0.0);
        }
        return;
    }
    let from = from.data()[start..].as_ptr();
    // Whole vectors of rows, then what is left of the width.
    let whole = rows.len() / S::LANES * S::LANES;
    let (filled, wide) = (rows.len() - whole, width - whole);
    for k in (0..depth.len()).step_by(S::LANES) {
        let deep = S::LANES.min(depth.len() - k);
        // SAFETY: the rows and the depth are in the matrix, of whose elements a `MatRef` has all; `packed` has
        // `width` elements for each k.
        unsafe {
            let to = packed.as_mut_ptr().add(k * stride);
            if row_stride == 1 {
                for k_of_block in 0..deep {
                    let from = from.add((k + k_of_block) * depth_stride);
                    let to = to.add(k_of_block * stride);
                    for i in (0..whole).step_by(S::LANES) {
                        s.prefetch(from.wrapping_add(AHEAD.wrapping_mul(depth_stride)).wrapping_add(i));
                        s.store(to.add(i), s.load(from.add(i)));
                    }
                    for i in (0..wide).step_by(S::LANES) {
                        let v = s.load_first(from.wrapping_add(whole + i), filled.saturating_sub(i));
                        s.store_first(to.add(whole + i), v, S::LANES.min(wide - i));
                    }
                }
            } else {
                let from = from.add(k);
                for i in (0..whole).step_by(S::LANES) {
                    let from = from.add(i * row_stride);
                    if deep == S::LANES {
                        s.transpose(from, row_stride, to.add(i), stride);
                    } else {
                        s.transpose_part(from, row_stride, [S::LANES, deep], to.add(i), stride, S::LANES);
                    }
                }
                for i in (0..wide).step_by(S::LANES) {
                    let from = from.wrapping_add((whole + i) * row_stride);
                    let rows = filled.saturating_sub(i);
                    let to = to.add(whole + i);
                    s.transpose_part(from, row_stride, [rows, deep], to, stride, S::LANES.min(wide - i));
                }
            }
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
