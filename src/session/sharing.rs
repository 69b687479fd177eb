//! Sessions whose batches several processes share.

use std::ops::Range;
use std::sync::Arc;

use super::Session;
use crate::error::{Divergence, Result};
use crate::method::Method;
use crate::network::Network;
use crate::options::Options;
use crate::ranks::{Ranks, share};

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

    /// This process's share of so many groups.
    pub(super) fn share_of(&self, groups: usize) -> Range<usize> {
        self.ranks.as_ref().map_or(0..groups, |ranks| share(groups, ranks.rank(), ranks.size()))
    }

    /// How many samples of the last batch each rank has.
    pub(super) fn samples_of_ranks(&self, ranks: &dyn Ranks) -> Vec<usize> {
        let (size, samples) = (ranks.size(), self.batch_samples);
        let per_group = self.tiles_per_group * self.plan.images;
        let shares = (0..size).map(|rank| share(samples.div_ceil(per_group), rank, size));
        shares.map(|groups| (groups.end * per_group).min(samples) - (groups.start * per_group).min(samples)).collect()
    }

    /// The sum of the losses of all samples of the last batch, in their order.
    pub(super) fn sum_of_losses(&self) -> f64 {
        let tiles = self.groups[..self.used].iter().flat_map(|group| &group.tiles);
        let losses = tiles.flat_map(|tile| &tile.losses[..tile.samples]).take(self.samples);
        let Some(ranks) = &self.ranks else { return losses.sum() };
        let mut all = vec![0.0; self.batch_samples];
        all[self.own_samples()].iter_mut().zip(losses).for_each(|(out, loss)| *out = *loss);
        ranks.all_gather_f64(&mut all, &self.samples_of_ranks(&**ranks));
        all.iter().sum()
    }

    /// Whether the last call was stopped, on any rank.
    pub(super) fn any_stopped(&self) -> bool {
        let stopped = self.options.stopped();
        let Some(ranks) = &self.ranks else { return stopped };
        gather(&**ranks, [f64::from(stopped)]).iter().any(|[stopped]| *stopped != 0.0)
    }

    /// The earliest divergence of all ranks.
    pub(super) fn earliest(&self, own: Option<Divergence>) -> Option<Divergence> {
        let Some(ranks) = &self.ranks else { return own };
        let told = own.map_or([-1.0; 4], |Divergence { sample, layer, iteration, finite }| {
            [sample as f64, layer as f64, iteration as f64, f64::from(finite)]
        });
        let all = gather(&**ranks, told).into_iter().filter(|told| told[0] >= 0.0);
        let all = all.map(|[sample, layer, iteration, finite]| Divergence {
            sample: sample as usize,
            layer: layer as usize,
            iteration: iteration as usize,
            finite: finite != 0.0,
        });
        all.min_by_key(|divergence| (divergence.iteration, divergence.sample))
    }
}

/// What every rank tells.
fn gather<const N: usize>(ranks: &dyn Ranks, own: [f64; N]) -> Vec<[f64; N]> {
    let mut all = vec![[0.0; N]; ranks.size()];
    all[ranks.rank()] = own;
    ranks.all_gather_f64(all.as_flattened_mut(), &vec![N; ranks.size()]);
    all
}
