//! Labelled images: the data sets, and batches of them.

mod cifar10;
mod digits;
mod idx;
mod source;

use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::error::{Error, Result};

/// Images of one shape with a class each.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    images: Vec<f32>,
    labels: Vec<i64>,
    shape: Vec<usize>,
    classes: usize,
}

/// Some samples of a [`Dataset`].
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// `[samples, image shape]`.
    pub x: Vec<f32>,
    /// `[samples]`.
    pub y: Vec<i64>,
}

impl Dataset {
    /// `images` is `[labels.len(), shape]`; labels are in `0..classes`.
    ///
    /// Errors: [`Error::Input`] if sizes or labels do not fit, or there is no image.
    pub fn new(images: Vec<f32>, labels: Vec<i64>, shape: &[usize], classes: usize) -> Result<Self> {
        let pixels: usize = shape.iter().product();
        if labels.is_empty() || pixels == 0 {
            return Err(Error::Input(format!(
                "{} images of shape {shape:?}, expected at least one with at least one pixel",
                labels.len()
            )));
        }
        if images.len() != labels.len() * pixels {
            return Err(Error::Input(format!(
                "{} pixels, expected {} images x {pixels} of shape {shape:?}",
                images.len(),
                labels.len()
            )));
        }
        if let Some((i, label)) = labels.iter().enumerate().find(|&(_, &y)| y < 0 || y as usize >= classes) {
            return Err(Error::Input(format!(
                "label {label} of image {i} is out of range, expected 0..={}",
                classes.saturating_sub(1)
            )));
        }
        Ok(Dataset { images, labels, shape: shape.to_vec(), classes })
    }

    /// Every pixel, `[len, shape]`.
    pub fn images(&self) -> &[f32] {
        &self.images
    }

    /// The class of each image.
    pub fn labels(&self) -> &[i64] {
        &self.labels
    }

    /// The shape of an image, `[channels, height, width]` for the data sets here.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Number of images, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "a data set is never empty")]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// The CRC-32 of shape, images and labels, as eight hexadecimal digits: what tells a data set from another.
    pub fn checksum(&self) -> String {
        const BLOCK: usize = 1 << 14;
        let mut hasher = crc32fast::Hasher::new();
        self.shape.iter().chain([&self.classes]).for_each(|&size| hasher.update(&(size as u64).to_le_bytes()));
        let mut bytes = Vec::with_capacity(BLOCK * size_of::<f32>());
        for block in self.images.chunks(BLOCK) {
            bytes.clear();
            bytes.extend(block.iter().flat_map(|pixel| pixel.to_le_bytes()));
            hasher.update(&bytes);
        }
        self.labels.iter().for_each(|label| hasher.update(&label.to_le_bytes()));
        format!("{:08x}", hasher.finalize())
    }

    /// The images with even odds for every order, cut into batches of `size`, the last of which may
    /// be smaller.
    ///
    /// # Panics
    /// If `size` is 0.
    pub fn batches(&self, size: usize, rng: &mut (impl Rng + ?Sized)) -> Batches<'_> {
        assert!(size > 0, "batches of 0 samples, expected at least 1");
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.shuffle(rng);
        Batches { dataset: self, order, size, next: 0 }
    }

    /// The images in their own order, `size` at a time, the last time maybe fewer: pixels and labels.
    ///
    /// # Panics
    /// If `size` is 0.
    pub fn chunks(&self, size: usize) -> impl Iterator<Item = (&[f32], &[i64])> {
        let pixels = self.images.len() / self.labels.len();
        self.images.chunks(size * pixels).zip(self.labels.chunks(size))
    }
}

/// The batches of one pass over a [`Dataset`]; skipping batches costs nothing.
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    dataset: &'a Dataset,
    order: Vec<usize>,
    size: usize,
    next: usize,
}

impl Iterator for Batches<'_> {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        self.nth(0)
    }

    fn nth(&mut self, skipped: usize) -> Option<Batch> {
        let remaining = self.order.get(self.next..).unwrap_or_default();
        let chosen = remaining.chunks(self.size).nth(skipped);
        self.next = self.next.saturating_add(self.size.saturating_mul(skipped.saturating_add(1)));
        let chosen = chosen?;
        let pixels = self.dataset.images.len() / self.dataset.len();
        let mut x = Vec::with_capacity(chosen.len() * pixels);
        for &i in chosen {
            x.extend_from_slice(&self.dataset.images[i * pixels..(i + 1) * pixels]);
        }
        Some(Batch { x, y: chosen.iter().map(|&i| self.dataset.labels[i]).collect() })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.order.len().saturating_sub(self.next).div_ceil(self.size);
        (left, Some(left))
    }
}

impl ExactSizeIterator for Batches<'_> {}

/// The generator that shuffles epoch `epoch` (from 1) of a run: a function of both numbers alone,
/// so that a run that goes on from a checkpoint sees the batches it would have seen.
pub fn epoch_rng(seed: u64, epoch: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(epoch);
    rng
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(len: usize) -> Dataset {
        let images = (0..len).flat_map(|i| [i as f32, i as f32 + 0.5]).collect();
        Dataset::new(images, (0..len as i64).collect(), &[1, 1, 2], len).unwrap()
    }

    #[test]
    fn every_image_comes_once_with_its_label_and_the_last_batch_is_kept() {
        let dataset = numbered(10);
        let batches: Vec<Batch> = dataset.batches(4, &mut epoch_rng(3, 1)).collect();
        assert_eq!(batches.iter().map(|batch| batch.y.len()).collect::<Vec<_>>(), [4, 4, 2]);
        let mut seen: Vec<i64> = batches.iter().flat_map(|batch| batch.y.clone()).collect();
        assert_ne!(seen, (0..10).collect::<Vec<_>>());
        seen.sort_unstable();
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
        for batch in &batches {
            let expected: Vec<f32> = batch.y.iter().flat_map(|&i| [i as f32, i as f32 + 0.5]).collect();
            assert_eq!(batch.x, expected);
        }
    }

    #[test]
    fn skipping_gives_the_same_batches() {
        let dataset = numbered(11);
        let all: Vec<Batch> = dataset.batches(3, &mut epoch_rng(3, 1)).collect();
        for skipped in 0..6 {
            let batches = dataset.batches(3, &mut epoch_rng(3, 1)).skip(skipped);
            assert_eq!(batches.len(), 4usize.saturating_sub(skipped));
            assert_eq!(batches.collect::<Vec<_>>(), all[skipped.min(4)..]);
        }
    }

    #[test]
    fn the_order_depends_on_seed_and_epoch_alone() {
        let dataset = numbered(50);
        let order = |seed, epoch| dataset.batches(50, &mut epoch_rng(seed, epoch)).next().unwrap().y;
        assert_eq!(order(1, 1), order(1, 1));
        assert_ne!(order(1, 1), order(1, 2));
        assert_ne!(order(1, 1), order(2, 1));
    }

    #[test]
    fn a_checksum_tells_data_sets_apart() {
        let data = |images: [f32; 4], labels: [i64; 2], shape: &[usize], classes| {
            Dataset::new(images.to_vec(), labels.to_vec(), shape, classes).unwrap().checksum()
        };
        let sums = [
            data([0.0, 1.0, 2.0, 3.0], [0, 1], &[1, 1, 2], 2),
            data([0.0, 1.0, 2.0, 3.5], [0, 1], &[1, 1, 2], 2),
            data([0.0, 1.0, 3.0, 2.0], [0, 1], &[1, 1, 2], 2),
            data([0.0, 1.0, 2.0, 3.0], [1, 0], &[1, 1, 2], 2),
            data([0.0, 1.0, 2.0, 3.0], [0, 1], &[1, 2, 1], 2),
            data([0.0, 1.0, 2.0, 3.0], [0, 1], &[1, 1, 2], 3),
        ];
        for (i, sum) in sums.iter().enumerate() {
            assert_eq!(sum.len(), 8);
            assert!(!sums[..i].contains(sum), "{i}");
        }
        let long = numbered(20_000);
        assert_eq!(long.checksum(), numbered(20_000).checksum());
        let mut images = long.images().to_vec();
        images[39_999] += 1.0;
        assert_ne!(
            Dataset::new(images, long.labels().to_vec(), &[1, 1, 2], 20_000).unwrap().checksum(),
            long.checksum()
        );
    }

    #[test]
    fn chunks_keep_the_order() {
        let dataset = numbered(5);
        let chunks: Vec<_> = dataset.chunks(2).collect();
        assert_eq!(chunks.len(), 3);
        assert_eq!(chunks[1], (&[2.0, 2.5, 3.0, 3.5][..], &[2, 3][..]));
        assert_eq!(chunks[2], (&[4.0, 4.5][..], &[4][..]));
    }

    #[test]
    fn data_that_does_not_fit_is_refused() {
        let message = |images, labels: &[i64], classes| {
            Dataset::new(images, labels.to_vec(), &[2], classes).unwrap_err().to_string()
        };
        assert!(message(vec![], &[], 2).starts_with("0 images"));
        assert!(message(vec![0.0; 3], &[0, 1], 2).starts_with("3 pixels, expected 2 images x 2"));
        assert!(message(vec![0.0; 4], &[0, 2], 2).starts_with("label 2 of image 1 is out of range, expected 0..=1"));
        assert!(message(vec![0.0; 4], &[-1, 0], 2).starts_with("label -1 of image 0"));
    }
}
