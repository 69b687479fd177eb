//! Signals: the first asks the run to stop, which keeps what it has. Another Ctrl-C ends the program at once; SIGTERM and
//! SIGHUP never do.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use predictive_coding::StopFlag;

use crate::console::Failure;

static ASKED: AtomicBool = AtomicBool::new(false);

/// The exit status of a program that Ctrl-C ends.
const STATUS: i32 = 130;

/// Signals that come within this time of the first are the same wish: wrappers send again what their whole group has got.
const SAME: Duration = Duration::from_secs(1);

/// From now on a signal is a wish, told by [`asked`].
pub fn listen() -> Result<(), Failure> {
    listen_for(|ends| {
        static FIRST: Mutex<Option<Instant>> = Mutex::new(None);
        let first = *FIRST.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert_with(Instant::now);
        if ASKED.swap(true, Ordering::Relaxed) && ends && first.elapsed() > SAME {
            std::process::exit(STATUS);
        }
    })
    .map_err(|e| Failure::run(format!("signals can not be listened for: {e}")))
}

/// Calls `f` at every signal, with whether it may end the program at once.
#[cfg(unix)]
fn listen_for(f: impl Fn(bool) + Send + 'static) -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    std::thread::Builder::new().spawn(move || signals.forever().for_each(|signal| f(signal == SIGINT)))?;
    Ok(())
}

#[cfg(not(unix))]
fn listen_for(f: impl Fn(bool) + Send + 'static) -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(move || f(true))
}

/// What ends a relaxation when the user asks the run to stop.
pub fn flag() -> StopFlag {
    StopFlag(&ASKED)
}

/// Whether the user asked the run to stop.
pub fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}
