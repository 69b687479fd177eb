//! Gradients from images across lanes.

use rayon::prelude::*;

use crate::conv::geometry::ConvShape;
use crate::conv::gradient::frame::Frame;
use crate::conv::gradient::inner::Inner;
use crate::conv::gradient::outer::Outer;
use crate::conv::gradient::{Share, cost};
use crate::level::Level;
use crate::parallel::threads_for;
use crate::simd::{dispatch, lanes};

/// Output channels of the tallest tile of inner products: no fewer are worth a thread.
const INNER: usize = 5;

/// The gradient of a tile of LANES images.
#[derive(Clone, Debug)]
pub(crate) struct LaneGradient {
    level: Level,
    frame: Frame,
    method: Method,
}

#[derive(Clone, Debug)]
enum Method {
    Outer(Outer),
    Inner(Inner),
}

impl LaneGradient {
    pub(crate) fn new(level: Level, shape: ConvShape) -> Self {
        let frame = Frame::new(shape, lanes(level));
        let method = if cost::outer(&frame, frame.pixel) <= cost::inner(&frame) {
            Method::Outer(Outer::new(frame, 1))
        } else {
            Method::Inner(Inner::new(frame, 1))
        };
        LaneGradient { level, frame, method }
    }

    /// Elements of scratch: the sums of the output channels, and a block of vectors of them.
    pub(crate) fn scratch_len(&self) -> usize {
        let (unit, per_output) = self.unit();
        self.frame.shape.out_channels.next_multiple_of(unit) * per_output
    }

    /// Output channels that are summed together, and elements of scratch for each.
    fn unit(&self) -> (usize, usize) {
        match &self.method {
            Method::Outer(plan) => (lanes(self.level), plan.scratch_per_output()),
            Method::Inner(_) => (INNER, self.frame.depth() * lanes(self.level)),
        }
    }

    /// Adds to `gradient`, `[out_channels, in_channels, height, width]`. With `parallel`, threads share the output
    /// channels.
    pub(crate) fn add(&self, errors: &[f32], input: &[f32], gradient: &mut [f32], scratch: &mut [f32], parallel: bool) {
        let Frame { shape, pixel, .. } = self.frame;
        let (unit, per_output) = self.unit();
        let threads = if parallel { threads_for(shape.flops().saturating_mul(pixel as u64)) } else { 1 };
        let outputs = shape.out_channels.div_ceil(unit).div_ceil(threads) * unit;
        let share = |(i, (gradient, scratch)): (usize, (&mut [f32], &mut [f32]))| {
            let errors = &errors[i * outputs * self.frame.output_plane()..];
            match &self.method {
                Method::Outer(plan) => {
                    let blocks = 0..plan.blocks();
                    dispatch(self.level, Share { plan, blocks, errors, input, gradient, add: true, scratch });
                }
                Method::Inner(plan) => {
                    let blocks = 0..plan.blocks();
                    dispatch(self.level, Share { plan, blocks, errors, input, gradient, add: true, scratch });
                }
            }
        };
        let scratch = &mut scratch[..self.scratch_len()];
        if threads == 1 {
            share((0, (gradient, scratch)));
        } else {
            let gradients = gradient.par_chunks_mut(outputs * self.frame.depth());
            gradients.zip(scratch.par_chunks_mut(outputs * per_output)).enumerate().for_each(share);
        }
    }
}
