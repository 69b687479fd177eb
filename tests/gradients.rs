//! The reference's derivatives against finite differences, the library's against the reference's,
//! and Theorem 1: fixed-prediction with eta = 1 and n >= L is backpropagation.

use predictive_coding::{
    Approximation, AvgPool2d, Conv2d, Linear, Loss, MaxPool2d, Method, Network, Op, Padding, Parameters, Quantity,
};
use predictive_coding_reference::compare::{self, BOUND, relative_error, widen};
use predictive_coding_reference::levels::{forms, ways};
use predictive_coding_reference::methods::{fixed, strict};
use predictive_coding_reference::naive::{Begin, Naive, dense, minus};
use predictive_coding_reference::random::{self, OwnedTargets};

/// A network around each operation, between layers that have parameters, under both losses.
fn networks() -> Vec<(String, Network)> {
    let conv = |channels, kernel_size| Op::Conv2d(Conv2d::new(channels, kernel_size));
    let convs = [
        Conv2d::new(3, [3, 2]),
        Conv2d::new(3, [2, 3]).with_stride([2, 1]).with_padding([1, 2]).with_dilation([1, 2]),
        Conv2d::new(2, [3, 1]).with_bias(false).with_stride([3, 2]).with_dilation([2, 1]),
        Conv2d::new(2, [2, 4]).with_padding(Padding::Same).with_dilation([3, 1]),
    ];
    let max_pools = [
        MaxPool2d::new([2, 2]),
        MaxPool2d::new([3, 2]).with_stride([1, 2]).with_padding([1, 1]),
        MaxPool2d::new([2, 3]).with_stride([1, 1]).with_padding([1, 0]).with_dilation([2, 1]),
        MaxPool2d::new([3, 3]).with_stride([2, 3]).with_padding([0, 1]).with_ceil_mode(true),
    ];
    let wide = AvgPool2d::new([3, 2]).with_stride([1, 2]).with_padding([1, 1]);
    let ceil = AvgPool2d::new([4, 2]).with_stride([3, 3]).with_padding([2, 1]).with_ceil_mode(true);
    let avg_pools = [
        AvgPool2d::new([2, 3]),
        wide.clone(),
        wide.clone().with_count_include_pad(false),
        wide.with_divisor_override(Some(5)),
        ceil.clone(),
        ceil.with_count_include_pad(false),
    ];
    let of_images = convs
        .into_iter()
        .map(Op::Conv2d)
        .chain(max_pools.into_iter().map(Op::MaxPool2d))
        .chain(avg_pools.into_iter().map(Op::AvgPool2d))
        .chain([[1, 1], [2, 3], [5, 7], [0, 2]].map(|output_size| Op::AdaptiveAvgPool2d { output_size }))
        .chain([Op::Flatten]);
    let elementwise = [
        Op::Relu,
        Op::LeakyRelu { negative_slope: 0.01 },
        Op::LeakyRelu { negative_slope: 1.5 },
        Op::LeakyRelu { negative_slope: -0.5 },
        Op::Tanh,
        Op::Sigmoid,
        Op::GELU,
        Op::Silu,
        Op::SOFTPLUS,
        Op::HARDTANH,
        Op::Hardtanh { min_val: 0.2, max_val: 1.5 },
        Op::ELU,
        Op::Elu { alpha: 0.3 },
        Op::Selu,
        Op::Gelu { approximate: Approximation::Tanh },
        Op::Softplus { beta: 2.0, threshold: 30.0 },
        Op::Identity,
    ];
    let linear = |out_features, bias| Op::Linear(Linear::new(out_features).with_bias(bias));
    let mut networks = vec![];
    for loss in [Loss::CROSS_ENTROPY, Loss::MSE] {
        let mut add = |op: &Op, input: &[usize], layers| {
            networks.push((format!("{op:?} under {loss}"), Network::new(input, loss, layers).unwrap()));
        };
        for op in of_images.clone().chain(elementwise.clone()) {
            add(
                &op,
                &[2, 6, 5],
                vec![vec![conv(2, [2, 2])], vec![op.clone()], vec![], vec![Op::Flatten, linear(3, true)]],
            );
        }
        for op in elementwise.clone().into_iter().chain([linear(5, true), linear(5, false)]) {
            add(
                &op,
                &[4],
                vec![vec![linear(7, true), op.clone(), linear(6, false), Op::Tanh], vec![op.clone(), linear(3, true)]],
            );
        }
    }
    networks
}

struct Data {
    parameters: Parameters,
    x: Vec<f32>,
    y: OwnedTargets,
}

impl Data {
    fn random(network: &Network, samples: usize, seed: u64) -> Data {
        let mut rng = random::generator(seed);
        Data {
            parameters: random::parameters(&mut rng, network),
            x: random::values(&mut rng, samples * network.input_shape().iter().product::<usize>()),
            y: OwnedTargets::random(&mut rng, network, samples),
        }
    }

    fn dense(&self, network: &Network) -> Vec<f64> {
        dense(self.y.view(), network.output_shape().iter().product())
    }
}

/// Central differences of `f` by each element of `at`.
fn differences(at: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let derivative = |i| {
        let shifted = |step: f64| {
            let mut at = at.to_vec();
            at[i] += step;
            f(&at)
        };
        (shifted(STEP) - shifted(-STEP)) / (2.0 * STEP)
    };
    (0..at.len()).map(derivative).collect()
}

fn assert_close(got: &[f64], want: &[f64], bound: f64, what: &str) {
    let error = relative_error(got, want);
    assert!(error <= bound, "{what}: relative error {error:.1e}");
}

#[test]
fn the_references_backpropagation_is_the_derivative_of_its_loss() {
    for (name, network) in networks() {
        let data = Data::random(&network, 3, 1);
        let (x, y) = (widen(&data.x), data.dense(&network));
        let values = widen(data.parameters.values());
        let naive = Naive::with_values(&network, &values);
        let step = naive.step(&Method::Exact, &x, &y, &[]);
        let gradients = differences(&values, |values| {
            let naive = Naive::with_values(&network, values);
            naive.loss(&naive.forward(&x), &x, &y, 0)
        });
        assert_close(&step.gradients, &gradients, 1e-7, &format!("{name}, gradients"));
        for l in 1..=naive.depth() {
            let errors = differences(&step.activations[l], |v| naive.loss(&step.activations, v, &y, l));
            assert_close(&step.errors[l], &errors, 1e-7, &format!("{name}, error {l}"));
        }
    }
}

#[test]
fn the_references_strict_relaxation_descends_on_its_energy() {
    let eta = 0.1;
    for (name, network) in networks() {
        let data = Data::random(&network, 2, 2);
        let (x, y) = (widen(&data.x), data.dense(&network));
        let naive = Naive::new(&network, &data.parameters);
        let mut rng = random::generator(3);
        let hat = naive.forward(&x);
        let begin: Vec<_> = (1..naive.depth()).map(|l| widen(&random::values(&mut rng, hat[l].len()))).collect();
        let mut v = vec![x.clone()];
        v.extend(begin.iter().cloned());
        let begin: Vec<_> = begin.into_iter().map(Begin::Belief).collect();
        let step = naive.step(&strict(eta, 1), &x, &y, &begin);
        for l in 1..naive.depth() {
            let slope = differences(&v[l], |at| {
                let mut v = v.clone();
                v[l] = at.to_vec();
                naive.energy(&v, &y).iter().sum()
            });
            let want: Vec<f64> = slope.iter().map(|slope| -eta * slope).collect();
            assert_close(&minus(&step.beliefs[l], &v[l]), &want, 1e-7, &format!("{name}, layer {l}"));
        }
    }
}

#[test]
fn the_references_fixed_prediction_ends_at_backpropagation() {
    for (name, network) in networks() {
        let data = Data::random(&network, 3, 4);
        let (x, y) = (widen(&data.x), data.dense(&network));
        let naive = Naive::new(&network, &data.parameters);
        let exact = naive.step(&Method::Exact, &x, &y, &[]);
        for iterations in [naive.depth(), naive.depth() + 3] {
            let step = naive.step(&fixed(1.0, iterations), &x, &y, &[]);
            assert_close(&step.gradients, &exact.gradients, 1e-12, &format!("{name}, gradients"));
            for l in 1..=naive.depth() {
                assert_close(&step.errors[l], &exact.errors[l], 1e-12, &format!("{name}, error {l}"));
            }
        }
    }
}

#[test]
fn the_librarys_exact_gradients_and_errors_are_the_references() {
    for form in forms() {
        for (name, network) in networks() {
            for samples in [1, 17] {
                let data = Data::random(&network, samples, 1);
                let naive = Naive::new(&network, &data.parameters);
                let step = naive.step(&Method::Exact, &widen(&data.x), &data.dense(&network), &[]);
                let mut session = form.session(&network, samples, Method::Exact);
                session.infer(&data.parameters, &data.x, data.y.view()).unwrap();
                let got = compare::of_session(&session, &network);
                let (error, tensor) = compare::worst(&got, &compare::of_step(&step, &network));
                assert!(error <= BOUND, "{form} {name}, {samples} samples: {error:.1e} at {tensor}");
            }
        }
    }
}

#[test]
fn the_librarys_fixed_prediction_ends_at_its_backpropagation() {
    for form in forms() {
        for (name, network) in networks() {
            let data = Data::random(&network, 5, 4);
            let last = network.layers().len();
            let run = |method: &Method| {
                let mut session = form.session(&network, 5, method);
                session.infer(&data.parameters, &data.x, data.y.view()).unwrap();
                session
            };
            let exact = run(&Method::Exact);
            for method in [last, last + 3].into_iter().flat_map(|iterations| ways(&fixed(1.0, iterations))) {
                let relaxed = run(&method);
                let gradients = [&relaxed, &exact].map(|session| widen(session.gradients().values()));
                assert_close(&gradients[0], &gradients[1], BOUND, &format!("{name}, {method:?}, gradients"));
                for l in 1..=last {
                    let errors = [&relaxed, &exact].map(|session| widen(&session.get(Quantity::Error, l).unwrap()));
                    assert_close(&errors[0], &errors[1], BOUND, &format!("{name}, {method:?}, error {l}"));
                }
            }
        }
    }
}
