//! Training on the real MNIST, whose files lie in the folder `mnist` of the directory that the
//! environment variable PREDICTIVE_CODING_DATA names.

use crate::common::{Finished, Folder, csv, run};

const MSE: &str = include_str!("../../../tests/golden/mnist_mse/model.toml");

/// Two epochs by a method, with the paper's network and the given model file, if any.
fn train(data: &str, folder: &Folder, model: Option<&str>, method: &str, more: &[&str]) -> Finished {
    let out = folder.name("out");
    let common = ["train", "--dataset", "mnist", "--data", data, "--epochs", "2", "--batch", "300", "--lr", "2e-3"];
    let model = model.map_or(vec![], |model| vec!["--model", model]);
    run(&[&common[..], &["--optimizer", "adam", "--method", method, "--out", &out, "--overwrite"], &model, more]
        .concat())
}

fn test_accuracy(folder: &Folder) -> f64 {
    let rows = csv(&folder.path("out/history.csv"));
    let last = rows.iter().rfind(|row| row["kind"] == "test").unwrap();
    last["accuracy"].parse().unwrap()
}

#[test]
fn every_method_learns_mnist_as_far_as_it_is_stable() {
    let Some(data) = std::env::var_os("PREDICTIVE_CODING_DATA") else {
        println!("skipped: PREDICTIVE_CODING_DATA names no directory with the folder mnist");
        return;
    };
    let data = std::path::Path::new(&data).join("mnist");
    let data = data.to_str().unwrap();
    let folder = Folder::new();
    let mse = folder.write("mse.toml", MSE);
    for (model, methods) in
        [(Some(&mse[..]), &["exact", "fixed-prediction", "strict"][..]), (None, &["exact", "fixed-prediction"])]
    {
        for method in methods {
            train(data, &folder, model, method, &[]).succeeded();
            let accuracy = test_accuracy(&folder);
            assert!(accuracy >= 0.95, "{method}, {model:?}: {accuracy}");
        }
    }
    // With cross-entropy eta = 0.1 becomes too large for the weights within two epochs.
    let fixed = train(data, &folder, None, "strict", &["--on-divergence", "stop"]);
    fixed.failed(1, &["diverged at sample", "layer", "step", "try a smaller eta", "--eta auto"]);
    // By default what diverges relaxes again.
    let shrinking = train(data, &folder, None, "strict", &[]).succeeded();
    assert!(shrinking.stdout.contains("strict: diverged relaxations"), "{shrinking:?}");
    let accuracy = test_accuracy(&folder);
    assert!(accuracy >= 0.8, "strict with steps that shrink: {accuracy}");
    train(data, &folder, None, "strict", &["--eta", "auto"]).succeeded();
    let accuracy = test_accuracy(&folder);
    assert!(accuracy >= 0.93, "strict with automatic steps: {accuracy}");
}
