//! How the beliefs of a strict relaxation move in an iteration. With the direction
//!
//! ```text
//! d_l = p_l epsilon_l - J_{l+1}(v_l)^T p_{l+1} epsilon_{l+1}
//! steps       u_l += eta d_l
//! momentum    m_l = mu m_l + d_l,   u_l += eta m_l                    (torch.optim.SGD)
//! nesterov    m_l = mu m_l + d_l,   u_l += eta (d_l + mu m_l)
//! adam        m_l = b1 m_l + (1 - b1) d_l,   s_l = b2 s_l + (1 - b2) d_l^2,
//!             u_l += eta (m_l / (1 - b1^i)) / (sqrt(s_l / (1 - b2^i)) + 1e-8)       in iteration i (torch.optim.Adam)
//! ```

use predictive_coding_kernels::{Combine, elementwise};

use super::Relaxation;
use crate::layer::Input;
use crate::method::{Solver, Strict};
use crate::plan::LayerPlan;
use crate::state::{Moments, Scratch, Tile, Values};

/// Adam's decay rates, and what it adds to the denominator: PyTorch's defaults.
const DECAY: [f64; 2] = [0.9, 0.999];
const EPSILON: f32 = 1e-8;

impl Relaxation<'_> {
    /// Moves the beliefs of the layers below `pulled` (index from 0) and above; epsilon_l is -u_l below `pushed`.
    pub(super) fn update(&mut self, method: &Strict, iteration: usize, pulled: usize, pushed: usize) {
        let straight = self.scratch.work.moments.direction.is_empty();
        for layer in pulled..self.len() {
            let (below, above) = (self.place(layer - 1), self.place(layer));
            let Tile { activations, deviations, errors, steps, .. } = &mut *self.tile;
            let Scratch { values, work } = &mut *self.scratch;
            let values = Values::new(self.layers.plan, values, activations);
            let LayerPlan { precision, rate, .. } = self.layers.plan.layers[layer - 1];
            let input = if layer < pushed { Input::Activation } else { Input::Pushed };
            let unpredicted = layer - 1 < pushed;
            if straight {
                let step = Combine { alpha: -rate as f32, step: Some(&steps.eta), ..Combine::default() };
                let step = match unpredicted {
                    true => Combine { beta: -(rate * precision) as f32, ..step },
                    false => Combine { gamma: rate as f32, other: &errors[below.clone()], ..step },
                };
                let out = Some((step, &mut deviations[below]));
                self.layers.backward(layer, values, input, &errors[above], work, None, out);
                continue;
            }
            let mut moments = std::mem::take(&mut work.moments);
            let (gamma, other) = match unpredicted {
                true => (-precision as f32, &deviations[below.clone()]),
                false => (1.0, &errors[below.clone()]),
            };
            let direction = Combine { alpha: -1.0, gamma, other, ..Combine::default() };
            let out = Some((direction, &mut moments.direction[below.clone()]));
            self.layers.backward(layer, values, input, &errors[above], work, None, out);
            let Moments { direction, mean, square } = &mut moments;
            let level = self.layers.plan.level;
            let (direction, mean) = (&mut direction[below.clone()], &mut mean[below.clone()]);
            let step = Combine { alpha: rate as f32, step: Some(&steps.eta), ..Combine::default() };
            let u = &mut deviations[below.clone()];
            match method.solver {
                Solver::Momentum { momentum, nesterov, .. } => {
                    let keep = momentum as f32;
                    elementwise::combine(level, direction, Combine { beta: keep, ..Combine::default() }, mean);
                    match nesterov {
                        true => {
                            let step = Combine { gamma: step.alpha * keep, other: mean, ..step };
                            elementwise::combine(level, direction, step, u);
                        }
                        false => elementwise::combine(level, mean, step, u),
                    }
                }
                _ => {
                    adam(iteration, direction, mean, &mut square[below]);
                    elementwise::combine(level, direction, step, u);
                }
            }
            self.scratch.work.moments = moments;
        }
    }

    /// Forgets how the beliefs moved.
    pub(super) fn clear_moments(&mut self) {
        let Moments { mean, square, .. } = &mut self.scratch.work.moments;
        mean.fill(0.0);
        square.fill(0.0);
    }
}

/// Takes directions into the moments and makes them Adam's.
fn adam(iteration: usize, direction: &mut [f32], mean: &mut [f32], square: &mut [f32]) {
    let unbiased = DECAY.map(|decay| 1.0 / (1.0 - decay.powf(iteration as f64)));
    let (scale, inverse_root) = (unbiased[0] as f32, unbiased[1].sqrt() as f32);
    let [keep, rate] = [DECAY.map(|decay| decay as f32), DECAY.map(|decay| (1.0 - decay) as f32)];
    for ((d, m), s) in direction.iter_mut().zip(mean).zip(square) {
        *m = keep[0] * *m + rate[0] * *d;
        *s = keep[1] * *s + rate[1] * *d * *d;
        *d = scale * *m / (s.sqrt() * inverse_root + EPSILON);
    }
}
