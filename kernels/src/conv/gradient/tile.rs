//! The register tiles of weight gradients.

use crate::microkernel::tile_width;
use crate::simd::Simd;

/// Rows of the tallest tile whose rows are broadcast, for a width of at most [`outer_vectors`].
pub(super) fn outer_rows(vectors: usize) -> usize {
    if vectors == 1 { 8 } else { 6 }
}

/// Vectors of the widest tile whose rows are broadcast.
pub(super) fn outer_vectors(registers: usize) -> usize {
    tile_width(registers, outer_rows(2))
}

/// Rows and columns of the largest tile that loads vectors for both, of 32 registers or of 16: the square
/// loads the fewest for each product.
#[inline(always)]
pub(super) fn inner_tile<S: Simd>(_: S) -> [usize; 2] {
    if S::REGISTERS >= 32 { [5, 5] } else { [4, 3] }
}

/// Calls `$function::<M, N>` with the constants for M rows and N vectors of either kind of tile.
macro_rules! with_tile {
    ($rows:expr, $vectors:expr, $function:ident :: < $simd:ty > $arguments:tt) => {
        match ($rows, $vectors) {
            (1, 1) => $function::<$simd, 1, 1> $arguments,
            (1, 2) => $function::<$simd, 1, 2> $arguments,
            (1, 3) => $function::<$simd, 1, 3> $arguments,
            (1, 4) => $function::<$simd, 1, 4> $arguments,
            (1, 5) => $function::<$simd, 1, 5> $arguments,
            (2, 1) => $function::<$simd, 2, 1> $arguments,
            (2, 2) => $function::<$simd, 2, 2> $arguments,
            (2, 3) => $function::<$simd, 2, 3> $arguments,
            (2, 4) => $function::<$simd, 2, 4> $arguments,
            (2, 5) => $function::<$simd, 2, 5> $arguments,
            (3, 1) => $function::<$simd, 3, 1> $arguments,
            (3, 2) => $function::<$simd, 3, 2> $arguments,
            (3, 3) => $function::<$simd, 3, 3> $arguments,
            (3, 4) => $function::<$simd, 3, 4> $arguments,
            (3, 5) => $function::<$simd, 3, 5> $arguments,
            (4, 1) => $function::<$simd, 4, 1> $arguments,
            (4, 2) => $function::<$simd, 4, 2> $arguments,
            (4, 3) => $function::<$simd, 4, 3> $arguments,
            (4, 4) => $function::<$simd, 4, 4> $arguments,
            (4, 5) => $function::<$simd, 4, 5> $arguments,
            (5, 1) => $function::<$simd, 5, 1> $arguments,
            (5, 2) => $function::<$simd, 5, 2> $arguments,
            (5, 3) => $function::<$simd, 5, 3> $arguments,
            (5, 4) => $function::<$simd, 5, 4> $arguments,
            (5, 5) => $function::<$simd, 5, 5> $arguments,
            (7, 1) => $function::<$simd, 7, 1> $arguments,
            (8, 1) => $function::<$simd, 8, 1> $arguments,
            (6, 1) => $function::<$simd, 6, 1> $arguments,
            (6, 2) => $function::<$simd, 6, 2> $arguments,
            (6, 3) => $function::<$simd, 6, 3> $arguments,
            (6, 4) => $function::<$simd, 6, 4> $arguments,
            (rows, vectors) => unreachable!("no tile of {rows} x {vectors}"),
        }
    };
}
pub(super) use with_tile;
