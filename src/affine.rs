//! Scales and shifts behind a normalisation: y = w x + b, element by element or channel by channel.
//!
//! They are packed as they lie in a tile, once for all iterations. Gradients are summed as they lie there too.

use std::ops::Range;

use predictive_coding_kernels::{Layout, Level, reduce};

use crate::parameters::ParametersView;

/// What scales and shifts are made of, at these places in the parameters.
#[derive(Clone, Debug)]
pub(crate) enum Scales {
    /// The parameters w and, if there is one, b.
    Trained { weight: Range<usize>, bias: Option<Range<usize>> },
    /// w = 1 / sqrt(variance + eps) and b = -w mean, of batches that have gone by.
    Running { mean: Range<usize>, variance: Range<usize>, eps: f64 },
}

/// y = w x + b on a tile.
#[derive(Debug)]
pub(crate) struct Affine {
    level: Level,
    layout: Layout,
    /// Channels and pixels.
    image: [usize; 2],
    pub(crate) scales: Scales,
    /// Place of w and then b among the packed weights.
    packed: Range<usize>,
    /// Places of the gradients among the partial gradients.
    partial: Range<usize>,
}

impl Affine {
    /// `packed` and `partial` reserve places among the packed weights and the partial gradients.
    pub(crate) fn new(
        level: Level,
        layout: Layout,
        image: [usize; 2],
        scales: Scales,
        packed: impl FnOnce(usize) -> Range<usize>,
        partial: impl FnOnce(usize) -> Range<usize>,
    ) -> Self {
        let len = layout.len(level, image);
        let gradients = match &scales {
            Scales::Trained { bias, .. } => 1 + usize::from(bias.is_some()),
            Scales::Running { .. } => 0,
        };
        Affine { level, layout, image, scales, packed: packed(2 * len), partial: partial(gradients * len) }
    }

    pub(crate) fn len(&self) -> usize {
        self.packed.len() / 2
    }

    pub(crate) fn is_trained(&self) -> bool {
        matches!(self.scales, Scales::Trained { .. })
    }

    /// Elements of a sample that share a value of a parameter.
    fn shared(&self, tensor: &Range<usize>) -> usize {
        self.image[0] * self.image[1] / tensor.len()
    }

    /// Packs w and b.
    pub(crate) fn pack(&self, parameters: ParametersView<'_>, packed: &mut [f32]) {
        let (w, b) = packed[self.packed.clone()].split_at_mut(self.len());
        match &self.scales {
            Scales::Trained { weight, bias } => {
                let values = parameters.at(weight);
                self.fill(w, self.shared(weight), |i| values[i]);
                if let Some(bias) = bias {
                    let values = parameters.at(bias);
                    self.fill(b, self.shared(bias), |i| values[i]);
                }
            }
            Scales::Running { mean, variance, eps } => {
                let shared = self.shared(mean);
                let (mean, variance) = (parameters.at(mean), parameters.at(variance));
                let scale = |i: usize| 1.0 / (f64::from(variance[i]) + eps).sqrt();
                self.fill(w, shared, |i| scale(i) as f32);
                self.fill(b, shared, |i| (-f64::from(mean[i]) * scale(i)) as f32);
            }
        }
    }

    fn fill(&self, tile: &mut [f32], shared: usize, value: impl Fn(usize) -> f32) {
        for sample in 0..self.layout.images(self.level) {
            for (i, place) in self.layout.places(self.level, self.image, sample).enumerate() {
                tile[place] = value(i / shared);
            }
        }
    }

    /// w and b of packed weights.
    fn unpacked<'a>(&self, packed: &'a [f32]) -> (&'a [f32], &'a [f32]) {
        packed[self.packed.clone()].split_at(self.len())
    }

    /// `out` = w x + b.
    pub(crate) fn forward(&self, packed: &[f32], x: &[f32], out: &mut [f32]) {
        let (w, b) = self.unpacked(packed);
        out.iter_mut().zip(x).zip(w.iter().zip(b)).for_each(|((out, x), (w, b))| *out = w * x + b);
    }

    /// `out` = w x.
    pub(crate) fn scale(&self, packed: &[f32], x: &[f32], out: &mut [f32]) {
        let (w, _) = self.unpacked(packed);
        out.iter_mut().zip(x).zip(w).for_each(|((out, x), w)| *out = w * x);
    }

    /// `out` += w x + b.
    pub(crate) fn add(&self, packed: &[f32], x: &[f32], out: &mut [f32]) {
        let (w, b) = self.unpacked(packed);
        out.iter_mut().zip(x).zip(w.iter().zip(b)).for_each(|((out, x), (w, b))| *out += w * x + b);
    }

    /// Adds the gradients of w and b to the partial gradients.
    pub(crate) fn add_gradient(&self, gradient: &[f32], x: &[f32], partial: &mut [f32]) {
        let partial = &mut partial[self.partial.clone()];
        let (weight, bias) = partial.split_at_mut(self.len().min(partial.len()));
        weight.iter_mut().zip(gradient.iter().zip(x)).for_each(|(sum, (g, x))| *sum += g * x);
        bias.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g);
    }

    /// Puts `factor` times the partial gradients where the parameters' gradients lie.
    pub(crate) fn unpack_gradient(&self, partial: &[f32], factor: f32, gradients: &mut [f32]) {
        let Scales::Trained { weight, bias } = &self.scales else { return };
        let sums = partial[self.partial.clone()].chunks_exact(self.len());
        for (place, sums) in [Some(weight), bias.as_ref()].into_iter().flatten().zip(sums) {
            let out = &mut gradients[place.clone()];
            out.fill(0.0);
            match self.layout.is_channels() && place.len() != self.image[0] {
                true => {
                    for sample in 0..self.layout.images(self.level) {
                        let places = self.layout.places(self.level, self.image, sample);
                        places.enumerate().for_each(|(i, at)| out[i / self.shared(place)] += sums[at]);
                    }
                }
                false => reduce::add_channels(self.level, self.layout, sums, out),
            }
            out.iter_mut().for_each(|gradient| *gradient *= factor);
        }
    }
}
