//! Pages whose Python a reader runs: their blocks are taken from the page and run here.
//!
//! `PREDICTIVE_CODING_PYTHON` names the interpreter, by default `python3`. What it lacks is told on standard error and
//! skipped.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use predictive_coding::{Linear, Loss, LossFunction, Network, Op, Reduction, write_tensors};
use serde_json::{Value, json};

use crate::common::{Folder, run, tensors};

const METHODS: &str = include_str!("../../../docs/methods.md");
const MODELS: &str = include_str!("../../../docs/models.md");
const PYTORCH: &str = include_str!("../../../docs/pytorch.md");

/// Runs the function of the page on the problem that it is given, and prints what it returns as flat lists.
const CALL: &str = r#"
import json, sys
problem = json.load(sys.stdin)
arrays = {name: np.array(problem.pop(name), dtype=np.float64) for name in ["x", "y"]}
lists = {name: [np.array(a, dtype=np.float64) for a in problem.pop(name)] for name in ["W", "b"]}
found = infer(**lists, **arrays, **problem)
print(json.dumps({name: np.ravel(values).tolist() for name, values in found.items()}))
"#;

/// The interpreter, if it can import these modules.
fn python(modules: &str) -> Option<PathBuf> {
    let python: PathBuf = std::env::var_os("PREDICTIVE_CODING_PYTHON").unwrap_or("python3".into()).into();
    let import = Command::new(&python).args(["-c", &format!("import {modules}")]).stderr(Stdio::null()).status();
    if import.is_ok_and(|status| status.success()) {
        return Some(python);
    }
    // Not by a macro: the test runner would keep the line.
    let _ = writeln!(std::io::stderr(), "skipped: {} cannot import {modules}", python.display());
    None
}

/// The blocks of a page, each with the word behind its fence.
fn blocks(page: &str) -> impl Iterator<Item = (&str, &str)> {
    page.split("```").skip(1).step_by(2).filter_map(|block| block.split_once('\n'))
}

/// Rows of `columns` numbers, widened.
fn rows(values: &[f32], columns: usize) -> Value {
    let row = |row: &[f32]| row.iter().map(|&value| f64::from(value)).collect::<Vec<_>>();
    values.chunks(columns).map(row).collect()
}

/// Every model file of the page is one, with a loss that its outputs take.
#[test]
fn the_model_files_of_the_models_page_are_read() {
    let mut read = 0;
    for (_, text) in blocks(MODELS).filter(|(language, _)| *language == "toml") {
        let network = Network::from_toml(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(network.to_toml(), Network::from_toml(&network.to_toml()).unwrap().to_toml());
        read += 1;
    }
    assert!(read >= 3, "{read} model files");
}

/// The program against the page's function, in every tensor that `infer` writes.
#[test]
fn the_check_of_the_methods_page_agrees_with_the_program() {
    let Some(python) = python("numpy") else { return };
    let folder = Folder::new();
    let (_, code) = blocks(METHODS).find(|(language, _)| *language == "python").unwrap();
    let script = folder.write("check.py", [code, CALL].concat());

    let sizes = [5, 7, 6, 3];
    let samples = 4;
    let wave = |n: usize, step: f32| (0..n).map(|i| (i as f32 * step).sin()).collect::<Vec<_>>();
    let methods = [
        ("exact", &[][..]),
        ("fixed-prediction", &["--eta", "0.3", "--iterations", "7"]),
        ("fixed-prediction", &["--eta", "0.3", "--iterations", "7", "--literal"]),
        ("strict", &["--eta", "0.2", "--iterations", "11"]),
    ];
    let losses = [
        Loss::MSE,
        Loss::MSE.with_reduction(Reduction::Sum).with_weight(0.5),
        Loss::CROSS_ENTROPY.with_weight(3.0),
        Loss::CROSS_ENTROPY.with_reduction(Reduction::Sum),
    ];
    for (seed, loss) in (1..).zip(losses) {
        let layer = |l: usize| match l {
            3 => vec![Op::Linear(Linear::new(3))],
            _ => vec![Op::Linear(Linear::new(sizes[l])), Op::Tanh],
        };
        let network = Network::new(&sizes[..1], loss, (1..=3).map(layer).collect());
        let network = network.unwrap().with_precision(1, 2.0).unwrap().with_precision(2, 0.75).unwrap();
        let parameters = network.initialize(seed);
        let x = wave(samples * sizes[0], 0.7 + seed as f32);
        let values = wave(samples * sizes[3], 1.3);
        let labels = [2i64, 0, 1, 1];
        let one_hot: Vec<f32> = labels.iter().flat_map(|&label| [0, 1, 2].map(|k| f32::from(k == label))).collect();
        let y = if loss.function == LossFunction::Mse { &values } else { &one_hot };

        let files = ["model.toml", "weights.safetensors", "batch.safetensors"].map(|name| folder.name(name));
        std::fs::write(&files[0], network.to_toml()).unwrap();
        parameters.save(&files[1]).unwrap();
        let inputs = ("x".to_string(), vec![samples, sizes[0]], x.clone());
        match loss.function {
            LossFunction::Mse => {
                write_tensors(&files[2], &[inputs, ("y".to_string(), vec![samples, sizes[3]], y.clone())]).unwrap();
            }
            _ => write_labelled(&files[2], &inputs, &labels),
        }

        let tensor = |l: usize, kind: &str| parameters.get(&format!("{l}.0.{kind}")).unwrap();
        for (method, more) in methods {
            let output = folder.name("output.safetensors");
            let [model, weights, batch] = &files;
            let arguments = ["infer", "--model", model, "--weights", weights, "--batch", batch, "--method", method];
            run(&[&arguments[..], &["--output", &output], more].concat()).succeeded();

            let given = |option: &str| more.iter().skip_while(|&&name| name != option).nth(1);
            let problem = json!({
                "method": method,
                "W": (0..3).map(|l| rows(tensor(l, "weight"), sizes[l])).collect::<Value>(),
                "b": (0..3).map(|l| rows(tensor(l, "bias"), sizes[l + 1])[0].clone()).collect::<Value>(),
                "p": network.precisions(),
                "x": rows(&x, sizes[0]),
                "y": rows(y, sizes[3]),
                "loss": loss.function.name(),
                "reduction": loss.reduction.name(),
                "weight": loss.weight,
                "eta": given("--eta").map_or(0.0, |eta| eta.parse().unwrap()),
                "n": given("--iterations").map_or(0, |n| n.parse().unwrap()),
            });
            let mut child =
                Command::new(&python).arg(&script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            child.stdin.take().unwrap().write_all(problem.to_string().as_bytes()).unwrap();
            let finished = child.wait_with_output().unwrap();
            assert!(finished.status.success(), "the page's code failed for {problem}");
            let expected: Value = serde_json::from_slice(&finished.stdout).unwrap();

            let mut compared = 0;
            for (name, _, found) in tensors(&folder.path("output.safetensors")) {
                let Some(expected) = expected[&name].as_array() else {
                    assert!(name == "loss" || name.starts_with("deviation"), "the page's code has no {name}");
                    continue;
                };
                let expected: Vec<f64> = expected.iter().map(|value| value.as_f64().unwrap()).collect();
                assert_eq!(expected.len(), found.len(), "{method}: {name}");
                let largest = expected.iter().fold(0.0, |most: f64, value| most.max(value.abs()));
                for (found, expected) in found.iter().zip(&expected) {
                    let off = (f64::from(*found) - expected).abs() / largest;
                    assert!(off < 1e-5, "{method} {more:?}, {loss}: {name} is off by {off:e}");
                }
                compared += 1;
            }
            assert_eq!(compared, 3 + 3 + 2 + 6, "{method}");
        }
    }
}

/// A batch with a label for each sample.
fn write_labelled(path: &str, (name, shape, x): &(String, Vec<usize>, Vec<f32>), labels: &[i64]) {
    let x: Vec<u8> = x.iter().flat_map(|value| value.to_le_bytes()).collect();
    let y: Vec<u8> = labels.iter().flat_map(|label| label.to_le_bytes()).collect();
    let view = |dtype, shape: &[usize], bytes| safetensors::tensor::TensorView::new(dtype, shape.to_vec(), bytes);
    let tensors = [
        (name.as_str(), view(safetensors::Dtype::F32, shape, &x).unwrap()),
        ("y", view(safetensors::Dtype::I64, &[labels.len()], &y).unwrap()),
    ];
    std::fs::write(path, safetensors::serialize(tensors, None).unwrap()).unwrap();
}

/// Everything on the page, from top to bottom in one folder: Python in one session, commands with the program in the
/// path, and model files written where their first line says.
#[test]
fn the_pytorch_page_runs_from_top_to_bottom() {
    let Some(python) = python("torch, safetensors, numpy") else { return };
    let folder = Folder::new();
    let mut script = String::from("import subprocess\n");
    for (language, code) in blocks(PYTORCH) {
        match language {
            "python" => script.push_str(code),
            "sh" => script.push_str(&format!("subprocess.run(['sh', '-euc', {}], check=True)\n", json!(code))),
            "toml" => {
                let name = code.lines().next().and_then(|line| line.strip_prefix("# ")).unwrap();
                folder.write(name, code);
            }
            _ => continue,
        }
    }
    let programs = Path::new(env!("CARGO_BIN_EXE_predictive-coding")).parent().unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let run = Command::new(python)
        .arg(folder.write("page.py", script))
        .current_dir(folder.path("."))
        .env("PATH", format!("{}:{path}", programs.display()))
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}
