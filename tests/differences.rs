//! What computing in differences is for: in float32 the direct form loses the lower layers to
//! rounding, and so do activations where they saturate; the library loses neither.

use predictive_coding::{Conv2d, Linear, Loss, MaxPool2d, Method, Network, Op, Quantity, Session, Start};
use predictive_coding_reference::case::Case;
use predictive_coding_reference::compare::{self, BOUND, relative_error, widen};
use predictive_coding_reference::levels::levels;
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
    Network::new(&[1, 28, 28], Loss::Mse, layers).unwrap()
}

/// 300 images of noise, of a seed at which no ReLU and no pool is decided by rounding: perturbing
/// pixels and weights by 2e-7 changes no tensor by more than 7e-7.
fn images() -> Case {
    let seed = 8;
    let network = mnist();
    let mut rng = random::generator(seed);
    let x = (0..300 * 28 * 28).map(|_| rng.random_range(0.0..1.0)).collect();
    let y = OwnedTargets::Labels((0..300).map(|_| rng.random_range(0..10)).collect());
    let method = Method::Strict { eta: 0.1, iterations: 20 };
    Case { parameters: network.initialize(seed), network, method, x, y, begin: vec![] }
}

#[test]
fn float32_in_differences_keeps_the_digits_that_the_direct_form_loses() {
    let case = images();
    let step = case.reference();
    let want = case.tensors(&step);
    for level in levels() {
        let mut session = Session::with_level(&case.network, 300, case.method, level).unwrap();
        let loss = case.infer(&mut session).unwrap();
        let (error, tensor) = compare::worst(&case.results(&session, loss), &want);
        println!("{level}: {error:.1e} at {tensor}");
        assert!(error <= BOUND, "{level}: {error:.1e} at {tensor}");
    }
    let direct = Naive::<f32>::new(&case.network, &case.parameters);
    let direct = direct.step(case.method, &case.x, &dense(case.y.view(), 10), &[]);
    let error = relative_error(&widen(&direct.errors[1]), &step.errors[1]);
    println!("direct form: {error:.1e} at error.1");
    assert!(error > 0.1, "the direct form is wrong by {error:.1e} only: this case proves nothing");
}

/// Values z in -20..20 and deviations D of either sign, from 1e-6 to 30.
fn grid() -> (Vec<f32>, Vec<f32>) {
    let deviations = [1e-6, 1e-4, 1e-2, 0.3, 2.0, 7.0, 30.0];
    let values = (-400..=400).map(|i| i as f32 * 0.05 + 0.013);
    values.flat_map(|z| deviations.iter().flat_map(move |&d| [(z, d), (z, -d)])).unzip()
}

/// f(z + D) - f(z) in f64, where f64 has the digits for it.
fn difference(op: &Op, z: f64, d: f64) -> Option<f64> {
    let (before, after) = (activation(op, z), activation(op, z + d));
    let rounding = 4.0 * f64::EPSILON * (before.abs() + after.abs() + d.abs().min(1.0) * slope(op, z).abs());
    let difference = after - before;
    if rounding < 1e-7 * difference.abs() || difference == 0.0 {
        return Some(difference);
    }
    // To first order, where the second is too small to matter.
    (d.abs() <= 1e-6).then(|| d * slope(op, z))
}

fn elementwise() -> Vec<Op> {
    let leaky = [0.01, 1.5, -0.5].map(|negative_slope| Op::LeakyRelu { negative_slope });
    let others = [Op::Relu, Op::Tanh, Op::Sigmoid, Op::Gelu, Op::Silu, Op::Softplus, Op::Identity];
    leaky.into_iter().chain(others).collect()
}

/// An elementwise operation between two beliefs, the first of which is the input: eps_2 of the first
/// iteration is f(z + D) - f(z).
#[test]
fn elementwise_differences_neither_cancel_nor_overflow() {
    let (z, d) = grid();
    for level in levels() {
        for op in elementwise() {
            let network = Network::new(&[z.len()], Loss::Mse, vec![vec![], vec![op.clone()], vec![]]).unwrap();
            let mut session =
                Session::with_level(&network, 1, Method::Strict { eta: 0.1, iterations: 1 }, level).unwrap();
            let parameters = network.initialize(0);
            let y = vec![0f32; z.len()];
            session.infer_from(&parameters, &z, &y, &[Start::Deviation(&d)]).unwrap();
            let got = session.get(Quantity::Error, 2);
            let mut judged = 0;
            for ((&z, &d), &got) in z.iter().zip(&d).zip(&got) {
                let Some(want) = difference(&op, z.into(), d.into()) else { continue };
                judged += 1;
                assert!(is_close(got, want), "{level} {op:?}, z = {z}, D = {d}: {got:e}, expected {want:e}");
            }
            assert!(judged * 10 > z.len() * 9, "{level} {op:?}: {judged} of {}", z.len());
        }
    }
}

/// The same operation by backpropagation: eps_1 is its slope times eps_2.
#[test]
fn elementwise_slopes_do_not_cancel() {
    let (z, _) = grid();
    for level in levels() {
        for op in elementwise() {
            let network = Network::new(&[z.len()], Loss::Mse, vec![vec![], vec![op.clone()]]).unwrap();
            let mut session = Session::with_level(&network, 1, Method::Exact, level).unwrap();
            let y = vec![100f32; z.len()];
            session.infer(&network.initialize(0), &z, &y).unwrap();
            let (pulled, eps) = (session.get(Quantity::Error, 1), session.get(Quantity::Error, 2));
            for ((&z, &pulled), &eps) in z.iter().zip(&pulled).zip(&eps) {
                let want = slope(&op, z.into()) * f64::from(eps);
                assert!(is_close(pulled, want), "{level} {op:?}, z = {z}: {pulled:e}, expected {want:e}");
            }
        }
    }
}

/// Within the bound, or beneath the normal numbers of float32.
fn is_close(got: f32, want: f64) -> bool {
    (f64::from(got) - want).abs() <= BOUND * want.abs() + f64::from(f32::MIN_POSITIVE)
}
