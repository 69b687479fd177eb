//! Sharing work among the threads of the current rayon pool.

use rayon::prelude::*;

/// Fewer multiplications and additions than this are not worth waking a thread, which takes some
/// microseconds.
pub(crate) const WORTHWHILE: u64 = 1_000_000;

/// Calls `f(index, chunk)` for consecutive chunks of `data`, on several threads if `parallel` and
/// `work` (multiplications and additions) is worth it.
pub(crate) fn for_each_chunk<T: Send>(
    parallel: bool,
    work: u64,
    data: &mut [T],
    chunk: usize,
    f: impl Fn(usize, &mut [T]) + Sync,
) {
    if parallel && work > WORTHWHILE && data.len() > chunk {
        data.par_chunks_mut(chunk.max(1)).enumerate().for_each(|(i, chunk)| f(i, chunk));
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
    if parallel && work > WORTHWHILE && a_len > a_chunk {
        let pairs = a.par_chunks_mut(a_chunk).zip(b.par_chunks_mut(b_chunk));
        pairs.enumerate().for_each(|(i, (a, b))| f(i, a, b));
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
