//! Convolution of plain NCHW tensors, with channels, pixels or images across the lanes.
//!
//! Where the channels of the result fill the lanes, or else its rows do, it is computed from the tensors
//! as they are. Where neither do, and there are images enough, a tile of LANES images is transposed into
//! lanes, convolved there, and transposed back; tiles are shared among threads. A last tile that is not
//! full carries zeros in its other lanes.

use rayon::prelude::*;

use crate::blocking::Blocks;
use crate::combine::Combine;
use crate::conv::channels::ChannelProduct;
use crate::conv::check_len;
use crate::conv::geometry::ConvShape;
use crate::conv::gradient::NchwGradient;
use crate::conv::lanes::LaneConv;
use crate::conv::pixels::PixelProduct;
use crate::layout::{lanes_to_rows, rows_to_lanes};
use crate::level::Level;
use crate::parallel::concurrency;

/// A convolution of `[batch, channels, height, width]` planned for a level.
///
/// Every call packs the weights and converts the tensors itself. It runs on the current rayon pool,
/// on as many threads as the scratch has parts; results are the same to the last bit on any number.
///
/// Padding is zeros that need not be multiplied: it is left out or multiplied as zeros, whichever is faster. So a weight that is infinite or NaN may or may not show in
/// results whose window meets the padding; everywhere else it does.
#[derive(Clone, Debug)]
pub struct NchwConv {
    conv: LaneConv,
    level: Level,
    batch: usize,
    forward: Product,
    backward: Product,
    /// Tiles of images that are in lanes at a time.
    parts: usize,
    gradient: NchwGradient,
}

/// What is across the lanes of a pass.
#[derive(Clone, Debug)]
enum Product {
    Channels(ChannelProduct),
    Pixels(PixelProduct),
    Images,
}

/// The most parts that a batch is cut into.
const MAX_PARTS: usize = 16;

impl NchwConv {
    /// Plans a convolution of `batch` images.
    ///
    /// # Panics
    /// As [`LaneConv::new`], or if the batch is 0, a tensor of the batch has more elements than memory has bytes, or
    /// a block of a padded tensor has 2^32 elements or more.
    pub fn new(level: Level, shape: ConvShape, batch: usize) -> Self {
        assert!(batch > 0, "a batch of 0 images, expected at least 1");
        shape.check_sizes(crate::lanes(level));
        let shape = shape.with_needed_steps();
        let conv = LaneConv::new(level, shape);
        let largest = conv.input_len().max(conv.output_len()) / crate::lanes(level);
        assert!(
            batch.checked_mul(largest).is_some_and(|elements| elements <= isize::MAX as usize),
            "a batch of {batch} images of up to {largest} elements is too large"
        );
        let choose = |channels: ChannelProduct, pixels: PixelProduct| {
            let cycles = batch.saturating_mul(channels.cycles().min(pixels.cycles()));
            match pixels.cycles() < channels.cycles() {
                _ if images_pay(level, &conv, batch, cycles) => Product::Images,
                true => Product::Pixels(pixels),
                false => Product::Channels(channels),
            }
        };
        let channels = ChannelProduct::forward(level, &shape, batch);
        let forward = choose(channels, PixelProduct::forward(level, &shape, batch));
        let channels = ChannelProduct::transposed(level, &shape, batch);
        let backward = choose(channels, PixelProduct::transposed(level, &shape, batch));
        let parts = batch.div_ceil(crate::lanes(level)).min(MAX_PARTS).min(concurrency());
        let gradient = NchwGradient::new(level, shape, batch);
        NchwConv { conv, level, batch, forward, backward, parts, gradient }
    }

    /// Elements of scratch that each call needs: packed weights and, for each thread of the pool that the
    /// convolution was planned in, the sums of a block and the pixels that it reads, or a tile of LANES
    /// inputs and outputs; or what the gradient of the weights needs, if that is more.
    pub fn scratch_len(&self) -> usize {
        let images = self.packed_len() + self.parts * (self.conv.input_len() + self.conv.output_len());
        let of = |product: &Product| match product {
            Product::Channels(product) => product.scratch_len(),
            Product::Pixels(product) => product.scratch_len(),
            Product::Images => images,
        };
        self.gradient.scratch_len().max(of(&self.forward)).max(of(&self.backward))
    }

    /// `output = convolution of input + bias`, overwriting what `output` held.
    ///
    /// # Panics
    /// If a length is not the planned one.
    pub fn forward(
        &self,
        weight: &[f32],
        bias: Option<&[f32]>,
        input: &[f32],
        output: &mut [f32],
        scratch: &mut [f32],
    ) {
        self.check("input", input.len(), self.input());
        self.check("output", output.len(), self.output());
        match &self.forward {
            Product::Channels(product) => return product.run(weight, bias, input, output, scratch),
            Product::Pixels(product) => return product.run(weight, bias, input, output, scratch),
            Product::Images => {}
        }
        let (packed, parts) = scratch[..self.scratch_len()].split_at_mut(self.packed_len());
        let packed = &mut packed[..self.conv.packed_forward_len()];
        self.conv.pack_forward(weight, packed, true);
        let combine = Combine { bias, ..Combine::default() };
        self.convert(input, self.input(), output, self.output(), parts, |input, output| {
            self.conv.forward(packed, input, combine, output, self.parts == 1);
        });
    }

    /// `input_gradient = transposed convolution of output_gradient`, overwriting what it held.
    ///
    /// # Panics
    /// If a length is not the planned one.
    pub fn backward_data(
        &self,
        weight: &[f32],
        output_gradient: &[f32],
        input_gradient: &mut [f32],
        scratch: &mut [f32],
    ) {
        self.check("output gradient", output_gradient.len(), self.output());
        self.check("input gradient", input_gradient.len(), self.input());
        match &self.backward {
            Product::Channels(product) => return product.run(weight, None, output_gradient, input_gradient, scratch),
            Product::Pixels(product) => return product.run(weight, None, output_gradient, input_gradient, scratch),
            Product::Images => {}
        }
        let (packed, parts) = scratch[..self.scratch_len()].split_at_mut(self.packed_len());
        let packed = &mut packed[..self.conv.packed_backward_len()];
        self.conv.pack_backward(weight, packed, true);
        self.convert(output_gradient, self.output(), input_gradient, self.input(), parts, |from, to| {
            self.conv.backward_data(packed, from, Combine::default(), to, self.parts == 1);
        });
    }

    /// `gradient = sum over images and pixels`, `[out_channels, in_channels, height, width]`,
    /// overwriting what it held.
    ///
    /// # Panics
    /// If a length is not the planned one.
    pub fn backward_weights(&self, output_gradient: &[f32], input: &[f32], gradient: &mut [f32], scratch: &mut [f32]) {
        self.check("output gradient", output_gradient.len(), self.output());
        self.check("input", input.len(), self.input());
        check_len("weight gradient", gradient.len(), self.weights());
        self.gradient.write(output_gradient, input, gradient, scratch);
    }

    /// Calls `f` with each tile of `from` in lanes and puts what it makes into `to`.
    fn convert(
        &self,
        from: &[f32],
        from_elements: usize,
        to: &mut [f32],
        to_elements: usize,
        scratch: &mut [f32],
        f: impl Fn(&[f32], &mut [f32]) + Sync,
    ) {
        let lanes = crate::lanes(self.level);
        let part_len = (from_elements + to_elements) * lanes;
        let mut rest = to;
        let mut parts: [&mut [f32]; MAX_PARTS] = Default::default();
        for (index, part) in parts.iter_mut().enumerate().take(self.parts) {
            let samples: usize = self.tiles(index).map(|(_, samples)| samples).sum();
            (*part, rest) = std::mem::take(&mut rest).split_at_mut(samples * to_elements);
        }
        let part = |((index, to), scratch): ((usize, &mut &mut [f32]), &mut [f32])| {
            let (source, result) = scratch.split_at_mut(from_elements * lanes);
            for (tile, to) in self.tiles(index).zip(to.chunks_mut(to_elements * lanes)) {
                rows_to_lanes(self.level, rows(from, tile, from_elements), from_elements, source);
                f(source, result);
                lanes_to_rows(self.level, result, to, to_elements);
            }
        };
        parts[..self.parts].par_iter_mut().enumerate().zip(scratch.par_chunks_exact_mut(part_len)).for_each(part);
    }

    /// (first image, images) of the tiles of a part.
    fn tiles(&self, part: usize) -> impl Iterator<Item = (usize, usize)> {
        let lanes = crate::lanes(self.level);
        let batch = self.batch;
        let tiles = Blocks::cut(batch.div_ceil(lanes), self.parts).get(part);
        tiles.map(move |tile| (tile * lanes, lanes.min(batch - tile * lanes)))
    }

    fn input(&self) -> usize {
        self.conv.input_len() / crate::lanes(self.level)
    }

    fn output(&self) -> usize {
        self.conv.output_len() / crate::lanes(self.level)
    }

    fn weights(&self) -> usize {
        let shape = self.conv.shape();
        shape.out_channels * shape.in_channels * shape.taps()
    }

    fn packed_len(&self) -> usize {
        self.conv.packed_forward_len().max(self.conv.packed_backward_len())
    }

    fn check(&self, what: &str, len: usize, elements: usize) {
        assert!(
            len == self.batch * elements,
            "{what} has {len} elements, expected {} images of {elements}",
            self.batch
        );
    }
}

/// The rows of a tile's images.
fn rows(all: &[f32], (first, samples): (usize, usize), elements: usize) -> &[f32] {
    &all[first * elements..(first + samples) * elements]
}

/// Bytes of the inputs and outputs of LANES images that may be in lanes for each thread: a share of a
/// third-level cache.
const TILE_BYTES: usize = 8 << 20;

/// Whether a pass takes fewer cycles with images across the lanes than `cycles`, by an estimate.
///
/// Images use every lane of a full tile, whatever the number of channels, but both tensors must be
/// transposed.
fn images_pay(level: Level, conv: &LaneConv, batch: usize, cycles: usize) -> bool {
    // To transpose a vector, there or back, and to do the same element by element in a tile that is not full.
    const TRANSPOSE: usize = 8;
    const ELEMENT: usize = 2;
    let lanes = crate::lanes(level);
    let elements = conv.input_len() + conv.output_len();
    let vectors = elements / lanes;
    let (full, left) = (batch / lanes, batch % lanes);
    // Two products at once, of which the border and short sums leave about four fifths.
    let multiply = conv.shape().flops() as usize / 4 * 5 / 4;
    let tiles = full * (multiply + vectors * TRANSPOSE)
        + usize::from(left > 0) * (multiply + vectors * (TRANSPOSE + left * ELEMENT));
    elements * size_of::<f32>() <= TILE_BYTES && tiles < cycles
}
