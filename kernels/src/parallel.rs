//! Sharing work among the threads of the current rayon pool.

use std::sync::OnceLock;

use rayon::prelude::*;

/// Fewer multiplications and additions than this are not worth waking a thread, which takes some
/// microseconds.
pub(crate) const WORTHWHILE: u64 = 1_000_000;

/// How many threads of the current rayon pool the machine runs at a time. Work is cut for these: of a larger pool,
/// each thread that is woken for a small part takes time from those that have begun.
pub fn concurrency() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    let cores = *CORES.get_or_init(|| std::thread::available_parallelism().map_or(usize::MAX, usize::from));
    rayon::current_num_threads().min(cores)
}

/// How many threads share so many multiplications and additions. One that is to be woken out of more than the
/// machine runs takes many times as long to come.
pub(crate) fn threads_for(work: u64) -> usize {
    const CROWDED: u64 = 16;
    let threads = concurrency();
    let least = if rayon::current_num_threads() > threads { CROWDED * WORTHWHILE } else { WORTHWHILE };
    if work > least { threads } else { 1 }
}

/// The fewest of so many pieces of work that one task takes, so that no more tasks are made than balance the load.
pub(crate) fn pieces_per_task(pieces: usize) -> usize {
    const TASKS_PER_THREAD: usize = 4;
    pieces.div_ceil(TASKS_PER_THREAD * concurrency()).max(1)
}

/// Calls `f(index, chunk)` for consecutive chunks of `data`, on several threads if `parallel` and
/// `work` (multiplications and additions) is worth it.
pub(crate) fn for_each_chunk<T: Send>(
    parallel: bool,
    work: u64,
    data: &mut [T],
    chunk: usize,
    f: impl Fn(usize, &mut [T]) + Sync,
) {
    if parallel && data.len() > chunk && threads_for(work) > 1 {
        let chunks = data.par_chunks_mut(chunk.max(1));
        let least = pieces_per_task(chunks.len());
        chunks.enumerate().with_min_len(least).for_each(|(i, chunk)| f(i, chunk));
    } else {
        data.chunks_mut(chunk.max(1)).enumerate().for_each(|(i, chunk)| f(i, chunk));
    }
}

/// As [`for_each_chunk`] for two slices, each with its own length of chunks.
pub(crate) fn for_each_chunk_pair<T: Send>(
    parallel: bool,
    work: u64,
    [a, b]: [&mut [T]; 2],
    [a_chunk, b_chunk]: [usize; 2],
    f: impl Fn(usize, &mut [T], &mut [T]) + Sync,
) {
    let (a_len, a_chunk, b_chunk) = (a.len(), a_chunk.max(1), b_chunk.max(1));
    if parallel && a_len > a_chunk && threads_for(work) > 1 {
        let pairs = a.par_chunks_mut(a_chunk).zip(b.par_chunks_mut(b_chunk));
        let least = pieces_per_task(pairs.len());
        pairs.enumerate().with_min_len(least).for_each(|(i, (a, b))| f(i, a, b));
    } else {
        let pairs = a.chunks_mut(a_chunk).zip(b.chunks_mut(b_chunk));
        pairs.enumerate().for_each(|(i, (a, b))| f(i, a, b));
    }
}

/// A pointer to what several threads write disjoint parts of.
#[derive(Clone, Copy)]
pub(crate) struct Shared(pub(crate) *mut f32);

// SAFETY: whoever writes through it writes to a part that is its own.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(crate) fn get(self) -> *mut f32 {
        self.0
    }
}
