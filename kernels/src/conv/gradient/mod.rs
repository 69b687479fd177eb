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
