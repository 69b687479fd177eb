//! Pooling with an image in every lane: tensors are `[channels][height][width][LANES]`.
//!
//! A window is the product of a list of rows and a list of columns; padding is not in the lists.

use crate::conv::ConvShape;
use crate::level::Level;
use crate::parallel::{for_each_chunk, for_each_chunk_pair};
use crate::simd::{Kernel, Simd, dispatch, lanes};

/// For each output coordinate along an axis, the (tap, input coordinate) pairs of its window.
type AxisWindows = Vec<Vec<(usize, usize)>>;

/// The windows of all output pixels of a channel.
#[derive(Clone, Debug)]
struct Windows {
    level: Level,
    lanes: usize,
    channels: usize,
    input: [usize; 2],
    axes: [AxisWindows; 2],
}

impl Windows {
    fn new(level: Level, channels: usize, input: [usize; 2], axes: [AxisWindows; 2]) -> Self {
        let lanes = lanes(level);
        let fits = |pixels: [usize; 2]| pixels.into_iter().try_fold(channels.max(1) * lanes, usize::checked_mul);
        let output = [axes[0].len(), axes[1].len()];
        assert!(
            channels.checked_mul(lanes).is_some() && fits(input).is_some() && fits(output).is_some(),
            "a tensor of {channels} x {input:?} or {output:?} x {lanes} elements is too large"
        );
        Windows { level, lanes, channels, input, axes }
    }

    fn input_plane(&self) -> usize {
        self.input[0] * self.input[1] * self.lanes
    }

    fn output_plane(&self) -> usize {
        self.axes[0].len() * self.axes[1].len() * self.lanes
    }

    fn check(&self, what: &str, len: usize, plane: usize) {
        assert!(len == self.channels * plane, "{what} has {len} elements, planned for {}", self.channels * plane);
    }

    /// About the multiplications and additions of a pass.
    fn work(&self) -> u64 {
        (self.channels * (self.input_plane() + self.output_plane())) as u64
    }

    /// Calls `f` for every output pixel with its offset and the (tap, offset) of its window.
    #[inline(always)]
    fn for_each(&self, taps_per_row: usize, mut f: impl FnMut(usize, &Window<'_>)) {
        let mut out = 0;
        for rows in &self.axes[0] {
            for columns in &self.axes[1] {
                f(out, &Window { rows, columns, width: self.input[1], lanes: self.lanes, taps_per_row });
                out += self.lanes;
            }
        }
    }
}

/// One window.
struct Window<'a> {
    rows: &'a [(usize, usize)],
    columns: &'a [(usize, usize)],
    width: usize,
    lanes: usize,
    taps_per_row: usize,
}

impl Window<'_> {
    fn len(&self) -> usize {
        self.rows.len() * self.columns.len()
    }

    /// (tap, offset in the channel) in row-major order.
    #[inline(always)]
    fn taps(&self) -> impl Iterator<Item = (usize, usize)> {
        self.rows.iter().flat_map(move |&(ky, y)| {
            self.columns.iter().map(move |&(kx, x)| (ky * self.taps_per_row + kx, (y * self.width + x) * self.lanes))
        })
    }
}

/// Max pooling planned for a level.
///
/// The winner of a window is the first largest element in row-major order; NaN wins. Its tap is
/// stored as an f32 per output.
#[derive(Clone, Debug)]
pub struct LaneMaxPool {
    windows: Windows,
    taps_per_row: usize,
}

impl LaneMaxPool {
    /// Plans a pooling; `shape` gives the windows, its `in_channels` are pooled each by itself.
    ///
    /// # Panics
    /// If a window does not fit the padded input, or lies on padding altogether.
    pub fn new(level: Level, shape: &ConvShape) -> Self {
        let axes = axes(shape);
        assert!(
            axes.iter().flatten().all(|window| !window.is_empty()),
            "a max pooling window of {shape:?} lies on padding altogether"
        );
        LaneMaxPool {
            windows: Windows::new(level, shape.in_channels, shape.input, axes),
            taps_per_row: shape.kernel[1],
        }
    }

    /// The largest element of each window of `z`, and the tap where it stands.
    ///
    /// # Panics
    /// If a length is not the planned one.
    pub fn forward(&self, z: &[f32], value: &mut [f32], winner: &mut [f32], parallel: bool) {
        self.pass(z, None, value, winner, parallel);
    }

    /// With `z` the values of the forward pass, `value` its result and `d` a deviation of `z`, the
    /// deviation of the result: the largest of (z_j - value) + d_j over each window, and its tap.
    ///
    /// # Panics
    /// If a length is not the planned one.
    pub fn push(
        &self,
        z: &[f32],
        value: &[f32],
        d: &[f32],
        difference: &mut [f32],
        winner: &mut [f32],
        parallel: bool,
    ) {
        self.windows.check("value", value.len(), self.windows.output_plane());
        self.windows.check("deviation", d.len(), self.windows.input_plane());
        self.pass(z, Some((value, d)), difference, winner, parallel);
    }

    fn pass(
        &self,
        z: &[f32],
        deviation: Option<(&[f32], &[f32])>,
        out: &mut [f32],
        winner: &mut [f32],
        parallel: bool,
    ) {
        let windows = &self.windows;
        let (input, output) = (windows.input_plane(), windows.output_plane());
        windows.check("input", z.len(), input);
        windows.check("output", out.len(), output);
        windows.check("winner", winner.len(), output);
        for_each_chunk_pair(parallel, windows.work(), out, winner, output, |c, out, winner| {
            let z = &z[c * input..][..input];
            let deviation = deviation.map(|(value, d)| (&value[c * output..][..output], &d[c * input..][..input]));
            dispatch(windows.level, MaxChannel { pool: self, z, deviation, out, winner });
        });
    }

    /// Adds each output's gradient to its winner's place in `input_gradient`, which is cleared first.
    ///
    /// # Panics
    /// If a length is not the planned one.
    pub fn backward(&self, output_gradient: &[f32], winner: &[f32], input_gradient: &mut [f32], parallel: bool) {
        let windows = &self.windows;
        let (input, output) = (windows.input_plane(), windows.output_plane());
        windows.check("output gradient", output_gradient.len(), output);
        windows.check("winner", winner.len(), output);
        windows.check("input gradient", input_gradient.len(), input);
        for_each_chunk(parallel, windows.work(), input_gradient, input, |c, gradient| {
            let output_gradient = &output_gradient[c * output..][..output];
            let winner = &winner[c * output..][..output];
            dispatch(windows.level, MaxChannelBackward { pool: self, output_gradient, winner, gradient });
        });
    }
}

struct MaxChannel<'a> {
    pool: &'a LaneMaxPool,
    z: &'a [f32],
    deviation: Option<(&'a [f32], &'a [f32])>,
    out: &'a mut [f32],
    winner: &'a mut [f32],
}

impl Kernel for MaxChannel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.pool.windows.for_each(self.pool.taps_per_row, |out, window| {
            let mut best = s.splat(f32::NEG_INFINITY);
            let mut winner = s.splat(-1.0);
            for (tap, at) in window.taps() {
                // SAFETY: windows lie inside the channel and outputs inside the output, whose lengths were checked.
                let candidate = unsafe {
                    let z = s.load(self.z.as_ptr().add(at));
                    match self.deviation {
                        None => z,
                        Some((value, d)) => {
                            let relative = s.sub(z, s.load(value.as_ptr().add(out)));
                            s.add(relative, s.load(d.as_ptr().add(at)))
                        }
                    }
                };
                // Comparing with NaN is false either way: a NaN candidate is taken, a NaN best is kept;
                // so is the first candidate, whatever its value.
                let tap = s.splat(tap as f32);
                let first = s.lt(winner, s.splat(0.0));
                let larger = s.lt(best, candidate);
                let valid = s.eq(candidate, candidate);
                let kept = s.select(larger, candidate, best);
                let kept_tap = s.select(larger, tap, winner);
                let (next, next_tap) = (s.select(valid, kept, candidate), s.select(valid, kept_tap, tap));
                best = s.select(first, candidate, next);
                winner = s.select(first, tap, next_tap);
            }
            // SAFETY: `out` is the offset of a vector of the output.
            unsafe {
                s.store(self.out.as_mut_ptr().add(out), best);
                s.store(self.winner.as_mut_ptr().add(out), winner);
            }
        });
    }
}

struct MaxChannelBackward<'a> {
    pool: &'a LaneMaxPool,
    output_gradient: &'a [f32],
    winner: &'a [f32],
    gradient: &'a mut [f32],
}

impl Kernel for MaxChannelBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.gradient.fill(0.0);
        let to = self.gradient.as_mut_ptr();
        self.pool.windows.for_each(self.pool.taps_per_row, |out, window| {
            // SAFETY: windows lie inside the channel and outputs inside the output, whose lengths were checked.
            unsafe {
                let gradient = s.load(self.output_gradient.as_ptr().add(out));
                let winner = s.load(self.winner.as_ptr().add(out));
                for (tap, at) in window.taps() {
                    let won = s.eq(winner, s.splat(tap as f32));
                    let sum = s.add(s.load(to.add(at)), s.select(won, gradient, s.splat(0.0)));
                    s.store(to.add(at), sum);
                }
            }
        });
    }
}

/// Average pooling planned for a level; linear, so that differences go through it as values do.
#[derive(Clone, Debug)]
pub struct LaneAvgPool {
    windows: Windows,
    /// What every window is divided by; its own size if none.
    divisor: Option<usize>,
}

impl LaneAvgPool {
    /// Windows of a fixed size, padding counted: every window is divided by the size of the kernel.
    ///
    /// # Panics
    /// If a window does not fit the padded input.
    pub fn fixed(level: Level, shape: &ConvShape) -> Self {
        let windows = Windows::new(level, shape.in_channels, shape.input, axes(shape));
        LaneAvgPool { windows, divisor: Some(shape.taps()) }
    }

    /// Windows chosen so that the output has a given size, as PyTorch's adaptive pooling: output i
    /// of o covers inputs floor(i n / o) .. ceil((i + 1) n / o).
    pub fn adaptive(level: Level, channels: usize, input: [usize; 2], output: [usize; 2]) -> Self {
        let axes = [0, 1].map(|axis| {
            let (n, o) = (input[axis], output[axis]);
            let window = |i: usize| (i * n / o..((i + 1) * n).div_ceil(o)).map(|i| (0, i)).collect();
            (0..o).map(window).collect()
        });
        LaneAvgPool { windows: Windows::new(level, channels, input, axes), divisor: None }
    }

    /// The mean of each window, of values or of differences.
    ///
    /// # Panics
    /// If a length is not the planned one.
    pub fn forward(&self, input: &[f32], output: &mut [f32], parallel: bool) {
        let windows = &self.windows;
        let (input_plane, output_plane) = (windows.input_plane(), windows.output_plane());
        windows.check("input", input.len(), input_plane);
        windows.check("output", output.len(), output_plane);
        for_each_chunk(parallel, windows.work(), output, output_plane, |c, output| {
            let input = &input[c * input_plane..][..input_plane];
            dispatch(windows.level, MeanChannel { pool: self, input, output });
        });
    }

    /// Spreads each output's gradient over its window; `input_gradient` is overwritten.
    ///
    /// # Panics
    /// If a length is not the planned one.
    pub fn backward(&self, output_gradient: &[f32], input_gradient: &mut [f32], parallel: bool) {
        let windows = &self.windows;
        let (input_plane, output_plane) = (windows.input_plane(), windows.output_plane());
        windows.check("output gradient", output_gradient.len(), output_plane);
        windows.check("input gradient", input_gradient.len(), input_plane);
        for_each_chunk(parallel, windows.work(), input_gradient, input_plane, |c, gradient| {
            let output_gradient = &output_gradient[c * output_plane..][..output_plane];
            dispatch(windows.level, MeanChannelBackward { pool: self, output_gradient, gradient });
        });
    }

    #[inline(always)]
    fn scale(&self, window: &Window<'_>) -> f32 {
        1.0 / self.divisor.unwrap_or_else(|| window.len()) as f32
    }
}

struct MeanChannel<'a> {
    pool: &'a LaneAvgPool,
    input: &'a [f32],
    output: &'a mut [f32],
}

impl Kernel for MeanChannel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.pool.windows.for_each(0, |out, window| {
            let mut sum = s.splat(0.0);
            // SAFETY: windows lie inside the channel and outputs inside the output, whose lengths were checked.
            unsafe {
                for (_, at) in window.taps() {
                    sum = s.add(sum, s.load(self.input.as_ptr().add(at)));
                }
                s.store(self.output.as_mut_ptr().add(out), s.mul(sum, s.splat(self.pool.scale(window))));
            }
        });
    }
}

struct MeanChannelBackward<'a> {
    pool: &'a LaneAvgPool,
    output_gradient: &'a [f32],
    gradient: &'a mut [f32],
}

impl Kernel for MeanChannelBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.gradient.fill(0.0);
        let to = self.gradient.as_mut_ptr();
        self.pool.windows.for_each(0, |out, window| {
            // SAFETY: windows lie inside the channel and outputs inside the output, whose lengths were checked.
            unsafe {
                let gradient = s.load(self.output_gradient.as_ptr().add(out));
                let share = s.mul(gradient, s.splat(self.pool.scale(window)));
                for (_, at) in window.taps() {
                    s.store(to.add(at), s.add(s.load(to.add(at)), share));
                }
            }
        });
    }
}

/// The windows of a convolution of this shape along each axis, padding left out.
fn axes(shape: &ConvShape) -> [AxisWindows; 2] {
    let output = shape.output();
    [0, 1].map(|axis| {
        let (padding, dilation) = (shape.padding[axis], shape.dilation[axis]);
        let window = |out: usize| {
            let start = out * shape.stride[axis];
            let first = padding.saturating_sub(start).div_ceil(dilation);
            let end = (padding + shape.input[axis]).saturating_sub(start).div_ceil(dilation).min(shape.kernel[axis]);
            (first..end).map(|tap| (tap, start + tap * dilation - padding)).collect()
        };
        (0..output[axis]).map(window).collect()
    })
}
