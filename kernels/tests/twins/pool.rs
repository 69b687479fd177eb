//! Pooling of tiles against its twins.

use predictive_coding_kernels::{Activation, ConvShape, Divisor, Layout, Level, Local};
use predictive_coding_kernels_reference as reference;
use rand::{Rng, RngExt};

use crate::activation::{ALL, difference_size, roundings, slope_size, underflow, widen};
use crate::common::*;
use crate::local::{forward, pull, push, relax, square};
use crate::naive;

/// The random and the regular windows that pooling is tested with.
fn shapes(rng: &mut impl Rng, tiling: Tiling) -> Vec<ConvShape> {
    let mut shapes = square_windows(tiling.several(3), tiling.several(3));
    shapes.extend((0..500).map(|_| {
        let shape = random_shape(rng, tiling.several(7), 12);
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

/// Activations that make multiples of 1/8 of the coarse values, so that everything is exact.
const EXACT: [Activation; 6] = [
    Activation::Identity,
    Activation::Relu,
    Activation::LeakyRelu { negative_slope: 1.5 },
    Activation::LeakyRelu { negative_slope: 0.0 },
    Activation::LeakyRelu { negative_slope: -0.5 },
    Activation::Hardtanh { min_val: -0.5, max_val: 0.75 },
];

/// J(w)^T gradient: what stands at the winners' places, times the slopes there.
fn pulled_back(
    activation: Activation,
    shape: &ConvShape,
    planes: usize,
    w: &[f64],
    gradient: &[f32],
    winners: &[usize],
) -> Vec<f64> {
    let back = naive::max_pool_backward(shape, planes, gradient, winners);
    w.iter().zip(back).map(|(&w, x)| x * naive::activation_slope(activation, w)).collect()
}

/// Gradients of which no two of a pixel's windows are the same, exact in sums.
fn distinct(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i % 1021 + 1) as f32 / 4.0).collect()
}

/// Exact, on coarse data with many ties, sometimes with NaN and infinity.
fn check_max_pool(rng: &mut impl Rng, tiling: Tiling, activation: Activation, shape: ConvShape) {
    let channels = shape.in_channels;
    let planes = tiling.images() * channels;
    let [input, output] = sizes(&shape, tiling.images());
    let pool = Local::max_pool(tiling.level, tiling.layout, activation, &shape);
    let lens = [shape.input, reference::output_size(&shape)].map(|size| tiling.len(channels, size));
    assert_eq!([pool.input_len(), pool.output_len()], lens, "sizes of {shape:?}");
    let case = (tiling, activation, shape);
    let (to_tile, of_tile) = tiling.both_ways(channels);
    let mut z = coarse(rng, input);
    let special = [f32::NAN, f32::NEG_INFINITY, f32::INFINITY];
    if rng.random_bool(0.3) {
        z.iter_mut().for_each(|z| *z = if rng.random_bool(0.2) { special[rng.random_range(0..3)] } else { *z });
    }
    let mut d = coarse(rng, input);
    if rng.random_bool(0.2) {
        d.iter_mut().for_each(|d| *d = if rng.random_bool(0.1) { special[rng.random_range(0..3)] } else { *d });
    }
    let (gradient, u) = (distinct(output), coarse(rng, output));
    let w: Vec<f64> = z.iter().zip(&d).map(|(&z, &d)| f64::from(z) + f64::from(d)).collect();
    let [z_tile, d_tile, gradient_tile, u_tile] = [&z, &d, &gradient, &u].map(|x| to_tile(x));
    let check = |what: &str, got: &[f32], want: &[f64]| {
        assert_within(&of_tile(got), want, |_| 0.0, &(case, what));
    };

    let value = forward(&pool, &z_tile);
    let want = naive::max_pool(activation, &shape, planes, &z);
    check("values", &value, &want.values);
    let pulled = pull(&pool, &z_tile, &value, None, &gradient_tile);
    let want = pulled_back(activation, &shape, planes, &widen(&z), &gradient, &want.winners);
    check("pulled gradient", &pulled, &want);

    let want = naive::max_pool_push(activation, &shape, planes, &z, &of_tile(&value), &d);
    check("differences", &push(&pool, &z_tile, &value, &d_tile), &want.values);
    let pulled = pull(&pool, &z_tile, &value, Some(&d_tile), &gradient_tile);
    check("gradient pulled at d", &pulled, &pulled_back(activation, &shape, planes, &w, &gradient, &want.winners));

    let [error, pulled] = relax(&pool, &z_tile, &value, &d_tile, &u_tile);
    let want_error: Vec<f64> = want.values.iter().zip(&u).map(|(difference, &u)| difference - f64::from(u)).collect();
    check("errors", &error, &want_error);
    let want = pulled_back(activation, &shape, planes, &w, &of_tile(&error), &want.winners);
    check("pulled errors", &pulled, &want);
}

#[test]
fn max_pool() {
    let mut rng = generator(20);
    for tiling in tilings() {
        for shape in shapes(&mut rng, tiling).into_iter().filter(reaches) {
            for activation in EXACT {
                check_max_pool(&mut rng, tiling, activation, shape);
            }
        }
    }
}

/// The tilings with the activations that a max pooling joins.
fn pairs() -> impl Iterator<Item = (Tiling, Activation)> {
    let joined = || ALL.into_iter().filter(|activation| activation.is_piecewise_linear());
    tilings().into_iter().flat_map(move |tiling| joined().map(move |activation| (tiling, activation)))
}

#[test]
#[should_panic(expected = "not made of linear pieces")]
fn costly_activations_are_not_joined() {
    Local::max_pool(Level::PORTABLE, Layout::Channels(1), Activation::Tanh, &square(1, [4, 4], [2, 2, 0, 1]));
}

/// Where two candidates are nearer to each other than their roundings either may win: there the
/// gradient is 0, and so is the error.
#[test]
fn max_pool_of_activations() {
    let mut rng = generator(25);
    for (tiling, activation) in pairs() {
        let (mut close, mut all) = (0, 0);
        for _ in 0..60 {
            let shape = random_shape(&mut rng, tiling.several(3), 12);
            let shape = ConvShape { out_channels: shape.in_channels, ..shape };
            if !reaches(&shape) {
                continue;
            }
            let planes = tiling.images() * shape.in_channels;
            let [input, output] = sizes(&shape, tiling.images());
            let pool = Local::max_pool(tiling.level, tiling.layout, activation, &shape);
            let (to_tile, of_tile) = tiling.both_ways(shape.in_channels);
            let case = (tiling, activation, shape);
            let [z, d] = [3.0, 1.0].map(|scale| values(&mut rng, input).iter().map(|x| x * scale).collect::<Vec<_>>());
            let [mut gradient, mut u] = [0; 2].map(|_| values(&mut rng, output));
            let w: Vec<f64> = z.iter().zip(&d).map(|(&z, &d)| f64::from(z) + f64::from(d)).collect();
            let [z_tile, d_tile] = [&z, &d].map(|x| to_tile(x));

            let value_tile = forward(&pool, &z_tile);
            let value = of_tile(&value_tile);
            let own = roundings(activation, 0.0).0 * ROUNDING;
            let largest = naive::max_pool(activation, &shape, planes, &z);
            assert_within(&value, &largest.values, |i| own * largest.values[i].abs() + underflow(3.0), &case);

            // What a candidate may be off by.
            let rounding = |i: usize| {
                let (own, inherent) = roundings(activation, w[i]);
                let [z, d] = [z[i], d[i]].map(f64::from);
                let value = naive::activation_value(activation, z).abs();
                let difference = difference_size(activation, z, d);
                ROUNDING * (own * value + (own + inherent) * difference + 2.0 * (value + 4.0 + difference))
            };
            let tolerance = (0..input).map(rounding).fold(0.0, f64::max);
            let want = naive::max_pool_push(activation, &shape, planes, &z, &value, &d);
            let difference = of_tile(&push(&pool, &z_tile, &value_tile, &d_tile));
            assert_within(&difference, &want.values, |_| tolerance, &(case, "differences"));
            for i in (0..output).filter(|&i| want.leads[i] <= 2.0 * tolerance) {
                (gradient[i], u[i]) = (0.0, difference[i]);
                close += 1;
            }
            all += output;

            let slope_error = |i: usize| {
                let (own, inherent) = roundings(activation, w[i]);
                (own + inherent) * ROUNDING * slope_size(activation, w[i])
            };
            let back = |gradient: &[f32], what: &str, got: &[f32]| {
                let want_back = pulled_back(activation, &shape, planes, &w, gradient, &want.winners);
                let size = naive::max_pool_backward(&shape, planes, &absolute(gradient), &want.winners);
                // A pixel is in 16 windows at most.
                let tolerance = |i: usize| size[i] * slope_error(i) + 32.0 * ROUNDING * size[i] + underflow(16.0);
                assert_within(&of_tile(got), &want_back, tolerance, &(case, what));
            };
            let pulled = pull(&pool, &z_tile, &value_tile, Some(&d_tile), &to_tile(&gradient));
            back(&gradient, "pulled gradient", &pulled);
            let [error, pulled] = relax(&pool, &z_tile, &value_tile, &d_tile, &to_tile(&u));
            let error = of_tile(&error);
            let want_error: Vec<f64> = want.values.iter().zip(&u).map(|(x, &u)| x - f64::from(u)).collect();
            assert_within(&error, &want_error, |i| tolerance + ROUNDING * want_error[i].abs(), &(case, "errors"));
            back(&error, "pulled errors", &pulled);
        }
        // Functions that are constant below 0, or above a limit, have windows of equals.
        let most = match activation {
            Activation::Relu | Activation::LeakyRelu { negative_slope: 0.0 } => 50,
            Activation::Hardtanh { .. } => 80,
            _ => 1,
        };
        assert!(close * 100 <= all * most, "{tiling:?} {activation:?}: {close} of {all} are close");
    }
}

/// With deviations of 1e-6 to 1e-1 of the values, the deviation of the result is right to a few
/// roundings of its own size and of the gaps between the values.
#[test]
fn max_pool_differences_do_not_cancel() {
    let mut rng = generator(21);
    for tiling in tilings() {
        for shape in shapes(&mut rng, tiling).into_iter().filter(reaches) {
            let planes = tiling.images() * shape.in_channels;
            let [input, output] = sizes(&shape, tiling.images());
            let (to_tile, of_tile) = tiling.both_ways(shape.in_channels);
            let scale = 10f32.powi(rng.random_range(-6..0));
            let (z, d) = (values(&mut rng, input), values(&mut rng, input));
            let d: Vec<f32> = d.iter().map(|d| d * scale).collect();
            let u = to_tile(&vec![0.0; output]);
            let pool = Local::max_pool(tiling.level, tiling.layout, Activation::Identity, &shape);
            let (z_tile, d_tile) = (to_tile(&z), to_tile(&d));
            let value = forward(&pool, &z_tile);
            let want = naive::max_pool_push(Activation::Identity, &shape, planes, &z, &of_tile(&value), &d);
            // The winner's value is at most 2 |d| below the old winner's.
            let tolerance = 6.0 * ROUNDING * f64::from(scale);
            let [error, _] = relax(&pool, &z_tile, &value, &d_tile, &u);
            for got in [push(&pool, &z_tile, &value, &d_tile), error] {
                assert_within(&of_tile(&got), &want.values, |_| tolerance, &(tiling, shape, scale));
            }
        }
    }
}

/// The largest element loses nothing to the activation either, as long as it stays the largest.
#[test]
fn differences_of_a_lasting_winner_do_not_cancel() {
    let mut rng = generator(26);
    for (tiling, activation) in pairs() {
        let (mut lasting, mut all) = (0, 0);
        let channels = tiling.several(2);
        let (to_tile, of_tile) = tiling.both_ways(channels);
        for shape in [[2, 2, 0, 1], [3, 1, 1, 1], [2, 1, 1, 2]].map(|window| square(channels, [9, 10], window)) {
            let planes = tiling.images() * channels;
            let [input, output] = sizes(&shape, tiling.images());
            for scale in [1e-6, 1e-5, 1e-3] {
                let z: Vec<f32> = values(&mut rng, input).iter().map(|z| z * 3.0).collect();
                let d: Vec<f32> = values(&mut rng, input).iter().map(|d| d * scale).collect();
                let pool = Local::max_pool(tiling.level, tiling.layout, activation, &shape);
                let (z_tile, d_tile) = (to_tile(&z), to_tile(&d));
                let value = forward(&pool, &z_tile);
                let got = of_tile(&push(&pool, &z_tile, &value, &d_tile));
                let old = naive::max_pool(activation, &shape, planes, &z);
                let from_old = |d: &[f32]| {
                    let value = of_tile(&value);
                    naive::max_pool_push(activation, &shape, planes, &z, &value, d).values
                };
                // Without what the old value was rounded by.
                let (moved, still) = (from_old(&d), from_old(&vec![0.0; input]));
                let slopes = 3.0 * f64::from(scale);
                let tolerance = roundings(activation, 3.0).0 * 4.0 * ROUNDING * slopes + underflow(0.0);
                for i in (0..output).filter(|&i| old.leads[i] > 2.0 * slopes + 1e-5) {
                    let want = moved[i] - still[i];
                    assert_within(&got[i..=i], &[want], |_| tolerance, &(tiling, activation, shape, scale));
                    lasting += 1;
                }
                all += output;
            }
        }
        // Where most of the largest are equals, few lead.
        let least = if matches!(activation, Activation::Hardtanh { .. }) { 4 } else { 2 };
        assert!(lasting * least > all, "{tiling:?} {activation:?}: {lasting} of {all}");
    }
}

/// Means of windows, and what a gradient spreads over them.
struct Mean<'a> {
    local: Local,
    channels: usize,
    /// Heights and widths of the input and the result.
    sizes: [[usize; 2]; 2],
    mean: &'a dyn Fn(&[f32]) -> Vec<f64>,
    spread: &'a dyn Fn(&[f32]) -> Vec<f64>,
}

fn check_mean(rng: &mut impl Rng, tiling: Tiling, pool: Mean<'_>) {
    let Mean { local: pool, channels, sizes, mean, spread } = pool;
    let lens = sizes.map(|size| tiling.len(channels, size));
    let case = (tiling, channels, &pool);
    assert_eq!([pool.input_len(), pool.output_len()], lens, "sizes of {case:?}");
    let [input, output] = sizes.map(|[height, width]| tiling.images() * channels * height * width);
    let [mut z, mut d] = [0; 2].map(|_| values(rng, input));
    for x in [&mut z, &mut d] {
        if rng.random_bool(0.2) {
            let place = rng.random_range(0..input);
            x[place] = [f32::NAN, f32::INFINITY][rng.random_range(0..2)];
        }
    }
    let [gradient, u] = [0; 2].map(|_| values(rng, output));
    let (to_tile, of_tile) = tiling.both_ways(channels);
    let [z_tile, d_tile, gradient_tile, u_tile] = [&z, &d, &gradient, &u].map(|x| to_tile(x));
    // No window has more than 12 x 12 elements.
    let check = |what: &str, got: &[f32], want: &[f64], size: &[f64]| {
        assert_within(&of_tile(got), want, |i| of_sum(144, size[i]), &(case, what));
    };
    let value = forward(&pool, &z_tile);
    check("means", &value, &mean(&z), &mean(&absolute(&z)));
    let (want, size) = (mean(&d), mean(&absolute(&d)));
    check("differences", &push(&pool, &z_tile, &value, &d_tile), &want, &size);
    for d in [None, Some(d_tile.as_slice())] {
        let back = pull(&pool, &z_tile, &value, d, &gradient_tile);
        check("pulled gradient", &back, &spread(&gradient), &spread(&absolute(&gradient)));
    }
    let [error, pulled] = relax(&pool, &z_tile, &value, &d_tile, &u_tile);
    let want: Vec<f64> = want.iter().zip(&u).map(|(difference, &u)| difference - f64::from(u)).collect();
    let size: Vec<f64> = size.iter().zip(&u).map(|(size, &u)| size + f64::from(u.abs())).collect();
    check("errors", &error, &want, &size);
    let error = of_tile(&error);
    check("pulled errors", &pulled, &spread(&error), &spread(&absolute(&error)));
}

#[test]
fn avg_pool() {
    let mut rng = generator(22);
    for tiling in tilings() {
        for shape in shapes(&mut rng, tiling) {
            let planes = tiling.images() * shape.in_channels;
            let divisor = [Divisor::Padded, Divisor::Inside, Divisor::Number(3)][rng.random_range(0..3)];
            let pool = Mean {
                local: Local::avg_pool(tiling.level, tiling.layout, &shape, divisor),
                channels: shape.in_channels,
                sizes: [shape.input, reference::output_size(&shape)],
                mean: &|z| naive::avg_pool(&shape, divisor, planes, z),
                spread: &|gradient| naive::avg_pool_backward(&shape, divisor, planes, gradient),
            };
            check_mean(&mut rng, tiling, pool);
        }
    }
}

#[test]
fn adaptive_avg_pool() {
    let mut rng = generator(23);
    for tiling in tilings() {
        for i in 0..12 * 12 {
            // One axis by all pairs, the other at random.
            let [mut input, mut output] =
                [[i / 12 + 1, rng.random_range(1..13)], [i % 12 + 1, rng.random_range(1..13)]];
            if rng.random() {
                input.reverse();
                output.reverse();
            }
            let channels = tiling.several(rng.random_range(1..4));
            let planes = tiling.images() * channels;
            let pool = Mean {
                local: Local::adaptive_avg_pool(tiling.level, tiling.layout, channels, input, output),
                channels,
                sizes: [input, output],
                mean: &|z| naive::adaptive_avg_pool(input, output, planes, z),
                spread: &|gradient| naive::adaptive_avg_pool_backward(input, output, planes, gradient),
            };
            check_mean(&mut rng, tiling, pool);
        }
    }
}

#[test]
#[should_panic(expected = "lies on padding altogether")]
fn a_window_of_padding_has_no_largest_element() {
    let shape = ConvShape { padding: [2, 2], kernel: [2, 2], input: [5, 5], ..ConvShape::linear(1, 1) };
    Local::max_pool(Level::PORTABLE, Layout::Channels(1), Activation::Relu, &shape);
}
