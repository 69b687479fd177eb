//! The product behind a convolution and its transpose: packed weights times a tensor of lanes.
//!
//! The plan sorts the pixels of the output into classes that read the same taps, and gives each
//! class a table of addresses: the im2col matrix, without the copies.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

use crate::blocking::Blocks;
use crate::combine::Combine;
use crate::conv::check_len;
use crate::conv::geometry::{Axis, AxisRun, AxisSize, ConvShape};
use crate::conv::panels::PanelProduct;
use crate::level::Level;
use crate::microkernel::Tap;
use crate::pack::{Source, pack};
use crate::parallel::threads_for;
use crate::simd::{MAX_ROWS, dispatch, lanes};

/// Rows of the tallest tile of several pixels.
const LOW_ROWS: usize = 6;

/// So many ascending streams of addresses does the hardware follow by itself.
const STREAMS: usize = 32;

/// A product of packed weights with a tensor of lanes, for either direction.
#[derive(Clone, Debug)]
pub(crate) struct LaneProduct {
    source: Source,
    panels: Blocks,
    pub(crate) depth: usize,
    /// Elements of one channel of the source and of the output.
    source_plane: usize,
    pub(crate) out_plane: usize,
    source_channels: usize,
    pub(crate) classes: Vec<Class>,
    bands: Vec<Band>,
}

/// Some rows of the output, all of which it is cut into.
#[derive(Clone, Debug)]
struct Band {
    rows: Range<usize>,
    runs: Vec<Run>,
}

/// The taps of the pixels that share a table of addresses.
#[derive(Clone, Debug)]
pub(crate) struct Class {
    pub(crate) taps: Vec<Tap>,
    /// Distance of the addresses if they are one step apart and the panel is read in order.
    pub(crate) stride: Option<usize>,
    /// Offsets of the taps that are no other tap's one vector further, where a tile meets what the one before it
    /// did not; none if they are so few that the hardware fetches them ahead by itself.
    pub(crate) fresh: Vec<u32>,
    /// Distance of consecutive vectors of a run, in elements.
    pub(crate) source_step: usize,
    pub(crate) out_step: usize,
}

/// Pixels one step apart, along a row or down a column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// Index of its class.
    pub(crate) class: usize,
    /// Offset of the first output vector in its channel.
    pub(crate) out: usize,
    /// Offset of the first operand in the source.
    pub(crate) source: usize,
    pub(crate) count: usize,
}

/// Rows narrower than this are left for columns, if those are longer: a tile of few vectors does not
/// hide the latency of its sums, and a border has a column of them.
const NARROW_ROW: usize = 4;

impl LaneProduct {
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn new(
        lanes: usize,
        source: Source,
        axes: [Axis; 2],
        [source_channels, rows]: [usize; 2],
        source_size: [usize; 2],
        out_size: [usize; 2],
        shape: &ConvShape,
        rows_per_band: usize,
    ) -> Self {
        let source_plane = source_size[0] * source_size[1] * lanes;
        let out_plane = out_size[0] * out_size[1] * lanes;
        let [vertical, horizontal] = &axes;
        // What a step down and a step along adds to an offset in the source, and in the output.
        let source_steps = [vertical.source_step * source_size[1] * lanes, horizontal.source_step * lanes];
        let out_steps = [vertical.out_step * out_size[1] * lanes, horizontal.out_step * lanes];
        let mut classes: Vec<Class> = Vec::new();
        // The classes by what their tables hash to.
        let (mut known, hasher) = (HashMap::<u64, Vec<usize>>::new(), RandomState::new());
        let mut bands: Vec<Band> = (0..out_size[0])
            .step_by(rows_per_band)
            .map(|first| Band { rows: first..(first + rows_per_band).min(out_size[0]), runs: Vec::new() })
            .collect();
        for down in &vertical.runs {
            for along in &horizontal.runs {
                let first = |run: &AxisRun| run.taps.iter().map(|&(_, i)| i).min().unwrap_or(0);
                let (top, left) = (first(down), first(along));
                let mut taps = Vec::with_capacity(source_channels * down.taps.len() * along.taps.len());
                for channel in 0..source_channels {
                    for &(ky, y) in &down.taps {
                        for &(kx, x) in &along.taps {
                            let row = channel * shape.taps() + ky * shape.kernel[1] + kx;
                            let pixel = (y - top) * source_size[1] + (x - left);
                            taps.push(Tap::new(row, channel * source_plane + pixel * lanes));
                        }
                    }
                }
                // The taps of a transpose descend, and hardware fetches ahead of ascending addresses better: a fifth of
                // the time of 128 channels.
                taps.sort_unstable_by_key(|tap| tap.offset);
                let upright = along.count < NARROW_ROW.min(down.count);
                let step = usize::from(!upright);
                let counts = [down.count, along.count];
                let (source_step, out_step) = (source_steps[step], out_steps[step]);
                let alike = known.entry(hasher.hash_one((source_step, out_step, &taps))).or_default();
                let same = |&class: &usize| {
                    let class: &Class = &classes[class];
                    (class.source_step, class.out_step) == (source_step, out_step) && class.taps == taps
                };
                let class = alike.iter().copied().find(same).unwrap_or_else(|| {
                    let stride = stride(&taps);
                    let fresh = fresh(&taps, source_step);
                    classes.push(Class { taps, stride, fresh, source_step, out_step });
                    alike.push(classes.len() - 1);
                    classes.len() - 1
                });
                let run = |y: usize, x: usize, count: usize| Run {
                    class,
                    out: (down.first * out_size[1] + along.first) * lanes + y * out_steps[0] + x * out_steps[1],
                    source: (top * source_size[1] + left) * lanes + y * source_steps[0] + x * source_steps[1],
                    count,
                };
                for band in &mut bands {
                    // The rows of the run of rows that lie in the band.
                    let before =
                        |row: usize| row.saturating_sub(down.first).div_ceil(vertical.out_step).min(down.count);
                    let rows = before(band.rows.start)..before(band.rows.end);
                    match upright {
                        true if rows.is_empty() => {}
                        true => band.runs.extend((0..counts[1]).map(|x| run(rows.start, x, rows.len()))),
                        false => band.runs.extend(rows.map(|y| run(y, 0, counts[1]))),
                    }
                }
            }
        }
        classes.shrink_to_fit();
        bands.iter_mut().for_each(|band| band.runs.shrink_to_fit());
        let longest = bands.iter().flat_map(|band| &band.runs).map(|run| run.count).max().unwrap_or(0);
        LaneProduct {
            source,
            // One vector has to hide the latency by its height alone.
            panels: Blocks::new(rows, if longest > 1 { LOW_ROWS } else { MAX_ROWS }),
            depth: source_channels * shape.taps(),
            source_plane,
            out_plane,
            source_channels,
            classes,
            bands,
        }
    }

    /// At most so many bytes do the tables of a plan for axes of these sizes take, on `rows` rows of the output.
    pub(crate) fn table_bytes([down, along]: [AxisSize; 2], source_channels: usize, rows: usize) -> usize {
        let product = |factors: [usize; 3]| factors.into_iter().fold(1, usize::saturating_mul);
        let taps = product([source_channels, down.taps, along.taps]);
        let tables = taps.saturating_mul(size_of::<Tap>() + size_of::<u32>());
        let classes = product([down.runs, along.runs, size_of::<Class>()]);
        // Bands of a row each, in which columns narrower than a row is wide are runs of their own.
        let runs = product([rows, along.runs, NARROW_ROW * size_of::<Run>()]);
        let bands = rows.saturating_mul(size_of::<Band>());
        [classes, runs, bands].into_iter().fold(tables, usize::saturating_add)
    }

    pub(crate) fn out_len(&self) -> usize {
        self.panels.length() * self.out_plane
    }

    pub(crate) fn packed_len(&self) -> usize {
        self.panels.length() * self.depth
    }

    pub(crate) fn pack(&self, weight: &[f32], packed: &mut [f32], parallel: bool) {
        check_len("weight", weight.len(), self.packed_len());
        check_len("packed weight", packed.len(), self.packed_len());
        for part in self.panels.equal(0..self.panels.count()) {
            let rows = part.count * part.size;
            let weight = &weight[(part.start * self.source.row_stride).min(weight.len())..];
            let packed = &mut packed[part.start * self.depth..][..rows * self.depth];
            pack(weight, self.source, rows, self.depth, part.size, packed, parallel);
        }
    }

    /// How many bands the rows of the output are cut into.
    pub(crate) fn bands(&self) -> usize {
        self.bands.len()
    }

    /// The rows of a band.
    pub(crate) fn band_rows(&self, band: usize) -> Range<usize> {
        self.bands[band].rows.clone()
    }

    /// The rows of some bands, in their place in the output.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn run(
        &self,
        level: Level,
        bands: Range<usize>,
        packed: &[f32],
        from: &[f32],
        combine: Combine<'_>,
        out: &mut [f32],
        parallel: bool,
    ) {
        check_len("output", out.len(), self.out_len());
        if combine.gamma != 0.0 {
            check_len("third operand", combine.other.len(), self.out_len());
        }
        if let Some(bias) = combine.bias {
            check_len("bias", bias.len(), self.panels.length());
        }
        if let Some(step) = combine.step {
            check_len("step", step.len(), lanes(level));
        }
        for band in &self.bands[bands] {
            let place = (0, self.out_plane);
            self.run_band(level, band, place, packed, from, combine, &mut *out, parallel);
        }
    }

    /// The rows of a band, without gaps where other rows would be.
    pub(crate) fn run_alone(
        &self,
        level: Level,
        band: usize,
        packed: &[f32],
        from: &[f32],
        out: &mut [f32],
        parallel: bool,
    ) {
        let band = &self.bands[band];
        let row = self.out_plane / self.bands.last().map_or(1, |band| band.rows.end);
        let plane = band.rows.len() * row;
        check_len("output", out.len(), self.panels.length() * plane);
        let place = (band.rows.start * row, plane);
        self.run_band(level, band, place, packed, from, Combine::default(), out, parallel);
    }

    #[allow(clippy::too_many_arguments)]
    fn run_band(
        &self,
        level: Level,
        band: &Band,
        (first, plane): (usize, usize),
        packed: &[f32],
        from: &[f32],
        combine: Combine<'_>,
        out: &mut [f32],
        parallel: bool,
    ) {
        check_len("packed weight", packed.len(), self.packed_len());
        check_len("source", from.len(), self.source_channels * self.source_plane);
        let runs = band.runs.as_slice();
        let product =
            PanelProduct { product: self, panels: self.panels, runs, packed, from, combine, out, first, plane };
        let work = 2 * (self.panels.length() * plane * self.depth) as u64;
        // One piece for all panels keeps the source in the nearest cache; several share the work.
        let pieces = match threads_for(work) {
            threads if parallel && threads > 1 => 4 * threads,
            _ => 1,
        };
        share(level, product, pieces);
    }
}

/// Cuts a product into `pieces` of whole panels for the threads of the current rayon pool.
fn share(level: Level, product: PanelProduct<'_>, pieces: usize) {
    if pieces <= 1 || product.panels.count() <= 1 {
        return dispatch(level, product);
    }
    let (low, high) = product.halves();
    rayon::join(|| share(level, low, pieces / 2), || share(level, high, pieces - pieces / 2));
}

/// See [`Class::fresh`].
fn fresh(taps: &[Tap], step: usize) -> Vec<u32> {
    let found = |offset: usize| taps.binary_search_by_key(&offset, |tap| tap.offset as usize).is_ok();
    let fresh = taps.iter().map(|tap| tap.offset).filter(|&offset| !found(offset as usize + step));
    Some(fresh.collect()).filter(|fresh: &Vec<u32>| fresh.len() > STREAMS).unwrap_or_default()
}

/// The common distance of the addresses of a table that reads its panel in order from the start.
fn stride(taps: &[Tap]) -> Option<usize> {
    let step = taps.get(1).map_or(0, |tap| tap.offset.wrapping_sub(taps[0].offset));
    let regular = taps.iter().zip(0u32..).all(|(tap, k)| tap.row == k && Some(tap.offset) == k.checked_mul(step));
    regular.then_some(step as usize)
}
