//! Normalisation over groups of the channels of a sample: x-hat = (x - mean x) / sigma with
//! sigma^2 = mean((x - mean x)^2) + eps, or without the mean.
//!
//! Everything is computed in f64 from elements in f32. The difference does not cancel: with c = z - mean z,
//! e = d - mean d and sigma' at z + d,
//!
//! ```text
//! x-hat' - x-hat = e / sigma' + c (1/sigma' - 1/sigma)
//! 1/sigma' - 1/sigma = -(sigma'^2 - sigma^2) / (sigma sigma' (sigma + sigma'))
//! sigma'^2 - sigma^2 = mean(e (2 c + e))
//! ```

use std::ops::Range;

use crate::layout::Layout;
use crate::simd::{Kernel, MAX_LANES, Simd};

/// What is normalised.
#[derive(Clone, Copy, Debug)]
pub(super) struct Norm {
    /// That of a piece of the tile.
    pub(super) layout: Layout,
    /// Channels and pixels.
    pub(super) image: [usize; 2],
    pub(super) groups: usize,
    /// Whether the mean is subtracted.
    pub(super) centred: bool,
    pub(super) eps: f64,
    /// Elements of a pixel of a plane.
    pub(super) width: usize,
}

/// A pass over a tile: at z, or at z + d.
pub(super) struct NormPass<'a> {
    pub(super) norm: Norm,
    pub(super) z: &'a [f32],
    pub(super) task: Task<'a>,
}

pub(super) enum Task<'a> {
    Forward { value: &'a mut [f32] },
    Push { d: &'a [f32], difference: &'a mut [f32] },
    Pull { d: Option<&'a [f32]>, gradient: &'a [f32], out: &'a mut [f32] },
}

/// A number for each lane.
type Lanes = [f64; MAX_LANES];

/// The vectors of a group of channels in some lanes.
#[derive(Clone, Copy)]
struct Group {
    norm: Norm,
    channels: [usize; 2],
    /// Where the first vector of these lanes lies in the piece of the tile.
    begin: usize,
    lanes: usize,
}

impl Group {
    /// Calls `f` with the place of each vector, and those of its lanes that belong to the group.
    #[inline(always)]
    fn vectors(self, mut f: impl FnMut(usize, Range<usize>)) {
        let Group { norm: Norm { layout, image: [_, pixels], width, .. }, channels: [first, end], begin, lanes } = self;
        let across = layout.is_channels();
        let planes = if across { first / lanes..end.div_ceil(lanes) } else { first..end };
        for plane in planes {
            let own = match across {
                true => first.saturating_sub(plane * lanes)..(end - plane * lanes).min(lanes),
                false => 0..lanes,
            };
            for pixel in 0..pixels {
                f(begin + (plane * pixels + pixel) * width, own.clone());
            }
        }
    }

    /// The means of `f(element)` over the group: of each sample, which is all lanes if channels lie across them.
    #[inline(always)]
    fn mean(self, mut f: impl FnMut(usize, usize) -> f64) -> Lanes {
        let mut sums = [0.0; MAX_LANES];
        self.vectors(|at, own| {
            for lane in own {
                sums[lane] += f(at + lane, lane);
            }
        });
        if self.norm.layout.is_channels() {
            sums = [sums.iter().sum(); MAX_LANES];
        }
        let count = ((self.channels[1] - self.channels[0]) * self.norm.image[1]) as f64;
        sums.map(|sum| sum / count)
    }

    /// The means that are subtracted.
    #[inline(always)]
    fn centre(self, f: impl FnMut(usize, usize) -> f64) -> Lanes {
        if self.norm.centred { self.mean(f) } else { [0.0; MAX_LANES] }
    }

    /// `out` = `f(element)` where it belongs to the group.
    #[inline(always)]
    fn write(self, out: &mut [f32], mut f: impl FnMut(usize, usize) -> f64) {
        self.vectors(|at, own| {
            for lane in own {
                out[at + lane] = f(at + lane, lane) as f32;
            }
        });
    }
}

impl Kernel for NormPass<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let NormPass { norm, z, mut task } = self;
        let z = |i: usize| f64::from(z[i]);
        let (Task::Forward { value: out } | Task::Push { difference: out, .. } | Task::Pull { out, .. }) = &mut task;
        // Lanes beyond the last channel belong to no group.
        out.fill(0.0);
        let planes = if norm.layout.is_channels() { norm.image[0].div_ceil(S::LANES) } else { norm.image[0] };
        let pieces = (0..out.len()).step_by(planes * norm.image[1] * norm.width);
        let per_group = norm.image[0] / norm.groups;
        for group in 0..norm.groups {
            for begin in pieces.clone().flat_map(|piece| (piece..piece + norm.width).step_by(S::LANES)) {
                let channels = [group * per_group, (group + 1) * per_group];
                let group = Group { norm, channels, begin, lanes: S::LANES };
                let root = |mean: Lanes| mean.map(|mean| (mean + norm.eps).sqrt());
                match &mut task {
                    Task::Forward { value } => {
                        let mean = group.centre(|i, _| z(i));
                        let sigma = root(group.mean(|i, lane| (z(i) - mean[lane]).powi(2)));
                        group.write(value, |i, lane| (z(i) - mean[lane]) / sigma[lane]);
                    }
                    Task::Push { d, difference } => {
                        let d = |i: usize| f64::from(d[i]);
                        let [mean, mean_d] = [group.centre(|i, _| z(i)), group.centre(|i, _| d(i))];
                        let c = |i: usize, lane: usize| z(i) - mean[lane];
                        let e = |i: usize, lane: usize| d(i) - mean_d[lane];
                        let sigma = root(group.mean(|i, lane| c(i, lane).powi(2)));
                        let moved = root(group.mean(|i, lane| (c(i, lane) + e(i, lane)).powi(2)));
                        let mut change = group.mean(|i, lane| e(i, lane) * (2.0 * c(i, lane) + e(i, lane)));
                        for lane in 0..S::LANES {
                            let (sigma, moved) = (sigma[lane], moved[lane]);
                            change[lane] = -change[lane] / (sigma * moved * (sigma + moved));
                        }
                        group.write(difference, |i, lane| e(i, lane) / moved[lane] + c(i, lane) * change[lane]);
                    }
                    Task::Pull { d, gradient, out } => {
                        let x = |i: usize| z(i) + d.map_or(0.0, |d| f64::from(d[i]));
                        let g = |i: usize| f64::from(gradient[i]);
                        let mean = group.centre(|i, _| x(i));
                        let sigma = root(group.mean(|i, lane| (x(i) - mean[lane]).powi(2)));
                        let hat = |i: usize, lane: usize| (x(i) - mean[lane]) / sigma[lane];
                        let along = group.mean(|i, lane| g(i) * hat(i, lane));
                        let mean_g = group.centre(|i, _| g(i));
                        group.write(out, |i, lane| (g(i) - mean_g[lane] - hat(i, lane) * along[lane]) / sigma[lane]);
                    }
                }
            }
        }
    }
}
