//! A progress bar on standard error; a line per epoch where that is no terminal.

use indicatif::{ProgressBar, ProgressStyle};

use crate::console::note;
use crate::training::Training;

/// Progress in floating-point operations, so that methods of different cost share a bar and the
/// time left is meant.
pub struct Progress {
    bar: ProgressBar,
    prefix: String,
}

impl Progress {
    /// A bar for `work` operations in all.
    pub fn new(work: u64) -> Self {
        let style = ProgressStyle::with_template("{prefix}{bar:30} {percent:>3}%  {msg}  {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        Progress { bar: ProgressBar::new(work).with_style(style), prefix: String::new() }
    }

    /// What is under way, in front of everything.
    pub fn set_prefix(&mut self, prefix: &str) {
        self.prefix = format!("{prefix}  ");
        self.bar.set_prefix(self.prefix.clone());
    }

    /// Work that was done in an earlier run.
    pub fn skip(&mut self, work: u64) {
        self.bar.set_position(work);
        self.bar.reset_eta();
    }

    /// One step, of this much work, was taken.
    pub fn step(&mut self, training: &Training, work: u64) {
        let latest = training.latest();
        let task = training.task();
        self.bar.set_message(format!(
            "epoch {}/{}  loss {:.4}  accuracy {:5.1}%",
            latest.epoch,
            task.epochs,
            latest.loss,
            100.0 * latest.accuracy
        ));
        self.bar.inc(work);
        if let Some(test) = training.evaluation() {
            self.line(&format!(
                "{}epoch {}/{}: test loss {:.4}, test accuracy {:.1}%",
                self.prefix,
                test.epoch,
                task.epochs,
                test.loss,
                100.0 * test.accuracy
            ));
        }
    }

    /// A line above the bar.
    pub fn line(&self, text: &str) {
        self.bar.suspend(|| note(text));
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
