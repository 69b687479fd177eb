//! Gradients from plain NCHW.
//!
//! Parts of the pixels, and panels of the output channels, are tasks of their own. The parts, each of which sums a
//! gradient of its own, depend on the sizes alone, and their gradients are added in order.

use rayon::prelude::*;

use crate::blocking::Blocks;
use crate::conv::geometry::ConvShape;
use crate::conv::gradient::frame::Frame;
use crate::conv::gradient::inner::Inner;
use crate::conv::gradient::outer::Outer;
use crate::conv::gradient::tiles::{Tiles, TilesShare};
use crate::conv::gradient::{Share, cost};
use crate::elementwise::accumulate;
use crate::level::Level;
use crate::parallel::WORTHWHILE;
use crate::simd::{dispatch, lanes};

/// The most parts that the pixels are cut into.
const MAX_PARTS: usize = 16;
/// The most elements that the gradients of all parts have: 2 MiB.
const PARTIAL: usize = 512 * 1024;

/// The gradient of a batch.
#[derive(Clone, Debug)]
pub(crate) struct NchwGradient {
    level: Level,
    frame: Frame,
    parts: usize,
    method: Method,
}

#[derive(Clone, Debug)]
enum Method {
    Outer(Outer),
    Inner(Inner),
    Tiles(Tiles),
}

impl NchwGradient {
    pub(crate) fn new(level: Level, shape: ConvShape, batch: usize) -> Self {
        let frame = Frame::new(shape, 1);
        let lanes = lanes(level);
        let in_lanes = Frame::new(shape, lanes);
        let outer = cost::outer(&frame, lanes);
        let inner = if shape.stride[1] == 1 { cost::rows(&frame, lanes) } else { f64::INFINITY };
        let tiles = if batch >= lanes { cost::tiles(&in_lanes, batch) } else { f64::INFINITY };
        let method = if outer <= inner.min(tiles) {
            Method::Outer(Outer::new(frame, batch))
        } else if inner <= tiles {
            Method::Inner(Inner::new(frame, batch))
        } else {
            Method::Tiles(Tiles::new(in_lanes, batch))
        };
        let pieces = match &method {
            Method::Outer(outer) => outer.blocks() / 8,
            Method::Inner(inner) => inner.blocks() / 2,
            Method::Tiles(tiles) => tiles.len(),
        };
        let most = (PARTIAL / (shape.out_channels * frame.depth()).max(1)).min(pieces).clamp(1, MAX_PARTS);
        // A power of two is shared evenly among as many threads or fewer.
        let parts = if shape.flops().saturating_mul(batch as u64) > WORTHWHILE { 1 << most.ilog2() } else { 1 };
        NchwGradient { level, frame, parts, method }
    }

    /// Elements of scratch: for each part its gradient and what its method needs.
    pub(crate) fn scratch_len(&self) -> usize {
        self.parts * self.part_len()
    }

    fn part_len(&self) -> usize {
        let outputs = self.frame.shape.out_channels.next_multiple_of(lanes(self.level));
        let method = match &self.method {
            Method::Outer(outer) => outputs * outer.scratch_per_output(),
            Method::Inner(_) => self.frame.shape.out_channels * self.frame.depth() * lanes(self.level),
            Method::Tiles(tiles) => tiles.scratch_len(),
        };
        self.partial_len() + method
    }

    /// One part sums into the gradient itself.
    fn partial_len(&self) -> usize {
        if self.parts == 1 { 0 } else { self.frame.shape.out_channels * self.frame.depth() }
    }

    /// Overwrites `gradient`, `[out_channels, in_channels, height, width]`.
    pub(crate) fn write(&self, errors: &[f32], input: &[f32], gradient: &mut [f32], scratch: &mut [f32]) {
        let scratch = &mut scratch[..self.scratch_len()];
        if self.parts == 1 {
            return self.part(0, errors, input, gradient, scratch);
        }
        let partial_len = self.partial_len();
        scratch.par_chunks_exact_mut(self.part_len()).enumerate().for_each(|(part, scratch)| {
            let (partial, scratch) = scratch.split_at_mut(partial_len);
            self.part(part, errors, input, partial, scratch);
        });
        gradient.copy_from_slice(&scratch[..partial_len]);
        for partial in scratch.chunks_exact(self.part_len()).skip(1) {
            accumulate(self.level, &partial[..partial_len], gradient);
        }
    }

    fn part(&self, part: usize, errors: &[f32], input: &[f32], gradient: &mut [f32], scratch: &mut [f32]) {
        let range = |pieces: usize| Blocks::cut(pieces, self.parts).get(part);
        match &self.method {
            Method::Tiles(plan) => {
                let tiles = range(plan.len());
                dispatch(self.level, TilesShare { plan, tiles, errors, input, gradient, scratch });
            }
            Method::Inner(plan) => {
                let blocks = range(plan.blocks());
                let share = Share { plan, blocks, errors, input, gradient, add: false, scratch };
                dispatch(self.level, share);
            }
            Method::Outer(plan) => {
                let outputs = plan.panel(self.level);
                let share = |(i, (gradient, scratch)): (usize, (&mut [f32], &mut [f32]))| {
                    let errors = &errors[i * outputs * self.frame.output_plane()..];
                    let blocks = range(plan.blocks());
                    dispatch(self.level, Share { plan, blocks, errors, input, gradient, add: false, scratch });
                };
                let gradients = gradient.par_chunks_mut(outputs * self.frame.depth());
                gradients.zip(scratch.par_chunks_mut(outputs * plan.scratch_per_output())).enumerate().for_each(share);
            }
        }
    }
}
