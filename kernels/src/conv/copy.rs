//! The copy of the pixels that a block reads, with zeros around the source.

use std::ops::Range;

use crate::buffer::LINE;
use crate::simd::{Kernel, Simd};

/// Copies rows of all channels: `[channel][row][comb][column]`, where column i of comb k is column
/// `i * combs + k` of the source, or 0 if there is none. So is a row that the source does not have.
pub(in crate::conv) struct Copy<'a> {
    /// `[channel][size[0]][size[1]]`.
    pub(in crate::conv) from: &'a [f32],
    pub(in crate::conv) size: [usize; 2],
    /// Rows of the source that nothing reads are not copied.
    pub(in crate::conv) used_rows: &'a [bool],
    pub(in crate::conv) rows: Range<isize>,
    /// Columns of each comb.
    pub(in crate::conv) columns: Range<isize>,
    pub(in crate::conv) combs: usize,
    pub(in crate::conv) used_combs: &'a [bool],
    pub(in crate::conv) comb_pitch: usize,
    pub(in crate::conv) row_pitch: usize,
    pub(in crate::conv) plane: usize,
    pub(in crate::conv) to: &'a mut [f32],
}

impl Kernel for Copy<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let [height, width] = self.size;
        for (channel, from) in self.from.chunks_exact((height * width).max(1)).enumerate() {
            for row in self.rows.clone() {
                let to = channel * self.plane + (row - self.rows.start) as usize * self.row_pitch;
                let Some(row) = usize::try_from(row).ok().filter(|&row| row < height) else {
                    self.to[to..][..self.row_pitch].fill(0.0);
                    continue;
                };
                if !self.used_rows[row] {
                    continue;
                }
                let from = &from[row * width..][..width];
                let (columns, to) = (self.columns.clone(), &mut self.to[to..]);
                match self.combs {
                    1 => copy_row(s, from, columns, to),
                    2 => split_row(s, from, columns, self.comb_pitch, to),
                    combs => {
                        for comb in (0..combs).filter(|&comb| self.used_combs[comb]) {
                            copy_comb(from, comb, combs, columns.clone(), &mut to[comb * self.comb_pitch..]);
                        }
                    }
                }
            }
        }
    }
}

/// Asks for the pixels of a block before it is their turn, a few at a time between other work.
pub(in crate::conv) struct Prefetch {
    /// The first pixel.
    pub(in crate::conv) from: *const f32,
    /// Elements of a row that are read.
    pub(in crate::conv) width: usize,
    pub(in crate::conv) row_pitch: usize,
    pub(in crate::conv) rows: usize,
    pub(in crate::conv) plane: usize,
    pub(in crate::conv) channels: usize,
    /// Rows asked for so far, and with each step.
    pub(in crate::conv) done: usize,
    pub(in crate::conv) step: usize,
}

impl Prefetch {
    #[inline(always)]
    pub(in crate::conv) fn advance<S: Simd>(&mut self, s: S) {
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

/// Both combs of two, in whole vectors of the source: what is loaded beyond its end is 0.
#[inline(always)]
fn split_row<S: Simd>(s: S, from: &[f32], columns: Range<isize>, comb_pitch: usize, to: &mut [f32]) {
    let count = (columns.end - columns.start) as usize;
    let left = (-columns.start).clamp(0, count as isize) as usize;
    let first = 2 * columns.start.max(0) as usize;
    assert!(comb_pitch + count <= to.len());
    // SAFETY: `count` columns of both combs are in `to` by the assertion, and no more elements are loaded than
    // follow `first`.
    unsafe {
        let (to, zero) = (to.as_mut_ptr(), s.splat(0.0));
        for x in (0..left).step_by(S::LANES) {
            store_pair(s, [zero; 2], to.add(x), comb_pitch, left - x);
        }
        for x in (left..count).step_by(S::LANES) {
            let at = first + 2 * (x - left);
            let pairs = from.as_ptr().wrapping_add(at);
            let (even, odd) = match from.len().saturating_sub(at) {
                n if n < 2 * S::LANES => {
                    let low = s.load_first(pairs, n.min(S::LANES));
                    s.split_pairs(low, s.load_first(pairs.wrapping_add(S::LANES), n.saturating_sub(S::LANES)))
                }
                _ => s.split_pairs(s.load(pairs), s.load(pairs.add(S::LANES))),
            };
            store_pair(s, [even, odd], to.add(x), comb_pitch, count - x);
        }
    }
}

/// The first `n` elements of two vectors, `pitch` apart, or all if there are fewer.
///
/// # Safety
/// So many elements must be writable.
#[inline(always)]
unsafe fn store_pair<S: Simd>(s: S, [a, b]: [S::V; 2], to: *mut f32, pitch: usize, n: usize) {
    // SAFETY: as by contract.
    unsafe {
        if n < S::LANES {
            s.store_first(to, a, n);
            s.store_first(to.add(pitch), b, n);
        } else {
            s.store(to, a);
            s.store(to.add(pitch), b);
        }
    }
}

/// Every `combs`-th column of a row.
#[inline(always)]
fn copy_comb(from: &[f32], comb: usize, combs: usize, columns: Range<isize>, to: &mut [f32]) {
    let width = from.len().saturating_sub(comb).div_ceil(combs) as isize;
    let count = (columns.end - columns.start) as usize;
    let left = (-columns.start).clamp(0, count as isize) as usize;
    let first = columns.start.max(0);
    let inside = (width - first).clamp(0, (count - left) as isize) as usize;
    let to = &mut to[..count];
    to[..left].fill(0.0);
    to[left + inside..].fill(0.0);
    if inside > 0 {
        let from = from[comb + first as usize * combs..].iter().step_by(combs);
        for (to, from) in to[left..left + inside].iter_mut().zip(from) {
            *to = *from;
        }
    }
}
