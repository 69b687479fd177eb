//! The library against the reference on random networks, at every SIMD level.

use std::ops::Range;

use predictive_coding::{Conv2d, Error, Linear, Loss, MaxPool2d, Method, Network, Op, Quantity, Solver, Strict};
use predictive_coding_reference::case::Case;
use predictive_coding_reference::compare::{self, BOUND, relative_error, widen};
use predictive_coding_reference::judge::{CONDITIONING, Expected, Judge, assert_outcome, energies, sessions};
use predictive_coding_reference::levels::{forms, ways};
use predictive_coding_reference::methods::{fixed, strict};
use predictive_coding_reference::naive::Begin;
use predictive_coding_reference::random::{self, OwnedTargets};
use rand::RngExt;

/// Random networks, methods and batches.
const CASES: u64 = 1000;

#[test]
fn random_networks_give_what_the_reference_gives() {
    let forms = forms();
    let judged = |seeds: Range<u64>| {
        let mut judge = Judge::default();
        for seed in seeds {
            let mut rng = random::generator(seed);
            let network = random::network(&mut rng);
            let method = random::method(&mut rng);
            let batch = rng.random_range(1..=40);
            let full = Case::random(&mut rng, &network, &method, batch);
            let smaller = rng.random_range(1..=batch);
            let last = full.with_batch(&mut rng, smaller).with_random_begin(&mut rng);
            let mut sessions = sessions(&network, batch, &method, &forms);
            let [of_full, of_last] = [&full, &last].map(|case| Expected::of(case, &mut rng));
            // The full batch again, so that nothing is left over from the smaller one.
            for (case, expected) in [(&full, &of_full), (&last, &of_last), (&full, &of_full)] {
                judge.compare(case, expected, &mut sessions, &mut rng, &format!("case {seed}"));
            }
        }
        judge
    };
    let halves = [0..CASES / 2, CASES / 2..CASES];
    let [one, other] = std::thread::scope(|scope| {
        let threads = halves.map(|seeds| scope.spawn(|| judged(seeds)));
        threads.map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let (judged, skipped) = (one.judged + other.judged, one.skipped + other.skipped);
    println!("{judged} tensors judged, {skipped} skipped");
    assert!(judged > 50 * skipped, "{judged} tensors judged, {skipped} skipped");
}

/// Rows of a convolution behind the last window of the pooling, more than a band of them.
#[test]
fn rows_that_no_window_reads() {
    let mut judge = Judge::default();
    for (height, pool) in [(22, 4), (23, 4), (26, 5), (19, 3), (18, 4)] {
        let pool = Op::MaxPool2d(MaxPool2d::new([pool; 2]));
        let layers = vec![
            vec![Op::Conv2d(Conv2d::new(3, [1; 2])), Op::Tanh],
            vec![Op::Conv2d(Conv2d::new(24, [3; 2])), Op::Relu, pool],
            vec![Op::Flatten, Op::Linear(Linear::new(3))],
        ];
        let network = Network::new(&[2, height, 44], Loss::MSE, layers).unwrap();
        let mut rng = random::generator(height as u64);
        let case = Case::random(&mut rng, &network, strict(0.1, 4), 3);
        let mut sessions = sessions(&network, 3, &case.method, &forms());
        judge.step(&case, &mut sessions, &mut rng, &format!("height {height}"));
    }
    assert!(judge.judged > 10 * judge.skipped, "{judge:?}");
}

/// One tap and one output pixel are a matrix product if that is all of the input, and are none if it is one of
/// several pixels or padding.
#[test]
fn convolutions_to_one_pixel() {
    let mut judge = Judge::default();
    for (size, stride, padding) in [(1, 1, 0), (2, 2, 0), (3, 3, 0), (1, 3, 1), (2, 4, 1)] {
        let conv = |size: usize, stride, padding| {
            let padding = [padding; 2];
            Op::Conv2d(Conv2d::new(7, [size; 2]).with_stride([stride; 2]).with_padding(padding))
        };
        let layers = vec![
            vec![conv(1, 1, 0), Op::Tanh],
            vec![conv(1, stride, padding), Op::Silu],
            vec![conv(1, 1, 0), Op::Flatten],
        ];
        let network = Network::new(&[3, size, size], Loss::MSE, layers).unwrap();
        let mut rng = random::generator(size as u64);
        for method in [Method::Exact, strict(0.1, 4)] {
            let case = Case::random(&mut rng, &network, &method, 19);
            let mut sessions = sessions(&network, 19, &method, &forms());
            judge.step(&case, &mut sessions, &mut rng, &format!("{size} pixels, stride {stride}, padding {padding}"));
        }
    }
    assert_eq!(judge.skipped, 0);
}

/// Rounding does not add up over layers and iterations. With kinks, as ReLU has, it decides where a unit that comes to
/// rest on one stands: perturbed by 1e-7, float64 itself then changes by more than 1e-5.
#[test]
fn many_iterations_of_deep_networks_keep_their_digits() {
    for (depth, activation) in [(9, Op::Tanh), (16, Op::Silu)] {
        let conv = |channels| Op::Conv2d(Conv2d::new(channels, [3, 3]).with_padding([1, 1]));
        let mut layers: Vec<_> = (0..depth - 3).map(|i| vec![conv(5 + i % 3), activation.clone()]).collect();
        layers.push(vec![Op::Flatten, Op::Linear(Linear::new(20)), activation.clone()]);
        layers.push(vec![Op::Linear(Linear::new(20)), activation.clone()]);
        layers.push(vec![Op::Linear(Linear::new(10))]);
        let network = Network::new(&[3, 6, 6], Loss::MSE, layers).unwrap();
        let method = strict(0.1, 200);
        let case = Case::random(&mut random::generator(depth as u64), &network, &method, 3);
        let want = case.tensors(&case.reference());
        for form in forms() {
            let mut session = form.session(&network, 3, &method);
            case.infer(&mut session).unwrap();
            let (error, tensor) = compare::worst(&case.results(&session), &want);
            assert!(error <= BOUND, "{form}, {depth} layers of {activation:?}: {error:.1e} at {tensor}");
        }
    }
}

#[test]
fn the_convention_of_2022_is_its_formulas() {
    let mut judge = Judge::default();
    for seed in 0..150 {
        let mut rng = random::generator(seed);
        let network = random::network(&mut rng);
        // With smaller steps the lower errors come to the order of what float64 rounds off the beliefs.
        let eta = [0.1, 0.3][seed as usize % 2];
        let method = Method::from(Strict::by(Solver::Published2022(eta.into()), rng.random_range(1..=12)));
        let samples = rng.random_range(1..=40);
        let case = Case::random(&mut rng, &network, &method, samples);
        let mut sessions = sessions(&network, samples, &method, &forms());
        judge.step(&case, &mut sessions, &mut rng, &format!("case {seed}"));
    }
    let Judge { judged, skipped } = judge;
    assert!(judged > 10 * skipped, "{judged} tensors judged, {skipped} skipped");
}

/// Of the literal iteration and of the scalars that stand for it, on the same forward pass.
#[test]
fn fixed_prediction_iterated_is_backpropagation_times_its_shares() {
    let (mut judged, mut skipped, mut differ) = (0, 0, false);
    for seed in 0..150 {
        let mut rng = random::generator(seed);
        let network = random::network(&mut rng);
        let iterations = rng.random_range(1..=25);
        // Farther above 1 the iteration swings, and what it adds up in float32 cancels.
        let eta = [0.02, 0.1, 0.6, 1.0, 1.1][seed as usize % 5];
        let method = fixed(eta, iterations);
        let samples = rng.random_range(1..=40);
        let case = Case::random(&mut rng, &network, &method, samples);
        for form in forms() {
            let results = ways(&method).into_iter().map(|method| {
                let mut session = form.session(&network, samples, method);
                case.infer(&mut session).unwrap();
                case.results(&session)
            });
            let results: Vec<_> = results.collect();
            let [usual, literal] = &results[..] else { panic!("{} ways, expected 2", results.len()) };
            differ |= usual != literal;
            let pairs = usual.iter().zip(literal);
            let off: Vec<_> =
                pairs.map(|((name, usual), (_, literal))| (relative_error(literal, usual), name)).collect();
            judged += off.len();
            if off.iter().all(|(error, _)| *error <= BOUND) {
                continue;
            }
            let conditioning = case.conditioning(&case.tensors(&case.reference()), &mut rng);
            for ((error, name), conditioning) in off.iter().zip(conditioning).filter(|((error, _), _)| *error > BOUND) {
                let what = format!("{form} case {seed}, {method:?}: {error:.1e} in {name}");
                assert!(conditioning > CONDITIONING, "{what}, conditioning {conditioning:.1e}, {network:?}");
                skipped += 1;
            }
        }
    }
    assert!(differ, "nothing was iterated: all bits are the same");
    assert!(judged > 50 * skipped, "{judged} tensors judged, {skipped} skipped");
}

/// Quantised values meet at ties of a pool and at the kinks of ReLU and leaky ReLU, where the first
/// element wins and the slope is that of the negative side.
#[test]
fn ties_and_kinks_are_decided_as_in_the_reference() {
    let pool = MaxPool2d::new([3, 2]).with_stride([1, 2]).with_padding([1, 1]);
    let elementwise = [Op::Relu, Op::LeakyRelu { negative_slope: 0.5 }, Op::LeakyRelu { negative_slope: -2.0 }];
    for form in forms() {
        for samples in [1, 5, 33] {
            for op in elementwise.iter().chain([&Op::MaxPool2d(pool.clone())]) {
                for method in [Method::Exact, strict(0.25, 3)] {
                    let network = Network::new(&[2, 6, 5], Loss::MSE, vec![vec![], vec![op.clone()], vec![]]).unwrap();
                    let mut rng = random::generator(1);
                    let outputs: usize = network.output_shape().iter().product();
                    let mut quantised =
                        |count| (0..count).map(|_| rng.random_range(-2i8..=2).into()).collect::<Vec<f32>>();
                    let case = Case {
                        parameters: network.initialize(0),
                        x: quantised(samples * 60),
                        y: OwnedTargets::Values(quantised(samples * outputs)),
                        begin: vec![],
                        network,
                        method: method.clone(),
                    };
                    let what = format!("{form} {op:?}, {method:?}, {samples} samples");
                    let step = case.reference();
                    let mut session = form.session(&case.network, samples, &method);
                    let result = case.infer(&mut session);
                    assert_outcome(result, &session, &step, &what);
                    let (error, tensor) = compare::worst(&case.results(&session), &case.tensors(&step));
                    assert!(error <= BOUND, "{what}: {error:.1e} at {tensor}");
                }
            }
        }
    }
}

/// A strict relaxation whose energy climbs from its second iteration on.
fn climbing() -> Case {
    let layers = (0..4).map(|_| vec![Op::Linear(Linear::new(9)), Op::SOFTPLUS]).collect();
    let network = Network::new(&[7], Loss::MSE, layers).unwrap();
    Case::random(&mut random::generator(1), &network, strict(2.2, 12), 6)
}

#[test]
fn a_divergence_names_where_it_began_and_leaves_the_state_readable() {
    for form in forms() {
        let case = climbing();
        let step = case.reference();
        let mut session = form.session(&case.network, 6, &case.method);
        session.record_energies(true).unwrap();
        let Err(Error::Diverged(divergence)) = case.infer(&mut session) else { panic!("{form}: no divergence") };
        let (iteration, sample) = (divergence.iteration, divergence.sample);
        let climbed = |i: usize, sample: usize| step.energies[i - 1][sample] / step.energies[0][sample];
        assert!(climbed(iteration, sample) > 1.0, "{form}: {divergence:?}");
        for earlier in 1..iteration {
            for sample in 0..6 {
                assert!(climbed(earlier, sample) < 1.001, "{form}: {divergence:?}, but sample {sample} at {earlier}");
            }
        }
        let there = Case { method: strict(2.2, iteration), ..case.clone() }.reference();
        let norm = |l: &usize| {
            let size = there.errors[*l].len() / 6;
            there.errors[*l][sample * size..][..size].iter().map(|e| e * e).sum::<f64>()
        };
        let largest = (1..=4).max_by(|a, b| norm(a).total_cmp(&norm(b))).unwrap();
        assert_eq!(divergence.layer, largest, "{form}");
        let got = case.results(&session);
        let (error, tensor) = compare::worst(&got, &case.tensors(&step));
        assert!(error <= BOUND, "{form}: {error:.1e} at {tensor}");
        assert!(relative_error(session.energies(), &energies(&step)) <= BOUND, "{form}: {:?}", session.energies());
        // The session goes on with the next batch.
        let calm = case.with_batch(&mut random::generator(2), 3);
        let _ = calm.infer(&mut session);
        assert_eq!(session.samples(), 3);
    }
}

#[test]
fn a_relaxation_that_overflows_is_a_divergence() {
    for form in forms() {
        let case = Case { method: strict(1e30, 8), ..climbing() };
        let mut session = form.session(&case.network, 6, &case.method);
        let result = case.infer(&mut session);
        assert!(matches!(result, Err(Error::Diverged(_))), "{form}: {result:?}");
        assert!(session.get(Quantity::Activation, 4).unwrap().iter().all(|v| v.is_finite()), "{form}");
        assert!(session.get(Quantity::Belief, 3).unwrap().iter().any(|v| !v.is_finite()), "{form}");
    }
}

#[test]
fn a_stable_relaxation_has_not_diverged() {
    for form in forms() {
        let case = Case { method: strict(0.1, 3000), ..climbing() };
        let mut session = form.session(&case.network, 6, &case.method);
        session.record_energies(true).unwrap();
        case.infer(&mut session).unwrap_or_else(|error| panic!("{form}: {error}"));
        let energies = session.energies().to_vec();
        assert_eq!(energies.len(), 3000);
        assert!(energies[2999] < energies[0], "{form}: {} to {}", energies[0], energies[2999]);
        assert!(energies.windows(2).all(|pair| pair[1] <= pair[0] * (1.0 + 1e-6)), "{form}: {energies:?}");
        // From where it ended there is nothing left but rounding.
        let beliefs: Vec<_> = (1..4).map(|l| Begin::Belief(session.get(Quantity::Belief, l).unwrap())).collect();
        let settled = Case { begin: beliefs, ..case.clone() };
        settled.infer(&mut session).unwrap_or_else(|error| panic!("{form}: {error}"));
        // Nor is there where the prediction is the target.
        let output = session.get(Quantity::Activation, 4).unwrap();
        let satisfied = Case { y: OwnedTargets::Values(output), ..case };
        satisfied.infer(&mut session).unwrap_or_else(|error| panic!("{form}: {error}"));
    }
}

#[test]
fn energies_are_recorded_only_on_request() {
    let case = climbing();
    for form in forms() {
        let mut session = form.session(&case.network, 6, &case.method);
        let _ = case.infer(&mut session);
        assert!(session.energies().is_empty());
        session.record_energies(true).unwrap();
        let _ = case.infer(&mut session);
        assert_eq!(session.energies().len(), 12);
        session.record_energies(false).unwrap();
        let _ = case.infer(&mut session);
        assert!(session.energies().is_empty());
    }
}

#[test]
fn the_forward_pass_alone_gives_loss_and_activations() {
    let case = climbing();
    let step = case.reference();
    for form in forms() {
        let mut session = form.session(&case.network, 6, Method::Exact);
        let loss = session.forward(&case.parameters, &case.x, case.y.view()).unwrap();
        assert!(relative_error(&[loss.into()], &[step.loss]) <= BOUND, "{form}: {loss}");
        for l in 1..=4 {
            let got = widen(&session.get(Quantity::Activation, l).unwrap());
            assert!(relative_error(&got, &step.activations[l]) <= BOUND, "{form}, layer {l}");
        }
    }
}

/// What a sample's relaxation gives is its own: at any place of a batch of the same size, and beside any
/// others, even such as overflow, it has the same bits.
#[test]
fn samples_are_independent() {
    for form in forms() {
        for seed in 0..30 {
            let mut rng = random::generator(seed);
            let network = random::network(&mut rng);
            let samples = rng.random_range(2..40);
            let kept = rng.random_range(0..samples);
            let methods = [Method::Exact, fixed(0.1, 6), strict(0.1, 6)];
            let method = ways(&methods[seed as usize % 3]).pop().unwrap();
            let case = Case::random(&mut rng, &network, &method, samples);
            let bits_of = |case: &Case, sample: usize| {
                let mut session = form.session(&network, samples, &method);
                let result = case.infer(&mut session);
                assert!(matches!(result, Ok(_) | Err(Error::Diverged(_))), "{form} case {seed}: {result:?}");
                let last = network.layers().len();
                let quantities = [Quantity::Activation, Quantity::Error, Quantity::Deviation, Quantity::Belief];
                let mut bits: Vec<u32> = vec![];
                for (q, quantity) in quantities.into_iter().enumerate() {
                    for l in 1..=if q < 2 { last } else { last - 1 } {
                        let size = session.elements(l);
                        bits.extend(
                            session.get(quantity, l).unwrap()[sample * size..][..size].iter().map(|v| v.to_bits()),
                        );
                    }
                }
                bits
            };
            let want = bits_of(&case, kept);
            let size = case.x.len() / samples;
            for neighbour in [0.5, f32::MAX, -f32::MAX] {
                let mut other = case.clone();
                for (sample, x) in other.x.chunks_mut(size).enumerate() {
                    if sample != kept {
                        x.fill(neighbour);
                    }
                }
                let got = bits_of(&other, kept);
                assert!(got == want, "{form} case {seed}: sample {kept} beside {neighbour}, {network:#?}");
            }
            for place in [0, samples / 2, samples - 1] {
                let mut other = case.clone();
                (0..size).for_each(|i| other.x.swap(kept * size + i, place * size + i));
                match &mut other.y {
                    OwnedTargets::Labels(labels) => labels.swap(kept, place),
                    OwnedTargets::Values(values) => {
                        let outputs = values.len() / samples;
                        (0..outputs).for_each(|i| values.swap(kept * outputs + i, place * outputs + i));
                    }
                }
                let got = bits_of(&other, place);
                assert!(got == want, "{form} case {seed}: sample {kept} of {samples} at {place}, {network:#?}");
            }
        }
    }
}
