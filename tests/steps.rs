//! Step sizes that are chosen by curvature, and relaxations that end when they have settled.

use predictive_coding::{
    Conv2d, Descending, Error, ErrorBased, Linear, Loss, MaxPool2d, Method, Network, Op, Options, Parameters, Quantity,
    Reduction, Session, Strict,
};
use predictive_coding_reference::levels::forms;
use predictive_coding_reference::naive::{Naive, dense};
use predictive_coding_reference::random::{self, OwnedTargets};

const SAMPLES: usize = 21;

fn networks() -> Vec<Network> {
    let linear = |features| Op::Linear(Linear::new(features));
    let conv = |channels| Op::Conv2d(Conv2d::new(channels, [3, 3]));
    let dense = |loss, activation: Op| {
        let layers = vec![
            vec![linear(9), activation.clone()],
            vec![linear(8), activation],
            // Not the same again, whose kink the activations would lie on.
            vec![Op::Silu, linear(6)],
            vec![linear(3)],
        ];
        Network::new(&[5], loss, layers).unwrap()
    };
    let image = |loss| {
        let layers = vec![
            vec![conv(2), Op::Relu],
            vec![conv(3), Op::Relu, Op::MaxPool2d(MaxPool2d::new([2, 2])), Op::Flatten],
            vec![linear(4)],
        ];
        Network::new(&[1, 8, 8], loss, layers).unwrap()
    };
    vec![
        dense(Loss::MSE, Op::Relu),
        dense(Loss::CROSS_ENTROPY, Op::Relu),
        dense(Loss::CROSS_ENTROPY, Op::Tanh),
        image(Loss::MSE),
        image(Loss::CROSS_ENTROPY),
    ]
}

/// Parameters larger than usual, so that curvatures spread.
fn parameters(network: &Network, seed: u64, gain: f32) -> Parameters {
    let mut parameters = network.initialize(seed);
    parameters.values_mut().iter_mut().for_each(|p| *p *= gain);
    parameters
}

/// The reference, v-hat and the targets.
fn reference(
    network: &Network,
    parameters: &Parameters,
    x: &[f32],
    y: &OwnedTargets,
) -> (Naive<f64>, Vec<Vec<f64>>, Vec<f64>) {
    let naive = Naive::<f64>::new(network, parameters);
    let x: Vec<f64> = x.iter().map(|&x| x.into()).collect();
    let hat = naive.forward(&x);
    (naive, hat, dense(y.view(), network.output_shape().iter().product()))
}

/// The largest eigenvalue of each sample's Hessian of the energy by the hidden beliefs at v-hat. Errors of hidden layers are
/// 0 there, so that second derivatives of activations enter through the last layer alone, which has none.
fn eigenvalues_by_beliefs(network: &Network, parameters: &Parameters, x: &[f32], y: &OwnedTargets) -> Vec<f64> {
    let (naive, hat, y) = reference(network, parameters, x, y);
    largest_eigenvalues(&hat, |moves| {
        let mut v = hat.clone();
        v.iter_mut().zip(moves).for_each(|(v, by)| v.iter_mut().zip(by).for_each(|(v, by)| *v += by));
        let errors = naive.errors(&v, &y);
        let pulled = naive.pulls(&v, &errors);
        pulled.iter().zip(&errors).map(|(p, e)| p.iter().zip(e).map(|(p, e)| p - e).collect()).collect()
    })
}

/// Likewise by the hidden errors, from epsilon = 0: of layers that are linear around v-hat.
fn eigenvalues_by_errors(network: &Network, parameters: &Parameters, x: &[f32], y: &OwnedTargets) -> Vec<f64> {
    let (naive, hat, y) = reference(network, parameters, x, y);
    let depth = naive.depth();
    largest_eigenvalues(&hat, |errors| {
        let mut v = vec![hat[0].clone()];
        for (l, errors) in errors.iter().enumerate().take(depth).skip(1) {
            v.push(naive.predict(l, &v).iter().zip(errors).map(|(f, error)| f - error).collect());
        }
        v.push(hat[depth].clone());
        let mut delta: Vec<Vec<f64>> = hat.iter().map(|v| vec![0.0; v.len()]).collect();
        delta[depth] = naive.errors(&v, &y)[depth].clone();
        for l in (1..depth).rev() {
            // Of the layers above alone.
            delta[l] = naive.pulls(&v, &delta)[l].clone();
        }
        let precision = |l: usize| network.layers().get(l.wrapping_sub(1)).map_or(1.0, |layer| layer.precision());
        let of_layer = |l: usize| errors[l].iter().zip(&delta[l]).map(move |(e, d)| precision(l) * e - d).collect();
        (0..=depth).map(of_layer).collect()
    })
}

/// The largest eigenvalue of each sample's dense matrix of central differences, in f64, of `gradient(moves)`: by what moves
/// the hidden layers of `hat`, at 0.
fn largest_eigenvalues(hat: &[Vec<f64>], gradient: impl Fn(&[Vec<f64>]) -> Vec<Vec<f64>>) -> Vec<f64> {
    let depth = hat.len() - 1;
    let sizes: Vec<usize> = hat.iter().map(|v| v.len() / SAMPLES).collect();
    // Columns of all samples at once: they do not depend on each other.
    let hidden: usize = sizes[1..depth].iter().sum();
    let mut hessians = vec![vec![0.0; hidden * hidden]; SAMPLES];
    let mut column = 0;
    const H: f64 = 1e-7;
    for l in 1..depth {
        for i in 0..sizes[l] {
            let moved = |by: f64| {
                let mut moves: Vec<Vec<f64>> = hat.iter().map(|v| vec![0.0; v.len()]).collect();
                (0..SAMPLES).for_each(|sample| moves[l][sample * sizes[l] + i] = by);
                gradient(&moves)
            };
            let (up, down) = (moved(H), moved(-H));
            for (sample, hessian) in hessians.iter_mut().enumerate() {
                let mut row = 0;
                for k in 1..depth {
                    for j in 0..sizes[k] {
                        let at = sample * sizes[k] + j;
                        hessian[row * hidden + column] = (up[k][at] - down[k][at]) / (2.0 * H);
                        row += 1;
                    }
                }
            }
            column += 1;
        }
    }
    hessians.iter().map(|hessian| top(hessian, hidden)).collect()
}

/// The largest eigenvalue of a positive semidefinite matrix: by a power of 2^20 of it, however near the others are.
fn top(matrix: &[f64], n: usize) -> f64 {
    let mut power = matrix.to_vec();
    for _ in 0..20 {
        let largest = power.iter().fold(0.0, |largest, value| f64::max(largest, value.abs()));
        power.iter_mut().for_each(|value| *value /= largest);
        let columns = |row: &[f64]| -> Vec<f64> {
            (0..n).map(|j| row.iter().zip(&power[j * n..]).map(|(a, b)| a * b).sum()).collect()
        };
        // Symmetric, so that rows are columns.
        power = power.chunks(n).flat_map(columns).collect();
    }
    let start: Vec<f64> = (0..n).map(|i| 1.0 + (i as f64 * 0.7).sin()).collect();
    let times = |matrix: &[f64], v: &[f64]| -> Vec<f64> {
        matrix.chunks(n).map(|row| row.iter().zip(v).map(|(a, v)| a * v).sum()).collect()
    };
    let norm = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>().sqrt();
    let v = times(&power, &start);
    norm(&times(matrix, &v)) / norm(&v)
}

#[test]
fn automatic_steps_are_those_of_the_dense_hessian() {
    let mut worst: f64 = 0.0;
    for (seed, network) in (0..).zip(networks()) {
        for gain in [1.0, 3.0] {
            let mut rng = random::generator(seed);
            let parameters = parameters(&network, seed, gain);
            let (x, y) = random::batch(&mut rng, &network, SAMPLES);
            let want = eigenvalues_by_beliefs(&network, &parameters, &x, &y);
            for form in forms() {
                let mut session = form.session(&network, SAMPLES, Strict::automatic(16, 3));
                let _ = session.infer(&parameters, &x, y.view());
                let descents: Vec<Descending> = session.descents().copied().collect();
                assert_eq!(descents.len(), SAMPLES);
                for (sample, (descent, want)) in descents.iter().zip(&want).enumerate() {
                    let found = descent.lambda_max.unwrap();
                    let off = found / want - 1.0;
                    worst = worst.max(off.abs());
                    assert!(off.abs() < 0.02, "{form}, network {seed}, gain {gain}, {sample}: {found}, not {want}");
                    assert!(descent.eta * found <= 1.8 * (1.0 + 1e-12), "eta {} for {found}", descent.eta);
                }
            }
        }
    }
    println!("lambda_max off by at most {worst:.1e}");
}

/// Linear layers, and layers that are linear around v-hat; with precisions of their own, or not.
fn linear_networks() -> Vec<Network> {
    let linear = |features| Op::Linear(Linear::new(features));
    let dense = |loss, activation: Op| {
        let layers = [9, 8, 6].map(|features| vec![linear(features), activation.clone()]);
        Network::new(&[5], loss, [&layers[..], &[vec![linear(3)]]].concat()).unwrap()
    };
    let conv = |channels| Op::Conv2d(Conv2d::new(channels, [3, 3]));
    let pooled = vec![conv(3), Op::Relu, Op::MaxPool2d(MaxPool2d::new([2, 2])), Op::Flatten];
    let image = Network::new(&[1, 8, 8], Loss::MSE, vec![vec![conv(2), Op::Relu], pooled, vec![linear(4)]]).unwrap();
    vec![
        dense(Loss::MSE, Op::Identity),
        dense(Loss::MSE.with_reduction(Reduction::Sum), Op::Identity),
        dense(Loss::CROSS_ENTROPY.with_reduction(Reduction::Sum), Op::Relu),
        dense(Loss::MSE.with_reduction(Reduction::Sum), Op::Relu).with_precision(1, 3.0).unwrap(),
        dense(Loss::MSE, Op::Identity).with_precision(2, 0.5).unwrap().with_precision(3, 4.0).unwrap(),
        image,
    ]
}

#[test]
fn automatic_steps_of_errors_are_those_of_the_dense_hessian() {
    let (mut worst, mut worst_of_one): (f64, f64) = (0.0, 0.0);
    for (seed, network) in (0..).zip(linear_networks()) {
        for gain in [1.0, 3.0] {
            let mut rng = random::generator(seed);
            let parameters = parameters(&network, seed, gain);
            let (x, y) = random::batch(&mut rng, &network, SAMPLES);
            let want = eigenvalues_by_errors(&network, &parameters, &x, &y);
            for form in forms() {
                let estimated = |products: usize| {
                    let mut session = form.session(&network, SAMPLES, ErrorBased::automatic(products, 3));
                    let _ = session.infer(&parameters, &x, y.view());
                    let descents: Vec<Descending> = session.descents().copied().collect();
                    assert_eq!(descents.len(), SAMPLES);
                    descents
                };
                for (sample, (descent, want)) in estimated(16).iter().zip(&want).enumerate() {
                    let found = descent.lambda_max.unwrap();
                    let off = found / want - 1.0;
                    worst = worst.max(off.abs());
                    assert!(off.abs() < 1e-3, "{form}, network {seed}, gain {gain}, {sample}: {found}, not {want}");
                    let share = descent.share_of_limit().unwrap();
                    assert!(share <= 0.9 * (1.0 + 1e-12), "{share} of the limit");
                }
                for (descent, want) in estimated(1).iter().zip(&want) {
                    // Where the one vector that all samples start from is far from a sample's own.
                    worst_of_one = worst_of_one.max((descent.lambda_max.unwrap() / want - 1.0).abs());
                }
            }
        }
    }
    println!("lambda_max off by at most {worst:.1e}, by one product {worst_of_one:.1e}");
}

#[test]
fn automatic_steps_of_errors_descend_where_given_ones_diverge() {
    for (seed, network) in (0..).zip(linear_networks()) {
        let parameters = parameters(&network, seed, 4.0);
        let (x, y) = random::batch(&mut random::generator(7), &network, SAMPLES);
        let mut given = Session::new(&network, SAMPLES, ErrorBased::new(4.5, 60), Options::default()).unwrap();
        assert!(matches!(given.infer(&parameters, &x, y.view()), Err(Error::Diverged(_))), "network {seed}");
        assert!(given.descents().any(|descent| descent.diverged && descent.share_of_limit().is_none()));
        for products in [1, 2, 16] {
            let method = ErrorBased::automatic(products, 60);
            let mut session = Session::new(&network, SAMPLES, method, Options::default()).unwrap();
            session.record_energies(true).unwrap();
            for _ in 0..3 {
                session.infer(&parameters, &x, y.view()).unwrap_or_else(|error| panic!("network {seed}: {error}"));
            }
            let energies = session.energies();
            assert!(energies[59] < energies[0], "network {seed}, {products} products: {energies:?}");
            assert!(session.descents().all(|descent| !descent.diverged && descent.share_of_limit() < Some(1.0)));
        }
    }
}

#[test]
fn the_curvature_that_given_steps_of_errors_meet_is_told_and_changes_nothing() {
    for (seed, network) in (0..).zip(linear_networks()) {
        let parameters = parameters(&network, seed, 1.0);
        let (x, y) = random::batch(&mut random::generator(7), &network, SAMPLES);
        let session = |method: ErrorBased| {
            let mut session = Session::new(&network, SAMPLES, method, Options::default()).unwrap();
            session.infer(&parameters, &x, y.view()).unwrap();
            session
        };
        let (plain, told) = (session(ErrorBased::new(0.1, 5)), session(ErrorBased::new(0.1, 5).with_curvature(16)));
        let automatic = session(ErrorBased::automatic(16, 5));
        assert_eq!(plain.gradients().values(), told.gradients().values(), "network {seed}");
        for (told, automatic) in told.descents().zip(automatic.descents()) {
            assert_eq!((told.eta, told.lambda_max), (0.1, automatic.lambda_max), "network {seed}");
            assert_eq!(told.share_of_limit(), automatic.lambda_max.map(|lambda_max| 0.05 * lambda_max));
        }
    }
}

#[test]
fn automatic_steps_are_the_same_on_any_number_of_threads() {
    const MANY: usize = 150;
    let network = &linear_networks()[2];
    let parameters = parameters(network, 2, 2.0);
    let (x, y) = random::batch(&mut random::generator(12), network, MANY);
    for method in [Method::from(Strict::automatic(2, 8)), ErrorBased::automatic(2, 8).into()] {
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut session = Session::new(network, MANY, &method, Options::default()).unwrap();
                session.infer(&parameters, &x, y.view()).unwrap();
                let steps: Vec<Descending> = session.descents().copied().collect();
                (steps, session.gradients().values().to_vec(), session.get(Quantity::Belief, 1).unwrap())
            })
        };
        assert!(on(1) == on(3), "{method:?}");
    }
}

/// Where a given step of 0.4 is far beyond what is stable.
#[test]
fn automatic_steps_descend_where_given_ones_diverge() {
    let network = &networks()[1];
    let parameters = parameters(network, 1, 4.0);
    let (x, y) = random::batch(&mut random::generator(7), network, SAMPLES);
    let mut given = Session::new(network, SAMPLES, Strict::new(0.4, 60), Options::default()).unwrap();
    assert!(matches!(given.infer(&parameters, &x, y.view()), Err(Error::Diverged(_))));
    assert!(given.descents().any(|descent| descent.diverged && descent.lambda_max.is_none()));
    for products in [1, 2, 16] {
        let method = Strict::automatic(products, 60);
        let mut session = Session::new(network, SAMPLES, method, Options::default()).unwrap();
        session.record_energies(true).unwrap();
        for _ in 0..3 {
            session.infer(&parameters, &x, y.view()).unwrap();
        }
        let energies = session.energies();
        assert!(energies[59] < energies[0] && session.descents().all(|descent| !descent.diverged));
    }
}

/// Whether a sample's step is chosen for itself alone: with others beside it, it is the same.
#[test]
fn automatic_steps_depend_on_no_other_sample() {
    let network = &networks()[3];
    let parameters = parameters(network, 3, 2.0);
    // The scale of the loss depends on how many samples there are; on which, nothing.
    let (x, y) = random::batch(&mut random::generator(8), network, SAMPLES);
    let (other, _) = random::batch(&mut random::generator(9), network, SAMPLES);
    let elements = x.len() / SAMPLES;
    let mixed: Vec<f32> = [&x[..elements], &other[elements..]].concat();
    for method in [Method::from(Strict::automatic(2, 8)), ErrorBased::automatic(2, 8).into()] {
        let first = |x: &[f32]| {
            let mut session = Session::new(network, SAMPLES, &method, Options::default()).unwrap();
            session.infer(&parameters, x, y.view()).unwrap();
            session.descents().copied().next().unwrap()
        };
        assert_eq!(first(&x), first(&mixed), "{method:?}");
    }
}

#[test]
fn settled_samples_stay_where_they_are() {
    for network in networks() {
        let parameters = parameters(&network, 5, 1.0);
        let (x, y) = random::batch(&mut random::generator(11), &network, SAMPLES);
        let infer = |iterations: usize, tolerance: Option<f64>| {
            let method = Strict::new(0.2, iterations).with_tolerance(tolerance);
            let mut session = Session::new(&network, SAMPLES, method, Options::default()).unwrap();
            session.infer(&parameters, &x, y.view()).unwrap();
            session
        };
        let settled = infer(400, Some(1e-2));
        let used: Vec<usize> = settled.descents().map(|descent| descent.iterations).collect();
        let layers = network.layers().len();
        assert!(used.iter().all(|&used| used + 1 >= layers), "{used:?}");
        assert!(used.iter().any(|&used| used < 400), "nothing settled: {used:?}");
        // Each sample is where plain iterations take it, as many as it used.
        for (sample, &used) in used.iter().enumerate() {
            let plain = infer(used, None);
            for layer in 1..layers {
                let elements = plain.elements(layer);
                let place = sample * elements..(sample + 1) * elements;
                assert_eq!(
                    settled.get(Quantity::Deviation, layer).unwrap()[place.clone()],
                    plain.get(Quantity::Deviation, layer).unwrap()[place]
                );
            }
        }
    }
}

/// The energy of each sample where a session left it, in f64, and the norm of its gradient by the hidden beliefs.
fn ends(session: &Session, network: &Network, parameters: &Parameters, x: &[f32], y: &OwnedTargets) -> Vec<[f64; 2]> {
    let naive = Naive::<f64>::new(network, parameters);
    let x: Vec<f64> = x.iter().map(|&x| x.into()).collect();
    let y: Vec<f64> = dense(y.view(), network.output_shape().iter().product());
    let mut v = naive.forward(&x);
    let depth = naive.depth();
    for layer in 1..depth {
        let deviation = session.get(Quantity::Deviation, layer).unwrap();
        v[layer].iter_mut().zip(deviation).for_each(|(v, u)| *v += f64::from(u));
    }
    let errors = naive.errors(&v, &y);
    let pulled = naive.pulls(&v, &errors);
    let mut squares = [0.0; SAMPLES];
    for layer in 1..depth {
        for (i, (pulled, error)) in pulled[layer].iter().zip(&errors[layer]).enumerate() {
            squares[i * SAMPLES / v[layer].len()] += (pulled - error).powi(2);
        }
    }
    naive.energy(&v, &y).into_iter().zip(squares).map(|(energy, square)| [energy, square.sqrt()]).collect()
}

/// Sweeps end where thousands of small steps end: with an energy as low, and if there are no kinks, with a
/// gradient that is gone.
#[test]
fn sweeps_end_at_the_equilibrium() {
    for (seed, network) in (0..).zip(networks()) {
        let parameters = parameters(&network, seed, 1.5);
        let (x, y) = random::batch(&mut random::generator(seed + 20), &network, SAMPLES);
        let infer = |method: Strict| {
            let mut session = Session::new(&network, SAMPLES, method, Options::default()).unwrap();
            session.infer(&parameters, &x, y.view()).unwrap();
            session
        };
        let swept = infer(Strict::sweeps(60).with_tolerance(Some(1e-5)));
        let stepped = infer(Strict::new(0.1, 6000));
        let begun = infer(Strict::new(1e-12, 1));
        let of = |session: &Session| ends(session, &network, &parameters, &x, &y);
        let smooth = network.layers()[0].ops().contains(&Op::Tanh);
        for (sample, ((swept, stepped), begun)) in of(&swept).iter().zip(of(&stepped)).zip(of(&begun)).enumerate() {
            let what = format!("network {seed}, sample {sample}: {swept:?}, {stepped:?} by steps, {begun:?} at first");
            // Of what the steps have taken off the energy, no more than a thousandth is left.
            assert!(swept[0] - stepped[0] <= 1e-3 * (begun[0] - stepped[0]) + 1e-9 * begun[0], "{what}");
            assert!(!smooth || swept[1] <= 1e-4 * begun[1], "{what}");
        }
        let most = swept.descents().map(|descent| descent.iterations).max().unwrap();
        println!("network {seed}: at most {most} sweeps");
        assert!(!smooth || most <= 20, "{most} sweeps");
    }
}

/// Weights so large that plain steps blow up: no energy ends above its start.
#[test]
fn sweeps_never_climb() {
    for (seed, network) in (0..).zip(networks()) {
        let parameters = parameters(&network, seed, 6.0);
        let (x, y) = random::batch(&mut random::generator(seed + 40), &network, SAMPLES);
        let at = |iterations: usize| {
            let method = Strict::sweeps(iterations);
            let mut session = Session::new(&network, SAMPLES, method, Options::default()).unwrap();
            session.infer(&parameters, &x, y.view()).expect("what climbs goes back");
            ends(&session, &network, &parameters, &x, &y)
        };
        let mut stepper = Session::new(&network, SAMPLES, Strict::new(1e-12, 1), Options::default()).unwrap();
        stepper.infer(&parameters, &x, y.view()).unwrap();
        let begun = ends(&stepper, &network, &parameters, &x, &y);
        for iterations in [1, 2, 3, 5, 10] {
            for (sample, (end, begun)) in at(iterations).iter().zip(&begun).enumerate() {
                assert!(
                    end[0] <= begun[0] * (1.0 + 2e-5),
                    "network {seed}, {iterations} sweeps, {sample}: {end:?}, {begun:?}"
                );
            }
        }
    }
}

#[test]
fn numbers_that_make_no_sense_are_refused() {
    let network = &networks()[0];
    let strict = Strict::new(0.1, 5);
    let refused = Session::new(network, 4, ErrorBased::automatic(0, 5), Options::default()).unwrap_err().to_string();
    assert!(refused.contains("expected 1 to 4096"), "{refused}");
    for (method, expected) in [
        (Strict::automatic(0, 5), "expected 1 to 4096"),
        (strict.clone().with_tolerance(Some(0.0)), "above 0"),
        (strict.with_tolerance(Some(f64::NAN)), "above 0"),
        (Strict::sweeps(0), "expected at least 1"),
    ] {
        let error = Session::new(network, 4, method, Options::default()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
