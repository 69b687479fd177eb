//! What a call gives whatever its method and options: its loss, and what becomes of samples that diverge and of calls
//! that are stopped.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use predictive_coding::{
    Conv2d, Error, Linear, Loss, Method, Network, OnDivergence, Op, Options, Parameters, ParametersView, Quantity,
    Reduction, Session, Solver, Start, StopFlag, Strict,
};
use predictive_coding_reference::compare::{self, relative_error, widen};
use predictive_coding_reference::levels::forms;
use predictive_coding_reference::methods::{fixed, literal, strict};
use predictive_coding_reference::naive::{Naive, dense};
use predictive_coding_reference::random::{self, OwnedTargets};

const SAMPLES: usize = 21;
/// Strict by steps.
fn steps() -> Strict {
    Strict::new(0.1, 6)
}

fn network(loss: Loss) -> Network {
    let linear = |features| Op::Linear(Linear::new(features));
    let layers = vec![
        vec![Op::Conv2d(Conv2d::new(3, [3, 3])), Op::Relu, Op::Flatten],
        vec![linear(9), Op::Tanh],
        vec![linear(7), Op::Relu],
        vec![linear(3)],
    ];
    Network::new(&[1, 6, 6], loss, layers).unwrap()
}

/// Parameters so large that relaxations by a given step of 0.4 diverge for some samples.
fn steep(network: &Network) -> (Parameters, Vec<f32>, Vec<f32>) {
    let mut parameters = network.initialize(3);
    parameters.values_mut().iter_mut().for_each(|p| *p *= 2.6);
    let mut rng = random::generator(5);
    let (x, y) = (random::values(&mut rng, SAMPLES * 36), random::values(&mut rng, SAMPLES * 3));
    (parameters, x, y)
}

#[test]
fn the_loss_is_that_of_the_forward_pass_whatever_is_computed() {
    let sum = Loss::MSE.with_reduction(Reduction::Sum).with_weight(0.25);
    let published = Solver::Published2022(0.1.into());
    let runs: [Method; 11] = [
        Method::Exact,
        fixed(0.1, 6),
        literal(0.1, 6),
        steps().into(),
        steps().with_tolerance(Some(0.5)).into(),
        Strict::automatic(2, 6).into(),
        Strict::sweeps(6).into(),
        Strict::sweeps(6).with_tolerance(Some(0.5)).into(),
        Strict::by(published, 6).into(),
        steps().with_on_divergence(OnDivergence::Skip).into(),
        steps().with_on_divergence(OnDivergence::Shrink).into(),
    ];
    for loss in [Loss::MSE, Loss::CROSS_ENTROPY, sum] {
        let network = network(loss);
        let parameters = network.initialize(1);
        let (x, y) = random::batch(&mut random::generator(2), &network, SAMPLES);
        let (other, _) = random::batch(&mut random::generator(3), &network, SAMPLES);
        for form in forms() {
            let forward = form.session(&network, SAMPLES, Method::Exact).forward(&parameters, &x, y.view()).unwrap();
            for method in &runs {
                let options = Options::default().with_level(Some(form.level)).with_layout(form.layout);
                let mut session = Session::new(&network, SAMPLES, method, options).unwrap();
                // A value that an earlier call may leave behind.
                session.infer(&parameters, &other, y.view()).unwrap();
                let inferred = session.infer(&parameters, &x, y.view()).unwrap();
                let what = format!("{form} {loss} {session:?}");
                assert_eq!([inferred, session.loss()].map(f32::to_bits), [forward.to_bits(); 2], "{what}");
            }
        }
    }
}

/// With a sum, no sample sees how many others there are; with a mean, beliefs move less the more there are.
#[test]
fn samples_of_a_sum_relax_as_if_alone() {
    for usual in [Loss::MSE, Loss::CROSS_ENTROPY] {
        let sum = usual.with_reduction(Reduction::Sum).with_weight(0.5);
        let (x, y) = random::batch(&mut random::generator(4), &network(sum), SAMPLES);
        let elements = x.len() / SAMPLES;
        let one = match &y {
            OwnedTargets::Labels(labels) => OwnedTargets::Labels(labels[..1].to_vec()),
            OwnedTargets::Values(values) => OwnedTargets::Values(values[..values.len() / SAMPLES].to_vec()),
        };
        let moved = |loss: Loss, x: &[f32], y: &OwnedTargets, method: &Method| {
            let network = network(loss);
            let mut session = Session::new(&network, x.len() / elements, method, Options::default()).unwrap();
            session.infer(&network.initialize(1), x, y.view()).unwrap();
            let deviation = session.get(Quantity::Deviation, 3).unwrap();
            widen(&deviation[..session.elements(3)])
        };
        for method in [Method::Exact, fixed(0.1, 6), steps().into()] {
            let alone = moved(sum, &x[..elements], &one, &method);
            assert!(relative_error(&moved(sum, &x, &y, &method), &alone) < 1e-6, "{usual} {method:?}");
            let alone = moved(usual, &x[..elements], &one, &method);
            let mean = moved(usual, &x, &y, &method);
            let share = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>().sqrt();
            let ratio = share(&mean) / share(&alone) * SAMPLES as f64;
            assert!((0.7..1.4).contains(&ratio), "{usual} {method:?}: {ratio}");
        }
    }
}

#[test]
fn diverged_samples_are_left_out_or_relax_again() {
    let loss = Loss::MSE.with_reduction(Reduction::Sum).with_weight(0.5);
    let network = network(loss);
    let (parameters, x, y) = steep(&network);
    for form in forms() {
        let session =
            |on_divergence| form.session(&network, SAMPLES, Strict::new(0.4, 12).with_on_divergence(on_divergence));
        let mut stopping = session(OnDivergence::Stop);
        assert!(matches!(stopping.infer(&parameters, &x, &y), Err(Error::Diverged(_))), "{form}");
        let diverged: Vec<bool> = stopping.descents().map(|descent| descent.diverged).collect();
        assert!(diverged.contains(&true) && diverged.contains(&false), "{form}: {diverged:?} shows nothing");

        let kept = |row: &[f32]| -> Vec<f32> {
            let len = row.len() / SAMPLES;
            row.chunks(len)
                .zip(&diverged)
                .filter(|(_, diverged)| !**diverged)
                .flat_map(|(row, _)| row.to_vec())
                .collect()
        };
        let mut alone = session(OnDivergence::Stop);
        alone.infer(&parameters, &kept(&x), &kept(&y)).unwrap();
        let mut skipping = session(OnDivergence::Skip);
        skipping.infer(&parameters, &x, &y).unwrap();
        assert_eq!(skipping.descents().map(|d| d.diverged).collect::<Vec<_>>(), diverged, "{form}");
        let [got, want] = [&skipping, &alone].map(|session| widen(session.gradients().values()));
        assert!(relative_error(&got, &want) < 1e-5, "{form}: {:e}", relative_error(&got, &want));

        let mut shrinking = session(OnDivergence::Shrink);
        shrinking.infer(&parameters, &x, &y).unwrap();
        let shrunk: Vec<bool> = shrinking.descents().map(|descent| descent.shrunk).collect();
        assert_eq!(shrunk, diverged, "{form}");
        assert!(shrinking.descents().filter(|d| d.shrunk).all(|d| !d.diverged && d.eta < 0.4), "{form}");
        for layer in 1..4 {
            let [given, again] =
                [&stopping, &shrinking].map(|session| session.get(Quantity::Deviation, layer).unwrap());
            let elements = shrinking.elements(layer);
            for (sample, diverged) in diverged.iter().enumerate() {
                let place = sample * elements..(sample + 1) * elements;
                let same = given[place.clone()] == again[place.clone()];
                assert!(same != *diverged, "{form}: sample {sample} of layer {layer}");
                assert!(again[place].iter().any(|&u| u != 0.0), "{form}: sample {sample} of layer {layer}");
            }
        }
    }
}

#[test]
fn a_sample_that_began_elsewhere_is_left_out() {
    let network = network(Loss::MSE.with_reduction(Reduction::Sum));
    let (parameters, x, y) = steep(&network);
    let method = Strict::new(0.6, 12).with_on_divergence(OnDivergence::Shrink);
    let mut session = Session::new(&network, SAMPLES, method, Options::default()).unwrap();
    session.infer_from(&parameters, &x, &y, &[Start::Activation]).unwrap();
    assert!(session.descents().any(|descent| descent.diverged && !descent.shrunk));
    assert!(session.gradients().values().iter().all(|g| g.is_finite()));
}

#[test]
fn a_stopped_call_says_so_and_the_next_one_is_whole() {
    static STOP: AtomicBool = AtomicBool::new(false);
    let network = network(Loss::MSE);
    let parameters = network.initialize(1);
    let (x, y) = random::batch(&mut random::generator(6), &network, SAMPLES);
    let options = Options::default().with_stop(Some(StopFlag(&STOP)));
    let methods: [fn(usize) -> Method; 3] = [
        |iterations| Strict::new(0.1, iterations).into(),
        |iterations| Strict::sweeps(iterations).into(),
        |iterations| literal(0.1, iterations),
    ];
    for method in methods {
        let mut session = Session::new(&network, SAMPLES, method(6), options).unwrap();
        session.infer(&parameters, &x, y.view()).unwrap();
        let whole = session.gradients().clone();
        // A call that would take hours ends soon after the flag is set.
        let mut long = Session::new(&network, SAMPLES, method(1 << 40), options).unwrap();
        let outcome = std::thread::scope(|scope| {
            let call = scope.spawn(|| long.infer(&parameters, &x, y.view()));
            std::thread::sleep(Duration::from_millis(50));
            assert!(!call.is_finished(), "{session:?} ended by itself");
            STOP.store(true, Ordering::Relaxed);
            call.join().unwrap()
        });
        STOP.store(false, Ordering::Relaxed);
        assert_eq!(outcome, Err(Error::Stopped), "{session:?}");
        assert!(long.get(Quantity::Error, 1).is_err() && long.get(Quantity::Activation, 1).is_ok());
        session.infer(&parameters, &x, y.view()).unwrap();
        assert_eq!(session.gradients().values(), whole.values(), "{session:?}");
    }
}

/// Each layer by its own eta, as the formulas have it.
#[test]
fn every_layer_takes_its_own_step() {
    const ETAS: [f64; 3] = [0.05, 0.2, 0.1];
    let network = network(Loss::CROSS_ENTROPY).with_precision(2, 1.5).unwrap();
    let parameters = network.initialize(1);
    let (x, y) = random::batch(&mut random::generator(8), &network, SAMPLES);
    let naive = Naive::<f64>::new(&network, &parameters);
    for method in [strict(ETAS, 9), fixed(ETAS, 9), literal(ETAS, 9)] {
        let want = compare::of_step(&naive.step(&method, &widen(&x), &dense(y.view(), 3), &[]), &network);
        for form in forms() {
            let mut session = form.session(&network, SAMPLES, &method);
            session.infer(&parameters, &x, y.view()).unwrap();
            let (error, tensor) = compare::worst(&compare::of_session(&session, &network), &want);
            assert!(error <= compare::BOUND, "{form} {method:?}: {error:.1e} at {tensor}");
        }
    }
    let refused = |method| Session::new(&network, SAMPLES, method, Options::default()).unwrap_err().to_string();
    assert!(refused(strict([0.1; 2], 9)).contains("2 step sizes, expected 3"));
    assert!(refused(fixed([0.1, -0.1, 0.1], 9)).contains("eta is -0.1"));
}

/// Errors come down one layer per iteration: what they do not reach has gradients of 0, and nothing else has.
#[test]
fn layers_that_no_error_reaches_are_told() {
    let network = network(Loss::MSE);
    let parameters = network.initialize(1);
    let (x, y) = random::batch(&mut random::generator(7), &network, SAMPLES);
    for iterations in 1..=5 {
        let sweeps = Strict::sweeps(iterations).into();
        for method in [strict(0.1, iterations), sweeps, fixed(0.1, iterations), literal(0.1, iterations)] {
            let mut session = Session::new(&network, SAMPLES, &method, Options::default()).unwrap();
            session.infer(&parameters, &x, y.view()).unwrap();
            for (spec, gradient) in session.gradients().iter() {
                let zero = gradient.iter().all(|&g| g == 0.0);
                assert_eq!(zero, session.unreached().contains(&(spec.layer + 1)), "{method:?}, {}", spec.name);
            }
        }
    }
}

#[test]
fn the_gradient_of_the_loss_is_that_at_the_outputs_of_the_forward_pass() {
    for loss in [Loss::MSE, Loss::CROSS_ENTROPY] {
        let network = network(loss);
        let parameters = network.initialize(1);
        let (x, y) = random::batch(&mut random::generator(2), &network, SAMPLES);
        let mut exact = Session::new(&network, SAMPLES, Method::Exact, Options::default()).unwrap();
        exact.infer(&parameters, &x, y.view()).unwrap();
        let want = widen(&exact.get(Quantity::Error, 4).unwrap());
        let mut found = vec![0.0; SAMPLES * 3];
        let mut strict = Session::new(&network, SAMPLES, strict(0.1, 6), Options::default()).unwrap();
        strict.infer(&parameters, &x, y.view()).unwrap();
        strict.read_loss_gradient(&mut found).unwrap();
        assert!(relative_error(&widen(&found), &want) < 1e-6);
        assert!(relative_error(&widen(&strict.get(Quantity::Error, 4).unwrap()), &want) > 1e-3);
        strict.forward(&parameters, &x, y.view()).unwrap();
        strict.read_loss_gradient(&mut found).unwrap();
        assert!(relative_error(&widen(&found), &want) < 1e-6);
        strict.predict(&parameters, &x).unwrap();
        assert!(strict.read_loss_gradient(&mut found).unwrap_err().to_string().contains("no targets"));
    }
}

#[test]
fn parameters_are_read_where_they_lie() {
    fn slices(tensors: &[Vec<f32>]) -> Vec<&[f32]> {
        tensors.iter().map(Vec::as_slice).collect()
    }
    let network = network(Loss::CROSS_ENTROPY);
    let parameters = network.initialize(1);
    for batch in [SAMPLES, 1] {
        let (x, y) = random::batch(&mut random::generator(2), &network, batch);
        let x = &x[..];
        let mut session = Session::new(&network, batch, strict(0.1, 6), Options::default()).unwrap();
        let loss = session.infer(&parameters, x, y.view()).unwrap();
        let gradients = session.gradients().clone();
        let mut tensors: Vec<Vec<f32>> = parameters.iter().map(|(_, values)| values.to_vec()).collect();
        let of_tensors = slices(&tensors);
        let view = ParametersView::of_tensors(&network, &of_tensors).unwrap();
        assert_eq!(session.infer(view, x, y.view()).unwrap(), loss);
        assert_eq!(session.gradients(), &gradients);
        let message = |tensors: &[&[f32]]| ParametersView::of_tensors(&network, tensors).unwrap_err().to_string();
        assert_eq!(message(&of_tensors[1..]), "7 parameters, expected 8");
        let shifted = [&of_tensors[1..], &of_tensors[..1]].concat();
        assert_eq!(message(&shifted), "parameter 0.0.weight has 3 values, expected 27 in the shape [3, 1, 3, 3]");
        tensors[3][4] = f32::NAN;
        let of_tensors = slices(&tensors);
        let view = ParametersView::of_tensors(&network, &of_tensors).unwrap();
        let message = session.infer(view, x, y.view()).unwrap_err().to_string();
        assert!(message.starts_with("parameter 1.0.bias holds NaN at [4]"), "{message}");
    }
}
