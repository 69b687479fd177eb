//! Between rows of samples and images across lanes, by transposing blocks in registers.

use crate::level::Level;
use crate::simd::{Kernel, Simd, dispatch, lanes};

/// Puts `samples` rows of `elements` each, one after the other in `rows`, into the lanes of
/// `[elements][LANES]`; lanes beyond the last sample are 0.
///
/// # Panics
/// If a length does not fit, or there are more samples than lanes.
pub fn rows_to_lanes(level: Level, rows: &[f32], elements: usize, lanes: &mut [f32]) {
    struct ToLanes<'a> {
        rows: &'a [f32],
        elements: usize,
        lanes: &'a mut [f32],
    }
    impl Kernel for ToLanes<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let samples = self.rows.len().checked_div(self.elements).unwrap_or(0);
            // Blocks need a vector's worth of samples to read.
            let blocks = if samples == S::LANES { self.elements / S::LANES } else { 0 };
            for first in (0..blocks).map(|block| block * S::LANES) {
                // SAFETY: LANES rows of `elements` elements hold the block at column `first`; so do LANES vectors of
                // `lanes` from `first` on.
                unsafe {
                    let to = self.lanes.as_mut_ptr().add(first * S::LANES);
                    s.transpose(self.rows.as_ptr().add(first), self.elements, to, S::LANES);
                }
            }
            let done = blocks * S::LANES;
            for (i, lanes) in self.lanes.chunks_exact_mut(S::LANES).enumerate().skip(done) {
                for (sample, lane) in lanes[..samples].iter_mut().enumerate() {
                    *lane = self.rows[sample * self.elements + i];
                }
                lanes[samples..].fill(0.0);
            }
        }
    }
    check(level, rows.len(), elements, lanes.len());
    dispatch(level, ToLanes { rows, elements, lanes });
}

/// The reverse of [`rows_to_lanes`], for as many samples as `rows` holds.
///
/// # Panics
/// If a length does not fit, or there are more samples than lanes.
pub fn lanes_to_rows(level: Level, lanes: &[f32], rows: &mut [f32], elements: usize) {
    check(level, rows.len(), elements, lanes.len());
    let samples = rows.len().checked_div(elements).unwrap_or(0);
    dispatch(level, ToRows { lanes, rows, samples, elements, stride: elements });
}

/// As [`lanes_to_rows`] for every lane, to rows that begin `stride` elements apart, of which the elements
/// behind the first `elements` stay as they are.
///
/// # Panics
/// If a length does not fit, or rows overlap.
pub fn lanes_to_strided_rows(level: Level, lanes: &[f32], rows: &mut [f32], elements: usize, stride: usize) {
    let samples = crate::simd::lanes(level);
    let end = (samples - 1).checked_mul(stride).and_then(|last| last.checked_add(elements));
    assert!(
        elements <= stride
            && samples.checked_mul(elements) == Some(lanes.len())
            && end.is_some_and(|end| end <= rows.len()),
        "{} elements of {samples} lanes do not fit {} elements of rows of {elements}, {stride} apart",
        lanes.len(),
        rows.len()
    );
    dispatch(level, ToRows { lanes, rows, samples, elements, stride });
}

struct ToRows<'a> {
    lanes: &'a [f32],
    rows: &'a mut [f32],
    samples: usize,
    elements: usize,
    stride: usize,
}

impl Kernel for ToRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let ToRows { lanes, rows, samples, elements, stride } = self;
        let blocks = if samples == S::LANES { elements / S::LANES } else { 0 };
        for first in (0..blocks).map(|block| block * S::LANES) {
            // SAFETY: LANES vectors of `lanes` from `first` on hold the block; so do LANES rows at column `first`.
            unsafe {
                let from = lanes.as_ptr().add(first * S::LANES);
                s.transpose(from, S::LANES, rows.as_mut_ptr().add(first), stride);
            }
        }
        let done = blocks * S::LANES;
        for (i, lanes) in lanes.chunks_exact(S::LANES).enumerate().skip(done) {
            for (sample, lane) in lanes[..samples].iter().enumerate() {
                rows[sample * stride + i] = *lane;
            }
        }
    }
}

fn check(level: Level, rows: usize, elements: usize, len: usize) {
    let width = lanes(level);
    let samples = rows.checked_div(elements).unwrap_or(0);
    assert!(
        samples <= width && samples * elements == rows && elements.checked_mul(width) == Some(len),
        "{rows} elements of samples of {elements} do not fit {len} elements of {width} lanes"
    );
}
