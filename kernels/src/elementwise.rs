//! Passes over elements.

use crate::combine::Combine;
use crate::level::Level;
use crate::microkernel::LinearEpilogue;
use crate::simd::{Kernel, Simd, dispatch};

/// `out[i] = f(a[i], b[i])`.
trait Binary: Copy {
    fn apply<S: Simd>(self, s: S, a: S::V, b: S::V) -> S::V;
}

struct Pass<'a, F> {
    f: F,
    a: &'a [f32],
    b: &'a [f32],
    out: &'a mut [f32],
}

impl<F: Binary> Kernel for Pass<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let len = self.out.len();
        let (a, b, out) = (self.a.as_ptr(), self.b.as_ptr(), self.out.as_mut_ptr());
        let mut i = 0;
        // SAFETY: i + LANES <= len, respectively n = len - i < LANES elements, of three slices of one length.
        unsafe {
            while i + S::LANES <= len {
                let v = self.f.apply(s, s.load(a.add(i)), s.load(b.add(i)));
                s.store(out.add(i), v);
                i += S::LANES;
            }
            let n = len - i;
            if n > 0 {
                let v = self.f.apply(s, s.load_first(a.add(i), n), s.load_first(b.add(i), n));
                s.store_first(out.add(i), v, n);
            }
        }
    }
}

fn pass<F: Binary>(level: Level, f: F, a: &[f32], b: &[f32], out: &mut [f32]) {
    assert!(
        a.len() == out.len() && b.len() == out.len(),
        "lengths differ: {}, {}, output {}",
        a.len(),
        b.len(),
        out.len()
    );
    dispatch(level, Pass { f, a, b, out });
}

/// `out = a + b`.
///
/// # Panics
/// If the lengths differ.
pub fn add(level: Level, a: &[f32], b: &[f32], out: &mut [f32]) {
    #[derive(Clone, Copy)]
    struct Add;
    impl Binary for Add {
        #[inline(always)]
        fn apply<S: Simd>(self, s: S, a: S::V, b: S::V) -> S::V {
            s.add(a, b)
        }
    }
    pass(level, Add, a, b, out);
}

/// `out = a b`.
///
/// # Panics
/// If the lengths differ.
pub fn multiply(level: Level, a: &[f32], b: &[f32], out: &mut [f32]) {
    #[derive(Clone, Copy)]
    struct Multiply;
    impl Binary for Multiply {
        #[inline(always)]
        fn apply<S: Simd>(self, s: S, a: S::V, b: S::V) -> S::V {
            s.mul(a, b)
        }
    }
    pass(level, Multiply, a, b, out);
}

/// `out = alpha sum + beta out + gamma other` over a tensor of lanes, or a step by that.
///
/// # Panics
/// If the lengths differ or are not whole vectors, there is a bias, or a step without a factor for each lane.
pub fn combine(level: Level, sum: &[f32], combine: Combine<'_>, out: &mut [f32]) {
    struct Combination<'a> {
        sum: &'a [f32],
        epilogue: LinearEpilogue,
    }
    impl Kernel for Combination<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            assert!(self.sum.len().is_multiple_of(S::LANES), "{} elements for {} lanes", self.sum.len(), S::LANES);
            for at in (0..self.sum.len()).step_by(S::LANES) {
                // SAFETY: a whole vector from `at` is inside every operand: their lengths are equal or they are not read.
                unsafe { self.epilogue.combine(s, 0, at, s.load(self.sum.as_ptr().add(at))) };
            }
        }
    }
    assert!(sum.len() == out.len(), "lengths differ: {}, output {}", sum.len(), out.len());
    assert!(
        combine.gamma == 0.0 || combine.other.len() == out.len(),
        "lengths differ: third operand {}, output {}",
        combine.other.len(),
        out.len()
    );
    assert!(combine.bias.is_none(), "elements have no channel to take a bias from");
    assert!(
        combine.step.is_none_or(|step| step.len() == crate::simd::lanes(level)),
        "{} factors for {} lanes",
        combine.step.map_or(0, <[f32]>::len),
        crate::simd::lanes(level)
    );
    dispatch(level, Combination { sum, epilogue: LinearEpilogue::new(&combine, out, 0) });
}

/// `out += a`, element by element.
///
/// # Panics
/// If the lengths differ.
pub fn accumulate(level: Level, a: &[f32], out: &mut [f32]) {
    struct Accumulate<'a>(&'a [f32], &'a mut [f32]);
    impl Kernel for Accumulate<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, _: S) {
            self.1.iter_mut().zip(self.0).for_each(|(out, a)| *out += a);
        }
    }
    assert!(a.len() == out.len(), "lengths differ: {}, output {}", a.len(), out.len());
    dispatch(level, Accumulate(a, out));
}
