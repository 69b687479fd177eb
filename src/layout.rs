//! Which layout a session computes in.

use predictive_coding_kernels::{self as kernels, ConvShape, Level};

use crate::method::LayoutChoice;
use crate::network::Network;
use crate::op::Op;

/// The layout that was asked for, or the one that takes less time for a batch by a count of vector operations.
pub(crate) fn choose_layout(network: &Network, level: Level, batch: usize, choice: LayoutChoice) -> kernels::Layout {
    match choice {
        LayoutChoice::Images => kernels::Layout::Images,
        LayoutChoice::Channels => kernels::Layout::Channels,
        LayoutChoice::Auto => {
            let [images, channels] = cost(network, kernels::lanes(level));
            let tiles = batch.div_ceil(kernels::lanes(level)) as f64;
            match batch as f64 * channels < tiles * images {
                true => kernels::Layout::Channels,
                false => kernels::Layout::Images,
            }
        }
    }
}

/// Vector operations of a tile of a step, with an image in every lane and with one image whose channels lie across the
/// lanes.
fn cost(network: &Network, lanes: usize) -> [f64; 2] {
    // What a matrix costs that is read for one image, as a multiple of its multiplications.
    const READ_ONCE: f64 = 2.5;
    // Passes over the output of a product that are not part of it.
    const PASSES: f64 = 6.0;
    let padded = |channels: usize| channels.next_multiple_of(lanes) as f64 / channels as f64;
    let mut costs = [0.0; 2];
    let ops = network.layers().iter().flat_map(|layer| layer.ops().iter().zip(layer.shapes()));
    let products = ops.filter_map(|(op, input)| match op {
        Op::Conv2d(conv) => Some(conv.shape(input)),
        Op::Linear(linear) => Some(ConvShape::linear(input[0], linear.out_features)),
        _ => None,
    });
    for shape in products {
        let [height, width] = shape.output();
        let products = shape.flops() as f64 / 2.0;
        let elements = (shape.out_channels * height * width) as f64;
        let read = if height * width == 1 { READ_ONCE } else { 1.0 };
        costs[0] += 3.0 * products + PASSES * elements;
        let directions = 2.0 * padded(shape.out_channels) + padded(shape.in_channels);
        costs[1] += (products * directions * read + PASSES * elements * padded(shape.out_channels)) / lanes as f64;
    }
    costs
}
