//! Which layout a session computes in.

use predictive_coding_kernels::{self as kernels, Conv, ConvShape, Level};

use crate::error::{Error, Result};
use crate::method::LayoutChoice;
use crate::network::Network;
use crate::op::Op;

/// The most bytes of tables of addresses that a layout is chosen for.
const MOST_TABLES: usize = 1 << 26;

/// The layout that was asked for, or the one that takes less time for a batch by a count of vector operations.
///
/// Errors: [`Error::Argument`] if the network's tables are too large with channels across lanes.
pub(crate) fn choose_layout(
    network: &Network,
    level: Level,
    batch: usize,
    choice: LayoutChoice,
) -> Result<kernels::Layout> {
    let fits = channel_tables(network) <= MOST_TABLES;
    match choice {
        LayoutChoice::Images => Ok(kernels::Layout::Images),
        LayoutChoice::Channels if !fits => Err(Error::Argument(
            "the layout of channels was asked for, whose tables for this network's linear layers behind large images are \
             too large; use the layout of images"
                .into(),
        )),
        LayoutChoice::Channels => Ok(kernels::Layout::Channels),
        LayoutChoice::Auto => {
            let [images, channels] = cost(network, kernels::lanes(level));
            let tiles = batch.div_ceil(kernels::lanes(level)) as f64;
            match fits && batch as f64 * channels < tiles * images {
                true => Ok(kernels::Layout::Channels),
                false => Ok(kernels::Layout::Images),
            }
        }
    }
}

/// The products of a network, with channels and size of the image that each reads.
fn products(network: &Network) -> impl Iterator<Item = ConvShape> {
    // The image that a flat input was, which a linear layer reads as a whole.
    let mut flattened = None;
    network.layers().iter().flat_map(|layer| layer.ops().iter().zip(layer.shapes())).filter_map(move |(op, input)| {
        match op {
            Op::Flatten => {
                flattened = <[usize; 3]>::try_from(input.as_slice()).ok().or(flattened);
                None
            }
            Op::Conv2d(conv) => Some(conv.shape(input)),
            Op::Linear(linear) => {
                let [channels, height, width] = flattened.take().unwrap_or([input[0], 1, 1]);
                let size = [height, width];
                Some(ConvShape { input: size, kernel: size, ..ConvShape::linear(channels, linear.out_features) })
            }
            _ => None,
        }
    })
}

/// Bytes of the tables of linear layers with channels across lanes; those of convolutions are no larger than with
/// images.
fn channel_tables(network: &Network) -> usize {
    products(network)
        .filter(|shape| shape.kernel == shape.input)
        .fold(0, |bytes: usize, shape| bytes.saturating_add(Conv::table_bytes(&shape)))
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
    for shape in products(network) {
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
