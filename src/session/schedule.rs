//! The groups of a batch on the threads of a pool.

use predictive_coding_kernels::{concurrency, pool_threads};
use rayon::prelude::*;

use super::Session;
use crate::group::{Call, Conditions, Group};
use crate::layer::Layers;
use crate::loss::Targets;
use crate::parameters::ParametersView;
use crate::plan::Step;
use crate::product::Weights;
use crate::state::Scratch;

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

    /// Runs `work` on every group, and adds up the losses.
    #[expect(clippy::too_many_arguments, reason = "the operands of a call, and what is done with them")]
    pub(super) fn run(
        &mut self,
        parameters: ParametersView<'_>,
        change: Option<Weights<'_>>,
        x: &[f32],
        targets: Option<Targets<'_>>,
        conditions: Conditions<'_>,
        samples: usize,
        work: impl Fn(Call<'_>, &mut Group, &mut Scratch, &mut [f32]) + Sync,
    ) {
        let output = self.output(samples).masked(conditions.mask.is_some());
        let tiles = samples.div_ceil(self.plan.images);
        let threads = concurrency();
        let tiles_per_group = self.tiles_per_group;
        let share = self.share_of(tiles.div_ceil(tiles_per_group));
        let used = share.len();
        self.groups.iter_mut().zip(share.clone()).for_each(|(group, index)| group.first = index * tiles_per_group);
        // Where more threads would come than can run, a task takes several groups.
        let per_task = if pool_threads() > threads { used.div_ceil(threads) } else { 1 };
        // A thread that waits for a part of a product may take another group, which then needs scratch too.
        let parallel = used < threads && self.scratch.len() >= used;
        let (plan, packed, draw) = (&*self.plan, &*self.packed, self.draw);
        let layers = Layers { plan, parameters, packed, change, draw, parallel };
        let call = Call { layers, output, x, targets, conditions, samples };
        let rows_len = (tiles_per_group * self.plan.images * self.plan.sizes.row).max(1);
        let first_row = (share.start * rows_len).min(self.rows.len());
        let rows = &mut self.rows[first_row..];
        let scratch = &self.scratch;
        let task = |index: usize, group: &mut Group, rows: &mut [f32]| {
            work(call, group, &mut scratch.free(index), rows);
        };
        if threads > 1 && used > 1 && self.plan.sizes.row > 0 {
            let groups = self.groups[..used].par_iter_mut().zip(rows.par_chunks_mut(rows_len));
            let groups = groups.enumerate().with_min_len(per_task).with_max_len(per_task);
            groups.for_each(|(index, (group, rows))| task(index, group, rows));
        } else if threads > 1 && used > 1 {
            let groups = self.groups[..used].par_iter_mut().enumerate();
            groups.with_min_len(per_task).with_max_len(per_task).for_each(|(index, group)| task(index, group, &mut []));
        } else {
            let mut rows = rows.chunks_mut(rows_len);
            for (index, group) in self.groups[..used].iter_mut().enumerate() {
                task(index, group, rows.next().unwrap_or_default());
            }
        }
        self.used = used;
        self.first = share.start * tiles_per_group * self.plan.images;
        self.samples = (share.end * tiles_per_group * self.plan.images).min(samples) - self.first.min(samples);
        self.batch_samples = samples;
        self.masked = conditions.mask.is_some();
        self.loss = targets.map_or(f32::NAN, |_| (self.sum_of_losses() * output.scale) as f32);
    }
}
