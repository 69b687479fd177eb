//! `launch`: the ranks under an `mpirun` of which only what the ranks say is heard, and one line if they end without a word.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What a shell adds to the number of the signal that ended a program.
const BY_SIGNAL: i32 = 128;

/// Runs `mpirun` with the arguments before `--`, and under it this program with those behind it; returns the exit status.
pub fn run(arguments: &[OsString]) -> u8 {
    let Some(cut) = arguments.iter().position(|argument| argument == "--") else {
        eprintln!(
            "error: launch has no --, expected it between the options of mpirun and a command: launch -n 4 -- train"
        );
        return 2;
    };
    let program = std::env::current_exe().unwrap_or_else(|_| env!("CARGO_PKG_NAME").into());
    let mut mpirun = Command::new("mpirun");
    mpirun.arg("--quiet").args(&arguments[..cut]).arg(program).args(&arguments[cut + 1..]);
    // In a group of its own, it gets each signal once: from here.
    mpirun.process_group(0).stdin(Stdio::null()).stderr(Stdio::piped());
    let outcome = mpirun.spawn().and_then(|mut child| {
        let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
        let process = child.id();
        std::thread::spawn(move || signals.forever().for_each(|signal| send(signal, process)));
        let heard = pass_on(child.stderr.take().expect("it is piped"))?;
        Ok((child.wait()?, heard))
    });
    match outcome {
        Ok((status, heard)) => {
            if !status.success() && !heard.told {
                eprintln!("error: {}", silent_end(status, heard.last.as_deref()));
            }
            status.code().unwrap_or(BY_SIGNAL + status.signal().unwrap_or(0)) as u8
        }
        Err(error) => {
            eprintln!("error: mpirun cannot be run: {error}; install Open MPI, or load its module");
            1
        }
    }
}

/// Sends a signal to a process.
fn send(signal: i32, process: u32) {
    let kill =
        Command::new("sh").args(["-c", "kill -\"$0\" \"$1\""]).args([signal.to_string(), process.to_string()]).status();
    if let Err(error) = kill {
        eprintln!("warning: signal {signal} cannot be sent to mpirun: {error}");
    }
}

/// What ranks and MPI have said.
#[derive(Default)]
struct Heard {
    /// Whether a rank has told why it ended.
    told: bool,
    /// The last line of MPI itself.
    last: Option<String>,
}

/// Copies to stderr what comes, but for the lines of MPI itself, which begin with `[host:process]`.
fn pass_on(mut from: impl Read) -> std::io::Result<Heard> {
    let (mut heard, mut line, mut buffer) = (Heard::default(), Vec::new(), [0; 1 << 12]);
    loop {
        let count = from.read(&mut buffer)?;
        for &byte in &buffer[..count] {
            line.push(byte);
            if byte == b'\n' || byte == b'\r' {
                heard.listen(&line)?;
                line.clear();
            }
        }
        if count == 0 {
            heard.listen(&line)?;
            return Ok(heard);
        }
    }
}

impl Heard {
    fn listen(&mut self, line: &[u8]) -> std::io::Result<()> {
        let text = String::from_utf8_lossy(line);
        self.told |= ["error: ", "stopped: "].iter().any(|start| text.starts_with(start));
        match of_mpi(&text) {
            Some(said) => self.last = Some(said.to_string()),
            None => std::io::stderr().write_all(line)?,
        }
        Ok(())
    }
}

/// What a line says, if it is one of MPI.
fn of_mpi(line: &str) -> Option<&str> {
    let (host, said) = line.strip_prefix('[')?.split_once(']')?;
    let (_, process) = host.rsplit_once(':')?;
    process.parse::<u32>().ok().map(|_| said.trim())
}

fn silent_end(status: ExitStatus, said: Option<&str>) -> String {
    let by_signal = |signal: i32| format!("a rank was ended by signal {signal}, and the others with it");
    let ended = match (status.code(), status.signal()) {
        (Some(code), _) if code > BY_SIGNAL => by_signal(code - BY_SIGNAL),
        (Some(code), _) => format!("the ranks have ended with status {code}"),
        (None, signal) => format!("mpirun was ended by signal {}", signal.unwrap_or(0)),
    };
    let said = said.map_or(String::new(), |said| format!(" ({said})"));
    format!("{ended}{said}; --resume goes on from the last checkpoint")
}
