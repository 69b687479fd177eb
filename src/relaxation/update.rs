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
use crate::method::Solver;
use crate::plan::LayerPlan;
use crate::state::{Moments, Scratch, Tile, Values};

/// Adam's decay rates, and what it adds to the denominator: PyTorch's defaults.
const DECAY: [f64; 2] = [0.9, 0.999];
const EPSILON: f32 = 1e-8;

impl Relaxation<'_> {
    /// Steps of the beliefs of the layers below `pulled` (index from 0) and above; epsilon_l is -u_l below `pushed`.
    pub(super) fn update(&mut self, pulled: usize, pushed: usize) {
        for layer in pulled..self.len() {
            let (below, above) = (self.place(layer - 1), self.place(layer));
            let Tile { activations, deviations, errors, steps, .. } = &mut *self.tile;
            let Scratch { values, work } = &mut *self.scratch;
            let values = Values::new(self.layers.plan, values, activations);
            let LayerPlan { precision, rate, .. } = self.layers.plan.layers[layer - 1];
            let step = Combine { alpha: -rate as f32, step: Some(&steps.eta), ..Combine::default() };
            let step = match layer - 1 < pushed {
                true => Combine { beta: -(rate * precision) as f32, ..step },
                false => Combine { gamma: rate as f32, other: &errors[below.clone()], ..step },
            };
            let input = if layer < pushed { Input::Activation } else { Input::Pushed };
            let out = Some((step, &mut deviations[below]));
            self.layers.backward(layer, values, input, &errors[above], work, None, out);
        }
    }

    /// The same by the moments of another solver than that of steps.
    pub(super) fn update_by_moments(&mut self, solver: &Solver, iteration: usize, pulled: usize, pushed: usize) {
        let level = self.layers.plan.level;
        let mut moments = std::mem::take(&mut self.scratch.work.moments);
        let Moments { direction, mean, square } = &mut moments;
        for layer in pulled..self.len() {
            let (below, above) = (self.place(layer - 1), self.place(layer));
            let Tile { activations, deviations, errors, steps, .. } = &mut *self.tile;
            let Scratch { values, work } = &mut *self.scratch;
            let values = Values::new(self.layers.plan, values, activations);
            let LayerPlan { precision, rate, .. } = self.layers.plan.layers[layer - 1];
            let (gamma, other) = match layer - 1 < pushed {
                true => (-precision as f32, &deviations[below.clone()]),
                false => (1.0, &errors[below.clone()]),
            };
            let input = if layer < pushed { Input::Activation } else { Input::Pushed };
            let d = &mut direction[below.clone()];
            let out = Some((Combine { alpha: -1.0, gamma, other, ..Combine::default() }, &mut *d));
            self.layers.backward(layer, values, input, &errors[above], work, None, out);
            let (m, u) = (&mut mean[below.clone()], &mut deviations[below.clone()]);
            let step = Combine { alpha: rate as f32, step: Some(&steps.eta), ..Combine::default() };
            if let Solver::Momentum { momentum, nesterov, .. } = *solver {
                let keep = momentum as f32;
                elementwise::combine(level, d, Combine { beta: keep, ..Combine::default() }, m);
                match nesterov {
                    true => elementwise::combine(level, d, Combine { gamma: step.alpha * keep, other: m, ..step }, u),
                    false => elementwise::combine(level, m, step, u),
                }
            } else {
                adam(iteration, d, m, &mut square[below]);
                elementwise::combine(level, d, step, u);
            }
        }
        self.scratch.work.moments = moments;
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
