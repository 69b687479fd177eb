//! The windows of a pooling: the product of a list of rows and a list of columns, without those on padding.

use std::ops::Range;

use crate::conv::ConvShape;
use crate::level::Level;
use crate::simd::lanes;

/// For each output coordinate along an axis, the (tap, input coordinate) pairs of its window.
pub(super) type AxisWindows = Vec<Vec<(usize, usize)>>;

/// The windows of all output pixels of a channel.
#[derive(Clone, Debug)]
pub(super) struct Windows {
    lanes: usize,
    /// Elements of a row of the input.
    input_row: usize,
    axes: [AxisKinds; 2],
    /// Taps and offsets from the first element, for each kind of row and of column.
    tables: Vec<Vec<Entry>>,
    /// Whether no element belongs to two windows.
    pub(super) exclusive: bool,
    /// Whether every element belongs to a window.
    pub(super) covering: bool,
    row_step: Option<usize>,
}

/// One element of a window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// Its tap in row-major order.
    pub(super) tap: f32,
    /// Its offset from the first element of the window.
    pub(super) at: usize,
}

/// An axis whose windows are sorted by what they look like from their first element.
#[derive(Clone, Debug)]
struct AxisKinds {
    /// For each output coordinate, the kind of its window and the first input coordinate.
    windows: Vec<(usize, usize)>,
    /// The (tap, distance from the first) pairs of each kind.
    kinds: Vec<Vec<(usize, usize)>>,
}

impl AxisKinds {
    fn new(axis: &AxisWindows) -> Self {
        let mut kinds: Vec<Vec<(usize, usize)>> = Vec::new();
        let windows = axis.iter().map(|window| {
            let first = window.first().map_or(0, |&(_, i)| i);
            let kind: Vec<_> = window.iter().map(|&(tap, i)| (tap, i - first)).collect();
            let known = kinds.iter().position(|other| *other == kind);
            let index = known.unwrap_or_else(|| {
                kinds.push(kind);
                kinds.len() - 1
            });
            (index, first)
        });
        AxisKinds { windows: windows.collect(), kinds }
    }
}

impl Windows {
    pub(super) fn new(level: Level, input: [usize; 2], axes: [AxisWindows; 2], taps_per_row: usize) -> Self {
        let lanes = lanes(level);
        let uses = |axis: usize| {
            let mut uses = vec![0; input[axis]];
            axes[axis].iter().flatten().for_each(|&(_, i)| uses[i] += 1);
            uses
        };
        let [down, along] = [uses(0), uses(1)];
        let both = || down.iter().chain(&along);
        let [rows, columns] = [AxisKinds::new(&axes[0]), AxisKinds::new(&axes[1])];
        let mut tables = Vec::with_capacity(rows.kinds.len() * columns.kinds.len());
        for row in &rows.kinds {
            for column in &columns.kinds {
                let entry = |&(ky, y): &(usize, usize), &(kx, x): &(usize, usize)| Entry {
                    tap: (ky * taps_per_row + kx) as f32,
                    at: (y * input[1] + x) * lanes,
                };
                tables.push(row.iter().flat_map(|row| column.iter().map(move |column| entry(row, column))).collect());
            }
        }
        Windows {
            lanes,
            input_row: input[1] * lanes,
            row_step: row_step(&axes[0]),
            exclusive: both().all(|&uses| uses <= 1),
            covering: both().all(|&uses| uses >= 1),
            axes: [rows, columns],
            tables,
        }
    }

    /// Rows of the input per row of windows, if every row of windows begins with rows of its own.
    pub(super) fn row_step(&self) -> Option<usize> {
        self.row_step
    }

    /// Rows of the output.
    pub(super) fn rows(&self) -> usize {
        self.axes[0].windows.len()
    }

    /// Every pixel of some rows of the output: its offset, the offset of the first element of its window,
    /// and the window.
    #[inline(always)]
    pub(super) fn of_rows(&self, rows: Range<usize>) -> impl Iterator<Item = (usize, usize, &[Entry])> {
        let [down, along] = &self.axes;
        let pixels = down.windows[rows.clone()]
            .iter()
            .flat_map(move |&row| along.windows.iter().map(move |&column| (row, column)));
        let first = rows.start * along.windows.len();
        pixels.zip(first..).map(move |(((row_kind, top), (column_kind, left)), pixel)| {
            let table = self.tables[row_kind * along.kinds.len() + column_kind].as_slice();
            (pixel * self.lanes, top * self.input_row + left * self.lanes, table)
        })
    }
}

/// The distance of the windows of an axis, if window i begins at i times it and ends before the next.
fn row_step(axis: &AxisWindows) -> Option<usize> {
    let step = match axis.get(1) {
        Some(second) => second.first()?.1,
        None => return None,
    };
    let inside = |(i, window): (usize, &Vec<(usize, usize)>)| {
        window.iter().all(|&(_, input)| (i * step..(i + 1) * step).contains(&input))
    };
    (step > 0 && axis.iter().enumerate().all(inside)).then_some(step)
}

/// The windows of a convolution of this shape along each axis, padding left out.
pub(super) fn axes(shape: &ConvShape) -> [AxisWindows; 2] {
    let output = shape.output();
    [0, 1].map(|axis| {
        let (padding, dilation) = (shape.padding[axis], shape.dilation[axis]);
        let window = |out: usize| {
            let start = out * shape.stride[axis];
            let first = padding.saturating_sub(start).div_ceil(dilation);
            let end = (padding + shape.input[axis]).saturating_sub(start).div_ceil(dilation).min(shape.kernel[axis]);
            (first..end).map(|tap| (tap, start + tap * dilation - padding)).collect()
        };
        (0..output[axis]).map(window).collect()
    })
}

/// The windows that make an output of a given size.
pub(super) fn adaptive_axes(input: [usize; 2], output: [usize; 2]) -> [AxisWindows; 2] {
    [0, 1].map(|axis| {
        let (n, o) = (input[axis], output[axis]);
        let window = |i: usize| (i * n / o..((i + 1) * n).div_ceil(o)).map(|i| (0, i)).collect();
        (0..o).map(window).collect()
    })
}
