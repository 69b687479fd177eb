//! Sharing work among the threads of the current rayon pool; without the feature `rayon`, there is one thread.

use std::cell::Cell;
use std::marker::PhantomData;

#[cfg(feature = "rayon")]
use rayon::prelude::*;

/// Fewer multiplications and additions than this are not worth waking a thread, which takes some
/// microseconds.
const WORTHWHILE: u64 = 1_000_000;

thread_local! {
    static ALONE: Cell<bool> = const { Cell::new(false) };
}

/// As long as it lives, the thread that made it computes alone, whatever the pool: [`pool_threads`] is 1.
///
/// ```
/// use predictive_coding_kernels::{Alone, pool_threads};
///
/// let alone = Alone::new();
/// assert_eq!(pool_threads(), 1);
/// drop(alone);
/// assert!(pool_threads() >= 1);
/// ```
#[derive(Debug)]
#[must_use = "the thread computes alone as long as this lives"]
pub struct Alone {
    before: bool,
    /// Keeps it on its thread.
    of_thread: PhantomData<*const ()>,
}

impl Alone {
    /// Keeps this thread alone until it is dropped.
    #[expect(clippy::new_without_default, reason = "a default value has no effect elsewhere")]
    pub fn new() -> Self {
        Alone { before: ALONE.replace(true), of_thread: PhantomData }
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        ALONE.set(self.before);
    }
}

/// Runs `f`, which takes so many multiplications and additions, where it is fastest. From outside of every pool, a small `f`
/// runs on the calling thread alone: it is over before another thread is awake. A large one runs in the global pool, which
/// is then woken once, and not for each part. Inside of a pool, `f` runs there.
///
/// ```
/// use predictive_coding_kernels::{pool_threads, run_in_place};
///
/// assert_eq!(run_in_place(10, pool_threads), 1);
/// assert_eq!(run_in_place(u64::MAX, pool_threads), pool_threads());
/// ```
pub fn run_in_place<T: Send>(work: u64, f: impl FnOnce() -> T + Send) -> T {
    #[cfg(feature = "rayon")]
    if rayon::current_thread_index().is_none() && pool_threads() > 1 {
        if work > WORTHWHILE {
            return rayon::scope(|_| f());
        }
        let _alone = Alone::new();
        return f();
    }
    let _ = work;
    f()
}

/// Threads of the current rayon pool: the one that the caller runs in, or else the global one. Where the system makes
/// no threads for that, there is one: everything runs on the calling thread.
///
/// ```
/// let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
/// assert_eq!(pool.install(predictive_coding_kernels::pool_threads), 3);
/// ```
pub fn pool_threads() -> usize {
    #[cfg(feature = "rayon")]
    if !ALONE.get() {
        use std::error::Error;
        static GLOBAL: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
        // A pool that is there already has no cause.
        let build = || rayon::ThreadPoolBuilder::new().build_global().is_err_and(|error| error.source().is_some());
        let in_pool = rayon::current_thread_index().is_some();
        if in_pool || !GLOBAL.get_or_init(build) {
            return rayon::current_num_threads();
        }
    }
    1
}

/// How many threads of the current rayon pool the machine runs at a time. Work is cut for these: of a larger pool,
/// each thread that is woken for a small part takes time from those that have begun. At most [`pool_threads`].
pub fn concurrency() -> usize {
    static CORES: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    let cores = *CORES.get_or_init(|| std::thread::available_parallelism().map_or(usize::MAX, usize::from));
    pool_threads().min(cores)
}

/// How many threads share so many multiplications and additions. One that is to be woken out of more than the
/// machine runs takes many times as long to come.
pub(crate) fn threads_for(work: u64) -> usize {
    const CROWDED: u64 = 16;
    let threads = concurrency();
    let least = if pool_threads() > threads { CROWDED * WORTHWHILE } else { WORTHWHILE };
    if work > least { threads } else { 1 }
}

/// The fewest of so many pieces of work that one task takes, so that no more tasks are made than balance the load.
#[cfg(feature = "rayon")]
fn pieces_per_task(pieces: usize) -> usize {
    const TASKS_PER_THREAD: usize = 4;
    pieces.div_ceil(TASKS_PER_THREAD * concurrency()).max(1)
}

/// Calls `f` for the tasks of these numbers, on several threads if `parallel`.
pub(crate) fn for_each_task(parallel: bool, tasks: usize, f: impl Fn(usize) + Sync) {
    #[cfg(feature = "rayon")]
    if parallel && tasks > 1 && pool_threads() > 1 {
        return (0..tasks).into_par_iter().with_min_len(pieces_per_task(tasks)).for_each(&f);
    }
    let _ = parallel;
    (0..tasks).for_each(f);
}

/// Calls `f(index, chunk)` for consecutive chunks of `data`, on several threads if `parallel` and
/// `work` (multiplications and additions) is worth it.
pub(crate) fn for_each_chunk(
    parallel: bool,
    work: u64,
    data: &mut [f32],
    chunk: usize,
    f: impl Fn(usize, &mut [f32]) + Sync,
) {
    let chunk = chunk.max(1);
    #[cfg(feature = "rayon")]
    if parallel && data.len() > chunk && threads_for(work) > 1 {
        let chunks = data.par_chunks_mut(chunk);
        let least = pieces_per_task(chunks.len());
        return chunks.enumerate().with_min_len(least).for_each(|(i, chunk)| f(i, chunk));
    }
    let _ = (parallel, work);
    data.chunks_mut(chunk).enumerate().for_each(|(i, chunk)| f(i, chunk));
}

/// As [`for_each_chunk`] for two slices, each with its own length of chunks.
pub(crate) fn for_each_chunk_pair(
    parallel: bool,
    work: u64,
    [a, b]: [&mut [f32]; 2],
    [a_chunk, b_chunk]: [usize; 2],
    f: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) {
    let (a_chunk, b_chunk) = (a_chunk.max(1), b_chunk.max(1));
    #[cfg(feature = "rayon")]
    if parallel && a.len() > a_chunk && threads_for(work) > 1 {
        let pairs = a.par_chunks_mut(a_chunk).zip(b.par_chunks_mut(b_chunk));
        let least = pieces_per_task(pairs.len());
        return pairs.enumerate().with_min_len(least).for_each(|(i, (a, b))| f(i, a, b));
    }
    let _ = (parallel, work);
    let pairs = a.chunks_mut(a_chunk).zip(b.chunks_mut(b_chunk));
    pairs.enumerate().for_each(|(i, (a, b))| f(i, a, b));
}

/// What `f(index, chunk)` finds in the first of consecutive chunks in which it finds something.
pub(crate) fn find_first(
    data: &[f32],
    chunk: usize,
    f: impl Fn(usize, &[f32]) -> Option<usize> + Sync,
) -> Option<usize> {
    #[cfg(feature = "rayon")]
    if pool_threads() > 1 {
        let chunks = data.par_chunks(chunk);
        let least = pieces_per_task(chunks.len());
        return chunks.enumerate().with_min_len(least).find_map_first(|(i, chunk)| f(i, chunk));
    }
    data.chunks(chunk).enumerate().find_map(|(i, chunk)| f(i, chunk))
}

/// Runs `f` on every thread of the pool at a time; the sum of what it returns.
pub(crate) fn sum_over_threads(f: impl Fn() -> f64 + Sync) -> f64 {
    #[cfg(feature = "rayon")]
    if pool_threads() > 1 {
        return rayon::broadcast(|_| f()).iter().sum();
    }
    f()
}

/// A pointer to what several tasks write disjoint parts of.
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

    /// Some elements from one on.
    ///
    /// # Safety
    /// They must be valid, and nobody else's as long as the slice is used.
    pub(crate) unsafe fn slice<'a>(self, first: usize, len: usize) -> &'a mut [f32] {
        // SAFETY: as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(first), len) }
    }
}
