//! `sweep`: many runs of `train`, one on each rank at a time.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use predictive_coding::{Ranks, write_atomically};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value as Json;
use toml::{Table, Value};

use crate::deal::deal;

/// A sweep, as its file describes it.
#[derive(Debug)]
struct Sweep {
    /// Where the runs and the table go.
    out: PathBuf,
    /// The options of each run.
    runs: Vec<BTreeMap<String, String>>,
    /// The options that differ between the runs.
    varied: Vec<String>,
}

/// Options that a sweep sets itself.
const OWN: [&str; 5] = ["out", "checkpoint", "resume", "overwrite", "override"];

/// Runs the sweep that the arguments name; returns the exit status.
pub fn run(arguments: &[OsString], ranks: &dyn Ranks) -> u8 {
    let sweep = match arguments {
        [file] => read(Path::new(file)),
        _ => Err("sweep takes one argument, the file that describes it".into()),
    };
    let sweep = sweep.and_then(|sweep| {
        std::fs::create_dir_all(&sweep.out)
            .map_err(|e| format!("{}: the directory cannot be created: {e}", sweep.out.display()))?;
        Ok(sweep)
    });
    let mut failed = vec![0.0; ranks.size()];
    failed[ranks.rank()] = f64::from(sweep.is_err());
    ranks.all_gather_f64(&mut failed, &vec![1; ranks.size()]);
    if failed.contains(&1.0) {
        if let Err(why) = &sweep
            && failed.iter().position(|&failed| failed == 1.0) == Some(ranks.rank())
        {
            eprintln!("error: {why}");
        }
        return 2;
    }
    let Ok(sweep) = sweep else { return 2 };
    let mut stopped = false;
    deal(sweep.runs.len(), |run| {
        stopped |= sweep.train(run) == STOPPED;
        if ranks.rank() == 0 && !stopped {
            sweep.write_table();
        }
        !stopped
    });
    let mut all = vec![0.0; ranks.size()];
    all[ranks.rank()] = f64::from(stopped);
    ranks.all_gather_f64(&mut all, &vec![1; ranks.size()]);
    let written = ranks.rank() > 0 || sweep.write_table();
    if all.contains(&1.0) {
        return STOPPED;
    }
    u8::from(!written)
}

/// The exit status of a run that was stopped.
const STOPPED: u8 = 130;

fn read(file: &Path) -> Result<Sweep, String> {
    let wrong = |why: String| format!("{}: {why}", file.display());
    let text = std::fs::read_to_string(file).map_err(|e| wrong(format!("cannot be read: {e}")))?;
    let table: Table = text.parse().map_err(|e: toml::de::Error| wrong(e.message().replace('\n', " ")))?;
    parse(&table).map_err(wrong)
}

fn parse(table: &Table) -> Result<Sweep, String> {
    const KEYS: [&str; 5] = ["out", "runs", "seed", "train", "vary"];
    if let Some(key) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(format!("has a key {key}, expected {}", KEYS.join(", ")));
    }
    let empty = Table::new();
    let section = |name: &str| match table.get(name) {
        None => Ok(&empty),
        Some(Value::Table(section)) => Ok(section),
        Some(_) => Err(format!("{name} is no table, expected [{name}] with options of train")),
    };
    let number = |name: &str| match table.get(name) {
        None => Ok(None),
        Some(Value::Integer(number)) if *number >= 0 => Ok(Some(*number as u64)),
        Some(_) => Err(format!("{name} is no whole number of at least 0")),
    };
    let out = match table.get("out") {
        None => "sweep".into(),
        Some(Value::String(out)) => PathBuf::from(out),
        Some(_) => return Err("out is no text, expected a directory".into()),
    };
    let (fixed, vary) = (section("train")?, section("vary")?);
    if let Some(name) = fixed.keys().chain(vary.keys()).find(|name| OWN.contains(&name.as_str())) {
        return Err(format!("sets {name}, which each run has of its own; leave it out"));
    }
    if let Some(name) = vary.keys().find(|name| fixed.contains_key(*name)) {
        return Err(format!("has {name} in [train] and in [vary], expected it in one of them"));
    }
    if !fixed.contains_key("method") && !vary.contains_key("method") {
        return Err("names no method, expected one in [train] or [vary]".into());
    }
    let fixed = fixed.iter().map(|(name, value)| Ok((name.clone(), text(name, value)?)));
    let fixed: BTreeMap<String, String> = fixed.collect::<Result<_, String>>()?;
    let runs = match number("runs")? {
        None => grid(fixed, vary)?,
        Some(runs) => {
            let seed = number("seed")?.unwrap_or(0);
            (0..runs).map(|run| random(&fixed, vary, seed, run)).collect::<Result<_, _>>()?
        }
    };
    Ok(Sweep { out, runs, varied: vary.keys().cloned().collect() })
}

/// The value of an option, as on the command line.
fn text(name: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(number.to_string()),
        Value::Boolean(set) => Ok(set.to_string()),
        _ => Err(format!("{name} has the value {value}, expected text, a number, true or false")),
    }
}

/// Every combination.
fn grid(fixed: BTreeMap<String, String>, vary: &Table) -> Result<Vec<BTreeMap<String, String>>, String> {
    let mut runs = vec![fixed];
    for (name, values) in vary {
        let Value::Array(values) = values else {
            return Err(format!("{name} varies by {values}, expected a list; ranges are for a random choice of runs"));
        };
        let values = values.iter().map(|value| text(name, value)).collect::<Result<Vec<_>, _>>()?;
        let with = |run: &BTreeMap<String, String>, value: &String| {
            let mut run = run.clone();
            run.insert(name.clone(), value.clone());
            run
        };
        runs = runs.iter().flat_map(|run| values.iter().map(|value| with(run, value)).collect::<Vec<_>>()).collect();
    }
    Ok(runs)
}

/// One combination, which depends on the seed and the number of the run alone.
fn random(
    fixed: &BTreeMap<String, String>,
    vary: &Table,
    seed: u64,
    run: u64,
) -> Result<BTreeMap<String, String>, String> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(run);
    let mut options = fixed.clone();
    for (name, values) in vary {
        options.insert(name.clone(), draw(name, values, &mut rng)?);
    }
    Ok(options)
}

fn draw(name: &str, values: &Value, rng: &mut impl Rng) -> Result<String, String> {
    let wrong =
        || format!("{name} varies by {values}, expected a list, or {{ min = A, max = B }} with log = true or not");
    match values {
        Value::Array(values) if !values.is_empty() => text(name, &values[rng.random_range(0..values.len())]),
        Value::Table(range) => {
            let end = |name: &str| match range.get(name) {
                Some(Value::Float(end)) => Ok(*end),
                Some(Value::Integer(end)) => Ok(*end as f64),
                _ => Err(wrong()),
            };
            let (min, max) = (end("min")?, end("max")?);
            let whole = matches!((&range["min"], &range["max"]), (Value::Integer(_), Value::Integer(_)));
            let log = match range.get("log") {
                None => false,
                Some(Value::Boolean(log)) => *log,
                Some(_) => return Err(wrong()),
            };
            let known = range.keys().all(|key| ["min", "max", "log"].contains(&key.as_str()));
            if !known || !min.is_finite() || !max.is_finite() || min > max || (log && min <= 0.0) {
                return Err(wrong());
            }
            let at: f64 = rng.random();
            let value = if log { min * (max / min).powf(at) } else { min + (max - min) * at };
            Ok(if whole { value.round().to_string() } else { value.to_string() })
        }
        _ => Err(wrong()),
    }
}

impl Sweep {
    fn directory(&self, run: usize) -> PathBuf {
        self.out.join(format!("{:04}", run + 1))
    }

    /// The arguments of a run; it goes on from its checkpoint, if there is one.
    fn arguments(&self, run: usize) -> Vec<OsString> {
        let directory = self.directory(run);
        let checkpoint = directory.join("checkpoint.safetensors");
        let mut arguments: Vec<OsString> = vec!["predictive-coding".into(), "train".into()];
        for (name, value) in &self.runs[run] {
            match value.as_str() {
                "true" => arguments.push(format!("--{name}").into()),
                "false" => (),
                value => arguments.push(format!("--{name}={value}").into()),
            }
        }
        arguments.push(if checkpoint.is_file() { "--resume" } else { "--overwrite" }.into());
        arguments.extend(["--out".into(), directory.into(), "--checkpoint".into(), checkpoint.into()]);
        arguments
    }

    /// What a run that has ended by itself has left, if its options were these.
    fn result(&self, run: usize) -> Option<Json> {
        let told: Json = serde_json::from_slice(&std::fs::read(self.directory(run).join("result.json")).ok()?).ok()?;
        (told["options"] == serde_json::json!(self.runs[run])).then_some(told)
    }

    /// Trains, unless it was done before; returns the exit status.
    fn train(&self, run: usize) -> u8 {
        if self.result(run).is_some_and(|result| result["status"] == "finished") {
            return 0;
        }
        let directory = self.directory(run);
        let outcome = std::fs::create_dir_all(&directory)
            .map_err(|e| (1, format!("{}: the directory cannot be created: {e}", directory.display())))
            .and_then(|()| predictive_coding_cli::run_quietly(self.arguments(run)));
        let (status, error) = outcome.err().map_or((0, None), |(status, error)| (status, Some(error)));
        if status == STOPPED {
            return status;
        }
        let described = std::fs::read(directory.join("run.json")).ok().filter(|_| status == 0);
        let described: Json = described.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let result = serde_json::json!({
            "options": self.runs[run],
            "status": if status == 0 { "finished" } else { "failed" },
            "error": error,
            "run": described,
        });
        if let Err(error) = write_atomically(directory.join("result.json"), format!("{result:#}").as_bytes()) {
            eprintln!("warning: {error}");
        }
        status
    }

    /// Writes a row for each run; returns whether that was possible.
    fn write_table(&self) -> bool {
        let results =
            ["status", "steps", "seconds", "train loss", "train accuracy", "test loss", "test accuracy", "error"];
        let header = ["run"].into_iter().chain(self.varied.iter().map(String::as_str)).chain(results);
        let mut csv = csv::Writer::from_writer(Vec::new());
        let mut written = csv.write_record(header);
        for (index, options) in self.runs.iter().enumerate() {
            let result = self.result(index).unwrap_or_default();
            let run = &result["run"];
            let text = |value: &Json| match value {
                Json::Null => String::new(),
                Json::String(text) => text.clone(),
                value => value.to_string(),
            };
            let status = result["status"].as_str().unwrap_or("waiting").to_string();
            let scores = ["train", "test"].map(|set| ["loss", "accuracy"].map(|score| text(&run[set][score])));
            let varied = self.varied.iter().map(|name| options[name].clone());
            let row = [(index + 1).to_string()].into_iter().chain(varied).chain([status]);
            let row = row.chain([text(&run["steps"]), text(&run["seconds"])]).chain(scores.concat());
            written = written.and_then(|()| csv.write_record(row.chain([text(&result["error"])])));
        }
        let file = self.out.join("sweep.csv");
        let bytes = written.and_then(|()| csv.into_inner().map_err(|e| e.into_error().into()));
        let outcome = bytes
            .map_err(|e| e.to_string())
            .and_then(|bytes| write_atomically(&file, &bytes).map_err(|e| e.to_string()));
        if let Err(error) = &outcome {
            eprintln!("error: {error}");
        }
        outcome.is_ok()
    }
}
