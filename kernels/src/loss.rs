//! Losses of the outputs of a tile.
//!
//! Each gives the loss of every image, unscaled, and the gradient times `scale`.

use crate::layout::Layout;
use crate::level::Level;
use crate::math::exp;
use crate::reduce::elements;
use crate::simd::{Kernel, MAX_LANES, Simd, dispatch};

/// How the outputs of a tile lie: channels and pixels of an image, all of which are outputs.
///
/// ```
/// use predictive_coding_kernels::loss::Outputs;
/// use predictive_coding_kernels::{Layout, Level};
///
/// let (level, layout, image) = (Level::detect(), Layout::Channels(1), [2, 1]);
/// let outputs = Outputs { level, layout, image };
/// let tile = vec![0.0; layout.len(level, image)];
/// let (mut error, mut loss) = (tile.clone(), [0.0]);
/// outputs.cross_entropy(&tile, &tile, &[1.0], 1.0, &mut error, &mut loss);
/// assert!((loss[0] - 2f64.ln()).abs() < 1e-6 && (error[0] - 0.5).abs() < 1e-6);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Outputs {
    /// The level whose vectors they lie in.
    pub level: Level,
    /// What the lanes are.
    pub layout: Layout,
    /// Channels and pixels of an image.
    pub image: [usize; 2],
}

impl Outputs {
    /// Where the outputs of an image lie, in their order.
    ///
    /// # Panics
    /// If the tile has no such image.
    pub fn places(&self, image: usize) -> impl Iterator<Item = usize> + Clone {
        self.layout.places(self.level, self.image, image)
    }

    /// # Panics
    /// If the outputs, deviations or errors do not fill a tile, or there is not a loss for each image.
    fn check(&self, y: &[f32], d: &[f32], error: &[f32], loss: &[f64]) {
        let (len, images) = (self.layout.len(self.level, self.image), self.layout.images(self.level));
        let found @ [outputs, deviations, errors, losses] = [y.len(), d.len(), error.len(), loss.len()];
        assert!(
            found == [len, len, len, images],
            "lengths do not fit a tile of {len} elements and {images} images: outputs {outputs}, deviations \
             {deviations}, errors {errors}, losses {losses}"
        );
    }

    /// Softmax cross-entropy of the outputs `y + d`: `error = scale (softmax - one-hot)`, and per image
    /// log(sum of e^output) - output at the label.
    ///
    /// `labels` holds the class of each image as an f32; one with a negative label gets error and loss 0. At the label
    /// the gradient is minus the sum of the other probabilities, which does not cancel as p - 1 would.
    ///
    /// # Panics
    /// If the lengths do not fit a tile.
    pub fn cross_entropy(&self, y: &[f32], d: &[f32], labels: &[f32], scale: f32, error: &mut [f32], loss: &mut [f64]) {
        self.check(y, d, error, loss);
        assert!(labels.len() == loss.len(), "{} labels for {} images", labels.len(), loss.len());
        match self.layout {
            Layout::Images | Layout::Batch(_) => {
                dispatch(self.level, CrossEntropy { y, d, labels, scale, error, loss });
            }
            Layout::Channels(_) => {
                error.fill(0.0);
                for (image, (loss, &label)) in loss.iter_mut().zip(labels).enumerate() {
                    *loss = cross_entropy_of_one([y, d], label, scale, error, self.places(image));
                }
            }
        }
    }

    /// Squared error of the outputs `y + d`: `error = 2 scale (y + d - target)`, and per image the sum
    /// of squares. Images from `images` on get error and loss 0.
    ///
    /// # Panics
    /// If the lengths do not fit a tile.
    #[expect(clippy::too_many_arguments, reason = "the outputs in two parts, the targets, and two results")]
    pub fn squared_error(
        &self,
        y: &[f32],
        d: &[f32],
        target: &[f32],
        images: usize,
        scale: f32,
        error: &mut [f32],
        loss: &mut [f64],
    ) {
        self.check(y, d, error, loss);
        assert!(target.len() == y.len(), "{} targets for {} outputs", target.len(), y.len());
        match self.layout {
            Layout::Images | Layout::Batch(_) => {
                dispatch(self.level, SquaredError { y, d, target, images, scale, error, loss });
            }
            Layout::Channels(_) => {
                error.fill(0.0);
                loss.fill(0.0);
                for (image, loss) in loss.iter_mut().enumerate().take(images) {
                    for i in self.places(image) {
                        let difference = (y[i] - target[i]) + d[i];
                        error[i] = 2.0 * scale * difference;
                        *loss += f64::from(difference) * f64::from(difference);
                    }
                }
            }
        }
    }
}

/// The cross-entropy of an image in every lane of a tile, whose lengths are checked.
struct CrossEntropy<'a> {
    y: &'a [f32],
    d: &'a [f32],
    labels: &'a [f32],
    scale: f32,
    error: &'a mut [f32],
    loss: &'a mut [f64],
}

/// The error of one image, whose outputs lie at these places, where it is 0 before; returns the loss.
fn cross_entropy_of_one(
    [y, d]: [&[f32]; 2],
    label: f32,
    scale: f32,
    error: &mut [f32],
    places: impl Iterator<Item = usize> + Clone,
) -> f64 {
    if label < 0.0 {
        return 0.0;
    }
    let output = |i: usize| f64::from(y[i]) + f64::from(d[i]);
    let chosen = places.clone().nth(label as usize).expect("a label is one of the outputs");
    let largest = places.clone().map(output).fold(f64::NEG_INFINITY, f64::max);
    // All terms but the label's.
    let mut others = 0.0;
    for i in places.clone().filter(|&i| i != chosen) {
        let e = (output(i) - largest).exp();
        error[i] = e as f32;
        others += e;
    }
    let own = (output(chosen) - largest).exp();
    let weight = f64::from(scale) / (others + own);
    places.for_each(|i| error[i] = (f64::from(error[i]) * weight) as f32);
    error[chosen] = (-others * weight) as f32;
    if own == 1.0 { others.ln_1p() } else { largest - output(chosen) + (others + own).ln() }
}

impl Kernel for CrossEntropy<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let CrossEntropy { y, d, labels, scale, error, loss } = self;
        let images = loss.len();
        let classes = y.len() / images;
        for first in (0..images).step_by(S::LANES) {
            let output = |class: usize| {
                let at = class * images + first;
                // SAFETY: both have classes x images elements.
                unsafe { s.add(s.load(y.as_ptr().add(at)), s.load(d.as_ptr().add(at))) }
            };
            // SAFETY: there is a label for each image.
            let label = unsafe { s.load(labels.as_ptr().add(first)) };
            let at_label = |class: usize| s.eq(label, s.splat(class as f32));
            let zero = s.splat(0.0);
            let (mut largest, mut chosen) = (s.splat(f32::NEG_INFINITY), zero);
            for class in 0..classes {
                let y = output(class);
                largest = s.max(largest, y);
                chosen = s.select(at_label(class), y, chosen);
            }
            // Two sums: all but the label's term, and the label's.
            let (mut others, mut own) = (zero, zero);
            for class in 0..classes {
                let e = exp(s, s.sub(output(class), largest));
                others = s.add(others, s.select(at_label(class), zero, e));
                own = s.select(at_label(class), e, own);
            }
            let total = s.add(others, own);
            let used = s.lt(s.splat(-0.5), label);
            let weight = s.select(used, s.div(s.splat(scale), total), zero);
            for class in 0..classes {
                let e = exp(s, s.sub(output(class), largest));
                let e = s.select(at_label(class), s.neg(others), e);
                let of_class = s.select(used, s.mul(e, weight), zero);
                // SAFETY: there are classes x images elements.
                unsafe { s.store(error.as_mut_ptr().add(class * images + first), of_class) };
            }
            let [largest, chosen, others, own] = [largest, chosen, others, own].map(|v| elements(s, v));
            for (lane, loss) in loss[first..][..S::LANES].iter_mut().enumerate() {
                let (others, own) = (f64::from(others[lane]), f64::from(own[lane]));
                *loss = if labels[first + lane] < 0.0 {
                    0.0
                } else if own == 1.0 {
                    others.ln_1p()
                } else {
                    f64::from(largest[lane]) - f64::from(chosen[lane]) + (others + own).ln()
                };
            }
        }
    }
}

/// The squared error of an image in every lane. All lengths are those of a tile.
struct SquaredError<'a> {
    y: &'a [f32],
    d: &'a [f32],
    target: &'a [f32],
    images: usize,
    scale: f32,
    error: &'a mut [f32],
    loss: &'a mut [f64],
}

impl Kernel for SquaredError<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let SquaredError { y, d, target, images: used, scale, error, loss } = self;
        let images = loss.len();
        loss.fill(0.0);
        let mut lanes = [0.0f32; MAX_LANES];
        for at in (0..y.len()).step_by(S::LANES) {
            // SAFETY: the lengths are equal, and whole vectors; MAX_LANES >= LANES.
            unsafe {
                let (y, target) = (s.load(y.as_ptr().add(at)), s.load(target.as_ptr().add(at)));
                let difference = s.add(s.sub(y, target), s.load(d.as_ptr().add(at)));
                s.store(lanes.as_mut_ptr(), difference);
                s.store(error.as_mut_ptr().add(at), s.mul(s.splat(2.0 * scale), difference));
            }
            let first = at % images;
            let used = used.saturating_sub(first).min(S::LANES);
            for (loss, &difference) in loss[first..first + used].iter_mut().zip(&lanes) {
                *loss += f64::from(difference) * f64::from(difference);
            }
            error[at + used..at + S::LANES].fill(0.0);
        }
    }
}
