//! Naive twins of what stands between and behind the products, as plain loops that accumulate in f64.
//!
//! Images lie as `[samples][channels][height][width]`. Nothing of the kernels' packing, addresses or geometry is used
//! here; of the crate only the descriptions [`ConvShape`], [`Activation`] and [`Combine`] are.

use std::f64::consts::{PI, SQRT_2};

use predictive_coding_kernels::{Activation, Combine, ConvShape, Divisor};
use predictive_coding_kernels_reference::{output_size, under};

/// `alpha sum + beta out + gamma other + bias`, for tensors of `plane` pixels a channel. Operands
/// with a coefficient of 0 are not read.
pub fn combine(combine: &Combine<'_>, sum: &[f64], out: &[f32], plane: usize) -> Vec<f64> {
    let scaled = |factor: f32, of: &[f32], i: usize| match factor {
        0.0 => 0.0,
        _ => f64::from(factor) * f64::from(of[i]),
    };
    let element = |(i, sum): (usize, &f64)| {
        let bias = combine.bias.map_or(0.0, |bias| f64::from(bias[i / plane % bias.len()]));
        f64::from(combine.alpha) * sum + scaled(combine.beta, out, i) + scaled(combine.gamma, combine.other, i) + bias
    };
    sum.iter().enumerate().map(element).collect()
}

/// The sum of all elements.
pub fn sum(values: &[f32]) -> f64 {
    values.iter().map(|&x| f64::from(x)).sum()
}

/// The sum of the squares of each sample's elements.
pub fn squares(samples: usize, values: &[f32]) -> Vec<f64> {
    let elements = values.len() / samples;
    values.chunks(elements).map(|sample| sample.iter().map(|&x| f64::from(x) * f64::from(x)).sum()).collect()
}

/// The gradient of the bias of a convolution from that of its output.
pub fn conv_backward_bias(shape: &ConvShape, samples: usize, output_gradient: &[f32]) -> Vec<f64> {
    let [height, width] = output_size(shape);
    let mut gradient = vec![0.0; shape.out_channels];
    for (i, &e) in output_gradient.iter().enumerate().take(samples * shape.out_channels * height * width) {
        gradient[i / (height * width) % shape.out_channels] += f64::from(e);
    }
    gradient
}

/// For every output pixel, the (tap, input pixel) pairs of its window in row-major order.
type Windows = Vec<Vec<(usize, usize)>>;

fn windows(shape: &ConvShape) -> Windows {
    let ([height, width], [kernel_height, kernel_width]) = (output_size(shape), shape.kernel);
    let mut windows = vec![];
    for out in (0..height).flat_map(|y| (0..width).map(move |x| [y, x])) {
        let mut window = vec![];
        for tap in (0..kernel_height).flat_map(|y| (0..kernel_width).map(move |x| [y, x])) {
            if let Some([y, x]) = under(shape, out, tap) {
                window.push((tap[0] * kernel_width + tap[1], y * shape.input[1] + x));
            }
        }
        windows.push(window);
    }
    windows
}

/// Output i of o along an axis covers inputs floor(i n / o) .. ceil((i + 1) n / o).
fn adaptive_windows(input: [usize; 2], output: [usize; 2]) -> Windows {
    let covers = |axis: usize, out: usize, i: usize| {
        let (n, o) = (input[axis], output[axis]);
        i >= out * n / o && i < ((out + 1) * n).div_ceil(o)
    };
    let mut windows = vec![];
    for (y, x) in (0..output[0]).flat_map(|y| (0..output[1]).map(move |x| (y, x))) {
        let pixels = (0..input[0] * input[1]).filter(|i| covers(0, y, i / input[1]) && covers(1, x, i % input[1]));
        windows.push(pixels.map(|i| (0, i)).collect());
    }
    windows
}

/// The largest candidate of each window.
#[derive(Clone, Debug)]
pub struct Largest {
    /// The candidates themselves.
    pub values: Vec<f64>,
    /// The taps where they stand: of equals the first, but the last NaN, as PyTorch.
    pub winners: Vec<usize>,
    /// How far each is ahead of the next of its window: a kernel that rounds may take another winner if
    /// that is little.
    pub leads: Vec<f64>,
}

/// `candidate` takes the indices of an output and of an input.
fn largest(shape: &ConvShape, planes: usize, candidate: impl Fn(usize, usize) -> f64) -> Largest {
    let windows = windows(shape);
    let mut largest = Largest { values: vec![], winners: vec![], leads: vec![] };
    for plane in 0..planes {
        for window in &windows {
            let at = |pixel: usize| candidate(largest.values.len(), plane * shape.input[0] * shape.input[1] + pixel);
            let (mut best, mut winner) = (f64::NEG_INFINITY, window[0].0);
            for &(tap, pixel) in window {
                let value = at(pixel);
                if value > best || value.is_nan() {
                    (best, winner) = (value, tap);
                }
            }
            let others = window.iter().filter(|(tap, _)| *tap != winner).map(|&(_, pixel)| at(pixel));
            let lead = best - others.fold(f64::NEG_INFINITY, f64::max);
            largest.values.push(best);
            largest.winners.push(winner);
            largest.leads.push(lead);
        }
    }
    largest
}

/// The largest of f over each window of each of `planes` images.
pub fn max_pool(activation: Activation, shape: &ConvShape, planes: usize, z: &[f32]) -> Largest {
    largest(shape, planes, |_, i| activation_value(activation, f64::from(z[i])))
}

/// The deviation of max pooling from its `value` at z, if z deviates by d: the largest of
/// (f(z_j) - value) + (f(z_j + d_j) - f(z_j)).
pub fn max_pool_push(
    activation: Activation,
    shape: &ConvShape,
    planes: usize,
    z: &[f32],
    value: &[f32],
    d: &[f32],
) -> Largest {
    largest(shape, planes, |o, i| {
        let z = f64::from(z[i]);
        let difference = activation_difference(activation, z, f64::from(d[i]));
        (activation_value(activation, z) - f64::from(value[o])) + difference
    })
}

/// Each output's gradient at its winner's place.
pub fn max_pool_backward(shape: &ConvShape, planes: usize, output_gradient: &[f32], winners: &[usize]) -> Vec<f64> {
    let pixels = shape.input[0] * shape.input[1];
    let windows = windows(shape);
    let mut gradient = vec![0.0; planes * pixels];
    for (i, (&e, &winner)) in output_gradient.iter().zip(winners).enumerate() {
        let (plane, window) = (i / windows.len(), &windows[i % windows.len()]);
        for &(_, pixel) in window.iter().filter(|(tap, _)| *tap == winner) {
            gradient[plane * pixels + pixel] += f64::from(e);
        }
    }
    gradient
}

fn mean(windows: &Windows, divisors: &[usize], pixels: usize, planes: usize, input: &[f32]) -> Vec<f64> {
    let mut means = vec![];
    for plane in 0..planes {
        for (window, &divisor) in windows.iter().zip(divisors) {
            let sum: f64 = window.iter().map(|&(_, pixel)| f64::from(input[plane * pixels + pixel])).sum();
            means.push(if window.is_empty() { 0.0 } else { sum / divisor as f64 });
        }
    }
    means
}

fn spread(windows: &Windows, divisors: &[usize], pixels: usize, planes: usize, gradient: &[f32]) -> Vec<f64> {
    let mut spread = vec![0.0; planes * pixels];
    for plane in 0..planes {
        for (o, (window, &divisor)) in windows.iter().zip(divisors).enumerate() {
            let share = f64::from(gradient[plane * windows.len() + o]) / divisor as f64;
            window.iter().for_each(|&(_, pixel)| spread[plane * pixels + pixel] += share);
        }
    }
    spread
}

/// What the sum of each window is divided by.
fn divisors(shape: &ConvShape, divisor: Divisor) -> Vec<usize> {
    let [height, width] = output_size(shape);
    let counts = |axis: usize, out: usize| {
        let place = |tap: usize| out * shape.stride[axis] + tap * shape.dilation[axis];
        let padded = shape.input[axis] + 2 * shape.padding[axis];
        (0..shape.kernel[axis]).filter(|&tap| place(tap) < padded).count()
    };
    let outputs = (0..height).flat_map(|y| (0..width).map(move |x| [y, x]));
    outputs
        .zip(windows(shape))
        .map(|([y, x], window)| match divisor {
            Divisor::Padded => counts(0, y) * counts(1, x),
            Divisor::Inside => window.len(),
            Divisor::Number(number) => number,
            other => panic!("{other:?} is not written down here"),
        })
        .collect()
}

/// The sum of each window divided by a number.
pub fn avg_pool(shape: &ConvShape, divisor: Divisor, planes: usize, input: &[f32]) -> Vec<f64> {
    mean(&windows(shape), &divisors(shape, divisor), shape.input[0] * shape.input[1], planes, input)
}

/// The gradient of the input of [`avg_pool`].
pub fn avg_pool_backward(shape: &ConvShape, divisor: Divisor, planes: usize, output_gradient: &[f32]) -> Vec<f64> {
    let pixels = shape.input[0] * shape.input[1];
    spread(&windows(shape), &divisors(shape, divisor), pixels, planes, output_gradient)
}

fn sizes(windows: &Windows) -> Vec<usize> {
    windows.iter().map(Vec::len).collect()
}

/// The means of the windows that make an image of the size `output`.
pub fn adaptive_avg_pool(input_size: [usize; 2], output: [usize; 2], planes: usize, input: &[f32]) -> Vec<f64> {
    let windows = adaptive_windows(input_size, output);
    mean(&windows, &sizes(&windows), input_size[0] * input_size[1], planes, input)
}

/// The gradient of the input of [`adaptive_avg_pool`].
pub fn adaptive_avg_pool_backward(
    input_size: [usize; 2],
    output: [usize; 2],
    planes: usize,
    output_gradient: &[f32],
) -> Vec<f64> {
    let windows = adaptive_windows(input_size, output);
    spread(&windows, &sizes(&windows), input_size[0] * input_size[1], planes, output_gradient)
}

/// f(z).
pub fn activation_value(activation: Activation, z: f64) -> f64 {
    match activation {
        Activation::Identity => z,
        Activation::Relu if z <= 0.0 => 0.0,
        Activation::Relu => z,
        Activation::LeakyRelu { negative_slope } => leaky(negative_slope, z) * z,
        // A NaN is neither below nor above.
        Activation::Hardtanh { min_val, .. } if z < f64::from(min_val) => min_val.into(),
        Activation::Hardtanh { max_val, .. } if z > f64::from(max_val) => max_val.into(),
        Activation::Hardtanh { .. } => z,
        Activation::Elu { alpha } => {
            if z > 0.0 {
                z
            } else {
                f64::from(alpha) * z.exp_m1()
            }
        }
        Activation::Selu => SELU[0] * if z > 0.0 { z } else { SELU[1] * z.exp_m1() },
        Activation::Tanh => z.tanh(),
        Activation::Sigmoid => sigmoid(z),
        Activation::Gelu => z * normal_distribution(z),
        Activation::GeluTanh => z * sigmoid(gelu_argument(z)),
        Activation::Silu => z * sigmoid(z),
        Activation::Softplus { .. } if is_above(activation, z) => z,
        Activation::Softplus { beta, .. } => softplus(f64::from(beta) * z) / f64::from(beta),
        other => panic!("{other} is not written down here"),
    }
}

/// f'(z).
pub fn activation_slope(activation: Activation, z: f64) -> f64 {
    match activation {
        Activation::Identity => 1.0,
        Activation::Relu => leaky(0.0, z),
        Activation::LeakyRelu { negative_slope } => leaky(negative_slope, z),
        Activation::Hardtanh { min_val, max_val } => f64::from(z > f64::from(min_val) && z < f64::from(max_val)),
        Activation::Elu { alpha } => {
            if z > 0.0 {
                1.0
            } else {
                f64::from(alpha) * z.exp()
            }
        }
        Activation::Selu => SELU[0] * if z > 0.0 { 1.0 } else { SELU[1] * z.exp() },
        Activation::Tanh => z.cosh().powi(-2),
        Activation::Sigmoid => sigmoid(z) * sigmoid(-z),
        Activation::Gelu => normal_distribution(z) + z * normal_density(z),
        Activation::GeluTanh => {
            let (q, steepness) = (gelu_argument(z), (8.0 / PI).sqrt() * (1.0 + 3.0 * 0.044715 * z * z));
            // Where the product is infinite the exponential has won.
            let gate = sigmoid(q) * sigmoid(-q);
            sigmoid(q) + z * if gate == 0.0 && z.is_finite() { 0.0 } else { gate * steepness }
        }
        Activation::Silu => sigmoid(z) * (1.0 + z * sigmoid(-z)),
        Activation::Softplus { .. } if is_above(activation, z) => 1.0,
        Activation::Softplus { beta, .. } => sigmoid(f64::from(beta) * z),
        other => panic!("{other} is not written down here"),
    }
}

/// f(z + d) - f(z). Where that would cancel in f64 too, an identity takes its place.
pub fn activation_difference(activation: Activation, z: f64, d: f64) -> f64 {
    let w = z + d;
    match activation {
        Activation::Identity => d,
        // On one side of 0 they are linear; from one side to the other the values may be subtracted.
        Activation::Relu | Activation::LeakyRelu { .. } if z > 0.0 && w > 0.0 => d,
        Activation::LeakyRelu { negative_slope } if z <= 0.0 && w <= 0.0 => f64::from(negative_slope) * d,
        Activation::Relu | Activation::LeakyRelu { .. } => {
            activation_value(activation, w) - activation_value(activation, z)
        }
        // How far w is from f(z), as far as the range goes.
        Activation::Hardtanh { min_val, max_val } => {
            let y = activation_value(activation, z);
            let limits = [min_val, max_val].map(|limit| f64::from(limit) - y);
            match z - y + d {
                beyond if beyond < limits[0] => limits[0],
                beyond if beyond > limits[1] => limits[1],
                inside => inside,
            }
        }
        Activation::Elu { .. } if z > 0.0 && w > 0.0 => d,
        Activation::Selu if z > 0.0 && w > 0.0 => SELU[0] * d,
        // e^w - e^z
        Activation::Elu { .. } | Activation::Selu if z <= 0.0 && w <= 0.0 => {
            -activation_slope(activation, z.max(w)) * (-d.abs()).exp_m1() * d.signum()
        }
        Activation::Elu { .. } | Activation::Selu => activation_value(activation, w) - activation_value(activation, z),
        Activation::Tanh => tanh_difference(z, d),
        // sigmoid(x) = (1 + tanh(x / 2)) / 2
        Activation::Sigmoid => tanh_difference(z / 2.0, d / 2.0) / 2.0,
        Activation::Gelu => d * normal_distribution(w) + z * normal_difference(z, d),
        Activation::GeluTanh => {
            // z^2 + z w + w^2
            let bend = 1.0 + 0.044715 * ((w + z / 2.0).powi(2) + 0.75 * z * z);
            let step = if d == 0.0 { 0.0 } else { (8.0 / PI).sqrt() * d * bend };
            let (from, to) = (gelu_argument(z), gelu_argument(w));
            // A large argument and its step do not add up to a small one.
            let gates = match step.abs() < 1.0 {
                true => tanh_difference(from / 2.0, step / 2.0) / 2.0,
                false if from > 0.0 && to > 0.0 => sigmoid(-from) - sigmoid(-to),
                false => sigmoid(to) - sigmoid(from),
            };
            d * sigmoid(to) + z * gates
        }
        Activation::Silu => d * sigmoid(w) + z * tanh_difference(z / 2.0, d / 2.0) / 2.0,
        Activation::Softplus { beta, .. } => match [is_above(activation, z), is_above(activation, w)] {
            [true, true] => d,
            [false, false] => softplus_difference(f64::from(beta) * z, f64::from(beta) * d) / f64::from(beta),
            _ => activation_value(activation, w) - activation_value(activation, z),
        },
        other => panic!("{other} is not written down here"),
    }
}

/// The slope of the leaky ReLU: that of the negative side at 0, as PyTorch's.
fn leaky(negative_slope: f32, z: f64) -> f64 {
    if z > 0.0 { 1.0 } else { f64::from(negative_slope) }
}

/// Scale and alpha of the self-normalising network: Klambauer et al. (2017), appendix A1.
const SELU: [f64; 2] = [1.050_700_987_355_480_5, 1.673_263_242_354_377_3];

/// Twice the argument of the tanh.
pub fn gelu_argument(x: f64) -> f64 {
    (8.0 / PI).sqrt() * (x + 0.044715 * x.powi(3))
}

/// Whether the softplus of x is said to be x: from a threshold of 20 on it is close enough by itself.
pub fn is_above(activation: Activation, x: f64) -> bool {
    matches!(activation, Activation::Softplus { beta, threshold }
        if threshold < 20.0 && f64::from(beta) * x > f64::from(threshold))
}

fn softplus(z: f64) -> f64 {
    f64::max(z, 0.0) + (-z.abs()).exp().ln_1p()
}

fn softplus_difference(z: f64, d: f64) -> f64 {
    let w = z + d;
    match d.abs() < 1.0 {
        true => (sigmoid(z) * d.exp_m1()).ln_1p(),
        // log(1 + e^x) = x + log(1 + e^-x)
        false if z > 0.0 && w > 0.0 => d + (-w).exp().ln_1p() - (-z).exp().ln_1p(),
        false => softplus(w) - softplus(z),
    }
}

fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

/// tanh(z + d) - tanh(z).
fn tanh_difference(z: f64, d: f64) -> f64 {
    let w = z + d;
    if d.abs() < 1.0 {
        return d.sinh() / z.cosh() / w.cosh();
    }
    let below_one = |x: f64| 2.0 / ((2.0 * x.abs()).exp() + 1.0);
    if z * w > 0.0 { z.signum() * (below_one(z) - below_one(w)) } else { w.tanh() - z.tanh() }
}

fn normal_density(z: f64) -> f64 {
    (-z * z / 2.0).exp() / (SQRT_2 * PI.sqrt())
}

/// Phi(z): 1/2 + phi(z) (z + z^3/3 + z^5/(3 5) + ...) near 0, beyond by the continued fraction
/// Phi(-x) = phi(x) / (x + 1 / (x + 2 / (x + 3 / ...))).
fn normal_distribution(z: f64) -> f64 {
    if z.abs() < 3.0 {
        let mut term = z;
        let mut sum = z;
        for n in 1..100 {
            term *= z * z / f64::from(2 * n + 1);
            sum += term;
        }
        return 0.5 + normal_density(z) * sum;
    }
    let x = z.abs();
    let tail = normal_density(z) / (1..200).rev().fold(x, |fraction, n| x + f64::from(n) / fraction);
    if z > 0.0 { 1.0 - tail } else { tail }
}

/// Phi(z + d) - Phi(z): for small d the Taylor series, the derivatives of phi following from
/// phi^(n+1) = -z phi^(n) - n phi^(n-1); else the difference of two values on the lower side of 0.
fn normal_difference(z: f64, d: f64) -> f64 {
    if d.abs() >= 0.1 {
        let (z, w) = if z > 0.0 { (-z - d, -z) } else { (z, z + d) };
        return normal_distribution(w) - normal_distribution(z);
    }
    let (mut before, mut derivative, mut power, mut sum) = (0.0, normal_density(z), d, 0.0);
    for n in 0..60 {
        sum += derivative * power;
        (before, derivative) = (derivative, -z * derivative - f64::from(n) * before);
        power *= d / f64::from(n + 2);
    }
    sum
}

/// Softmax cross-entropy of the outputs y + d, `[samples][classes]`: the gradients times `scale`,
/// and the loss of each sample. Samples without a label have none of both.
pub fn cross_entropy(y: &[f32], d: &[f32], labels: &[Option<usize>], scale: f32) -> (Vec<f64>, Vec<f64>) {
    let classes = y.len() / labels.len();
    let (mut errors, mut losses) = (vec![], vec![]);
    for (sample, &label) in labels.iter().enumerate() {
        let output = |class: usize| f64::from(y[sample * classes + class]) + f64::from(d[sample * classes + class]);
        // The odds of one class against another.
        let odds = |a: usize, b: usize| (output(a) - output(b)).exp();
        let probability = |class: usize| 1.0 / (0..classes).map(|other| odds(other, class)).sum::<f64>();
        let Some(label) = label else {
            errors.extend(vec![0.0; classes]);
            losses.push(0.0);
            continue;
        };
        for class in 0..classes {
            let others = || (0..classes).filter(|&other| other != label).map(probability).sum::<f64>();
            errors.push(f64::from(scale) * if class == label { -others() } else { probability(class) });
        }
        losses.push((0..classes).filter(|&other| other != label).map(|other| odds(other, label)).sum::<f64>().ln_1p());
    }
    (errors, losses)
}

/// Squared error of the outputs y + d, `[samples][outputs]`: `2 scale (y + d - target)`, and the sum
/// of squares of each sample.
pub fn squared_error(samples: usize, y: &[f32], d: &[f32], target: &[f32], scale: f32) -> (Vec<f64>, Vec<f64>) {
    let difference: Vec<f64> = (0..y.len()).map(|i| f64::from(y[i]) + f64::from(d[i]) - f64::from(target[i])).collect();
    let losses = difference.chunks(y.len() / samples).map(|sample| sample.iter().map(|e| e * e).sum()).collect();
    (difference.iter().map(|e| 2.0 * f64::from(scale) * e).collect(), losses)
}
