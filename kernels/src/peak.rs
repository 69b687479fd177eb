//! The machine's limit: fused multiply-adds on registers.

use std::hint::black_box;
use std::time::Instant;

use crate::level::Level;
use crate::parallel::sum_over_threads;
use crate::simd::{Kernel, Simd, dispatch};

/// Independent sums: enough for two units of four cycles' latency.
const SUMS: usize = 12;
/// Steps of a run: about a millisecond, long beside the time that it takes to wake a thread.
const STEPS: usize = 800_000;
const REPEATS: usize = 40;

/// The most multiplications and additions per second that the kernels' own instructions reach on
/// all threads of the current rayon pool together, in GFLOP/s: the best of repeated short runs.
///
/// ```
/// use predictive_coding_kernels::{Level, fma_peak};
///
/// assert!(fma_peak(Level::detect()) > 0.0);
/// ```
pub fn fma_peak(level: Level) -> f64 {
    (0..REPEATS)
        .map(|_| {
            let start = Instant::now();
            // Every thread its own run: a thread that steals would make two of them one after the other.
            let flops = sum_over_threads(|| dispatch(level, Peak));
            flops / start.elapsed().as_secs_f64() * 1e-9
        })
        .fold(0.0, f64::max)
}

struct Peak;

impl Kernel<f64> for Peak {
    /// Multiplications and additions done.
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let factor = s.splat(black_box(0.999));
        let term = s.splat(black_box(1e-3));
        let mut sums = [s.splat(black_box(1.0)); SUMS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = s.fma(*sum, factor, term);
            }
        }
        let total = sums.into_iter().fold(s.splat(0.0), |a, b| s.add(a, b));
        black_box(s.sum(total));
        (2 * STEPS * SUMS * S::LANES) as f64
    }
}
