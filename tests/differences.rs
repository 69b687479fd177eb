//! What computing in differences is for: in float32 the direct form loses the lower layers to
//! rounding, and so do activations where they saturate; the library loses neither.

use predictive_coding::{Approximation, Conv2d, Linear, Loss, MaxPool2d, Method, Network, Op, Quantity, Start};
use predictive_coding_reference::case::Case;
use predictive_coding_reference::compare::{self, BOUND, relative_error, widen};
use predictive_coding_reference::levels::forms;
use predictive_coding_reference::methods::strict;
use predictive_coding_reference::naive::{Naive, dense};
use predictive_coding_reference::operation::{activation, slope};
use predictive_coding_reference::random::{self, OwnedTargets};
use rand::RngExt;

/// The convolutional network of the golden case `mnist_mse`.
fn mnist() -> Network {
    let linear = |out_features| Op::Linear(Linear::new(out_features));
    let layers = vec![
        vec![Op::Conv2d(Conv2d::new(10, [3, 3])), Op::Relu, Op::MaxPool2d(MaxPool2d::new([2, 2]))],
        vec![Op::Conv2d(Conv2d::new(5, [3, 3])), Op::Relu, Op::Flatten],
        vec![linear(50), Op::Relu],
        vec![linear(30), Op::Relu],
        vec![linear(10)],
    ];
    Network::new(&[1, 28, 28], Loss::MSE, layers).unwrap()
}

/// 300 images of noise, of a seed at which no ReLU and no pool is decided by rounding: perturbing
/// pixels and weights by 2e-7 changes no tensor by more than 7e-7.
fn images() -> Case {
    let seed = 8;
    let network = mnist();
    let mut rng = random::generator(seed);
    let x = (0..300 * 28 * 28).map(|_| rng.random_range(0.0..1.0)).collect();
    let y = OwnedTargets::Labels((0..300).map(|_| rng.random_range(0..10)).collect());
    let method = strict(0.1, 20);
    Case { parameters: network.initialize(seed), network, method, x, y, begin: vec![] }
}

#[test]
fn float32_in_differences_keeps_the_digits_that_the_direct_form_loses() {
    let case = images();
    let (step, direct) = std::thread::scope(|scope| {
        let direct = scope.spawn(|| {
            let naive = Naive::<f32>::new(&case.network, &case.parameters);
            naive.step(&case.method, &case.x, &dense(case.y.view(), 10), &[])
        });
        (case.reference(), direct.join().unwrap())
    });
    let want = case.tensors(&step);
    for form in forms() {
        let mut session = form.session(&case.network, 300, &case.method);
        case.infer(&mut session).unwrap();
        let (error, tensor) = compare::worst(&case.results(&session), &want);
        println!("{form}: {error:.1e} at {tensor}");
        assert!(error <= BOUND, "{form}: {error:.1e} at {tensor}");
    }
    let error = relative_error(&widen(&direct.errors[1]), &step.errors[1]);
    println!("direct form: {error:.1e} at error.1");
    assert!(error > 0.1, "the direct form is wrong by {error:.1e} only: this case proves nothing");
}

/// Values z in -20..20 and deviations D of either sign, from 1e-6 to 30.
fn grid() -> (Vec<f32>, Vec<f32>) {
    let deviations = [1e-6, 1e-4, 1e-2, 0.3, 2.0, 7.0, 30.0];
    let values = (-200..=200).map(|i| i as f32 * 0.1 + 0.013);
    values.flat_map(|z| deviations.iter().flat_map(move |&d| [(z, d), (z, -d)])).unzip()
}

/// f(z + D) - f(z), where f64 has no digits to lose, or else as the integral of the slope.
fn difference(op: &Op, z: f64, d: f64) -> f64 {
    let linear = matches!(op, Op::Relu | Op::LeakyRelu { .. } | Op::Hardtanh { .. });
    let bent = matches!(op, Op::Elu { .. } | Op::Selu) && (z > 0.0) != (z + d > 0.0);
    if linear || bent {
        return activation(op, z + d) - activation(op, z);
    }
    // Gauss's rule with three points.
    const PANELS: usize = 400;
    let width = d / PANELS as f64;
    let panel = |p: usize| {
        let at = |offset: f64| slope(op, z + width * (p as f64 + 0.5 + offset / 2.0));
        (8.0 * at(0.0) + 5.0 * (at(-f64::sqrt(0.6)) + at(f64::sqrt(0.6)))) * width / 18.0
    };
    (0..PANELS).map(panel).sum()
}

/// How far a result may be from `want`, where moving z by its own size would move it by `by_z` and
/// D likewise by `by_d`: the bound, and a few roundings of z and D, or of what float32 cannot hold.
fn tolerance(want: f64, by_z: f64, by_d: f64) -> f64 {
    BOUND * want.abs() + 4.0 * f64::from(f32::EPSILON) * (by_z.abs() + by_d.abs()) + f64::from(f32::MIN_POSITIVE)
}

fn elementwise() -> Vec<Op> {
    let leaky = [0.01, 1.5, -0.5].map(|negative_slope| Op::LeakyRelu { negative_slope });
    leaky
        .into_iter()
        .chain([Op::Relu, Op::Tanh, Op::Sigmoid, Op::GELU, Op::Silu, Op::SOFTPLUS])
        .chain([
            Op::HARDTANH,
            Op::Hardtanh { min_val: 0.2, max_val: 1.5 },
            Op::ELU,
            Op::Elu { alpha: 0.3 },
            Op::Selu,
            Op::Gelu { approximate: Approximation::Tanh },
            Op::Softplus { beta: 2.0, threshold: 30.0 },
        ])
        .collect()
}

/// An elementwise operation between two beliefs, the first of which starts at the input plus D:
/// eps_2 of the first iteration is f(z + D) - f(z).
#[test]
fn elementwise_differences_neither_cancel_nor_overflow() {
    let (z, d) = grid();
    for op in elementwise() {
        let want: Vec<f64> = z.iter().zip(&d).map(|(&z, &d)| difference(&op, z.into(), d.into())).collect();
        let network = Network::new(&[z.len()], Loss::MSE, vec![vec![], vec![op.clone()], vec![]]).unwrap();
        let y = vec![0f32; z.len()];
        for form in forms() {
            let method = strict(0.1, 1);
            let mut session = form.session(&network, 1, method);
            session.infer_from(&network.initialize(0), &z, &y, &[Start::Deviation(&d)]).unwrap();
            let got = session.get(Quantity::Error, 2).unwrap();
            for (i, (&got, &want)) in got.iter().zip(&want).enumerate() {
                let (z, d) = (f64::from(z[i]), f64::from(d[i]));
                let [before, after] = [z, z + d].map(|z| slope(&op, z));
                let off = (f64::from(got) - want).abs();
                assert!(
                    off <= tolerance(want, z * (after - before), d * after),
                    "{form} {op:?}, z = {z}, D = {d}: {got:e}, expected {want:e}"
                );
            }
        }
    }
}

/// The same operation by backpropagation: eps_1 is its slope times eps_2.
#[test]
fn elementwise_slopes_do_not_cancel() {
    let (z, _) = grid();
    for form in forms() {
        for op in elementwise() {
            let network = Network::new(&[z.len()], Loss::MSE, vec![vec![], vec![op.clone()]]).unwrap();
            let mut session = form.session(&network, 1, Method::Exact);
            let y = vec![100f32; z.len()];
            session.infer(&network.initialize(0), &z, &y).unwrap();
            let (pulled, eps) = (session.get(Quantity::Error, 1).unwrap(), session.get(Quantity::Error, 2).unwrap());
            for ((&z, &pulled), &eps) in z.iter().zip(&pulled).zip(&eps) {
                let (z, pulled, eps) = (f64::from(z), f64::from(pulled), f64::from(eps));
                let want = slope(&op, z) * eps;
                // z is nowhere so near to a kink.
                let curvature = (slope(&op, z * (1.0 + 1e-6)) - slope(&op, z)) / 1e-6;
                let off = (pulled - want).abs();
                assert!(
                    off <= tolerance(want, curvature * eps, 0.0),
                    "{form} {op:?}, z = {z}: {pulled:e}, expected {want:e}"
                );
            }
        }
    }
}

/// Cross-entropy where the network is all but certain: the error at the label is the sum of the
/// other probabilities, which p - 1 loses.
#[test]
fn errors_of_certain_predictions_keep_their_digits() {
    let network = Network::new(&[4], Loss::CROSS_ENTROPY, vec![vec![]]).unwrap();
    for form in forms() {
        for certainty in [0.0, 5.0, 12.0, 25.0, 60.0] {
            let x = [0.3, certainty, -0.5, 0.1, certainty + 0.2, -0.7, 0.25, 0.0].map(|x: f64| x as f32);
            let mut session = form.session(&network, 2, Method::Exact);
            let loss = session.infer(&network.initialize(0), &x, &vec![1i64, 0]).unwrap();
            let got = session.get(Quantity::Error, 1).unwrap();
            let (mut losses, mut want) = (0.0, vec![]);
            for (x, label) in x.chunks(4).zip([1, 0]) {
                let odds: Vec<f64> = x.iter().map(|&o| f64::from(o - x[label]).exp()).collect();
                let others: f64 = (0..4).filter(|&o| o != label).map(|o| odds[o]).sum();
                losses += f64::ln_1p(others) / 2.0;
                want.extend((0..4).map(|o| if o == label { -others } else { odds[o] } / (1.0 + others) / 2.0));
            }
            assert!(relative_error(&[loss.into()], &[losses]) <= BOUND, "{form}: {loss:e}, expected {losses:e}");
            for (got, want) in got.iter().zip(&want) {
                let off = (f64::from(*got) - want).abs();
                assert!(off <= tolerance(*want, 0.0, 0.0), "{form}: {got:e}, expected {want:e}");
            }
        }
    }
}
