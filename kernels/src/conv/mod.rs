//! 2-D convolution: forward, and backward to data and weights.

mod geometry;
mod lanes;
mod nchw;
mod panels;
mod product;

pub use geometry::ConvShape;
pub use lanes::LaneConv;
pub use nchw::NchwConv;
