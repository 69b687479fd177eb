//! Convolution of plain NCHW tensors with a channel of the result in every lane.
//!
//! ```text
//! out[r][y][x] = bias[r] + sum over c, tap of weight[r][c][tap] * source[c][pixel of (y, x) under tap]
//! ```
//!
//! A vector holds LANES channels r. A register tile is some pixels of a row by some vectors; for each
//! product of the depth it loads the vectors from packed weights and broadcasts the pixels from where
//! they lie. Nothing depends on the batch, so a single image keeps the machine as busy as many do.
//! The transpose, from the gradient of the output to that of the input, is the same sum over other
//! taps: at a stride of s, s x s interleaved sums with a part of the taps each.
//!
//! The result is cut into blocks of rows and columns. For each, the pixels that it reads are copied
//! into scratch that fits the cache, with zeros for padding columns; rows of padding are left out. Then
//! panels of channels pass over it: sums gather in scratch, one pixel after the other, and are
//! transposed into the rows of the result. Products whose columns have neither padding nor stride read
//! the source where it is, as does the middle of wide rows.
//!
//! A padding column is a zero that is multiplied: a weight that is infinite or NaN turns it into NaN.

mod blocks;
mod task;
mod tile;
mod weights;
mod window;

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use crate::blocking;
use crate::buffer::LINE;
use crate::conv::check_len;
use crate::conv::copy::Prefetch;
use crate::conv::geometry::ConvShape;
use crate::level::Level;
use crate::microkernel::Tap;
use crate::parallel::{Shared, threads_for};
use crate::simd::{MAX_LANES, dispatch, registers};
use blocks::{Blocks, Strip, strips};
use task::Task;
use tile::*;
use weights::{Layout, PackPanel};
use window::Window;

/// Bytes of the weights that a panel passes over a block with: a part of a second-level cache of 1 MiB,
/// shared with the block.
const WEIGHT_BYTES: usize = 320 << 10;
/// Bytes of the largest result that is written by way of the caches: half of what a third-level cache of
/// 32 MiB holds. Of a larger one nothing would be left there, and each line would be read before it is
/// written.
pub(super) const CACHED_BYTES: usize = 16 << 20;
/// Taps of a table, at least: enough that the loop over them outweighs the one over tables.
const GROUP_TAPS: usize = 32;
/// Channels of all panels that are packed at a time, of weights whose rows are not contiguous.
const PACKED_CHANNELS: usize = 8;
/// Tasks for each thread, so that none waits long for the last.
const TASKS_PER_THREAD: usize = 4;

/// A product with the weights of a convolution or with their transpose, planned for a level.
#[derive(Clone, Debug)]
pub(super) struct ChannelProduct {
    level: Level,
    lanes: usize,
    batch: usize,
    weights: Layout,
    channels: usize,
    window: Window,
    source: [usize; 2],
    out: [usize; 2],
    /// The vectors of each panel.
    panels: blocking::Blocks,
    /// The channels of each part of the depth, so that the weights of a part fit the cache.
    depth_blocks: blocking::Blocks,
    blocks: Blocks,
    /// Channels of a table.
    group: usize,
    /// Tables of taps in the source and in a copy: for each class of rows and, within, each phase.
    direct_tables: Vec<Vec<Tap>>,
    copy_tables: Vec<Vec<Tap>>,
    used_rows: Vec<bool>,
    used_combs: Vec<bool>,
    /// Whether the result is more than the caches hold.
    streams: bool,
    parts: usize,
    most_pixels: [usize; MAX_VECTORS],
}

impl ChannelProduct {
    /// The convolution of `batch` images.
    pub(super) fn forward(level: Level, shape: &ConvShape, batch: usize) -> Self {
        let taps = shape.taps();
        let weights = Layout {
            rows: shape.out_channels,
            row_stride: shape.in_channels * taps,
            channel_stride: taps,
            taps,
            reversed: false,
        };
        let sizes = [shape.input, shape.output()];
        ChannelProduct::new(level, batch, weights, shape.in_channels, Window::forward(shape), sizes)
    }

    /// Its transpose.
    pub(super) fn transposed(level: Level, shape: &ConvShape, batch: usize) -> Self {
        let taps = shape.taps();
        let weights = Layout {
            rows: shape.in_channels,
            row_stride: taps,
            channel_stride: shape.in_channels * taps,
            taps,
            reversed: true,
        };
        let sizes = [shape.output(), shape.input];
        ChannelProduct::new(level, batch, weights, shape.out_channels, Window::transposed(shape), sizes)
    }

    fn new(
        level: Level,
        batch: usize,
        weights: Layout,
        channels: usize,
        window: Window,
        [source, out]: [[usize; 2]; 2],
    ) -> Self {
        let lanes = crate::lanes(level);
        let registers = registers(level);
        let vectors = weights.rows.div_ceil(lanes);
        let phase_columns = out[1].div_ceil(window.out_step);
        let width = panel_width(registers, vectors, phase_columns);
        let panels = blocking::Blocks::new(vectors, width);
        let depth = channels * weights.taps * width * lanes * size_of::<f32>();
        let depth_blocks = blocking::Blocks::cut(channels, depth.div_ceil(WEIGHT_BYTES).clamp(1, channels.max(1)));
        let tile = most_pixels(registers, width);
        let strips = strips(&window, channels, source, phase_columns, tile, lanes);
        let blocks = Blocks::new(&window, channels, out[0], strips, tile);
        let group = GROUP_TAPS.div_ceil(weights.taps).min(channels).max(1);
        let direct_tables = window.tables(group, weights, [source[0] * source[1], source[1], 0]);
        let copy_tables = window.tables(group, weights, [blocks.plane, blocks.row_pitch, blocks.comb_pitch]);
        let (used_rows, used_combs) = (window.used_rows(source[0]), window.used_combs());
        let mut most = [0; MAX_VECTORS];
        for (n, most) in most.iter_mut().enumerate() {
            *most = most_pixels(registers, n + 1);
        }
        let mut product = ChannelProduct {
            level,
            lanes,
            batch,
            weights,
            channels,
            window,
            source,
            out,
            panels,
            depth_blocks,
            blocks,
            group,
            direct_tables,
            copy_tables,
            used_rows,
            used_combs,
            streams: batch * weights.rows * out[0] * out[1] * size_of::<f32>() > CACHED_BYTES,
            parts: 1,
            most_pixels: most,
        };
        let factors = [batch, weights.rows, out[0], out[1], channels, weights.taps];
        let flops = factors.into_iter().fold(2, |flops: u64, factor| flops.saturating_mul(factor as u64));
        product.parts = threads_for(flops).min(product.batch_blocks() * panels.count()).max(1);
        product
    }

    /// About how many cycles an image takes.
    pub(super) fn cycles(&self) -> usize {
        // To begin and to end a tile, and to transpose LANES x LANES sums and store them.
        const TILE: usize = 60;
        let transpose = 4 * self.lanes;
        let classes = self.copy_tables.chunks_exact(self.window.phases().max(1));
        let row_of_class: Vec<usize> = classes
            .map(|tables| {
                let phase = |(phase, taps): (usize, &Vec<Tap>)| {
                    let columns = (self.out[1] - phase).div_ceil(self.window.out_step);
                    let panel = |n: usize| {
                        let tiles = blocking::Blocks::new(columns, self.most_pixels[n - 1]);
                        let steps: usize = tiles.sizes().map(|m| steps(m, n)).sum();
                        steps * taps.len() * self.channels / self.group / 2 + tiles.count() * TILE
                    };
                    self.panels.sizes().map(panel).sum::<usize>()
                };
                tables.iter().enumerate().map(phase).sum::<usize>()
            })
            .collect();
        let rows: usize = (0..self.out[0]).map(|row| row_of_class[self.window.line(row).class]).sum();
        rows + self.out[0] * self.panels.length() * self.out[1].div_ceil(self.lanes) * transpose
    }

    /// Elements of scratch: the packed weights and the bias, and for each thread of the pool that it was
    /// planned in a copied block of the source and the sums of a panel over a block.
    pub(super) fn scratch_len(&self) -> usize {
        self.packed_len() + self.bias_len() + self.parts * self.part_len() + LINE
    }

    /// `out = product of the weights with the source + bias`, overwriting what `out` held.
    ///
    /// # Panics
    /// If a length is not the planned one.
    pub(super) fn run(&self, weight: &[f32], bias: Option<&[f32]>, from: &[f32], out: &mut [f32], scratch: &mut [f32]) {
        let (rows, source_plane, out_plane) =
            (self.weights.rows, self.source[0] * self.source[1], self.out[0] * self.out[1]);
        check_len("weight", weight.len(), rows * self.channels * self.weights.taps);
        check_len("bias", bias.map_or(rows, <[f32]>::len), rows);
        check_len("source", from.len(), self.batch * self.channels * source_plane);
        check_len("result", out.len(), self.batch * rows * out_plane);
        if out.is_empty() {
            return;
        }
        let scratch = &mut scratch[..self.scratch_len()];
        let aligned = scratch.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        let (packed, scratch) = scratch[aligned..].split_at_mut(self.packed_len());
        let (padded_bias, scratch) = scratch.split_at_mut(self.bias_len());
        padded_bias.fill(0.0);
        if let Some(bias) = bias {
            padded_bias[..rows].copy_from_slice(bias);
        }
        self.pack(weight, packed);
        let (packed, bias) = (&*packed, &*padded_bias);
        let blocks = self.batch_blocks();
        let groups = (self.parts * TASKS_PER_THREAD).div_ceil(blocks).min(self.panels.count());
        let groups = if self.parts == 1 { 1 } else { groups };
        let next = AtomicUsize::new(0);
        let result = Shared(out.as_mut_ptr());
        let part = |scratch: &mut [f32]| {
            let (copy, sums) = scratch.split_at_mut(self.copy_len());
            let take = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&task| task < blocks * groups);
            let mut taken = take();
            while let Some(task) = taken {
                // Known before its turn, so that what it reads can be on its way.
                taken = take();
                let (block, group) = (task / groups, task % groups);
                let image = block / self.blocks.of_image();
                let panels = blocking::Blocks::cut(self.panels.count(), groups).get(group);
                let prefetch = self.prefetch(from, taken.map(|task| task / groups), block, panels.len());
                let from = &from[image * self.channels * source_plane..][..self.channels * source_plane];
                // SAFETY: the image is inside of the result, whose length was checked.
                let out = unsafe { result.get().add(image * rows * out_plane) };
                let (rows, strip) = self.block(block);
                let columns = strip.columns.clone();
                let direct = strip.direct;
                let task = Task {
                    product: self,
                    packed,
                    bias,
                    from,
                    out,
                    rows,
                    columns,
                    direct,
                    panels,
                    copy,
                    sums,
                    prefetch,
                };
                dispatch(self.level, task);
            }
        };
        match self.parts {
            1 => part(&mut scratch[..self.part_len()]),
            parts => scratch.par_chunks_exact_mut(self.part_len()).take(parts).for_each(part),
        }
    }

    /// What asks for the source of block `next` during the work on `panels` panels of a block.
    fn prefetch(&self, from: &[f32], next: Option<usize>, current: usize, panels: usize) -> Prefetch {
        let (rows, Strip { columns, .. }) = self.block(next.unwrap_or(current));
        let image = next.unwrap_or(current) / self.blocks.of_image();
        let source_rows = self.window.source_rows(rows.clone());
        let combs = self.window.combs as isize;
        let reach = self.window.source_columns(columns.clone());
        let [start, end] = [reach.start, reach.end].map(|i| (i * combs).clamp(0, self.source[1] as isize) as usize);
        let plane = self.source[0] * self.source[1];
        let rows_of_tiles = panels * self.depth_blocks.count() * rows.len();
        let tiles = rows_of_tiles * self.window.phases() * columns.len().div_ceil(self.most_pixels[0]);
        let first = image * self.channels * plane + source_rows.start * self.source[1] + start;
        let wanted = next.is_some_and(|next| next != current) && end > start;
        Prefetch {
            from: from.as_ptr().wrapping_add(first),
            width: end - start,
            row_pitch: self.source[1],
            rows: source_rows.len(),
            plane,
            channels: if wanted { self.channels } else { 0 },
            done: 0,
            step: (self.channels * source_rows.len()).div_ceil(tiles.max(1)),
        }
    }

    fn pack(&self, weight: &[f32], packed: &mut [f32]) {
        // What is read in order: the taps of consecutive channels, or a channel's of all panels.
        let whole_panels = self.weights.channel_stride == self.weights.taps;
        let most = if whole_panels { self.channels } else { PACKED_CHANNELS };
        let units = self.depth_blocks.longest().div_ceil(most.max(1)).max(1);
        let packed = Shared(packed.as_mut_ptr());
        let pack = |depth_block: usize, unit: usize, panel: usize| {
            let (block, vectors) = (self.depth_blocks.get(depth_block), self.panels.get(panel));
            let Range { start: begin, end } = blocking::Blocks::cut(block.len(), units).get(unit);
            let pixel = self.weights.taps * vectors.len() * self.lanes;
            let at = self.panel_at(&block, vectors.start) + begin * pixel;
            // SAFETY: parts of panels of all parts of the depth lie one behind the other in `packed`, which holds as many.
            let part = unsafe { std::slice::from_raw_parts_mut(packed.get().add(at), (end - begin) * pixel) };
            let (first_row, first_channel) = (vectors.start * self.lanes, block.start + begin);
            let (layout, vectors) = (self.weights, vectors.len());
            dispatch(self.level, PackPanel { layout, weight, first_row, vectors, first_channel, panel: part });
        };
        let panels = self.panels.count();
        let task = |index: usize| match whole_panels {
            true => pack(index / panels, 0, index % panels),
            false => (0..panels).for_each(|panel| pack(index / units, index % units, panel)),
        };
        let tasks = 0..self.depth_blocks.count() * if whole_panels { panels } else { units };
        match self.parts {
            1 => tasks.for_each(task),
            _ => tasks.into_par_iter().for_each(task),
        }
    }

    /// Where some channels of a panel begin in the packed weights.
    fn panel_at(&self, channels: &Range<usize>, vector: usize) -> usize {
        (channels.start * self.panels.length() + channels.len() * vector) * self.weights.taps * self.lanes
    }

    /// Rows of the result, and columns of its phases.
    fn block(&self, block: usize) -> (Range<usize>, &Strip) {
        let Blocks { down, strips, .. } = &self.blocks;
        (down.get(block / strips.len() % down.count()), &strips[block % strips.len()])
    }

    fn batch_blocks(&self) -> usize {
        self.batch * self.blocks.of_image()
    }

    fn packed_len(&self) -> usize {
        self.panels.length() * self.lanes * self.channels * self.weights.taps
    }

    fn bias_len(&self) -> usize {
        (self.panels.length() * self.lanes).next_multiple_of(LINE)
    }

    fn copy_len(&self) -> usize {
        match self.blocks.plane {
            0 => 0,
            // The last row is written in whole vectors.
            plane => (self.channels * plane + MAX_LANES).next_multiple_of(LINE),
        }
    }

    /// Pixels of a vector of sums, with what a transposition of whole vectors reads beyond the last.
    fn sums_pixels(&self) -> usize {
        let rows = if self.depth_blocks.count() > 1 { self.blocks.down.longest() } else { 1 };
        rows * self.blocks.columns() * self.window.out_step + self.lanes
    }

    fn part_len(&self) -> usize {
        (self.copy_len() + self.panels.longest() * self.sums_pixels() * self.lanes).next_multiple_of(LINE)
    }
}
