//! Ranks of MPI.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use mpi::Count;
use mpi::collective::SystemOperation;
use mpi::datatype::{Partition, PartitionMut};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives, Equivalence};
use predictive_coding::Ranks;

/// The processes that `mpirun` has started.
pub struct World {
    any_order: bool,
    traffic: Mutex<[Traffic; PARTS.len()]>,
}

/// What a step says to other ranks.
const PARTS: [&str; 4] = ["partial gradients", "gathered values", "gathered numbers", "sums in any order"];

/// What has gone through the network for one of them.
#[derive(Clone, Copy, Default)]
struct Traffic {
    calls: u64,
    /// Received.
    bytes: usize,
    seconds: f64,
}

impl World {
    /// `any_order`: whether MPI chooses in which order it sums.
    pub fn new(any_order: bool) -> Self {
        World { any_order, traffic: Mutex::default() }
    }

    /// The messages of this rank so far, and its waiting for them: a line for each part.
    pub fn traffic(&self) -> String {
        let traffic = *self.traffic.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = PARTS.iter().zip(traffic).filter(|(_, traffic)| traffic.calls > 0).map(|(part, traffic)| {
            let Traffic { calls, bytes, seconds } = traffic;
            format!("{part}: {calls} calls, {bytes} bytes received, {seconds:.6} seconds")
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Counts a call that began at `started`.
    fn count(&self, part: usize, started: Instant, bytes: usize) {
        let traffic = &mut self.traffic.lock().unwrap_or_else(PoisonError::into_inner)[part];
        traffic.calls += 1;
        traffic.bytes += bytes;
        traffic.seconds += started.elapsed().as_secs_f64();
    }
}

fn world() -> SimpleCommunicator {
    SimpleCommunicator::world()
}

/// Counts and places of the parts of a message, as MPI takes them.
fn counts(counts: &[usize]) -> (Vec<Count>, Vec<Count>) {
    let all: usize = counts.iter().sum();
    if Count::try_from(all).is_err() {
        eprintln!(
            "error: {all} values in one message, expected at most {}, to which MPI counts; use a smaller batch or --any-order",
            Count::MAX
        );
        world().abort(1);
    }
    let counts: Vec<Count> = counts.iter().map(|&count| count as Count).collect();
    let places = counts.iter().scan(0, |place, count| Some(std::mem::replace(place, *place + count)));
    (counts.clone(), places.collect())
}

impl World {
    fn gather<T: Equivalence + Clone>(&self, part: usize, values: &mut [T], parts: &[usize]) {
        let started = Instant::now();
        let own = self.rank();
        let first = parts[..own].iter().sum::<usize>();
        let sent = values[first..first + parts[own]].to_vec();
        let received = values.len() - sent.len();
        let (counts, places) = counts(parts);
        world().all_gather_varcount_into(&sent[..], &mut PartitionMut::new(values, counts, places));
        self.count(part, started, received * size_of::<T>());
    }
}

impl Ranks for World {
    fn rank(&self) -> usize {
        world().rank() as usize
    }

    fn size(&self) -> usize {
        world().size() as usize
    }

    fn any_order(&self) -> bool {
        self.any_order
    }

    fn all_to_all(&self, send: &[f32], parts: &[usize], received: &mut [f32], received_parts: &[usize]) {
        let started = Instant::now();
        let own = self.rank();
        let moved = (send.len() - parts[own]).max(received.len() - received_parts[own]);
        let [(sizes, places), (received_sizes, received_places)] = [counts(parts), counts(received_parts)];
        world().all_to_all_varcount_into(
            &Partition::new(send, sizes, places),
            &mut PartitionMut::new(received, received_sizes, received_places),
        );
        self.count(0, started, moved * size_of::<f32>());
    }

    fn all_gather(&self, values: &mut [f32], counts: &[usize]) {
        self.gather(1, values, counts);
    }

    fn all_gather_f64(&self, values: &mut [f64], counts: &[usize]) {
        self.gather(2, values, counts);
    }

    fn all_reduce(&self, values: &mut [f32]) {
        let started = Instant::now();
        let sent = values.to_vec();
        world().all_reduce_into(&sent[..], values, SystemOperation::sum());
        let ranks = self.size();
        // As in a ring.
        self.count(3, started, 2 * values.len() * (ranks - 1) / ranks * size_of::<f32>());
    }
}
