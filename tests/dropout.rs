//! Dropout: masks that follow from seed, step, sample and element alone, and stay for a whole step.

use predictive_coding::{
    Adam, Branch, ErrorBased, FixedPrediction, Incremental, LayerSpec, LayoutChoice, Linear, Loss, Method, Network,
    Nudge, Op, Options, Parameters, Quantity, Session, Sgd, Strict,
};
use predictive_coding_reference::random::{self, generator};
use rayon::ThreadPoolBuilder;

const SEED: u64 = 5;

fn linear(outputs: usize) -> Op {
    Op::Linear(Linear::new(outputs))
}

fn dropout(p: f64) -> Op {
    Op::Dropout { p }
}

fn layouts() -> [Options; 2] {
    [LayoutChoice::Images, LayoutChoice::Channels]
        .map(|layout| Options::default().with_layout(layout).with_dropout_seed(Some(SEED)))
}

/// The first activation of a step of exact for inputs of 1.
fn mask(network: &Network, samples: usize, batch: usize, step: u64, options: Options) -> Vec<f32> {
    let mut session = Session::new(network, batch, Method::Exact, options).unwrap();
    let elements: usize = network.input_shape().iter().product();
    session.set_dropout_step(step);
    let y = vec![0.0; samples * network.output_shape().iter().product::<usize>()];
    session.infer(&network.initialize(1), &vec![1.0; samples * elements], &y[..]).unwrap();
    session.get(Quantity::Activation, 1).unwrap()
}

#[test]
fn masks_keep_the_mean_and_differ_between_steps_samples_and_operations() {
    let network = Network::new(&[3, 20, 30], Loss::MSE, vec![vec![dropout(0.3)], vec![dropout(0.3)]]).unwrap();
    let [images, channels] = layouts();
    let first = mask(&network, 5, 7, 0, images);
    let kept = (1.0 / 0.7) as f32;
    assert!(first.iter().all(|&m| m == 0.0 || m == kept));
    let share = first.iter().filter(|&&m| m == 0.0).count() as f64 / first.len() as f64;
    // 9000 draws: four times their deviation.
    assert!((share - 0.3).abs() < 0.02, "{share}");
    let samples: Vec<&[f32]> = first.chunks(1800).collect();
    assert!((1..5).all(|i| samples[i] != samples[0]));
    assert_ne!(first, mask(&network, 5, 7, 1, images));
    assert_ne!(first, mask(&network, 5, 7, 0, images.with_dropout_seed(Some(6))));
    let mut session = Session::new(&network, 1, Method::Exact, images).unwrap();
    session.infer(&network.initialize(1), &vec![1.0; 1800], &vec![0.0; 1800][..]).unwrap();
    let both = session.get(Quantity::Activation, 2).unwrap();
    assert!(both.iter().zip(samples[0]).any(|(both, one)| *both == 0.0 && *one > 0.0));

    // The same bits in any layout, batch and number of threads.
    assert_eq!(first, mask(&network, 5, 5, 0, channels));
    for threads in [1, 3] {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(first[..], pool.install(|| mask(&network, 40, 40, 0, images))[..first.len()]);
    }
}

#[test]
fn each_call_is_a_step_and_evaluation_has_no_masks() {
    let network = Network::new(&[40], Loss::MSE, vec![vec![dropout(0.5)], vec![linear(2)]]).unwrap();
    let weights = network.initialize(1);
    for options in layouts() {
        let (x, y) = (vec![1.0; 40], [0.0f32; 2]);
        let mut session = Session::new(&network, 1, Method::Exact, options).unwrap();
        let step = |session: &mut Session| {
            session.infer(&weights, &x, &y).unwrap();
            session.get(Quantity::Activation, 1).unwrap()
        };
        let [first, second] = [step(&mut session), step(&mut session)];
        assert_ne!(first, second);
        session.set_dropout_step(0);
        assert_eq!(first, step(&mut session));
        session.predict(&weights, &x).unwrap();
        assert_eq!(session.get(Quantity::Activation, 1).unwrap(), x);
        session.forward(&weights, &x, &y).unwrap();
        assert_eq!(session.get(Quantity::Activation, 1).unwrap(), x);
        assert_eq!(second, step(&mut session));
        // Nor has a session without a seed.
        let mut session = Session::new(&network, 1, Method::Exact, options.with_dropout_seed(None)).unwrap();
        assert_eq!(step(&mut session), x);
    }
}

/// With the mask's diagonal matrix in place of the dropout, everything is the same: the mask stays for all iterations, on both
/// sides of a nudge.
#[test]
fn a_dropout_is_a_matrix_that_stays_for_a_step() {
    let mut rng = generator(60);
    let nudge = Nudge::new(0.1).with_centred(true);
    let methods: [Method; 8] = [
        Method::Exact,
        FixedPrediction::new(0.3, 5).into(),
        FixedPrediction::new(0.3, 5).with_literal(true).into(),
        Strict::new(0.1, 12).into(),
        Strict::new(0.1, 12).with_nudge(Some(nudge)).into(),
        Strict::sweeps(3).into(),
        Strict::automatic(2, 5).into(),
        ErrorBased::new(0.1, 6).into(),
    ];
    let [features, outputs] = [18, 4];
    // At the start, in the middle and at the end of a layer, and at the end of a branch.
    let chains = |drop: &dyn Fn() -> Op| {
        let branches = vec![Branch::new(2, vec![]), Branch::new(1, vec![linear(features), Op::Tanh, drop()])];
        vec![
            LayerSpec::from(vec![linear(features), drop()]),
            LayerSpec::from(vec![drop(), linear(features), Op::Tanh, drop(), linear(features)]),
            LayerSpec::from(vec![Op::Silu, linear(outputs)]).with_branches(branches),
        ]
    };
    let with_masks = Network::new(&[6], Loss::MSE, chains(&|| dropout(0.4))).unwrap();
    let with_matrices =
        Network::new(&[6], Loss::MSE, chains(&|| Op::Linear(Linear::new(features).with_bias(false)))).unwrap();
    let parameters = with_masks.initialize(3);
    let x = random::values(&mut rng, 6);
    let y = random::values(&mut rng, outputs);
    for options in layouts() {
        for method in &methods {
            let diagonals: Vec<Vec<f32>> = (0..4).map(|number| mask_of(number, features, options)).collect();
            let mut numbers = diagonals.iter();
            let mut matrices = Parameters::zeros(with_matrices.parameters().clone());
            let mut own = parameters.iter();
            for spec in with_matrices.parameters().iter() {
                let values = matrices.get_mut(&spec.name).unwrap();
                match parameters.get(&spec.name) {
                    Some(_) => values.copy_from_slice(own.next().unwrap().1),
                    None => {
                        let diagonal = numbers.next().unwrap();
                        (0..features).for_each(|i| values[i * features + i] = diagonal[i]);
                    }
                }
            }
            assert!(numbers.next().is_none() && own.next().is_none());
            let run = |network: &Network, parameters: &Parameters| {
                let mut session = Session::new(network, 1, method.clone(), options).unwrap();
                session.infer(parameters, &x, &y[..]).unwrap();
                let mut all = vec![];
                for l in 1..=3 {
                    all.push(session.get(Quantity::Activation, l).unwrap());
                    all.push(session.get(Quantity::Error, l).unwrap());
                }
                (1..3).for_each(|l| all.push(session.get(Quantity::Deviation, l).unwrap()));
                all.extend(
                    session
                        .gradients()
                        .iter()
                        .filter(|(spec, _)| parameters_of(spec, &with_masks))
                        .map(|(_, values)| values.to_vec()),
                );
                all
            };
            let [masked, multiplied] = [run(&with_masks, &parameters), run(&with_matrices, &matrices)];
            assert_eq!(masked.len(), multiplied.len());
            for (i, (a, b)) in masked.iter().zip(&multiplied).enumerate() {
                let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
                let off = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(a - b)));
                let size = norm(&mut b.iter().map(|&b| f64::from(b)));
                let bound =
                    if matches!(method, Method::Strict(s) if s.solver.name() == "automatic") { 0.2 } else { 5e-6 };
                assert!(off <= bound * size, "tensor {i} by {method:?}, {options:?}: off by {off:e} of {size:e}");
            }
        }
    }
}

fn parameters_of(spec: &predictive_coding::ParameterSpec, network: &Network) -> bool {
    network.parameters().iter().any(|own| own.name == spec.name)
}

/// The mask of dropout `number` of a network, for the first sample of the first step.
fn mask_of(number: usize, features: usize, options: Options) -> Vec<f32> {
    let earlier = (0..number).map(|_| Branch::new(0, vec![dropout(0.4), linear(1), linear(features)]));
    let branches: Vec<Branch> = earlier.chain([Branch::new(0, vec![dropout(0.4)])]).collect();
    let layers = vec![LayerSpec::from(vec![]).with_branches(branches)];
    let network = Network::new(&[features], Loss::MSE, layers).unwrap();
    // Parameters of 0 leave the last branch alone.
    let parameters = Parameters::zeros(network.parameters().clone());
    let mut session = Session::new(&network, 1, Method::Exact, options).unwrap();
    session.infer(&parameters, &vec![1.0; features], &vec![0.0; features][..]).unwrap();
    session.get(Quantity::Activation, 1).unwrap()
}

/// What is dropped has no gradient in any iteration.
#[test]
fn incremental_keeps_its_masks_through_all_iterations() {
    let network = Network::new(&[4], Loss::MSE, vec![vec![linear(30), dropout(0.5)], vec![linear(3)]]).unwrap();
    let mut rng = generator(61);
    let (x, y) = (random::values(&mut rng, 4), random::values(&mut rng, 3));
    for options in layouts() {
        let mut session = Session::new(&network, 1, Incremental::new(0.1, 6), options).unwrap();
        let initial = network.initialize(2);
        let mut parameters = initial.clone();
        session.learn(&mut parameters, &mut Sgd::new(&initial, 0.05), &x, &y[..]).unwrap();
        let [before, after] = [&initial, &parameters].map(|parameters| parameters.get("0.0.weight").unwrap());
        let moved = before.chunks(4).zip(after.chunks(4)).map(|(before, after)| before != after);
        let kept = session.get(Quantity::Activation, 1).unwrap().into_iter().map(|activation| activation != 0.0);
        assert_eq!(moved.collect::<Vec<_>>(), kept.collect::<Vec<_>>());
    }
}

#[test]
fn a_run_goes_on_with_its_masks() {
    let network =
        Network::new(&[8], Loss::MSE, vec![vec![linear(30), dropout(0.5), Op::Relu], vec![linear(2)]]).unwrap();
    let mut rng = generator(62);
    let (x, y) = (random::values(&mut rng, 3 * 8), random::values(&mut rng, 6));
    let [options, _] = layouts();
    let mut parameters = network.initialize(1);
    let mut adam = Adam::new(&parameters, 0.01);
    let mut session = Session::new(&network, 3, Strict::new(0.1, 5), options).unwrap();
    for _ in 0..3 {
        session.learn(&mut parameters, &mut adam, &x, &y[..]).unwrap();
    }
    let (mut resumed, mut again) = (parameters.clone(), adam.clone());
    session.learn(&mut parameters, &mut adam, &x, &y[..]).unwrap();
    let mut session = Session::new(&network, 3, Strict::new(0.1, 5), options).unwrap();
    session.set_dropout_step(3);
    session.learn(&mut resumed, &mut again, &x, &y[..]).unwrap();
    assert_eq!(parameters, resumed);
}

#[test]
fn a_probability_is_below_1() {
    for p in [-0.1, 1.0, f64::NAN] {
        let error = Network::new(&[3], Loss::MSE, vec![vec![dropout(p)]]).unwrap_err().to_string();
        assert!(error.contains("expected a number of at least 0 and below 1"), "{error}");
    }
}
