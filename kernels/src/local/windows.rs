//! The windows of a pooling: the product of a list of rows and a list of columns, without those on padding.

use std::collections::HashMap;
use std::ops::Range;

use crate::conv::{AxisSize, ConvShape};
use crate::level::Level;
use crate::simd::lanes;

/// The windows of each output coordinate along an axis.
pub(super) struct AxisWindows {
    spans: Vec<Span>,
    /// What an element of a window is ahead of the one before it, in taps and in the input.
    tap_step: usize,
    input_step: usize,
}

/// One window along an axis, without what is on padding.
#[derive(Clone, Copy)]
struct Span {
    /// Tap and input coordinate of the first element.
    tap: usize,
    first: usize,
    count: usize,
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
    /// The first tap of each kind, and how many elements it has.
    kinds: Vec<(usize, usize)>,
}

impl AxisKinds {
    fn new(axis: &AxisWindows) -> Self {
        let mut kinds = Vec::new();
        let mut known = HashMap::new();
        let windows = axis.spans.iter().map(|span| {
            let kind = (span.tap, span.count);
            let index = *known.entry(kind).or_insert_with(|| {
                kinds.push(kind);
                kinds.len() - 1
            });
            (index, span.first)
        });
        AxisKinds { windows: windows.collect(), kinds }
    }
}

impl Windows {
    pub(super) fn new(level: Level, input: [usize; 2], axes: [AxisWindows; 2], taps_per_row: usize) -> Self {
        let lanes = lanes(level);
        let [down, along] = [0, 1].map(|axis| axes[axis].uses(input[axis]));
        let both = || down.iter().chain(&along);
        let [rows, columns] = [AxisKinds::new(&axes[0]), AxisKinds::new(&axes[1])];
        let mut tables = Vec::with_capacity(rows.kinds.len() * columns.kinds.len());
        for &(top, height) in &rows.kinds {
            for &(left, width) in &columns.kinds {
                let entry = |y: usize, x: usize| {
                    let [ky, kx] = [top + y * axes[0].tap_step, left + x * axes[1].tap_step];
                    let [y, x] = [y * axes[0].input_step, x * axes[1].input_step];
                    Entry { tap: (ky * taps_per_row + kx) as f32, at: (y * input[1] + x) * lanes }
                };
                let mut table = Vec::with_capacity(height * width);
                (0..height).for_each(|y| table.extend((0..width).map(|x| entry(y, x))));
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

/// The windows of a convolution of this shape along each axis, padding left out.
pub(super) fn axes(shape: &ConvShape) -> [AxisWindows; 2] {
    let output = shape.output();
    [0, 1].map(|axis| {
        let (padding, dilation) = (shape.padding[axis], shape.dilation[axis]);
        let span = |out: usize| {
            let start = out * shape.stride[axis];
            let tap = padding.saturating_sub(start).div_ceil(dilation);
            let end = (padding + shape.input[axis]).saturating_sub(start).div_ceil(dilation).min(shape.kernel[axis]);
            match tap < end {
                true => Span { tap, first: start + tap * dilation - padding, count: end - tap },
                false => Span { tap: 0, first: 0, count: 0 },
            }
        };
        AxisWindows { spans: (0..output[axis]).map(span).collect(), tap_step: 1, input_step: dilation }
    })
}

/// The windows that make an output of a given size.
pub(super) fn adaptive_axes(input: [usize; 2], output: [usize; 2]) -> [AxisWindows; 2] {
    [0, 1].map(|axis| {
        let (n, o) = (input[axis], output[axis]);
        let span = |i: usize| {
            let first = i * n / o;
            Span { tap: 0, first, count: ((i + 1) * n).div_ceil(o) - first }
        };
        AxisWindows { spans: (0..o).map(span).collect(), tap_step: 0, input_step: 1 }
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
