//! Numbers of runs, dealt to the ranks as they become free.
//!
//! Rank 0 has the count. A thread of it looks for ranks that ask, while it trains too.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, Destination, Source};

/// How often a rank looks for messages.
const PAUSE: Duration = Duration::from_millis(10);
/// What is told when no run is left.
const NONE: u64 = u64::MAX;

/// Calls `run` on some rank for each number below `count`, until it returns false there.
pub fn deal(count: usize, mut run: impl FnMut(usize) -> bool) {
    let world = SimpleCommunicator::world();
    if world.rank() > 0 {
        while let Some(number) = ask(&world) {
            if !run(number) {
                // The others are stopped as well.
                while ask(&world).is_some() {}
            }
        }
        return;
    }
    let next = AtomicUsize::new(0);
    let next = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&number| number < count);
    thread::scope(|scope| {
        scope.spawn(|| answer(next));
        while let Some(number) = next() {
            if !run(number) {
                while next().is_some() {}
            }
        }
    });
    // All at the same time, so that none waits for the others in a way that keeps a core busy.
    (1..world.size()).for_each(|rank| world.process_at_rank(rank).send(&NONE));
}

/// Asks rank 0 for a number; waits without keeping a core busy.
fn ask(world: &SimpleCommunicator) -> Option<usize> {
    let dealer = world.process_at_rank(0);
    dealer.send(&0u64);
    while dealer.immediate_probe().is_none() {
        thread::sleep(PAUSE);
    }
    let (number, _) = dealer.receive::<u64>();
    (number != NONE).then_some(number as usize)
}

/// Answers the other ranks until all have asked when no number was left.
fn answer(next: impl Fn() -> Option<usize>) {
    let world = SimpleCommunicator::world();
    let mut waiting = 1;
    while waiting < world.size() {
        let Some(status) = world.any_process().immediate_probe() else {
            thread::sleep(PAUSE);
            continue;
        };
        let rank = world.process_at_rank(status.source_rank());
        rank.receive::<u64>();
        match next() {
            Some(number) => rank.send(&(number as u64)),
            None => waiting += 1,
        }
    }
}
