//! The convolution and its transpose, by matrix products with transformed weights.

use std::ops::Range;

use super::{BLOCK, POINTS, ROOT, TAPS, TILE, Tiles, TransformSource, WINDOW, Windows, fits, odd_lines, tiles_of};
use crate::blocking::Blocks;
use crate::conv::pass::{Call, Direction};
use crate::conv::shape::ConvShape;
use crate::layout::{Layout, transpose_lines};
use crate::leaf::{Epilogue, Leaves, Operand, Product, Repeat, Segment, Tap};
use crate::level::Level;
use crate::pack::Source;
use crate::parallel::{Shared, for_each_task, threads_for};
use crate::simd::{Kernel, MAX_LANES, Simd, dispatch};

/// One direction of a convolution.
#[derive(Clone, Debug)]
pub(crate) struct Winograd {
    leaves: &'static Leaves,
    level: Level,
    layout: Layout,
    weights: Source,
    /// Whether kernels are turned around, as the transpose wants them.
    turned: bool,
    /// Of the source and of the result.
    channels: [usize; 2],
    /// Planes and size of the result.
    planes: usize,
    result: [usize; 2],
    windows: Windows,
    /// Channels of the result, cut into panels of packed weights of so many rows.
    panels: Blocks,
    panel_rows: usize,
    /// The most tiles of a block.
    tiles: usize,
    /// The panels whose sums are under way at a time.
    chunks: Blocks,
}

impl Winograd {
    /// None if the convolution is of another kind.
    pub(crate) fn new(level: Level, layout: Layout, shape: &ConvShape, direction: Direction) -> Option<Self> {
        if !fits(shape) {
            return None;
        }
        let leaves = Leaves::of(level);
        let lanes = leaves.lanes;
        let [(source_channels, source), (out_channels, result)] = direction.sides(shape);
        let channels = [source_channels, out_channels];
        let weights = direction.weights(shape);
        let padding = shape.padding.map(|padding| match direction {
            Direction::Forward => padding as isize,
            Direction::Backward => 2 - padding as isize,
        });
        let planes = channels.map(|channels| layout.planes(level, channels));
        let (panels, panel_rows, fewest, per_tile) = match layout {
            Layout::Images | Layout::Batch(_) => {
                let panels = Blocks::new(channels[1], leaves.low);
                (panels, panels.longest(), leaves.widest(leaves.low), lanes)
            }
            Layout::Channels(_) => (Blocks::new(planes[1], 1), lanes, 2 * leaves.tile[0], 1),
        };
        let tiles = (BLOCK / (POINTS * channels[0] * per_tile)).max(fewest);
        let panel_sums = POINTS * tiles * panels.longest() * lanes;
        let chunks = Blocks::new(panels.count(), (BLOCK / panel_sums).max(leaves.tile[1]));
        Some(Winograd {
            leaves,
            level,
            layout,
            weights,
            turned: direction == Direction::Backward,
            channels,
            planes: planes[1],
            result,
            windows: Windows::new(layout, planes[0], lanes, source, padding, tiles),
            panels,
            panel_rows,
            tiles,
            chunks,
        })
    }

    /// The time that it takes for so many images with weights that are packed once, of which some meet the weights
    /// together, as a share of that of the direct form, by a count of multiplications of vectors.
    pub(crate) fn share(&self, shape: &ConvShape, images: usize, together: usize) -> f64 {
        // To transform a window or a tile, and the weights of a vector; and to read one of the weights.
        const TRANSFORM: f64 = 600.0;
        const WEIGHTS: f64 = 3000.0;
        const READ: f64 = 8.0;
        let [planes, result_planes] = [self.windows.planes, self.planes].map(|planes| planes as f64);
        let tiles = tiles_of(self.result).into_iter().product::<usize>() as f64;
        let pixels = self.result.into_iter().product::<usize>() as f64;
        let products = self.channels[0] as f64 * result_planes;
        let weights = self.channels[0] as f64 * self.channels[1].div_ceil(MAX_LANES) as f64 * WEIGHTS;
        let calls = images.div_ceil(self.layout.images(self.level)) as f64;
        // Images meet every vector of weights together, and a tile of images across the lanes every element.
        let read = READ * products / (self.layout.images(self.level) * together) as f64;
        let direct = (products * pixels + read) * shape.taps() as f64;
        let winograd = POINTS as f64 * (products * tiles + read) + tiles * (planes + result_planes) * TRANSFORM;
        (winograd + weights / calls) / direct
    }

    /// Elements of the packed weights of a panel at a point.
    fn panel_len(&self) -> usize {
        self.channels[0] * self.panel_rows
    }

    /// Distance of the packed weights of neighbouring points.
    fn point_step(&self) -> usize {
        odd_lines(self.panels.count() * self.panel_len())
    }

    pub(crate) fn packed_len(&self) -> usize {
        POINTS * self.point_step()
    }

    /// Packs the weights, `[point][panel][channel of the source][row of the panel]`; rows that a panel does not have are
    /// 0.
    pub(crate) fn pack(&self, weight: &[f32], packed: &mut [f32], parallel: bool) {
        let parallel = parallel && threads_for(16 * packed.len() as u64) > 1;
        let packed = Shared(packed.as_mut_ptr());
        for_each_task(parallel, self.panels.count(), |panel| {
            let start = panel * self.panel_rows;
            let packed = packed.get().wrapping_add(panel * self.panel_len());
            let rows = match self.layout {
                Layout::Images | Layout::Batch(_) => self.panels.get(panel),
                Layout::Channels(_) => start..(start + self.panel_rows).min(self.channels[1]),
            };
            let (width, channels, point_step) = (self.panel_rows, self.channels[0], self.point_step());
            let (source, turned) = (self.weights, self.turned);
            dispatch(self.level, PackPanel { weight, source, turned, rows, width, channels, packed, point_step });
        });
    }

    /// Elements of the sums of a chunk of panels, `[plane][tile][point][lane]`.
    fn sums_len(&self) -> usize {
        self.chunks.longest() * self.panels.longest() * self.sums_step()
    }

    /// Distance of the sums of neighbouring planes.
    fn sums_step(&self) -> usize {
        self.tiles * POINTS * self.leaves.lanes
    }

    pub(crate) fn scratch_len(&self) -> usize {
        self.windows.len() + self.chunks.count() * self.sums_len()
    }

    /// Some rows of the result.
    pub(crate) fn run(&self, rows: Range<usize>, call: Call<'_>, scratch: &mut [f32], threads: usize) {
        let (down, along) = (rows.len().div_ceil(TILE), self.result[1].div_ceil(TILE));
        let (transformed, sums) = scratch.split_at_mut(self.windows.len());
        let transformed = Shared(transformed.as_mut_ptr());
        assert!(sums.len() >= self.chunks.count() * self.sums_len(), "too little scratch");
        let sums = Shared(sums.as_mut_ptr());
        let parallel = threads > 1;
        let parts = Blocks::cut(self.windows.planes, if parallel { self.windows.planes.min(4 * threads) } else { 1 });
        for range in Blocks::new(call.images * down * along, self.tiles).iter() {
            let tiles = Tiles { rows: rows.clone(), down, along, range };
            for_each_task(parallel, parts.count(), |part| {
                dispatch(
                    self.level,
                    TransformSource {
                        windows: &self.windows,
                        from: call.from,
                        planes: parts.get(part),
                        tiles: &tiles,
                        to: transformed.get(),
                    },
                );
            });
            for_each_task(parallel, self.chunks.count(), |chunk| {
                let sums = sums.get().wrapping_add(if parallel { chunk * self.sums_len() } else { 0 });
                let panels = self.chunks.get(chunk);
                let planes = match self.layout {
                    Layout::Images | Layout::Batch(_) => {
                        self.panels.get(panels.start).start..self.panels.get(panels.end - 1).end
                    }
                    Layout::Channels(_) => panels.clone(),
                };
                self.multiply(panels, tiles.range.len(), call.packed, transformed.get(), sums);
                dispatch(self.level, TransformResult { plan: self, sums, planes, tiles: &tiles, call });
            });
        }
    }

    /// The sums over channels at all points, for some panels of weights and so many tiles.
    fn multiply(&self, panels: Range<usize>, tiles: usize, packed: &[f32], transformed: *const f32, sums: *mut f32) {
        let lanes = self.leaves.lanes;
        let [point_step, plane_step, tile_step] = self.windows.steps;
        let (panel_len, row, channels) = (self.panel_len(), self.panel_rows, self.channels[0]);
        let (sums_of_plane, sums_of_tile) = (self.sums_step(), POINTS * lanes);
        let segments = [Segment { taps: &[Tap::ORIGIN], depth: channels }];
        // Vectors of a tile of products, where channels lie across lanes.
        let width = self.leaves.width(tiles, panels.len());
        for point in 0..POINTS {
            let source = transformed.wrapping_add(point * point_step);
            let weights = packed[point * self.point_step() + panels.start * panel_len..].as_ptr();
            let sums = sums.wrapping_add(point * lanes);
            match self.layout {
                Layout::Images | Layout::Batch(_) => {
                    let mut panel = 0;
                    let first = self.panels.get(panels.start).start;
                    for equal in self.panels.equal(panels.clone()) {
                        let weights = weights.wrapping_add(panel * panel_len);
                        panel += equal.count;
                        for cut in Blocks::new(tiles, self.leaves.widest(equal.size)).all_equal() {
                            let at = (equal.start - first) * sums_of_plane + cut.start * sums_of_tile;
                            let source = source.wrapping_add(cut.start * tile_step);
                            let product = Product {
                                segments: &segments,
                                a: Operand::new(weights, 1, row),
                                b: Operand::new(source, tile_step, plane_step),
                                down: Repeat::new(equal.count, panel_len, equal.size * sums_of_plane),
                                across: Repeat::new(cut.count, cut.size * tile_step, cut.size * sums_of_tile),
                                ahead: 0,
                                epilogue: Epilogue::store(sums.wrapping_add(at), sums_of_plane, sums_of_tile),
                            };
                            // SAFETY: the panels are in the packed weights, the vectors of the tiles in the transformed
                            // source, and the sums have a vector for each.
                            unsafe { self.leaves.product([equal.size, cut.size], &product) };
                        }
                    }
                }
                Layout::Channels(_) => {
                    for columns in Blocks::new(panels.len(), width).all_equal() {
                        for cut in Blocks::new(tiles, self.leaves.tallest(columns.size)).all_equal() {
                            let at = columns.start * sums_of_plane + cut.start * sums_of_tile;
                            let product = Product {
                                segments: &segments,
                                a: Operand::new(source.wrapping_add(cut.start * tile_step), tile_step, 1),
                                b: Operand::new(weights.wrapping_add(columns.start * panel_len), panel_len, lanes),
                                down: Repeat::new(cut.count, cut.size * tile_step, cut.size * sums_of_tile),
                                across: Repeat::new(
                                    columns.count,
                                    columns.size * panel_len,
                                    columns.size * sums_of_plane,
                                ),
                                ahead: 0,
                                epilogue: Epilogue::store(sums.wrapping_add(at), sums_of_tile, sums_of_plane),
                            };
                            // SAFETY: as above; a tile has an element for each channel.
                            unsafe { self.leaves.product([cut.size, columns.size], &product) };
                        }
                    }
                }
            }
        }
    }
}

/// Lanes that weights are transformed in at a time: a vector of doubles of the widest level.
const DOUBLES: usize = 8;

/// G w for three taps of each lane, in double precision.
#[inline(always)]
fn transform_taps([first, middle, last]: [[f64; DOUBLES]; 3]) -> [[f64; DOUBLES]; 6] {
    const ROOT: f64 = std::f64::consts::FRAC_1_SQRT_2;
    let mut points = [first, first, first, first, first, last];
    for (pair, (at, factor)) in [(ROOT, -2.0 / 3.0), (2.0 * ROOT, 1.0 / 6.0)].into_iter().enumerate() {
        for lane in 0..DOUBLES {
            let even = factor * (first[lane] + at * at * last[lane]);
            let odd = factor * at * middle[lane];
            points[1 + 2 * pair][lane] = even + odd;
            points[2 + 2 * pair][lane] = even - odd;
        }
    }
    points
}

/// Transforms the weights of a panel.
struct PackPanel<'a> {
    weight: &'a [f32],
    source: Source,
    turned: bool,
    rows: Range<usize>,
    width: usize,
    channels: usize,
    packed: *mut f32,
    point_step: usize,
}

impl Kernel for PackPanel<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let PackPanel { weight, source, turned, rows, width, channels, packed, point_step } = self;
        let Source { row_stride, channel_stride, .. } = source;
        assert!(rows.len() <= width && width <= MAX_LANES, "{} rows for a panel of {width}", rows.len());
        let last = (rows.end - 1) * row_stride + (channels - 1) * channel_stride + TAPS;
        assert!(last <= weight.len(), "{} weights, expected {last}", weight.len());
        let mut taps = [[0.0f32; MAX_LANES]; TAPS];
        let mut points = [[0.0f32; MAX_LANES]; POINTS];
        for channel in 0..channels {
            for first in (0..rows.len()).step_by(S::LANES) {
                let from = (rows.start + first) * row_stride + channel * channel_stride;
                let lines = S::LANES.min(rows.len() - first);
                // SAFETY: the taps of the rows are in the weights, as checked, and `taps` has a vector for each.
                unsafe {
                    let to = taps.as_mut_ptr().cast::<f32>().add(first);
                    transpose_lines(s, weight.as_ptr().add(from), row_stride, [lines, TAPS], to, MAX_LANES);
                }
            }
            for first in (0..width).step_by(DOUBLES) {
                let mut columns = [[[0.0; DOUBLES]; WINDOW]; 3];
                for (x, points) in columns.iter_mut().enumerate() {
                    let mut column = [[0.0; DOUBLES]; 3];
                    for (y, of_tap) in column.iter_mut().enumerate() {
                        let tap = if turned { TAPS - 1 - (3 * y + x) } else { 3 * y + x };
                        for (lane, value) in of_tap.iter_mut().enumerate() {
                            *value = f64::from(taps[tap][first + lane]);
                        }
                    }
                    *points = transform_taps(column);
                }
                for y in 0..WINDOW {
                    let row = transform_taps([columns[0][y], columns[1][y], columns[2][y]]);
                    for (x, values) in row.iter().enumerate() {
                        let point = &mut points[y * WINDOW + x][first..first + DOUBLES];
                        point.iter_mut().zip(values).for_each(|(point, value)| *point = *value as f32);
                    }
                }
            }
            for (point, values) in points.iter().enumerate() {
                for first in (0..width).step_by(S::LANES) {
                    // SAFETY: packed weights are valid for the panel at every point.
                    unsafe {
                        let to = packed.add(point * point_step + channel * width + first);
                        s.store_first(to, s.load(values[first..].as_ptr()), S::LANES.min(width - first));
                    }
                }
            }
        }
    }
}

/// A^T m for the sums at the six points.
#[inline(always)]
fn transform_result<S: Simd>(s: S, m: [S::V; 6]) -> [S::V; 4] {
    let (low, low_odd) = (s.add(m[1], m[2]), s.sub(m[1], m[2]));
    let (high, high_odd) = (s.add(m[3], m[4]), s.sub(m[3], m[4]));
    let (once, half, double) = (s.splat(ROOT), s.splat(0.5 * ROOT), s.splat(4.0 * ROOT));
    [
        s.add(m[0], s.add(low, high)),
        s.fma(once, low_odd, s.mul(s.splat(2.0 * ROOT), high_odd)),
        s.fma(s.splat(0.5), low, s.mul(s.splat(2.0), high)),
        s.fma(half, low_odd, s.fma(double, high_odd, m[5])),
    ]
}

/// Makes pixels of the sums of some tiles, in some planes of the result.
struct TransformResult<'a> {
    plan: &'a Winograd,
    sums: *const f32,
    planes: Range<usize>,
    tiles: &'a Tiles,
    call: Call<'a>,
}

impl Kernel for TransformResult<'_> {
    /// `sums` must hold those of the planes, and the output of the call be valid for the tiles.
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let TransformResult { plan, sums, planes, tiles, call } = self;
        let (lanes, next_plane) = (S::LANES, call.plane as isize);
        for plane in planes.clone() {
            let (mut step_image, mut steps) = (0, call.steps(0));
            // The same for every pixel of a row.
            let mut biases = [0.0; TILE * MAX_LANES];
            let vector_bias = call.combine.bias.map_or(std::ptr::null(), |bias| {
                let bias = match plan.layout {
                    Layout::Images | Layout::Batch(_) => &[bias[plane]; MAX_LANES][..lanes],
                    Layout::Channels(_) => &bias[plane * lanes..bias.len().min((plane + 1) * lanes)],
                };
                biases.chunks_exact_mut(lanes).take(TILE).for_each(|pixel| pixel[..bias.len()].copy_from_slice(bias));
                biases.as_ptr()
            });
            for tile in tiles.range.clone() {
                let (image, [top, left]) = tiles.place(tile);
                if image != step_image {
                    (step_image, steps) = (image, call.steps(image));
                }
                let step = steps.as_ref().map_or(std::ptr::null(), |steps| steps.as_ptr());
                let sums = sums.wrapping_add(
                    (plane - planes.start) * plan.sums_step() + (tile - tiles.range.start) * POINTS * lanes,
                );
                let mut columns = [[s.splat(0.0); WINDOW]; TILE];
                for x in 0..WINDOW {
                    let mut column = [s.splat(0.0); WINDOW];
                    for (y, value) in column.iter_mut().enumerate() {
                        // SAFETY: a tile has sums at all points.
                        *value = unsafe { s.load(sums.add((y * WINDOW + x) * lanes)) };
                    }
                    for (row, value) in columns.iter_mut().zip(transform_result(s, column)) {
                        row[x] = value;
                    }
                }
                let width = TILE.min(plan.result[1] - left);
                let origin = (image * plan.planes + plane) * call.plane;
                for (y, row) in columns.into_iter().enumerate().take(tiles.rows.end - top) {
                    let pixels = transform_result(s, row);
                    let at = origin + ((top + y) * plan.result[1] + left) * lanes - call.first;
                    let epilogue = Epilogue { vector_bias, step, ..call.epilogue(at, [0, lanes]) };
                    epilogue.prefetch(s, width, next_plane);
                    // SAFETY: the first `width` pixels of the row of the tile are in the output and the third operand.
                    unsafe {
                        match pixels {
                            [a, b, c, d] if width == 4 => epilogue.finish(s, [[a, b, c, d]], 0, [0, 0]),
                            [a, b, c, _] if width == 3 => epilogue.finish(s, [[a, b, c]], 0, [0, 0]),
                            [a, b, ..] if width == 2 => epilogue.finish(s, [[a, b]], 0, [0, 0]),
                            [a, ..] => epilogue.finish(s, [[a]], 0, [0, 0]),
                        }
                    }
                }
            }
        }
    }
}
