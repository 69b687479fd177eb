//! `infer`: what it writes, and that it is what the equations say.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::common::{Folder, csv, tensors};

const STRICT: [&str; 4] = ["--eta", "0.1", "--iterations", "10"];

type Tensors = HashMap<String, (Vec<usize>, Vec<f32>)>;

fn infer(folder: &Folder, method: &str, more: &[&str]) -> Tensors {
    let output = folder.name("output.safetensors");
    folder.infer(method, &[more, &["--output", &output]].concat()).succeeded();
    tensors(&folder.path("output.safetensors"))
        .into_iter()
        .map(|(name, shape, values)| (name, (shape, values)))
        .collect()
}

#[test]
fn every_quantity_is_there_in_its_own_shape() {
    let folder = Folder::with_model(7);
    for (method, more) in [("exact", &[][..]), ("fixed-prediction", &STRICT), ("strict", &STRICT)] {
        let found = infer(&folder, method, more);
        let mut shapes: Vec<(&str, &[usize])> =
            found.iter().map(|(name, (shape, _))| (name.as_str(), shape.as_slice())).collect();
        shapes.sort();
        assert_eq!(
            shapes,
            [
                ("activation.1", &[7, 2, 2, 3][..]),
                ("activation.2", &[7, 6]),
                ("activation.3", &[7, 3]),
                ("belief.1", &[7, 2, 2, 3]),
                ("belief.2", &[7, 6]),
                ("deviation.1", &[7, 2, 2, 3]),
                ("deviation.2", &[7, 6]),
                ("error.1", &[7, 2, 2, 3]),
                ("error.2", &[7, 6]),
                ("error.3", &[7, 3]),
                ("grad.0.0.bias", &[2]),
                ("grad.0.0.weight", &[2, 1, 3, 3]),
                ("grad.1.1.bias", &[6]),
                ("grad.1.1.weight", &[6, 12]),
                ("grad.2.0.bias", &[3]),
                ("grad.2.0.weight", &[3, 6]),
                ("loss", &[1]),
            ],
            "{method}"
        );
        for (name, (_, values)) in &found {
            assert!(values.iter().any(|&value| value != 0.0), "{method}: {name} is 0");
        }
    }
}

#[test]
fn an_input_is_not_written_over() {
    let folder = Folder::with_model(2);
    for (file, option) in
        [("model.toml", "--model"), ("weights.safetensors", "--weights"), ("batch.safetensors", "--batch")]
    {
        let before = std::fs::read(folder.path(file)).unwrap();
        let output = folder.name(&format!("./{file}"));
        folder.infer("exact", &["--output", &output]).refused(&[file, option, "overwritten"]);
        assert_eq!(std::fs::read(folder.path(file)).unwrap(), before);
    }
    let start = folder.name("start.safetensors");
    std::os::unix::fs::symlink(folder.path("batch.safetensors"), &start).unwrap();
    folder.infer("exact", &["--output", &start]).refused(&["start.safetensors", "--batch", "overwritten"]);
}

/// |a - b| / |b|.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().zip(b).map(|(&a, &b)| f64::from(a) - f64::from(b)));
    difference / norm(&mut b.iter().map(|&b| f64::from(b)))
}

/// Relaxing 4 + 6 iterations, the second time from the deviations or beliefs of the first, is
/// relaxing 10.
#[test]
fn a_relaxation_goes_on_from_initial_beliefs() {
    let folder = Folder::with_model(5);
    let all = infer(&folder, "strict", &STRICT);
    let first = infer(&folder, "strict", &["--eta", "0.1", "--iterations", "4"]);
    for (kind, bound) in [("deviation", 1e-5), ("belief", 1e-4)] {
        let start: Vec<_> = first
            .iter()
            .filter(|(name, _)| name.starts_with(kind))
            .map(|(name, (shape, values))| (name.clone(), shape.clone(), values.clone()))
            .collect();
        assert_eq!(start.len(), 2);
        let initial = folder.name("initial.safetensors");
        predictive_coding::write_tensors(&initial, &start).unwrap();
        let rest = infer(&folder, "strict", &["--eta", "0.1", "--iterations", "6", "--initial", &initial]);
        for (name, (_, values)) in &all {
            let distance = distance(&rest[name].1, values);
            assert!(distance < bound, "{kind}: {name} is off by {distance:e}");
        }
        assert!(distance(&first["deviation.1"].1, &all["deviation.1"].1) > 0.1);
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let folder = Folder::with_model(40);
    for (method, more) in [("exact", &[][..]), ("fixed-prediction", &STRICT), ("strict", &STRICT)] {
        let one = infer(&folder, method, &[more, &["--threads", "1"]].concat());
        for threads in ["2", "3"] {
            assert!(one == infer(&folder, method, &[more, &["--threads", threads]].concat()), "{method}, {threads}");
        }
    }
}

#[test]
fn json_is_one_line_with_every_field() {
    let folder = Folder::with_model(5);
    for (method, more) in [("exact", &[][..]), ("strict", &STRICT)] {
        let finished =
            folder.infer(method, &[more, &["--json", "--repeat", "3", "--threads", "1"]].concat()).succeeded();
        assert_eq!((finished.stdout.lines().count(), &finished.stderr[..]), (1, ""));
        let json: Value = serde_json::from_str(&finished.stdout).unwrap();
        let keys: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            [
                "method",
                "solver",
                "momentum",
                "eta",
                "iterations",
                "literal",
                "tolerance",
                "fresh_errors",
                "nudge",
                "centred",
                "free_input",
                "on_divergence",
                "batch",
                "threads",
                "level",
                "layout",
                "loss",
                "iterations_used",
                "diverged",
                "lambda_max",
                "share_of_limit",
                "eta_range",
                "median_seconds",
                "min_seconds",
                "flops",
                "gflops",
                "peak_gflops"
            ]
        );
        assert_eq!((&json["method"], &json["batch"], &json["threads"]), (&method.into(), &5.into(), &1.into()));
        let (eta, iterations) = if method == "exact" { (None, None) } else { (Some(0.1), Some(10)) };
        assert_eq!((json["eta"].as_f64(), json["iterations"].as_u64()), (eta, iterations));
        let [used, diverged, lambda, share, range] =
            ["iterations_used", "diverged", "lambda_max", "share_of_limit", "eta_range"].map(|key| &json[key]);
        assert_eq!(used.as_u64(), iterations);
        assert_eq!([lambda, share, &json["tolerance"]], [&Value::Null; 3]);
        match method {
            "exact" => assert_eq!([diverged, range], [&Value::Null; 2]),
            _ => assert_eq!([diverged, range], [&json!(0), &json!([0.1, 0.1])]),
        }
        let number = |key: &str| json[key].as_f64().unwrap();
        assert!(number("min_seconds") > 0.0 && number("min_seconds") <= number("median_seconds"));
        assert!((number("gflops") * number("median_seconds") * 1e9 / number("flops") - 1.0).abs() < 1e-9);
        assert!(number("peak_gflops") > 0.1);
        if method == "exact" {
            // By hand: products of 9 x 12, 12 x 6 and 6 x 3; forward, gradients, errors of the upper two.
            assert_eq!(number("flops"), (5 * 2 * (2 * (108 + 72 + 18) + 72 + 18)) as f64);
        }
        let loss = f64::from(infer(&folder, method, more)["loss"].1[0]);
        assert!((number("loss") - loss).abs() < 1e-7);
    }
}

#[test]
fn the_literal_iteration_gives_the_same_at_its_own_cost() {
    let folder = Folder::with_model(5);
    let literal = [&STRICT[..], &["--literal"]].concat();
    let [exact, usual, iterated] = [("exact", &[][..]), ("fixed-prediction", &STRICT), ("fixed-prediction", &literal)]
        .map(|(method, more)| told(&folder, method, more));
    let flags = [&exact, &usual, &iterated].map(|json| json["literal"].as_bool());
    assert_eq!(flags, [Some(false), Some(false), Some(true)]);
    assert_eq!(exact["flops"], usual["flops"]);
    // Of products of 9 x 12, 12 x 6 and 6 x 3, ten iterations pull through the second nine times and the third ten.
    assert_eq!(iterated["flops"], 5 * 2 * (2 * (108 + 72 + 18) + 9 * 72 + 10 * 18));
    let (usual, iterated) = (infer(&folder, "fixed-prediction", &STRICT), infer(&folder, "fixed-prediction", &literal));
    for (name, (shape, values)) in &usual {
        assert_eq!(shape, &iterated[name].0);
        let distance = distance(&iterated[name].1, values);
        assert!(distance < 1e-5, "{name} is off by {distance:e}");
    }
    assert!(usual != iterated, "nothing was iterated: all bits are the same");
}

/// What `infer --json` tells.
fn told(folder: &Folder, method: &str, more: &[&str]) -> Value {
    let flags = ["--json", "--allow-divergence"];
    serde_json::from_str(&folder.infer(method, &[more, &flags].concat()).succeeded().stdout).unwrap()
}

/// The two numbers of a range.
fn range(value: &Value) -> [f64; 2] {
    [0, 1].map(|end| value[end].as_f64().unwrap_or_else(|| panic!("{value} is no range")))
}

/// eta = 30 diverges; so would any step above 2 / lambda_max if it were taken for long enough.
#[test]
fn automatic_steps_are_stable_for_each_sample() {
    let folder = Folder::with_model(5);
    let automatic = ["--eta", "auto", "--iterations", "60"];
    for method in ["strict", "error-based"] {
        let json = told(&folder, method, &automatic);
        let told_of = (&json["eta"], &json["diverged"], &json["iterations_used"]);
        assert_eq!(told_of, (&"auto".into(), &0.into(), &60.into()));
        let ([low, high], [flat, steep]) = (range(&json["eta_range"]), range(&json["lambda_max"]));
        assert!(low < high && flat < steep, "{json}");
        for (eta, lambda_max) in [(low, steep), (high, flat)] {
            assert!((eta * lambda_max - 1.8).abs() < 1e-9, "{json}");
        }
        assert!(range(&json["share_of_limit"]).iter().all(|share| (share - 0.9).abs() < 1e-9), "{json}");
        assert_eq!(told(&folder, method, &["--eta", "30", "--iterations", "60"])["diverged"], 5);
        // At the number that it chose for the steepest sample, all are stable; twice that is too much for it.
        let given = |eta: f64| told(&folder, method, &["--eta", &eta.to_string(), "--iterations", "2000"]);
        assert_eq!(given(low)["diverged"], 0);
        assert!(given(2.0 * low)["diverged"].as_u64() > Some(0));

        let text = folder.infer(method, &automatic).succeeded().stdout;
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() == 2 && lines[0].starts_with("loss "), "{text}");
        assert!(lines[1].starts_with("eta ") && lines[1].contains(", lambda_max "), "{text}");
        assert!(
            lines[1].ends_with(", steps at most 0.9 of the limit, 60 iterations, 0 of 5 samples diverged"),
            "{text}"
        );
    }
}

/// The energies of the layers in each iteration are those of the errors that a run of as many iterations ends with.
#[test]
fn a_trace_is_the_energy_of_every_iteration() {
    let folder = Folder::with_model(5);
    let trace = folder.name("trace");
    folder.infer("strict", &["--eta", "0.2", "--iterations", "9", "--trace", &trace]).succeeded();
    let rows = csv(&folder.path("trace/trace.csv"));
    assert_eq!(rows.len(), 9);
    let number = |row: usize, key: &str| rows[row][key].parse::<f64>().unwrap();
    for (row, iterations) in ["3", "9"].map(|n| (n.parse::<usize>().unwrap() - 1, n)) {
        let found = infer(&folder, "strict", &["--eta", "0.2", "--iterations", iterations]);
        for layer in 1..=2 {
            let squares: f64 = found[&format!("error.{layer}")].1.iter().map(|&e| f64::from(e).powi(2)).sum();
            let energy = number(row, &format!("energy.{layer}"));
            assert!((energy - squares / 2.0).abs() <= 1e-5 * energy, "{energy}, {squares}");
        }
    }
    let all: Vec<f64> = (0..9).map(|row| number(row, "energy")).collect();
    assert!(all.windows(2).all(|pair| pair[1] < pair[0]), "{all:?}");
    // The step of steepest descent: F falls by eta |grad F|^2, but for what is of second order.
    let fall = (all[0] - all[1]) / (0.2 * number(0, "gradient").powi(2));
    assert!((0.5..1.0).contains(&fall), "{fall}");
    for file in ["trace.png", "trace.svg"] {
        assert!(folder.path("trace").join(file).metadata().unwrap().len() > 1000, "{file}");
    }
    folder.infer("exact", &["--trace", &trace]).refused(&["--trace", "strict"]);
    let fixed = ["--eta", "0.1", "--iterations", "9", "--trace", &trace];
    folder.infer("fixed-prediction", &fixed).refused(&["--trace", "strict, error-based and incremental"]);
}

/// Every rule that goes down an energy: the terms are those of the errors that a run of as many iterations ends with, and
/// without a nudge the first loss is that of the forward pass.
#[test]
fn every_descent_is_traced() {
    let folder = Folder::with_model(5);
    let trace = folder.name("trace");
    let rules: [(&str, &[&str]); 11] = [
        ("strict", &["--eta", "0.2", "--belief-momentum", "0.5"]),
        ("strict", &["--eta", "0.2", "--belief-optimizer", "nesterov"]),
        ("strict", &["--eta", "0.02", "--belief-optimizer", "adam"]),
        ("strict", &["--eta", "0.2", "--nudge", "0.5"]),
        ("strict", &["--eta", "0.2", "--nudge", "-0.5", "--centred"]),
        ("strict", &["--eta", "0.2", "--free-input", "--input-precision", "0.5"]),
        ("strict", &["--eta", "auto"]),
        ("strict", &["--eta", "0.2,0.1"]),
        ("error-based", &["--eta", "0.2"]),
        ("error-based", &["--eta", "auto"]),
        ("incremental", &["--eta", "0.2", "--lr", "0.01", "--optimizer", "adam"]),
    ];
    for (method, options) in rules {
        let what = format!("{method} {options:?}");
        folder.infer(method, &[options, &["--iterations", "6", "--trace", &trace]].concat()).succeeded();
        let rows = csv(&folder.path("trace/trace.csv"));
        assert_eq!(rows.len(), 6, "{what}");
        let number = |row: usize, key: &str| rows[row][key].parse::<f64>().unwrap();
        // Error-based ends with the errors after its last step.
        let shift = usize::from(method == "error-based");
        for row in 1..6 {
            let ran = infer(&folder, method, &[options, &["--iterations", &(row + 1 - shift).to_string()]].concat());
            for layer in 1..=2 {
                let squares = |name: &str| -> f64 { ran[name].1.iter().map(|&e| f64::from(e).powi(2)).sum() };
                let mut energy = squares(&format!("error.{layer}")) / 2.0;
                let found = number(row, &format!("energy.{layer}"));
                if layer == 1 && options.contains(&"--free-input") {
                    // Its deviation is one update younger.
                    let before = infer(&folder, method, &[options, &["--iterations", &row.to_string()]].concat());
                    energy += before["deviation.0"].1.iter().map(|&e| 0.25 * f64::from(e).powi(2)).sum::<f64>();
                }
                assert!((found - energy).abs() <= 2e-5 * energy, "{what}, {row}, {layer}: {found}, {energy}");
            }
        }
        let forward = f64::from(infer(&folder, "exact", &[])["loss"].1[0]);
        let nudge = options.iter().position(|&option| option == "--nudge");
        let nudge = nudge.map_or(1.0, |at| options[at + 1].parse::<f64>().unwrap());
        assert!((number(0, "loss") - nudge * forward).abs() <= 1e-6 * forward, "{what}");
        for row in 0..6 {
            let terms = number(row, "energy.1") + number(row, "energy.2") + number(row, "loss");
            assert!((number(row, "energy") - terms).abs() <= 1e-12 * terms.abs(), "{what}");
            assert!(number(row, "gradient") > 0.0, "{what}");
        }
        if ["0.2", "auto"].contains(&options[1]) && options.len() == 2 && method != "incremental" {
            assert!(
                number(5, "energy") < number(0, "energy") && number(5, "gradient") < number(0, "gradient"),
                "{what}"
            );
        }
    }
    for file in ["trace.png", "trace.svg"] {
        assert!(folder.path("trace").join(file).metadata().unwrap().len() > 1000, "{file}");
    }
}

/// What a mask leaves out has no part in the loss of a trace.
#[test]
fn a_trace_follows_a_mask() {
    let folder = Folder::with_model(2);
    let trace = folder.name("trace");
    let batch = folder.path("batch.safetensors");
    let given = tensors(&batch);
    let energies = |mask: [f32; 6]| -> Vec<[f64; 2]> {
        let masked = [&given[..], &[("mask".to_string(), vec![2, 3], mask.to_vec())]].concat();
        predictive_coding::write_tensors(&batch, &masked).unwrap();
        folder.infer("strict", &["--eta", "0.2", "--iterations", "4", "--trace", &trace]).succeeded();
        let rows = csv(&folder.path("trace/trace.csv"));
        let number = |row: usize, key: &str| rows[row][key].parse::<f64>().unwrap();
        (0..4).map(|row| [number(row, "loss"), number(row, "gradient")]).collect()
    };
    let [all, none, first] = [[1.0; 6], [0.0; 6], [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]].map(energies);
    assert_eq!(none, [[0.0; 2]; 4]);
    assert!(first.iter().zip(&all).all(|(first, all)| 0.0 < first[0] && first[0] < all[0] && first[1] < all[1]));
}

#[test]
fn samples_that_have_settled_end_early() {
    let folder = Folder::with_model(5);
    let settled = |tolerance: &str| {
        let more = ["--eta", "0.1", "--iterations", "5000", "--tolerance", tolerance];
        let json = told(&folder, "strict", &more);
        assert_eq!(json["tolerance"].as_f64(), tolerance.parse().ok());
        // The iterations that were done are counted, not all.
        let used = json["iterations_used"].as_u64().unwrap();
        let done = told(&folder, "strict", &["--eta", "0.1", "--iterations", &used.to_string()]);
        assert_eq!(json["flops"], done["flops"]);
        (json["iterations_used"].as_u64().unwrap(), infer(&folder, "strict", &more))
    };
    let ((few, rough), (more, fine)) = (settled("1e-2"), settled("1e-5"));
    assert!(3 <= few && few < more && more < 5000, "{few}, {more}");
    let all = infer(&folder, "strict", &["--eta", "0.1", "--iterations", "5000"]);
    let off = |found: &Tensors| distance(&found["deviation.1"].1, &all["deviation.1"].1);
    assert!(off(&fine) < 1e-3 && off(&fine) < off(&rough), "{:e}, {:e}", off(&fine), off(&rough));

    let text = folder.infer("strict", &["--eta", "0.1", "--iterations", "5000", "--tolerance", "1e-2"]);
    let told = format!("\neta 0.1 to 0.1, {few} iterations, 0 of 5 samples diverged\n");
    assert!(text.succeeded().stdout.ends_with(&told));
}

#[test]
fn a_divergence_is_told_and_everything_written() {
    let folder = Folder::with_model(5);
    let output = folder.name("output.safetensors");
    let more = ["--eta", "30", "--iterations", "10", "--output", &output];
    let finished = folder.infer("strict", &more);
    assert_eq!(finished.stderr.lines().count(), 1, "{finished:?}");
    assert!(finished.stderr.starts_with("error: the relaxation diverged at sample"), "{finished:?}");
    assert!(finished.stderr.contains(&output) && finished.stderr.contains("--allow-divergence"), "{finished:?}");
    let allowed = folder.infer("strict", &[&more[..], &["--allow-divergence"]].concat()).succeeded();
    assert!(allowed.stderr.starts_with("warning: the relaxation diverged at sample"), "{allowed:?}");
    assert_eq!((finished.status, &finished.stdout), (Some(1), &allowed.stdout));
    assert_eq!(tensors(&folder.path("output.safetensors")).len(), 17);
    let loss = |text: &str| text.trim().strip_prefix("loss ").unwrap().parse::<f64>().unwrap();
    let stable = folder.infer("strict", &STRICT).succeeded();
    assert_eq!(loss(&finished.stdout), loss(&stable.stdout));
}
