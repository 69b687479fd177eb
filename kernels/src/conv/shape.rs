//! Which input pixels an output pixel sums over, for a convolution and for its transpose.
//!
//! Along one axis, tap k of output i of a convolution reads input i * stride - padding + k *
//! dilation; tap k of input j of the transpose reads output (j + padding - k * dilation) / stride
//! where that divides. Either way an output coordinate has a list of (tap, source) pairs, and
//! consecutive outputs with the same list, shifted, form a run. Taps that fall on padding are not
//! in the list, so nothing is multiplied by a zero of the border and no border has to be stored.

use std::ops::Range;

/// The weights of a channel are fewer, so that a table addresses those of 16 of them, a vector or a panel.
const MOST_WEIGHTS: usize = 1 << 28;

/// Sizes of a 2-D convolution; pairs are (vertical, horizontal). See [`Conv`](crate::Conv) for an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Input channels.
    pub in_channels: usize,
    /// Output channels.
    pub out_channels: usize,
    /// Height and width of the input.
    pub input: [usize; 2],
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// Step between windows.
    pub stride: [usize; 2],
    /// Zeros added on each side.
    pub padding: [usize; 2],
    /// Zeros added at the end besides.
    pub extra: [usize; 2],
    /// Step between taps.
    pub dilation: [usize; 2],
    /// Groups of channels that do not see each other: 1, or as many as there are input and output channels.
    pub groups: usize,
}

impl ConvShape {
    /// A matrix product as a convolution of one pixel: `in_features` channels to `out_features`.
    pub fn linear(in_features: usize, out_features: usize) -> Self {
        ConvShape {
            in_channels: in_features,
            out_channels: out_features,
            input: [1, 1],
            kernel: [1, 1],
            stride: [1, 1],
            padding: [0, 0],
            extra: [0, 0],
            dilation: [1, 1],
            groups: 1,
        }
    }

    /// Whether every channel is convolved by itself.
    pub(crate) fn is_depthwise(&self) -> bool {
        self.groups > 1
    }

    /// Elements of the weights, `[out_channels, in_channels / groups, height, width]`.
    pub fn weights(&self) -> usize {
        self.out_channels * (self.in_channels / self.groups) * self.taps()
    }

    /// Whether it is a matrix product of a whole image: of one window, which is all of the input.
    pub(crate) fn is_matrix(&self) -> bool {
        self.input == self.kernel && !self.is_padded() && self.dilation == [1, 1] && !self.is_depthwise()
    }

    pub(crate) fn is_padded(&self) -> bool {
        [self.padding, self.extra] != [[0, 0]; 2]
    }

    /// Height and width of the output.
    ///
    /// # Panics
    /// If a window does not fit its padded input, or a kernel, stride or dilation is 0.
    pub fn output(&self) -> [usize; 2] {
        self.windows().unwrap_or_else(|refusal| panic!("{refusal}"))
    }

    fn windows(&self) -> Result<[usize; 2], String> {
        let mut output = [0; 2];
        for (axis, output) in output.iter_mut().enumerate() {
            if self.stride[axis] == 0 || self.dilation[axis] == 0 {
                return Err(format!("a stride or dilation of 0 in {self:?}"));
            }
            let reach = self.kernel[axis].checked_sub(1).and_then(|steps| steps.checked_mul(self.dilation[axis]));
            let padding = self.padding[axis].checked_mul(2).and_then(|both| both.checked_add(self.extra[axis]));
            let padded = padding.and_then(|padding| padding.checked_add(self.input[axis]));
            let (reach, padded) = reach.zip(padded).ok_or_else(|| {
                format!("a kernel of 0, or a window or a padded input that is too large, in {self:?}")
            })?;
            if reach >= padded {
                let window = reach.saturating_add(1);
                return Err(format!("a window of {window} does not fit a padded input of {padded}"));
            }
            *output = (padded - reach - 1) / self.stride[axis] + 1;
        }
        Ok(output)
    }

    /// Why no convolution of this shape can be planned with images in `lanes` lanes, if so: sizes that address
    /// nothing, or whose products do not fit what addresses tensors and weights.
    pub fn refusal(&self, lanes: usize) -> Option<String> {
        self.fits(lanes).err()
    }

    fn fits(&self, lanes: usize) -> Result<(), String> {
        let output = self.windows()?;
        if self.input.contains(&0) {
            return Err(format!("no pixels in {self:?}, expected at least 1"));
        }
        if self.groups != 1 && [self.in_channels, self.out_channels] != [self.groups; 2] {
            return Err(format!("{} groups in {self:?}, expected 1 or one for each channel", self.groups));
        }
        for (channels, size) in [(self.in_channels, self.input), (self.out_channels, output)] {
            if channels == 0 {
                return Err(format!("no channels in {self:?}, expected at least 1"));
            }
            tensor_fits(lanes, channels, size)?;
            let row = self.kernel.into_iter().try_fold(channels, usize::checked_mul);
            if row.is_none_or(|row| row >= MOST_WEIGHTS) {
                return Err(format!("the weights of {self:?} are too large"));
            }
            // The transpose meets a window's reach of padding on both sides.
            let padded = [0, 1].map(|axis| 2 * self.padded(axis) as u128);
            if padded[0].saturating_mul(padded[1]).saturating_mul(channels as u128) >= 1 << 40 {
                return Err(format!("the padding of {self:?} is too large"));
            }
        }
        Ok(())
    }

    /// # Panics
    /// If it is [refused](Self::refusal).
    pub(crate) fn check_sizes(&self, lanes: usize) {
        self.fits(lanes).unwrap_or_else(|refusal| panic!("{refusal}"));
    }

    /// Length of an axis with its padding.
    fn padded(&self, axis: usize) -> usize {
        self.input[axis] + 2 * self.padding[axis] + self.extra[axis]
    }

    /// The same convolution, with strides no longer than the padded input, and a dilation of 1 where there is nothing
    /// to be apart.
    pub(crate) fn with_needed_steps(&self) -> Self {
        let stride = [0, 1].map(|axis| self.stride[axis].min(self.padded(axis)));
        let dilation = [0, 1].map(|axis| if self.kernel[axis] == 1 { 1 } else { self.dilation[axis] });
        ConvShape { stride, dilation, ..*self }
    }

    /// The first window along an axis (0 vertical, 1 horizontal) that lies on padding altogether.
    ///
    /// # Panics
    /// As [`output`](Self::output).
    pub fn empty_window(&self, axis: usize) -> Option<usize> {
        let rule = AxisRule::forward(self, axis);
        let empty = rule.runs().find(|(_, _, window)| window.taps.is_empty());
        empty.map(|(first, ..)| first)
    }

    /// Taps of the kernel.
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Multiplications and additions of one image in one direction, padding included. Saturates.
    ///
    /// # Panics
    /// As [`output`](Self::output).
    pub fn flops(&self) -> u64 {
        let [height, width] = self.output();
        let factors =
            [self.in_channels / self.groups, self.kernel[0], self.kernel[1], self.out_channels, height, width];
        factors.into_iter().fold(2, |flops: u64, factor| flops.saturating_mul(factor as u64))
    }
}

fn tensor_fits(lanes: usize, channels: usize, [height, width]: [usize; 2]) -> Result<(), String> {
    let elements = [height, width, lanes].into_iter().try_fold(channels.max(1), usize::checked_mul);
    match elements.is_some_and(|n| u32::try_from(n).is_ok()) {
        true => Ok(()),
        false => Err(format!("a tensor of {channels} x {height} x {width} x {lanes} elements is too large")),
    }
}

/// # Panics
/// If a tensor of `lanes` images has 2^32 elements or more.
pub(crate) fn check_tensor(lanes: usize, channels: usize, size: [usize; 2]) {
    tensor_fits(lanes, channels, size).unwrap_or_else(|refusal| panic!("{refusal}"));
}

/// Outputs along one axis that read the same taps, each `source_step` further than the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AxisRun {
    /// Outputs `first, first + out_step, ...`
    pub(crate) first: usize,
    /// How many.
    pub(crate) count: usize,
    /// (tap, source coordinate of the first output).
    pub(crate) taps: Vec<(usize, usize)>,
}

/// One axis of a convolution or of its transpose.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    pub(crate) runs: Vec<AxisRun>,
    /// Distance of consecutive outputs of a run.
    pub(crate) out_step: usize,
    /// Distance of their sources.
    pub(crate) source_step: usize,
}

/// Taps of one output that lie on the source: the first to the last of a progression.
struct Window {
    taps: Range<usize>,
    /// Source coordinate of the first tap.
    source: usize,
}

/// What an output reads along an axis, which follows from its coordinate.
struct AxisRule {
    outputs: usize,
    kernel: usize,
    padding: usize,
    dilation: usize,
    stride: usize,
    /// Length of the source.
    sources: usize,
    transposed: bool,
    /// Taps of one output are so far apart: those of the transpose whose distance the stride divides.
    tap_step: usize,
    /// The greatest common divisor of stride and dilation.
    divisor: usize,
    /// What times the dilation, both over the divisor, is 1 modulo `tap_step`.
    inverse: usize,
}

impl AxisRule {
    fn forward(shape: &ConvShape, axis: usize) -> Self {
        AxisRule {
            outputs: shape.output()[axis],
            kernel: shape.kernel[axis],
            padding: shape.padding[axis],
            dilation: shape.dilation[axis],
            stride: shape.stride[axis],
            sources: shape.input[axis],
            transposed: false,
            tap_step: 1,
            divisor: 1,
            inverse: 0,
        }
    }

    fn transposed(shape: &ConvShape, axis: usize) -> Self {
        let forward = AxisRule::forward(shape, axis);
        let (divisor, inverse) = inverse(forward.dilation, forward.stride);
        AxisRule {
            outputs: forward.sources,
            sources: forward.outputs,
            transposed: true,
            tap_step: forward.stride / divisor,
            divisor,
            inverse,
            ..forward
        }
    }

    /// Distance of the outputs that read the same taps, and of their sources.
    fn steps(&self) -> [usize; 2] {
        if self.transposed { [self.stride, 1] } else { [1, self.stride] }
    }

    /// What the source coordinate of a tap is ahead of that of the tap before it.
    fn source_per_tap(&self) -> isize {
        if self.transposed { -((self.dilation / self.divisor) as isize) } else { self.dilation as isize }
    }

    fn window(&self, output: usize) -> Window {
        let AxisRule { kernel, padding, dilation, stride, sources, .. } = *self;
        if self.transposed {
            // Taps k with output + padding = source * stride + k * dilation.
            let place = output + padding;
            let least = place.saturating_sub((sources - 1) * stride).div_ceil(dilation).min(kernel);
            let end = (place / dilation + 1).min(kernel);
            if !place.is_multiple_of(self.divisor) {
                return Window { taps: 0..0, source: 0 };
            }
            let step = self.tap_step as u128;
            let residue = (place / self.divisor) as u128 % step * self.inverse as u128 % step;
            let first = least.saturating_add(((residue + step - least as u128 % step) % step) as usize);
            if first >= end {
                return Window { taps: first..first, source: 0 };
            }
            let last = first + (end - 1 - first) / self.tap_step * self.tap_step;
            Window { taps: first..last + 1, source: (place - first * dilation) / stride }
        } else {
            let start = output * stride;
            let first = padding.saturating_sub(start).div_ceil(dilation).min(kernel);
            let end = (padding + sources).saturating_sub(start).div_ceil(dilation).min(kernel);
            let source = if first < end { start + first * dilation - padding } else { 0 };
            Window { taps: first..end.max(first), source }
        }
    }

    /// How long tables of the runs are; none if there were more than `limit` runs or taps.
    fn size(&self, limit: usize) -> Option<AxisSize> {
        self.runs().try_fold(AxisSize { runs: 0, taps: 0 }, |size, (_, _, window)| {
            let taps = size.taps + window.taps.len().div_ceil(self.tap_step);
            let size = AxisSize { runs: size.runs + 1, taps };
            (size.runs.max(size.taps) <= limit).then_some(size)
        })
    }

    /// The outputs in runs that read the same taps: the first, how many, and its window. Along a phase both ends of
    /// the windows move one way, so that those between two that are alike are alike too.
    fn runs(&self) -> impl Iterator<Item = (usize, usize, Window)> {
        let [out_step, _] = self.steps();
        let phase = move |phase: usize| {
            let length = (self.outputs - phase).div_ceil(out_step);
            let window = move |i: usize| self.window(phase + i * out_step);
            let mut next = 0;
            std::iter::from_fn(move || {
                (next < length).then(|| {
                    let start = next;
                    let first = window(start);
                    let like = |i: usize| window(i).taps == first.taps;
                    next = start + 1;
                    let mut leap = 1;
                    // At first ever further, then half as far again.
                    while next < length && like((next + leap - 1).min(length - 1)) {
                        next = (next + leap).min(length);
                        leap *= 2;
                    }
                    while leap > 1 {
                        leap /= 2;
                        if next + leap <= length && like(next + leap - 1) {
                            next += leap;
                        }
                    }
                    (phase + start * out_step, next - start, first)
                })
            })
        };
        (0..out_step.min(self.outputs)).flat_map(phase)
    }
}

/// The greatest common divisor g of a and n, and what times a / g is 1 modulo n / g.
fn inverse(a: usize, n: usize) -> (usize, usize) {
    let (mut r, mut next_r) = (n as i128, (a % n) as i128);
    let (mut t, mut next_t) = (0i128, 1i128);
    while next_r != 0 {
        let quotient = r / next_r;
        (r, next_r) = (next_r, r - quotient * next_r);
        (t, next_t) = (next_t, t - quotient * next_t);
    }
    (r as usize, t.rem_euclid(n as i128 / r) as usize)
}

/// How long the tables of an axis are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AxisSize {
    pub(crate) runs: usize,
    /// Taps of all runs.
    pub(crate) taps: usize,
}

impl Axis {
    /// An axis with more runs or taps than this is not measured to its end.
    pub(crate) const LONGEST: usize = 1 << 24;

    /// The axis of the convolution itself.
    pub(crate) fn forward(shape: &ConvShape, axis: usize) -> Axis {
        Axis::new(&AxisRule::forward(shape, axis))
    }

    /// The axis of the transpose: from the output's gradient to the input's.
    pub(crate) fn transposed(shape: &ConvShape, axis: usize) -> Axis {
        Axis::new(&AxisRule::transposed(shape, axis))
    }

    fn new(rule: &AxisRule) -> Axis {
        let [out_step, source_step] = rule.steps();
        let run = |(first, count, window): (usize, usize, Window)| {
            let taps = window.taps.clone().step_by(rule.tap_step).zip(0..);
            let source = |n: isize| (window.source as isize + n * rule.source_per_tap()) as usize;
            AxisRun { first, count, taps: taps.map(|(tap, n)| (tap, source(n))).collect() }
        };
        Axis { runs: rule.runs().map(run).collect(), out_step, source_step }
    }

    /// The size of the axis of the convolution, without making it; none if it had more than `limit` runs or taps.
    pub(crate) fn forward_size(shape: &ConvShape, axis: usize, limit: usize) -> Option<AxisSize> {
        AxisRule::forward(shape, axis).size(limit)
    }

    /// Likewise, of the axis of the transpose.
    pub(crate) fn transposed_size(shape: &ConvShape, axis: usize, limit: usize) -> Option<AxisSize> {
        AxisRule::transposed(shape, axis).size(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pairs (output, tap, source) of an axis, in no particular order.
    fn pairs(axis: &Axis) -> Vec<(usize, usize, usize)> {
        let mut pairs = Vec::new();
        for run in &axis.runs {
            for n in 0..run.count {
                for &(tap, source) in &run.taps {
                    pairs.push((run.first + n * axis.out_step, tap, source + n * axis.source_step));
                }
            }
        }
        pairs.sort_unstable();
        pairs
    }

    /// All sizes, kernels, strides, paddings and dilations up to these.
    fn combinations(most: [usize; 5]) -> impl Iterator<Item = [usize; 5]> {
        let least = [1, 1, 1, 0, 1];
        let counts = [0, 1, 2, 3, 4].map(|i| most[i] + 1 - least[i]);
        (0..counts.iter().product()).map(move |mut index| {
            [0, 1, 2, 3, 4].map(|i| {
                let value = least[i] + index % counts[i];
                index /= counts[i];
                value
            })
        })
    }

    #[test]
    fn an_axis_lists_what_the_definition_lists() {
        let long = [15, 16, 17, 31, 32, 33, 63, 64, 65].into_iter().flat_map(|size| {
            combinations([1, 4, 3, 5, 3])
                .map(move |[_, kernel, stride, padding, dilation]| [size, kernel, stride, padding, dilation])
        });
        for (i, [size, kernel, stride, padding, dilation]) in combinations([9, 4, 6, 7, 6]).chain(long).enumerate() {
            let extra = [0, 0, 1, 5][i % 4];
            if (kernel - 1) * dilation + 1 > size + 2 * padding + extra {
                continue;
            }
            let shape = ConvShape {
                input: [1, size],
                kernel: [1, kernel],
                stride: [1, stride],
                padding: [0, padding],
                extra: [0, extra],
                dilation: [1, dilation],
                ..ConvShape::linear(1, 1)
            };
            let outputs = (size + 2 * padding + extra - (kernel - 1) * dilation - 1) / stride + 1;
            let met = |(out, tap): (usize, usize)| {
                let source = (out * stride + tap * dilation).checked_sub(padding)?;
                (source < size).then_some((out, tap, source))
            };
            let every = (0..outputs).flat_map(|out| (0..kernel).map(move |tap| (out, tap)));
            let forward: Vec<_> = every.filter_map(met).collect();
            let mut transposed: Vec<_> = forward.iter().map(|&(out, tap, source)| (source, tap, out)).collect();
            transposed.sort_unstable();
            let axes = [Axis::forward, Axis::transposed].map(|axis| axis(&shape, 1));
            let sizes = [Axis::forward_size, Axis::transposed_size];
            for ((axis, expected), found) in axes.iter().zip([forward, transposed]).zip(sizes) {
                assert_eq!(pairs(axis), expected, "{shape:?}");
                let taps = axis.runs.iter().map(|run| run.taps.len()).sum();
                let size = AxisSize { runs: axis.runs.len(), taps };
                let most = size.runs.max(size.taps);
                assert_eq!(found(&shape, 1, most), Some(size), "{shape:?}");
                assert_eq!(found(&shape, 1, most - 1), None, "{shape:?}");
            }
        }
    }
}
