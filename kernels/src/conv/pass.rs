//! One direction of a convolution: from the input to the output, or from the gradient of the output to that of the
//! input. It has one of two algorithms, which share all that is here.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use crate::buffer::collide;
use crate::combine::Combine;
use crate::conv::check_len;
use crate::conv::depthwise::Depthwise;
use crate::conv::gradient::Gradient;
use crate::conv::product::TapProduct;
use crate::conv::shape::ConvShape;
use crate::conv::winograd::{Winograd, WinogradGradient};
use crate::layout::Layout;
use crate::leaf::Epilogue;
use crate::level::Level;
use crate::names::NameError;
use crate::pack::Source;
use crate::parallel::{Shared, threads_for};
use crate::simd::MAX_LANES;

/// How a pass of a convolution is computed. See [`Conv`](crate::Conv) for an example.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// The one that takes less time, by a count of operations.
    #[default]
    Auto,
    /// As it is defined: one product for each tap that meets the input.
    Direct,
    /// By polynomials, where the kernel is 3 x 3 with stride and dilation 1; else as it is defined. It has 4 times fewer
    /// multiplications and twice the rounding error, and a value that is not finite spreads over blocks of 4 x 4 pixels
    /// of the result, and to all pixels of a plane where it is a weight.
    Winograd,
}

impl Algorithm {
    /// `auto`, `direct` or `winograd`.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Auto => "auto",
            Algorithm::Direct => "direct",
            Algorithm::Winograd => "winograd",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        NameError::find("algorithm", name, &[Algorithm::Auto, Algorithm::Direct, Algorithm::Winograd])
    }
}

/// How a convolution is planned.
///
/// ```
/// use predictive_coding_kernels::{Algorithm, ConvOptions};
///
/// let options = ConvOptions::default().with_algorithm(Algorithm::Direct).with_images(64);
/// assert_eq!(options.rows_per_band, usize::MAX);
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ConvOptions {
    /// The algorithm of all passes.
    pub algorithm: Algorithm,
    /// The rows of a band of the output, in which it can be computed.
    pub rows_per_band: usize,
    /// Images that meet the same weights: what it costs to pack and to transform those is shared by so many.
    pub images: usize,
    /// Factor of the weights in all products, and of their gradient.
    pub scale: f32,
}

impl ConvOptions {
    /// The same with another [`algorithm`](Self::algorithm).
    pub fn with_algorithm(self, algorithm: Algorithm) -> Self {
        ConvOptions { algorithm, ..self }
    }

    /// The same with other [`rows_per_band`](Self::rows_per_band).
    pub fn with_rows_per_band(self, rows_per_band: usize) -> Self {
        ConvOptions { rows_per_band, ..self }
    }

    /// The same with another number of [`images`](Self::images).
    pub fn with_images(self, images: usize) -> Self {
        ConvOptions { images, ..self }
    }

    /// The same with another [`scale`](Self::scale).
    pub fn with_scale(self, scale: f32) -> Self {
        ConvOptions { scale, ..self }
    }

    /// Whether weights meet so few tiles, in so many bands, that to pack them beforehand takes longer than it saves. Of a
    /// matrix, rows that meet in one set of the first cache are packed.
    fn reads_weights(&self, level: Level, layout: Layout, shape: &ConvShape, bands: usize) -> bool {
        const TILES_OF_IMAGES: usize = 24;
        const TILES_OF_CHANNELS: usize = 2;
        let matrix = || !collide(shape.in_channels);
        let (can, tiles) = match layout {
            Layout::Batch(_) => (matrix(), TILES_OF_IMAGES),
            Layout::Images => (shape.is_matrix() && shape.taps() == 1 && matrix(), TILES_OF_IMAGES),
            Layout::Channels(_) => (true, TILES_OF_CHANNELS),
        };
        can && self.images.saturating_mul(bands) <= tiles * layout.images(level)
    }
}

impl Default for ConvOptions {
    /// By the algorithm that takes less time, in one piece, for many images, of weights as they are.
    fn default() -> Self {
        ConvOptions { algorithm: Algorithm::Auto, rows_per_band: usize::MAX, images: 1024, scale: 1.0 }
    }
}

/// What a pass was planned with. See [`Conv::choices`](crate::Conv::choices).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// [`Algorithm::Direct`] or [`Algorithm::Winograd`].
    pub algorithm: Algorithm,
    /// The time that Winograd's algorithm takes, as a share of the direct form's, by a count of operations; none if
    /// the convolution is not of its kind.
    pub share: Option<f64>,
}

impl Choice {
    fn new(asked: Algorithm, share: Option<f64>) -> Self {
        let winograd = share.is_some_and(|share| match asked {
            Algorithm::Auto => share < 1.0,
            Algorithm::Direct => false,
            Algorithm::Winograd => true,
        });
        Choice { algorithm: if winograd { Algorithm::Winograd } else { Algorithm::Direct }, share }
    }
}

/// Which product of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Forward,
    /// From the gradient of the output to that of the input.
    Backward,
}

impl Direction {
    /// Channels and size of the source and of the result.
    pub(crate) fn sides(self, shape: &ConvShape) -> [(usize, [usize; 2]); 2] {
        let [input, output] = [(shape.in_channels, shape.input), (shape.out_channels, shape.output())];
        match self {
            Direction::Forward => [input, output],
            Direction::Backward => [output, input],
        }
    }

    /// Where the weights lie: a row is a channel of the result, and its channels are those of the source.
    pub(crate) fn weights(self, shape: &ConvShape) -> Source {
        let taps = shape.taps();
        let strides = [shape.in_channels * taps, taps];
        let [row_stride, channel_stride] = match self {
            Direction::Forward => strides,
            Direction::Backward => [strides[1], strides[0]],
        };
        Source { row_stride, channel_stride, taps }
    }
}

/// How the source of a product lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pixels {
    /// Elements of a pixel, which is the distance of neighbours in a row.
    pub(crate) elements: usize,
    /// Channels of a pixel, one behind the other.
    pub(crate) channels: usize,
}

impl Pixels {
    pub(crate) fn of(layout: Layout, lanes: usize) -> Self {
        Pixels { elements: lanes, channels: if layout.is_channels() { lanes } else { 1 } }
    }

    /// Of plain `[channels][height][width]`.
    pub(crate) const PLAIN: Pixels = Pixels { elements: 1, channels: 1 };
}

/// The operands of a product that makes a band of the result.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) packed: &'a [f32],
    pub(crate) from: &'a [f32],
    pub(crate) combine: Combine<'a>,
    pub(crate) out: Shared,
    /// Images, each behind the other in the source and in the result.
    pub(crate) images: usize,
    /// The element of the planned result's planes that those of `out` begin with, and their elements.
    pub(crate) first: usize,
    pub(crate) plane: usize,
}

impl<'a> Call<'a> {
    /// The operands of one of the images, of which each has so many elements in the source and in the result.
    pub(crate) fn of_image(self, image: usize, source_len: usize, len: usize) -> Call<'a> {
        let Combine { gamma, other, step, .. } = self.combine;
        let other = if gamma == 0.0 { other } else { &other[image * len..] };
        let step = step.map(|step| &step[image * (step.len() / self.images)..][..step.len() / self.images]);
        Call {
            from: &self.from[image * source_len..],
            out: Shared(self.out.get().wrapping_add(image * len)),
            combine: Combine { other, step, ..self.combine },
            images: 1,
            ..self
        }
    }

    /// What becomes of sums, but for bias and step, from an element of the output on.
    pub(crate) fn epilogue(&self, at: usize, [row, vector]: [usize; 2]) -> Epilogue {
        let Combine { alpha, beta, gamma, other, .. } = self.combine;
        let out = self.out.get().wrapping_add(at);
        let other = if gamma == 0.0 { std::ptr::null() } else { other.as_ptr().wrapping_add(at) };
        Epilogue { alpha, beta, gamma, other, ..Epilogue::store(out, row, vector) }
    }

    /// The step of every lane of one of the images, or of the images across the lanes.
    pub(crate) fn steps(&self, image: usize) -> Option<[f32; MAX_LANES]> {
        self.combine.step.map(|step| {
            let lanes = step.len() / self.images;
            std::array::from_fn(|lane| step[image * lanes + lane % lanes])
        })
    }
}

/// A pass, planned.
#[derive(Clone, Debug)]
pub(crate) struct Pass {
    level: Level,
    /// Pieces of a tile, and their layout.
    pieces: usize,
    layout: Layout,
    /// Channels of the result, and elements of a row of one of its planes.
    channels: usize,
    row: usize,
    rows: usize,
    rows_per_band: usize,
    /// Elements of an image of the source, and weights of all channels.
    source_len: usize,
    weights: usize,
    /// Products that an element of the result sums.
    depth: usize,
    choice: Choice,
    method: Method,
}

#[derive(Clone, Debug)]
enum Method {
    Direct(TapProduct),
    Depthwise(Depthwise),
    Winograd(Winograd),
}

impl Pass {
    pub(crate) fn new(
        level: Level,
        layout: Layout,
        pixels: Pixels,
        shape: &ConvShape,
        direction: Direction,
        options: ConvOptions,
    ) -> Self {
        let [(source_channels, source), (channels, size)] = direction.sides(shape);
        let rows_per_band = options.rows_per_band.min(size[0]);
        assert!(rows_per_band > 0, "bands of 0 rows, expected at least 1");
        let reads = options.reads_weights(level, layout, shape, size[0].div_ceil(rows_per_band));
        let (pieces, layout) = layout.pieces();
        let plain = pixels.elements == 1;
        let winograd = if plain { None } else { Winograd::new(level, layout, shape, direction) };
        let share = winograd.as_ref().map(|winograd| winograd.share(shape, options.images, pieces));
        let choice = Choice::new(options.algorithm, share);
        let method = match winograd {
            Some(winograd) if choice.algorithm == Algorithm::Winograd => Method::Winograd(winograd),
            _ if shape.is_depthwise() => Method::Depthwise(Depthwise::new(level, layout, shape, direction)),
            _ => Method::Direct(TapProduct::new(level, layout, pixels, shape, direction, rows_per_band, !reads)),
        };
        Pass {
            level,
            pieces,
            layout,
            channels,
            row: size[1] * crate::simd::lanes(level),
            rows: size[0],
            rows_per_band,
            source_len: source_channels.div_ceil(pixels.channels) * source[0] * source[1] * pixels.elements,
            weights: shape.weights(),
            depth: source_channels / shape.groups * shape.taps(),
            choice,
            method,
        }
    }

    pub(crate) fn choice(&self) -> Choice {
        self.choice
    }

    /// Planes of a piece of the result.
    fn planes(&self) -> usize {
        self.layout.planes(self.level, self.channels)
    }

    /// Elements of one plane of the result.
    pub(crate) fn plane(&self) -> usize {
        self.rows * self.row
    }

    /// Elements of the result.
    pub(crate) fn len(&self) -> usize {
        self.pieces * self.planes() * self.plane()
    }

    /// Whether weights are taken as they are.
    pub(crate) fn reads_weights(&self) -> bool {
        self.packed_len() == 0
    }

    pub(crate) fn packed_len(&self) -> usize {
        match &self.method {
            Method::Direct(product) => product.packed_len(),
            Method::Depthwise(product) => product.packed_len(),
            Method::Winograd(winograd) => winograd.packed_len(),
        }
    }

    /// Packs the weights `[out_channels, in_channels, height, width]` of the convolution.
    pub(crate) fn pack(&self, weight: &[f32], packed: &mut [f32], parallel: bool) {
        check_len("weight", weight.len(), self.weights);
        check_len("packed weight", packed.len(), self.packed_len());
        match &self.method {
            Method::Direct(product) => product.pack(weight, packed, parallel),
            Method::Depthwise(product) => product.pack(weight, packed),
            Method::Winograd(winograd) => winograd.pack(weight, packed, parallel),
        }
    }

    /// Elements of scratch.
    pub(crate) fn scratch_len(&self) -> usize {
        match &self.method {
            Method::Direct(product) => product.scratch_len(),
            Method::Depthwise(_) => 0,
            Method::Winograd(winograd) => winograd.scratch_len(),
        }
    }

    /// How many bands the rows of the result are cut into.
    pub(crate) fn bands(&self) -> usize {
        self.rows.div_ceil(self.rows_per_band)
    }

    /// The rows of a band.
    pub(crate) fn band_rows(&self, band: usize) -> Range<usize> {
        let start = band * self.rows_per_band;
        assert!(start < self.rows, "band {band} of {}", self.bands());
        start..(start + self.rows_per_band).min(self.rows)
    }

    /// Elements of the rows of a band.
    pub(crate) fn band_len(&self, band: usize) -> usize {
        self.pieces * self.planes() * self.band_rows(band).len() * self.row
    }

    /// The rows of some bands, in their place in the result.
    #[expect(clippy::too_many_arguments, reason = "the operands of a product, and how it is computed")]
    pub(crate) fn run(
        &self,
        bands: Range<usize>,
        packed: &[f32],
        from: &[f32],
        combine: Combine<'_>,
        out: &mut [f32],
        scratch: &mut [f32],
        parallel: bool,
    ) {
        check_len("output", out.len(), self.len());
        if combine.gamma != 0.0 {
            check_len("third operand", combine.other.len(), self.len());
        }
        if let Some(bias) = combine.bias {
            check_len("bias", bias.len(), self.channels);
        }
        if let Some(step) = combine.step {
            check_len("step", step.len(), self.pieces * self.layout.images(self.level));
        }
        let out = Shared(out.as_mut_ptr());
        for band in bands {
            let call = Call { packed, from, combine, out, images: self.pieces, first: 0, plane: self.plane() };
            self.run_band(band, call, scratch, parallel);
        }
    }

    /// The rows of a band of some images, each behind the other, without gaps where other rows would be. There is no third
    /// operand, and no step.
    #[expect(clippy::too_many_arguments, reason = "the operands of a product, and how it is computed")]
    pub(crate) fn run_alone(
        &self,
        band: usize,
        packed: &[f32],
        from: &[f32],
        combine: Combine<'_>,
        out: &mut [f32],
        scratch: &mut [f32],
        parallel: bool,
    ) {
        let rows = self.band_rows(band);
        let piece_len = self.band_len(band) / self.pieces;
        let images = (out.len() / piece_len).max(1);
        check_len("output", out.len(), images * piece_len);
        let (first, plane) = (rows.start * self.row, rows.len() * self.row);
        let out = Shared(out.as_mut_ptr());
        self.run_band(band, Call { packed, from, combine, out, images, first, plane }, scratch, parallel);
    }

    fn run_band(&self, band: usize, call: Call<'_>, scratch: &mut [f32], parallel: bool) {
        let expected = if self.reads_weights() { self.weights } else { self.packed_len() };
        check_len("packed weight", call.packed.len(), expected);
        check_len("source", call.from.len(), call.images * self.source_len);
        let work = 2 * (call.images * self.planes() * call.plane * self.depth) as u64;
        let threads = if parallel { threads_for(work) } else { 1 };
        match &self.method {
            Method::Direct(product) => product.run(band, call, scratch, threads),
            Method::Depthwise(product) => product.run(self.band_rows(band), call, threads),
            Method::Winograd(winograd) => winograd.run(self.band_rows(band), call, scratch, threads),
        }
    }
}

/// The backward pass to the weights, planned.
#[derive(Clone, Debug)]
pub(crate) enum GradientPass {
    Direct(Gradient),
    Depthwise(Depthwise),
    Winograd(WinogradGradient),
}

impl GradientPass {
    /// The gradient of tensors in a layout, by an algorithm, or by a direct form of its own.
    pub(crate) fn new(
        level: Level,
        layout: Layout,
        shape: &ConvShape,
        algorithm: Algorithm,
        direct: impl FnOnce() -> Gradient,
    ) -> (Choice, Self) {
        let winograd = WinogradGradient::new(level, layout, shape);
        let choice = Choice::new(algorithm, winograd.as_ref().map(WinogradGradient::share));
        let pass = match winograd {
            Some(winograd) if choice.algorithm == Algorithm::Winograd => GradientPass::Winograd(winograd),
            _ if shape.is_depthwise() => {
                GradientPass::Depthwise(Depthwise::new(level, layout.pieces().1, shape, Direction::Forward))
            }
            _ => GradientPass::Direct(direct()),
        };
        (choice, pass)
    }

    /// Elements of the gradient as it is summed.
    pub(crate) fn len(&self) -> usize {
        match self {
            GradientPass::Direct(gradient) => gradient.len(),
            GradientPass::Depthwise(gradient) => gradient.gradient_len(),
            GradientPass::Winograd(gradient) => gradient.len(),
        }
    }

    pub(crate) fn scratch_len(&self) -> usize {
        match self {
            GradientPass::Direct(gradient) => gradient.scratch_len(),
            GradientPass::Depthwise(_) => 0,
            GradientPass::Winograd(gradient) => gradient.scratch_len(),
        }
    }

    /// Adds the gradient of so many pieces of a tile to `sums`.
    pub(crate) fn add(
        &self,
        pieces: usize,
        errors: &[f32],
        input: &[f32],
        sums: &mut [f32],
        scratch: &mut [f32],
        parallel: bool,
    ) {
        match self {
            GradientPass::Direct(gradient) => gradient.add(errors, input, sums, scratch, parallel),
            GradientPass::Depthwise(gradient) => {
                let [errors_len, input_len] = [errors, input].map(|tensor| tensor.len() / pieces);
                let operands = errors.chunks_exact(errors_len).zip(input.chunks_exact(input_len));
                operands.for_each(|(e, x)| gradient.add(e, x, sums, parallel));
            }
            GradientPass::Winograd(gradient) => gradient.add(errors, input, sums, scratch, parallel),
        }
    }

    /// `to = factor gradient`, `[out_channels, in_channels, height, width]`.
    pub(crate) fn unpack(&self, sums: &[f32], factor: f32, to: &mut [f32]) {
        match self {
            GradientPass::Direct(gradient) => gradient.unpack(sums, factor, to),
            GradientPass::Depthwise(gradient) => gradient.unpack(sums, factor, to),
            GradientPass::Winograd(gradient) => gradient.unpack(sums, factor, to),
        }
    }
}
