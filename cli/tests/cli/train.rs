//! `train`: the main job, one method, stopping and going on.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::{Folder, csv, idx, program, run, tensors};

#[test]
fn the_main_job_reaches_its_accuracy_by_every_method() {
    let folder = Folder::new();
    let finished = run(&["train", "--out", &folder.name("out")]).succeeded();
    assert!(finished.stdout.contains("ratio to exact") && finished.stdout.contains("mean of the last 10 steps"));
    let rows = csv(&folder.path("out/comparison.csv"));
    assert_eq!(rows.iter().map(|row| &row["method"][..]).collect::<Vec<_>>(), ["exact", "fixed-prediction", "strict"]);
    for row in &rows {
        let number = |key: &str| row[key].parse::<f64>().unwrap();
        assert!(number("test_accuracy") >= 0.95 && number("ratio_to_exact") > 0.0, "{row:?}");
        for layer in 1..=4 {
            let [error, angle] = ["relative_error", "angle_degrees"].map(|key| number(&format!("{key}.{layer}")));
            match &row["method"][..] {
                "exact" => assert_eq!((error, angle), (0.0, 0.0)),
                // Its gradients are c_l times exact's; n = 20 iterations of eta = 0.1 give this c_l.
                "fixed-prediction" => {
                    let expected = 1.0 - fixed_prediction_share(4 - layer, 0.1, 20);
                    assert!((error - expected).abs() < 1e-3 && angle < 0.01, "layer {layer}: {error}, {angle}");
                }
                _ => assert!(error > 1e-3 && error < 1.5 && angle < 90.0, "layer {layer}: {error}, {angle}"),
            }
        }
    }
    for file in ["comparison.png", "comparison.svg", "history.csv", "run.json"] {
        assert!(folder.path("out").join(file).metadata().unwrap().len() > 1000, "{file}");
    }
}

/// The share of delta that reaches a layer `above` layers below the output: the probability that a
/// chain of independent waits, each over with probability eta per iteration, is done within the n - 1
/// iterations before the last, which is the chance of at least `above` successes.
fn fixed_prediction_share(above: u32, eta: f64, n: u32) -> f64 {
    let tries = n - 1;
    let choose = |k: u32| (0..k).map(|i| f64::from(tries - i) / f64::from(i + 1)).product::<f64>();
    1.0 - (0..above).map(|k| choose(k) * eta.powi(k as i32) * (1.0 - eta).powi((tries - k) as i32)).sum::<f64>()
}

/// Trains by strict on the digits into `out`, keeping `checkpoint`.
fn strict<'a>(out: &'a str, checkpoint: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let arguments = ["train", "--method", "strict", "--seed", "7", "--out", out, "--checkpoint", checkpoint];
    [&arguments, more].concat()
}

/// Weights and history of the run in `out`.
fn results(folder: &Folder, out: &str) -> [Vec<u8>; 2] {
    ["weights.safetensors", "history.csv"].map(|file| std::fs::read(folder.path(out).join(file)).unwrap())
}

#[test]
fn every_result_is_written() {
    let folder = Folder::new();
    let (out, checkpoint) = (folder.name("out"), folder.name("checkpoint"));
    let finished = run(&strict(&out, &checkpoint, &["--epochs", "2"])).succeeded();
    assert!(finished.stdout.contains("strict") && finished.stderr.contains("epoch 2/2: test loss"));
    let rows = csv(&folder.path("out/history.csv"));
    let steps = 1437u64.div_ceil(64);
    assert_eq!(rows.iter().filter(|row| row["kind"] == "train").count() as u64, 2 * steps);
    let tests: Vec<_> = rows.iter().filter(|row| row["kind"] == "test").collect();
    assert_eq!(tests.iter().map(|row| row["step"].parse().unwrap()).collect::<Vec<u64>>(), [steps, 2 * steps]);
    let run_json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path("out/run.json")).unwrap()).unwrap();
    for (key, value) in [("method", "strict"), ("status", "finished"), ("dataset", "digits")] {
        assert_eq!(run_json[key], value);
    }
    assert_eq!((&run_json["eta"], &run_json["iterations"], &run_json["seed"]), (&0.1.into(), &20.into(), &7.into()));
    for key in ["version", "level", "layout", "machine", "threads", "model", "optimizer", "batch", "epochs"] {
        assert!(!run_json[key].is_null(), "{key}");
    }
    for file in ["curves.png", "curves.svg"] {
        assert!(folder.path("out").join(file).metadata().unwrap().len() > 1000, "{file}");
    }

    let weights = folder.name("out/weights.safetensors");
    let evaluated = run(&["evaluate", "--weights", &weights, "--json"]).succeeded();
    let json: serde_json::Value = serde_json::from_str(&evaluated.stdout).unwrap();
    for kind in ["loss", "accuracy"] {
        let last: f64 = tests[1][kind].parse().unwrap();
        assert!((json["test"][kind].as_f64().unwrap() - last).abs() < 1e-6, "{kind}");
    }
}

#[test]
fn more_epochs_from_a_checkpoint_end_as_if_never_stopped() {
    let folder = Folder::new();
    let [whole, parts, a, b] = ["whole", "parts", "a", "b"].map(|name| folder.name(name));
    run(&strict(&whole, &a, &["--epochs", "3", "--threads", "2"])).succeeded();
    run(&strict(&parts, &b, &["--epochs", "1", "--threads", "1"])).succeeded();
    assert_ne!(results(&folder, "whole"), results(&folder, "parts"));
    run(&strict(&parts, &b, &["--epochs", "3", "--resume"])).succeeded();
    assert!(results(&folder, "whole") == results(&folder, "parts"));
}

/// The masks of dropout follow from the seed and the step.
#[test]
fn dropout_goes_on_with_its_masks() {
    let folder = Folder::new();
    let model = folder.name("model.toml");
    let text = "input = [1, 8, 8]\nloss = \"mse\"\n[[layer]]\nops = [{ type = \"flatten\" }, { type = \"linear\", out_features \
                = 20 }, { type = \"dropout\" }, { type = \"tanh\" }]\n[[layer]]\nops = [{ type = \"linear\", out_features = 10 }]";
    std::fs::write(&model, text).unwrap();
    let [whole, parts, other, a, b, c] = ["whole", "parts", "other", "a", "b", "c"].map(|name| folder.name(name));
    let train = |out: &str, state: &str, more: &[&str]| {
        run(&strict(out, state, &[&["--model", &model], more].concat())).succeeded();
    };
    train(&whole, &a, &["--epochs", "2", "--threads", "2"]);
    train(&parts, &b, &["--epochs", "1", "--threads", "1"]);
    train(&parts, &b, &["--epochs", "2", "--resume"]);
    assert!(results(&folder, "whole") == results(&folder, "parts"));
    // Without it the run is another.
    std::fs::write(&model, text.replace("{ type = \"dropout\" }, ", "")).unwrap();
    train(&other, &c, &["--epochs", "2"]);
    assert!(results(&folder, "whole") != results(&folder, "other"));
}

/// Every setting of the optimiser, stopped in the middle of an epoch's schedule.
#[test]
fn schedules_momentum_and_clipping_go_on_to_the_same_bits() {
    let folder = Folder::new();
    for (i, more) in [
        &["--optimizer", "sgd", "--momentum", "0.9", "--schedule", "cosine", "--warmup", "5", "--clip", "0.05"][..],
        &["--optimizer", "adamw", "--weight-decay", "0.1", "--schedule", "step", "--decay-every", "1"],
    ]
    .into_iter()
    .enumerate()
    {
        let [whole, parts, a, b] = ["whole", "parts", "a", "b"].map(|name| folder.name(&format!("{name}{i}")));
        let usual = ["--epochs", "3", "--checkpoint-every", "1"];
        run(&strict(&whole, &a, &[&usual[..], more].concat())).succeeded();
        let child = program(&strict(&parts, &b, &[&usual[..], more].concat()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let mut child = child.unwrap();
        while !PathBuf::from(&b).exists() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_micros(200));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let resume = [&usual[..], more, &["--resume"]].concat();
        run(&strict(&parts, &b, &resume)).succeeded();
        assert!(results(&folder, &format!("whole{i}")) == results(&folder, &format!("parts{i}")), "{more:?}");
        let plain = [&usual[..], &["--resume"]].concat();
        run(&strict(&parts, &b, &plain)).refused(&["is a checkpoint of"]);
    }
}

#[test]
fn settings_can_be_overridden_and_runs_end_early() {
    let folder = Folder::new();
    let [out, checkpoint] = ["out", "checkpoint"].map(|name| folder.name(name));
    run(&strict(&out, &checkpoint, &["--epochs", "2"])).succeeded();
    let more = ["--epochs", "40", "--lr", "0", "--patience", "3", "--resume"];
    run(&strict(&out, &checkpoint, &more)).refused(&["lr=0.001"]);
    let finished = run(&strict(&out, &checkpoint, &[&more[..], &["--override"]].concat())).succeeded();
    // The loss of epoch 3 is that of epoch 2, and so are all after it.
    let told = "Stopped after epoch 5 of 40: the test loss did not decrease in 3 epochs";
    assert!(finished.stdout.contains(told), "{finished:?}");
    let run_json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path("out/run.json")).unwrap()).unwrap();
    assert_eq!(run_json["status"], "ended early");
    let overridden = run_json["overridden"].as_array().unwrap();
    let told = overridden[0].as_str().unwrap();
    assert!(overridden.len() == 1 && told.contains("lr=0.001") && told.contains("now adam lr=0 "), "{overridden:?}");
    // Steps are counted by the batch; the directory is another run's.
    run(&strict(&out, &checkpoint, &["--batch", "32", "--resume", "--override"])).refused(&["batch: 64, now 32"]);
    let other = folder.name("other");
    run(&strict(&out, &other, &["--epochs", "1", "--overwrite"])).succeeded();
    run(&strict(&out, &checkpoint, &["--epochs", "3", "--resume"])).refused(&["holds the results of another run"]);
    run(&["train", "--patience", "3"]).refused(&["--method"]);
    run(&["train", "--method", "exact", "--decay-factor", "0.5", "--out", &folder.name("x")])
        .refused(&["--decay-every"]);
    run(&["train", "--momentum", "0.9", "--method", "exact", "--out", &folder.name("x")]).refused(&["--momentum"]);
    run(&["train", "--clip", "0", "--method", "exact", "--out", &folder.name("x")]).refused(&["--clip 0"]);
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_goes_on_to_the_same_bits() {
    let folder = Folder::new();
    let [whole, parts, a, b] = ["whole", "parts", "a", "b"].map(|name| folder.name(name));
    let epochs = ["--epochs", "40", "--checkpoint-every", "7"];
    run(&strict(&whole, &a, &epochs)).succeeded();

    let mut more: &[&str] = &[];
    for signal in ["-INT", "-TERM"] {
        let before = checkpoint_file(&b);
        let arguments = strict(&parts, &b, &[&epochs[..], more].concat());
        let mut child = program(&arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while checkpoint_file(&b) == before {
            assert!(Instant::now() < deadline, "no checkpoint within a minute");
            std::thread::sleep(Duration::from_millis(1));
        }
        let killed = std::process::Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(130), "{signal}: {status}");
        let rows = csv(&folder.path("parts/history.csv"));
        assert!(rows.len() < csv(&folder.path("whole/history.csv")).len());
        more = &["--resume"];
    }

    run(&strict(&parts, &b, &[&epochs[..], more].concat())).succeeded();
    assert!(results(&folder, "whole") == results(&folder, "parts"));
}

/// Wrappers send again what their whole group of processes has got.
#[cfg(unix)]
#[test]
fn signals_that_come_together_are_one_and_keep_the_checkpoint() {
    let folder = Folder::new();
    let [out, checkpoint] = ["out", "checkpoint"].map(|name| folder.name(name));
    let mut more: &[&str] = &[];
    for signals in [["-TERM", "-TERM"], ["-HUP", "-TERM"], ["-INT", "-INT"]] {
        let arguments = strict(&out, &checkpoint, &[&["--epochs", "100000"], more].concat());
        let before = checkpoint_file(&checkpoint);
        let mut child = program(&arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while checkpoint_file(&checkpoint) == before {
            assert!(Instant::now() < deadline, "no checkpoint within a minute");
            std::thread::sleep(Duration::from_millis(1));
        }
        let kept = checkpoint_file(&checkpoint);
        for signal in signals {
            let _ = std::process::Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        }
        assert_eq!(child.wait().unwrap().code(), Some(130), "{signals:?}");
        assert_ne!(checkpoint_file(&checkpoint), kept, "{signals:?}: nothing was kept when it was stopped");
        more = &["--resume"];
    }
}

/// Which file the checkpoint is, if there is one: times alone are too coarse where two are written within one tick.
#[cfg(unix)]
fn checkpoint_file(path: &str) -> Option<(u64, std::time::SystemTime)> {
    use std::os::unix::fs::MetadataExt;

    std::fs::metadata(path).ok().map(|file| (file.ino(), file.modified().unwrap()))
}

/// Killed without a word, at any moment: while a checkpoint is written, too.
#[cfg(unix)]
#[test]
fn a_run_that_is_killed_again_and_again_ends_with_the_same_bits() {
    let folder = Folder::new();
    let [whole, parts, a, b] = ["whole", "parts", "a", "b"].map(|name| folder.name(name));
    let epochs = ["--epochs", "20", "--checkpoint-every", "1"];
    run(&strict(&whole, &a, &epochs)).succeeded();

    let mut kills = 0;
    for life in 0..25 {
        let before = checkpoint_file(&b);
        let resume: &[&str] = if before.is_some() { &["--resume"] } else { &[] };
        let arguments = strict(&parts, &b, &[&epochs[..], resume].concat());
        let mut child = program(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while checkpoint_file(&b) == before && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(Duration::from_micros(life * 7 % 25 * 300));
        child.kill().unwrap();
        match child.wait().unwrap().code() {
            None => kills += 1,
            Some(0) => break,
            Some(status) => panic!("exit status {status} in life {life}"),
        }
    }
    assert!(kills > 0, "the run came to its end before it could be killed");
    run(&strict(&parts, &b, &[&epochs[..], &["--resume"]].concat())).succeeded();
    assert!(results(&folder, "whole") == results(&folder, "parts"));
}

#[test]
fn what_fixed_prediction_lets_through_is_shown() {
    let folder = Folder::new();
    let [out, a, b] = ["out", "a", "b"].map(|name| folder.name(name));
    let train = |checkpoint: &str, more: &[&str]| {
        let arguments =
            ["train", "--method", "fixed-prediction", "--epochs", "1", "--out", &out, "--overwrite", "--checkpoint"];
        run(&[&arguments[..], &[checkpoint], more].concat())
    };
    let cells = |stdout: &str, layer: u32| {
        let mut rows = stdout.lines().map(|line| line.split(['│', '┆']).map(str::trim).collect::<Vec<_>>());
        rows.find(|row| row.len() == 4 && row[1] == layer.to_string()).map(|row| row[2].to_string())
    };
    let shown = [run(&["summary"]).succeeded(), train(&a, &[]).succeeded(), train(&b, &["--literal"]).succeeded()];
    for finished in &shown {
        for layer in 1..=4 {
            let share = fixed_prediction_share(4 - layer, 0.1, 20);
            assert_eq!(cells(&finished.stdout, layer), Some(format!("{:.2}%", 100.0 * share)), "{finished:?}");
        }
        let least = (4..).find(|&n| fixed_prediction_share(3, 0.1, n) >= 0.99).unwrap();
        assert!(finished.stdout.contains(&format!("99% in every layer needs {least} iterations\n")), "{finished:?}");
    }
    assert!(!shown[1].stdout.contains("literal") && shown[2].stdout.contains("fixed-prediction (0.1, 20, literal)"));
    for method in ["exact", "strict"] {
        assert!(!run(&["summary", "--method", method]).succeeded().stdout.contains("share of the gradient"));
    }
    // They round differently, so that neither goes on to the bits of the other.
    train(&a, &["--resume", "--literal"])
        .refused(&["method fixed-prediction (0.1, 20), this one has fixed-prediction (0.1, 20, literal)"]);
    train(&b, &["--resume"])
        .refused(&["method fixed-prediction (0.1, 20, literal), this one has fixed-prediction (0.1, 20);"]);
    train(&a, &["--resume"]).succeeded();
}

/// Where eta = 0.1 diverges, as [`a_divergence_stops_before_the_step_and_leaves_the_checkpoint`] shows.
#[test]
fn automatic_steps_outlast_weights_that_grow() {
    let folder = Folder::new();
    let [out, checkpoint] = ["out", "checkpoint"].map(|name| folder.name(name));
    let automatic = ["--eta", "auto", "--lr", "0.01"];
    let finished = run(&strict(&out, &checkpoint, &[&automatic[..], &["--epochs", "20"]].concat())).succeeded();
    let last = finished.stdout.lines().find(|line| line.starts_with("Last step: eta ")).unwrap();
    assert!(last.contains(", lambda_max "), "{finished:?}");
    assert!(finished.stderr.lines().all(|line| line.contains("test accuracy") && line.contains(", lambda_max ")));
    let run_json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path("out/run.json")).unwrap()).unwrap();
    let step = &run_json["last_step"];
    assert_eq!((&run_json["eta"], &run_json["tolerance"]), (&"auto".into(), &serde_json::Value::Null));
    assert_eq!((&step["diverged"], &step["iterations_used"]), (&0.into(), &20.into()));
    let range = |key: &str| [0, 1].map(|end| step[key][end].as_f64().unwrap());
    let ([low, high], [flat, steep]) = (range("eta_range"), range("lambda_max"));
    assert!(0.0 < low && low < high && high <= 1.8001 / flat && flat < steep, "{step}");

    let more = ["--epochs", "21", "--resume"];
    run(&strict(&out, &checkpoint, &[&["--lr", "0.01"], &more[..]].concat()))
        .refused(&["strict (auto, 20), this one has strict (0.1, 20)"]);
    run(&strict(&out, &checkpoint, &[&automatic[..], &["--tolerance", "1e-2"], &more].concat()))
        .refused(&["method strict (auto, 20), this one has strict (auto, 20, tolerance 0.01)"]);
    run(&strict(&out, &checkpoint, &[&automatic[..], &more].concat())).succeeded();
}

/// Of three methods, only strict takes automatic steps and ends early.
#[test]
fn a_comparison_gives_each_method_what_it_knows() {
    let folder = Folder::new();
    let out = folder.name("out");
    let arguments = ["train", "--epochs", "1", "--eta", "auto", "--tolerance", "1e-2", "--out", &out];
    let finished = run(&arguments).succeeded();
    for label in ["│ exact ", "fixed-prediction (0.1, 20) ", "strict (auto, 20, tolerance 0.01) "] {
        assert!(finished.stdout.contains(label), "{finished:?}");
    }
    let etas: Vec<String> = csv(&folder.path("out/comparison.csv")).iter().map(|row| row["eta"].clone()).collect();
    assert_eq!(etas, ["", "0.1", "auto"]);
    let run_json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path("out/run.json")).unwrap()).unwrap();
    let [null, usual, auto] = [serde_json::Value::Null, 0.1.into(), "auto".into()];
    assert_eq!([0, 1, 2].map(|method| &run_json["results"][method]["eta"]), [&null, &usual, &auto]);
    assert_eq!([0, 1, 2].map(|method| &run_json["results"][method]["tolerance"]), [&null, &null, &0.01.into()]);

    let summary = run(&["summary", "--eta", "auto"]).succeeded().stdout;
    for label in ["│ exact ", "│ fixed-prediction (0.1, 20) ", "│ strict (auto, 20) "] {
        assert!(summary.contains(label), "{summary}");
    }

    // Sweeps are strict's; fixed-prediction takes its usual iterations beside them.
    let arguments = ["train", "--epochs", "1", "--solver", "sweeps", "--out", &out];
    let finished = run(&arguments).succeeded();
    for label in ["│ exact ", "fixed-prediction (0.1, 20) ", "strict (sweeps, 5) "] {
        assert!(finished.stdout.contains(label), "{finished:?}");
    }
    let run_json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path("out/run.json")).unwrap()).unwrap();
    let solvers = [0, 1, 2].map(|method| run_json["results"][method]["solver"].as_str());
    assert_eq!(solvers, [None, Some("steps"), Some("sweeps")]);
    let history = csv(&folder.path("out/history.csv"));
    assert!(history.iter().all(|row| row["loss"].parse::<f64>().unwrap() > 0.0));
}

/// What was there before a run stays if the run comes to nothing, and is replaced only on request.
#[test]
fn results_of_another_run_are_not_lost() {
    let folder = Folder::new();
    let out = folder.name("out");
    let train = |more: &[&str]| run(&[&["train", "--method", "exact", "--epochs", "1", "--out", &out], more].concat());
    train(&[]).succeeded();
    let kept = results(&folder, "out");
    train(&["--seed", "1"]).refused(&["out: holds the results of another run", "another --out", "--overwrite"]);
    run(&["train", "--epochs", "1", "--out", &out]).refused(&["out: holds the results of another run"]);
    train(&["--optimizer", "sgd", "--lr", "1e39", "--overwrite"]).failed(1, &["step 1, epoch 1"]);
    assert!(results(&folder, "out") == kept);
    train(&["--seed", "1", "--overwrite"]).succeeded();
    assert!(results(&folder, "out") != kept);

    // Without a directory each run gets one of its own; one that comes to nothing leaves none.
    let train = |more: &[&str]| {
        let mut command = program(&[&["train", "--method", "exact", "--epochs", "1"], more].concat());
        crate::common::Finished::from(command.current_dir(folder.path("")).output().unwrap())
    };
    std::fs::remove_dir_all(&out).unwrap();
    for directory in ["out/digits-exact", "out/digits-exact-2"] {
        assert!(train(&[]).succeeded().stdout.contains(&format!("Written to {directory}: weights.safetensors")));
    }
    train(&["--optimizer", "sgd", "--lr", "1e39"]).failed(1, &["step 1, epoch 1"]);
    assert!(!folder.path("out/digits-exact-3").exists());
}

/// Layers that no error reaches are named.
#[test]
fn too_few_iterations_are_told() {
    let folder = Folder::new();
    let out = folder.name("out");
    let told =
        "2 iterations of strict do not reach layers 1 to 2, where the gradients are 0; use at least 4 iterations";
    let strict = ["--method", "strict", "--iterations", "2"];
    let trained = run(&[&["train", "--epochs", "1", "--out", &out], &strict[..]].concat()).succeeded();
    assert!(trained.stderr.contains(told), "{trained:?}");
    assert!(run(&[&["summary"], &strict[..]].concat()).succeeded().stderr.contains(told));
}

#[test]
fn a_checkpoint_of_another_run_is_refused() {
    let folder = Folder::new();
    let [out, checkpoint] = ["out", "checkpoint"].map(|name| folder.name(name));
    run(&strict(&out, &checkpoint, &["--epochs", "1"])).succeeded();
    for (more, part) in [
        (&["--eta", "0.05"][..], "method strict (0.1, 20), this one has strict (0.05, 20)"),
        (&["--batch", "32"], "batch 64, this one has 32"),
        (&["--lr", "0.01"], "lr=0.001"),
        (&["--optimizer", "sgd"], "optimizer adam"),
    ] {
        run(&strict(&out, &checkpoint, &[more, &["--resume"]].concat()))
            .refused(&["checkpoint: is a checkpoint of", part]);
    }
    run(&strict(&folder.name("other"), &checkpoint, &["--epochs", "2"])).refused(&[
        "checkpoint: holds the state of a run",
        "--resume",
        "another --checkpoint",
        "--overwrite",
    ]);
    let fresh = folder.name("fresh");
    run(&strict(&fresh, &folder.name("none"), &["--resume"])).refused(&["none", "does not exist"]);
    let weights = folder.write("weights", std::fs::read(folder.path("out/weights.safetensors")).unwrap());
    run(&strict(&fresh, &weights, &["--resume"])).refused(&["weights", "is not a checkpoint"]);
    assert!(!PathBuf::from(&fresh).exists());
}

#[test]
fn a_checkpoint_of_other_data_is_refused() {
    let folder = Folder::new();
    let [data, out, checkpoint] = ["", "out", "checkpoint"].map(|name| folder.name(name));
    let images = |pixel: u8| idx(0x803, &[2, 28, 28], &[pixel; 2 * 784]);
    for set in ["train", "t10k"] {
        folder.write(&format!("{set}-images-idx3-ubyte"), images(7));
        folder.write(&format!("{set}-labels-idx1-ubyte"), idx(0x801, &[2], &[3, 9]));
    }
    let arguments = ["train", "--dataset", "mnist", "--data", &data, "--method", "exact", "--out", &out];
    let kept = [&arguments[..], &["--checkpoint", &checkpoint, "--epochs"]].concat();
    run(&[&kept[..], &["1"]].concat()).succeeded();
    run(&[&kept[..], &["2", "--resume"]].concat()).succeeded();
    folder.write("train-images-idx3-ubyte", images(8));
    run(&[&kept[..], &["3", "--resume"]].concat()).refused(&["is a checkpoint of", "checksum of the training samples"]);
}

#[test]
fn a_divergence_stops_before_the_step_and_leaves_the_checkpoint() {
    let folder = Folder::new();
    let [out, checkpoint] = ["out", "checkpoint"].map(|name| folder.name(name));
    let stop = ["--on-divergence", "stop"];
    let start = run(&strict(&out, &checkpoint, &[&stop[..], &["--eta", "3", "--epochs", "1"]].concat()));
    start.failed(1, &["step 1, epoch 1", "sample", "layer", "try a smaller eta"]);
    assert!(!PathBuf::from(&checkpoint).exists());

    // Errors have no smaller step to relax again by.
    let errors = ["train", "--dataset", "digits", "--method", "error-based", "--eta", "2.5", "--epochs", "1", "--out"];
    let own = folder.name("errors");
    let errors = |more: &[&str]| run(&[&errors[..], &[&own, "--overwrite"], more].concat());
    let stopped = errors(&[]).failed(1, &["diverged at sample", "--eta auto", "--on-divergence skip"]);
    assert!(!stopped.stderr.contains("shrink"), "{stopped:?}");
    errors(&["--on-divergence", "shrink"]).refused(&["error-based has no smaller step", "expected stop or skip"]);
    let skipped = errors(&["--on-divergence", "skip"]).succeeded();
    assert!(skipped.stdout.contains("were left out"), "{skipped:?}");

    // A learning rate that lets the weights grow until eta = 0.1 is too large for them.
    let usual = ["--lr", "0.01", "--epochs", "40", "--checkpoint-every", "1"];
    let grow = [&stop[..], &usual].concat();
    run(&strict(&out, &checkpoint, &grow)).failed(
        1,
        &["diverged at sample", "layer", "step", "try a smaller eta", "--eta auto", "--on-divergence shrink"],
    );
    let kept = std::fs::read(&checkpoint).unwrap();
    let steps = csv(&folder.path("out/history.csv")).iter().filter(|row| row["kind"] == "train").count();
    assert!(steps > 1);
    let again = run(&strict(&out, &checkpoint, &[&grow[..], &["--resume"]].concat()));
    again.failed(1, &[&format!("step {}, ", steps + 1)]);
    assert_eq!(std::fs::read(&checkpoint).unwrap(), kept);

    // Usually such samples relax again by a smaller step, and the run goes on.
    let [whole, state] = ["whole", "state"].map(|name| folder.name(name));
    let finished = run(&strict(&whole, &state, &usual)).succeeded();
    let rows = csv(&folder.path("whole/history.csv"));
    let sum = |key: &str| rows.iter().map(|row| row[key].parse::<u64>().unwrap()).sum::<u64>();
    let (shrunk, skipped) = (sum("shrunk"), sum("skipped"));
    assert!(shrunk > 0);
    let told =
        format!("strict: diverged relaxations: {shrunk} succeeded with a smaller step size, {skipped} were left out");
    assert!(finished.stdout.contains(&told), "{finished:?}");
    let run_json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path("whole/run.json")).unwrap()).unwrap();
    assert_eq!((&run_json["shrunk"], &run_json["on_divergence"]), (&shrunk.into(), &"shrink".into()));
    let accuracy = rows.last().unwrap()["accuracy"].parse::<f64>().unwrap();
    assert!(accuracy > 0.9, "{accuracy}");
}

#[test]
fn numbers_that_leave_the_finite_stop_the_run() {
    let folder = Folder::new();
    let out = folder.name("out");
    let arguments = ["train", "--method", "exact", "--optimizer", "sgd", "--lr", "1e30", "--out", &out];
    run(&arguments).failed(1, &["step 2, epoch 1", "smaller --lr"]);
}

#[test]
fn a_step_beyond_all_numbers_is_taken_back() {
    let folder = Folder::new();
    let [out, checkpoint] = ["out", "checkpoint"].map(|name| folder.name(name));
    let good = ["train", "--method", "exact", "--optimizer", "sgd", "--checkpoint", &checkpoint, "--out", &out];
    run(&[&good[..], &["--epochs", "1", "--lr", "0.1"]].concat()).succeeded();
    let kept = std::fs::read(&checkpoint).unwrap();
    let wild = run(&[&good[..], &["--lr", "1e39", "--checkpoint-every", "1", "--overwrite"]].concat());
    wild.failed(1, &["step 1, epoch 1", "parameter 0.", "expected finite numbers", "smaller --lr"]);
    assert_eq!(std::fs::read(&checkpoint).unwrap(), kept);
    let weights = tensors(&folder.path("out/weights.safetensors"));
    assert!(weights.iter().all(|(_, _, values)| values.iter().all(|value| value.is_finite())));
}

#[test]
fn nothing_else_is_written_over() {
    let folder = Folder::new();
    let out = folder.name("out");
    let ops = "{ type = \"flatten\" }, { type = \"linear\", out_features = 10 }";
    let text = format!("input = [1, 8, 8]\nloss = \"cross_entropy\"\n[[layer]]\nops = [{ops}]\n");
    folder.write("model.toml", text);
    for (name, part) in [("out/run.json", "a result of the run"), ("model.toml", "--model")] {
        let checkpoint = folder.name(name);
        let model = folder.name("model.toml");
        let message = strict(&out, &checkpoint, &["--model", &model]);
        run(&message).refused(&[name, part, "choose another"]);
    }
}

/// What a line of the shell does, in which PROGRAM is the program.
#[cfg(unix)]
fn shell(line: &str) -> crate::common::Finished {
    let line = line.replace("PROGRAM", env!("CARGO_BIN_EXE_predictive-coding"));
    std::process::Command::new("sh").args(["-c", &line]).output().unwrap().into()
}

#[cfg(unix)]
#[test]
fn closed_and_full_outputs() {
    for line in ["PROGRAM summary >&-", "PROGRAM --help >&-", "PROGRAM summary >&- 2>&-"] {
        assert_eq!(shell(line).succeeded().stderr, "");
    }
    let piped = shell("{ PROGRAM summary; echo $? >&2; } | true");
    assert_eq!(piped.stderr, "0\n");
    if PathBuf::from("/dev/full").exists() {
        shell("PROGRAM summary >/dev/full").failed(1, &["cannot write to standard output"]);
    }
}

/// Files that may not grow, as on a disk that is full.
#[cfg(unix)]
#[test]
fn a_checkpoint_that_can_not_be_written_leaves_the_last_one() {
    let folder = Folder::new();
    let [whole, parts, a, b] = ["whole", "parts", "a", "b"].map(|name| folder.name(name));
    run(&strict(&whole, &a, &["--epochs", "3"])).succeeded();
    run(&strict(&parts, &b, &["--epochs", "1"])).succeeded();
    let kept = std::fs::read(&b).unwrap();
    let more = strict(&parts, &b, &["--epochs", "3", "--resume"]);
    let failed = shell(&format!("trap '' XFSZ; ulimit -f 1; exec PROGRAM {}", more.join(" ")));
    failed.failed(1, &[&b, "cannot be written"]);
    assert!(std::fs::read(&b).unwrap() == kept);
    let left: Vec<_> = std::fs::read_dir(folder.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 4, "{left:?}");
    run(&more).succeeded();
    assert!(results(&folder, "whole") == results(&folder, "parts"));

    if PathBuf::from("/dev/full").exists() {
        let arguments = strict(&parts, "/dev/full", &["--epochs", "1", "--overwrite"]);
        run(&arguments).failed(1, &["/dev/full", "no space is left"]);
    }
}

/// Found out before the first epoch, not after it. The proc file system lets nobody make files.
#[cfg(target_os = "linux")]
#[test]
fn a_place_that_takes_no_files_is_refused_at_once() {
    let folder = Folder::new();
    let out = folder.name("out");
    run(&strict(&out, "/proc/c", &[])).failed(2, &["/proc/c: cannot be written", "choose another"]);
    let a = folder.name("a");
    run(&strict("/proc", &a, &[])).failed(2, &["/proc: cannot be written", "choose another"]);
    run(&strict("/proc/out", &a, &[])).failed(2, &["/proc/out: the directory cannot be created"]);
}
