//! The loss at the output of a tile.

use predictive_coding_kernels::{Level, loss as kernels};

use crate::loss::{Loss, Targets};

/// How the outputs of a batch become losses and errors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) level: Level,
    pub(crate) loss: Loss,
    /// What the sum of the lanes' losses is multiplied by: one over the number of terms of the mean.
    pub(crate) scale: f64,
    /// Whether epsilon_L is the derivative's negative, so that beliefs move up the loss.
    pub(crate) ascending: bool,
}

impl Output {
    /// For a batch of `samples` with `outputs` each.
    pub(crate) fn new(level: Level, loss: Loss, samples: usize, outputs: usize) -> Self {
        let terms = match loss {
            Loss::CrossEntropy => samples,
            Loss::Mse => samples * outputs,
        };
        Output { level, loss, scale: 1.0 / terms as f64, ascending: false }
    }

    /// Spreads the targets of samples `first..first + samples` over the lanes of a tile.
    pub(crate) fn load(&self, targets: Targets<'_>, first: usize, samples: usize, lanes: usize, out: &mut [f32]) {
        let outputs = out.len() / lanes;
        match (self.loss, targets) {
            (Loss::CrossEntropy, Targets::Labels(labels)) => {
                let used = labels[first..first + samples].iter().map(|&label| label as f32);
                let unused = std::iter::repeat(-1.0);
                out[..lanes].iter_mut().zip(used.chain(unused)).for_each(|(out, label)| *out = label);
            }
            (_, Targets::Labels(labels)) => {
                out.fill(0.0);
                for (lane, &label) in labels[first..first + samples].iter().enumerate() {
                    out[label as usize * lanes + lane] = 1.0;
                }
            }
            (_, Targets::Values(values)) => {
                let rows = &values[first * outputs..(first + samples) * outputs];
                predictive_coding_kernels::rows_to_lanes(self.level, rows, outputs, out);
            }
        }
    }

    /// epsilon_L, dLoss/dy at y = v-hat_L + D_L or its negative, and the unscaled loss of each lane.
    pub(crate) fn error(
        &self,
        activation: &[f32],
        difference: &[f32],
        targets: &[f32],
        samples: usize,
        error: &mut [f32],
        losses: &mut [f64],
    ) {
        let scale = if self.ascending { -self.scale } else { self.scale } as f32;
        match self.loss {
            Loss::CrossEntropy => {
                let labels = &targets[..losses.len()];
                kernels::cross_entropy(self.level, activation, difference, labels, scale, error, losses);
            }
            Loss::Mse => {
                kernels::squared_error(self.level, activation, difference, targets, samples, scale, error, losses);
            }
        }
    }

    /// The probabilities of the classes, from the error at an output; of use to cross-entropy alone.
    pub(crate) fn probabilities(&self, error: &[f32], targets: &[f32], lanes: usize, out: &mut [f32]) {
        if self.loss == Loss::CrossEntropy {
            let scale = (1.0 / self.scale) as f32;
            out.iter_mut().zip(error).for_each(|(p, error)| *p = error * scale);
            for (lane, &label) in targets[..lanes].iter().enumerate().filter(|(_, label)| **label >= 0.0) {
                out[label as usize * lanes + lane] += 1.0;
            }
        }
    }

    /// The loss's Hessian by the output, times a difference of the output.
    pub(crate) fn curvature(&self, probabilities: &[f32], difference: &[f32], lanes: usize, error: &mut [f32]) {
        let scale = self.scale as f32;
        match self.loss {
            Loss::Mse => error.iter_mut().zip(difference).for_each(|(error, d)| *error = 2.0 * scale * d),
            Loss::CrossEntropy => {
                for lane in 0..lanes {
                    let of_lane = (lane..error.len()).step_by(lanes);
                    let mean: f32 = of_lane.clone().map(|i| probabilities[i] * difference[i]).sum();
                    of_lane.for_each(|i| error[i] = scale * probabilities[i] * (difference[i] - mean));
                }
            }
        }
    }
}
