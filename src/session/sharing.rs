//! Sessions whose batches several processes share.

use std::ops::Range;
use std::sync::Arc;

use super::Session;
use crate::error::{Divergence, Result};
use crate::method::Method;
use crate::network::Network;
use crate::options::Options;
use crate::ranks::Ranks;
use crate::sums::Division;

impl Session {
    /// As [`new`](Self::new), for one of several processes that share every batch. All make the same calls with the same
    /// arguments: whole batches, of which each computes an even share of the groups of tiles. Gradients, losses and
    /// divergences are those of the whole batch, the same on every rank. What can be read of samples
    /// ([`get`](Self::get), [`descents`](Self::descents), [`energies`](Self::energies)) is of the samples of this rank
    /// ([`own_samples`](Self::own_samples)).
    ///
    /// The groups, the tree in which their partial gradients are summed, and the order of the samples in the products of
    /// whole batches do not depend on the number of ranks. Results are therefore bit-identical for any number of ranks, 1
    /// and an unshared session among them, unless the ranks [sum in any order](Ranks::any_order).
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn shared(
        network: &Network,
        batch: usize,
        method: impl Into<Method>,
        options: Options,
        ranks: Arc<dyn Ranks>,
    ) -> Result<Self> {
        Session::planned(network, batch, method.into(), options, Some(ranks))
    }

    /// The samples of the last batch that this process has computed: all, unless the session is [shared](Self::shared).
    pub fn own_samples(&self) -> Range<usize> {
        self.first..self.first + self.samples
    }

    /// Whether it was made by [`shared`](Self::shared).
    pub fn is_shared(&self) -> bool {
        self.ranks.is_some()
    }

    /// The groups that a full batch is cut into, which ranks share: more ranks than those have nothing to do.
    pub fn batch_groups(&self) -> usize {
        self.batch.div_ceil(self.plan.images).div_ceil(self.tiles_per_group)
    }

    /// How a batch of so many samples is divided.
    pub(super) fn division(&self, samples: usize) -> Division {
        let (rank, size) = self.ranks.as_ref().map_or((0, 1), |ranks| (ranks.rank(), ranks.size()));
        Division { rank, size, samples, per_group: self.tiles_per_group * self.plan.images }
    }

    /// Tells all ranks the losses of this one's samples, whether it was stopped, and its divergence. Adds up the losses of all
    /// in the order of the samples.
    pub(super) fn share_outcome(&mut self, has_targets: bool, own: Option<Divergence>) -> Outcome {
        let stopped = self.options.stopped();
        let tiles = self.groups[..self.used].iter().flat_map(|group| &group.tiles);
        let losses =
            tiles.flat_map(|tile| &tile.losses[..tile.samples]).take(if has_targets { self.samples } else { 0 });
        let (sum, outcome) = match &self.ranks {
            None => (losses.sum(), Outcome { stopped, divergence: own }),
            Some(ranks) => {
                let division = self.division(self.batch_samples);
                let losses_of =
                    |rank| if has_targets { division.samples_of(&division.groups_of(rank)).len() } else { 0 };
                let counts: Vec<usize> = (0..division.size).map(|rank| TOLD + losses_of(rank)).collect();
                let mut all = vec![0.0; counts.iter().sum()];
                let start: usize = counts[..division.rank].iter().sum();
                let told = tell(stopped, own).into_iter().chain(losses.copied());
                all[start..].iter_mut().zip(told).for_each(|(out, told)| *out = told);
                ranks.all_gather_f64(&mut all, &counts);
                hear(&all, &counts)
            }
        };
        let scale = self.output(self.batch_samples).scale;
        self.loss = if has_targets { (sum * scale) as f32 } else { f32::NAN };
        outcome
    }
}

/// How a call ended, on any rank.
pub(super) struct Outcome {
    pub(super) stopped: bool,
    /// The earliest.
    pub(super) divergence: Option<Divergence>,
}

/// Numbers that a rank tells besides losses.
const TOLD: usize = 6;

fn tell(stopped: bool, divergence: Option<Divergence>) -> [f64; TOLD] {
    let Some(Divergence { sample, layer, iteration, finite }) = divergence else {
        return [f64::from(stopped), 0.0, 0.0, 0.0, 0.0, 0.0];
    };
    [f64::from(stopped), 1.0, sample as f64, layer as f64, iteration as f64, f64::from(finite)]
}

/// The sum of the losses, and what all ranks have told.
fn hear(mut all: &[f64], counts: &[usize]) -> (f64, Outcome) {
    let (mut sum, mut stopped, mut divergences) = (0.0, false, Vec::new());
    for &count in counts {
        let (of_rank, rest) = all.split_at(count);
        let (told, losses) = of_rank.split_at(TOLD);
        sum = losses.iter().fold(sum, |sum, loss| sum + loss);
        stopped |= told[0] != 0.0;
        if told[1] != 0.0 {
            let [sample, layer, iteration] = [2, 3, 4].map(|i| told[i] as usize);
            divergences.push(Divergence { sample, layer, iteration, finite: told[5] != 0.0 });
        }
        all = rest;
    }
    (sum, Outcome { stopped, divergence: divergences.into_iter().min_by_key(|d| (d.iteration, d.sample)) })
}
