//! The parameters of a network, and anything that has one value for each: gradients, moments.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use predictive_coding_kernels::Level;
use predictive_coding_kernels::reduce::first_not_finite;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::error::{Error, Result};
use crate::finite::not_finite;
use crate::init::Init;
use crate::names::names;
use crate::network::Network;

/// Whether a tensor multiplies or is added. See [`Parameters`] for an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// `[out, in]` of a linear operation, `[out, in, height, width]` of a convolution.
    Weight,
    /// `[out]`.
    Bias,
    /// `[channels]` of a batch normalisation. It is not trained.
    RunningMean,
    /// `[channels]` of a batch normalisation. It is not trained.
    RunningVar,
}

names!(Role, "role", {
    Weight => "weight", Bias => "bias", RunningMean => "running_mean", RunningVar => "running_var",
});

impl Role {
    /// Whether optimisers change it.
    pub fn is_trained(self) -> bool {
        matches!(self, Role::Weight | Role::Bias)
    }
}

/// Name, shape and place of one parameter tensor. See [`Parameters`] for an example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterSpec {
    /// PyTorch's state-dict name in `nn.Sequential(nn.Sequential(...), ...)`: `<layer>.<op>.weight`
    /// or `.bias`, both counted from 0; in a branch of a layer, `<layer>.branches.<branch>.<op>.weight`.
    pub name: String,
    /// Index of the layer, from 0.
    pub layer: usize,
    /// Index of the branch, from 0; none for an operation behind the sum of the branches.
    pub branch: Option<usize>,
    /// Index of the operation in its layer or branch, from 0.
    pub op: usize,
    /// Weight or bias.
    pub role: Role,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// Inputs that one output of the operation sums over; 0 for a normalisation, which begins with scales of 1 and shifts
    /// of 0.
    pub fan_in: usize,
    /// How it is drawn before training.
    pub init: Init,
    /// Place in the flat buffer.
    pub range: Range<usize>,
}

/// The place of an operation in a network, in the order of their evaluation: layer, branch, operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OpKey(usize, usize, usize);

impl OpKey {
    /// What no branch has comes behind the sum of the branches.
    pub(crate) fn new(layer: usize, branch: Option<usize>, op: usize) -> Self {
        OpKey(layer, branch.unwrap_or(usize::MAX), op)
    }
}

impl ParameterSpec {
    /// Those that are not trained come behind all others.
    pub(crate) fn order(&self) -> (bool, OpKey) {
        (!self.role.is_trained(), self.key())
    }

    pub(crate) fn key(&self) -> OpKey {
        OpKey::new(self.layer, self.branch, self.op)
    }
}

/// One f32 for every parameter of a network, in one flat buffer of which tensors are slices.
///
/// ```
/// use predictive_coding::{Linear, Loss, Network, Op, Parameters, Role};
///
/// let network = Network::new(&[4], Loss::MSE, vec![vec![Op::Linear(Linear::new(3))]])?;
/// let mut parameters = Parameters::zeros(network.parameters().clone());
/// for (spec, values) in network.initialize(1).iter().filter(|(spec, _)| spec.role == Role::Weight) {
///     parameters.get_mut(&spec.name).unwrap().copy_from_slice(values);
/// }
/// assert_eq!(parameters.get("0.0.bias"), Some(&[0.0; 3][..]));
/// assert_eq!(format!("{parameters:?}"), "Parameters(2 tensors, 15 values)");
/// # Ok::<(), predictive_coding::Error>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct Parameters {
    specs: Arc<[ParameterSpec]>,
    values: Vec<f32>,
}

impl Parameters {
    /// All zeros.
    pub fn zeros(specs: Arc<[ParameterSpec]>) -> Self {
        let len = specs.last().map_or(0, |spec| spec.range.end);
        Parameters { specs, values: vec![0.0; len] }
    }

    pub(crate) fn random(specs: Arc<[ParameterSpec]>, seed: u64) -> Self {
        let mut parameters = Parameters::zeros(specs);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for spec in parameters.specs.iter() {
            if spec.fan_in == 0 {
                let value = if matches!(spec.role, Role::Weight | Role::RunningVar) { 1.0 } else { 0.0 };
                parameters.values[spec.range.clone()].fill(value);
                continue;
            }
            spec.init.draw(spec, &mut parameters.values[spec.range.clone()], &mut rng);
        }
        parameters
    }

    /// Names, shapes and places of the tensors.
    pub fn specs(&self) -> &Arc<[ParameterSpec]> {
        &self.specs
    }

    /// Every value, tensor after tensor.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Every value, tensor after tensor.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// The values that optimisers change: all but the running statistics of batch normalisations.
    pub fn trained(&self) -> &[f32] {
        &self.values[..self.trained_len()]
    }

    /// The values that optimisers change.
    pub fn trained_mut(&mut self) -> &mut [f32] {
        let len = self.trained_len();
        &mut self.values[..len]
    }

    fn trained_len(&self) -> usize {
        let end = self.specs.partition_point(|spec| spec.role.is_trained());
        self.specs[..end].last().map_or(0, |spec| spec.range.end)
    }

    /// Refuses values that are not all finite, as they are after a training run that has diverged.
    ///
    /// # Errors
    /// [`Error::Input`](crate::Error::Input) with the first tensor that holds one, the index and the value.
    pub fn check_finite(&self) -> Result<()> {
        ParametersView::from(self).check_finite(Level::available()[0])
    }

    /// The tensors with their specifications.
    pub fn iter(&self) -> impl Iterator<Item = (&ParameterSpec, &[f32])> {
        self.specs.iter().map(|spec| (spec, &self.values[spec.range.clone()]))
    }

    /// The tensor of this name, as in `"0.0.weight"`.
    pub fn get(&self, name: &str) -> Option<&[f32]> {
        self.iter().find(|(spec, _)| spec.name == name).map(|(_, values)| values)
    }

    /// The tensor of this name, as in `"0.0.weight"`.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut [f32]> {
        let spec = self.specs.iter().find(|spec| spec.name == name)?;
        Some(&mut self.values[spec.range.clone()])
    }
}

impl fmt::Debug for Parameters {
    /// How many they are, in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Parameters({} tensors, {} values)", self.specs.len(), self.values.len())
    }
}

/// The parameters of a network where somebody else keeps them: in one flat buffer, or each tensor by itself.
///
/// ```
/// use predictive_coding::{Linear, Loss, Method, Network, Op, Options, ParametersView, Session};
///
/// let network = Network::new(&[2], Loss::MSE, vec![vec![Op::Linear(Linear::new(1))]])?;
/// let mut session = Session::new(&network, 1, Method::Exact, Options::default())?;
/// let (weight, bias) = ([0.5, -1.0], [2.0]);
/// let tensors = [&weight[..], &bias];
/// let outputs = session.predict(ParametersView::of_tensors(&network, &tensors)?, &[3.0, 1.0])?;
/// assert_eq!(outputs, [2.5]);
/// # Ok::<(), predictive_coding::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ParametersView<'a> {
    specs: &'a Arc<[ParameterSpec]>,
    values: Values<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Values<'a> {
    Flat(&'a [f32]),
    /// In the order of the specifications.
    Tensors(&'a [&'a [f32]]),
}

impl<'a> From<&'a Parameters> for ParametersView<'a> {
    fn from(parameters: &'a Parameters) -> Self {
        ParametersView { specs: &parameters.specs, values: Values::Flat(&parameters.values) }
    }
}

impl<'a> ParametersView<'a> {
    /// One row-major tensor for each of [`Network::parameters`](crate::Network::parameters), in their order.
    ///
    /// # Errors
    /// [`Error::Input`](crate::Error::Input) if there are more or fewer, or one has another number of values than
    /// its shape says.
    pub fn of_tensors(network: &'a Network, tensors: &'a [&'a [f32]]) -> Result<Self> {
        let specs = network.parameters();
        if tensors.len() != specs.len() {
            return Err(Error::Input(format!("{} parameters, expected {}", tensors.len(), specs.len())));
        }
        match specs.iter().zip(tensors).find(|(spec, tensor)| spec.range.len() != tensor.len()) {
            None => Ok(ParametersView { specs, values: Values::Tensors(tensors) }),
            Some((spec, tensor)) => Err(Error::Input(format!(
                "parameter {} has {} values, expected {} in the shape {:?}",
                spec.name,
                tensor.len(),
                spec.range.len(),
                spec.shape
            ))),
        }
    }

    pub(crate) fn specs(self) -> &'a Arc<[ParameterSpec]> {
        self.specs
    }

    /// The tensor at this place of the flat buffer.
    pub(crate) fn at(self, place: &Range<usize>) -> &'a [f32] {
        match self.values {
            Values::Flat(values) => &values[place.clone()],
            // Places rise with the index, and no tensor is empty.
            Values::Tensors(tensors) => tensors[self.specs.partition_point(|spec| spec.range.start < place.start)],
        }
    }

    pub(crate) fn check_finite(self, level: Level) -> Result<()> {
        let wrong = match self.values {
            Values::Flat(values) => first_not_finite(level, values).and_then(|at| {
                let spec = self.specs.iter().find(|spec| spec.range.contains(&at))?;
                Some((spec, at - spec.range.start, values[at]))
            }),
            Values::Tensors(tensors) => self
                .specs
                .iter()
                .zip(tensors)
                .find_map(|(spec, values)| first_not_finite(level, values).map(|at| (spec, at, values[at]))),
        };
        match wrong {
            None => Ok(()),
            Some((spec, at, value)) => {
                Err(Error::Input(not_finite(format_args!("parameter {}", spec.name), value, at, &spec.shape)))
            }
        }
    }
}
