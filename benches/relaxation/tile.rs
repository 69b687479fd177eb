//! An iteration of the strict relaxation on one tile, an image in every lane, in phases that can be timed one
//! by one. For every layer l but the first, whose input is clamped,
//!
//! ```text
//! push      epsilon_l = f_l(v-hat + u_{l-1}) - f_l(v-hat) - u_l, and its pull back to the end of the product
//! square    |epsilon_{l-1}|^2, epsilon_1 being -u_1
//! pull      u_{l-1} += eta (epsilon_{l-1} - J_l^T epsilon_l)
//! ```
//!
//! Layers are counted from 0, which is the network's second; `u[i]` is what layer i reads.

use predictive_coding_kernels::{
    Activation, Buffer, Combine, Conv, ConvOptions, ConvShape, Layout, Level, Local, Relaxing, lanes, loss::Outputs,
    reduce,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Elements of the differences that a product makes before they are used, as the library has it.
const BAND: usize = 1 << 16;

/// The paper's step size.
const ETA: f32 = 0.1;

/// A product and what follows it: nothing, or relu, pooled over squares of a size.
pub(crate) type Sizes = (ConvShape, Option<usize>);

pub(crate) struct Layer {
    conv: Conv,
    behind: Option<Local>,
    /// The weights as the product wants them, and as its transpose does.
    packed: [Buffer; 2],
    /// For the products.
    scratch: Buffer,
    /// The product and the layer's value in the forward pass.
    z: Buffer,
    value: Buffer,
    /// Of the product, a band of it.
    difference: Buffer,
    /// The error at the end of the product.
    pulled: Buffer,
}

impl Layer {
    fn new(level: Level, (shape, pooling): Sizes, input: &[f32], random: &mut ChaCha8Rng) -> Self {
        let behind = pooling.map(|size| match size {
            1 => Local::activation(level, Layout::Images, Activation::Relu, shape.out_channels, shape.output()),
            _ => Local::max_pool(level, Layout::Images, Activation::Relu, &squares(&shape, size)),
        });
        let [height, width] = shape.output();
        let row = shape.out_channels * width * lanes(level);
        let rows = match pooling {
            Some(size) if row * height > BAND => (BAND / row / size).max(1) * size,
            _ => usize::MAX,
        };
        let conv = Conv::with_options(level, Layout::Images, shape, ConvOptions::default().with_rows_per_band(rows));
        let depth = shape.in_channels * shape.taps();
        let weight = noise(shape.out_channels * depth, (depth as f32).powf(-0.5), random);
        let mut packed = [conv.packed_forward_len(), conv.packed_backward_len()].map(Buffer::zeros);
        conv.pack_forward(&weight, &mut packed[0], false);
        conv.pack_backward(&weight, &mut packed[1], false);
        let mut z = Buffer::zeros(conv.output_len());
        let mut scratch = Buffer::zeros(conv.scratch_len());
        conv.forward(&packed[0], input, Combine::default(), &mut z, &mut scratch, false);
        let mut value = z.clone();
        if let Some(local) = &behind {
            value = Buffer::zeros(local.output_len());
            local.forward(&z, &mut value, 0..local.output_rows(), false);
        }
        let difference = Buffer::zeros(conv.output_band_len(0));
        let pulled = Buffer::zeros(behind.as_ref().map_or(0, Local::input_len));
        Layer { conv, behind, packed, scratch, z, value, difference, pulled }
    }

    pub(crate) fn name(&self) -> String {
        let ConvShape { in_channels, out_channels, input: [height, width], kernel: [down, along], .. } =
            self.conv.shape();
        match self.conv.is_matrix() {
            true => format!("linear {in_channels}->{out_channels}"),
            false => format!("conv {in_channels}->{out_channels} {down}x{along} {height}x{width}"),
        }
    }
}

/// The windows that tile the output of a product.
fn squares(shape: &ConvShape, size: usize) -> ConvShape {
    let (channels, square) = (shape.out_channels, [size, size]);
    let input = shape.output();
    ConvShape { in_channels: channels, input, kernel: square, stride: square, padding: [0, 0], ..*shape }
}

fn noise(len: usize, bound: f32, random: &mut ChaCha8Rng) -> Vec<f32> {
    (0..len).map(|_| random.random_range(-bound..bound)).collect()
}

pub(crate) struct Tile {
    level: Level,
    pub(crate) layers: Vec<Layer>,
    u: Vec<Buffer>,
    errors: Vec<Buffer>,
    targets: Vec<f32>,
    eta: Vec<f32>,
    /// Twice the terms of each image's energy: of the loss, and of the error at each layer's input.
    losses: Vec<f64>,
    squares: Vec<Vec<f64>>,
}

impl Tile {
    pub(crate) fn new(level: Level, layers: &[Sizes]) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(0);
        let lanes = lanes(level);
        let first = &layers[0].0;
        let len = first.in_channels * first.input[0] * first.input[1] * lanes;
        let input: Vec<f32> = noise(len, 1.0, &mut random).into_iter().map(f32::abs).collect();
        let mut built: Vec<Layer> = Vec::new();
        for &sizes in layers {
            let input = built.last().map_or(&input[..], |layer| &layer.value);
            built.push(Layer::new(level, sizes, input, &mut random));
        }
        let outputs = built[built.len() - 1].value.len();
        Tile {
            level,
            u: built.iter().map(|layer| Buffer::zeros(layer.conv.input_len())).collect(),
            errors: built.iter().map(|layer| Buffer::zeros(layer.value.len())).collect(),
            targets: noise(outputs, 1.0, &mut random),
            eta: vec![ETA; lanes],
            losses: vec![0.0; lanes],
            squares: vec![vec![0.0; lanes]; layers.len()],
            layers: built,
        }
    }

    /// Puts the beliefs back to where the forward pass left them.
    pub(crate) fn restart(&mut self) {
        self.u.iter_mut().for_each(|u| u.fill(0.0));
    }

    pub(crate) fn push(&mut self, i: usize) {
        let Layer { conv, behind, packed: [packed, _], scratch, z, value, difference, pulled } = &mut self.layers[i];
        let (u, error) = (&self.u[i], &mut self.errors[i]);
        let Some(local) = behind else {
            conv.forward(packed, u, Combine::default(), difference, scratch, false);
            let (level, lanes, losses) = (self.level, self.eta.len(), &mut self.losses);
            let outputs = Outputs { level, layout: Layout::Images, image: [z.len() / lanes, 1] };
            return outputs.squared_error(z, difference, &self.targets, lanes, 0.5, error, losses);
        };
        let step = local.rows_per_row().expect("the windows do not overlap");
        for band in 0..conv.output_bands() {
            let rows = conv.output_band(band);
            conv.forward_alone(band, packed, u, Combine::default(), difference, scratch, false);
            let relaxing = Relaxing { z, value, d: difference, u: &self.u[i + 1], error, pulled };
            local.relax(relaxing, rows.start / step..rows.end / step, false);
        }
    }

    pub(crate) fn square(&mut self, i: usize) {
        let error = if i == 0 { &self.u[0] } else { &self.errors[i - 1] };
        self.squares[i].fill(0.0);
        reduce::add_squares(self.level, Layout::Images, error, &mut self.squares[i]);
    }

    pub(crate) fn pull(&mut self, i: usize) {
        let Layer { conv, behind, packed: [_, packed], scratch, pulled, .. } = &mut self.layers[i];
        let step = Combine { alpha: -1.0, step: Some(&self.eta), ..Combine::default() };
        let step = match i {
            0 => Combine { beta: -1.0, ..step },
            _ => Combine { gamma: 1.0, other: &self.errors[i - 1], ..step },
        };
        let error = if behind.is_some() { pulled } else { &self.errors[i] };
        conv.backward_data(packed, error, step, &mut self.u[i], scratch, false);
    }

    /// Multiplications and additions of a layer's product, in either direction.
    pub(crate) fn product_flops(&self, i: usize) -> u64 {
        self.layers[i].conv.shape().flops() * self.eta.len() as u64
    }

    /// Those of the squares of the errors at a layer's input.
    pub(crate) fn square_flops(&self, i: usize) -> u64 {
        2 * self.u[i].len() as u64
    }

    /// One iteration; the energy before it.
    fn iterate(&mut self) -> f64 {
        let layers = 0..self.layers.len();
        layers.clone().for_each(|i| self.push(i));
        layers.clone().for_each(|i| self.square(i));
        layers.for_each(|i| self.pull(i));
        0.5 * self.squares.iter().chain([&self.losses]).flatten().sum::<f64>()
    }

    /// A layer's error and its belief's deviation add up to the difference of its value.
    fn assert_differences(&self) {
        for (i, layer) in self.layers.iter().enumerate() {
            let Some(local) = &layer.behind else { continue };
            let (mut product, mut difference) = (vec![0.0; layer.z.len()], vec![0.0; layer.value.len()]);
            let mut scratch = layer.scratch.clone();
            layer.conv.forward(&layer.packed[0], &self.u[i], Combine::default(), &mut product, &mut scratch, false);
            local.push(&layer.z, &layer.value, &product, &mut difference, false);
            for ((d, error), own) in difference.iter().zip(&*self.errors[i]).zip(&*self.u[i + 1]) {
                assert!((d - error - own).abs() <= 1e-5 * (1.0 + d.abs()), "{error} + {own} is not {d}");
            }
        }
    }

    /// An iteration is a step of gradient descent: the energy falls by |u_new - u|^2 / eta, but for what its
    /// curvature takes of that.
    pub(crate) fn assert_descent(&mut self) {
        const SMALL: f32 = 1e-3;
        let mut random = ChaCha8Rng::seed_from_u64(1);
        self.u.iter_mut().flat_map(|u| u.iter_mut()).for_each(|u| *u = random.random_range(-0.1..0.1));
        self.eta.fill(SMALL);
        let u = self.u.clone();
        (0..self.layers.len()).for_each(|i| self.push(i));
        self.assert_differences();
        let before = self.iterate();
        let moves = self.u.iter().zip(&u).flat_map(|(new, old)| new.iter().zip(old.iter()));
        let expected = moves.map(|(new, old)| f64::from(new - old).powi(2)).sum::<f64>() / f64::from(SMALL);
        let fall = before - self.iterate();
        assert!((fall - expected).abs() < 0.01 * expected, "the energy fell by {fall}, expected {expected}");
        self.eta.fill(ETA);
    }
}
