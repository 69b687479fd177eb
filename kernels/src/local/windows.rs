//! The windows of a pooling: the product of a list of rows and a list of columns, without those on padding.

use std::collections::HashMap;
use std::ops::Range;

use crate::conv::{AxisSize, ConvShape};
use crate::level::Level;
use crate::simd::lanes;

/// The windows of each output coordinate along an axis.
pub(super) struct AxisWindows {
    spans: Vec<Span>,
    /// What an element of a window is ahead of the one before it in the input.
    input_step: usize,
}

/// One window along an axis, without what is on padding.
#[derive(Clone, Copy, Debug)]
struct Span {
    /// Tap and input coordinate of the first element.
    tap: usize,
    first: usize,
    count: usize,
    /// Its length as a mean has it, which is no less.
    length: usize,
}

impl AxisWindows {
    /// Whether a window lies on padding altogether.
    pub(super) fn has_empty(&self) -> bool {
        self.spans.iter().any(|span| span.count == 0)
    }

    /// In how many windows each of `inputs` coordinates is.
    fn uses(&self, inputs: usize) -> Vec<isize> {
        let mut uses = vec![0; inputs];
        for span in self.spans.iter().filter(|span| span.count > 0) {
            uses[span.first] += 1;
            if let Some(behind) = uses.get_mut(span.first.saturating_add(span.count.saturating_mul(self.input_step))) {
                *behind -= 1;
            }
        }
        for i in self.input_step..inputs {
            uses[i] += uses[i - self.input_step];
        }
        uses
    }

    /// The distance of the windows, if window i begins at i times it and ends before the next.
    fn step(&self) -> Option<usize> {
        let second = self.spans.get(1).filter(|span| span.count > 0)?;
        let step = second.first;
        let inside = |(i, span): (usize, &Span)| {
            let last = span.first + span.count.saturating_sub(1) * self.input_step;
            span.count == 0 || (i * step <= span.first && last < (i + 1) * step)
        };
        (step > 0 && self.spans.iter().enumerate().all(inside)).then_some(step)
    }
}

/// The windows of all output pixels of a channel.
#[derive(Clone, Debug)]
pub(super) struct Windows {
    lanes: usize,
    /// Elements of a row of the input.
    input_row: usize,
    axes: [AxisKinds; 2],
    /// Its elements, for each kind of row and of column.
    tables: Vec<Vec<Entry>>,
    /// Whether no element belongs to two windows.
    pub(super) exclusive: bool,
    /// Whether every element belongs to a window.
    pub(super) covering: bool,
    row_step: Option<usize>,
}

/// What is marked of an element.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mark {
    Taps {
        per_row: usize,
    },
    /// One over a number, or over the lengths of the window.
    Share(Option<usize>),
}

/// One element of a window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// Its tap in row-major order, or its share of a mean.
    pub(super) mark: f32,
    /// Its offset from the first element of the window.
    pub(super) at: usize,
}

/// An axis whose windows are sorted by what they look like from their first element.
#[derive(Clone, Debug)]
struct AxisKinds {
    /// For each output coordinate, the kind of its window and the first input coordinate.
    windows: Vec<(usize, usize)>,
    /// One of each kind.
    kinds: Vec<Span>,
}

impl AxisKinds {
    fn new(axis: &AxisWindows) -> Self {
        let mut kinds = Vec::new();
        let mut known = HashMap::new();
        let windows = axis.spans.iter().map(|&span| {
            let index = *known.entry((span.tap, span.count, span.length)).or_insert_with(|| {
                kinds.push(span);
                kinds.len() - 1
            });
            (index, span.first)
        });
        AxisKinds { windows: windows.collect(), kinds }
    }
}

impl Windows {
    pub(super) fn new(level: Level, input: [usize; 2], axes: [AxisWindows; 2], mark: Mark) -> Self {
        let lanes = lanes(level);
        let [down, along] = [0, 1].map(|axis| axes[axis].uses(input[axis]));
        let both = || down.iter().chain(&along);
        let [rows, columns] = [AxisKinds::new(&axes[0]), AxisKinds::new(&axes[1])];
        let mut tables = Vec::with_capacity(rows.kinds.len() * columns.kinds.len());
        for down in &rows.kinds {
            for along in &columns.kinds {
                let entry = |y: usize, x: usize| {
                    let mark = match mark {
                        Mark::Taps { per_row } => ((down.tap + y) * per_row + along.tap + x) as f32,
                        Mark::Share(None) => 1.0 / (down.length * along.length) as f32,
                        Mark::Share(Some(divisor)) => 1.0 / divisor as f32,
                    };
                    let [y, x] = [y * axes[0].input_step, x * axes[1].input_step];
                    Entry { mark, at: (y * input[1] + x) * lanes }
                };
                let mut table = Vec::with_capacity(down.count * along.count);
                (0..down.count).for_each(|y| table.extend((0..along.count).map(|x| entry(y, x))));
                tables.push(table);
            }
        }
        Windows {
            lanes,
            input_row: input[1] * lanes,
            row_step: axes[0].step(),
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

/// At most so many bytes do the tables of windows take whose axes, with outputs of these sizes, have at most so many
/// kinds, the runs, and elements. Saturates.
pub(super) fn table_bytes([down, along]: [AxisSize; 2], output: [usize; 2]) -> usize {
    let tables = down.runs.saturating_mul(along.runs).saturating_mul(size_of::<Vec<Entry>>());
    let entries = down.taps.saturating_mul(along.taps).saturating_mul(size_of::<Entry>());
    let windows = output[0].saturating_add(output[1]).saturating_mul(size_of::<(usize, usize)>());
    tables.saturating_add(entries).saturating_add(windows)
}

/// The windows of a convolution of this shape along each axis, padding left out. `counts_padding`: whether their lengths
/// have that on both sides.
pub(super) fn axes(shape: &ConvShape, counts_padding: bool) -> [AxisWindows; 2] {
    let output = shape.output();
    [0, 1].map(|axis| {
        let (padding, dilation) = (shape.padding[axis], shape.dilation[axis]);
        let span = |out: usize| {
            let start = out * shape.stride[axis];
            let tap = padding.saturating_sub(start).div_ceil(dilation);
            let end = (padding + shape.input[axis]).saturating_sub(start).div_ceil(dilation).min(shape.kernel[axis]);
            let count = end.saturating_sub(tap);
            let all =
                (2 * padding + shape.input[axis]).saturating_sub(start).div_ceil(dilation).min(shape.kernel[axis]);
            let length = if counts_padding { all } else { count };
            match count > 0 {
                true => Span { tap, first: start + tap * dilation - padding, count, length },
                false => Span { tap: 0, first: 0, count, length },
            }
        };
        AxisWindows { spans: (0..output[axis]).map(span).collect(), input_step: dilation }
    })
}

/// The windows that make an output of a given size.
pub(super) fn adaptive_axes(input: [usize; 2], output: [usize; 2]) -> [AxisWindows; 2] {
    [0, 1].map(|axis| {
        let (n, o) = (input[axis], output[axis]);
        let span = |i: usize| {
            let first = i * n / o;
            let count = ((i + 1) * n).div_ceil(o) - first;
            Span { tap: 0, first, count, length: count }
        };
        AxisWindows { spans: (0..o).map(span).collect(), input_step: 1 }
    })
}

/// Kinds and elements, at most, of the windows that make `output` of `input` elements.
pub(super) fn adaptive_size(input: usize, output: usize) -> AxisSize {
    match (input.checked_div(output), input.checked_rem(output)) {
        (Some(length), Some(0)) => AxisSize { runs: 1, taps: length },
        // A window has as many elements as the ratio, up to two more where it begins and ends within some.
        (Some(length), _) => AxisSize { runs: 3, taps: 3 * length + 3 },
        _ => AxisSize { runs: 0, taps: 0 },
    }
}
