//! Layers evaluated on a tile: values forward, differences forward, errors back, gradients.
//!
//! Nothing here knows of beliefs or iterations: a difference D at a layer's input is pushed
//! through it, f_l(v-hat + D) - f_l(v-hat), an error at its output is pulled back through it,
//! J_l^T epsilon, where J_l is taken where the layer was last evaluated.

use predictive_coding_kernels::{Combine, elementwise};

use crate::plan::{Plan, Product, Step};
use crate::state::{Scratch, Tile, read_write};

/// A plan with the parameters of one call.
#[derive(Clone, Copy)]
pub(crate) struct Layers<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) parameters: &'a [f32],
    pub(crate) packed: &'a [f32],
    /// Whether a single product is shared among threads: if there are fewer tasks than those.
    pub(crate) parallel: bool,
}

impl Product {
    /// Packs the weights for both directions.
    pub(crate) fn pack(&self, parameters: &[f32], packed: &mut [f32]) {
        let weight = &parameters[self.weight.clone()];
        self.conv.pack_forward(weight, &mut packed[self.forward.clone()], true);
        if !self.backward.is_empty() {
            self.conv.pack_backward(weight, &mut packed[self.backward.clone()], true);
        }
    }
}

impl Layers<'_> {
    /// The forward pass, from the tile's input values; leaves slopes and winners at v-hat.
    pub(crate) fn forward(&self, tile: &mut Tile, scratch: &mut Scratch) {
        let Plan { level, values, steps, .. } = self.plan;
        for (b, step) in steps.iter().enumerate() {
            let (z, out) = read_write(&mut tile.values, values[b].clone(), values[b + 1].clone());
            match step {
                Step::Product(product) => {
                    let bias = product.bias.as_ref().map(|range| &self.parameters[range.clone()]);
                    let combine = Combine { bias, ..Combine::default() };
                    product.conv.forward(&self.packed[product.forward.clone()], z, combine, out, self.parallel);
                }
                Step::Activation { function, slope } => {
                    function.forward(*level, z, out, &mut scratch.local[slope.clone()])
                }
                Step::MaxPool { pool, winner } => {
                    pool.forward(z, out, &mut scratch.local[winner.clone()], self.parallel)
                }
                Step::AvgPool(pool) => pool.forward(z, out, self.parallel),
            }
        }
    }

    /// Pushes the difference `input` of layer `layer` (index from 0) through it into `out`, minus
    /// `subtract` if that is given; leaves slopes and winners at v-hat + difference.
    pub(crate) fn push(
        &self,
        layer: usize,
        values: &[f32],
        input: &[f32],
        scratch: &mut Scratch,
        out: &mut [f32],
        subtract: Option<&[f32]>,
    ) {
        let last = self.plan.layers[layer].steps.end - 1;
        for b in self.plan.layers[layer].steps.start..last {
            self.push_inside(b, layer, values, input, scratch);
        }
        let first = self.plan.layers[layer].steps.start;
        let Scratch { differences, local, .. } = scratch;
        let d = if last == first { input } else { &differences[self.plan.differences[last].clone()] };
        let fused = self.push_step(last, values, d, local, out, subtract);
        if let Some(subtract) = subtract.filter(|_| !fused) {
            let combine = Combine { alpha: -1.0, beta: 1.0, ..Combine::default() };
            elementwise::combine(self.plan.level, subtract, combine, out);
        }
    }

    /// Evaluates a layer anew at v-hat plus `input` as far as its gradients need.
    pub(crate) fn renew(&self, layer: usize, values: &[f32], input: &[f32], scratch: &mut Scratch) {
        let plan = &self.plan.layers[layer];
        let end = plan.steps.end;
        for b in plan.renewed.clone() {
            if b + 1 < end {
                self.push_inside(b, layer, values, input, scratch);
            } else {
                let Scratch { differences, local, gradients: [out, _], .. } = scratch;
                let d = if b == plan.steps.start { input } else { &differences[self.plan.differences[b].clone()] };
                self.push_step(b, values, d, local, &mut out[..self.plan.values[b + 1].len()], None);
            }
        }
    }

    /// A step that does not end its layer.
    fn push_inside(&self, b: usize, layer: usize, values: &[f32], input: &[f32], scratch: &mut Scratch) {
        let places = &self.plan.differences;
        let Scratch { differences, local, .. } = scratch;
        if b == self.plan.layers[layer].steps.start {
            self.push_step(b, values, input, local, &mut differences[places[b + 1].clone()], None);
        } else {
            let (d, out) = read_write(differences, places[b].clone(), places[b + 1].clone());
            self.push_step(b, values, d, local, out, None);
        }
    }

    /// Returns whether `subtract` was subtracted.
    fn push_step(
        &self,
        b: usize,
        values: &[f32],
        d: &[f32],
        local: &mut [f32],
        out: &mut [f32],
        subtract: Option<&[f32]>,
    ) -> bool {
        let z = &values[self.plan.values[b].clone()];
        match &self.plan.steps[b] {
            Step::Product(product) => {
                let combine = match subtract {
                    Some(other) => Combine { gamma: -1.0, other, ..Combine::default() },
                    None => Combine::default(),
                };
                product.conv.forward(&self.packed[product.forward.clone()], d, combine, out, self.parallel);
                return true;
            }
            Step::Activation { function, slope } => {
                function.push(self.plan.level, z, d, out, &mut local[slope.clone()])
            }
            Step::MaxPool { pool, winner } => {
                let value = &values[self.plan.values[b + 1].clone()];
                pool.push(z, value, d, out, &mut local[winner.clone()], self.parallel)
            }
            Step::AvgPool(pool) => pool.forward(d, out, self.parallel),
        }
        false
    }

    /// Pulls `error` at the output of layer `layer` (index from 0) back to its input and combines
    /// the result with `out`.
    pub(crate) fn pull(
        &self,
        layer: usize,
        error: &[f32],
        scratch: &mut Scratch,
        combine: Combine<'_>,
        out: &mut [f32],
    ) {
        let steps = self.plan.layers[layer].steps.clone();
        let first = steps.start;
        let Scratch { local, gradients: [from, to], .. } = scratch;
        let (mut from, mut to) = (&mut **from, &mut **to);
        for b in steps.clone().rev() {
            let gradient = if b + 1 == steps.end { error } else { &from[..self.plan.values[b + 1].len()] };
            match &self.plan.steps[b] {
                Step::Product(product) if b == first => {
                    let packed = &self.packed[product.backward.clone()];
                    return product.conv.backward_data(packed, gradient, combine, out, self.parallel);
                }
                _ => self.pull_step(b, gradient, local, &mut to[..self.plan.values[b].len()]),
            }
            std::mem::swap(&mut from, &mut to);
        }
        elementwise::combine(self.plan.level, &from[..self.plan.values[first].len()], combine, out);
    }

    fn pull_step(&self, b: usize, gradient: &[f32], local: &[f32], out: &mut [f32]) {
        match &self.plan.steps[b] {
            Step::Product(product) => {
                let packed = &self.packed[product.backward.clone()];
                product.conv.backward_data(packed, gradient, Combine::default(), out, self.parallel);
            }
            Step::Activation { slope, .. } => {
                elementwise::multiply(self.plan.level, gradient, &local[slope.clone()], out)
            }
            Step::MaxPool { pool, winner } => pool.backward(gradient, &local[winner.clone()], out, self.parallel),
            Step::AvgPool(pool) => pool.backward(gradient, out, self.parallel),
        }
    }

    /// Adds the gradients of a layer's parameters to `gradients`: sum over the tile of
    /// `error` . df_l/dtheta_l. The layer's input is v-hat plus `deviation`, if that is given, and
    /// the layer must have been renewed there.
    pub(crate) fn gradient(
        &self,
        layer: usize,
        values: &[f32],
        deviation: Option<&[f32]>,
        error: &[f32],
        scratch: &mut Scratch,
        gradients: &mut [f32],
    ) {
        let steps = self.plan.layers[layer].steps.clone();
        let Some(lowest) = self.plan.layers[layer].lowest_product else { return };
        let Scratch { differences, local, gradients: [from, to], input, weights } = scratch;
        let (mut from, mut to) = (&mut **from, &mut **to);
        for b in (lowest..steps.end).rev() {
            let gradient = if b + 1 == steps.end { error } else { &from[..self.plan.values[b + 1].len()] };
            if let Step::Product(product) = &self.plan.steps[b] {
                let z = &values[self.plan.values[b].clone()];
                let x = match deviation {
                    None => z,
                    Some(deviation) => {
                        let d =
                            if b == steps.start { deviation } else { &differences[self.plan.differences[b].clone()] };
                        let x = &mut input[..z.len()];
                        elementwise::add(self.plan.level, z, d, x);
                        x
                    }
                };
                let weight = &mut gradients[product.weight.clone()];
                product.conv.backward_weights(gradient, x, weight, weights, self.parallel);
                if let Some(bias) = &product.bias {
                    product.conv.backward_bias(gradient, &mut gradients[bias.clone()]);
                }
            }
            if b > lowest {
                self.pull_step(b, gradient, local, &mut to[..self.plan.values[b].len()]);
                std::mem::swap(&mut from, &mut to);
            }
        }
    }
}
