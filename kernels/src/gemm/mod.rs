//! General matrix product: C = alpha A B + beta C, with any strides.
//!
//! The loops of Goto and van de Geijn ("Anatomy of high-performance matrix multiplication", 2008) around the register
//! tile, with the letters of BLIS: C is m x n, k is summed; a panel of KC by one tile of B passes from the second
//! cache, which holds a block of MC by KC of A too. Unlike there, all blocks of a side are of equal size, so that no sliver is
//! left, A is read where it lies unless its rows collide in the caches or its columns lie apart, and B is packed only if
//! it is read often enough to pay for the copy, by low tiles or from rows that collide, or if it does not lie in vectors.
//! Each panel of a B that is not packed is asked for while the one before is multiplied.
//!
//! A vector of C that is only partly inside the matrix is summed over zero-padded panels, or, if few of its
//! elements are inside, each as a dot product.

mod lhs;

use std::ops::Range;

use crate::blocking::Blocks;
use crate::buffer::{LINE, collide, from_line};
use crate::dots::Dots;
use crate::gemm::lhs::{ROW, is_deep, pack_rows};
use crate::leaf::{Epilogue, Leaves, MOST_SUMS, Operand, Product, Repeat, Segment, Tap, WIDEST};
use crate::level::Level;
use crate::pack::pack_panel;
use crate::parallel::{Shared, for_each_chunk, threads_for};
use crate::simd::MAX_LANES;
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
/// A tile of at least so many rows does not wait for B, which comes from the second cache as it lies.
const TALL: usize = 8;
/// A B of at most so many elements stays in the first cache as it lies.
const NEAR: usize = 4096;
/// Of fewer products than this, C takes longer to write than to compute: each panel of its rows is written from end to end.
const SHALLOW: usize = 8;
/// With fewer columns than this, each element of A is used too seldom to be worth copying.
const COPY_A_FROM_COLUMNS: usize = 256;
/// The most columns that are summed as dot products.
const MAX_DOTS: usize = 8;
/// Elements of the largest tile.
const MAX_TILE: usize = MOST_SUMS * MAX_LANES;

/// The scratch that a product needs: a block of each operand, never a whole large one. See [`gemm`](gemm()) for an
/// example.
#[derive(Clone, Copy, Debug)]
pub struct GemmScratch {
    a: usize,
    b: usize,
}

#[expect(clippy::len_without_is_empty, reason = "no product needs none")]
impl GemmScratch {
    /// For a product of m x k by k x n.
    pub fn new(level: Level, m: usize, k: usize, n: usize) -> Self {
        // A product may be transposed, and a panel of B may be wider than n.
        let width = crate::lanes(level) * WIDEST;
        let long = m.max(n);
        let kc = k.min(KC);
        let a = if is_deep(k) { long.min(MC) * ROW } else { 0 };
        GemmScratch { a, b: (kc + MAX_LANES) * (long.min(NC) + width) }
    }

    /// Elements for one thread; a multiple of them lets as many threads share the product. Panels begin on a cache
    /// line wherever the scratch does.
    pub fn len(&self) -> usize {
        self.a + self.b + LINE
    }
}

/// C = alpha A B + beta C. With beta 0, C is not read.
///
/// `scratch` holds [`GemmScratch::len`] elements of any value, or a multiple: then as many threads
/// of the current rayon pool share the product, with the same result to the last bit.
///
/// ```
/// use predictive_coding_kernels::{GemmScratch, Level, Lhs, MatMut, MatRef, gemm};
///
/// let (level, m, k, n) = (Level::detect(), 2, 3, 2);
/// let a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
/// let b = [1.0, 0.0, 0.0, 1.0, 1.0, 1.0];
/// let mut c = [0.0; 4];
/// let mut scratch = vec![0.0; GemmScratch::new(level, m, k, n).len()];
/// let lhs = Lhs::Plain(MatRef::row_major(&a, m, k));
/// gemm(level, 1.0, lhs, MatRef::row_major(&b, k, n), 0.0, MatMut::row_major(&mut c, m, n), &mut scratch);
/// assert_eq!(c, [4.0, 5.0, 10.0, 11.0]);
/// ```
///
/// # Panics
/// If the shapes do not fit, the scratch is too short, or A was packed for another level.
pub fn gemm(level: Level, alpha: f32, a: Lhs<'_>, b: MatRef<'_>, beta: f32, c: MatMut<'_>, scratch: &mut [f32]) {
    let (m, k) = a.size();
    assert!(
        k == b.rows() && m == c.rows() && b.columns() == c.columns(),
        "a product of {m} x {k} and {b:?} does not fit an output {c:?}"
    );
    if let Lhs::Packed(a) = a {
        assert!(a.level == level, "A is packed for level {}, not for {level}", a.level);
    }
    product(level, alpha, a, b, beta, c, scratch, true);
}

/// As [`gemm`] of shapes that fit, on several threads only if `parallel`.
#[expect(clippy::too_many_arguments, reason = "the operands of a BLAS product, and where it runs")]
pub(crate) fn product(
    level: Level,
    alpha: f32,
    a: Lhs<'_>,
    b: MatRef<'_>,
    beta: f32,
    mut c: MatMut<'_>,
    scratch: &mut [f32],
    parallel: bool,
) {
    let ((m, k), n) = (a.size(), b.columns());
    if m == 0 || n == 0 {
        return;
    }
    let sizes = GemmScratch::new(level, m, k, n);
    assert!(scratch.len() >= sizes.len(), "{} elements of scratch, {} are needed", scratch.len(), sizes.len());
    // Vectors run along columns: let those be the contiguous direction of C.
    let (a, b, mut c) = match a {
        Lhs::Plain(a) if c.column_stride() != 1 && c.row_stride() == 1 => {
            (Lhs::Plain(b.transposed()), a.transposed(), c.transposed())
        }
        _ => (a, b, c.reborrow()),
    };
    let [row_stride, column_stride] = [c.row_stride(), c.column_stride()];
    let output = Output { alpha, beta, row_stride, column_stride, columns: c.columns(), out: Shared(c.pointer()) };
    let flops = [n, k].into_iter().fold(2 * m as u64, |flops, factor| flops.saturating_mul(factor as u64));
    let threads = if parallel { threads_for(flops).min(scratch.len() / sizes.len()).max(1) } else { 1 };
    for_each_chunk(parallel, flops, &mut scratch[..threads * sizes.len()], sizes.len(), |part, scratch| {
        let (pack_a, pack_b) = from_line(scratch)[..sizes.a + sizes.b].split_at_mut(sizes.a);
        Part { level, leaves: Leaves::of(level), a, b, output, part, parts: threads }.run(pack_a, pack_b);
    });
}

/// Where and how sums are stored.
#[derive(Clone, Copy)]
struct Output {
    alpha: f32,
    beta: f32,
    row_stride: isize,
    column_stride: isize,
    columns: usize,
    /// The one C that is borrowed mutably, of which parts of a product write disjoint rows or columns.
    out: Shared,
}

impl Output {
    fn at(&self, row: usize, column: usize) -> *mut f32 {
        self.out.get().wrapping_offset(row as isize * self.row_stride + column as isize * self.column_stride)
    }

    /// Stores some sums, `width` elements apart.
    ///
    /// # Safety
    /// The rows and columns must be those of C.
    unsafe fn store(&self, sums: &[f32], width: usize, [row, column]: [usize; 2], [rows, columns]: [usize; 2]) {
        for (m, sums) in sums.chunks_exact(width).enumerate().take(rows) {
            for (n, &sum) in sums[..columns].iter().enumerate() {
                let out = self.at(row + m, column + n);
                // SAFETY: an element of C by contract.
                unsafe { *out = if self.beta == 0.0 { self.alpha * sum } else { self.beta * *out + self.alpha * sum } };
            }
        }
    }
}

/// One of several parts of C, computed by one thread: some panels of rows, or some panels of columns.
struct Part<'a> {
    level: Level,
    leaves: &'static Leaves,
    a: Lhs<'a>,
    b: MatRef<'a>,
    output: Output,
    part: usize,
    parts: usize,
}

/// The vectors of B of a panel: element (k, column) lies at `first + k * row + column`.
#[derive(Clone, Copy)]
struct Columns {
    first: *const f32,
    row: isize,
    /// Distance of the next panel.
    next: usize,
    /// Likewise, if it is to be asked for ahead of time.
    ahead: isize,
}

impl Part<'_> {
    fn run(&self, pack_a: &mut [f32], pack_b: &mut [f32]) {
        let Part { level, leaves, a, b, .. } = *self;
        let lanes = leaves.lanes;
        let ((m, k), n) = (a.size(), self.output.columns);
        // A few rows are one panel. Where rows of C collide, and few products are summed for each of its elements,
        // tiles are flatter.
        let flat = collide(self.output.row_stride.unsigned_abs()) && !is_deep(k);
        let height = if m <= leaves.tallest(2) { leaves.tallest(2) } else { leaves.tile[0] };
        let height = height / if flat { 2 } else { 1 };
        let rows = Blocks::new(m, height);
        let width = leaves.widest(rows.longest()) * lanes;
        // The last columns, if they are too few to be worth a vector.
        let left = match n % lanes {
            left if left <= MAX_DOTS.min(lanes / 2) && a.rows_are_vectors(k) => left,
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
        if panels.is_empty() {
            return;
        }
        // Where rows of B collide, or low tiles read it often from afar, a copy pays.
        let far = collide(b.row_stride().unsigned_abs()) || (height < TALL && k * n > NEAR);
        let copy_b = k == 0 || b.column_stride() != 1 || (far && panels.len() >= PACK_B_FROM_PANELS);
        let copied_a = a.scattered().filter(|_| is_deep(k) && n >= COPY_A_FROM_COLUMNS && rows.count() > 1);
        let blocks = Blocks::new(k, KC);
        for (index, depth) in blocks.iter().enumerate() {
            let kc = depth.len();
            // After the first block of the depth, C holds the sum so far.
            let output = Output { beta: if index == 0 { self.output.beta } else { 1.0 }, ..self.output };
            for columns in Blocks::new(columns.len(), NC / width).iter().map(|block| shifted(block, columns.start)) {
                // Whole panels are copied if that pays; the last, narrower one always is, so that
                // its vectors end in zeros and not in somebody else's memory.
                let direct = if copy_b { columns.start } else { columns.end.min(in_panels / width) };
                let row_blocks = Blocks::new(panels.len(), if k <= SHALLOW { 1 } else { MC / height });
                // A panel that one block of A meets is used while it is near, and its place is the next one's.
                let passing = row_blocks.count() == 1 && panels.len() > 1;
                let pack = |panel: usize, packed: &mut [f32]| {
                    let columns = panel * width..in_panels.min((panel + 1) * width);
                    let padded = columns.len().next_multiple_of(lanes);
                    pack_panel(level, b.transposed(), columns, depth.clone(), [padded; 2], packed);
                };
                if !passing {
                    (direct..columns.end).for_each(|panel| pack(panel, &mut pack_b[(panel - direct) * width * kc..]));
                }
                for panels in row_blocks.iter().map(|block| shifted(block, panels.start)) {
                    let (lhs, first_row) = match copied_a {
                        Some(a) => {
                            let first = rows.get(panels.start).start;
                            pack_rows(level, a, first..rows.get(panels.end - 1).end, depth.clone(), pack_a);
                            (Operand::new(pack_a.as_ptr(), ROW, 1), first)
                        }
                        None => (a.rows(blocks, index), 0),
                    };
                    let mut column = columns.start;
                    while column < columns.end {
                        let at = column * width;
                        let vectors = width.min(in_panels - at).div_ceil(lanes);
                        let from = if column < direct {
                            Columns {
                                first: b.pointer(depth.start, at),
                                row: b.row_stride(),
                                next: width,
                                ahead: width as isize,
                            }
                        } else {
                            let place = if passing { 0 } else { column - direct };
                            if passing {
                                pack(column, pack_b);
                            }
                            let first = pack_b[place * width * kc..].as_ptr();
                            Columns { first, row: (vectors * lanes) as isize, next: width * kc, ahead: 0 }
                        };
                        // Columns of one tile each do not wait for the next call.
                        let whole = if column < direct { direct } else { columns.end.min(in_panels / width) };
                        let across = if panels.len() == 1 && column < whole { whole - column } else { 1 };
                        for panels in rows.equal(panels.clone()) {
                            let rows_before = (panels.start - first_row) as isize;
                            let lhs = Operand { at: lhs.at.wrapping_offset(rows_before * lhs.step), ..lhs };
                            let place = [panels.start, at];
                            self.tiles(&output, lhs, from, kc, [panels.size, vectors], [panels.count, across], place);
                        }
                        column += across;
                    }
                }
            }
            if left > 0 {
                let rows = rows.get(panels.start).start..rows.get(panels.end - 1).end;
                self.dots(&output, a.rows(blocks, index), rows, depth, in_panels..n, pack_b);
            }
        }
    }

    /// Tiles of rows by vectors, `down` of them one below the other and `across` such columns of them.
    #[expect(clippy::too_many_arguments, reason = "the operands of a product, and its place")]
    fn tiles(
        &self,
        output: &Output,
        a: Operand,
        b: Columns,
        kc: usize,
        [height, vectors]: [usize; 2],
        [down, across]: [usize; 2],
        [row, column]: [usize; 2],
    ) {
        let lanes = self.leaves.lanes;
        let width = vectors * lanes;
        let segments = [Segment { taps: &[Tap::ORIGIN], depth: kc }];
        let a_step = height as isize * a.step;
        let product = Product {
            segments: &segments,
            a,
            b: Operand { at: b.first, step: lanes as isize, depth: b.row },
            down: Repeat { count: down, operand: a_step, out: height as isize * output.row_stride },
            across: Repeat { count: across, operand: b.next as isize, out: width as isize },
            ahead: b.ahead,
            epilogue: Epilogue {
                alpha: output.alpha,
                beta: output.beta,
                row: output.row_stride,
                ..Epilogue::store(output.at(row, column), 0, lanes)
            },
        };
        // SAFETY: A has the rows, B (packed or as it lies) the vectors for each k, and C the rows and columns, but where a
        // vector is only partly inside of it or does not lie in one: then sums go by way of a buffer.
        unsafe {
            if output.column_stride == 1 && column + across * width <= output.columns {
                return self.leaves.product([height, vectors], &product);
            }
            let mut tile = [0.0; MAX_TILE];
            for across in 0..across {
                let column = column + across * width;
                let columns = (output.columns - column).min(width);
                for down in 0..down {
                    let product = Product {
                        a: Operand { at: a.at.wrapping_offset(down as isize * a_step), ..a },
                        b: Operand { at: b.first.wrapping_add(across * b.next), ..product.b },
                        down: Repeat::ONCE,
                        across: Repeat::ONCE,
                        epilogue: Epilogue::store(tile.as_mut_ptr(), width, lanes),
                        ..product
                    };
                    self.leaves.product([height, vectors], &product);
                    output.store(&tile, width, [row + down * height, column], [height, columns]);
                }
            }
        }
    }

    /// The last columns of some rows, each element of which is a dot product of a row of A and a copied column of B
    /// along the vectors of the depth.
    fn dots(
        &self,
        output: &Output,
        a: Operand,
        rows: Range<usize>,
        depth: Range<usize>,
        columns: Range<usize>,
        scratch: &mut [f32],
    ) {
        let (kc, count) = (depth.len(), columns.len());
        let stride = kc.next_multiple_of(self.leaves.lanes);
        let copy = &mut scratch[..count * stride];
        pack_panel(self.level, self.b, depth, columns.clone(), [stride; 2], copy);
        let first = a.at.wrapping_offset(rows.start as isize * a.step);
        let dots =
            Dots { a: first, step: a.step as usize, rows: rows.len(), depth: kc, b: copy, stride, columns: count };
        // SAFETY: the rows of A have the depth, and are those of C, as the columns are.
        unsafe {
            dots.each(self.level, |tile_rows, tile_columns, products| {
                let place = [rows.start + tile_rows.start, columns.start + tile_columns.start];
                output.store(products, tile_columns.len(), place, [tile_rows.len(), tile_columns.len()]);
            });
        }
    }
}

fn shifted(range: Range<usize>, by: usize) -> Range<usize> {
    range.start + by..range.end + by
}
