//! A progress bar on standard error; where that is no terminal, a line now and then.

use indicatif::{ProgressBar, ProgressStyle};

use crate::console::{Failure, note, speaks};
use crate::relaxing::adapts;
use crate::training::{Flow, Training, Watcher};
use crate::{interrupt, ranks};

/// Lines that a run leaves where a bar cannot be drawn.
const LINES: u64 = 10;

/// Progress in floating-point operations, so that methods of different cost share a bar and the
/// time left is meant.
pub struct Progress {
    bar: ProgressBar,
    prefix: String,
    /// The last evaluation.
    test: String,
}

impl Progress {
    /// A bar for `work` operations in all.
    pub fn new(work: u64) -> Self {
        let style = ProgressStyle::with_template("{prefix}{bar:10} {percent:>3}%  {eta:>3} left  {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = if speaks() { ProgressBar::new(work) } else { ProgressBar::hidden() };
        Progress { bar: bar.with_style(style), prefix: String::new(), test: String::new() }
    }

    /// What is under way, in front of everything.
    pub fn set_prefix(&mut self, prefix: &str) {
        self.prefix = format!("{prefix}  ");
        self.bar.set_prefix(self.prefix.clone());
        self.test.clear();
    }

    /// Work that was done in an earlier run.
    pub fn advance(&mut self, work: u64) {
        self.bar.inc(work);
        self.bar.reset_eta();
    }

    /// Work was done that is no step of a training run.
    pub fn work(&mut self, work: u64, message: String) {
        self.bar.set_message(message);
        self.bar.inc(work);
    }

    /// One step, of this much work, was taken.
    pub fn step(&mut self, training: &Training, work: u64) {
        let latest = training.latest();
        let epochs = training.task().epochs;
        let epoch = latest.epoch;
        if let Some(test) = training.evaluation() {
            self.test = accuracy("  test accuracy", test.accuracy);
            if self.bar.is_hidden() && (epoch == epochs || epoch.is_multiple_of(epochs.div_ceil(LINES))) {
                let (loss, accuracy) = (test.loss, accuracy(", test accuracy", test.accuracy));
                let descents = training.descents().filter(|_| adapts(&training.task().method));
                let descents = descents.map_or(String::new(), |descents| format!(", {descents}"));
                note(&format!("{}epoch {epoch}/{epochs}: test loss {loss:.4}{accuracy}{descents}", self.prefix));
            }
        }
        let (loss, accuracy) = (latest.loss, accuracy("  accuracy", latest.accuracy));
        self.bar.set_message(format!("epoch {epoch}/{epochs}  loss {loss:.4}{accuracy}{}", self.test));
        self.bar.inc(work);
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// An accuracy with its name, if there is one.
fn accuracy(name: &str, accuracy: f64) -> String {
    if accuracy.is_nan() { String::new() } else { format!("{name} {:.1}%", 100.0 * accuracy) }
}

/// Looks on, and ends the run when the user asks.
impl Watcher for Progress {
    fn after_step(&mut self, training: &Training) -> Result<Flow, Failure> {
        self.step(training, training.task().work());
        Ok(if ranks::any(interrupt::asked()) { Flow::Stop } else { Flow::Continue })
    }
}
