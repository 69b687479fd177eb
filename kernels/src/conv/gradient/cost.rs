//! What the methods cost: multiplications of a vector for each vector of the output's gradient, with what
//! loads and transposes take beside them. A fit to measurements at 10 to 600 products per element.

use crate::conv::gradient::frame::Frame;

/// Outer products: lanes beyond the output channels are wasted, and one vector of them shares no
/// broadcast with another.
pub(super) fn outer(frame: &Frame, lanes: usize) -> f64 {
    let outputs = frame.shape.out_channels;
    let padded = outputs.next_multiple_of(lanes);
    let share = if padded == lanes { 0.75 } else { 0.96 };
    let transpose = 0.75 * lanes as f64;
    padded as f64 / outputs as f64 * (frame.depth() as f64 / share + transpose)
}

/// Inner products of images across lanes: the sums of a small image are loaded and stored for few
/// products, and an input that meets few taps is read from afar for few.
pub(super) fn inner(frame: &Frame) -> f64 {
    let [height, width] = frame.output;
    let depth = frame.depth() as f64;
    depth / 0.88 + 0.25 * frame.shape.in_channels as f64 + 10.0 * depth / (height * width).min(64) as f64
}

/// The same, with the transposes of both tensors into lanes that `batch` images fill or not.
pub(super) fn tiles(frame: &Frame, batch: usize) -> f64 {
    let lanes = frame.pixel;
    let [inputs, outputs] = frame.lens().map(|len| len as f64);
    let filled = batch as f64 / batch.next_multiple_of(lanes) as f64;
    let transpose = 0.875 * lanes as f64;
    (inner(frame) + transpose * (1.0 + inputs / outputs)) / filled
}

/// Inner products along rows: loads are not aligned, and the last vector of a row is not full.
pub(super) fn rows(frame: &Frame, lanes: usize) -> f64 {
    let width = frame.output[1];
    frame.depth() as f64 / 0.55 * width.next_multiple_of(lanes) as f64 / width as f64
}
