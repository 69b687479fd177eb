//! What the rules beyond the paper have to do with one another and with backpropagation.

use predictive_coding::{
    ErrorBased, Incremental, Linear, Loss, Method, Network, Nudge, Op, Options, Parameters, Quantity, Session, Sgd,
    SgdOptions, Solver, Strict,
};
use predictive_coding_reference::compare::{relative_error, widen};
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
    let (network, mut rng) = (network(), random::generator(SEED));
    let parameters = random::parameters(&mut rng, &network);
    let (x, y) = (random::values(&mut rng, SAMPLES * 6), random::values(&mut rng, SAMPLES * 3));
    let mut session = Session::new(&network, SAMPLES, method, Options::default()).unwrap();
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
fn incremented(samples: usize, lr: f64, iterations: usize) -> (Session, Parameters) {
    let (network, mut rng) = (network(), random::generator(SEED));
    let mut parameters = random::parameters(&mut rng, &network);
    let (x, y) = (random::values(&mut rng, samples * 6), random::values(&mut rng, samples * 3));
    let mut session = Session::new(&network, samples, Incremental::new(0.3, iterations), Options::default()).unwrap();
    let mut sgd = Sgd::new(&parameters, lr);
    session.learn(&mut parameters, &mut sgd, &x, &y).unwrap();
    (session, parameters)
}

#[test]
fn incremental_with_a_rate_of_0_is_strict() {
    let ((own, parameters), strict) = (incremented(SAMPLES, 0.0, 12), relaxed(Strict::new(0.3, 12)));
    for (quantity, layer) in
        [(Quantity::Deviation, 1), (Quantity::Deviation, 2), (Quantity::Error, 1), (Quantity::Error, 3)]
    {
        let [own, strict] = [&own, &strict].map(|session| widen(&session.get(quantity, layer).unwrap()));
        let error = relative_error(&own, &strict);
        assert!(error < 1e-6, "{quantity} {layer}: {error:.1e}");
    }
    let unchanged = random::parameters(&mut random::generator(SEED), &network());
    assert_eq!(parameters.values(), unchanged.values());
}

#[test]
fn incremental_ends_with_the_same_bits_on_any_number_of_threads() {
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| incremented(150, 0.05, 9).1)
    };
    assert_eq!(on(1).values(), on(3).values());
}

#[test]
fn incremental_learns_and_infers_nothing_without_an_optimizer() {
    let (mut session, parameters) = incremented(SAMPLES, 0.05, 3);
    let (x, y) = ([0.5; 6], [0.5f32; 3]);
    let refused = session.infer(&parameters, &x, &y).unwrap_err().to_string();
    assert!(refused.contains("learn"), "{refused}");
    let mut stepped = parameters.clone();
    let options = SgdOptions::default().with_weight_decay(0.1);
    let mut decaying = Sgd::with_options(&parameters, options).unwrap();
    assert!(session.learn(&mut stepped, &mut decaying, &x, &y).is_err());
    assert_eq!(stepped.values(), parameters.values());
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
