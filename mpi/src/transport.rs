//! Ranks of MPI.
//!
//! Exchanges are carried out one after the other, in the order in which they were started, which is the same on all ranks.
//! Whoever waits for one carries out those up to it; in the meantime, a thread of its own does. MPI moves a message only while
//! it is called, so that thread asks it now and then how far it is, and sleeps in between.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mpi::Count;
use mpi::collective::SystemOperation;
use mpi::datatype::{Partition, PartitionMut};
use mpi::request::{Request, Scope};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives};
use predictive_coding::{Arrival, Exchange, Ranks};

/// How long the thread sleeps at first, and at most: twice as long each time, as it takes time from those who compute
/// whenever it wakes. At 10 Gbit/s, 1.25 MB arrive in the longest pause, which buffers of the system hold.
const PAUSES: [Duration; 2] = [Duration::from_micros(50), Duration::from_millis(1)];
/// Fewer values are not worth waking it.
const FEW: usize = 1 << 16;

/// The processes that `mpirun` has started.
pub struct World {
    rank: usize,
    size: usize,
    any_order: bool,
    overlaps: bool,
    line: Arc<Line>,
}

/// What a step says to other ranks.
const PARTS: [&str; 4] = ["partial gradients", "gathered values", "sums in any order", "numbers"];
const NUMBERS: usize = 3;

/// What has gone through the network for one of them.
#[derive(Clone, Copy, Default)]
struct Traffic {
    calls: u64,
    /// Received.
    bytes: usize,
    under_way: Duration,
    waited: Duration,
}

impl World {
    /// `any_order`: whether MPI chooses in which order it sums; `overlaps`: whether exchanges go on while the caller computes.
    pub fn new(any_order: bool, overlaps: bool) -> Self {
        let world = world();
        let line = Arc::new(Line::default());
        if overlaps && world.size() > 1 {
            let line = line.clone();
            thread::spawn(move || line.carry_out_all());
        }
        World { rank: world.rank() as usize, size: world.size() as usize, any_order, overlaps, line }
    }

    /// The messages of this rank so far, and its waiting for them: a line for each part.
    pub fn traffic(&self) -> String {
        let traffic = self.line.state().traffic;
        let lines = PARTS.iter().zip(traffic).filter(|(_, traffic)| traffic.calls > 0).map(|(part, traffic)| {
            let Traffic { calls, bytes, under_way, waited } = traffic;
            let [under_way, waited] = [under_way, waited].map(|time| time.as_secs_f64());
            format!(
                "{part}: {calls} exchanges, {bytes} bytes received, {under_way:.6} seconds under way, {waited:.6} \
                 seconds waited for"
            )
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// The exchanges that wait for their turn.
#[derive(Default)]
struct Line {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The number of the next exchange.
    next: u64,
    waiting: VecDeque<(u64, Exchange)>,
    finished: BTreeMap<u64, Vec<f32>>,
    /// Whether somebody carries one out: nobody else calls MPI then.
    busy: bool,
    /// How many threads wait for that.
    hurry: usize,
    traffic: [Traffic; PARTS.len()],
}

impl Line {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// What the thread does.
    fn carry_out_all(&self) {
        let [first, longest] = PAUSES;
        let mut state = self.state();
        loop {
            let mut pause = first;
            state = match state.busy || state.waiting.is_empty() {
                true => self.wait(state),
                false => self.carry_out_next(state, || {
                    self.sleep(pause);
                    pause = longest.min(2 * pause);
                }),
            };
        }
    }

    /// Sleeps, unless somebody waits.
    fn sleep(&self, pause: Duration) {
        let state = self.state();
        match state.hurry {
            0 => drop(self.changed.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner)),
            _ => {
                drop(state);
                thread::yield_now();
            }
        }
    }

    fn carry_out_next<'a>(&'a self, mut state: MutexGuard<'a, State>, pause: impl FnMut()) -> MutexGuard<'a, State> {
        let (number, exchange) = state.waiting.pop_front().expect("somebody has seen that one waits");
        state.busy = true;
        drop(state);
        let started = Instant::now();
        let (part, bytes, values) = carry_out(exchange, pause);
        let mut state = self.state();
        let traffic = &mut state.traffic[part];
        traffic.calls += 1;
        traffic.bytes += bytes;
        traffic.under_way += started.elapsed();
        state.finished.insert(number, values);
        state.busy = false;
        self.changed.notify_all();
        state
    }

    /// Waits, or carries out what waits, until it is so.
    fn until(&self, is_so: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let mut state = self.state();
        while !is_so(&state) {
            if state.busy {
                state.hurry += 1;
                self.changed.notify_all();
                state = self.wait(state);
                state.hurry -= 1;
            } else {
                state = self.carry_out_next(state, thread::yield_now);
            }
        }
        state
    }

    fn finish(&self, number: u64, part: usize) -> Vec<f32> {
        let started = Instant::now();
        let mut state = self.until(|state| state.finished.contains_key(&number));
        state.traffic[part].waited += started.elapsed();
        state.finished.remove(&number).expect("it is there")
    }
}

fn world() -> SimpleCommunicator {
    SimpleCommunicator::world()
}

/// Counts and places of the parts of a message, as MPI takes them.
fn counts(counts: &[usize]) -> (Vec<Count>, Vec<Count>) {
    let all: usize = counts.iter().sum();
    if Count::try_from(all).is_err() {
        eprintln!("error: {all} values in one message, expected at most {}, to which MPI counts", Count::MAX);
        world().abort(1);
    }
    let counts: Vec<Count> = counts.iter().map(|&count| count as Count).collect();
    let places = counts.iter().scan(0, |place, count| Some(std::mem::replace(place, *place + count)));
    (counts.clone(), places.collect())
}

/// The place in the table of traffic, how many bytes come from other ranks, and what comes of it.
fn carry_out(exchange: Exchange, pause: impl FnMut()) -> (usize, usize, Vec<f32>) {
    let world = world();
    let own = world.rank() as usize;
    let (part, others, mut values) = match &exchange {
        Exchange::AllToAll { received, .. } => {
            let all: usize = received.iter().sum();
            (0, all - received[own], vec![0.0; all])
        }
        Exchange::AllGather { own, counts } => {
            let all: usize = counts.iter().sum();
            (1, all - own.len(), vec![0.0; all])
        }
        Exchange::AllReduce(values) => {
            let ranks = world.size() as usize;
            // As in a ring.
            (2, 2 * values.len() * (ranks - 1) / ranks, vec![0.0; values.len()])
        }
    };
    match exchange {
        Exchange::AllToAll { send, counts: sizes, received } => {
            let ((sizes, places), (received, received_places)) = (counts(&sizes), counts(&received));
            let from = Partition::new(&send[..], sizes, places);
            let mut to = PartitionMut::new(&mut values[..], received, received_places);
            mpi::request::scope(|scope| {
                complete(world.immediate_all_to_all_varcount_into(scope, &from, &mut to), pause);
            });
        }
        Exchange::AllGather { own, counts: sizes } => {
            let (sizes, places) = counts(&sizes);
            let mut to = PartitionMut::new(&mut values[..], sizes, places);
            mpi::request::scope(|scope| {
                complete(world.immediate_all_gather_varcount_into(scope, &own[..], &mut to), pause);
            });
        }
        Exchange::AllReduce(own) => mpi::request::scope(|scope| {
            let sum = SystemOperation::sum();
            complete(world.immediate_all_reduce_into(scope, &own[..], &mut values[..], sum), pause);
        }),
    }
    (part, others * size_of::<f32>(), values)
}

/// Asks MPI until an exchange is done.
fn complete<'a, D: ?Sized, S: Scope<'a>>(mut request: Request<'a, D, S>, mut pause: impl FnMut()) {
    while let Err(unfinished) = request.test() {
        request = unfinished;
        pause();
    }
}

impl Ranks for World {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn any_order(&self) -> bool {
        self.any_order
    }

    fn start(&self, exchange: Exchange) -> Arrival {
        let (part, values) = match &exchange {
            Exchange::AllToAll { received, .. } => (0, received.iter().sum()),
            Exchange::AllGather { counts, .. } => (1, counts.iter().sum::<usize>()),
            Exchange::AllReduce(values) => (2, values.len()),
        };
        let mut state = self.line.state();
        let number = state.next;
        state.next += 1;
        state.waiting.push_back((number, exchange));
        drop(state);
        if self.overlaps && values > FEW {
            self.line.changed.notify_all();
        }
        let line = self.line.clone();
        Box::new(move || line.finish(number, part))
    }

    fn all_gather_f64(&self, values: &mut [f64], parts: &[usize]) {
        let started = Instant::now();
        let first = parts[..self.rank].iter().sum::<usize>();
        let sent = values[first..first + parts[self.rank]].to_vec();
        let received = values.len() - sent.len();
        let (counts, places) = counts(parts);
        self.line.until(|state| !state.busy && state.waiting.is_empty()).busy = true;
        world().all_gather_varcount_into(&sent[..], &mut PartitionMut::new(values, counts, places));
        let mut state = self.line.state();
        state.busy = false;
        let traffic = &mut state.traffic[NUMBERS];
        traffic.calls += 1;
        traffic.bytes += received * size_of::<f64>();
        traffic.waited += started.elapsed();
        traffic.under_way += started.elapsed();
    }
}
