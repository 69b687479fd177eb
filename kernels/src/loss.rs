//! Losses with an image in every lane: outputs are `[outputs][LANES]`.
//!
//! Each gives the loss of every lane, unscaled, and the gradient times `scale`.

use crate::level::Level;
use crate::math::exp;
use crate::simd::{Kernel, MAX_LANES, Simd, dispatch};

/// Softmax cross-entropy of the outputs `y + d`: `error = scale (softmax - one-hot)`, and per lane
/// log(sum of e^output) - output at the label.
///
/// `labels` holds the class of each lane as an f32; a lane with a negative label gets error and
/// loss 0. At the label the gradient is minus the sum of the other probabilities, which does not
/// cancel as p - 1 would.
///
/// # Panics
/// If the lengths do not fit the level's lanes.
pub fn cross_entropy(
    level: Level,
    y: &[f32],
    d: &[f32],
    labels: &[f32],
    scale: f32,
    error: &mut [f32],
    loss: &mut [f64],
) {
    struct CrossEntropy<'a> {
        y: &'a [f32],
        d: &'a [f32],
        labels: &'a [f32],
        scale: f32,
        error: &'a mut [f32],
        loss: &'a mut [f64],
    }
    impl Kernel for CrossEntropy<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let classes = check(S::LANES, self.y, self.d, self.error, self.loss);
            assert!(self.labels.len() == S::LANES, "{} labels for {} lanes", self.labels.len(), S::LANES);
            let output = |class: usize| {
                let at = class * S::LANES;
                // SAFETY: `check` found classes x LANES elements in both.
                unsafe { s.add(s.load(self.y.as_ptr().add(at)), s.load(self.d.as_ptr().add(at))) }
            };
            // SAFETY: LANES labels, by the assertion above.
            let label = unsafe { s.load(self.labels.as_ptr()) };
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
            let weight = s.select(used, s.div(s.splat(self.scale), total), zero);
            for class in 0..classes {
                let e = exp(s, s.sub(output(class), largest));
                let e = s.select(at_label(class), s.neg(others), e);
                let error = s.select(used, s.mul(e, weight), zero);
                // SAFETY: `check` found classes x LANES elements.
                unsafe { s.store(self.error.as_mut_ptr().add(class * S::LANES), error) };
            }
            let [largest, chosen, others, own] = [largest, chosen, others, own].map(|v| {
                let mut lanes = [0.0; MAX_LANES];
                // SAFETY: MAX_LANES >= LANES elements.
                unsafe { s.store(lanes.as_mut_ptr(), v) };
                lanes
            });
            for (lane, loss) in self.loss.iter_mut().enumerate() {
                let (others, own) = (f64::from(others[lane]), f64::from(own[lane]));
                *loss = if self.labels[lane] < 0.0 {
                    0.0
                } else if own == 1.0 {
                    others.ln_1p()
                } else {
                    f64::from(largest[lane]) - f64::from(chosen[lane]) + (others + own).ln()
                };
            }
        }
    }
    dispatch(level, CrossEntropy { y, d, labels, scale, error, loss });
}

/// Squared error of the outputs `y + d`: `error = 2 scale (y + d - target)`, and per lane the sum
/// of squares. Lanes from `lanes_used` on get error and loss 0.
///
/// # Panics
/// If the lengths do not fit the level's lanes.
#[expect(clippy::too_many_arguments, reason = "the outputs in two parts, the targets, and two results")]
pub fn squared_error(
    level: Level,
    y: &[f32],
    d: &[f32],
    target: &[f32],
    lanes_used: usize,
    scale: f32,
    error: &mut [f32],
    loss: &mut [f64],
) {
    struct SquaredError<'a> {
        y: &'a [f32],
        d: &'a [f32],
        target: &'a [f32],
        lanes_used: usize,
        scale: f32,
        error: &'a mut [f32],
        loss: &'a mut [f64],
    }
    impl Kernel for SquaredError<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let outputs = check(S::LANES, self.y, self.d, self.error, self.loss);
            assert!(self.target.len() == self.y.len(), "{} targets for {} outputs", self.target.len(), self.y.len());
            self.loss.fill(0.0);
            let mut lanes = [0.0f32; MAX_LANES];
            for at in (0..outputs).map(|i| i * S::LANES) {
                // SAFETY: `check` and the assertion found outputs x LANES elements in each; MAX_LANES >= LANES.
                unsafe {
                    let (y, target) = (s.load(self.y.as_ptr().add(at)), s.load(self.target.as_ptr().add(at)));
                    let difference = s.add(s.sub(y, target), s.load(self.d.as_ptr().add(at)));
                    s.store(lanes.as_mut_ptr(), difference);
                    s.store(self.error.as_mut_ptr().add(at), s.mul(s.splat(2.0 * self.scale), difference));
                }
                for (loss, &difference) in self.loss[..self.lanes_used].iter_mut().zip(&lanes) {
                    *loss += f64::from(difference) * f64::from(difference);
                }
                self.error[at + self.lanes_used..at + S::LANES].fill(0.0);
            }
        }
    }
    dispatch(level, SquaredError { y, d, target, lanes_used, scale, error, loss });
}

/// The number of outputs.
#[inline(always)]
fn check(lanes: usize, y: &[f32], d: &[f32], error: &[f32], loss: &[f64]) -> usize {
    assert!(
        y.len().is_multiple_of(lanes) && d.len() == y.len() && error.len() == y.len() && loss.len() == lanes,
        "lengths do not fit {lanes} lanes: outputs {}, deviations {}, errors {}, losses {}",
        y.len(),
        d.len(),
        error.len(),
        loss.len()
    );
    y.len() / lanes
}
