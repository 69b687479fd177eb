//! Packing of weights into panels of channel vectors.

use crate::pack::pack_panel;
use crate::simd::{Kernel, Simd};
use crate::view::MatRef;

/// Where the weights of a product lie: tap t of channel c for output channel r is at
/// `r * row_stride + c * channel_stride + t`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) rows: usize,
    pub(super) row_stride: usize,
    pub(super) channel_stride: usize,
    pub(super) taps: usize,
    /// Whether the taps of a channel are packed from the last to the first: as a transposed product meets
    /// them, since a stream of weights is foreseen by the caches in ascending order.
    pub(super) reversed: bool,
}

impl Layout {
    /// The place of a tap among the packed ones of its channel.
    pub(super) fn place(&self, tap: usize) -> usize {
        if self.reversed { self.taps - 1 - tap } else { tap }
    }
}

/// Packs some channels of a panel: `[channel][place of the tap][vectors * LANES]`. Lanes beyond the last row are 0.
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
    fn run<S: Simd>(self, s: S) {
        let Layout { rows, channel_stride, taps, row_stride, reversed } = self.layout;
        let width = self.vectors * S::LANES;
        let rows = width.min(rows - self.first_row);
        let depth = self.panel.len() / width;
        // The taps of consecutive channels may follow one another.
        let run = if channel_stride == taps && !reversed { depth } else { taps };
        let first = self.first_row * row_stride + self.first_channel * channel_stride;
        for (i, panel) in self.panel.chunks_exact_mut((run * width).max(1)).enumerate() {
            let weight = MatRef::new(&self.weight[first + i * channel_stride..], rows, run, row_stride, 1);
            pack_panel(s, weight, 0..rows, 0..run, [width; 2], panel);
            if reversed {
                let (first, second) = panel.split_at_mut(run.div_ceil(2) * width);
                let from_end = second.chunks_exact_mut(width).rev();
                first.chunks_exact_mut(width).zip(from_end).for_each(|(a, b)| a.swap_with_slice(b));
            }
        }
    }
}
