//! The three passes of a convolution, from either layout of tiles and from plain NCHW.

use predictive_coding_kernels::elementwise::accumulate;
use predictive_coding_kernels::{self as kernels, Algorithm, Buffer, Combine, ConvShape, Level, NchwConv, lanes};
use rayon::prelude::*;

use crate::bench::check::{self, values};
use crate::bench::{Measured, poisoned};
use crate::timing::time;

/// How the tensors of a batch lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Layout {
    /// Tiles of as many images as a vector has lanes, `[channels][height][width][LANES]`.
    Images,
    /// Tiles of one image, `[channels / LANES][height][width][LANES]`.
    Channels,
    /// `[batch][channels][height][width]`.
    Nchw,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pass {
    Forward,
    BackwardData,
    BackwardWeights,
}

/// A pass of the convolution of `batch` images.
#[derive(Clone, Debug, PartialEq)]
pub struct Conv {
    pub layout: Layout,
    pub pass: Pass,
    pub batch: usize,
    pub shape: ConvShape,
}

impl Layout {
    pub fn name(self) -> &'static str {
        match self {
            Layout::Images => "conv",
            Layout::Channels => "conv-channels",
            Layout::Nchw => "conv-nchw",
        }
    }
}

impl Pass {
    pub const ALL: [Pass; 3] = [Pass::Forward, Pass::BackwardData, Pass::BackwardWeights];

    pub fn name(self) -> &'static str {
        match self {
            Pass::Forward => "forward",
            Pass::BackwardData => "backward-data",
            Pass::BackwardWeights => "backward-weights",
        }
    }
}

impl Conv {
    /// Elements of one image of the input, of one of the output, and of the weights.
    fn elements(&self) -> [u128; 3] {
        let product = |sizes: &[usize]| sizes.iter().map(|&size| size as u128).product::<u128>();
        let ConvShape { in_channels, out_channels, input, kernel, .. } = self.shape;
        let output = self.shape.output();
        [
            product(&[in_channels, input[0], input[1]]),
            product(&[out_channels, output[0], output[1]]),
            product(&[out_channels, in_channels / self.shape.groups, kernel[0], kernel[1]]),
        ]
    }

    /// The same for every pass.
    pub fn flops(&self) -> u128 {
        let [_, output, weights] = self.elements();
        (2 * self.batch as u128).saturating_mul(output).saturating_mul(weights / self.shape.out_channels as u128)
    }

    /// Elements of the operands and of the result: input, weights, output; output, weights, input;
    /// or output, input, weights.
    pub fn lengths(&self) -> [u128; 3] {
        let [input, output, weights] = self.elements();
        let (input, output) = (input.saturating_mul(self.batch as u128), output.saturating_mul(self.batch as u128));
        match self.pass {
            Pass::Forward => [input, weights, output],
            Pass::BackwardData => [output, weights, input],
            Pass::BackwardWeights => [output, input, weights],
        }
    }

    /// Bytes of the operands and the result, in rows and in tiles.
    pub fn bytes(&self, level: Level) -> u128 {
        let [input, output, weights] = self.elements();
        let images = (self.batch + self.batch.next_multiple_of(lanes(level))) as u128;
        let tensors = images.saturating_mul(input.saturating_add(output)).saturating_add(weights.saturating_mul(2));
        tensors.saturating_mul(size_of::<f32>() as u128)
    }

    /// Refuses what no tile can address.
    pub fn check(&self, level: Level) -> Result<(), String> {
        let [input, output, _] = self.elements();
        let lanes = lanes(level);
        match u32::try_from(input.max(output).saturating_mul(lanes as u128)) {
            Ok(_) => Ok(()),
            Err(_) => Err(format!("{lanes} of its images have 2^32 elements or more; use a smaller shape")),
        }
    }

    /// Convolves on the current rayon pool: checks the result, then times it.
    pub fn measure(&self, level: Level, algorithm: Algorithm, seconds: f64) -> Result<Measured, String> {
        let [first, second, result] = self.lengths().map(|length| length as usize);
        let operands = [values(1, first), values(2, second)];
        let operands = [&operands[0][..], &operands[1][..]];
        let layout = match self.layout {
            Layout::Nchw => return self.nchw(level, algorithm, operands, result, seconds),
            Layout::Images => kernels::Layout::Images,
            Layout::Channels => kernels::Layout::Channels(1),
        };
        let tiles = Tiles { level, layout, algorithm, batch: self.batch };
        match self.pass {
            Pass::BackwardWeights => self.tile_weights(tiles, operands, seconds),
            _ => self.tile_tensor(tiles, operands, result, seconds),
        }
    }

    fn nchw(
        &self,
        level: Level,
        algorithm: Algorithm,
        operands: [&[f32]; 2],
        result: usize,
        seconds: f64,
    ) -> Result<Measured, String> {
        let conv = NchwConv::new(level, self.shape, self.batch, algorithm);
        let [first, second] = operands;
        let mut scratch = poisoned(conv.scratch_len());
        let mut result = poisoned(result);
        let mut run = |result: &mut [f32]| match self.pass {
            Pass::Forward => conv.forward(second, None, first, result, &mut scratch),
            Pass::BackwardData => conv.backward_data(second, first, result, &mut scratch),
            Pass::BackwardWeights => conv.backward_weights(first, second, result, &mut scratch),
        };
        run(&mut result);
        check::conv(self, operands, &result)?;
        let times = time(seconds, || run(&mut result));
        Ok(Measured { times, scratch_bytes: size_of_val(&scratch[..]) })
    }

    /// Forward, or backward to data: every tile of images makes a tile of results.
    fn tile_tensor(
        &self,
        tiles: Tiles,
        operands: [&[f32]; 2],
        result: usize,
        seconds: f64,
    ) -> Result<Measured, String> {
        let conv = kernels::Conv::new(tiles.level, tiles.layout, self.shape, tiles.algorithm);
        let [first, weight] = operands;
        let (lens, packed_len) = match self.pass {
            Pass::Forward => ([conv.input_len(), conv.output_len()], conv.packed_forward_len()),
            _ => ([conv.output_len(), conv.input_len()], conv.packed_backward_len()),
        };
        let [from_len, to_len] = lens;
        let [input, output] = self.images();
        let [from_image, to_image] = if self.pass == Pass::Forward { [input, output] } else { [output, input] };
        let mut packed = Buffer::zeros(packed_len);
        match self.pass {
            Pass::Forward => conv.pack_forward(weight, &mut packed, false),
            _ => conv.pack_backward(weight, &mut packed, false),
        }
        let weight = if packed_len == 0 { weight } else { &packed[..] };
        let from = tiles.tiled(first, from_image);
        let mut to = poisoned(tiles.count() * to_len);
        // Every thread its share of the tiles, and scratch of one element at least, for there are chunks only of something.
        let share = tiles.count().div_ceil(rayon::current_num_threads());
        let scratch_len = conv.scratch_len().max(1);
        let mut scratch = poisoned(tiles.count().div_ceil(share) * scratch_len);
        let mut run = |to: &mut [f32]| {
            let shares = to.par_chunks_mut(share * to_len).zip(from.par_chunks(share * from_len));
            shares.zip(scratch.par_chunks_exact_mut(scratch_len)).for_each(|((to, from), scratch)| {
                for (to, from) in to.chunks_exact_mut(to_len).zip(from.chunks_exact(from_len)) {
                    let combine = Combine::default();
                    match self.pass {
                        Pass::Forward => conv.forward(weight, from, combine, to, scratch, tiles.share()),
                        _ => conv.backward_data(weight, from, combine, to, scratch, tiles.share()),
                    }
                }
            });
        };
        run(&mut to);
        check::conv(self, operands, &tiles.untiled(&to, to_image, result))?;
        let times = time(seconds, || run(&mut to));
        Ok(Measured { times, scratch_bytes: size_of_val(&scratch[..]) })
    }

    /// Backward to weights: every thread sums the gradients of consecutive tiles, and the sums of all
    /// are added in order.
    fn tile_weights(&self, tiles: Tiles, operands: [&[f32]; 2], seconds: f64) -> Result<Measured, String> {
        let conv = kernels::Conv::new(tiles.level, tiles.layout, self.shape, tiles.algorithm);
        let (e_len, x_len) = (conv.output_len(), conv.input_len());
        let [input, output] = self.images();
        let (e, x) = (tiles.tiled(operands[0], output), tiles.tiled(operands[1], input));
        let parts = tiles.count().min(rayon::current_num_threads());
        let sums = conv.gradient_len();
        let mut weights = poisoned(self.shape.weights());
        let scratch_len = conv.scratch_len();
        // One element at least, for there are chunks only of something.
        let mut scratch = poisoned(parts * scratch_len.max(1));
        let mut gradients = poisoned(parts * sums);
        let mut run = |gradients: &mut [f32], weights: &mut [f32]| {
            let scratch = scratch.par_chunks_exact_mut(scratch_len.max(1));
            gradients.par_chunks_exact_mut(sums).zip(scratch).enumerate().for_each(|(part, (gradient, scratch))| {
                gradient.fill(0.0);
                for tile in part * tiles.count() / parts..(part + 1) * tiles.count() / parts {
                    let (e, x) = (&e[tile * e_len..][..e_len], &x[tile * x_len..][..x_len]);
                    conv.backward_weights(e, x, gradient, &mut scratch[..scratch_len], tiles.share());
                }
            });
            let (sum, rest) = gradients.split_at_mut(sums);
            for gradient in rest.chunks_exact(sums) {
                accumulate(tiles.level, gradient, sum);
            }
            conv.unpack_gradient(sum, 1.0, weights);
        };
        run(&mut gradients, &mut weights);
        check::conv(self, operands, &weights)?;
        let times = time(seconds, || run(&mut gradients, &mut weights));
        Ok(Measured { times, scratch_bytes: size_of::<f32>() * parts * (scratch_len + sums) })
    }

    /// Channels and pixels of an image of the input and of the output.
    fn images(&self) -> [[usize; 2]; 2] {
        let ConvShape { in_channels, out_channels, input, .. } = self.shape;
        let output = self.shape.output();
        [[in_channels, input[0] * input[1]], [out_channels, output[0] * output[1]]]
    }
}

/// A batch cut into tiles, the last of which may have lanes without an image.
#[derive(Clone, Copy)]
struct Tiles {
    level: Level,
    layout: kernels::Layout,
    algorithm: Algorithm,
    batch: usize,
}

impl Tiles {
    fn images(&self) -> usize {
        self.layout.images(self.level)
    }

    fn count(&self) -> usize {
        self.batch.div_ceil(self.images())
    }

    /// Whether threads share a tile, for want of tiles to share.
    fn share(&self) -> bool {
        self.count() == 1 && rayon::current_num_threads() > 1
    }

    /// The images of a batch, of so many channels and pixels, put into tiles.
    fn tiled(&self, rows: &[f32], image: [usize; 2]) -> Buffer {
        let len = self.layout.len(self.level, image);
        let mut tiles = Buffer::zeros(self.count() * len);
        let elements = image[0] * image[1];
        for (rows, tile) in rows.chunks(elements * self.images()).zip(tiles.chunks_exact_mut(len)) {
            self.layout.load(self.level, rows, image, tile);
        }
        tiles
    }

    /// The reverse, for `len` elements in all.
    fn untiled(&self, tiles: &[f32], image: [usize; 2], len: usize) -> Vec<f32> {
        let mut rows = vec![0.0; len];
        let elements = image[0] * image[1];
        let tile_len = self.layout.len(self.level, image);
        for (rows, tile) in rows.chunks_mut(elements * self.images()).zip(tiles.chunks_exact(tile_len)) {
            self.layout.store(self.level, tile, image, rows, rows.len() / elements, elements);
        }
        rows
    }
}
