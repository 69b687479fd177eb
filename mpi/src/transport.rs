//! Ranks of MPI.

use std::time::Duration;

use mpi::Count;
use mpi::collective::SystemOperation;
use mpi::datatype::{Partition, PartitionMut};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives, Equivalence};
use predictive_coding::Ranks;

/// The processes that `mpirun` has started.
pub struct World {
    any_order: bool,
    link: Option<Link>,
}

/// A slower link than there is, to try what one would cost.
#[derive(Clone, Copy)]
struct Link {
    seconds: f64,
    bytes_per_second: f64,
}

impl World {
    /// `any_order`: whether MPI chooses in which order it sums.
    pub fn new(any_order: bool) -> Self {
        World { any_order, link: Link::from_environment() }
    }
}

impl Link {
    /// `PREDICTIVE_CODING_LINK=MICROSECONDS,GBITS`: the latency of a message, and what a link carries in a second.
    fn from_environment() -> Option<Self> {
        let told = std::env::var("PREDICTIVE_CODING_LINK").ok()?;
        let (latency, gbits) = told.split_once(',')?;
        let [latency, gbits]: [f64; 2] = [latency.parse().ok()?, gbits.parse().ok()?];
        Some(Link { seconds: latency * 1e-6, bytes_per_second: gbits * 1e9 / 8.0 })
    }
}

fn world() -> SimpleCommunicator {
    SimpleCommunicator::world()
}

fn counts(counts: &[usize]) -> (Vec<Count>, Vec<Count>) {
    let counts = counts.iter().map(|&count| Count::try_from(count).expect("MPI counts to 2^31"));
    let counts: Vec<Count> = counts.collect();
    let places = counts.iter().scan(0, |place, count| Some(std::mem::replace(place, *place + count)));
    (counts.clone(), places.collect())
}

/// Waits as long as a slower link would take for what a rank receives and sends, whichever is more.
fn linger(link: Option<Link>, messages: usize, values: usize, bytes: usize) {
    if let Some(Link { seconds, bytes_per_second }) = link {
        let seconds = messages as f64 * seconds + (values * bytes) as f64 / bytes_per_second;
        std::thread::sleep(Duration::from_secs_f64(seconds));
    }
}

impl World {
    fn gather<T: Equivalence + Clone>(&self, values: &mut [T], parts: &[usize]) {
        let own = self.rank();
        let first = parts[..own].iter().sum::<usize>();
        let sent = values[first..first + parts[own]].to_vec();
        let received = values.len() - sent.len();
        let (counts, places) = counts(parts);
        world().all_gather_varcount_into(&sent[..], &mut PartitionMut::new(values, counts, places));
        linger(self.link, self.size() - 1, received, size_of::<T>());
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
        let own = self.rank();
        let moved = (send.len() - parts[own]).max(received.len() - received_parts[own]);
        let [(sizes, places), (received_sizes, received_places)] = [counts(parts), counts(received_parts)];
        world().all_to_all_varcount_into(
            &Partition::new(send, sizes, places),
            &mut PartitionMut::new(received, received_sizes, received_places),
        );
        linger(self.link, self.size() - 1, moved, size_of::<f32>());
    }

    fn all_gather(&self, values: &mut [f32], counts: &[usize]) {
        self.gather(values, counts);
    }

    fn all_gather_f64(&self, values: &mut [f64], counts: &[usize]) {
        self.gather(values, counts);
    }

    fn all_reduce(&self, values: &mut [f32]) {
        let sent = values.to_vec();
        world().all_reduce_into(&sent[..], values, SystemOperation::sum());
        let ranks = self.size();
        // As in a ring.
        linger(self.link, 2 * (ranks - 1), 2 * values.len() * (ranks - 1) / ranks, size_of::<f32>());
    }
}
