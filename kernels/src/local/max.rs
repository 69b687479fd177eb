//! Max pooling of an activation.
//!
//! The largest element of a window may change by less than a rounding of its size: the candidates are
//! the deviations from the old result, (f(z_j) - value) + (f(z_j + d_j) - f(z_j)).

use std::ops::Range;

use crate::activation::{Function, Pass};
use crate::local::windows::{Entry, Windows};
use crate::simd::Simd;

#[derive(Clone, Debug)]
pub(super) struct MaxPool {
    pub(super) windows: Windows,
}

/// Elements of most windows, for which the loops over them are unrolled.
const COMMON: usize = 4;

/// The largest candidate of a window.
#[derive(Clone, Copy)]
struct Winner<V> {
    candidate: V,
    /// Its tap.
    tap: V,
    /// The activation's input there.
    w: V,
}

/// The first largest candidate, or the last NaN.
///
/// # Safety
/// The elements of the window must be valid from `z`, and from `d` if that is not null.
#[inline(always)]
unsafe fn winner<S: Simd, F: Function, const MOVED: bool>(
    s: S,
    f: F,
    window: &[Entry],
    z: *const f32,
    d: *const f32,
    value: S::V,
) -> Winner<S::V> {
    // SAFETY: as the caller promises.
    unsafe {
        match <&[Entry; COMMON]>::try_from(window) {
            Ok(window) => winner_of::<S, F, MOVED>(s, f, window, z, d, value),
            Err(_) => winner_of::<S, F, MOVED>(s, f, window, z, d, value),
        }
    }
}

/// As [`winner`], to be compiled once more where the size of the window is known.
///
/// # Safety
/// As for [`winner`].
#[inline(always)]
unsafe fn winner_of<S: Simd, F: Function, const MOVED: bool>(
    s: S,
    f: F,
    window: &[Entry],
    z: *const f32,
    d: *const f32,
    value: S::V,
) -> Winner<S::V> {
    // SAFETY: as the caller promises.
    unsafe {
        let mut best = candidate::<S, F, MOVED>(s, f, &window[0], z, d, value);
        for entry in &window[1..] {
            let next = candidate::<S, F, MOVED>(s, f, entry, z, d, value);
            // Comparing with NaN is false either way: a NaN candidate is taken, a NaN best is kept.
            let (larger, valid) = (s.lt(best.candidate, next.candidate), s.eq(next.candidate, next.candidate));
            best = Winner {
                candidate: s.select(valid, s.select(larger, next.candidate, best.candidate), next.candidate),
                tap: s.select(valid, s.select(larger, next.tap, best.tap), next.tap),
                w: s.select(valid, s.select(larger, next.w, best.w), next.w),
            };
        }
        best
    }
}

/// # Safety
/// As for [`winner`].
#[inline(always)]
unsafe fn candidate<S: Simd, F: Function, const MOVED: bool>(
    s: S,
    f: F,
    entry: &Entry,
    z: *const f32,
    d: *const f32,
    value: S::V,
) -> Winner<S::V> {
    let tap = s.splat(entry.tap);
    // SAFETY: as the caller promises.
    unsafe {
        let z = s.load(z.add(entry.at));
        if !MOVED {
            return Winner { candidate: f.value(s, z), tap, w: z };
        }
        let d = s.load(d.add(entry.at));
        let w = s.add(z, d);
        Winner { candidate: s.add(s.sub(f.value(s, z), value), f.difference(s, z, d, w)), tap, w }
    }
}

/// Puts a gradient where the winner stood.
///
/// # Safety
/// The elements of the window must be valid from `out`.
#[inline(always)]
unsafe fn scatter<S: Simd>(s: S, window: &[Entry], exclusive: bool, tap: S::V, gradient: S::V, out: *mut f32) {
    // SAFETY: as the caller promises.
    unsafe {
        match <&[Entry; COMMON]>::try_from(window) {
            Ok(window) if exclusive => scatter_over::<S, false>(s, window, tap, gradient, out),
            _ if exclusive => scatter_over::<S, false>(s, window, tap, gradient, out),
            _ => scatter_over::<S, true>(s, window, tap, gradient, out),
        }
    }
}

/// As [`scatter`]; with `ADD` to what is there.
///
/// # Safety
/// As for [`scatter`].
#[inline(always)]
unsafe fn scatter_over<S: Simd, const ADD: bool>(s: S, window: &[Entry], tap: S::V, gradient: S::V, out: *mut f32) {
    for entry in window {
        let won = s.eq(tap, s.splat(entry.tap));
        let share = s.select(won, gradient, s.splat(0.0));
        // SAFETY: as the caller promises.
        unsafe {
            let out = out.add(entry.at);
            s.store(out, if ADD { s.add(s.load(out), share) } else { share });
        }
    }
}

impl MaxPool {
    /// Clears what scattering does not write.
    #[inline(always)]
    fn clear(&self, out: &mut [f32]) {
        if !(self.windows.exclusive && self.windows.covering) {
            out.fill(0.0);
        }
    }
}

/// The value of a channel.
pub(super) struct Forward<'a> {
    pub(super) pool: &'a MaxPool,
    pub(super) rows: Range<usize>,
    pub(super) z: &'a [f32],
    pub(super) value: &'a mut [f32],
}

impl Pass for Forward<'_> {
    #[inline(always)]
    fn run<S: Simd, F: Function>(self, s: S, f: F) {
        let (z, value) = (self.z.as_ptr(), self.value.as_mut_ptr());
        for (out, first, window) in self.pool.windows.of_rows(self.rows) {
            // SAFETY: windows lie inside the channel and outputs inside the result, whose lengths were checked.
            unsafe {
                let z = z.add(first);
                let mut best = f.value(s, s.load(z.add(window[0].at)));
                for entry in &window[1..] {
                    let next = f.value(s, s.load(z.add(entry.at)));
                    // The larger, or `best` if either is NaN; then a NaN `next` takes its place.
                    best = s.select(s.eq(next, next), s.max(next, best), next);
                }
                s.store(value.add(out), best);
            }
        }
    }
}

/// The difference of a channel.
pub(super) struct Push<'a> {
    pub(super) pool: &'a MaxPool,
    pub(super) z: &'a [f32],
    pub(super) value: &'a [f32],
    pub(super) d: &'a [f32],
    pub(super) difference: &'a mut [f32],
}

impl Pass for Push<'_> {
    #[inline(always)]
    fn run<S: Simd, F: Function>(self, s: S, f: F) {
        let (z, d) = (self.z.as_ptr(), self.d.as_ptr());
        let (value, difference) = (self.value.as_ptr(), self.difference.as_mut_ptr());
        for (out, first, window) in self.pool.windows.of_rows(0..self.pool.windows.rows()) {
            // SAFETY: windows lie inside the channel and outputs inside the result, whose lengths were checked.
            unsafe {
                let value = s.load(value.add(out));
                let winner = winner::<S, F, true>(s, f, window, z.add(first), d.add(first), value);
                s.store(difference.add(out), winner.candidate);
            }
        }
    }
}

/// Some rows of a channel's gradient.
pub(super) struct Pull<'a> {
    pub(super) pool: &'a MaxPool,
    pub(super) rows: Range<usize>,
    /// The elements of the channel that they come from, which are all that `d` has.
    pub(super) input_rows: Range<usize>,
    pub(super) z: &'a [f32],
    pub(super) value: &'a [f32],
    pub(super) d: Option<&'a [f32]>,
    pub(super) gradient: &'a [f32],
    pub(super) out: &'a mut [f32],
}

impl Pass for Pull<'_> {
    #[inline(always)]
    fn run<S: Simd, F: Function>(self, s: S, f: F) {
        let windows = &self.pool.windows;
        self.pool.clear(&mut self.out[self.input_rows.clone()]);
        let (z, value, gradient) = (self.z.as_ptr(), self.value.as_ptr(), self.gradient.as_ptr());
        let pulled = self.out.as_mut_ptr();
        let begin = self.input_rows.start;
        let d = self.d.map(<[f32]>::as_ptr);
        for (out, first, window) in windows.of_rows(self.rows) {
            // SAFETY: windows lie inside the channel, and inside the rows that `d` has; outputs inside the result.
            unsafe {
                let at = z.add(first);
                let winner = match d {
                    None => winner::<S, F, false>(s, f, window, at, std::ptr::null(), s.splat(0.0)),
                    Some(d) => winner::<S, F, true>(s, f, window, at, d.add(first - begin), s.load(value.add(out))),
                };
                let gradient = s.mul(s.load(gradient.add(out)), f.slope(s, winner.w));
                scatter(s, window, windows.exclusive, winner.tap, gradient, pulled.add(first));
            }
        }
    }
}

/// Some rows of a channel's error, and that error pulled back.
pub(super) struct Relax<'a> {
    pub(super) pool: &'a MaxPool,
    pub(super) rows: Range<usize>,
    /// The elements of the channel that they come from, which are all that `d` has.
    pub(super) input_rows: Range<usize>,
    pub(super) z: &'a [f32],
    pub(super) value: &'a [f32],
    pub(super) d: &'a [f32],
    pub(super) u: &'a [f32],
    pub(super) error: &'a mut [f32],
    pub(super) pulled: &'a mut [f32],
}

impl Pass for Relax<'_> {
    #[inline(always)]
    fn run<S: Simd, F: Function>(self, s: S, f: F) {
        let windows = &self.pool.windows;
        self.pool.clear(&mut self.pulled[self.input_rows.clone()]);
        let (z, value, d, u) = (self.z.as_ptr(), self.value.as_ptr(), self.d.as_ptr(), self.u.as_ptr());
        let (error, pulled) = (self.error.as_mut_ptr(), self.pulled.as_mut_ptr());
        let begin = self.input_rows.start;
        for (out, first, window) in windows.of_rows(self.rows) {
            // SAFETY: windows lie inside the channel, and inside the rows that `d` has; outputs inside the result.
            unsafe {
                let value = s.load(value.add(out));
                let winner = winner::<S, F, true>(s, f, window, z.add(first), d.add(first - begin), value);
                let e = s.sub(winner.candidate, s.load(u.add(out)));
                s.store(error.add(out), e);
                let gradient = s.mul(e, f.slope(s, winner.w));
                scatter(s, window, windows.exclusive, winner.tap, gradient, pulled.add(first));
            }
        }
    }
}
