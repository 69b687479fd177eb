//! Passes over elements.

use crate::combine::Combine;
use crate::level::Level;
use crate::simd::{Kernel, Simd, dispatch, lanes};

/// `out = alpha sum + beta out + gamma other` over a tile, or a step by that.
///
/// ```
/// use predictive_coding_kernels::{Combine, Level, elementwise, lanes};
///
/// let level = Level::detect();
/// let (sum, mut out) = (vec![3.0; lanes(level)], vec![1.0; lanes(level)]);
/// let halved = Combine { alpha: 0.5, beta: 2.0, ..Combine::default() };
/// elementwise::combine(level, &sum, halved, &mut out);
/// assert!(out.iter().all(|&x| x == 3.5));
/// ```
///
/// # Panics
/// If the lengths differ or are not whole vectors, there is a bias, or a step with a number of factors that is neither
/// 1 nor whole vectors: the operands are a tile with images across the lanes, or one image.
pub fn combine(level: Level, sum: &[f32], combine: Combine<'_>, out: &mut [f32]) {
    assert!(combine.bias.is_none(), "elements have no channel to take a bias from");
    combine_vectors(level, sum, combine, out);
}

/// As [`combine`], with a bias for each of the first elements, if any.
pub(crate) fn combine_vectors(level: Level, sum: &[f32], combine: Combine<'_>, out: &mut [f32]) {
    struct Combination<'a> {
        sum: &'a [f32],
        combine: Combine<'a>,
        out: &'a mut [f32],
    }
    impl Kernel for Combination<'_> {
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let Combination { sum, combine: Combine { alpha, beta, gamma, other, step, bias }, out } = self;
            assert!(sum.len().is_multiple_of(S::LANES), "{} elements for {} lanes", sum.len(), S::LANES);
            let [alpha, beta_lanes, gamma_lanes] = [alpha, beta, gamma].map(|factor| s.splat(factor));
            let (sum, other, out) = (sum.as_ptr(), other.as_ptr(), out.as_mut_ptr());
            let mut image = 0;
            for at in (0..self.sum.len()).step_by(S::LANES) {
                // SAFETY: a whole vector from `at` is inside every operand: their lengths are equal or they are not read;
                // so is one from `image` in the step.
                unsafe {
                    let mut v = s.mul(alpha, s.load(sum.add(at)));
                    if let Some(bias) = bias.and_then(|bias| bias.get(at..)) {
                        v = s.add(v, s.load_first(bias.as_ptr(), bias.len().min(S::LANES)));
                    }
                    if gamma != 0.0 {
                        v = s.fma(gamma_lanes, s.load(other.add(at)), v);
                    }
                    if beta != 0.0 {
                        v = s.fma(beta_lanes, s.load(out.add(at)), v);
                    }
                    match step {
                        None => {}
                        Some(&[step]) => v = s.fma(s.splat(step), v, s.load(out.add(at))),
                        Some(step) => {
                            v = s.fma(s.load(step.as_ptr().add(image)), v, s.load(out.add(at)));
                            image = if image + S::LANES < step.len() { image + S::LANES } else { 0 };
                        }
                    }
                    s.store(out.add(at), v);
                }
            }
        }
    }
    let (lanes, len, other, step) =
        (lanes(level), out.len(), combine.other.len(), combine.step.map_or(1, <[f32]>::len));
    assert!(sum.len() == len, "lengths differ: {}, output {len}", sum.len());
    assert!(combine.gamma == 0.0 || other == len, "lengths differ: third operand {other}, output {len}");
    assert!(step == 1 || (step > 0 && step.is_multiple_of(lanes)), "{step} factors for {lanes} lanes");
    dispatch(level, Combination { sum, combine, out });
}

/// `out += a`, element by element.
///
/// ```
/// let mut out = [1.0, 2.0];
/// predictive_coding_kernels::elementwise::accumulate(predictive_coding_kernels::Level::PORTABLE, &[0.5, 0.5], &mut out);
/// assert_eq!(out, [1.5, 2.5]);
/// ```
///
/// # Panics
/// If the lengths differ.
pub fn accumulate(level: Level, a: &[f32], out: &mut [f32]) {
    struct Accumulate<'a>(&'a [f32], &'a mut [f32]);
    impl Kernel for Accumulate<'_> {
        #[inline(always)]
        fn run<S: Simd>(self, _: S) {
            self.1.iter_mut().zip(self.0).for_each(|(out, a)| *out += a);
        }
    }
    assert!(a.len() == out.len(), "lengths differ: {}, output {}", a.len(), out.len());
    dispatch(level, Accumulate(a, out));
}
