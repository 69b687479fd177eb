//! The ranks of this run: processes that share every batch, if there are several.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};

use predictive_coding::{Method, Network, Options, Ranks, Session};

use crate::console::Failure;

static RANKS: OnceLock<Arc<dyn Ranks>> = OnceLock::new();

/// From now on, runs are shared by these.
pub fn share(ranks: Arc<dyn Ranks>) {
    RANKS.get_or_init(|| ranks);
}

pub fn size() -> usize {
    RANKS.get().map_or(1, |ranks| ranks.size())
}

/// Whether this process tells of the run, and writes its results.
pub fn leads() -> bool {
    RANKS.get().is_none_or(|ranks| ranks.rank() == 0)
}

/// A session whose batches the ranks share.
pub fn session(network: &Network, batch: usize, method: &Method, options: Options) -> Result<Session, Failure> {
    Ok(match RANKS.get() {
        Some(ranks) => Session::shared(network, batch, method, options, ranks.clone())?,
        None => Session::new(network, batch, method, options)?,
    })
}

/// What every rank tells.
pub fn gather<const N: usize>(own: [f64; N]) -> Vec<[f64; N]> {
    let Some(ranks) = RANKS.get() else { return vec![own] };
    let mut all = vec![[0.0; N]; ranks.size()];
    all[ranks.rank()] = own;
    ranks.all_gather_f64(all.as_flattened_mut(), &vec![N; ranks.size()]);
    all
}

/// Whether it is so on any rank.
pub fn any(own: bool) -> bool {
    gather([f64::from(own)]).iter().any(|[told]| *told != 0.0)
}

/// A success that all ranks share; else the first failure, which its own rank tells.
pub fn agree<T>(own: Result<T, Failure>) -> Result<T, Failure> {
    let all = gather([own.as_ref().err().map_or(0.0, |failure| failure.status().into())]);
    let first = all.iter().position(|[status]| *status != 0.0);
    let rank = RANKS.get().map_or(0, |ranks| ranks.rank());
    match (own, first) {
        (own, None) => own,
        (Err(failure), Some(0)) if rank == 0 => Err(failure),
        (Err(failure), Some(first)) if first == rank => Err(Failure::Elsewhere(failure.on_rank(rank).report())),
        (_, Some(first)) => Err(Failure::Elsewhere(all[first][0] as u8)),
    }
}

/// Refuses ranks that have something else than rank 0; `what` tells what it is, `advice` what to do.
pub fn check_same(what: &str, value: impl Hash, advice: &str) -> Result<(), Failure> {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    let hash = hasher.finish();
    let all = gather([f64::from(hash as u32), f64::from((hash >> 32) as u32)]);
    agree(match all.iter().position(|told| *told != all[0]) {
        Some(rank) if leads() => {
            Err(Failure::usage(format!("rank {rank} has another {what} than rank 0, expected the same; {advice}")))
        }
        _ => Ok(()),
    })
}
