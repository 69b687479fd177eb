//! Ranks: processes that share the batches of a session.

use std::ops::Range;

/// What the ranks of a [shared session](crate::Session::shared) tell each other. Every rank makes the same calls in the same
/// order, though not at the same time, and waits for the other ranks where it needs what they send.
///
/// Counts are those of all ranks, in their order; what they count lies one behind the other.
///
/// A process by itself has everything already:
///
/// ```
/// use std::sync::Arc;
///
/// use predictive_coding::{Arrival, Exchange, Linear, Loss, Method, Network, Op, Options, Ranks, Session};
///
/// struct Alone;
///
/// impl Ranks for Alone {
///     fn rank(&self) -> usize {
///         0
///     }
///
///     fn size(&self) -> usize {
///         1
///     }
///
///     fn start(&self, exchange: Exchange) -> Arrival {
///         Box::new(|| match exchange {
///             Exchange::AllToAll { send: values, .. }
///             | Exchange::AllGather { own: values, .. }
///             | Exchange::AllReduce(values) => values,
///         })
///     }
///
///     fn all_gather_f64(&self, _: &mut [f64], _: &[usize]) {}
/// }
///
/// let network = Network::new(&[2], Loss::MSE, vec![vec![Op::Linear(Linear::new(1))]])?;
/// let (parameters, options) = (network.initialize(1), Options::default());
/// let mut shared = Session::shared(&network, 1, Method::Exact, options, Arc::new(Alone))?;
/// let mut session = Session::new(&network, 1, Method::Exact, options)?;
/// let loss = session.infer(&parameters, &[0.5, -0.5], &[1.0f32])?;
/// assert_eq!(shared.infer(&parameters, &[0.5, -0.5], &[1.0f32])?, loss);
/// assert!(shared.gradients() == session.gradients());
/// # Ok::<(), predictive_coding::Error>(())
/// ```
pub trait Ranks: Send + Sync {
    /// Which of the ranks this process is, from 0.
    fn rank(&self) -> usize;

    /// How many there are, at least 1.
    fn size(&self) -> usize;

    /// Whether gradients may be summed in any order ([`Exchange::AllReduce`]). Their last bits then depend on the number of
    /// ranks.
    fn any_order(&self) -> bool {
        false
    }

    /// About how many values a rank sends in one exchange of many. Smaller exchanges begin earlier, and cost more latency.
    fn bucket(&self) -> usize {
        1 << 18
    }

    /// Starts an exchange, and returns at once. It goes on while the caller computes. Any thread may call it: the session
    /// sees to the order.
    fn start(&self, exchange: Exchange) -> Arrival;

    /// Fills in the parts of the other ranks, behind all exchanges that have been started.
    fn all_gather_f64(&self, values: &mut [f64], counts: &[usize]);
}

/// What a rank contributes to an exchange. [`Ranks`] has an example.
#[derive(Clone, Debug)]
pub enum Exchange {
    /// Each rank gets its part of `send`, and receives so many values of each.
    AllToAll {
        /// What is sent.
        send: Vec<f32>,
        /// How many values go to each rank.
        counts: Vec<usize>,
        /// How many come from each.
        received: Vec<usize>,
    },
    /// All ranks get the values of all.
    AllGather {
        /// Those of this rank.
        own: Vec<f32>,
        /// How many each rank has.
        counts: Vec<usize>,
    },
    /// All ranks get the sum of the values of all, added in an order that the implementation chooses.
    AllReduce(Vec<f32>),
}

/// Waits for what an exchange leads to: the values of all ranks in their order, or their sum. A session waits in the order in
/// which it has started exchanges. [`Ranks`] has an example.
pub type Arrival = Box<dyn FnOnce() -> Vec<f32> + Send>;

/// About how many values are exchanged at a time where each rank has a slice of them: more among many ranks, as a smaller
/// slice takes as long.
pub(crate) fn sliced(ranks: &dyn Ranks) -> usize {
    /// Slices that a bucket may be cut into.
    const SLICES: usize = 64;
    ranks.bucket() * ranks.size().div_ceil(SLICES)
}

/// One of `size` even shares of `count` things.
pub(crate) fn share(count: usize, rank: usize, size: usize) -> Range<usize> {
    count * rank / size..count * (rank + 1) / size
}

/// Where a range of the leaves of a tree is cut in two: behind the largest power of two.
fn halves(range: &Range<usize>) -> [Range<usize>; 2] {
    let middle = range.start + range.len().next_power_of_two() / 2;
    [range.start..middle, middle..range.end]
}

/// The largest parts of a tree of `leaves` that lie within a share of them.
pub(crate) fn parts(leaves: usize, share: &Range<usize>) -> Vec<Range<usize>> {
    fn add(range: Range<usize>, share: &Range<usize>, found: &mut Vec<Range<usize>>) {
        if share.start <= range.start && range.end <= share.end {
            found.push(range);
        } else if range.start < share.end && share.start < range.end {
            halves(&range).into_iter().for_each(|half| add(half, share, found));
        }
    }
    let mut found = Vec::new();
    if !share.is_empty() {
        add(0..leaves, share, &mut found);
    }
    found
}

/// The most values that are added up at a time.
pub(crate) const SUMMANDS: usize = 512;

/// The sum of a part of a tree, at most [`SUMMANDS`] values of each leaf: both halves are summed, then added. `known` has the
/// sums of some parts, among them the first one, which is in `out` already.
pub(crate) fn tree_sum<'a>(
    range: Range<usize>,
    known: &impl Fn(&Range<usize>) -> Option<&'a [f32]>,
    add: &impl Fn(&[f32], &mut [f32]),
    out: &mut [f32],
) {
    if known(&range).is_some() {
        return;
    }
    let [left, right] = halves(&range);
    tree_sum(left, known, add, out);
    match known(&right) {
        Some(values) => add(values, out),
        None => {
            let mut first = right.clone();
            let values = loop {
                match known(&first) {
                    Some(values) => break values,
                    None => [first, _] = halves(&first),
                }
            };
            let mut other = [0.0; SUMMANDS];
            let other = &mut other[..out.len()];
            other.copy_from_slice(values);
            tree_sum(right, known, add, other);
            add(other, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_cut_into_parts_of_the_tree() {
        for leaves in 1..40 {
            for size in 1..9 {
                let shares = (0..size).map(|rank| share(leaves, rank, size));
                let found: Vec<_> = shares.flat_map(|share| parts(leaves, &share)).collect();
                assert_eq!(found.iter().cloned().flatten().collect::<Vec<_>>(), (0..leaves).collect::<Vec<_>>());
            }
        }
        assert!(parts(8, &(0..4)).into_iter().eq(std::iter::once(0..4)));
        assert_eq!(parts(8, &(3..8)), [3..4, 4..8]);
        assert!(parts(6, &(0..6)).into_iter().eq(std::iter::once(0..6)));
        assert_eq!(parts(6, &(2..2)), []);
    }

    #[test]
    fn a_sum_is_pairwise_and_the_same_from_any_parts() {
        let leaf = |i: usize| [0.1f32 * (i + 1) as f32];
        let add = |values: &[f32], out: &mut [f32]| out[0] += values[0];
        let leaves: Vec<_> = (0..7).map(leaf).collect();
        let sum = |range: Range<usize>| {
            let mut out = leaves[range.start];
            tree_sum(range, &|r| (r.len() == 1).then(|| &leaves[r.start][..]), &add, &mut out);
            out
        };
        let l = |i: usize| leaves[i][0];
        assert_eq!(sum(0..7), [((l(0) + l(1)) + (l(2) + l(3))) + ((l(4) + l(5)) + l(6))]);
        for size in 2..8 {
            let all: Vec<_> = (0..size).flat_map(|rank| parts(7, &share(7, rank, size))).collect();
            let sums: Vec<_> = all.iter().map(|part| sum(part.clone())).collect();
            let mut out = sums[0];
            let known = |r: &Range<usize>| all.iter().position(|part| part == r).map(|i| &sums[i][..]);
            tree_sum(0..7, &known, &add, &mut out);
            assert_eq!(out, sum(0..7));
        }
    }
}
