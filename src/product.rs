//! Products with weights: a convolution, its transpose, or several of either side by side.
//!
//! Channels that do not see each other are cut into *blocks*, and a block is a convolution of its own: one group of channels
//! or, where a group does not fill vectors of channels, several, whose weights for one another are 0. Channels each by
//! itself are one block, for which there are kernels.

use std::ops::Range;

use predictive_coding_kernels::{Choice, Combine, Conv, ConvOptions, ConvShape, Layout, Level, Local, lanes};

use crate::parameters::ParametersView;

/// What a product computes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProductShape {
    /// The convolution of all channels, or the one whose transpose it is.
    pub(crate) conv: ConvShape,
    pub(crate) transposed: bool,
    /// Groups of channels that do not see each other.
    pub(crate) groups: usize,
    pub(crate) scale: f64,
}

impl ProductShape {
    /// Multiplications and additions of one sample in one direction. Saturates.
    pub(crate) fn flops(&self) -> u64 {
        self.conv.flops() / self.groups as u64
    }

    /// Groups in each block.
    fn groups_per_block(&self, level: Level, layout: Layout) -> usize {
        let whole = |merged: usize| {
            let ConvShape { in_channels, out_channels, .. } = self.conv;
            [in_channels, out_channels].iter().all(|c| (c / self.groups * merged).is_multiple_of(lanes(level)))
        };
        let divisors = (1..self.groups).filter(|merged| self.groups.is_multiple_of(*merged));
        match layout.is_channels() {
            true => divisors.into_iter().find(|&merged| whole(merged)).unwrap_or(self.groups),
            false => 1,
        }
    }

    /// The convolution of a block, and how many blocks there are.
    pub(crate) fn block(&self, level: Level, layout: Layout) -> (ConvShape, usize) {
        if [self.conv.in_channels, self.conv.out_channels] == [self.groups; 2] {
            return (ConvShape { groups: self.groups, ..self.conv }, 1);
        }
        let blocks = self.groups / self.groups_per_block(level, layout);
        let ConvShape { in_channels, out_channels, .. } = self.conv;
        let [in_channels, out_channels] = [in_channels, out_channels].map(|channels| channels / blocks);
        (ConvShape { in_channels, out_channels, ..self.conv }, blocks)
    }
}

/// A convolution, its transpose, or an affine map as a convolution of one pixel.
#[derive(Debug)]
pub(crate) struct Product {
    /// Of a block.
    conv: Conv,
    transposed: bool,
    blocks: usize,
    /// Groups of channels in each block.
    groups: usize,
    /// Places in the parameters.
    pub(crate) weight: Range<usize>,
    pub(crate) bias: Option<Range<usize>>,
    /// Places in the packed weights: for the product, for its transpose, and of the weights of blocks of several groups.
    forward: Range<usize>,
    backward: Range<usize>,
    dense: Range<usize>,
    /// Place of the gradient of the bias among the partial gradients.
    pub(crate) partial_bias: Option<Range<usize>>,
    pub(crate) gradient: WeightGradient,
}

/// How the gradient of a product's weights is summed over the batch.
#[derive(Debug)]
pub(crate) enum WeightGradient {
    /// Of a convolution: tile by tile, at this place among the partial gradients.
    Partial(Range<usize>),
    /// Of a matrix: by one product over the whole batch, whose operands lie at these places in the row of
    /// a sample.
    Rows { errors: Range<usize>, inputs: Range<usize> },
}

/// Where a product takes its weights from.
#[derive(Clone, Copy)]
pub(crate) struct Weights<'a> {
    pub(crate) parameters: ParametersView<'a>,
    pub(crate) packed: &'a [f32],
}

impl Product {
    /// Plans one. `packed` reserves a place among the packed weights; the gradients have no place yet.
    pub(crate) fn new(
        level: Level,
        layout: Layout,
        shape: &ProductShape,
        options: ConvOptions,
        (weight, bias): (Range<usize>, Option<Range<usize>>),
        is_pulled_through: bool,
        mut packed: impl FnMut(usize) -> Range<usize>,
    ) -> Self {
        let (block, blocks) = shape.block(level, layout);
        let conv = Conv::with_options(level, layout, block, options.with_scale(shape.scale as f32));
        let [mut forward, mut backward] = [conv.packed_forward_len(), conv.packed_backward_len()];
        if shape.transposed {
            std::mem::swap(&mut forward, &mut backward);
        }
        let groups = shape.groups / (blocks * block.groups);
        let dense = block.weights();
        Product {
            transposed: shape.transposed,
            blocks,
            groups,
            weight,
            partial_bias: None,
            gradient: WeightGradient::Partial(0..0),
            forward: packed(blocks * forward),
            backward: packed(if is_pulled_through { blocks * backward } else { 0 }),
            dense: packed(if groups > 1 { blocks * dense } else { 0 }),
            bias,
            conv,
        }
    }

    /// Elements of the input and of the output of a tile.
    pub(crate) fn input_len(&self) -> usize {
        self.blocks * if self.transposed { self.conv.output_len() } else { self.conv.input_len() }
    }

    pub(crate) fn output_len(&self) -> usize {
        self.blocks * if self.transposed { self.conv.input_len() } else { self.conv.output_len() }
    }

    pub(crate) fn scratch_len(&self) -> usize {
        self.conv.scratch_len()
    }

    /// Rows and columns of the weights, if the product is that of a matrix over a batch.
    pub(crate) fn matrix(&self) -> Option<[usize; 2]> {
        let shape = self.conv.shape();
        let plain = !self.transposed && self.blocks == 1 && self.groups == 1 && self.conv.is_matrix();
        plain.then(|| [shape.out_channels, shape.in_channels * shape.taps()])
    }

    /// Channels and pixels of the input of a matrix.
    pub(crate) fn input_image(&self) -> [usize; 2] {
        let shape = self.conv.shape();
        [shape.in_channels, shape.taps()]
    }

    /// What each pass of a convolution is computed by: forward, to the data, to the weights.
    pub(crate) fn choices(&self) -> Option<[Choice; 3]> {
        let [forward, backward, gradient] = self.conv.choices();
        match (self.conv.is_matrix(), self.transposed) {
            (true, _) => None,
            (false, false) => Some([forward, backward, gradient]),
            (false, true) => Some([backward, forward, gradient]),
        }
    }

    /// The factor of the product.
    pub(crate) fn scale(&self) -> f32 {
        self.conv.scale()
    }

    /// Bands that the rows of the output are cut into.
    pub(crate) fn bands(&self) -> usize {
        if self.transposed { 1 } else { self.conv.output_bands() }
    }

    /// Elements of a band of the output.
    pub(crate) fn band_len(&self, band: usize) -> usize {
        if self.transposed { self.output_len() } else { self.blocks * self.conv.output_band_len(band) }
    }

    /// The rows of the result of the local operation behind it that a band makes.
    pub(crate) fn rows_of_band(&self, local: &Local, band: usize) -> Range<usize> {
        if self.bands() == 1 {
            return 0..local.output_rows();
        }
        let rows = self.conv.output_band(band);
        let step = local.rows_per_row().expect("a product is cut into bands for operations whose rows share nothing");
        let end = if band + 1 == self.bands() { local.output_rows() } else { rows.end / step };
        (rows.start / step).min(end)..end
    }

    /// Packs the weights for both directions.
    pub(crate) fn pack(&self, parameters: ParametersView<'_>, packed: &mut [f32]) {
        let weight = parameters.at(&self.weight);
        self.fill_blocks(weight, packed);
        self.pack_direction(weight, packed, &self.forward, self.transposed);
        self.pack_direction(weight, packed, &self.backward, !self.transposed);
    }

    /// Packs weights for the forward direction alone.
    pub(crate) fn pack_forward(&self, parameters: ParametersView<'_>, packed: &mut [f32]) {
        let weight = parameters.at(&self.weight);
        self.fill_blocks(weight, packed);
        self.pack_direction(weight, packed, &self.forward, self.transposed);
    }

    /// Puts the weights of groups where they lie in their blocks; the rest of those is 0.
    fn fill_blocks(&self, weight: &[f32], packed: &mut [f32]) {
        let dense = &mut packed[self.dense.clone()];
        self.for_each_row(|row, block| dense[block].copy_from_slice(&weight[row]));
    }

    /// Calls `f` for what one output channel of each group's convolution reads, where groups share blocks: its place in the
    /// weights, and in those of the blocks.
    fn for_each_row(&self, mut f: impl FnMut(Range<usize>, Range<usize>)) {
        if self.groups == 1 {
            return;
        }
        let shape = self.conv.shape();
        let outputs = shape.out_channels / self.groups;
        let (row, len) = (shape.in_channels * shape.taps(), shape.in_channels * shape.taps() / self.groups);
        for channel in 0..self.blocks * shape.out_channels {
            let group = channel / outputs % self.groups;
            let start = channel * row + group * len;
            f(channel * len..(channel + 1) * len, start..start + len);
        }
    }

    fn pack_direction(&self, weight: &[f32], packed: &mut [f32], place: &Range<usize>, transposed: bool) {
        if place.is_empty() {
            return;
        }
        // What is packed lies before the weights of blocks.
        let (packed, dense) = packed.split_at_mut(self.dense.start.max(place.end));
        let weight = if self.groups > 1 { &dense[..self.dense.len()] } else { weight };
        let blocks = packed[place.clone()].chunks_exact_mut(place.len() / self.blocks);
        for (packed, weight) in blocks.zip(weight.chunks_exact(weight.len() / self.blocks)) {
            match transposed {
                false => self.conv.pack_forward(weight, packed, true),
                true => self.conv.pack_backward(weight, packed, true),
            }
        }
    }

    /// The product of a tile, with its bias if that is part of `combine`; of one band, if it is said which.
    #[expect(clippy::too_many_arguments, reason = "the operands of a product, and how it is computed")]
    pub(crate) fn forward(
        &self,
        band: Option<usize>,
        weights: Weights<'_>,
        x: &[f32],
        combine: Combine<'_>,
        out: &mut [f32],
        scratch: &mut [f32],
        parallel: bool,
    ) {
        self.run(self.transposed, &self.forward, weights, x, combine, out, |packed, x, combine, out| {
            match (self.transposed, band) {
                (true, _) => self.conv.backward_data(packed, x, combine, out, scratch, parallel),
                (false, None) => self.conv.forward(packed, x, combine, out, scratch, parallel),
                (false, Some(band)) => self.conv.forward_band(band, packed, x, combine, out, scratch, parallel),
            }
        });
    }

    /// One band of the product by itself. There is no third operand, and no step.
    #[expect(clippy::too_many_arguments, reason = "the operands of a product, and how it is computed")]
    pub(crate) fn forward_alone(
        &self,
        band: usize,
        weights: Weights<'_>,
        x: &[f32],
        combine: Combine<'_>,
        out: &mut [f32],
        scratch: &mut [f32],
        parallel: bool,
    ) {
        self.run(self.transposed, &self.forward, weights, x, combine, out, |packed, x, combine, out| {
            match self.transposed {
                true => self.conv.backward_data(packed, x, combine, out, scratch, parallel),
                false => self.conv.forward_alone(band, packed, x, combine, out, scratch, parallel),
            }
        });
    }

    /// The transposed product: from the output's gradient to the input's.
    pub(crate) fn backward(
        &self,
        weights: Weights<'_>,
        gradient: &[f32],
        combine: Combine<'_>,
        out: &mut [f32],
        scratch: &mut [f32],
        parallel: bool,
    ) {
        self.run(
            !self.transposed,
            &self.backward,
            weights,
            gradient,
            combine,
            out,
            |packed, x, combine, out| match self.transposed {
                true => self.conv.forward(packed, x, combine, out, scratch, parallel),
                false => self.conv.backward_data(packed, x, combine, out, scratch, parallel),
            },
        );
    }

    /// Calls `product(weights, x, combine, out)` for every block of channels. `transposed`: whether that is the convolution's
    /// transpose.
    #[expect(clippy::too_many_arguments, reason = "the operands of a product, and how it is computed")]
    fn run(
        &self,
        transposed: bool,
        place: &Range<usize>,
        weights: Weights<'_>,
        x: &[f32],
        combine: Combine<'_>,
        out: &mut [f32],
        mut product: impl FnMut(&[f32], &[f32], Combine<'_>, &mut [f32]),
    ) {
        let packed = match (place.is_empty(), self.groups) {
            (false, _) => &weights.packed[place.clone()],
            (true, 1) => weights.parameters.at(&self.weight),
            (true, _) => &weights.packed[self.dense.clone()],
        };
        if self.blocks == 1 {
            return product(packed, x, combine, out);
        }
        let shape = self.conv.shape();
        let channels = if transposed { shape.in_channels } else { shape.out_channels };
        let of_block = |len: usize, block: usize| block * (len / self.blocks)..(block + 1) * (len / self.blocks);
        let blocks = out.chunks_exact_mut(out.len() / self.blocks);
        for (block, out) in blocks.enumerate() {
            let combine = Combine {
                bias: combine.bias.map(|bias| &bias[block * channels..(block + 1) * channels]),
                other: &combine.other[of_block(combine.other.len(), block)],
                ..combine
            };
            product(&packed[of_block(packed.len(), block)], &x[of_block(x.len(), block)], combine, out);
        }
    }

    /// Elements of the gradient of the weights as [`add_gradient`](Self::add_gradient) sums it.
    pub(crate) fn gradient_len(&self) -> usize {
        self.blocks * self.conv.gradient_len()
    }

    /// Adds the gradient of the weights, summed over the tile, to `sums`.
    pub(crate) fn add_gradient(
        &self,
        gradient: &[f32],
        x: &[f32],
        sums: &mut [f32],
        scratch: &mut [f32],
        parallel: bool,
    ) {
        let (output_gradient, input) = if self.transposed { (x, gradient) } else { (gradient, x) };
        let [output_len, input_len] = [output_gradient, input].map(|tensor| tensor.len() / self.blocks);
        let operands = output_gradient.chunks_exact(output_len).zip(input.chunks_exact(input_len));
        let sums = sums.chunks_exact_mut(self.conv.gradient_len());
        for ((output_gradient, input), sums) in operands.zip(sums) {
            self.conv.backward_weights(output_gradient, input, sums, scratch, parallel);
        }
    }

    /// `to` = `factor` times the gradient of the weights. `dense` has at least [`dense_len`](Self::dense_len) elements of any
    /// value.
    pub(crate) fn unpack_gradient(&self, sums: &[f32], factor: f32, to: &mut [f32], dense: &mut [f32]) {
        let gradient_len = self.conv.gradient_len();
        let out = if self.groups > 1 { &mut dense[..self.dense.len()] } else { &mut *to };
        let len = out.len() / self.blocks;
        for (sums, out) in sums.chunks_exact(gradient_len).zip(out.chunks_exact_mut(len)) {
            self.conv.unpack_gradient(sums, factor, out);
        }
        self.for_each_row(|row, block| to[row].copy_from_slice(&dense[block]));
    }

    /// Elements of the weights of blocks of several groups.
    pub(crate) fn dense_len(&self) -> usize {
        self.dense.len()
    }

    /// Adds the sums over pixels and images of each output channel to `sums`.
    pub(crate) fn add_bias_gradient(&self, gradient: &[f32], sums: &mut [f32]) {
        let blocks = gradient.chunks_exact(gradient.len() / self.blocks);
        let channels = sums.len() / self.blocks;
        for (gradient, sums) in blocks.zip(sums.chunks_exact_mut(channels)) {
            match self.transposed {
                true => self.conv.transposed_bias(gradient, sums),
                false => self.conv.backward_bias(gradient, sums),
            }
        }
    }
}
