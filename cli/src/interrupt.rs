//! Ctrl-C: the first asks the run to stop after its step, the second ends the program.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::console::Failure;

static ASKED: AtomicBool = AtomicBool::new(false);

/// The exit status of a program that Ctrl-C ends.
const STATUS: i32 = 130;

/// From now on an interrupt is a wish, told by [`asked`].
pub fn listen() -> Result<(), Failure> {
    ctrlc::set_handler(|| {
        if ASKED.swap(true, Ordering::Relaxed) {
            std::process::exit(STATUS);
        }
    })
    .map_err(|e| Failure::run(format!("Ctrl-C can not be listened for: {e}")))
}

/// Whether the user asked the run to stop.
pub fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}
