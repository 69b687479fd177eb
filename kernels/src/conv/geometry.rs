//! Which input pixels an output pixel sums over, for a convolution and for its transpose.
//!
//! Along one axis, tap k of output i of a convolution reads input i * stride - padding + k *
//! dilation; tap k of input j of the transpose reads output (j + padding - k * dilation) / stride
//! where that divides. Either way an output coordinate has a list of (tap, source) pairs, and
//! consecutive outputs with the same list, shifted, form a run. Taps that fall on padding are not
//! in the list, so nothing is multiplied by a zero of the border and no border has to be stored.

/// Sizes of a 2-D convolution; pairs are (vertical, horizontal).
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
    /// Step between taps.
    pub dilation: [usize; 2],
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
            dilation: [1, 1],
        }
    }

    /// Height and width of the output.
    ///
    /// # Panics
    /// If a window does not fit its padded input, or a kernel, stride or dilation is 0.
    pub fn output(&self) -> [usize; 2] {
        [0, 1].map(|axis| {
            assert!(self.stride[axis] > 0 && self.dilation[axis] > 0, "a stride or dilation of 0 in {self:?}");
            let reach = self.kernel[axis].checked_sub(1).and_then(|steps| steps.checked_mul(self.dilation[axis]));
            let padded = self.padding[axis].checked_mul(2).and_then(|padding| padding.checked_add(self.input[axis]));
            match (reach, padded) {
                (Some(reach), Some(padded)) if reach < padded => (padded - reach - 1) / self.stride[axis] + 1,
                (Some(reach), Some(padded)) => {
                    panic!("a window of {} does not fit a padded input of {padded}", reach.saturating_add(1))
                }
                _ => panic!("a kernel of 0, or a window or a padded input that is too large, in {self:?}"),
            }
        })
    }

    /// Refuses sizes whose products do not fit the types that address tensors and weights.
    ///
    /// # Panics
    /// As [`output`](Self::output), or if a tensor of `lanes` images, or a row of the weights, has 2^32 elements or
    /// more.
    pub(crate) fn check_sizes(&self, lanes: usize) {
        let tensors = [(self.in_channels, self.input), (self.out_channels, self.output())];
        tensors.into_iter().for_each(|(channels, size)| check_tensor(lanes, channels, size));
        let depth = [self.kernel[0], self.kernel[1]].into_iter().try_fold(self.in_channels, usize::checked_mul);
        let fits =
            depth.is_some_and(|depth| u32::try_from(depth).is_ok() && depth.checked_mul(self.out_channels).is_some());
        assert!(fits, "the weights of {self:?} are too large");
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
        let factors = [self.in_channels, self.kernel[0], self.kernel[1], self.out_channels, height, width];
        factors.into_iter().fold(2, |flops: u64, factor| flops.saturating_mul(factor as u64))
    }
}

/// # Panics
/// If a tensor of `lanes` images has 2^32 elements or more.
pub(crate) fn check_tensor(lanes: usize, channels: usize, [height, width]: [usize; 2]) {
    let elements = [height, width, lanes].into_iter().try_fold(channels.max(1), usize::checked_mul);
    assert!(
        elements.is_some_and(|n| u32::try_from(n).is_ok()),
        "a tensor of {channels} x {height} x {width} x {lanes} elements is too large"
    );
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

impl Axis {
    /// The axis of the convolution itself.
    pub(crate) fn forward(shape: &ConvShape, axis: usize) -> Axis {
        let (stride, padding, dilation) = (shape.stride[axis], shape.padding[axis], shape.dilation[axis]);
        let source = |out: usize, tap: usize| {
            (out * stride + tap * dilation).checked_sub(padding).filter(|&i| i < shape.input[axis])
        };
        Axis::new(shape.output()[axis], shape.kernel[axis], 1, stride, source)
    }

    /// The axis of the transpose: from the output's gradient to the input's.
    pub(crate) fn transposed(shape: &ConvShape, axis: usize) -> Axis {
        let (stride, padding, dilation) = (shape.stride[axis], shape.padding[axis], shape.dilation[axis]);
        let outputs = shape.output()[axis];
        let source = |input: usize, tap: usize| {
            let distance = (input + padding).checked_sub(tap * dilation)?;
            Some(distance / stride).filter(|&i| distance % stride == 0 && i < outputs)
        };
        Axis::new(shape.input[axis], shape.kernel[axis], stride, 1, source)
    }

    fn new(
        outputs: usize,
        taps: usize,
        out_step: usize,
        source_step: usize,
        source: impl Fn(usize, usize) -> Option<usize>,
    ) -> Axis {
        let list = |out: usize| -> Vec<_> { (0..taps).filter_map(|k| source(out, k).map(|i| (k, i))).collect() };
        let mut runs: Vec<AxisRun> = Vec::new();
        for phase in 0..out_step.min(outputs) {
            let mut open: Option<AxisRun> = None;
            for out in (phase..outputs).step_by(out_step) {
                let taps = list(out);
                let continues = |run: &AxisRun| {
                    let shift = run.count * source_step;
                    run.taps.len() == taps.len()
                        && run.taps.iter().zip(&taps).all(|(a, b)| a.0 == b.0 && a.1 + shift == b.1)
                };
                match &mut open {
                    Some(run) if continues(run) => run.count += 1,
                    _ => runs.extend(open.replace(AxisRun { first: out, count: 1, taps })),
                }
            }
            runs.extend(open);
        }
        Axis { runs, out_step, source_step }
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

    #[test]
    fn an_axis_lists_what_the_definition_lists() {
        for (size, kernel, stride, padding, dilation) in itertools(9, 4, 3, 4, 3) {
            if (kernel - 1) * dilation + 1 > size + 2 * padding {
                continue;
            }
            let shape = ConvShape {
                in_channels: 1,
                out_channels: 1,
                input: [1, size],
                kernel: [1, kernel],
                stride: [1, stride],
                padding: [0, padding],
                dilation: [1, dilation],
            };
            let outputs = (size + 2 * padding - (kernel - 1) * dilation - 1) / stride + 1;
            let mut expected = Vec::new();
            for out in 0..outputs {
                for tap in 0..kernel {
                    let i = (out * stride + tap * dilation) as isize - padding as isize;
                    if (0..size as isize).contains(&i) {
                        expected.push((out, tap, i as usize));
                    }
                }
            }
            assert_eq!(pairs(&Axis::forward(&shape, 1)), expected, "{shape:?}");
            let mut transposed: Vec<_> = expected.iter().map(|&(out, tap, i)| (i, tap, out)).collect();
            transposed.sort_unstable();
            assert_eq!(pairs(&Axis::transposed(&shape, 1)), transposed, "transpose of {shape:?}");
        }
    }

    fn itertools(
        size: usize,
        kernel: usize,
        stride: usize,
        padding: usize,
        dilation: usize,
    ) -> impl Iterator<Item = (usize, usize, usize, usize, usize)> {
        (1..=size).flat_map(move |a| {
            (1..=kernel).flat_map(move |b| {
                (1..=stride)
                    .flat_map(move |c| (0..=padding).flat_map(move |d| (1..=dilation).map(move |e| (a, b, c, d, e))))
            })
        })
    }
}
