//! Predictive coding as its formulas are written: beliefs v, predictions f_l(v), errors eps.

use std::iter;

use predictive_coding::{
    Branch, ErrorBased, Eta, FixedPrediction, FreeInput, Layer, Loss, LossFunction, Method, Network, Op, ParameterSpec,
    Parameters, Reduction, Solver, Strict, Targets,
};

use crate::operation::Operation;
use crate::real::Real;

/// A network with its parameters.
#[derive(Clone)]
pub struct Naive<T> {
    layers: Vec<NaiveLayer<T>>,
    loss: Loss,
    /// Elements of a sample of v_l.
    sizes: Vec<usize>,
    /// p_l, for l = 1..=L; 1 for the input and the output.
    precisions: Vec<T>,
    parameters: usize,
    /// What the elements of a sample of eps_l are off by, as shares of them; none, if empty.
    rounding: Vec<Vec<T>>,
}

/// f_l: operations on a sum of branches.
#[derive(Clone)]
struct NaiveLayer<T> {
    /// The layer whose belief it reads, 0 for the input, and the operations on that.
    branches: Vec<(usize, Vec<Operation<T>>)>,
    ops: Vec<Operation<T>>,
}

/// What one step computes. Layers are indexed as in the formulas: index 0 is the input.
pub struct Step<T> {
    /// Loss(v-hat_L).
    pub loss: T,
    /// v-hat_l, for l = 0..=L.
    pub activations: Vec<Vec<T>>,
    /// v_l, for l = 0..=L; v_L has no meaning.
    pub beliefs: Vec<Vec<T>>,
    /// eps_l, for l = 1..=L; empty for l = 0.
    pub errors: Vec<Vec<T>>,
    /// In the order of the network's parameters.
    pub gradients: Vec<T>,
    /// F_i of every sample, for each iteration of a strict or error-based relaxation.
    pub energies: Vec<Vec<T>>,
    /// Likewise, of the other side of a centred nudge.
    pub opposite: Vec<Vec<T>>,
    /// That of every sample at the end of an error-based relaxation, by which it is judged.
    pub end: Option<Vec<T>>,
    /// Whether energies may rise.
    pub may_rise: bool,
    /// Whether the input has a belief that moves.
    pub free_input: bool,
}

impl<T> Step<T> {
    /// One whose energies are not recorded.
    fn new(loss: T, activations: Vec<Vec<T>>, beliefs: Vec<Vec<T>>, errors: Vec<Vec<T>>, gradients: Vec<T>) -> Self {
        let (energies, opposite, end, may_rise, free_input) = (vec![], vec![], None, false, false);
        Step { loss, activations, beliefs, errors, gradients, energies, opposite, end, may_rise, free_input }
    }
}

/// Where a strict relaxation starts.
#[derive(Clone)]
pub enum Begin<T> {
    /// v_l = v-hat_l.
    Activation,
    /// v_l = v-hat_l + these.
    Deviation(Vec<T>),
    /// v_l = these.
    Belief(Vec<T>),
}

/// The targets as one number for every output, labels as one-hot vectors.
///
/// # Panics
/// If they are neither labels nor values.
pub fn dense<T: Real>(targets: Targets<'_>, outputs: usize) -> Vec<T> {
    match targets {
        Targets::Values(values) => values.iter().map(|&y| T::of(y.into())).collect(),
        Targets::Labels(labels) => {
            labels.iter().flat_map(|&label| (0..outputs as i64).map(move |o| T::of(f64::from(o == label)))).collect()
        }
        other => panic!("{other:?} are not written down here"),
    }
}

impl<T: Real> Naive<T> {
    /// The network `network` with these parameters.
    pub fn new(network: &Network, parameters: &Parameters) -> Self {
        let values: Vec<T> = parameters.values().iter().map(|&p| T::of(p.into())).collect();
        Self::with_values(network, &values)
    }

    /// The network `network` with parameters of any precision.
    pub fn with_values(network: &Network, values: &[T]) -> Self {
        let chain = |l: usize, branch: Option<usize>, ops: &[Op], shapes: &[Vec<usize>]| {
            let operation = |(o, op)| {
                let own = |s: &&ParameterSpec| (s.layer, s.branch, s.op) == (l, branch, o);
                let specs: Vec<_> = network.parameters().iter().filter(own).collect();
                Operation::new(op, &shapes[o], &shapes[o + 1], &specs, values)
            };
            ops.iter().enumerate().map(operation).collect()
        };
        let operations = |(l, layer): (usize, &Layer)| {
            let branch =
                |(b, branch): (usize, &Branch)| (branch.from(), chain(l, Some(b), branch.ops(), branch.shapes()));
            NaiveLayer {
                branches: layer.branches().iter().enumerate().map(branch).collect(),
                ops: chain(l, None, layer.ops(), layer.shapes()),
            }
        };
        let shapes = iter::once(network.input_shape()).chain(network.layers().iter().map(Layer::output_shape));
        Naive {
            layers: network.layers().iter().enumerate().map(operations).collect(),
            loss: network.loss(),
            sizes: shapes.map(|shape| shape.iter().product()).collect(),
            precisions: iter::once(1.0).chain(network.precisions()).map(T::of).collect(),
            parameters: values.len(),
            rounding: vec![],
        }
    }

    /// Gives each sum of products, and each error that is pulled back or makes gradients, an error of its own, the same for
    /// every sample: of a sum as a multiple of the sum of the sizes of its terms.
    pub fn round(&mut self, mut error: impl FnMut() -> T) {
        self.rounding = self.sizes.iter().map(|&size| (0..size).map(|_| error()).collect()).collect();
        for NaiveLayer { branches, ops } in &mut self.layers {
            let branches = branches.iter_mut().flat_map(|(_, ops)| ops);
            branches.chain(ops).for_each(|op| op.round(&mut error));
        }
    }

    /// L.
    pub fn depth(&self) -> usize {
        self.layers.len()
    }

    /// One step of `method`. `y` has one number for every output of every sample. `begin[l - 1]` is
    /// where layer l starts in a strict relaxation; layers beyond its end start at v-hat.
    ///
    /// # Panics
    /// If the method takes steps whose size is not given.
    pub fn step(&self, method: &Method, x: &[T], y: &[T], begin: &[Begin<T>]) -> Step<T> {
        match method {
            Method::Exact => self.exact(x, y),
            Method::FixedPrediction(FixedPrediction { eta, iterations, .. }) => {
                self.fixed_prediction(x, y, eta, *iterations)
            }
            Method::Strict(Strict { solver: Solver::Published2022(eta), iterations, .. }) => {
                self.published_2022(x, y, eta, *iterations)
            }
            Method::Strict(strict) => self.strict(x, y, strict, begin),
            Method::ErrorBased(ErrorBased { eta, iterations, .. }) => {
                let eta = eta.given().unwrap_or_else(|| panic!("{method:?} is not written down here"));
                self.error_based(x, y, eta, *iterations)
            }
            other => panic!("{other:?} is not written down here"),
        }
    }

    fn exact(&self, x: &[T], y: &[T]) -> Step<T> {
        let hat = self.forward(x);
        let (loss, mut eps) = self.top(&hat, y);
        for l in 1..self.depth() {
            eps[l] = vec![T::default(); hat[l].len()];
        }
        for l in (2..=self.depth()).rev() {
            let own = eps[l].clone();
            self.backward(l, &hat, &own, |from, pulled| add(&mut eps[from], pulled), |_, _, _| {});
        }
        let v = (0..=self.depth()).map(|l| if l == 0 { x.to_vec() } else { minus(&hat[l], &eps[l]) }).collect();
        let gradients = self.gradients(&hat, &eps);
        Step::new(loss, hat, v, eps, gradients)
    }

    fn fixed_prediction(&self, x: &[T], y: &[T], eta: &Eta, iterations: usize) -> Step<T> {
        let hat = self.forward(x);
        let (loss, mut eps) = self.top(&hat, y);
        let mut v = hat.clone();
        for _ in 0..iterations {
            for l in 1..self.depth() {
                eps[l] = minus(&hat[l], &v[l]);
            }
            let weighted = self.weighted(&eps);
            let pulled = self.pulls(&hat, &weighted);
            for l in 1..self.depth() {
                update(&mut v[l], T::of(eta.of_layer(l)), &weighted[l], &pulled[l]);
            }
        }
        let gradients = self.gradients(&hat, &self.weighted(&eps));
        Step::new(loss, hat, v, eps, gradients)
    }

    /// With a nudge the loss counts beta times in the relaxation, and gradients are divided by it.
    fn strict(&self, x: &[T], y: &[T], method: &Strict, begin: &[Begin<T>]) -> Step<T> {
        let side = |beta: f64| {
            let mut nudged = self.clone();
            nudged.loss.weight *= beta;
            nudged.relax(x, y, method, begin)
        };
        let Some(nudge) = method.nudge else { return side(1.0) };
        let mut step = side(nudge.beta);
        step.loss = self.top(&step.activations, y).0;
        let mut divisor = nudge.beta;
        if nudge.centred {
            let opposite = side(-nudge.beta);
            step.gradients = minus(&step.gradients, &opposite.gradients);
            step.opposite = opposite.energies;
            divisor *= 2.0;
        }
        step.gradients.iter_mut().for_each(|gradient| *gradient = *gradient / T::of(divisor));
        step
    }

    fn relax(&self, x: &[T], y: &[T], method: &Strict, begin: &[Begin<T>]) -> Step<T> {
        let eta = method.solver.eta().unwrap_or_else(|| panic!("{method:?} is not written down here"));
        let hat = self.forward(x);
        let (loss, _) = self.top(&hat, y);
        let mut v = hat.clone();
        for (v, begin) in v[1..].iter_mut().zip(begin) {
            match begin {
                Begin::Activation => {}
                Begin::Deviation(u) => v.iter_mut().zip(u).for_each(|(v, &u)| *v += u),
                Begin::Belief(belief) => v.clone_from(belief),
            }
        }
        let mut eps = vec![];
        let mut energies = vec![];
        let mut means: Vec<Vec<T>> = v.iter().map(|v| vec![T::default(); v.len()]).collect();
        let mut squares = means.clone();
        for i in 1..=method.iterations {
            eps = self.errors(&v, y);
            energies.push(self.energy(&v, y));
            if let Some(FreeInput { precision, .. }) = method.free_input {
                let samples = v[0].chunks(self.sizes[0]).zip(x.chunks(self.sizes[0]));
                for (energy, (v, x)) in energies[i - 1].iter_mut().zip(samples) {
                    *energy += T::of(0.5 * precision) * sum(minus(v, x).into_iter().map(|u| u * u));
                }
            }
            let weighted = self.weighted(&eps);
            let pulled = self.pulls(&v, &weighted);
            if let Some(FreeInput { precision, .. }) = method.free_input {
                let tie = v[0].iter().zip(x).map(|(&v, &x)| T::of(precision) * (x - v)).collect::<Vec<_>>();
                let direction = minus(&tie, &pulled[0]);
                let moments = means[0].iter_mut().zip(&mut squares[0]);
                for ((v, d), (mean, square)) in v[0].iter_mut().zip(direction).zip(moments) {
                    *v += T::of(eta.of_layer(1)) * moved(&method.solver, i, d, mean, square);
                }
            }
            for l in 1..self.depth() {
                let direction = minus(&weighted[l], &pulled[l]);
                let moments = means[l].iter_mut().zip(&mut squares[l]);
                for ((v, d), (mean, square)) in v[l].iter_mut().zip(direction).zip(moments) {
                    *v += T::of(eta.of_layer(l)) * moved(&method.solver, i, d, mean, square);
                }
            }
        }
        if method.fresh_errors {
            eps = self.errors(&v, y);
        }
        let gradients = self.gradients(&v, &self.weighted(&eps));
        let may_rise = matches!(method.solver, Solver::Adam(_));
        let free_input = method.free_input.is_some();
        Step { energies, may_rise, free_input, ..Step::new(loss, hat, v, eps, gradients) }
    }

    /// v_l = f_l(v_{l-1}) - eps_l, and eps_l += eta (J_{l+1}^T ... J_L^T dLoss/dy - p_l eps_l).
    fn error_based(&self, x: &[T], y: &[T], eta: &Eta, iterations: usize) -> Step<T> {
        let hat = self.forward(x);
        let (loss, mut eps) = self.top(&hat, y);
        let hidden = 1..self.depth();
        eps[hidden.clone()].iter_mut().zip(&hat[hidden]).for_each(|(eps, hat)| *eps = vec![T::default(); hat.len()]);
        let beliefs = |eps: &[Vec<T>]| {
            let mut v = vec![x.to_vec()];
            for (l, eps) in eps.iter().enumerate().take(self.depth()).skip(1) {
                v.push(minus(&self.predict(l, &v), eps));
            }
            v.push(self.predict(self.depth(), &v));
            v
        };
        let mut energies = vec![];
        for _ in 0..iterations {
            let v = beliefs(&eps);
            energies.push(self.energy(&v, y));
            let mut delta: Vec<Vec<T>> = v.iter().map(|v| vec![T::default(); v.len()]).collect();
            delta[self.depth()] = self.loss_derivative(&v[self.depth()], y);
            for l in (1..=self.depth()).rev() {
                let own = delta[l].clone();
                self.backward(l, &v, &own, |from, pulled| add(&mut delta[from], pulled), |_, _, _| {});
            }
            for (l, (eps, delta)) in eps.iter_mut().zip(&delta).enumerate().take(self.depth()).skip(1) {
                let (eta, p) = (T::of(eta.of_layer(l)), self.precisions[l]);
                eps.iter_mut().zip(delta).for_each(|(eps, &delta)| *eps += eta * (delta - p * *eps));
            }
        }
        let v = beliefs(&eps);
        eps[self.depth()] = self.loss_derivative(&v[self.depth()], y);
        let gradients = self.gradients(&v, &self.weighted(&eps));
        let end = Some(self.energy(&v, y));
        Step { energies, end, ..Step::new(loss, hat, v, eps, gradients) }
    }

    /// Strict from v-hat as it was published with the paper: eps_l = v_l - f_l(v_{l-1}) for l < L and eps_L =
    /// dLoss/dy, v_l += eta (-eps_l + J_{l+1}(v_l)^T eps_{l+1}), gradients at v-hat.
    fn published_2022(&self, x: &[T], y: &[T], eta: &Eta, iterations: usize) -> Step<T> {
        let hat = self.forward(x);
        let (loss, _) = self.top(&hat, y);
        let mut v = hat.clone();
        let (mut eps, mut energies) = (vec![], vec![]);
        for _ in 0..iterations {
            eps = self.errors(&v, y);
            energies.push(self.energy(&v, y));
            for eps in &mut eps[1..self.depth()] {
                eps.iter_mut().for_each(|eps| *eps = T::default() - *eps);
            }
            let weighted = self.weighted(&eps);
            let pulled = self.pulls(&v, &weighted);
            for l in 1..self.depth() {
                update(&mut v[l], T::of(-eta.of_layer(l)), &weighted[l], &pulled[l]);
            }
        }
        let gradients = self.gradients(&hat, &self.weighted(&eps));
        Step { energies, may_rise: true, ..Step::new(loss, hat, v, eps, gradients) }
    }

    /// eps_l = f_l(v_{l-1}) - v_l for l < L, and eps_L = dLoss/dy at y = f_L(v_{L-1}).
    pub fn errors(&self, v: &[Vec<T>], y: &[T]) -> Vec<Vec<T>> {
        let prediction: Vec<_> =
            (0..=self.depth()).map(|l| if l == 0 { v[0].clone() } else { self.predict(l, v) }).collect();
        let (_, mut eps) = self.top(&prediction, y);
        for l in 1..self.depth() {
            eps[l] = minus(&prediction[l], &v[l]);
        }
        eps
    }

    /// p_l eps_l.
    fn weighted(&self, eps: &[Vec<T>]) -> Vec<Vec<T>> {
        let layer = |(eps, &p): (&Vec<T>, &T)| eps.iter().map(|&eps| p * eps).collect();
        eps.iter().zip(&self.precisions).map(layer).collect()
    }

    /// F of every sample: Loss(f_L(v_{L-1})) + sum over l < L of p_l |f_l(v_{l-1}) - v_l|^2 / 2.
    pub fn energy(&self, v: &[Vec<T>], y: &[T]) -> Vec<T> {
        let eps = self.errors(v, y);
        let mut energy = self.losses(&self.predict(self.depth(), v), y);
        for l in 1..self.depth() {
            for (energy, eps) in energy.iter_mut().zip(eps[l].chunks(self.sizes[l])) {
                eps.iter().for_each(|&e| *energy += T::of(0.5) * self.precisions[l] * e * e);
            }
        }
        energy
    }

    /// v-hat_0 .. v-hat_L from v-hat_0 = x.
    pub fn forward(&self, x: &[T]) -> Vec<Vec<T>> {
        let mut hat = vec![x.to_vec()];
        for l in 1..=self.depth() {
            hat.push(self.predict(l, &hat));
        }
        hat
    }

    /// The loss of the whole batch after a forward pass `hat` in which v-hat_l was this.
    pub fn loss(&self, hat: &[Vec<T>], v: &[T], y: &[T], l: usize) -> T {
        let mut hat = hat.to_vec();
        hat[l] = v.to_vec();
        for above in l + 1..=self.depth() {
            hat[above] = self.predict(above, &hat);
        }
        sum(self.losses(&hat[self.depth()], y).into_iter())
    }

    /// f_l(v), l from 1.
    pub fn predict(&self, l: usize, v: &[Vec<T>]) -> Vec<T> {
        let samples = v[0].len() / self.sizes[0];
        (0..samples).flat_map(|sample| self.trace(l, v, sample).1.pop().expect("the sum at least")).collect()
    }

    /// For every l, the sum of J^T eps_c over the layers c that read v_l.
    pub fn pulls(&self, v: &[Vec<T>], eps: &[Vec<T>]) -> Vec<Vec<T>> {
        let mut pulls: Vec<Vec<T>> = v.iter().map(|v| vec![T::default(); v.len()]).collect();
        for (l, eps) in eps.iter().enumerate().skip(1) {
            self.backward(l, v, eps, |from, pulled| add(&mut pulls[from], pulled), |_, _, _| {});
        }
        pulls
    }

    /// Sum over the batch of eps_l . df_l/dtheta_l at v, for all l.
    fn gradients(&self, v: &[Vec<T>], eps: &[Vec<T>]) -> Vec<T> {
        let mut gradients = vec![T::default(); self.parameters];
        for (l, eps) in eps.iter().enumerate().skip(1) {
            self.backward(l, v, eps, |_, _| {}, |op, x, d| op.add_gradient(x, d, &mut gradients));
        }
        gradients
    }

    /// Pulls eps back through the operations of layer l: `arrives` is given what arrives at the belief of each branch, for
    /// the whole batch; `each` sees what reaches each operation.
    fn backward(
        &self,
        l: usize,
        v: &[Vec<T>],
        eps: &[T],
        mut arrives: impl FnMut(usize, &[T]),
        mut each: impl FnMut(&Operation<T>, &[T], &[T]),
    ) {
        let NaiveLayer { branches, ops } = &self.layers[l - 1];
        let mut pulled = vec![vec![]; branches.len()];
        for (sample, eps) in eps.chunks(self.sizes[l]).enumerate() {
            let off = |i: usize| self.rounding.get(l).map_or(T::default(), |errors| errors[i]);
            let eps: Vec<T> = eps.iter().enumerate().map(|(i, &eps)| eps + off(i) * eps).collect();
            let (traces, trace) = self.trace(l, v, sample);
            let mut back = |ops: &[Operation<T>], trace: &[Vec<T>], mut d: Vec<T>| {
                for (op, x) in ops.iter().zip(trace).rev() {
                    each(op, x, &d);
                    d = op.pull(x, &d);
                }
                d
            };
            let d = back(ops, &trace, eps);
            for ((pulled, (_, ops)), trace) in pulled.iter_mut().zip(branches).zip(&traces) {
                pulled.extend(back(ops, trace, d.clone()));
            }
        }
        branches.iter().zip(&pulled).for_each(|((from, _), pulled)| arrives(*from, pulled));
    }

    /// One sample of layer l: the input and the result of each operation, of every branch and of what follows their sum.
    fn trace(&self, l: usize, v: &[Vec<T>], sample: usize) -> (Vec<Vec<Vec<T>>>, Vec<Vec<T>>) {
        let NaiveLayer { branches, ops } = &self.layers[l - 1];
        let along = |ops: &[Operation<T>], x: Vec<T>| {
            let mut trace = vec![x];
            ops.iter().for_each(|op| trace.push(op.forward(&trace[trace.len() - 1])));
            trace
        };
        let of_sample = |from: usize| v[from][sample * self.sizes[from]..][..self.sizes[from]].to_vec();
        let traces: Vec<_> = branches.iter().map(|(from, ops)| along(ops, of_sample(*from))).collect();
        let mut ends = traces.iter().map(|trace| &trace[trace.len() - 1]);
        let mut total = ends.next().expect("a branch at least").clone();
        ends.for_each(|end| add(&mut total, end));
        let trace = along(ops, total);
        (traces, trace)
    }

    /// The loss of the last of these predictions, and its derivative as the only error so far.
    fn top(&self, prediction: &[Vec<T>], y: &[T]) -> (T, Vec<Vec<T>>) {
        let output = &prediction[self.depth()];
        let mut eps = vec![vec![]; self.depth() + 1];
        eps[self.depth()] = self.loss_derivative(output, y);
        (sum(self.losses(output, y).into_iter()), eps)
    }

    /// What each sample adds to the loss.
    fn losses(&self, output: &[T], y: &[T]) -> Vec<T> {
        let size = self.sizes[self.depth()];
        let share = self.share(output.len() / size);
        let sample = |(o, y): (&[T], &[T])| match self.loss.function {
            LossFunction::Mse => share * sum(o.iter().zip(y).map(|(&o, &y)| (o - y) * (o - y))),
            LossFunction::CrossEntropy => {
                let normaliser = T::of(log_sum_exp(o));
                share * sum(o.iter().zip(y).map(|(&o, &y)| y * (normaliser - o)))
            }
            other => panic!("{other} is not written down here"),
        };
        output.chunks(size).zip(y.chunks(size)).map(sample).collect()
    }

    fn loss_derivative(&self, output: &[T], y: &[T]) -> Vec<T> {
        let size = self.sizes[self.depth()];
        let share = self.share(output.len() / size);
        let sample = |(o, y): (&[T], &[T])| -> Vec<T> {
            let normaliser = log_sum_exp(o);
            let derivative = |(&o, &y): (&T, &T)| match self.loss.function {
                LossFunction::Mse => T::of(2.0) * share * (o - y),
                LossFunction::CrossEntropy => share * (T::of((o.f64() - normaliser).exp()) - y),
                other => panic!("{other} is not written down here"),
            };
            o.iter().zip(y).map(derivative).collect()
        };
        output.chunks(size).zip(y.chunks(size)).flat_map(sample).collect()
    }

    /// What a term counts in the loss of a batch: a mean is over samples, or over all elements.
    fn share(&self, samples: usize) -> T {
        let Loss { function, reduction, weight, .. } = self.loss;
        T::of(match (reduction, function) {
            (Reduction::Mean, LossFunction::Mse) => weight / (samples * self.sizes[self.depth()]) as f64,
            (Reduction::Mean, LossFunction::CrossEntropy) => weight / samples as f64,
            (Reduction::Sum, _) => weight,
            other => panic!("{other:?} is not written down here"),
        })
    }
}

/// How far a belief moves, per step size, in iteration i where d is the direction: by PyTorch's SGD or Adam.
fn moved<T: Real>(solver: &Solver, i: usize, d: T, mean: &mut T, square: &mut T) -> T {
    let (keep, unbiased) = (T::of, |decay: f64| T::of(1.0 - decay.powi(i as i32)));
    match *solver {
        Solver::Momentum { momentum, nesterov, .. } => {
            *mean = keep(momentum) * *mean + d;
            if nesterov { d + keep(momentum) * *mean } else { *mean }
        }
        Solver::Adam(_) => {
            *mean = keep(0.9) * *mean + keep(0.1) * d;
            *square = keep(0.999) * *square + keep(0.001) * d * d;
            let root = T::of((*square / unbiased(0.999)).f64().sqrt());
            *mean / unbiased(0.9) / (root + T::of(1e-8))
        }
        _ => d,
    }
}

/// v += eta (eps - pulled).
fn update<T: Real>(v: &mut [T], eta: T, eps: &[T], pulled: &[T]) {
    v.iter_mut().zip(eps.iter().zip(pulled)).for_each(|(v, (&eps, &pulled))| *v += eta * (eps - pulled));
}

/// a += b.
fn add<T: Real>(a: &mut [T], b: &[T]) {
    a.iter_mut().zip(b).for_each(|(a, &b)| *a += b);
}

/// a - b.
pub fn minus<T: Real>(a: &[T], b: &[T]) -> Vec<T> {
    a.iter().zip(b).map(|(&a, &b)| a - b).collect()
}

fn sum<T: Real>(terms: impl Iterator<Item = T>) -> T {
    terms.fold(T::default(), |sum, term| sum + term)
}

fn log_sum_exp<T: Real>(x: &[T]) -> f64 {
    let max = x.iter().fold(f64::NEG_INFINITY, |max, x| max.max(x.f64()));
    max + x.iter().map(|x| (x.f64() - max).exp()).sum::<f64>().ln()
}
