//! Whether a result is right, for much less work than computing it again: Freivalds' method.
//!
//! Random factors contract the axes that a product keeps. (A B) x = A (B x) needs no product of
//! matrices, and a convolution whose channels are contracted in its operands and in its result alike
//! is one of a single channel, which the naive twin does. A wrong element goes unseen only if the
//! factors happen to cancel it.

use predictive_coding_kernels::ConvShape;
use predictive_coding_kernels_reference as reference;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::bench::conv::{Conv, Pass};
use crate::bench::gemm::Gemm;

/// Uniform in -1..1.
pub fn values(seed: u64, count: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
}

fn factors(seed: u64, count: usize) -> Vec<f64> {
    values(seed, count).into_iter().map(f64::from).collect()
}

/// `[.., factors, inner]` to `[.., inner]`: the sum along the axis, weighted.
fn contract<T: Into<f64> + Copy>(tensor: &[T], factors: &[f64], inner: usize) -> Vec<f64> {
    let mut sums = vec![0.0; tensor.len() / factors.len()];
    for (sums, block) in sums.chunks_exact_mut(inner).zip(tensor.chunks_exact(factors.len() * inner)) {
        for (factor, row) in factors.iter().zip(block.chunks_exact(inner)) {
            for (sum, &x) in sums.iter_mut().zip(row) {
                *sum += factor * x.into();
            }
        }
    }
    sums
}

fn rounded(values: Vec<f64>) -> Vec<f32> {
    values.into_iter().map(|x| x as f32).collect()
}

/// Compares contracted results: sums over `contracted` elements with factors, each element a sum of
/// `depth` products of numbers up to 1.
fn compare(found: &[f64], expected: &[f64], depth: usize, contracted: usize) -> Result<(), String> {
    // A sum of n numbers in sequence is off by less than n roundings of its size; the errors of
    // different elements add like random numbers.
    let tolerance = 4.0 * f64::from(f32::EPSILON) * depth as f64 * (contracted as f64).sqrt();
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (found - expected).abs();
        // A NaN is not within the tolerance either.
        if off.is_nan() || off > tolerance {
            return Err(format!("the result is wrong: sum {i} over it is {found}, expected {expected}"));
        }
    }
    Ok(())
}

/// Whether `c` is the product of `a` and `b`, each as it is stored.
pub fn gemm(gemm: &Gemm, a: &[f32], b: &[f32], c: &[f32]) -> Result<(), String> {
    let x = factors(10, gemm.n);
    let bx = contract(b, &x, if gemm.b_transposed { gemm.k } else { 1 });
    let abx = contract(a, &bx, if gemm.a_transposed { gemm.m } else { 1 });
    compare(&contract(c, &x, 1), &abx, gemm.k, gemm.n)
}

/// Whether `result` is what a pass makes of its operands, all in plain NCHW; in the order of
/// [`Conv::lengths`].
pub fn conv(conv: &Conv, operands: [&[f32]; 2], result: &[f32]) -> Result<(), String> {
    let Conv { pass, batch, shape, .. } = conv;
    let [input, output] = [shape.input, shape.output()].map(|[height, width]| height * width);
    let (c, o) = (shape.in_channels, shape.out_channels);
    let of_batch = factors(11, *batch);
    // Channels that see each other are summed up.
    let [of_c, of_o] = if shape.groups == 1 { [factors(12, c), factors(13, o)] } else { [vec![1.0], vec![1.0]] };
    let (left_c, left_o) = (c / of_c.len(), o / of_o.len());
    let [first, second] = operands;
    match pass {
        Pass::Forward => {
            let shape = ConvShape { out_channels: left_o, ..*shape };
            let x = rounded(contract(first, &of_batch, c * input));
            let weight = rounded(contract(second, &of_o, left_o * (c / shape.groups) * shape.taps()));
            let found = contract(&contract(result, &of_o, output), &of_batch, left_o * output);
            let expected = reference::conv_forward(&shape, 1, &x, &weight);
            compare(&found, &expected, c * shape.taps(), batch * o)
        }
        Pass::BackwardData => {
            let shape = ConvShape { in_channels: left_c, ..*shape };
            let e = rounded(contract(first, &of_batch, o * output));
            let weight = rounded(contract(second, &of_c, shape.taps()));
            let found = contract(&contract(result, &of_c, input), &of_batch, left_c * input);
            let expected = reference::conv_backward_data(&shape, 1, &e, &weight);
            compare(&found, &expected, o * shape.taps(), batch * c)
        }
        Pass::BackwardWeights => {
            let shape = ConvShape { in_channels: left_c, out_channels: left_o, ..*shape };
            let e = rounded(contract(first, &of_o, output));
            let x = rounded(contract(second, &of_c, input));
            let found = contract(&contract(result, &of_c, shape.taps()), &of_o, shape.taps());
            let expected = reference::conv_backward_weights(&shape, *batch, &e, &x);
            compare(&found, &expected, batch * output, c * o)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::conv::Layout;

    /// The result passes as it is, and with any one element changed, exchanged or lost it does not.
    fn notices(result: &[f32], check: impl Fn(&[f32]) -> Result<(), String>) {
        check(result).unwrap();
        for i in 0..result.len() {
            for wrong in [result[i] + 0.01, 0.0, f32::NAN, result[(i + 1) % result.len()]] {
                let mut result = result.to_vec();
                result[i] = wrong;
                assert!(check(&result).is_err(), "element {i} of {} is {wrong}", result.len());
            }
        }
    }

    #[test]
    fn wrong_elements_of_products_are_noticed() {
        let [m, k, n] = [3, 4, 5];
        let (a, b) = (values(1, m * k), values(2, k * n));
        for (a_transposed, b_transposed) in [(false, false), (false, true), (true, false), (true, true)] {
            let case = Gemm { m, k, n, a_transposed, b_transposed, packed: false };
            let a_strides = if a_transposed { [1, m] } else { [k, 1] };
            let b_strides = if b_transposed { [1, k] } else { [n, 1] };
            let c = reference::gemm([m, n, k], 1.0, (&a, a_strides), (&b, b_strides), 0.0, (&[], [0, 0]));
            notices(&rounded(c), |c| gemm(&case, &a, &b, c));
        }
    }

    #[test]
    fn wrong_elements_of_convolutions_are_noticed() {
        let shape = ConvShape {
            input: [5, 4],
            kernel: [3, 2],
            stride: [1, 2],
            padding: [1, 0],
            extra: [0, 0],
            dilation: [2, 1],
            ..ConvShape::linear(2, 3)
        };
        let batch = 2;
        let (x, e) = (values(1, batch * 2 * 20), values(2, batch * 3 * shape.output().iter().product::<usize>()));
        let weight = values(3, 36);
        let case = |pass| Conv { layout: Layout::Nchw, pass, batch, shape };
        let y = rounded(reference::conv_forward(&shape, batch, &x, &weight));
        notices(&y, |y| conv(&case(Pass::Forward), [&x, &weight], y));
        let back = rounded(reference::conv_backward_data(&shape, batch, &e, &weight));
        notices(&back, |back| conv(&case(Pass::BackwardData), [&e, &weight], back));
        let gradient = rounded(reference::conv_backward_weights(&shape, batch, &e, &x));
        notices(&gradient, |gradient| conv(&case(Pass::BackwardWeights), [&e, &x], gradient));
    }
}
