//! The threads that a session computes on.

use std::collections::BTreeMap;
use std::mem;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use predictive_coding::Alone;
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

/// What computes a call.
pub enum Threads {
    /// The thread that calls.
    Caller,
    /// rayon's own pool.
    Usual,
    Pool(Arc<ThreadPool>),
}

impl Threads {
    /// The threads to compute on, which must be asked for while Python is held.
    pub fn of(threads: Option<usize>) -> PyResult<Threads> {
        let process = std::process::id();
        let forked = IMPORTED_BY.get().is_some_and(|&imported| imported != process);
        let usual = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = match (threads, forked) {
            (Some(1), _) => return Ok(Threads::Caller),
            (None, false) => return Ok(Threads::Usual),
            (Some(threads), false) if threads == rayon::current_num_threads() => return Ok(Threads::Usual),
            (threads, _) => threads.unwrap_or_else(usual),
        };
        let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
        if pools.process != process {
            // To drop a pool is to wait for its threads, which are not there.
            mem::forget(mem::take(&mut pools.pools));
            pools.process = process;
        }
        if let Some(pool) = pools.pools.get(&threads) {
            return Ok(Threads::Pool(pool.clone()));
        }
        let pool = ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = pool.map_err(|e| PyRuntimeError::new_err(format!("{threads} threads can not be started: {e}")))?;
        Ok(Threads::Pool(pools.pools.entry(threads).or_insert(Arc::new(pool)).clone()))
    }
}

/// Runs `f` on these threads while other Python threads run.
pub fn compute<T: Send>(py: Python<'_>, threads: Threads, f: impl FnOnce() -> T + Send) -> T {
    py.detach(|| match threads {
        Threads::Caller => {
            let _alone = Alone::new();
            f()
        }
        Threads::Usual => f(),
        Threads::Pool(pool) => pool.install(f),
    })
}
