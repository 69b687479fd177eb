//! Convolution of plain NCHW tensors with a pixel of a row of the result in every lane.
//!
//! ```text
//! out[r][y][x] = bias[r] + sum over c, tap of weight[r][c][tap] * source[c][pixel of (y, x) under tap]
//! ```
//!
//! For results of few channels r, which would leave most lanes empty if they lay across them. A
//! register tile is some channels by some vectors of pixels, one below the other or side by side; for
//! each product of the depth it broadcasts weights and loads the vectors from where the pixels lie.
//! The transpose is the same sum over other taps: at a stride of s, s x s interleaved sums with a part
//! of the taps each.
//!
//! The result is cut into blocks. What a block reads is copied into scratch that fits the cache, with
//! zeros for all padding, and the columns of a stride apart from one another, so that all pixels of a
//! vector are neighbours. Sums gather in scratch and are stored, interleaved, when they are whole.
//!
//! Padding is zeros that are multiplied: a weight that is infinite or NaN turns them into NaN.

mod axis;
mod cut;
mod task;

use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use crate::blocking::Blocks;
use crate::buffer::LINE;
use crate::conv::channels::CACHED_BYTES;
use crate::conv::check_len;
use crate::conv::geometry::ConvShape;
use crate::level::Level;
use crate::microkernel::Tap;
use crate::pack::{Source, pack};
use crate::parallel::{Shared, threads_for};
use crate::simd::{dispatch, lanes, widths};
use axis::Axis;
use cut::{Cut, Problem};
use task::Task;

/// Rows of the tallest tile.
const TILE_ROWS: usize = 6;

/// A product with the weights of a convolution or with their transpose, planned for a level.
#[derive(Clone, Debug)]
pub(super) struct PixelProduct {
    level: Level,
    batch: usize,
    channels: usize,
    /// Taps of the kernel.
    taps: usize,
    weights: Source,
    /// Down and along.
    axes: [Axis; 2],
    source: [usize; 2],
    /// The rows of the product, which are channels of the result, of each panel.
    panels: Blocks,
    cut: Cut,
    /// The taps of each phase, down and along, of the channels of a part of the depth.
    tables: Vec<Vec<Tap>>,
    used_rows: Vec<bool>,
    used_combs: Vec<bool>,
    parts: usize,
}

impl PixelProduct {
    /// The convolution of `batch` images.
    pub(super) fn forward(level: Level, shape: &ConvShape, batch: usize) -> Self {
        let taps = shape.taps();
        let weights = Source { row_stride: shape.in_channels * taps, outer_stride: taps, inner: taps, inner_stride: 1 };
        let axes = [0, 1].map(|axis| Axis::forward(shape, axis));
        PixelProduct::new(level, batch, weights, [shape.in_channels, shape.out_channels], axes, shape.input, shape)
    }

    /// Its transpose.
    pub(super) fn transposed(level: Level, shape: &ConvShape, batch: usize) -> Self {
        let taps = shape.taps();
        let weights = Source { row_stride: taps, outer_stride: shape.in_channels * taps, inner: taps, inner_stride: 1 };
        let axes = [0, 1].map(|axis| Axis::transposed(shape, axis));
        PixelProduct::new(level, batch, weights, [shape.out_channels, shape.in_channels], axes, shape.output(), shape)
    }

    fn new(
        level: Level,
        batch: usize,
        weights: Source,
        [channels, rows]: [usize; 2],
        axes: [Axis; 2],
        source: [usize; 2],
        shape: &ConvShape,
    ) -> Self {
        let panels = Blocks::new(rows, TILE_ROWS);
        let problem = Problem { axes: &axes, channels, panels, lanes: lanes(level), widths: widths(level) };
        let cut = Cut::new(&problem);
        let [vertical, horizontal] = &axes;
        let table = |down: &[(usize, isize)], along: &[(usize, isize)]| {
            let mut table = Vec::with_capacity(cut.depth.longest() * down.len() * along.len());
            for channel in 0..cut.depth.longest() {
                for &(ky, y) in down {
                    for &(kx, x) in along {
                        let row = channel * shape.taps() + ky * shape.kernel[1] + kx;
                        let [comb, column] = horizontal.place(x);
                        let pixel = vertical.behind(y) * cut.row_pitch + comb * cut.comb_pitch + column;
                        table.push(Tap::new(row, channel * cut.plane + pixel));
                    }
                }
            }
            // What is read against the order of addresses misses the caches.
            table.sort_unstable_by_key(|tap| tap.offset);
            table
        };
        let phases = vertical.phases.iter().flat_map(|down| horizontal.phases.iter().map(move |along| (down, along)));
        let tables = phases.map(|(down, along)| table(down, along)).collect();
        let (used_rows, used_combs) = (vertical.used_sources(source[0]), horizontal.used_combs());
        let threads = threads_for(shape.flops().saturating_mul(batch as u64));
        let parts = threads.min(batch * cut.of_image()).max(1);
        let taps = shape.taps();
        PixelProduct {
            level,
            batch,
            channels,
            taps,
            weights,
            axes,
            source,
            panels,
            cut,
            tables,
            used_rows,
            used_combs,
            parts,
        }
    }

    /// About how many cycles an image takes.
    pub(super) fn cycles(&self) -> usize {
        // For each line that is read from far before it is written there, as it is not written past the caches.
        const LINE_FROM_FAR: usize = 50;
        let image = self.panels.length() * self.axes.iter().map(|axis| axis.outputs).product::<usize>();
        let far = self.batch * image * size_of::<f32>() > CACHED_BYTES;
        self.cut.cycles + usize::from(far) * image / LINE * LINE_FROM_FAR
    }

    /// Elements of scratch: the packed weights and, for each thread of the pool that it was planned in, a
    /// copied block of the source and its sums.
    pub(super) fn scratch_len(&self) -> usize {
        self.packed_len() + self.parts * self.part_len() + LINE
    }

    /// `out = product of the weights with the source + bias`, overwriting what `out` held.
    ///
    /// # Panics
    /// If a length is not the planned one.
    pub(super) fn run(&self, weight: &[f32], bias: Option<&[f32]>, from: &[f32], out: &mut [f32], scratch: &mut [f32]) {
        let rows = self.panels.length();
        let source_image = self.channels * self.source[0] * self.source[1];
        let out_image = rows * self.axes.iter().map(|axis| axis.outputs).product::<usize>();
        check_len("weight", weight.len(), rows * self.channels * self.taps);
        check_len("bias", bias.map_or(rows, <[f32]>::len), rows);
        check_len("source", from.len(), self.batch * source_image);
        check_len("result", out.len(), self.batch * out_image);
        if out.is_empty() {
            return;
        }
        let scratch = &mut scratch[..self.scratch_len()];
        let aligned = scratch.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        let (packed, scratch) = scratch[aligned..].split_at_mut(self.packed_len());
        self.pack(weight, packed);
        let packed = &*packed;
        let blocks = self.cut.of_image();
        let next = AtomicUsize::new(0);
        let result = Shared(out.as_mut_ptr());
        let part = |scratch: &mut [f32]| {
            let (copy, sums) = scratch.split_at_mut(self.cut.copy_len());
            loop {
                let task = next.fetch_add(1, Ordering::Relaxed);
                if task >= self.batch * blocks {
                    return;
                }
                let (image, block) = (task / blocks, task % blocks);
                let across = self.cut.along.count();
                let task = Task {
                    product: self,
                    packed,
                    bias,
                    from: &from[image * source_image..][..source_image],
                    // SAFETY: the image is inside of the result, whose length was checked.
                    out: unsafe { result.get().add(image * out_image) },
                    rows: self.cut.down.get(block / across),
                    vectors: self.cut.along.get(block % across),
                    copy,
                    sums,
                };
                dispatch(self.level, task);
            }
        };
        match self.parts {
            1 => part(&mut scratch[..self.part_len()]),
            parts => scratch.par_chunks_exact_mut(self.part_len()).take(parts).for_each(part),
        }
    }

    fn pack(&self, weight: &[f32], packed: &mut [f32]) {
        let depth = self.channels * self.taps;
        for panels in self.panels.equal(0..self.panels.count()) {
            let rows = panels.count * panels.size;
            let packed = &mut packed[panels.start * depth..][..rows * depth];
            // Without channels there is no weight to begin with.
            let weight = weight.get(panels.start * self.weights.row_stride..).unwrap_or_default();
            pack(weight, self.weights, rows, depth, panels.size, packed, self.parts > 1);
        }
    }

    fn packed_len(&self) -> usize {
        (self.panels.length() * self.channels * self.taps).next_multiple_of(LINE)
    }

    fn part_len(&self) -> usize {
        (self.cut.copy_len() + self.panels.length() * self.cut.sums_plane).next_multiple_of(LINE)
    }
}
