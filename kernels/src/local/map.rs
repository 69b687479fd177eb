//! Activations, element by element.

use crate::activation::{Function, Pass, load, store};
use crate::simd::Simd;

/// Runs `$body` for the vectors of `$len` elements, `$i` being the first element and `$n` how many.
macro_rules! for_vectors {
    ($s:ident, $len:expr, |$i:ident, $n:ident| $body:block) => {
        let len = $len;
        let mut $i = 0;
        while $i + S::LANES <= len {
            let $n = S::LANES;
            // SAFETY: LANES elements from `i` are inside all slices, whose lengths are equal.
            unsafe { $body }
            $i += S::LANES;
        }
        if $i < len {
            let $n = len - $i;
            // SAFETY: `n` elements from `i` are inside all slices, whose lengths are equal.
            unsafe { $body }
        }
    };
}

/// `value = f(z)`.
pub(super) struct Forward<'a> {
    pub(super) z: &'a [f32],
    pub(super) value: &'a mut [f32],
}

impl Pass for Forward<'_> {
    #[inline(always)]
    fn run<S: Simd, F: Function>(self, s: S, f: F) {
        let (z, value) = (self.z.as_ptr(), self.value.as_mut_ptr());
        for_vectors!(s, self.z.len().min(self.value.len()), |i, n| {
            store(s, value.add(i), f.value(s, load(s, z.add(i), n)), n);
        });
    }
}

/// `difference = f(z + d) - f(z)`.
pub(super) struct Push<'a> {
    pub(super) z: &'a [f32],
    pub(super) d: &'a [f32],
    pub(super) difference: &'a mut [f32],
}

impl Pass for Push<'_> {
    #[inline(always)]
    fn run<S: Simd, F: Function>(self, s: S, f: F) {
        assert!(self.z.len() == self.d.len() && self.z.len() == self.difference.len(), "lengths differ");
        let (z, d, difference) = (self.z.as_ptr(), self.d.as_ptr(), self.difference.as_mut_ptr());
        for_vectors!(s, self.z.len(), |i, n| {
            let (z, d) = (load(s, z.add(i), n), load(s, d.add(i), n));
            store(s, difference.add(i), f.difference(s, z, d, s.add(z, d)), n);
        });
    }
}

/// `out = gradient f'(z + d)`.
pub(super) struct Pull<'a> {
    pub(super) z: &'a [f32],
    pub(super) d: Option<&'a [f32]>,
    pub(super) gradient: &'a [f32],
    pub(super) out: &'a mut [f32],
}

impl Pass for Pull<'_> {
    #[inline(always)]
    fn run<S: Simd, F: Function>(self, s: S, f: F) {
        let lengths = [self.gradient.len(), self.out.len(), self.d.map_or(self.z.len(), <[f32]>::len)];
        assert!(lengths.iter().all(|&len| len == self.z.len()), "lengths differ");
        let (z, gradient, out) = (self.z.as_ptr(), self.gradient.as_ptr(), self.out.as_mut_ptr());
        match self.d.map(<[f32]>::as_ptr) {
            None => {
                for_vectors!(s, self.z.len(), |i, n| {
                    let slope = f.slope(s, load(s, z.add(i), n));
                    store(s, out.add(i), s.mul(load(s, gradient.add(i), n), slope), n);
                });
            }
            Some(d) => {
                for_vectors!(s, self.z.len(), |i, n| {
                    let slope = f.slope(s, s.add(load(s, z.add(i), n), load(s, d.add(i), n)));
                    store(s, out.add(i), s.mul(load(s, gradient.add(i), n), slope), n);
                });
            }
        }
    }
}

/// `error = f(z + d) - f(z) - u`, and `pulled = error f'(z + d)`.
pub(super) struct Relax<'a> {
    pub(super) z: &'a [f32],
    pub(super) d: &'a [f32],
    pub(super) u: &'a [f32],
    pub(super) error: &'a mut [f32],
    pub(super) pulled: &'a mut [f32],
}

impl Pass for Relax<'_> {
    #[inline(always)]
    fn run<S: Simd, F: Function>(self, s: S, f: F) {
        let lengths = [self.d.len(), self.u.len(), self.error.len(), self.pulled.len()];
        assert!(lengths.iter().all(|&len| len == self.z.len()), "lengths differ");
        let (z, d, u) = (self.z.as_ptr(), self.d.as_ptr(), self.u.as_ptr());
        let (error, pulled) = (self.error.as_mut_ptr(), self.pulled.as_mut_ptr());
        for_vectors!(s, self.z.len(), |i, n| {
            let (z, d) = (load(s, z.add(i), n), load(s, d.add(i), n));
            let w = s.add(z, d);
            let e = s.sub(f.difference(s, z, d, w), load(s, u.add(i), n));
            store(s, error.add(i), e, n);
            store(s, pulled.add(i), s.mul(e, f.slope(s, w)), n);
        });
    }
}
