//! Panels of weights times tiles of pixels.

use crate::blocking::{Blocks, EqualBlocks};
use crate::combine::Combine;
use crate::conv::product::{Class, LaneProduct, Run};
use crate::microkernel::{Depth, Epilogue, LinearEpilogue, Panel, Place, Strided, multiply};
use crate::simd::{Kernel, Simd};

/// Some pixels of some panels.
pub(crate) struct PanelProduct<'a> {
    pub(crate) product: &'a LaneProduct,
    /// Rows cut into panels, so that no row is padding.
    pub(crate) panels: Blocks,
    /// The pixels.
    pub(crate) runs: &'a [Run],
    /// The panels, one after the other.
    pub(crate) packed: &'a [f32],
    pub(crate) from: &'a [f32],
    /// Of the rows of the panels, as `out`.
    pub(crate) combine: Combine<'a>,
    pub(crate) out: &'a mut [f32],
    /// The element of the planned output's channels that those of `out` begin with, and their elements.
    pub(crate) first: usize,
    pub(crate) plane: usize,
}

impl<'a> PanelProduct<'a> {
    /// Two products of half of the panels each.
    pub(crate) fn halves(self) -> (Self, Self) {
        let PanelProduct { product, panels, runs, packed, from, combine, out, first, plane } = self;
        let (low, high) = panels.split(panels.count() / 2);
        let rows = low.length();
        let (packed_low, packed_high) = packed.split_at(rows * product.depth);
        let (other_low, other_high) = match combine.gamma == 0.0 {
            true => (combine.other, combine.other),
            false => combine.other.split_at(rows * plane),
        };
        let (bias_low, bias_high) = combine.bias.map(|bias| bias.split_at(rows)).unzip();
        let (out_low, out_high) = out.split_at_mut(rows * plane);
        let part = |panels, packed, other, bias, out| {
            let combine = Combine { other, bias, ..combine };
            PanelProduct { product, panels, runs, packed, from, combine, out, first, plane }
        };
        (part(low, packed_low, other_low, bias_low, out_low), part(high, packed_high, other_high, bias_high, out_high))
    }
}

/// Calls `$tile.multiply::<_, _, M, N>` with the constants for its rows and columns: heights up to
/// MAX_ROWS, widths up to [`Simd::WIDTHS`].
macro_rules! with_shape {
    (($rows:expr, $columns:expr), $tile:ident.multiply $arguments:tt) => {
        with_shape!(@each ($rows, $columns), $tile $arguments,
            1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16;
            2: 1 2 3 4 5 6 7 8;
            3: 1 2 3 4 5 6 7 8;
            4: 1 2 3 4 5 6;
            5: 1 2 3 4 5;
            6: 1 2 3 4;
            7: 1;
            8: 1;
            9: 1;
            10: 1;
            11: 1;
            12: 1;
        )
    };
    (@each ($rows:expr, $columns:expr), $tile:ident $arguments:tt, $($m:literal: $($n:literal)*;)*) => {
        match ($rows, $columns) {
            $($(($m, $n) => $tile.multiply::<_, _, $m, $n> $arguments,)*)*
            (rows, columns) => unreachable!("no tile of {rows} x {columns}"),
        }
    };
}
pub(in crate::conv) use with_shape;

impl Kernel for PanelProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let epilogue = LinearEpilogue::new(&self.combine, self.out, self.plane);
        for (i, run) in self.runs.iter().enumerate() {
            let class = &self.product.classes[run.class];
            let following = self.runs.get(i + 1).map_or(run.source, |run| run.source);
            for (part, panels) in self.panels.equal(0..self.panels.count()).enumerate() {
                // The panels of the first size ask for what is new to all.
                let fetching = if part == 0 && !class.fresh.is_empty() { panels.count } else { 0 };
                let blocks = run.count.div_ceil(S::WIDTHS[panels.size - 1]);
                let mut done = 0;
                for block in 0..blocks {
                    // Equal blocks, so that no sliver is left.
                    let n = (run.count - done).div_ceil(blocks - block);
                    let source = run.source + done * class.source_step;
                    let next = if block + 1 < blocks { source + n * class.source_step } else { following };
                    let tile = Tile {
                        panels,
                        packed: self.packed[panels.start * self.product.depth..].as_ptr(),
                        panel_len: panels.size * self.product.depth,
                        // A run on padding alone has no operands, and may point beyond the source.
                        from: self.from.as_ptr().wrapping_add(source),
                        next: self.from.as_ptr().wrapping_add(next),
                        fetching,
                        at: run.out + done * class.out_step - self.first,
                        class,
                    };
                    match class.stride {
                        Some(stride) => tile.run(s, n, Strided { len: class.taps.len(), stride }, epilogue),
                        None => tile.run(s, n, class.taps.as_slice(), epilogue),
                    }
                    done += n;
                }
            }
        }
    }
}

/// Some pixels of some panels.
#[derive(Clone, Copy)]
struct Tile<'a> {
    panels: EqualBlocks,
    packed: *const f32,
    panel_len: usize,
    from: *const f32,
    /// The first operand of the tile that follows.
    next: *const f32,
    /// Panels that ask for what is new to it: the first so many.
    fetching: usize,
    /// Offset of the first pixel in its channel.
    at: usize,
    class: &'a Class,
}

impl Tile<'_> {
    #[inline(always)]
    fn run<S: Simd, D: Depth>(self, s: S, columns: usize, depth: D, epilogue: LinearEpilogue) {
        with_shape!((self.panels.size, columns), self.multiply(s, depth, epilogue))
    }

    /// One panel after the other, so that the pixels are read from the nearest cache.
    #[inline(always)]
    fn multiply<S: Simd, D: Depth, const M: usize, const N: usize>(self, s: S, depth: D, epilogue: LinearEpilogue) {
        if N > S::WIDTHS[M - 1] {
            unreachable!("tiles are cut to the level's width");
        }
        for panel in 0..self.panels.count {
            if panel < self.fetching {
                let Class { fresh, source_step: step, .. } = self.class;
                let share = fresh.len().div_ceil(self.fetching);
                let offsets = fresh.get(panel * share..fresh.len().min((panel + 1) * share)).unwrap_or_default();
                s.outlined(Fetch { offsets, from: self.next, step: *step, count: N });
            }
            // SAFETY: the panels and the operands of the run are inside slices whose lengths `LaneProduct::run`
            // checked against the plan; so are the output rows of those panels.
            unsafe {
                let weights = self.packed.add(panel * self.panel_len);
                let sums = multiply::<S, Panel, D, M, N>(s, weights, Panel, self.from, self.class.source_step, depth);
                let row = self.panels.start + panel * M;
                let place = Place { row, rows: M, at: self.at, step: self.class.out_step };
                epilogue.finish(s, sums, place);
            }
        }
    }
}

/// Asks for vectors ahead of time: from afar they would be late.
struct Fetch<'a> {
    offsets: &'a [u32],
    from: *const f32,
    /// How many from each offset on, and their distance.
    count: usize,
    step: usize,
}

impl Kernel for Fetch<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for &offset in self.offsets {
            for n in 0..self.count {
                s.prefetch_to_second(self.from.wrapping_add(offset as usize + n * self.step));
            }
        }
    }
}
