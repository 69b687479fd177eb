//! Convolution with an image in every lane: tensors are `[channels][height][width][LANES]`.
//!
//! Every load is a whole vector, whatever the channel count, kernel, stride or dilation; the only
//! tail is the batch's. A matrix product of a batch is the case of one pixel.

use std::ops::Range;

use crate::combine::Combine;
use crate::conv::check_len;
use crate::conv::geometry::{Axis, AxisSize, ConvShape};
use crate::conv::gradient::LaneGradient;
use crate::conv::product::LaneProduct;
use crate::gemm::{GemmScratch, Lhs, product};
use crate::level::Level;
use crate::pack::Source;
use crate::simd::lanes;
use crate::view::{MatMut, MatRef};

/// A convolution planned for a level: its three products, and the layouts that they want.
#[derive(Clone, Debug)]
pub struct LaneConv {
    shape: ConvShape,
    level: Level,
    lanes: usize,
    forward: LaneProduct,
    backward: LaneProduct,
    gradient: LaneGradient,
}

impl LaneConv {
    /// Plans a convolution.
    ///
    /// # Panics
    /// If a window does not fit its padded input, or a number of channels, a size, a kernel, stride or dilation is 0;
    /// if a tensor of LANES images, or the weights of a channel of either side, have 2^32 elements or more, or a
    /// padded tensor has 2^38.
    pub fn new(level: Level, shape: ConvShape) -> Self {
        Self::with_bands(level, shape, usize::MAX, usize::MAX)
    }

    /// Plans a convolution whose output, and whose input's gradient, can be computed in bands of so many
    /// rows.
    ///
    /// # Panics
    /// As [`new`](Self::new), or if a number is 0.
    pub fn with_bands(level: Level, shape: ConvShape, output_rows: usize, input_rows: usize) -> Self {
        let lanes = lanes(level);
        shape.check_sizes(lanes);
        let shape = shape.with_needed_steps();
        let taps = shape.taps();
        let axes = [0, 1].map(|axis| Axis::forward(&shape, axis));
        let forward = Source { row_stride: shape.in_channels * taps, outer_stride: taps, inner: taps, inner_stride: 1 };
        let transposed_axes = [0, 1].map(|axis| Axis::transposed(&shape, axis));
        let backward =
            Source { row_stride: taps, outer_stride: shape.in_channels * taps, inner: taps, inner_stride: 1 };
        let (input, output) = (shape.input, shape.output());
        LaneConv {
            shape,
            level,
            lanes,
            forward: LaneProduct::new(
                lanes,
                forward,
                axes,
                [shape.in_channels, shape.out_channels],
                input,
                output,
                &shape,
                output_rows,
            ),
            backward: LaneProduct::new(
                lanes,
                backward,
                transposed_axes,
                [shape.out_channels, shape.in_channels],
                output,
                input,
                &shape,
                input_rows,
            ),
            gradient: LaneGradient::new(level, shape),
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
            [Some(down), Some(along)] => LaneProduct::table_bytes([down, along], channels, rows),
            _ => usize::MAX,
        };
        let forward = bytes(Axis::forward_size, shape.in_channels, output[0]);
        forward.saturating_add(bytes(Axis::transposed_size, shape.out_channels, shape.input[0]))
    }

    /// The sizes it was planned for, with steps between windows and taps no longer than makes a difference.
    pub fn shape(&self) -> &ConvShape {
        &self.shape
    }

    /// Elements of the input of LANES images.
    pub fn input_len(&self) -> usize {
        self.backward.out_len()
    }

    /// Elements of the output of LANES images.
    pub fn output_len(&self) -> usize {
        self.forward.out_len()
    }

    /// Elements of the weights packed for the forward product.
    pub fn packed_forward_len(&self) -> usize {
        self.forward.packed_len()
    }

    /// Elements of the weights packed for the transposed product.
    pub fn packed_backward_len(&self) -> usize {
        self.backward.packed_len()
    }

    /// Packs weights `[out_channels, in_channels, height, width]` for [`forward`](Self::forward).
    pub fn pack_forward(&self, weight: &[f32], packed: &mut [f32], parallel: bool) {
        self.forward.pack(weight, packed, parallel);
    }

    /// Packs weights `[out_channels, in_channels, height, width]` for
    /// [`backward_data`](Self::backward_data).
    pub fn pack_backward(&self, weight: &[f32], packed: &mut [f32], parallel: bool) {
        self.backward.pack(weight, packed, parallel);
    }

    /// The convolution of LANES images. With `parallel`, output channels are shared among the
    /// threads of the current rayon pool; the result is the same to the last bit.
    ///
    /// # Panics
    /// If a length is not the planned one.
    pub fn forward(&self, packed: &[f32], input: &[f32], combine: Combine<'_>, output: &mut [f32], parallel: bool) {
        self.forward.run(self.level, 0..self.output_bands(), packed, input, combine, output, parallel);
    }

    /// Bands that the rows of the output are cut into.
    pub fn output_bands(&self) -> usize {
        self.forward.bands()
    }

    /// The rows of a band of the output.
    pub fn output_band(&self, band: usize) -> Range<usize> {
        self.forward.band_rows(band)
    }

    /// As [`forward`](Self::forward), for one band of the output, the rest of which stays as it is.
    ///
    /// # Panics
    /// As [`forward`](Self::forward), or if there is no such band.
    #[allow(clippy::too_many_arguments)]
    pub fn forward_band(
        &self,
        band: usize,
        packed: &[f32],
        input: &[f32],
        combine: Combine<'_>,
        output: &mut [f32],
        parallel: bool,
    ) {
        self.forward.run(self.level, band..band + 1, packed, input, combine, output, parallel);
    }

    /// One band of the output, `[channels][rows of the band][width][LANES]`.
    ///
    /// # Panics
    /// As [`forward_band`](Self::forward_band).
    pub fn forward_alone(&self, band: usize, packed: &[f32], input: &[f32], output: &mut [f32], parallel: bool) {
        self.forward.run_alone(self.level, band, packed, input, output, parallel);
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
        parallel: bool,
    ) {
        self.backward.run(
            self.level,
            0..self.input_bands(),
            packed,
            output_gradient,
            combine,
            input_gradient,
            parallel,
        );
    }

    /// Bands that the rows of the input are cut into.
    pub fn input_bands(&self) -> usize {
        self.backward.bands()
    }

    /// The rows of a band of the input.
    pub fn input_band(&self, band: usize) -> Range<usize> {
        self.backward.band_rows(band)
    }

    /// As [`backward_data`](Self::backward_data), for one band of the input's gradient, the rest of which
    /// stays as it is.
    ///
    /// # Panics
    /// As [`backward_data`](Self::backward_data), or if there is no such band.
    #[allow(clippy::too_many_arguments)]
    pub fn backward_band(
        &self,
        band: usize,
        packed: &[f32],
        output_gradient: &[f32],
        combine: Combine<'_>,
        input_gradient: &mut [f32],
        parallel: bool,
    ) {
        self.backward.run(self.level, band..band + 1, packed, output_gradient, combine, input_gradient, parallel);
    }

    /// Adds the gradient of the weights, summed over pixels and images, to `gradient`
    /// `[out_channels, in_channels, height, width]`. `scratch` has
    /// [`weights_scratch_len`](Self::weights_scratch_len) elements of any value.
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
        let shape = &self.shape;
        let depth = shape.in_channels * shape.taps();
        check_len("output gradient", output_gradient.len(), self.output_len());
        check_len("input", input.len(), self.input_len());
        check_len("weight gradient", gradient.len(), shape.out_channels * depth);
        if self.is_matrix() {
            // One pixel leaves nothing to sum but the lanes: a matrix product over images.
            let errors = MatRef::new(output_gradient, shape.out_channels, self.lanes, self.lanes, 1);
            let inputs = MatRef::new(input, self.lanes, shape.in_channels, 1, self.lanes);
            let gradient = MatMut::new(gradient, shape.out_channels, depth, depth, 1);
            return product(self.level, 1.0, Lhs::Plain(errors), inputs, 1.0, gradient, scratch, parallel);
        }
        self.gradient.add(output_gradient, input, gradient, scratch, parallel);
    }

    /// Elements of scratch that [`backward_weights`](Self::backward_weights) needs.
    pub fn weights_scratch_len(&self) -> usize {
        match self.is_matrix() {
            true => GemmScratch::new(self.level, self.shape.out_channels, self.lanes, self.shape.in_channels).len(),
            false => self.gradient.scratch_len(),
        }
    }

    /// Adds the sums over pixels and images of each output channel to `gradient`.
    ///
    /// # Panics
    /// If a length is not the planned one.
    pub fn backward_bias(&self, output_gradient: &[f32], gradient: &mut [f32]) {
        check_len("output gradient", output_gradient.len(), self.output_len());
        check_len("bias gradient", gradient.len(), self.shape.out_channels);
        for (gradient, plane) in gradient.iter_mut().zip(output_gradient.chunks_exact(self.forward.out_plane)) {
            *gradient += crate::reduce::sum(self.level, plane);
        }
    }

    /// Whether it is a matrix product: of one pixel by one tap, which meets it.
    pub fn is_matrix(&self) -> bool {
        let ConvShape { input, kernel, padding, .. } = self.shape;
        input == [1, 1] && kernel == [1, 1] && padding == [0, 0]
    }
}
