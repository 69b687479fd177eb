//! General matrix product: C = alpha A B + beta C, with any strides.
//!
//! Five loops around the register tile, after Goto and van de Geijn ("Anatomy of high-performance
//! matrix multiplication", 2008) with the letters of BLIS: C is m x n, k is summed; a panel of KC by
//! one tile of B stays in the first cache, a block of MC by KC of A in the second. Unlike there, all
//! blocks of a side are of equal size, so that no sliver is left, and an operand is packed only if it
//! is read often enough to pay for the copy, or does not lie in vectors.
//!
//! A vector of C that is only partly inside the matrix is summed over zero-padded panels.

use std::ops::Range;

use rayon::prelude::*;

use crate::blocking::Blocks;
use crate::level::Level;
use crate::microkernel::*;
use crate::pack::pack_panel;
use crate::parallel::WORTHWHILE;
use crate::simd::{Kernel, MAX_LANES, Simd, dispatch};
use crate::view::{MatMut, MatRef};

/// Depth of a block: with the 32 columns of an AVX-512 tile, 32 KiB of B in the first cache.
const KC: usize = 512;
/// Rows of a block of A: with the depth, 480 KiB, half of a 1 MiB second cache.
const MC: usize = 240;
/// Columns of a block of B: with the depth, 4 MiB, a share of the third cache.
const NC: usize = 4096;
/// With fewer panels of A than this, each element of B is used too seldom to be worth copying.
const PACK_B_FROM_PANELS: usize = 3;
/// A B of at most so many elements stays in the first cache as it lies.
const PACK_B_FROM_LEN: usize = 4096;
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

/// A left operand packed into panels, to be used in many products of a level.
#[derive(Clone, Debug)]
pub struct PackedLhs {
    level: Level,
    panels: Vec<f32>,
    m: usize,
    k: usize,
}

impl PackedLhs {
    /// Packs an m x k matrix for products of a level.
    pub fn pack(level: Level, a: MatRef<'_>) -> Self {
        struct Pack<'a> {
            a: MatRef<'a>,
            panels: &'a mut [f32],
        }
        impl Kernel for Pack<'_> {
            type Output = ();
            #[inline(always)]
            fn run<S: Simd>(self, s: S) {
                let m = self.a.rows();
                let rows = Blocks::new(m, tallest_tile(s));
                for depth in Blocks::new(self.a.columns(), KC).iter() {
                    let block = &mut self.panels[m * depth.start..m * depth.end];
                    pack_lhs(s, self.a, rows, 0..rows.count(), depth, block);
                }
            }
        }
        let (m, k) = (a.rows(), a.columns());
        let mut panels = vec![0.0; m * k];
        dispatch(level, Pack { a, panels: &mut panels });
        PackedLhs { level, panels, m, k }
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
        let width = crate::simd::lanes(level) * WIDEST;
        let long = m.max(n);
        let kc = k.min(KC);
        GemmScratch { a: ROW * long.min(MC), b: kc * (long.min(NC) + width) }
    }

    /// Elements for one thread; as many times that let as many threads share the product.
    pub fn len(&self) -> usize {
        self.a + self.b + ALIGNMENT
    }

    /// Whether nothing is needed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Elements of a cache line: panels of B start on one, wherever the scratch does.
const ALIGNMENT: usize = 64 / size_of::<f32>();

/// C = alpha A B + beta C. With beta 0, C is not read.
///
/// `scratch` holds [`GemmScratch::len`] elements of any value, or a multiple: then as many threads
/// of the current rayon pool share the product, with the same result to the last bit.
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
    let threads = match parallel && 2 * (m * n * k) as u64 > WORTHWHILE {
        true => rayon::current_num_threads().min(scratch.len() / sizes.len()).max(1),
        false => 1,
    };
    let share = |part: usize, parts: usize, scratch: &mut [f32]| {
        let aligned = scratch.as_ptr().align_offset(64).min(ALIGNMENT);
        let (pack_b, pack_a) = scratch[aligned..].split_at_mut(sizes.b);
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

/// Packs the panels `panels` of `rows` of A, `depth` deep, one behind the other.
#[inline(always)]
fn pack_lhs<S: Simd>(
    s: S,
    a: MatRef<'_>,
    rows: Blocks,
    panels: Range<usize>,
    depth: Range<usize>,
    packed: &mut [f32],
) {
    let mut rest = packed;
    for panel in panels {
        let rows = rows.get(panel);
        let (panel, behind) = std::mem::take(&mut rest).split_at_mut(rows.len() * depth.len());
        pack_panel(s, a, rows.clone(), depth.clone(), rows.len(), panel);
        rest = behind;
    }
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

    /// Stores the first `columns` of the `width` columns of a tile that is not whole vectors of C, with the
    /// arithmetic of vectors.
    ///
    /// # Safety
    /// The rows of `place` must be rows of C, and `columns` columns from its first on columns of C.
    #[inline(never)]
    unsafe fn store_elements(self, sums: &[f32], width: usize, columns: usize, place: Place) {
        for (m, sums) in sums.chunks_exact(width).enumerate().take(place.rows) {
            for (n, &sum) in sums[..columns].iter().enumerate() {
                let at = (place.row + m) * self.row_stride + (place.at + n) * self.column_stride;
                // SAFETY: rows and columns are inside by contract.
                unsafe {
                    let out = self.out.add(at);
                    *out = if self.beta == 0.0 { sum } else { self.beta * *out + sum };
                }
            }
        }
    }

    /// As [`store_elements`](Self::store_elements), for a row-major C.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn store_parts<S: Simd>(self, s: S, sums: &[f32], width: usize, columns: usize, place: Place) {
        for (m, sums) in sums.chunks_exact(width).enumerate().take(place.rows) {
            for n in (0..columns).step_by(S::LANES) {
                let part = (columns - n).min(S::LANES);
                // SAFETY: `part` columns from `n` on are inside by contract.
                unsafe {
                    let out = self.out.add((place.row + m) * self.row_stride + place.at + n);
                    let sum = s.load(sums[n..n + S::LANES].as_ptr());
                    let old = || s.mul(s.splat(self.beta), s.load_first(out, part));
                    s.store_first(out, if self.beta == 0.0 { sum } else { s.add(old(), sum) }, part);
                }
            }
        }
    }
}

impl Epilogue for Output {
    /// Whole vectors of a row-major C are stored from the registers, any other go through memory. One
    /// operand after the other, so that each loop is over registers and asks once per tile whether there
    /// is anything to do.
    #[inline(always)]
    unsafe fn finish<S: Simd, const M: usize, const N: usize>(self, s: S, mut sums: [[S::V; N]; M], place: Place) {
        let columns = (self.columns - place.at).min(N * S::LANES);
        if self.alpha != 1.0 {
            for sum in sums.iter_mut().flatten() {
                *sum = s.mul(s.splat(self.alpha), *sum);
            }
        }
        // SAFETY: rows are inside of C by contract, `columns` ends at its last column; a tile has at most MAX_TILE
        // elements.
        unsafe {
            if columns < N * S::LANES || self.column_stride != 1 {
                let mut tile = [0.0; MAX_TILE];
                for (m, sums) in sums.iter().enumerate() {
                    for (n, &sum) in sums.iter().enumerate() {
                        s.store(tile.as_mut_ptr().add((m * N + n) * S::LANES), sum);
                    }
                }
                let tile = &tile[..M * N * S::LANES];
                return match self.column_stride {
                    1 => self.store_parts(s, tile, N * S::LANES, columns, place),
                    _ => self.store_elements(tile, N * S::LANES, columns, place),
                };
            }
            let first = self.out.add(place.row * self.row_stride + place.at);
            if self.beta != 0.0 {
                for (m, sums) in sums.iter_mut().enumerate() {
                    for (n, sum) in sums.iter_mut().enumerate() {
                        let old = s.load(first.add(m * self.row_stride + n * S::LANES));
                        *sum = s.add(s.mul(s.splat(self.beta), old), *sum);
                    }
                }
            }
            for (m, sums) in sums.iter().enumerate() {
                for (n, &sum) in sums.iter().enumerate() {
                    s.store(first.add(m * self.row_stride + n * S::LANES), sum);
                }
            }
        }
    }
}

/// Elements of the largest tile: 24 vectors.
const MAX_TILE: usize = 24 * MAX_LANES;

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
        let rows = Blocks::new(m, tallest_tile(s));
        let width = tile_width(s, rows.longest()) * S::LANES;
        let columns = n.div_ceil(width);
        // The longer side is cut: both operands are then read by as few threads as can be.
        let (panels, columns) = match m >= n {
            true => (Blocks::cut(rows.count(), self.parts).get(self.part), 0..columns),
            false => (0..rows.count(), Blocks::cut(columns, self.parts).get(self.part)),
        };
        let depths = Blocks::new(k, KC);
        let large = k * n > PACK_B_FROM_LEN && panels.len() >= PACK_B_FROM_PANELS;
        let copy_b = k == 0 || self.b.column_stride() != 1 || large;
        let copy_a = columns.len() * width >= PACK_A_FROM_COLUMNS;
        for columns in Blocks::new(columns.len(), NC / width).iter().map(|block| shifted(block, columns.start)) {
            for depth in depths.iter() {
                let output = if depth.start == 0 { self.output } else { self.output.continued() };
                let kc = depth.len();
                // Whole panels are copied if that pays; the last, narrower one always is, so that
                // its vectors end in zeros and not in somebody else's memory.
                let direct = if copy_b { columns.start } else { columns.end.min(n / width) };
                for panel in direct..columns.end {
                    let columns = panel * width..n.min((panel + 1) * width);
                    let padded = columns.len().next_multiple_of(S::LANES);
                    let packed = &mut self.pack_b[(panel - direct) * width * kc..];
                    pack_panel(s, self.b.transposed(), columns, depth.clone(), padded, packed);
                }
                let blocks = Blocks::new(panels.len(), MC / tallest_tile(s));
                for block in blocks.iter().map(|block| shifted(block, panels.start)) {
                    let first_row = rows.get(block.start).start;
                    let lhs = match self.a {
                        Lhs::Plain(a) if copy_a && a.column_stride() == 1 => {
                            copy_rows_of_lhs(s, a, first_row..rows.get(block.end - 1).end, depth.clone(), self.pack_a);
                            Place_::Rows(&*self.pack_a)
                        }
                        Lhs::Plain(a) if copy_a => {
                            pack_lhs(s, a, rows, block.clone(), depth.clone(), self.pack_a);
                            Place_::Panels(&*self.pack_a)
                        }
                        Lhs::Plain(a) => Place_::Matrix(a),
                        Lhs::Packed(a) => Place_::Panels(&a.panels[m * depth.start + first_row * kc..]),
                    };
                    for column in columns.clone() {
                        let at = column * width;
                        let vectors = width.min(n - at).div_ceil(S::LANES);
                        let (b, stride) = if column < direct {
                            (self.b.data()[depth.start * self.b.row_stride() + at..].as_ptr(), self.b.row_stride())
                        } else {
                            (self.pack_b[(column - direct) * width * kc..].as_ptr(), vectors * S::LANES)
                        };
                        let depth_of_tile = Strided { len: kc, stride };
                        for panels in rows.of_equal_size(block.clone()).into_iter().filter(|panels| !panels.is_empty()) {
                            let Range { start: row, end } = rows.get(panels.start);
                            let height = end - row;
                            let tiles =
                                Tiles { b, depth: depth_of_tile, row, count: panels.len(), column: at, output };
                            match lhs {
                                Place_::Panels(panels) => {
                                    let a = panels[(row - first_row) * kc..].as_ptr();
                                    let lhs = (a, height * kc, Panel);
                                    with_tile!(height, vectors, tiles_of::<S, Panel>(s, lhs, tiles));
                                }
                                Place_::Rows(copy) => {
                                    let a = copy[(row - first_row) * ROW..].as_ptr();
                                    let lhs = (a, height * ROW, Rows);
                                    with_tile!(height, vectors, tiles_of::<S, Rows<ROW>>(s, lhs, tiles));
                                }
                                Place_::Matrix(a) => {
                                    let (row_stride, depth_stride) = (a.row_stride(), a.column_stride());
                                    let from = row * row_stride + depth.start * depth_stride;
                                    let matrix = Matrix { row_stride, depth_stride };
                                    let a = a.data().as_ptr().wrapping_add(from);
                                    let lhs = (a, height * row_stride, matrix);
                                    with_tile!(height, vectors, tiles_of::<S, Matrix>(s, lhs, tiles));
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Where a block of A is read from.
#[derive(Clone, Copy)]
enum Place_<'a> {
    /// From panels, the first of which is the block's first.
    Panels(&'a [f32]),
    /// From a copy of the block's rows, [`ROW`] elements apart.
    Rows(&'a [f32]),
    /// From A.
    Matrix(MatRef<'a>),
}

/// Distance of the rows of a block that is copied row by row: not a multiple of a power of two.
const ROW: usize = KC + 16;

/// Copies `rows` of A, whose elements lie one behind the other, `depth` wide, [`ROW`] elements apart.
#[inline(always)]
fn copy_rows_of_lhs<S: Simd>(s: S, a: MatRef<'_>, rows: Range<usize>, depth: Range<usize>, copy: &mut [f32]) {
    for (row, copy) in rows.zip(copy.chunks_mut(ROW)) {
        let from = &a.data()[row * a.row_stride()..][depth.clone()];
        for (from, to) in from.chunks(S::LANES).zip(copy.chunks_mut(S::LANES)) {
            // SAFETY: `from` has LANES elements or, at the end, fewer, and ROW leaves room for a last vector.
            unsafe {
                let whole = from.len() == S::LANES;
                s.store(to.as_mut_ptr(), if whole { s.load(from.as_ptr()) } else { s.load_first(from.as_ptr(), from.len()) });
            }
        }
    }
}

fn shifted(range: Range<usize>, by: usize) -> Range<usize> {
    range.start + by..range.end + by
}

/// Tiles one below the other.
#[derive(Clone, Copy)]
struct Tiles {
    b: *const f32,
    depth: Strided,
    /// The first row.
    row: usize,
    count: usize,
    column: usize,
    output: Output,
}

/// `lhs` is where the first tile's rows start, the distance to the next tile's, and how they lie.
#[inline(always)]
fn tiles_of<S: Simd, A: Broadcast, const M: usize, const N: usize>(s: S, lhs: (*const f32, usize, A), tiles: Tiles) {
    struct Outlined<A, const M: usize, const N: usize>((*const f32, usize, A), Tiles);
    impl<A: Broadcast, const M: usize, const N: usize> Kernel for Outlined<A, M, N> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let Outlined((a, step, broadcast), tiles) = self;
            for tile in 0..tiles.count {
                // SAFETY: `a` is whole panels, or rows inside of A; `b` holds N vectors for each k (packed or inside
                // B); the rows and the first column handed to the epilogue are inside C.
                unsafe {
                    let a = a.wrapping_add(tile * step);
                    let sums = multiply::<S, A, Strided, M, N>(s, a, broadcast, tiles.b, S::LANES, tiles.depth);
                    let place = Place { row: tiles.row + tile * M, rows: M, at: tiles.column, step: S::LANES };
                    tiles.output.finish(s, sums, place);
                }
            }
        }
    }
    if N > tile_width(s, M) {
        unreachable!("tiles are cut to the level's width");
    }
    s.outlined(Outlined::<A, M, N>(lhs, tiles));
}
