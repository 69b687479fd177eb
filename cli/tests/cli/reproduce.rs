//! `reproduce`: every figure on a small run, and what each must show.

use std::collections::HashMap;
use std::path::Path;

use predictive_coding::{Network, write_tensors};

use crate::common::{Folder, csv, png, run, tensors};

type Row = HashMap<String, String>;

fn number(row: &Row, column: &str) -> f64 {
    row[column].parse().unwrap_or_else(|_| panic!("{column} is {:?}", row[column]))
}

/// The values of `<quantity>.1` to `<quantity>.<layers>`, where a row has them.
fn by_layer(row: &Row, quantity: &str, layers: usize) -> Option<Vec<f64>> {
    (1..=layers).map(|layer| row[&format!("{quantity}.{layer}")].parse().ok()).collect()
}

/// Runs `reproduce` into `out` and returns the rows of its CSV file.
#[track_caller]
fn reproduce(out: &Path, what: &[&str], name: &str) -> Vec<Row> {
    run(&[&["reproduce", "--out", out.to_str().unwrap()], what].concat()).succeeded();
    let run_json: serde_json::Value = serde_json::from_slice(&std::fs::read(out.join("run.json")).unwrap()).unwrap();
    assert!(run_json["machine"]["cores"].as_u64() >= Some(1) && run_json["version"].is_string(), "{run_json}");
    for ending in ["png", "svg"] {
        let length = out.join(name).with_extension(ending).metadata().unwrap().len();
        assert!(length > 1000, "{name}.{ending} has {length} bytes");
    }
    let left = std::fs::read_dir(out).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let left: Vec<String> = left.filter(|name| name.contains("state")).collect();
    assert!(left.is_empty(), "left {left:?}");
    csv(&out.join(name).with_extension("csv"))
}

/// A directory with a few random images in the format of CIFAR-10.
fn cifar(folder: &Folder) -> String {
    let images = |count: usize, seed: usize| -> Vec<u8> {
        let image = |i: usize| {
            let pixels = (0..3072).map(move |p| (((p * (i + 3) + seed) * 2_654_435_761) >> 13) as u8);
            std::iter::once((i % 10) as u8).chain(pixels)
        };
        (0..count).flat_map(image).collect()
    };
    std::fs::create_dir(folder.path("cifar10")).unwrap();
    folder.write("cifar10/data_batch_1.bin", images(80, 1));
    folder.write("cifar10/test_batch.bin", images(20, 2));
    folder.name("")
}

#[test]
fn strict_and_backpropagation_learn_alike_and_their_gradients_differ() {
    let folder = Folder::new();
    let rows = reproduce(&folder.path("out"), &["--figure", "1"], "figure-1");
    let last = |run: &str| {
        let tests: Vec<&Row> = rows.iter().filter(|row| row["run"] == run && row["set"] == "test").collect();
        assert!(tests.len() >= 20, "{} evaluations of {run}", tests.len());
        number(tests[tests.len() - 1], "accuracy")
    };
    let accuracies = ["predictive-coding", "backpropagation"].map(last);
    assert!((accuracies[0] - accuracies[1]).abs() <= 0.02 && accuracies[1] > 0.9, "{accuracies:?}");
    let compared = rows.iter().filter_map(|row| by_layer(row, "relative_error", 5));
    // As in the paper: what is lower is farther off, and the output's own gradient is nearly right.
    let compared: Vec<Vec<f64>> = compared.collect();
    assert_eq!(compared.len(), 20 * 23, "comparisons: one for each whole batch of the 1437 digits");
    assert!(compared.iter().all(|errors| errors[4] < 0.1 && errors[0] > 0.3 && errors[0] > errors[4]), "{compared:?}");
}

#[test]
fn strict_tends_to_a_limit_for_a_small_eta_and_diverges_for_a_large_one() {
    let folder = Folder::new();
    let rows = reproduce(&folder.path("out"), &["--figure", "2"], "figure-2");
    let of = |eta: &str| -> Vec<Vec<f64>> {
        rows.iter().filter(|row| row["eta"] == eta).filter_map(|row| by_layer(row, "relative_error", 5)).collect()
    };
    let small = of("0.1");
    assert_eq!(small.len(), 400);
    let change = |layer: usize, (from, to): (usize, usize)| (small[from][layer] - small[to][layer]).abs();
    for (layer, last) in small[399].iter().enumerate() {
        let [early, late] = [(100, 150), (350, 399)].map(|span| change(layer, span));
        assert!(late < 0.5 * early && *last < 1.0, "layer {}: {early:e}, {late:e}", layer + 1);
    }
    let large = of("1");
    assert!(large.len() < 400 || large.iter().flatten().any(|&error| error > 100.0), "eta 1 does not diverge");
}

#[test]
fn the_convention_of_2022_is_another_relaxation() {
    let folder = Folder::new();
    let followed = |name: &str, more: &[&str]| {
        let rows = reproduce(&folder.path(name), &[&["--figure", "2", "--quick"], more].concat(), "figure-2");
        by_layer(&rows[7], "relative_error", 5).unwrap()
    };
    let [today, published] = [followed("today", &[]), followed("2022", &["--convention", "2022"])];
    // Gradients at v-hat leave the first layer's as they are but for its error, and change the others'.
    assert!(today.iter().zip(&published).any(|(a, b)| (a - b).abs() > 1e-6), "{today:?}, {published:?}");
    assert!(today.iter().zip(&published).all(|(a, b)| (a - b).abs() < 0.2), "{today:?}, {published:?}");
    run(&["reproduce", "--figure", "3", "--convention", "2022"]).refused(&["--convention 2022", "figures 1 and 2"]);
}

/// Theorem 1: with eta = 1 and n = L iterations nothing but rounding is left, and at any eta the direction is right.
#[test]
fn fixed_prediction_points_where_backpropagation_does() {
    let folder = Folder::new();
    let data = cifar(&folder);
    for (figure, layers, data) in [("3", 5, None), ("5", 6, Some(&data)), ("6", 5, None), ("7", 6, Some(&data))] {
        let name = format!("figure-{figure}");
        let data = data.map_or(vec![], |data| vec!["--data", data]);
        // Figures 3 and 6 have the digits, and time for a run in full.
        let quick: &[&str] = if data.is_empty() { &[] } else { &["--quick", "--epochs", "1"] };
        let rows = reproduce(&folder.path(&name), &[&["--figure", figure], &data[..], quick].concat(), &name);
        let compared: Vec<_> = rows
            .iter()
            .filter_map(|row| Some((by_layer(row, "relative_error", layers)?, by_layer(row, "angle_degrees", layers)?)))
            .collect();
        assert!(compared.len() >= 4, "{name}: {} comparisons", compared.len());
        for (errors, angles) in compared {
            assert!(angles.iter().all(|&angle| angle <= 1e-3), "{name}: angles {angles:?}");
            match figure {
                "6" | "7" => assert!(errors.iter().all(|&error| error <= 1e-5), "{name}: errors {errors:?}"),
                _ => assert!(errors[0] > 0.5 && errors[0] < 1.0, "{name}: errors {errors:?}"),
            }
        }
    }
}

#[test]
fn fixed_prediction_reaches_backpropagation_as_n_grows() {
    let folder = Folder::new();
    let rows = reproduce(&folder.path("out"), &["--figure", "4"], "figure-4");
    for eta in ["0.1", "0.2", "0.5", "1"] {
        let of_eta: Vec<&Row> = rows.iter().filter(|row| row["eta"] == eta).collect();
        assert_eq!(of_eta.len(), 200);
        let errors = by_layer(of_eta[199], "relative_error", 5).unwrap();
        assert!(errors.iter().all(|&error| error <= 1e-5), "eta {eta}: {errors:?}");
        for row in of_eta {
            for layer in 1..=5 {
                let [error, angle] = ["relative_error", "angle_degrees"].map(|q| number(row, &format!("{q}.{layer}")));
                assert!(error == 1.0 || angle <= 1e-3, "eta {eta}, layer {layer}: {angle} degrees at error {error}");
            }
        }
    }
}

#[test]
fn run_times_have_a_row_for_each_method() {
    let folder = Folder::new();
    let rows = reproduce(&folder.path("out"), &["--runtimes", "--quick"], "runtimes");
    assert_eq!(rows.len(), 5);
    assert_eq!((&rows[4]["method"][..], number(&rows[4], "ratio")), ("exact", 1.0));
    assert!(rows.iter().all(|row| number(row, "seconds") > 0.0));
}

/// The names and shapes of torchvision's VGG-19 with widths divided by 16, for images of 32 pixels.
fn small_vgg() -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let mut tensors = Vec::new();
    let mut add = |module: String, shape: &[usize], phase: f32| {
        let count: usize = shape.iter().product();
        let fan_in: usize = shape[1..].iter().product();
        let scale = (4.0 / fan_in as f32).sqrt();
        let weight = (0..count).map(|i| scale * (i as f32 * 12.9898 + phase).sin()).collect();
        tensors.push((format!("{module}.weight"), shape.to_vec(), weight));
        tensors.push((format!("{module}.bias"), vec![shape[0]], vec![0.01; shape[0]]));
    };
    let (mut index, mut input) = (0, 3);
    for (convolutions, channels) in [(2, 4), (2, 8), (4, 16), (4, 32), (4, 32)] {
        for _ in 0..convolutions {
            add(format!("features.{index}"), &[channels, input, 3, 3], index as f32);
            (index, input) = (index + 2, channels);
        }
        index += 1;
    }
    for (index, [outputs, inputs]) in [(0, [256, 32]), (3, [256, 256]), (6, [10, 256])] {
        add(format!("classifier.{index}"), &[outputs, inputs], index as f32);
    }
    tensors
}

#[test]
fn maps_of_vgg_show_what_reaches_the_layers() {
    let folder = Folder::new();
    let weights = folder.name("vgg19.safetensors");
    write_tensors(&weights, &small_vgg()).unwrap();
    let slope = png(60, 40, png::ColorType::Rgb, |x, y| vec![4 * x as u8, 6 * y as u8, 128]);
    let picture = folder.write("slope.png", slope);
    let with_files = ["--quick", "--weights", &weights, "--images", &picture];

    let rows = reproduce(&folder.path("8"), &[&["--figure", "8"], &with_files[..]].concat(), "figure-8");
    let shown: Vec<_> = rows.iter().map(|row| (&row["image"][..], &row["layer"][..], &row["quantity"][..])).collect();
    let quantities = ["activation", "belief", "deviation", "gradient", "error"];
    let expected = ["1", "10"].into_iter().flat_map(|layer| quantities.map(|quantity| ("slope", layer, quantity)));
    assert_eq!(shown, expected.collect::<Vec<_>>());
    assert!(rows.iter().all(|row| number(row, "norm") > 0.0), "{rows:?}");
    let maps = tensors(&folder.path("8/figure-8.safetensors"));
    assert_eq!(maps.iter().find(|(name, ..)| name == "belief.1").unwrap().1, [1, 32, 32]);

    let rows = reproduce(&folder.path("9"), &[&["--figure", "9"], &with_files[..]].concat(), "figure-9");
    let targets: Vec<_> = rows.iter().step_by(5).map(|row| row["target"].clone()).collect();
    assert!(targets.len() == 2 && targets[0] != targets[1], "{targets:?}");

    reproduce(&folder.path("random"), &["--figure", "8", "--quick"], "figure-8");

    let mut tensors = small_vgg();
    tensors[0].0 = "features.1.weight".into();
    write_tensors(&weights, &tensors).unwrap();
    let out = folder.name("wrong");
    run(&[&["reproduce", "--figure", "8", "--out", &out], &with_files[..]].concat())
        .refused(&["vgg19.safetensors", "features.0.weight"]);
}

#[test]
fn what_a_figure_has_no_use_for_is_refused() {
    for (arguments, parts) in [
        (&["--figure", "8", "--data", "x"][..], &["--data", "figure-8"][..]),
        (&["--figure", "1", "--weights", "x"], &["--weights", "figures 8 and 9"]),
        (&["--runtimes", "--images", "x"], &["--images", "runtimes"]),
        (&["--figure", "2", "--epochs", "3"], &["--epochs", "figure-2"]),
        (&["--figure", "5"], &["--data DIR", "CIFAR-10"]),
        (&["--figure", "10"], &["10", "1..=9"]),
        (&["--figure", "1", "--runtimes"], &["--runtimes"]),
        (&[], &["--figure", "--runtimes"]),
    ] {
        let folder = Folder::new();
        let out = folder.name("out");
        run(&[&["reproduce", "--out", &out], arguments].concat()).refused(parts);
    }
}

#[cfg(unix)]
#[test]
fn a_figure_that_was_stopped_goes_on_to_the_same_numbers() {
    use crate::common::program;
    use std::process::Stdio;
    use std::time::{Duration, Instant};

    let folder = Folder::new();
    let command = |out: &str| ["reproduce", "--figure", "1", "--epochs", "60", "--out", out].map(String::from);
    let whole = reproduce(&folder.path("whole"), &["--figure", "1", "--epochs", "60"], "figure-1");
    let parts = folder.name("parts");
    let arguments = command(&parts);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut child = program(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !folder.path("parts").exists() {
        assert!(Instant::now() < deadline, "nothing begun within a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_millis(200));
    assert!(std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let state = csv(&folder.path("parts/figure-1.predictive-coding.state.csv"));
    assert!(!state.is_empty() && state.len() < whole.len(), "{} rows kept of {}", state.len(), whole.len());
    let kept: Vec<_> = std::fs::read_dir(&parts).unwrap().map(|entry| entry.unwrap().path()).collect();
    std::fs::create_dir(folder.path("damaged")).unwrap();
    for path in kept.iter().filter(|path| path.is_file()) {
        std::fs::copy(path, folder.path("damaged").join(path.file_name().unwrap())).unwrap();
    }
    let rows = reproduce(&folder.path("parts"), &["--figure", "1", "--epochs", "60"], "figure-1");
    assert!(rows == whole);

    // From what it cannot go on, it starts again.
    folder.write("damaged/figure-1.predictive-coding.state.csv", "a,b\n1,2\n");
    let rows = reproduce(&folder.path("damaged"), &["--figure", "1", "--epochs", "60"], "figure-1");
    assert!(rows == whole);
}

#[test]
fn infer_draws_maps_of_layers_with_pixels() {
    let folder = Folder::with_model(3);
    let maps = folder.name("maps");
    folder.infer("strict", &["--eta", "0.1", "--iterations", "5", "--maps", &maps]).succeeded();
    // Layers 2 and 3 of the model are linear.
    let mut files: Vec<_> = std::fs::read_dir(&maps).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["layer-1.png", "layer-1.svg"]);
    let svg = std::fs::read_to_string(folder.path("maps/layer-1.svg")).unwrap();
    assert_eq!(
        svg.matches("data:image/png").count(),
        24,
        "three samples with four maps each, and a colour bar for each"
    );

    let flat = "input = [4]\nloss = \"mse\"\n[[layer]]\nops = [{ type = \"linear\", out_features = 2 }]\n";
    folder.write("model.toml", flat);
    let network = Network::from_toml(flat).unwrap();
    network.initialize(1).save(folder.path("weights.safetensors")).unwrap();
    let tensors = [("x".to_string(), vec![1, 4], vec![0.5; 4]), ("y".to_string(), vec![1, 2], vec![0.5; 2])];
    write_tensors(folder.path("batch.safetensors"), &tensors).unwrap();
    folder.infer("exact", &["--maps", &maps]).refused(&["--maps", "pixels"]);
}
