//! The left operand: as it lies, or packed for many products.

use std::ops::Range;

use crate::blocking::Blocks;
use crate::buffer::collide;
use crate::gemm::KC;
use crate::leaf::Operand;
use crate::level::Level;
use crate::pack::pack_panel;
use crate::view::MatRef;

/// Distance of the rows of a deep block that is packed: no multiple of a power of two, so that they do not meet in a
/// set of the cache.
pub(super) const ROW: usize = KC + 16;

/// From this depth on a block is packed row by row; of shallower ones too little of each row would be used.
const DEEP: usize = 128;

/// The left operand of a product: as it lies, or packed beforehand. See [`gemm`](crate::gemm()) for an example.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Lhs<'a> {
    /// Read where it lies.
    Plain(MatRef<'a>),
    /// Packed once, by [`PackedLhs::pack`].
    Packed(&'a PackedLhs),
}

/// A left operand packed for many products of a level. See [`gemm`](crate::gemm()) for an example of such a product.
#[derive(Clone, Debug)]
pub struct PackedLhs {
    pub(super) level: Level,
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
        let (m, k) = (a.rows(), a.columns());
        let row = if is_deep(k) { Blocks::new(k, KC).count().checked_mul(ROW) } else { Some(k) };
        let len = row.and_then(|row| row.checked_mul(m));
        let mut packed = vec![0.0; len.unwrap_or_else(|| panic!("{a:?} is too large to be packed"))];
        if m > 0 && is_deep(k) {
            for (index, block) in Blocks::new(k, KC).iter().enumerate() {
                pack_rows(level, a, 0..m, block, &mut packed[index * m * ROW..]);
            }
        } else if m > 0 {
            pack_panel(level, a.transposed(), 0..k, 0..m, [k; 2], &mut packed);
        }
        PackedLhs { level, packed, m, k }
    }
}

/// Copies some rows of A over a block of the depth, [`ROW`] elements apart.
pub(super) fn pack_rows(level: Level, a: MatRef<'_>, rows: Range<usize>, depth: Range<usize>, packed: &mut [f32]) {
    let width = depth.len().next_multiple_of(crate::lanes(level));
    pack_panel(level, a.transposed(), depth, rows, [width, ROW], packed);
}

/// Whether the blocks of a depth of k are deep ones.
pub(super) fn is_deep(k: usize) -> bool {
    Blocks::new(k, KC).longest() >= DEEP
}

impl<'a> Lhs<'a> {
    /// m, k.
    pub(super) fn size(&self) -> (usize, usize) {
        match self {
            Lhs::Plain(a) => (a.rows(), a.columns()),
            Lhs::Packed(a) => (a.m, a.k),
        }
    }

    /// A matrix whose rows meet in one set of the first cache, which can not hold those of a tile, or whose columns lie
    /// apart, so that each product of a tile is in another line.
    pub(super) fn scattered(&self) -> Option<MatRef<'a>> {
        match *self {
            Lhs::Plain(a) => {
                let [rows, columns] = [a.row_stride(), a.column_stride()].map(isize::unsigned_abs);
                (collide(rows) || columns > 1).then_some(a)
            }
            Lhs::Packed(_) => None,
        }
    }

    /// The rows over a block of the depth.
    pub(super) fn rows(&self, blocks: Blocks, block: usize) -> Operand {
        match *self {
            Lhs::Packed(a) if is_deep(a.k) => Operand::new(a.packed[block * a.m * ROW..].as_ptr(), ROW, 1),
            Lhs::Packed(a) => Operand::new(a.packed.as_ptr(), a.k, 1),
            Lhs::Plain(a) => {
                Operand { at: a.pointer(0, blocks.get(block).start), step: a.row_stride(), depth: a.column_stride() }
            }
        }
    }

    /// Whether a row lies in vectors along a depth of k that is worth summing in vectors.
    pub(super) fn rows_are_vectors(&self, k: usize) -> bool {
        let apart = matches!(self, Lhs::Plain(a) if a.column_stride() != 1 || a.row_stride() < 0);
        is_deep(k) && !apart
    }
}
