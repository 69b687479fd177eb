//! The register tile: M pixels of a row by N vectors of channels.

use crate::blocking::Blocks;
use crate::microkernel::Tap;
use crate::simd::Simd;

/// The most pixels of a tile.
const MAX_PIXELS: usize = 16;
/// The most vectors of channels of a tile.
pub(super) const MAX_VECTORS: usize = 4;

/// The most pixels that a tile of `vectors` vectors may have: the sums, one product's vectors and a
/// broadcast fill the registers.
pub(super) const fn most_pixels(registers: usize, vectors: usize) -> usize {
    let pixels = (registers - 1 - vectors) / vectors;
    if pixels < MAX_PIXELS { pixels } else { MAX_PIXELS }
}

/// The operands of a tile.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    /// `[channel][tap of the kernel][N * LANES]`.
    pub(super) weights: *const f32,
    /// Elements of the weights of a group of channels.
    pub(super) weight_step: usize,
    /// The first pixel, in the first channel.
    pub(super) source: *const f32,
    /// Distance of groups.
    pub(super) source_step: usize,
    /// The taps of a group of channels, one channel after the other.
    pub(super) taps: &'a [Tap],
    /// Taps that are summed: of as many whole groups as there are, and of a part of one.
    pub(super) depth: usize,
    /// What the sums begin with: vector n of pixel m at `start + n * start_steps[1] + m * start_steps[0]`.
    pub(super) start: *const f32,
    pub(super) start_steps: [usize; 2],
    /// Where they go, likewise.
    pub(super) sums: *mut f32,
    pub(super) steps: [usize; 2],
}

/// Computes a tile of M pixels by N vectors.
///
/// # Safety
/// All operands of all channels, taps, pixels and vectors must be readable, the sums writable.
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd, const M: usize, const N: usize>(s: S, tile: Tile<'_>) {
    if M > most_pixels(S::REGISTERS, N) {
        unreachable!("tiles are cut to the registers");
    }
    let mut sums = [[s.splat(0.0); N]; M];
    // SAFETY: as by contract.
    unsafe {
        for (m, sums) in sums.iter_mut().enumerate() {
            for (n, sum) in sums.iter_mut().enumerate() {
                *sum = s.load(tile.start.add(n * tile.start_steps[1] + m * tile.start_steps[0]));
            }
        }
        let (mut weights, mut source) = (tile.weights, tile.source);
        let mut left = tile.depth;
        while left > 0 {
            let group = tile.taps.get_unchecked(..left.min(tile.taps.len()));
            for tap in group {
                let weights = weights.add(tap.row as usize * N * S::LANES);
                let source = source.add(tap.offset as usize);
                let mut w = [s.splat(0.0); N];
                for (n, w) in w.iter_mut().enumerate() {
                    *w = s.load(weights.add(n * S::LANES));
                }
                for (m, sums) in sums.iter_mut().enumerate() {
                    let pixel = s.splat(*source.add(m));
                    for (sum, w) in sums.iter_mut().zip(w) {
                        *sum = s.fma(w, pixel, *sum);
                    }
                }
            }
            left -= group.len();
            weights = weights.wrapping_add(tile.weight_step);
            source = source.wrapping_add(tile.source_step);
        }
        for (m, sums) in sums.into_iter().enumerate() {
            for (n, sum) in sums.into_iter().enumerate() {
                s.store(tile.sums.add(n * tile.steps[1] + m * tile.steps[0]), sum);
            }
        }
    }
}

/// Calls `$function::<S, M, N>` with the constants for a number of pixels and of vectors.
macro_rules! with_tile {
    ($pixels:expr, $vectors:expr, $function:ident $arguments:tt) => {
        match $vectors {
            1 => with_tile!(@pixels $pixels, 1, $function $arguments),
            2 => with_tile!(@pixels $pixels, 2, $function $arguments),
            3 => with_tile!(@pixels $pixels, 3, $function $arguments),
            4 => with_tile!(@pixels $pixels, 4, $function $arguments),
            vectors => unreachable!("no tile of {vectors} vectors"),
        }
    };
    (@pixels $pixels:expr, $vectors:literal, $function:ident $arguments:tt) => {
        with_tile!(@each $pixels, $vectors, $function $arguments, 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16)
    };
    (@each $pixels:expr, $vectors:literal, $function:ident $arguments:tt, $($count:literal)*) => {
        match $pixels {
            $($count => $function::<S, $count, $vectors> $arguments,)*
            pixels => unreachable!("no tile of {pixels} pixels"),
        }
    };
}
pub(super) use with_tile;

/// How many vectors a panel of channels has, for `vectors` in all and rows of `pixels`: the tiles that
/// take the fewest steps.
pub(super) fn panel_width(registers: usize, vectors: usize, pixels: usize) -> usize {
    let cost = |width: &usize| {
        let tallest = most_pixels(registers, *width);
        let tiles = |n: usize| Blocks::new(pixels, tallest).sizes().map(|m| steps(m, n)).sum::<usize>();
        Blocks::new(vectors, *width).sizes().map(tiles).sum::<usize>()
    };
    (1..=MAX_VECTORS.min(vectors)).filter(|&n| most_pixels(registers, n) > 0).min_by_key(cost).unwrap_or(1)
}

/// Half cycles, about, that a tile of m x n takes for each product of the depth: two products or two
/// loads at once, sums four cycles after one another, weights at half a vector per cycle from the
/// second-level cache.
pub(super) fn steps(m: usize, n: usize) -> usize {
    (m * n).max(m + n + 2).max(4 * n).max(8)
}
