//! The machine: threads, memory, what to call it in a report.

use std::num::NonZero;

use predictive_coding::Network;
use serde_json::{Value, json};

use crate::console::Failure;

/// Runs `work` on `threads` threads, by default as many as the machine has cores.
pub fn on_threads<T: Send>(
    threads: Option<usize>,
    work: impl FnOnce() -> Result<T, Failure> + Send,
) -> Result<T, Failure> {
    let mut builder = rayon::ThreadPoolBuilder::new();
    if let Some(threads) = threads {
        builder = builder.num_threads(threads);
    }
    builder
        .build()
        .map_err(|e| Failure::usage(format!("the threads can not be started: {e}; try fewer")))?
        .install(work)
}

/// Cores that this process may use.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// A line of a Linux proc file: the text after `key` and a colon.
fn proc_entry(file: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let (_, value) = text.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| name.trim() == key)?;
    Some(value.trim().to_string())
}

/// Bytes of main memory, where the system tells.
fn memory() -> Option<u64> {
    let entry = proc_entry("/proc/meminfo", "MemTotal")?;
    entry.split_whitespace().next()?.parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

/// What run.json tells of the machine.
pub fn describe() -> Value {
    json!({
        "cpu": proc_entry("/proc/cpuinfo", "model name"),
        "cores": cores(),
        "memory_bytes": memory(),
        "os": std::env::consts::OS,
        "architecture": std::env::consts::ARCH,
    })
}

/// Refuses a network and batch whose activations, errors and parameters alone are larger than the
/// main memory: allocating them would end the program without a word.
pub fn check_memory(network: &Network, batch: usize) -> Result<(), Failure> {
    let states: u128 = network
        .layers()
        .iter()
        .flat_map(|layer| layer.shapes())
        .map(|shape| shape.iter().map(|&size| size as u128).product::<u128>())
        .sum();
    let parameters = network.parameters().last().map_or(0, |spec| spec.range.end as u128);
    let needed = 4 * (2 * states * batch as u128 + 5 * parameters);
    check_bytes(needed, &format!("the network at a batch of {batch}"), "use a smaller batch or network")
}

/// Refuses what needs more bytes than the main memory has, and tells what to do instead.
pub fn check_bytes(needed: u128, what: &str, instead: &str) -> Result<(), Failure> {
    let Some(memory) = memory().filter(|&memory| needed > u128::from(memory)) else { return Ok(()) };
    let gibibytes = |bytes: u128| bytes as f64 / f64::from(1 << 30);
    Err(Failure::usage(format!(
        "{what} needs more than {:.1} GiB, this machine has {:.1}; {instead}",
        gibibytes(needed),
        gibibytes(memory.into())
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use predictive_coding::{Linear, Loss, Op};

    #[test]
    fn what_no_memory_holds_is_refused() {
        let network = |outputs| Network::new(&[1], Loss::MSE, vec![vec![Op::Linear(Linear::new(outputs))]]).unwrap();
        assert!(check_memory(&network(100), 100).is_ok());
        if memory().is_some() {
            assert!(check_memory(&network(100), usize::MAX).is_err());
        }
    }

    #[test]
    fn work_runs_on_the_threads_asked_for() {
        for threads in [1, 2, 3] {
            assert_eq!(on_threads(Some(threads), || Ok(rayon::current_num_threads())).unwrap(), threads);
        }
    }
}
