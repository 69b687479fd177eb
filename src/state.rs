//! The state of a tile, which is one vector's worth of samples, and the scratch to compute it with.

use std::ops::Range;

use predictive_coding_kernels::Buffer;

use crate::plan::Plan;

/// What is kept of a tile, one image per lane.
#[derive(Debug)]
pub(crate) struct Tile {
    /// Samples in use; the lanes beyond hold zeros.
    pub(crate) samples: usize,
    /// z: the values of the forward pass at every boundary.
    pub(crate) values: Buffer,
    /// u_l = v_l - v-hat_l at every layer but the last.
    pub(crate) deviations: Buffer,
    /// epsilon_l at every layer.
    pub(crate) errors: Buffer,
    /// D_L = f_L(v_{L-1}) - v-hat_L.
    pub(crate) output_difference: Buffer,
    /// The targets: `[outputs][lanes]`, or one label per lane.
    pub(crate) targets: Buffer,
    /// Unscaled loss of the forward pass of each lane.
    pub(crate) losses: Vec<f64>,
}

impl Tile {
    pub(crate) fn new(plan: &Plan) -> Self {
        let outputs = plan.outputs_len();
        let last = plan.layers[plan.layers.len() - 1].output.clone();
        Tile {
            samples: 0,
            values: Buffer::zeros(plan.values_len()),
            deviations: Buffer::zeros(last.start),
            errors: Buffer::zeros(outputs),
            output_difference: Buffer::zeros(last.len()),
            targets: Buffer::zeros(last.len()),
            losses: vec![0.0; plan.lanes],
        }
    }

    /// At least as many elements as a tile's buffers have.
    pub(crate) fn len(plan: &Plan) -> usize {
        plan.values_len() + 4 * plan.outputs_len()
    }

    pub(crate) fn bytes(&self) -> usize {
        let buffers = [&self.values, &self.deviations, &self.errors, &self.output_difference, &self.targets];
        buffers.iter().map(|buffer| buffer.bytes()).sum::<usize>() + size_of_val(self.losses.as_slice())
    }
}

/// Buffers that one tile after the other computes in.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// D at the boundaries inside of layers.
    pub(crate) differences: Buffer,
    /// Slopes of activations and winners of max pools, where the layers were last evaluated.
    pub(crate) local: Buffer,
    /// Two gradients on their way back through a layer.
    pub(crate) gradients: [Buffer; 2],
    /// z + D at the input of a product.
    pub(crate) input: Buffer,
    /// For the weight gradients of matrices.
    pub(crate) weights: Buffer,
}

impl Scratch {
    pub(crate) fn new(plan: &Plan) -> Self {
        Scratch {
            differences: Buffer::zeros(plan.differences_len()),
            local: Buffer::zeros(plan.local),
            gradients: [Buffer::zeros(plan.widest), Buffer::zeros(plan.widest)],
            input: Buffer::zeros(plan.widest),
            weights: Buffer::zeros(plan.weights_scratch),
        }
    }

    /// Elements of the scratch's buffers.
    pub(crate) fn len(plan: &Plan) -> usize {
        plan.differences_len() + plan.local + 3 * plan.widest + plan.weights_scratch
    }

    pub(crate) fn bytes(&self) -> usize {
        let [a, b] = &self.gradients;
        [&self.differences, &self.local, a, b, &self.input, &self.weights].iter().map(|buffer| buffer.bytes()).sum()
    }
}

/// Two places of one buffer, the first before the second: one to read and one to write.
pub(crate) fn read_write(buffer: &mut [f32], read: Range<usize>, write: Range<usize>) -> (&[f32], &mut [f32]) {
    let (low, high) = buffer.split_at_mut(write.start);
    (&low[read], &mut high[..write.end - write.start])
}

/// Two places of one buffer, the first before the second: one to write and one to read.
pub(crate) fn write_read(buffer: &mut [f32], write: Range<usize>, read: Range<usize>) -> (&mut [f32], &[f32]) {
    let (low, high) = buffer.split_at_mut(read.start);
    (&mut low[write], &high[..read.end - read.start])
}
