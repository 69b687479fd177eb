//! What is done to the samples of a tile one by one: where each lies in a tensor, sums over its elements, its own step.
//!
//! A *vector* here is the tensors of all layers that it has, one behind the other, from a free input's on. Each tensor
//! has all samples: across the lanes, or one behind the other.

use std::ops::Range;

use predictive_coding_kernels::{Combine, Layout, elementwise, reduce};

use super::Plan;

impl Plan {
    /// The tensors of a vector of so many elements. With samples across the lanes, the vector counts as one tensor.
    fn tensors(&self, len: usize) -> impl Iterator<Item = Range<usize>> {
        let apart = self.layout.is_channels();
        let outputs = [&self.input.output].into_iter().chain(self.layers.iter().map(|layer| &layer.output));
        let tensors = outputs.filter(move |tensor| apart && tensor.end <= len).cloned();
        tensors.chain((!apart).then_some(0..len))
    }

    /// The places of a sample in a vector of so many elements.
    pub(crate) fn of_sample(&self, sample: usize, len: usize) -> impl Iterator<Item = usize> {
        let samples = self.images;
        let apart = self.layout.is_channels();
        self.tensors(len).flat_map(move |Range { start, end }| match apart {
            true => {
                let len = (end - start) / samples;
                (start + sample * len..start + (sample + 1) * len).step_by(1)
            }
            false => (start + sample..end).step_by(samples),
        })
    }

    /// Zeros in a vector at the samples that are marked, of as many as there are marks.
    pub(crate) fn clear_samples(&self, marked: impl IntoIterator<Item = bool>, vector: &mut [f32]) {
        for (sample, _) in marked.into_iter().enumerate().filter(|(_, marked)| *marked) {
            self.of_sample(sample, vector.len()).for_each(|i| vector[i] = 0.0);
        }
    }

    /// Zeros in a tensor behind the first samples.
    pub(crate) fn clear_unused(&self, samples: usize, tensor: &mut [f32]) {
        if samples == self.images {
            return;
        }
        match self.layout.is_channels() {
            true => {
                let used = samples * (tensor.len() / self.images);
                tensor[used..].fill(0.0);
            }
            false => tensor.chunks_exact_mut(self.images).for_each(|lanes| lanes[samples..].fill(0.0)),
        }
    }

    /// Adds the products of two vectors to the sum of each sample.
    pub(crate) fn add_products(&self, a: &[f32], b: &[f32], sums: &mut [f64]) {
        for tensor in self.tensors(a.len()) {
            reduce::add_products(self.level, self.layout, &a[tensor.clone()], &b[tensor], sums);
        }
    }

    /// Adds the squares of a vector to the sum of each sample.
    pub(crate) fn add_squares(&self, vector: &[f32], sums: &mut [f64]) {
        self.add_products(vector, vector, sums);
    }

    /// [`elementwise::combine`] of tensors, with a step for each sample if there is one.
    pub(crate) fn combine(&self, sum: &[f32], combine: Combine<'_>, out: &mut [f32]) {
        let (Layout::Channels(images), Some(step)) = (self.layout, combine.step) else {
            return elementwise::combine(self.level, sum, combine, out);
        };
        let len = (out.len() / images).max(1);
        for (image, out) in out.chunks_exact_mut(len).enumerate() {
            let place = image * len..(image + 1) * len;
            let other = if combine.gamma == 0.0 { combine.other } else { &combine.other[place.clone()] };
            let combine = Combine { other, step: Some(&step[image..=image]), ..combine };
            elementwise::combine(self.level, &sum[place], combine, out);
        }
    }

    /// A step of a vector, whose size is each sample's own: `out += step sum`.
    pub(crate) fn add_steps(&self, sum: &[f32], step: &[f32], out: &mut [f32]) {
        for tensor in self.tensors(out.len()) {
            let combine = Combine { step: Some(step), ..Combine::default() };
            self.combine(&sum[tensor.clone()], combine, &mut out[tensor]);
        }
    }
}
