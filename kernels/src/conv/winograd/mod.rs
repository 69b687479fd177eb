//! Convolutions of 3 x 3 by Winograd's F(4 x 4, 3 x 3): with a quarter of the multiplications.
//!
//! Four outputs of a row of three taps are the coefficients of a product of polynomials, which six points determine. In
//! two dimensions, for a tile of 4 x 4 pixels y of the result and the 6 x 6 pixels x that it reads,
//!
//! ```text
//! y = A^T [ sum over channels of  (G w G^T) * (B^T x B) ] A            * by elements
//! ```
//!
//! (Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016). The points are 0, the square roots of
//! 1/2 and of 2 with both signs, and infinity, where the usual ones are 0, 1, -1, 2, -2 and infinity: the error is then
//! twice that of the sum as it is defined. The sums over channels are 36 matrix products on the register tiles of
//! every other product; the transforms see whole vectors, and shuffle nothing.

mod gradient;
mod product;

use std::ops::Range;

use crate::buffer::LINE;
use crate::conv::shape::ConvShape;
use crate::layout::Layout;
use crate::simd::{Kernel, MAX_LANES, Simd};

pub(crate) use gradient::WinogradGradient;
pub(crate) use product::Winograd;

/// Pixels of a side of a tile of the result, and of what it reads.
const TILE: usize = 4;
const WINDOW: usize = 6;
/// Taps of a kernel.
const TAPS: usize = 9;
/// Points of a tile: each has a matrix product of its own.
const POINTS: usize = WINDOW * WINDOW;
/// Elements of the transformed source, and of the products, that are under way at a time: each 320 KiB, a part of a
/// second cache of 1 MiB.
const BLOCK: usize = 80 << 10;
/// The root of 1/2, which is also 1 / a for the other point a.
const ROOT: f32 = std::f32::consts::FRAC_1_SQRT_2;

/// B^T x for the six values of a column or a row.
#[inline(always)]
fn transform_source<S: Simd>(s: S, x: [S::V; 6]) -> [S::V; 6] {
    let ends = s.splat(-2.5);
    let [low, low_negative] = at_both_signs(s, -2.0, ROOT, [x[2], x[4], x[1], x[3]]);
    let [high, high_negative] = at_both_signs(s, -0.5, 2.0 * ROOT, [x[2], x[4], x[1], x[3]]);
    let (zero, infinity) = (s.fma(ends, x[2], s.add(x[0], x[4])), s.fma(ends, x[3], s.add(x[1], x[5])));
    [zero, low, low_negative, high, high_negative, infinity]
}

/// (f a + b) + p (f c + d), and the same for -p.
#[inline(always)]
fn at_both_signs<S: Simd>(s: S, factor: f32, point: f32, [a, b, c, d]: [S::V; 4]) -> [S::V; 2] {
    let factor = s.splat(factor);
    let (even, odd) = (s.fma(factor, a, b), s.fma(factor, c, d));
    [s.fma(s.splat(point), odd, even), s.fma(s.splat(-point), odd, even)]
}

/// Whether a convolution is of the kind that is computed this way.
fn fits(shape: &ConvShape) -> bool {
    [shape.kernel, shape.stride, shape.dilation] == [[3, 3], [1, 1], [1, 1]] && !shape.is_depthwise()
}

/// Tiles down and along a result.
fn tiles_of(size: [usize; 2]) -> [usize; 2] {
    size.map(|size| size.div_ceil(TILE))
}

/// The next odd number of cache lines: what lies so many elements apart does not meet in one set of a cache.
fn odd_lines(elements: usize) -> usize {
    (elements.div_ceil(LINE) | 1) * LINE
}

/// The planes that windows are cut from, and where their transforms go.
#[derive(Clone, Debug)]
struct Windows {
    planes: usize,
    size: [usize; 2],
    /// Zeros before the first row and column, or less than none.
    padding: [isize; 2],
    /// Distances of the transforms of points, planes and tiles.
    steps: [usize; 3],
}

impl Windows {
    /// With transforms `[point][plane][tile][lane]` of images across lanes, `[point][tile][plane][lane]` of channels,
    /// for up to so many tiles.
    fn new(layout: Layout, planes: usize, lanes: usize, size: [usize; 2], padding: [isize; 2], tiles: usize) -> Self {
        let steps = match layout {
            Layout::Images | Layout::Batch(_) => [odd_lines(planes * tiles * lanes), tiles * lanes, lanes],
            Layout::Channels(_) => {
                let row = odd_lines(planes * lanes);
                [odd_lines(tiles * row), lanes, row]
            }
        };
        Windows { planes, size, padding, steps }
    }

    /// Elements of the transforms.
    fn len(&self) -> usize {
        POINTS * self.steps[0]
    }
}

/// Some tiles of the result, counted along rows, then down, then over images.
#[derive(Clone)]
struct Tiles {
    /// The rows of the result that they cover, and how many tiles there are down and along.
    rows: Range<usize>,
    down: usize,
    along: usize,
    range: Range<usize>,
}

impl Tiles {
    /// The image of a tile and its first pixel.
    fn place(&self, tile: usize) -> (usize, [usize; 2]) {
        let (line, x) = (tile / self.along, tile % self.along);
        (line / self.down, [self.rows.start + line % self.down * TILE, x * TILE])
    }
}

/// Transforms the windows of some tiles, in some planes of the source.
struct TransformSource<'a> {
    windows: &'a Windows,
    from: &'a [f32],
    planes: Range<usize>,
    tiles: &'a Tiles,
    to: *mut f32,
}

impl Kernel for TransformSource<'_> {
    /// `to` must be valid for the transformed planes.
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let TransformSource { windows, from, planes, tiles, to } = self;
        let [height, width] = windows.size.map(|size| size as isize);
        let [point_step, plane_step, tile_step] = windows.steps;
        let plane_len = windows.size[0] * windows.size[1] * S::LANES;
        let zeros = [0.0f32; MAX_LANES];
        for plane in planes {
            for tile in tiles.range.clone() {
                let (image, pixel) = tiles.place(tile);
                let [top, left] = [0, 1].map(|axis| pixel[axis] as isize - windows.padding[axis]);
                let source = &from[(image * windows.planes + plane) * plane_len..][..plane_len];
                // Rows outside of the source read zeros, wherever a column is.
                let mut rows = [(zeros.as_ptr(), 0); WINDOW];
                for (row, y) in rows.iter_mut().zip(top..).filter(|(_, y)| (0..height).contains(y)) {
                    *row = (source.as_ptr().wrapping_offset(y * width * S::LANES as isize), S::LANES as isize);
                }
                let mut columns = [[s.splat(0.0); WINDOW]; WINDOW];
                for x in 0..WINDOW {
                    let at = left + x as isize;
                    if (0..width).contains(&at) {
                        let mut pixels = [s.splat(0.0); WINDOW];
                        for (pixel, (row, step)) in pixels.iter_mut().zip(rows) {
                            let from = row.wrapping_offset(at * step);
                            s.prefetch(from.wrapping_add(plane_len));
                            // SAFETY: the pixel is in the source, or a vector of zeros.
                            *pixel = unsafe { s.load(from) };
                        }
                        for (row, value) in columns.iter_mut().zip(transform_source(s, pixels)) {
                            row[x] = value;
                        }
                    }
                }
                let to = to.wrapping_add(plane * plane_step + (tile - tiles.range.start) * tile_step);
                for (y, row) in columns.into_iter().enumerate() {
                    for (x, value) in transform_source(s, row).into_iter().enumerate() {
                        // SAFETY: the transformed source has a vector for each point of the tile.
                        unsafe { s.store(to.add((y * WINDOW + x) * point_step), value) };
                    }
                }
            }
        }
    }
}
