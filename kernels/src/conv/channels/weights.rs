//! Packing of weights into panels of channel vectors.

use crate::simd::{Kernel, MAX_LANES, Simd};

/// Where the weights of a product lie: tap t of channel c for output channel r is at
/// `r * row_stride + c * channel_stride + t`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) rows: usize,
    pub(super) row_stride: usize,
    pub(super) channel_stride: usize,
    pub(super) taps: usize,
}

/// Packs some channels of a panel: `[channel][tap][vectors * LANES]`. Lanes beyond the last row are 0.
pub(super) struct PackPanel<'a> {
    pub(super) layout: Layout,
    pub(super) weight: &'a [f32],
    /// The first output channel.
    pub(super) first_row: usize,
    pub(super) vectors: usize,
    pub(super) first_channel: usize,
    pub(super) panel: &'a mut [f32],
}

impl Kernel for PackPanel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let Layout { rows, channel_stride, taps, row_stride } = self.layout;
        let width = self.vectors * S::LANES;
        let channels = self.panel.len() / (taps * width);
        for vector in 0..self.vectors {
            let row = self.first_row + vector * S::LANES;
            let filled = rows.saturating_sub(row).min(S::LANES);
            let from = row * row_stride + self.first_channel * channel_stride;
            let to = vector * S::LANES;
            if filled == S::LANES && channel_stride == taps {
                // The taps of consecutive channels follow one another.
                self.transpose(s, from, channels * taps, to);
            } else if filled == S::LANES {
                for channel in 0..channels {
                    self.transpose(s, from + channel * channel_stride, taps, to + channel * taps * width);
                }
            } else {
                self.elements(from, channels, filled, to, S::LANES);
            }
        }
    }
}

impl PackPanel<'_> {
    /// LANES rows of `count` consecutive weights.
    #[inline(always)]
    fn transpose<S: Simd>(&mut self, s: S, from: usize, count: usize, to: usize) {
        let (stride, width) = (self.layout.row_stride, self.vectors * S::LANES);
        let last = from + (S::LANES - 1) * stride + count;
        assert!(count > 0 && last <= self.weight.len() && to + (count - 1) * width + S::LANES <= self.panel.len());
        let (weight, panel) = (self.weight.as_ptr(), self.panel.as_mut_ptr());
        let mut k = 0;
        while k < count {
            // SAFETY: the LANES rows of `count` weights are inside, by the assertion; a block that would reach
            // beyond `count` goes by way of the stack, and reads beyond it only what the weights still hold.
            unsafe {
                // Rows beyond `count` are the next channel's, which is packed afterwards.
                let beyond = k == 0
                    && stride > 1
                    && to + (S::LANES - 1) * width + S::LANES <= self.panel.len()
                    && last - count + S::LANES <= self.weight.len();
                if k + S::LANES <= count || beyond {
                    s.transpose(weight.add(from + k), stride, panel.add(to + k * width), width);
                } else if count >= S::LANES {
                    // The last block overlaps the one before.
                    k = count - S::LANES;
                    s.transpose(weight.add(from + k), stride, panel.add(to + k * width), width);
                } else if stride == 1 {
                    s.store(panel.add(to), s.load(weight.add(from)));
                } else {
                    let mut block = [0.0; MAX_LANES * MAX_LANES];
                    if last - count + S::LANES <= self.weight.len() {
                        s.transpose(weight.add(from), stride, block.as_mut_ptr(), S::LANES);
                    } else {
                        for lane in 0..S::LANES {
                            for k in 0..count {
                                block[k * S::LANES + lane] = *weight.add(from + lane * stride + k);
                            }
                        }
                    }
                    for k in 0..count {
                        s.store(panel.add(to + k * width), s.load(block.as_ptr().add(k * S::LANES)));
                    }
                }
            }
            k += S::LANES;
        }
    }

    /// A vector whose last lanes have no row.
    #[inline(always)]
    fn elements(&mut self, from: usize, channels: usize, filled: usize, to: usize, lanes: usize) {
        let Layout { channel_stride, taps, row_stride, .. } = self.layout;
        let width = self.vectors * lanes;
        for channel in 0..channels {
            for tap in 0..taps {
                let vector = &mut self.panel[to + (channel * taps + tap) * width..][..lanes];
                for (lane, to) in vector[..filled].iter_mut().enumerate() {
                    *to = self.weight[from + lane * row_stride + channel * channel_stride + tap];
                }
                vector[filled..].fill(0.0);
            }
        }
    }
}
