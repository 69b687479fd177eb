//! Layers evaluated on a tile: values forward, differences forward, errors back, gradients.
//!
//! Nothing here knows of iterations: a difference D at a layer's input is pushed through it,
//! f_l(v-hat + D) - f_l(v-hat), an error at its output is pulled back through it, J_l^T epsilon.
//! The error of a layer that ends without a product is pulled back to the end of its last product as
//! soon as it is known, band by band behind the product that it comes from: what lies between two
//! products takes no pass through memory of its own.

use predictive_coding_kernels::{Combine, Conv, Local, Relaxing, elementwise};

use crate::parameters::ParametersView;
use crate::plan::{LayerPlan, Plan, Product, Step, WeightGradient};
use crate::state::{Scratch, Tile, Values, Work, read_write, values_around};

/// A plan with the parameters of one call.
#[derive(Clone, Copy)]
pub(crate) struct Layers<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) parameters: ParametersView<'a>,
    pub(crate) packed: &'a [f32],
    /// How the parameters have changed since the forward pass, if they have.
    pub(crate) change: Option<Change<'a>>,
    /// Whether a single product is shared among threads: if there are fewer tasks than those.
    pub(crate) parallel: bool,
}

/// Differences of parameters, as they are and packed for forward products.
#[derive(Clone, Copy)]
pub(crate) struct Change<'a> {
    pub(crate) parameters: &'a [f32],
    pub(crate) packed: &'a [f32],
}

/// Where the gradients of the parameters go.
pub(crate) struct Gradients<'a> {
    /// Those of convolutions and biases, to be added to.
    pub(crate) partial: &'a mut [f32],
    /// The operands of those of matrices, a row for each sample of the tile.
    pub(crate) rows: &'a mut [f32],
}

/// The input of a layer, at which its Jacobian is taken.
#[derive(Clone, Copy)]
pub(crate) enum Input<'a> {
    /// v-hat of the layer below.
    Activation,
    /// Where the layer was last pushed, for a pull that asks for no gradients.
    Pushed,
    /// Where the layer was last pushed: v-hat plus this deviation, which is 0 if it is empty.
    Moved(&'a [f32]),
}

impl Product {
    /// Packs the weights for both directions.
    pub(crate) fn pack(&self, parameters: ParametersView<'_>, packed: &mut [f32]) {
        let weight = parameters.at(&self.weight);
        self.conv.pack_forward(weight, &mut packed[self.forward.clone()], true);
        if !self.backward.is_empty() {
            self.conv.pack_backward(weight, &mut packed[self.backward.clone()], true);
        }
    }
}

/// The rows of a local operation's result that a band of the product below it makes.
fn rows_of_band(conv: &Conv, local: &Local, band: usize) -> std::ops::Range<usize> {
    if conv.output_bands() == 1 {
        return 0..local.output_rows();
    }
    let rows = conv.output_band(band);
    let step = local.rows_per_row().expect("a product is cut into bands for operations whose rows share nothing");
    let end = if band + 1 == conv.output_bands() { local.output_rows() } else { rows.end / step };
    (rows.start / step).min(end)..end
}

impl Layers<'_> {
    /// The forward pass, from the tile's input values.
    pub(crate) fn forward(&self, tile: &mut Tile, scratch: &mut Scratch) {
        let Plan { steps, .. } = self.plan;
        let Scratch { values, work } = scratch;
        let (inside, activations, products) = (&mut **values, &mut *tile.activations, &mut *work.products);
        let mut b = 0;
        while b < steps.len() {
            match (&steps[b], steps.get(b + 1)) {
                (Step::Product(product), Some(Step::Local(local))) if product.conv.output_bands() > 1 => {
                    for band in 0..product.conv.output_bands() {
                        let (z, out) = values_around(self.plan, inside, activations, b);
                        let packed = self.weights(product, &product.forward);
                        let combine = self.biased(product);
                        product.conv.forward_band(band, packed, z, combine, out, products, self.parallel);
                        let (z, out) = values_around(self.plan, inside, activations, b + 1);
                        local.forward(z, out, rows_of_band(&product.conv, local, band), self.parallel);
                    }
                    b += 2;
                    continue;
                }
                (Step::Product(product), _) => {
                    let (z, out) = values_around(self.plan, inside, activations, b);
                    let packed = self.weights(product, &product.forward);
                    product.conv.forward(packed, z, self.biased(product), out, products, self.parallel);
                }
                (Step::Local(local), _) => {
                    let (z, out) = values_around(self.plan, inside, activations, b);
                    local.forward(z, out, 0..local.output_rows(), self.parallel);
                }
            }
            b += 1;
        }
    }

    /// The weights as a product of a direction wants them: packed at this place, or as they are.
    fn weights(&self, product: &Product, packed: &std::ops::Range<usize>) -> &[f32] {
        match product.conv.reads_weights() {
            true => self.parameters.at(&product.weight),
            false => &self.packed[packed.clone()],
        }
    }

    fn biased(&self, product: &Product) -> Combine<'_> {
        let bias = product.bias.as_ref().map(|range| self.parameters.at(range));
        Combine { bias, ..Combine::default() }
    }

    /// With u the deviation at the input of a hidden layer (index from 0) and `own` that of its belief, precision times
    /// epsilon = f(v-hat + u) - f(v-hat) - own, which is pulled back to the end of the last product.
    pub(crate) fn relax(
        &self,
        layer: usize,
        values: Values<'_>,
        u: &[f32],
        own: &[f32],
        work: &mut Work,
        error: &mut [f32],
    ) {
        let LayerPlan { steps, precision, pulled, .. } = &self.plan.layers[layer];
        let last = steps.end - 1;
        let precision = *precision as f32;
        match &self.plan.steps[last] {
            Step::Product(product) => {
                self.push_inside(layer, last, values, u, work);
                let combine = Combine { alpha: precision, gamma: -precision, other: own, ..Combine::default() };
                let Work { differences, products, .. } = work;
                let d = self.difference(layer, last, u, differences);
                let packed = self.weights(product, &product.forward);
                product.conv.forward(packed, d, combine, error, products, self.parallel);
            }
            Step::Local(local) => {
                let (z, value) = (values.at(last), values.at(steps.end));
                self.behind_product(layer, values, u, work, |d, pulled, rows| {
                    let operands = Relaxing { z, value, d, u: own, error: &mut *error, pulled };
                    local.relax(operands, rows, self.parallel);
                });
                if precision != 1.0 {
                    let pulled = &mut work.pulled[pulled.clone()];
                    error.iter_mut().chain(pulled).for_each(|error| *error *= precision);
                }
            }
        }
    }

    /// Calls `f(d, pulled, rows)` for the rows of the result of the local operation that ends a layer:
    /// with the deviation of their input, and where errors pulled back through it go.
    fn behind_product(
        &self,
        layer: usize,
        values: Values<'_>,
        u: &[f32],
        work: &mut Work,
        mut f: impl FnMut(&[f32], &mut [f32], std::ops::Range<usize>),
    ) {
        let plan = &self.plan.layers[layer];
        let last = plan.steps.end - 1;
        let Step::Local(local) = &self.plan.steps[last] else { unreachable!("the layer ends with a product") };
        match &self.plan.steps[last.saturating_sub(1)] {
            Step::Product(product) if plan.fused => {
                self.push_inside(layer, last - 1, values, u, work);
                let Work { differences, band: difference, pulled, products, .. } = work;
                let d = self.difference(layer, last - 1, u, differences);
                let packed = self.weights(product, &product.forward);
                for band in 0..product.conv.output_bands() {
                    let rows = rows_of_band(&product.conv, local, band);
                    let difference = &mut difference[..product.conv.output_band_len(band)];
                    product.conv.forward_alone(band, packed, d, difference, products, self.parallel);
                    f(difference, &mut pulled[plan.pulled.clone()], rows);
                }
            }
            _ => {
                self.push_inside(layer, last, values, u, work);
                let Work { differences, pulled, .. } = work;
                let d = self.difference(layer, last, u, differences);
                f(d, &mut pulled[plan.pulled.clone()], 0..local.output_rows());
            }
        }
    }

    /// Pushes the difference `u` at the input of a layer (index from 0) through it into `out`: with parameters W of which
    /// V have changed since z came from the forward pass, W d + V z through a product. An empty `u` stands for zeros.
    pub(crate) fn push(&self, layer: usize, values: Values<'_>, u: &[f32], work: &mut Work, out: &mut [f32]) {
        let last = self.plan.layers[layer].steps.end - 1;
        self.push_inside(layer, last, values, u, work);
        let Work { differences, products, .. } = work;
        self.push_step(last, values, self.difference(layer, last, u, differences), out, products);
    }

    /// The differences at the boundaries inside of a layer up to step `end`.
    fn push_inside(&self, layer: usize, end: usize, values: Values<'_>, u: &[f32], work: &mut Work) {
        let places = &self.plan.differences;
        let start = self.plan.layers[layer].steps.start;
        let Work { differences, products, .. } = work;
        if !places[start].is_empty() {
            differences[places[start].clone()].copy_from_slice(u);
        }
        for b in start..end {
            if b == start {
                self.push_step(b, values, u, &mut differences[places[b + 1].clone()], products);
            } else {
                let (d, out) = read_write(differences, places[b].clone(), places[b + 1].clone());
                self.push_step(b, values, d, out, products);
            }
        }
    }

    fn push_step(&self, b: usize, values: Values<'_>, d: &[f32], out: &mut [f32], products: &mut [f32]) {
        match &self.plan.steps[b] {
            Step::Product(product) => {
                if !d.is_empty() {
                    let packed = self.weights(product, &product.forward);
                    product.conv.forward(packed, d, Combine::default(), out, products, self.parallel);
                }
                if let Some(Change { parameters, packed }) = self.change {
                    let packed = match product.conv.reads_weights() {
                        true => &parameters[product.weight.clone()],
                        false => &packed[product.forward.clone()],
                    };
                    let bias = product.bias.as_ref().map(|range| &parameters[range.clone()]);
                    let beta = if d.is_empty() { 0.0 } else { 1.0 };
                    let combine = Combine { bias, beta, ..Combine::default() };
                    product.conv.forward(packed, values.at(b), combine, out, products, self.parallel);
                }
            }
            Step::Local(_) if d.is_empty() => out.fill(0.0),
            Step::Local(local) => local.push(values.at(b), values.at(b + 1), d, out, self.parallel),
        }
    }

    /// The difference at the input of step `b` of a layer; `u` is that at the input of the layer.
    fn difference<'d>(&self, layer: usize, b: usize, u: &'d [f32], differences: &'d [f32]) -> &'d [f32] {
        match b == self.plan.layers[layer].steps.start && self.plan.differences[b].is_empty() {
            true => u,
            false => &differences[self.plan.differences[b].clone()],
        }
    }

    /// Pulls the error at the output of a layer back to the end of its last product, if that is not there
    /// already; the Jacobian is taken at v-hat, or if `moved` where the layer was last pushed.
    pub(crate) fn pull_to_product(
        &self,
        layer: usize,
        values: Values<'_>,
        moved: Option<&[f32]>,
        error: &[f32],
        work: &mut Work,
    ) {
        let plan = &self.plan.layers[layer];
        let last = plan.steps.end - 1;
        if let Step::Local(local) = &self.plan.steps[last] {
            let Work { differences, pulled, .. } = work;
            let d = moved.map(|u| self.difference(layer, last, u, differences)).filter(|d| !d.is_empty());
            let (z, value, pulled) = (values.at(last), values.at(last + 1), &mut pulled[plan.pulled.clone()]);
            local.pull(z, value, d, error, pulled, 0..local.output_rows(), self.parallel);
        }
    }

    /// Evaluates a layer anew at v-hat plus `u` as far as its gradients need, and pulls its error back to
    /// the end of its last product there.
    pub(crate) fn renew(&self, layer: usize, values: Values<'_>, u: &[f32], error: &[f32], work: &mut Work) {
        let Some(renewed) = self.plan.layers[layer].renewed else { return };
        let last = self.plan.layers[layer].steps.end - 1;
        match &self.plan.steps[last] {
            Step::Local(local) if renewed == last => {
                let (z, value) = (values.at(last), values.at(last + 1));
                self.behind_product(layer, values, u, work, |d, pulled, rows| {
                    local.pull(z, value, Some(d), error, pulled, rows, self.parallel);
                });
            }
            _ => {
                self.push_inside(layer, renewed, values, u, work);
                self.pull_to_product(layer, values, None, error, work);
            }
        }
    }

    /// Carries the error at the end of a layer's last product on: adds the gradients of the layer's
    /// parameters to `gradients`, if those are given, and combines what arrives at the layer's input with
    /// `out`, if that is given. `error` is that at the layer's output.
    #[expect(clippy::too_many_arguments, reason = "what is carried back, where it was, and the two places it goes to")]
    pub(crate) fn backward(
        &self,
        layer: usize,
        values: Values<'_>,
        at: Input<'_>,
        error: &[f32],
        work: &mut Work,
        mut gradients: Option<&mut Gradients<'_>>,
        out: Option<(Combine<'_>, &mut [f32])>,
    ) {
        let plan = &self.plan.layers[layer];
        let (first, last) = (plan.steps.start, plan.steps.end - 1);
        let Work { differences, pulled, gradients: [from, to], input, products, .. } = work;
        let (mut from, mut to) = (&mut **from, &mut **to);
        let (top, known) = match &self.plan.steps[last] {
            Step::Local(_) => (last, &pulled[plan.pulled.clone()]),
            Step::Product(_) => (last + 1, error),
        };
        let lowest = match (&out, plan.lowest_product) {
            (Some(_), _) => first,
            (None, Some(lowest)) => lowest,
            (None, None) => return,
        };
        for b in (lowest..top).rev() {
            let gradient = if b + 1 == top { known } else { &from[..self.plan.len(b + 1)] };
            let d = match at {
                Input::Activation => None,
                Input::Pushed => Some(self.difference(layer, b, &[], differences)),
                Input::Moved(u) => Some(self.difference(layer, b, u, differences)),
            };
            let d = d.filter(|d| !d.is_empty());
            let to_out = b == first && out.is_some();
            match &self.plan.steps[b] {
                Step::Product(product) => {
                    if let Some(gradients) = &mut gradients {
                        self.gradient(product, gradient, values.at(b), d, input, products, gradients);
                    }
                    let packed = self.weights(product, &product.backward);
                    match out {
                        Some((combine, out)) if to_out => {
                            return product.conv.backward_data(packed, gradient, combine, out, products, self.parallel);
                        }
                        _ if b == lowest => return,
                        _ => {
                            let to = &mut to[..self.plan.len(b)];
                            let combine = Combine::default();
                            product.conv.backward_data(packed, gradient, combine, to, products, self.parallel);
                        }
                    }
                }
                Step::Local(local) => {
                    let (rows, to) = (0..local.output_rows(), &mut to[..self.plan.len(b)]);
                    local.pull(values.at(b), values.at(b + 1), d, gradient, to, rows, self.parallel);
                }
            }
            std::mem::swap(&mut from, &mut to);
        }
        if let Some((combine, out)) = out {
            let arrived = if top == first { known } else { &from[..self.plan.len(first)] };
            elementwise::combine(self.plan.level, arrived, combine, out);
        }
    }

    /// The gradients of a product's parameters from the gradient of its output: sum over the tile of
    /// gradient . input, the input being z + d.
    #[expect(clippy::too_many_arguments, reason = "the operands, the scratch and the place of a product's gradients")]
    fn gradient(
        &self,
        product: &Product,
        gradient: &[f32],
        z: &[f32],
        d: Option<&[f32]>,
        input: &mut [f32],
        products: &mut [f32],
        gradients: &mut Gradients<'_>,
    ) {
        let level = self.plan.level;
        let x = match d {
            None => z,
            Some(d) => {
                let x = &mut input[..z.len()];
                elementwise::combine(level, z, Combine { gamma: 1.0, other: d, ..Combine::default() }, x);
                x
            }
        };
        match &product.gradient {
            WeightGradient::Rows { errors, inputs } => {
                let Plan { layout, images, sizes, .. } = self.plan;
                let shape = product.conv.shape();
                let [error, image] = [[shape.out_channels, 1], [shape.in_channels, shape.taps()]];
                for (place, operand, image) in [(errors, gradient, error), (inputs, x, image)] {
                    layout.store(level, operand, image, &mut gradients.rows[place.start..], *images, sizes.row);
                }
            }
            WeightGradient::Partial(place) => {
                let sums = &mut gradients.partial[place.clone()];
                product.conv.backward_weights(gradient, x, sums, products, self.parallel);
            }
        }
        if let Some(bias) = &product.partial_bias {
            product.conv.backward_bias(gradient, &mut gradients.partial[bias.clone()]);
        }
    }
}
