//! How parameters are drawn before training.

use std::f64::consts::TAU;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::names::names;
use crate::parameters::{ParameterSpec, Role};

/// How the weights of an operation are drawn. Biases are 0, but for PyTorch's default.
///
/// ```
/// use predictive_coding::{Init, Linear, Loss, Network, Op, Role};
///
/// let linear = Op::Linear(Linear::new(4).with_init(Init::Orthogonal));
/// let network = Network::new(&[3], Loss::MSE, vec![vec![linear]])?;
/// let parameters = network.initialize(1);
/// // The columns of the 4 x 3 matrix are orthonormal.
/// let weight = parameters.get("0.0.weight").unwrap();
/// let dot = |a: usize, b: usize| (0..4).map(|row| weight[3 * row + a] * weight[3 * row + b]).sum::<f32>();
/// assert!((dot(0, 0) - 1.0).abs() < 1e-6 && dot(0, 2).abs() < 1e-6);
/// # Ok::<(), predictive_coding::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Init {
    /// PyTorch's default for linear maps and convolutions: uniform in +-1/sqrt(fan in), biases too.
    #[default]
    Pytorch,
    /// Normal with mean 0 and standard deviation 1.
    StandardNormal,
    /// A matrix of `out` rows whose rows are orthonormal, or its columns if those are fewer; any such matrix is as
    /// likely as another. As `torch.nn.init.orthogonal_`.
    Orthogonal,
    /// Uniform in +-sqrt(6 / (fan in + fan out)) (Glorot and Bengio, 2010). As `torch.nn.init.xavier_uniform_`.
    Xavier,
}

names!(Init, "init", {
    Pytorch => "pytorch", StandardNormal => "standard_normal", Orthogonal => "orthogonal", Xavier => "xavier",
});

impl Init {
    /// Draws a tensor, which holds zeros.
    pub(crate) fn draw(self, spec: &ParameterSpec, values: &mut [f32], rng: &mut ChaCha8Rng) {
        match (self, spec.role) {
            (Init::Pytorch, _) => uniform(1.0 / (spec.fan_in as f64).sqrt(), values, rng),
            (_, Role::Bias) => {}
            (Init::StandardNormal, _) => values.iter_mut().zip(normal(rng)).for_each(|(value, x)| *value = x as f32),
            (Init::Orthogonal, _) => orthogonal(spec.shape[0], values, rng),
            (Init::Xavier, _) => {
                let fan_out = values.len() / spec.shape[1];
                uniform((6.0 / (spec.fan_in + fan_out) as f64).sqrt(), values, rng);
            }
        }
    }
}

fn uniform(bound: f64, values: &mut [f32], rng: &mut ChaCha8Rng) {
    values.iter_mut().for_each(|value| *value = rng.random_range(-bound..bound) as f32);
}

/// Standard normal numbers, by Box and Muller. The functions of a machine's own library may differ in the last bit.
fn normal(rng: &mut ChaCha8Rng) -> impl Iterator<Item = f64> + '_ {
    std::iter::repeat_with(|| {
        let radius = libm::sqrt(-2.0 * libm::log(1.0 - rng.random_range(0.0..1.0)));
        let (sine, cosine) = libm::sincos(TAU * rng.random_range(0.0..1.0));
        [radius * cosine, radius * sine]
    })
    .flatten()
}

/// The orthogonal part of a matrix of normal numbers, by modified Gram-Schmidt, row-major with so many rows.
fn orthogonal(rows: usize, values: &mut [f32], rng: &mut ChaCha8Rng) {
    let columns = values.len() / rows;
    let (count, len) = (rows.min(columns), rows.max(columns));
    let mut vectors: Vec<f64> = normal(rng).take(values.len()).collect();
    for i in 0..count {
        let (done, rest) = vectors.split_at_mut((i + 1) * len);
        let own = &mut done[i * len..];
        let norm = dot(own, own).sqrt();
        own.iter_mut().for_each(|x| *x /= norm);
        let own = &*own;
        rest.par_chunks_mut(len).for_each(|other| {
            let share = dot(own, other);
            other.iter_mut().zip(own).for_each(|(x, own)| *x -= share * own);
        });
    }
    let [row_step, column_step] = if rows <= columns { [len, 1] } else { [1, len] };
    for (i, value) in values.iter_mut().enumerate() {
        *value = vectors[i / columns * row_step + i % columns * column_step] as f32;
    }
}

/// In sums that can be added to at once.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    const SUMS: usize = 8;
    let mut sums = [0.0; SUMS];
    for (a, b) in a.chunks(SUMS).zip(b.chunks(SUMS)) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use crate::{Conv2d, Init, Linear, Loss, Network, Op, Parameters};

    fn drawn(input: &[usize], op: Op) -> Parameters {
        let network = Network::new(input, Loss::MSE, vec![vec![op]]).unwrap();
        assert!(network.initialize(3) == network.initialize(3) && network.initialize(3) != network.initialize(4));
        network.initialize(3)
    }

    /// Mean and standard deviation, over so many values that they are within five of their own deviations.
    fn assert_moments(values: &[f32], deviation: f64) {
        let n = values.len() as f64;
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let square = values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / n;
        assert!(mean.abs() < 5.0 * deviation / n.sqrt(), "mean {mean}");
        // That of x^2 is at most sqrt(2) of its mean.
        assert!((square / deviation.powi(2) - 1.0).abs() < 5.0 * (2.0 / n).sqrt(), "mean square {square}");
    }

    #[test]
    fn standard_normal_weights_are_normal() {
        let parameters = drawn(&[200], Op::Linear(Linear::new(150).with_init(Init::StandardNormal)));
        let weight = parameters.get("0.0.weight").unwrap();
        assert_moments(weight, 1.0);
        // 68.27%, 95.45% and 99.73% are within 1, 2 and 3.
        for (within, share) in [(1.0, 0.6827), (2.0, 0.9545), (3.0, 0.9973)] {
            let found = weight.iter().filter(|x| x.abs() < within).count() as f64 / weight.len() as f64;
            assert!((found - share).abs() < 5.0 * (share * (1.0 - share) / weight.len() as f64).sqrt(), "{within}");
        }
        assert!(parameters.get("0.0.bias").unwrap().iter().all(|&x| x == 0.0));
    }

    #[test]
    fn xavier_weights_are_uniform_by_both_fans() {
        // Fans of 9 times 20 and 30: the bound is sqrt(6 / 450), the deviation a sqrt(3)-th of it.
        let conv = Op::Conv2d(Conv2d::new(30, [3, 3]).with_init(Init::Xavier));
        let parameters = drawn(&[20, 3, 3], conv);
        let (weight, bound) = (parameters.get("0.0.weight").unwrap(), (6f64 / 450.0).sqrt());
        let largest = weight.iter().map(|x| f64::from(x.abs())).fold(0.0, f64::max);
        assert!(largest <= bound && largest > 0.99 * bound, "{largest}");
        assert_moments(weight, bound / 3f64.sqrt());
    }

    #[test]
    fn orthogonal_weights_are_orthonormal_rows_or_columns() {
        for (inputs, outputs) in [(7, 5), (5, 7), (64, 64), (1, 9), (9, 1)] {
            let linear = Op::Linear(Linear::new(outputs).with_init(Init::Orthogonal));
            let parameters = drawn(&[inputs], linear);
            let weight = parameters.get("0.0.weight").unwrap();
            let at = |row: usize, column: usize| f64::from(weight[row * inputs + column]);
            let wide = inputs >= outputs;
            for (i, j) in (0..inputs.min(outputs)).flat_map(|i| (0..=i).map(move |j| (i, j))) {
                let product = |k: usize| if wide { at(i, k) * at(j, k) } else { at(k, i) * at(k, j) };
                let dot: f64 = (0..inputs.max(outputs)).map(product).sum();
                assert!((dot - f64::from(i == j)).abs() < 1e-6, "{inputs} x {outputs}: {i} . {j} is {dot}");
            }
        }
        // Of convolutions a row is all of a channel's weights.
        let parameters = drawn(&[2, 3, 2], Op::Conv2d(Conv2d::new(3, [3, 2]).with_init(Init::Orthogonal)));
        let rows: Vec<_> = parameters.get("0.0.weight").unwrap().chunks(12).collect();
        let dot = |a: usize, b: usize| rows[a].iter().zip(rows[b]).map(|(a, b)| a * b).sum::<f32>();
        assert!((dot(1, 1) - 1.0).abs() < 1e-6 && dot(0, 2).abs() < 1e-6);
    }
}
