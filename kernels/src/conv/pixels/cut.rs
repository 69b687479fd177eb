//! How the result is cut into blocks whose sources fit a cache, by the cycles that each cut takes.

use crate::blocking::Blocks;
use crate::buffer::LINE;
use crate::conv::pixels::axis::Axis;
use crate::simd::MAX_ROWS;

/// Bytes of a copied block of the source and of its sums: a part of a second-level cache of 1 MiB.
const BLOCK_BYTES: usize = 384 << 10;
/// Cycles that it takes to begin and to end a tile, to begin a row of a copy and to copy a vector, and to
/// add a vector of sums and to store it in the result.
const TILE: usize = 16;
const ROW: usize = 16;
const COPY: usize = 3;
const STORE: usize = 4;

/// What a cut depends on.
pub(super) struct Problem<'a> {
    pub(super) axes: &'a [Axis; 2],
    pub(super) channels: usize,
    pub(super) panels: Blocks,
    pub(super) lanes: usize,
    /// Vectors of the widest tile of 1, 2, ... rows.
    pub(super) widths: [usize; MAX_ROWS],
}

/// A cut, with the layout of the copy of what a block reads and of its sums.
#[derive(Clone, Debug)]
pub(super) struct Cut {
    /// Blocks down an image, in rows of the phases.
    pub(super) down: Blocks,
    /// Blocks along the rows of the phases, in vectors.
    pub(super) along: Blocks,
    /// The channels of each part of the depth, so that the copy fits.
    pub(super) depth: Blocks,
    /// Whether the vectors of a tile lie one below the other, or else side by side.
    pub(super) upright: bool,
    /// Distances in the copy.
    pub(super) comb_pitch: usize,
    pub(super) row_pitch: usize,
    pub(super) plane: usize,
    /// Distances in the sums.
    pub(super) sums_pitch: usize,
    pub(super) sums_plane: usize,
    /// About how many cycles an image takes.
    pub(super) cycles: usize,
}

impl Cut {
    /// The one that takes the fewest cycles.
    pub(super) fn new(problem: &Problem<'_>) -> Self {
        let [vertical, horizontal] = problem.axes;
        let rows = vertical.steps().max(1);
        let vectors = horizontal.steps().div_ceil(problem.lanes).max(1);
        // Blocks higher than a few tiles save nothing.
        let lowest = rows.div_ceil(4 * problem.widths[0]);
        let heights = (lowest..=rows).map(|count| Blocks::cut(rows, count));
        let mut last = 0;
        let heights = heights.filter(|down| std::mem::replace(&mut last, down.longest()) != down.longest());
        let cuts = heights.flat_map(|down| (1..=vectors).map(move |count| (down, Blocks::cut(vectors, count))));
        let cuts = cuts.flat_map(|(down, along)| [true, false].map(|upright| Cut::of(problem, down, along, upright)));
        cuts.min_by_key(|cut| cut.cycles).expect("at least one block")
    }

    fn of(problem: &Problem<'_>, down: Blocks, along: Blocks, upright: bool) -> Self {
        let &Problem { axes: [vertical, horizontal], channels, panels, lanes, widths } = problem;
        let (rows, width) = (down.longest(), along.longest() * lanes);
        let source_rows = vertical.reach(0..rows).len();
        // Whole lines, so that what is aligned in one row is aligned in all.
        let comb_pitch = horizontal.comb_reach(0..width).len().next_multiple_of(LINE);
        let row_pitch = horizontal.source_step * comb_pitch;
        // An odd number of lines, so that the same pixel of all channels does not fall on few sets of a cache.
        let plane = ((source_rows * row_pitch / LINE) | 1) * LINE;
        let sums_pitch = horizontal.out_step() * width;
        let sums_plane = rows * vertical.out_step() * sums_pitch;
        let room = (BLOCK_BYTES / size_of::<f32>()).saturating_sub(panels.length() * sums_plane);
        let depth = Blocks::new(channels, (room / plane).max(1));

        let taps: usize =
            horizontal.phases.iter().map(Vec::len).sum::<usize>() * vertical.phases.iter().map(Vec::len).sum::<usize>();
        let phases = vertical.out_step() * horizontal.out_step();
        let (side, other) = if upright { (down, along) } else { (along, down) };
        let panel = |m: usize| {
            let tiles = |length: usize| Blocks::new(length, widths[m - 1]);
            let tile = |n: usize| steps(m, n) * taps * channels / 2 + TILE * phases * depth.count();
            side.sizes().flat_map(|length| tiles(length).sizes()).map(tile).sum::<usize>() * other.length()
        };
        let multiply: usize = panels.sizes().map(panel).sum();
        let blocks = down.count() * along.count();
        let copy = blocks * channels * (plane / lanes * COPY + source_rows * ROW);
        let store = blocks * panels.length() * sums_plane / lanes * STORE * depth.count();
        let too_large = (plane * depth.longest() + panels.length() * sums_plane) * size_of::<f32>() > BLOCK_BYTES;
        let cycles = multiply + copy + store;
        // Blocks that do not fit the cache are for the want of others.
        let cycles = if too_large { cycles * 4 } else { cycles };
        Cut { down, along, depth, upright, comb_pitch, row_pitch, plane, sums_pitch, sums_plane, cycles }
    }

    /// Blocks of an image.
    pub(super) fn of_image(&self) -> usize {
        self.down.count() * self.along.count()
    }

    /// Elements of the copy of a block.
    pub(super) fn copy_len(&self) -> usize {
        // The last row is written in whole vectors.
        self.depth.longest() * self.plane + LINE
    }
}

/// Half cycles, about, that a tile of m rows by n vectors takes for each product of the depth: two
/// products or two loads at once, of which those that straddle cache lines count twice, and sums four
/// cycles after one another.
fn steps(m: usize, n: usize) -> usize {
    (m * n).max(m + 2 * n).max(8)
}
