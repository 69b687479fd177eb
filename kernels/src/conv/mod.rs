//! 2-D convolution: forward, and backward to data and weights.

mod channels;
mod copy;
mod geometry;
mod gradient;
mod lanes;
mod nchw;
mod panels;
mod pixels;
mod product;

pub use geometry::ConvShape;
pub(crate) use geometry::{Axis, AxisSize, check_tensor};
pub use lanes::LaneConv;
pub use nchw::NchwConv;

/// # Panics
/// If a length is not the planned one.
fn check_len(what: &str, found: usize, expected: usize) {
    assert!(found == expected, "{what} has {found} elements, planned for {expected}");
}
