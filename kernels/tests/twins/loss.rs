//! Losses of tiles against their twins.

use predictive_coding_kernels::loss;
use rand::{Rng, RngExt};

use crate::common::*;
use crate::naive;

/// Outputs and deviations `[samples][classes]` of a size, and labels; some samples have none.
struct Case {
    y: Vec<f32>,
    d: Vec<f32>,
    labels: Vec<Option<usize>>,
}

impl Case {
    fn random(rng: &mut impl Rng, samples: usize, classes: usize, scale: f32) -> Self {
        let mut scaled = |factor: f32| values(rng, samples * classes).iter().map(|x| x * factor).collect();
        let (y, d) = (scaled(scale), scaled(scale * 0.1));
        let mut label = || rng.random_bool(0.9).then(|| rng.random_range(0..classes));
        Case { y, d, labels: (0..samples).map(|_| label()).collect() }
    }

    fn lane_labels(&self) -> Vec<f32> {
        self.labels.iter().map(|label| label.map_or(-1.0, |label| label as f32)).collect()
    }
}

/// So many outputs as pixels of some channels.
fn image(rng: &mut impl Rng, outputs: usize) -> [usize; 2] {
    let divisors: Vec<_> = (1..=outputs).filter(|channels| outputs.is_multiple_of(*channels)).collect();
    let channels = divisors[rng.random_range(0..divisors.len())];
    [channels, outputs / channels]
}

fn outputs(tiling: Tiling, image: [usize; 2]) -> loss::Outputs {
    loss::Outputs { level: tiling.level, layout: tiling.layout, image }
}

/// Errors and losses of a tile.
fn cross_entropy(tiling: Tiling, image: [usize; 2], case: &Case, scale: f32) -> (Vec<f32>, Vec<f64>) {
    let (to_tile, of_tile) = tiling.both_ways(image[0]);
    let (y, d) = (to_tile(&case.y), to_tile(&case.d));
    let (mut error, mut losses) = (vec![GAP; y.len()], vec![f64::NAN; tiling.images()]);
    outputs(tiling, image).cross_entropy(&y, &d, &case.lane_labels(), scale, &mut error, &mut losses);
    (of_tile(&error), losses)
}

/// As [`cross_entropy`], of images of which some are used.
fn squared_error(tiling: Tiling, image: [usize; 2], used: usize, x: [&[f32]; 3], scale: f32) -> (Vec<f32>, Vec<f64>) {
    let (to_tile, of_tile) = tiling.both_ways(image[0]);
    let [y, d, target] = x.map(to_tile);
    let (mut error, mut losses) = (vec![GAP; y.len()], vec![f64::NAN; tiling.images()]);
    outputs(tiling, image).squared_error(&y, &d, &target, used, scale, &mut error, &mut losses);
    (of_tile(&error), losses)
}

#[test]
fn cross_entropy_of_outputs_of_any_size() {
    let mut rng = generator(40);
    for tiling in tilings_and_batches() {
        for classes in (1..=20).chain([100, 257]) {
            for scale in [0.0, 1e-6, 0.1, 1.0, 5.0, 20.0, 80.0] {
                let outputs = Case::random(&mut rng, tiling.images(), classes, scale);
                let factor = 1.0 / rng.random_range(1..300) as f32;
                let (error, losses) = cross_entropy(tiling, image(&mut rng, classes), &outputs, factor);
                let (want, want_losses) = naive::cross_entropy(&outputs.y, &outputs.d, &outputs.labels, factor);
                // Outputs and their distance from the largest are rounded; the exponential of an error
                // of so much is as large relative to its value.
                let bound = (8.0 + 2.0 * (classes as f64).sqrt() + 4.0 * f64::from(scale)) * ROUNDING;
                let case = (tiling, classes, scale);
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
    for tiling in tilings_and_batches() {
        for margin in [20.0, 30.0, 60.0] {
            let samples = tiling.images();
            let y: Vec<f32> = (0..samples).flat_map(|_| [0.0, margin, -1.0]).collect();
            let outputs = Case { d: vec![0.0; y.len()], y, labels: vec![Some(1); samples] };
            let (error, losses) = cross_entropy(tiling, [3, 1], &outputs, 1.0);
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
    for tiling in tilings_and_batches() {
        let samples = tiling.images();
        for class in 0..3 {
            for poison in [f32::NAN, f32::INFINITY] {
                let mut y = vec![0.5; 3 * samples];
                y[class] = poison;
                let outputs = Case { d: vec![0.0; y.len()], y, labels: vec![Some(1); samples] };
                let (error, losses) = cross_entropy(tiling, [3, 1], &outputs, 1.0);
                assert!(losses[0].is_nan() && error[..3].iter().any(|e| e.is_nan()), "{tiling:?}, {poison} in {class}");
                assert!(losses[1..].iter().all(|l| l.is_finite()) && error[3..].iter().all(|e| e.is_finite()));
            }
        }
        // A distance that overflows the exponential.
        let y: Vec<f32> = (0..samples).flat_map(|_| [1e30, -1e30, 0.0]).collect();
        let outputs = Case { d: vec![0.0; y.len()], y, labels: vec![Some(1); samples] };
        let (error, losses) = cross_entropy(tiling, [3, 1], &outputs, 1.0);
        assert_eq!(error[..3], [1.0, -1.0, 0.0]);
        assert_eq!(losses[0], 2.0 * f64::from(1e30f32));
    }
}

/// Whatever they hold.
#[test]
fn unused_images_get_no_error() {
    let mut rng = generator(41);
    for tiling in tilings_and_batches() {
        let samples = tiling.images();
        for used in 0..=samples {
            let image = image(&mut rng, 6);
            let mut outputs = Case::random(&mut rng, samples, 6, 1.0);
            outputs.y[used * 6..].fill(f32::NAN);
            outputs.labels.iter_mut().enumerate().for_each(|(i, label)| *label = (i < used).then_some(i % 6));
            let (error, losses) = cross_entropy(tiling, image, &outputs, 1.0);
            assert!(error[used * 6..].iter().all(|&e| e == 0.0) && losses[used..].iter().all(|&l| l == 0.0));
            assert!(error[..used * 6].iter().all(|&e| e != 0.0) && losses[..used].iter().all(|&l| l > 0.0));

            let mut target = values(&mut rng, samples * 6);
            target[used * 6..].fill(f32::NAN);
            let (want, want_losses) = naive::squared_error(samples, &outputs.y, &outputs.d, &target, 0.25);
            let (error, losses) = squared_error(tiling, image, used, [&outputs.y, &outputs.d, &target], 0.25);
            assert!(error[used * 6..].iter().all(|&e| e == 0.0) && losses[used..].iter().all(|&l| l == 0.0));
            assert_within(&error[..used * 6], &want[..used * 6], |_| 4.0 * ROUNDING, &(tiling, used));
            for (got, want) in losses[..used].iter().zip(&want_losses) {
                approx::assert_relative_eq!(got, want, max_relative = 1e-6);
            }
        }
    }
}

#[test]
fn squared_error_of_outputs_of_any_size() {
    let mut rng = generator(42);
    for tiling in tilings_and_batches() {
        for count in (0..40).chain([1000]) {
            let samples = tiling.images();
            let scale = 10f32.powi(rng.random_range(-4..4));
            let [y, d, target] = [scale, scale * 1e-3, scale]
                .map(|factor| values(&mut rng, samples * count).iter().map(|x| x * factor).collect::<Vec<f32>>());
            let image = if count == 0 { [1, 0] } else { image(&mut rng, count) };
            let (error, losses) = squared_error(tiling, image, samples, [&y, &d, &target], 0.3);
            if count == 0 {
                assert!(losses.iter().all(|&loss| loss == 0.0));
                continue;
            }
            let (want, want_losses) = naive::squared_error(samples, &y, &d, &target, 0.3);
            // Two roundings of a difference of at most 2 scale, and two of the factor 0.6.
            let tolerance = |i: usize| 2.0 * ROUNDING * (0.6 * 2.0 * f64::from(scale) + want[i].abs());
            assert_within(&error, &want, tolerance, &(tiling, image, scale));
            for (got, want) in losses.iter().zip(want_losses) {
                let size = f64::from(scale) * 2.0 * (want * count as f64).sqrt() + want;
                assert!(
                    (got - want).abs() <= 4.0 * ROUNDING * size,
                    "{tiling:?}, {image:?}: {got:e}, expected {want:e}"
                );
            }
        }
    }
}

/// Lanes beyond the last channel get no error, so that a whole tile may be summed.
#[test]
fn places_of_the_outputs() {
    for tiling in tilings_and_batches() {
        for image in [[1, 1], [3, 2], [5, 1], [18, 3]] {
            let outputs = outputs(tiling, image);
            let want: Vec<_> = tiling.places(image[0], image[1]).collect();
            let got: Vec<_> = (0..tiling.images()).flat_map(|image| outputs.places(image)).collect();
            assert_eq!(got, want, "{tiling:?}, {image:?}");

            let y = tiling.to_tile(image[0], &vec![0.5; want.len()]);
            let (zeros, mut losses) = (vec![0.0; y.len()], vec![0.0; tiling.images()]);
            let [mut entropy, mut squares] = [0; 2].map(|_| vec![GAP; y.len()]);
            outputs.cross_entropy(&y, &zeros, &vec![0.0; tiling.images()], 1.0, &mut entropy, &mut losses);
            outputs.squared_error(&y, &zeros, &zeros, tiling.images(), 1.0, &mut squares, &mut losses);
            for error in [&mut entropy, &mut squares] {
                want.iter().for_each(|&place| error[place] = 0.0);
                assert!(error.iter().all(|&e| e == 0.0), "{tiling:?}, {image:?}");
            }
        }
    }
}
