//! Activations, element by element.

use std::ops::Range;

use crate::activation::{Function, Pass, load, store};
use crate::local::Asked;
use crate::simd::Simd;

/// Runs `$body` for the vectors of `$len` elements, `$i` being the first element and `$n` how many.
macro_rules! for_vectors {
    ($len:ident, |$i:ident, $n:ident| $body:block) => {
        let mut $i = 0;
        while $i + S::LANES <= $len {
            let $n = S::LANES;
            // SAFETY: LANES elements from `i` are inside all slices, whose lengths are equal.
            unsafe { $body }
            $i += S::LANES;
        }
        if $i < $len {
            let $n = $len - $i;
            // SAFETY: `n` elements from `i` are inside all slices, whose lengths are equal.
            unsafe { $body }
        }
    };
}

/// A pass of an activation over some elements.
pub(super) struct Map<'a> {
    /// The elements that it passes over, which are all that `d` has.
    pub(super) part: Range<usize>,
    pub(super) z: &'a [f32],
    pub(super) asked: Asked<'a>,
}

impl Pass for Map<'_> {
    #[inline(always)]
    fn run<S: Simd, F: Function>(self, s: S, f: F) {
        let Map { part, z, asked } = self;
        let z = &z[part.clone()];
        let (len, z) = (z.len(), z.as_ptr());
        match asked {
            Asked::Forward { value } => {
                let value = value[part].as_mut_ptr();
                for_vectors!(len, |i, n| {
                    store(s, value.add(i), f.value(s, load(s, z.add(i), n)), n);
                });
            }
            Asked::Push { d, difference, .. } => {
                let (d, difference) = (d[..len].as_ptr(), difference[part].as_mut_ptr());
                for_vectors!(len, |i, n| {
                    let (z, d) = (load(s, z.add(i), n), load(s, d.add(i), n));
                    store(s, difference.add(i), f.difference(s, z, d, s.add(z, d)), n);
                });
            }
            Asked::Pull { d, gradient, out, .. } => {
                let d = d.map(|d| d[..len].as_ptr());
                let (gradient, out) = (gradient[part.clone()].as_ptr(), out[part].as_mut_ptr());
                for_vectors!(len, |i, n| {
                    let mut w = load(s, z.add(i), n);
                    if let Some(d) = d {
                        w = s.add(w, load(s, d.add(i), n));
                    }
                    store(s, out.add(i), s.mul(load(s, gradient.add(i), n), f.slope(s, w)), n);
                });
            }
            Asked::Relax { d, u, error, pulled, .. } => {
                let (d, u) = (d[..len].as_ptr(), u[part.clone()].as_ptr());
                let (error, pulled) = (error[part.clone()].as_mut_ptr(), pulled[part].as_mut_ptr());
                for_vectors!(len, |i, n| {
                    let (z, d) = (load(s, z.add(i), n), load(s, d.add(i), n));
                    let w = s.add(z, d);
                    let e = s.sub(f.difference(s, z, d, w), load(s, u.add(i), n));
                    store(s, error.add(i), e, n);
                    store(s, pulled.add(i), s.mul(e, f.slope(s, w)), n);
                });
            }
        }
    }
}
