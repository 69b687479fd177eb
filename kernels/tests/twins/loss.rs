//! Losses with an image in every lane against their twins.

use predictive_coding_kernels::{Level, lanes, loss, reference};
use rand::{Rng, RngExt};

use crate::common::*;

/// Outputs and deviations `[samples][classes]` of a size, and labels; some samples have none.
struct Outputs {
    y: Vec<f32>,
    d: Vec<f32>,
    labels: Vec<Option<usize>>,
}

impl Outputs {
    fn random(rng: &mut impl Rng, samples: usize, classes: usize, scale: f32) -> Self {
        let mut scaled = |factor: f32| values(rng, samples * classes).iter().map(|x| x * factor).collect();
        let (y, d) = (scaled(scale), scaled(scale * 0.1));
        let mut label = || rng.random_bool(0.9).then(|| rng.random_range(0..classes));
        Outputs { y, d, labels: (0..samples).map(|_| label()).collect() }
    }

    fn lane_labels(&self) -> Vec<f32> {
        self.labels.iter().map(|label| label.map_or(-1.0, |label| label as f32)).collect()
    }
}

fn cross_entropy(level: Level, outputs: &Outputs, scale: f32) -> (Vec<f32>, Vec<f64>) {
    let (mut error, mut losses) = (vec![GAP; outputs.y.len()], vec![f64::NAN; lanes(level)]);
    let (y, d) = (to_lanes(level, &outputs.y), to_lanes(level, &outputs.d));
    loss::cross_entropy(level, &y, &d, &outputs.lane_labels(), scale, &mut error, &mut losses);
    (from_lanes(level, &error), losses)
}

#[test]
fn cross_entropy_of_outputs_of_any_size() {
    let mut rng = generator(40);
    for level in levels() {
        for classes in (1..=20).chain([100, 257]) {
            for scale in [0.0, 1e-6, 0.1, 1.0, 5.0, 20.0, 80.0] {
                let outputs = Outputs::random(&mut rng, lanes(level), classes, scale);
                let factor = 1.0 / rng.random_range(1..300) as f32;
                let (error, losses) = cross_entropy(level, &outputs, factor);
                let (want, want_losses) = reference::cross_entropy(&outputs.y, &outputs.d, &outputs.labels, factor);
                // Outputs and their distance from the largest are rounded; the exponential of an error
                // of so much is as large relative to its value.
                let bound = (8.0 + 2.0 * (classes as f64).sqrt() + 4.0 * f64::from(scale)) * ROUNDING;
                let case = (level, classes, scale);
                assert_within(&error, &want, |i| bound * want[i].abs() + 1e-44, &case);
                for (got, want) in losses.iter().zip(want_losses) {
                    // Where the label is the largest output, the loss may be small and is relative to itself.
                    let tolerance = bound * if want < 0.5 { want } else { 1.0 } + 1e-44;
                    assert!((got - want).abs() <= tolerance, "{case:?}: loss {got:e}, expected {want:e}");
                }
            }
        }
    }
}

/// 1 - p at the label would have no digit left: p differs from 1 by e^-30.
#[test]
fn confident_outputs_keep_their_error() {
    for level in levels() {
        for margin in [20.0, 30.0, 60.0] {
            let samples = lanes(level);
            let y: Vec<f32> = (0..samples).flat_map(|_| [0.0, margin, -1.0]).collect();
            let outputs = Outputs { d: vec![0.0; y.len()], y, labels: vec![Some(1); samples] };
            let (error, losses) = cross_entropy(level, &outputs, 1.0);
            let rest = f64::from(-margin).exp() * (1.0 + (-1f64).exp());
            for (error, loss) in error.chunks(3).zip(losses) {
                approx::assert_relative_eq!(f64::from(error[1]), -rest, max_relative = 1e-6);
                approx::assert_relative_eq!(loss, rest, max_relative = 1e-6);
            }
        }
    }
}

#[test]
fn nan_and_huge_outputs() {
    for level in levels() {
        let samples = lanes(level);
        for class in 0..3 {
            for poison in [f32::NAN, f32::INFINITY] {
                let mut y = vec![0.5; 3 * samples];
                y[class] = poison;
                let outputs = Outputs { d: vec![0.0; y.len()], y, labels: vec![Some(1); samples] };
                let (error, losses) = cross_entropy(level, &outputs, 1.0);
                assert!(losses[0].is_nan() && error[..3].iter().any(|e| e.is_nan()), "{level}, {poison} in {class}");
                assert!(losses[1..].iter().all(|l| l.is_finite()) && error[3..].iter().all(|e| e.is_finite()));
            }
        }
        // A distance that overflows the exponential.
        let y: Vec<f32> = (0..samples).flat_map(|_| [1e30, -1e30, 0.0]).collect();
        let outputs = Outputs { d: vec![0.0; y.len()], y, labels: vec![Some(1); samples] };
        let (error, losses) = cross_entropy(level, &outputs, 1.0);
        assert_eq!(error[..3], [1.0, -1.0, 0.0]);
        assert_eq!(losses[0], 2.0 * f64::from(1e30f32));
    }
}

/// Lanes without a sample get no error, whatever they hold.
#[test]
fn unused_lanes_are_left_out() {
    let mut rng = generator(41);
    for level in levels() {
        let samples = lanes(level);
        for used in 0..=samples {
            let mut outputs = Outputs::random(&mut rng, samples, 5, 1.0);
            outputs.y[used * 5..].fill(f32::NAN);
            outputs.labels.iter_mut().enumerate().for_each(|(i, label)| *label = (i < used).then_some(i % 5));
            let (error, losses) = cross_entropy(level, &outputs, 1.0);
            assert!(error[used * 5..].iter().all(|&e| e == 0.0) && losses[used..].iter().all(|&l| l == 0.0));
            assert!(error[..used * 5].iter().all(|&e| e != 0.0) && losses[..used].iter().all(|&l| l > 0.0));

            let mut target = values(&mut rng, samples * 5);
            target[used * 5..].fill(f32::NAN);
            let (want, want_losses) = reference::squared_error(samples, &outputs.y, &outputs.d, &target, 0.25);
            let [y, d, target] = [&outputs.y, &outputs.d, &target].map(|x| to_lanes(level, x));
            let (mut error, mut losses) = (vec![GAP; y.len()], vec![f64::NAN; samples]);
            loss::squared_error(level, &y, &d, &target, used, 0.25, &mut error, &mut losses);
            let error = from_lanes(level, &error);
            assert!(error[used * 5..].iter().all(|&e| e == 0.0) && losses[used..].iter().all(|&l| l == 0.0));
            assert_within(&error[..used * 5], &want[..used * 5], |_| 4.0 * ROUNDING, &(level, used));
            for (got, want) in losses[..used].iter().zip(&want_losses) {
                approx::assert_relative_eq!(got, want, max_relative = 1e-6);
            }
        }
    }
}

#[test]
fn squared_error() {
    let mut rng = generator(42);
    for level in levels() {
        for outputs in (0..40).chain([1000]) {
            let samples = lanes(level);
            let scale = 10f32.powi(rng.random_range(-4..4));
            let [y, d, target] = [scale, scale * 1e-3, scale]
                .map(|factor| values(&mut rng, samples * outputs).iter().map(|x| x * factor).collect::<Vec<f32>>());
            let (mut error, mut losses) = (vec![GAP; y.len()], vec![f64::NAN; samples]);
            let lanes = [&y, &d, &target].map(|x| to_lanes(level, x));
            loss::squared_error(level, &lanes[0], &lanes[1], &lanes[2], samples, 0.3, &mut error, &mut losses);
            if outputs == 0 {
                assert!(losses.iter().all(|&loss| loss == 0.0));
                continue;
            }
            let (want, want_losses) = reference::squared_error(samples, &y, &d, &target, 0.3);
            // Two roundings of a difference of at most 2 scale, and two of the factor 0.6.
            let tolerance = |i: usize| 2.0 * ROUNDING * (0.6 * 2.0 * f64::from(scale) + want[i].abs());
            assert_within(&from_lanes(level, &error), &want, tolerance, &(level, outputs, scale));
            for (got, want) in losses.iter().zip(want_losses) {
                let size = f64::from(scale) * 2.0 * (want * outputs as f64).sqrt() + want;
                assert!((got - want).abs() <= 4.0 * ROUNDING * size, "{level}, {outputs}: {got:e}, expected {want:e}");
            }
        }
    }
}
