//! The threads that a session computes on.

use std::collections::BTreeMap;
use std::mem;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// The process that imported the module. Threads do not follow a fork.
static IMPORTED_BY: OnceLock<u32> = OnceLock::new();

/// Pools by their number of threads.
static POOLS: Mutex<Pools> = Mutex::new(Pools { process: 0, pools: BTreeMap::new() });

struct Pools {
    process: u32,
    pools: BTreeMap<usize, Arc<ThreadPool>>,
}

/// Called once, when the module is imported.
pub fn remember_process() {
    IMPORTED_BY.get_or_init(std::process::id);
}

/// The pool to compute on, which must be asked for while Python is held; none for rayon's own.
pub fn pool(threads: Option<usize>) -> PyResult<Option<Arc<ThreadPool>>> {
    let process = std::process::id();
    let forked = IMPORTED_BY.get().is_some_and(|&imported| imported != process);
    let usual = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = match (threads, forked) {
        (None, false) => return Ok(None),
        (Some(threads), false) if threads == rayon::current_num_threads() => return Ok(None),
        (threads, _) => threads.unwrap_or_else(usual),
    };
    let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    if pools.process != process {
        // To drop a pool is to wait for its threads, which are not there.
        mem::forget(mem::take(&mut pools.pools));
        pools.process = process;
    }
    if let Some(pool) = pools.pools.get(&threads) {
        return Ok(Some(pool.clone()));
    }
    let pool = ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.map_err(|e| PyRuntimeError::new_err(format!("{threads} threads can not be started: {e}")))?;
    Ok(Some(pools.pools.entry(threads).or_insert(Arc::new(pool)).clone()))
}

/// Runs `f` on the threads of a pool while other Python threads run.
pub fn compute<T: Send>(py: Python<'_>, pool: Option<Arc<ThreadPool>>, f: impl FnOnce() -> T + Send) -> T {
    py.detach(|| match pool {
        None => f(),
        Some(pool) => pool.install(f),
    })
}
