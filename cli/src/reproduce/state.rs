//! What a run that is stopped keeps, for the same command to go on with.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::Reproduce;
use crate::console::Failure;
use crate::report;

/// A JSON file with the settings that it belongs to.
pub struct State {
    path: PathBuf,
    settings: Value,
}

impl State {
    /// The state of a figure under these settings; nothing is read or written yet.
    pub fn new(asked: &Reproduce, settings: Value) -> Self {
        State { path: asked.out().join(format!("{}.state.json", asked.name())), settings }
    }

    /// What an earlier run under the same settings kept.
    pub fn read(&self) -> Option<Value> {
        let mut kept: Value = serde_json::from_slice(&std::fs::read(&self.path).ok()?).ok()?;
        (kept["settings"] == self.settings).then(|| kept["state"].take())
    }

    pub fn write(&self, state: Value) -> Result<(), Failure> {
        report::write_json(&self.path, &json!({ "settings": self.settings, "state": state }))
    }

    /// There is nothing left to go on with.
    pub fn remove(&self) {
        let _ = std::fs::remove_file(&self.path);
    }

    /// Another file of the state.
    pub fn file(&self, ending: &str) -> PathBuf {
        self.path.with_extension(ending)
    }
}

/// The numbers of an array; what is not finite was written as null.
pub fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().into_iter().flatten().map(|value| value.as_f64().unwrap_or(f64::NAN)).collect()
}
