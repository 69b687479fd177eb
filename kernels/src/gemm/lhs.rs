//! The left operand: as it lies, or packed for many products.

use std::ops::Range;

use crate::blocking::Blocks;
use crate::buffer::collide;
use crate::gemm::KC;
use crate::level::Level;
use crate::pack::pack_panel;
use crate::simd::{Kernel, Simd, dispatch};
use crate::view::MatRef;

/// Distance of the rows of a deep block that is packed: a constant, so that one register addresses them
/// all, and no multiple of a power of two, so that they do not meet in a set of the cache.
pub(super) const ROW: usize = KC + 16;

/// From this depth on a block is packed row by row; of shallower ones too little of each row would be used.
const DEEP: usize = 128;

/// The left operand of a product: as it lies, or packed beforehand.
#[derive(Clone, Copy, Debug)]
pub enum Lhs<'a> {
    /// Read where it lies.
    Plain(MatRef<'a>),
    /// Packed once, by [`PackedLhs::pack`].
    Packed(&'a PackedLhs),
}

/// A left operand packed for many products of a level.
#[derive(Clone, Debug)]
pub struct PackedLhs {
    level: Level,
    /// For each block of the depth all rows, [`ROW`] elements apart; if there is one shallow block, rows
    /// without gaps.
    packed: Vec<f32>,
    m: usize,
    k: usize,
}

impl PackedLhs {
    /// Packs an m x k matrix for products of a level.
    ///
    /// # Panics
    /// If it has more elements than memory can hold, which a view without strides may.
    pub fn pack(level: Level, a: MatRef<'_>) -> Self {
        struct Pack<'a> {
            a: MatRef<'a>,
            packed: &'a mut [f32],
        }
        impl Kernel for Pack<'_> {
            type Output = ();
            #[inline(always)]
            fn run<S: Simd>(self, s: S) {
                let (m, k) = (self.a.rows(), self.a.columns());
                if is_deep(k) {
                    for block in DepthBlock::all(k) {
                        pack_rows(s, self.a, 0..m, block.range(), &mut self.packed[block.index * m * ROW..]);
                    }
                } else {
                    pack_panel(s, self.a.transposed(), 0..k, 0..m, [k; 2], self.packed);
                }
            }
        }
        let (m, k) = (a.rows(), a.columns());
        let row = if is_deep(k) { Blocks::new(k, KC).count().checked_mul(ROW) } else { Some(k) };
        let len = row.and_then(|row| row.checked_mul(m));
        let mut packed = vec![0.0; len.unwrap_or_else(|| panic!("{a:?} is too large to be packed"))];
        if m > 0 {
            dispatch(level, Pack { a, packed: &mut packed });
        }
        PackedLhs { level, packed, m, k }
    }

    pub(super) fn level(&self) -> Level {
        self.level
    }
}

/// Copies some rows of A over a block of the depth, [`ROW`] elements apart.
#[inline(always)]
pub(super) fn pack_rows<S: Simd>(s: S, a: MatRef<'_>, rows: Range<usize>, depth: Range<usize>, packed: &mut [f32]) {
    let width = depth.len().next_multiple_of(S::LANES);
    pack_panel(s, a.transposed(), depth, rows, [width, ROW], packed);
}

/// A block of the depth.
#[derive(Clone, Copy)]
pub(super) struct DepthBlock {
    blocks: Blocks,
    index: usize,
}

impl DepthBlock {
    pub(super) fn all(k: usize) -> impl Iterator<Item = DepthBlock> {
        let blocks = Blocks::new(k, KC);
        (0..blocks.count()).map(move |index| DepthBlock { blocks, index })
    }

    #[inline(always)]
    pub(super) fn range(self) -> Range<usize> {
        self.blocks.get(self.index)
    }
}

/// Whether the blocks of a depth of k are deep ones.
pub(super) fn is_deep(k: usize) -> bool {
    Blocks::new(k, KC).longest() >= DEEP
}

/// Where the rows are read from.
#[derive(Clone, Copy)]
pub(super) enum LhsBlock<'a> {
    /// Rows from this one on, [`ROW`] elements apart.
    Rows(&'a [f32], usize),
    /// The matrix, from a block of the depth on.
    Matrix(MatRef<'a>, usize),
}

impl<'a> Lhs<'a> {
    /// m, k.
    pub(super) fn size(&self) -> (usize, usize) {
        match self {
            Lhs::Plain(a) => (a.rows(), a.columns()),
            Lhs::Packed(a) => (a.m, a.k),
        }
    }

    /// A matrix whose neighbouring rows, or columns, meet in one set of the first cache, which can not hold
    /// those of a tile.
    pub(super) fn colliding(&self) -> Option<MatRef<'a>> {
        match *self {
            Lhs::Plain(a) => collide(a.row_stride().max(a.column_stride())).then_some(a),
            Lhs::Packed(_) => None,
        }
    }

    /// A block of the depth.
    #[inline(always)]
    pub(super) fn block(&self, block: DepthBlock) -> LhsBlock<'a> {
        match *self {
            Lhs::Packed(a) if is_deep(a.k) => LhsBlock::Rows(&a.packed[block.index * a.m * ROW..], 0),
            Lhs::Packed(a) => LhsBlock::Matrix(MatRef::row_major(&a.packed, a.m, a.k), 0),
            Lhs::Plain(a) => LhsBlock::Matrix(a, block.range().start),
        }
    }

    /// Whether a row lies in vectors along a depth of k that is worth summing in vectors.
    pub(super) fn rows_are_vectors(&self, k: usize) -> bool {
        let vectors = match self {
            Lhs::Plain(a) => a.column_stride() == 1,
            Lhs::Packed(_) => true,
        };
        vectors && is_deep(k)
    }

    /// The rows as vectors along a block of the depth, and their distance.
    pub(super) fn vectors(&self, block: DepthBlock) -> (&'a [f32], usize) {
        match self {
            Lhs::Plain(a) => (&a.data()[block.range().start..], a.row_stride()),
            Lhs::Packed(a) => (&a.packed[block.index * a.m * ROW..], ROW),
        }
    }
}
