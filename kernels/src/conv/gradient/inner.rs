//! Weight gradients as inner products: both operands are vectors, whose lanes are summed at the end.
//!
//! ```text
//! G[o][(c, tap)][lane] = sum over vectors p of pixels of E[o][p][lane] * X[c][p + tap][lane]
//! ```
//!
//! A lane is an image, or, in plain NCHW, a pixel of a run along a row, whose last vector may be a part
//! of one. A tile of M output channels and N pairs (c, tap) loads M + N vectors for M N products. The
//! pixels of a block of E stay in the first cache while they meet all pairs.

use std::ops::Range;

use crate::blocking;
use crate::conv::gradient::Share;
use crate::conv::gradient::frame::{Block, Blocks, Frame, Pairs, Span};
use crate::conv::gradient::tile::{inner_tile, with_tile};
use crate::conv::gradient::transpose::{SQUARE, transpose};
use crate::simd::{Kernel, Simd};

/// Elements of a channel in a block: the five channels of a tile take 25 KiB of the first cache.
const DEPTH: usize = 1280;

/// A plan for tensors of a frame, with an image in every lane or a stride of 1 along rows.
#[derive(Clone, Debug)]
pub(super) struct Inner {
    pub(super) frame: Frame,
    blocks: Blocks,
}

impl Inner {
    pub(super) fn new(frame: Frame, images: usize) -> Self {
        Inner { frame, blocks: Blocks::new(&frame, images, DEPTH) }
    }

    /// Blocks, which may be shared among parts.
    pub(super) fn blocks(&self) -> usize {
        self.blocks.len()
    }
}

/// Scratch has as many vectors as the gradient has elements.
impl Kernel for Share<'_, Inner> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let outputs = self.gradient.len() / self.plan.frame.depth();
        self.scratch.fill(0.0);
        accumulate(s, self.plan, self.blocks, outputs, [self.errors, self.input], self.scratch);
        sum_lanes(s, self.scratch, self.gradient, self.add);
    }
}

/// Adds the products of `outputs` channels with all pairs to `sums`, `[outputs][(c, tap)][LANES]`.
#[inline(always)]
pub(super) fn accumulate<S: Simd>(
    s: S,
    plan: &Inner,
    blocks: Range<usize>,
    outputs: usize,
    [errors, input]: [&[f32]; 2],
    sums: &mut [f32],
) {
    let frame = &plan.frame;
    let channels = frame.shape.in_channels;
    assert!(sums.len() >= outputs * frame.depth() * S::LANES, "{} sums of {outputs} channels", sums.len());
    let [tallest, widest] = inner_tile(s);
    let groups = blocking::Blocks::new(outputs, tallest);
    for block in blocks.map(|i| plan.blocks.get(i)) {
        for Range { start: first, end } in groups.iter().filter(|group| !group.is_empty()) {
            for down in frame.spans(0, block.rows.clone()) {
                for along in frame.spans(1, block.columns.clone()) {
                    let walk = Walk::new::<S>(frame, &block, &down, &along);
                    let mut pairs = Pairs::new(0, &down, &along);
                    let count = Pairs::count(channels, &down, &along);
                    for width in blocking::Blocks::new(count, widest).sizes() {
                        let e = errors.as_ptr().wrapping_add(first * frame.output_plane() + walk.errors);
                        let x = input.as_ptr().wrapping_add(block.images.start * walk.images.input);
                        let g = sums.as_mut_ptr().wrapping_add(first * frame.depth() * S::LANES);
                        // SAFETY: the next `width` pairs meet the input at the walk's pixels, which are inside the
                        // channels `first..end` of the errors; `sums` has vectors for all of them.
                        unsafe {
                            with_tile!(end - first, width, multiply::<S>(s, frame, &walk, &mut pairs, [e, x], g))
                        };
                    }
                }
            }
        }
    }
}

/// The addresses of a rectangle: runs of vectors.
struct Walk {
    /// Offset of the first error in its channel.
    errors: usize,
    images: Steps,
    rows: Steps,
    /// Whole vectors of a run.
    vectors: Steps,
    /// Elements beyond the last whole vector.
    tail: usize,
}

struct Steps {
    count: usize,
    errors: usize,
    input: usize,
}

impl Walk {
    #[inline(always)]
    fn new<S: Simd>(frame: &Frame, block: &Block, down: &Span, along: &Span) -> Self {
        let Frame { shape, pixel, output, .. } = *frame;
        let elements = along.outputs.len() * pixel;
        let images = Steps {
            count: block.images.len(),
            errors: shape.out_channels * frame.output_plane(),
            input: shape.in_channels * frame.input_plane(),
        };
        Walk {
            errors: block.images.start * images.errors + frame.output_at(down.outputs.start, along.outputs.start),
            images,
            rows: Steps {
                count: down.outputs.len(),
                errors: output[1] * pixel,
                input: shape.stride[0] * shape.input[1] * pixel,
            },
            vectors: Steps { count: elements / S::LANES, errors: S::LANES, input: S::LANES * shape.stride[1] },
            tail: elements % S::LANES,
        }
    }
}

/// Adds the products of M channels with N pairs to `sums`.
///
/// # Safety
/// The next N pairs must meet the input at the pixels of the walk, which must be inside the M channels
/// of the errors; `sums` must have vectors for M channels and all pairs.
#[inline(always)]
unsafe fn multiply<S: Simd, const M: usize, const N: usize>(
    s: S,
    frame: &Frame,
    walk: &Walk,
    pairs: &mut Pairs<'_>,
    [errors, input]: [*const f32; 2],
    sums: *mut f32,
) {
    let [tallest, widest] = inner_tile(s);
    if M > tallest || N > widest {
        unreachable!("tiles are cut to the level's registers");
    }
    let plane = frame.output_plane();
    let mut x = [input; N];
    let mut columns = [0; N];
    for (x, column) in x.iter_mut().zip(&mut columns) {
        let (offset, number) = pairs.next(frame);
        *x = x.wrapping_add(offset);
        *column = number * S::LANES;
    }
    let row_of_sums = frame.depth() * S::LANES;
    let mut tile = [[s.splat(0.0); N]; M];
    for (m, tile) in tile.iter_mut().enumerate() {
        for (sum, column) in tile.iter_mut().zip(columns) {
            // SAFETY: `sums` has this vector by contract.
            *sum = unsafe { s.load(sums.add(m * row_of_sums + column)) };
        }
    }
    for image in 0..walk.images.count {
        for row in 0..walk.rows.count {
            let mut at = image * walk.images.input + row * walk.rows.input;
            let mut e = errors.wrapping_add(image * walk.images.errors + row * walk.rows.errors);
            for _ in 0..walk.vectors.count {
                // SAFETY: whole vectors of the walk's runs are inside both tensors by contract.
                unsafe { step::<S, false, M, N>(s, e, plane, &x, at, 0, &mut tile) };
                at += walk.vectors.input;
                e = e.wrapping_add(walk.vectors.errors);
            }
            if walk.tail > 0 {
                // SAFETY: so are the elements beyond them.
                unsafe { step::<S, true, M, N>(s, e, plane, &x, at, walk.tail, &mut tile) };
            }
        }
    }
    for (m, tile) in tile.into_iter().enumerate() {
        for (sum, column) in tile.into_iter().zip(columns) {
            // SAFETY: as when they were loaded.
            unsafe { s.store(sums.add(m * row_of_sums + column), sum) };
        }
    }
}

/// One vector of each of M channels, `plane` apart, with one of each of N operands at `at`; with `TAIL`, only the
/// first `tail` elements of them.
///
/// # Safety
/// These elements must be readable.
#[inline(always)]
unsafe fn step<S: Simd, const TAIL: bool, const M: usize, const N: usize>(
    s: S,
    errors: *const f32,
    plane: usize,
    x: &[*const f32; N],
    at: usize,
    tail: usize,
    tile: &mut [[S::V; N]; M],
) {
    // SAFETY: readable by contract.
    unsafe {
        let mut v = [s.splat(0.0); N];
        for (v, x) in v.iter_mut().zip(x) {
            *v = if TAIL { s.load_first(x.add(at), tail) } else { s.load(x.add(at)) };
        }
        for (m, tile) in tile.iter_mut().enumerate() {
            let from = errors.add(m * plane);
            let error = if TAIL { s.load_first(from, tail) } else { s.load(from) };
            for (sum, v) in tile.iter_mut().zip(v) {
                *sum = s.fma(error, v, *sum);
            }
        }
    }
}

/// The sums of the lanes of as many vectors as `to` has elements, written or added to it.
#[inline(always)]
pub(super) fn sum_lanes<S: Simd>(s: S, vectors: &[f32], to: &mut [f32], add: bool) {
    let mut square = [0.0; SQUARE];
    for (vectors, to) in vectors.chunks(S::LANES * S::LANES).zip(to.chunks_mut(S::LANES)) {
        // SAFETY: `vectors` has as many vectors as `to` has elements, LANES at most; the square holds LANES.
        unsafe {
            transpose(s, vectors.as_ptr(), S::LANES, [to.len(), S::LANES], square.as_mut_ptr(), S::LANES);
            let mut sum = if add { s.load_first(to.as_ptr(), to.len()) } else { s.splat(0.0) };
            for lane in 0..S::LANES {
                sum = s.add(sum, s.load(square.as_ptr().add(lane * S::LANES)));
            }
            s.store_first(to.as_mut_ptr(), sum, to.len());
        }
    }
}
