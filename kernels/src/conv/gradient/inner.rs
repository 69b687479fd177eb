//! Weight gradients with an image in every lane: inner products.
//!
//! ```text
//! G[o][(c, tap)][lane] = sum over pixels p of E[o][p][lane] * X[c][p + tap][lane]
//! ```
//!
//! A tile of M output channels and N pairs (c, tap) loads M + N vectors for M N products. The pixels
//! of a block of E stay in the first cache while it meets all pairs; the lanes are summed once, at the end.

use crate::conv::gradient::frame::{Blocks, Frame, Pairs, Span};
use crate::conv::gradient::tile::{TALLEST, with_tile};
use crate::conv::gradient::transpose::{SQUARE, transpose};
use crate::simd::{Kernel, Simd};

/// Elements of a channel in a block: six channels take 24 KiB.
const DEPTH: usize = 1024;

/// The gradient of some output channels.
pub(super) struct InnerShare<'a> {
    pub(super) frame: Frame,
    /// The first of these channels and all that follow.
    pub(super) errors: &'a [f32],
    pub(super) input: &'a [f32],
    /// Is added to.
    pub(super) gradient: &'a mut [f32],
    /// As many vectors as `gradient` has elements.
    pub(super) sums: &'a mut [f32],
}

impl Kernel for InnerShare<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let outputs = self.gradient.len() / self.frame.depth();
        self.sums.fill(0.0);
        accumulate(s, &self.frame, outputs, self.errors, self.input, self.sums);
        sum_lanes(s, self.sums, self.gradient, true);
    }
}

/// Adds the products of `outputs` channels to `sums`, `[outputs][(c, tap)][LANES]`.
#[inline(always)]
pub(super) fn accumulate<S: Simd>(
    s: S,
    frame: &Frame,
    outputs: usize,
    errors: &[f32],
    input: &[f32],
    sums: &mut [f32],
) {
    assert!(sums.len() >= outputs * frame.depth() * S::LANES, "{} sums of {outputs} channels", sums.len());
    let blocks = Blocks::new(frame, 1, DEPTH);
    let groups = outputs.div_ceil(TALLEST);
    for block in (0..blocks.len()).map(|i| blocks.get(i)) {
        for group in 0..groups {
            let [first, end] = [group, group + 1].map(|i| i * outputs / groups);
            for down in frame.spans(0, block.rows.clone()) {
                for along in frame.spans(1, block.columns.clone()) {
                    let mut pairs = Pairs::new(0, &down, &along);
                    let count = Pairs::count(frame.shape.in_channels, &down, &along);
                    let tiles = count.div_ceil(S::WIDE);
                    for i in 0..tiles {
                        let width = (i + 1) * count / tiles - i * count / tiles;
                        let e = errors.as_ptr().wrapping_add(first * frame.output_plane());
                        let g = sums.as_mut_ptr().wrapping_add(first * frame.depth() * S::LANES);
                        let x = input.as_ptr();
                        // SAFETY: the next `width` pairs meet the input at the pixels of the spans, which are inside
                        // the channels `first..end` of the errors; `sums` has vectors for all of them.
                        unsafe {
                            with_tile!(end - first, width, multiply::<S>(s, frame, &down, &along, &mut pairs, e, x, g))
                        };
                    }
                }
            }
        }
    }
}

/// Adds the products of M channels with N pairs to `sums`.
///
/// # Safety
/// The next N pairs must meet the input at the pixels of the spans, which must be inside the M channels
/// of `errors`; `sums` must have vectors for M channels and all pairs.
#[allow(clippy::too_many_arguments)]
#[inline(always)]
unsafe fn multiply<S: Simd, const M: usize, const N: usize>(
    s: S,
    frame: &Frame,
    down: &Span,
    along: &Span,
    pairs: &mut Pairs<'_>,
    errors: *const f32,
    input: *const f32,
    sums: *mut f32,
) {
    if N > S::WIDE {
        unreachable!("tiles are cut to the level's width");
    }
    let Frame { shape, pixel, .. } = *frame;
    let (plane, depth) = (frame.output_plane(), frame.depth());
    let mut x = [input; N];
    let mut columns = [0; N];
    for (x, column) in x.iter_mut().zip(&mut columns) {
        let (offset, number) = pairs.next(frame);
        *x = x.wrapping_add(offset);
        *column = number * S::LANES;
    }
    let mut tile = [[s.splat(0.0); N]; M];
    for (m, tile) in tile.iter_mut().enumerate() {
        for (sum, column) in tile.iter_mut().zip(columns) {
            // SAFETY: `sums` has this vector by contract.
            *sum = unsafe { s.load(sums.add(m * depth * S::LANES + column)) };
        }
    }
    for row in 0..down.outputs.len() {
        let mut at = row * shape.stride[0] * shape.input[1] * pixel;
        let mut e = errors.wrapping_add(frame.output_at(down.outputs.start + row, along.outputs.start));
        for _ in 0..along.outputs.len() {
            let mut v = [s.splat(0.0); N];
            // SAFETY: the pixels of the spans are inside both tensors by contract.
            unsafe {
                for (v, x) in v.iter_mut().zip(x) {
                    *v = s.load(x.add(at));
                }
                for (m, tile) in tile.iter_mut().enumerate() {
                    let error = s.load(e.add(m * plane));
                    for (sum, v) in tile.iter_mut().zip(v) {
                        *sum = s.fma(error, v, *sum);
                    }
                }
            }
            at += shape.stride[1] * pixel;
            e = e.wrapping_add(pixel);
        }
    }
    for (m, tile) in tile.into_iter().enumerate() {
        for (sum, column) in tile.into_iter().zip(columns) {
            // SAFETY: as when they were loaded.
            unsafe { s.store(sums.add(m * depth * S::LANES + column), sum) };
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
