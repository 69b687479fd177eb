//! A network: a chain of layers, each a chain of operations.

use std::ops::Range;
use std::sync::Arc;

#[cfg(feature = "serde")]
use crate::description::Description;
use crate::error::{Error, Result};
use crate::loss::{Loss, LossFunction, is_factor};
use crate::method::{ErrorBased, FixedPrediction, Incremental, Method, Solver, first_pulled, first_pushed};
use crate::op::{MAX_COUNTED, MAX_TABLES, Op};
use crate::parameters::{ParameterSpec, Parameters, Role};

/// The largest tensor of one sample, so that the tensor of a vector's worth of samples can be
/// addressed by 32 bits.
const MAX_SAMPLE: usize = (1 << 28) - 1;
/// The most parameters: 16 GiB of f32.
const MAX_PARAMETERS: usize = 1 << 32;
/// The most axes of an input.
const MAX_AXES: usize = 8;
/// The most layers: what fixed-prediction lets through takes time that grows with their square.
const MAX_LAYERS: usize = 4096;
/// The most operations.
const MAX_OPERATIONS: usize = 1 << 16;

/// v_l = f_l(v_{l-1}; theta_l) for l = 1..L, and the loss of v_L.
///
/// ```
/// use predictive_coding::{Conv2d, Linear, Loss, MaxPool2d, Network, Op};
///
/// let network = Network::new(
///     &[1, 28, 28],
///     Loss::CROSS_ENTROPY,
///     vec![
///         vec![Op::Conv2d(Conv2d::new(10, [3, 3])), Op::Relu, Op::MaxPool2d(MaxPool2d::new([2, 2])), Op::Flatten],
///         vec![Op::Linear(Linear::new(10))],
///     ],
/// )?;
/// assert_eq!(network.layers()[0].output_shape(), [1690]);
/// # Ok::<(), predictive_coding::Error>(())
/// ```
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(try_from = "Description", into = "Description")
)]
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    input: Vec<usize>,
    loss: Loss,
    layers: Vec<Layer>,
    parameters: Arc<[ParameterSpec]>,
    /// Bytes, at most, of the tables of addresses of a plan.
    tables: usize,
}

/// One predictive-coding layer f_l: any number of operations, evaluated in order. See [`Network`] for an example.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    ops: Vec<Op>,
    shapes: Vec<Vec<usize>>,
    precision: f64,
}

impl Layer {
    /// The operations in the order of their evaluation.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// The shapes of a sample: before the first operation, then after each.
    pub fn shapes(&self) -> &[Vec<usize>] {
        &self.shapes
    }

    /// The shape of one sample of v_{l-1}.
    pub fn input_shape(&self) -> &[usize] {
        &self.shapes[0]
    }

    /// The shape of one sample of v_l.
    pub fn output_shape(&self) -> &[usize] {
        &self.shapes[self.ops.len()]
    }

    /// The precision p_l: the energy has the term p_l / 2 |epsilon_l|^2. 1 for the output layer.
    pub fn precision(&self) -> f64 {
        self.precision
    }

    /// Number of multiplications and additions of this layer's products, for one sample in one direction.
    pub fn flops(&self) -> u64 {
        self.products().map(|(_, flops)| flops).sum()
    }

    /// The products with their multiplications and additions, by the index of their operation.
    fn products(&self) -> impl Iterator<Item = (usize, u64)> {
        self.ops.iter().zip(self.shapes.windows(2)).enumerate().filter_map(|(o, (op, shapes))| {
            let multiply_adds = match op {
                Op::Conv2d(conv) => shapes[0][0] * conv.kernel_size[0] * conv.kernel_size[1] * elements(&shapes[1]),
                Op::Linear(_) => shapes[0][0] * shapes[1][0],
                _ => return None,
            };
            Some((o, 2 * multiply_adds as u64))
        })
    }

    /// Of pulling an error back to the output of the lowest product: all that the gradients need.
    fn inner_flops(&self) -> u64 {
        self.products().skip(1).map(|(_, flops)| flops).sum()
    }

    /// Of evaluating the layer anew for its gradients: the products whose result another product
    /// reads or a slope depends on.
    fn renewed_flops(&self) -> u64 {
        let Some((lowest, _)) = self.products().next() else { return 0 };
        let matters = |o: &usize| self.ops[*o].has_slope() || matches!(self.ops[*o], Op::Conv2d(_) | Op::Linear(_));
        let last = (lowest..self.ops.len()).rev().find(matters).unwrap_or(lowest);
        self.products().filter(|&(o, _)| o < last).map(|(_, flops)| flops).sum()
    }
}

/// Number of elements of a sample of this shape.
pub(crate) fn elements(shape: &[usize]) -> usize {
    shape.iter().product()
}

impl Network {
    /// Checks a description and derives every shape. `input` is the shape of one sample.
    ///
    /// # Errors
    /// [`Error::Network`] if the operations do not fit one another, or the network is larger than what is
    /// addressed: 2^28 elements of a sample, 2^32 parameters, 8 axes of the input, 4096 layers, 65536 operations, and
    /// 1 GiB of tables of addresses, of which windows that meet the border in thousands of ways have more. Little is
    /// allocated, however large the network.
    pub fn new(input: &[usize], loss: Loss, layers: Vec<Vec<Op>>) -> Result<Self> {
        if input.is_empty() || input.contains(&0) {
            return Err(Error::Network(format!(
                "input is {input:?}, expected one sample's shape with every size at least 1, as in [1, 28, 28]"
            )));
        }
        if input.len() > MAX_AXES {
            return Err(Error::Network(format!("the input has {} axes, expected at most {MAX_AXES}", input.len())));
        }
        if layers.is_empty() {
            return Err(Error::Network("the network has no layer, expected at least one".into()));
        }
        if layers.len() > MAX_LAYERS {
            let layers = layers.len();
            return Err(Error::Network(format!("the network has {layers} layers, expected at most {MAX_LAYERS}")));
        }
        let operations: usize = layers.iter().map(Vec::len).sum();
        if operations > MAX_OPERATIONS {
            return Err(Error::Network(format!(
                "the network has {operations} operations, expected at most {MAX_OPERATIONS}"
            )));
        }
        loss.validate()?;
        check_size("the input", input, MAX_SAMPLE)?;
        let mut shape = input.to_vec();
        let mut built: Vec<Layer> = Vec::with_capacity(layers.len());
        let mut specs = SpecBuilder::default();
        let mut tables = 0usize;
        for (l, ops) in layers.into_iter().enumerate() {
            let mut shapes = vec![shape];
            for (o, op) in ops.iter().enumerate() {
                // As in the names of tensors.
                let place = |message| Error::Network(format!("operation {l}.{o}: {message}"));
                let before = &shapes[o];
                let after = op.output_shape(before).map_err(|e| place(e.to_string()))?;
                check_size(&format!("the output of {}", op.name()), &after, MAX_SAMPLE)
                    .map_err(|e| place(e.to_string()))?;
                specs.add(l, o, op, before).map_err(|e| place(e.to_string()))?;
                tables = tables.saturating_add(op.table_bytes(before));
                if tables > MAX_TABLES {
                    return Err(place(format!(
                        "the network's tables of addresses take more than {} GiB, those of this {} included; use \
                         windows that meet the border in fewer ways, or smaller images",
                        MAX_TABLES >> 30,
                        op.name()
                    )));
                }
                shapes.push(after);
            }
            shape = shapes[ops.len()].clone();
            built.push(Layer { ops, shapes, precision: 1.0 });
        }
        if loss.function == LossFunction::CrossEntropy && elements(&shape) > MAX_COUNTED {
            return Err(Error::Network(format!(
                "cross_entropy with {} classes, expected at most {MAX_COUNTED}",
                elements(&shape)
            )));
        }
        if loss.function == LossFunction::CrossEntropy && shape.len() != 1 {
            return Err(Error::Network(format!(
                "cross_entropy takes a flat output, found {shape:?}; put a flatten at the end"
            )));
        }
        Ok(Network { input: input.to_vec(), loss, layers: built, parameters: specs.specs.into(), tables })
    }

    /// The same network with another precision p_l of a hidden layer (counted from 1). The energy is
    /// F = loss + sum over l < L of p_l / 2 |epsilon_l|^2.
    ///
    /// # Errors
    /// [`Error::Network`] if there is no such layer, it is the output, or the precision is not a number above 0
    /// in the range of f32.
    pub fn with_precision(mut self, layer: usize, precision: f64) -> Result<Self> {
        let layers = self.layers.len();
        if !(1..=layers).contains(&layer) {
            return Err(Error::Network(format!(
                "a precision was given for layer {layer} of {layers}, expected a layer in 1..{layers}"
            )));
        }
        if !is_factor(precision) {
            return Err(Error::Network(format!(
                "layer {layer}: the precision is {precision}, expected a number above 0, from 1e-37 to 1e37"
            )));
        }
        if layer == layers && precision != 1.0 {
            return Err(Error::Network(format!(
                "layer {layer}: the output cannot have a precision (found {precision}), because its error is the derivative of \
                 the loss; give the loss a weight instead"
            )));
        }
        self.layers[layer - 1].precision = precision;
        Ok(self)
    }

    /// The precisions of all layers, from the lowest on.
    pub fn precisions(&self) -> Vec<f64> {
        self.layers.iter().map(Layer::precision).collect()
    }

    /// The shape of one sample of the input.
    pub fn input_shape(&self) -> &[usize] {
        &self.input
    }

    /// The shape of one sample of the output.
    pub fn output_shape(&self) -> &[usize] {
        self.layers[self.layers.len() - 1].output_shape()
    }

    /// The layers; the paper's layer l is at index l - 1.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The loss of the output.
    pub fn loss(&self) -> Loss {
        self.loss
    }

    /// Names, shapes and places of the parameters.
    pub fn parameters(&self) -> &Arc<[ParameterSpec]> {
        &self.parameters
    }

    /// At most so many bytes of tables of addresses will a plan of this network have.
    pub(crate) fn table_bytes(&self) -> usize {
        self.tables
    }

    /// Parameters drawn from PyTorch's default distributions: weights and biases uniform in
    /// +-1/sqrt(fan in). The same seed gives the same parameters on every machine.
    pub fn initialize(&self, seed: u64) -> Parameters {
        Parameters::random(self.parameters.clone(), seed)
    }

    /// Number of multiplications and additions of all products in one step with `batch` samples: forward pass, relaxation
    /// and gradients. A multiply-add counts as two. Saturates.
    ///
    /// What is known in advance is neither computed nor counted: the prediction of the first layer is constant, and errors
    /// move down one layer per iteration from v = v-hat. Fixed-prediction needs as many operations as exact, unless it is
    /// literal. All iterations are counted, including those that a tolerance may save.
    pub fn flops(&self, method: &Method, batch: usize) -> u64 {
        let layer: Vec<u64> = self.layers.iter().map(Layer::flops).collect();
        let last = layer.len();
        let sum = |layers: Range<usize>| layer[layers].iter().sum::<u64>();
        let forward = sum(0..last);
        // What the relaxation pulls through a layer serves its gradients too; nothing does for the first.
        let gradients = sum(0..last) + self.layers[0].inner_flops();
        // Iterations after the L-th need every layer.
        let over_iterations = |iterations: usize, first: fn(usize, usize) -> usize| {
            let early: u64 = (1..=iterations.min(last)).map(|i| sum(first(last, i)..last)).sum();
            early.saturating_add(sum(1..last).saturating_mul(iterations.saturating_sub(last) as u64))
        };
        let both_ways = |times: usize| (2 * sum(1..last)).saturating_mul(times as u64);
        let steps = |iterations: usize| {
            let pulls = over_iterations(iterations, first_pulled);
            pulls.saturating_add(over_iterations(iterations, first_pushed))
        };
        // The last one is pushed once more: to see that it did not climb, or for the beliefs that the errors stand for.
        let by_errors = |iterations: usize| both_ways(iterations).saturating_add(sum(1..last));
        // At the final beliefs the layers are evaluated, and inner errors pulled, anew.
        let renewed: u64 = self.layers[1..].iter().map(|layer| layer.renewed_flops() + layer.inner_flops()).sum();
        let relaxation = match method {
            Method::FixedPrediction(FixedPrediction { iterations, literal: true, .. }) => {
                over_iterations(*iterations, first_pulled)
            }
            Method::Exact | Method::FixedPrediction(_) => sum(1..last),
            Method::ErrorBased(ErrorBased { iterations, .. }) => by_errors(*iterations).saturating_add(renewed),
            &Method::Incremental(Incremental { iterations, .. }) => {
                // Every iteration but the first pushes all layers twice, the lowest once, and has gradients.
                let again = 3 * sum(1..last) + sum(0..1) + gradients;
                sum(last - 1..last).saturating_add(again.saturating_mul(iterations as u64 - 1))
            }
            Method::Strict(strict) => {
                let iterated = match strict.solver {
                    Solver::Automatic { products } => steps(strict.iterations).saturating_add(both_ways(products)),
                    Solver::Sweeps => by_errors(strict.iterations),
                    _ => steps(strict.iterations),
                };
                let fresh = if strict.fresh_errors { sum(1..last) } else { 0 };
                let side = iterated.saturating_add(renewed + fresh);
                // The other side of a centred nudge has gradients of its own.
                if strict.is_centred() { side.saturating_mul(2).saturating_add(gradients) } else { side }
            }
        };
        (forward + gradients).saturating_add(relaxation).saturating_mul(batch as u64)
    }
}

/// What a call of [`Network::from_file`] says where it can not be.
#[cfg(not(feature = "files"))]
#[diagnostic::on_unimplemented(
    message = "`Network::from_file` needs the feature `files` of predictive-coding",
    label = "this build leaves the feature `files` out",
    note = "leave out `default-features = false`, or add `features = [\"files\"]`"
)]
pub trait ModelFile {}

#[cfg(not(feature = "files"))]
impl Network {
    /// Model files need the feature `files`, which this build leaves out.
    ///
    /// ```compile_fail,E0277
    /// let network = predictive_coding::Network::from_file("model.toml");
    /// ```
    ///
    /// # Errors
    /// None: it can not be called.
    pub fn from_file<P: ModelFile>(_: P) -> Result<Self> {
        unreachable!("nothing is a ModelFile")
    }
}

fn check_size(what: &str, shape: &[usize], limit: usize) -> Result<()> {
    match shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size)).filter(|&n| n <= limit) {
        Some(_) => Ok(()),
        None => {
            Err(Error::Network(format!("{what} of shape {shape:?} is too large, expected at most {limit} elements")))
        }
    }
}

#[derive(Default)]
struct SpecBuilder {
    specs: Vec<ParameterSpec>,
    end: usize,
}

impl SpecBuilder {
    fn add(&mut self, layer: usize, op_index: usize, op: &Op, input: &[usize]) -> Result<()> {
        let (weight, bias) = match op {
            Op::Conv2d(c) => (vec![c.out_channels, input[0], c.kernel_size[0], c.kernel_size[1]], c.bias),
            Op::Linear(linear) => (vec![linear.out_features, input[0]], linear.bias),
            _ => return Ok(()),
        };
        check_size("the weight", &weight, MAX_PARAMETERS)?;
        let fan_in = elements(&weight[1..]);
        let outputs = weight[0];
        let mut push = |role: Role, shape: Vec<usize>| {
            let start = self.end;
            self.end += elements(&shape);
            let name = format!("{layer}.{op_index}.{role}");
            self.specs.push(ParameterSpec { name, layer, op: op_index, role, shape, fan_in, range: start..self.end });
        };
        push(Role::Weight, weight);
        if bias {
            push(Role::Bias, vec![outputs]);
        }
        match self.end <= MAX_PARAMETERS {
            true => Ok(()),
            false => Err(Error::Network(format!("{} parameters, expected at most {MAX_PARAMETERS}", self.end))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::{Nudge, Strict};
    use crate::op::Linear;

    fn linear(out_features: usize) -> Op {
        Op::Linear(Linear::new(out_features))
    }

    #[test]
    fn flops_are_those_of_the_products_that_are_needed() {
        // Products of 4 x 3 and 3 x 2: forward, weights, and the second pulled back to the first.
        let network = Network::new(&[4], Loss::MSE, vec![vec![linear(3), Op::Tanh, linear(2)]]).unwrap();
        assert_eq!(network.flops(&Method::Exact, 1), 2 * (18 + 18 + 6));

        // 5 x 4, then 4 x 3 and 3 x 2 in one layer.
        let layers = vec![vec![linear(4)], vec![linear(3), Op::Relu, linear(2)]];
        let network = Network::new(&[5], Loss::MSE, layers).unwrap();
        let step = 38 + 38;
        assert_eq!(network.flops(&Method::Exact, 10), 10 * 2 * (step + 18));
        let fixed = FixedPrediction::new(0.1, 3);
        assert_eq!(network.flops(&fixed.clone().into(), 10), 10 * 2 * (step + 18));
        assert_eq!(network.flops(&fixed.with_literal(true).into(), 10), 10 * 2 * (step + 3 * 18));
        // The second layer is pushed from the second iteration on, and pulled in every one; for the gradients its
        // first product is evaluated anew and its second pulled back.
        let flops = |strict: Strict| network.flops(&strict.into(), 10);
        assert_eq!(flops(Strict::new(0.1, 3)), 10 * 2 * (step + 2 * 18 + 3 * 18 + 12 + 6));
        assert_eq!(flops(Strict::sweeps(3)), 10 * 2 * (step + 3 * 36 + 18 + 12 + 6));
        let estimated = flops(Strict::automatic(2, 3)) - flops(Strict::new(0.1, 3));
        assert_eq!(estimated, 10 * 2 * 2 * 36);
        // Both sides of a centred nudge relax and have gradients; fresh errors are another push.
        let once = flops(Strict::new(0.1, 3));
        let forward = 10 * 2 * (20 + 18);
        let centred = flops(Strict::new(0.1, 3).with_nudge(Some(Nudge::new(0.1).with_centred(true))));
        assert_eq!(centred - forward, 2 * (once - forward));
        assert_eq!(flops(Strict::new(0.1, 3).with_fresh_errors(true)) - once, 10 * 2 * 18);
        let error_based = network.flops(&ErrorBased::new(0.1, 3).into(), 10);
        assert_eq!(error_based, flops(Strict::sweeps(3)));
        assert_eq!(flops(Strict::new(0.1, usize::MAX)), u64::MAX);
    }
}
