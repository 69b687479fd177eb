//! One axis of a window whose taps are alike for all outputs of a phase, padding included.

use std::ops::Range;

use crate::conv::geometry::ConvShape;

/// Output `phase + i * out_step` finds a tap of its phase at source `i * source_step + shift`, which
/// may lie outside of the source, on padding.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    /// (tap, shift) of each phase.
    pub(super) phases: Vec<Vec<(usize, isize)>>,
    pub(super) source_step: usize,
    /// The least and the largest shift.
    shifts: [isize; 2],
    /// Length of the output.
    pub(super) outputs: usize,
}

impl Axis {
    /// Of a convolution.
    pub(super) fn forward(shape: &ConvShape, axis: usize) -> Self {
        let shift = |tap: usize| (tap * shape.dilation[axis]) as isize - shape.padding[axis] as isize;
        let taps = (0..shape.kernel[axis]).map(|tap| (tap, shift(tap))).collect();
        Axis::new(vec![taps], shape.stride[axis], shape.output()[axis])
    }

    /// Of its transpose, whose phases are as many as the stride.
    pub(super) fn transposed(shape: &ConvShape, axis: usize) -> Self {
        let stride = shape.stride[axis] as isize;
        let phase = |phase: usize| {
            let distance = |tap: usize| (phase + shape.padding[axis]) as isize - (tap * shape.dilation[axis]) as isize;
            let divides = |&tap: &usize| distance(tap) % stride == 0;
            (0..shape.kernel[axis]).filter(divides).map(|tap| (tap, distance(tap) / stride)).collect()
        };
        let phases = (0..shape.stride[axis].min(shape.input[axis]).max(1)).map(phase).collect();
        Axis::new(phases, 1, shape.input[axis])
    }

    fn new(phases: Vec<Vec<(usize, isize)>>, source_step: usize, outputs: usize) -> Self {
        let shifts = || phases.iter().flatten().map(|&(_, shift)| shift);
        let shifts = [shifts().min().unwrap_or(0), shifts().max().unwrap_or(0)];
        Axis { phases, source_step, shifts, outputs }
    }

    /// Distance of the outputs of a phase.
    pub(super) fn out_step(&self) -> usize {
        self.phases.len()
    }

    /// Outputs of the longest phase, the first.
    pub(super) fn steps(&self) -> usize {
        self.outputs.div_ceil(self.out_step())
    }

    /// What outputs `i` of all phases read.
    pub(super) fn reach(&self, steps: Range<usize>) -> Range<isize> {
        let (start, end) = ((steps.start * self.source_step) as isize, (steps.end * self.source_step) as isize);
        start + self.shifts[0]..end - self.source_step as isize + 1 + self.shifts[1]
    }

    /// The same of every comb: element i of comb k is source `i * source_step + k`.
    pub(super) fn comb_reach(&self, steps: Range<usize>) -> Range<isize> {
        let [first, last] = self.shifts.map(|shift| shift.div_euclid(self.source_step as isize));
        steps.start as isize + first..steps.end as isize + last
    }

    /// The comb of a shift, and how far its element lies behind the first of
    /// [`comb_reach`](Self::comb_reach).
    pub(super) fn place(&self, shift: isize) -> [usize; 2] {
        let (combs, [least, _]) = (self.source_step as isize, self.shifts);
        [shift.rem_euclid(combs) as usize, (shift.div_euclid(combs) - least.div_euclid(combs)) as usize]
    }

    /// How far the source of a shift lies behind the first of [`reach`](Self::reach).
    pub(super) fn behind(&self, shift: isize) -> usize {
        (shift - self.shifts[0]) as usize
    }

    /// Whether some tap is in each comb.
    pub(super) fn used_combs(&self) -> Vec<bool> {
        let used = |comb: usize| self.phases.iter().flatten().any(|&(_, shift)| self.place(shift)[0] == comb);
        (0..self.source_step).map(used).collect()
    }

    /// Whether some tap of some output meets each of `sources` elements.
    pub(super) fn used_sources(&self, sources: usize) -> Vec<bool> {
        let mut used = vec![false; sources];
        for i in 0..self.steps() {
            for &(_, shift) in self.phases.iter().flatten() {
                let source = (i * self.source_step) as isize + shift;
                if let Some(used) = usize::try_from(source).ok().and_then(|source| used.get_mut(source)) {
                    *used = true;
                }
            }
        }
        used
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conv::geometry;

    /// The (output, tap, source) of taps on the source, in order.
    fn of_runs(axis: &geometry::Axis) -> Vec<(usize, usize, usize)> {
        let pairs = axis.runs.iter().flat_map(|run| {
            let place = |n: usize, i: usize| (run.first + n * axis.out_step, i + n * axis.source_step);
            (0..run.count).flat_map(move |n| run.taps.iter().map(move |&(tap, i)| (place(n, i).0, tap, place(n, i).1)))
        });
        let mut pairs: Vec<_> = pairs.collect();
        pairs.sort_unstable();
        pairs
    }

    /// Likewise, of `sources` elements, by way of the combs; checks that all are within reach.
    fn of_phases(axis: &Axis, sources: usize) -> Vec<(usize, usize, usize)> {
        let used = axis.used_sources(sources);
        let (steps, combs) = (0..axis.steps(), axis.used_combs());
        let (reach, comb_reach) = (axis.reach(steps.clone()), axis.comb_reach(steps.clone()));
        let mut pairs = Vec::new();
        for (phase, taps) in axis.phases.iter().enumerate() {
            for i in steps.clone().filter(|i| phase + i * axis.out_step() < axis.outputs) {
                for &(tap, shift) in taps {
                    let source = (i * axis.source_step) as isize + shift;
                    let [comb, column] = axis.place(shift);
                    let column = comb_reach.start + (i + column) as isize;
                    assert!(combs[comb] && comb_reach.contains(&column) && reach.contains(&source));
                    assert_eq!(column * axis.source_step as isize + comb as isize, source);
                    assert_eq!(reach.start + (i * axis.source_step + axis.behind(shift)) as isize, source);
                    if (0..sources as isize).contains(&source) {
                        assert!(used[source as usize]);
                        pairs.push((phase + i * axis.out_step(), tap, source as usize));
                    }
                }
            }
        }
        pairs.sort_unstable();
        pairs
    }

    #[test]
    fn phases_list_what_runs_list() {
        for i in 0..9 * 4 * 4 * 4 * 3 {
            let (size, kernel, stride, padding, dilation) =
                (i % 9 + 1, i / 9 % 4 + 1, i / 36 % 4 + 1, i / 144 % 4, i / 576 + 1);
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
            let forward = of_phases(&Axis::forward(&shape, 1), size);
            assert_eq!(forward, of_runs(&geometry::Axis::forward(&shape, 1)), "{shape:?}");
            let transposed = of_phases(&Axis::transposed(&shape, 1), shape.output()[1]);
            assert_eq!(transposed, of_runs(&geometry::Axis::transposed(&shape, 1)), "transpose of {shape:?}");
        }
    }
}
