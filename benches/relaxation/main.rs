//! Whole steps (forward pass, relaxation, gradients) of the paper's MNIST network at batch 300, by
//! each method, and of fixed-prediction iterated literally too; then one iteration of strict by layers
//! and phases. Throughput counts the multiplications and additions of the products, so that "Gelem/s"
//! is GFLOP/s, to be held against the FMA peak printed first.

mod phases;
mod tile;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use predictive_coding::{
    Conv2d, FixedPrediction, Linear, Loss, MaxPool2d, Method, Network, Op, Options, Parameters, Quantity, Role,
    Session, Strict,
};

const BATCH: usize = 300;

fn mnist() -> Network {
    let conv = |channels| Op::Conv2d(Conv2d::new(channels, [3, 3]));
    let linear = |features| Op::Linear(Linear::new(features));
    let layers = vec![
        vec![conv(10), Op::Relu, Op::MaxPool2d(MaxPool2d::new([2, 2]))],
        vec![conv(5), Op::Relu, Op::Flatten],
        vec![linear(50), Op::Relu],
        vec![linear(30), Op::Relu],
        vec![linear(10)],
    ];
    Network::new(&[1, 28, 28], Loss::MSE, layers).expect("the network is legal")
}

/// Pixels and labels without a pattern, the same in every run.
fn batch() -> (Vec<f32>, Vec<i64>) {
    let noise = |i: usize| (i.wrapping_mul(2_654_435_761) >> 7) % 1000;
    ((0..BATCH * 784).map(|i| noise(i) as f32 / 1000.0).collect(), (0..BATCH).map(|i| noise(i) as i64 % 10).collect())
}

/// Theorem 1: fixed-prediction at eta 1 with as many iterations as layers gives exact's gradients, also when
/// it is iterated.
fn assert_theorem_1(network: &Network, parameters: &Parameters, x: &[f32], y: &[i64]) {
    let gradients = |method: Method| {
        let mut session = Session::new(network, BATCH, method, Options::default()).expect("the plan is legal");
        session.infer(parameters, x, y).expect("the batch is legal");
        session.gradients().values().to_vec()
    };
    let exact = gradients(Method::Exact);
    for literal in [false, true] {
        let method = FixedPrediction::new(1.0, network.layers().len()).with_literal(literal);
        let fixed = gradients(method.into());
        for (a, b) in exact.iter().zip(&fixed) {
            assert!((a - b).abs() <= 1e-6 + 1e-4 * a.abs(), "Theorem 1 fails: {a} and {b}, literal {literal}");
        }
    }
}

fn steps(criterion: &mut Criterion) {
    let network = mnist();
    let parameters = network.initialize(0);
    let (x, y) = batch();
    assert_theorem_1(&network, &parameters, &x, &y);
    let level = predictive_coding::Level::from_environment().expect("the level exists");
    println!("level {level}, FMA peak {:.0} GFLOP/s", predictive_coding_kernels::fma_peak(level));
    let mut group = criterion.benchmark_group(format!("mnist batch {BATCH}"));
    let fixed = FixedPrediction::new(0.1, 20);
    for (name, method) in [
        ("exact", Method::Exact),
        ("fixed-prediction", fixed.clone().into()),
        ("fixed-prediction, literal iteration", fixed.with_literal(true).into()),
        ("strict", Strict::new(0.1, 20).into()),
    ] {
        let mut session = Session::new(&network, BATCH, &method, Options::default()).expect("the plan is legal");
        group.throughput(Throughput::Elements(network.flops(&method, BATCH)));
        group.bench_function(name, |bencher| {
            bencher.iter(|| session.infer(&parameters, &x, &y).expect("the relaxation is stable"));
        });
    }
    group.finish();
}

/// The same step on ordinary numbers and on such as are, or lead to, denormal ones: some CPUs take a hundred
/// cycles for each. Inputs of 1e-36 give errors of 1e-41; weights of 1e-40 are denormal themselves.
fn denormals(criterion: &mut Criterion) {
    let network = mnist();
    let ordinary = without_biases(&network, 1.0);
    let (x, _) = batch();
    let tiny: Vec<f32> = x.iter().map(|x| 1e-36 * x).collect();
    let targets = vec![0.0; BATCH * 10];
    let mut group = criterion.benchmark_group("denormal numbers");
    for method in [Method::Exact, Strict::new(0.1, 20).into()] {
        let mut session = Session::new(&network, BATCH, &method, Options::default()).expect("the plan is legal");
        group.throughput(Throughput::Elements(network.flops(&method, BATCH)));
        for (numbers, parameters, x) in [
            ("ordinary", &ordinary, &x),
            ("inputs", &ordinary, &tiny),
            ("weights", &without_biases(&network, 1e-39), &x),
        ] {
            session.infer(parameters, x, &targets).expect("the relaxation is stable");
            let denormal = session.get(Quantity::Error, 2).unwrap().iter().filter(|error| error.is_subnormal()).count();
            assert_eq!(denormal > 0, numbers == "inputs", "{denormal} errors are denormal");
            group.bench_function(format!("{}/{numbers}", method.name()), |bencher| {
                bencher.iter(|| session.infer(parameters, x, &targets).expect("the relaxation is stable"));
            });
        }
    }
    group.finish();
}

/// Weights times a factor, and biases of 0.
fn without_biases(network: &Network, factor: f32) -> Parameters {
    let mut parameters = network.initialize(0);
    let specs = parameters.specs().clone();
    for spec in specs.iter() {
        let factor = if spec.role == Role::Weight { factor } else { 0.0 };
        parameters.values_mut()[spec.range.clone()].iter_mut().for_each(|value| *value *= factor);
    }
    parameters
}

criterion_group!(benches, steps, denormals, phases::phases);
criterion_main!(benches);
