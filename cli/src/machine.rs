//! The machine: threads, memory, what to call it in a report.

use std::num::NonZero;
use std::path::{Path, PathBuf};

use predictive_coding::{Method, Network, Options, Session};
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
    builder.build().map_err(|e| Failure::usage(format!("cannot start the threads: {e}; try fewer")))?.install(work)
}

/// Cores that this process may use.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// A line of a Linux proc file: the text after `key` and a colon.
pub fn proc_entry(file: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let (_, value) = text.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| name.trim() == key)?;
    Some(value.trim().to_string())
}

/// Bytes of memory that this process may use, where the system tells: those of the machine, or fewer that its control
/// group is allowed.
fn memory() -> Option<u64> {
    let machine = proc_entry("/proc/meminfo", "MemTotal")
        .and_then(|entry| entry.split_whitespace().next()?.parse::<u64>().ok())
        .map(|kibibytes| kibibytes * 1024);
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    machine.into_iter().chain(group_limit(&groups, Path::new("/sys/fs/cgroup"))).min()
}

/// The least memory limit of the control groups in `groups`, the text of /proc/self/cgroup, and of those that they are
/// in: of version 2 in memory.max, of version 1 in memory/memory.limit_in_bytes. In a container the group's own path
/// may not be there, and the root stands for it.
fn group_limit(groups: &str, root: &Path) -> Option<u64> {
    let limits = groups.lines().flat_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, group) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        let (hierarchy, file) = match controllers {
            "" => (root.to_path_buf(), "memory.max"),
            _ => (root.join("memory"), "memory.limit_in_bytes"),
        };
        let counts = controllers.is_empty() || controllers.split(',').any(|controller| controller == "memory");
        let group = Path::new(group.trim_start_matches('/'));
        let places: Vec<PathBuf> = group.ancestors().map(|place| hierarchy.join(place).join(file)).collect();
        places.into_iter().filter(move |_| counts)
    });
    limits.filter_map(|path| std::fs::read_to_string(path).ok()?.trim().parse().ok()).min()
}

/// What the processor calls itself.
pub fn name() -> String {
    proc_entry("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.into())
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
        .flat_map(|layer| layer.all_ops().map(|(_, shape)| shape).chain([layer.output_shape()]))
        .map(|shape| shape.iter().map(|&size| size as u128).product::<u128>())
        .sum();
    let parameters = network.parameters().last().map_or(0, |spec| spec.range.end as u128);
    let needed = 4 * (2 * states * batch as u128 + 5 * parameters);
    check_bytes(needed, &format!("the network at a batch of {batch}"), "use a smaller batch or network")
}

/// Refuses a session, with the parameters, gradients and averages beside it, that is larger than the memory: the system
/// would end the program without a word.
pub fn check_session(network: &Network, batch: usize, method: &Method, options: &Options) -> Result<(), Failure> {
    let session = Session::required_bytes(network, batch, method, options)?.map_or(u128::MAX, |bytes| bytes as u128);
    let parameters = network.parameters().last().map_or(0, |spec| spec.range.end as u128);
    let needed = session.saturating_add(4 * 4 * parameters);
    check_bytes(needed, &format!("a session for the network at a batch of {batch}"), "use a smaller batch or network")
}

/// A session for forward passes alone, if memory holds it.
pub fn forward_session(network: &Network, batch: usize) -> Result<Session, Failure> {
    check_memory(network, batch)?;
    check_session(network, batch, &Method::Exact, &Options::default())?;
    Ok(Session::new(network, batch, Method::Exact, Options::default())?)
}

/// Refuses what needs more bytes than there are for this process, and tells what to do instead.
pub fn check_bytes(needed: u128, what: &str, instead: &str) -> Result<(), Failure> {
    let Some(memory) = memory().filter(|&memory| needed > u128::from(memory)) else { return Ok(()) };
    let gibibytes = |bytes: u128| bytes as f64 / f64::from(1 << 30);
    Err(Failure::usage(format!(
        "{what} needs more than {:.1} GiB, but this process may use {:.1} GiB; {instead}",
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
    fn the_least_limit_of_the_control_groups_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let limit = |groups: &str| group_limit(groups, root.path());
        assert_eq!(limit("0::/a/b\n"), None);
        write("a/b/memory.max", "max\n");
        assert_eq!(limit("0::/a/b\n"), None);
        write("a/memory.max", "5000\n");
        assert_eq!(limit("0::/a/b\n"), Some(5000));
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        write("memory/docker/x/memory.limit_in_bytes", "4000\n");
        let both = "12:cpu,cpuacct:/y\n5:memory:/docker/x\n0::/a\n";
        assert_eq!(limit(both), Some(4000));
        // The path of the host, which a container does not see.
        write("memory/memory.limit_in_bytes", "3000\n");
        assert_eq!(limit("5:memory:/elsewhere\n"), Some(3000));
        assert_eq!(limit("5:cpu:/docker/x\n"), None);
    }

    #[test]
    fn work_runs_on_the_threads_asked_for() {
        for threads in [1, 2, 3] {
            assert_eq!(on_threads(Some(threads), || Ok(rayon::current_num_threads())).unwrap(), threads);
        }
    }
}
