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

use super::strict::{Descent, weighted};
use super::{Relaxation, clear_clamped};
use crate::layer::{Input, Towards};
use crate::method::Solver;
use crate::plan::{LayerPlan, Link};
use crate::state::{Moments, Scratch, Tile, Values};
use crate::wave::Front;

/// Adam's decay rates, and what it adds to the denominator: PyTorch's defaults.
const DECAY: [f64; 2] = [0.9, 0.999];
const EPSILON: f32 = 1e-8;

impl Relaxation<'_> {
    /// A step of all beliefs.
    pub(super) fn update(&mut self, front: Front) {
        let plan = self.layers.plan;
        let Tile { activations, deviations, errors, steps, .. } = &mut *self.tile;
        let Scratch { values, work } = &mut *self.scratch;
        let values = Values::new(plan, values, activations);
        let wrong = |source: Option<usize>| source.is_none_or(|layer| plan.layers[layer].wave.is_wrong(front));
        let step = |source: Option<usize>, alpha: f64| {
            let (_, rate) = plan.pace(source);
            Combine { alpha: (alpha * rate) as f32, step: Some(&steps.eta), ..Combine::default() }
        };
        for source in plan.pulled_apart(front).filter(|&source| wrong(source)) {
            let place = plan.belief(source);
            if !plan.is_predicted(source, front) {
                let minus = weighted(-plan.pace(source).0);
                elementwise::combine(plan.level, &deviations[place.clone()], minus, &mut errors[place.clone()]);
            }
            plan.combine(&errors[place.clone()], step(source, 1.0), &mut deviations[place]);
        }
        let combine = |link: &Link| {
            let Link { source, alone, .. } = *link;
            let (precision, rate) = plan.pace(source);
            match alone && wrong(source) {
                true if plan.is_predicted(source, front) => {
                    Combine { gamma: rate as f32, other: &errors[plan.belief(source)], ..step(source, -1.0) }
                }
                true => Combine { beta: -(rate * precision) as f32, ..step(source, -1.0) },
                false => step(source, -1.0),
            }
        };
        for (layer, LayerPlan { output, wave, .. }) in plan.layers.iter().enumerate() {
            if wave.is_wrong(front) {
                let at = if wave.is_predicted(front) { Input::Pushed } else { Input::Activation };
                let (error, towards) = (&errors[output.clone()], Towards { beliefs: deviations, combine: &combine });
                self.layers.backward(layer, values, at, error, work, None, Some(towards));
            }
        }
        self.hold_clamped();
    }

    /// The same by the moments of another solver than that of steps.
    pub(super) fn update_by_moments(&mut self, solver: &Solver, iteration: usize, front: Front) {
        let plan = self.layers.plan;
        let level = plan.level;
        let mut moments = std::mem::take(&mut self.scratch.work.moments);
        let Moments { mean, direction, square } = &mut moments;
        match *solver {
            Solver::Momentum { momentum, nesterov: false, .. } => self.direct(front, momentum as f32, mean),
            _ => self.direct(front, 0.0, direction),
        }
        let Tile { deviations, steps, .. } = &mut *self.tile;
        let free_input = (!plan.input.output.is_empty()).then_some(None);
        for source in free_input.into_iter().chain((0..plan.layers.len() - 1).map(Some)) {
            let place = plan.belief(source);
            let (m, u) = (&mut mean[place.clone()], &mut deviations[place.clone()]);
            let step = Combine { alpha: plan.pace(source).1 as f32, step: Some(&steps.eta), ..Combine::default() };
            match *solver {
                Solver::Momentum { nesterov: false, .. } => plan.combine(m, step, u),
                Solver::Momentum { momentum, .. } => {
                    let (d, keep) = (&direction[place], momentum as f32);
                    elementwise::combine(level, d, Combine { beta: keep, ..Combine::default() }, m);
                    plan.combine(d, Combine { gamma: step.alpha * keep, other: m, ..step }, u);
                }
                _ => {
                    let d = &mut direction[place.clone()];
                    adam(iteration, d, m, &mut square[place]);
                    plan.combine(d, step, u);
                }
            }
        }
        self.scratch.work.moments = moments;
        self.hold_clamped();
    }

    /// The direction d of all beliefs, plus `keep` times what is there; what is clamped has one too, but is held.
    fn direct(&mut self, front: Front, keep: f32, direction: &mut [f32]) {
        let plan = self.layers.plan;
        let Tile { activations, deviations, errors, .. } = &*self.tile;
        let Scratch { values, work } = &mut *self.scratch;
        let values = Values::new(plan, values, activations);
        // Nothing pulls on beliefs that no error has reached, and they stay.
        let wrong = |source: Option<usize>| source.is_none_or(|layer| plan.layers[layer].wave.is_wrong(front));
        // Epsilon times the precision, as a factor of what holds it.
        let own = |source: Option<usize>| match plan.is_predicted(source, front) {
            true => (1.0, &errors[plan.belief(source)]),
            false => (-plan.pace(source).0 as f32, &deviations[plan.belief(source)]),
        };
        let pulled = |link: &Link| match link.alone {
            true if wrong(link.source) => {
                let (gamma, other) = own(link.source);
                Combine { alpha: -1.0, beta: keep, gamma, other, ..Combine::default() }
            }
            true => Combine { alpha: -1.0, beta: keep, ..Combine::default() },
            false => Combine { alpha: -1.0, beta: 1.0, ..Combine::default() },
        };
        if keep == 0.0 {
            direction.fill(0.0);
        }
        for source in plan.pulled_apart(front).filter(|&source| wrong(source)) {
            let (alpha, epsilon) = own(source);
            let combine = Combine { alpha, beta: keep, ..Combine::default() };
            elementwise::combine(plan.level, epsilon, combine, &mut direction[plan.belief(source)]);
        }
        for (layer, LayerPlan { output, wave, .. }) in plan.layers.iter().enumerate() {
            if wave.is_wrong(front) {
                let at = if wave.is_predicted(front) { Input::Pushed } else { Input::Activation };
                let (error, towards) = (&errors[output.clone()], Towards { beliefs: direction, combine: &pulled });
                self.layers.backward(layer, values, at, error, work, None, Some(towards));
            }
        }
    }

    /// Records how steep the energy is by the beliefs, if the descent is traced.
    pub(super) fn trace(&mut self, iteration: usize, front: Front, descent: &mut Descent) {
        if !descent.is_traced() {
            return;
        }
        let mut traced = std::mem::take(&mut self.scratch.work.traced);
        self.direct(front, 0.0, &mut traced);
        clear_clamped(&self.tile.clamped, &mut traced);
        descent.record_gradient(self.layers.plan, iteration, self.tile.samples, &traced);
        self.scratch.work.traced = traced;
    }

    /// Takes the clamped elements of a free input back to what was given.
    fn hold_clamped(&mut self) {
        clear_clamped(&self.tile.clamped, &mut self.tile.deviations);
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
