//! One operation on one sample: y = f(x), its vector-Jacobian product, its parameter gradients.
//!
//! Convolution, linear map and pooling are all given by a list of taps: which element of an input
//! plane reaches which element of an output plane, through which element of the kernel. A linear
//! map is a convolution of 1x1 images.

use std::f64::consts::{PI, SQRT_2};
use std::ops::Range;

use predictive_coding::{Approximation, Op, Padding, ParameterSpec, Role};

use crate::real::Real;

/// Input element `input` of a plane reaches output element `output` through kernel element `kernel`.
#[derive(Clone)]
struct Tap {
    output: usize,
    input: usize,
    kernel: usize,
    /// What an average multiplies the element by.
    share: f64,
}

/// An operation with its shapes and parameters.
#[derive(Clone)]
pub struct Operation<T> {
    op: Op,
    inputs: usize,
    outputs: usize,
    /// Channels of the input and of the output.
    channels: [usize; 2],
    taps: Vec<Tap>,
    kernel_elements: usize,
    weight: Vec<T>,
    bias: Vec<T>,
    /// Mean and variance of a batch normalisation.
    running: [Vec<T>; 2],
    /// What products are multiplied by.
    scale: T,
    /// Places of weight and bias in the network's flat buffer of parameters.
    weight_range: Range<usize>,
    bias_range: Range<usize>,
    /// The error of each output of a product; none, if empty.
    rounding: Vec<T>,
}

impl<T: Real> Operation<T> {
    /// The operation `op` from samples of shape `input` to samples of shape `output`. `specs` are its
    /// own parameters, whose values are slices of `parameters`.
    pub fn new(op: &Op, input: &[usize], output: &[usize], specs: &[&ParameterSpec], parameters: &[T]) -> Self {
        let range =
            |role| specs.iter().find(|spec| spec.role == role).map_or(0..0, |spec: &&ParameterSpec| spec.range.clone());
        let (taps, kernel_elements) = match op {
            Op::Conv2d(c) => {
                let padding = match c.padding {
                    Padding::Zeros(padding) => padding,
                    // Half of what is needed, without the one more of an odd number.
                    _ => [0, 1].map(|axis| c.dilation[axis] * (c.kernel_size[axis] - 1) / 2),
                };
                (windows(input, output, c.kernel_size, c.stride, padding, c.dilation), c.kernel_size.iter().product())
            }
            Op::ConvTranspose2d(c) => {
                // What a window of the convolution reads, its transpose writes.
                let mut taps = windows(output, input, c.kernel_size, c.stride, c.padding, c.dilation);
                taps.iter_mut().for_each(|tap| std::mem::swap(&mut tap.input, &mut tap.output));
                (taps, c.kernel_size.iter().product())
            }
            Op::MaxPool2d(p) => (windows(input, output, p.kernel_size, p.stride, p.padding, p.dilation), 0),
            Op::AvgPool2d(p) => {
                let mut taps = windows(input, output, p.kernel_size, p.stride, p.padding, [1, 1]);
                let taken: Vec<usize> = taps.iter().map(|tap| tap.output).collect();
                for tap in &mut taps {
                    // As F.avg_pool2d has it: to the end of the padding, but not beyond.
                    let length = |axis: usize, place: usize| {
                        let start = place * p.stride[axis];
                        (start + p.kernel_size[axis]).min(input[axis + 1] + 2 * p.padding[axis]) - start
                    };
                    let divisor = match (p.divisor_override, p.count_include_pad) {
                        (Some(divisor), _) => divisor,
                        (None, true) => length(0, tap.output / output[2]) * length(1, tap.output % output[2]),
                        (None, false) => taken.iter().filter(|&&output| output == tap.output).count(),
                    };
                    tap.share = 1.0 / divisor as f64;
                }
                (taps, 0)
            }
            Op::AdaptiveAvgPool2d { .. } => (adaptive_windows(input, output), 0),
            Op::Linear(_) => (vec![Tap { output: 0, input: 0, kernel: 0, share: 1.0 }], 1),
            _ => (vec![], 0),
        };
        Operation {
            op: op.clone(),
            inputs: input.iter().product(),
            outputs: output.iter().product(),
            channels: [input[0], output[0]],
            taps,
            kernel_elements,
            weight: parameters[range(Role::Weight)].to_vec(),
            bias: parameters[range(Role::Bias)].to_vec(),
            running: [Role::RunningMean, Role::RunningVar].map(|role| parameters[range(role)].to_vec()),
            scale: T::of(match op {
                Op::Conv2d(conv) => conv.scale,
                Op::Linear(linear) => linear.scale,
                _ => 1.0,
            }),
            weight_range: range(Role::Weight),
            bias_range: range(Role::Bias),
            rounding: vec![],
        }
    }

    /// Gives each sum of products an error of its own, as a multiple of the sum of their sizes, and each element that is
    /// normalised one as a multiple of its size.
    pub fn round(&mut self, mut error: impl FnMut() -> T) {
        if self.kernel_elements > 0 || is_norm(&self.op) {
            self.rounding = (0..self.outputs).map(|_| error()).collect();
        }
    }

    /// f(x).
    pub fn forward(&self, x: &[T]) -> Vec<T> {
        let mut y = vec![T::default(); self.outputs];
        match &self.op {
            Op::Conv2d(_) | Op::ConvTranspose2d(_) | Op::Linear(_) => {
                self.products(|o, w, i| {
                    let product = self.scale * self.weight[w] * x[i];
                    y[o] += product;
                    if let Some(&error) = self.rounding.get(o) {
                        y[o] += error * T::of(product.f64().abs());
                    }
                });
                for (plane, &bias) in y.chunks_mut(self.outputs / self.channels[1]).zip(&self.bias) {
                    plane.iter_mut().for_each(|y| *y += bias);
                }
            }
            Op::AvgPool2d(_) | Op::AdaptiveAvgPool2d { .. } => self.shares(|o, share, i| y[o] += share * x[i]),
            Op::MaxPool2d(_) => y = self.winners(x).into_iter().map(|i| x[i]).collect(),
            Op::Flatten | Op::Unflatten { .. } | Op::Dropout { .. } | Op::Identity => y.copy_from_slice(x),
            op if is_norm(op) => {
                y = self.normalised(x);
                for (i, y) in y.iter_mut().enumerate() {
                    *y = *y * self.gain(i) + self.shift(i);
                }
            }
            op => y.iter_mut().zip(x).for_each(|(y, x)| *y = T::of(activation(op, x.f64()))),
        }
        y
    }

    /// J(x)^T d.
    pub fn pull(&self, x: &[T], d: &[T]) -> Vec<T> {
        let mut pulled = vec![T::default(); self.inputs];
        match &self.op {
            Op::Conv2d(_) | Op::ConvTranspose2d(_) | Op::Linear(_) => {
                self.products(|o, w, i| pulled[i] += self.scale * self.weight[w] * d[o]);
            }
            Op::AvgPool2d(_) | Op::AdaptiveAvgPool2d { .. } => self.shares(|o, share, i| pulled[i] += share * d[o]),
            Op::MaxPool2d(_) => self.winners(x).into_iter().zip(d).for_each(|(i, &d)| pulled[i] += d),
            Op::Flatten | Op::Unflatten { .. } | Op::Dropout { .. } | Op::Identity => pulled.copy_from_slice(d),
            Op::BatchNorm2d(_) => {
                (0..x.len()).for_each(|i| pulled[i] = d[i] * self.gain(i) * self.statistics(x)[self.group(i)][1]);
            }
            op if is_norm(op) => {
                let hat = self.normalised(x);
                let g: Vec<T> = (0..x.len()).map(|i| d[i] * self.gain(i)).collect();
                let along: Vec<T> = g.iter().zip(&hat).map(|(&g, &hat)| g * hat).collect();
                let [mean, along] = [&g, &along].map(|values| self.means(values));
                let statistics = self.statistics(x);
                for i in 0..x.len() {
                    let (group, centred) = (self.group(i), !matches!(op, Op::RmsNorm(_)));
                    let mean = if centred { mean[group] } else { T::default() };
                    pulled[i] = (g[i] - mean - hat[i] * along[group]) * statistics[group][1];
                }
            }
            op => (0..x.len()).for_each(|i| pulled[i] = T::of(slope(op, x[i].f64())) * d[i]),
        }
        pulled
    }

    /// Adds d . df(x)/dtheta to the gradients of all the network's parameters.
    pub fn add_gradient(&self, x: &[T], d: &[T], gradients: &mut [T]) {
        if self.weight.is_empty() {
            return;
        }
        if is_norm(&self.op) {
            let hat = self.normalised(x);
            for i in 0..x.len() {
                gradients[self.weight_range.start + i * self.weight.len() / x.len()] += d[i] * hat[i];
                if !self.bias.is_empty() {
                    gradients[self.bias_range.start + i * self.bias.len() / x.len()] += d[i];
                }
            }
            return;
        }
        let weight = &mut gradients[self.weight_range.clone()];
        self.products(|o, w, i| weight[w] += self.scale * d[o] * x[i]);
        let bias = &mut gradients[self.bias_range.clone()];
        for (bias, plane) in bias.iter_mut().zip(d.chunks(self.outputs / self.channels[1])) {
            plane.iter().for_each(|&d| *bias += d);
        }
    }

    /// What element i of a normalised sample is multiplied by.
    fn gain(&self, i: usize) -> T {
        if self.weight.is_empty() { T::of(1.0) } else { self.weight[i * self.weight.len() / self.inputs] }
    }

    fn shift(&self, i: usize) -> T {
        if self.bias.is_empty() { T::default() } else { self.bias[i * self.bias.len() / self.inputs] }
    }

    /// Those that are normalised together.
    fn groups(&self) -> usize {
        match self.op {
            Op::GroupNorm { num_groups, .. } => num_groups,
            Op::BatchNorm2d(_) => self.channels[0],
            _ => 1,
        }
    }

    fn group(&self, i: usize) -> usize {
        i * self.groups() / self.inputs
    }

    /// The mean of each group.
    fn means(&self, x: &[T]) -> Vec<T> {
        let size = self.inputs / self.groups();
        let mean = |x: &[T]| x.iter().fold(T::default(), |sum, &x| sum + x) / T::of(size as f64);
        x.chunks(size).map(mean).collect()
    }

    /// Of each group, what is subtracted, and one over what the rest is divided by.
    fn statistics(&self, x: &[T]) -> Vec<[T; 2]> {
        let (Op::LayerNorm(norm) | Op::RmsNorm(norm) | Op::GroupNorm { norm, .. } | Op::BatchNorm2d(norm)) = &self.op
        else {
            unreachable!("{} does not normalise", self.op.name())
        };
        let scale = |variance: T| T::of(1.0 / (variance.f64() + norm.eps).sqrt());
        let [running_mean, running_var] = &self.running;
        if !running_mean.is_empty() {
            return running_mean.iter().zip(running_var).map(|(&mean, &variance)| [mean, scale(variance)]).collect();
        }
        let mut means = self.means(x);
        if matches!(self.op, Op::RmsNorm(_)) {
            means.fill(T::default());
        }
        let squares: Vec<T> =
            x.iter().enumerate().map(|(i, &x)| (x - means[self.group(i)]) * (x - means[self.group(i)])).collect();
        means.iter().zip(self.means(&squares)).map(|(&mean, variance)| [mean, scale(variance)]).collect()
    }

    /// An element with its error.
    fn rounded(&self, i: usize, x: T) -> T {
        self.rounding.get(i).map_or(x, |&error| x + error * x)
    }

    fn normalised(&self, x: &[T]) -> Vec<T> {
        let x: Vec<T> = x.iter().enumerate().map(|(i, &x)| self.rounded(i, x)).collect();
        let statistics = self.statistics(&x);
        let normal = |(i, &x): (usize, &T)| {
            let [mean, scale] = statistics[self.group(i)];
            (x - mean) * scale
        };
        x.iter().enumerate().map(normal).collect()
    }

    /// Every (output, weight, input) of a linear map or convolution.
    fn products(&self, mut each: impl FnMut(usize, usize, usize)) {
        let [inputs, outputs] = self.channels;
        let (input_plane, output_plane) = (self.inputs / inputs, self.outputs / outputs);
        let (groups, transposed) = match &self.op {
            Op::Conv2d(conv) => (conv.groups, false),
            Op::ConvTranspose2d(transpose) => (transpose.groups, true),
            _ => (1, false),
        };
        let [seen, seeing] = [inputs / groups, outputs / groups];
        for o in 0..outputs {
            for i in o / seeing * seen..(o / seeing + 1) * seen {
                let kernel = if transposed { i * seeing + o % seeing } else { o * seen + i % seen };
                for tap in &self.taps {
                    let weight = kernel * self.kernel_elements + tap.kernel;
                    each(o * output_plane + tap.output, weight, i * input_plane + tap.input);
                }
            }
        }
    }

    /// Every (output, share, input) of an average.
    fn shares(&self, mut each: impl FnMut(usize, T, usize)) {
        self.windowed(|o, tap, i| each(o, T::of(tap.share), i));
    }

    /// The input that each output of a max pool takes: the first in row-major order on a tie.
    fn winners(&self, x: &[T]) -> Vec<usize> {
        let mut winners = vec![None; self.outputs];
        self.windowed(|o, _, i| {
            if winners[o].is_none_or(|winner: usize| x[i] > x[winner]) {
                winners[o] = Some(i);
            }
        });
        winners.into_iter().map(|winner| winner.expect("a window without an element")).collect()
    }

    /// Every (output, tap, input) of a pooling, windows in row-major order.
    fn windowed(&self, mut each: impl FnMut(usize, &Tap, usize)) {
        let planes = self.channels[0];
        for plane in 0..planes {
            for tap in &self.taps {
                each(plane * self.outputs / planes + tap.output, tap, plane * self.inputs / planes + tap.input);
            }
        }
    }
}

/// The taps of windows of `kernel` elements, `dilation` apart, at every `stride` of an image with
/// `padding` around it; those in the padding are left out.
fn windows(
    input: &[usize],
    output: &[usize],
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    dilation: [usize; 2],
) -> Vec<Tap> {
    let mut taps = vec![];
    for (y, x) in grid(output[1], output[2]) {
        for (r, s) in grid(kernel[0], kernel[1]) {
            let row = (y * stride[0] + r * dilation[0]).wrapping_sub(padding[0]);
            let column = (x * stride[1] + s * dilation[1]).wrapping_sub(padding[1]);
            if row < input[1] && column < input[2] {
                taps.push(Tap {
                    output: y * output[2] + x,
                    input: row * input[2] + column,
                    kernel: r * kernel[1] + s,
                    share: 1.0,
                });
            }
        }
    }
    taps
}

/// How many windows PyTorch's documentation says there are along an axis of `size` elements.
pub fn window_count(size: usize, [kernel, stride, padding, dilation]: [usize; 4], ceil_mode: bool) -> usize {
    let [size, kernel, stride, padding, dilation] = [size, kernel, stride, padding, dilation].map(|n| n as f64);
    let steps = (size + 2.0 * padding - dilation * (kernel - 1.0) - 1.0) / stride;
    match ceil_mode {
        false => steps.floor() as usize + 1,
        // "Sliding windows that would start in the right padded region are ignored."
        true if steps.ceil() * stride >= size + padding => steps.ceil() as usize,
        true => steps.ceil() as usize + 1,
    }
}

/// The windows of adaptive pooling: floor(y in / out) .. ceil((y + 1) in / out) along each axis.
fn adaptive_windows(input: &[usize], output: &[usize]) -> Vec<Tap> {
    let window = |y: usize, axis: usize| y * input[axis] / output[axis]..((y + 1) * input[axis]).div_ceil(output[axis]);
    let mut taps = vec![];
    for (y, x) in grid(output[1], output[2]) {
        let (rows, columns) = (window(y, 1), window(x, 2));
        let share = 1.0 / (rows.len() * columns.len()) as f64;
        for row in rows {
            for column in columns.clone() {
                taps.push(Tap { output: y * output[2] + x, input: row * input[2] + column, kernel: 0, share });
            }
        }
    }
    taps
}

fn is_norm(op: &Op) -> bool {
    matches!(op, Op::LayerNorm(_) | Op::RmsNorm(_) | Op::GroupNorm { .. } | Op::BatchNorm2d(_))
}

fn grid(rows: usize, columns: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rows).flat_map(move |row| (0..columns).map(move |column| (row, column)))
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Scale and alpha, from torch.nn.SELU's page.
const SELU: [f64; 2] = [1.050_700_987_355_480_5, 1.673_263_242_354_377_3];

/// (1 + tanh(x)) / 2 is the sigmoid of 2 x.
fn tanh_argument(x: f64) -> f64 {
    (8.0 / PI).sqrt() * (x + 0.044715 * x.powi(3))
}

/// The normal distribution function.
fn normal(x: f64) -> f64 {
    0.5 * libm::erfc(-x / SQRT_2)
}

/// f(x) of an elementwise operation.
pub fn activation(op: &Op, x: f64) -> f64 {
    match *op {
        Op::Relu => x.max(0.0),
        Op::LeakyRelu { negative_slope } => x * if x > 0.0 { 1.0 } else { f64::from(negative_slope) },
        Op::Tanh => x.tanh(),
        Op::Sigmoid => sigmoid(x),
        Op::Hardtanh { min_val, max_val } => x.clamp(min_val.into(), max_val.into()),
        Op::Elu { alpha } => {
            if x > 0.0 {
                x
            } else {
                f64::from(alpha) * x.exp_m1()
            }
        }
        Op::Selu => SELU[0] * if x > 0.0 { x } else { SELU[1] * x.exp_m1() },
        Op::Gelu { approximate: Approximation::Tanh } => x * sigmoid(tanh_argument(x)),
        Op::Gelu { .. } => x * normal(x),
        Op::Silu => x * sigmoid(x),
        Op::Softplus { beta, threshold } => {
            let scaled = f64::from(beta) * x;
            if scaled > threshold.into() {
                x
            } else {
                (scaled.max(0.0) + (-scaled.abs()).exp().ln_1p()) / f64::from(beta)
            }
        }
        _ => unreachable!("{} is not elementwise", op.name()),
    }
}

/// The derivative of an elementwise operation, at 0 as PyTorch has it.
pub fn slope(op: &Op, x: f64) -> f64 {
    match *op {
        Op::Relu => f64::from(x > 0.0),
        Op::LeakyRelu { negative_slope } => {
            if x > 0.0 {
                1.0
            } else {
                f64::from(negative_slope)
            }
        }
        Op::Tanh => x.cosh().powi(-2),
        Op::Sigmoid => sigmoid(x) * sigmoid(-x),
        Op::Hardtanh { min_val, max_val } => f64::from(x > min_val.into() && x < max_val.into()),
        Op::Elu { alpha } => {
            if x > 0.0 {
                1.0
            } else {
                f64::from(alpha) * x.exp()
            }
        }
        Op::Selu => SELU[0] * if x > 0.0 { 1.0 } else { SELU[1] * x.exp() },
        Op::Gelu { approximate: Approximation::Tanh } => {
            let (q, steepness) = (tanh_argument(x), (8.0 / PI).sqrt() * (1.0 + 0.134145 * x * x));
            sigmoid(q) + x * sigmoid(q) * sigmoid(-q) * steepness
        }
        Op::Gelu { .. } => normal(x) + x * (-x * x / 2.0).exp() / (2.0 * PI).sqrt(),
        Op::Silu => sigmoid(x) + x * sigmoid(x) * sigmoid(-x),
        Op::Softplus { beta, threshold } => {
            let scaled = f64::from(beta) * x;
            if scaled > threshold.into() { 1.0 } else { sigmoid(scaled) }
        }
        _ => unreachable!("{} is not elementwise", op.name()),
    }
}
