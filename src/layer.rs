//! Layers evaluated on a tile: values forward, differences forward, errors back, gradients.
//!
//! Nothing here knows of iterations: the deviations u of the beliefs that a layer reads are pushed through it,
//! f_l(v-hat + u) - f_l(v-hat), an error at its output is pulled back through it, J_l^T epsilon.
//! The error of a layer that ends without a product is pulled back to the end of its last product as
//! soon as it is known, band by band behind the product that it comes from: what lies between two
//! products takes no pass through memory of its own.

use std::ops::Range;

use predictive_coding_kernels::{Combine, Relaxing, elementwise};

use crate::dropout::{Draw, masked};
use crate::parameters::ParametersView;
use crate::plan::{Branch, Inlet, LayerPlan, Link, Place, Plan, Step, Sum};
use crate::product::{Product, WeightGradient, Weights};
use crate::state::{Scratch, Tile, Values, Work, read_write, values_between};
use crate::sums::Handing;

/// A plan with the parameters of one call.
#[derive(Clone, Copy)]
pub(crate) struct Layers<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) parameters: ParametersView<'a>,
    pub(crate) packed: &'a [f32],
    /// How the parameters have changed since the forward pass, if they have; packed for forward products.
    pub(crate) change: Option<Weights<'a>>,
    /// What masks of dropout are drawn for, if they are.
    pub(crate) draw: Option<Draw>,
    /// Whether a single product is shared among threads: if there are fewer tasks than those.
    pub(crate) parallel: bool,
}

/// Where the gradients of a group go.
pub(crate) struct Gradients<'s, 'r> {
    /// Those of convolutions and biases, to be added to; without what has been handed on, which lies at the end.
    pub(crate) partial: &'r mut [f32],
    /// The operands of those of matrices, a row for each sample of the group.
    pub(crate) rows: &'r mut [f32],
    /// Where the rows of the tile begin.
    pub(crate) first: usize,
    /// Where they are handed on to other ranks, if those share the batch.
    pub(crate) handing: Option<Handing<'s, 'r>>,
    /// Whether the tile is the last.
    pub(crate) is_last: bool,
}

impl Gradients<'_, '_> {
    /// Takes note that the gradients of a layer and of all above it have been added.
    pub(crate) fn passed(&mut self, layer: &LayerPlan) {
        if let Some(handing) = self.handing.as_mut().filter(|_| self.is_last) {
            handing.passed(layer, &mut self.partial, &mut self.rows);
        }
    }
}

/// The input of a layer, at which its Jacobian is taken.
#[derive(Clone, Copy)]
pub(crate) enum Input<'a> {
    /// v-hat of the layer below.
    Activation,
    /// Where the layer was last pushed, for a pull that asks for no gradients.
    Pushed,
    /// Where the layer was last pushed: v-hat plus these deviations of all beliefs below it.
    Moved(&'a [f32]),
}

/// Where what is pulled back through a layer goes.
pub(crate) struct Towards<'b, 'c> {
    /// A vector of all beliefs below the layer.
    pub(crate) beliefs: &'b mut [f32],
    /// How what arrives by a link is combined with the part of its source.
    pub(crate) combine: &'c dyn Fn(&Link) -> Combine<'c>,
}

impl Layers<'_> {
    /// The forward pass, from the tile's input values; `first` is the index of its first sample in the batch.
    pub(crate) fn forward(&self, first: usize, tile: &mut Tile, scratch: &mut Scratch) {
        let Scratch { values, work } = scratch;
        let (inside, activations, products) = (&mut **values, &mut *tile.activations, &mut *work.products);
        for step in &self.plan.steps {
            if let Step::Dropout(dropout) = step {
                let (tiling, samples) = ((self.plan.level, self.plan.layout), first..first + tile.samples);
                dropout.fill(tiling, self.draw, samples, &mut inside[dropout.mask.clone()]);
            }
        }
        for layer in &self.plan.layers {
            if let Inlet::Sum(sum) = &layer.inlet {
                self.sum_up(sum, inside, activations, products);
            }
            self.forward_steps(layer.tail.clone(), inside, activations, products);
        }
    }

    /// The values of a sum of branches.
    fn sum_up(&self, sum: &Sum, inside: &mut [f32], activations: &mut [f32], products: &mut [f32]) {
        let total = Place::Inside(sum.value.clone());
        for (index, Branch { link, steps, difference }) in sum.branches.iter().enumerate() {
            let beta = if index == 0 { 0.0 } else { 1.0 };
            let end = match &self.plan.steps[steps.clone()] {
                [] => {
                    link.source.map_or(&self.plan.input.value, |l| &self.plan.outputs[self.plan.layers[l].tail.end - 1])
                }
                [.., Step::Product(product)] if difference.is_empty() => {
                    let last = steps.end - 1;
                    self.forward_steps(steps.start..last, inside, activations, products);
                    let (z, out) = values_between(&self.plan.inputs[last], &total, inside, activations);
                    let combine = Combine { beta, ..self.biased(product) };
                    product.forward(None, self.weights(), z, combine, out, products, self.parallel);
                    continue;
                }
                _ => {
                    self.forward_steps(steps.clone(), inside, activations, products);
                    &self.plan.outputs[steps.end - 1]
                }
            };
            let (value, out) = values_between(end, &total, inside, activations);
            elementwise::combine(self.plan.level, value, Combine { beta, ..Combine::default() }, out);
        }
    }

    /// The values behind some steps of a chain.
    fn forward_steps(&self, range: Range<usize>, inside: &mut [f32], activations: &mut [f32], products: &mut [f32]) {
        let Plan { steps, inputs, outputs, .. } = self.plan;
        let mut b = range.start;
        while b < range.end {
            let next = (b + 1 < range.end).then(|| &steps[b + 1]);
            match (&steps[b], next) {
                (Step::Product(product), Some(Step::Local(local))) if product.bands() > 1 => {
                    for band in 0..product.bands() {
                        let (z, out) = values_between(&inputs[b], &outputs[b], inside, activations);
                        let combine = self.biased(product);
                        product.forward(Some(band), self.weights(), z, combine, out, products, self.parallel);
                        let (z, out) = values_between(&inputs[b + 1], &outputs[b + 1], inside, activations);
                        local.forward(z, out, product.rows_of_band(local, band), self.parallel);
                    }
                    b += 2;
                    continue;
                }
                (Step::Product(product), _) => {
                    let (z, out) = values_between(&inputs[b], &outputs[b], inside, activations);
                    product.forward(None, self.weights(), z, self.biased(product), out, products, self.parallel);
                }
                (Step::Affine(affine), _) => {
                    let (z, out) = values_between(&inputs[b], &outputs[b], inside, activations);
                    affine.forward(self.packed, z, out);
                }
                (Step::Dropout(dropout), _) => {
                    let (z, out) = values_between(&inputs[b], &outputs[b], inside, activations);
                    out.copy_from_slice(z);
                    let mask = Place::Inside(dropout.mask.clone());
                    let (mask, out) = values_between(&mask, &outputs[b], inside, activations);
                    out.iter_mut().zip(mask).for_each(|(out, mask)| *out *= mask);
                }
                (Step::Local(local), _) => {
                    let (z, out) = values_between(&inputs[b], &outputs[b], inside, activations);
                    local.forward(z, out, 0..local.output_rows(), self.parallel);
                }
            }
            b += 1;
        }
    }

    fn weights(&self) -> Weights<'_> {
        Weights { parameters: self.parameters, packed: self.packed }
    }

    fn biased(&self, product: &Product) -> Combine<'_> {
        let bias = product.bias.as_ref().map(|range| self.parameters.at(range));
        Combine { bias, ..Combine::default() }
    }

    /// With the deviations u of all beliefs, a hidden layer's (index from 0) precision times
    /// epsilon = f(v-hat + u) - f(v-hat) - u_l, which is pulled back to the end of the last product. Where parameters have
    /// changed, the first f is that of the changed ones.
    pub(crate) fn relax(&self, layer: usize, values: Values<'_>, u: &[f32], work: &mut Work, error: &mut [f32]) {
        let LayerPlan { tail, precision, pulled, output, .. } = &self.plan.layers[layer];
        let last = tail.end - 1;
        let own = &u[output.clone()];
        let precision = *precision as f32;
        match &self.plan.steps[last] {
            Step::Product(product) if self.change.is_none() => {
                let u = self.push_inside(layer, last, values, u, work);
                let combine = Combine { alpha: precision, gamma: -precision, other: own, ..Combine::default() };
                let Work { differences, products, .. } = work;
                let d = self.difference(tail.start, last, u, differences);
                product.forward(None, self.weights(), d, combine, error, products, self.parallel);
            }
            Step::Product(_) | Step::Affine(_) | Step::Dropout(_) => {
                self.push(layer, values, u, work, error);
                let minus = Combine { alpha: -precision, beta: precision, ..Combine::default() };
                elementwise::combine(self.plan.level, own, minus, error);
            }
            Step::Local(local) => {
                let (z, value) = (values.input(last), values.output(last));
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
        mut f: impl FnMut(&[f32], &mut [f32], Range<usize>),
    ) {
        let plan = &self.plan.layers[layer];
        let (first, last) = (plan.tail.start, plan.tail.end - 1);
        let Step::Local(local) = &self.plan.steps[last] else { unreachable!("the layer ends with a product") };
        match &self.plan.steps[last.saturating_sub(1)] {
            Step::Product(product) if plan.fused => {
                let u = self.push_inside(layer, last - 1, values, u, work);
                let Work { differences, band: difference, pulled, products, .. } = work;
                let d = self.difference(first, last - 1, u, differences);
                for band in 0..product.bands() {
                    let rows = product.rows_of_band(local, band);
                    let difference = &mut difference[..product.band_len(band)];
                    self.push_product(product, Some(band), values.input(last - 1), d, 0.0, difference, products);
                    f(difference, &mut pulled[plan.pulled.clone()], rows);
                }
            }
            _ => {
                let u = self.push_inside(layer, last, values, u, work);
                let Work { differences, pulled, .. } = work;
                let d = self.difference(first, last, u, differences);
                f(d, &mut pulled[plan.pulled.clone()], 0..local.output_rows());
            }
        }
    }

    /// Pushes the deviations `u` of all beliefs below a layer (index from 0) through it into `out`: with parameters W of
    /// which V have changed since z came from the forward pass, W d + V z through a product.
    pub(crate) fn push(&self, layer: usize, values: Values<'_>, u: &[f32], work: &mut Work, out: &mut [f32]) {
        let Range { start, end } = self.plan.layers[layer].tail;
        let u = self.push_inside(layer, end - 1, values, u, work);
        let Work { differences, products, .. } = work;
        self.push_step(end - 1, values, self.difference(start, end - 1, u, differences), 0.0, out, products);
    }

    /// The differences inside of a layer up to the input of step `end` of its tail; returns that of the belief which the
    /// tail reads, which is empty if it does not move, or if the tail reads a sum.
    fn push_inside<'u>(
        &self,
        layer: usize,
        end: usize,
        values: Values<'_>,
        u: &'u [f32],
        work: &mut Work,
    ) -> &'u [f32] {
        let LayerPlan { inlet, tail, .. } = &self.plan.layers[layer];
        let u = match inlet {
            Inlet::Belief(link) => &u[self.plan.belief(link.source)],
            Inlet::Sum(sum) => {
                self.gather(sum, values, u, work);
                &[]
            }
        };
        self.push_steps(tail.start..end, values, u, work);
        u
    }

    /// The difference of a sum of branches.
    fn gather(&self, sum: &Sum, values: Values<'_>, u: &[f32], work: &mut Work) {
        let level = self.plan.level;
        let mut beta = 0.0;
        for Branch { link, steps, difference } in &sum.branches {
            let u = &u[self.plan.belief(link.source)];
            if u.is_empty() && (self.change.is_none() || steps.is_empty()) {
                continue;
            }
            let combine = Combine { beta, ..Combine::default() };
            beta = 1.0;
            if steps.is_empty() {
                elementwise::combine(level, u, combine, &mut work.differences[sum.difference.clone()]);
                continue;
            }
            let last = steps.end - 1;
            self.push_steps(steps.start..last, values, u, work);
            let Work { differences, products, .. } = work;
            let of_product = difference.is_empty();
            let out = if of_product { &sum.difference } else { difference };
            let (below, out) = differences.split_at_mut(out.start);
            let out = match of_product {
                true => &mut out[..sum.difference.len()],
                false => &mut out[..difference.len()],
            };
            let d = self.difference(steps.start, last, u, below);
            self.push_step(last, values, d, combine.beta, out, products);
            if !of_product {
                let (end, total) = read_write(differences, difference.clone(), sum.difference.clone());
                elementwise::combine(level, end, combine, total);
            }
        }
        if beta == 0.0 {
            work.differences[sum.difference.clone()].fill(0.0);
        }
    }

    /// The differences behind some steps from the start of a chain, with `u` there.
    fn push_steps(&self, steps: Range<usize>, values: Values<'_>, u: &[f32], work: &mut Work) {
        let places = &self.plan.differences;
        let start = steps.start;
        let Work { differences, products, .. } = work;
        if !places[start].is_empty() && !u.is_empty() {
            differences[places[start].clone()].copy_from_slice(u);
        }
        for b in steps {
            let (below, out) = differences.split_at_mut(places[b + 1].start);
            let d = self.difference(start, b, u, below);
            self.push_step(b, values, d, 0.0, &mut out[..places[b + 1].len()], products);
        }
    }

    /// Adds to `beta` times what is there; `beta` is 0 but for products.
    fn push_step(&self, b: usize, values: Values<'_>, d: &[f32], beta: f32, out: &mut [f32], products: &mut [f32]) {
        match &self.plan.steps[b] {
            Step::Product(product) => self.push_product(product, None, values.input(b), d, beta, out, products),
            Step::Affine(affine) => {
                match d.is_empty() {
                    true => out.fill(0.0),
                    false => affine.scale(self.packed, d, out),
                }
                if let Some(change) = self.change.filter(|_| affine.is_trained()) {
                    affine.add(change.packed, values.input(b), out);
                }
            }
            Step::Dropout(_) | Step::Local(_) if d.is_empty() => out.fill(0.0),
            Step::Dropout(dropout) => masked(values.inside(&dropout.mask), d, out),
            Step::Local(local) => local.push(values.input(b), values.output(b), d, out, self.parallel),
        }
    }

    /// W d + V z plus `beta` times what is there; of one band by itself, if it is said which.
    #[expect(clippy::too_many_arguments, reason = "the operands of a product, and how it is computed")]
    fn push_product(
        &self,
        product: &Product,
        band: Option<usize>,
        z: &[f32],
        d: &[f32],
        mut beta: f32,
        out: &mut [f32],
        products: &mut [f32],
    ) {
        let mut multiply = |weights: Weights<'_>, x: &[f32], combine: Combine<'_>| match band {
            None => product.forward(None, weights, x, combine, out, products, self.parallel),
            Some(band) => product.forward_alone(band, weights, x, combine, out, products, self.parallel),
        };
        if !d.is_empty() {
            multiply(self.weights(), d, Combine { beta, ..Combine::default() });
            beta = 1.0;
        }
        if let Some(change) = self.change {
            let bias = product.bias.as_ref().map(|range| change.parameters.at(range));
            multiply(change, z, Combine { bias, beta, ..Combine::default() });
        }
    }

    /// The difference at the input of step `b` of a chain from `start` on; `u` is that of the belief which the chain reads.
    fn difference<'d>(&self, start: usize, b: usize, u: &'d [f32], differences: &'d [f32]) -> &'d [f32] {
        match b == start && self.plan.differences[b].is_empty() {
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
        moved: bool,
        error: &[f32],
        work: &mut Work,
    ) {
        let LayerPlan { tail, pulled: place, .. } = &self.plan.layers[layer];
        let last = tail.end - 1;
        if let Step::Local(local) = &self.plan.steps[last] {
            let Work { differences, pulled, .. } = work;
            let d = self.difference(tail.start, last, &[], differences);
            let d = Some(d).filter(|d| moved && !d.is_empty());
            let (z, value, pulled) = (values.input(last), values.output(last), &mut pulled[place.clone()]);
            local.pull(z, value, d, error, pulled, 0..local.output_rows(), self.parallel);
        }
    }

    /// Evaluates a layer anew at v-hat plus `u` as far as its gradients need, and pulls its error back to
    /// the end of its last product there.
    pub(crate) fn renew(&self, layer: usize, values: Values<'_>, u: &[f32], error: &[f32], work: &mut Work) {
        let LayerPlan { renewed: Some(renewed), tail, .. } = &self.plan.layers[layer] else { return };
        let last = tail.end - 1;
        match &self.plan.steps[last] {
            Step::Local(local) if *renewed == last => {
                let (z, value) = (values.input(last), values.output(last));
                self.behind_product(layer, values, u, work, |d, pulled, rows| {
                    local.pull(z, value, Some(d), error, pulled, rows, self.parallel);
                });
            }
            _ => {
                self.push_inside(layer, *renewed, values, u, work);
                self.pull_to_product(layer, values, false, error, work);
            }
        }
    }

    /// Carries the error at the end of a layer's last product on: adds the gradients of the layer's parameters to
    /// `gradients`, if those are given, and combines what arrives at the beliefs that it reads with those of `towards`, if
    /// that is given. Gradients are asked for from the top layer down. `error` is that at the layer's output.
    #[expect(clippy::too_many_arguments, reason = "what is carried back, where it was, and the two places it goes to")]
    pub(crate) fn backward(
        &self,
        layer: usize,
        values: Values<'_>,
        at: Input<'_>,
        error: &[f32],
        work: &mut Work,
        mut gradients: Option<&mut Gradients<'_, '_>>,
        mut towards: Option<Towards<'_, '_>>,
    ) {
        let LayerPlan { inlet, tail, pulled: place, .. } = &self.plan.layers[layer];
        let Work { differences, pulled, gradients: [from, to], input, products, sum: total, .. } = work;
        let (steps, known) = match &self.plan.steps[tail.end - 1] {
            Step::Local(_) => (tail.start..tail.end - 1, &pulled[place.clone()]),
            Step::Product(_) | Step::Affine(_) | Step::Dropout(_) => (tail.clone(), error),
        };
        let mut back = Back { layers: *self, values, at, differences, from, to, input, products };
        match inlet {
            Inlet::Belief(link) => {
                back.reach_belief(link, steps, known, gradients.as_deref_mut(), towards.as_mut());
            }
            Inlet::Sum(Sum { branches, value, .. }) => {
                let total = &mut total[..value.len()];
                back.carry(steps, &[], known, gradients.as_deref_mut(), Some((Combine::default(), total)));
                for Branch { link, steps, .. } in branches {
                    back.reach_belief(link, steps.clone(), total, gradients.as_deref_mut(), towards.as_mut());
                }
            }
        }
        if let Some(gradients) = gradients {
            gradients.passed(&self.plan.layers[layer]);
        }
    }

    /// z + d, in `input` if there is a d.
    fn moved_input<'x>(&self, z: &'x [f32], d: Option<&[f32]>, input: &'x mut [f32]) -> &'x [f32] {
        let Some(d) = d else { return z };
        let x = &mut input[..z.len()];
        elementwise::combine(self.plan.level, z, Combine { gamma: 1.0, other: d, ..Combine::default() }, x);
        x
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
        gradients: &mut Gradients<'_, '_>,
    ) {
        let x = self.moved_input(z, d, input);
        match &product.gradient {
            WeightGradient::Rows { errors, inputs } => {
                let Plan { level, layout, images, sizes, .. } = self.plan;
                for (place, operand, image) in
                    [(errors, gradient, [errors.len(), 1]), (inputs, x, product.input_image())]
                {
                    let rows = &mut gradients.rows[gradients.first + place.start..];
                    layout.store(*level, operand, image, rows, *images, sizes.row);
                }
            }
            WeightGradient::Partial(place) => {
                let sums = &mut gradients.partial[place.clone()];
                product.add_gradient(gradient, x, sums, products, self.parallel);
            }
        }
        if let Some(bias) = &product.partial_bias {
            product.add_bias_gradient(gradient, &mut gradients.partial[bias.clone()]);
        }
    }
}

/// A gradient on its way back through the chains of a layer.
struct Back<'a> {
    layers: Layers<'a>,
    values: Values<'a>,
    at: Input<'a>,
    differences: &'a [f32],
    from: &'a mut [f32],
    to: &'a mut [f32],
    input: &'a mut [f32],
    products: &'a mut [f32],
}

impl Back<'_> {
    /// Through the steps of a chain to the belief that it reads, if that may move.
    fn reach_belief(
        &mut self,
        link: &Link,
        steps: Range<usize>,
        known: &[f32],
        gradients: Option<&mut Gradients<'_, '_>>,
        towards: Option<&mut Towards<'_, '_>>,
    ) {
        let belief = self.layers.plan.belief(link.source);
        let at = self.at;
        let u = match at {
            Input::Moved(u) => &u[belief.clone()],
            _ => &[],
        };
        if belief.is_empty() && self.layers.change.is_none() {
            // It has not been pushed.
            self.at = Input::Activation;
        }
        let towards = towards.filter(|_| !belief.is_empty());
        let out = towards.map(|towards| ((towards.combine)(link), &mut towards.beliefs[belief]));
        self.carry(steps, u, known, gradients, out);
        self.at = at;
    }

    /// Back through the steps of a chain from the gradient `known` at their end. `u` is the deviation of the belief which
    /// the chain reads.
    fn carry(
        &mut self,
        steps: Range<usize>,
        u: &[f32],
        known: &[f32],
        mut gradients: Option<&mut Gradients<'_, '_>>,
        out: Option<(Combine<'_>, &mut [f32])>,
    ) {
        let Back { layers, values, at, differences, input, products, .. } = self;
        let Plan { steps: all, inputs, .. } = layers.plan;
        let (mut from, mut to) = (&mut *self.from, &mut *self.to);
        let (start, end, parallel) = (steps.start, steps.end, layers.parallel);
        let trained = steps.clone().find(|&b| all[b].has_parameters()).filter(|_| gradients.is_some());
        let lowest = match (&out, trained) {
            (Some(_), _) => start,
            (None, Some(lowest)) => lowest,
            (None, None) => return,
        };
        for b in (lowest..end).rev() {
            let gradient = if b + 1 == end { known } else { &from[..inputs[b + 1].len()] };
            let d = match at {
                Input::Activation => None,
                Input::Pushed | Input::Moved(_) => Some(layers.difference(start, b, u, differences)),
            };
            let d = d.filter(|d| !d.is_empty());
            match &all[b] {
                Step::Product(product) => {
                    if let Some(gradients) = &mut gradients {
                        layers.gradient(product, gradient, values.input(b), d, input, products, gradients);
                    }
                    match out {
                        Some((combine, out)) if b == start => {
                            return product.backward(layers.weights(), gradient, combine, out, products, parallel);
                        }
                        _ if b == lowest => return,
                        _ => {
                            let to = &mut to[..inputs[b].len()];
                            product.backward(layers.weights(), gradient, Combine::default(), to, products, parallel);
                        }
                    }
                }
                Step::Affine(affine) => {
                    if let Some(gradients) = &mut gradients {
                        let x = layers.moved_input(values.input(b), d, input);
                        affine.add_gradient(gradient, x, gradients.partial);
                    }
                    affine.scale(layers.packed, gradient, &mut to[..inputs[b].len()]);
                }
                Step::Dropout(dropout) => {
                    masked(values.inside(&dropout.mask), gradient, &mut to[..inputs[b].len()]);
                }
                Step::Local(local) => {
                    let (rows, to) = (0..local.output_rows(), &mut to[..inputs[b].len()]);
                    local.pull(values.input(b), values.output(b), d, gradient, to, rows, parallel);
                }
            }
            std::mem::swap(&mut from, &mut to);
        }
        if let Some((combine, out)) = out {
            let arrived = if start == end { known } else { &from[..inputs[start].len()] };
            layers.plan.combine(arrived, combine, out);
        }
    }
}
