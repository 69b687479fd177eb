//! Predictive coding as its formulas are written: beliefs v, predictions f_l(v_{l-1}), errors eps.

use std::iter;

use predictive_coding::{
    ErrorBased, Eta, FixedPrediction, Layer, Loss, LossFunction, Method, Network, Parameters, Reduction, Solver,
    Strict, Targets,
};

use crate::operation::Operation;
use crate::real::Real;

/// A network with its parameters.
#[derive(Clone)]
pub struct Naive<T> {
    layers: Vec<Vec<Operation<T>>>,
    loss: Loss,
    /// Elements of a sample of v_l.
    sizes: Vec<usize>,
    /// p_l, for l = 1..=L; 1 for the input and the output.
    precisions: Vec<T>,
    parameters: usize,
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
    /// Whether energies may rise.
    pub may_rise: bool,
}

impl<T> Step<T> {
    /// One whose energies are not recorded.
    fn new(loss: T, activations: Vec<Vec<T>>, beliefs: Vec<Vec<T>>, errors: Vec<Vec<T>>, gradients: Vec<T>) -> Self {
        Step { loss, activations, beliefs, errors, gradients, energies: vec![], opposite: vec![], may_rise: false }
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
        let operations = |(l, layer): (usize, &Layer)| {
            let operation = |(o, op)| {
                let specs: Vec<_> = network.parameters().iter().filter(|s| (s.layer, s.op) == (l, o)).collect();
                Operation::new(op, &layer.shapes()[o], &layer.shapes()[o + 1], &specs, values)
            };
            layer.ops().iter().enumerate().map(operation).collect()
        };
        let shapes = iter::once(network.input_shape()).chain(network.layers().iter().map(Layer::output_shape));
        Naive {
            layers: network.layers().iter().enumerate().map(operations).collect(),
            loss: network.loss(),
            sizes: shapes.map(|shape| shape.iter().product()).collect(),
            precisions: iter::once(1.0).chain(network.precisions()).map(T::of).collect(),
            parameters: values.len(),
        }
    }

    /// Gives each sum of products an error of its own, the same for every sample, as a multiple of the sum of their
    /// sizes.
    pub fn round(&mut self, mut error: impl FnMut() -> T) {
        self.layers.iter_mut().flatten().for_each(|op| op.round(&mut error));
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
            Method::ErrorBased(ErrorBased { eta, iterations, .. }) => self.error_based(x, y, eta, *iterations),
            other => panic!("{other:?} is not written down here"),
        }
    }

    fn exact(&self, x: &[T], y: &[T]) -> Step<T> {
        let hat = self.forward(x);
        let (loss, mut eps) = self.top(&hat, y);
        for l in (1..self.depth()).rev() {
            eps[l] = self.pull(l + 1, &hat[l], &eps[l + 1]);
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
            for l in 1..self.depth() {
                let pulled = self.pull(l + 1, &hat[l], &weighted[l + 1]);
                update(&mut v[l], T::of(eta.of_layer(l)), &weighted[l], &pulled);
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
            let weighted = self.weighted(&eps);
            for l in 1..self.depth() {
                let pulled = self.pull(l + 1, &v[l], &weighted[l + 1]);
                let direction = minus(&weighted[l], &pulled);
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
        Step { energies, may_rise, ..Step::new(loss, hat, v, eps, gradients) }
    }

    /// v_l = f_l(v_{l-1}) - eps_l, and eps_l += eta (J_{l+1}^T ... J_L^T dLoss/dy - p_l eps_l).
    fn error_based(&self, x: &[T], y: &[T], eta: &Eta, iterations: usize) -> Step<T> {
        let hat = self.forward(x);
        let (loss, mut eps) = self.top(&hat, y);
        for l in 1..self.depth() {
            eps[l] = vec![T::default(); hat[l].len()];
        }
        let beliefs = |eps: &[Vec<T>]| {
            let mut v = vec![x.to_vec()];
            for l in 1..self.depth() {
                v.push(minus(&self.predict(l, &v[l - 1]), &eps[l]));
            }
            v.push(self.predict(self.depth(), &v[self.depth() - 1]));
            v
        };
        let mut energies = vec![];
        for _ in 0..iterations {
            let v = beliefs(&eps);
            energies.push(self.energy(&v, y));
            let mut delta = self.loss_derivative(&v[self.depth()], y);
            for l in (1..self.depth()).rev() {
                delta = self.pull(l + 1, &v[l], &delta);
                let (eta, p) = (T::of(eta.of_layer(l)), self.precisions[l]);
                eps[l].iter_mut().zip(&delta).for_each(|(eps, &delta)| *eps += eta * (delta - p * *eps));
            }
        }
        let v = beliefs(&eps);
        eps[self.depth()] = self.loss_derivative(&v[self.depth()], y);
        let gradients = self.gradients(&v, &self.weighted(&eps));
        Step { energies, ..Step::new(loss, hat, v, eps, gradients) }
    }

    /// Strict from v-hat as it was published with the paper: eps_l = v_l - f_l(v_{l-1}) for l < L and eps_L =
    /// dLoss/dy, v_l += eta (-eps_l + J_{l+1}(v_l)^T eps_{l+1}), gradients at v-hat.
    fn published_2022(&self, x: &[T], y: &[T], eta: &Eta, iterations: usize) -> Step<T> {
        let hat = self.forward(x);
        let (loss, _) = self.top(&hat, y);
        let mut v = hat.clone();
        let mut eps = vec![];
        for _ in 0..iterations {
            eps = self.errors(&v, y);
            for eps in &mut eps[1..self.depth()] {
                eps.iter_mut().for_each(|eps| *eps = T::default() - *eps);
            }
            let weighted = self.weighted(&eps);
            for l in 1..self.depth() {
                let pulled = self.pull(l + 1, &v[l], &weighted[l + 1]);
                update(&mut v[l], T::of(-eta.of_layer(l)), &weighted[l], &pulled);
            }
        }
        let gradients = self.gradients(&hat, &self.weighted(&eps));
        Step::new(loss, hat, v, eps, gradients)
    }

    /// eps_l = f_l(v_{l-1}) - v_l for l < L, and eps_L = dLoss/dy at y = f_L(v_{L-1}).
    pub fn errors(&self, v: &[Vec<T>], y: &[T]) -> Vec<Vec<T>> {
        let prediction: Vec<_> =
            (0..=self.depth()).map(|l| if l == 0 { v[0].clone() } else { self.predict(l, &v[l - 1]) }).collect();
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
        let mut energy = self.losses(&self.predict(self.depth(), &v[self.depth() - 1]), y);
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
            hat.push(self.predict(l, &hat[l - 1]));
        }
        hat
    }

    /// The loss of the whole batch where layers after l start from v_l.
    pub fn loss(&self, v: &[T], y: &[T], l: usize) -> T {
        let output = (l + 1..=self.depth()).fold(v.to_vec(), |v, l| self.predict(l, &v));
        sum(self.losses(&output, y).into_iter())
    }

    /// f_l(v), l from 1.
    pub fn predict(&self, l: usize, v: &[T]) -> Vec<T> {
        v.chunks(self.sizes[l - 1]).flat_map(|v| self.trace(l, v).pop().expect("the input at least")).collect()
    }

    /// J_l(v)^T eps.
    pub fn pull(&self, l: usize, v: &[T], eps: &[T]) -> Vec<T> {
        self.backward(l, v, eps, |_, _, _| {})
    }

    /// Sum over the batch of eps_l . df_l/dtheta_l at v_{l-1}, for all l.
    fn gradients(&self, v: &[Vec<T>], eps: &[Vec<T>]) -> Vec<T> {
        let mut gradients = vec![T::default(); self.parameters];
        for l in 1..=self.depth() {
            self.backward(l, &v[l - 1], &eps[l], |op, x, d| op.add_gradient(x, d, &mut gradients));
        }
        gradients
    }

    /// Pulls eps back through the operations of layer l; `each` sees what reaches each of them.
    fn backward(&self, l: usize, v: &[T], eps: &[T], mut each: impl FnMut(&Operation<T>, &[T], &[T])) -> Vec<T> {
        let mut pulled = vec![];
        for (v, eps) in v.chunks(self.sizes[l - 1]).zip(eps.chunks(self.sizes[l])) {
            let trace = self.trace(l, v);
            let mut d = eps.to_vec();
            for (op, x) in self.layers[l - 1].iter().zip(&trace).rev() {
                each(op, x, &d);
                d = op.pull(x, &d);
            }
            pulled.extend(d);
        }
        pulled
    }

    /// One sample of layer l: its input, then the result of each operation.
    fn trace(&self, l: usize, v: &[T]) -> Vec<Vec<T>> {
        let mut trace = vec![v.to_vec()];
        for op in &self.layers[l - 1] {
            trace.push(op.forward(&trace[trace.len() - 1]));
        }
        trace
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
