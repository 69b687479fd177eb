//! Sums, and a search that is one.

use crate::layout::Layout;
use crate::level::Level;
use crate::parallel::find_first;
use crate::simd::{Kernel, MAX_LANES, Simd, dispatch, lanes};

/// Vectors that are summed in f32 before the sum goes on in f64.
const BLOCK: usize = 64;
/// Sums that are open at a time: an addition begins every half cycle and takes three or four.
const OPEN: usize = 8;
/// Elements that one thread searches: 256 KiB, which take about ten microseconds.
const SEARCHED_ALONE: usize = 1 << 16;

/// The sum of all elements. Blocks are summed in f32 and added up in f64, in an order that depends
/// on the length and the level alone.
///
/// ```
/// use predictive_coding_kernels::{Level, reduce};
///
/// assert_eq!(reduce::sum(Level::detect(), &[0.5; 100]), 50.0);
/// assert_eq!(reduce::first_not_finite(Level::detect(), &[1.0, f32::NAN]), Some(1));
/// ```
pub fn sum(level: Level, values: &[f32]) -> f32 {
    struct Sum<'a>(&'a [f32]);
    impl Kernel<f64> for Sum<'_> {
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> f64 {
            let mut total = 0.0;
            for block in self.0.chunks(BLOCK * S::LANES) {
                let rest = block.chunks_exact(S::LANES).remainder();
                let vectors = over_vectors(s, block, |v, sum| s.add(sum, v));
                total += f64::from(s.sum(vectors)) + rest.iter().map(|&x| f64::from(x)).sum::<f64>();
            }
            total
        }
    }
    dispatch(level, Sum(values)) as f32
}

/// Adds the sums of each channel of a tile, over its pixels and images, to `sums`, which has one for each channel.
///
/// ```
/// use predictive_coding_kernels::{Layout, Level, reduce};
///
/// let (level, layout) = (Level::detect(), Layout::Channels(1));
/// let mut tile = vec![0.0; layout.len(level, [2, 3])];
/// layout.load(level, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [2, 3], &mut tile);
/// let mut sums = [0.0; 2];
/// reduce::add_channels(level, layout, &tile, &mut sums);
/// assert_eq!(sums, [6.0, 15.0]);
/// ```
///
/// # Panics
/// If the tile does not have as many channels.
pub fn add_channels(level: Level, layout: Layout, tile: &[f32], sums: &mut [f32]) {
    let lanes = lanes(level);
    let planes = layout.planes(level, sums.len());
    assert!(planes > 0 && tile.len().is_multiple_of(planes * lanes), "{} elements in {planes} planes", tile.len());
    let mut planes = tile.chunks_exact(tile.len() / planes);
    match layout {
        Layout::Images | Layout::Batch(_) => {
            sums.iter_mut().zip(planes).for_each(|(to, plane)| *to += sum(level, plane));
        }
        Layout::Channels(images) => {
            for _ in 0..images {
                sums.chunks_mut(lanes).zip(&mut planes).for_each(|(to, plane)| add_plane(level, plane, to));
            }
        }
    }
}

/// Adds the sums of the lanes of the vectors of a plane to as many of them as `to` has elements. Blocks are summed in
/// f32 and added up in f64.
///
/// # Panics
/// If there are more of those than lanes.
fn add_plane(level: Level, plane: &[f32], to: &mut [f32]) {
    struct Plane<'a>(&'a [f32]);
    impl Kernel<[f64; MAX_LANES]> for Plane<'_> {
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> [f64; MAX_LANES] {
            let mut totals = [0.0; MAX_LANES];
            for block in self.0.chunks(BLOCK * S::LANES) {
                let lanes = elements(s, over_vectors(s, block, |v, sum| s.add(sum, v)));
                totals.iter_mut().zip(lanes).for_each(|(total, lane)| *total += f64::from(lane));
            }
            totals
        }
    }
    let totals = dispatch(level, Plane(plane));
    to.iter_mut().zip(&totals[..crate::lanes(level)]).for_each(|(to, total)| *to = (f64::from(*to) + total) as f32);
}

/// The index of the first element that is infinite or NaN, if there is one. See [`sum`] for an example.
pub fn first_not_finite(level: Level, values: &[f32]) -> Option<usize> {
    struct Search<'a>(&'a [f32]);
    impl Kernel<Option<usize>> for Search<'_> {
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Option<usize> {
            for (block, start) in self.0.chunks(BLOCK * S::LANES).zip((0..).step_by(BLOCK * S::LANES)) {
                // 0 times a finite number is 0, and NaN for all others.
                let vectors = over_vectors(s, block, |v, sum| s.fma(s.splat(0.0), v, sum));
                let rest = block.chunks_exact(S::LANES).remainder();
                if s.sum(vectors) != 0.0 || rest.iter().any(|x| !x.is_finite()) {
                    return block.iter().position(|x| !x.is_finite()).map(|at| start + at);
                }
            }
            None
        }
    }
    let search = |values: &[f32]| dispatch(level, Search(values));
    if values.len() <= SEARCHED_ALONE {
        return search(values);
    }
    find_first(values, SEARCHED_ALONE, |part, values| search(values).map(|at| part * SEARCHED_ALONE + at))
}

/// Adds to each image's sum the squares of its elements in a tile.
///
/// ```
/// use predictive_coding_kernels::{Layout, Level, lanes, reduce};
///
/// let level = Level::detect();
/// let mut sums = [0.0; 2];
/// reduce::add_squares(level, Layout::Channels(2), &vec![2.0; 2 * lanes(level)], &mut sums);
/// assert_eq!(sums, [4.0 * lanes(level) as f64; 2]);
/// ```
///
/// # Panics
/// If there is not a sum for each image, or `values` are not whole pixels of all images.
pub fn add_squares(level: Level, layout: Layout, values: &[f32], sums: &mut [f64]) {
    add_products(level, layout, values, values, sums);
}

/// As [`add_squares`], of products of the elements of two tensors.
///
/// # Panics
/// As [`add_squares`], or if the lengths differ.
pub fn add_products(level: Level, layout: Layout, a: &[f32], b: &[f32], sums: &mut [f64]) {
    let (images, (pieces, _), len) = (layout.images(level), layout.pieces(), a.len());
    assert!(sums.len() == images && images > 0, "{} sums of {images} images", sums.len());
    assert!(len == b.len() && len.is_multiple_of(pieces), "{len} and {} elements in {pieces} pieces", b.len());
    for (piece, sums) in sums.chunks_exact_mut(images / pieces).enumerate() {
        let [a, b] = [a, b].map(|tensor| &tensor[piece * (len / pieces)..][..len / pieces]);
        dispatch(level, ImageSums { a, b, sums });
    }
}

/// Adds the products of two pieces of a tile to the sum of each image: of one image in all lanes if there is one sum, else
/// of an image in every lane of as many vectors as the sums fill.
struct ImageSums<'a> {
    a: &'a [f32],
    b: &'a [f32],
    sums: &'a mut [f64],
}

impl Kernel for ImageSums<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let ImageSums { a, b, sums } = self;
        let (lanes, len, others, images) = (S::LANES, a.len(), b.len(), sums.len());
        let width = images.max(lanes);
        assert!(
            (images == 1 || images.is_multiple_of(lanes)) && images > 0 && len.is_multiple_of(width) && len == others,
            "{len} and {others} elements and {images} sums for {lanes} lanes"
        );
        // SAFETY: `at` is the place of a vector, since the length is whole pixels.
        let product =
            |at: usize, sum: S::V| unsafe { s.fma(s.load(a.as_ptr().add(at)), s.load(b.as_ptr().add(at)), sum) };
        for (first, sums) in (0..).step_by(lanes).zip(sums.chunks_mut(lanes)) {
            for block in (first..len).step_by(BLOCK * width) {
                let end = len.min(block + BLOCK * width);
                let mut open = [s.splat(0.0); OPEN];
                for turn in (block..end).step_by(OPEN * width) {
                    for (i, sum) in open.iter_mut().enumerate() {
                        let at = turn + i * width;
                        if at < end {
                            *sum = product(at, *sum);
                        }
                    }
                }
                let lanes = elements(s, gather(s, open));
                match sums {
                    [total] => *total += lanes[..S::LANES].iter().map(|&lane| f64::from(lane)).sum::<f64>(),
                    _ => sums.iter_mut().zip(lanes).for_each(|(total, lane)| *total += f64::from(lane)),
                }
            }
        }
    }
}

/// A sum over the whole vectors of a block, each of which `add(v, sum)` adds to an open sum.
#[inline(always)]
fn over_vectors<S: Simd>(s: S, block: &[f32], add: impl Fn(S::V, S::V) -> S::V) -> S::V {
    let mut open = [s.splat(0.0); OPEN];
    for (i, v) in block.chunks_exact(S::LANES).enumerate() {
        // SAFETY: `v` has LANES elements.
        open[i % OPEN] = add(unsafe { s.load(v.as_ptr()) }, open[i % OPEN]);
    }
    gather(s, open)
}

/// The elements of a vector, and zeros.
#[inline(always)]
pub(crate) fn elements<S: Simd>(s: S, v: S::V) -> [f32; MAX_LANES] {
    let mut elements = [0.0; MAX_LANES];
    // SAFETY: MAX_LANES >= LANES elements.
    unsafe { s.store(elements.as_mut_ptr(), v) };
    elements
}

/// The sum of the open sums.
#[inline(always)]
fn gather<S: Simd>(s: S, mut open: [S::V; OPEN]) -> S::V {
    let mut len = OPEN;
    while len > 1 {
        len /= 2;
        for i in 0..len {
            open[i] = s.add(open[i], open[len + i]);
        }
    }
    open[0]
}
