//! What the rules beyond the paper have to do with one another and with backpropagation.

use predictive_coding::{
    AdamOptions, AdamW, Branch, Conv2d, ErrorBased, Incremental, LayerSpec, Linear, Loss, Method, Network, Nudge, Op,
    Optimizer, Options, Parameters, Quantity, Reduction, Session, Sgd, SgdOptions, Solver, Strict,
};
use predictive_coding_reference::compare::{relative_error, widen};
use predictive_coding_reference::levels::{Form, forms};
use predictive_coding_reference::naive::{Begin, Naive};
use predictive_coding_reference::random;

const SAMPLES: usize = 5;
const SEED: u64 = 3;

/// A smooth network, whose relaxations settle.
fn network() -> Network {
    let linear = |outputs| Op::Linear(Linear::new(outputs));
    let layers = vec![vec![linear(9), Op::Tanh], vec![linear(7), Op::Sigmoid], vec![linear(3)]];
    Network::new(&[6], Loss::MSE, layers).unwrap()
}

fn relaxed(method: impl Into<Method>) -> Session {
    relaxed_in(&network(), method)
}

fn relaxed_in(network: &Network, method: impl Into<Method>) -> Session {
    let mut rng = random::generator(SEED);
    let parameters = random::parameters(&mut rng, network);
    let (x, y) = (random::values(&mut rng, SAMPLES * 6), random::values(&mut rng, SAMPLES * 3));
    let mut session = Session::new(network, SAMPLES, method, Options::default()).unwrap();
    session.infer(&parameters, &x, &y).unwrap();
    session
}

/// How far the gradients are from backpropagation's.
fn from_backpropagation(method: impl Into<Method>) -> f64 {
    let [own, exact] = [relaxed(method), relaxed(Method::Exact)].map(|session| widen(session.gradients().values()));
    relative_error(&own, &exact)
}

fn nudged(beta: f64, centred: bool) -> Strict {
    Strict::new(0.3, 400).with_nudge(Some(Nudge::new(beta).with_centred(centred)))
}

#[test]
fn a_nudge_of_1_is_none() {
    let [nudged, plain] = [nudged(1.0, false), Strict::new(0.3, 400)].map(relaxed);
    assert_eq!(nudged.gradients().values(), plain.gradients().values());
    assert_eq!(nudged.get(Quantity::Belief, 2).unwrap(), plain.get(Quantity::Belief, 2).unwrap());
}

/// Scellier and Bengio, Equilibrium Propagation (2017); Laborieux et al. (2021) for both sides.
#[test]
fn the_error_of_a_nudge_falls_with_beta_and_that_of_a_centred_one_with_its_square() {
    for (centred, expected) in [(false, 2.0), (true, 4.0)] {
        let errors = [0.1, 0.05, 0.025].map(|beta| from_backpropagation(nudged(beta, centred)));
        for pair in errors.windows(2) {
            let ratio = pair[0] / pair[1];
            assert!((ratio / expected - 1.0).abs() < 0.1, "centred: {centred}, {errors:?}: ratio {ratio}");
        }
    }
}

#[test]
fn a_small_nudge_gives_backpropagation_without_drowning_in_rounding() {
    for beta in [1e-3, 1e-6, -1e-6] {
        let error = from_backpropagation(nudged(beta, true));
        assert!(error < 1e-5, "{beta}: {error:.1e}");
    }
}

#[test]
fn a_centred_nudge_leaves_the_beliefs_of_its_own_side() {
    let [both, one] = [nudged(0.4, true), nudged(0.4, false)].map(relaxed);
    for quantity in [Quantity::Belief, Quantity::Error] {
        assert_eq!(both.get(quantity, 1).unwrap(), one.get(quantity, 1).unwrap(), "{quantity}");
    }
}

/// Bits of errors and gradients of a batch, in every form.
fn bits(network: &Network, method: &Method) -> Vec<Vec<u32>> {
    let mut rng = random::generator(SEED);
    let parameters = random::parameters(&mut rng, network);
    let (x, y) = random::batch(&mut rng, network, SAMPLES);
    let of_form = |form: Form| {
        let mut session = form.session(network, SAMPLES, method);
        session.infer(&parameters, &x, y.view()).unwrap();
        let errors = (1..=network.layers().len()).flat_map(|layer| session.get(Quantity::Error, layer).unwrap());
        errors.chain(session.gradients().values().iter().copied()).map(f32::to_bits).collect()
    };
    forms().into_iter().map(of_form).collect()
}

/// A weight of the loss of 1, a precision of 1, a sum of one branch and, of one output of one sample, a sum of losses in
/// place of their mean change no bit.
#[test]
fn factors_and_sums_of_one_are_none() {
    let ops = || {
        let conv = Op::Conv2d(Conv2d::new(3, [3, 3]));
        let linear = |outputs| Op::Linear(Linear::new(outputs));
        [vec![conv, Op::Tanh], vec![Op::Flatten, linear(9), Op::Relu], vec![Op::Sigmoid, linear(4)], vec![linear(3)]]
    };
    let network = |loss: Loss, of: &dyn Fn(usize, Vec<Op>) -> LayerSpec| {
        let layers = ops().into_iter().enumerate().map(|(l, ops)| of(l, ops));
        Network::new(&[2, 6, 5], loss, layers.collect::<Vec<_>>()).unwrap()
    };
    let methods: [Method; 5] = [
        Strict::new(0.1, 9).into(),
        Strict::automatic(2, 9).into(),
        Strict::sweeps(3).into(),
        Strict::by(Solver::Momentum { eta: 0.1.into(), momentum: 0.5, nesterov: true }, 9).into(),
        ErrorBased::new(0.1, 9).into(),
    ];
    for loss in [Loss::MSE, Loss::CROSS_ENTROPY] {
        let plain = network(loss, &|_, ops| ops.into());
        let weighted = network(loss.with_weight(1.0), &|_, ops| LayerSpec::from(ops).with_precision(1.0));
        let summed = network(loss, &|l, ops| LayerSpec::from(vec![]).with_branches(vec![Branch::new(l, ops)]));
        let gathered = network(loss, &|l, ops| LayerSpec::from(ops).with_branches(vec![Branch::new(l, vec![])]));
        for method in &methods {
            let want = bits(&plain, method);
            assert!(want.iter().all(|bits| bits.iter().any(|&bits| bits != 0)));
            for (name, other) in [("precision", &weighted), ("sum", &summed), ("sum in front", &gathered)] {
                assert!(bits(other, method) == want, "{name}, {loss}, {method:?}");
            }
        }
    }
    let one = |loss: Loss| {
        let layers = vec![vec![Op::Linear(Linear::new(5)), Op::Tanh], vec![Op::Linear(Linear::new(1))]];
        let (network, mut rng) = (Network::new(&[3], loss, layers).unwrap(), random::generator(SEED));
        let parameters = random::parameters(&mut rng, &network);
        let mut session = Session::new(&network, 1, Strict::new(0.1, 9), Options::default()).unwrap();
        session.infer(&parameters, &[0.3, -0.4, 0.9], &[0.7f32]).unwrap();
        session.gradients().values().to_vec()
    };
    assert_eq!(one(Loss::MSE), one(Loss::MSE.with_reduction(Reduction::Sum)));
}

#[test]
fn error_based_settles_where_strict_does() {
    let [errors, beliefs] = [relaxed(ErrorBased::new(0.3, 400)), relaxed(Strict::new(0.3, 4000))]
        .map(|session| [1, 2].map(|layer| widen(&session.get(Quantity::Deviation, layer).unwrap())));
    for (layer, (errors, beliefs)) in errors.iter().zip(&beliefs).enumerate() {
        let error = relative_error(errors, beliefs);
        assert!(error < 1e-5, "layer {}: {error:.1e}", layer + 1);
    }
}

#[test]
fn error_based_reaches_every_layer_in_one_iteration() {
    let session = relaxed(ErrorBased::new(0.1, 1));
    assert!(session.unreached().is_empty());
    assert!(session.get(Quantity::Error, 1).unwrap().iter().any(|&error| error != 0.0));
}

#[test]
fn optimizers_of_beliefs_settle_where_steps_do() {
    let settled = |solver, iterations| {
        let session = relaxed(Strict::by(solver, iterations));
        [1, 2].map(|layer| widen(&session.get(Quantity::Deviation, layer).unwrap())).concat()
    };
    let steps = settled(Solver::Steps(0.3.into()), 4000);
    for nesterov in [false, true] {
        let momentum = settled(Solver::Momentum { eta: 0.1.into(), momentum: 0.7, nesterov }, 2000);
        let error = relative_error(&momentum, &steps);
        assert!(error < 1e-5, "nesterov: {nesterov}: {error:.1e}");
    }
}

/// Learns from some samples by incremental, with a learning rate of SGD.
fn incremented(network: &Network, samples: usize, lr: f64, iterations: usize) -> (Session, Parameters) {
    let mut rng = random::generator(SEED);
    let mut parameters = random::parameters(&mut rng, network);
    let (x, y) = (random::values(&mut rng, samples * 6), random::values(&mut rng, samples * 3));
    let mut session = Session::new(network, samples, Incremental::new(0.3, iterations), Options::default()).unwrap();
    let mut sgd = Sgd::new(&parameters, lr);
    session.learn(&mut parameters, &mut sgd, &x, &y).unwrap();
    (session, parameters)
}

#[test]
fn incremental_with_a_rate_of_0_is_strict() {
    let linear = |outputs| Op::Linear(Linear::new(outputs));
    // Of its first layer, the prediction never changes.
    let layers = vec![vec![Op::Tanh], vec![linear(7), Op::Sigmoid], vec![linear(3)]];
    for network in [network(), Network::new(&[6], Loss::MSE, layers).unwrap()] {
        let (own, parameters) = incremented(&network, SAMPLES, 0.0, 12);
        let strict = relaxed_in(&network, Strict::new(0.3, 12));
        for (quantity, layer) in
            [(Quantity::Deviation, 1), (Quantity::Deviation, 2), (Quantity::Error, 1), (Quantity::Error, 3)]
        {
            let [own, strict] = [&own, &strict].map(|session| widen(&session.get(quantity, layer).unwrap()));
            let error = relative_error(&own, &strict);
            assert!(error < 1e-6, "{quantity} {layer}: {error:.1e}");
        }
        let unchanged = random::parameters(&mut random::generator(SEED), &network);
        assert_eq!(parameters.values(), unchanged.values());
    }
}

#[test]
fn incremental_ends_with_the_same_bits_on_any_number_of_threads() {
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| incremented(&network(), 150, 0.05, 9).1)
    };
    assert_eq!(on(1).values(), on(3).values());
}

#[test]
fn incremental_learns_and_infers_nothing_without_an_optimizer() {
    let (mut session, parameters) = incremented(&network(), SAMPLES, 0.05, 3);
    let (x, y) = ([0.5; 6], [0.5f32; 3]);
    let refused = session.infer(&parameters, &x, &y).unwrap_err().to_string();
    assert!(refused.contains("learn"), "{refused}");
}

/// In float64, one iteration of the reference after the other, by the parameters of that iteration.
#[test]
fn incremental_decays_the_weights_of_each_iteration() {
    const LR: f64 = 0.01;
    const DECAY: f64 = 0.3;
    const ITERATIONS: usize = 7;
    let (network, mut rng) = (network(), random::generator(SEED));
    let first = random::parameters(&mut rng, &network);
    let (x, y) = (random::values(&mut rng, SAMPLES * 6), random::values(&mut rng, SAMPLES * 3));
    let (x64, y64) = (widen(&x), widen(&y));
    let sgd: Box<dyn Optimizer> = {
        let options = SgdOptions::default().with_lr(LR).with_weight_decay(DECAY);
        Box::new(Sgd::with_options(&first, options).unwrap())
    };
    let adam = AdamOptions::default().with_lr(LR).with_weight_decay(DECAY).with_eps(1e-3);
    let adamw: Box<dyn Optimizer> = Box::new(AdamW::with_options(&first, adam).unwrap());
    for mut optimizer in [sgd, adamw] {
        let mut theta = widen(first.values());
        let start = theta.clone();
        let (mut m, mut s) = (vec![0.0; theta.len()], vec![0.0; theta.len()]);
        let mut beliefs: Vec<Begin<f64>> = Vec::new();
        for t in 1..=ITERATIONS {
            let mut now = first.clone();
            now.values_mut().iter_mut().zip(&theta).for_each(|(now, theta)| *now = *theta as f32);
            let naive = Naive::<f64>::new(&network, &now);
            // Without a step of the beliefs, gradients are taken where the iteration finds them.
            let [still, moved] = [0.0, 0.3].map(|eta| naive.step(&Strict::new(eta, 1).into(), &x64, &y64, &beliefs));
            for (i, g) in still.gradients.iter().enumerate() {
                if optimizer.name() == "sgd" {
                    theta[i] -= LR * (g + DECAY * theta[i]);
                } else {
                    m[i] = 0.9 * m[i] + 0.1 * g;
                    s[i] = 0.999 * s[i] + 0.001 * g * g;
                    let [m, s] = [m[i] / (1.0 - 0.9f64.powi(t as i32)), s[i] / (1.0 - 0.999f64.powi(t as i32))];
                    theta[i] -= LR * DECAY * theta[i] + LR * m / (s.sqrt() + 1e-3);
                }
            }
            beliefs = moved.beliefs[1..moved.beliefs.len() - 1].iter().map(|v| Begin::Belief(v.clone())).collect();
        }
        let mut parameters = first.clone();
        let mut session =
            Session::new(&network, SAMPLES, Incremental::new(0.3, ITERATIONS), Options::default()).unwrap();
        session.learn(&mut parameters, &mut *optimizer, &x, &y).unwrap();
        let change = |values: &[f64]| values.iter().zip(&start).map(|(now, first)| now - first).collect::<Vec<_>>();
        let error = relative_error(&change(&widen(parameters.values())), &change(&theta));
        // The parameters themselves are rounded.
        assert!(error < 1e-5, "{}: {error:.1e}", optimizer.description());
        let Begin::Belief(belief) = &beliefs[1] else { panic!("no belief") };
        let error = relative_error(&widen(&session.get(Quantity::Belief, 2).unwrap()), belief);
        assert!(error < 1e-6, "{}: {error:.1e}", optimizer.description());
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let momentum = |momentum| Strict::by(Solver::Momentum { eta: 0.1.into(), momentum, nesterov: false }, 5);
    let refused: [Method; 6] = [
        momentum(1.0).into(),
        momentum(f64::NAN).into(),
        nudged(0.0, false).into(),
        nudged(f64::INFINITY, false).into(),
        Strict::sweeps(5).with_nudge(Some(Nudge::new(0.1))).into(),
        ErrorBased::new(-0.1, 5).into(),
    ];
    for method in refused {
        assert!(method.validate().is_err(), "{method:?}");
    }
}
