//! Average pooling: linear, so that differences go through it as values do.

use std::ops::Range;

use crate::local::windows::{Entry, Windows};
use crate::simd::{Kernel, Simd};

#[derive(Clone, Debug)]
pub(super) struct MeanPool {
    pub(super) windows: Windows,
    /// What every window is divided by; its own size if none.
    pub(super) divisor: Option<usize>,
}

impl MeanPool {
    #[inline(always)]
    fn scale(&self, window: &[Entry]) -> f32 {
        1.0 / self.divisor.unwrap_or(window.len()) as f32
    }

    /// The mean of a window.
    ///
    /// # Safety
    /// The elements of the window must be valid from `input`.
    #[inline(always)]
    unsafe fn mean<S: Simd>(&self, s: S, window: &[Entry], input: *const f32) -> S::V {
        let mut sum = s.splat(0.0);
        for entry in window {
            // SAFETY: as the caller promises.
            sum = s.add(sum, unsafe { s.load(input.add(entry.at)) });
        }
        s.mul(sum, s.splat(self.scale(window)))
    }

    /// Adds a gradient's share to every element of a window.
    ///
    /// # Safety
    /// The elements of the window must be valid from `out`.
    #[inline(always)]
    unsafe fn spread<S: Simd>(&self, s: S, window: &[Entry], gradient: S::V, out: *mut f32) {
        let share = s.mul(gradient, s.splat(self.scale(window)));
        for entry in window {
            // SAFETY: as the caller promises.
            unsafe {
                let out = out.add(entry.at);
                s.store(out, s.add(s.load(out), share));
            }
        }
    }
}

/// Some rows of a channel's means.
pub(super) struct Forward<'a> {
    pub(super) pool: &'a MeanPool,
    pub(super) rows: Range<usize>,
    pub(super) input: &'a [f32],
    pub(super) output: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (input, output) = (self.input.as_ptr(), self.output.as_mut_ptr());
        for (out, first, window) in self.pool.windows.of_rows(self.rows) {
            // A window on padding alone has no elements, and may point anywhere.
            let input = input.wrapping_add(first);
            // SAFETY: windows lie inside the channel and outputs inside the result, whose lengths were checked.
            unsafe { s.store(output.add(out), self.pool.mean(s, window, input)) };
        }
    }
}

/// Some rows of a channel's gradient.
pub(super) struct Pull<'a> {
    pub(super) pool: &'a MeanPool,
    pub(super) rows: Range<usize>,
    pub(super) input_rows: Range<usize>,
    pub(super) gradient: &'a [f32],
    pub(super) out: &'a mut [f32],
}

impl Kernel for Pull<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.out[self.input_rows].fill(0.0);
        let (gradient, pulled) = (self.gradient.as_ptr(), self.out.as_mut_ptr());
        for (out, first, window) in self.pool.windows.of_rows(self.rows) {
            let pulled = pulled.wrapping_add(first);
            // SAFETY: windows lie inside the channel and outputs inside the result, whose lengths were checked.
            unsafe { self.pool.spread(s, window, s.load(gradient.add(out)), pulled) };
        }
    }
}

/// Some rows of a channel's error, and that error pulled back.
pub(super) struct Relax<'a> {
    pub(super) pool: &'a MeanPool,
    pub(super) rows: Range<usize>,
    /// The elements of the channel that they come from, which are all that `d` has.
    pub(super) input_rows: Range<usize>,
    pub(super) d: &'a [f32],
    pub(super) u: &'a [f32],
    pub(super) error: &'a mut [f32],
    pub(super) pulled: &'a mut [f32],
}

impl Kernel for Relax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let begin = self.input_rows.start;
        self.pulled[self.input_rows].fill(0.0);
        let (d, u) = (self.d.as_ptr(), self.u.as_ptr());
        let (error, pulled) = (self.error.as_mut_ptr(), self.pulled.as_mut_ptr());
        for (out, first, window) in self.pool.windows.of_rows(self.rows) {
            // A window on padding alone has no elements, and may point anywhere.
            let d = d.wrapping_add(first).wrapping_sub(begin);
            let pulled = pulled.wrapping_add(first);
            // SAFETY: windows lie inside the channel, and inside the rows that `d` has; outputs inside the result.
            unsafe {
                let difference = self.pool.mean(s, window, d);
                let e = s.sub(difference, s.load(u.add(out)));
                s.store(error.add(out), e);
                self.pool.spread(s, window, e, pulled);
            }
        }
    }
}
