//! The groups of a batch on the threads of a pool.

use std::sync::{Mutex, PoisonError};

use predictive_coding_kernels::concurrency;
use rayon::prelude::*;

use super::Session;
use crate::group::{Call, Conditions, Task};
use crate::layer::Layers;
use crate::loss::Targets;
use crate::parameters::ParametersView;
use crate::plan::Step;
use crate::product::Weights;
use crate::ranks::Arrival;
use crate::state::Scratch;
use crate::sums::{Handing, Sums};

impl Session {
    /// Brings the weights into the layouts that the kernels want, once for all iterations.
    pub(super) fn pack(&mut self, parameters: ParametersView<'_>) {
        for step in &self.plan.steps {
            match step {
                Step::Product(product) => product.pack(parameters, &mut self.packed),
                Step::Affine(affine) => affine.pack(parameters, &mut self.packed),
                Step::Dropout(_) | Step::Local(_) => {}
            }
        }
    }

    /// Runs `work` on every group of this rank. If `sums`, the groups' gradients are on their way to other ranks from then
    /// on: returns what will arrive of them.
    #[expect(clippy::too_many_arguments, reason = "the operands of a call, and what is done with them")]
    pub(super) fn run(
        &mut self,
        parameters: ParametersView<'_>,
        change: Option<Weights<'_>>,
        x: &[f32],
        targets: Option<Targets<'_>>,
        conditions: Conditions<'_>,
        samples: usize,
        sums: bool,
        work: impl Fn(Call<'_>, Task<'_, '_>, &mut Scratch) + Sync,
    ) -> [Vec<Arrival>; 2] {
        let output = self.output(samples).masked(conditions.mask.is_some());
        let division = self.division(samples);
        let share = division.groups_of(division.rank);
        let (plan, packed, draw) = (&*self.plan, &*self.packed, self.draw);
        self.used = share.len();
        self.samples = division.samples_of(&share).len();
        self.first = division.samples_of(&share).start;
        self.batch_samples = samples;
        self.masked = conditions.mask.is_some();
        // No more tasks than can run; each takes one group after the other. A thread that waits for a part of a product may
        // take another task, which then needs scratch too.
        let threads = concurrency();
        let parallel = self.used < threads && self.scratch.len() >= self.used;
        let tasks = self.used.min(threads).min(self.scratch.len());
        let layers = Layers { plan, parameters, packed, change, draw, parallel };
        let call = Call { layers, output, x, targets, conditions, samples };
        let sums = self.ranks.as_deref().filter(|_| sums);
        let sums = sums.map(|ranks| Sums::new(plan, ranks, division, &self.buckets));
        let rows_len = (division.per_group * plan.sizes.row).max(1);
        let first_row = (share.start * rows_len).min(self.rows.len());
        let rows = self.rows[first_row..].chunks_mut(rows_len).map(Some).chain(std::iter::repeat_with(|| None));
        let groups = Mutex::new(share.zip(&mut self.groups).zip(rows));
        let next = || groups.lock().unwrap_or_else(PoisonError::into_inner).next();
        let task = |index: usize| {
            let mut scratch = self.scratch.free(index);
            while let Some(((index, group), rows)) = next() {
                group.first = index * self.tiles_per_group;
                let handing = sums.as_ref().map(|sums| Handing::new(sums, index));
                work(call, Task { group, rows: rows.unwrap_or_default(), handing }, &mut scratch);
            }
        };
        match tasks {
            0 | 1 => (0..tasks).for_each(task),
            _ => (0..tasks).into_par_iter().with_max_len(1).for_each(task),
        }
        sums.map_or_else(Default::default, Sums::arrivals)
    }
}
