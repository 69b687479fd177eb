//! Signals: the first asks the run to stop, which keeps what it has. Another Ctrl-C ends the program at once; SIGTERM and
//! SIGHUP never do.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use predictive_coding::StopFlag;

use crate::console::Failure;
#[cfg(unix)]
use crate::machine::proc_entry;

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
    .map_err(|e| Failure::run(format!("cannot install signal handlers: {e}")))
}

/// Calls `f` at every signal, with whether it may end the program at once.
#[cfg(unix)]
fn listen_for(f: impl Fn(bool) + Send + 'static) -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

    // Whoever started the program under nohup wants it to outlive the terminal.
    let hangup = (!is_ignored(SIGHUP)).then_some(SIGHUP);
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM].into_iter().chain(hangup))?;
    std::thread::Builder::new().spawn(move || signals.forever().for_each(|signal| f(signal == SIGINT)))?;
    Ok(())
}

/// Whether a signal is ignored, where the system tells.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    let ignored = proc_entry("/proc/self/status", "SigIgn").and_then(|mask| u64::from_str_radix(&mask, 16).ok());
    ignored.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
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
