//! 2-D convolution: forward, and backward to data and weights.

mod channels;
mod geometry;
mod gradient;
mod lanes;
mod nchw;
mod panels;
mod product;

pub use geometry::ConvShape;
pub use lanes::LaneConv;
pub use nchw::NchwConv;
