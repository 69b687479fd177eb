//! Packing of operands into panels.

use std::ops::Range;

use crate::blocking::Blocks;
use crate::layout::transpose_lines;
use crate::level::Level;
use crate::parallel::for_each_chunk;
use crate::simd::{self, Kernel, MAX_LANES, Simd, dispatch};
use crate::view::MatRef;

/// Rows of memory that are asked for ahead of time: each is too short for the caches to foresee the next.
const AHEAD: usize = 12;

/// Packs some rows of a matrix, over some of its columns, the depth, into a panel of `width` elements
/// for each k, `stride` apart; elements behind the last row are 0.
///
/// # Panics
/// If the rows or the depth are not in the matrix, there are more rows than `width`, or `packed` is too
/// short.
pub(crate) fn pack_panel(
    level: Level,
    from: MatRef<'_>,
    rows: Range<usize>,
    depth: Range<usize>,
    [width, stride]: [usize; 2],
    packed: &mut [f32],
) {
    let from = from.submatrix(rows, depth);
    assert!(from.rows() <= width && width <= stride, "{} rows for panels of {width}", from.rows());
    if from.rows() == 0 || from.columns() == 0 {
        return;
    }
    let packed = &mut packed[..(from.columns() - 1) * stride + width];
    let [row_stride, depth_stride] = [from.row_stride(), from.column_stride()];
    if (row_stride == 1 && depth_stride >= 0) || (depth_stride == 1 && row_stride >= 0) {
        return dispatch(level, Panel { from, width, stride, packed });
    }
    for (k, packed) in packed.chunks_mut(stride).enumerate() {
        for (i, packed) in packed[..from.rows()].iter_mut().enumerate() {
            *packed = from.at(i, k);
        }
        packed[from.rows()..width].fill(0.0);
    }
}

/// A panel of a matrix whose rows, or whose columns, lie in vectors.
struct Panel<'a> {
    from: MatRef<'a>,
    width: usize,
    stride: usize,
    packed: &'a mut [f32],
}

impl Kernel for Panel<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Panel { from, width, stride, packed } = self;
        let (rows, depth) = (from.rows(), from.columns());
        let [row_stride, depth_stride] = [from.row_stride() as usize, from.column_stride() as usize];
        let (from, to) = (from.pointer(0, 0), packed.as_mut_ptr());
        // Each vector of the width: how many of its rows there are, and its elements.
        let vectors = |first: usize| (S::LANES.min(rows.saturating_sub(first)), S::LANES.min(width - first));
        if row_stride == 1 {
            for k in 0..depth {
                for first in (0..width).step_by(S::LANES) {
                    let (lines, elements) = vectors(first);
                    // SAFETY: the rows and the depth are those of the matrix; `packed` has `width` elements for each k.
                    unsafe {
                        let (from, to) = (from.wrapping_add(k * depth_stride + first), to.add(k * stride + first));
                        if lines == S::LANES {
                            s.prefetch(from.wrapping_add(AHEAD.wrapping_mul(depth_stride)));
                            s.store(to, s.load(from));
                        } else {
                            s.store_first(to, s.load_first(from, lines), elements);
                        }
                    }
                }
            }
            return;
        }
        for first in (0..width).step_by(S::LANES) {
            let ((lines, elements), from) = (vectors(first), from.wrapping_add(first * row_stride));
            // SAFETY: as above.
            unsafe {
                if elements == S::LANES {
                    transpose_lines(s, from, row_stride, [lines, depth], to.add(first), stride);
                    continue;
                }
                for k in (0..depth).step_by(S::LANES) {
                    let (to, deep) = (to.add(k * stride + first), S::LANES.min(depth - k));
                    s.transpose_part(from.wrapping_add(k), row_stride, [lines, deep], to, stride, elements);
                }
            }
        }
    }
}

/// Where the weight of (row, channel, tap) lies: `row * row_stride + channel * channel_stride + tap`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    pub(crate) row_stride: usize,
    pub(crate) channel_stride: usize,
    pub(crate) taps: usize,
}

/// Packs weights into panels of rows, `[panel][channel][tap][height]`, each with the height of the tallest; rows that a
/// panel does not have are 0.
///
/// # Panics
/// If a weight is outside `from`, or `to` has another length than the panels.
pub(crate) fn pack_panels(from: &[f32], source: Source, panels: Blocks, depth: usize, to: &mut [f32], parallel: bool) {
    let height = panels.longest();
    assert!(to.len() == panels.count() * height * depth, "{} elements for {panels:?}", to.len());
    for_each_chunk(parallel, to.len() as u64, to, depth * height, |panel, to| {
        let rows = panels.get(panel);
        for (k, to) in to.chunks_exact_mut(height).enumerate() {
            let base = rows.start * source.row_stride + k / source.taps * source.channel_stride + k % source.taps;
            let (filled, empty) = to.split_at_mut(rows.len());
            for (m, to) in filled.iter_mut().enumerate() {
                *to = from[base + m * source.row_stride];
            }
            empty.fill(0.0);
        }
    });
}

/// Elements of weights packed by [`pack_vectors`].
pub(crate) fn packed_vectors_len(lanes: usize, rows: usize, depth: usize) -> usize {
    rows.next_multiple_of(lanes) * depth
}

/// The place in the depth of a channel's first tap, and the distance of its taps, where channels lie in groups:
/// `[channel / group][tap][channel % group]`, the last of which may be smaller.
pub(crate) fn place_in_depth(channel: usize, channels: usize, group: usize, taps: usize) -> (usize, usize) {
    let first = channel / group * group;
    (first * taps + channel - first, group.min(channels - first))
}

/// Packs weights into vectors of rows, `[row / LANES][channel / group][tap][channel % group][LANES]`; lanes beyond the
/// last row are 0. `channels` are those of the depth and the rows.
///
/// # Panics
/// If a weight is outside `from`, or `packed` has another length than [`packed_vectors_len`].
pub(crate) fn pack_vectors(
    level: Level,
    from: &[f32],
    source: Source,
    channels: [usize; 2],
    group: usize,
    packed: &mut [f32],
    parallel: bool,
) {
    /// Vectors that a task packs together: what it reads for one group lies side by side.
    const VECTORS: usize = 4;
    /// Channels of one tap, which are in order whatever the group, that are packed together: some lines of the cache.
    const CHANNELS: usize = 64;
    struct Pack<'a> {
        from: &'a [f32],
        source: Source,
        rows: usize,
        channels: usize,
        group: usize,
        packed: &'a mut [f32],
    }
    impl Kernel for Pack<'_> {
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let Pack { from, source, rows, channels, group, packed } = self;
            let Source { row_stride, channel_stride, taps } = source;
            assert!(
                from.len() > (rows - 1) * row_stride + (channels - 1) * channel_stride + taps - 1
                    && packed.len() == channels * taps * rows.next_multiple_of(S::LANES),
                "{} weights do not fill vectors of {} elements",
                from.len(),
                packed.len()
            );
            let group = if taps == 1 { CHANNELS } else { group };
            for first in (0..channels).step_by(group) {
                let count = group.min(channels - first);
                for row in (0..rows).step_by(S::LANES) {
                    let rows = S::LANES.min(rows - row);
                    // SAFETY: all weights of the rows are in `from`, and `packed` has a vector for each channel and tap.
                    unsafe {
                        let from = from.as_ptr().add(row * row_stride + first * channel_stride);
                        let to = packed.as_mut_ptr().add(row * channels * taps + first * taps * S::LANES);
                        if row_stride == 1 && taps == 1 {
                            for channel in 0..count {
                                let v = s.load_first(from.add(channel * channel_stride), rows);
                                s.store(to.add(channel * S::LANES), v);
                            }
                            continue;
                        }
                        let [lines, len] = if [channel_stride, taps] == [1, 1] { [1, count] } else { [count, taps] };
                        for line in 0..lines {
                            let (from, to) = (from.add(line * channel_stride), to.add(line * S::LANES));
                            transpose_lines(s, from, row_stride, [rows, len], to, lines * S::LANES);
                        }
                    }
                }
            }
        }
    }
    let lanes = simd::lanes(level);
    let [channels, rows] = channels;
    let depth = channels * source.taps;
    let chunk = VECTORS * lanes;
    for_each_chunk(parallel, (rows * depth) as u64, packed, depth * chunk, |task, packed| {
        let first = task * chunk;
        let from = &from[first * source.row_stride..];
        dispatch(level, Pack { from, source, rows: chunk.min(rows - first), channels, group, packed });
    });
}

/// The reverse of [`pack_vectors`] for weights `[rows][channels][taps]`, times a factor.
pub(crate) fn unpack_vectors(
    level: Level,
    packed: &[f32],
    [channels, rows]: [usize; 2],
    taps: usize,
    group: usize,
    factor: f32,
    to: &mut [f32],
) {
    struct Unpack<'a> {
        packed: &'a [f32],
        channels: usize,
        taps: usize,
        group: usize,
        factor: f32,
        to: &'a mut [f32],
    }
    impl Kernel for Unpack<'_> {
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let Unpack { packed, channels, taps, group, factor, to } = self;
            let depth = channels * taps;
            let rows = to.len() / depth;
            assert!(packed.len() == depth * S::LANES && rows <= S::LANES, "{} sums of {rows} rows", packed.len());
            let mut square = [0.0; MAX_LANES * MAX_LANES];
            let factor = s.splat(factor);
            for channel in 0..channels {
                let (place, step) = place_in_depth(channel, channels, group, taps);
                for first in (0..taps).step_by(S::LANES) {
                    let width = S::LANES.min(taps - first);
                    // SAFETY: `packed` has a vector for each channel and tap, and `to` a row of `depth` for each lane
                    // that is used.
                    unsafe {
                        for tap in 0..width {
                            let from = packed.as_ptr().add((place + (first + tap) * step) * S::LANES);
                            // Of the next group: the caches do not foresee reads that jump from tap to tap.
                            s.prefetch(from.wrapping_add(step * taps * S::LANES));
                            let v = s.load(from);
                            s.store(square.as_mut_ptr().add(tap * S::LANES), s.mul(factor, v));
                        }
                        let to = to.as_mut_ptr().add(channel * taps + first);
                        s.transpose_part(square.as_ptr(), S::LANES, [width, rows], to, depth, width);
                    }
                }
            }
        }
    }
    let lanes = simd::lanes(level);
    let depth = channels * taps;
    for_each_chunk(true, (rows * depth) as u64, to, depth * lanes, |vector, to| {
        let packed = &packed[vector * lanes * depth..][..lanes * depth];
        dispatch(level, Unpack { packed, channels, taps, group, factor, to });
    });
}
