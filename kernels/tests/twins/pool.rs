//! Pooling with an image in every lane against its twins.

use predictive_coding_kernels::{ConvShape, LaneAvgPool, LaneMaxPool, Level, lanes, reference};
use rand::{Rng, RngExt};

use crate::common::*;

/// The random and the regular windows that pooling is tested with.
fn shapes(rng: &mut impl Rng) -> Vec<ConvShape> {
    let mut shapes = square_windows(3, 3);
    shapes.extend((0..500).map(|_| {
        let shape = random_shape(rng, 7, 12);
        ConvShape { out_channels: shape.in_channels, ..shape }
    }));
    shapes
}

/// Whether every window of max pooling has an element that is not padding.
fn reaches(shape: &ConvShape) -> bool {
    (0..2).all(|axis| {
        let hits = |out: usize, tap: usize| {
            let at = out * shape.stride[axis] + tap * shape.dilation[axis];
            at >= shape.padding[axis] && at < shape.padding[axis] + shape.input[axis]
        };
        (0..reference::output_size(shape)[axis]).all(|out| (0..shape.kernel[axis]).any(|tap| hits(out, tap)))
    })
}

fn taps(winner: &[f32]) -> Vec<usize> {
    winner.iter().map(|&tap| tap as usize).collect()
}

/// Exact, on coarse data with many ties, sometimes with NaN and infinity.
fn check_max_pool(rng: &mut impl Rng, level: Level, shape: ConvShape) {
    let planes = lanes(level) * shape.in_channels;
    let [input, output] = sizes(&shape, lanes(level));
    let pool = LaneMaxPool::new(level, &shape);
    let case = (level, shape);
    let mut z = coarse(rng, input);
    let special = [f32::NAN, f32::NEG_INFINITY];
    if rng.random_bool(0.3) {
        z.iter_mut().for_each(|z| *z = if rng.random_bool(0.2) { special[rng.random_range(0..2)] } else { *z });
    }
    let z_lanes = to_lanes(level, &z);
    let (mut value, mut winner) = (vec![f32::NAN; output], vec![f32::NAN; output]);
    pool.forward(&z_lanes, &mut value, &mut winner, false);
    let (want, want_winner) = reference::max_pool(&shape, planes, &z);
    assert_within(&from_lanes(level, &value), &want, |_| 0.0, &case);
    assert_eq!(taps(&from_lanes(level, &winner)), want_winner, "winners of {case:?}");

    let mut d = coarse(rng, input);
    if rng.random_bool(0.2) {
        d.iter_mut().for_each(|d| *d = if rng.random_bool(0.1) { f32::NAN } else { *d });
    }
    let (mut difference, mut new_winner) = (vec![f32::NAN; output], vec![f32::NAN; output]);
    pool.push(&z_lanes, &value, &to_lanes(level, &d), &mut difference, &mut new_winner, false);
    let (want, want_winner) = reference::max_pool_push(&shape, planes, &z, &from_lanes(level, &value), &d);
    assert_within(&from_lanes(level, &difference), &want, |_| 0.0, &(case, "differences"));
    assert_eq!(taps(&from_lanes(level, &new_winner)), want_winner, "winners of differences of {case:?}");

    let gradient = coarse(rng, output);
    let mut back = vec![f32::NAN; input];
    pool.backward(&to_lanes(level, &gradient), &new_winner, &mut back, false);
    let want = reference::max_pool_backward(&shape, planes, &gradient, &want_winner);
    assert_within(&from_lanes(level, &back), &want, |_| 0.0, &(case, "backward"));
}

#[test]
fn max_pool() {
    let mut rng = generator(20);
    for level in levels() {
        for shape in shapes(&mut rng).into_iter().filter(reaches) {
            check_max_pool(&mut rng, level, shape);
        }
    }
}

/// With deviations of 1e-6 to 1e-1 of the values, the deviation of the result is right to a few
/// roundings of its own size and of the gaps between the values.
#[test]
fn max_pool_differences_do_not_cancel() {
    let mut rng = generator(21);
    for level in levels() {
        for shape in shapes(&mut rng).into_iter().filter(reaches) {
            let planes = lanes(level) * shape.in_channels;
            let [input, output] = sizes(&shape, lanes(level));
            let scale = 10f32.powi(rng.random_range(-6..0));
            let (z, d) = (values(&mut rng, input), values(&mut rng, input));
            let d: Vec<f32> = d.iter().map(|d| d * scale).collect();
            let pool = LaneMaxPool::new(level, &shape);
            let [mut value, mut difference, mut winner] = [0; 3].map(|_| vec![0.0; output]);
            pool.forward(&to_lanes(level, &z), &mut value, &mut winner, false);
            let (z_lanes, d_lanes) = (to_lanes(level, &z), to_lanes(level, &d));
            pool.push(&z_lanes, &value, &d_lanes, &mut difference, &mut winner, false);
            let (want, _) = reference::max_pool_push(&shape, planes, &z, &from_lanes(level, &value), &d);
            // The winner's value is at most 2 |d| below the old winner's.
            let tolerance = 6.0 * ROUNDING * f64::from(scale);
            assert_within(&from_lanes(level, &difference), &want, |_| tolerance, &(level, shape, scale));
        }
    }
}

fn check_mean(
    rng: &mut impl Rng,
    level: Level,
    pool: &LaneAvgPool,
    [input, output]: [usize; 2],
    forward: impl Fn(&[f32]) -> Vec<f64>,
    backward: impl Fn(&[f32]) -> Vec<f64>,
    case: &dyn std::fmt::Debug,
) {
    let mut z = values(rng, input);
    if rng.random_bool(0.2) {
        let place = rng.random_range(0..input);
        z[place] = f32::NAN;
    }
    let mut mean = vec![f32::NAN; output];
    pool.forward(&to_lanes(level, &z), &mut mean, false);
    let size = forward(&absolute(&z));
    // No window has more than 12 x 12 elements.
    assert_within(&from_lanes(level, &mean), &forward(&z), |i| of_sum(144, size[i]), case);
    let gradient = values(rng, output);
    let mut back = vec![f32::NAN; input];
    pool.backward(&to_lanes(level, &gradient), &mut back, false);
    let size = backward(&absolute(&gradient));
    assert_within(&from_lanes(level, &back), &backward(&gradient), |i| of_sum(144, size[i]), case);
}

#[test]
fn avg_pool() {
    let mut rng = generator(22);
    for level in levels() {
        for shape in shapes(&mut rng) {
            let planes = lanes(level) * shape.in_channels;
            check_mean(
                &mut rng,
                level,
                &LaneAvgPool::fixed(level, &shape),
                sizes(&shape, lanes(level)),
                |z| reference::avg_pool(&shape, planes, z),
                |gradient| reference::avg_pool_backward(&shape, planes, gradient),
                &(level, shape),
            );
        }
    }
}

#[test]
fn adaptive_avg_pool() {
    let mut rng = generator(23);
    for level in levels() {
        for i in 0..12 * 12 {
            // One axis by all pairs, the other at random.
            let [mut input, mut output] =
                [[i / 12 + 1, rng.random_range(1..13)], [i % 12 + 1, rng.random_range(1..13)]];
            if rng.random() {
                input.reverse();
                output.reverse();
            }
            let channels = rng.random_range(1..4);
            let planes = lanes(level) * channels;
            check_mean(
                &mut rng,
                level,
                &LaneAvgPool::adaptive(level, channels, input, output),
                [input, output].map(|[height, width]| planes * height * width),
                |z| reference::adaptive_avg_pool(input, output, planes, z),
                |gradient| reference::adaptive_avg_pool_backward(input, output, planes, gradient),
                &(level, channels, input, output),
            );
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let mut rng = generator(24);
    let shape = ConvShape {
        in_channels: 70,
        out_channels: 70,
        input: [50, 70],
        kernel: [3, 2],
        stride: [2, 1],
        padding: [1, 0],
        dilation: [1, 2],
    };
    for level in levels() {
        let [input, output] = sizes(&shape, lanes(level));
        let [z, d, gradient] = [input, input, output].map(|len| coarse(&mut rng, len));
        let max = LaneMaxPool::new(level, &shape);
        let means = [
            LaneAvgPool::fixed(level, &shape),
            LaneAvgPool::adaptive(level, 70, [50, 70], reference::output_size(&shape)),
        ];
        let all = |threads: usize, parallel: bool| {
            on_threads(threads, || {
                let mut results = vec![];
                let [mut value, mut winner, mut difference, mut new_winner] = [0; 4].map(|_| vec![f32::NAN; output]);
                max.forward(&z, &mut value, &mut winner, parallel);
                max.push(&z, &value, &d, &mut difference, &mut new_winner, parallel);
                let mut back = vec![f32::NAN; input];
                max.backward(&gradient, &new_winner, &mut back, parallel);
                results.extend([value, winner, difference, new_winner, back]);
                for mean in &means {
                    let (mut value, mut back) = (vec![f32::NAN; output], vec![f32::NAN; input]);
                    mean.forward(&z, &mut value, parallel);
                    mean.backward(&gradient, &mut back, parallel);
                    results.extend([value, back]);
                }
                results
            })
        };
        let alone = all(1, false);
        for threads in [2, 3, 5] {
            for (alone, shared) in alone.iter().zip(all(threads, true)) {
                assert!(same_bits(alone, &shared), "{level} on {threads} threads");
            }
        }
    }
}

#[test]
#[should_panic(expected = "lies on padding altogether")]
fn a_window_of_padding_has_no_largest_element() {
    let shape = ConvShape { padding: [2, 2], kernel: [2, 2], input: [5, 5], ..ConvShape::linear(1, 1) };
    LaneMaxPool::new(Level::PORTABLE, &shape);
}
