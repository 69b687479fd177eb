//! Time of work that is done again and again.

use std::time::Instant;

/// The fewest measurements that a median is taken of.
const FEWEST: usize = 3;
/// Work that takes less, in seconds, is measured several times at once, so that reading the clock
/// does not count.
const SHORTEST: f64 = 10e-6;

/// Seconds that a piece of work takes.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub median: f64,
    pub min: f64,
}

/// Does the work for at least `seconds` and at least three times.
pub fn time(seconds: f64, mut work: impl FnMut()) -> Times {
    let mut measure = |calls: usize| {
        let started = Instant::now();
        for _ in 0..calls {
            work();
        }
        started.elapsed().as_secs_f64()
    };
    let calls = (SHORTEST / measure(1).max(1e-9)).ceil() as usize;
    let started = Instant::now();
    let mut measured = Vec::new();
    while measured.len() < FEWEST || started.elapsed().as_secs_f64() < seconds {
        measured.push(measure(calls) / calls as f64);
    }
    measured.sort_by(f64::total_cmp);
    Times { median: median(&measured), min: measured[0] }
}

/// The middle of sorted numbers, the mean of both if there are two.
pub fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) { 0.5 * (sorted[middle - 1] + sorted[middle]) } else { sorted[middle] }
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;
    use std::time::Duration;

    use super::*;

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[1.0, 2.0]), 1.5);
        assert_eq!(median(&[1.0, 2.0, 9.0]), 2.0);
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), 3.0);
    }

    #[test]
    fn work_is_done_three_times_and_long_enough() {
        let mut calls = 0;
        let times = time(0.0, || {
            calls += 1;
            sleep(Duration::from_millis(2));
        });
        assert_eq!(calls, 1 + FEWEST);
        assert!(times.min >= 2e-3 && times.median >= times.min, "{times:?}");
        let started = Instant::now();
        time(0.05, || {});
        assert!(started.elapsed() >= Duration::from_millis(50));
    }
}
