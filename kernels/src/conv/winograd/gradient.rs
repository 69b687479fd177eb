//! The gradient of the weights: the transpose of the convolution by its weights,
//!
//! ```text
//! dw = G^T [ sum over tiles and images of  (B^T x B) * (A e A^T) ] G            * by elements
//! ```
//!
//! The sums are an outer product at each of the 36 points. Output channels lie across lanes: those of images are
//! transposed. What a block of tiles adds to the gradient of some weights is made of its sums while they are near.

use std::ops::Range;

use super::{BLOCK, POINTS, ROOT, TAPS, TILE, Tiles, TransformSource, WINDOW, Windows, at_both_signs, fits, tiles_of};
use crate::blocking::Blocks;
use crate::conv::shape::ConvShape;
use crate::layout::Layout;
use crate::leaf::{Epilogue, Leaves, Operand, Product, Repeat, Segment, Tap};
use crate::level::Level;
use crate::pack::{packed_vectors_len, unpack_vectors};
use crate::parallel::{Shared, for_each_task, threads_for};
use crate::simd::{Kernel, Simd, dispatch};

/// The most tasks that share a transform.
const PIECES: usize = 8;

/// The gradient of a tile, planned for a level and a layout.
#[derive(Clone, Debug)]
pub(crate) struct WinogradGradient {
    level: Level,
    leaves: &'static Leaves,
    layout: Layout,
    /// Pieces of a tile.
    pieces: usize,
    channels: [usize; 2],
    output: [usize; 2],
    windows: Windows,
    /// The most tiles of a block.
    tiles: usize,
    /// Vectors of output channels, cut into parts whose transformed errors are under way at a time.
    vectors: usize,
    parts: Blocks,
    /// Input channels, cut into chunks whose sums are under way at a time.
    chunks: Blocks,
    /// Distances in the transformed errors of points and of rows, which are tiles, or images of a tile.
    error_steps: [usize; 2],
}

impl WinogradGradient {
    /// None if the convolution is of another kind.
    pub(crate) fn new(level: Level, layout: Layout, shape: &ConvShape) -> Option<Self> {
        if !fits(shape) {
            return None;
        }
        let leaves = Leaves::of(level);
        let lanes = leaves.lanes;
        let (pieces, layout) = layout.pieces();
        let (channels, output) = ([shape.in_channels, shape.out_channels], shape.output());
        let planes = layout.planes(level, channels[0]);
        let vectors = channels[1].div_ceil(lanes);
        let images = layout.images(level);
        let most = pieces * tiles_of(output).into_iter().product::<usize>();
        let fewest = (2 * lanes).div_ceil(images);
        let tiles = (BLOCK / (POINTS * channels[0] * images)).max(fewest).min(most);
        let rows = tiles * images;
        let widest = leaves.widest(leaves.low);
        let parts = Blocks::new(vectors, (BLOCK / (POINTS * rows * lanes)).max(widest));
        let chunks = Blocks::new(channels[0], (BLOCK / (POINTS * parts.longest() * lanes)).max(leaves.tallest(widest)));
        let padding = shape.padding.map(|padding| padding as isize);
        let row = parts.longest() * lanes;
        Some(WinogradGradient {
            level,
            leaves,
            layout,
            pieces,
            channels,
            output,
            windows: Windows::new(layout, planes, lanes, shape.input, padding, tiles),
            tiles,
            vectors,
            parts,
            chunks,
            error_steps: [rows * row + lanes, row],
        })
    }

    /// The time that it takes as a share of that of the direct form, by a count of multiplications of vectors.
    pub(crate) fn share(&self) -> f64 {
        // To transform a window or a tile of errors, and to transpose the latter; to make taps of the sums at all points.
        const TRANSFORM: f64 = 600.0;
        const TRANSPOSE: f64 = 1200.0;
        const UNDO: f64 = 500.0;
        let tiles = self.pieces * tiles_of(self.output).into_iter().product::<usize>();
        let images = self.layout.images(self.level) as f64;
        let transpose = if self.layout.is_channels() { 0.0 } else { TRANSPOSE };
        let products = (self.channels[0] * self.vectors) as f64;
        let planes =
            [self.windows.planes, self.layout.planes(self.level, self.channels[1])].map(|planes| planes as f64);
        let blocks = tiles.div_ceil(self.tiles) as f64;
        // Images across lanes have another direct form, which pads no channels.
        let [inputs, outputs] = self.channels;
        let summed = (products * images).min(if images > 1.0 { (inputs * outputs) as f64 } else { f64::INFINITY });
        let direct = TAPS as f64 * summed * self.pieces as f64 * self.output.into_iter().product::<usize>() as f64;
        let transforms = planes[0] * TRANSFORM + planes[1] * (TRANSFORM + transpose);
        let points = POINTS as f64 * tiles as f64 * images;
        (products * (points + UNDO * blocks) + tiles as f64 * transforms) / direct
    }

    /// Elements of the gradient as it is summed, `[vector of output channels][input channel][tap][lane]`.
    pub(crate) fn len(&self) -> usize {
        packed_vectors_len(self.leaves.lanes, self.channels[1], self.channels[0] * TAPS)
    }

    /// Elements of the transformed errors of a tile in a vector of output channels, before they are transposed.
    fn square_len(&self) -> usize {
        match self.layout {
            Layout::Images | Layout::Batch(_) => POINTS * self.leaves.lanes * self.leaves.lanes,
            Layout::Channels(_) => 0,
        }
    }

    /// Elements of the sums of a chunk, `[point][input channel][vector of output channels][lane]`.
    fn sums_len(&self) -> usize {
        POINTS * self.chunks.longest() * self.parts.longest() * self.leaves.lanes
    }

    /// Elements of the transformed errors of a part.
    fn errors_len(&self) -> usize {
        POINTS * self.error_steps[0]
    }

    pub(crate) fn scratch_len(&self) -> usize {
        self.windows.len() + self.errors_len() + PIECES * self.square_len() + self.chunks.count() * self.sums_len()
    }

    /// Adds the gradient of a tile. With `parallel`, threads share the planes, and then the input channels.
    pub(crate) fn add(&self, errors: &[f32], input: &[f32], gradient: &mut [f32], scratch: &mut [f32], parallel: bool) {
        let lanes = self.leaves.lanes;
        let (transformed, scratch) = scratch[..self.scratch_len()].split_at_mut(self.windows.len());
        let (transformed_errors, scratch) = scratch.split_at_mut(self.errors_len());
        let (squares, sums) = scratch.split_at_mut(PIECES * self.square_len());
        let [gradient, transformed, transformed_errors, squares, sums] =
            [gradient, transformed, transformed_errors, squares, sums].map(|slice| Shared(slice.as_mut_ptr()));
        let [down, along] = tiles_of(self.output);
        let products = POINTS * self.channels[0] * self.vectors * lanes;
        let count = self.pieces * down * along;
        let parallel = parallel && threads_for(2 * (products * count) as u64) > 1;
        let pieces = |planes: usize| Blocks::cut(planes, if parallel { planes.min(PIECES) } else { 1 });
        for range in Blocks::new(count, self.tiles).iter() {
            let tiles = Tiles { rows: 0..self.output[0], down, along, range };
            let of_input = pieces(self.windows.planes);
            for_each_task(parallel, of_input.count(), |piece| {
                let (windows, planes, to) = (&self.windows, of_input.get(piece), transformed.get());
                dispatch(self.level, TransformSource { windows, from: input, planes, tiles: &tiles, to });
            });
            for part in self.parts.iter() {
                let of_errors = pieces(part.len());
                for_each_task(parallel, of_errors.count(), |index| {
                    let piece = of_errors.get(index);
                    let square = squares.get().wrapping_add(index * self.square_len());
                    let to = transformed_errors.get().wrapping_add(piece.start * lanes);
                    let vectors = part.start + piece.start..part.start + piece.end;
                    dispatch(self.level, TransformErrors { plan: self, errors, vectors, tiles: &tiles, square, to });
                });
                for_each_task(parallel, self.chunks.count(), |chunk| {
                    let sums = sums.get().wrapping_add(if parallel { chunk * self.sums_len() } else { 0 });
                    let (channels, vectors) = (self.chunks.get(chunk), part.clone());
                    let operands = [transformed, transformed_errors].map(|operand| operand.get().cast_const());
                    self.multiply(channels.clone(), vectors.len(), tiles.range.len(), operands, sums);
                    let all_channels = self.channels[0];
                    dispatch(self.level, AddTaps { sums, channels, vectors, all_channels, to: gradient.get() });
                });
            }
        }
    }

    /// The outer products of some tiles at all points, for some input channels and vectors of output channels.
    fn multiply(
        &self,
        chunk: Range<usize>,
        vectors: usize,
        tiles: usize,
        [input, errors]: [*const f32; 2],
        sums: *mut f32,
    ) {
        let lanes = self.leaves.lanes;
        let [point_step, plane_step, tile_step] = self.windows.steps;
        let [error_point_step, error_row] = self.error_steps;
        // The distance of neighbouring channels, and of neighbouring products.
        let ([step, depth_step], depth) = match self.layout {
            Layout::Images | Layout::Batch(_) => ([plane_step, 1], tiles * lanes),
            Layout::Channels(_) => ([1, tile_step], tiles),
        };
        let segments = [Segment { taps: &[Tap::ORIGIN], depth }];
        let row = vectors * lanes;
        let width = self.leaves.width(chunk.len(), vectors);
        for point in 0..POINTS {
            let input = input.wrapping_add(point * point_step + chunk.start * step);
            let errors = errors.wrapping_add(point * error_point_step);
            let sums = sums.wrapping_add(point * chunk.len() * row);
            for columns in Blocks::new(vectors, width).all_equal() {
                for rows in Blocks::new(chunk.len(), self.leaves.tallest(columns.size)).all_equal() {
                    let at = rows.start * row + columns.start * lanes;
                    let product = Product {
                        segments: &segments,
                        a: Operand::new(input.wrapping_add(rows.start * step), step, depth_step),
                        b: Operand::new(errors.wrapping_add(columns.start * lanes), lanes, error_row),
                        down: Repeat::new(rows.count, rows.size * step, rows.size * row),
                        across: Repeat::new(columns.count, columns.size * lanes, columns.size * lanes),
                        ahead: 0,
                        epilogue: Epilogue::store(sums.wrapping_add(at), row, lanes),
                    };
                    // SAFETY: the transforms have an element for each channel and product, and vectors for each product
                    // of the part; there are sums of these vectors for every channel of the chunk.
                    unsafe { self.leaves.product([rows.size, columns.size], &product) };
                }
            }
        }
    }

    /// `to = factor gradient`, `[out_channels, in_channels, 3, 3]`.
    pub(crate) fn unpack(&self, gradient: &[f32], factor: f32, to: &mut [f32]) {
        unpack_vectors(self.level, gradient, self.channels, TAPS, 1, factor, to);
    }
}

/// A e for four errors of a column or a row.
#[inline(always)]
fn transform_errors<S: Simd>(s: S, e: [S::V; 4]) -> [S::V; 6] {
    let [low, low_negative] = at_both_signs(s, 0.5, ROOT, [e[2], e[0], e[3], e[1]]);
    let [high, high_negative] = at_both_signs(s, 2.0, 2.0 * ROOT, [e[2], e[0], e[3], e[1]]);
    [e[0], low, low_negative, high, high_negative, e[3]]
}

/// G^T m for the sums at the six points.
#[inline(always)]
fn transform_sums<S: Simd>(s: S, m: [S::V; 6]) -> [S::V; 3] {
    let third = 1.0 / 3.0;
    let (low, low_odd) = (s.add(m[1], m[2]), s.sub(m[1], m[2]));
    let (high, high_odd) = (s.add(m[3], m[4]), s.sub(m[3], m[4]));
    [
        s.fma(s.splat(-2.0 * third), low, s.fma(s.splat(0.5 * third), high, m[0])),
        s.fma(s.splat(-2.0 * third * ROOT), low_odd, s.mul(s.splat(third * ROOT), high_odd)),
        s.fma(s.splat(-third), low, s.fma(s.splat(third), high, m[5])),
    ]
}

/// Transforms the errors of some tiles, for some vectors of output channels.
struct TransformErrors<'a> {
    plan: &'a WinogradGradient,
    errors: &'a [f32],
    vectors: Range<usize>,
    tiles: &'a Tiles,
    /// One vector for each point and plane of a vector of output channels, with images across lanes.
    square: *mut f32,
    to: *mut f32,
}

impl TransformErrors<'_> {
    /// The transformed errors of a tile in a plane; those beyond the border are 0.
    #[inline(always)]
    fn tile<S: Simd>(&self, s: S, plane: usize, [top, left]: [usize; 2]) -> [[S::V; WINDOW]; WINDOW] {
        let [height, width] = self.plan.output;
        let plane = &self.errors[plane * height * width * S::LANES..][..height * width * S::LANES];
        let zero = s.splat(0.0);
        let mut columns = [[zero; TILE]; WINDOW];
        for x in 0..TILE.min(width - left) {
            let mut column = [zero; TILE];
            for (y, value) in column.iter_mut().enumerate().take(height - top) {
                let from = plane[((top + y) * width + left + x) * S::LANES..].as_ptr();
                s.prefetch(from.wrapping_add(plane.len()));
                // SAFETY: the pixel is in the plane.
                *value = unsafe { s.load(from) };
            }
            for (row, value) in columns.iter_mut().zip(transform_errors(s, column)) {
                row[x] = value;
            }
        }
        let mut points = [[zero; WINDOW]; WINDOW];
        for (points, row) in points.iter_mut().zip(columns) {
            *points = transform_errors(s, row);
        }
        points
    }
}

impl Kernel for TransformErrors<'_> {
    /// `to` must be valid for the transformed errors of the vectors.
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let [point_step, row] = self.plan.error_steps;
        for (index, vector) in self.vectors.clone().enumerate() {
            for tile in self.tiles.range.clone() {
                let (piece, pixel) = self.tiles.place(tile);
                let (to, tile) = (self.to.wrapping_add(index * S::LANES), tile - self.tiles.range.start);
                match self.plan.layout {
                    Layout::Channels(_) => {
                        let values = self.tile(s, piece * self.plan.vectors + vector, pixel);
                        for (point, value) in values.into_iter().flatten().enumerate() {
                            // SAFETY: there is a vector for each point of the tile.
                            unsafe { s.store(to.add(point * point_step + tile * row), value) };
                        }
                    }
                    Layout::Images | Layout::Batch(_) => {
                        let planes = S::LANES.min(self.plan.channels[1] - vector * S::LANES);
                        for plane in 0..planes {
                            let values = self.tile(s, vector * S::LANES + plane, pixel);
                            for (point, value) in values.into_iter().flatten().enumerate() {
                                // SAFETY: the square has a vector for each point and plane.
                                unsafe {
                                    s.store(self.square.add((point * S::LANES + plane) * S::LANES), value);
                                }
                            }
                        }
                        for point in 0..POINTS {
                            // SAFETY: as above; there is a vector for each image of the tile. Planes beyond the last hold
                            // anything, which gives sums that are not read.
                            unsafe {
                                let from = self.square.add(point * S::LANES * S::LANES);
                                let to = to.add(point * point_step + tile * S::LANES * row);
                                s.transpose(from, S::LANES, to, row);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Adds what the sums of a chunk make to the gradient.
struct AddTaps {
    sums: *const f32,
    channels: Range<usize>,
    vectors: Range<usize>,
    all_channels: usize,
    to: *mut f32,
}

impl Kernel for AddTaps {
    /// `sums` must hold those of all points, and `to` be valid for the gradient, of which these channels and vectors are
    /// the caller's own.
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let AddTaps { sums, channels, vectors, all_channels, to } = self;
        let point_step = channels.len() * vectors.len() * S::LANES;
        for (index, channel) in channels.enumerate() {
            for (column, vector) in vectors.clone().enumerate() {
                let sums = sums.wrapping_add((index * vectors.len() + column) * S::LANES);
                let to = to.wrapping_add((vector * all_channels + channel) * TAPS * S::LANES);
                let mut columns = [[s.splat(0.0); WINDOW]; 3];
                for x in 0..WINDOW {
                    let mut column = [s.splat(0.0); WINDOW];
                    for (y, value) in column.iter_mut().enumerate() {
                        // SAFETY: the sums have a vector for each point.
                        *value = unsafe { s.load(sums.add((y * WINDOW + x) * point_step)) };
                    }
                    for (row, value) in columns.iter_mut().zip(transform_sums(s, column)) {
                        row[x] = value;
                    }
                }
                for (y, row) in columns.into_iter().enumerate() {
                    for (x, tap) in transform_sums(s, row).into_iter().enumerate() {
                        // SAFETY: the gradient has a vector for each tap.
                        unsafe {
                            let to = to.add((y * 3 + x) * S::LANES);
                            s.store(to, s.add(tap, s.load(to)));
                        }
                    }
                }
            }
        }
    }
}
