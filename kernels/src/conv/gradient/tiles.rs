//! Weight gradients from plain NCHW by way of an image in every lane.
//!
//! Where there are too few output channels to fill vectors, LANES images do: a band of their rows is
//! transposed into the second cache and summed there.

use std::ops::Range;

use crate::conv::gradient::frame::Frame;
use crate::conv::gradient::inner::{Inner, accumulate, sum_lanes};
use crate::conv::gradient::transpose::transpose;
use crate::simd::{Kernel, Simd};

/// Elements of a band, input and output together: half of a second cache of 1 MiB.
const BAND: usize = 128 * 1024;

/// A plan for a batch.
#[derive(Clone, Debug)]
pub(super) struct Tiles {
    /// Whole tensors, with an image in every lane.
    frame: Frame,
    batch: usize,
    /// Output rows of a band.
    rows: usize,
}

impl Tiles {
    /// `frame` has an image in every lane, and `batch` at least fills the lanes.
    pub(super) fn new(frame: Frame, batch: usize) -> Self {
        let height = frame.output[0];
        let fits = |rows: &usize| frame.band(0..*rows).lens().iter().sum::<usize>() <= BAND;
        let bands = (1..height).find(|bands| fits(&height.div_ceil(*bands))).unwrap_or(height);
        Tiles { frame, batch, rows: height.div_ceil(bands) }
    }

    /// Tiles of LANES images, which may be shared among parts.
    pub(super) fn len(&self) -> usize {
        self.batch.div_ceil(self.frame.pixel)
    }

    /// Elements of scratch: the sums of all weights in lanes, and a band of the input and of the output.
    pub(super) fn scratch_len(&self) -> usize {
        // The band with the most input rows is not the first, which may begin on padding.
        let Frame { shape, .. } = self.frame;
        let taken = (self.rows - 1) * shape.stride[0] + (shape.kernel[0] - 1) * shape.dilation[0] + 1;
        let input = shape.in_channels * taken.min(shape.input[0]) * shape.input[1] * self.frame.pixel;
        let [_, output] = self.frame.band(0..self.rows).lens();
        self.sums_len() + input + output
    }

    fn sums_len(&self) -> usize {
        self.frame.shape.out_channels * self.frame.depth() * self.frame.pixel
    }
}

/// The gradient of some tiles.
pub(super) struct TilesShare<'a> {
    pub(super) plan: &'a Tiles,
    pub(super) tiles: Range<usize>,
    pub(super) errors: &'a [f32],
    pub(super) input: &'a [f32],
    /// Is overwritten.
    pub(super) gradient: &'a mut [f32],
    pub(super) scratch: &'a mut [f32],
}

impl Kernel for TilesShare<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Tiles { frame, batch, rows } = *self.plan;
        let shape = &frame.shape;
        let (sums, bands) = self.scratch[..self.plan.scratch_len()].split_at_mut(self.plan.sums_len());
        sums.fill(0.0);
        for tile in self.tiles {
            // The last tile is filled with images of the one before, which then count nothing.
            let first = (tile * S::LANES).min(batch - S::LANES);
            let known = tile * S::LANES - first;
            for row in (0..frame.output[0]).step_by(rows) {
                let band = frame.band(row..(row + rows).min(frame.output[0]));
                let [x_len, e_len] = band.lens();
                let (x, rest) = bands.split_at_mut(x_len);
                let e = &mut rest[..e_len];
                let source = |tensor: usize, channels: usize, width: usize, height: usize| Source {
                    planes: channels,
                    plane: height * width,
                    first: band.rows[tensor].first * width,
                    len: band.rows[tensor].count * width,
                };
                let inputs = source(0, shape.in_channels, shape.input[1], shape.input[0]);
                let outputs = source(1, shape.out_channels, frame.output[1], frame.output[0]);
                inputs.to_lanes(s, self.input, first, known, x);
                outputs.to_lanes(s, self.errors, first, known, e);
                let plan = Inner::new(band, 1);
                accumulate(s, &plan, 0..plan.blocks(), shape.out_channels, [e, x], sums);
            }
        }
        sum_lanes(s, sums, self.gradient, false);
    }
}

/// The same elements of every plane of an image.
struct Source {
    planes: usize,
    plane: usize,
    first: usize,
    len: usize,
}

impl Source {
    /// Puts LANES images from `image` on into the lanes of `to`, with 0 for the first `known` of them.
    #[inline(always)]
    fn to_lanes<S: Simd>(&self, s: S, from: &[f32], image: usize, known: usize, to: &mut [f32]) {
        let stride = self.planes * self.plane;
        // Whole planes are one run.
        let (runs, len) = if self.len == self.plane { (1, stride) } else { (self.planes, self.len) };
        let from = &from[image * stride..(image + S::LANES) * stride];
        assert!(to.len() >= runs * len * S::LANES, "{} elements for {runs} runs of {len}", to.len());
        for run in 0..runs {
            // SAFETY: each of LANES images has `stride` elements, and `len` from the run's first on; `to` has vectors
            // for all runs.
            unsafe {
                let from = from.as_ptr().add(run * self.plane + self.first);
                transpose(s, from, stride, [S::LANES, len], to.as_mut_ptr().add(run * len * S::LANES), S::LANES);
            }
        }
        if known > 0 {
            for vector in to.chunks_exact_mut(S::LANES).take(runs * len) {
                vector[..known].fill(0.0);
            }
        }
    }
}
