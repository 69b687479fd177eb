//! Which pixels meet which taps, block by block.
//!
//! A block of output pixels meets a tap in a rectangle: the pixels whose window has that tap inside
//! of the input. Taps with the same rectangle are summed together, and a tap on padding is not
//! summed at all.

use std::ops::Range;

use crate::blocking;
use crate::conv::geometry::ConvShape;

/// Where the tensors of a convolution lie: an image in every lane of a pixel, or images one after the other with
/// pixels of one element.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) shape: ConvShape,
    /// Height and width of the output.
    pub(super) output: [usize; 2],
    /// Elements of a pixel.
    pub(super) pixel: usize,
    /// Rows of each plane of the input and of the output, which may be a band of the whole.
    pub(super) rows: [Rows; 2],
}

/// The first row that a plane holds, and how many it holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows {
    pub(super) first: usize,
    pub(super) count: usize,
}

impl Frame {
    pub(super) fn new(shape: ConvShape, pixel: usize) -> Self {
        let output = shape.output();
        let rows = [shape.input[0], output[0]].map(|count| Rows { first: 0, count });
        Frame { shape, output, pixel, rows }
    }

    /// The part of a whole frame that holds some rows of the output and what their windows meet.
    pub(super) fn band(&self, outputs: Range<usize>) -> Self {
        let ConvShape { input, kernel, stride, padding, dilation, .. } = self.shape;
        let first = (outputs.start * stride[0]).saturating_sub(padding[0]).min(input[0]);
        let end = (outputs.end - 1) * stride[0] + (kernel[0] - 1) * dilation[0] + 1;
        let end = end.saturating_sub(padding[0]).clamp(first, input[0]);
        let inputs = Rows { first, count: end - first };
        Frame { rows: [inputs, Rows { first: outputs.start, count: outputs.len() }], ..*self }
    }

    /// Elements from a channel of the input to the next.
    pub(super) fn input_plane(&self) -> usize {
        self.rows[0].count * self.shape.input[1] * self.pixel
    }

    /// Elements from a channel of the output to the next.
    pub(super) fn output_plane(&self) -> usize {
        self.rows[1].count * self.output[1] * self.pixel
    }

    /// Elements of an image, or of one in every lane: of the input and of the output.
    pub(super) fn lens(&self) -> [usize; 2] {
        [self.shape.in_channels * self.input_plane(), self.shape.out_channels * self.output_plane()]
    }

    /// Offset of an output pixel in its channel.
    pub(super) fn output_at(&self, row: usize, column: usize) -> usize {
        ((row - self.rows[1].first) * self.output[1] + column) * self.pixel
    }

    /// Offset in its channel of the input pixel that a tap of an output pixel's window meets.
    pub(super) fn input_at(&self, pixel: [usize; 2], tap: [usize; 2]) -> usize {
        let [row, column] = [0, 1].map(|axis| {
            pixel[axis] * self.shape.stride[axis] + tap[axis] * self.shape.dilation[axis] - self.shape.padding[axis]
        });
        ((row - self.rows[0].first) * self.shape.input[1] + column) * self.pixel
    }

    /// Products that a weight sums of one image: those of an output channel with an input channel and a tap.
    pub(super) fn depth(&self) -> usize {
        self.shape.in_channels * self.shape.taps()
    }

    /// Cuts some outputs of an axis by the taps that meet the input there.
    pub(super) fn spans(&self, axis: usize, outputs: Range<usize>) -> Spans {
        Spans { frame: *self, axis, outputs, next: 0 }
    }

    /// The outputs along an axis whose window has a tap inside of the input.
    fn meeting(&self, axis: usize, tap: usize, outputs: &Range<usize>) -> Range<usize> {
        let ConvShape { input, stride, padding, dilation, .. } = self.shape;
        let before = tap * dilation[axis];
        let end = (input[axis] + padding[axis]).saturating_sub(before).div_ceil(stride[axis]);
        let start = padding[axis].saturating_sub(before).div_ceil(stride[axis]);
        let start = start.max(outputs.start);
        start..end.min(outputs.end).max(start)
    }
}

/// Consecutive taps of one axis that meet the input at the same outputs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Span {
    pub(super) taps: Range<usize>,
    pub(super) outputs: Range<usize>,
}

/// The spans of an axis that meet the input at all. Both ends of what a tap meets fall as the taps
/// rise, so that taps which meet the same are neighbours.
pub(super) struct Spans {
    frame: Frame,
    axis: usize,
    outputs: Range<usize>,
    next: usize,
}

impl Iterator for Spans {
    type Item = Span;

    fn next(&mut self) -> Option<Span> {
        let taps = self.frame.shape.kernel[self.axis];
        while self.next < taps {
            let first = self.next;
            let outputs = self.frame.meeting(self.axis, first, &self.outputs);
            self.next += 1;
            if outputs.is_empty() {
                continue;
            }
            while self.next < taps && self.frame.meeting(self.axis, self.next, &self.outputs) == outputs {
                self.next += 1;
            }
            return Some(Span { taps: first..self.next, outputs });
        }
        None
    }
}

/// Output pixels of some images: whole rows, or a part of one row, so that they are consecutive in each
/// channel of an image.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Block {
    pub(super) images: Range<usize>,
    pub(super) rows: Range<usize>,
    pub(super) columns: Range<usize>,
}

/// A cut of the pixels of all images into blocks of nearly the same size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocks {
    images: blocking::Blocks,
    first_row: usize,
    rows: blocking::Blocks,
    columns: blocking::Blocks,
}

impl Blocks {
    /// Blocks of at most `elements` of a channel, or of one pixel.
    pub(super) fn new(frame: &Frame, images: usize, elements: usize) -> Self {
        let pixels = elements / frame.pixel;
        let (height, width) = (frame.rows[1].count, frame.output[1]);
        let cut = |length: usize, most: usize| blocking::Blocks::new(length, most.max(1));
        Blocks {
            images: cut(images, pixels / (height * width)),
            first_row: frame.rows[1].first,
            rows: cut(height, pixels / width),
            columns: cut(width, pixels),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.images.count() * self.rows.count() * self.columns.count()
    }

    pub(super) fn get(&self, i: usize) -> Block {
        let (columns, rows) = (self.columns.count(), self.rows.count());
        let Range { start, end } = self.rows.get(i / columns % rows);
        Block {
            images: self.images.get(i / columns / rows),
            rows: self.first_row + start..self.first_row + end,
            columns: self.columns.get(i % columns),
        }
    }

    /// Pixels of the largest block.
    pub(super) fn largest(&self) -> usize {
        self.images.longest() * self.rows.longest() * self.columns.longest()
    }
}

/// The (input channel, tap) pairs of a rectangle, taps first.
#[derive(Clone, Copy)]
pub(super) struct Pairs<'a> {
    down: &'a Span,
    along: &'a Span,
    channel: usize,
    tap: [usize; 2],
}

impl<'a> Pairs<'a> {
    pub(super) fn new(channel: usize, down: &'a Span, along: &'a Span) -> Self {
        Pairs { down, along, channel, tap: [down.taps.start, along.taps.start] }
    }

    /// How many pairs so many channels have.
    pub(super) fn count(channels: usize, down: &Span, along: &Span) -> usize {
        channels * down.taps.len() * along.taps.len()
    }

    /// Offset in the input of the first operand of the next pair, and its column of the gradient.
    pub(super) fn next(&mut self, frame: &Frame) -> (usize, usize) {
        let pixel = [self.down.outputs.start, self.along.outputs.start];
        let offset = self.channel * frame.input_plane() + frame.input_at(pixel, self.tap);
        let column = self.channel * frame.shape.taps() + self.tap[0] * frame.shape.kernel[1] + self.tap[1];
        self.tap[1] += 1;
        if self.tap[1] == self.along.taps.end {
            self.tap = [self.tap[0] + 1, self.along.taps.start];
        }
        if self.tap[0] == self.down.taps.end {
            self.tap[0] = self.down.taps.start;
            self.channel += 1;
        }
        (offset, column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conv::geometry::Axis;

    fn frames() -> impl Iterator<Item = Frame> {
        (0..9 * 4 * 3 * 4 * 3).filter_map(|i| {
            let (size, kernel, stride) = (i % 9 + 1, i / 9 % 4 + 1, i / 36 % 3 + 1);
            let (padding, dilation) = (i / 108 % 4, i / 432 + 1);
            let shape = ConvShape {
                in_channels: 1,
                out_channels: 1,
                input: [size, size + 3],
                kernel: [kernel; 2],
                stride: [stride; 2],
                padding: [padding; 2],
                dilation: [dilation; 2],
            };
            ((kernel - 1) * dilation < size + 2 * padding).then(|| Frame::new(shape, 1))
        })
    }

    /// The spans of a cut axis hold each (output, tap) of [`Axis`] once, and no others.
    #[test]
    fn spans_hold_the_pairs_of_the_axis() {
        for frame in frames() {
            let axis = Axis::forward(&frame.shape, 0);
            let mut expected = Vec::new();
            for run in &axis.runs {
                for n in 0..run.count {
                    for &(tap, source) in &run.taps {
                        expected.push((run.first + n, tap, source + n * axis.source_step));
                    }
                }
            }
            expected.sort_unstable();
            let mut found = Vec::new();
            for rows in [0..frame.output[0] / 2, frame.output[0] / 2..frame.output[0]] {
                for span in frame.spans(0, rows) {
                    for output in span.outputs.clone() {
                        for tap in span.taps.clone() {
                            let column =
                                frame.spans(1, 0..frame.output[1]).next().map(|s| (s.taps.start, s.outputs.start));
                            let Some((other_tap, column)) = column else { continue };
                            let source = frame.input_at([output, column], [tap, other_tap]) / frame.shape.input[1];
                            found.push((output, tap, source));
                        }
                    }
                }
            }
            found.sort_unstable();
            assert_eq!(found, expected, "{:?}", frame.shape);
        }
    }

    #[test]
    fn blocks_hold_each_pixel_once_and_in_order() {
        for frame in frames() {
            for (images, elements) in [(1, 1), (3, 7), (5, 40), (7, 1000)] {
                let blocks = Blocks::new(&frame, images, elements);
                let plane = frame.output_plane();
                let mut count = vec![0; images * plane];
                for block in (0..blocks.len()).map(|i| blocks.get(i)) {
                    let size = block.images.len() * block.rows.len() * block.columns.len();
                    assert!(size <= blocks.largest() && size > 0 && size <= elements, "{block:?} of {blocks:?}");
                    let first = frame.output_at(block.rows.start, block.columns.start);
                    for image in block.images {
                        let pixels = &mut count[image * plane + first..][..block.rows.len() * block.columns.len()];
                        pixels.iter_mut().for_each(|n| *n += 1);
                    }
                }
                assert!(count.iter().all(|&n| n == 1), "{blocks:?} of {:?}", frame.shape);
            }
        }
    }
}
