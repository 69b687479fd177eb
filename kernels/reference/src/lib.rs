//! Naive twins of the products: what they compute, as plain loops that accumulate in f64.
//!
//! Matrices lie in rows, images as `[samples][channels][height][width]`. Nothing of the kernels'
//! packing, addresses or geometry is used here; of the crate only the description [`ConvShape`] is.
//! Everything returns f64, so that a test can tell how far a kernel is off; called with absolute
//! values, a product gives the size that its error scales with.

use predictive_coding_kernels::ConvShape;

/// alpha A B + beta C, row after row, for A of m x k and B of k x n. Element (i, j) of a matrix is
/// `data[i * strides[0] + j * strides[1]]`. With beta 0, C is not read.
pub fn gemm(
    [m, n, k]: [usize; 3],
    alpha: f32,
    (a, a_strides): (&[f32], [usize; 2]),
    (b, b_strides): (&[f32], [usize; 2]),
    beta: f32,
    (c, c_strides): (&[f32], [usize; 2]),
) -> Vec<f64> {
    let at = |data: &[f32], strides: [usize; 2], i, j| f64::from(data[i * strides[0] + j * strides[1]]);
    let mut result = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            let sum: f64 = (0..k).map(|p| at(a, a_strides, i, p) * at(b, b_strides, p, j)).sum();
            let old = if beta == 0.0 { 0.0 } else { f64::from(beta) * at(c, c_strides, i, j) };
            result[i * n + j] = f64::from(alpha) * sum + old;
        }
    }
    result
}

/// Height and width of what a window of this kind makes of an image.
pub fn output_size(shape: &ConvShape) -> [usize; 2] {
    [0, 1].map(|axis| {
        let reach = shape.dilation[axis] * (shape.kernel[axis] - 1);
        (shape.input[axis] + 2 * shape.padding[axis] + shape.extra[axis] - reach - 1) / shape.stride[axis] + 1
    })
}

/// The input row or column, along `axis`, under a tap of the window of an output pixel, unless it is padding.
fn along(shape: &ConvShape, axis: usize, out: usize, tap: usize) -> Option<usize> {
    let padded = out * shape.stride[axis] + tap * shape.dilation[axis];
    padded.checked_sub(shape.padding[axis]).filter(|&input| input < shape.input[axis])
}

/// The input pixel (row, column) under tap (row, column) of the window of an output pixel, unless
/// it is padding.
pub fn under(shape: &ConvShape, out: [usize; 2], tap: [usize; 2]) -> Option<[usize; 2]> {
    Some([along(shape, 0, out[0], tap[0])?, along(shape, 1, out[1], tap[1])?])
}

/// Calls `f` with the indices (output, input, weight) of every product that a convolution sums:
/// output gains input times weight.
fn for_each_product(shape: &ConvShape, samples: usize, mut f: impl FnMut(usize, usize, usize)) {
    let ([in_height, in_width], [out_height, out_width]) = (shape.input, output_size(shape));
    let taps = || (0..shape.kernel[0]).flat_map(|ky| (0..shape.kernel[1]).map(move |kx| [ky, kx]));
    let of_group = shape.in_channels / shape.groups;
    for sample in 0..samples {
        for o in 0..shape.out_channels {
            let group = o / (shape.out_channels / shape.groups);
            for c in 0..of_group {
                let channel = sample * shape.in_channels + group * of_group + c;
                for [ky, kx] in taps() {
                    let weight = ((o * of_group + c) * shape.kernel[0] + ky) * shape.kernel[1] + kx;
                    for y in 0..out_height {
                        let Some(in_y) = along(shape, 0, y, ky) else { continue };
                        let output = ((sample * shape.out_channels + o) * out_height + y) * out_width;
                        let input = (channel * in_height + in_y) * in_width;
                        for x in 0..out_width {
                            let Some(in_x) = along(shape, 1, x, kx) else { continue };
                            f(output + x, input + in_x, weight);
                        }
                    }
                }
            }
        }
    }
}

/// The convolution of `input` with `weight` `[out_channels][in_channels / groups][height][width]`.
pub fn conv_forward(shape: &ConvShape, samples: usize, input: &[f32], weight: &[f32]) -> Vec<f64> {
    let [height, width] = output_size(shape);
    let mut output = vec![0.0; samples * shape.out_channels * height * width];
    for_each_product(shape, samples, |o, i, w| output[o] += f64::from(input[i]) * f64::from(weight[w]));
    output
}

/// The gradient of the input of a convolution from that of its output.
pub fn conv_backward_data(shape: &ConvShape, samples: usize, output_gradient: &[f32], weight: &[f32]) -> Vec<f64> {
    let mut gradient = vec![0.0; samples * shape.in_channels * shape.input[0] * shape.input[1]];
    for_each_product(shape, samples, |o, i, w| gradient[i] += f64::from(output_gradient[o]) * f64::from(weight[w]));
    gradient
}

/// The gradient of the weights of a convolution from that of its output.
pub fn conv_backward_weights(shape: &ConvShape, samples: usize, output_gradient: &[f32], input: &[f32]) -> Vec<f64> {
    let mut gradient =
        vec![0.0; shape.out_channels * shape.in_channels / shape.groups * shape.kernel[0] * shape.kernel[1]];
    for_each_product(shape, samples, |o, i, w| gradient[w] += f64::from(output_gradient[o]) * f64::from(input[i]));
    gradient
}

/// The spread of each group of `per_group` elements: its mean, or 0 if it is not `centred`, and
/// sqrt(mean of squares of what is left + eps).
fn spread(group: &[f64], centred: bool, eps: f64) -> [f64; 2] {
    let mean = |terms: &mut dyn Iterator<Item = f64>| terms.sum::<f64>() / group.len() as f64;
    let centre = if centred { mean(&mut group.iter().copied()) } else { 0.0 };
    [centre, (mean(&mut group.iter().map(|x| (x - centre).powi(2))) + eps).sqrt()]
}

/// Each group of `per_group` elements, less its mean if it is `centred`, over its spread.
pub fn normalised(x: &[f64], per_group: usize, centred: bool, eps: f64) -> Vec<f64> {
    let group = |group: &[f64]| {
        let [mean, sigma] = spread(group, centred, eps);
        group.iter().map(|x| (x - mean) / sigma).collect::<Vec<_>>()
    };
    x.chunks(per_group).flat_map(group).collect()
}

/// The gradient of the input of [`normalised`] from that of its result: sums over i of g_i times
/// dx-hat_i / dx_j = (delta_ij - 1/n - x-hat_i x-hat_j / n) / sigma, without 1/n if it is not `centred`.
pub fn normalised_backward(x: &[f64], gradient: &[f64], per_group: usize, centred: bool, eps: f64) -> Vec<f64> {
    let group = |(group, g): (&[f64], &[f64])| {
        let [_, sigma] = spread(group, centred, eps);
        let hat = normalised(group, per_group, centred, eps);
        let n = per_group as f64;
        let slope = |i: usize, j: usize| f64::from(i == j) - if centred { 1.0 / n } else { 0.0 } - hat[i] * hat[j] / n;
        let element = |j: usize| (0..per_group).map(|i| g[i] * slope(i, j)).sum::<f64>() / sigma;
        (0..per_group).map(element).collect::<Vec<_>>()
    };
    x.chunks(per_group).zip(gradient.chunks(per_group)).flat_map(group).collect()
}
