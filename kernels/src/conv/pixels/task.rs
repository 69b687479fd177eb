//! The work of a thread: a block of the result.

use std::ops::Range;

use crate::combine::Combine;
use crate::conv::copy::Copy;
use crate::conv::panels::with_shape;
use crate::conv::pixels::PixelProduct;
use crate::microkernel::{Depth, Epilogue, LinearEpilogue, Panel, Place, multiply};
use crate::simd::{Kernel, Simd};

/// A block of an image.
pub(super) struct Task<'a> {
    pub(super) product: &'a PixelProduct,
    pub(super) packed: &'a [f32],
    pub(super) bias: Option<&'a [f32]>,
    /// An image of the source, and one of the result.
    pub(super) from: &'a [f32],
    pub(super) out: *mut f32,
    /// Rows of the phases, and vectors along them.
    pub(super) rows: Range<usize>,
    pub(super) vectors: Range<usize>,
    pub(super) copy: &'a mut [f32],
    pub(super) sums: &'a mut [f32],
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let product = self.product;
        for part in 0..product.cut.depth.count() {
            let channels = product.cut.depth.get(part);
            self.copy(s, channels.clone());
            let combine = match part {
                0 => Combine { bias: self.bias, ..Combine::default() },
                _ => Combine { beta: 1.0, ..Combine::default() },
            };
            let epilogue = LinearEpilogue::new(&combine, self.sums, product.cut.sums_plane);
            self.multiply(s, channels, epilogue);
        }
        self.store(s);
    }
}

impl Task<'_> {
    #[inline(always)]
    fn copy<S: Simd>(&mut self, s: S, channels: Range<usize>) {
        let PixelProduct { axes: [vertical, horizontal], source, cut, used_rows, used_combs, .. } = self.product;
        let plane = source[0] * source[1];
        let columns = self.vectors.start * S::LANES..self.vectors.end * S::LANES;
        let copy = Copy {
            from: &self.from[channels.start * plane..channels.end * plane],
            size: *source,
            used_rows,
            rows: vertical.reach(self.rows.clone()),
            columns: horizontal.comb_reach(columns),
            combs: horizontal.source_step,
            used_combs,
            comb_pitch: cut.comb_pitch,
            row_pitch: cut.row_pitch,
            plane: cut.plane,
            to: self.copy,
        };
        copy.run(s);
    }

    /// Adds the products of some channels to the sums, or begins with them.
    #[inline(always)]
    fn multiply<S: Simd>(&self, s: S, channels: Range<usize>, epilogue: LinearEpilogue) {
        let PixelProduct { axes: [vertical, horizontal], cut, panels, tables, taps, .. } = self.product;
        let (rows, vectors) = (self.rows.len(), self.vectors.len());
        let source_steps = [vertical.source_step * cut.row_pitch, S::LANES];
        let sums_steps = [vertical.out_step() * cut.sums_pitch, S::LANES];
        let (along, side) = if cut.upright { (0, 1) } else { (1, 0) };
        let lengths = [rows, vectors];
        let phases = (0..vertical.out_step()).flat_map(|y| (0..horizontal.out_step()).map(move |x| [y, x]));
        for (table, [y, x]) in tables.iter().zip(phases) {
            let table = &table[..table.len() / cut.depth.longest().max(1) * channels.len()];
            let first = y * cut.sums_pitch + x * vectors * S::LANES;
            for line in 0..lengths[side] {
                for equal in panels.equal(0..panels.count()) {
                    let tiles = lengths[along].div_ceil(S::WIDTHS[equal.size - 1]);
                    let mut done = 0;
                    for tile in 0..tiles {
                        // Equal tiles, so that no sliver is left.
                        let n = (lengths[along] - done).div_ceil(tiles - tile);
                        let source = line * source_steps[side] + done * source_steps[along];
                        let at = first + line * sums_steps[side] + done * sums_steps[along];
                        for panel in 0..equal.count {
                            let row = equal.start + panel * equal.size;
                            let weights = row * self.product.channels + channels.start * equal.size;
                            let tile = Tile {
                                weights: self.packed[weights * taps..].as_ptr(),
                                source: self.copy[source..].as_ptr(),
                                source_step: source_steps[along],
                                place: Place { row, rows: equal.size, at, step: sums_steps[along] },
                            };
                            tile.run(s, n, table, epilogue);
                        }
                        done += n;
                    }
                }
            }
        }
    }

    /// Puts the sums of all phases into the rows of the result.
    #[inline(always)]
    fn store<S: Simd>(&self, s: S) {
        let PixelProduct { axes: [vertical, horizontal], cut, panels, .. } = self.product;
        let (height, width) = (vertical.outputs, horizontal.outputs);
        let (down, step) = (vertical.out_step(), horizontal.out_step());
        let columns = self.vectors.len() * S::LANES;
        let first = self.vectors.start * S::LANES * step;
        let count = (columns * step).min(width - first);
        for row in 0..panels.length() {
            for y in self.rows.start * down..height.min(self.rows.end * down) {
                let sums = &self.sums[row * cut.sums_plane + (y - self.rows.start * down) * cut.sums_pitch..];
                let sums = &sums[..columns * step];
                // SAFETY: the columns of the row are in the image of the result, which nobody else writes there.
                let out = unsafe {
                    let out = self.out.add((row * height + y) * width + first);
                    std::slice::from_raw_parts_mut(out, count)
                };
                match step {
                    1 => store_row(s, sums, out),
                    2 => join_row(s, sums, out),
                    _ => {
                        for (phase, sums) in sums.chunks_exact(columns).enumerate() {
                            let out = out.get_mut(phase..).unwrap_or_default();
                            out.iter_mut().step_by(step).zip(sums).for_each(|(out, &sum)| *out = sum);
                        }
                    }
                }
            }
        }
    }
}

/// `sums` in whole vectors, of which the first are the row.
#[inline(always)]
fn store_row<S: Simd>(s: S, sums: &[f32], out: &mut [f32]) {
    for (sums, out) in sums.chunks_exact(S::LANES).zip(out.chunks_mut(S::LANES)) {
        // SAFETY: both chunks are as long as what is loaded and stored.
        unsafe { put(s, out, s.load(sums.as_ptr())) }
    }
}

/// Two phases in whole vectors, of which the first elements in turn are the row.
#[inline(always)]
fn join_row<S: Simd>(s: S, sums: &[f32], out: &mut [f32]) {
    let (even, odd) = sums.split_at(sums.len() / 2);
    let phases = even.chunks_exact(S::LANES).zip(odd.chunks_exact(S::LANES));
    for ((even, odd), out) in phases.zip(out.chunks_mut(2 * S::LANES)) {
        // SAFETY: both chunks are of LANES elements.
        let (low, high) = unsafe { s.join_pairs(s.load(even.as_ptr()), s.load(odd.as_ptr())) };
        let (first, second) = out.split_at_mut(out.len().min(S::LANES));
        put(s, first, low);
        put(s, second, high);
    }
}

/// The first elements of a vector, as many as `out` has.
#[inline(always)]
fn put<S: Simd>(s: S, out: &mut [f32], v: S::V) {
    // SAFETY: no more elements are written than `out` has.
    unsafe {
        match out.len() {
            n if n < S::LANES => s.store_first(out.as_mut_ptr(), v, n),
            _ => s.store(out.as_mut_ptr(), v),
        }
    }
}

/// Some vectors of pixels of a panel.
#[derive(Clone, Copy)]
struct Tile {
    weights: *const f32,
    /// The first pixel, and the distance of the vectors.
    source: *const f32,
    source_step: usize,
    place: Place,
}

impl Tile {
    #[inline(always)]
    fn run<S: Simd, D: Depth>(self, s: S, vectors: usize, depth: D, epilogue: LinearEpilogue) {
        with_shape!((self.place.rows, vectors), self.multiply(s, depth, epilogue))
    }

    #[inline(always)]
    fn multiply<S: Simd, D: Depth, const M: usize, const N: usize>(self, s: S, depth: D, epilogue: LinearEpilogue) {
        if N > S::WIDTHS[M - 1] {
            unreachable!("tiles are cut to the level's width");
        }
        // SAFETY: the plan put all taps of the block's pixels into the copy, the panel into the packed weights, and the
        // sums of all rows of the block into the scratch.
        unsafe {
            let sums = multiply::<S, Panel, D, M, N>(s, self.weights, Panel, self.source, self.source_step, depth);
            epilogue.finish(s, sums, self.place);
        }
    }
}
