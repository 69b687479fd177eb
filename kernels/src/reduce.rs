//! Sums.

use crate::level::Level;
use crate::simd::{Kernel, MAX_LANES, Simd, dispatch};

/// Vectors that are summed in f32 before the sum goes on in f64.
const BLOCK: usize = 64;
/// Sums that are open at a time: an addition begins every half cycle and takes three or four.
const OPEN: usize = 8;

/// The sum of a term for each whole vector of a block.
#[inline(always)]
fn sum_block<S: Simd, T: Term>(s: S, block: &[f32]) -> S::V {
    let mut open = [s.splat(0.0); OPEN];
    let mut turns = block.chunks_exact(OPEN * S::LANES);
    for turn in turns.by_ref() {
        for (sum, v) in open.iter_mut().zip(turn.chunks_exact(S::LANES)) {
            // SAFETY: `v` has LANES elements.
            *sum = T::add(s, unsafe { s.load(v.as_ptr()) }, *sum);
        }
    }
    for v in turns.remainder().chunks_exact(S::LANES) {
        // SAFETY: `v` has LANES elements.
        open[0] = T::add(s, unsafe { s.load(v.as_ptr()) }, open[0]);
    }
    let mut len = OPEN;
    while len > 1 {
        len /= 2;
        for i in 0..len {
            open[i] = s.add(open[i], open[len + i]);
        }
    }
    open[0]
}

/// What is added to a sum.
trait Term {
    fn add<S: Simd>(s: S, v: S::V, sum: S::V) -> S::V;
}

struct Itself;

impl Term for Itself {
    #[inline(always)]
    fn add<S: Simd>(s: S, v: S::V, sum: S::V) -> S::V {
        s.add(sum, v)
    }
}

struct Square;

impl Term for Square {
    #[inline(always)]
    fn add<S: Simd>(s: S, v: S::V, sum: S::V) -> S::V {
        s.fma(v, v, sum)
    }
}

/// The sum of all elements. Blocks are summed in f32 and added up in f64, in an order that depends
/// on the length and the level alone.
pub fn sum(level: Level, values: &[f32]) -> f32 {
    struct Sum<'a>(&'a [f32]);
    impl Kernel for Sum<'_> {
        type Output = f64;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> f64 {
            let mut total = 0.0;
            for block in self.0.chunks(BLOCK * S::LANES) {
                let sum = sum_block::<S, Itself>(s, block);
                let rest = block.chunks_exact(S::LANES).remainder();
                total += f64::from(s.sum(sum)) + rest.iter().map(|&x| f64::from(x)).sum::<f64>();
            }
            total
        }
    }
    dispatch(level, Sum(values)) as f32
}

/// Adds to `sums[lane]` the squares of the elements of that lane of `[elements][lanes]`, a vector
/// of the level having as many lanes as `sums` has elements.
///
/// # Panics
/// If `sums` has another number of elements, or `values` is not a multiple of it.
pub fn add_lane_squares(level: Level, values: &[f32], sums: &mut [f64]) {
    struct Squares<'a>(&'a [f32], &'a mut [f64]);
    impl Kernel for Squares<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            assert!(
                self.1.len() == S::LANES && self.0.len().is_multiple_of(S::LANES),
                "{} elements and {} sums for {} lanes",
                self.0.len(),
                self.1.len(),
                S::LANES
            );
            for block in self.0.chunks(BLOCK * S::LANES) {
                let sum = sum_block::<S, Square>(s, block);
                let mut lanes = [0.0; MAX_LANES];
                // SAFETY: `lanes` has MAX_LANES >= LANES elements.
                unsafe { s.store(lanes.as_mut_ptr(), sum) };
                for (total, lane) in self.1.iter_mut().zip(lanes) {
                    *total += f64::from(lane);
                }
            }
        }
    }
    dispatch(level, Squares(values, sums));
}
