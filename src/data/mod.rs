//! Labelled images: the data sets, and batches of them.

mod cifar10;
mod digits;
mod idx;
mod source;

pub use idx::IdxFiles;
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::batch::BatchTargets;
use crate::error::{Error, Result};
use crate::loss::Targets;

/// Images of one shape, or samples of any kind, each with a class or with values as its target.
///
/// ```
/// use predictive_coding::Dataset;
/// use predictive_coding::data::epoch_rng;
///
/// let (train, test) = Dataset::digits();
/// assert_eq!((train.shape(), test.classes()), (&[1, 8, 8][..], 10));
/// let batch = train.batches(64, &mut epoch_rng(1, 1)).next().unwrap();
/// assert_eq!((batch.samples(), batch.x.len()), (64, 64 * 64));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    images: Vec<f32>,
    targets: BatchTargets,
    shape: Vec<usize>,
    /// Classes, or values of each target.
    classes: usize,
}

/// Some samples of a [`Dataset`].
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// `[samples, image shape]`.
    pub x: Vec<f32>,
    /// A target for each sample.
    pub y: BatchTargets,
    samples: usize,
}

impl Batch {
    /// Number of samples, at least 1.
    pub fn samples(&self) -> usize {
        self.samples
    }
}

impl Dataset {
    /// `images` is `[labels.len(), shape]`; labels are in `0..classes`.
    ///
    /// # Errors
    /// [`Error::Input`] if sizes or labels do not fit, or there is no image.
    pub fn new(images: Vec<f32>, labels: Vec<i64>, shape: &[usize], classes: usize) -> Result<Self> {
        check_images(images.len(), labels.len(), shape)?;
        if let Some((i, label)) = labels.iter().enumerate().find(|&(_, &y)| y < 0 || y as usize >= classes) {
            return Err(Error::Input(format!(
                "label {label} of image {i} is out of range, expected 0..={}",
                classes.saturating_sub(1)
            )));
        }
        Ok(Dataset { images, targets: BatchTargets::Labels(labels), shape: shape.to_vec(), classes })
    }

    /// Samples `[len, shape]` with targets `[len, outputs]`.
    ///
    /// # Errors
    /// [`Error::Input`] if sizes do not fit, or there is no sample.
    pub fn with_values(images: Vec<f32>, values: Vec<f32>, shape: &[usize], outputs: usize) -> Result<Self> {
        let samples = values.len() / outputs.max(1);
        check_images(images.len(), samples, shape)?;
        if values.len() != samples * outputs {
            return Err(Error::Input(format!("found {} target values, expected {samples} x {outputs}", values.len())));
        }
        Ok(Dataset { images, targets: BatchTargets::Values(values), shape: shape.to_vec(), classes: outputs })
    }

    /// The first `count` samples, or all if there are fewer.
    ///
    /// # Panics
    /// If `count` is 0.
    pub fn first(&self, count: usize) -> Dataset {
        assert!(count > 0, "the first 0 samples were asked for, expected at least 1");
        let count = count.min(self.len());
        let targets = match &self.targets {
            BatchTargets::Labels(labels) => BatchTargets::Labels(labels[..count].to_vec()),
            BatchTargets::Values(values) => BatchTargets::Values(values[..count * self.classes].to_vec()),
        };
        let images = self.images[..count * self.pixels()].to_vec();
        Dataset { images, targets, shape: self.shape.clone(), classes: self.classes }
    }

    /// Every pixel, `[len, shape]`.
    pub fn images(&self) -> &[f32] {
        &self.images
    }

    /// The class or the values of each sample.
    pub fn targets(&self) -> &BatchTargets {
        &self.targets
    }

    /// The class of each image; empty if the targets are values.
    pub fn labels(&self) -> &[i64] {
        match &self.targets {
            BatchTargets::Labels(labels) => labels,
            BatchTargets::Values(_) => &[],
        }
    }

    fn pixels(&self) -> usize {
        self.shape.iter().product()
    }

    /// The shape of an image, `[channels, height, width]` for the data sets here.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of classes, or of values of each target.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Number of images, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "a data set is never empty")]
    pub fn len(&self) -> usize {
        self.images.len() / self.pixels()
    }

    /// The CRC-32 of shape, images and labels as eight hexadecimal digits, to tell data sets apart.
    pub fn checksum(&self) -> String {
        const BLOCK: usize = 1 << 14;
        let mut hasher = crc32fast::Hasher::new();
        self.shape.iter().chain([&self.classes]).for_each(|&size| hasher.update(&(size as u64).to_le_bytes()));
        let mut bytes = Vec::with_capacity(BLOCK * size_of::<f32>());
        let mut add = |values: &[f32]| {
            for block in values.chunks(BLOCK) {
                bytes.clear();
                bytes.extend(block.iter().flat_map(|value| value.to_le_bytes()));
                hasher.update(&bytes);
            }
        };
        add(&self.images);
        match &self.targets {
            BatchTargets::Labels(labels) => labels.iter().for_each(|label| hasher.update(&label.to_le_bytes())),
            BatchTargets::Values(values) => add(values),
        }
        format!("{:08x}", hasher.finalize())
    }

    /// The images in a random order (all orders are equally likely), in batches of `size`. The last batch may be smaller.
    ///
    /// # Panics
    /// If `size` is 0.
    pub fn batches(&self, size: usize, rng: &mut (impl Rng + ?Sized)) -> Batches<'_> {
        assert!(size > 0, "batches of 0 samples, expected at least 1");
        Batches { dataset: self, order: self.order(rng), size, next: 0 }
    }

    /// The indices of all samples, with even odds for every order: those of [`batches`](Self::batches).
    pub fn order(&self, rng: &mut (impl Rng + ?Sized)) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.shuffle(rng);
        order
    }

    /// The samples of these indices.
    ///
    /// # Panics
    /// If there is no such sample.
    pub fn select(&self, samples: &[usize]) -> Batch {
        let rows = |of: &[f32], len: usize| {
            let mut rows = Vec::with_capacity(samples.len() * len);
            samples.iter().for_each(|&i| rows.extend_from_slice(&of[i * len..(i + 1) * len]));
            rows
        };
        let y = match &self.targets {
            BatchTargets::Labels(labels) => BatchTargets::Labels(samples.iter().map(|&i| labels[i]).collect()),
            BatchTargets::Values(values) => BatchTargets::Values(rows(values, self.classes)),
        };
        Batch { x: rows(&self.images, self.pixels()), y, samples: samples.len() }
    }

    /// The images in the order of the data set, in chunks of `size`: pixels and targets. The last chunk may be smaller.
    ///
    /// # Panics
    /// If `size` is 0.
    pub fn chunks(&self, size: usize) -> impl Iterator<Item = (&[f32], Targets<'_>)> {
        let targets = |first: usize, count: usize| match &self.targets {
            BatchTargets::Labels(labels) => Targets::Labels(&labels[first..first + count]),
            BatchTargets::Values(values) => {
                Targets::Values(&values[first * self.classes..(first + count) * self.classes])
            }
        };
        let chunks = self.images.chunks(size * self.pixels()).zip((0..).step_by(size));
        chunks.map(move |(images, first)| (images, targets(first, images.len() / self.pixels())))
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
        chosen.map(|chosen| self.dataset.select(chosen))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.order.len().saturating_sub(self.next).div_ceil(self.size);
        (left, Some(left))
    }
}

impl ExactSizeIterator for Batches<'_> {}

/// The random generator for the order of samples in epoch `epoch` (from 1). It depends only on the two arguments, so a run
/// that continues from a checkpoint sees the same batches as one that was never stopped. See [`Dataset`] for an example.
pub fn epoch_rng(seed: u64, epoch: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(epoch);
    rng
}

/// Refuses images that are not as many as their targets.
fn check_images(pixels: usize, targets: usize, shape: &[usize]) -> Result<()> {
    let of_image: usize = shape.iter().product();
    if targets == 0 || of_image == 0 {
        return Err(Error::Input(format!(
            "found {targets} images of shape {shape:?}, expected at least one image with at least one pixel"
        )));
    }
    if pixels != targets * of_image {
        return Err(Error::Input(format!(
            "found {pixels} pixels, expected {targets} images x {of_image} pixels of shape {shape:?}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(batch: &Batch) -> &[i64] {
        let BatchTargets::Labels(labels) = &batch.y else { panic!("{batch:?} has no labels") };
        labels
    }

    fn numbered(len: usize) -> Dataset {
        let images = (0..len).flat_map(|i| [i as f32, i as f32 + 0.5]).collect();
        Dataset::new(images, (0..len as i64).collect(), &[1, 1, 2], len).unwrap()
    }

    #[test]
    fn every_image_comes_once_with_its_label_and_the_last_batch_is_kept() {
        let dataset = numbered(10);
        let batches: Vec<Batch> = dataset.batches(4, &mut epoch_rng(3, 1)).collect();
        assert_eq!(batches.iter().map(|batch| batch.samples()).collect::<Vec<_>>(), [4, 4, 2]);
        let mut seen: Vec<i64> = batches.iter().flat_map(|batch| labels(batch).to_vec()).collect();
        assert_ne!(seen, (0..10).collect::<Vec<_>>());
        seen.sort_unstable();
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
        for batch in &batches {
            let expected: Vec<f32> = labels(batch).iter().flat_map(|&i| [i as f32, i as f32 + 0.5]).collect();
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
        assert_eq!(chunks[1], (&[2.0, 2.5, 3.0, 3.5][..], Targets::Labels(&[2, 3])));
        assert_eq!(chunks[2], (&[4.0, 4.5][..], Targets::Labels(&[4])));
    }

    #[test]
    fn values_come_with_their_samples() {
        let values: Vec<f32> = (0..10).map(|i| i as f32).collect();
        let dataset = Dataset::with_values(values.clone(), values[..5].repeat(3), &[2], 3).unwrap();
        assert_eq!((dataset.len(), dataset.labels()), (5, &[][..]));
        let chunks: Vec<_> = dataset.first(3).chunks(2).map(|(x, y)| (x.to_vec(), format!("{y:?}"))).collect();
        assert_eq!(chunks[1], (vec![4.0, 5.0], "Values([1.0, 2.0, 3.0])".into()));
        for batch in dataset.batches(2, &mut epoch_rng(1, 1)) {
            let BatchTargets::Values(y) = batch.y else { panic!("values were given") };
            for (x, y) in batch.x.chunks(2).zip(y.chunks(3)) {
                let sample = (x[0] / 2.0) as usize;
                assert_eq!(y, &values[..5].repeat(3)[3 * sample..3 * sample + 3]);
            }
        }
        let message = Dataset::with_values(vec![0.0; 4], vec![0.0; 5], &[2], 2).unwrap_err().to_string();
        assert!(message.contains("5 target values"), "{message}");
    }

    #[test]
    fn data_that_does_not_fit_is_refused() {
        let message = |images, labels: &[i64], classes| {
            Dataset::new(images, labels.to_vec(), &[2], classes).unwrap_err().to_string()
        };
        assert!(message(vec![], &[], 2).starts_with("found 0 images"));
        assert!(message(vec![0.0; 3], &[0, 1], 2).starts_with("found 3 pixels, expected 2 images x 2 pixels"));
        assert!(message(vec![0.0; 4], &[0, 2], 2).starts_with("label 2 of image 1 is out of range, expected 0..=1"));
        assert!(message(vec![0.0; 4], &[-1, 0], 2).starts_with("label -1 of image 0"));
    }
}
