//! Activations against their twins, and the twins against values known from elsewhere.
//!
//! The unit of every bound is half an ulp, [`ROUNDING`]. A kernel rounds w = z + d before it takes
//! f(w) or f'(w), and what f does to that error is inherent: e^-|w|, the tail of sigmoid (of silu
//! and softplus below 0), changes by |w| roundings, that of tanh by 2 |w|, that of gelu, which is
//! e^(-w^2/2), by w^2; a function that is linear at w changes by one. To this come a few roundings
//! of the arithmetic, and what those of an argument that is computed do to it.

use std::iter::zip;

use approx::{assert_relative_eq, relative_eq};
use predictive_coding_kernels::{Activation, Layout, Level, Local, Relaxing, lanes};
use rand::RngExt;

use crate::common::*;
use crate::local;
use crate::naive;

pub const ALL: [Activation; 21] = [
    Activation::Identity,
    Activation::Relu,
    Activation::LeakyRelu { negative_slope: 0.01 },
    Activation::LeakyRelu { negative_slope: 0.2 },
    Activation::LeakyRelu { negative_slope: 1.5 },
    Activation::LeakyRelu { negative_slope: 0.0 },
    Activation::LeakyRelu { negative_slope: -0.5 },
    Activation::Hardtanh { min_val: -1.0, max_val: 1.0 },
    Activation::Hardtanh { min_val: 0.3, max_val: 2.5 },
    Activation::Elu { alpha: 1.0 },
    Activation::Elu { alpha: 0.3 },
    Activation::Elu { alpha: -2.0 },
    Activation::Selu,
    Activation::Tanh,
    Activation::Sigmoid,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::Silu,
    Activation::Softplus { beta: 1.0, threshold: 20.0 },
    Activation::Softplus { beta: 0.3, threshold: 30.0 },
    Activation::Softplus { beta: 2.0, threshold: 3.0 },
];

/// Roundings of the arithmetic in a value, a slope or a difference, and those that the rounding of
/// w adds; tails that have underflowed have none to add.
pub fn roundings(activation: Activation, w: f64) -> (f64, f64) {
    let below = -w.clamp(-110.0, 0.0);
    match activation {
        Activation::Identity => (0.0, 0.0),
        Activation::Relu => (1.0, 0.0),
        Activation::LeakyRelu { .. } => (3.0, 0.0),
        Activation::Hardtanh { .. } => (2.0, 0.0),
        Activation::Elu { .. } | Activation::Selu => (8.0, 1.0 + below),
        Activation::Tanh => (6.0, 2.0 * w.abs().min(55.0)),
        Activation::Sigmoid => (6.0, w.abs().min(110.0)),
        Activation::Silu => (6.0, 1.0 + below),
        // The product with beta is rounded too.
        Activation::Softplus { beta, .. } => {
            let below = (f64::from(beta) * -w).clamp(0.0, 110.0);
            (8.0 + if beta == 1.0 { 0.0 } else { 3.0 + below }, 1.0 + below)
        }
        Activation::Gelu => (16.0, 1.0 + below.min(15.0).powi(2)),
        // The argument q is the product of three factors, and q' w at most 3 q.
        Activation::GeluTanh => {
            let argument = naive::gelu_argument(-below).abs().min(110.0);
            (16.0 + 5.0 * argument, 1.0 + 3.0 * argument)
        }
        other => panic!("{other} is not written down here"),
    }
}

/// What the error of a difference is relative to: itself, or the terms that it is the sum of where
/// they have different signs near a minimum or across the kink.
pub fn difference_size(activation: Activation, z: f64, d: f64) -> f64 {
    let w = z + d;
    let of_product =
        |gate: Activation, at_w: f64| d.abs() * at_w + z.abs() * naive::activation_difference(gate, z, d).abs();
    match activation {
        Activation::LeakyRelu { negative_slope } if (z > 0.0) != (w > 0.0) => {
            let slope = |x: f64| if x > 0.0 { 1.0 } else { f64::from(negative_slope.abs()) };
            slope(w) * w.abs() + slope(z) * z.abs()
        }
        Activation::Elu { .. } | Activation::Selu if (z > 0.0) != (w > 0.0) => {
            naive::activation_value(activation, w).abs() + naive::activation_value(activation, z).abs()
        }
        Activation::Hardtanh { .. } if naive::activation_slope(activation, z) == 0.0 => d.abs(),
        Activation::Softplus { .. } if naive::is_above(activation, z) != naive::is_above(activation, w) => {
            d.abs() + naive::activation_difference(activation, z, d).abs()
        }
        Activation::GeluTanh => {
            let gate = |x: f64| naive::activation_value(Activation::Sigmoid, naive::gelu_argument(x));
            let term = naive::activation_difference(activation, z, d) - d * gate(w);
            d.abs() * gate(w) + term.abs()
        }
        Activation::Silu => of_product(Activation::Sigmoid, naive::activation_value(Activation::Sigmoid, w)),
        Activation::Gelu => {
            // Phi(w) - Phi(z) from the difference of x Phi(x), and Phi from its value.
            let at_w = if w == 0.0 { 0.5 } else { naive::activation_value(activation, w) / w };
            let term = naive::activation_difference(activation, z, d) - d * at_w;
            d.abs() * at_w + term.abs()
        }
        _ => naive::activation_difference(activation, z, d).abs(),
    }
}

/// As [`difference_size`], of a slope.
pub fn slope_size(activation: Activation, w: f64) -> f64 {
    let gate = |x: f64| naive::activation_value(Activation::Sigmoid, x);
    match activation {
        Activation::Silu => gate(w) * (1.0 + w.abs() * gate(-w)),
        // 1 + q' w s(-q) with a plus for every term; q' w is at most 3 q.
        Activation::GeluTanh => {
            let q = naive::gelu_argument(w);
            gate(q) + 3.0 * q.abs().min(110.0) * gate(q) * gate(-q)
        }
        // Phi(w) + |w phi(w)|; Phi(w) is the mean of the slopes at w and -w, plus the odd part.
        Activation::Gelu if w < 0.0 => {
            let distribution = naive::activation_value(activation, w) / w;
            2.0 * distribution - naive::activation_slope(activation, w)
        }
        _ => naive::activation_slope(activation, w).abs(),
    }
}

/// What the underflow of a slope's terms is multiplied by.
fn slope_reach(activation: Activation, w: f64) -> f64 {
    match activation {
        Activation::GeluTanh => 3.0 * naive::gelu_argument(w).abs().min(110.0),
        _ => w.abs(),
    }
}

/// Where the slope or the value jumps.
fn kinks(activation: Activation) -> Vec<f64> {
    match activation {
        Activation::Hardtanh { min_val, max_val } => vec![min_val.into(), max_val.into()],
        Activation::Softplus { beta, threshold } if threshold < 20.0 => vec![f64::from(threshold) / f64::from(beta)],
        _ => vec![0.0],
    }
}

/// Below the smallest normal number an error is some multiples of the smallest one, which a product
/// then scales.
pub fn underflow(scale: f64) -> f64 {
    8.0 * f64::from(f32::from_bits(1)) * (1.0 + scale)
}

/// Pre-activations: a grid over -100..100, finer near 0, with tiny and huge ones.
fn grid() -> Vec<f32> {
    let mut grid = vec![0.0];
    grid.extend((1..=250).map(|i| i as f32 * 0.4));
    grid.extend((1..100).map(|i| i as f32 / 64.0));
    grid.extend((-44..=30).map(|e| 10f32.powi(e)));
    grid.extend([14.9, 15.1, 86.9, 87.4, 88.8, 89.1, 103.0, 104.5, 1e4]);
    grid.extend(grid.clone().iter().map(|z| -z));
    grid
}

/// Deviations of either sign from 1e-30 to 1e3, and 0.
fn deviations() -> Vec<f32> {
    let mut deviations = vec![0.0];
    deviations.extend((-120..=12).map(|e| 10f32.powf(e as f32 / 4.0)));
    deviations.extend([0.2499, 0.25, 0.2501, 0.999, 1.0, 1.001, 2.5, 7.0, 20.0, 50.0]);
    deviations.extend(deviations.clone().iter().map(|d| -d));
    deviations
}

pub fn widen(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// Elements in a row of vectors, of which the last is filled up with zeros. What the lanes are is nothing to a function
/// of each element.
struct Row {
    local: Local,
    len: usize,
}

impl Row {
    fn new(activation: Activation, level: Level, len: usize) -> Self {
        let size = [1, len.div_ceil(lanes(level))];
        Row { local: Local::activation(level, Layout::Images, activation, 1, size), len }
    }

    fn filled(&self, x: &[f32]) -> Vec<f32> {
        let mut filled = x.to_vec();
        filled.resize(self.local.input_len(), 0.0);
        filled
    }

    fn cut<const N: usize>(&self, results: [Vec<f32>; N]) -> [Vec<f32>; N] {
        results.map(|mut result| {
            result.truncate(self.len);
            result
        })
    }
}

/// Values, and slopes as the gradient of ones pulled back.
fn forward(activation: Activation, level: Level, z: &[f32]) -> [Vec<f32>; 2] {
    let row = Row::new(activation, level, z.len());
    let z = row.filled(z);
    let value = local::forward(&row.local, &z);
    let slope = local::pull(&row.local, &z, &value, None, &vec![1.0; z.len()]);
    row.cut([value, slope])
}

/// Differences, and slopes at z + d.
fn push(activation: Activation, level: Level, z: &[f32], d: &[f32]) -> [Vec<f32>; 2] {
    let row = Row::new(activation, level, z.len());
    let (z, d) = (row.filled(z), row.filled(d));
    let value = local::forward(&row.local, &z);
    let difference = local::push(&row.local, &z, &value, &d);
    let slope = local::pull(&row.local, &z, &value, Some(&d), &vec![1.0; z.len()]);
    row.cut([difference, slope])
}

/// Errors and pulled errors.
fn relax(activation: Activation, level: Level, z: &[f32], d: &[f32], u: &[f32]) -> [Vec<f32>; 2] {
    let row = Row::new(activation, level, z.len());
    let [z, d, u] = [z, d, u].map(|x| row.filled(x));
    let value = local::forward(&row.local, &z);
    row.cut(local::relax(&row.local, &z, &value, &d, &u))
}

#[test]
fn values_and_slopes() {
    let mut z = grid();
    z.extend((-20_000..20_000).map(|i| i as f32 * 7.3e-4));
    for (level, activation) in levels().into_iter().flat_map(|level| ALL.map(|activation| (level, activation))) {
        let [value, slope] = forward(activation, level, &z);
        let wide = widen(&z);
        let bound = |i: usize| roundings(activation, wide[i]).0 * ROUNDING;
        let want: Vec<f64> = wide.iter().map(|&z| naive::activation_value(activation, z)).collect();
        let tolerance = |i: usize| bound(i) * want[i].abs() + underflow(wide[i].abs());
        assert_within(&value, &want, tolerance, &(level, activation, "value"));
        let want: Vec<f64> = wide.iter().map(|&z| naive::activation_slope(activation, z)).collect();
        let tolerance =
            |i: usize| bound(i) * slope_size(activation, wide[i]) + underflow(slope_reach(activation, wide[i]));
        assert_within(&slope, &want, tolerance, &(level, activation, "slope"));
    }
}

#[test]
fn differences_and_errors() {
    let (zs, ds) = (grid(), deviations());
    let pairs = zs.iter().flat_map(|&z| ds.iter().map(move |&d| (z, d)));
    let (mut z, mut d): (Vec<f32>, Vec<f32>) = pairs.unzip();
    // Deviations to the other side of a kink, to the kink and nearly to it.
    let mut every: Vec<f64> = ALL.into_iter().flat_map(kinks).collect();
    every.sort_by(f64::total_cmp);
    every.dedup();
    for (&at, &kink) in zs.iter().flat_map(|at| every.iter().map(move |kink| (at, kink))) {
        for factor in [0.5, 1.0 - 1e-6, 1.0, 1.0 + 1e-6, 1.5, 2.0, 3.0] {
            z.push(at);
            d.push((kink as f32 - at) * factor);
        }
    }
    let mut rng = generator(30);
    for _ in 0..100_000 {
        z.push(rng.random_range(-12.0..12.0));
        d.push(rng.random_range(-3.0..3.0) * 10f32.powi(rng.random_range(-5..=0)));
    }
    let u = values(&mut rng, z.len());
    let (wide_z, wide_d) = (widen(&z), widen(&d));
    let w: Vec<f64> = zip(&wide_z, &wide_d).map(|(z, d)| z + d).collect();
    for activation in ALL {
        let want: Vec<f64> =
            zip(&wide_z, &wide_d).map(|(&z, &d)| naive::activation_difference(activation, z, d)).collect();
        let size: Vec<f64> = zip(&wide_z, &wide_d).map(|(&z, &d)| difference_size(activation, z, d)).collect();
        let slopes: Vec<f64> = w.iter().map(|&w| naive::activation_slope(activation, w)).collect();
        let kinks = kinks(activation);
        let beside = |i: usize, kink: &f64| f64::from(z[i] + d[i]).total_cmp(kink) != w[i].total_cmp(kink);
        let beside_kink: Vec<bool> = (0..w.len()).map(|i| kinks.iter().any(|kink| beside(i, kink))).collect();
        let tolerances: Vec<[f64; 2]> = (0..w.len())
            .map(|i| {
                let (own, inherent) = roundings(activation, w[i]);
                let bound = (own + inherent) * ROUNDING;
                let reach = wide_z[i].abs() + wide_d[i].abs();
                let of_slope = underflow(slope_reach(activation, w[i]).max(reach));
                [bound * size[i] + underflow(reach), bound * slope_size(activation, w[i]) + of_slope]
            })
            .collect();
        // The threshold of a softplus is a step of the value itself.
        let steps = matches!(activation, Activation::Softplus { .. });
        for level in levels() {
            let [difference, slope] = push(activation, level, &z, &d);
            let [error, pulled] = relax(activation, level, &z, &d, &u);
            for i in 0..w.len() {
                let case = |what| (level, activation, what, (z[i], d[i]));
                let [tolerance, of_slope] = tolerances[i];
                if !(steps && beside_kink[i]) {
                    assert_within(&[difference[i]], &[want[i]], |_| tolerance, &case("difference"));
                    let want = want[i] - f64::from(u[i]);
                    assert_within(&[error[i]], &[want], |_| tolerance + ROUNDING * want.abs(), &case("error"));
                }
                // The slope jumps where the rounding of w reaches a kink.
                if !beside_kink[i] {
                    assert_within(&[slope[i]], &[slopes[i]], |_| of_slope, &case("slope"));
                    let error = f64::from(error[i]);
                    let want = error * slopes[i];
                    let tolerance = of_slope * error.abs() + ROUNDING * want.abs() + underflow(0.0);
                    assert_within(&[pulled[i]], &[want], |_| tolerance, &case("pulled error"));
                }
            }
        }
    }
}

#[test]
fn nan_travels() {
    for (level, activation) in levels().into_iter().flat_map(|level| ALL.map(|activation| (level, activation))) {
        for lane in 0..19 {
            let (mut z, mut d) = ([0.5; 19], [0.25; 19]);
            z[lane] = f32::NAN;
            let [value, _] = forward(activation, level, &z);
            let [difference, _] = push(activation, level, &z, &d);
            // The identity's difference is the deviation, whatever the value.
            let lost = activation == Activation::Identity;
            for i in 0..19 {
                assert_eq!(value[i].is_nan(), i == lane, "{level} {activation:?}: value {i} of {lane}");
                assert!(lost || difference[i].is_nan() == (i == lane), "{level} {activation:?}: {i} of z {lane}");
            }
            z[lane] = -0.5;
            d[lane] = f32::NAN;
            let [difference, _] = push(activation, level, &z, &d);
            for (i, x) in difference.iter().enumerate() {
                assert_eq!(x.is_nan(), i == lane, "{level} {activation:?}: difference {i} of d {lane}");
            }
        }
    }
}

/// What IEEE arithmetic makes of PyTorch's formulas: NaN for 0 times infinity.
#[test]
fn infinity_travels() {
    for (level, activation) in levels().into_iter().flat_map(|level| ALL.map(|activation| (level, activation))) {
        let z = [f32::INFINITY, f32::NEG_INFINITY];
        let [value, slope] = forward(activation, level, &z);
        let value_at = |z: &f64| naive::activation_value(activation, *z);
        let slope_at = |z: &f64| naive::activation_slope(activation, *z);
        let wide = widen(&z);
        // The constants of selu are rounded.
        let off = if activation == Activation::Selu { 2.0 * ROUNDING } else { 0.0 };
        assert_within(&value, &wide.iter().map(value_at).collect::<Vec<_>>(), |_| off, &(level, activation));
        assert_within(&slope, &wide.iter().map(slope_at).collect::<Vec<_>>(), |_| 1e-7, &(level, activation, "slope"));
        for start in [-3.0, -0.1, 0.0, 0.2, 5.0] {
            let [difference, slope] = push(activation, level, &[start; 2], &z);
            let difference_to = |d: &f64| naive::activation_difference(activation, f64::from(start), *d);
            let want: Vec<f64> = wide.iter().map(difference_to).collect();
            let tolerance = |i: usize| 24.0 * ROUNDING * want[i].abs();
            assert_within(&difference, &want, tolerance, &(level, activation, start));
            let want: Vec<f64> = wide.iter().map(slope_at).collect();
            assert_within(&slope, &want, |_| 1e-7, &(level, activation, start, "slope"));
        }
    }
}

/// PyTorch: torch.autograd.grad(f(x), x) at x = 0.
#[test]
fn slopes_at_zero() {
    let leaky = Activation::LeakyRelu { negative_slope: 0.2 };
    for level in levels() {
        for (activation, expected) in [
            (Activation::Identity, 1.0),
            (Activation::Relu, 0.0),
            (leaky, 0.2),
            (Activation::Hardtanh { min_val: -1.0, max_val: 1.0 }, 1.0),
            (Activation::Hardtanh { min_val: 0.0, max_val: 1.0 }, 0.0),
            (Activation::Hardtanh { min_val: -1.0, max_val: 0.0 }, 0.0),
            (Activation::Elu { alpha: 0.3 }, 0.3),
            (Activation::Selu, 1.758_099_3),
            (Activation::GeluTanh, 0.5),
            (Activation::Tanh, 1.0),
            (Activation::Sigmoid, 0.25),
            (Activation::Gelu, 0.5),
            (Activation::Silu, 0.5),
            (Activation::Softplus { beta: 1.0, threshold: 20.0 }, 0.5),
            (Activation::Softplus { beta: 3.0, threshold: 0.0 }, 0.5),
            (Activation::Softplus { beta: 3.0, threshold: -1.0 }, 1.0),
        ] {
            for zero in [0.0, -0.0] {
                assert_relative_eq!(forward(activation, level, &[zero])[1][0], expected, max_relative = 4e-7);
                assert_relative_eq!(push(activation, level, &[1.5], &[-1.5])[1][0], expected, max_relative = 4e-7);
            }
        }
    }
}

/// Vectors of several planes, rows and columns, between gaps and from odd places.
#[test]
fn every_shape() {
    let mut rng = generator(31);
    for (tiling, activation) in
        tilings_and_batches().into_iter().flat_map(|tiling| ALL.map(|activation| (tiling, activation)))
    {
        let Tiling { level, layout } = tiling;
        let most = 3 * 4 * 5 * tiling.len(1, [1, 1]);
        let [z, d, u] = [0; 3].map(|_| values(&mut rng, most));
        let [whole_value, slope] = forward(activation, level, &z);
        let [difference, new_slope] = push(activation, level, &z, &d);
        let [error, pulled] = relax(activation, level, &z, &d, &u);
        for (planes, height, width) in (0..3 * 4 * 5).map(|i| (i / 20 + 1, i / 5 % 4 + 1, i % 5 + 1)) {
            let channels = if layout.is_channels() { (planes - 1) * lanes(level) + 1 } else { planes };
            let local = Local::activation(level, layout, activation, channels, [height, width]);
            let len = tiling.len(channels, [height, width]);
            assert_eq!([local.input_len(), local.output_len(), local.output_rows()], [len, len, height]);
            let inside = 3..3 + len;
            let between_gaps = |x: &[f32]| {
                let mut all = vec![GAP; len + 10];
                all[inside.clone()].copy_from_slice(&x[..len]);
                all
            };
            let operands = [&z, &d, &u, &whole_value, &vec![1.0; most]].map(|x| between_gaps(x));
            let [z, d, u, value, ones] = operands.each_ref().map(|x| &x[inside.clone()]);
            let mut got = [0; 6].map(|_| vec![GAP; len + 10]);
            let [a, b, c, e, f, g] = got.each_mut().map(|got| &mut got[inside.clone()]);
            local.forward(z, a, 0..height, false);
            local.pull(z, value, None, ones, b, 0..height, false);
            local.push(z, value, d, c, false);
            local.pull(z, value, Some(d), ones, e, 0..height, false);
            local.relax(Relaxing { z, value, d, u, error: f, pulled: g }, 0..height, false);
            for (got, whole) in zip(&got, [&whole_value, &slope, &difference, &new_slope, &error, &pulled]) {
                let case = (tiling, activation, channels, height, width);
                assert!(same_bits(got, &between_gaps(whole)), "{case:?}");
            }
        }
    }
}

/// Phi to the digits of Abramowitz and Stegun, table 26.1, and the asymptotic tail; the others by
/// definition.
#[test]
fn twins_have_known_values() {
    let distribution = |z: f64| naive::activation_value(Activation::Gelu, z) / z;
    for (z, phi) in [
        (1.0, 0.841_344_746_068_543),
        (2.0, 0.977_249_868_051_821),
        (-2.0, 0.022_750_131_948_179_2),
        (-3.0, 1.349_898_031_630_09e-3),
        (-5.0, 2.866_515_718_791_94e-7),
        (-10.0, 7.619_853_024_160_53e-24),
    ] {
        assert_relative_eq!(distribution(z), phi, max_relative = 1e-12);
    }
    assert_relative_eq!(naive::activation_value(Activation::Silu, 1.0), 0.731_058_578_630_005, max_relative = 1e-14);
    let softplus = Activation::Softplus { beta: 2.0, threshold: 20.0 };
    assert_relative_eq!(naive::activation_value(softplus, 0.0), 2f64.ln() / 2.0, max_relative = 1e-15);
}

/// For d that is not small the twins' differences are those of two values, for small d they are
/// d f'(z + d / 2); slopes are the limit of differences.
#[test]
fn twins_agree_with_each_other() {
    for activation in ALL {
        for z in (-80..=80).map(|i| f64::from(i) * 0.113 + 0.0301) {
            for d in [-7.0, -1.5, -0.99, -0.11, -0.09, 0.09, 0.11, 0.99, 1.5, 7.0] {
                let value = |x: f64| naive::activation_value(activation, x);
                let difference = naive::activation_difference(activation, z, d);
                let expected = value(z + d) - value(z);
                assert!(
                    relative_eq!(difference, expected, epsilon = 4e-14, max_relative = 1e-13),
                    "{activation:?} at {z}, {d}: {difference}, not {expected}"
                );
            }
            for d in [-1e-4, -1e-9, 1e-30, 1e-6, 1e-4] {
                let expected = d * naive::activation_slope(activation, z + d / 2.0);
                let got = naive::activation_difference(activation, z, d);
                // The next term of the series is d^2 f'''/24 f' of the first; f' of gelu and silu has a zero.
                let size = d.abs() * slope_size(activation, z);
                assert!((got - expected).abs() <= (1e-12 + 20.0 * d * d) * size, "{activation:?} at {z}, {d}");
            }
        }
    }
}
