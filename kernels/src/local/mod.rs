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
mod pool;
mod windows;

use std::ops::Range;

use crate::activation::{Activation, with_function, with_linear_pieces};
use crate::conv::{Axis, ConvShape, check_tensor};
use crate::layout::Layout;
use crate::level::Level;
use crate::local::map::Map;
use crate::local::pool::{Mean, Means, PoolPass};
use crate::local::windows::{Windows, adaptive_axes, adaptive_size, axes, table_bytes};
use crate::parallel::{for_each_chunk, for_each_chunk_pair};
use crate::simd::{dispatch, lanes};

/// Elements of an elementwise pass that one task takes.
const CHUNK: usize = 1 << 14;

/// Operations without weights, planned for a level and a shape.
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
    /// Channels and pixels of an image whose channels lie across the lanes.
    Flatten([usize; 2]),
}

#[derive(Clone, Copy, Debug)]
enum Pool {
    /// Of an activation of linear pieces.
    Max(Activation),
    Mean(Mean),
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

/// What is asked of f, with its operands and results.
enum Asked<'a> {
    /// The values.
    Forward { value: &'a mut [f32] },
    /// The differences.
    Push { value: &'a [f32], d: &'a [f32], difference: &'a mut [f32] },
    /// The gradient of the input.
    Pull { value: &'a [f32], d: Option<&'a [f32]>, gradient: &'a [f32], out: &'a mut [f32] },
    /// The error, and that error pulled back.
    Relax { value: &'a [f32], d: &'a [f32], u: &'a [f32], error: &'a mut [f32], pulled: &'a mut [f32] },
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
        check_tensor(lanes(level), channels, size);
        let plane = Plane { row: size[1] * lanes(level), rows: size[0] };
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
        Self::pool(level, layout, shape.in_channels, [shape.input, shape.output()], Pool::Max(activation), || {
            let empty = [0, 1].into_iter().find_map(|axis| shape.empty_window(axis));
            assert!(empty.is_none(), "a max pooling window of {shape:?} lies on padding altogether");
            Windows::new(level, shape.input, axes(shape), shape.kernel[1])
        })
    }

    /// Means of windows of a fixed size, padding counted: every window is divided by the size of the
    /// kernel.
    ///
    /// # Panics
    /// If a window does not fit the padded input, a kernel, stride or dilation is 0, or a tensor of LANES images has
    /// 2^32 elements or more.
    pub fn avg_pool(level: Level, layout: Layout, shape: &ConvShape) -> Self {
        let pool = Pool::Mean(Mean { divisor: Some(shape.taps()) });
        Self::pool(level, layout, shape.in_channels, [shape.input, shape.output()], pool, || {
            Windows::new(level, shape.input, axes(shape), 0)
        })
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
        Self::pool(level, layout, channels, [input, output], Pool::Mean(Mean { divisor: None }), || {
            Windows::new(level, input, adaptive_axes(input, output), 0)
        })
    }

    /// The channels and pixels of one image, in their order, as channels of one pixel, in the layout of channels.
    ///
    /// # Panics
    /// If a tensor of LANES images has 2^32 elements or more.
    pub fn flatten(level: Level, channels: usize, size: [usize; 2]) -> Self {
        check_tensor(lanes(level), channels, size);
        let image = [channels, size[0] * size[1]];
        let plane = |image: [usize; 2]| Plane { row: Layout::Channels.len(level, image), rows: 1 };
        let (input, output) = (plane(image), plane([image[0] * image[1], 1]));
        Local { level, planes: 1, input, output, kind: Kind::Flatten(image) }
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

    /// A pooling of planes of these sizes, which are checked before its windows are listed.
    fn pool(
        level: Level,
        layout: Layout,
        channels: usize,
        sizes: [[usize; 2]; 2],
        pool: Pool,
        windows: impl FnOnce() -> Windows,
    ) -> Self {
        sizes.into_iter().for_each(|size| check_tensor(lanes(level), channels, size));
        let [input, output] = sizes.map(|[rows, width]| Plane { row: width * lanes(level), rows });
        Local { level, planes: layout.planes(level, channels), input, output, kind: Kind::Pool(pool, windows()) }
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
        matches!(self.kind, Kind::Map(Activation::Identity) | Kind::Pool(Pool::Mean(_), _) | Kind::Flatten(_))
    }

    /// Rows of a channel of the result.
    pub fn output_rows(&self) -> usize {
        self.output.rows
    }

    /// Rows of the input that a row of the result comes from, if no two rows share any.
    pub fn rows_per_row(&self) -> Option<usize> {
        match &self.kind {
            Kind::Map(_) => Some(1),
            Kind::Pool(_, windows) => windows.row_step,
            Kind::Flatten(_) => None,
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
        self.pass(z, Asked::Forward { value }, &rows, parallel);
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
        self.pass(z, Asked::Push { value, d, difference }, &(0..self.output.rows), parallel);
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
        self.pass(z, Asked::Pull { value, d, gradient, out }, &rows, parallel);
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
        self.pass(z, Asked::Relax { value, d, u, error, pulled }, &rows, parallel);
    }

    /// A pass over some rows of every plane of the result, or where an activation takes all rows, over stretches.
    fn pass(&self, z: &[f32], asked: Asked<'_>, rows: &Range<usize>, parallel: bool) {
        if let Kind::Flatten(image) = self.kind {
            return self.flatten_pass(image, asked, z);
        }
        let stretches = matches!(self.kind, Kind::Map(_)) && *rows == (0..self.output.rows);
        let [input, band, output] = match stretches {
            true => [CHUNK; 3],
            false => [self.input, self.band(rows), self.output].map(Plane::len),
        };
        let part = if stretches { 0..CHUNK } else { self.input.range(&self.input_rows(rows)) };
        let plane = |z: &[f32], asked: Asked<'_>| self.plane_pass(z, asked, rows, &part);
        // About the multiplications and additions of a pass.
        let work = (self.planes * (self.input.len() + self.output.len())) as u64;
        match asked {
            Asked::Forward { value } => for_each_chunk(parallel, work, value, output, |c, value| {
                plane(piece(z, c, input), Asked::Forward { value });
            }),
            Asked::Push { value, d, difference } => {
                for_each_chunk(parallel, work, difference, output, |c, difference| {
                    let (value, d) = (piece(value, c, output), piece(d, c, input));
                    plane(piece(z, c, input), Asked::Push { value, d, difference });
                });
            }
            Asked::Pull { value, d, gradient, out } => for_each_chunk(parallel, work, out, input, |c, out| {
                let [value, gradient] = [value, gradient].map(|from| piece(from, c, output));
                let d = d.map(|d| piece(d, c, band));
                plane(piece(z, c, input), Asked::Pull { value, d, gradient, out });
            }),
            Asked::Relax { value, d, u, error, pulled } => {
                for_each_chunk_pair(parallel, work, [error, pulled], [output, input], |c, error, pulled| {
                    let [value, u] = [value, u].map(|from| piece(from, c, output));
                    let d = piece(d, c, band);
                    plane(piece(z, c, input), Asked::Relax { value, d, u, error, pulled });
                });
            }
        }
    }

    /// A pass over some rows of a plane, which come from this part of the input.
    fn plane_pass(&self, z: &[f32], asked: Asked<'_>, rows: &Range<usize>, input: &Range<usize>) {
        let (level, input) = (self.level, input.start..input.end.min(z.len()));
        match &self.kind {
            Kind::Map(activation) => with_function(*activation, level, Map { part: input, z, asked }),
            Kind::Pool(pool, windows) => {
                let pass = PoolPass { windows, rows: rows.clone(), input, z, asked };
                match *pool {
                    Pool::Max(activation) => with_linear_pieces(activation, level, pass),
                    Pool::Mean(mean) => dispatch(level, Means(mean, pass)),
                }
            }
            Kind::Flatten(_) => unreachable!("an image is flattened as a whole"),
        }
    }

    fn flatten_pass(&self, image: [usize; 2], asked: Asked<'_>, z: &[f32]) {
        let elements = image[0] * image[1];
        let flat = |from: &[f32], to: &mut [f32]| {
            Layout::Channels.store(self.level, from, image, to, 1, elements);
            to[elements..].fill(0.0);
        };
        let unflat = |from: &[f32], to: &mut [f32]| Layout::Channels.load(self.level, &from[..elements], image, to);
        match asked {
            Asked::Forward { value } => flat(z, value),
            Asked::Push { d, difference, .. } => flat(d, difference),
            Asked::Pull { gradient, out, .. } => unflat(gradient, out),
            Asked::Relax { d, u, error, pulled, .. } => {
                flat(d, error);
                error.iter_mut().zip(u).for_each(|(error, u)| *error -= u);
                unflat(error, pulled);
            }
        }
    }

    /// The part of the input that belongs to some rows of the result.
    fn band(&self, rows: &Range<usize>) -> Plane {
        Plane { row: self.input.row, rows: self.input_rows(rows).len() }
    }

    fn check_rows(&self, rows: &Range<usize>) {
        let all = self.output.rows;
        assert!(rows.start <= rows.end && rows.end <= all, "rows {rows:?} of a result of {all}");
    }

    fn check(&self, what: &str, len: usize, plane: Plane) {
        let planned = self.planes * plane.len();
        assert!(len == planned, "{what} has {len} elements, planned for {planned}");
    }
}

/// The elements of a plane, or of a stretch, of which the last may be shorter.
fn piece(from: &[f32], index: usize, len: usize) -> &[f32] {
    &from[index * len..from.len().min((index + 1) * len)]
}
