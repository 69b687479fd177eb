//! Which layout a session computes in.

use predictive_coding_kernels::{self as kernels, Layout, Level};

use crate::network::{Layer, Network};
use crate::op::Op;
use crate::options::{LayoutChoice, Options};

/// The most vectors of a batch in a tile.
const MOST_VECTORS: usize = 4;
/// The most images in a tile whose channels lie across the lanes: with as many, weights that come from beyond the second
/// cache cost little.
const MOST_TOGETHER: usize = 16;
/// So many threads have equally many tiles to do; the choice must not depend on how many there are.
const THREADS: usize = 2;

/// The layout that was asked for, or the one that takes less time for a batch by a count of vector operations.
pub(crate) fn choose_layout(network: &Network, level: Level, batch: usize, options: &Options) -> Layout {
    let vectors = batch.div_ceil(kernels::lanes(level));
    let matrices_alone = has_matrices_alone(network);
    let images = match options.layout {
        LayoutChoice::Images => true,
        LayoutChoice::Channels => false,
        LayoutChoice::Auto => {
            let [images, channels] = cost(network, level);
            // Tiles of networks of matrices share all vectors evenly.
            let tiles = if matrices_alone { vectors } else { vectors.next_multiple_of(THREADS) };
            batch as f64 * channels >= tiles as f64 * images
        }
    };
    // Equally many vectors in every tile, and more than one tile where each then has two.
    let most = (vectors / 2).clamp(2, MOST_VECTORS);
    let vectors = vectors.div_ceil(vectors.div_ceil(most));
    match images {
        false if matrices_alone || has_blocks(network, level) => Layout::Channels(1),
        false => Layout::Channels(images_together(batch, options.groups)),
        true if vectors > 1 && matrices_alone => Layout::Batch(vectors),
        true => Layout::Images,
    }
}

/// The images of a tile whose channels lie across the lanes: those that meet weights together. There are tiles for as many
/// groups as were asked for.
fn images_together(batch: usize, groups: Option<usize>) -> usize {
    let together = batch.div_ceil(batch.div_ceil(MOST_TOGETHER).next_multiple_of(THREADS));
    together.min(batch / groups.unwrap_or(1).clamp(1, batch))
}

/// Whether a product is cut into blocks of channels, which lie one behind the other in a tile.
fn has_blocks(network: &Network, level: Level) -> bool {
    let mut ops = network.layers().iter().flat_map(Layer::all_ops);
    ops.any(|(op, input)| op.product(input).is_some_and(|shape| shape.block(level, Layout::Channels(1)).1 > 1))
}

/// Whether no operation meets pixels next to each other.
fn has_matrices_alone(network: &Network) -> bool {
    let spatial = |op: &Op| {
        matches!(
            op,
            Op::Conv2d(_) | Op::ConvTranspose2d(_) | Op::MaxPool2d(_) | Op::AvgPool2d(_) | Op::AdaptiveAvgPool2d { .. }
        )
    };
    !network.layers().iter().flat_map(Layer::all_ops).any(|(op, _)| spatial(op))
}

/// Vector operations of a tile of a step, with an image in every lane and with one image whose channels lie across the
/// lanes.
fn cost(network: &Network, level: Level) -> [f64; 2] {
    let lanes = kernels::lanes(level);
    // What a matrix costs that is read for one image, as a multiple of its multiplications.
    const READ_ONCE: f64 = 2.5;
    // Passes over the output of a product that are not part of it.
    const PASSES: f64 = 6.0;
    let padded = |channels: usize| channels.next_multiple_of(lanes) as f64 / channels as f64;
    let mut costs = [0.0; 2];
    let ops = network.layers().iter().flat_map(Layer::all_ops);
    for product in ops.filter_map(|(op, input)| op.product(input)) {
        let shape = product.conv;
        let (block, blocks) = product.block(level, Layout::Channels(1));
        let [images, channels] = [product.flops(), blocks as u64 * block.flops()].map(|flops| flops as f64 / 2.0);
        let [height, width] = if product.transposed { shape.input } else { shape.output() };
        let elements =
            (if product.transposed { shape.in_channels } else { shape.out_channels } * height * width) as f64;
        let read = if height * width == 1 { READ_ONCE } else { 1.0 };
        costs[0] += 3.0 * images + PASSES * elements;
        let directions = 2.0 * padded(shape.out_channels) + padded(shape.in_channels);
        costs[1] += (channels * directions * read + PASSES * elements * padded(shape.out_channels)) / lanes as f64;
    }
    costs
}
