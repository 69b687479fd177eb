//! What the groups of a rank have for the sums over a batch: it is sent on while other groups and lower layers are still
//! computed.
//!
//! Gradients are made from the top layer down. A *bucket* is the part of the partial gradients of some layers: when all groups
//! here have passed these, their sums by the parts of the tree are sent. A *round* is the operands of the matrices of some
//! groups: they are sent when these have passed the lowest matrix. Groups are computed in their order, so rounds leave one
//! after the other. Exchanges start in one order on all ranks: rounds, then buckets.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use predictive_coding_kernels::{Level, elementwise, pool_threads};
use rayon::prelude::*;

use crate::plan::{LayerPlan, Plan};
use crate::ranks::{Arrival, Exchange, Ranks, SUMMANDS, parts, share, tree_sum};

/// Values of the gradients that one task adds up.
const REDUCTION_BLOCK: usize = 1 << 16;

/// How a batch is divided among ranks.
#[derive(Clone, Copy)]
pub(crate) struct Division {
    pub(crate) rank: usize,
    pub(crate) size: usize,
    pub(crate) samples: usize,
    /// Samples of a group.
    pub(crate) per_group: usize,
}

impl Division {
    /// The groups that the batch has.
    pub(crate) fn groups(&self) -> usize {
        self.samples.div_ceil(self.per_group)
    }

    /// Those of a rank.
    pub(crate) fn groups_of(&self, rank: usize) -> Range<usize> {
        share(self.groups(), rank, self.size)
    }

    /// The samples of some groups.
    pub(crate) fn samples_of(&self, groups: &Range<usize>) -> Range<usize> {
        let place = |group: usize| (group * self.per_group).min(self.samples);
        place(groups.start)..place(groups.end)
    }

    /// For each rank, the largest parts of the tree of all groups that it can sum by itself.
    pub(crate) fn parts(&self) -> Vec<Vec<Range<usize>>> {
        (0..self.size).map(|rank| parts(self.groups(), &self.groups_of(rank))).collect()
    }
}

/// The operands of matrices as they are sent, some groups of each rank at a time.
#[derive(Clone, Copy)]
pub(crate) struct Rounds {
    division: Division,
    /// Groups of a rank in each round.
    groups: usize,
}

impl Rounds {
    /// With about `most` values in each, where a sample has `row`.
    pub(crate) fn new(division: Division, row: usize, most: usize) -> Self {
        Rounds { division, groups: (most / (division.per_group * row).max(1)).max(1) }
    }

    pub(crate) fn count(&self) -> usize {
        self.division.groups().div_ceil(self.division.size).div_ceil(self.groups)
    }

    /// The round of a group of this rank, and the group's place in it.
    fn place(&self, group: usize) -> (usize, usize) {
        let group = group - self.division.groups_of(self.division.rank).start;
        (group / self.groups, group % self.groups)
    }

    fn groups(&self, round: usize, rank: usize) -> Range<usize> {
        let Range { start, end } = self.division.groups_of(rank);
        (start + round * self.groups).min(end)..(start + (round + 1) * self.groups).min(end)
    }

    /// The samples that each rank sends.
    pub(crate) fn samples(&self, round: usize) -> impl Iterator<Item = Range<usize>> {
        (0..self.division.size).map(move |rank| self.division.samples_of(&self.groups(round, rank)))
    }
}

/// The places of the buckets among the partial gradients, from the top layer down: about `most` values, or one layer.
pub(crate) fn buckets(plan: &Plan, most: usize) -> Vec<Range<usize>> {
    let mut end = plan.sizes.partial;
    let mut found = Vec::new();
    for LayerPlan { partial: start, .. } in plan.layers.iter().rev() {
        if end - start >= most || (*start == 0 && end > 0) {
            found.push(*start..end);
            end = *start;
        }
    }
    found
}

/// What the groups here have handed on of a round or bucket.
struct Handed<'r> {
    groups: Vec<&'r mut [f32]>,
    missing: usize,
}

impl<'r> Handed<'r> {
    fn of(groups: usize) -> Mutex<Self> {
        Mutex::new(Handed { groups: (0..groups).map(|_| Default::default()).collect(), missing: groups })
    }

    /// Takes what one group has; returns what all have if it is the last.
    fn hand(handed: &Mutex<Self>, group: usize, values: &'r mut [f32]) -> Option<Vec<&'r mut [f32]>> {
        let Handed { groups, missing } = &mut *lock(handed);
        groups[group] = values;
        *missing -= 1;
        (*missing == 0).then(|| std::mem::take(groups))
    }
}

/// The exchanges of a call: those that wait for their turn, and what will come of those that have started.
struct Line {
    ready: Vec<Option<Exchange>>,
    arrivals: Vec<Arrival>,
}

/// The sums of a call, on their way to other ranks. Groups borrow their gradients and rows for `'r`.
pub(crate) struct Sums<'a, 'r> {
    level: Level,
    ranks: &'a dyn Ranks,
    division: Division,
    row: usize,
    /// Of the operands of matrices, unless every rank multiplies its own.
    rounds: Option<Rounds>,
    rows: Vec<Mutex<Handed<'r>>>,
    buckets: &'a [Range<usize>],
    partial: Vec<Mutex<Handed<'r>>>,
    line: Mutex<Line>,
}

impl<'a, 'r> Sums<'a, 'r> {
    pub(crate) fn new(plan: &Plan, ranks: &'a dyn Ranks, division: Division, buckets: &'a [Range<usize>]) -> Self {
        let row = plan.sizes.row;
        let rounds = Some(Rounds::new(division, row, ranks.bucket())).filter(|_| row > 0 && !ranks.any_order());
        let count = rounds.map_or(0, |rounds| rounds.count());
        let own = division.groups_of(division.rank);
        let groups_of = |round: usize| rounds.map_or(0, |rounds| rounds.groups(round, division.rank).len());
        let ready = (0..count + buckets.len()).map(|_| None).collect();
        let sums = Sums {
            level: plan.level,
            ranks,
            division,
            row,
            rounds,
            rows: (0..count).map(|round| Handed::of(groups_of(round))).collect(),
            buckets,
            partial: buckets.iter().map(|_| Handed::of(own.len())).collect(),
            line: Mutex::new(Line { ready, arrivals: Vec::new() }),
        };
        // Where this rank has no groups, there is nothing to wait for.
        (0..count).filter(|&round| groups_of(round) == 0).for_each(|round| sums.send_rows(round, &[]));
        (0..buckets.len()).filter(|_| own.is_empty()).for_each(|bucket| sums.send_bucket(bucket, &[]));
        sums
    }

    /// What will arrive of each round, and of each bucket.
    pub(crate) fn arrivals(self) -> [Vec<Arrival>; 2] {
        let mut rounds = self.line.into_inner().unwrap_or_else(PoisonError::into_inner).arrivals;
        let buckets = rounds.split_off(self.rows.len());
        [rounds, buckets]
    }

    fn send_rows(&self, round: usize, groups: &[&'r mut [f32]]) {
        let counts: Vec<usize> =
            self.rounds.iter().flat_map(|r| r.samples(round)).map(|s| s.len() * self.row).collect();
        let mut own = groups.concat();
        // The last group has places for more samples than there are.
        own.truncate(counts[self.division.rank]);
        self.send(round, Exchange::AllGather { own, counts });
    }

    fn send_bucket(&self, bucket: usize, groups: &[&'r mut [f32]]) {
        let Division { rank: own, size, .. } = self.division;
        let place = &self.buckets[bucket];
        let exchange = if self.ranks.any_order() {
            let mut sums = vec![0.0; place.len()];
            if !groups.is_empty() {
                self.sum(&(0..groups.len()), 0, groups, &mut sums);
            }
            Exchange::AllReduce(sums)
        } else {
            let all = self.division.parts();
            let first = self.division.groups_of(own).start;
            let slice = |rank: usize| share(place.len(), rank, size);
            let mut send = vec![0.0; all[own].len() * place.len()];
            let mut rest = &mut send[..];
            for slice in (0..size).map(slice) {
                for part in &all[own] {
                    let sums;
                    (sums, rest) = rest.split_at_mut(slice.len());
                    self.sum(&(part.start - first..part.end - first), slice.start, groups, sums);
                }
            }
            Exchange::AllToAll {
                send,
                counts: (0..size).map(|rank| all[own].len() * slice(rank).len()).collect(),
                received: all.iter().map(|parts| parts.len() * slice(own).len()).collect(),
            }
        };
        self.send(self.rows.len() + bucket, exchange);
    }

    /// The sum of a part of the tree, from the values at `start` on.
    fn sum(&self, part: &Range<usize>, start: usize, groups: &[&'r mut [f32]], sums: &mut [f32]) {
        for_each_block(sums, |block, sums| {
            for (start, sums) in (start + block..).step_by(SUMMANDS).zip(sums.chunks_mut(SUMMANDS)) {
                let place = start..start + sums.len();
                let leaf = |group: usize| &groups[group][place.clone()];
                let add = |values: &[f32], sums: &mut [f32]| elementwise::accumulate(self.level, values, sums);
                let known = |range: &Range<usize>| (range.len() == 1).then(|| leaf(range.start));
                sums.copy_from_slice(leaf(part.start));
                tree_sum(part.clone(), &known, &add, sums);
            }
        });
    }

    /// Starts an exchange if all before it have started, and those behind it that wait for that.
    fn send(&self, index: usize, exchange: Exchange) {
        let Line { ready, arrivals } = &mut *lock(&self.line);
        ready[index] = Some(exchange);
        while let Some(exchange) = ready.get_mut(arrivals.len()).and_then(Option::take) {
            arrivals.push(self.ranks.start(exchange));
        }
    }

    /// Takes what a group has of a bucket; the last group's makes the sums.
    fn hand_bucket(&self, bucket: usize, group: usize, values: &'r mut [f32]) {
        let group = group - self.division.groups_of(self.division.rank).start;
        if let Some(groups) = Handed::hand(&self.partial[bucket], group, values) {
            self.send_bucket(bucket, &groups);
        }
    }

    fn hand_rows(&self, group: usize, rows: &'r mut [f32]) {
        let Some(rounds) = self.rounds else { return };
        let (round, place) = rounds.place(group);
        if let Some(groups) = Handed::hand(&self.rows[round], place, rows) {
            self.send_rows(round, &groups);
        }
    }
}

/// The gradients of one group, on their way into the sums.
pub(crate) struct Handing<'s, 'r> {
    sums: &'s Sums<'s, 'r>,
    /// Index in the batch.
    group: usize,
    /// The next bucket, and whether the rows are still here.
    bucket: usize,
    has_rows: bool,
}

impl<'s, 'r> Handing<'s, 'r> {
    pub(crate) fn new(sums: &'s Sums<'s, 'r>, group: usize) -> Self {
        Handing { sums, group, bucket: 0, has_rows: true }
    }

    /// Hands on what is complete as the group has passed a layer for the last time, and cuts it off.
    pub(crate) fn passed(&mut self, layer: &LayerPlan, partial: &mut &'r mut [f32], rows: &mut &'r mut [f32]) {
        if self.has_rows && layer.row == 0 {
            self.has_rows = false;
            self.sums.hand_rows(self.group, std::mem::take(rows));
        }
        while let Some(place) = self.sums.buckets.get(self.bucket).filter(|place| place.start >= layer.partial) {
            let (below, values) = std::mem::take(partial).split_at_mut(place.start);
            *partial = below;
            self.sums.hand_bucket(self.bucket, self.group, values);
            self.bucket += 1;
        }
    }
}

/// Calls `f(start, block)` for the blocks of some values, on several threads if they are many.
pub(crate) fn for_each_block(values: &mut [f32], f: impl Fn(usize, &mut [f32]) + Sync) {
    let block = |(index, block): (usize, &mut [f32])| f(index * REDUCTION_BLOCK, block);
    match values.len() > REDUCTION_BLOCK && pool_threads() > 1 {
        true => values.par_chunks_mut(REDUCTION_BLOCK).enumerate().for_each(block),
        false => block((0, values)),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
