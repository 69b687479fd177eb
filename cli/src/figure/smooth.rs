//! Curves of many points.

/// A smoothed point is the mean over this fraction of the width, 1 / REACH, to either side.
const REACH: f32 = 25.0;

/// Curves with fewer points are not smoothed.
const FEW: usize = 60;

/// A curve is smooth already if smoothing moves its points by less than this on average, in pixels.
const NOISE: f32 = 0.5;

/// Means over runs of neighbouring points, so that at most `most` are left.
pub fn thin(points: &[(f64, f64)], most: usize) -> Vec<(f64, f64)> {
    let run = points.len().div_ceil(most).max(1);
    let mean = |points: &[(f64, f64)]| {
        let (x, y) = points.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (x / points.len() as f64, y / points.len() as f64)
    };
    points.chunks(run).map(mean).collect()
}

/// Each point at the mean of its neighbourhood, a twenty-fifth of the width to either side, in which what is nearer
/// weighs more. The neighbourhood narrows at the beginning, where curves are steep, and ends with the curve. None for a
/// curve that is short or smooth already. Points are sorted by x.
pub fn smooth(points: &[(f32, f32)]) -> Option<Vec<(f32, f32)>> {
    let [(first, _), .., (last, _)] = *points else { return None };
    if points.len() < FEW {
        return None;
    }
    let smoothed = |&(x, y): &(f32, f32)| {
        let reach = ((last - first) / REACH).min(x - first);
        let from = points.partition_point(|point| point.0 < x - reach);
        let to = points.partition_point(|point| point.0 <= x + reach);
        let weighed = points[from..to].iter().map(|&(px, py)| (1.0 - (px - x).abs() / reach, py));
        let (weights, sum) = weighed.fold((0.0, 0.0), |(all, sum), (weight, py)| (all + weight, sum + weight * py));
        if weights > 0.0 { (x, sum / weights) } else { (x, y) }
    };
    let smoothed: Vec<(f32, f32)> = points.iter().map(smoothed).collect();
    let moved = points.iter().zip(&smoothed).map(|(a, b)| (a.1 - b.1).abs()).sum::<f32>() / points.len() as f32;
    (moved >= NOISE).then_some(smoothed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_the_mean() {
        let points: Vec<_> = (0..10).map(|i| (f64::from(i), f64::from(2 * i))).collect();
        assert_eq!(thin(&points, 5), [(0.5, 1.0), (2.5, 5.0), (4.5, 9.0), (6.5, 13.0), (8.5, 17.0)]);
        assert_eq!(thin(&points, 10), points);
        assert_eq!(thin(&[], 5), []);
    }

    #[test]
    fn smoothing_takes_the_noise_and_keeps_the_line() {
        let line: Vec<_> = (0..200u8).map(|i| (f32::from(i), 3.0 * f32::from(i))).collect();
        let noisy: Vec<_> = (0..).zip(&line).map(|(i, &(x, y))| (x, y + if i % 2 == 0 { 2.0 } else { -2.0 })).collect();
        let smoothed = smooth(&noisy).unwrap();
        assert_eq!(smoothed[0], noisy[0]);
        let off: Vec<f32> = smoothed.iter().zip(&line).map(|(a, b)| (a.1 - b.1).abs()).collect();
        assert!(off[8..190].iter().all(|&off| off < 0.5), "{off:?}");
        // A mean over one side of 8 points, the nearer ones with more weight, lags behind by less than 3 of them.
        assert!(off[190..].iter().all(|&off| off < 9.0), "{off:?}");
        assert!(smooth(&noisy[..20]).is_none(), "it is short");
        let flat: Vec<_> = line.iter().map(|&(x, _)| (x, 1.0)).collect();
        assert!(smooth(&flat).is_none(), "it is smooth");
    }
}
