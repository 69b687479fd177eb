//! Data, weights and images of somebody's own.

use std::collections::HashMap;

use npyz::WriterBuilder;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::common::{Folder, csv, png, run};

const SAMPLES: usize = 90;

/// Three classes of points in the plane, with a label each and its position as a target.
fn points() -> (Vec<f32>, Vec<i64>, Vec<f32>) {
    let centres = [[0.0, 2.0], [2.0, -1.0], [-2.0, -1.0]];
    let mut points = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..SAMPLES {
        let angle = i as f32;
        let centre: [f32; 2] = centres[i % 3];
        points.0.extend([centre[0] + 0.5 * angle.sin(), centre[1] + 0.5 * angle.cos()]);
        points.1.push(i as i64 % 3);
        points.2.extend(centre);
    }
    points
}

fn model(folder: &Folder, loss: &str, outputs: usize) -> String {
    let ops = "{ type = \"linear\", out_features = 8 }, { type = \"tanh\" }";
    let last = format!("{{ type = \"linear\", out_features = {outputs} }}");
    let text = format!("input = [2]\nloss = \"{loss}\"\n[[layer]]\nops = [{ops}]\n[[layer]]\nops = [{last}]\n");
    folder.write(&format!("{loss}.toml"), text)
}

fn bytes<const N: usize, T: Copy>(values: &[T], to_bytes: fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|&value| to_bytes(value)).collect()
}

fn safetensors(folder: &Folder, name: &str, arrays: &[(&str, Dtype, &[usize], Vec<u8>)]) -> String {
    let views = arrays
        .iter()
        .map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.to_vec(), bytes).unwrap()));
    folder.write(name, safetensors::serialize(views, None).unwrap())
}

fn npy<T: npyz::AutoSerialize + Copy>(shape: &[u64], values: &[T], order: npyz::Order) -> Vec<u8> {
    let mut file = Vec::new();
    let mut writer =
        npyz::WriteOptions::new().default_dtype().shape(shape).order(order).writer(&mut file).begin_nd().unwrap();
    writer.extend(values.iter().copied()).unwrap();
    writer.finish().unwrap();
    file
}

fn npz(folder: &Folder, name: &str, arrays: &[(&str, Vec<u8>)]) -> String {
    use std::io::Write;
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in arrays {
        archive.start_file(format!("{name}.npy"), zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(bytes).unwrap();
    }
    folder.write(name, archive.finish().unwrap().into_inner())
}

/// The last test loss of a run on a data set.
fn trained(folder: &Folder, dataset: &str, model: &str, out: &str) -> HashMap<String, String> {
    let arguments = ["train", "--dataset", dataset, "--model", model, "--method", "strict", "--out", &folder.name(out)];
    run(&[&arguments[..], &["--lr", "0.05"]].concat()).succeeded();
    csv(&folder.path(out).join("history.csv")).pop().unwrap()
}

#[test]
fn the_same_data_in_any_file_train_to_the_same_bits() {
    let folder = Folder::new();
    let (x, labels, _) = points();
    let classes = model(&folder, "cross_entropy", 3);
    let doubles: Vec<f64> = x.iter().map(|&x| x.into()).collect();
    let n = SAMPLES as u64;
    let by_columns: Vec<f32> =
        (0..2).flat_map(|axis| x.iter().skip(axis).step_by(2).copied().collect::<Vec<_>>()).collect();
    let small: Vec<u8> = labels.iter().map(|&label| label as u8).collect();
    let (row, column) = (npyz::Order::C, npyz::Order::Fortran);
    folder.write("pair_x.npy", npy(&[n, 2], &x, row));
    folder.write("pair_y.npy", npy(&[n], &small, row));
    let files = [
        safetensors(
            &folder,
            "a.safetensors",
            &[
                ("x", Dtype::F32, &[SAMPLES, 2], bytes(&x, f32::to_le_bytes)),
                ("y", Dtype::I64, &[SAMPLES], bytes(&labels, i64::to_le_bytes)),
            ],
        ),
        safetensors(
            &folder,
            "b.safetensors",
            &[
                ("x", Dtype::F64, &[SAMPLES, 2], bytes(&doubles, f64::to_le_bytes)),
                ("y", Dtype::U8, &[SAMPLES, 1], small.clone()),
            ],
        ),
        npz(&folder, "c.npz", &[("x", npy(&[n, 2], &x, row)), ("y", npy(&[n], &labels, row))]),
        npz(&folder, "d.npz", &[("x", npy(&[n, 2], &by_columns, column)), ("y", npy(&[n, 1], &labels, row))]),
        folder.name("pair_x.npy"),
    ];
    let ends: Vec<_> =
        files.iter().enumerate().map(|(i, file)| trained(&folder, file, &classes, &i.to_string())).collect();
    assert!(ends[0]["accuracy"].parse::<f64>().unwrap() > 0.95, "{:?}", ends[0]);
    assert!(ends.iter().all(|end| end == &ends[0]), "{ends:#?}");

    // Weights of a run are where another one starts.
    let weights = folder.name("0/weights.safetensors");
    let evaluated = run(&["evaluate", "--dataset", &files[2], "--model", &classes, "--weights", &weights, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&evaluated.succeeded().stdout).unwrap();
    let loss = json["test"]["loss"].as_f64().unwrap();
    assert!((loss - ends[0]["loss"].parse::<f64>().unwrap()).abs() < 1e-6);
    let more = ["train", "--dataset", &files[0], "--model", &classes, "--method", "exact", "--weights", &weights];
    run(&[&more[..], &["--out", &folder.name("more"), "--epochs", "1", "--batch", "90"]].concat()).succeeded();
    let first = csv(&folder.path("more/history.csv")).swap_remove(0);
    assert!((first["loss"].parse::<f64>().unwrap() - loss).abs() < 1e-6, "{first:?}");
    let limited = run(&[
        "evaluate",
        "--dataset",
        &files[0],
        "--limit",
        "7",
        "--model",
        &classes,
        "--weights",
        &weights,
        "--json",
    ]);
    let json: serde_json::Value = serde_json::from_str(&limited.succeeded().stdout).unwrap();
    assert_eq!(json["train"]["samples"], 7);
}

#[test]
fn values_are_targets() {
    let folder = Folder::new();
    let (x, _, places) = points();
    let model = model(&folder, "mse", 2);
    let rows = [SAMPLES, 2];
    let arrays = |x_test: &[f32]| {
        let test = [x_test.len() / 2, 2];
        safetensors(
            &folder,
            "places.safetensors",
            &[
                ("x", Dtype::F32, &rows, bytes(&x, f32::to_le_bytes)),
                ("y", Dtype::F32, &rows, bytes(&places, f32::to_le_bytes)),
                ("x_test", Dtype::F32, &test, bytes(x_test, f32::to_le_bytes)),
                ("y_test", Dtype::F32, &test, bytes(&places[..x_test.len()], f32::to_le_bytes)),
            ],
        )
    };
    let dataset = arrays(&x[..12]);
    let end = trained(&folder, &dataset, &model, "out");
    assert!(end["loss"].parse::<f64>().unwrap() < 0.5 && end["accuracy"] == "NaN", "{end:?}");
    let weights = folder.name("out/weights.safetensors");
    let told =
        run(&["evaluate", "--dataset", &dataset, "--model", &model, "--weights", &weights, "--json"]).succeeded();
    let json: serde_json::Value = serde_json::from_str(&told.stdout).unwrap();
    assert_eq!((&json["test"]["samples"], &json["test"]["accuracy"]), (&6.into(), &serde_json::Value::Null));
}

#[test]
fn data_that_do_not_fit_are_refused_in_one_line() {
    let folder = Folder::new();
    let classes = model(&folder, "cross_entropy", 3);
    let x = || ("x", npy(&[2, 2], &[0f32; 4], npyz::Order::C));
    let labels = |labels: &[i64]| ("y", npy(&[labels.len() as u64], labels, npyz::Order::C));
    for (arrays, part) in [
        (vec![x()], "holds x but not y"),
        (vec![labels(&[0])], "holds y but not x"),
        (vec![], "holds no x and y"),
        (vec![x(), labels(&[0, 1, 2])], "y has shape [3]; expected one target for each of the 2 samples"),
        (vec![x(), labels(&[0, -1])], "label -1 of image 1"),
        (vec![x(), labels(&[0, 3])], "4 classes"),
        (vec![("x", npy(&[2, 3], &[0f32; 6], npyz::Order::C)), labels(&[0, 1])], "takes inputs of shape [2]"),
    ] {
        let file = npz(&folder, "data.npz", &arrays);
        run(&["train", "--dataset", &file, "--model", &classes, "--out", &folder.name("out")]).failed(2, &[part]);
    }
    let file = folder.write("broken.npz", b"not a zip");
    run(&["train", "--dataset", &file, "--model", &classes]).refused(&["broken.npz: is not a valid .npz file"]);
    run(&["train", "--dataset", &file]).refused(&["needs --model"]);
    run(&["train", "--dataset", "unknown"]).refused(&["unknown", "digits, mnist, cifar10 or a file that ends in"]);
}

#[test]
fn outputs_without_targets() {
    let folder = Folder::new();
    run(&["train", "--method", "exact", "--epochs", "20", "--out", &folder.name("out")]).succeeded();
    let weights = folder.name("out/weights.safetensors");
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/models/digits.toml");
    // A picture of each of two digits: strokes of full and of no brightness, as an image of twice the size and as bytes.
    let strokes = [
        "..####....####...##..##..##..##..##..##..##..##...####....####..",
        "...##.....###.....###......##......##......##......##.....####..",
    ];
    let pixels: Vec<Vec<u8>> =
        strokes.iter().map(|rows| rows.bytes().map(|b| if b == b'#' { 255 } else { 0 }).collect()).collect();
    let n = npy(&[2, 1, 8, 8], &pixels.concat(), npyz::Order::C);
    let tensors = npz(&folder, "x.npz", &[("x", n)]);
    let images: Vec<String> = pixels
        .iter()
        .enumerate()
        .map(|(i, pixels)| {
            // One of them in grey.
            let colour = if i == 0 { png::ColorType::Grayscale } else { png::ColorType::Rgb };
            let image = png(16, 16, colour, |x, y| vec![pixels[8 * (y / 2) + x / 2]; colour.samples()]);
            folder.write(&format!("{i}.png"), image)
        })
        .collect();
    let predict =
        |more: &[&str]| run(&[&["predict", "--model", model, "--weights", &weights], more].concat()).succeeded().stdout;
    assert_eq!(predict(&["--input", &tensors]), "0\n1\n");
    assert_eq!(predict(&["--input", &images[0], &images[1], "--batch", "1"]), "0\n1\n");
    let rows = |text: &str| -> Vec<Vec<f64>> {
        text.lines().map(|line| line.split(',').map(|number| number.parse().unwrap()).collect()).collect()
    };
    let logits = rows(&predict(&["--input", &tensors, "--as", "logits"]));
    let probabilities = rows(&predict(&["--input", &tensors, "--as", "probabilities"]));
    for (logits, probabilities) in logits.iter().zip(&probabilities) {
        let sum: f64 = logits.iter().map(|logit| logit.exp()).sum();
        for (logit, probability) in logits.iter().zip(probabilities) {
            assert!((logit.exp() / sum - probability).abs() < 1e-6);
        }
    }
    let output = folder.name("p.safetensors");
    predict(&["--input", &tensors, "--as", "probabilities", "--output", &output]);
    let written = crate::common::tensors(&folder.path("p.safetensors"));
    assert_eq!((&written[0].0[..], &written[0].1[..]), ("probabilities", &[2, 10][..]));
    assert_eq!(f64::from(written[0].2[3]), probabilities[0][3] as f32 as f64);

    let wrong = folder.write("x.npy", npy(&[2, 7], &[0f32; 14], npyz::Order::C));
    run(&["predict", "--model", model, "--weights", &weights, "--input", &wrong]).refused(&["x has shape [2, 7]"]);
    let none = folder.write("no.png", b"none");
    run(&["predict", "--model", model, "--weights", &weights, "--input", &none])
        .refused(&["no.png: cannot be decoded"]);
}

#[test]
fn a_free_input_relaxes_to_its_targets() {
    let folder = Folder::new();
    let model = folder.write(
        "line.toml",
        "input = [2]\nloss = { type = \"mse\", reduction = \"sum\", weight = 0.5 }\n[[layer]]\nops = [{ type = \"linear\", \
         out_features = 3, bias = false }]\n",
    );
    // Columns (1, 1, 0) and (0, 1, 1): the first and the third target tell both inputs.
    let weights = bytes(&[1.0f32, 0.0, 1.0, 1.0, 0.0, 1.0], f32::to_le_bytes);
    let weights = safetensors(&folder, "weights.safetensors", &[("0.0.weight", Dtype::F32, &[3, 2], weights)]);
    let floats = |values: &[f32]| bytes(values, f32::to_le_bytes);
    let batch = |name: &str, input_mask: [f32; 2]| {
        let arrays: [(&str, Dtype, &[usize], Vec<u8>); 4] = [
            ("x", Dtype::F32, &[1, 2], floats(&[0.0, 7.0])),
            ("y", Dtype::F32, &[1, 3], floats(&[2.0, 99.0, -3.0])),
            ("mask", Dtype::F32, &[1, 3], floats(&[1.0, 0.0, 1.0])),
            ("input_mask", Dtype::F32, &[1, 2], floats(&input_mask)),
        ];
        safetensors(&folder, name, &arrays)
    };
    let predict = |batch: &str, what: &str, more: &[&str]| {
        let arguments = ["predict", "--model", &model, "--weights", &weights, "--input", batch, "--as", what];
        let text = run(&[&arguments[..], more].concat()).succeeded().stdout;
        text.trim().split(',').map(|value| value.parse::<f64>().unwrap()).collect::<Vec<_>>()
    };
    let near = |found: Vec<f64>, expected: &[f64]| {
        assert_eq!(found.len(), expected.len());
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-4), "{found:?} {expected:?}");
    };
    let relax = ["--free-input", "--eta", "0.5", "--iterations", "100"];
    let free = batch("free.safetensors", [0.0, 0.0]);
    near(predict(&free, "inputs", &relax), &[2.0, -3.0]);
    near(predict(&free, "logits", &relax), &[2.0, -1.0, -3.0]);
    // A precision of 1 draws each half of the way back to x.
    near(predict(&free, "inputs", &[&relax[..], &["--input-precision", "1"]].concat()), &[1.0, 2.0]);
    let clamped = batch("clamped.safetensors", [0.0, 1.0]);
    near(predict(&clamped, "inputs", &relax), &[2.0, 7.0]);

    let arguments = ["predict", "--model", &model, "--weights", &weights, "--input", &free];
    run(&[&arguments[..], &["--as", "inputs"]].concat()).refused(&["--as inputs", "--free-input; add it"]);
    run(&[&arguments[..], &["--free-input"]].concat()).refused(&["--eta"]);
    run(&[&arguments[..], &["--eta", "0.1"]].concat()).refused(&["--free-input"]);
    let both = run(&[&arguments[..], &[&free], &relax].concat());
    both.refused(&["2 files of --input", "expected one file with x and y"]);
}
