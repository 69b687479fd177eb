//! 2-D convolution: forward, and backward to data and weights.

mod depthwise;
mod gradient;
mod matrix;
mod nchw;
mod pass;
mod product;
mod shape;
mod winograd;

use std::ops::Range;

use crate::combine::Combine;
use crate::conv::gradient::Gradient;
use crate::conv::matrix::Matrix;
use crate::conv::pass::{Direction, GradientPass, Pass, Pixels};
use crate::conv::product::TapProduct;
use crate::layout::Layout;
use crate::level::Level;
use crate::parallel::for_each_chunk;
use crate::reduce::add_channels;
use crate::simd::lanes;

pub use nchw::NchwConv;
pub use pass::{Algorithm, Choice, ConvOptions};
pub use shape::ConvShape;
pub(crate) use shape::{Axis, AxisSize, check_tensor};

/// # Panics
/// If a length is not the planned one.
fn check_len(what: &str, found: usize, expected: usize) {
    assert!(found == expected, "{what} has {found} elements, planned for {expected}");
}

/// A convolution of a tile of images, planned for a level and a [`Layout`]: its three products, and the packed
/// weights that they want.
///
/// Every load is a whole vector, whatever the channel count, kernel, stride or dilation. A matrix product of a batch
/// is the case of one pixel.
#[derive(Clone, Debug)]
pub struct Conv {
    shape: ConvShape,
    level: Level,
    layout: Layout,
    forward: Pass,
    backward: Pass,
    choice: Choice,
    gradient: GradientPass,
    scale: f32,
}

impl Conv {
    /// Plans a convolution by an algorithm.
    ///
    /// # Panics
    /// If a window does not fit its padded input, or a number of channels, a size, a kernel, stride or dilation is 0; in
    /// [`Layout::Batch`], if it is not a matrix product; if there are groups, but not one for each channel;
    /// if a tensor of LANES images has 2^32 elements or more, the weights of a channel of either side 2^28, or a padded
    /// tensor 2^38.
    pub fn new(level: Level, layout: Layout, shape: ConvShape, algorithm: Algorithm) -> Self {
        Self::with_options(level, layout, shape, ConvOptions { algorithm, ..ConvOptions::default() })
    }

    /// Plans a convolution that is not as usual.
    ///
    /// # Panics
    /// As [`new`](Self::new), or if a band has 0 rows.
    pub fn with_options(level: Level, layout: Layout, shape: ConvShape, options: ConvOptions) -> Self {
        let lanes = lanes(level);
        let shape = match layout {
            Layout::Images | Layout::Channels(_) => shape,
            // The vectors of a batch are to a matrix what pixels are.
            Layout::Batch(vectors) => {
                let linear = ConvShape::linear(shape.in_channels, shape.out_channels);
                assert!(shape == linear, "{shape:?} in the layout of a batch, expected {linear:?}");
                ConvShape { input: [1, vectors], ..shape }
            }
        };
        shape.check_sizes(lanes);
        let shape = shape.with_needed_steps();
        let pixels = Pixels::of(layout, lanes);
        let whole = ConvOptions { rows_per_band: usize::MAX, ..options };
        let direct = || Gradient::new(level, layout, lanes, shape, 1);
        let (choice, gradient) = GradientPass::new(level, layout, &shape, options.algorithm, direct);
        Conv {
            shape,
            level,
            layout,
            forward: Pass::new(level, layout, pixels, &shape, Direction::Forward, options),
            backward: Pass::new(level, layout, pixels, &shape, Direction::Backward, whole),
            choice,
            gradient,
            scale: options.scale,
        }
    }

    /// At most so many bytes of tables of addresses does a plan have: one for each way in which the
    /// windows of a row and of a column meet the border, in both directions. Saturates.
    ///
    /// # Panics
    /// If a window does not fit its padded input, or a kernel, stride or dilation is 0.
    pub fn table_bytes(shape: &ConvShape) -> usize {
        let (output, shape) = (shape.output(), shape.with_needed_steps());
        let bytes = |size: fn(&ConvShape, usize, usize) -> Option<AxisSize>, channels: usize, rows: usize| match [0, 1]
            .map(|axis| size(&shape, axis, Axis::LONGEST))
        {
            [Some(down), Some(along)] => TapProduct::table_bytes([down, along], channels, rows),
            _ => usize::MAX,
        };
        let forward = bytes(Axis::forward_size, shape.in_channels / shape.groups, output[0]);
        forward.saturating_add(bytes(Axis::transposed_size, shape.out_channels / shape.groups, shape.input[0]))
    }

    /// The sizes it was planned for, with steps between windows and taps no longer than makes a difference.
    pub fn shape(&self) -> &ConvShape {
        &self.shape
    }

    /// Elements of the input of a tile.
    pub fn input_len(&self) -> usize {
        self.backward.len()
    }

    /// Elements of the output of a tile.
    pub fn output_len(&self) -> usize {
        self.forward.len()
    }

    /// The product of an image's only pixel, for which no weights are packed: the products take them as they are.
    fn matrix(&self) -> Option<Matrix> {
        let ConvShape { in_channels, out_channels, input, .. } = self.shape;
        let one = self.layout.is_channels() && self.is_matrix() && input == [1, 1];
        one.then_some(Matrix {
            level: self.level,
            images: self.layout.pieces().0,
            rows: out_channels,
            columns: in_channels,
        })
    }

    /// Elements of the weights packed for the forward product; 0 if it takes them as they are: where each of them meets a few
    /// pixels, to pack them beforehand takes longer than it saves.
    pub fn packed_forward_len(&self) -> usize {
        if self.matrix().is_some() { 0 } else { self.forward.packed_len() }
    }

    /// Elements of the weights packed for the transposed product; 0 if it takes them as they are.
    pub fn packed_backward_len(&self) -> usize {
        if self.matrix().is_some() { 0 } else { self.backward.packed_len() }
    }

    /// Packs weights `[out_channels, in_channels / groups, height, width]` for [`forward`](Self::forward).
    ///
    /// # Panics
    /// If a length is not the planned one.
    pub fn pack_forward(&self, weight: &[f32], packed: &mut [f32], parallel: bool) {
        if self.packed_forward_len() > 0 {
            self.forward.pack(weight, packed, parallel);
            self.scale_packed(packed, parallel);
        }
    }

    /// Packs weights `[out_channels, in_channels / groups, height, width]` for
    /// [`backward_data`](Self::backward_data).
    ///
    /// # Panics
    /// If a length is not the planned one.
    pub fn pack_backward(&self, weight: &[f32], packed: &mut [f32], parallel: bool) {
        if self.packed_backward_len() > 0 {
            self.backward.pack(weight, packed, parallel);
            self.scale_packed(packed, parallel);
        }
    }

    /// Every packed weight is a sum of weights.
    fn scale_packed(&self, packed: &mut [f32], parallel: bool) {
        /// Elements that a task takes.
        const CHUNK: usize = 1 << 14;
        if self.scale != 1.0 {
            for_each_chunk(parallel, packed.len() as u64, packed, CHUNK, |_, packed| {
                packed.iter_mut().for_each(|weight| *weight *= self.scale);
            });
        }
    }

    /// With the factor of weights, if none of them are packed.
    fn scaled<'a>(&self, packed_len: usize, combine: Combine<'a>) -> Combine<'a> {
        let scale = if packed_len == 0 { self.scale } else { 1.0 };
        Combine { alpha: scale * combine.alpha, ..combine }
    }

    /// The convolution of a tile. `packed` holds the packed weights, or the weights themselves if
    /// [none](Self::packed_forward_len) are packed. With `parallel`, the threads of the current rayon pool share it; the result
    /// is the same to the last bit.
    ///
    /// # Panics
    /// If a length is not the planned one.
    pub fn forward(
        &self,
        packed: &[f32],
        input: &[f32],
        combine: Combine<'_>,
        output: &mut [f32],
        scratch: &mut [f32],
        parallel: bool,
    ) {
        let combine = self.scaled(self.packed_forward_len(), combine);
        match self.matrix() {
            Some(matrix) => matrix.forward(packed, input, combine, output, parallel),
            None => self.forward.run(0..self.output_bands(), packed, input, combine, output, scratch, parallel),
        }
    }

    /// Bands that the rows of the output are cut into.
    pub fn output_bands(&self) -> usize {
        self.forward.bands()
    }

    /// The rows of a band of the output.
    pub fn output_band(&self, band: usize) -> Range<usize> {
        self.forward.band_rows(band)
    }

    /// Elements of a band of the output.
    pub fn output_band_len(&self, band: usize) -> usize {
        self.forward.band_len(band)
    }

    /// As [`forward`](Self::forward), for one band of the output, the rest of which stays as it is.
    ///
    /// # Panics
    /// As [`forward`](Self::forward), or if there is no such band.
    #[expect(clippy::too_many_arguments, reason = "the operands of a product, and how it is computed")]
    pub fn forward_band(
        &self,
        band: usize,
        packed: &[f32],
        input: &[f32],
        combine: Combine<'_>,
        output: &mut [f32],
        scratch: &mut [f32],
        parallel: bool,
    ) {
        let combine = self.scaled(self.packed_forward_len(), combine);
        match self.matrix() {
            Some(matrix) => matrix.forward(packed, input, combine, output, parallel),
            None => self.forward.run(band..band + 1, packed, input, combine, output, scratch, parallel),
        }
    }

    /// One band of the output by itself, `[planes][rows of the band][width][LANES]`.
    ///
    /// # Panics
    /// As [`forward_band`](Self::forward_band), or if there is a third operand or a step.
    #[expect(clippy::too_many_arguments, reason = "the operands of a product, and how it is computed")]
    pub fn forward_alone(
        &self,
        band: usize,
        packed: &[f32],
        input: &[f32],
        combine: Combine<'_>,
        output: &mut [f32],
        scratch: &mut [f32],
        parallel: bool,
    ) {
        assert!(combine.gamma == 0.0 && combine.step.is_none(), "a band by itself has no third operand, and no step");
        check_len("output", output.len(), self.output_band_len(band));
        if let Some(bias) = combine.bias {
            check_len("bias", bias.len(), self.shape.out_channels);
        }
        let combine = self.scaled(self.packed_forward_len(), combine);
        match self.matrix() {
            Some(matrix) => matrix.forward(packed, input, combine, output, parallel),
            None => self.forward.run_alone(band, packed, input, combine, output, scratch, parallel),
        }
    }

    /// The product with the transposed convolution: from the output's gradient to the input's.
    ///
    /// # Panics
    /// If a length is not the planned one.
    pub fn backward_data(
        &self,
        packed: &[f32],
        output_gradient: &[f32],
        combine: Combine<'_>,
        input_gradient: &mut [f32],
        scratch: &mut [f32],
        parallel: bool,
    ) {
        let combine = self.scaled(self.packed_backward_len(), combine);
        match self.matrix() {
            Some(matrix) => matrix.backward(packed, output_gradient, combine, input_gradient, parallel),
            None => self.backward.run(0..1, packed, output_gradient, combine, input_gradient, scratch, parallel),
        }
    }

    /// Elements of the gradient of the weights, as [`backward_weights`](Self::backward_weights) sums it.
    pub fn gradient_len(&self) -> usize {
        self.gradient.len()
    }

    /// Adds the gradient of the weights, summed over pixels and images, to `gradient`, which
    /// [`unpack_gradient`](Self::unpack_gradient) turns into that of the weights. `scratch` has
    /// [`scratch_len`](Self::scratch_len) elements of any value.
    ///
    /// # Panics
    /// If a length is not the planned one.
    pub fn backward_weights(
        &self,
        output_gradient: &[f32],
        input: &[f32],
        gradient: &mut [f32],
        scratch: &mut [f32],
        parallel: bool,
    ) {
        check_len("output gradient", output_gradient.len(), self.output_len());
        check_len("input", input.len(), self.input_len());
        check_len("weight gradient", gradient.len(), self.gradient_len());
        self.gradient.add(self.layout.pieces().0, output_gradient, input, gradient, scratch, parallel);
    }

    /// `to = factor scale gradient`, `[out_channels, in_channels / groups, height, width]`, with the
    /// [factor of the weights](Self::scale).
    ///
    /// # Panics
    /// If a length is not the planned one.
    pub fn unpack_gradient(&self, gradient: &[f32], factor: f32, to: &mut [f32]) {
        check_len("weight gradient", gradient.len(), self.gradient_len());
        check_len("unpacked weight gradient", to.len(), self.shape.weights());
        self.gradient.unpack(gradient, factor * self.scale, to);
    }

    /// What the weights are multiplied by in all products.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// Elements of scratch, of any value, that each product of a tile needs.
    pub fn scratch_len(&self) -> usize {
        let passes = [&self.forward, &self.backward].map(Pass::scratch_len);
        passes.into_iter().fold(self.gradient.scratch_len(), usize::max)
    }

    /// The algorithms of the forward pass and of the backward passes to the data and to the weights.
    pub fn choices(&self) -> [Choice; 3] {
        [self.forward.choice(), self.backward.choice(), self.choice]
    }

    /// Adds the sums over pixels and images of each output channel to `gradient`.
    ///
    /// # Panics
    /// If a length is not the planned one.
    pub fn backward_bias(&self, output_gradient: &[f32], gradient: &mut [f32]) {
        check_len("output gradient", output_gradient.len(), self.output_len());
        check_len("bias gradient", gradient.len(), self.shape.out_channels);
        add_channels(self.level, self.layout, output_gradient, gradient);
    }

    /// The same of each input channel: the gradient of a bias of the transposed convolution.
    ///
    /// # Panics
    /// If a length is not the planned one.
    pub fn transposed_bias(&self, input_gradient: &[f32], gradient: &mut [f32]) {
        check_len("input gradient", input_gradient.len(), self.input_len());
        check_len("bias gradient", gradient.len(), self.shape.in_channels);
        add_channels(self.level, self.layout, input_gradient, gradient);
    }

    /// Whether it is a matrix product of a whole image: of one window, which is all of the input.
    pub fn is_matrix(&self) -> bool {
        matches!(self.layout, Layout::Batch(_)) || self.shape.is_matrix()
    }
}
