//! Convolution of plain NCHW tensors, by way of one of the layouts.
//!
//! Where channels fill vectors, some images at a time are turned to the layout of channels, or read from where they lie
//! if their channels are few. The result is turned back band by band. Where channels do not fill vectors, and there are
//! images enough, a tile of LANES images is turned to the layout of images, convolved there, and turned back. One tap
//! that moves nothing is a matrix product for each image.

use std::ops::Range;

use crate::blocking::Blocks;
use crate::buffer::{LINE, from_line};
use crate::combine::Combine;
use crate::conv::gradient::{Gradient, outer_cost, tiles_cost};
use crate::conv::pass::{Algorithm, ConvOptions, Direction, GradientPass, Pass, Pixels};
use crate::conv::shape::ConvShape;
use crate::conv::{Conv, check_len};
use crate::elementwise::accumulate;
use crate::gemm::{GemmScratch, Lhs, gemm, product as matrix_product};
use crate::layout::{Layout, store_channels};
use crate::level::Level;
use crate::parallel::{Shared, concurrency, for_each_chunk, threads_for};
use crate::simd::{Kernel, Simd, dispatch, lanes};
use crate::view::{MatMut, MatRef};

/// The most parts that a batch is cut into.
const MAX_PARTS: usize = 16;
/// Elements of a band of a result with channels across lanes, which is transposed while it is in the second cache.
const BAND: usize = 1 << 17;
/// Elements of a block of pixels, input and output, which stays in the second cache.
const BLOCK: usize = 1 << 16;
/// The most elements that the gradients of all parts have: 2 MiB.
const PARTIAL: usize = 512 * 1024;
/// Weights pass over so many pixels of a result, of several images if these are small, before the next ones do.
const PIXELS: usize = 256;
/// Bytes of the inputs and outputs of LANES images that may be in lanes for each thread: a share of a third cache.
const TILE_BYTES: usize = 8 << 20;

/// A convolution of `[batch, channels, height, width]` planned for a level.
///
/// Every call packs the weights and converts the tensors itself. It runs on the current rayon pool; results are the
/// same to the last bit on any number of threads. With [`Algorithm::Direct`] padding is left out: a weight that is
/// infinite or NaN shows only where its tap meets the input.
#[derive(Clone, Debug)]
pub struct NchwConv {
    level: Level,
    shape: ConvShape,
    batch: usize,
    /// Parts of the scratch: as many tasks run at a time.
    parts: usize,
    /// The convolution of a tile of images, if any pass takes that way.
    tiles: Option<Conv>,
    forward: Way<ChannelsWay>,
    backward: Way<ChannelsWay>,
    gradient: Way<GradientPass>,
}

/// How a pass is computed.
#[derive(Clone, Debug)]
enum Way<P> {
    /// Channels of the result across lanes, or those of a gradient, which may be read from plain planes.
    Channels(Box<P>),
    /// Tiles of images across lanes.
    Images,
    /// A matrix product for each image.
    Matrix,
}

/// A product with channels of the result across lanes.
#[derive(Clone, Debug)]
struct ChannelsWay {
    product: Pass,
    /// Channels and pixels of an image of the source and of the result.
    source: [usize; 2],
    result: [usize; 2],
    /// Elements of an image of the source with channels across lanes; 0 if it is read from where it lies.
    converted: usize,
    /// Images that weights pass over together, and groups of them that are under way at a time.
    images: usize,
    groups: usize,
}

impl ChannelsWay {
    /// Elements of scratch of a task: a band of its images, none of which is longer than the first, and what the product
    /// needs.
    fn part_len(&self) -> usize {
        self.product.band_len(0) + self.product.scratch_len()
    }
}

impl NchwConv {
    /// Plans a convolution of `batch` images by an algorithm.
    ///
    /// # Panics
    /// As [`Conv::new`], or if the batch is 0 or a tensor of the batch has more elements than memory has bytes.
    pub fn new(level: Level, shape: ConvShape, batch: usize, algorithm: Algorithm) -> Self {
        assert!(batch > 0, "a batch of 0 images, expected at least 1");
        shape.check_sizes(lanes(level));
        let shape = shape.with_needed_steps();
        let largest = elements(&shape).into_iter().max().unwrap_or(0);
        assert!(
            batch.checked_mul(largest).is_some_and(|elements| elements <= isize::MAX as usize),
            "a batch of {batch} images of up to {largest} elements is too large"
        );
        let matrix = shape.kernel == [1, 1] && shape.stride == [1, 1] && !shape.is_padded() && !shape.is_depthwise();
        let parts = concurrency().min(MAX_PARTS);
        let way = |direction: Direction| {
            let [(source_channels, source), (channels, size)] = direction.sides(&shape);
            if matrix {
                return Way::Matrix;
            }
            if !shape.is_depthwise() && images_pay(level, &shape, batch, [source_channels, channels]) {
                return Way::Images;
            }
            let row = channels.next_multiple_of(lanes(level)) * size[1];
            let [source_pixels, pixels] = [source, size].map(|[height, width]| height * width);
            // Bands enough that threads share them, but where there is more to read of the weights than of images: threads
            // share those.
            let rows = match source_channels * source_pixels + channels * pixels < shape.weights() {
                true => size[0],
                false => (BAND / row).min(size[0].div_ceil(8usize.div_ceil(batch))).max(1),
            };
            let options = ConvOptions { algorithm, rows_per_band: rows.next_multiple_of(4), images: batch, scale: 1.0 };
            // The taps of a pixel's channels are one behind the other, or those of a row of the kernel.
            let convert = source_channels > shape.kernel[1] || shape.is_depthwise();
            let read_as = if convert { Pixels::of(Layout::Channels(1), lanes(level)) } else { Pixels::PLAIN };
            // Whatever the threads, for the algorithm depends on it.
            let images = batch.div_ceil(batch.div_ceil(PIXELS.div_ceil(pixels)));
            let source = [source_channels, source_pixels];
            Way::Channels(Box::new(ChannelsWay {
                product: Pass::new(level, Layout::Channels(images), read_as, &shape, direction, options),
                source,
                result: [channels, pixels],
                converted: if convert { Layout::Channels(1).len(level, source) } else { 0 },
                images,
                groups: parts.min(batch.div_ceil(images)),
            }))
        };
        let forward = way(Direction::Forward);
        let backward = way(Direction::Backward);
        let few =
            shape.is_depthwise() || batch < lanes(level) || largest * lanes(level) * size_of::<f32>() > TILE_BYTES;
        let by_tiles = !few && tiles_cost(&shape, lanes(level), batch) < outer_cost(&shape, lanes(level));
        let gradient = match &forward {
            Way::Matrix => Way::Matrix,
            _ if by_tiles => Way::Images,
            _ => {
                // Of one image, threads share the output channels.
                let shared = if batch == 1 { 2 } else { 1 };
                let direct = || Gradient::new(level, Layout::Images, 1, shape, shared);
                let (_, pass) = GradientPass::new(level, Layout::Channels(1), &shape, algorithm, direct);
                Way::Channels(Box::new(pass))
            }
        };
        let by_tiles = matches!(gradient, Way::Images);
        let images = by_tiles || [&forward, &backward].iter().any(|way| matches!(way, Way::Images));
        NchwConv {
            level,
            shape,
            batch,
            parts,
            tiles: images.then(|| {
                let options = ConvOptions { algorithm, images: batch, ..ConvOptions::default() };
                Conv::with_options(level, Layout::Images, shape, options)
            }),
            forward,
            backward,
            gradient,
        }
    }

    /// Elements of scratch that each call needs.
    pub fn scratch_len(&self) -> usize {
        let way = |way: &Way<ChannelsWay>| match way {
            Way::Channels(way) => {
                let converted = way.groups * way.images * way.converted;
                way.product.packed_len() + converted + self.parts * way.part_len()
            }
            Way::Images => {
                let tiles = self.tiles();
                let packed = tiles.packed_forward_len().max(tiles.packed_backward_len());
                packed + self.parts * (tiles.input_len() + tiles.output_len() + tiles.scratch_len())
            }
            Way::Matrix => self.parts * self.matrix_scratch(),
        };
        let gradient = match &self.gradient {
            Way::Matrix => self.parts * self.matrix_scratch(),
            _ => self.gradient_parts() * self.gradient_part_len(),
        };
        gradient.max(way(&self.forward)).max(way(&self.backward)) + LINE
    }

    /// `output = convolution of input + bias`, overwriting what `output` held.
    ///
    /// # Panics
    /// If a length is not the planned one, or the scratch is too short.
    pub fn forward(
        &self,
        weight: &[f32],
        bias: Option<&[f32]>,
        input: &[f32],
        output: &mut [f32],
        scratch: &mut [f32],
    ) {
        let [inputs, outputs] = elements(&self.shape);
        self.check("input", input.len(), inputs);
        self.check("output", output.len(), outputs);
        check_len("weight", weight.len(), self.weights());
        if let Some(bias) = bias {
            check_len("bias", bias.len(), self.shape.out_channels);
        }
        self.pass(Direction::Forward, weight, bias, input, output, scratch);
    }

    /// `input_gradient = transposed convolution of output_gradient`, overwriting what it held: PyTorch's `conv_transpose2d`
    /// without a bias, from the channels of the output to those of the input.
    ///
    /// # Panics
    /// If a length is not the planned one, or the scratch is too short.
    pub fn backward_data(
        &self,
        weight: &[f32],
        output_gradient: &[f32],
        input_gradient: &mut [f32],
        scratch: &mut [f32],
    ) {
        let [inputs, outputs] = elements(&self.shape);
        self.check("output gradient", output_gradient.len(), outputs);
        self.check("input gradient", input_gradient.len(), inputs);
        check_len("weight", weight.len(), self.weights());
        self.pass(Direction::Backward, weight, None, output_gradient, input_gradient, scratch);
    }

    /// Either product of a pass, from tensors whose lengths are checked.
    fn pass(
        &self,
        direction: Direction,
        weight: &[f32],
        bias: Option<&[f32]>,
        from: &[f32],
        to: &mut [f32],
        scratch: &mut [f32],
    ) {
        let ConvShape { in_channels, out_channels, .. } = self.shape;
        let scratch = self.checked(scratch);
        let forward = direction == Direction::Forward;
        match if forward { &self.forward } else { &self.backward } {
            Way::Channels(way) => self.channels(way, weight, bias, from, to, scratch),
            Way::Images => {
                let (conv, combine) = (self.tiles(), Combine { bias, ..Combine::default() });
                let len = if forward { conv.packed_forward_len() } else { conv.packed_backward_len() };
                let (packed, scratch) = scratch.split_at_mut(len);
                match direction {
                    Direction::Forward => conv.pack_forward(weight, packed, true),
                    Direction::Backward => conv.pack_backward(weight, packed, true),
                }
                self.by_tiles(from, to, scratch, |source, result, scratch| match direction {
                    Direction::Forward => conv.forward(packed, source, combine, result, scratch, false),
                    Direction::Backward => conv.backward_data(packed, source, combine, result, scratch, false),
                });
            }
            Way::Matrix => {
                let weight = MatRef::row_major(weight, out_channels, in_channels);
                self.matrices(if forward { weight } else { weight.transposed() }, from, to, scratch);
                if let Some(bias) = bias {
                    let planes = to.chunks_exact_mut(to.len() / (self.batch * out_channels));
                    for (plane, bias) in planes.zip(bias.iter().cycle()) {
                        plane.iter_mut().for_each(|value| *value += bias);
                    }
                }
            }
        }
    }

    /// `gradient = sum over images and pixels`, `[out_channels, in_channels, height, width]`,
    /// overwriting what it held.
    ///
    /// # Panics
    /// If a length is not the planned one, or the scratch is too short.
    pub fn backward_weights(&self, output_gradient: &[f32], input: &[f32], gradient: &mut [f32], scratch: &mut [f32]) {
        let [inputs, outputs] = elements(&self.shape);
        self.check("output gradient", output_gradient.len(), outputs);
        self.check("input", input.len(), inputs);
        check_len("weight gradient", gradient.len(), self.weights());
        let scratch = self.checked(scratch);
        let ConvShape { in_channels, out_channels, .. } = self.shape;
        if let Way::Matrix = self.gradient {
            for (image, (errors, input)) in
                output_gradient.chunks_exact(outputs).zip(input.chunks_exact(inputs)).enumerate()
            {
                let errors = MatRef::row_major(errors, out_channels, outputs / out_channels);
                let input = MatRef::row_major(input, in_channels, inputs / in_channels).transposed();
                let gradient = MatMut::row_major(gradient, out_channels, in_channels);
                let beta = if image == 0 { 0.0 } else { 1.0 };
                gemm(self.level, 1.0, Lhs::Plain(errors), input, beta, gradient, scratch);
            }
            return;
        }
        let (parts, len, sums_len) = (self.gradient_parts(), self.gradient_part_len(), self.sums_len());
        let scratch = &mut scratch[..parts * len];
        let tile = if let Way::Images = self.gradient { lanes(self.level) } else { 1 };
        let shares = Blocks::cut(self.batch.div_ceil(tile), parts);
        for_each_chunk(true, self.work(), scratch, len, |part, scratch| {
            let (sums, scratch) = scratch.split_at_mut(sums_len.next_multiple_of(LINE));
            let sums = &mut sums[..sums_len];
            sums.fill(0.0);
            let share = shares.get(part);
            let images = share.start * tile..self.batch.min(share.end * tile);
            if let Some(plan) = self.gradient_of_planes() {
                let errors = &output_gradient[images.start * outputs..images.end * outputs];
                return plan.add(errors, &input[images.start * inputs..images.end * inputs], sums, scratch, true);
            }
            let [x_len, e_len] = self.tile_lens();
            let (x, scratch) = scratch.split_at_mut(x_len);
            let (e, scratch) = scratch.split_at_mut(e_len);
            for first in images.step_by(tile) {
                let images = first..self.batch.min(first + tile);
                if let Way::Channels(plan) = &self.gradient {
                    let [x_image, e_image] = self.images();
                    Layout::Channels(1).load(self.level, &input[first * inputs..][..inputs], x_image, x);
                    Layout::Channels(1).load(self.level, &output_gradient[first * outputs..][..outputs], e_image, e);
                    plan.add(1, e, x, sums, scratch, true);
                } else {
                    self.load(input, inputs, images.clone(), x);
                    self.load(output_gradient, outputs, images, e);
                    self.tiles().backward_weights(e, x, sums, scratch, false);
                }
            }
        });
        let (sums, others) = scratch.split_at_mut(len);
        let sums = &mut sums[..sums_len];
        for part in others.chunks_exact(len) {
            accumulate(self.level, &part[..sums_len], sums);
        }
        match &self.gradient {
            Way::Channels(plan) => plan.unpack(sums, 1.0, gradient),
            _ => self.tiles().unpack_gradient(sums, 1.0, gradient),
        }
    }

    /// A product with channels of the result across lanes: some groups of images at a time, band by band.
    fn channels(
        &self,
        way: &ChannelsWay,
        weight: &[f32],
        bias: Option<&[f32]>,
        from: &[f32],
        to: &mut [f32],
        scratch: &mut [f32],
    ) {
        let ChannelsWay { product, converted, images, groups, .. } = way;
        let (packed, scratch) = scratch.split_at_mut(product.packed_len());
        let packed = if product.reads_weights() {
            weight
        } else {
            product.pack(weight, packed, true);
            packed
        };
        let (sources, scratch) = scratch.split_at_mut(groups * images * converted);
        let [source, result] = [way.source, way.result].map(|[channels, pixels]| channels * pixels);
        let parallel = threads_for(self.work()) > 1;
        let to = Shared(to.as_mut_ptr());
        for first in (0..self.batch).step_by(groups * images) {
            let count = (groups * images).min(self.batch - first);
            let from = &from[first * source..][..count * source];
            if *converted > 0 {
                let planes = Layout::Channels(1).planes(self.level, way.source[0]);
                let plane = converted / planes;
                for_each_chunk(parallel, self.work(), &mut sources[..count * converted], plane, |index, to| {
                    let channels = lanes(self.level) * (index % planes);
                    let count = lanes(self.level).min(way.source[0] - channels);
                    let from = &from[index / planes * source + channels * way.source[1]..][..count * way.source[1]];
                    Layout::Channels(1).load(self.level, from, [count, way.source[1]], to);
                });
            }
            let (from, image) = if *converted > 0 { (&*sources, *converted) } else { (from, source) };
            let tasks = count.div_ceil(*images) * product.bands();
            // Threads share the tasks, or what is inside of the only one.
            let inside = tasks == 1;
            self.in_parts(tasks, scratch, way.part_len(), |tasks, scratch| {
                for task in tasks {
                    let (group, band) = (task / product.bands() * images, task % product.bands());
                    let (count, len) = ((*images).min(count - group), product.band_len(band) / images);
                    let (transposed, scratch) = scratch.split_at_mut(product.band_len(0));
                    let transposed = &mut transposed[..count * len];
                    let from = &from[group * image..][..count * image];
                    let combine = Combine { bias, ..Combine::default() };
                    product.run_alone(band, packed, from, combine, transposed, scratch, inside);
                    let [channels, pixels] = way.result;
                    let (rows, all) = (product.band_rows(band), product.band_rows(product.bands() - 1).end);
                    let width = pixels / all;
                    for (index, transposed) in transposed.chunks_exact(len).enumerate() {
                        let to = to.get().wrapping_add((first + group + index) * result + rows.start * width);
                        // SAFETY: the rows of the band, of all channels of the image, are this task's own.
                        unsafe { store_channels(self.level, transposed, [channels, rows.len() * width], to, pixels) };
                    }
                }
            });
        }
    }

    /// Calls `f(source, result)` with each tile of images in lanes, and puts what it makes into `to`.
    fn by_tiles(
        &self,
        from: &[f32],
        to: &mut [f32],
        scratch: &mut [f32],
        f: impl Fn(&[f32], &mut [f32], &mut [f32]) + Sync,
    ) {
        let lanes = lanes(self.level);
        let [source_elements, result_elements] = [from.len(), to.len()].map(|len| len / self.batch);
        let len = (source_elements + result_elements) * lanes + self.tiles().scratch_len();
        let to = Shared(to.as_mut_ptr());
        self.in_parts(self.batch.div_ceil(lanes), scratch, len, |tiles, scratch| {
            let (source, scratch) = scratch.split_at_mut(source_elements * lanes);
            let (result, scratch) = scratch.split_at_mut(result_elements * lanes);
            for tile in tiles {
                let images = tile * lanes..self.batch.min((tile + 1) * lanes);
                self.load(from, source_elements, images.clone(), source);
                f(source, result, scratch);
                // SAFETY: the rows of a tile's images are this task's own.
                let rows = unsafe { to.slice(images.start * result_elements, images.len() * result_elements) };
                Layout::Images.store(self.level, result, [1, result_elements], rows, images.len(), result_elements);
            }
        });
    }

    fn load(&self, from: &[f32], elements: usize, images: Range<usize>, tile: &mut [f32]) {
        let rows = &from[images.start * elements..images.end * elements];
        Layout::Images.load(self.level, rows, [1, elements], tile);
    }

    /// `to = a from` for the matrix of each image, some pixels of all channels at a time.
    fn matrices(&self, a: MatRef<'_>, from: &[f32], to: &mut [f32], scratch: &mut [f32]) {
        let ((rows, depth), lanes) = ((a.rows(), a.columns()), lanes(self.level));
        let pixels = from.len() / (self.batch * depth);
        // Blocks enough that threads share them.
        let longest = (BLOCK / (rows + depth)).clamp(1, pixels.div_ceil(8usize.div_ceil(self.batch)));
        let blocks = Blocks::new(pixels.div_ceil(lanes), longest.div_ceil(lanes));
        let to = Shared(to.as_mut_ptr());
        self.in_parts(self.batch * blocks.count(), scratch, self.matrix_scratch(), |tasks, scratch| {
            for task in tasks {
                let (image, block) = (task / blocks.count(), blocks.get(task % blocks.count()));
                let columns = block.start * lanes..pixels.min(block.end * lanes);
                let b = MatRef::row_major(&from[image * depth * pixels..][..depth * pixels], depth, pixels);
                let b = b.submatrix(0..depth, columns.clone());
                let first = to.get().wrapping_add(image * rows * pixels + columns.start);
                // SAFETY: a task has an image's columns of its own.
                let c = unsafe { MatMut::of_rows(first, [rows, columns.len()], pixels) };
                // Panels of the product meet short pieces of many rows, which the caches do not foresee.
                ask_for_rows(self.level, [b, c.as_ref()]);
                matrix_product(self.level, 1.0, Lhs::Plain(a), b, 0.0, c, scratch, false);
            }
        });
    }

    /// Calls `f` with each part's share of so many pieces, and its `len` elements of the scratch.
    fn in_parts(&self, pieces: usize, scratch: &mut [f32], len: usize, f: impl Fn(Range<usize>, &mut [f32]) + Sync) {
        let parts = if threads_for(self.work()) > 1 { self.parts.min(pieces) } else { 1 };
        let shares = Blocks::cut(pieces, parts);
        for_each_chunk(true, self.work(), &mut scratch[..parts * len], len, |part, scratch| {
            f(shares.get(part), scratch)
        });
    }

    fn work(&self) -> u64 {
        self.shape.flops().saturating_mul(self.batch as u64)
    }

    fn tiles(&self) -> &Conv {
        self.tiles.as_ref().expect("a pass by tiles has a plan for them")
    }

    /// Parts of the batch, each of which sums a gradient of its own: they depend on the sizes alone, and a power of two
    /// is shared evenly among as many threads or fewer.
    fn gradient_parts(&self) -> usize {
        let pieces = if let Way::Images = self.gradient { lanes(self.level) } else { 1 };
        let most = (PARTIAL / self.sums_len()).min(self.batch.div_ceil(pieces)).clamp(1, MAX_PARTS);
        1 << most.ilog2()
    }

    fn gradient_part_len(&self) -> usize {
        let scratch = match &self.gradient {
            Way::Channels(plan) => plan.scratch_len(),
            _ => self.tiles().scratch_len(),
        };
        let [input, output] = self.tile_lens();
        self.sums_len().next_multiple_of(LINE) + input + output + scratch.next_multiple_of(LINE)
    }

    /// Elements of the gradient as a part sums it.
    fn sums_len(&self) -> usize {
        match &self.gradient {
            Way::Channels(plan) => plan.len(),
            _ => self.tiles().gradient_len(),
        }
    }

    /// Elements of the input and of the output of a tile that a gradient is computed from; none if it is computed from
    /// plain planes.
    fn tile_lens(&self) -> [usize; 2] {
        match &self.gradient {
            Way::Channels(_) if self.gradient_of_planes().is_some() => [0, 0],
            Way::Channels(_) => self.images().map(|image| Layout::Channels(1).len(self.level, image)),
            _ => [self.tiles().input_len(), self.tiles().output_len()],
        }
    }

    /// The gradient that is computed from plain planes, if it is.
    fn gradient_of_planes(&self) -> Option<&Gradient> {
        match &self.gradient {
            Way::Channels(plan) => match &**plan {
                GradientPass::Direct(plan) => Some(plan),
                GradientPass::Depthwise(_) | GradientPass::Winograd(_) => None,
            },
            _ => None,
        }
    }

    /// Channels and pixels of the input and of the output.
    fn images(&self) -> [[usize; 2]; 2] {
        let (shape, [height, width]) = (&self.shape, self.shape.output());
        [[shape.in_channels, shape.input[0] * shape.input[1]], [shape.out_channels, height * width]]
    }

    /// Scratch of the product of one image's matrix, on one thread.
    fn matrix_scratch(&self) -> usize {
        let ConvShape { in_channels, out_channels, input, .. } = self.shape;
        let pixels = input[0] * input[1];
        let sizes = [
            [out_channels, in_channels, pixels],
            [in_channels, out_channels, pixels],
            [out_channels, pixels, in_channels],
        ];
        sizes.map(|[m, k, n]| GemmScratch::new(self.level, m, k, n).len()).into_iter().max().unwrap_or(0)
    }

    fn weights(&self) -> usize {
        self.shape.weights()
    }

    /// The scratch from a cache line on.
    fn checked<'a>(&self, scratch: &'a mut [f32]) -> &'a mut [f32] {
        let expected = self.scratch_len();
        assert!(scratch.len() >= expected, "scratch has {} elements, expected {expected}", scratch.len());
        from_line(scratch)
    }

    fn check(&self, what: &str, len: usize, elements: usize) {
        let batch = self.batch;
        assert!(len == batch * elements, "{what} has {len} elements, expected {batch} images of {elements}");
    }
}

/// Asks for the rows of matrices, from end to end.
fn ask_for_rows(level: Level, matrices: [MatRef<'_>; 2]) {
    struct Rows<'a>([MatRef<'a>; 2]);
    impl Kernel for Rows<'_> {
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            for matrix in self.0 {
                for row in 0..matrix.rows() {
                    for column in (0..matrix.columns()).step_by(LINE) {
                        s.prefetch(matrix.pointer(row, column));
                    }
                }
            }
        }
    }
    dispatch(level, Rows(matrices));
}

/// Elements of one image of the input and of the output.
fn elements(shape: &ConvShape) -> [usize; 2] {
    let [height, width] = shape.output();
    [shape.in_channels * shape.input[0] * shape.input[1], shape.out_channels * height * width]
}

/// Whether a pass between so many channels takes less time with images across the lanes than with the channels of its
/// result, by an estimate. Images use every lane of a full tile, but their sources are in a farther cache.
fn images_pay(level: Level, shape: &ConvShape, batch: usize, [source, result]: [usize; 2]) -> bool {
    // Products of vectors that take as long as to turn a vector, there or back.
    const TURN: f64 = 8.0;
    // Products of vectors that take as long as to begin and end a sum with channels across lanes.
    const SUM: f64 = 8.0;
    // The share of its products that a tile of images waits for its source.
    const AFAR: f64 = 0.05;
    let lanes = lanes(level);
    let tile_elements = elements(shape).into_iter().sum::<usize>() * lanes;
    let vectors = |images: usize| images.div_ceil(lanes) as f64;
    let turns = TURN * tile_elements as f64 / lanes as f64;
    let products = shape.flops() as f64 / 2.0;
    let padded = result.next_multiple_of(lanes) as f64 / result as f64;
    let shallow = 1.0 + SUM / (source * shape.taps()) as f64;
    let images = vectors(batch) * (products * (1.0 + AFAR) + turns);
    let channels = batch as f64 / lanes as f64 * (products * padded * shallow + turns);
    tile_elements * size_of::<f32>() <= TILE_BYTES && images < channels
}
