//! Random networks, parameters and data, the same for the same seed.

use predictive_coding::{
    Approximation, AvgPool2d, Branch, Conv2d, ConvTranspose2d, ErrorBased, FreeInput, LayerSpec, Linear, Loss,
    LossFunction, MaxPool2d, Method, Network, Norm, Nudge, Op, Padding, Parameters, Reduction, Role, Solver, Strict,
    Targets,
};
use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::methods::{fixed, strict};

/// More elements than these in a sample would only cost time.
const MAX_ELEMENTS: usize = 800;

/// A generator of random numbers.
pub fn generator(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// Uniform in -1..1.
pub fn values(rng: &mut ChaCha8Rng, count: usize) -> Vec<f32> {
    (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// The targets of a batch.
#[derive(Clone, Debug)]
pub enum OwnedTargets {
    /// A class per sample.
    Labels(Vec<i64>),
    /// A number per output.
    Values(Vec<f32>),
}

impl OwnedTargets {
    /// Random ones that the loss of `network` takes.
    pub fn random(rng: &mut ChaCha8Rng, network: &Network, samples: usize) -> Self {
        let outputs: usize = network.output_shape().iter().product();
        match network.loss().function == LossFunction::CrossEntropy || rng.random() {
            true => OwnedTargets::Labels((0..samples).map(|_| rng.random_range(0..outputs as i64)).collect()),
            false => OwnedTargets::Values(values(rng, samples * outputs)),
        }
    }

    /// As the library takes them.
    pub fn view(&self) -> Targets<'_> {
        match self {
            OwnedTargets::Labels(labels) => Targets::Labels(labels),
            OwnedTargets::Values(values) => Targets::Values(values),
        }
    }
}

/// Data of `samples` samples for `network`.
pub fn batch(rng: &mut ChaCha8Rng, network: &Network, samples: usize) -> (Vec<f32>, OwnedTargets) {
    let x = values(rng, samples * network.input_shape().iter().product::<usize>());
    (x, OwnedTargets::random(rng, network, samples))
}

/// Any method, with a step size at which most relaxations are stable.
pub fn method(rng: &mut ChaCha8Rng) -> Method {
    let iterations = *[1, 2, 3, 5, 8, 20].choose(rng).expect("some");
    let eta = *[0.05, 0.1, 0.1, 0.25, 1.0].choose(rng).expect("some");
    match rng.random_range(0..8) {
        0 => Method::Exact,
        1 => fixed(eta, iterations),
        2..5 => strict(f64::min(eta, 0.25), iterations),
        5 => ErrorBased::new(f64::min(eta, 0.25), iterations).into(),
        _ => {
            // With smaller nudges, lower deviations come to the order of what float64 rounds off the reference's beliefs.
            let nudge = |rng: &mut ChaCha8Rng| {
                Nudge::new(*[-0.5, 0.05, 0.5, 1.0].choose(rng).expect("some")).with_centred(rng.random())
            };
            let nudge = rng.random::<bool>().then(|| nudge(rng));
            // Adam makes rounding errors of directions that cancel as large as the others.
            let solver = match rng.random::<bool>() {
                true => Solver::Momentum { eta: 0.05.into(), momentum: 0.8, nesterov: rng.random() },
                false => Solver::Steps(0.1.into()),
            };
            let tied =
                |rng: &mut ChaCha8Rng| FreeInput::default().with_precision(*[0.0, 0.5].choose(rng).expect("some"));
            let free_input = rng.random_bool(0.3).then(|| tied(rng));
            let strict = Strict::by(solver, iterations).with_nudge(nudge).with_fresh_errors(rng.random());
            strict.with_free_input(free_input).into()
        }
    }
}

/// Parameters with which signals neither vanish nor explode.
pub fn parameters(rng: &mut ChaCha8Rng, network: &Network) -> Parameters {
    let mut parameters = network.initialize(rng.random());
    let gain = rng.random_range(1.0..2.2);
    parameters.trained_mut().iter_mut().for_each(|p| *p *= gain);
    // Those of normalisations are all the same at first.
    for spec in network.parameters().iter().filter(|spec| spec.fan_in == 0) {
        let least = if matches!(spec.role, Role::Weight | Role::RunningVar) { 0.5 } else { -0.5 };
        parameters.values_mut()[spec.range.clone()].fill_with(|| rng.random_range(least..least + 1.0));
    }
    parameters
}

/// One to six layers of up to four operations each, of every kind and in every order; in some networks layers read other
/// layers than the one before as well.
pub fn network(rng: &mut ChaCha8Rng) -> Network {
    let input: Vec<usize> = match rng.random_range(0..12) {
        0 => vec![rng.random_range(1..8), rng.random_range(1..8)],
        1 => (0..4).map(|_| rng.random_range(1..4)).collect(),
        2..5 => vec![rng.random_range(1..40)],
        _ => vec![rng.random_range(1..5), rng.random_range(1..14), rng.random_range(1..14)],
    };
    let loss = loss(rng);
    let mut shape = input.clone();
    let branching = rng.random_bool(0.3);
    let mut shapes = vec![shape.clone()];
    let mut layers: Vec<LayerSpec> = vec![];
    for _ in 0..rng.random_range(1..=6) {
        let branches = if branching { branches(rng, &shapes) } else { vec![] };
        let mut ops = vec![];
        for _ in 0..*[0, 1, 1, 2, 2, 3, 4].choose(rng).expect("some") {
            let op = operation(rng, &shape);
            shape = op.output_shape(&shape).expect("fits");
            let is_spread = matches!(op, Op::Conv2d(_) | Op::ConvTranspose2d(_) | Op::Linear(_));
            ops.push(op);
            // Of values that hardly differ, what a normalisation leaves is their rounding.
            if is_spread && rng.random_bool(0.15) {
                // It takes biases away, but for the rounding of their gradients.
                if let Some(
                    Op::Conv2d(Conv2d { bias, .. })
                    | Op::ConvTranspose2d(ConvTranspose2d { bias, .. })
                    | Op::Linear(Linear { bias, .. }),
                ) = ops.last_mut()
                {
                    *bias = false;
                }
                ops.push(normalisation(rng, &shape));
            }
        }
        shapes.push(shape.clone());
        layers.push(LayerSpec::from(ops).with_branches(branches));
    }
    if loss.function == LossFunction::CrossEntropy && shape.len() > 1 {
        layers.last_mut().expect("a layer").ops.push(Op::Flatten);
    }
    let hidden = 1..layers.len();
    let network = Network::new(&input, loss, layers).expect("a legal network");
    match rng.random() {
        true => hidden.fold(network, |network, l| {
            network.with_precision(l, rng.random_range(0.25..1.5)).expect("a legal precision")
        }),
        false => network,
    }
}

/// Branches of the next layer, given the shapes of the input and of all layers before: the layer before, and others where
/// they fit.
fn branches(rng: &mut ChaCha8Rng, shapes: &[Vec<usize>]) -> Vec<Branch> {
    let before = shapes.len() - 1;
    let maybe = |rng: &mut ChaCha8Rng| if rng.random_bool(0.3) { vec![elementwise(rng)] } else { vec![] };
    let mut branches = vec![Branch::new(before, maybe(rng))];
    for _ in 0..rng.random_range(0..3) {
        let from = rng.random_range(0..shapes.len());
        let mut ops = maybe(rng);
        match (&shapes[from][..], &shapes[before][..]) {
            (own, other) if own == other => {}
            (own, [features]) => {
                ops.extend((own.len() > 1).then_some(Op::Flatten));
                ops.push(Op::Linear(Linear::new(*features)));
            }
            (&[_, own_height, own_width], &[channels, height, width]) if [own_height, own_width] == [height, width] => {
                ops.push(Op::Conv2d(Conv2d::new(channels, [1, 1])));
            }
            _ => continue,
        }
        ops.extend(maybe(rng));
        branches.push(Branch::new(from, ops));
    }
    branches
}

/// A loss with any reduction, of a size with which relaxations descend.
fn loss(rng: &mut ChaCha8Rng) -> Loss {
    let usual = if rng.random() { Loss::CROSS_ENTROPY } else { Loss::MSE };
    match rng.random_range(0..4) {
        0 => usual.with_reduction(Reduction::Sum).with_weight(rng.random_range(0.02..0.5)),
        1 => usual.with_weight(rng.random_range(0.2..5.0)),
        _ => usual,
    }
}

/// An operation that takes samples of this shape.
pub fn operation(rng: &mut ChaCha8Rng, shape: &[usize]) -> Op {
    loop {
        let op = match (shape.len(), rng.random_range(0..20)) {
            (1, 0..=10) => Op::Linear(linear(rng)),
            (3, 0..6) => Op::Conv2d(convolution(rng, shape[0])),
            (3, 6) => Op::ConvTranspose2d(transpose(rng, shape[0])),
            (3, 7..9) => Op::MaxPool2d(max_pool(rng)),
            (3, 9) => Op::AvgPool2d(avg_pool(rng)),
            (3, 10) => Op::AdaptiveAvgPool2d { output_size: pair(rng, 0..7) },
            (1, 11) => unflatten(rng, shape[0]),
            (_, 11) => Op::Flatten,
            (_, 12..20) => elementwise(rng),
            _ => continue,
        };
        let fits = op.output_shape(shape).is_ok_and(|shape| shape.iter().product::<usize>() <= MAX_ELEMENTS);
        // A dilated window can step over a smaller image and find nothing but padding.
        let reaches = match &op {
            Op::MaxPool2d(pool) => (0..2).all(|axis| shape[axis + 1] >= pool.dilation[axis]),
            _ => true,
        };
        if fits && reaches {
            return op;
        }
    }
}

/// An image of so many elements.
fn unflatten(rng: &mut ChaCha8Rng, features: usize) -> Op {
    let divisor = |rng: &mut ChaCha8Rng, of: usize| {
        *(1..=of).filter(|side| of.is_multiple_of(*side)).collect::<Vec<_>>().choose(rng).expect("1")
    };
    let height = divisor(rng, features);
    let width = divisor(rng, features / height);
    Op::Unflatten { size: [features / height / width, height, width] }
}

fn pair(rng: &mut ChaCha8Rng, range: std::ops::Range<usize>) -> [usize; 2] {
    [rng.random_range(range.clone()), rng.random_range(range)]
}

fn linear(rng: &mut ChaCha8Rng) -> Linear {
    Linear::new(rng.random_range(1..24)).with_bias(rng.random_bool(0.8)).with_scale(scale(rng))
}

fn scale(rng: &mut ChaCha8Rng) -> f64 {
    *[1.0, 1.0, 0.7, -1.3].choose(rng).expect("some")
}

/// A divisor of the channels, and a number of output channels that it divides.
fn groups(rng: &mut ChaCha8Rng, channels: usize) -> (usize, usize) {
    let groups = (1..=channels).filter(|groups| channels.is_multiple_of(*groups)).collect::<Vec<_>>();
    let groups = if rng.random_bool(0.3) { *groups.choose(rng).expect("1") } else { 1 };
    (groups, groups * rng.random_range(1..=11usize.div_ceil(groups)))
}

fn transpose(rng: &mut ChaCha8Rng, channels: usize) -> ConvTranspose2d {
    let (groups, out_channels) = groups(rng, channels);
    let mut transpose = ConvTranspose2d::new(out_channels, pair(rng, 1..5)).with_groups(groups);
    transpose.bias = rng.random_bool(0.8);
    if rng.random() {
        (transpose.stride, transpose.padding) = (pair(rng, 1..4), pair(rng, 0..3));
        transpose.dilation = pair(rng, 1..3);
        transpose.output_padding = transpose.stride.map(|stride| rng.random_range(0..stride));
    }
    transpose
}

fn convolution(rng: &mut ChaCha8Rng, channels: usize) -> Conv2d {
    let (groups, out_channels) = groups(rng, channels);
    let mut conv = Conv2d::new(out_channels, pair(rng, 1..5)).with_groups(groups);
    (conv.bias, conv.scale) = (rng.random_bool(0.8), scale(rng));
    if rng.random() {
        (conv.stride, conv.padding, conv.dilation) = (pair(rng, 1..4), pair(rng, 0..4).into(), pair(rng, 1..4));
    } else if rng.random() {
        (conv.padding, conv.dilation) = (Padding::Same, pair(rng, 1..4));
    }
    conv
}

/// One of more than one element, with an eps that keeps slopes moderate.
fn normalisation(rng: &mut ChaCha8Rng, shape: &[usize]) -> Op {
    let norm = Norm::default().with_eps(0.1).with_affine(rng.random_bool(0.7));
    let (num_groups, _) = groups(rng, shape[0]);
    match (shape.len(), rng.random_range(0..4)) {
        (_, 0) => Op::LayerNorm(norm),
        (_, 1) => Op::RmsNorm(norm),
        (3, 2) => Op::BatchNorm2d(norm),
        _ => Op::GroupNorm { num_groups, norm },
    }
}

fn max_pool(rng: &mut ChaCha8Rng) -> MaxPool2d {
    let mut pool = MaxPool2d::new(pair(rng, 1..4));
    if rng.random() {
        pool.stride = pair(rng, 1..4);
        pool.dilation = pair(rng, 1..3);
        for axis in 0..2 {
            let extent = (pool.kernel_size[axis] - 1) * pool.dilation[axis] + 1;
            pool.padding[axis] = rng.random_range(0..=extent / 2);
        }
    }
    pool.ceil_mode = rng.random();
    pool
}

fn avg_pool(rng: &mut ChaCha8Rng) -> AvgPool2d {
    let mut pool = AvgPool2d::new(pair(rng, 1..4));
    if rng.random() {
        pool.stride = pair(rng, 1..4);
        pool.padding = pool.kernel_size.map(|kernel| rng.random_range(0..=kernel / 2));
    }
    (pool.ceil_mode, pool.count_include_pad) = (rng.random(), rng.random());
    pool.divisor_override = rng.random_bool(0.2).then(|| rng.random_range(1..9));
    pool
}

fn elementwise(rng: &mut ChaCha8Rng) -> Op {
    let negative_slope = *[0.01, 0.2, 1.0, 1.5, 0.0, -0.5].choose(rng).expect("some");
    let hardtanh = Op::Hardtanh { min_val: rng.random_range(-2.0..0.0), max_val: rng.random_range(0.1..2.0) };
    let elu = Op::Elu { alpha: *[1.0, 0.3, 2.0].choose(rng).expect("some") };
    // Below, the step at the threshold would make all the difference.
    let softplus = Op::Softplus { beta: rng.random_range(0.5..3.0), threshold: rng.random_range(16.0..30.0) };
    let gelu_tanh = Op::Gelu { approximate: Approximation::Tanh };
    [
        Op::Relu,
        Op::LeakyRelu { negative_slope },
        hardtanh,
        elu,
        Op::Selu,
        Op::Tanh,
        Op::Sigmoid,
        Op::GELU,
        gelu_tanh,
        Op::Silu,
        Op::SOFTPLUS,
        softplus,
        Op::Identity,
        // The identity without a seed.
        Op::Dropout { p: 0.3 },
    ]
    .choose(rng)
    .expect("some")
    .clone()
}
