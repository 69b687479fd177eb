//! The gradient of a convolution's weights: for each (output channel, input channel, tap) the sum over images and
//! pixels of the output's gradient times the input that the tap met.

mod cost;
mod frame;
mod inner;
mod lanes;
mod nchw;
mod outer;
mod tile;
mod tiles;
mod transpose;

pub(super) use lanes::LaneGradient;
pub(super) use nchw::NchwGradient;

use std::ops::Range;

/// The gradient of some output channels, summed over some blocks by a plan.
struct Share<'a, P> {
    plan: &'a P,
    blocks: Range<usize>,
    /// From the first of these output channels on.
    errors: &'a [f32],
    input: &'a [f32],
    gradient: &'a mut [f32],
    /// Whether to add to what `gradient` holds.
    add: bool,
    scratch: &'a mut [f32],
}
