//! General matrix product: C = alpha A B + beta C, with any strides.
//!
//! Five loops around the register tile, after Goto and van de Geijn ("Anatomy of high-performance
//! matrix multiplication", 2008) with the letters of BLIS: C is m x n, k is summed; a panel of KC by
//! one tile of B stays in the first cache, a block of MC by KC of A in the second. Unlike there, all
//! blocks of a side are of equal size, so that no sliver is left, A is read where it lies unless its rows
//! collide in the caches (other copies of its blocks were measured and never paid), and B is packed only
//! if it is read often enough to pay for the copy, or does not lie in vectors.
//!
//! A vector of C that is only partly inside the matrix is summed over zero-padded panels, or, if few of its
//! elements are inside, each as a dot product ([`dots`]).

mod dots;
mod lhs;
mod tiles;

use std::ops::Range;

use rayon::prelude::*;

use crate::activation::Activation;
use crate::blocking::Blocks;
use crate::buffer::{LINE, collide};
use crate::gemm::dots::{Dots, MAX_DOTS, dots};
use crate::gemm::lhs::{DepthBlock, LhsBlock, ROW, is_deep, pack_rows};
use crate::gemm::tiles::{Next, Output, Then, Tiles, multiply_tiles};
use crate::level::Level;
use crate::microkernel::*;
use crate::pack::pack_panel;
use crate::parallel::threads_for;
use crate::simd::{Kernel, MAX_LANES, Simd, dispatch};
use crate::view::{MatMut, MatRef};

pub use crate::gemm::lhs::{Lhs, PackedLhs};

/// Depth of a block: the 32 columns of an AVX-512 tile take 80 KiB, which the second cache delivers at
/// a sixth of its rate; half the depth would double how often C is read and written.
const KC: usize = 640;
/// Rows of a block of A: with the depth, 660 KiB of a 1 MiB second cache.
const MC: usize = 264;
/// Columns of a block of B: with the depth, 8 MB, a share of the third cache.
const NC: usize = 3200;
/// With fewer panels of A than this, each element of B is used too seldom to be worth copying.
const PACK_B_FROM_PANELS: usize = 3;
/// A B of at most so many elements stays in the first cache as it lies.
const PACK_B_FROM_LEN: usize = 4096;

/// With fewer columns than this, each element of A is used too seldom to be worth copying.
const COPY_A_FROM_COLUMNS: usize = 256;

/// The scratch that a product needs: a block of each operand, never a whole large one.
#[derive(Clone, Copy, Debug)]
pub struct GemmScratch {
    a: usize,
    b: usize,
}

impl GemmScratch {
    /// For a product of m x k by k x n.
    pub fn new(level: Level, m: usize, k: usize, n: usize) -> Self {
        // A product may be transposed, and a panel of B may be wider than n.
        let width = crate::simd::lanes(level) * WIDEST;
        let long = m.max(n);
        let kc = k.min(KC);
        let a = if is_deep(k) { long.min(MC) * ROW } else { 0 };
        GemmScratch { a, b: (kc + MAX_LANES) * (long.min(NC) + width) }
    }

    /// Elements for one thread, of which panels start on a cache line wherever they do; as many times that let as many threads share the product.
    pub fn len(&self) -> usize {
        self.a + self.b + LINE
    }

    /// Whether nothing is needed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// C = alpha A B + beta C. With beta 0, C is not read.
///
/// `scratch` holds [`GemmScratch::len`] elements of any value, or a multiple: then as many threads
/// of the current rayon pool share the product, with the same result to the last bit.
///
/// # Panics
/// If the shapes do not fit, the scratch is too short, or A was packed for another level.
pub fn gemm(level: Level, alpha: f32, a: Lhs<'_>, b: MatRef<'_>, beta: f32, c: MatMut<'_>, scratch: &mut [f32]) {
    check(level, a, b, &c);
    product(level, alpha, a, b, beta, c, scratch, true);
}

/// C = f(A B + bias), the forward pass of a linear layer with weights A and a sample in every column of B:
/// each tile of C gets its bias and is activated while it is in the first cache. `bias` has one element
/// for each row of C.
///
/// Otherwise as [`gemm`]; C is not read.
///
/// # Panics
/// As [`gemm`], or if there is not one bias for each row.
pub fn gemm_activated(
    level: Level,
    a: Lhs<'_>,
    b: MatRef<'_>,
    bias: Option<&[f32]>,
    activation: Activation,
    c: MatMut<'_>,
    scratch: &mut [f32],
) {
    check(level, a, b, &c);
    if let Some(bias) = bias {
        assert!(bias.len() == c.rows(), "{} biases for {} rows", bias.len(), c.rows());
    }
    let then = Then { bias: bias.map_or(std::ptr::null(), <[f32]>::as_ptr), strides: [1, 0], activation };
    run(level, [1.0, 0.0], a, b, c, Some(then), scratch, true);
}

fn check(level: Level, a: Lhs<'_>, b: MatRef<'_>, c: &MatMut<'_>) {
    let (m, k) = a.size();
    assert!(
        k == b.rows() && m == c.rows() && b.columns() == c.columns(),
        "a product of {m} x {k} and {b:?} does not fit an output {c:?}"
    );
    if let Lhs::Packed(a) = a {
        assert!(a.level() == level, "A is packed for level {}, not for {level}", a.level());
    }
}

/// As [`gemm`], on several threads only if `parallel`.
#[expect(clippy::too_many_arguments, reason = "the operands of a BLAS product, and where it runs")]
pub(crate) fn product(
    level: Level,
    alpha: f32,
    a: Lhs<'_>,
    b: MatRef<'_>,
    beta: f32,
    c: MatMut<'_>,
    scratch: &mut [f32],
    parallel: bool,
) {
    run(level, [alpha, beta], a, b, c, None, scratch, parallel);
}

#[expect(clippy::too_many_arguments, reason = "the operands of a product, what becomes of it, and where it runs")]
fn run(
    level: Level,
    [alpha, beta]: [f32; 2],
    a: Lhs<'_>,
    b: MatRef<'_>,
    mut c: MatMut<'_>,
    then: Option<Then>,
    scratch: &mut [f32],
    parallel: bool,
) {
    let ((m, k), n) = (a.size(), b.columns());
    if m == 0 || n == 0 {
        return;
    }
    let sizes = GemmScratch::new(level, m, k, n);
    assert!(scratch.len() >= sizes.len(), "{} elements of scratch, {} are needed", scratch.len(), sizes.len());
    let output = Output {
        alpha,
        beta,
        row_stride: c.row_stride(),
        column_stride: c.column_stride(),
        columns: n,
        out: c.data_mut().as_mut_ptr(),
        then,
    };
    let (a, b, output) = match a {
        // Vectors run along columns: let those be the contiguous direction of C.
        Lhs::Plain(a) if output.column_stride != 1 && output.row_stride == 1 => {
            (Lhs::Plain(b.transposed()), a.transposed(), output.transposed(m))
        }
        _ => (a, b, output),
    };
    let flops = [n, k].into_iter().fold(2 * m as u64, |flops, factor| flops.saturating_mul(factor as u64));
    let threads = match parallel {
        true => threads_for(flops).min(scratch.len() / sizes.len()).max(1),
        false => 1,
    };
    let share = |part: usize, parts: usize, scratch: &mut [f32]| {
        let aligned = scratch.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        let (pack_a, pack_b) = scratch[aligned..aligned + sizes.a + sizes.b].split_at_mut(sizes.a);
        dispatch(level, Part { a, b, output, part, parts, pack_a, pack_b });
    };
    match threads {
        1 => share(0, 1, &mut scratch[..sizes.len()]),
        _ => scratch
            .par_chunks_exact_mut(sizes.len())
            .take(threads)
            .enumerate()
            .for_each(|(part, scratch)| share(part, threads, scratch)),
    }
}

/// One of several parts of C, computed by one thread: some panels of rows, or some panels of columns.
struct Part<'a> {
    a: Lhs<'a>,
    b: MatRef<'a>,
    output: Output,
    part: usize,
    parts: usize,
    pack_a: &'a mut [f32],
    pack_b: &'a mut [f32],
}

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let ((m, k), n) = (self.a.size(), self.output.columns);
        // Where rows of C collide, and few products are summed for each of its elements, tiles are flatter.
        let flat = collide(self.output.row_stride) && !is_deep(k);
        let height = tallest_tile(s) / if flat { 2 } else { 1 };
        let rows = Blocks::new(m, height);
        let width = tile_width(S::REGISTERS, rows.longest()) * S::LANES;
        // The last columns, if they are too few to be worth a vector.
        let left = match n % S::LANES {
            left if left <= MAX_DOTS.min(S::LANES / 2) && self.a.rows_are_vectors(k) => left,
            _ => 0,
        };
        let in_panels = n - left;
        let columns = in_panels.div_ceil(width);
        // The longer side is cut: both operands are then read by as few threads as can be.
        let (panels, columns, left) = match m >= n {
            true => (Blocks::cut(rows.count(), self.parts).get(self.part), 0..columns, left),
            false => {
                let last = self.part + 1 == self.parts;
                (0..rows.count(), Blocks::cut(columns, self.parts).get(self.part), if last { left } else { 0 })
            }
        };
        let large = k * n > PACK_B_FROM_LEN && panels.len() >= PACK_B_FROM_PANELS;
        let copy_b = k == 0 || self.b.column_stride() != 1 || large;
        let (packs_next, last_panel) = (copy_b && self.b.column_stride() == 1, panels.end);
        let stride_of_b = self.b.row_stride();
        let copied_a = self.a.colliding().filter(|_| is_deep(k) && n >= COPY_A_FROM_COLUMNS);
        for block in DepthBlock::all(k) {
            let (depth, lhs) = (block.range(), self.a.block(block));
            let output = self.output.of_block(depth.start == 0, depth.end == k);
            let kc = depth.len();
            for columns in Blocks::new(columns.len(), NC / width).iter().map(|block| shifted(block, columns.start)) {
                // Whole panels are copied if that pays; the last, narrower one always is, so that
                // its vectors end in zeros and not in somebody else's memory.
                let direct = if copy_b { columns.start } else { columns.end.min(in_panels / width) };
                let row_blocks = Blocks::new(panels.len(), MC / height);
                // A panel that one block of A meets is used while it is near, and its place is the next one's.
                let passing = row_blocks.count() == 1 && panels.len() > 1;
                if !passing {
                    for panel in direct..columns.end {
                        let columns = panel * width..in_panels.min((panel + 1) * width);
                        pack_columns(
                            s,
                            self.b,
                            columns,
                            depth.clone(),
                            &mut self.pack_b[(panel - direct) * width * kc..],
                        );
                    }
                }
                for panels in row_blocks.iter().map(|block| shifted(block, panels.start)) {
                    let lhs = match copied_a {
                        Some(a) => {
                            let first = rows.get(panels.start).start;
                            let end = rows.get(panels.end - 1).end;
                            pack_rows(s, a, first..end, depth.clone(), self.pack_a);
                            LhsBlock::Rows(&*self.pack_a, first)
                        }
                        None => lhs,
                    };
                    let mut column = columns.start;
                    while column < columns.end {
                        let at = column * width;
                        let vectors = width.min(in_panels - at).div_ceil(S::LANES);
                        let (b, stride, b_step) = if column < direct {
                            (self.b.data()[depth.start * stride_of_b + at..].as_ptr(), stride_of_b, width)
                        } else {
                            let place = if passing { 0 } else { column - direct };
                            if passing {
                                pack_columns(s, self.b, at..in_panels.min(at + width), depth.clone(), self.pack_b);
                            }
                            (self.pack_b[place * width * kc..].as_ptr(), vectors * S::LANES, width * kc)
                        };
                        // Columns of one tile each do not wait for the next call.
                        let whole = if column < direct { direct } else { columns.end.min(in_panels / width) };
                        let across = if panels.len() == 1 && column < whole { whole - column } else { 1 };
                        let next = match passing {
                            true => (column + 1 < columns.end).then_some((depth.start, at + width, kc)),
                            false => (panels.end == last_panel && depth.end < k).then_some((
                                depth.end,
                                at,
                                kc.min(k - depth.end),
                            )),
                        };
                        let next = next.filter(|_| packs_next).map(|(k, column, rows)| Next {
                            from: self.b.data().as_ptr().wrapping_add(k * stride_of_b + column),
                            rows,
                            stride: stride_of_b,
                        });
                        for panels in rows.equal(panels.clone()) {
                            let tiles = Tiles {
                                b,
                                b_step,
                                depth: Strided { len: kc, stride },
                                row: panels.start,
                                down: panels.count,
                                column: at,
                                across,
                                output,
                                next,
                            };
                            multiply_tiles(s, lhs, [panels.size, vectors], &tiles);
                        }
                        column += across;
                    }
                }
            }
            if left > 0 {
                let rows = rows.get(panels.start).start..rows.get(panels.end - 1).end;
                let columns = in_panels..n;
                dots(s, Dots { lhs: self.a.vectors(block), b: self.b, rows, depth, columns, output }, self.pack_b);
            }
        }
    }
}

/// Makes vectors of some columns of B, the last of which may end in zeros.
#[inline(always)]
fn pack_columns<S: Simd>(s: S, b: MatRef<'_>, columns: Range<usize>, depth: Range<usize>, packed: &mut [f32]) {
    let padded = columns.len().next_multiple_of(S::LANES);
    pack_panel(s, b.transposed(), columns, depth, [padded; 2], packed);
}

fn shifted(range: Range<usize>, by: usize) -> Range<usize> {
    range.start + by..range.end + by
}
