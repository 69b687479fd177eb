//! The paper's run times: two epochs on MNIST with the squared error, by each method.

use std::sync::LazyLock;

use predictive_coding::{FixedPrediction, Loss, Method, Progress as RunProgress, Strict};
use serde_json::{Value, json};

use super::Reproduce;
use super::setting::Setting;
use super::state::State;
use crate::console::{Failure, print};
use crate::figure::{self, Bar, Bars};
use crate::machine;
use crate::progress::Progress;
use crate::report;
use crate::table::{percent, table};
use crate::training::{Flow, Score, Training};

/// A way to train, and what the paper's software took for it on a GPU: seconds for two epochs of MNIST, of which
/// the README of its repository (github.com/RobertRosenbaum/PredictiveCodingVsBackProp) tells.
struct Way {
    name: &'static str,
    method: Method,
    published: Option<f64>,
}

static WAYS: LazyLock<[Way; 5]> = LazyLock::new(|| {
    let way = |name, method, published| Way { name, method, published };
    let fixed = FixedPrediction::new;
    [
        way("strict (0.1, 20)", Strict::new(0.1, 20).into(), Some(30.9)),
        way("fixed-prediction (0.1, 20), literal", fixed(0.1, 20).with_literal(true).into(), Some(27.4)),
        way("fixed-prediction (0.1, 20)", fixed(0.1, 20).into(), None),
        way("fixed-prediction (1, 5), literal", fixed(1.0, 5).with_literal(true).into(), Some(13.0)),
        way("exact", Method::Exact, Some(7.5)),
    ]
});

/// What came of a way.
struct Time {
    seconds: f64,
    test: Score,
}

impl Time {
    fn to_json(&self) -> Value {
        json!({ "seconds": self.seconds, "test": report::score(self.test) })
    }

    fn from_json(kept: &Value) -> Option<Self> {
        let test = Score { loss: kept["test"]["loss"].as_f64()?, accuracy: kept["test"]["accuracy"].as_f64()? };
        Some(Time { seconds: kept["seconds"].as_f64()?, test })
    }
}

pub fn run(asked: &Reproduce) -> Result<(), Failure> {
    let mut setting = Setting::mnist(asked, Loss::MSE)?;
    if asked.data.is_none() && asked.epochs.is_none() {
        setting.epochs = 2;
    }
    let task = |way: &Way| setting.task(way.method.clone());
    let work = |way: &Way| task(way).steps().saturating_mul(task(way).work());
    let mut bar = Progress::new(WAYS.iter().map(work).fold(0, u64::saturating_add));
    let mut description = Value::Null;
    let state = State::new(
        asked,
        json!({ "data": setting.title, "samples": setting.train.len(), "epochs": setting.epochs, "seed": setting.seed }),
    );
    let mut times: Vec<Time> = state
        .read()
        .map_or(Vec::new(), |kept| kept.as_array().into_iter().flatten().filter_map(Time::from_json).collect());
    for (i, way) in WAYS.iter().enumerate() {
        bar.set_prefix(way.name);
        let parameters = setting.network.initialize(setting.seed);
        let mut training = Training::new(task(way), parameters, setting.optimizer()?, RunProgress::default())?;
        let optimizer = training.optimizer().description();
        description = report::describe(training.task(), setting.title, &optimizer, training.session());
        if i < times.len() {
            bar.advance(work(way));
            continue;
        }
        if training.run(&mut bar)? == Flow::Stop {
            bar.finish();
            state.write(times.iter().map(Time::to_json).collect())?;
            return Err(asked.stopped(&format!("during {}", way.name)));
        }
        times.push(Time { seconds: training.seconds(), test: training.evaluate(training.task().test)? });
    }
    bar.finish();
    write(asked, &setting, &times, description)?;
    state.remove();
    Ok(())
}

fn write(asked: &Reproduce, setting: &Setting, times: &[Time], mut description: Value) -> Result<(), Failure> {
    let exact = times.last().map_or(f64::NAN, |time| time.seconds);
    let published_exact = WAYS[WAYS.len() - 1].published.unwrap_or(f64::NAN);
    let published = |way: &Way| way.published.map(|seconds| (seconds, seconds / published_exact));
    let header = ["method", "seconds", "ratio", "test_accuracy", "published_seconds", "published_ratio"];
    let row = |(way, time): (&Way, &Time)| -> Vec<String> {
        let (seconds, ratio) =
            published(way).map_or((String::new(), String::new()), |(s, r)| (s.to_string(), r.to_string()));
        let own = [time.seconds, time.seconds / exact, time.test.accuracy].map(|value| value.to_string());
        std::iter::once(way.name.to_string()).chain(own).chain([seconds, ratio]).collect()
    };
    let rows: Vec<Vec<String>> =
        std::iter::once(header.map(String::from).to_vec()).chain(WAYS.iter().zip(times).map(row)).collect();
    report::write_csv(&asked.file().with_extension("csv"), &rows)?;

    let bars: Vec<Bar> =
        WAYS.iter().zip(times).map(|(way, time)| Bar { name: way.name.into(), value: time.seconds }).collect();
    let picture = Bars {
        title: format!("{}: seconds of training by each method (η, n)", setting.title),
        settings: format!("{}; {} threads, {}", setting.settings(), rayon::current_num_threads(), machine::name()),
        unit: "s",
        bars,
    };
    figure::write(&asked.file(), &picture.scene())?;

    description["quick"] = json!(asked.quick);
    for key in ["method", "eta", "iterations", "literal", "tolerance"] {
        description[key] = Value::Null;
    }
    let result = |(way, time): (&Way, &Time)| {
        json!({
            "method": way.name,
            "seconds": time.seconds,
            "ratio": time.seconds / exact,
            "test": report::score(time.test),
        })
    };
    description["results"] = WAYS.iter().zip(times).map(result).collect();
    report::write_json(&asked.out().join("run.json"), &description)?;

    let row = |(way, time): (&Way, &Time)| {
        let (seconds, ratio) =
            published(way).map_or((String::new(), String::new()), |(s, r)| (format!("{s:.1}"), format!("{r:.1}")));
        vec![
            way.name.to_string(),
            format!("{:.2}", time.seconds),
            format!("{:.1}", time.seconds / exact),
            percent(time.test.accuracy),
            seconds,
            ratio,
        ]
    };
    let rows: Vec<Vec<String>> = WAYS.iter().zip(times).map(row).collect();
    let header = ["method", "seconds", "ratio", "test accuracy", "published, on a GPU", "ratio"];
    print(&format!(
        "{}\n\nWritten to {}: runtimes.csv, runtimes.png, runtimes.svg, run.json",
        table(&header, &rows),
        asked.out().display()
    ))
}
