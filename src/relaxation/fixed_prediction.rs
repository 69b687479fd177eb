//! Algorithm 2, in errors alone: with e_l = p_l epsilon_l for the layers' precisions p_l and predictions fixed at
//! v-hat, v_l += eta (e_l - J^T e_{l+1}) is
//!
//! ```text
//! e_l <- (1 - eta p_l) e_l + eta p_l J_{l+1}(v-hat_l)^T e_{l+1}      all l < L at once
//! ```
//!
//! from e_l = 0, n - 1 times; one more such step gives v = v-hat - epsilon. Where several layers read layer l, their
//! pulls are summed. The Jacobians are constant and so is epsilon_L. In a chain, e_l stays a multiple of backpropagation's
//! delta_l at all times, and the multiples follow a recursion of their own ([`shares`](crate::shares)). So it is in other
//! networks if the layers that read layer l have the same multiples. The iteration itself is here for the rest, and for
//! those who want to see it done.

use predictive_coding_kernels::{Combine, elementwise};

use super::Relaxation;
use crate::layer::{Gradients, Input, Towards};
use crate::method::FixedPrediction;
use crate::options::Options;
use crate::plan::{LayerPlan, Link};
use crate::state::{Tile, Values};
use crate::wave::Front;

pub(crate) fn fixed_prediction(
    mut tile: Relaxation<'_>,
    method: &FixedPrediction,
    options: &Options,
    gradients: &mut Gradients<'_, '_>,
) {
    let (eta, iterations) = (method.eta.largest(), method.iterations);
    let plan = tile.layers.plan;
    tile.tile.errors[..plan.hidden_len()].fill(0.0);
    tile.tile.deviations.fill(0.0);
    tile.pull_to_product(tile.len() - 1);
    // What an error does to the belief of its own layer.
    let kept = |source: Option<usize>| {
        let (precision, rate) = plan.pace(source);
        1.0 - eta * rate * precision
    };
    for iteration in 1..iterations {
        if options.stopped() {
            return;
        }
        // Upwards, so that each layer still finds its own error as it was.
        for layer in 0..tile.len() {
            let above = tile.place(layer);
            let Relaxation { layers, tile: Tile { activations, errors, .. }, scratch, .. } = &mut tile;
            if plan.layers[layer].wave.reached <= iteration {
                let values = Values::new(plan, &scratch.values, activations);
                let (beliefs, errors) = errors.split_at_mut(above.start);
                let combine = |link: &Link| {
                    let kept = kept(link.source);
                    let beta = if link.alone { kept } else { 1.0 };
                    Combine { alpha: (1.0 - kept) as f32, beta: beta as f32, ..Combine::default() }
                };
                let (error, towards) = (&errors[..above.len()], Some(Towards { beliefs, combine: &combine }));
                layers.backward(layer, values, Input::Activation, error, &mut scratch.work, None, towards);
            }
            if plan.shared.contains(&Some(layer)) {
                let kept = kept(Some(layer)) as f32;
                errors[above].iter_mut().for_each(|error| *error *= kept);
            }
        }
        for layer in 0..tile.len() - 1 {
            let wave = plan.layers[layer].wave;
            if wave.is_predicted(Front::Beliefs) && wave.reached <= iteration + 1 {
                tile.pull_to_product(layer);
            }
        }
    }
    let Relaxation { layers, tile: Tile { activations, deviations, errors, .. }, scratch, .. } = &mut tile;
    let values = Values::new(plan, &scratch.values, activations);
    let left = |source: Option<usize>| -(kept(source) / plan.pace(source).0) as f32;
    for &source in &plan.shared {
        let (place, combine) = (plan.belief(source), Combine { alpha: left(source), ..Combine::default() });
        elementwise::combine(plan.level, &errors[place.clone()], combine, &mut deviations[place]);
    }
    for (layer, LayerPlan { wave, output, .. }) in plan.layers.iter().enumerate() {
        if wave.reached > iterations {
            continue;
        }
        let combine = |link: &Link| {
            let combine = Combine { alpha: -(eta * plan.pace(link.source).1) as f32, ..Combine::default() };
            match link.alone {
                true => Combine { gamma: left(link.source), other: &errors[plan.belief(link.source)], ..combine },
                false => Combine { beta: 1.0, ..combine },
            }
        };
        let (error, towards) = (&errors[output.clone()], Some(Towards { beliefs: deviations, combine: &combine }));
        layers.backward(layer, values, Input::Activation, error, &mut scratch.work, None, towards);
    }
    for layer in (0..tile.len()).rev() {
        tile.pull_to_product(layer);
        tile.gradient_at_activations(layer, gradients);
    }
}
