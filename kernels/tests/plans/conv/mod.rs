//! Of convolutions.

#[path = "../../../src/conv/pixels/axis.rs"]
mod axis;
#[path = "../../../src/conv/gradient/frame.rs"]
mod frame;
#[path = "../../../src/conv/geometry.rs"]
pub(crate) mod geometry;
