//! Which source pixels the taps of an output pixel lie on, when a block of the source is copied with
//! zeros around it.
//!
//! Rows follow [`Axis`]: a tap above or below the source is left out. Columns are made uniform
//! instead, so that every tile of a row reads alike: output column `phase + i * out_step` finds a tap
//! at source column `(i + shift) * combs + comb`, and what lies outside of the source is a zero of the
//! copy. A convolution of stride s has s combs and one phase, its transpose one comb and s phases;
//! the copy holds each comb by itself, so that neighbours i are neighbours in memory at any stride.

use std::ops::Range;

use crate::conv::channels::weights::Layout;
use crate::conv::geometry::{Axis, ConvShape};
use crate::microkernel::Tap;

/// The windows of all pixels of an output.
#[derive(Clone, Debug)]
pub(super) struct Window {
    /// One for each output row.
    lines: Vec<Line>,
    /// Vertical taps (tap, rows below the first source row), shared by the lines of a class.
    classes: Vec<Vec<(usize, usize)>>,
    /// Horizontal taps of each phase.
    phases: Vec<Vec<ColumnTap>>,
    /// Distance of the outputs of a phase.
    pub(super) out_step: usize,
    /// Distance of their sources.
    pub(super) combs: usize,
    /// The least and the largest shift.
    shifts: [isize; 2],
    kernel_width: usize,
}

/// An output row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    /// Index of its tables.
    pub(super) class: usize,
    /// The first source row of its taps.
    pub(super) top: usize,
    /// Source rows from there to the last.
    rows: usize,
}

#[derive(Clone, Copy, Debug)]
struct ColumnTap {
    tap: usize,
    comb: usize,
    shift: isize,
}

impl Line {
    /// Whether all its taps are on padding.
    pub(super) fn is_empty(&self) -> bool {
        self.rows == 0
    }
}

impl Window {
    /// Of a convolution.
    pub(super) fn forward(shape: &ConvShape) -> Self {
        let stride = shape.stride[1];
        let taps = (0..shape.kernel[1]).map(|tap| {
            let distance = (tap * shape.dilation[1]) as isize - shape.padding[1] as isize;
            let comb = distance.rem_euclid(stride as isize) as usize;
            ColumnTap { tap, comb, shift: distance.div_euclid(stride as isize) }
        });
        Window::new(Axis::forward(shape, 0), shape.output()[0], 1, stride, vec![taps.collect()], shape.kernel[1])
    }

    /// Of the transpose of a convolution.
    pub(super) fn transposed(shape: &ConvShape) -> Self {
        let stride = shape.stride[1];
        let phase = |phase: usize| {
            let tap = |tap: usize| {
                let distance = (phase + shape.padding[1]) as isize - (tap * shape.dilation[1]) as isize;
                let divides = distance.rem_euclid(stride as isize) == 0;
                divides.then(|| ColumnTap { tap, comb: 0, shift: distance.div_euclid(stride as isize) })
            };
            (0..shape.kernel[1]).filter_map(tap).collect()
        };
        let phases = (0..stride.min(shape.input[1])).map(phase).collect();
        Window::new(Axis::transposed(shape, 0), shape.input[0], stride, 1, phases, shape.kernel[1])
    }

    fn new(
        down: Axis,
        rows: usize,
        out_step: usize,
        combs: usize,
        phases: Vec<Vec<ColumnTap>>,
        kernel_width: usize,
    ) -> Self {
        let mut lines = vec![Line { class: 0, top: 0, rows: 0 }; rows];
        let mut classes: Vec<Vec<(usize, usize)>> = Vec::new();
        for run in &down.runs {
            let top = run.taps.iter().map(|&(_, source)| source).min().unwrap_or(0);
            let taps: Vec<_> = run.taps.iter().map(|&(tap, source)| (tap, source - top)).collect();
            let rows = taps.iter().map(|&(_, below)| below + 1).max().unwrap_or(0);
            let class = classes.iter().position(|class| *class == taps).unwrap_or_else(|| {
                classes.push(taps);
                classes.len() - 1
            });
            for n in 0..run.count {
                lines[run.first + n * down.out_step] = Line { class, top: top + n * down.source_step, rows };
            }
        }
        let shifts = || phases.iter().flatten().map(|tap| tap.shift);
        let shifts = [shifts().min().unwrap_or(0), shifts().max().unwrap_or(0)];
        Window { lines, classes, phases, out_step, combs, shifts, kernel_width }
    }

    pub(super) fn line(&self, row: usize) -> Line {
        self.lines[row]
    }

    pub(super) fn phases(&self) -> usize {
        self.phases.len()
    }

    /// Columns of a comb that columns `columns` of a phase read; they may lie outside of the source.
    pub(super) fn source_columns(&self, columns: Range<usize>) -> Range<isize> {
        columns.start as isize + self.shifts[0]..columns.end as isize + self.shifts[1]
    }

    /// Source rows from the first to the last that output rows read.
    pub(super) fn source_rows(&self, rows: Range<usize>) -> Range<usize> {
        let lines = || self.lines[rows.clone()].iter().filter(|line| line.rows > 0);
        let first = lines().map(|line| line.top).min().unwrap_or(0);
        first..lines().map(|line| line.top + line.rows).max().unwrap_or(first)
    }

    /// Whether some output reads each of `rows` source rows.
    pub(super) fn used_rows(&self, rows: usize) -> Vec<bool> {
        let mut used = vec![false; rows];
        for line in &self.lines {
            for &(_, below) in &self.classes[line.class] {
                used[line.top + below] = true;
            }
        }
        used
    }

    /// Whether some output reads each comb.
    pub(super) fn used_combs(&self) -> Vec<bool> {
        (0..self.combs).map(|comb| self.phases.iter().flatten().any(|tap| tap.comb == comb)).collect()
    }

    /// For each class and, within, each phase: the taps of `channels` channels one after the other, with
    /// offsets from the first source row of a line and the first of its
    /// [`source_columns`](Self::source_columns).
    ///
    /// Taps of a channel are in the order of their addresses: what is read against it misses the caches.
    pub(super) fn tables(
        &self,
        channels: usize,
        weights: Layout,
        [plane, row_pitch, comb_pitch]: [usize; 3],
    ) -> Vec<Vec<Tap>> {
        let mut tables = Vec::with_capacity(self.classes.len() * self.phases.len());
        for down in &self.classes {
            for along in &self.phases {
                let mut table = Vec::with_capacity(channels * down.len() * along.len());
                for channel in 0..channels {
                    for &(ky, below) in down {
                        for column in along {
                            let row = channel * weights.taps + weights.place(ky * self.kernel_width + column.tap);
                            let shift = (column.shift - self.shifts[0]) as usize;
                            let offset = channel * plane + below * row_pitch + column.comb * comb_pitch + shift;
                            table.push(Tap::new(row, offset));
                        }
                    }
                }
                table.sort_by_key(|tap| (tap.row as usize / weights.taps, tap.offset));
                tables.push(table);
            }
        }
        tables
    }
}
