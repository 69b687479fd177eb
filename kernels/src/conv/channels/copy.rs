//! The copy of the pixels that a block reads, with zeros beside the source.

use std::ops::Range;

use crate::buffer::LINE;
use crate::simd::{Kernel, Simd};

/// Copies rows of all channels: `[channel][row][comb][column]`, where column i of comb k is column
/// `i * combs + k` of the source, or 0 if there is none.
pub(super) struct Copy<'a> {
    /// `[channel][size[0]][size[1]]`.
    pub(super) from: &'a [f32],
    pub(super) size: [usize; 2],
    /// Rows that nothing reads are not copied.
    pub(super) used_rows: &'a [bool],
    pub(super) rows: Range<usize>,
    /// Columns of each comb.
    pub(super) columns: Range<isize>,
    pub(super) combs: usize,
    pub(super) used_combs: &'a [bool],
    pub(super) comb_pitch: usize,
    pub(super) row_pitch: usize,
    pub(super) plane: usize,
    pub(super) to: &'a mut [f32],
}

impl Kernel for Copy<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let [height, width] = self.size;
        for (channel, from) in self.from.chunks_exact((height * width).max(1)).enumerate() {
            for row in self.rows.clone().filter(|&row| self.used_rows[row]) {
                let from = &from[row * width..][..width];
                let to = channel * self.plane + (row - self.rows.start) * self.row_pitch;
                if self.combs == 1 {
                    copy_row(s, from, self.columns.clone(), &mut self.to[to..]);
                    continue;
                }
                let done = match self.combs {
                    2 => split_row(s, from, self.columns.clone(), self.comb_pitch, &mut self.to[to..]),
                    _ => 0,
                };
                for comb in (0..self.combs).filter(|&comb| self.used_combs[comb]) {
                    let to = &mut self.to[to + comb * self.comb_pitch..];
                    copy_comb(from, comb, self.combs, self.columns.clone(), done, to);
                }
            }
        }
    }
}

/// Asks for the pixels of a block before it is their turn, a few at a time between other work.
pub(super) struct Prefetch {
    /// The first pixel.
    pub(super) from: *const f32,
    /// Elements of a row that are read.
    pub(super) width: usize,
    pub(super) row_pitch: usize,
    pub(super) rows: usize,
    pub(super) plane: usize,
    pub(super) channels: usize,
    /// Rows asked for so far, and with each step.
    pub(super) done: usize,
    pub(super) step: usize,
}

impl Prefetch {
    #[inline(always)]
    pub(super) fn advance<S: Simd>(&mut self, s: S) {
        let end = (self.done + self.step).min(self.rows * self.channels);
        while self.done < end {
            let (channel, row) = (self.done / self.rows, self.done % self.rows);
            let from = self.from.wrapping_add(channel * self.plane + row * self.row_pitch);
            let mut x = 0;
            while x < self.width {
                s.prefetch_to_second(from.wrapping_add(x));
                x += LINE;
            }
            s.prefetch_to_second(from.wrapping_add(self.width - 1));
            self.done += 1;
        }
    }
}

/// Columns of a row in whole vectors, each of which may write up to LANES - 1 elements too many: rows
/// are copied in order, so that those are the next row's.
#[inline(always)]
fn copy_row<S: Simd>(s: S, from: &[f32], columns: Range<isize>, to: &mut [f32]) {
    let count = (columns.end - columns.start) as usize;
    let left = (-columns.start).clamp(0, count as isize) as usize;
    let first = columns.start.max(0) as usize;
    let inside = from.len().saturating_sub(first).min(count - left);
    assert!(count + S::LANES - 1 <= to.len() + usize::from(count == 0) * S::LANES);
    // SAFETY: vectors begin before `count`, and LANES - 1 elements behind it are in `to`; `inside` elements of
    // `from` follow `first`.
    unsafe {
        let zero = s.splat(0.0);
        let to = to.as_mut_ptr();
        for x in (0..left).step_by(S::LANES) {
            s.store(to.add(x), zero);
        }
        let mut x = 0;
        while x + S::LANES <= inside {
            s.store(to.add(left + x), s.load(from.as_ptr().add(first + x)));
            x += S::LANES;
        }
        if x < inside {
            s.store(to.add(left + x), s.load_first(from.as_ptr().add(first + x), inside - x));
        }
        for x in (left + inside..count).step_by(S::LANES) {
            s.store(to.add(x), zero);
        }
    }
}

/// Both combs of two, as far as both are inside of the source; returns how many columns of each.
#[inline(always)]
fn split_row<S: Simd>(s: S, from: &[f32], columns: Range<isize>, comb_pitch: usize, to: &mut [f32]) -> usize {
    let count = (columns.end - columns.start) as usize;
    let left = (-columns.start).clamp(0, count as isize) as usize;
    let first = columns.start.max(0) as usize;
    let inside = (from.len() / 2).saturating_sub(first).min(count - left);
    assert!(comb_pitch + left + inside <= to.len());
    let mut x = 0;
    while x < inside {
        // SAFETY: columns below first + inside of both combs are in the row, and in `to` by the assertion.
        unsafe {
            let pairs = from.as_ptr().add(2 * (first + x));
            let to = to.as_mut_ptr().add(left + x);
            if x + S::LANES <= inside {
                let (even, odd) = s.split_pairs(s.load(pairs), s.load(pairs.add(S::LANES)));
                s.store(to, even);
                s.store(to.add(comb_pitch), odd);
            } else {
                let (n, elements) = (inside - x, 2 * (inside - x));
                let low = s.load_first(pairs, elements.min(S::LANES));
                let high = s.load_first(pairs.wrapping_add(S::LANES), elements.saturating_sub(S::LANES));
                let (even, odd) = s.split_pairs(low, high);
                s.store_first(to, even, n);
                s.store_first(to.add(comb_pitch), odd, n);
            }
        }
        x += S::LANES;
    }
    inside
}

/// Every `combs`-th column of a row, but for the first `done` inside of the source.
#[inline(always)]
fn copy_comb(from: &[f32], comb: usize, combs: usize, columns: Range<isize>, done: usize, to: &mut [f32]) {
    let width = from.len().saturating_sub(comb).div_ceil(combs) as isize;
    let count = (columns.end - columns.start) as usize;
    let left = (-columns.start).clamp(0, count as isize) as usize;
    let first = columns.start.max(0);
    let inside = (width - first).clamp(0, (count - left) as isize) as usize;
    let to = &mut to[..count];
    to[..left].fill(0.0);
    to[left + inside..].fill(0.0);
    if inside > done {
        let from = from[comb + (first as usize + done) * combs..].iter().step_by(combs);
        for (to, from) in to[left + done..left + inside].iter_mut().zip(from) {
            *to = *from;
        }
    }
}
