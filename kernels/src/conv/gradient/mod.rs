//! The gradient of a convolution's weights: for each (output channel, input channel, tap) the sum over images and
//! pixels of the output's gradient times the input that the tap met.

mod frame;
mod inner;
mod outer;
mod tile;
mod transpose;

use rayon::prelude::*;

use crate::conv::geometry::ConvShape;
use crate::conv::gradient::frame::Frame;
use crate::conv::gradient::inner::InnerShare;
use crate::conv::gradient::outer::{Outer, OuterShare};
use crate::conv::gradient::tile::TALLEST;
use crate::level::Level;
use crate::parallel::WORTHWHILE;
use crate::simd::{dispatch, lanes};

/// The gradient of one tile of LANES images.
#[derive(Clone, Debug)]
pub(super) struct LaneGradient {
    level: Level,
    frame: Frame,
    method: Method,
}

#[derive(Clone, Debug)]
enum Method {
    Outer(Outer),
    Inner,
}

impl LaneGradient {
    pub(super) fn new(level: Level, shape: ConvShape) -> Self {
        let lanes = lanes(level);
        let frame = Frame::new(shape, lanes);
        let method = match std::env::var("METHOD").as_deref() {
            Ok("inner") => Method::Inner,
            _ => Method::Outer(Outer::new(frame, 1)),
        };
        LaneGradient { level, frame, method }
    }

    /// Elements of scratch: for the sums of the output channels, and for a block of vectors of them.
    pub(super) fn scratch_len(&self) -> usize {
        let outputs = self.frame.shape.out_channels;
        match &self.method {
            Method::Outer(outer) => outputs.next_multiple_of(lanes(self.level)) * outer.scratch_per_output(),
            Method::Inner => outputs * self.frame.depth() * lanes(self.level),
        }
    }

    /// Adds to `gradient`, `[out_channels][in_channels][height][width]`. With `parallel`, output channels are shared
    /// among threads.
    pub(super) fn add(&self, errors: &[f32], input: &[f32], gradient: &mut [f32], scratch: &mut [f32], parallel: bool) {
        let shape = &self.frame.shape;
        let lanes = lanes(self.level);
        let (unit, per_output) = match &self.method {
            Method::Outer(outer) => (lanes, outer.scratch_per_output()),
            Method::Inner => (TALLEST, self.frame.depth() * lanes),
        };
        let worthwhile = parallel && shape.flops() * lanes as u64 > WORTHWHILE;
        let threads = if worthwhile { rayon::current_num_threads() } else { 1 };
        let outputs = shape.out_channels.div_ceil(unit).div_ceil(threads).max(1) * unit;
        let share = |(i, (gradient, scratch)): (usize, (&mut [f32], &mut [f32]))| {
            let errors = &errors[i * outputs * self.frame.output_plane()..];
            match &self.method {
                Method::Outer(plan) => {
                    let blocks = 0..plan.blocks();
                    dispatch(self.level, OuterShare { plan, blocks, errors, input, gradient, add: true, scratch });
                }
                Method::Inner => {
                    let frame = self.frame;
                    dispatch(self.level, InnerShare { frame, errors, input, gradient, sums: scratch });
                }
            }
        };
        let scratch = &mut scratch[..self.scratch_len()];
        let (gradient_chunk, scratch_chunk) = (outputs * self.frame.depth(), outputs * per_output);
        if threads == 1 {
            return share((0, (gradient, scratch)));
        }
        let shares = gradient.par_chunks_mut(gradient_chunk).zip(scratch.par_chunks_mut(scratch_chunk));
        shares.enumerate().for_each(share);
    }
}
