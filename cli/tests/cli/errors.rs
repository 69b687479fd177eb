//! Whatever is wrong with usage or input is told in one line, with exit status 2.

use crate::common::{Folder, MODEL, idx, run};
use predictive_coding::write_tensors;

#[test]
fn unknown_flags_commands_and_values() {
    run(&["--frobnicate"]).refused(&["unexpected argument '--frobnicate'"]);
    run(&["frobnicate"]).refused(&["unrecognized subcommand 'frobnicate'"]);
    run(&["train", "--epoch", "3"]).refused(&["unexpected argument '--epoch'", "--epochs"]);
    run(&["train", "--method", "newton"]).refused(&["--method newton: expected", "exact, fixed-prediction, strict"]);
    run(&["train", "--epochs", "0"]).refused(&["--epochs 0: "]);
    run(&["train", "--threads", "0"]).refused(&["--threads 0: "]);
    run(&["train", "--batch", "-5"]).refused(&["-5"]);
    run(&["train", "--batch", "10x"]).refused(&["--batch 10x: expected a whole number"]);
    run(&["train", "--resume"]).refused(&["--checkpoint"]);
    run(&["train", "--lr", "inf"]).refused(&["lr is inf"]);
    run(&["infer"]).refused(&["--model", "--weights", "--batch"]);
}

#[test]
fn step_size_and_iterations() {
    let folder = Folder::with_model(2);
    for eta in ["NaN", "0", "-0.1", "inf"] {
        folder
            .infer("strict", &["--eta", eta, "--iterations", "5"])
            .refused(&["eta is", "expected a finite number above 0"]);
        run(&["train", "--method", "strict", "--eta", eta]).refused(&["eta is", "expected a finite number above 0"]);
    }
    folder.infer("strict", &["--eta", "0.1", "--iterations", "0"]).refused(&["iterations is 0"]);
    folder.infer("strict", &["--eta", "0.1"]).refused(&["need both --eta and --iterations"]);
    folder.infer("fixed-prediction", &["--iterations", "3"]).refused(&["need both --eta and --iterations"]);
    folder.infer("exact", &["--eta", "0.1"]).refused(&["--eta was given", "exact"]);
    folder.infer("exact", &["--iterations", "5"]).refused(&["--iterations was given", "exact"]);
    run(&["train", "--method", "exact", "--eta", "0.1"]).refused(&["--eta was given"]);
}

#[test]
fn rules_beyond_the_paper() {
    let folder = Folder::with_model(2);
    let steps = ["--eta", "0.1", "--iterations", "5"];
    let refused = |method: &str, options: &[&str], parts: &[&str]| {
        folder.infer(method, &[&steps, options].concat()).refused(parts);
    };
    refused("strict", &["--centred"], &["--centred", "--nudge"]);
    refused("strict", &["--nudge", "0"], &["the nudge is 0", "expected"]);
    refused("strict", &["--belief-momentum", "1"], &["the momentum is 1", "less than 1"]);
    refused(
        "strict",
        &["--belief-momentum", "0.9", "--belief-optimizer", "adam"],
        &["--belief-momentum", "leave it out"],
    );
    refused("error-based", &["--nudge", "0.1"], &["--nudge was given", "error-based"]);
    refused("error-based", &["--fresh-errors"], &["--fresh-errors was given", "error-based"]);
    refused("incremental", &[], &["--lr", "incremental"]);
    refused("incremental", &["--lr", "0.1", "--weight-decay", "-1"], &["weight_decay is -1"]);
    refused("strict", &["--lr", "0.1"], &["--optimizer, --lr or --weight-decay", "incremental"]);
    refused("strict", &["--weight-decay", "0.1"], &["--optimizer, --lr or --weight-decay", "incremental"]);
    run(&["train", "--method", "incremental", "--clip", "1"]).refused(&["--clip was given", "incremental"]);
}

/// Training by incremental takes the same steps whether or not it is interrupted, and resumes by the same command.
#[test]
fn incremental_resumes_to_the_same_bits() {
    let folder = Folder::with_model(2);
    let weights = folder.name("initial/weights.safetensors");
    run(&["train", "--method", "exact", "--epochs", "1", "--out", &folder.name("initial")]).succeeded();
    let train = |name: &str, epochs: &str, more: &[&str]| {
        let (out, state) = (folder.name(name), folder.name("state"));
        let method = ["train", "--method", "incremental", "--iterations", "5", "--lr", "0.0003", "--epochs", epochs];
        let files = ["--weights", &weights, "--out", &out, "--checkpoint", &state];
        run(&[&method[..], &files, more].concat()).succeeded();
        std::fs::read(std::path::Path::new(&out).join("weights.safetensors")).unwrap()
    };
    train("first", "1", &[]);
    let resumed = train("resumed", "2", &["--resume"]);
    std::fs::remove_file(folder.name("state")).unwrap();
    assert!(resumed == train("whole", "2", &[]), "the weights differ");
}

#[test]
fn automatic_steps_and_tolerances() {
    let folder = Folder::with_model(2);
    let out = folder.name("out");
    let number = ["--eta small: ", "expected a number above 0, such as 0.1, a number for each hidden layer, or auto"];
    folder.infer("strict", &["--eta", "small", "--iterations", "5"]).refused(&number);
    run(&["train", "--eta", "small"]).refused(&number);
    run(&["summary", "--eta", "small"]).refused(&number);
    folder.infer("strict", &["--eta", "auto"]).refused(&["need both --eta and --iterations"]);
    for (method, option, part) in [
        ("exact", &["--eta", "auto"][..], "--method exact has no iterations"),
        (
            "fixed-prediction",
            &["--eta", "auto"],
            "only for --method strict and error-based; give fixed-prediction a number",
        ),
        ("strict", &["--curvature"], "only for --method error-based; leave it out for strict"),
        ("exact", &["--tolerance", "1e-3"], "only for --method strict; leave it out for exact"),
        ("fixed-prediction", &["--tolerance", "1e-3"], "only for --method strict; leave it out for fixed-prediction"),
    ] {
        let parts = [option[0], "was given", part];
        folder.infer(method, option).refused(&parts);
        run(&[&["train", "--method", method, "--out", &out], option].concat()).refused(&parts);
        run(&[&["summary", "--method", method], option].concat()).refused(&parts);
    }
    for tolerance in ["0", "-1", "NaN", "inf"] {
        let parts = ["the tolerance is", "expected a finite number above 0"];
        folder.infer("strict", &["--eta", "0.1", "--iterations", "5", "--tolerance", tolerance]).refused(&parts);
        run(&["train", "--tolerance", tolerance, "--out", &out]).refused(&parts);
    }
    assert!(!folder.path("out").exists());
}

#[test]
fn a_literal_iteration_of_other_methods() {
    let folder = Folder::with_model(2);
    let out = folder.name("out");
    for method in ["exact", "strict"] {
        let more =
            if method == "exact" { &["--literal"][..] } else { &["--eta", "0.1", "--iterations", "3", "--literal"] };
        let parts = ["--literal was given", "fixed-prediction", method];
        folder.infer(method, more).refused(&parts);
        run(&["train", "--method", method, "--literal", "--out", &out]).refused(&parts);
        run(&["summary", "--method", method, "--literal"]).refused(&parts);
    }
    assert!(!folder.path("out").exists());
}

#[test]
fn model_files() {
    let folder = Folder::with_model(2);
    folder.write("model.toml", MODEL.replace("tanh", "tanhh"));
    folder.infer("exact", &[]).refused(&["model.toml", "operation 0.1", "unknown operation \"tanhh\"", "conv2d, "]);
    folder.write("model.toml", MODEL.replace("kernel_size = 3", "kernel_size = 3, group = 1"));
    folder.infer("exact", &[]).refused(&["operation 0.0", "group"]);
    folder.write("model.toml", MODEL.replace("kernel_size = 3", "kernel_size = 5"));
    folder.infer("exact", &[]).refused(&["operation 0.0", "window of 5"]);
    folder.write("model.toml", MODEL.replace("loss = \"mse\"", "loss = \n\"mse\""));
    folder.infer("exact", &[]).refused(&["model.toml: line 4: "]);
    folder.write("model.toml", MODEL.replace("out_features = 6", "out_features = 9000000000"));
    folder.infer("exact", &[]).refused(&["operation 1.1", "too large"]);
    std::fs::remove_file(folder.path("model.toml")).unwrap();
    folder.infer("exact", &[]).refused(&["model.toml: cannot be read: it does not exist"]);
}

#[test]
fn weights() {
    let folder = Folder::with_model(2);
    folder.write("model.toml", MODEL.replace("out_features = 3", "out_features = 4"));
    folder.infer("exact", &[]).refused(&["weights.safetensors", "2.0.weight has shape [3, 6], expected [4, 6]"]);
    folder.write("model.toml", MODEL);
    let weights = std::fs::read(folder.path("weights.safetensors")).unwrap();
    folder.write("weights.safetensors", &weights[..weights.len() - 4]);
    folder.infer("exact", &[]).refused(&["weights.safetensors", "cut off"]);
    folder.write("weights.safetensors", "not a tensor");
    folder.infer("exact", &[]).refused(&["weights.safetensors", "is not a valid safetensors file"]);
    run(&["evaluate", "--weights", &folder.name("missing")]).refused(&["missing: cannot be read: it does not exist"]);
}

#[test]
fn batches() {
    let folder = Folder::with_model(2);
    let tensor = |name: &str, shape: &[usize], value: f32| {
        (name.to_string(), shape.to_vec(), vec![value; shape.iter().product()])
    };
    let batch = folder.path("batch.safetensors");
    for (tensors, part) in [
        (vec![tensor("x", &[2, 1, 4, 5], f32::NAN), tensor("y", &[2, 3], 0.0)], "tensor x holds NaN at [0, 0, 0, 0]"),
        (vec![tensor("x", &[2, 1, 5, 4], 0.0), tensor("y", &[2, 3], 0.0)], "tensor x has shape [2, 1, 5, 4]"),
        (
            vec![tensor("x", &[2, 1, 4, 5], 0.0), tensor("y", &[2, 4], 0.0)],
            "tensor y has shape [2, 4], expected [2, 3]",
        ),
        (vec![tensor("x", &[2, 1, 4, 5], 0.0)], "has no tensor y"),
    ] {
        write_tensors(&batch, &tensors).unwrap();
        folder.infer("exact", &[]).refused(&["batch.safetensors", part]);
    }
    folder.write("batch.safetensors", labelled_batch(2, [1, 3]));
    folder.infer("exact", &[]).refused(&["label 3 of sample 1 is out of range", "0..=2"]);
}

/// Samples of zeros with i64 labels, as a safetensors file put together by hand.
fn labelled_batch(samples: usize, labels: [i64; 2]) -> Vec<u8> {
    let x = 4 * 20 * samples;
    let header = format!(
        r#"{{"x":{{"dtype":"F32","shape":[{samples},1,4,5],"data_offsets":[0,{x}]}},"y":{{"dtype":"I64","shape":[2],"data_offsets":[{x},{}]}}}}"#,
        x + 16
    );
    let labels = labels.iter().flat_map(|label| label.to_le_bytes());
    let start = (header.len() as u64).to_le_bytes().into_iter().chain(header.bytes());
    start.chain(std::iter::repeat_n(0, x)).chain(labels).collect()
}

#[test]
fn initial_beliefs_and_outputs() {
    let folder = Folder::with_model(2);
    let initial = folder.name("initial.safetensors");
    write_tensors(&initial, &[("belief.3".into(), vec![2, 3], vec![0.0; 6])]).unwrap();
    let strict = ["--eta", "0.1", "--iterations", "5", "--initial", &initial];
    folder.infer("strict", &strict).refused(&["initial.safetensors", "belief.3", "1..=2"]);
    folder.infer("fixed-prediction", &strict).refused(&["--initial", "strict"]);
    let missing = folder.name("missing/out.safetensors");
    folder.infer("exact", &["--output", &missing]).refused(&["missing/out.safetensors", "directory does not exist"]);
}

#[test]
fn data_sets() {
    let folder = Folder::new();
    let directory = folder.name("");
    let mnist = || run(&["train", "--dataset", "mnist", "--data", &directory, "--method", "exact"]);
    mnist().refused(&["has no file train-images-idx3-ubyte"]);
    for set in ["train", "t10k"] {
        folder.write(&format!("{set}-images-idx3-ubyte"), idx(0x803, &[2, 28, 28], &[7; 2 * 784]));
        folder.write(&format!("{set}-labels-idx1-ubyte"), idx(0x801, &[2], &[3, 9]));
    }
    folder.write("t10k-labels-idx1-ubyte", idx(0x801, &[2], &[3, 10]));
    mnist().refused(&["outputs of shape [10], but the data set has 11 classes"]);
    folder.write("t10k-labels-idx1-ubyte", idx(0x801, &[2], &[3, 9]));
    folder.write("train-images-idx3-ubyte", idx(0x803, &[2, 28, 28], &[7; 2 * 784 - 1]));
    mnist().refused(&["train-images-idx3-ubyte", "is cut off", "1568", "1567"]);
    folder.write("train-images-idx3-ubyte", idx(0x803, &[2, 4, 4], &[7; 32]));
    folder.write("t10k-images-idx3-ubyte", idx(0x803, &[2, 4, 4], &[7; 32]));
    mnist().refused(&["[1, 28, 28]", "[1, 4, 4]"]);

    for name in ["mnist", "cifar10"] {
        run(&["train", "--dataset", name]).refused(&["--data DIR"]);
        run(&["train", "--dataset", name, "--data", &folder.name("missing")]).refused(&["missing", "does not exist"]);
    }
    run(&["train", "--data", &directory]).refused(&["--data", "mnist and cifar10"]);
}

#[test]
fn a_level_that_does_not_exist() {
    let folder = Folder::with_model(1);
    let model = folder.name("model.toml");
    let output =
        crate::common::program(&["summary", "--model", &model]).env("PREDICTIVE_CODING_LEVEL", "mmx").output().unwrap();
    crate::common::Finished::from(output).refused(&["PREDICTIVE_CODING_LEVEL", "\"mmx\"", "portable"]);
}
