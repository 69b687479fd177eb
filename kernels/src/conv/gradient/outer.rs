//! Weight gradients with output channels in the lanes: sums of outer products.
//!
//! ```text
//! G[(c, tap)][o] = sum over pixels p of X[c][p + tap] * E[p][o]
//! ```
//!
//! A block of E is transposed so that the channels of an element make vectors, and stays in the first
//! cache; each element of X is broadcast from where it lies. Images in the lanes of a pixel are but
//! more elements of a row. A tile of sums stays in registers for the depth of a block, and the sums of
//! all blocks in the second cache, until they are turned into `[o][(c, tap)]`.

use std::ops::Range;

use crate::blocking;
use crate::conv::gradient::Share;
use crate::conv::gradient::frame::{Block, Blocks, Frame, Pairs, Span};
use crate::conv::gradient::tile::{outer_rows, outer_vectors, with_tile};
use crate::conv::gradient::transpose::{SQUARE, transpose};
use crate::level::Level;
use crate::simd::{Kernel, Simd, lanes, registers};

/// Elements of a channel in a block: with 64 channels, 50 KiB of vectors.
const DEPTH: usize = 200;
/// Rows of G that are summed before they are written: with 64 channels, 144 KiB.
const ROWS: usize = 576;

/// A plan for tensors of a frame.
#[derive(Clone, Debug)]
pub(super) struct Outer {
    frame: Frame,
    blocks: Blocks,
    /// Input channels whose rows of G are summed together.
    channels: usize,
}

impl Outer {
    pub(super) fn new(frame: Frame, images: usize) -> Self {
        let most = (ROWS / frame.shape.taps()).max(1);
        let slices = frame.shape.in_channels.div_ceil(most).max(1);
        let channels = frame.shape.in_channels.div_ceil(slices).max(1);
        Outer { frame, blocks: Blocks::new(&frame, images, DEPTH), channels }
    }

    /// Blocks, which may be shared among parts.
    pub(super) fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Output channels of a panel, the widest tile; the last panel may have fewer.
    pub(super) fn panel(&self, level: Level) -> usize {
        let (outputs, lanes) = (self.frame.shape.out_channels, lanes(level));
        let widest = outer_vectors(registers(level)) * lanes;
        blocking::Blocks::new(outputs, widest).longest().next_multiple_of(lanes)
    }

    /// Elements of scratch for each output channel, their number rounded up to whole vectors.
    pub(super) fn scratch_per_output(&self) -> usize {
        self.channels * self.frame.shape.taps() + self.blocks.largest() * self.frame.pixel
    }
}

impl Kernel for Share<'_, Outer> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let Outer { frame, channels, .. } = *self.plan;
        let outputs = self.gradient.len() / frame.depth();
        let vectors = outputs.div_ceil(S::LANES);
        assert!(
            self.scratch.len() >= vectors * S::LANES * self.plan.scratch_per_output(),
            "{} elements of scratch for {outputs} channels",
            self.scratch.len()
        );
        let panels = blocking::Blocks::new(vectors, outer_vectors(S::REGISTERS));
        for panel in panels.iter().filter(|panel| !panel.is_empty()) {
            let [first, end] = [panel.start, panel.end].map(|vector| (vector * S::LANES).min(outputs));
            for channel in (0..frame.shape.in_channels).step_by(channels) {
                self.panel(s, first..end, channel..(channel + channels).min(frame.shape.in_channels));
            }
        }
    }
}

impl Share<'_, Outer> {
    /// At most WIDE vectors of output channels with some input channels.
    #[inline(always)]
    fn panel<S: Simd>(&mut self, s: S, outputs: Range<usize>, channels: Range<usize>) {
        let Outer { frame, blocks, .. } = self.plan;
        let vectors = outputs.len().div_ceil(S::LANES);
        let width = vectors * S::LANES;
        let depth = frame.depth();
        let [first, end] = [channels.start, channels.end].map(|channel| channel * frame.shape.taps());
        let (sums, columns) = self.scratch.split_at_mut((end - first) * width);
        sums.fill(0.0);
        let errors = &self.errors[outputs.start * frame.output_plane()..];
        for block in self.blocks.clone() {
            let block = blocks.get(block);
            // SAFETY: the block's pixels are inside the tensors, whose lengths the plan checked; `columns` has room
            // for the vectors of the largest block.
            unsafe { transpose_block(s, frame, &block, outputs.len(), errors.as_ptr(), columns.as_mut_ptr()) };
            let image = frame.shape.in_channels * frame.input_plane();
            let x = self.input[block.images.start * image..].as_ptr();
            for down in frame.spans(0, block.rows.clone()) {
                for along in frame.spans(1, block.columns.clone()) {
                    let walk = Walk::new(frame, &block, &down, &along);
                    let mut pairs = Pairs::new(channels.start, &down, &along);
                    let count = Pairs::count(channels.len(), &down, &along);
                    for height in blocking::Blocks::new(count, outer_rows(vectors)).sizes() {
                        let (e, g) = (columns.as_ptr(), sums.as_mut_ptr());
                        // SAFETY: the next `height` pairs meet the input at the walk's pixels, which are in `columns`;
                        // `sums` has a row for every pair of `channels`, of as many vectors as the tile.
                        unsafe {
                            with_tile!(height, vectors, multiply::<S>(s, frame, &walk, &mut pairs, x, e, g, first))
                        };
                    }
                }
            }
        }
        for vector in 0..vectors {
            let rows = S::LANES.min(outputs.len() - vector * S::LANES);
            let to = (outputs.start + vector * S::LANES) * depth + first;
            let to = &mut self.gradient[to..][..(rows - 1) * depth + end - first];
            // SAFETY: `sums` has `end - first` rows of `width` elements, and `to` rows of `depth` that end with as many.
            unsafe { write(s, sums.as_ptr().add(vector * S::LANES), width, [end - first, rows], to, depth, self.add) };
        }
    }
}

/// Makes vectors of the channels of each element of a block, images and rows one after the other.
///
/// # Safety
/// `outputs` channels of the block must be readable from `errors`, and `columns` valid for vectors of
/// them for every element of the block.
#[inline(always)]
unsafe fn transpose_block<S: Simd>(
    s: S,
    frame: &Frame,
    block: &Block,
    outputs: usize,
    errors: *const f32,
    mut columns: *mut f32,
) {
    let plane = frame.output_plane();
    let width = outputs.next_multiple_of(S::LANES);
    let len = block.rows.len() * block.columns.len() * frame.pixel;
    for image in block.images.clone() {
        let at = image * frame.shape.out_channels * plane + frame.output_at(block.rows.start, block.columns.start);
        for first in (0..outputs).step_by(S::LANES) {
            let rows = S::LANES.min(outputs - first);
            // SAFETY: the channels from `first` on are readable, and `columns` has room for `len` vectors, by contract.
            unsafe {
                let from = errors.add(first * plane + at);
                transpose(s, from, plane, [rows, len], columns.add(first), width);
            }
        }
        // SAFETY: at most the end of the block's columns.
        columns = unsafe { columns.add(len * width) };
    }
}

/// The addresses of a rectangle: runs of elements of a block, and the operands that a pair of an input
/// channel and a tap has there. Steps are (input, columns).
struct Walk {
    /// Columns before the first.
    first: usize,
    images: Steps,
    rows: Steps,
    pixels: Steps,
    /// Elements of a run, each `step` further in the input.
    run: usize,
    step: usize,
}

struct Steps {
    count: usize,
    input: usize,
    column: usize,
}

impl Walk {
    fn new(frame: &Frame, block: &Block, down: &Span, along: &Span) -> Self {
        let Frame { shape, pixel, .. } = *frame;
        let width = block.columns.len() * pixel;
        let [row, column] = [down.outputs.start - block.rows.start, along.outputs.start - block.columns.start];
        let mut rows =
            Steps { count: down.outputs.len(), input: shape.stride[0] * shape.input[1] * pixel, column: width };
        let mut pixels = Steps { count: along.outputs.len(), input: shape.stride[1] * pixel, column: pixel };
        // Runs are as long as elements are evenly spaced.
        let (mut run, mut step) = (pixel, 1);
        let mut extend = |steps: &mut Steps| {
            if run == 1 {
                step = steps.input;
            }
            if steps.column == run && steps.input == run * step {
                run *= std::mem::replace(&mut steps.count, 1);
            }
        };
        extend(&mut pixels);
        extend(&mut rows);
        Walk {
            first: row * width + column * pixel,
            images: Steps {
                count: block.images.len(),
                input: shape.in_channels * frame.input_plane(),
                column: block.rows.len() * width,
            },
            rows,
            pixels,
            run,
            step,
        }
    }
}

/// Adds the products of N vectors of channels with M pairs to their rows of `sums`, the first of which
/// is that of column `first` of the gradient.
///
/// # Safety
/// The next M pairs must meet the input at the pixels of the walk, which must be in `columns`, and
/// `sums` have rows of N vectors for them.
#[allow(clippy::too_many_arguments)]
#[inline(always)]
unsafe fn multiply<S: Simd, const M: usize, const N: usize>(
    s: S,
    frame: &Frame,
    walk: &Walk,
    pairs: &mut Pairs<'_>,
    input: *const f32,
    columns: *const f32,
    sums: *mut f32,
    first: usize,
) {
    if N > outer_vectors(S::REGISTERS) || M > outer_rows(N) {
        unreachable!("tiles are cut to the level's registers");
    }
    let width = N * S::LANES;
    let mut x = [input; M];
    let mut rows = [sums; M];
    for (x, row) in x.iter_mut().zip(&mut rows) {
        let (offset, column) = pairs.next(frame);
        *x = x.wrapping_add(offset);
        *row = row.wrapping_add((column - first) * width);
    }
    let mut tile = [[s.splat(0.0); N]; M];
    for image in 0..walk.images.count {
        for row in 0..walk.rows.count {
            for pixel in 0..walk.pixels.count {
                let mut at = image * walk.images.input + row * walk.rows.input + pixel * walk.pixels.input;
                let column = image * walk.images.column + row * walk.rows.column + pixel * walk.pixels.column;
                // SAFETY: the columns and the operands of the pairs are readable by contract.
                unsafe {
                    let mut e = columns.add((walk.first + column) * width);
                    for _ in 0..walk.run {
                        let mut v = [s.splat(0.0); N];
                        for (n, v) in v.iter_mut().enumerate() {
                            *v = s.load(e.add(n * S::LANES));
                        }
                        for (x, tile) in x.iter().zip(&mut tile) {
                            let x = s.splat(*x.add(at));
                            for (sum, v) in tile.iter_mut().zip(v) {
                                *sum = s.fma(x, v, *sum);
                            }
                        }
                        e = e.add(width);
                        at += walk.step;
                    }
                }
            }
        }
    }
    for (row, tile) in rows.into_iter().zip(tile) {
        for (n, sum) in tile.into_iter().enumerate() {
            // SAFETY: rows of N vectors are readable and writable by contract.
            unsafe {
                let to = row.add(n * S::LANES);
                s.store(to, s.add(s.load(to), sum));
            }
        }
    }
}

/// Turns `[rows][LANES]`, rows `width` apart, into the first `outputs` columns' rows of `to`, `depth` apart.
///
/// # Safety
/// `from` must be readable for `rows` vectors, and `to` have `rows` elements from every `depth`-th on.
#[inline(always)]
unsafe fn write<S: Simd>(
    s: S,
    from: *const f32,
    width: usize,
    [rows, outputs]: [usize; 2],
    to: &mut [f32],
    depth: usize,
    add: bool,
) {
    let mut square = [0.0; SQUARE];
    for first in (0..rows).step_by(S::LANES) {
        let n = S::LANES.min(rows - first);
        // SAFETY: n rows are readable; the square holds LANES vectors; n elements of each output's row are
        // writable, by contract.
        unsafe {
            transpose(s, from.add(first * width), width, [n, S::LANES], square.as_mut_ptr(), S::LANES);
            for output in 0..outputs {
                let mut v = s.load(square.as_ptr().add(output * S::LANES));
                let to = to.as_mut_ptr().add(output * depth + first);
                if add {
                    v = s.add(s.load_first(to, n), v);
                }
                s.store_first(to, v, n);
            }
        }
    }
}
