//! How a result is cut into blocks whose sources fit a cache, and which of them are copied.

use std::ops::Range;

use crate::blocking;
use crate::buffer::LINE;
use crate::conv::channels::window::Window;

/// Bytes of the copied block of the source, if one row and tile of all channels fits.
const BLOCK_BYTES: usize = 320 << 10;

/// How a result is cut, and the layout of the copy of what a block reads.
#[derive(Clone, Debug)]
pub(super) struct Blocks {
    /// The rows of the blocks along an image.
    pub(super) down: blocking::Blocks,
    /// Blocks across an image.
    pub(super) strips: Vec<Strip>,
    /// Distances in the copy.
    pub(super) comb_pitch: usize,
    pub(super) row_pitch: usize,
    pub(super) plane: usize,
}

/// Columns of each phase.
#[derive(Clone, Debug)]
pub(super) struct Strip {
    pub(super) columns: Range<usize>,
    /// Whether the source is read where it is.
    pub(super) direct: bool,
}

/// Columns that are copied, and columns that are read where they are: those whose taps are all inside
/// of the source, if they are most.
pub(super) fn strips(
    window: &Window,
    channels: usize,
    source: [usize; 2],
    columns: usize,
    tile: usize,
    lanes: usize,
) -> Vec<Strip> {
    let inside = |columns: Range<usize>| {
        let reach = window.source_columns(columns);
        reach.start >= 0 && reach.end <= source[1] as isize
    };
    let strip = |columns: Range<usize>, direct| Strip { columns, direct };
    let plane = source[0] * source[1] * size_of::<f32>();
    if window.combs > 1 || collide(plane, channels) {
        return vec![strip(0..columns, false)];
    }
    if inside(0..columns) {
        return vec![strip(0..columns, true)];
    }
    let cut = blocking::Blocks::new(columns, tile);
    let tiles = cut.count();
    let edge = |index: usize| cut.get(index).start;
    let first = (0..tiles).find(|&i| inside(cut.get(i))).unwrap_or(tiles);
    let last = (first..tiles).take_while(|&i| inside(cut.get(i))).count() + first;
    if (last - first) * 2 <= tiles {
        return vec![strip(0..columns, false)];
    }
    // Whole vectors of pixels from the first of a row on are stored faster.
    let first = if first == 0 { 0 } else { edge(first).next_multiple_of(lanes) };
    let last = if last == tiles { columns } else { edge(last) / lanes * lanes };
    if first >= last {
        return vec![strip(0..columns, false)];
    }
    let mut strips = vec![strip(0..first, false), strip(first..last, true), strip(last..columns, false)];
    strips.retain(|strip| !strip.columns.is_empty());
    strips
}

/// Whether the same pixels of all channels fall on so few sets of a second-level cache, which repeat
/// every 64 KiB, that half of its 16 ways do not hold them.
fn collide(plane: usize, channels: usize) -> bool {
    const REPEAT: usize = 64 << 10;
    let apart = 1 << plane.max(1).trailing_zeros();
    let places = REPEAT / apart.min(REPEAT);
    channels.div_ceil(places) > 8
}

impl Blocks {
    /// The cut that copies the fewest pixels, of those whose copies fit.
    pub(super) fn new(window: &Window, channels: usize, out_rows: usize, strips: Vec<Strip>, tile: usize) -> Self {
        let cut = |down: usize, across: usize| {
            let down = blocking::Blocks::cut(out_rows, down);
            let strips: Vec<Strip> = match strips.as_slice() {
                [whole] => {
                    let (count, direct) = (whole.columns.len(), whole.direct);
                    let columns = blocking::Blocks::cut(count, across);
                    columns.iter().map(|columns| Strip { columns, direct }).collect()
                }
                strips => strips.to_vec(),
            };
            let copied = strips.iter().filter(|strip| !strip.direct).map(|strip| strip.columns.len()).max();
            let source_rows = down.iter().map(|rows| window.source_rows(rows).len()).max().unwrap_or(0);
            let reach = |columns: usize| {
                let reach = window.source_columns(0..columns);
                (reach.end - reach.start) as usize
            };
            let comb_pitch = copied.map_or(0, reach);
            let row_pitch = window.combs * comb_pitch;
            // An odd number of lines, so that the same pixel of all channels does not fall on few sets of a cache.
            let plane = if copied.is_some() { ((source_rows * row_pitch).div_ceil(LINE) | 1) * LINE } else { 0 };
            let widest = strips.iter().map(|strip| reach(strip.columns.len())).max().unwrap_or(0);
            let read = source_rows * window.combs * widest;
            (read, Blocks { down, strips, comb_pitch, row_pitch, plane })
        };
        let fits = |(read, _): &(usize, Blocks)| channels * read * size_of::<f32>() <= BLOCK_BYTES;
        let lowest = |across: usize| (1..=out_rows.max(1)).map(|down| cut(down, across)).find(fits);
        let total = |(read, blocks): &(usize, Blocks)| read * blocks.of_image();
        let tiles = strips.iter().map(|strip| strip.columns.len().div_ceil(tile)).max().unwrap_or(1).max(1);
        let columns = strips.iter().map(|strip| strip.columns.len()).max().unwrap_or(0);
        let across = if strips.len() == 1 { tiles } else { 1 };
        // Narrower blocks may not make more tiles.
        let whole = |across: &usize| columns.div_ceil(*across).div_ceil(tile) * across <= tiles;
        let cuts = (1..=across).filter(whole).filter_map(lowest);
        cuts.min_by_key(total).unwrap_or_else(|| cut(out_rows.max(1), across)).1
    }

    /// How many there are of an image.
    pub(super) fn of_image(&self) -> usize {
        self.down.count() * self.strips.len()
    }

    /// The most columns of a block.
    pub(super) fn columns(&self) -> usize {
        self.strips.iter().map(|strip| strip.columns.len()).max().unwrap_or(0)
    }
}
