//! A network: layers that predict one another's beliefs, each by chains of operations.

mod layer;
mod scaling;

use std::sync::Arc;

#[cfg(feature = "serde")]
use crate::description::Description;
use crate::error::{Error, Result};
#[cfg(doc)]
use crate::init::Init;
use crate::loss::{Loss, LossFunction, is_factor};
use crate::method::{ErrorBased, FixedPrediction, Incremental, Method, Solver, Strict};
use crate::op::{MAX_COUNTED, MAX_TABLES, Op};
use crate::parameters::{ParameterSpec, Parameters, Role};
use crate::shares::{iterations_for, shares};
use crate::wave::Wave;

pub use layer::{Branch, Layer, LayerSpec};
pub use scaling::Scaling;

/// The largest tensor of one sample, so that the tensor of a vector's worth of samples can be
/// addressed by 32 bits.
const MAX_SAMPLE: usize = (1 << 28) - 1;
/// The most parameters: 16 GiB of f32.
const MAX_PARAMETERS: usize = 1 << 32;
/// The most axes of an input.
const MAX_AXES: usize = 8;
/// The most layers: what fixed-prediction lets through takes time that grows with their square.
const MAX_LAYERS: usize = 4096;
/// The most operations and branches.
const MAX_OPERATIONS: usize = 1 << 16;

/// v_l = f_l(v_{l-1}; theta_l) for l = 1..L, and the loss of v_L. A layer may also read several earlier beliefs, or the
/// input, through [branches](LayerSpec) whose sum it goes on with.
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

/// Number of elements of a sample of this shape.
pub(crate) fn elements(shape: &[usize]) -> usize {
    shape.iter().product()
}

impl Network {
    /// Checks a description and derives every shape. `input` is the shape of one sample; a layer is a list of operations, or
    /// a [`LayerSpec`] if there is more to say.
    ///
    /// # Errors
    /// [`Error::Network`] if the operations do not fit one another, a branch reads what is not an earlier layer, the
    /// branches of a layer end in different shapes, a name is used twice, a precision is none, or the network is larger
    /// than what is addressed: 2^28 elements of a sample, 2^32 parameters, 8 axes of the input, 4096 layers, 65536
    /// operations and branches, and 1 GiB of tables of addresses, of which windows that meet the border in thousands of
    /// ways have more. Little is allocated, however large the network.
    pub fn new(input: &[usize], loss: Loss, layers: Vec<impl Into<LayerSpec>>) -> Result<Self> {
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
        let layers: Vec<LayerSpec> = layers.into_iter().map(Into::into).collect();
        let branches = layers.iter().flat_map(|layer| &layer.branches);
        let operations = layers.iter().map(|layer| layer.ops.len()).sum::<usize>()
            + branches.map(|branch| 1 + branch.ops().len()).sum::<usize>();
        if operations > MAX_OPERATIONS {
            return Err(Error::Network(format!(
                "the network has {operations} operations and branches, expected at most {MAX_OPERATIONS}"
            )));
        }
        loss.validate()?;
        check_size("the input", input, MAX_SAMPLE)?;
        check_names(&layers)?;
        let mut built: Vec<Layer> = Vec::with_capacity(layers.len());
        let mut chains = Chains::default();
        let precisions: Vec<f64> = layers.iter().map(|layer| layer.precision).collect();
        for (l, LayerSpec { name, mut branches, ops, .. }) in layers.into_iter().enumerate() {
            if branches.is_empty() {
                branches.push(Branch::new(l, vec![]));
            }
            for (index, branch) in branches.iter_mut().enumerate() {
                let from = branch.from();
                let source = match from {
                    0 => input,
                    _ if from <= l => built[from - 1].output_shape(),
                    _ => {
                        return Err(Error::Network(format!(
                            "layer {}, branch {index}: reads layer {from}, expected an earlier layer, or 0 for the input",
                            l + 1
                        )));
                    }
                };
                branch.shapes = chains.add(l, Some(index), branch.ops(), source.to_vec())?;
            }
            let ends: Vec<&[usize]> = branches.iter().map(|branch| &branch.shapes[branch.ops().len()][..]).collect();
            if let Some(index) = ends.iter().position(|end| *end != ends[0]) {
                return Err(Error::Network(format!(
                    "layer {}: branch 0 ends with the shape {:?}, branch {index} with {:?}, expected the same, to be summed",
                    l + 1,
                    ends[0],
                    ends[index]
                )));
            }
            let shapes = chains.add(l, None, &ops, ends[0].to_vec())?;
            built.push(Layer { name, branches, ops, shapes, precision: 1.0 });
        }
        let shape = built[built.len() - 1].output_shape();
        if loss.function == LossFunction::CrossEntropy && elements(shape) > MAX_COUNTED {
            return Err(Error::Network(format!(
                "cross_entropy with {} classes, expected at most {MAX_COUNTED}",
                elements(shape)
            )));
        }
        if loss.function == LossFunction::CrossEntropy && shape.len() != 1 {
            return Err(Error::Network(format!(
                "cross_entropy takes a flat output, found {shape:?}; put a flatten at the end"
            )));
        }
        let Chains { specs, tables } = chains;
        let network = Network { input: input.to_vec(), loss, layers: built, parameters: specs.finish(), tables };
        let precisions = (1..).zip(precisions).filter(|(_, precision)| *precision != 1.0);
        precisions.into_iter().try_fold(network, |network, (l, precision)| network.with_precision(l, precision))
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

    /// Parameters drawn as their operations say ([`Init`]): by default from PyTorch's distributions, weights and biases
    /// uniform in +-1/sqrt(fan in). The same seed gives the same parameters on every machine.
    pub fn initialize(&self, seed: u64) -> Parameters {
        Parameters::random(self.parameters.clone(), seed)
    }

    /// How much of each layer's gradient gets through to it: with the precisions p_l, p_l times the errors of
    /// fixed-prediction is c_l times backpropagation's, with c_L = 1, and from 0
    /// c_l <- (1 - eta_l p_l) c_l + eta_l p_l c_{l+1} for all l < L at once, n - 1 times. 0 for layers that the output does
    /// not depend on. All are 1 for exact. The other methods have no such numbers, nor has a network in which a layer is
    /// read by layers whose numbers differ: where ways to the output have different lengths, say.
    ///
    /// ```
    /// use predictive_coding::{FixedPrediction, Linear, Loss, Network, Op};
    ///
    /// let network = Network::new(&[4], Loss::MSE, vec![vec![Op::Linear(Linear::new(4))]; 5])?;
    /// let method = FixedPrediction::new(0.1, 20).into();
    /// let shares = network.shares(&method).unwrap();
    /// assert!((shares[0] - 0.115).abs() < 1e-4 && shares[4] == 1.0);
    /// assert_eq!(network.iterations_for(&method, 0.99), Some(98));
    /// # Ok::<(), predictive_coding::Error>(())
    /// ```
    ///
    /// # Panics
    /// If step sizes are for another number of hidden layers.
    pub fn shares(&self, method: &Method) -> Option<Vec<f64>> {
        self.multiples(method).map(|[errors, _]| errors)
    }

    /// The [shares](Self::shares) of the errors, and likewise of p_l (v-hat_l - v_l).
    pub(crate) fn multiples(&self, method: &Method) -> Option<[Vec<f64>; 2]> {
        let (eta, iterations) = match method {
            Method::Exact => return Some([0, 1].map(|_| vec![1.0; self.layers.len()])),
            Method::FixedPrediction(FixedPrediction { eta, iterations, .. }) => (eta, *iterations),
            Method::Strict(_) | Method::ErrorBased(_) | Method::Incremental(_) => return None,
        };
        let mut multiples = [0, 1].map(|_| vec![0.0; self.layers.len()]);
        for Way { rates, layers } in self.ways(&eta.times(&self.precisions()))? {
            for (multiples, found) in multiples.iter_mut().zip(shares(&rates, iterations)) {
                layers.iter().zip(found).for_each(|(layers, c)| layers.iter().for_each(|&l| multiples[l] = c));
            }
        }
        Some(multiples)
    }

    /// The least number of iterations with which fixed-prediction at this eta lets at least `share`, below 1,
    /// of its gradient through to every layer ([`shares`](Self::shares)), and from
    /// which on more iterations only let more through. None where there is no such number: if an eta is above
    /// 1, so that the c_l overshoot 1 and swing about it (for good from 2 on), if the number is too large
    /// to be counted, and for the other methods. Its cost does not depend on eta.
    ///
    /// # Panics
    /// If step sizes are for another number of hidden layers.
    pub fn iterations_for(&self, method: &Method, share: f64) -> Option<usize> {
        let Method::FixedPrediction(FixedPrediction { eta, .. }) = method else { return None };
        let ways = self.ways(&eta.times(&self.precisions()))?;
        ways.iter().map(|way| iterations_for(&way.rates, share)).try_fold(1, |most, n| Some(most.max(n?)))
    }

    /// The layers (from 1) that no error reaches within the iterations, so that their gradients are 0. Errors come
    /// down one layer per iteration from the forward pass, so that n reach the n uppermost layers of a chain. Sweeps and
    /// error-based reach all that the output depends on.
    ///
    /// ```
    /// use predictive_coding::{Linear, Loss, Network, Op, Strict};
    ///
    /// let network = Network::new(&[4], Loss::MSE, vec![vec![Op::Linear(Linear::new(4))]; 5])?;
    /// assert_eq!(network.unreached(&Strict::new(0.1, 3).into()), [1, 2]);
    /// # Ok::<(), predictive_coding::Error>(())
    /// ```
    pub fn unreached(&self, method: &Method) -> Vec<usize> {
        let waves = Wave::of_layers(self, false);
        let first = |wave: &Wave| match method {
            Method::Strict(Strict { solver, .. }) if *solver != Solver::Sweeps => wave.wrong,
            Method::Incremental(_) => wave.wrong,
            _ => wave.reached,
        };
        let most = match method {
            Method::Exact | Method::ErrorBased(_) | Method::Strict(Strict { solver: Solver::Sweeps, .. }) => None,
            method => method.iterations(),
        };
        let reached = |wave: &Wave| first(wave) <= most.unwrap_or(usize::MAX - 1);
        (1..).zip(&waves).filter(|(_, wave)| !reached(wave)).map(|(l, _)| l).collect()
    }

    /// The ways from layers to the output, such that every layer that the output depends on is on one. None if a layer is
    /// read by others of different ways. `rates` are those of all layers.
    fn ways(&self, rates: &[f64]) -> Option<Vec<Way>> {
        /// Layers of one rate that all are read by the same class, or are the output.
        struct Class {
            rate: f64,
            above: Option<usize>,
            layers: Vec<usize>,
            lowest: bool,
        }
        let last = self.layers.len() - 1;
        let mut classes = vec![Class { rate: rates[last], above: None, layers: vec![last], lowest: true }];
        let mut class_of = vec![None; self.layers.len()];
        let mut above = class_of.clone();
        class_of[last] = Some(0);
        for l in (0..=last).rev() {
            if let Some(above) = above[l].filter(|_| l < last) {
                let same = |class: &Class| class.rate == rates[l] && class.above == Some(above);
                let class = classes.iter().position(same).unwrap_or_else(|| {
                    classes[above].lowest = false;
                    classes.push(Class { rate: rates[l], above: Some(above), layers: vec![], lowest: true });
                    classes.len() - 1
                });
                classes[class].layers.push(l);
                class_of[l] = Some(class);
            }
            let Some(own) = class_of[l] else { continue };
            for from in self.layers[l].branches.iter().map(Branch::from).filter(|&from| from > 0) {
                if above[from - 1].replace(own).is_some_and(|other| other != own) {
                    return None;
                }
            }
        }
        let way = |lowest: &Class| {
            let up = std::iter::successors(Some(lowest), |class| class.above.map(|above| &classes[above]));
            let (rates, layers) = up.map(|class| (class.rate, class.layers.clone())).unzip();
            Way { rates, layers }
        };
        Some(classes.iter().filter(|class| class.lowest).map(way).collect())
    }

    /// Number of multiplications and additions of all products in one step with `batch` samples: forward pass, relaxation
    /// and gradients. A multiply-add counts as two. Saturates.
    ///
    /// What is known in advance is neither computed nor counted: the prediction of the first layer is constant, and errors
    /// move down one layer per iteration from v = v-hat. Fixed-prediction needs as many operations as exact, unless it is
    /// literal. All iterations are counted, including those that a tolerance may save.
    pub fn flops(&self, method: &Method, batch: usize) -> u64 {
        let waves = Wave::of_layers(self, false);
        let sum = |flops: fn(&Layer) -> u64| self.layers.iter().map(flops).sum::<u64>();
        let (forward, relaxed) = (sum(Layer::flops), sum(Layer::relaxed_flops));
        // What the relaxation pulls through a layer serves its gradients too; nothing does where the input is read.
        let gradients = forward + sum(Layer::inner_flops_of_clamped);
        // Of the iterations from a layer's first on.
        let over_iterations = |iterations: usize, first: fn(&Wave) -> usize| {
            let layers = self.layers.iter().zip(&waves);
            let counts = layers.map(|(layer, wave)| {
                let times = iterations.saturating_sub(first(wave) - 1);
                layer.relaxed_flops().saturating_mul(times as u64)
            });
            counts.fold(0, u64::saturating_add)
        };
        let both_ways = |times: usize| (2 * relaxed).saturating_mul(times as u64);
        let pulls = |iterations: usize| over_iterations(iterations, |wave| wave.wrong);
        let steps =
            |iterations: usize| pulls(iterations).saturating_add(over_iterations(iterations, |wave| wave.predicted));
        // At the final beliefs inner errors are pulled anew, and layers evaluated that were not pushed there.
        let relaxing = || self.layers.iter().filter(|layer| layer.relaxed_flops() > 0);
        let inner: u64 = relaxing().map(Layer::inner_flops).sum();
        let renewed = inner + relaxing().map(Layer::renewed_flops).sum::<u64>();
        let relaxation = match method {
            Method::FixedPrediction(FixedPrediction { iterations, literal, .. })
                if *literal || self.multiples(method).is_none() =>
            {
                over_iterations(*iterations, |wave| wave.reached)
            }
            Method::Exact | Method::FixedPrediction(_) => relaxed,
            Method::ErrorBased(ErrorBased { iterations, .. }) => {
                // The first iteration has nothing to push; what the last one came to is pushed after it.
                both_ways(*iterations).saturating_add(both_ways(method.products())).saturating_add(inner)
            }
            &Method::Incremental(Incremental { iterations, .. }) => {
                // Every iteration but the first pushes beliefs and changes through all layers, and has gradients.
                let again = 2 * relaxed + forward + gradients;
                pulls(1).saturating_add(again.saturating_mul(iterations as u64 - 1))
            }
            Method::Strict(strict) => {
                let iterated = match strict.solver {
                    Solver::Automatic { products } => steps(strict.iterations).saturating_add(both_ways(products)),
                    // The last one is pushed once more, to see that it did not climb.
                    Solver::Sweeps => both_ways(strict.iterations).saturating_add(relaxed),
                    _ => steps(strict.iterations),
                };
                let evaluated = if strict.solver == Solver::Sweeps { inner } else { renewed };
                let fresh = if strict.fresh_errors { relaxed } else { 0 };
                let side = iterated.saturating_add(evaluated + fresh);
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

/// Layers on the way up to the output.
struct Way {
    /// What is at each place of the way, from the lowest: the rate, and the layers (from 0) of that place.
    rates: Vec<f64>,
    layers: Vec<Vec<usize>>,
}

/// The chains of operations of a network so far.
#[derive(Default)]
struct Chains {
    specs: SpecBuilder,
    /// Bytes of tables of addresses.
    tables: usize,
}

impl Chains {
    /// The shapes of a sample in a chain: before the first operation, then after each.
    fn add(&mut self, l: usize, branch: Option<usize>, ops: &[Op], shape: Vec<usize>) -> Result<Vec<Vec<usize>>> {
        let chain = branch.map_or(l.to_string(), |branch| format!("{l}.branches.{branch}"));
        let mut shapes = vec![shape];
        for (o, op) in ops.iter().enumerate() {
            // As in the names of tensors.
            let place = |message| Error::Network(format!("operation {chain}.{o}: {message}"));
            let before = &shapes[o];
            let after = op.output_shape(before).map_err(|e| place(e.to_string()))?;
            check_size(&format!("the output of {}", op.name()), &after, MAX_SAMPLE)
                .map_err(|e| place(e.to_string()))?;
            self.specs.add(l, branch, o, op, before).map_err(|e| place(e.to_string()))?;
            self.tables = self.tables.saturating_add(op.table_bytes(before));
            if self.tables > MAX_TABLES {
                return Err(place(format!(
                    "the network's tables of addresses take more than {} GiB, those of this {} included; use \
                     windows that meet the border in fewer ways, or smaller images",
                    MAX_TABLES >> 30,
                    op.name()
                )));
            }
            shapes.push(after);
        }
        Ok(shapes)
    }
}

/// Refuses names of layers that are not their own.
fn check_names(layers: &[LayerSpec]) -> Result<()> {
    let mut names = std::collections::HashMap::from([("input", 0)]);
    for (l, layer) in (1..).zip(layers) {
        let Some(name) = &layer.name else { continue };
        if let Some(other) = names.insert(name, l) {
            let other = if other == 0 { "the input".into() } else { format!("layer {other}") };
            return Err(Error::Network(format!(
                "layer {l} has the name {name:?}, as {other} has; expected a name of its own"
            )));
        }
    }
    Ok(())
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
    elements: usize,
}

impl SpecBuilder {
    fn add(&mut self, layer: usize, branch: Option<usize>, index: usize, op: &Op, input: &[usize]) -> Result<()> {
        let product = |weight: Vec<usize>, bias: bool, outputs: usize| {
            let bias = bias.then(|| (Role::Bias, vec![outputs]));
            std::iter::once((Role::Weight, weight)).chain(bias).collect::<Vec<_>>()
        };
        let scaled = |affine: bool, shape: &[usize], roles: &[Role]| -> Vec<_> {
            roles.iter().filter(|_| affine).map(|&role| (role, shape.to_vec())).collect()
        };
        let both = &[Role::Weight, Role::Bias];
        let tensors = match op {
            Op::Conv2d(c) => {
                let weight = vec![c.out_channels, input[0] / c.groups, c.kernel_size[0], c.kernel_size[1]];
                product(weight, c.bias, c.out_channels)
            }
            Op::ConvTranspose2d(c) => {
                let weight = vec![input[0], c.out_channels / c.groups, c.kernel_size[0], c.kernel_size[1]];
                product(weight, c.bias, c.out_channels)
            }
            Op::Linear(linear) => product(vec![linear.out_features, input[0]], linear.bias, linear.out_features),
            Op::LayerNorm(norm) => scaled(norm.affine, input, both),
            Op::RmsNorm(norm) => scaled(norm.affine, input, &[Role::Weight]),
            Op::GroupNorm { norm, .. } => scaled(norm.affine, &input[..1], both),
            Op::BatchNorm2d(norm) => {
                let running = [Role::RunningMean, Role::RunningVar].map(|role| (role, vec![input[0]]));
                scaled(norm.affine, &input[..1], both).into_iter().chain(running).collect()
            }
            _ => return Ok(()),
        };
        let init = op.init();
        for (role, shape) in tensors {
            check_size("the weight", &shape, MAX_PARAMETERS)?;
            self.elements += elements(&shape);
            if self.elements > MAX_PARAMETERS {
                return Err(Error::Network(format!("{} parameters, expected at most {MAX_PARAMETERS}", self.elements)));
            }
            let name = match branch {
                None => format!("{layer}.{index}.{role}"),
                Some(branch) => format!("{layer}.branches.{branch}.{index}.{role}"),
            };
            // That of the weights, for their bias too.
            let fan_in = match (op.is_product(), role) {
                (false, _) => 0,
                (true, Role::Weight) => elements(&shape[1..]),
                (true, _) => self.specs.last().map_or(0, |weight| weight.fan_in),
            };
            self.specs.push(ParameterSpec { name, layer, branch, op: index, role, shape, fan_in, init, range: 0..0 });
        }
        Ok(())
    }

    /// The tensors with their places, those that are not trained behind all others.
    fn finish(self) -> Arc<[ParameterSpec]> {
        let mut specs = self.specs;
        specs.sort_by_key(|spec| !spec.role.is_trained());
        let mut end = 0;
        for spec in &mut specs {
            spec.range = end..end + elements(&spec.shape);
            end = spec.range.end;
        }
        specs.into()
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
        // Sweeps push the final beliefs anyway.
        assert_eq!(flops(Strict::sweeps(3)), 10 * 2 * (step + 3 * 36 + 18 + 6));
        let estimated = flops(Strict::automatic(2, 3)) - flops(Strict::new(0.1, 3));
        assert_eq!(estimated, 10 * 2 * 2 * 36);
        // Both sides of a centred nudge relax and have gradients; fresh errors are another push.
        let once = flops(Strict::new(0.1, 3));
        let forward = 10 * 2 * (20 + 18);
        let centred = flops(Strict::new(0.1, 3).with_nudge(Some(Nudge::new(0.1).with_centred(true))));
        assert_eq!(centred - forward, 2 * (once - forward));
        assert_eq!(flops(Strict::new(0.1, 3).with_fresh_errors(true)) - once, 10 * 2 * 18);
        let error_based = network.flops(&ErrorBased::new(0.1, 3).into(), 10);
        assert_eq!(error_based, 10 * 2 * (step + 3 * 36 + 6));
        let estimated = network.flops(&ErrorBased::automatic(2, 3).into(), 10) - error_based;
        assert_eq!(estimated, flops(Strict::automatic(2, 3)) - flops(Strict::new(0.1, 3)));
        assert_eq!(flops(Strict::new(0.1, usize::MAX)), u64::MAX);
    }
}
