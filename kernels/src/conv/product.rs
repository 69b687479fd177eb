//! The product behind a convolution and its transpose: packed weights times a tile of images.
//!
//! The plan sorts the pixels of the output into classes that read the same taps, and gives each class a table of
//! addresses: the im2col matrix, without the copies. The layout decides what is broadcast:
//!
//! ```text
//! images     out[channel m][pixel n][image] = sum of  weight[m][tap]  x  source[tap, pixel n][image]
//! channels   out[pixel m][channels n][lane] = sum of  source[tap, pixel m]  x  weight[tap][channels n][lane]
//! ```

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

use crate::blocking::Blocks;
use crate::combine::Combine;
use crate::conv::pass::{Call, Direction, Pixels};
use crate::conv::shape::{Axis, AxisRun, AxisSize, ConvShape};
use crate::layout::Layout;
use crate::leaf::{Epilogue, Leaves, Operand, Product, Repeat, Segment, Tap, WIDEST};
use crate::level::Level;
use crate::pack::{Source, pack_panels, pack_vectors, packed_vectors_len};
use crate::parallel::{for_each_chunk, for_each_task};
use crate::simd::MAX_LANES;

/// Rows narrower than this are left for columns, if those are longer: a tile of few pixels does not hide the latency
/// of its sums, and a border has a column of them.
const NARROW_ROW: usize = 4;

/// Bytes of the packed weights that pass over the pixels together: with as many pixels, a part of a second cache of
/// 1 MiB.
const WEIGHT_BYTES: usize = 320 << 10;

/// Tasks that pack parts of the weights in places of their own, at most.
const PACKING_TASKS: usize = 16;

/// A product of packed weights with a tile, for either direction.
#[derive(Clone, Debug)]
pub(crate) struct TapProduct {
    leaves: &'static Leaves,
    level: Level,
    layout: Layout,
    weights: Source,
    /// Whether weights are packed beforehand. If not, those that are broadcast are read where they lie, and of vectors of
    /// channels some are packed at a time, where they are used.
    packs: bool,
    /// Channels of the source and of the output.
    channels: [usize; 2],
    /// Channels of the output cut into panels of weights, where those are broadcast.
    panels: Blocks,
    /// Products that an element sums.
    depth: usize,
    pixels: Pixels,
    /// Elements of an image of the source.
    source_len: usize,
    classes: Vec<Class>,
    /// The runs of each band of rows of the output.
    bands: Vec<Vec<Run>>,
}

/// Packed weights of some vectors of channels.
#[derive(Clone, Copy)]
struct Packed {
    /// Where those of the first vector would begin if all of its depth were there.
    first: *const f32,
    /// Elements from a vector to the next.
    stride: usize,
}

/// The taps of the pixels that share a table of addresses.
#[derive(Clone, Debug)]
struct Class {
    taps: Vec<Tap>,
    /// Taps of whole groups of channels; those behind have the channels that are left.
    whole: usize,
    /// Products of each tap, and what each adds to the row of the weights and to the offset in the source: the channels
    /// of a group, or the taps of a row of the kernel.
    depth: usize,
    row_depth: isize,
    source_depth: isize,
    /// Distance of consecutive pixels of a run, in elements.
    source_step: usize,
    out_step: usize,
}

/// Pixels one step apart, along a row or down a column.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Index of its class.
    class: usize,
    /// Offset of the first output vector in its plane.
    out: usize,
    /// Offset of the first operand in the source.
    source: usize,
    count: usize,
}

impl TapProduct {
    pub(crate) fn new(
        level: Level,
        layout: Layout,
        pixels: Pixels,
        shape: &ConvShape,
        direction: Direction,
        rows_per_band: usize,
        packs: bool,
    ) -> Self {
        let leaves = Leaves::of(level);
        let lanes = leaves.lanes;
        let [(source_channels, source_size), (out_channels, out_size)] = direction.sides(shape);
        let channels = [source_channels, out_channels];
        let axes = [0, 1].map(|axis| match direction {
            Direction::Forward => Axis::forward(shape, axis),
            Direction::Backward => Axis::transposed(shape, axis),
        });
        let taps = shape.taps();
        let weights = direction.weights(shape);
        let source_plane = source_size[0] * source_size[1] * pixels.elements;
        let [vertical, horizontal] = &axes;
        // What a step down and a step along adds to an offset in the source, and in the output.
        let source_steps =
            [vertical.source_step * source_size[1], horizontal.source_step].map(|pixel| pixel * pixels.elements);
        let out_steps = [vertical.out_step * out_size[1], horizontal.out_step].map(|pixel| pixel * lanes);
        let groups = channels[0].div_ceil(pixels.channels);
        // One vector has to hide the latency by its height alone.
        let one_by_one = axes.iter().all(|axis| axis.runs.iter().all(|run| run.count == 1));
        let height = match layout {
            _ if one_by_one => leaves.tallest(1),
            // Vectors and weights come from equally far away.
            Layout::Batch(_) => leaves.tile[0],
            Layout::Images | Layout::Channels(_) => leaves.low,
        };
        let panels = Blocks::new(channels[1], height);
        let mut classes: Vec<Class> = Vec::new();
        // The classes by what their tables hash to.
        let (mut known, hasher) = (HashMap::<u64, Vec<usize>>::new(), RandomState::new());
        let mut bands = vec![Vec::new(); out_size[0].div_ceil(rows_per_band)];
        for down in &vertical.runs {
            for along in &horizontal.runs {
                let first = |run: &AxisRun| run.taps.iter().map(|&(_, i)| i).min().unwrap_or(0);
                let (top, left) = (first(down), first(along));
                let mut across = along.taps.clone();
                across.sort_unstable_by_key(|&(_, x)| x);
                let (mut depth, mut row_depth, mut source_depth) = (pixels.channels, 1, 1);
                if pixels.channels == 1 {
                    // Taps of a row are evenly spaced.
                    depth = across.len();
                    if let [(first, left), (second, right), ..] = across[..] {
                        row_depth = second as isize - first as isize;
                        source_depth = ((right - left) * pixels.elements) as isize;
                    }
                    across.truncate(1);
                }
                let mut table = Vec::with_capacity(groups * down.taps.len() * across.len());
                for group in 0..groups {
                    let channel = group * pixels.channels;
                    let in_group = pixels.channels.min(channels[0] - channel);
                    for &(ky, y) in &down.taps {
                        for &(kx, x) in &across {
                            let tap = ky * shape.kernel[1] + kx;
                            let row = channel * taps + tap * in_group;
                            let pixel = (y - top) * source_size[1] + (x - left);
                            table.push([row, group * source_plane + pixel * pixels.elements]);
                        }
                    }
                }
                // Hardware fetches ahead of ascending addresses. With channels across lanes the weights come from farther
                // away, else the source.
                table.sort_unstable_by_key(|&[row, offset]| if layout.is_channels() { row } else { offset });
                // Where a row of the kernel has one tap, channels may be evenly spaced instead.
                if let (Layout::Images | Layout::Batch(_), 1, &[[row, offset], [next_row, next_offset], ..]) =
                    (layout, depth, &table[..])
                {
                    let steps = [next_row.wrapping_sub(row), next_offset - offset];
                    let even = |pair: &[[usize; 2]]| [0, 1].map(|i| pair[1][i].wrapping_sub(pair[0][i])) == steps;
                    if table.windows(2).all(even) {
                        (depth, row_depth, source_depth) = (table.len(), steps[0] as isize, steps[1] as isize);
                        table.truncate(1);
                    }
                }
                let tap = |[row, offset]: [usize; 2]| match layout {
                    Layout::Images | Layout::Batch(_) => Tap::new(row * panels.longest(), offset),
                    Layout::Channels(_) => Tap::new(offset, row * lanes),
                };
                let table: Vec<_> = table.into_iter().map(tap).collect();
                let upright = along.count < NARROW_ROW.min(down.count);
                let step = usize::from(!upright);
                let counts = [down.count, along.count];
                let (source_step, out_step) = (source_steps[step], out_steps[step]);
                let alike =
                    known.entry(hasher.hash_one((source_step, out_step, depth, row_depth, &table))).or_default();
                let same = |&class: &usize| {
                    let class: &Class = &classes[class];
                    let steps = (class.source_step, class.out_step, class.depth, class.row_depth);
                    steps == (source_step, out_step, depth, row_depth) && class.taps == table
                };
                let class = alike.iter().copied().find(same).unwrap_or_else(|| {
                    let whole = table.len() / groups * (channels[0] / pixels.channels);
                    classes.push(Class { taps: table, whole, depth, row_depth, source_depth, source_step, out_step });
                    alike.push(classes.len() - 1);
                    classes.len() - 1
                });
                let run = |y: usize, x: usize, count: usize| Run {
                    class,
                    out: (down.first * out_size[1] + along.first) * lanes + y * out_steps[0] + x * out_steps[1],
                    source: (top * source_size[1] + left) * pixels.elements + y * source_steps[0] + x * source_steps[1],
                    count,
                };
                for (runs, first) in bands.iter_mut().zip((0..).step_by(rows_per_band)) {
                    // The rows of the run of rows that lie in the band.
                    let before =
                        |row: usize| row.saturating_sub(down.first).div_ceil(vertical.out_step).min(down.count);
                    let rows = before(first)..before(first + rows_per_band);
                    match upright {
                        true if rows.is_empty() => {}
                        true => runs.extend((0..counts[1]).map(|x| run(rows.start, x, rows.len()))),
                        false => runs.extend(rows.map(|y| run(y, 0, counts[1]))),
                    }
                }
            }
        }
        classes.shrink_to_fit();
        bands.iter_mut().for_each(Vec::shrink_to_fit);
        TapProduct {
            leaves,
            level,
            layout,
            weights,
            packs,
            channels,
            panels,
            depth: channels[0] * taps,
            pixels,
            source_len: groups * source_plane,
            classes,
            bands,
        }
    }

    /// At most so many bytes do the tables of a plan for axes of these sizes take, on `rows` rows of the output.
    pub(crate) fn table_bytes([down, along]: [AxisSize; 2], source_channels: usize, rows: usize) -> usize {
        let product = |factors: [usize; 3]| factors.into_iter().fold(1, usize::saturating_mul);
        let taps = product([source_channels, down.taps, along.taps]);
        let tables = taps.saturating_mul(size_of::<Tap>());
        let classes = product([down.runs, along.runs, size_of::<Class>()]);
        // Bands of a row each, in which columns narrower than a row is wide are runs of their own.
        let runs = product([rows, along.runs, NARROW_ROW * size_of::<Run>()]);
        let bands = rows.saturating_mul(size_of::<Vec<Run>>());
        [classes, runs, bands].into_iter().fold(tables, usize::saturating_add)
    }

    /// Elements of the packed weights of a panel.
    fn panel_len(&self) -> usize {
        self.panels.longest() * self.depth
    }

    /// Elements of the weights packed beforehand; 0 if none are.
    pub(crate) fn packed_len(&self) -> usize {
        match self.layout {
            _ if !self.packs => 0,
            Layout::Images | Layout::Batch(_) => self.panels.count() * self.panel_len(),
            Layout::Channels(_) => packed_vectors_len(self.leaves.lanes, self.channels[1], self.depth),
        }
    }

    /// Elements of scratch.
    pub(crate) fn scratch_len(&self) -> usize {
        match self.layout {
            Layout::Channels(_) if !self.packs => self.parts()[0].count().min(PACKING_TASKS) * self.part_len(),
            _ => 0,
        }
    }

    /// Vectors of output channels.
    fn vectors(&self) -> usize {
        self.channels[1].div_ceil(self.leaves.lanes)
    }

    /// Groups of source channels.
    fn groups(&self) -> usize {
        self.channels[0].div_ceil(self.pixels.channels)
    }

    /// Elements of the longest part of the packed weights.
    fn part_len(&self) -> usize {
        let [vectors, groups] = self.parts().map(Blocks::longest);
        let channels = (groups * self.pixels.channels).min(self.channels[0]);
        vectors * channels * self.weights.taps * self.leaves.lanes
    }

    /// Vectors of output channels, and groups of source channels, in parts of the weights that stay in the second cache.
    fn parts(&self) -> [Blocks; 2] {
        let vector_bytes = (self.depth * self.leaves.lanes * size_of::<f32>()).max(1);
        let widest = 2 * self.leaves.tile[1];
        let depths = (widest * vector_bytes).div_ceil(WEIGHT_BYTES).min(self.groups());
        [Blocks::new(self.vectors(), (WEIGHT_BYTES / vector_bytes).max(widest)), Blocks::cut(self.groups(), depths)]
    }

    /// Packs the weights `[out_channels, in_channels, height, width]` of the convolution.
    pub(crate) fn pack(&self, weight: &[f32], packed: &mut [f32], parallel: bool) {
        match self.layout {
            Layout::Channels(_) => {
                let group = self.pixels.channels;
                pack_vectors(self.level, weight, self.weights, self.channels, group, packed, parallel);
            }
            Layout::Images | Layout::Batch(_) => {
                pack_panels(weight, self.weights, self.panels, self.depth, packed, parallel)
            }
        }
    }

    /// A band of the result.
    pub(crate) fn run(&self, band: usize, call: Call<'_>, scratch: &mut [f32], threads: usize) {
        let runs = &self.bands[band];
        match self.layout {
            Layout::Images | Layout::Batch(_) => self.run_images(runs, call, threads),
            Layout::Channels(_) if self.packs => self.run_channels(runs, call, threads),
            Layout::Channels(_) => self.pack_and_run_channels(runs, call, scratch, threads),
        }
    }

    /// Weights are broadcast: panels of output channels by tiles of pixels. Threads share the panels. One thread takes all
    /// panels at once, so that they read the source from the nearest cache.
    fn run_images(&self, runs: &[Run], call: Call<'_>, threads: usize) {
        let pieces = if threads > 1 {
            Blocks::new(self.panels.count(), self.panels.count().div_ceil(4 * threads))
        } else {
            Blocks::cut(self.panels.count(), 1)
        };
        let lanes = self.leaves.lanes;
        // The vectors of a batch have steps of their own, those of other pixels the same.
        let step_vector = if let Layout::Batch(_) = self.layout { lanes } else { 0 };
        for_each_task(threads > 1, pieces.count(), |piece| {
            for run in runs {
                let class = &self.classes[run.class];
                let segments = [Segment { taps: &class.taps, depth: class.depth }];
                let pieces = pieces.get(piece);
                let mut panel = pieces.start;
                for panels in self.panels.equal(pieces) {
                    let height = panels.size;
                    let [row, depth, next] = match self.packs {
                        true => [1, self.panels.longest(), self.panel_len()],
                        false => {
                            [self.weights.row_stride, self.weights.channel_stride, height * self.weights.row_stride]
                        }
                    };
                    let first = if self.packs { panel * next } else { panels.start * row };
                    let weights = call.packed[first..].as_ptr();
                    panel += panels.count;
                    for tiles in Blocks::new(run.count, self.leaves.widest(height)).all_equal() {
                        let out = run.out - call.first + tiles.start * class.out_step + panels.start * call.plane;
                        let epilogue = call.epilogue(out, [call.plane, class.out_step]);
                        let step = call.combine.step;
                        let step = step.map_or(std::ptr::null(), |step| step[tiles.start * step_vector..].as_ptr());
                        let row_bias = call.combine.bias.map_or(std::ptr::null(), |bias| bias[panels.start..].as_ptr());
                        // A run on padding alone has no operands, and may point beyond the source.
                        let source = call.from.as_ptr().wrapping_add(run.source + tiles.start * class.source_step);
                        let product = Product {
                            segments: &segments,
                            a: Operand { depth: class.row_depth * depth as isize, ..Operand::new(weights, row, 0) },
                            b: Operand { depth: class.source_depth, ..Operand::new(source, class.source_step, 0) },
                            down: Repeat::new(panels.count, next, height * call.plane),
                            across: Repeat::new(
                                tiles.count,
                                tiles.size * class.source_step,
                                tiles.size * class.out_step,
                            ),
                            ahead: (tiles.size * class.source_step) as isize,
                            epilogue: Epilogue { row_bias, step, step_vector: step_vector as isize, ..epilogue },
                        };
                        // SAFETY: the panels and the operands of the run are inside slices whose lengths were checked
                        // against the plan; so are the output rows of those panels, which are this piece's own.
                        unsafe { self.leaves.product([height, tiles.size], &product) };
                    }
                }
            }
        });
    }

    /// Pixels are broadcast: tiles of pixels by vectors of output channels. The weights of some vectors, over a part of the
    /// depth if it is long, pass over all pixels before the next ones do.
    fn run_channels(&self, runs: &[Run], call: Call<'_>, threads: usize) {
        let longest = runs.iter().map(|run| run.count).max().unwrap_or(1);
        let [chunks, depths] = match longest {
            // A single pixel meets each weight once.
            0 | 1 => [Blocks::new(self.vectors(), self.leaves.widest(1)), Blocks::cut(self.groups(), 1)],
            _ => self.parts(),
        };
        // Threads share the vectors, and where those are few the pixels as well.
        let parts = if threads > 1 { (4 * threads).div_ceil(chunks.count()).min(runs.len().max(1)) } else { 1 };
        let parts = Blocks::cut(runs.len(), parts);
        let stride = self.depth * self.leaves.lanes;
        for_each_task(threads > 1, chunks.count() * parts.count(), |task| {
            let (chunk, runs) = (chunks.get(task / parts.count()), &runs[parts.get(task % parts.count())]);
            let first = call.packed[chunk.start * stride..].as_ptr();
            for groups in depths.iter() {
                self.run_part(runs, [chunk.clone(), groups], Packed { first, stride }, call);
            }
        });
    }

    /// As [`run_channels`](Self::run_channels), of weights as they are: each part is packed before it passes over the pixels.
    fn pack_and_run_channels(&self, runs: &[Run], call: Call<'_>, scratch: &mut [f32], threads: usize) {
        let ([chunks, depths], [group, lanes]) = (self.parts(), [self.pixels.channels, self.leaves.lanes]);
        let Source { row_stride, channel_stride, taps } = self.weights;
        let len = self.part_len();
        let tasks = threads.min(self.scratch_len() / len);
        for_each_chunk(threads > 1, u64::MAX, &mut scratch[..tasks * len], len, |task, scratch| {
            for chunk in (task..chunks.count()).step_by(tasks).map(|chunk| chunks.get(chunk)) {
                let rows = chunk.start * lanes..self.channels[1].min(chunk.end * lanes);
                for groups in depths.iter() {
                    let channels = groups.start * group..self.channels[0].min(groups.end * group);
                    let weight = &call.packed[rows.start * row_stride + channels.start * channel_stride..];
                    let stride = channels.len() * taps * lanes;
                    let packed = &mut scratch[..chunk.len() * stride];
                    pack_vectors(self.level, weight, self.weights, [channels.len(), rows.len()], group, packed, false);
                    let first = packed.as_ptr().wrapping_sub(channels.start * taps * lanes);
                    self.run_part(runs, [chunk.clone(), groups], Packed { first, stride }, call);
                }
            }
        });
    }

    /// Some vectors of output channels of all images, over some groups of source channels: the first of these begin the
    /// sums, and the others are added to the output.
    fn run_part(&self, runs: &[Run], [chunk, groups]: [Range<usize>; 2], packed: Packed, call: Call<'_>) {
        let beta = if call.combine.step.is_some() { 0.0 } else { 1.0 };
        let combine = match groups.start {
            0 => call.combine,
            _ => Combine { beta, gamma: 0.0, bias: None, ..call.combine },
        };
        let call = Call { combine, ..call };
        for image in 0..call.images {
            let call = call.of_image(image, self.source_len, self.vectors() * call.plane);
            for run in runs {
                self.run_pixels(run, [chunk.clone(), groups.clone()], packed, call);
            }
        }
    }

    /// A run of pixels by some vectors of output channels, over some groups of source channels.
    fn run_pixels(&self, run: &Run, [chunk, groups]: [Range<usize>; 2], packed: Packed, call: Call<'_>) {
        let (lanes, class) = (self.leaves.lanes, &self.classes[run.class]);
        let left = self.channels[0] % self.pixels.channels;
        let taps_of_group = class.taps.len() / self.groups();
        let taps = groups.start * taps_of_group..groups.end * taps_of_group;
        let whole = taps.start..class.whole.min(taps.end);
        let segments = [
            Segment { taps: &class.taps[whole.clone()], depth: class.depth },
            Segment { taps: &class.taps[whole.end..taps.end], depth: left },
        ];
        let segments = if whole.end == taps.end { &segments[..1] } else { &segments[..] };
        let steps = call.steps(0);
        let step = steps.as_ref().map_or(std::ptr::null(), |steps| steps.as_ptr());
        let mut padded = [0.0; MAX_LANES * WIDEST];
        let width = self.leaves.width(run.count, chunk.len());
        for columns in Blocks::new(chunk.len(), width).iter() {
            let (vector, width) = (chunk.start + columns.start, columns.len());
            let mut vector_bias = std::ptr::null();
            if let Some(bias) = call.combine.bias {
                let bias = &bias[vector * lanes..bias.len().min((vector + width) * lanes)];
                padded[..bias.len()].copy_from_slice(bias);
                padded[bias.len()..].fill(0.0);
                vector_bias = padded.as_ptr();
            }
            for tiles in Blocks::new(run.count, self.leaves.tallest(width)).all_equal() {
                let out = run.out - call.first + tiles.start * class.out_step + vector * call.plane;
                let epilogue = call.epilogue(out, [class.out_step, call.plane]);
                let source = call.from.as_ptr().wrapping_add(run.source + tiles.start * class.source_step);
                let weights = packed.first.wrapping_add(columns.start * packed.stride);
                let product = Product {
                    segments,
                    a: Operand { depth: class.source_depth, ..Operand::new(source, class.source_step, 0) },
                    b: Operand { depth: class.row_depth * lanes as isize, ..Operand::new(weights, packed.stride, 0) },
                    down: Repeat::new(tiles.count, tiles.size * class.source_step, tiles.size * class.out_step),
                    across: Repeat::ONCE,
                    ahead: 0,
                    epilogue: Epilogue { vector_bias, step, ..epilogue },
                };
                // SAFETY: as in `run_images`; the vectors of these runs are the task's own, and their weights are packed.
                unsafe { self.leaves.product([tiles.size, width], &product) };
            }
        }
    }
}
