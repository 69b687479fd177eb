//! The golden cases of `golden/`, computed in float64 by PyTorch and stored in float32: four networks with 18 runs by an
//! implementation that equals Torch2PC to the last bit in float32, and eight with losses that are sums, precisions, the
//! rules beyond the paper, branches, normalisations, decoders and free inputs by the derivatives of one energy.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use predictive_coding::{
    Adam, Algorithm, Conditions, ErrorBased, FreeInput, Incremental, Method, Network, Nudge, Optimizer, Parameters,
    Sgd, Solver, Strict,
};
use predictive_coding_reference::compare::{self, BOUND, Tensors, widen};
use predictive_coding_reference::levels::{all_forms, ways};
use predictive_coding_reference::methods::fixed;
use predictive_coding_reference::naive::{Naive, dense};
use predictive_coding_reference::random::OwnedTargets;
use safetensors::SafeTensors;
use serde_json::Value;

const CASES: [&str; 12] = [
    "mnist_cross_entropy",
    "mnist_mse",
    "cifar_narrow",
    "mlp_tanh",
    "rules_conv",
    "rules_mlp",
    "skips",
    "mupc",
    "norms",
    "generative",
    "generative_masked",
    "partly_clamped_input",
];
const RUNS: usize = 58;
/// Those of incremental, which have parameters instead of gradients.
const INCREMENTAL_RUNS: usize = 5;
/// Those with a mask of the input or of the targets.
const MASKED_RUNS: usize = 5;
/// Those of fixed-prediction, which can be iterated as well.
const FIXED_PREDICTION_RUNS: usize = 13;

struct Case {
    name: &'static str,
    network: Network,
    parameters: Parameters,
    x: Vec<f32>,
    y: OwnedTargets,
    mask: Option<Vec<f32>>,
    input_mask: Option<Vec<f32>>,
    runs: Vec<Run>,
}

struct Run {
    name: String,
    method: Method,
    /// Optimizer of the parameters and its learning rate, for incremental.
    optimizer: Option<(String, f64)>,
    expected: Tensors,
}

impl Case {
    fn conditions(&self, method: &Method) -> Conditions<'_> {
        let conditions = self.mask.iter().fold(Conditions::default(), |conditions, mask| conditions.with_mask(mask));
        let free = matches!(method, Method::Strict(strict) if strict.free_input.is_some());
        let input_mask = self.input_mask.iter().filter(|_| free);
        input_mask.fold(conditions, |conditions, mask| conditions.with_input_mask(mask))
    }
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn i64s(bytes: &[u8]) -> Vec<i64> {
    bytes.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect()
}

fn load(name: &'static str) -> Case {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let read = |file: &str| fs::read(folder.join(file)).unwrap();
    let case: Value = serde_json::from_slice(&read("case.json")).unwrap();
    let path = |key: &str| folder.join(case[key].as_str().unwrap());
    let network = Network::from_file(path("model")).unwrap();
    let parameters = Parameters::load(&network, path("weights")).unwrap();
    let batch = read(case["batch"].as_str().unwrap());
    let batch = SafeTensors::deserialize(&batch).unwrap();
    let y = batch.tensor("y").unwrap();
    let y = match y.dtype() {
        safetensors::Dtype::I64 => OwnedTargets::Labels(i64s(y.data())),
        _ => OwnedTargets::Values(f32s(y.data())),
    };
    let run = |run: &Value| {
        let expected = read(run["expected"].as_str().unwrap());
        let expected = SafeTensors::deserialize(&expected).unwrap();
        let (eta, iterations) = (run["eta"].as_f64().unwrap(), run["iterations"].as_u64().unwrap() as usize);
        let momentum =
            |nesterov| Solver::Momentum { eta: eta.into(), momentum: run["momentum"].as_f64().unwrap(), nesterov };
        let method = match run["method"].as_str().unwrap() {
            "exact" => Method::Exact,
            "fixed-prediction" => fixed(eta, iterations),
            "error-based" => ErrorBased::new(eta, iterations).into(),
            "incremental" => Incremental::new(eta, iterations).into(),
            "strict" => {
                let solver = match run["optimizer"].as_str() {
                    None => Solver::Steps(eta.into()),
                    Some("momentum") => momentum(false),
                    Some("nesterov") => momentum(true),
                    Some("adam") => Solver::Adam(eta.into()),
                    Some(other) => panic!("optimizer {other}"),
                };
                let centred = run["centred"].as_bool().unwrap_or(false);
                let nudge = run["nudge"].as_f64().map(|beta| Nudge::new(beta).with_centred(centred));
                let fresh = run["fresh"].as_bool().unwrap_or(false);
                let precision = run["input_precision"].as_f64().unwrap_or(0.0);
                let free_input = run["free_input"].as_bool().map(|_| FreeInput::default().with_precision(precision));
                let strict = Strict::by(solver, iterations).with_nudge(nudge).with_fresh_errors(fresh);
                strict.with_free_input(free_input).into()
            }
            other => panic!("method {other}"),
        };
        Run {
            name: run["expected"].as_str().unwrap().to_string(),
            method,
            optimizer: run["parameters"].as_str().map(|name| (name.to_string(), run["lr"].as_f64().unwrap())),
            expected: expected.iter().map(|(name, t)| (name.to_string(), widen(&f32s(t.data())))).collect(),
        }
    };
    let runs = case["runs"].as_array().unwrap().iter().map(run).collect();
    let mask = |name: &str| batch.tensor(name).ok().map(|mask| f32s(mask.data()));
    let (mask, input_mask) = (mask("mask"), mask("input_mask"));
    Case { name, network, parameters, x: f32s(batch.tensor("x").unwrap().data()), y, mask, input_mask, runs }
}

/// The tensors that a step on this network has, and no others, so that none goes unchecked.
fn assert_complete(case: &Case, run: &Run) {
    let last = case.network.layers().len();
    let expected: HashMap<_, _> = run.expected.iter().map(|(name, values)| (name.as_str(), values)).collect();
    let free = matches!(&run.method, Method::Strict(strict) if strict.free_input.is_some());
    let beliefs = last - 1 + usize::from(free);
    let trained = case.network.parameters().iter().filter(|spec| spec.role.is_trained()).count();
    assert_eq!(expected.len(), 1 + 2 * last + 2 * beliefs + trained, "{}", run.name);
}

#[test]
fn the_reference_reproduces_every_golden_run() {
    let mut runs = 0;
    for case in CASES.map(load) {
        let outputs = case.network.output_shape().iter().product();
        let naive = Naive::<f64>::new(&case.network, &case.parameters);
        // Masks are not part of the reference.
        let masked = case.mask.is_some() || case.input_mask.is_some();
        for run in case.runs.iter().filter(|run| run.optimizer.is_none() && !masked) {
            assert_complete(&case, run);
            let step = naive.step(&run.method, &widen(&case.x), &dense(case.y.view(), outputs), &[]);
            let (error, tensor) = compare::worst(&compare::of_step(&step, &case.network), &run.expected);
            println!("{}/{}: {error:.1e} at {tensor}", case.name, run.name);
            // The expected values are rounded to f32.
            assert!(error < 1.2e-7, "{}/{}: {error:.1e} at {tensor}", case.name, run.name);
            runs += 1;
        }
    }
    assert_eq!(runs, RUNS - MASKED_RUNS);
}

#[test]
fn the_library_reproduces_every_golden_run() {
    for form in all_forms() {
        let (mut runs, mut literal_runs) = (0, 0);
        for case in CASES.map(load) {
            // There, pooling windows that see nothing but zeros hold equal values, which Winograd's rounding tells apart.
            if case.name == "norms" && form.convolution == Algorithm::Winograd {
                runs += case.runs.len();
                literal_runs += 1;
                continue;
            }
            let samples = case.x.len() / case.network.input_shape().iter().product::<usize>();
            for run in case.runs.iter().filter(|run| run.optimizer.is_none()) {
                let results = ways(&run.method).into_iter().map(|method| {
                    let mut session = form.session(&case.network, samples, &method);
                    session.infer_with(&case.parameters, &case.x, case.y.view(), case.conditions(&method)).unwrap();
                    let got = compare::of_session(&session, &case.network);
                    let what = format!("{form} {}/{}, {method:?}", case.name, run.name);
                    let (error, tensor) = compare::worst(&got, &run.expected);
                    println!("{what}: {error:.1e} at {tensor}");
                    assert!(error <= BOUND, "{what}: {error:.1e} at {tensor}");
                    got
                });
                let results: Vec<Tensors> = results.collect();
                runs += 1;
                if let [usual, literal] = &results[..] {
                    let (error, tensor) = compare::worst(literal, usual);
                    let what = format!("{form} {}/{}, literal against usual", case.name, run.name);
                    println!("{what}: {error:.1e} at {tensor}");
                    assert!(error <= BOUND, "{what}: {error:.1e} at {tensor}");
                    literal_runs += 1;
                }
            }
        }
        assert_eq!((runs, literal_runs), (RUNS, FIXED_PREDICTION_RUNS));
    }
}

#[test]
fn the_library_reproduces_every_golden_run_of_incremental() {
    for form in all_forms() {
        let mut runs = 0;
        for case in CASES.map(load) {
            let samples = case.x.len() / case.network.input_shape().iter().product::<usize>();
            for run in &case.runs {
                let Some((name, lr)) = &run.optimizer else { continue };
                assert_complete(&case, run);
                let mut parameters = case.parameters.clone();
                let mut optimizer: Box<dyn Optimizer> = match &name[..] {
                    "sgd" => Box::new(Sgd::new(&parameters, *lr)),
                    "adam" => Box::new(Adam::new(&parameters, *lr)),
                    other => panic!("optimizer {other}"),
                };
                let mut session = form.session(&case.network, samples, &run.method);
                session.learn(&mut parameters, &mut *optimizer, &case.x, case.y.view()).unwrap();
                let mut got = compare::of_session(&session, &case.network);
                got.extend(parameters.iter().map(|(spec, values)| (format!("parameter.{}", spec.name), widen(values))));
                let (error, tensor) = compare::worst(&got, &run.expected);
                let what = format!("{form} {}/{}: {error:.1e} at {tensor}", case.name, run.name);
                println!("{what}");
                assert!(error <= BOUND, "{what}");
                runs += 1;
            }
        }
        assert_eq!(runs, INCREMENTAL_RUNS);
    }
}
