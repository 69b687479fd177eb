//! Dot products of rows with columns, both of which lie in vectors along the depth.

use std::ops::Range;

use crate::blocking::Blocks;
use crate::leaf::{Dot, Leaves, MOST_SUMS, WIDEST, Walk};
use crate::level::Level;
use crate::simd::{Kernel, MAX_LANES, Simd, dispatch};

/// Rows of a matrix times columns.
#[derive(Clone, Copy)]
pub(crate) struct Dots<'a> {
    /// The first of the rows, and their distance.
    pub(crate) a: *const f32,
    pub(crate) step: usize,
    pub(crate) rows: usize,
    pub(crate) depth: usize,
    /// The columns, each one of so many elements behind the other.
    pub(crate) b: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) columns: usize,
}

impl Dots<'_> {
    /// Calls `store(rows, columns, products)` for tiles of the result, row after row.
    ///
    /// # Safety
    /// The elements of the rows must be readable.
    pub(crate) unsafe fn each(self, level: Level, mut store: impl FnMut(Range<usize>, Range<usize>, &[f32])) {
        let Dots { a, step, rows, depth, b, stride, columns } = self;
        let leaves = Leaves::of(level);
        let (lanes, [tallest, widest]) = (leaves.lanes, leaves.dot_tile());
        let whole = depth / lanes * lanes;
        assert!((columns - 1) * stride + depth <= b.len(), "{} elements of {columns} columns", b.len());
        for rows in Blocks::new(rows, tallest).iter().filter(|rows| !rows.is_empty()) {
            for columns in Blocks::new(columns, widest).iter() {
                let (height, width) = (rows.len(), columns.len());
                let mut sums = [0.0; MOST_SUMS * MAX_LANES];
                let mut offsets = [[0; 2]; WIDEST];
                for (n, offset) in offsets[..width].iter_mut().enumerate() {
                    *offset = [(columns.start + n) * stride, n * lanes];
                }
                let walk = |count: usize| Walk { count, a: lanes, b: lanes };
                let dot = Dot {
                    a: a.wrapping_add(rows.start * step),
                    step,
                    b: b.as_ptr(),
                    offsets: &offsets[..width],
                    rows: walk(1),
                    vectors: walk(whole / lanes),
                    sums: sums.as_mut_ptr(),
                    sums_step: width * lanes,
                };
                // SAFETY: the rows have the whole vectors of the depth, which lie one behind the other, and so have the
                // columns; there are sums for all.
                unsafe { leaves.dot(height, &dot) };
                let mut products = [0.0; MOST_SUMS];
                let products = &mut products[..height * width];
                let (a, b, offsets) = (dot.a.wrapping_add(whole), &b[whole..], dot.offsets);
                dispatch(level, Finish { sums: &sums, a, step, rest: depth - whole, b, offsets, products });
                store(rows.clone(), columns, products);
            }
        }
    }
}

/// The sums of the lanes of vectors, `[rows][columns][LANES]`, with the products of what is behind whole vectors.
struct Finish<'a> {
    sums: &'a [f32],
    a: *const f32,
    step: usize,
    /// Elements behind whole vectors.
    rest: usize,
    b: &'a [f32],
    offsets: &'a [[usize; 2]],
    products: &'a mut [f32],
}

impl Kernel for Finish<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Finish { sums, a, step, rest, b, offsets, products } = self;
        assert!(products.len() * S::LANES <= sums.len(), "{} sums for {} products", sums.len(), products.len());
        for (i, product) in products.iter_mut().enumerate() {
            let (row, [column, _]) = (i / offsets.len(), offsets[i % offsets.len()]);
            // SAFETY: there is a vector for each product; the rows and the columns have `rest` elements more.
            unsafe {
                let mut sum = s.load(sums.as_ptr().add(i * S::LANES));
                if rest > 0 {
                    let b = s.load_first(b[column..][..rest].as_ptr(), rest);
                    sum = s.fma(s.load_first(a.add(row * step), rest), b, sum);
                }
                *product = s.sum(sum);
            }
        }
    }
}
