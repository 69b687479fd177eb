//! The loss at the output of a tile.

use predictive_coding_kernels::loss::Outputs;
use predictive_coding_kernels::reduce;

use crate::loss::{Loss, LossFunction, Targets};
use crate::plan::Plan;

/// How the outputs of a batch become losses and errors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// How they lie in a tile.
    outputs: Outputs,
    function: LossFunction,
    /// What the sum of the samples' losses is multiplied by.
    pub(crate) scale: f64,
    /// What the loss is multiplied by in the energy.
    nudge: f64,
    /// Which of the two sides of a centred nudge this is: its errors count negatively in the gradients.
    pub(crate) opposite: bool,
    /// Whether epsilon_L is the derivative's negative, so that beliefs move up the loss.
    pub(crate) ascending: bool,
    /// Whether only the targets count whose mask is 1.
    masked: bool,
}

impl Output {
    /// For a batch of `samples`; `ascending` for [`Published2022`](crate::Solver::Published2022).
    pub(crate) fn new(plan: &Plan, loss: Loss, samples: usize, nudge: f64, ascending: bool) -> Self {
        let last = plan.layers.len() - 1;
        let outputs = Outputs { level: plan.level, layout: plan.layout, image: plan.layers[last].image };
        Output {
            outputs,
            function: loss.function,
            scale: loss.scale(samples, plan.elements(last)),
            nudge,
            opposite: false,
            ascending,
            masked: false,
        }
    }

    /// The same with a mask of the targets, or without.
    pub(crate) fn masked(self, masked: bool) -> Self {
        Output { masked, ..self }
    }

    /// Puts the targets of samples `first..first + samples` into a tile: as the outputs lie, or for cross-entropy a
    /// label for each sample.
    pub(crate) fn load(&self, targets: Targets<'_>, first: usize, samples: usize, out: &mut [f32]) {
        let Outputs { level, layout, image } = self.outputs;
        match (self.function, targets) {
            (LossFunction::CrossEntropy, Targets::Labels(labels)) => {
                let used = labels[first..first + samples].iter().map(|&label| label as f32);
                let unused = std::iter::repeat(-1.0);
                out[..layout.images(level)].iter_mut().zip(used.chain(unused)).for_each(|(out, label)| *out = label);
            }
            (_, Targets::Labels(labels)) => {
                out.fill(0.0);
                for (sample, &label) in labels[first..first + samples].iter().enumerate() {
                    let place = self.outputs.places(sample).nth(label as usize);
                    out[place.expect("labels were checked against the outputs")] = 1.0;
                }
            }
            (_, Targets::Values(values)) => {
                let elements: usize = image.iter().product();
                layout.load(level, &values[first * elements..(first + samples) * elements], image, out);
            }
        }
    }

    /// Puts the mask of samples `first..first + samples` into a tile.
    pub(crate) fn load_mask(&self, mask: &[f32], first: usize, samples: usize, out: &mut [f32]) {
        let Outputs { level, layout, image } = self.outputs;
        let elements: usize = image.iter().product();
        layout.load(level, &mask[first * elements..(first + samples) * elements], image, out);
    }

    /// The other side of a centred nudge.
    pub(crate) fn other_side(self) -> Self {
        Output { nudge: -self.nudge, opposite: true, ..self }
    }

    /// What an unscaled loss is multiplied by in the energy.
    pub(crate) fn weight(&self) -> f64 {
        self.nudge * self.scale
    }

    /// epsilon_L, dLoss/dy times the nudge at y = v-hat_L + D_L or its negative, and the unscaled loss of each sample.
    pub(crate) fn error(
        &self,
        activation: &[f32],
        difference: &[f32],
        [targets, mask]: [&[f32]; 2],
        samples: usize,
        error: &mut [f32],
        losses: &mut [f64],
    ) {
        let scale = if self.ascending { -self.weight() } else { self.weight() } as f32;
        match self.function {
            LossFunction::CrossEntropy => {
                let labels = &targets[..losses.len()];
                self.outputs.cross_entropy(activation, difference, labels, scale, error, losses);
            }
            LossFunction::Mse if self.masked => {
                self.outputs.squared_error(activation, difference, targets, samples, 0.5, error, losses);
                error.iter_mut().zip(mask).for_each(|(error, mask)| *error *= mask);
                losses.fill(0.0);
                reduce::add_squares(self.outputs.level, self.outputs.layout, error, losses);
                error.iter_mut().for_each(|error| *error *= 2.0 * scale);
            }
            LossFunction::Mse => {
                self.outputs.squared_error(activation, difference, targets, samples, scale, error, losses);
            }
        }
    }

    /// The probabilities of the classes of `samples`, from the error at an output; of use to cross-entropy alone.
    pub(crate) fn probabilities(&self, error: &[f32], targets: &[f32], samples: usize, out: &mut [f32]) {
        if self.function == LossFunction::CrossEntropy {
            let scale = (1.0 / self.weight()) as f32;
            out.iter_mut().zip(error).for_each(|(p, error)| *p = error * scale);
            for (sample, &label) in targets[..samples].iter().enumerate() {
                let place = self.outputs.places(sample).nth(label as usize);
                out[place.expect("labels were checked against the outputs")] += 1.0;
            }
        }
    }

    /// The largest curvature that the loss can have by an output, times a difference of the output.
    pub(crate) fn steepest(&self, difference: &[f32], error: &mut [f32]) {
        let largest = match self.function {
            LossFunction::Mse => 2.0,
            LossFunction::CrossEntropy => 0.5,
        };
        let scale = (largest * self.weight()) as f32;
        error.iter_mut().zip(difference).for_each(|(error, d)| *error = scale * d);
    }

    /// The loss's Hessian by the output, times a difference of the output.
    pub(crate) fn curvature(&self, probabilities: &[f32], difference: &[f32], mask: &[f32], error: &mut [f32]) {
        let scale = self.weight() as f32;
        match self.function {
            LossFunction::Mse if self.masked => {
                let masked = difference.iter().zip(mask).map(|(d, mask)| 2.0 * scale * d * mask);
                error.iter_mut().zip(masked).for_each(|(error, masked)| *error = masked);
            }
            LossFunction::Mse => error.iter_mut().zip(difference).for_each(|(error, d)| *error = 2.0 * scale * d),
            LossFunction::CrossEntropy => {
                error.fill(0.0);
                for sample in 0..self.outputs.layout.images(self.outputs.level) {
                    let places = self.outputs.places(sample);
                    let mean: f32 = places.clone().map(|i| probabilities[i] * difference[i]).sum();
                    places.for_each(|i| error[i] = scale * probabilities[i] * (difference[i] - mean));
                }
            }
        }
    }
}
