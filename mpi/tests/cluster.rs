//! `predictive-coding-mpi` under mpirun. `PREDICTIVE_CODING_RANKS` names the numbers of ranks, as in `1,2,3`.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_predictive-coding-mpi");

/// A command on so many ranks.
fn mpirun(ranks: usize) -> Command {
    let mut command = with_options(Command::new("mpirun"), ranks);
    command.args(["--quiet", PROGRAM]);
    command
}

/// The same, as the program launches it.
fn launch(ranks: usize) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("launch");
    let mut command = with_options(command, ranks);
    command.arg("--");
    command
}

fn with_options(mut command: Command, ranks: usize) -> Command {
    command.args(["--oversubscribe", "--allow-run-as-root", "--bind-to", "none", "-n", &ranks.to_string()]);
    command.env("OMPI_MCA_mpi_yield_when_idle", "1").env("OMPI_MCA_btl_base_warn_component_unused", "0");
    command
}

fn numbers_of_ranks() -> Vec<usize> {
    let told = std::env::var("PREDICTIVE_CODING_RANKS").unwrap_or_else(|_| "1,2,3".into());
    told.split(',').map(|ranks| ranks.trim().parse().unwrap()).collect()
}

/// A short run of train that writes to `out`.
fn train(mut command: Command, method: &[&str], out: &Path) -> Command {
    command.args(["train", "--batch", "90", "--epochs", "2", "--threads", "1", "--overwrite", "--method"]).args(method);
    command.arg("--out").arg(out);
    command
}

/// The same run in one process without MPI.
fn train_alone(method: &[&str], out: &Path) {
    let arguments = train(Command::new("predictive-coding"), method, out);
    let arguments = std::iter::once(arguments.get_program()).chain(arguments.get_args()).map(Into::into);
    assert_eq!(predictive_coding_cli::main(arguments.collect::<Vec<_>>()), 0);
}

fn succeeds(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// What ranks say of a failure, without what mpirun adds.
fn told(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let ours = |line: &&str| line.starts_with("error: ") || line.starts_with("stopped: ");
    text.lines().filter(ours).map(str::to_string).collect()
}

fn read(directory: &Path, name: &str) -> Vec<u8> {
    std::fs::read(directory.join(name)).unwrap()
}

#[test]
fn every_number_of_ranks_gives_the_weights_and_the_history_of_train() {
    let directory = tempfile::tempdir().unwrap();
    for method in [&["exact"][..], &["strict", "--eta", "auto", "--iterations", "3"], &["incremental"]] {
        let alone = directory.path().join("alone");
        train_alone(method, &alone);
        for ranks in numbers_of_ranks() {
            let shared = directory.path().join("shared");
            succeeds(train(mpirun(ranks), method, &shared));
            for name in ["weights.safetensors", "history.csv"] {
                assert!(read(&shared, name) == read(&alone, name), "{name} of {method:?} on {ranks} ranks");
            }
        }
        let mut command = train(mpirun(2), method, &directory.path().join("one-by-one"));
        command.arg("--no-overlap");
        succeeds(command);
        assert!(read(directory.path(), "one-by-one/weights.safetensors") == read(&alone, "weights.safetensors"));
    }
}

#[test]
fn a_sum_in_any_order_trains_too() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = mpirun(2);
    command.args(["train", "--any-order", "--method", "exact", "--epochs", "2"]).arg("--out").arg(directory.path());
    succeeds(command);
    let run: serde_json::Value = serde_json::from_slice(&read(directory.path(), "run.json")).unwrap();
    assert!(run["test"]["accuracy"].as_f64().unwrap() > 0.5, "{run}");
}

#[test]
fn a_batch_smaller_than_the_ranks_leaves_some_without_work() {
    let directory = tempfile::tempdir().unwrap();
    let [alone, shared] = ["alone", "shared"].map(|name| directory.path().join(name));
    let method = ["exact", "--batch=2", "--epochs=1", "--limit=20"];
    let small = |mut command: Command, out: &Path| {
        command.args(["train", "--method"]).args(method).arg("--out").arg(out);
        command
    };
    let arguments = small(Command::new("predictive-coding"), &alone);
    let arguments = std::iter::once(arguments.get_program()).chain(arguments.get_args()).map(Into::into);
    assert_eq!(predictive_coding_cli::main(arguments.collect::<Vec<_>>()), 0);
    succeeds(small(mpirun(3), &shared));
    assert!(read(&shared, "weights.safetensors") == read(&alone, "weights.safetensors"));
}

#[test]
fn a_divergence_stops_all_ranks_before_the_step_with_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let diverging = ["strict", "--eta", "50", "--on-divergence", "stop"];
    let output = train(mpirun(3), &diverging, directory.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = told(&output);
    assert!(told.len() == 1 && told[0].contains("step 1, epoch 1: the relaxation diverged"), "{told:?}");
    assert!(!directory.path().join("weights.safetensors").exists());
}

#[test]
fn wrong_usage_is_told_once() {
    let mut command = mpirun(2);
    command.args(["train", "--method", "exact", "--weights", "/no/such/file"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(matches!(&told(&output)[..], [line] if line.contains("/no/such/file")), "{:?}", told(&output));
}

#[test]
fn ranks_with_other_data_are_found_before_the_first_step() {
    let directory = tempfile::tempdir().unwrap();
    let data = |rank: usize, pixel: u8| {
        let data = directory.path().join(format!("data-{rank}"));
        std::fs::create_dir(&data).unwrap();
        for (set, count) in [("train", 8u32), ("t10k", 4)] {
            let images = [0x803u32, count, 2, 2].map(u32::to_be_bytes).concat();
            let pixels = vec![pixel; 4 * count as usize];
            std::fs::write(data.join(format!("{set}-images-idx3-ubyte")), [images, pixels].concat()).unwrap();
            let labels = [0x801u32, count].map(u32::to_be_bytes).concat();
            std::fs::write(data.join(format!("{set}-labels-idx1-ubyte")), [labels, vec![1; count as usize]].concat())
                .unwrap();
        }
        data
    };
    let (first, second) = (data(0, 3), data(1, 4));
    let model = directory.path().join("model.toml");
    std::fs::write(&model, "input = [1, 2, 2]\nloss = \"cross_entropy\"\n\n[[layer]]\nops = [\n  { type = \"flatten\" },\n  { type = \"linear\", out_features = 2 },\n]\n").unwrap();
    let mut command = mpirun(1);
    let mut options = |data: &Path| {
        command.args(["train", "--method", "exact", "--dataset", "mnist", "--data"]).arg(data);
        command.arg("--model").arg(&model).arg("--out").arg(directory.path().join("out"));
    };
    options(&first);
    command_colon(&mut command);
    let mut options = |data: &Path| {
        command.args(["train", "--method", "exact", "--dataset", "mnist", "--data"]).arg(data);
        command.arg("--model").arg(&model).arg("--out").arg(directory.path().join("out"));
    };
    options(&second);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        matches!(&told(&output)[..], [line] if line.contains("rank 1 has another data set")),
        "{:?}",
        told(&output)
    );
}

/// The next program of the same job: another rank.
fn command_colon(command: &mut Command) {
    command.args([":", "-n", "1", PROGRAM]);
}

/// A long run with a checkpoint after each step.
fn kept(command: Command, directory: &Path, epochs: &str) -> Command {
    let mut command = train(command, &["strict", "--eta", "0.1", "--checkpoint-every", "1"], &directory.join("out"));
    let place = command.get_args().position(|argument| argument == "--epochs").unwrap();
    let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let program = command.get_program().to_owned();
    let environment: Vec<_> = command.get_envs().map(|(k, v)| (k.to_owned(), v.unwrap().to_owned())).collect();
    command = Command::new(program);
    command.envs(environment).args(&arguments[..place + 1]).arg(epochs).args(&arguments[place + 2..]);
    command.arg("--checkpoint").arg(directory.join("checkpoint"));
    command
}

/// Waits until a file is there.
fn wait_for(path: &Path, child: &mut Child) {
    let started = Instant::now();
    while !path.exists() {
        assert!(child.try_wait().unwrap().is_none() && started.elapsed() < Duration::from_secs(60), "no checkpoint");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Interrupts a run of three ranks by `signal`, goes on with two, and compares with a run that went through.
fn interrupted_by(start: fn(usize) -> Command, signal: impl Fn(&Child)) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let (first, whole) = (directory.path().join("first"), directory.path().join("whole"));
    [&first, &whole].into_iter().for_each(|directory| std::fs::create_dir(directory).unwrap());
    let mut command = kept(start(3), &first, "6");
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for(&first.join("checkpoint"), &mut child);
    signal(&child);
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success());
    let mut command = kept(mpirun(2), &first, "6");
    command.arg("--resume");
    succeeds(command);
    succeeds(kept(mpirun(1), &whole, "6"));
    assert!(read(&first, "out/weights.safetensors") == read(&whole, "out/weights.safetensors"));
    output
}

fn kill(signal: &str, process: &str) {
    assert!(Command::new("kill").args([signal, process]).status().unwrap().success());
}

/// The processes that a process has started.
#[cfg(target_os = "linux")]
fn children(process: &str) -> Vec<String> {
    let children = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap();
    children.split_whitespace().map(str::to_string).collect()
}

#[cfg(target_os = "linux")]
#[test]
fn a_rank_that_dies_ends_the_run_with_one_line_and_it_goes_on_from_the_checkpoint_with_other_ranks() {
    let output = interrupted_by(launch, |launched| {
        let mpirun = children(&launched.id().to_string()).remove(0);
        kill("-KILL", children(&mpirun).last().unwrap());
    });
    assert_eq!(output.status.code(), Some(137));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    assert!(matches!(&lines[..], [line] if line.starts_with("error: a rank was ended by signal 9")), "{lines:?}");
}

#[test]
fn a_run_that_is_told_to_end_goes_on_from_the_checkpoint_with_other_ranks() {
    interrupted_by(mpirun, |mpirun| kill("-TERM", &mpirun.id().to_string()));
}

#[test]
fn a_failure_that_ranks_tell_is_told_once_by_a_launched_run() {
    let mut command = launch(2);
    let output = command.args(["train", "--method", "exact", "--weights", "/no/such/file"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(matches!(&text.lines().collect::<Vec<_>>()[..], [line] if line.contains("/no/such/file")), "{text}");
}

#[test]
fn a_sweep_has_a_row_for_each_run_and_does_none_twice() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sweep.toml");
    let out = directory.path().join("runs");
    let text = format!(
        "out = {out:?}\n\n[train]\nmethod = \"strict\"\non-divergence = \"stop\"\nepochs = 1\nbatch = 300\nthreads = 1\n\n[vary]\neta = [0.1, 50.0]\nlr = [1e-3, 1e-2]\n"
    );
    std::fs::write(&file, text).unwrap();
    let sweep = || {
        let mut command = mpirun(3);
        command.arg("sweep").arg(&file);
        succeeds(command);
        let mut reader = csv::Reader::from_path(out.join("sweep.csv")).unwrap();
        let header = reader.headers().unwrap().clone();
        let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        (header, rows)
    };
    let (header, rows) = sweep();
    let column = |name: &str| header.iter().position(|title| title == name).unwrap();
    assert_eq!(rows.len(), 4);
    for row in &rows {
        let fails = &row[column("eta")] == "50";
        assert_eq!(&row[column("status")], if fails { "failed" } else { "finished" });
        assert_eq!(row[column("error")].contains("diverged"), fails);
        assert_eq!(row[column("test loss")].is_empty(), fails);
    }
    let weights = out.join("0001/weights.safetensors");
    let written = std::fs::metadata(&weights).unwrap().modified().unwrap();
    assert_eq!(sweep().1, rows);
    assert_eq!(std::fs::metadata(&weights).unwrap().modified().unwrap(), written);
}

#[test]
fn a_rank_takes_the_next_run_of_a_sweep_while_another_is_at_a_long_one() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sweep.toml");
    let out = directory.path().join("runs");
    let text =
        format!("out = {out:?}\n\n[train]\nmethod = \"exact\"\nthreads = 1\n\n[vary]\nepochs = [100, 1, 1, 1, 1]\n");
    std::fs::write(&file, text).unwrap();
    let mut command = mpirun(2);
    command.arg("sweep").arg(&file);
    succeeds(command);
    let ended = |run: usize| std::fs::metadata(out.join(format!("{run:04}/result.json"))).unwrap().modified().unwrap();
    assert!((2..=5).all(|run| ended(run) < ended(1)), "{:?}", [1, 2, 3, 4, 5].map(ended));
}

#[test]
fn what_is_wrong_with_a_sweep_is_told_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sweep.toml");
    for (text, part) in [
        ("[vary]\nlr = [1.0]\n", "names no method"),
        ("[train]\nmethod = \"exact\"\nout = \"x\"\n", "sets out"),
        ("[train]\nmethod = \"exact\"\n[vary]\nlr = 3\n", "lr varies by 3, expected a list"),
        (
            "runs = 2\n[train]\nmethod = \"exact\"\n[vary]\nlr = { min = 0, max = 1, log = true }\n",
            "expected a list, or",
        ),
        ("trian = 1\n", "has a key trian"),
    ] {
        std::fs::write(&file, text).unwrap();
        let mut command = mpirun(2);
        let output = command.arg("sweep").arg(&file).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(matches!(&told(&output)[..], [line] if line.contains(part)), "{:?}", told(&output));
    }
}
