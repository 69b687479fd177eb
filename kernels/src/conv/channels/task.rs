//! The work of a thread: some panels of channels over a block of the result.

use std::ops::Range;

use crate::conv::channels::ChannelProduct;
use crate::conv::channels::blocks::Blocks;
use crate::conv::channels::tile::{Tile, multiply, with_tile};
use crate::conv::copy::{Copy, Prefetch};
use crate::simd::{Kernel, MAX_LANES, Simd};

/// Some panels of a block.
pub(super) struct Task<'a> {
    pub(super) product: &'a ChannelProduct,
    pub(super) packed: &'a [f32],
    pub(super) bias: &'a [f32],
    /// An image of the source, and one of the result.
    pub(super) from: &'a [f32],
    pub(super) out: *mut f32,
    pub(super) rows: Range<usize>,
    pub(super) columns: Range<usize>,
    pub(super) direct: bool,
    pub(super) panels: Range<usize>,
    pub(super) copy: &'a mut [f32],
    pub(super) sums: &'a mut [f32],
    pub(super) prefetch: Prefetch,
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let product = self.product;
        let window = &product.window;
        let source_rows = window.source_rows(self.rows.clone());
        let reach = window.source_columns(self.columns.clone());
        let &Blocks { comb_pitch, row_pitch, plane, .. } = &product.blocks;
        let (source, plane, row_pitch) = if self.direct {
            let plane = product.source[0] * product.source[1];
            let first = source_rows.start * product.source[1] + reach.start as usize;
            (self.from.as_ptr().wrapping_add(first), plane, product.source[1])
        } else {
            Copy {
                from: self.from,
                size: product.source,
                used_rows: &product.used_rows,
                rows: source_rows.start as isize..source_rows.end as isize,
                columns: reach,
                combs: window.combs,
                used_combs: &product.used_combs,
                comb_pitch,
                row_pitch,
                plane,
                to: self.copy,
            }
            .run(s);
            (self.copy.as_ptr(), plane, row_pitch)
        };
        for panel in self.panels.clone() {
            let vectors = product.panels.get(panel);
            for depth_block in 0..product.depth_blocks.count() {
                let channels = product.depth_blocks.get(depth_block);
                for row in self.rows.clone() {
                    let line = window.line(row);
                    if line.is_empty() {
                        if depth_block == 0 {
                            self.fill(s, row, vectors.clone());
                        }
                        continue;
                    }
                    let below = line.top.saturating_sub(source_rows.start) * row_pitch;
                    let source = source.wrapping_add(channels.start * plane + below);
                    self.line(s, row, depth_block, vectors.clone(), source, plane);
                }
            }
        }
        if product.streams {
            s.fence();
        }
    }
}

impl Task<'_> {
    /// The sums of a row over a part of the depth.
    #[inline(always)]
    fn line<S: Simd>(
        &mut self,
        s: S,
        row: usize,
        depth_block: usize,
        vectors: Range<usize>,
        source: *const f32,
        plane: usize,
    ) {
        let product = self.product;
        let window = &product.window;
        let (n, lanes) = (vectors.len(), S::LANES);
        let channels = product.depth_blocks.get(depth_block);
        let weights = &self.packed[product.panel_at(&channels, vectors.start)..];
        let steps = [window.out_step * lanes, product.sums_pixels() * lanes];
        let widest = product.most_pixels[n - 1];
        let at = self.sums_at(row);
        let sums = self.sums[at..].as_mut_ptr();
        let last = depth_block + 1 == product.depth_blocks.count();
        let mut finished = 0;
        let tables = if self.direct { &product.direct_tables } else { &product.copy_tables };
        for phase in 0..window.phases() {
            let taps = tables[window.line(row).class * window.phases() + phase].as_slice();
            let end = (product.out[1] - phase).div_ceil(window.out_step).min(self.columns.end);
            let count = end.saturating_sub(self.columns.start);
            let tiles = count.div_ceil(widest);
            let mut done = 0;
            for tile in 0..tiles {
                // Equal tiles, so that no sliver is left.
                let m = (count - done).div_ceil(tiles - tile);
                // SAFETY: the columns are in the row, whose sums the scratch holds.
                let sums = unsafe { sums.add((phase + done * window.out_step) * lanes) };
                let (start, start_steps) = match depth_block {
                    0 => (self.bias[vectors.start * lanes..].as_ptr(), [0, lanes]),
                    _ => (sums.cast_const(), steps),
                };
                let tile = Tile {
                    weights: weights.as_ptr(),
                    weight_step: product.group * product.weights.taps * n * lanes,
                    source: source.wrapping_add(done),
                    source_step: product.group * plane,
                    taps,
                    depth: taps.len() / product.group * channels.len(),
                    start,
                    start_steps,
                    sums,
                    steps,
                };
                // SAFETY: the plan put all taps of the row's pixels into the copy or the source, the panel into the
                // packed weights, and the sums of a row or of all rows of a block into the scratch.
                unsafe { with_tile!(m, n, multiply(s, tile)) };
                self.prefetch.advance(s);
                done += m;
                // What is whole is stored at once, while the next tile is computed.
                if last && window.phases() == 1 {
                    let whole = if done == count { count } else { done / lanes * lanes };
                    self.finish(s, row, vectors.clone(), finished..whole);
                    finished = whole;
                }
            }
        }
        if last && window.phases() > 1 {
            let step = window.out_step;
            let end = product.out[1].min(self.columns.end * step) - self.columns.start * step;
            self.finish(s, row, vectors, 0..end);
        }
    }

    /// A row without taps: the bias alone.
    #[inline(always)]
    fn fill<S: Simd>(&mut self, s: S, row: usize, vectors: Range<usize>) {
        let product = self.product;
        let (step, width) = (product.window.out_step, product.out[1]);
        let columns = self.columns.start * step..width.min(self.columns.end * step);
        for channel in vectors.start * S::LANES..product.weights.rows.min(vectors.end * S::LANES) {
            let bias = s.splat(self.bias[channel]);
            let mut x = columns.start;
            while x < columns.end {
                // SAFETY: the columns of the row and the channel are in the image of the result.
                unsafe {
                    let to = self.out.add((channel * product.out[0] + row) * width + x);
                    match columns.end - x {
                        n if n < S::LANES => s.store_first(to, bias, n),
                        _ => s.store(to, bias),
                    }
                }
                x += S::LANES;
            }
        }
    }

    /// Where the sums of a row are: if the depth is whole, each row is done with before the next.
    #[inline(always)]
    fn sums_at(&self, row: usize) -> usize {
        let product = self.product;
        let row = if product.depth_blocks.count() > 1 { row - self.rows.start } else { 0 };
        row * self.columns.len() * product.window.out_step * product.lanes
    }

    /// Transposes the sums of some pixels of a row into the planes of its channels. All before are there.
    #[inline(always)]
    fn finish<S: Simd>(&mut self, s: S, row: usize, vectors: Range<usize>, pixels: Range<usize>) {
        let product = self.product;
        let out_plane = product.out[0] * product.out[1];
        let first_column = self.columns.start * product.window.out_step;
        let mut block = [0.0; MAX_LANES * MAX_LANES];
        let aligned = out_plane.is_multiple_of(S::LANES);
        for (n, vector) in vectors.enumerate() {
            let first = vector * S::LANES;
            let channels = S::LANES.min(product.weights.rows - first);
            let sums = self.sums[self.sums_at(row) + n * product.sums_pixels() * S::LANES..].as_ptr();
            // SAFETY: the row and the channels are in the image of the result; the scratch holds LANES pixels more
            // than a row has.
            unsafe {
                let out = self.out.add(first * out_plane + row * product.out[1] + first_column);
                let mut x = pixels.start;
                while x < pixels.end {
                    // The last block of a row overlaps the one before if it can: if that went by way of the caches.
                    let past_caches = product.streams && aligned;
                    let at = if past_caches { x } else { x.min(pixels.end.saturating_sub(S::LANES)) };
                    let pixels = S::LANES.min(pixels.end - at);
                    let from = sums.add(at * S::LANES);
                    if channels == S::LANES && pixels == S::LANES {
                        let to = out.add(at);
                        if past_caches && to.align_offset(size_of::<S::V>()) == 0 {
                            s.transpose_past_caches(from, S::LANES, to, out_plane);
                            x += S::LANES;
                            continue;
                        }
                        s.transpose(from, S::LANES, out.add(at), out_plane);
                    } else {
                        s.transpose(from, S::LANES, block.as_mut_ptr(), S::LANES);
                        for channel in 0..channels {
                            let v = s.load(block.as_ptr().add(channel * S::LANES));
                            s.store_first(out.add(channel * out_plane + at), v, pixels);
                        }
                    }
                    x += S::LANES;
                }
            }
        }
    }
}
