//! What stands between the products of a network: an activation, a pooling, or a max pooling of an
//! activation of linear pieces, on tiles of images in either
//! [`Layout`].
//!
//! With z the input of f in the forward pass and d a deviation from it, four things are asked of f:
//!
//! ```text
//! forward    f(z)
//! push       f(z + d) - f(z), in a form that does not cancel
//! pull       J(z + d)^T g
//! relax      both at the end of a layer: epsilon = push(d) - u and J(z + d)^T epsilon
//! ```
//!
//! Slopes and winners are found anew from z and d wherever they are needed: that takes less time than
//! to fetch them from beyond the nearest cache.
//!
//! Everything works on some rows of the result, so that it can follow the product that makes d (or
//! g) while its rows are still in a near cache.

mod map;
mod norm;
mod pool;
mod windows;

use std::ops::Range;

use crate::activation::{Activation, with_function, with_linear_pieces};
use crate::conv::{Axis, ConvShape, check_tensor};
use crate::layout::Layout;
use crate::level::Level;
use crate::local::map::{Forward, Pull, Push, Relax};
use crate::local::norm::{Norm, NormPass, Task};
use crate::local::pool::{Asked, Means, PoolPass};
use crate::local::windows::{AxisWindows, Mark, Windows, adaptive_axes, adaptive_size, axes, table_bytes};
use crate::parallel::{for_each_chunk, for_each_chunk_pair};
use crate::simd::{dispatch, lanes};

/// Elements of an elementwise pass that one task takes.
const CHUNK: usize = 1 << 14;

/// Operations without weights, planned for a level and a shape.
///
/// ```
/// use predictive_coding_kernels::{Activation, Layout, Level, Local};
///
/// let (level, layout) = (Level::detect(), Layout::Images);
/// let relu = Local::activation(level, layout, Activation::Relu, 1, [1, 2]);
/// let z = vec![-1.0; layout.len(level, [1, 2])];
/// let mut out = vec![1.0; z.len()];
/// relu.forward(&z, &mut out, 0..relu.output_rows(), false);
/// assert!(out.iter().all(|&x| x == 0.0));
/// ```
#[derive(Clone, Debug)]
pub struct Local {
    level: Level,
    planes: usize,
    /// Elements of a row and rows of a plane, of the input and of the result.
    input: Plane,
    output: Plane,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Map(Activation),
    Pool(Pool, Windows),
    Norm(Norm),
    /// Channels and pixels of an image whose channels lie across the lanes.
    Flatten([usize; 2]),
    Unflatten([usize; 2]),
}

#[derive(Clone, Copy, Debug)]
enum Pool {
    /// Of an activation of linear pieces.
    Max(Activation),
    Mean,
}

/// What the sum of a window is divided by in an average pooling. See [`Local`] for an example of its use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Divisor {
    /// The number of its elements, those on the padding of both sides included.
    Padded,
    /// The number of its elements that are not padding.
    Inside,
    /// This number.
    Number(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plane {
    row: usize,
    rows: usize,
}

impl Plane {
    fn len(self) -> usize {
        self.row * self.rows
    }

    fn range(self, rows: &Range<usize>) -> Range<usize> {
        rows.start * self.row..rows.end * self.row
    }
}

/// The operands of [`Local::relax`].
#[derive(Debug)]
pub struct Relaxing<'a> {
    /// The input in the forward pass.
    pub z: &'a [f32],
    /// The result in the forward pass.
    pub value: &'a [f32],
    /// Deviation of the input: its rows that the rows of the result come from, of every channel.
    pub d: &'a [f32],
    /// Deviation of the belief, of the result's shape.
    pub u: &'a [f32],
    /// Becomes epsilon, of the result's shape.
    pub error: &'a mut [f32],
    /// Becomes J(z + d)^T epsilon, of the input's shape.
    pub pulled: &'a mut [f32],
}

impl Local {
    /// f of every element of `channels` images of `size` (height, width).
    ///
    /// # Panics
    /// If a tensor of LANES images has 2^32 elements or more.
    pub fn activation(level: Level, layout: Layout, activation: Activation, channels: usize, size: [usize; 2]) -> Self {
        let pixel = layout.pixel(level);
        check_tensor(pixel, channels, size);
        let plane = Plane { row: size[1] * pixel, rows: size[0] };
        let planes = layout.planes(level, channels);
        Local { level, planes, input: plane, output: plane, kind: Kind::Map(activation) }
    }

    /// The largest of f over each window; `shape` gives the windows, its `in_channels` are pooled each by
    /// itself. Of several largest elements the first in row-major order is the winner; NaN wins.
    ///
    /// # Panics
    /// If a window does not fit the padded input, or lies on padding altogether, if a kernel, stride or dilation is
    /// 0, if a tensor of LANES images has 2^32 elements or more, or if the activation is not
    /// [piecewise linear](Activation::is_piecewise_linear).
    pub fn max_pool(level: Level, layout: Layout, activation: Activation, shape: &ConvShape) -> Self {
        assert!(activation.is_piecewise_linear(), "{activation:?} is not made of linear pieces");
        Self::check_sizes(level, shape.in_channels, [shape.input, shape.output()]);
        let axes = axes(shape, false);
        assert!(
            !axes.iter().any(AxisWindows::has_empty),
            "a max pooling window of {shape:?} lies on padding altogether"
        );
        let windows = Windows::new(level, shape.input, axes, Mark::Taps { per_row: shape.kernel[1] });
        let kind = Kind::Pool(Pool::Max(activation), windows);
        Self::pool(level, layout.planes(level, shape.in_channels), shape.input, shape.output(), kind)
    }

    /// Means of windows of a fixed size.
    ///
    /// # Panics
    /// If a window does not fit the padded input, a kernel, stride or dilation is 0, or a tensor of LANES images has
    /// 2^32 elements or more.
    pub fn avg_pool(level: Level, layout: Layout, shape: &ConvShape, divisor: Divisor) -> Self {
        Self::check_sizes(level, shape.in_channels, [shape.input, shape.output()]);
        let number = if let Divisor::Number(number) = divisor { Some(number) } else { None };
        let axes = axes(shape, divisor == Divisor::Padded);
        let windows = Windows::new(level, shape.input, axes, Mark::Share(number));
        let kind = Kind::Pool(Pool::Mean, windows);
        Self::pool(level, layout.planes(level, shape.in_channels), shape.input, shape.output(), kind)
    }

    /// Means of windows chosen so that the result has a given size, as PyTorch's adaptive pooling: output
    /// i of o covers inputs floor(i n / o) .. ceil((i + 1) n / o).
    ///
    /// # Panics
    /// If a tensor of LANES images has 2^32 elements or more.
    pub fn adaptive_avg_pool(
        level: Level,
        layout: Layout,
        channels: usize,
        input: [usize; 2],
        output: [usize; 2],
    ) -> Self {
        Self::check_sizes(level, channels, [input, output]);
        let windows = Windows::new(level, input, adaptive_axes(input, output), Mark::Share(None));
        let kind = Kind::Pool(Pool::Mean, windows);
        Self::pool(level, layout.planes(level, channels), input, output, kind)
    }

    /// The channels and pixels of so many images, in their order, as channels of one pixel, in the layout of channels.
    ///
    /// # Panics
    /// If a tensor of LANES images has 2^32 elements or more.
    pub fn flatten(level: Level, images: usize, channels: usize, size: [usize; 2]) -> Self {
        check_tensor(lanes(level), channels, size);
        let image = [channels, size[0] * size[1]];
        let plane = |image: [usize; 2]| Plane { row: Layout::Channels(1).len(level, image), rows: 1 };
        let (input, output) = (plane(image), plane([image[0] * image[1], 1]));
        Local { level, planes: images, input, output, kind: Kind::Flatten(image) }
    }

    /// The reverse of [`flatten`](Self::flatten).
    ///
    /// # Panics
    /// If a tensor of LANES images has 2^32 elements or more.
    pub fn unflatten(level: Level, images: usize, channels: usize, size: [usize; 2]) -> Self {
        let Local { planes, input, output, .. } = Self::flatten(level, images, channels, size);
        let kind = Kind::Unflatten([channels, size[0] * size[1]]);
        Local { level, planes, input: output, output: input, kind }
    }

    /// Each of `groups` groups of the channels of an image, normalised: (x - mean) / sqrt(variance + eps), or if it is not
    /// `centred` x / sqrt(mean of squares + eps). Sums are in f64.
    ///
    /// # Panics
    /// If a tensor of LANES images has 2^32 elements or more, or the groups do not divide the channels.
    pub fn norm(level: Level, layout: Layout, image: [usize; 2], groups: usize, centred: bool, eps: f64) -> Self {
        check_tensor(lanes(level), image[0], [image[1], 1]);
        assert!(groups > 0 && image[0].is_multiple_of(groups), "{groups} groups of {} channels", image[0]);
        let (planes, layout) = layout.pieces();
        let plane = Plane { row: layout.len(level, image), rows: 1 };
        let norm = Norm { layout, image, groups, centred, eps, width: layout.pixel(level) };
        Local { level, planes, input: plane, output: plane, kind: Kind::Norm(norm) }
    }

    /// At most so many bytes does a plan keep of the windows of a max or average pooling: a table for each way in which
    /// those of a row and of a column meet the border. Saturates.
    ///
    /// # Panics
    /// If a window does not fit the padded input, or a kernel, stride or dilation is 0.
    pub fn pool_table_bytes(shape: &ConvShape) -> usize {
        match [0, 1].map(|axis| Axis::forward_size(shape, axis, Axis::LONGEST)) {
            [Some(down), Some(along)] => table_bytes([down, along], shape.output()),
            _ => usize::MAX,
        }
    }

    /// At most so many bytes does a plan keep of the windows of an [`adaptive_avg_pool`](Self::adaptive_avg_pool).
    /// Saturates.
    pub fn adaptive_table_bytes(input: [usize; 2], output: [usize; 2]) -> usize {
        table_bytes([0, 1].map(|axis| adaptive_size(input[axis], output[axis])), output)
    }

    fn check_sizes(level: Level, channels: usize, sizes: [[usize; 2]; 2]) {
        sizes.into_iter().for_each(|size| check_tensor(lanes(level), channels, size));
    }

    fn pool(level: Level, planes: usize, input: [usize; 2], output: [usize; 2], kind: Kind) -> Self {
        let [input, output] = [input, output].map(|[rows, width]| Plane { row: width * lanes(level), rows });
        Local { level, planes, input, output, kind }
    }

    /// Planes of a tile, of the input as of the result.
    pub fn planes(&self) -> usize {
        self.planes
    }

    /// Elements of the input of a tile.
    pub fn input_len(&self) -> usize {
        self.planes * self.input.len()
    }

    /// Elements of the result of a tile.
    pub fn output_len(&self) -> usize {
        self.planes * self.output.len()
    }

    /// Whether f is linear, so that J does not depend on where it is taken.
    pub fn is_linear(&self) -> bool {
        matches!(
            self.kind,
            Kind::Map(Activation::Identity) | Kind::Pool(Pool::Mean, _) | Kind::Flatten(_) | Kind::Unflatten(_)
        )
    }

    /// Whether it normalises, so that its slope is that of the spread of its input.
    pub fn is_norm(&self) -> bool {
        matches!(self.kind, Kind::Norm(_))
    }

    /// Rows of a channel of the result.
    pub fn output_rows(&self) -> usize {
        self.output.rows
    }

    /// Rows of the input that a row of the result comes from, if no two rows share any.
    pub fn rows_per_row(&self) -> Option<usize> {
        match &self.kind {
            Kind::Map(_) => Some(1),
            Kind::Pool(_, windows) => windows.row_step(),
            Kind::Norm(_) | Kind::Flatten(_) | Kind::Unflatten(_) => None,
        }
    }

    /// The rows of the input that some rows of the result come from: all, if rows share any; rows
    /// behind the last window belong to it.
    ///
    /// # Panics
    /// If rows of the result share rows of the input, and `rows` are not all, or if they are none of the result's.
    pub fn input_rows(&self, rows: &Range<usize>) -> Range<usize> {
        self.check_rows(rows);
        if *rows == (0..self.output.rows) {
            return 0..self.input.rows;
        }
        let step = self.rows_per_row().expect("rows that share inputs are computed together");
        let end = if rows.end == self.output.rows { self.input.rows } else { rows.end * step };
        rows.start * step..end
    }

    /// `value = f(z)` of some rows of the result.
    ///
    /// # Panics
    /// If a length is not the planned one, or the rows are none of the result's.
    pub fn forward(&self, z: &[f32], value: &mut [f32], rows: Range<usize>, parallel: bool) {
        self.check("input", z.len(), self.input);
        self.check("result", value.len(), self.output);
        self.check_rows(&rows);
        let (input, output) = (self.input, self.output);
        match &self.kind {
            Kind::Map(activation) => {
                let map = |z: &[f32], value: &mut [f32]| {
                    with_function(*activation, self.level, Forward { z, value });
                };
                self.each_stretch(value, &rows, parallel, |place, value| map(&z[place], value));
            }
            Kind::Pool(pool, windows) => for_each_chunk(parallel, self.work(), value, output.len(), |c, value| {
                let z = &z[c * input.len()..][..input.len()];
                self.pool_plane(*pool, windows, &rows, z, Asked::Forward { value });
            }),
            Kind::Norm(norm) => self.normalise(*norm, z, Task::Forward { value }),
            Kind::Flatten(image) => self.flat(*image, z, value),
            Kind::Unflatten(image) => self.unflat(*image, z, value),
        }
    }

    /// `difference = f(z + d) - f(z)`, with `value` = f(z); for a max pooling the largest of
    /// (f(z_j) - value) + (f(z_j + d_j) - f(z_j)) over each window.
    ///
    /// # Panics
    /// If a length is not the planned one.
    pub fn push(&self, z: &[f32], value: &[f32], d: &[f32], difference: &mut [f32], parallel: bool) {
        self.check("input", z.len(), self.input);
        self.check("result", value.len(), self.output);
        self.check("deviation", d.len(), self.input);
        self.check("difference", difference.len(), self.output);
        let (input, output) = (self.input, self.output);
        let rows = 0..output.rows;
        match &self.kind {
            Kind::Map(activation) => self.each_stretch(difference, &rows, parallel, |place, difference| {
                with_function(*activation, self.level, Push { z: &z[place.clone()], d: &d[place], difference });
            }),
            Kind::Pool(pool, windows) => {
                for_each_chunk(parallel, self.work(), difference, output.len(), |c, difference| {
                    let [z, d] = [z, d].map(|from| &from[c * input.len()..][..input.len()]);
                    let value = &value[c * output.len()..][..output.len()];
                    self.pool_plane(*pool, windows, &rows, z, Asked::Push { value, d, difference });
                });
            }
            Kind::Norm(norm) => self.normalise(*norm, z, Task::Push { d, difference }),
            Kind::Flatten(image) => self.flat(*image, d, difference),
            Kind::Unflatten(image) => self.unflat(*image, d, difference),
        }
    }

    /// `out = J(z + d)^T gradient`, d being 0 if there is none: the rows of the input that some rows of
    /// the result come from. `value` = f(z); d has these rows only.
    ///
    /// # Panics
    /// If a length is not the planned one.
    #[expect(clippy::too_many_arguments, reason = "the operands of a gradient, its rows, and where it runs")]
    pub fn pull(
        &self,
        z: &[f32],
        value: &[f32],
        d: Option<&[f32]>,
        gradient: &[f32],
        out: &mut [f32],
        rows: Range<usize>,
        parallel: bool,
    ) {
        self.check("input", z.len(), self.input);
        self.check("result", value.len(), self.output);
        self.check("gradient", gradient.len(), self.output);
        self.check("pulled gradient", out.len(), self.input);
        let band = self.band(&rows);
        if let Some(d) = d {
            self.check("deviation", d.len(), band);
        }
        let (input, output) = (self.input, self.output);
        match &self.kind {
            Kind::Map(activation) => self.each_stretch(out, &rows, parallel, |place, out| {
                let d = d.map(|d| &d[self.compact(&place, &rows)]);
                with_function(
                    *activation,
                    self.level,
                    Pull { z: &z[place.clone()], d, gradient: &gradient[place], out },
                );
            }),
            Kind::Pool(pool, windows) => for_each_chunk(parallel, self.work(), out, input.len(), |c, out| {
                let z = &z[c * input.len()..][..input.len()];
                let d = d.map(|d| &d[c * band.len()..][..band.len()]);
                let [value, gradient] = [value, gradient].map(|from| &from[c * output.len()..][..output.len()]);
                self.pool_plane(*pool, windows, &rows, z, Asked::Pull { value, d, gradient, out });
            }),
            Kind::Norm(norm) => self.normalise(*norm, z, Task::Pull { d, gradient, out }),
            Kind::Flatten(image) => self.unflat(*image, gradient, out),
            Kind::Unflatten(image) => self.flat(*image, gradient, out),
        }
    }

    /// Error and pulled error of some rows of the result.
    ///
    /// # Panics
    /// If a length is not the planned one.
    pub fn relax(&self, operands: Relaxing<'_>, rows: Range<usize>, parallel: bool) {
        let Relaxing { z, value, d, u, error, pulled } = operands;
        let band = self.band(&rows);
        self.check("input", z.len(), self.input);
        self.check("result", value.len(), self.output);
        self.check("deviation", d.len(), band);
        self.check("belief's deviation", u.len(), self.output);
        self.check("error", error.len(), self.output);
        self.check("pulled error", pulled.len(), self.input);
        let (input, output) = (self.input, self.output);
        let work = self.work();
        match &self.kind {
            Kind::Map(activation) => {
                let whole = rows == (0..output.rows);
                let (chunk, part) = if whole { (CHUNK, 0..CHUNK) } else { (output.len(), output.range(&rows)) };
                for_each_chunk_pair(parallel, work, [error, pulled], [chunk; 2], |i, error, pulled| {
                    let part = part.start..part.end.min(error.len());
                    let place = i * chunk + part.start..i * chunk + part.end;
                    let d = &d[self.compact(&place, &rows)];
                    let (error, pulled) = (&mut error[part.clone()], &mut pulled[part]);
                    let relax = Relax { z: &z[place.clone()], d, u: &u[place], error, pulled };
                    with_function(*activation, self.level, relax);
                });
            }
            Kind::Pool(pool, windows) => {
                let planes = [output.len(), input.len()];
                for_each_chunk_pair(parallel, work, [error, pulled], planes, |c, error, pulled| {
                    let z = &z[c * input.len()..][..input.len()];
                    let d = &d[c * band.len()..][..band.len()];
                    let [value, u] = [value, u].map(|from| &from[c * output.len()..][..output.len()]);
                    self.pool_plane(*pool, windows, &rows, z, Asked::Relax { value, d, u, error, pulled });
                });
            }
            Kind::Norm(norm) => {
                self.normalise(*norm, z, Task::Push { d, difference: error });
                error.iter_mut().zip(u).for_each(|(error, u)| *error -= u);
                self.normalise(*norm, z, Task::Pull { d: Some(d), gradient: error, out: pulled });
            }
            Kind::Flatten(image) => {
                self.flat(*image, d, error);
                error.iter_mut().zip(u).for_each(|(error, u)| *error -= u);
                self.unflat(*image, error, pulled);
            }
            Kind::Unflatten(image) => {
                self.unflat(*image, d, error);
                error.iter_mut().zip(u).for_each(|(error, u)| *error -= u);
                self.flat(*image, error, pulled);
            }
        }
    }

    fn normalise(&self, norm: Norm, z: &[f32], task: Task<'_>) {
        dispatch(self.level, NormPass { norm, z, task });
    }

    fn flat(&self, [channels, pixels]: [usize; 2], images: &[f32], flat: &mut [f32]) {
        let (elements, stride) = (channels * pixels, flat.len() / self.planes);
        Layout::Channels(self.planes).store(self.level, images, [channels, pixels], flat, self.planes, stride);
        flat.chunks_exact_mut(stride).for_each(|flat| flat[elements..].fill(0.0));
    }

    fn unflat(&self, [channels, pixels]: [usize; 2], flat: &[f32], images: &mut [f32]) {
        let (flat, images) =
            (flat.chunks_exact(flat.len() / self.planes), images.chunks_exact_mut(images.len() / self.planes));
        for (flat, image) in flat.zip(images) {
            Layout::Channels(1).load(self.level, &flat[..channels * pixels], [channels, pixels], image);
        }
    }

    /// A pass over some rows of a plane of windows.
    fn pool_plane(&self, pool: Pool, windows: &Windows, rows: &Range<usize>, z: &[f32], asked: Asked<'_>) {
        let input = self.input.range(&self.input_rows(rows));
        let plane = PoolPass { windows, rows: rows.clone(), input, z, asked };
        match pool {
            Pool::Max(activation) => with_linear_pieces(activation, self.level, plane),
            Pool::Mean => dispatch(self.level, Means(plane)),
        }
    }

    /// About the multiplications and additions of a pass.
    fn work(&self) -> u64 {
        (self.planes * (self.input.len() + self.output.len())) as u64
    }

    /// The part of the input that belongs to some rows of the result.
    fn band(&self, rows: &Range<usize>) -> Plane {
        Plane { row: self.input.row, rows: self.input_rows(rows).len() }
    }

    /// Where a stretch of the input lies among the rows that belong to some rows of the result.
    fn compact(&self, place: &Range<usize>, rows: &Range<usize>) -> Range<usize> {
        let (plane, band) = (self.input.len(), self.band(rows).len());
        if plane == band {
            return place.clone();
        }
        let start = place.start / plane * band + place.start % plane - rows.start * self.input.row;
        start..start + place.len()
    }

    /// Calls `f` for stretches of `out` that together are some rows of every channel, with their places.
    fn each_stretch(
        &self,
        out: &mut [f32],
        rows: &Range<usize>,
        parallel: bool,
        f: impl Fn(Range<usize>, &mut [f32]) + Sync,
    ) {
        if *rows == (0..self.output.rows) {
            let chunk = if parallel { CHUNK } else { out.len() };
            for_each_chunk(parallel, self.work(), out, chunk, |i, out| f(i * chunk..i * chunk + out.len(), out));
        } else {
            let (plane, part) = (self.output.len(), self.output.range(rows));
            for_each_chunk(parallel, self.work(), out, plane, |c, out| {
                f(c * plane + part.start..c * plane + part.end, &mut out[part.clone()]);
            });
        }
    }

    fn check_rows(&self, rows: &Range<usize>) {
        let all = self.output.rows;
        assert!(rows.start <= rows.end && rows.end <= all, "rows {rows:?} of a result of {all}");
    }

    fn check(&self, what: &str, len: usize, plane: Plane) {
        assert!(
            len == self.planes * plane.len(),
            "{what} has {len} elements, planned for {}",
            self.planes * plane.len()
        );
    }
}
