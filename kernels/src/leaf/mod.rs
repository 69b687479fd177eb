//! The leaves: register tiles with their loops over the depth, each a function of its own, compiled for the
//! instructions of a level. A level is a table of them; everything above is ordinary code that knows no
//! instruction set and is compiled once.

mod dot;
mod product;

pub(crate) use dot::{Dot, Walk};
pub(crate) use product::{Epilogue, Operand, Product, Repeat, Segment, Tap};

use crate::blocking::Blocks;
use crate::level::{Isa, Level};
use crate::simd::portable::Portable;
#[cfg(target_arch = "x86_64")]
use crate::simd::{avx2::Avx2, avx512::Avx512};

type ProductLeaf = unsafe fn(&Product<'_>);
type DotLeaf = unsafe fn(&Dot<'_>);

/// Vectors of the widest product tile, and rows of the tallest, of any level.
pub(crate) const WIDEST: usize = 16;

/// The most vectors of sums of a tile of any level.
pub(crate) const MOST_SUMS: usize = 32;

/// The leaves of a level, by rows and columns of their tile.
#[derive(Debug)]
pub(crate) struct Leaves {
    /// Elements of a vector.
    pub(crate) lanes: usize,
    /// Rows and vectors of the tile that is best where both sides are long.
    pub(crate) tile: [usize; 2],
    /// Rows of the tile that is best where vectors come from a far cache: it is low and wide.
    pub(crate) low: usize,
    products: &'static [&'static [ProductLeaf]],
    dots: &'static [&'static [DotLeaf]],
}

impl Leaves {
    pub(crate) fn of(level: Level) -> &'static Leaves {
        match level.isa() {
            Isa::Portable => &portable::LEAVES,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => &avx2::LEAVES,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => &avx512::LEAVES,
        }
    }

    /// Vectors of the widest product tile of so many rows.
    pub(crate) fn widest(&self, rows: usize) -> usize {
        self.products[rows - 1].len()
    }

    /// Rows of the tallest product tile of so many vectors.
    pub(crate) fn tallest(&self, vectors: usize) -> usize {
        self.products.iter().rposition(|row| row.len() >= vectors).map_or(0, |row| row + 1)
    }

    /// Vectors of the product tiles that `count` rows by `vectors` vectors are cut into: those that take the fewest
    /// cycles for each, where a tile of few sums waits for their latency, and one of few pixels for its vectors, which
    /// come from the second cache.
    pub(crate) fn width(&self, count: usize, vectors: usize) -> usize {
        const LATENCY: usize = 8;
        const FEWEST: usize = 4;
        let cycles = |width: usize| {
            let tiles = Blocks::new(count, self.tallest(width)).all_equal();
            let cycles = tiles.map(|tiles| tiles.count * (tiles.size.max(FEWEST) * width).max(LATENCY)).sum::<usize>();
            cycles as f64 / width as f64
        };
        let widths = (1..=vectors.min(self.widest(1))).rev();
        widths.min_by(|&a, &b| cycles(a).total_cmp(&cycles(b))).unwrap_or(1)
    }

    /// Rows and columns of the largest tile of dot products.
    pub(crate) fn dot_tile(&self) -> [usize; 2] {
        [self.dots.len(), self.dots[0].len()]
    }

    /// Multiplies tiles of `rows` by `vectors`.
    ///
    /// # Safety
    /// For every tile, every product of the segments and every row and vector, an element of A and a vector of B must
    /// be readable, and what the epilogue points to must be valid.
    pub(crate) unsafe fn product(&self, [rows, vectors]: [usize; 2], product: &Product<'_>) {
        // SAFETY: a level exists only if the CPU has its instructions; the operands are as the caller promises.
        unsafe { self.products[rows - 1][vectors - 1](product) }
    }

    /// Adds dot products of `rows` rows of A with one row of B for each offset.
    ///
    /// # Safety
    /// The vectors of the walks must be readable from each row of A and of B, and the sums readable and writable.
    pub(crate) unsafe fn dot(&self, rows: usize, dot: &Dot<'_>) {
        // SAFETY: a level exists only if the CPU has its instructions; the leaf is that for the number of offsets.
        unsafe { self.dots[rows - 1][dot.offsets.len() - 1](dot) }
    }
}

/// A module with the leaves of a level: for each number of rows from 1 on, every width from 1 to the widest that is of
/// use. The sums, the smaller side and one operand more have to fit the registers.
macro_rules! leaves {
    ($level:ident, $simd:ty, $token:expr, [$($feature:meta)?], tile: $tile:expr, low: $low:literal,
     products: { $($m:literal: $($n:literal)*;)* }, dots: { $($dm:literal: $($dn:literal)*;)* }) => {
        mod $level {
            use super::*;
            use crate::simd::Simd;

            $(#[$feature])?
            unsafe fn product<const M: usize, const N: usize>(product: &Product<'_>) {
                const { assert!(M <= WIDEST && N <= WIDEST && M * N <= MOST_SUMS) };
                // SAFETY: as the caller promises.
                unsafe { product::product::<$simd, M, N>($token, product) }
            }

            $(#[$feature])?
            unsafe fn dot<const M: usize, const N: usize>(dot: &Dot<'_>) {
                // SAFETY: as the caller promises.
                unsafe { dot::dot::<$simd, M, N>($token, dot) }
            }

            pub(super) static LEAVES: Leaves = Leaves {
                lanes: <$simd>::LANES,
                tile: $tile,
                low: $low,
                products: &[$(&[$(product::<$m, $n>),*]),*],
                dots: &[$(&[$(dot::<$dm, $dn>),*]),*],
            };
        }
    };
}

#[cfg(target_arch = "x86_64")]
leaves! {
    avx512, Avx512, Avx512(()), [target_feature(enable = "avx512f,avx2,fma")], tile: [14, 2], low: 6,
    products: {
        1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16;
        2: 1 2 3 4 5 6 7 8;
        3: 1 2 3 4 5 6 7;
        4: 1 2 3 4 5 6;
        5: 1 2 3 4 5;
        6: 1 2 3 4;
        7: 1 2 3;
        8: 1 2 3;
        9: 1 2 3;
        10: 1 2;
        11: 1 2;
        12: 1 2;
        13: 1 2;
        14: 1 2;
    },
    dots: { 1: 1 2 3 4 5; 2: 1 2 3 4 5; 3: 1 2 3 4 5; 4: 1 2 3 4 5; 5: 1 2 3 4 5; }
}

#[cfg(target_arch = "x86_64")]
leaves! {
    avx2, Avx2, Avx2(()), [target_feature(enable = "avx2,fma")], tile: [4, 3], low: 4,
    products: {
        1: 1 2 3 4 5 6 7 8;
        2: 1 2 3 4 5;
        3: 1 2 3 4;
        4: 1 2 3;
        5: 1 2;
        6: 1 2;
        7: 1;
        8: 1;
        9: 1;
        10: 1;
        11: 1;
        12: 1;
    },
    dots: { 1: 1 2 3; 2: 1 2 3; 3: 1 2 3; 4: 1 2 3; }
}

leaves! {
    portable, Portable, Portable, [], tile: [6, 2], low: 6,
    products: {
        1: 1 2 3 4 5 6 7 8;
        2: 1 2 3 4;
        3: 1 2 3;
        4: 1 2;
        5: 1 2;
        6: 1 2;
        7: 1;
        8: 1;
        9: 1;
        10: 1;
        11: 1;
        12: 1;
    },
    dots: { 1: 1 2 3; 2: 1 2 3; 3: 1 2 3; 4: 1 2 3; }
}
