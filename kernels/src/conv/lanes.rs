//! Convolution with an image in every lane: tensors are `[channels][height][width][LANES]`.
//!
//! Every load is a whole vector, whatever the channel count, kernel, stride or dilation; the only
//! tail is the batch's. A matrix product of a batch is the case of one pixel.

use crate::combine::Combine;
use crate::conv::geometry::{Axis, ConvShape};
use crate::conv::gradient::LaneGradient;
use crate::gemm::{GemmScratch, Lhs, product};
use crate::level::Level;
use crate::microkernel::*;
use crate::pack::{Source, pack, packed_len};
use crate::parallel::for_each_chunk;
use crate::simd::{Kernel, Simd, dispatch, lanes};
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
    /// If a window does not fit its padded input, or a tensor of LANES images has 2^32
    /// elements or more.
    pub fn new(level: Level, shape: ConvShape) -> Self {
        let lanes = lanes(level);
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
            ),
            backward: LaneProduct::new(
                lanes,
                backward,
                transposed_axes,
                [shape.out_channels, shape.in_channels],
                output,
                input,
                &shape,
            ),
            gradient: LaneGradient::new(level, shape),
        }
    }

    /// At most so many bytes of tables of addresses does a plan have: one for each way in which the
    /// windows of a row and of a column meet the border, in both directions.
    pub fn table_bytes(shape: &ConvShape) -> usize {
        let entries = |axis: fn(&ConvShape, usize) -> Axis, channels: usize| {
            let [down, along] = [0, 1].map(|a| axis(shape, a).runs.iter().map(|run| run.taps.len()).sum::<usize>());
            down.saturating_mul(along).saturating_mul(channels)
        };
        let forward = entries(Axis::forward, shape.in_channels);
        forward.saturating_add(entries(Axis::transposed, shape.out_channels)).saturating_mul(size_of::<Tap>())
    }

    /// The sizes it was planned for.
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
        self.forward.run(self.level, packed, input, combine, output, parallel);
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
        self.backward.run(self.level, packed, output_gradient, combine, input_gradient, parallel);
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
        for (gradient, plane) in gradient.iter_mut().zip(output_gradient.chunks_exact(self.forward.plane_out())) {
            *gradient += crate::reduce::sum(self.level, plane);
        }
    }

    fn is_matrix(&self) -> bool {
        self.forward.plane_out() == self.lanes && self.shape.taps() == 1
    }
}

fn check_len(what: &str, found: usize, expected: usize) {
    assert!(found == expected, "{what} has {found} elements, planned for {expected}");
}

/// A product of packed weights with a tensor of lanes, for either direction.
#[derive(Clone, Debug)]
struct LaneProduct {
    source: Source,
    rows: usize,
    depth: usize,
    height: usize,
    /// Elements of one channel of the source and of the output.
    source_plane: usize,
    out_plane: usize,
    source_channels: usize,
    /// Distance of consecutive vectors of a run, in elements.
    source_step: usize,
    out_step: usize,
    classes: Vec<Class>,
}

/// The runs of pixels that share a table of addresses.
#[derive(Clone, Debug)]
struct Class {
    taps: Vec<Tap>,
    /// Distance of the addresses if they are one step apart and the panel is read in order.
    stride: Option<usize>,
    runs: Vec<Run>,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    /// Offset of the first output vector in its channel.
    out: usize,
    /// Offset of the first operand in the source.
    source: usize,
    count: usize,
}

impl LaneProduct {
    fn new(
        lanes: usize,
        source: Source,
        axes: [Axis; 2],
        [source_channels, rows]: [usize; 2],
        source_size: [usize; 2],
        out_size: [usize; 2],
        shape: &ConvShape,
    ) -> Self {
        let [vertical, horizontal] = axes;
        let elements = |channels: usize, [height, width]: [usize; 2]| {
            let elements = [height, width, lanes].into_iter().try_fold(channels, usize::checked_mul);
            assert!(
                elements.is_some_and(|n| u32::try_from(n).is_ok()),
                "a tensor of {channels} x {height} x {width} x {lanes} elements is too large"
            );
        };
        elements(source_channels.max(1), source_size);
        elements(rows.max(1), out_size);
        let source_plane = source_size[0] * source_size[1] * lanes;
        let out_plane = out_size[0] * out_size[1] * lanes;
        let mut classes: Vec<Class> = Vec::new();
        let mut longest = 0;
        for down in &vertical.runs {
            for along in &horizontal.runs {
                let first = |taps: &[(usize, usize)]| taps.iter().map(|&(_, i)| i).min().unwrap_or(0);
                let (top, left) = (first(&down.taps), first(&along.taps));
                let mut taps = Vec::with_capacity(source_channels * down.taps.len() * along.taps.len());
                for channel in 0..source_channels {
                    for &(ky, y) in &down.taps {
                        for &(kx, x) in &along.taps {
                            let row = channel * shape.taps() + ky * shape.kernel[1] + kx;
                            let pixel = (y - top) * source_size[1] + (x - left);
                            taps.push(Tap { row: row as u32, offset: (channel * source_plane + pixel * lanes) as u32 });
                        }
                    }
                }
                let runs = (0..down.count).map(|n| {
                    let out = (down.first + n * vertical.out_step) * out_size[1] + along.first;
                    let source = (top + n * vertical.source_step) * source_size[1] + left;
                    Run { out: out * lanes, source: source * lanes, count: along.count }
                });
                longest = longest.max(along.count);
                match classes.iter_mut().find(|class| class.taps == taps) {
                    Some(class) => class.runs.extend(runs),
                    None => classes.push(Class { stride: stride(&taps), taps, runs: runs.collect() }),
                }
            }
        }
        LaneProduct {
            source,
            rows,
            depth: source_channels * shape.taps(),
            height: panel_height(rows, longest > 1),
            source_plane,
            out_plane,
            source_channels,
            source_step: horizontal.source_step * lanes,
            out_step: horizontal.out_step * lanes,
            classes,
        }
    }

    fn plane_out(&self) -> usize {
        self.out_plane
    }

    fn out_len(&self) -> usize {
        self.rows * self.out_plane
    }

    fn packed_len(&self) -> usize {
        packed_len(self.rows, self.depth, self.height)
    }

    fn pack(&self, weight: &[f32], packed: &mut [f32], parallel: bool) {
        check_len("weight", weight.len(), self.rows * self.depth);
        check_len("packed weight", packed.len(), self.packed_len());
        pack(weight, self.source, self.rows, self.depth, self.height, packed, parallel);
    }

    fn run(&self, level: Level, packed: &[f32], from: &[f32], combine: Combine<'_>, out: &mut [f32], parallel: bool) {
        check_len("packed weight", packed.len(), self.packed_len());
        check_len("source", from.len(), self.source_channels * self.source_plane);
        check_len("output", out.len(), self.out_len());
        if combine.gamma != 0.0 {
            check_len("third operand", combine.other.len(), self.out_len());
        }
        if let Some(bias) = combine.bias {
            check_len("bias", bias.len(), self.rows);
        }
        let panels = self.rows.div_ceil(self.height);
        // One chunk for all panels keeps the source in the nearest cache; one per panel shares the work.
        let panels_per_chunk = if parallel { 1 } else { panels };
        let rows_per_chunk = panels_per_chunk * self.height;
        let work = 2 * (self.rows * self.depth) as u64 * self.out_plane as u64;
        for_each_chunk(parallel, work, out, rows_per_chunk * self.out_plane, |chunk, out| {
            let first = chunk * rows_per_chunk;
            let rows = out.len() / self.out_plane;
            let place = first * self.out_plane..first * self.out_plane + out.len();
            let combine = Combine {
                other: if combine.gamma != 0.0 { &combine.other[place] } else { &[] },
                bias: combine.bias.map(|bias| &bias[first..first + rows]),
                ..combine
            };
            let panels = &packed[chunk * panels_per_chunk * self.height * self.depth..];
            dispatch(level, PanelProduct { product: self, panels, from, combine, rows, out });
        });
    }
}

/// The common distance of the addresses of a table that reads its panel in order from the start.
fn stride(taps: &[Tap]) -> Option<usize> {
    let step = taps.get(1).map_or(0, |tap| tap.offset.wrapping_sub(taps[0].offset));
    let regular = taps.iter().zip(0u32..).all(|(tap, k)| tap.row == k && Some(tap.offset) == k.checked_mul(step));
    regular.then_some(step as usize)
}

/// All pixels of some panels.
struct PanelProduct<'a> {
    product: &'a LaneProduct,
    panels: &'a [f32],
    from: &'a [f32],
    combine: Combine<'a>,
    rows: usize,
    out: &'a mut [f32],
}

impl Kernel for PanelProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let product = self.product;
        let epilogue = LinearEpilogue::new(&self.combine, self.out, product.out_plane);
        let widest = tile_width(s, product.height);
        for class in &product.classes {
            for run in &class.runs {
                let blocks = run.count.div_ceil(widest);
                let mut done = 0;
                for block in 0..blocks {
                    // Equal blocks, so that no sliver is left.
                    let n = (run.count - done).div_ceil(blocks - block);
                    let tile = Tile {
                        panels: self.panels.as_ptr(),
                        // A run on padding alone has no operands, and may point beyond the source.
                        from: self.from.as_ptr().wrapping_add(run.source + done * product.source_step),
                        at: run.out + done * product.out_step,
                        rows: self.rows,
                        product,
                    };
                    match class.stride {
                        Some(stride) => {
                            let depth = Strided { len: class.taps.len(), stride };
                            with_tile!(product.height, n, panels_of_tile::<S, Strided>(s, tile, depth, epilogue));
                        }
                        None => {
                            let depth = class.taps.as_slice();
                            with_tile!(product.height, n, panels_of_tile::<S, &[Tap]>(s, tile, depth, epilogue));
                        }
                    }
                    done += n;
                }
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Tile<'a> {
    panels: *const f32,
    from: *const f32,
    at: usize,
    rows: usize,
    product: &'a LaneProduct,
}

/// N pixels of every panel, so that the pixels are read from the nearest cache.
#[inline(always)]
fn panels_of_tile<S: Simd, D: Depth, const M: usize, const N: usize>(
    s: S,
    tile: Tile<'_>,
    depth: D,
    epilogue: LinearEpilogue,
) {
    if N > tile_width(s, M) {
        unreachable!("tiles are cut to the level's width");
    }
    let product = tile.product;
    for first in (0..tile.rows).step_by(M) {
        // SAFETY: panel `first / M` and the operands of the run are inside slices whose lengths `LaneProduct::run`
        // checked against the plan; so are the output rows below `tile.rows`.
        unsafe {
            let panel = tile.panels.add(first * product.depth);
            let sums = multiply::<S, Panel, D, M, N>(s, panel, Panel, tile.from, product.source_step, depth);
            let place = Place { row: first, rows: M.min(tile.rows - first), at: tile.at, step: product.out_step };
            epilogue.finish(s, sums, place);
        }
    }
}
