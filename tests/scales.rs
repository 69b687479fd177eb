//! The scale of a product against the same factor of its weights.

use predictive_coding::{
    Conv2d, ErrorBased, FixedPrediction, Incremental, Linear, Loss, Method, Network, Nudge, Op, Parameters, Quantity,
    Role, Session, Sgd, Strict,
};
use predictive_coding_reference::levels::all_forms;
use predictive_coding_reference::random;

/// By a power of 2, which rounds nothing.
const SCALE: f64 = 0.5;
const LAYERS: usize = 4;

fn network(scale: f64, bias: bool) -> Network {
    let conv =
        |channels| Op::Conv2d(Conv2d::new(channels, [3, 3]).with_padding([1, 1]).with_bias(bias).with_scale(scale));
    let linear = |features| Op::Linear(Linear::new(features).with_bias(bias).with_scale(scale));
    let layers = vec![
        vec![conv(3), Op::Tanh],
        vec![Op::Silu, conv(5), Op::Flatten],
        vec![linear(20), Op::Tanh, linear(70)],
        vec![linear(3)],
    ];
    Network::new(&[2, 7, 6], Loss::MSE, layers).unwrap()
}

/// With weights times a factor.
fn times(factor: f64, parameters: &Parameters) -> Parameters {
    let mut times = parameters.clone();
    for (spec, values) in parameters.iter().filter(|(spec, _)| spec.role == Role::Weight) {
        let scaled: Vec<f32> = values.iter().map(|value| factor as f32 * value).collect();
        times.get_mut(&spec.name).unwrap().copy_from_slice(&scaled);
    }
    times
}

fn beliefs(session: &Session) -> Vec<Vec<f32>> {
    let hidden = (1..LAYERS).map(|layer| session.get(Quantity::Deviation, layer).unwrap());
    hidden.chain((1..=LAYERS).map(|layer| session.get(Quantity::Error, layer).unwrap())).collect()
}

#[test]
fn a_scale_is_a_factor_of_the_weights_and_of_their_gradients() {
    let nudge = Nudge::new(0.5).with_centred(true);
    let methods: [Method; 7] = [
        Method::Exact,
        FixedPrediction::new(0.3, 6).into(),
        FixedPrediction::new(0.3, 6).with_literal(true).into(),
        Strict::new(0.1, 9).with_nudge(Some(nudge)).into(),
        Strict::automatic(2, 9).into(),
        Strict::sweeps(4).into(),
        ErrorBased::new(0.1, 9).into(),
    ];
    let (scaled, plain) = (network(SCALE, true), network(1.0, true));
    let mut rng = random::generator(5);
    let parameters = random::parameters(&mut rng, &scaled);
    for samples in [1, 40] {
        let (x, y) = random::batch(&mut rng, &scaled, samples);
        for (form, method) in all_forms().into_iter().flat_map(|form| methods.clone().map(|method| (form, method))) {
            let case = format!("{form}, {samples} samples, {method:?}");
            let [mut ours, mut theirs] = [&scaled, &plain].map(|network| form.session(network, samples, &method));
            ours.infer(&parameters, &x, y.view()).unwrap();
            theirs.infer(&times(SCALE, &parameters), &x, y.view()).unwrap();
            assert_eq!(beliefs(&ours), beliefs(&theirs), "{case}");
            assert_eq!(ours.gradients().values(), times(SCALE, theirs.gradients()).values(), "{case}");
        }
    }
}

/// A step of lr along the gradient of W is one of lr scale^2 along that of scale W.
#[test]
fn parameters_that_step_in_every_iteration_are_scaled_too() {
    let method = Incremental::new(0.1, 6);
    let (scaled, plain) = (network(SCALE, false), network(1.0, false));
    let mut rng = random::generator(6);
    let start = random::parameters(&mut rng, &scaled);
    for samples in [1, 40] {
        let (x, y) = random::batch(&mut rng, &scaled, samples);
        for form in all_forms() {
            let run = |network: &Network, mut parameters: Parameters, lr: f64| {
                let mut session = form.session(network, samples, method.clone());
                let mut sgd = Sgd::new(&parameters, lr);
                session.learn(&mut parameters, &mut sgd, &x, y.view()).unwrap();
                (beliefs(&session), parameters)
            };
            let (ours, changed) = run(&scaled, start.clone(), 0.5);
            let (theirs, expected) = run(&plain, times(SCALE, &start), 0.125);
            assert!(ours == theirs, "{form}, {samples} samples");
            assert!(times(SCALE, &changed).values() == expected.values(), "{form}, {samples} samples");
        }
    }
}
