//! Packing of the broadcast operand into panels.

use crate::parallel::for_each_chunk;

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
