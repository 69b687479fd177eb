//! The program on many machines: `mpirun -n 4 predictive-coding-mpi train ...`.

#![forbid(unsafe_code)]

mod deal;
mod launch;
mod sweep;
mod transport;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use mpi::Threading;
use mpi::traits::Communicator;
use predictive_coding::Ranks;

use crate::transport::World;

/// Options besides those of train.
const ANY_ORDER: &str = "--any-order";
const NO_OVERLAP: &str = "--no-overlap";
const TRAFFIC: &str = "--traffic";

const HELP: &str = "\
Train predictive coding networks on many machines, under mpirun

Usage: predictive-coding-mpi launch -n RANKS [OPTIONS OF mpirun] -- COMMAND ...
       mpirun -n RANKS predictive-coding-mpi train [--any-order] [--no-overlap] [--traffic] [OPTIONS OF train]
       mpirun -n RANKS predictive-coding-mpi sweep SWEEP.toml

launch: runs a command under mpirun, and tells in one line how it ended, whatever ended it.
train: the ranks share every batch. The results are those of `predictive-coding train`, to the last bit, whatever the
number of ranks. With --any-order, gradients are summed by MPI_Allreduce instead: the last bits then depend on the
number of ranks. Gradients are exchanged while others are computed, unless --no-overlap. --traffic tells what rank 0
has received, and how long it waited for it.
sweep: each rank trains one run after the other, as rank 0 deals them. docs/scaling.md describes SWEEP.toml.

`predictive-coding train --help` lists the options of train.";

fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    if arguments.get(1).is_some_and(|command| command == "launch") {
        return ExitCode::from(launch::run(&arguments[2..]));
    }
    let Some((_universe, threading)) = mpi::initialize_with_threading(Threading::Serialized) else {
        return failed("MPI cannot be started");
    };
    if threading < Threading::Serialized {
        return failed("this MPI takes calls from its first thread only; use one built with MPI_THREAD_SERIALIZED");
    }
    let world = mpi::topology::SimpleCommunicator::world();
    let [any_order, no_overlap, traffic] = [ANY_ORDER, NO_OVERLAP, TRAFFIC].map(|option| {
        let place = arguments.iter().position(|argument| argument == option);
        place.map(|place| arguments.remove(place)).is_some()
    });
    let ranks = Arc::new(World::new(any_order, !no_overlap));
    let command = arguments.get(1).and_then(|command| command.to_str()).map(str::to_string);
    let (status, under_way) = match command.as_deref() {
        Some("train") => predictive_coding_cli::main_on_ranks(arguments, ranks.clone()),
        Some("sweep") => (sweep::run(&arguments[2..], &*ranks), false),
        Some("--help" | "-h") => {
            if ranks.rank() == 0 {
                println!("{HELP}");
            }
            (0, false)
        }
        _ => {
            let told =
                command.map_or("no command was given".into(), |command| format!("there is no command {command}"));
            if ranks.rank() == 0 {
                eprintln!("error: {told}, expected launch, train or sweep; see --help");
            }
            (2, false)
        }
    };
    if traffic && ranks.rank() == 0 {
        eprintln!("{}", ranks.traffic());
    }
    if under_way {
        // Other ranks may wait for a message from this one, or are about to tell why they end.
        if ranks.rank() > 0 {
            std::thread::sleep(Duration::from_secs(10));
        }
        world.abort(status.into());
    }
    ExitCode::from(status)
}

fn failed(why: &str) -> ExitCode {
    eprintln!("error: {why}");
    ExitCode::FAILURE
}
