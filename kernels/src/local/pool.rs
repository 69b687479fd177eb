//! Poolings, window by window.
//!
//! The largest element of a window may change by less than a rounding of its size: the candidates are the deviations
//! from the old result, (f(z_j) - value) + (f(z_j + d_j) - f(z_j)). A mean is linear, so that differences go through
//! it as values do.

use std::ops::Range;

use crate::activation::{Function, Pass};
use crate::local::windows::{Entry, Windows};
use crate::simd::{Kernel, Simd};

/// Elements of most windows, for which the loops over them are unrolled.
const COMMON: usize = 4;

/// What becomes of a window. Its elements must be valid from `z`, `d` and `out`.
trait Pooling: Copy {
    /// What is to be known of a window for its gradient.
    type Winner<S: Simd>: Copy;

    unsafe fn value<S: Simd>(self, s: S, window: &[Entry], z: *const f32) -> S::V;
    /// The winner, and the difference of the value; `d` is null for none.
    unsafe fn push<S: Simd>(
        self,
        s: S,
        window: &[Entry],
        z: *const f32,
        d: *const f32,
        value: S::V,
    ) -> (Self::Winner<S>, S::V);
    /// Carries a gradient to the elements, which are cleared before unless no element belongs to two windows and every
    /// one to one.
    unsafe fn pull<S: Simd>(
        self,
        s: S,
        windows: &Windows,
        window: &[Entry],
        winner: Self::Winner<S>,
        gradient: S::V,
        out: *mut f32,
    );
    /// Clears what a pull adds to or does not write.
    fn clear(self, windows: &Windows, out: &mut [f32]);
}

/// The largest of f.
#[derive(Clone, Copy)]
struct Max<F>(F);

/// The largest candidate of a window.
#[derive(Clone, Copy)]
struct Winner<V> {
    /// Its tap.
    tap: V,
    /// The activation's input there.
    w: V,
}

impl<F: Function> Max<F> {
    /// # Safety
    /// The element must be valid from `z`, and from `d` if that is not null.
    #[inline(always)]
    unsafe fn candidate<S: Simd, const MOVED: bool>(
        self,
        s: S,
        entry: &Entry,
        z: *const f32,
        d: *const f32,
        value: S::V,
    ) -> (Winner<S::V>, S::V) {
        let (tap, f) = (s.splat(entry.mark), self.0);
        // SAFETY: as the caller promises.
        unsafe {
            let z = s.load(z.add(entry.at));
            if !MOVED {
                return (Winner { tap, w: z }, f.value(s, z));
            }
            let d = s.load(d.add(entry.at));
            let w = s.add(z, d);
            (Winner { tap, w }, s.add(s.sub(f.value(s, z), value), f.difference(s, z, d, w)))
        }
    }

    /// The first largest candidate, or the last NaN.
    ///
    /// # Safety
    /// As for [`candidate`](Self::candidate).
    #[inline(always)]
    unsafe fn winner<S: Simd, const MOVED: bool>(
        self,
        s: S,
        window: &[Entry],
        z: *const f32,
        d: *const f32,
        value: S::V,
    ) -> (Winner<S::V>, S::V) {
        // SAFETY: as the caller promises.
        unsafe {
            let (mut best, mut largest) = self.candidate::<S, MOVED>(s, &window[0], z, d, value);
            for entry in &window[1..] {
                let (next, candidate) = self.candidate::<S, MOVED>(s, entry, z, d, value);
                // Comparing with NaN is false either way: a NaN candidate is taken, a NaN best is kept.
                let (larger, valid) = (s.lt(largest, candidate), s.eq(candidate, candidate));
                let choose = |next: S::V, best: S::V| s.select(valid, s.select(larger, next, best), next);
                best = Winner { tap: choose(next.tap, best.tap), w: choose(next.w, best.w) };
                largest = choose(candidate, largest);
            }
            (best, largest)
        }
    }
}

/// Puts a gradient where the winner stood; with `ADD` to what is there.
///
/// # Safety
/// The elements of the window must be valid from `out`.
#[inline(always)]
unsafe fn scatter<S: Simd, const ADD: bool>(s: S, window: &[Entry], tap: S::V, gradient: S::V, out: *mut f32) {
    for entry in window {
        let share = s.select(s.eq(tap, s.splat(entry.mark)), gradient, s.splat(0.0));
        // SAFETY: as the caller promises.
        unsafe {
            let out = out.add(entry.at);
            s.store(out, if ADD { s.add(s.load(out), share) } else { share });
        }
    }
}

impl<F: Function> Pooling for Max<F> {
    type Winner<S: Simd> = Winner<S::V>;

    #[inline(always)]
    unsafe fn value<S: Simd>(self, s: S, window: &[Entry], z: *const f32) -> S::V {
        // SAFETY: as the caller promises.
        unsafe {
            let mut best = self.0.value(s, s.load(z.add(window[0].at)));
            for entry in &window[1..] {
                let next = self.0.value(s, s.load(z.add(entry.at)));
                // The larger, or `best` if either is NaN; then a NaN `next` takes its place.
                best = s.select(s.eq(next, next), s.max(next, best), next);
            }
            best
        }
    }

    #[inline(always)]
    unsafe fn push<S: Simd>(
        self,
        s: S,
        window: &[Entry],
        z: *const f32,
        d: *const f32,
        value: S::V,
    ) -> (Winner<S::V>, S::V) {
        // SAFETY: as the caller promises.
        unsafe {
            match (<&[Entry; COMMON]>::try_from(window), d.is_null()) {
                (Ok(window), false) => self.winner::<S, true>(s, window, z, d, value),
                (Ok(window), true) => self.winner::<S, false>(s, window, z, d, value),
                (Err(_), false) => self.winner::<S, true>(s, window, z, d, value),
                (Err(_), true) => self.winner::<S, false>(s, window, z, d, value),
            }
        }
    }

    #[inline(always)]
    unsafe fn pull<S: Simd>(
        self,
        s: S,
        windows: &Windows,
        window: &[Entry],
        Winner { tap, w }: Winner<S::V>,
        gradient: S::V,
        out: *mut f32,
    ) {
        let gradient = s.mul(gradient, self.0.slope(s, w));
        // SAFETY: as the caller promises.
        unsafe {
            match <&[Entry; COMMON]>::try_from(window) {
                Ok(window) if windows.exclusive => scatter::<S, false>(s, window, tap, gradient, out),
                _ if windows.exclusive => scatter::<S, false>(s, window, tap, gradient, out),
                _ => scatter::<S, true>(s, window, tap, gradient, out),
            }
        }
    }

    #[inline(always)]
    fn clear(self, windows: &Windows, out: &mut [f32]) {
        if !(windows.exclusive && windows.covering) {
            out.fill(0.0);
        }
    }
}

/// The sum times the share of each element, which is the same for all of a window.
#[derive(Clone, Copy)]
struct Mean;

impl Mean {
    #[inline(always)]
    fn share(window: &[Entry]) -> f32 {
        window.first().map_or(0.0, |entry| entry.mark)
    }
}

impl Pooling for Mean {
    type Winner<S: Simd> = ();

    #[inline(always)]
    unsafe fn value<S: Simd>(self, s: S, window: &[Entry], z: *const f32) -> S::V {
        let mut sum = s.splat(0.0);
        for entry in window {
            // SAFETY: as the caller promises.
            sum = s.add(sum, unsafe { s.load(z.add(entry.at)) });
        }
        s.mul(sum, s.splat(Mean::share(window)))
    }

    #[inline(always)]
    unsafe fn push<S: Simd>(self, s: S, window: &[Entry], _: *const f32, d: *const f32, _: S::V) -> ((), S::V) {
        // SAFETY: as the caller promises; without a difference nothing is asked.
        ((), if d.is_null() { s.splat(0.0) } else { unsafe { self.value(s, window, d) } })
    }

    #[inline(always)]
    unsafe fn pull<S: Simd>(self, s: S, _: &Windows, window: &[Entry], _: (), gradient: S::V, out: *mut f32) {
        let share = s.mul(gradient, s.splat(Mean::share(window)));
        for entry in window {
            // SAFETY: as the caller promises.
            unsafe {
                let out = out.add(entry.at);
                s.store(out, s.add(s.load(out), share));
            }
        }
    }

    #[inline(always)]
    fn clear(self, _: &Windows, out: &mut [f32]) {
        out.fill(0.0);
    }
}

/// What is asked of some rows of the windows of a plane.
pub(super) enum Asked<'a> {
    /// The values.
    Forward { value: &'a mut [f32] },
    /// The differences.
    Push { value: &'a [f32], d: &'a [f32], difference: &'a mut [f32] },
    /// The gradient of the input.
    Pull { value: &'a [f32], d: Option<&'a [f32]>, gradient: &'a [f32], out: &'a mut [f32] },
    /// The error, and that error pulled back.
    Relax { value: &'a [f32], d: &'a [f32], u: &'a [f32], error: &'a mut [f32], pulled: &'a mut [f32] },
}

/// A pass over some rows of a plane.
pub(super) struct PoolPass<'a> {
    pub(super) windows: &'a Windows,
    pub(super) rows: Range<usize>,
    /// The elements of the plane that they come from, which are all that `d` has.
    pub(super) input: Range<usize>,
    pub(super) z: &'a [f32],
    pub(super) asked: Asked<'a>,
}

impl Pass for PoolPass<'_> {
    #[inline(always)]
    fn run<S: Simd, F: Function>(self, s: S, f: F) {
        self.pool(s, Max(f));
    }
}

/// A pass of means.
pub(super) struct Means<'a>(pub(super) PoolPass<'a>);

impl Kernel for Means<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.0.pool(s, Mean);
    }
}

impl PoolPass<'_> {
    #[inline(always)]
    fn pool<S: Simd, P: Pooling>(self, s: S, pooling: P) {
        let PoolPass { windows, rows, input, z, asked } = self;
        let (z, begin) = (z.as_ptr(), input.start);
        // A window of means on padding alone has no elements, and may point anywhere.
        // SAFETY: windows lie inside of the plane, and inside of the rows that a difference has; outputs inside of the
        // result. All lengths were checked.
        unsafe {
            match asked {
                Asked::Forward { value } => {
                    let value = value.as_mut_ptr();
                    for (out, first, window) in windows.of_rows(rows) {
                        s.store(value.add(out), pooling.value(s, window, z.wrapping_add(first)));
                    }
                }
                Asked::Push { value, d, difference } => {
                    let (value, d, difference) = (value.as_ptr(), d.as_ptr(), difference.as_mut_ptr());
                    for (out, first, window) in windows.of_rows(rows) {
                        let (z, d) = (z.wrapping_add(first), d.wrapping_add(first));
                        let (_, found) = pooling.push(s, window, z, d, s.load(value.add(out)));
                        s.store(difference.add(out), found);
                    }
                }
                Asked::Pull { value, d, gradient, out: pulled } => {
                    pooling.clear(windows, &mut pulled[input]);
                    let (value, gradient, pulled) = (value.as_ptr(), gradient.as_ptr(), pulled.as_mut_ptr());
                    for (out, first, window) in windows.of_rows(rows) {
                        let d = d.map_or(std::ptr::null(), |d| d.as_ptr().wrapping_add(first).wrapping_sub(begin));
                        let value = s.load(value.add(out));
                        let (winner, _) = pooling.push(s, window, z.wrapping_add(first), d, value);
                        let gradient = s.load(gradient.add(out));
                        pooling.pull(s, windows, window, winner, gradient, pulled.wrapping_add(first));
                    }
                }
                Asked::Relax { value, d, u, error, pulled } => {
                    pooling.clear(windows, &mut pulled[input]);
                    let (value, d, u) = (value.as_ptr(), d.as_ptr(), u.as_ptr());
                    let (error, pulled) = (error.as_mut_ptr(), pulled.as_mut_ptr());
                    for (out, first, window) in windows.of_rows(rows) {
                        let d = d.wrapping_add(first).wrapping_sub(begin);
                        let value = s.load(value.add(out));
                        let (winner, difference) = pooling.push(s, window, z.wrapping_add(first), d, value);
                        let e = s.sub(difference, s.load(u.add(out)));
                        s.store(error.add(out), e);
                        pooling.pull(s, windows, window, winner, e, pulled.wrapping_add(first));
                    }
                }
            }
        }
    }
}
