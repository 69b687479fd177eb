//! The gradient of a convolution's weights: for each (output channel, input channel, tap) the sum over images and
//! pixels of the output's gradient times the input that the tap met.
//!
//! ```text
//! outer      G[(c, tap)][o lanes] = sum over pixels p of  X[c][p + tap]  x  E[p][o lanes]
//! inner      G[o][(c, tap)][lane] = sum over pixels p of  E[o][p][lane] * X[c][p + tap][lane]
//! ```
//!
//! With channels across lanes, E lies as the outer product wants it, and nothing is ever added across lanes. With
//! images across lanes, where an image in a lane of a pixel is but one more pixel, and from plain planes, a block of E
//! is transposed first; or, where there are too few output channels to fill a vector, both operands are vectors whose
//! lanes are added up at the end.
//!
//! An output pixel meets a tap in a rectangle: the pixels whose window has that tap inside of the input. A tap on
//! padding is not summed at all.

use std::ops::Range;

use crate::blocking::Blocks;
use crate::conv::shape::ConvShape;
use crate::layout::{Layout, transpose_lines, transpose_vectors};
use crate::leaf::{Dot, Epilogue, Leaves, Operand, Product, Repeat, Segment, Tap, WIDEST, Walk};
use crate::level::Level;
use crate::pack::{pack_panel, packed_vectors_len, place_in_depth, unpack_vectors};
use crate::parallel::{Shared, for_each_task, threads_for};
use crate::simd::{Kernel, MAX_LANES, Simd, dispatch};
use crate::view::MatRef;

/// Elements of the output's gradient in a block of the outer product, for each vector of output channels: with two,
/// 128 KiB, a part of the second cache; of several images with channels across lanes, that many of each.
const OUTER: usize = 1 << 14;
/// Elements of a channel in a block that is transposed: with 64 output channels, 50 KiB.
const TRANSPOSED: usize = 200;
/// Rows of G that are summed before they are written: with 64 output channels, 144 KiB.
const ROWS: usize = 576;
/// Elements of a channel in a block of the inner product: the five channels of a tile take 25 KiB of the first cache.
const INNER: usize = 1280;
/// Rows of the tallest tile whose input channels are planes apart, which may meet in one set of the first cache.
const PLANES: usize = 6;
/// Output channels of the tallest tile of inner products: no fewer are worth a thread.
const INNER_CHANNELS: usize = 5;

/// The gradient of a tile, planned for a level and a layout.
#[derive(Clone, Debug)]
pub(crate) struct Gradient {
    level: Level,
    leaves: &'static Leaves,
    shape: ConvShape,
    output: [usize; 2],
    layout: Layout,
    /// Elements of a pixel of a plane.
    elements: usize,
    /// The vectors of output channels, cut into panels, and the rows of the tallest tile of an outer product.
    panels: Blocks,
    tallest: usize,
    method: Method,
}

#[derive(Clone, Debug)]
enum Method {
    /// Outer products of tensors with channels across lanes; the table has a tap for each row of a block.
    Channels { rows: Blocks, table: Vec<Tap> },
    /// Outer products of planes of pixels.
    Transposed(Transposed),
    /// Inner products with images across lanes.
    Inner { rows: Blocks, columns: Blocks },
}

#[derive(Clone, Debug)]
struct Transposed {
    rows: Blocks,
    columns: Blocks,
    /// Input channels whose rows of G are summed together.
    channels: usize,
    /// A tap for each row of a block, or for each pixel of a row where those are not evenly spaced.
    table: Vec<Tap>,
}

/// The operands of outer products; where they begin is each rectangle's own.
#[derive(Clone, Copy)]
struct Operands<'a> {
    /// A tap for each row of a block, or with `spaced` for each pixel of a row.
    table: &'a [Tap],
    spaced: bool,
    /// From the first input channel on.
    input: &'a [f32],
    /// From the first pixel of the block on.
    errors: &'a [f32],
    a: Operand,
    b: Operand,
    /// Distances of rows and of pixels of the errors.
    e_steps: [usize; 2],
    /// Distance of the sums of neighbouring taps.
    tap_step: usize,
    sums: Epilogue,
}

impl Gradient {
    /// Plans the gradient of tensors with so many elements in a pixel of a plane. Output channels are cut for `shared`
    /// threads, if they fill vectors enough.
    pub(crate) fn new(level: Level, layout: Layout, elements: usize, shape: ConvShape, shared: usize) -> Self {
        let leaves = Leaves::of(level);
        let lanes = leaves.lanes;
        let output = shape.output();
        let blocks = |most: usize| {
            let pixels = (most / elements).max(1);
            [Blocks::new(output[0], (pixels / output[1]).max(1)), Blocks::new(output[1], pixels)]
        };
        let side_by_side = layout.is_channels();
        // A low tile has more to do for each pixel of a short row.
        let low = if side_by_side { leaves.low } else { PLANES };
        let (widest, rows) = (leaves.widest(low), if side_by_side { usize::MAX } else { PLANES });
        let vectors = shape.out_channels.div_ceil(lanes);
        let panels = Blocks::new(vectors, widest.min(vectors.div_ceil(shared)));
        let tallest = leaves.tallest(panels.longest()).min(rows);
        let width = panels.longest() * lanes;
        let row = |y: usize, block_row: usize| Tap::new(y * shape.stride[0] * shape.input[1] * elements, y * block_row);
        let method = match layout {
            Layout::Channels(_) => {
                let rows = Blocks::new(output[0], (OUTER / lanes / output[1]).max(1));
                Method::Channels { rows, table: (0..rows.longest()).map(|y| row(y, output[1] * lanes)).collect() }
            }
            Layout::Images | Layout::Batch(_) if elements == 1 || outer_cost(&shape, lanes) <= inner_cost(&shape) => {
                let [rows, columns] = blocks(TRANSPOSED);
                let most = (ROWS / shape.taps()).max(1);
                let stride = shape.stride[1];
                let table = match stride > 1 && elements > 1 {
                    false => (0..rows.longest()).map(|y| row(y, columns.longest() * elements * width)).collect(),
                    true => {
                        (0..columns.longest()).map(|x| Tap::new(x * stride * elements, x * elements * width)).collect()
                    }
                };
                let channels = Blocks::new(shape.in_channels, most).longest();
                Method::Transposed(Transposed { rows, columns, channels, table })
            }
            Layout::Images | Layout::Batch(_) => {
                let [rows, columns] = blocks(INNER);
                Method::Inner { rows, columns }
            }
        };
        Gradient { level, leaves, shape, output, layout, elements, panels, tallest, method }
    }

    fn depth(&self) -> usize {
        self.shape.in_channels * self.shape.taps()
    }

    /// Elements of the gradient as it is summed: packed as the weights of the forward product are, with channels across
    /// lanes, else the weights themselves.
    pub(crate) fn len(&self) -> usize {
        match self.layout {
            Layout::Channels(_) => packed_vectors_len(self.leaves.lanes, self.shape.out_channels, self.depth()),
            Layout::Images | Layout::Batch(_) => self.shape.out_channels * self.depth(),
        }
    }

    /// `to = factor gradient`, `[out_channels, in_channels, height, width]`.
    pub(crate) fn unpack(&self, sums: &[f32], factor: f32, to: &mut [f32]) {
        let ConvShape { in_channels, out_channels, .. } = self.shape;
        match self.layout {
            Layout::Images | Layout::Batch(_) => to.iter_mut().zip(sums).for_each(|(to, sum)| *to = factor * sum),
            Layout::Channels(_) => {
                let lanes = self.leaves.lanes;
                unpack_vectors(self.level, sums, [in_channels, out_channels], self.shape.taps(), lanes, factor, to);
            }
        }
    }

    /// Elements of scratch.
    pub(crate) fn scratch_len(&self) -> usize {
        let lanes = self.leaves.lanes;
        match &self.method {
            Method::Channels { .. } => 0,
            Method::Inner { .. } => self.shape.out_channels * self.depth() * lanes,
            Method::Transposed(plan) => self.panels.count() * self.panels.longest() * lanes * self.transposed_len(plan),
        }
    }

    /// Elements of scratch for each output channel of a panel.
    fn transposed_len(&self, plan: &Transposed) -> usize {
        plan.channels * self.shape.taps() + plan.rows.longest() * plan.columns.longest() * self.elements
    }

    /// Adds the gradient of some tiles, or of some images of plain planes, to `gradient`. With `parallel`, threads share the
    /// output channels.
    pub(crate) fn add(&self, errors: &[f32], input: &[f32], gradient: &mut [f32], scratch: &mut [f32], parallel: bool) {
        let lanes = self.leaves.lanes;
        let work = self.shape.flops().saturating_mul((errors.len() / self.shape.out_channels) as u64);
        let work = work / (self.output[0] * self.output[1]) as u64;
        let parallel = parallel && threads_for(work) > 1;
        let (sums, scratch) = (Shared(gradient.as_mut_ptr()), Shared(scratch[..self.scratch_len()].as_mut_ptr()));
        match &self.method {
            Method::Channels { rows, table } => {
                let panels = self.panels;
                let groups = self.shape.in_channels.div_ceil(lanes);
                // Tasks of a panel and a part of the input channels, each with its own sums.
                let parts = Blocks::cut(groups, if parallel { groups.min(8) } else { 1 });
                for_each_task(parallel, panels.count() * parts.count(), |task| {
                    let (panel, part) = (panels.get(task / parts.count()), parts.get(task % parts.count()));
                    self.of_channels((*rows, table), panel, part, [errors, input], sums);
                });
            }
            Method::Transposed(plan) => {
                let panels = self.panels;
                let len = panels.longest() * lanes * self.transposed_len(plan);
                for_each_task(parallel, panels.count(), |panel| {
                    let outputs =
                        panels.get(panel).start * lanes..(panels.get(panel).end * lanes).min(self.shape.out_channels);
                    // SAFETY: each panel has output channels of its own, and a part of the scratch, whose length is that
                    // of all.
                    let (gradient, scratch) = unsafe {
                        let gradient = sums.slice(outputs.start * self.depth(), outputs.len() * self.depth());
                        (gradient, scratch.slice(panel * len, len))
                    };
                    self.of_planes(plan, outputs, [errors, input], gradient, scratch);
                });
            }
            Method::Inner { rows, columns } => {
                let parts = self.shape.out_channels.div_ceil(INNER_CHANNELS);
                let parts = Blocks::cut(self.shape.out_channels, if parallel { parts } else { 1 });
                for_each_task(parallel, parts.count(), |part| {
                    let outputs = parts.get(part);
                    let (first, len) = (outputs.start * self.depth(), outputs.len() * self.depth());
                    // SAFETY: each part has output channels of its own, in the gradient and the scratch.
                    let (gradient, scratch) =
                        unsafe { (sums.slice(first, len), scratch.slice(first * lanes, len * lanes)) };
                    scratch.fill(0.0);
                    for block in rows.iter() {
                        for columns in columns.iter() {
                            self.inner([block.clone(), columns], outputs.clone(), errors, input, scratch);
                        }
                    }
                    dispatch(self.level, SumLanes { vectors: scratch, to: gradient });
                });
            }
        }
    }

    /// The outputs along an axis, of some, whose window has a tap inside of the input.
    fn meeting(&self, axis: usize, tap: usize, outputs: &Range<usize>) -> Range<usize> {
        let ConvShape { input, stride, padding, dilation, .. } = self.shape;
        let before = tap * dilation[axis];
        let end = (input[axis] + padding[axis]).saturating_sub(before).div_ceil(stride[axis]);
        let start = padding[axis].saturating_sub(before).div_ceil(stride[axis]).max(outputs.start);
        start..end.min(outputs.end).max(start)
    }

    /// The taps that meet the input in a block, and where.
    fn rectangles(&self, block: [Range<usize>; 2]) -> impl Iterator<Item = ([usize; 2], [Range<usize>; 2])> {
        let [height, width] = self.shape.kernel;
        (0..height).flat_map(move |ky| {
            let rows = self.meeting(0, ky, &block[0]);
            let across = if rows.is_empty() { 0 } else { width };
            let columns = block[1].clone();
            (0..across).filter_map(move |kx| {
                let columns = self.meeting(1, kx, &columns);
                (!columns.is_empty()).then(|| ([ky, kx], [rows.clone(), columns]))
            })
        })
    }

    /// The input pixel that a tap of an output pixel's window meets, counted by rows.
    fn met(&self, pixel: [usize; 2], tap: [usize; 2]) -> usize {
        let ConvShape { stride, padding, dilation, .. } = self.shape;
        let [y, x] = [0, 1].map(|axis| pixel[axis] * stride[axis] + tap[axis] * dilation[axis] - padding[axis]);
        y * self.shape.input[1] + x
    }

    /// Adds the outer products of a block of output pixels with some input channels, for all taps.
    fn outer(&self, block: [Range<usize>; 2], channels: usize, vectors: usize, operands: &Operands<'_>) {
        let Operands { table, spaced, input, errors, a, b, e_steps, tap_step, sums } = *operands;
        let elements = self.elements;
        // Products of a pixel, whose elements are images or channels.
        let per_pixel = if self.layout.is_channels() { 1 } else { elements };
        let [first_row, first_column] = [block[0].start, block[1].start];
        for ([ky, kx], [rows, columns]) in self.rectangles(block) {
            for call in 0..if spaced { rows.len() } else { 1 } {
                let pixel = [rows.start + call, columns.start];
                let segment = match spaced {
                    true => Segment { taps: &table[..columns.len()], depth: elements },
                    false => Segment { taps: &table[..rows.len()], depth: columns.len() * per_pixel },
                };
                let x = self.met(pixel, [ky, kx]) * elements;
                let e = (pixel[0] - first_row) * e_steps[0] + (pixel[1] - first_column) * e_steps[1];
                let out = sums.out.wrapping_add((ky * self.shape.kernel[1] + kx) * tap_step);
                for tiles in Blocks::new(channels, self.tallest).all_equal() {
                    let [step, row] = [a.step, sums.row].map(|step| step as usize);
                    let product = Product {
                        segments: &[segment],
                        a: Operand { at: input[x + tiles.start * step..].as_ptr(), ..a },
                        b: Operand { at: errors[e..].as_ptr(), ..b },
                        down: Repeat::new(tiles.count, tiles.size * step, tiles.size * row),
                        across: Repeat::ONCE,
                        ahead: 0,
                        epilogue: Epilogue { out: out.wrapping_add(tiles.start * row), ..sums },
                    };
                    // SAFETY: the rectangle is inside the block of the errors, and what the tap meets there inside the
                    // planes of the input; there are sums of these vectors for every channel and tap, which are this
                    // task's own.
                    unsafe { self.leaves.product([tiles.size, vectors], &product) };
                }
            }
        }
    }

    /// The gradient of some vectors of output channels by some groups of input channels, both across lanes, over all images.
    fn of_channels(
        &self,
        (rows, table): (Blocks, &[Tap]),
        vectors: Range<usize>,
        groups: Range<usize>,
        [errors, input]: [&[f32]; 2],
        sums: Shared,
    ) {
        let (shape, lanes) = (&self.shape, self.leaves.lanes);
        let (depth, taps) = (self.depth(), shape.taps());
        let row = self.output[1] * lanes;
        let plane = self.output[0] * row;
        let source_plane = shape.input[0] * shape.input[1] * lanes;
        let images = || {
            let errors = errors.chunks_exact(shape.out_channels.div_ceil(lanes) * plane);
            errors.zip(input.chunks_exact(shape.in_channels.div_ceil(lanes) * source_plane))
        };
        // The sums of a group stay in a near cache while the images go by.
        let blocks = rows.iter().flat_map(|rows| groups.clone().map(move |group| (rows.clone(), group)));
        for ((rows, group), (errors, input)) in
            blocks.flat_map(|block| images().map(move |image| (block.clone(), image)))
        {
            let channel = group * lanes;
            let (place, tap_step) = place_in_depth(channel, shape.in_channels, lanes, taps);
            let sums = sums.get().wrapping_add((vectors.start * depth + place) * lanes);
            let operands = Operands {
                table,
                spaced: false,
                input: &input[group * source_plane..],
                errors: &errors[vectors.start * plane + rows.start * row..],
                a: Operand::new(std::ptr::null(), 1, shape.stride[1] * lanes),
                b: Operand::new(std::ptr::null(), plane, lanes),
                e_steps: [row, lanes],
                tap_step: tap_step * lanes,
                sums: Epilogue::add(sums, lanes, depth * lanes),
            };
            let channels = lanes.min(shape.in_channels - channel);
            self.outer([rows, 0..self.output[1]], channels, vectors.len(), &operands);
        }
    }

    /// The gradient of some output channels of planes of pixels, whose errors are transposed block by block.
    fn of_planes(
        &self,
        plan: &Transposed,
        outputs: Range<usize>,
        [errors, input]: [&[f32]; 2],
        gradient: &mut [f32],
        scratch: &mut [f32],
    ) {
        let (shape, lanes, elements) = (&self.shape, self.leaves.lanes, self.elements);
        let (depth, taps) = (self.depth(), shape.taps());
        let vectors = outputs.len().div_ceil(lanes);
        let width = self.panels.longest() * lanes;
        let plane = self.output[0] * self.output[1] * elements;
        let source_plane = shape.input[0] * shape.input[1] * elements;
        let [image_errors, image_input] = [shape.out_channels * plane, shape.in_channels * source_plane];
        let block_row = plan.columns.longest() * elements * width;
        for first in (0..shape.in_channels).step_by(plan.channels) {
            let channels = plan.channels.min(shape.in_channels - first);
            let (sums, transposed) = scratch.split_at_mut(channels * taps * width);
            sums.fill(0.0);
            let blocks =
                plan.rows.iter().flat_map(|rows| plan.columns.iter().map(move |columns| [rows.clone(), columns]));
            let images = errors.chunks_exact(image_errors).zip(input.chunks_exact(image_input));
            for ((errors, input), block) in images.flat_map(|image| blocks.clone().map(move |block| (image, block))) {
                let [rows, columns] = block.clone();
                for (row, to) in rows.zip(transposed.chunks_mut(block_row)) {
                    let from = &errors[outputs.start * plane + (row * self.output[1] + columns.start) * elements..];
                    let from = MatRef::new(from, outputs.len(), columns.len() * elements, plane as isize, 1);
                    let (lines, places) = (0..from.rows(), 0..from.columns());
                    pack_panel(self.level, from, lines, places, [vectors * lanes, width], to);
                }
                let operands = Operands {
                    table: &plan.table,
                    // Pixels of several elements that are apart are taps each, and rows calls each.
                    spaced: shape.stride[1] > 1 && elements > 1,
                    input: &input[first * source_plane..],
                    errors: transposed,
                    a: Operand::new(std::ptr::null(), source_plane, if elements == 1 { shape.stride[1] } else { 1 }),
                    b: Operand::new(std::ptr::null(), lanes, width),
                    e_steps: [block_row, elements * width],
                    tap_step: width,
                    sums: Epilogue::add(sums.as_mut_ptr(), taps * width, lanes),
                };
                self.outer(block, channels, vectors, &operands);
            }
            let to = &mut gradient[first * taps..];
            let (rows, lines) = (channels * taps, outputs.len());
            dispatch(self.level, AddTransposed { sums, width, rows, to, stride: depth, lines });
        }
    }

    /// Adds the inner products of a block for some output channels to `sums`, `[outputs][(c, tap)][LANES]`.
    fn inner(&self, block: [Range<usize>; 2], outputs: Range<usize>, errors: &[f32], input: &[f32], sums: &mut [f32]) {
        let (shape, lanes) = (&self.shape, self.leaves.lanes);
        let depth = self.depth();
        let plane = self.output[0] * self.output[1] * lanes;
        let source_plane = shape.input[0] * shape.input[1] * lanes;
        let [tallest, widest] = self.leaves.dot_tile();
        let mut offsets = [[0; 2]; WIDEST];
        // Taps that meet the input in the same rectangle share the errors there; both ends of what a tap meets fall as
        // the taps rise, so that they are neighbours.
        let spans = |axis: usize| {
            let mut taps = 0..shape.kernel[axis];
            let outputs = block[axis].clone();
            std::iter::from_fn(move || {
                loop {
                    let first = taps.start;
                    let met = (first < taps.end).then(|| self.meeting(axis, first, &outputs))?;
                    let alike = (first..taps.end).take_while(|&tap| self.meeting(axis, tap, &outputs) == met).count();
                    taps.start += alike;
                    if !met.is_empty() {
                        return Some((first..first + alike, met));
                    }
                }
            })
        };
        for group in Blocks::new(outputs.len(), tallest).iter().filter(|group| !group.is_empty()) {
            for (down, rows) in spans(0) {
                for (along, columns) in spans(1) {
                    let pixel = [rows.start, columns.start];
                    let e = (outputs.start + group.start) * plane + (pixel[0] * self.output[1] + pixel[1]) * lanes;
                    let mut pairs = (0..shape.in_channels).flat_map(|channel| {
                        let (down, along) = (down.clone(), along.clone());
                        down.flat_map(move |ky| along.clone().map(move |kx| (channel, [ky, kx])))
                    });
                    for block in Blocks::new(shape.in_channels * down.len() * along.len(), widest).iter() {
                        let width = block.len();
                        for (offset, (channel, tap)) in offsets[..width].iter_mut().zip(&mut pairs) {
                            let x = channel * source_plane + self.met(pixel, tap) * lanes;
                            let column = channel * shape.taps() + tap[0] * shape.kernel[1] + tap[1];
                            *offset = [x, column * lanes];
                        }
                        let dot = Dot {
                            a: errors[e..].as_ptr(),
                            step: plane,
                            b: input.as_ptr(),
                            offsets: &offsets[..width],
                            rows: Walk {
                                count: rows.len(),
                                a: self.output[1] * lanes,
                                b: shape.stride[0] * shape.input[1] * lanes,
                            },
                            vectors: Walk { count: columns.len(), a: lanes, b: shape.stride[1] * lanes },
                            sums: sums[group.start * depth * lanes..].as_mut_ptr(),
                            sums_step: depth * lanes,
                        };
                        // SAFETY: the rectangle is inside the planes of the errors, and what the taps meet there inside
                        // those of the input; `sums` has vectors for all pairs.
                        unsafe { self.leaves.dot(group.len(), &dot) };
                    }
                }
            }
        }
    }
}

/// Cost of the outer product per element of the output's gradient, where lanes beyond the output channels are wasted,
/// few input channels by few vectors do not hide the latency of their sums, and errors are transposed: a fit to
/// measurements at 10 to 600 products per element.
pub(super) fn outer_cost(shape: &ConvShape, lanes: usize) -> f64 {
    let outputs = shape.out_channels;
    let padded = outputs.next_multiple_of(lanes);
    let sums = shape.in_channels.min(PLANES) * (padded / lanes).min(4);
    let share = if padded == lanes { 0.75 } else { 0.96 } * (sums as f64 / 4.0).min(1.0);
    let depth = (shape.in_channels * shape.taps()) as f64;
    padded as f64 / outputs as f64 * (depth / share + 0.75 * lanes as f64)
}

/// Likewise, of the inner product: the sums of a small image are loaded and stored for few products, and an input
/// that meets few taps is read from afar for few.
fn inner_cost(shape: &ConvShape) -> f64 {
    let [height, width] = shape.output();
    let depth = (shape.in_channels * shape.taps()) as f64;
    depth / 0.88 + 0.25 * shape.in_channels as f64 + 10.0 * depth / (height * width).min(64) as f64
}

/// Likewise, of tiles of a batch, whose lanes it fills or not and whose tensors are transposed before.
pub(super) fn tiles_cost(shape: &ConvShape, lanes: usize, batch: usize) -> f64 {
    let [height, width] = shape.output();
    let inputs = (shape.in_channels * shape.input[0] * shape.input[1]) as f64;
    let outputs = (shape.out_channels * height * width) as f64;
    let filled = batch as f64 / batch.next_multiple_of(lanes) as f64;
    (inner_cost(shape).min(outer_cost(shape, lanes)) + 0.875 * lanes as f64 * (1.0 + inputs / outputs)) / filled
}

/// Adds sums `[rows][width]` to the columns of `to`, of which `lines` begin `stride` apart.
struct AddTransposed<'a> {
    sums: &'a [f32],
    width: usize,
    rows: usize,
    to: &'a mut [f32],
    stride: usize,
    lines: usize,
}

impl Kernel for AddTransposed<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let AddTransposed { sums, width, rows, to, stride, lines } = self;
        assert!(rows * width <= sums.len() && (lines - 1) * stride + rows <= to.len() && lines <= width);
        let mut square = [0.0; MAX_LANES * MAX_LANES];
        for first in (0..lines).step_by(S::LANES) {
            let of_vector = S::LANES.min(lines - first);
            for row in (0..rows).step_by(S::LANES) {
                let n = S::LANES.min(rows - row);
                // SAFETY: n rows of sums are readable, and n elements of each line writable, by the assertion.
                unsafe {
                    let from = sums.as_ptr().add(row * width + first);
                    transpose_vectors(s, from, width, [n, of_vector], square.as_mut_ptr(), S::LANES);
                    for line in 0..of_vector {
                        let to = to.as_mut_ptr().add((first + line) * stride + row);
                        let v = s.load_first(square.as_ptr().add(line * S::LANES), n);
                        s.store_first(to, s.add(s.load_first(to, n), v), n);
                    }
                }
            }
        }
    }
}

/// Adds the sums of the lanes of as many vectors as `to` has elements.
struct SumLanes<'a> {
    vectors: &'a [f32],
    to: &'a mut [f32],
}

impl Kernel for SumLanes<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut square = [0.0; MAX_LANES * MAX_LANES];
        for (vectors, to) in self.vectors.chunks(S::LANES * S::LANES).zip(self.to.chunks_mut(S::LANES)) {
            // SAFETY: `vectors` has as many vectors as `to` has elements, LANES at most; the square holds LANES.
            unsafe {
                transpose_lines(s, vectors.as_ptr(), S::LANES, [to.len(), S::LANES], square.as_mut_ptr(), S::LANES);
                let mut sum = s.load_first(to.as_ptr(), to.len());
                for lane in 0..S::LANES {
                    sum = s.add(sum, s.load(square.as_ptr().add(lane * S::LANES)));
                }
                s.store_first(to.as_mut_ptr(), sum, to.len());
            }
        }
    }
}
