//! General matrix product: C = alpha A B + beta C, with any strides.
//!
//! Five loops around the register tile, after Goto and van de Geijn ("Anatomy of high-performance
//! matrix multiplication", 2008) with the letters of BLIS: C is m x n, k is summed; a block of MC by
//! KC of A stays in the second cache, a block of KC by NC of B in the third. Unlike there, an operand
//! is packed only if it is read often enough to pay for the copy, or does not lie in vectors.
//!
//! A vector of C that is only partly inside the matrix is summed over zero-padded panels and
//! stored element by element.

use std::ops::Range;

use rayon::prelude::*;

use crate::level::Level;
use crate::microkernel::*;
use crate::pack::{Source, pack, packed_len};
use crate::parallel::WORTHWHILE;
use crate::simd::{Kernel, LOW_ROWS, MAX_LANES, Simd, dispatch};
use crate::view::{MatMut, MatRef};

/// Depth of a block: a panel of A of 6 rows takes 6 KiB of the first cache.
const KC: usize = 256;
/// Rows of a block of A: 240 KiB, a quarter of a 1 MiB second cache.
const MC: usize = 240;
/// Columns of a block of B: 4 MiB, a share of the third cache.
const NC: usize = 4096;
/// With fewer panels of A than this, each element of B is used too seldom to be worth copying.
const PACK_B_FROM_PANELS: usize = 4;

/// With fewer columns than this, A is read too seldom to be worth copying.
const PACK_A_FROM_COLUMNS: usize = 1024;

/// The left operand of a product: as it lies, or packed beforehand.
#[derive(Clone, Copy, Debug)]
pub enum Lhs<'a> {
    /// Read where it lies, or packed block by block if that pays.
    Plain(MatRef<'a>),
    /// Packed once, by [`PackedLhs::pack`].
    Packed(&'a PackedLhs),
}

/// A left operand packed into panels, to be used in many products.
#[derive(Clone, Debug)]
pub struct PackedLhs {
    panels: Vec<f32>,
    m: usize,
    k: usize,
    height: usize,
}

impl PackedLhs {
    /// Packs an m x k matrix.
    pub fn pack(a: MatRef<'_>) -> Self {
        let (m, k) = (a.rows(), a.columns());
        let height = panel_height(m, true);
        let mut panels = vec![0.0; packed_len(m, k, height)];
        for (pc, kc) in blocks(k, KC) {
            let block = &mut panels[packed_len(m, pc, height)..][..packed_len(m, kc, height)];
            pack_lhs(a, 0..m, pc..pc + kc, height, block);
        }
        PackedLhs { panels, m, k, height }
    }
}

impl Lhs<'_> {
    fn size(&self) -> (usize, usize) {
        match self {
            Lhs::Plain(a) => (a.rows(), a.columns()),
            Lhs::Packed(a) => (a.m, a.k),
        }
    }
}

/// The scratch that a product needs: cache blocks, never whole operands.
#[derive(Clone, Copy, Debug)]
pub struct GemmScratch {
    a: usize,
    b: usize,
}

impl GemmScratch {
    /// For a product of m x k by k x n.
    pub fn new(level: Level, m: usize, k: usize, n: usize) -> Self {
        // A product may be transposed, and a panel of B may be wider than n.
        let width = crate::simd::lanes(level) * 4;
        let long = m.max(n);
        let kc = k.min(KC);
        GemmScratch { a: kc * (long.min(MC) + 12), b: kc * (long.min(NC) + width) }
    }

    /// Elements for one thread; as many times that let as many threads share the product.
    pub fn len(&self) -> usize {
        self.a + self.b
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
/// If the shapes do not fit or the scratch is too short.
pub fn gemm(level: Level, alpha: f32, a: Lhs<'_>, b: MatRef<'_>, beta: f32, c: MatMut<'_>, scratch: &mut [f32]) {
    let (m, k) = a.size();
    assert!(
        k == b.rows() && m == c.rows() && b.columns() == c.columns(),
        "a product of {m} x {k} and {b:?} does not fit an output {c:?}"
    );
    product(level, alpha, a, b, beta, c, scratch, true);
}

/// As [`gemm`], on several threads only if `parallel`.
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
    let output = Output {
        alpha,
        beta,
        row_stride: c.row_stride(),
        column_stride: c.column_stride(),
        columns: n,
        out: c.data_mut().as_mut_ptr(),
    };
    let (a, b, output) = match a {
        // Vectors run along columns: let those be the contiguous direction of C.
        Lhs::Plain(a) if output.column_stride != 1 && output.row_stride == 1 => {
            (Lhs::Plain(b.transposed()), a.transposed(), output.transposed(m))
        }
        _ => (a, b, output),
    };
    let (m, n) = (a.size().0, b.columns());
    let parts = match parallel && 2 * (m * n * k) as u64 > WORTHWHILE {
        true => rayon::current_num_threads().min(scratch.len() / sizes.len().max(1)).max(1),
        false => 1,
    };
    // Cut along the longer side, at multiples of the tile.
    let by_rows = m >= n;
    let (length, grain) = if by_rows { (m, panel_grain(&a)) } else { (n, 4 * MAX_LANES) };
    let share = length.div_ceil(parts).next_multiple_of(grain);
    let parts = length.div_ceil(share);
    let part = |part: usize, scratch: &mut [f32]| {
        let range = part * share..length.min((part + 1) * share);
        let (rows, columns) = if by_rows { (range, 0..n) } else { (0..m, range) };
        let (pack_a, pack_b) = scratch.split_at_mut(sizes.a);
        dispatch(level, Part { a, b, output, rows, columns, pack_a, pack_b });
    };
    match parts {
        1 => part(0, &mut scratch[..sizes.len()]),
        _ => {
            scratch.par_chunks_exact_mut(sizes.len()).take(parts).enumerate().for_each(|(i, scratch)| part(i, scratch))
        }
    }
}

fn panel_grain(a: &Lhs<'_>) -> usize {
    match a {
        Lhs::Plain(_) => 12 * LOW_ROWS,
        Lhs::Packed(a) => a.height,
    }
}

/// (start, length) of consecutive blocks; one empty block for a length of 0.
fn blocks(length: usize, block: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..length.max(1)).step_by(block).map(move |start| (start, block.min(length - start)))
}

/// Packs `rows` x `depth` of A into panels.
fn pack_lhs(a: MatRef<'_>, rows: Range<usize>, depth: Range<usize>, height: usize, packed: &mut [f32]) {
    if rows.is_empty() || depth.is_empty() {
        return;
    }
    let from = &a.data()[rows.start * a.row_stride() + depth.start * a.column_stride()..];
    let source = Source { row_stride: a.row_stride(), outer_stride: a.column_stride(), inner: 1, inner_stride: 0 };
    pack(from, source, rows.len(), depth.len(), height, packed, false);
}

/// Where and how sums are stored.
#[derive(Clone, Copy)]
struct Output {
    alpha: f32,
    beta: f32,
    row_stride: usize,
    column_stride: usize,
    columns: usize,
    out: *mut f32,
}

// SAFETY: parts of a product write disjoint rows or columns of the one C that is borrowed mutably.
unsafe impl Send for Output {}
// SAFETY: as above; the pointer is used by `finish` alone.
unsafe impl Sync for Output {}

impl Output {
    fn transposed(self, columns: usize) -> Self {
        Output { row_stride: self.column_stride, column_stride: self.row_stride, columns, ..self }
    }

    /// Of a block of the depth after the first: the output holds the sum so far.
    fn continued(self) -> Self {
        Output { beta: 1.0, ..self }
    }
}

impl Output {
    /// Stores a tile of `columns` columns that leaves C on the right, or whose rows are not vectors:
    /// element by element, with the arithmetic of whole vectors.
    ///
    /// # Safety
    /// The rows of `place` must be rows of C, and its first column a column of C.
    #[inline(never)]
    unsafe fn store_elements(self, sums: &[f32], columns: usize, place: Place) {
        let inside = columns.min(self.columns - place.at);
        for (m, sums) in sums.chunks_exact(columns).enumerate().take(place.rows) {
            for (n, &sum) in sums[..inside].iter().enumerate() {
                let at = (place.row + m) * self.row_stride + (place.at + n) * self.column_stride;
                // SAFETY: `inside` ends at the last column of C; rows are inside by contract.
                unsafe {
                    let out = self.out.add(at);
                    *out = if self.beta == 0.0 { sum } else { self.beta * *out + sum };
                }
            }
        }
    }
}

impl Epilogue for Output {
    /// Whole vectors of a row-major C are stored from the registers; any other go through memory.
    #[inline(always)]
    unsafe fn finish<S: Simd, const M: usize, const N: usize>(self, s: S, sums: [[S::V; N]; M], place: Place) {
        let whole = place.at + N * S::LANES <= self.columns && self.column_stride == 1;
        let (alpha, beta) = (s.splat(self.alpha), s.splat(self.beta));
        // SAFETY: rows are inside of C by contract, columns by `whole` or by `store_elements`; a tile has at most
        // MAX_TILE elements.
        unsafe {
            if whole {
                for (m, sums) in sums.iter().enumerate() {
                    if m == place.rows {
                        return;
                    }
                    let row = self.out.add((place.row + m) * self.row_stride + place.at);
                    for (n, &sum) in sums.iter().enumerate() {
                        let out = row.add(n * S::LANES);
                        let sum = s.mul(alpha, sum);
                        s.store(out, if self.beta == 0.0 { sum } else { s.add(s.mul(beta, s.load(out)), sum) });
                    }
                }
            } else {
                let mut tile = [0.0; MAX_TILE];
                for (m, sums) in sums.iter().enumerate() {
                    for (n, &sum) in sums.iter().enumerate() {
                        s.store(tile.as_mut_ptr().add((m * N + n) * S::LANES), s.mul(alpha, sum));
                    }
                }
                self.store_elements(&tile[..M * N * S::LANES], N * S::LANES, place);
            }
        }
    }
}

/// Elements of the largest tile: 24 vectors.
const MAX_TILE: usize = 24 * MAX_LANES;

/// Some rows and columns of C, computed by one thread.
struct Part<'a> {
    a: Lhs<'a>,
    b: MatRef<'a>,
    output: Output,
    rows: Range<usize>,
    columns: Range<usize>,
    pack_a: &'a mut [f32],
    pack_b: &'a mut [f32],
}

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let k = self.b.rows();
        let height = match self.a {
            Lhs::Plain(_) => panel_height(self.rows.len(), self.columns.len() > S::LANES),
            Lhs::Packed(a) => a.height,
        };
        let width = tile_width(s, height) * S::LANES;
        let copy_b = k == 0 || self.b.column_stride() != 1 || self.rows.len().div_ceil(height) >= PACK_B_FROM_PANELS;
        let copy_a = self.columns.len() >= PACK_A_FROM_COLUMNS;
        for (jc, nc) in blocks(self.columns.len(), NC) {
            let columns = self.columns.start + jc..self.columns.start + jc + nc;
            for (pc, kc) in blocks(k, KC) {
                let output = if pc == 0 { self.output } else { self.output.continued() };
                // Whole panels are copied if that pays; the last, narrower one always is, so that
                // its vectors end in zeros and not in somebody else's memory.
                let direct = if copy_b { 0 } else { nc / width * width };
                pack_rhs(s, self.b, pc..pc + kc, columns.start + direct..columns.end, width, self.pack_b);
                for (ic, mc) in blocks(self.rows.len(), MC) {
                    let first_row = self.rows.start + ic;
                    let panels = match self.a {
                        Lhs::Plain(a) if copy_a => {
                            let packed = &mut self.pack_a[..packed_len(mc, kc, height)];
                            pack_lhs(a, first_row..first_row + mc, pc..pc + kc, height, packed);
                            Some(&*packed)
                        }
                        Lhs::Plain(_) => None,
                        Lhs::Packed(a) => Some(&a.panels[packed_len(a.m, pc, height)..][first_row * kc..]),
                    };
                    for (jr, nr) in blocks(nc, width) {
                        let column = columns.start + jr;
                        let vectors = nr.div_ceil(S::LANES);
                        let (b, stride) = if jr < direct {
                            (self.b.data()[pc * self.b.row_stride() + column..].as_ptr(), self.b.row_stride())
                        } else {
                            (self.pack_b[(jr - direct) * kc..].as_ptr(), vectors * S::LANES)
                        };
                        let mut done = 0;
                        while done < mc {
                            let row = first_row + done;
                            let tile = Tile { b, depth: Strided { len: kc, stride }, row, rows: mc - done, column };
                            match (panels, self.a) {
                                (Some(panels), _) => {
                                    let a = panels[done * kc..].as_ptr();
                                    with_tile!(height, vectors, tile_of::<S, Panel>(s, a, Panel, tile, output));
                                    done += height;
                                }
                                (None, Lhs::Plain(a)) => {
                                    let height = tile_height(mc - done, height);
                                    let (row_stride, depth_stride) = (a.row_stride(), a.column_stride());
                                    let matrix = Matrix { row_stride, depth_stride };
                                    let a = a.data().as_ptr().wrapping_add(row * row_stride + pc * depth_stride);
                                    with_tile!(height, vectors, tile_of::<S, Matrix>(s, a, matrix, tile, output));
                                    done += height;
                                }
                                (None, Lhs::Packed(_)) => unreachable!("a packed operand has panels"),
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Copies `depth` x `columns` of B into panels `[column / width][k][column % width]`; the last panel
/// is as wide as the vectors that it fills, with zeros behind the last column.
#[inline(always)]
fn pack_rhs<S: Simd>(
    s: S,
    b: MatRef<'_>,
    depth: Range<usize>,
    columns: Range<usize>,
    width: usize,
    packed: &mut [f32],
) {
    let (row_stride, column_stride) = (b.row_stride(), b.column_stride());
    let mut to = 0;
    for column in columns.clone().step_by(width) {
        let filled = width.min(columns.end - column);
        let padded = filled.next_multiple_of(S::LANES);
        for k in depth.clone() {
            let row = &mut packed[to..to + padded];
            let from = &b.data()[k * row_stride + column * column_stride..];
            if column_stride == 1 {
                let from = &from[..filled];
                for (to, from) in row.chunks_exact_mut(S::LANES).zip(from.chunks(S::LANES)) {
                    // SAFETY: `to` has LANES elements, `from` as many or, at the end, fewer.
                    unsafe {
                        let whole = from.len() == S::LANES;
                        let v = if whole { s.load(from.as_ptr()) } else { s.load_first(from.as_ptr(), from.len()) };
                        s.store(to.as_mut_ptr(), v);
                    }
                }
            } else {
                for (j, row) in row[..filled].iter_mut().enumerate() {
                    *row = from[j * column_stride];
                }
                row[filled..].fill(0.0);
            }
            to += padded;
        }
    }
}

#[derive(Clone, Copy)]
struct Tile {
    b: *const f32,
    depth: Strided,
    row: usize,
    /// Rows from `row` on that are in the block; the tile may be higher.
    rows: usize,
    column: usize,
}

#[inline(always)]
fn tile_of<S: Simd, A: Broadcast, const M: usize, const N: usize>(
    s: S,
    a: *const f32,
    broadcast: A,
    tile: Tile,
    output: Output,
) {
    if N > tile_width(s, M) {
        unreachable!("tiles are cut to the level's width");
    }
    // SAFETY: `a` is a whole panel, or M rows inside of A; `b` holds N vectors for each k (packed or inside B); the
    // rows and columns handed to the epilogue are inside C.
    unsafe {
        let sums = multiply::<S, A, Strided, M, N>(s, a, broadcast, tile.b, S::LANES, tile.depth);
        let place = Place { row: tile.row, rows: M.min(tile.rows), at: tile.column, step: S::LANES };
        output.finish(s, sums, place);
    }
}
