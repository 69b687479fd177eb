//! Dropout: a mask m for each step, y = m x, where m is 0 with probability p, and 1 / (1 - p) else.
//!
//! The mask of a sample is what a generator draws whose seed is made of the seed, the step, the operation and the sample:
//! it is the same for any layout and any number of threads. It stays for all iterations of a step.

use std::ops::Range;

use predictive_coding_kernels::{Layout, Level};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// The seed and the step that masks are drawn for.
pub(crate) type Draw = [u64; 2];

/// A dropout of a plan.
#[derive(Debug)]
pub(crate) struct Dropout {
    p: f64,
    /// Which of the network's it is.
    number: u64,
    /// Channels and pixels.
    image: [usize; 2],
    /// Place of the mask among the values inside of layers, before that of the result.
    pub(crate) mask: Range<usize>,
}

impl Dropout {
    pub(crate) fn new(p: f64, number: u64, image: [usize; 2], mask: Range<usize>) -> Self {
        Dropout { p, number, image, mask }
    }

    pub(crate) fn len(&self) -> usize {
        self.mask.len()
    }

    /// The mask of some samples of a tile: 1 where none is drawn.
    pub(crate) fn fill(
        &self,
        (level, layout): (Level, Layout),
        draw: Option<Draw>,
        samples: Range<usize>,
        mask: &mut [f32],
    ) {
        mask.fill(1.0);
        let Some([seed, step]) = draw else { return };
        let (share, kept) = (self.p * 2f64.powi(32), (1.0 / (1.0 - self.p)) as f32);
        for (image, sample) in samples.enumerate() {
            let mut key = [0; 32];
            let words = [seed, step, self.number, sample as u64];
            key.chunks_exact_mut(8).zip(words).for_each(|(to, word)| to.copy_from_slice(&word.to_le_bytes()));
            let mut rng = ChaCha8Rng::from_seed(key);
            for place in layout.places(level, self.image, image) {
                mask[place] = if f64::from(rng.next_u32()) < share { 0.0 } else { kept };
            }
        }
    }
}

/// `out` = `mask` x.
pub(crate) fn masked(mask: &[f32], x: &[f32], out: &mut [f32]) {
    out.iter_mut().zip(mask.iter().zip(x)).for_each(|(out, (mask, x))| *out = mask * x);
}
