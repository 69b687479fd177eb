//! Convolutions of every channel by itself.
//!
//! A vector holds LANES channels or LANES images of a pixel. Either way a tap multiplies it by a vector of weights, which
//! for images are all the same, so that both layouts and both directions have one kernel:
//!
//! ```text
//! out[p] = sum over taps t of  w[t] * x[p + t]        g[t] = sum over pixels p of  e[p] * x[p + t]        * by lanes
//! ```
//!
//! A tile of pixels is in registers for the product, and a set of taps for the gradient of the weights. What is computed
//! for an output that meets the border is a tile along the border.

use std::ops::Range;

use crate::blocking::Blocks;
use crate::conv::pass::{Call, Direction};
use crate::conv::shape::{Axis, AxisRun, ConvShape};
use crate::layout::Layout;
use crate::leaf::Epilogue;
use crate::level::Level;
use crate::parallel::{Shared, for_each_task, threads_for};
use crate::simd::{Kernel, MAX_LANES, Simd, dispatch, lanes};

/// Pixels of the largest tile: sums enough to hide the latency of one.
const TILE: usize = 8;
/// Taps that are summed together.
const TAPS: usize = 9;
/// So many pixels, at least, are summed before they are added to the gradient, so that roundings do not pile up.
const PIXELS: usize = 128;

/// One direction, or the gradient of the weights, planned for a level and a layout.
#[derive(Clone, Debug)]
pub(crate) struct Depthwise {
    level: Level,
    layout: Layout,
    lanes: usize,
    channels: usize,
    /// Width of the kernel, and its taps.
    kernel: [usize; 2],
    source: [usize; 2],
    size: [usize; 2],
    axes: [Axis; 2],
}

impl Depthwise {
    pub(crate) fn new(level: Level, layout: Layout, shape: &ConvShape, direction: Direction) -> Self {
        let [(_, source), (channels, size)] = direction.sides(shape);
        let axis = match direction {
            Direction::Forward => Axis::forward,
            Direction::Backward => Axis::transposed,
        };
        let kernel = [shape.kernel[1], shape.taps()];
        let axes = [axis(shape, 0), axis(shape, 1)];
        Depthwise { level, layout, lanes: lanes(level), channels, kernel, source, size, axes }
    }

    fn planes(&self) -> usize {
        self.layout.planes(self.level, self.channels)
    }

    /// Elements of a plane of the source and of the result.
    fn plane_lens(&self) -> [usize; 2] {
        [self.source, self.size].map(|[rows, width]| rows * width * self.lanes)
    }

    /// Elements of the packed weights of a plane: a vector for each tap.
    fn packed_plane(&self) -> usize {
        self.kernel[1] * self.lanes
    }

    pub(crate) fn packed_len(&self) -> usize {
        self.planes() * self.packed_plane()
    }

    /// The weight of a tap in a lane of a plane; none beyond the last channel.
    fn weight(&self, plane: usize, tap: usize, lane: usize) -> Option<usize> {
        let channel = if self.layout.is_channels() { plane * self.lanes + lane } else { plane };
        (channel < self.channels).then_some(channel * self.kernel[1] + tap)
    }

    /// The places of packed weights, each with its plane, tap and lane.
    fn places(&self) -> impl Iterator<Item = (usize, Option<usize>)> {
        let [taps, lanes] = [self.kernel[1], self.lanes];
        (0..self.packed_len()).map(move |i| (i, self.weight(i / lanes / taps, i / lanes % taps, i % lanes)))
    }

    pub(crate) fn pack(&self, weight: &[f32], packed: &mut [f32]) {
        self.places().for_each(|(place, of)| packed[place] = of.map_or(0.0, |of| weight[of]));
    }

    /// Some rows of the result. Threads share the planes, and where those are few their rows.
    pub(crate) fn run(&self, rows: Range<usize>, call: Call<'_>, threads: usize) {
        let planes = self.planes();
        let parts = if threads > 1 { (4 * threads).div_ceil(planes).min(rows.len()) } else { 1 };
        let parts = Blocks::cut(rows.len(), parts);
        let [source, _] = self.plane_lens();
        for_each_task(threads > 1, call.images * planes * parts.count(), |task| {
            let (plane, part) = (task / parts.count(), parts.get(task % parts.count()));
            let channel = plane % planes;
            let mut epilogue = call.epilogue((plane * call.plane).wrapping_sub(call.first), [0, 0]);
            let mut biases = [0.0; MAX_LANES];
            if let Some(bias) = call.combine.bias {
                for (lane, of) in biases[..self.lanes].iter_mut().enumerate() {
                    *of = self.weight(channel, 0, lane).map_or(0.0, |weight| bias[weight / self.kernel[1]]);
                }
                epilogue.vector_bias = biases.as_ptr();
            }
            let steps = call.steps(plane / planes);
            epilogue.step = steps.as_ref().map_or(std::ptr::null(), |steps| steps.as_ptr());
            let product = PlaneProduct {
                plan: self,
                weights: &call.packed[channel * self.packed_plane()..][..self.packed_plane()],
                from: &call.from[plane * source..][..source],
                rows: rows.start + part.start..rows.start + part.end,
                filled: (0..self.lanes).take_while(|&lane| self.weight(channel, 0, lane).is_some()).count(),
                epilogue,
            };
            dispatch(self.level, product);
        });
    }

    /// Elements of the gradient as it is summed: packed as the weights are, or with images across lanes the weights
    /// themselves.
    pub(crate) fn gradient_len(&self) -> usize {
        self.planes() * self.gradient_plane()
    }

    fn gradient_plane(&self) -> usize {
        if self.layout.is_channels() { self.packed_plane() } else { self.kernel[1] }
    }

    /// Adds the gradient of a tile to `sums`. Threads share the planes.
    pub(crate) fn add(&self, errors: &[f32], input: &[f32], sums: &mut [f32], parallel: bool) {
        let work = 2 * (self.kernel[1] * errors.len()) as u64;
        let [source, result] = self.plane_lens();
        let (len, shared) = (self.gradient_plane(), Shared(sums.as_mut_ptr()));
        for_each_task(parallel && threads_for(work) > 1, self.planes(), |plane| {
            let gradient = PlaneGradient {
                plan: self,
                errors: &errors[plane * result..][..result],
                input: &input[plane * source..][..source],
                // SAFETY: a task has the sums of a plane of its own.
                sums: unsafe { shared.slice(plane * len, len) },
            };
            dispatch(self.level, gradient);
        });
    }

    /// `to = factor gradient`, `[channels, 1, height, width]`.
    pub(crate) fn unpack(&self, sums: &[f32], factor: f32, to: &mut [f32]) {
        match self.layout {
            Layout::Channels(_) => self.places().for_each(|(place, of)| {
                if let Some(of) = of {
                    to[of] = factor * sums[place];
                }
            }),
            _ => to.iter_mut().zip(sums).for_each(|(to, sum)| *to = factor * sum),
        }
    }

    /// The rectangles of outputs that read the same taps, which together are some rows of the result.
    #[inline(always)]
    fn rectangles(&self, rows: Range<usize>) -> impl Iterator<Item = Rectangle<'_>> {
        let [down, along] = &self.axes;
        let out_steps = [down.out_step * self.size[1], along.out_step].map(|step| step * self.lanes);
        let source_steps = [down.source_step * self.source[1], along.source_step].map(|step| step * self.lanes);
        down.runs.iter().flat_map(move |vertical| {
            let before = |row: usize| row.saturating_sub(vertical.first).div_ceil(down.out_step).min(vertical.count);
            let ys = before(rows.start)..before(rows.end);
            along.runs.iter().map(move |horizontal| {
                let sides = [ys.len(), horizontal.count];
                // Lines are along the longer side.
                let order = if sides[0] > sides[1] { [1, 0] } else { [0, 1] };
                Rectangle {
                    runs: [vertical, horizontal],
                    sides: order.map(|side| sides[side]),
                    out: (vertical.first * self.size[1] + horizontal.first) * self.lanes + ys.start * out_steps[0],
                    source: ys.start * source_steps[0],
                    out_steps: order.map(|side| out_steps[side]),
                    source_steps: order.map(|side| source_steps[side]),
                }
            })
        })
    }
}

/// Lines of outputs that read the same taps.
struct Rectangle<'a> {
    /// What they read: that of the first output lies in the source where the runs' taps say, and `source` ahead of it.
    runs: [&'a AxisRun; 2],
    source: usize,
    out: usize,
    /// How many lines, and outputs in each; the distances of both in the result and in the source.
    sides: [usize; 2],
    out_steps: [usize; 2],
    source_steps: [usize; 2],
}

impl Rectangle<'_> {
    /// Each tap, and what it reads of the source.
    #[inline(always)]
    fn taps(&self, plan: &Depthwise) -> impl Iterator<Item = (usize, usize)> {
        let [vertical, horizontal] = self.runs;
        let ([width, _], [_, row], lanes) = (plan.kernel, plan.source, plan.lanes);
        let source = self.source;
        vertical.taps.iter().flat_map(move |&(ky, y)| {
            horizontal.taps.iter().map(move |&(kx, x)| (ky * width + kx, source + (y * row + x) * lanes))
        })
    }
}

/// The product of some rows of a plane.
struct PlaneProduct<'a> {
    plan: &'a Depthwise,
    weights: &'a [f32],
    from: &'a [f32],
    rows: Range<usize>,
    /// Lanes that hold a channel; the sums of the others are 0.
    filled: usize,
    epilogue: Epilogue,
}

impl Kernel for PlaneProduct<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for rectangle in self.plan.rectangles(self.rows.clone()) {
            let [lines, count] = rectangle.sides;
            for line in 0..lines {
                let mut first = 0;
                // SAFETY: the tiles are outputs of the line.
                unsafe {
                    while count - first >= TILE {
                        self.tile::<S, TILE>(s, &rectangle, line, first);
                        first += TILE;
                    }
                    if count - first >= 4 {
                        self.tile::<S, 4>(s, &rectangle, line, first);
                        first += 4;
                    }
                    if count - first >= 2 {
                        self.tile::<S, 2>(s, &rectangle, line, first);
                        first += 2;
                    }
                    if count > first {
                        self.tile::<S, 1>(s, &rectangle, line, first);
                    }
                }
            }
        }
    }
}

impl PlaneProduct<'_> {
    /// M outputs of a line.
    ///
    /// # Safety
    /// The rectangle must have them.
    #[inline(always)]
    unsafe fn tile<S: Simd, const M: usize>(&self, s: S, rectangle: &Rectangle<'_>, line: usize, first: usize) {
        let place = |steps: [usize; 2]| line * steps[0] + first * steps[1];
        let (step, out_step) = (rectangle.source_steps[1], rectangle.out_steps[1]);
        let mut sums = [s.splat(0.0); M];
        // SAFETY: what the taps of the outputs read is inside of the plane, and so are the outputs, whose epilogue was
        // checked with the operands of the pass; there is a vector of weights for each tap.
        unsafe {
            for (tap, source) in rectangle.taps(self.plan) {
                let weight = s.load(self.weights.as_ptr().add(tap * S::LANES));
                let from = self.from.as_ptr().add(source + place(rectangle.source_steps));
                for (m, sum) in sums.iter_mut().enumerate() {
                    *sum = s.fma(s.load(from.add(m * step)), weight, *sum);
                }
            }
            if self.filled < S::LANES {
                let lanes: [f32; MAX_LANES] = std::array::from_fn(|lane| lane as f32);
                let filled = s.lt(s.load(lanes.as_ptr()), s.splat(self.filled as f32));
                sums.iter_mut().for_each(|sum| *sum = s.select(filled, *sum, s.splat(0.0)));
            }
            let at = rectangle.out + place(rectangle.out_steps);
            let epilogue = Epilogue { row: out_step as isize, ..self.epilogue };
            epilogue.finish(s, sums.map(|sum| [sum]), at as isize, [0, 0]);
        }
    }
}

/// The gradient of the weights of a plane.
struct PlaneGradient<'a> {
    plan: &'a Depthwise,
    errors: &'a [f32],
    input: &'a [f32],
    /// A vector for each tap with channels across lanes, else an element.
    sums: &'a mut [f32],
}

impl Kernel for PlaneGradient<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let plan = self.plan;
        for rectangle in plan.rectangles(0..plan.size[0]) {
            let mut taps = rectangle.taps(plan);
            loop {
                let mut some = [(0, 0); TAPS];
                let count = some.iter_mut().zip(&mut taps).map(|(place, tap)| *place = tap).count();
                let mut some = &some[..count];
                // SAFETY: the taps are those of the rectangle.
                unsafe {
                    if let Ok(all) = <&[_; TAPS]>::try_from(some) {
                        self.rectangle(s, &rectangle, all);
                        continue;
                    }
                    if let Some((taps, rest)) = some.split_first_chunk::<6>() {
                        self.rectangle(s, &rectangle, taps);
                        some = rest;
                    }
                    if let Some((taps, rest)) = some.split_first_chunk::<4>() {
                        self.rectangle(s, &rectangle, taps);
                        some = rest;
                    }
                    some.iter().for_each(|tap| self.rectangle(s, &rectangle, std::array::from_ref(tap)));
                }
                break;
            }
        }
    }
}

impl PlaneGradient<'_> {
    /// Adds what the outputs of a rectangle make of some taps.
    ///
    /// # Safety
    /// The taps must be those of the rectangle.
    #[inline(always)]
    unsafe fn rectangle<S: Simd, const N: usize>(
        &mut self,
        s: S,
        rectangle: &Rectangle<'_>,
        taps: &[(usize, usize); N],
    ) {
        let [lines, count] = rectangle.sides;
        let [out_steps, source_steps] = [rectangle.out_steps, rectangle.source_steps];
        for lines in Blocks::new(lines, PIXELS.div_ceil(count.max(1))).iter() {
            let mut sums = [s.splat(0.0); N];
            for line in lines {
                // SAFETY: the outputs of the rectangle are inside of the plane of errors, and what their taps read inside
                // of that of the input.
                unsafe {
                    let mut e = self.errors.as_ptr().wrapping_add(rectangle.out + line * out_steps[0]);
                    let input = self.input.as_ptr().wrapping_add(line * source_steps[0]);
                    let mut at = taps.map(|(_, source)| input.wrapping_add(source));
                    for _ in 0..count {
                        let error = s.load(e);
                        for (sum, at) in sums.iter_mut().zip(&mut at) {
                            *sum = s.fma(s.load(*at), error, *sum);
                            *at = at.wrapping_add(source_steps[1]);
                        }
                        e = e.wrapping_add(out_steps[1]);
                    }
                }
            }
            for (&(tap, _), sum) in taps.iter().zip(sums) {
                if self.plan.layout.is_channels() {
                    let to = &mut self.sums[tap * S::LANES..][..S::LANES];
                    // SAFETY: `to` has a vector.
                    unsafe { s.store(to.as_mut_ptr(), s.add(s.load(to.as_ptr()), sum)) };
                } else {
                    self.sums[tap] += s.sum(sum);
                }
            }
        }
    }
}
