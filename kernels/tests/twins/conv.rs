//! Convolutions with an image in every lane against their twins.

use predictive_coding_kernels::{Combine, ConvShape, LaneConv, Level, lanes, reference};
use rand::{Rng, RngExt};

use crate::common::*;

/// The data of a convolution of as many images as a vector has lanes, as `[samples][channels]...`.
struct Case {
    level: Level,
    shape: ConvShape,
    conv: LaneConv,
    samples: usize,
    weight: Vec<f32>,
    input: Vec<f32>,
    output_gradient: Vec<f32>,
}

impl Case {
    fn random(rng: &mut impl Rng, level: Level, shape: ConvShape) -> Self {
        let samples = lanes(level);
        let [input, output] = sizes(&shape, samples);
        let weights = shape.in_channels * shape.out_channels * shape.kernel[0] * shape.kernel[1];
        let conv = LaneConv::new(level, shape);
        assert_eq!([conv.input_len(), conv.output_len()], [input, output], "sizes of {shape:?}");
        Case {
            level,
            shape,
            conv,
            samples,
            weight: values(rng, weights),
            input: values(rng, input),
            output_gradient: values(rng, output),
        }
    }

    fn packed_forward(&self) -> Vec<f32> {
        let mut packed = vec![f32::NAN; self.conv.packed_forward_len()];
        self.conv.pack_forward(&self.weight, &mut packed, false);
        packed
    }

    fn packed_backward(&self) -> Vec<f32> {
        let mut packed = vec![f32::NAN; self.conv.packed_backward_len()];
        self.conv.pack_backward(&self.weight, &mut packed, false);
        packed
    }

    fn forward(&self, rng: &mut impl Rng) {
        let Case { shape, samples, .. } = *self;
        let sums = reference::conv_forward(&shape, samples, &self.input, &self.weight);
        let size = reference::conv_forward(&shape, samples, &absolute(&self.input), &absolute(&self.weight));
        let depth = shape.in_channels * shape.taps();
        let (packed, input) = (self.packed_forward(), to_lanes(self.level, &self.input));
        self.check_combinations(rng, shape.out_channels, depth, sums, size, |combine, out| {
            self.conv.forward(&packed, &input, combine, out, false);
        });
    }

    fn backward_data(&self, rng: &mut impl Rng) {
        let Case { shape, samples, .. } = *self;
        let (errors, weight) = (&self.output_gradient, &self.weight);
        let sums = reference::conv_backward_data(&shape, samples, errors, weight);
        let size = reference::conv_backward_data(&shape, samples, &absolute(errors), &absolute(weight));
        let depth = shape.out_channels * shape.taps();
        let (packed, errors) = (self.packed_backward(), to_lanes(self.level, errors));
        self.check_combinations(rng, shape.in_channels, depth, sums, size, |combine, out| {
            self.conv.backward_data(&packed, &errors, combine, out, false);
        });
    }

    /// Checks the product itself and one other combination with what the output holds.
    fn check_combinations(
        &self,
        rng: &mut impl Rng,
        channels: usize,
        depth: usize,
        sums: Vec<f64>,
        size: Vec<f64>,
        run: impl Fn(Combine<'_>, &mut [f32]),
    ) {
        let plane = sums.len() / (self.samples * channels);
        let bias = values(rng, channels);
        let bias_size = absolute(&bias);
        let any = Combine {
            alpha: [1.0, 0.5, -2.0, 0.0][rng.random_range(0..4)],
            beta: [0.0, 1.0, -0.3][rng.random_range(0..3)],
            gamma: [0.0, -1.0, 0.7][rng.random_range(0..3)],
            other: &[],
            bias: rng.random_bool(0.7).then_some(bias.as_slice()),
            step: None,
        };
        let step = values(rng, self.samples);
        for combine in [Combine::default(), any, Combine { step: Some(&step), ..any }] {
            let reads = combine.beta != 0.0 || combine.step.is_some();
            let old = if reads { values(rng, sums.len()) } else { vec![f32::NAN; sums.len()] };
            let other = if combine.gamma == 0.0 { vec![] } else { values(rng, sums.len()) };
            let mut want = reference::combine(&Combine { other: &other, ..combine }, &sums, &old, plane);
            let sizes = Combine {
                alpha: combine.alpha.abs(),
                beta: combine.beta.abs(),
                gamma: combine.gamma.abs(),
                other: &absolute(&other),
                bias: combine.bias.map(|_| bias_size.as_slice()),
                step: None,
            };
            let mut size = reference::combine(&sizes, &size, &absolute(&old), plane);
            if let Some(step) = combine.step {
                for (i, (want, size)) in want.iter_mut().zip(&mut size).enumerate() {
                    let factor = f64::from(step[i / (channels * plane)]);
                    *want = f64::from(old[i]) + factor * *want;
                    *size = f64::from(old[i]).abs() + factor.abs() * *size;
                }
            }
            let mut out = to_lanes(self.level, &old);
            run(Combine { other: &to_lanes(self.level, &other), ..combine }, &mut out);
            let case = (self.level, self.shape, [combine.alpha, combine.beta, combine.gamma], combine.bias.is_some());
            assert_within(&from_lanes(self.level, &out), &want, |i| of_sum(depth, size[i]), &case);
        }
    }

    fn backward_weights(&self, rng: &mut impl Rng) {
        let Case { shape, samples, level, .. } = *self;
        let (errors, input) = (&self.output_gradient, &self.input);
        let old = values(rng, self.weight.len());
        let sums = reference::conv_backward_weights(&shape, samples, errors, input);
        let size = reference::conv_backward_weights(&shape, samples, &absolute(errors), &absolute(input));
        let mut gradient = old.clone();
        let mut scratch = vec![f32::NAN; self.conv.weights_scratch_len()];
        let (errors, input) = (to_lanes(level, errors), to_lanes(level, input));
        self.conv.backward_weights(&errors, &input, &mut gradient, &mut scratch, false);
        let add = Combine { beta: 1.0, ..Combine::default() };
        let want = reference::combine(&add, &sums, &old, 1);
        let size = reference::combine(&add, &size, &absolute(&old), 1);
        let depth = self.output_gradient.len() / shape.out_channels;
        assert_within(&gradient, &want, |i| of_sum(depth, size[i]), &(level, shape, "weights"));

        let old = values(rng, shape.out_channels);
        let mut gradient = old.clone();
        self.conv.backward_bias(&errors, &mut gradient);
        let sums = reference::conv_backward_bias(&shape, samples, &self.output_gradient);
        let size = reference::conv_backward_bias(&shape, samples, &absolute(&self.output_gradient));
        let (want, size) =
            (reference::combine(&add, &sums, &old, 1), reference::combine(&add, &size, &absolute(&old), 1));
        assert_within(&gradient, &want, |i| of_sum(depth, size[i]), &(level, shape, "bias"));
    }
}

fn check(rng: &mut impl Rng, level: Level, shape: ConvShape) {
    let case = Case::random(rng, level, shape);
    case.forward(rng);
    case.backward_data(rng);
    case.backward_weights(rng);
}

/// A convolution without padding, of stride 1.
fn plain(channels: [usize; 2], input: [usize; 2], kernel: [usize; 2]) -> ConvShape {
    let (stride, padding, dilation) = ([1, 1], [0, 0], [1, 1]);
    ConvShape { in_channels: channels[0], out_channels: channels[1], input, kernel, stride, padding, dilation }
}

#[test]
fn every_window() {
    let mut rng = generator(10);
    for level in levels() {
        for shape in square_windows(2, 3) {
            check(&mut rng, level, shape);
        }
    }
}

#[test]
fn windows_beyond_the_image() {
    let mut rng = generator(20);
    for level in levels() {
        for shape in far_windows() {
            check(&mut rng, level, shape);
        }
    }
}

#[test]
fn every_channel_count() {
    let mut rng = generator(11);
    for level in levels() {
        for i in 0..26 * 26 {
            check(&mut rng, level, plain([i / 26 + 1, i % 26 + 1], [3, 5], [2, 3]));
        }
    }
}

#[test]
fn every_small_image() {
    let mut rng = generator(12);
    for level in levels() {
        for i in 0..12 * 12 {
            let shape = ConvShape { padding: [1, 1], ..plain([3, 7], [i / 12 + 1, i % 12 + 1], [3, 3]) };
            check(&mut rng, level, shape);
        }
    }
}

/// Which is a matrix product only if the pixel is all of the input.
#[test]
fn one_tap_on_small_images() {
    let mut rng = generator(19);
    for level in levels() {
        for i in 0..3 * 3 * 3 * 3 * 4 {
            let pair = |i: usize| [i % 3, i / 3 % 3];
            let shape = ConvShape {
                stride: pair(i).map(|step| step + 1),
                padding: [i / 81 % 2, i / 162],
                ..plain([5, 11], pair(i / 9).map(|size| size + 1), [1, 1])
            };
            check(&mut rng, level, shape);
        }
    }
}

/// Panels of output channels, slices of input channels, and blocks of images.
#[test]
fn weight_gradients_of_many_channels_and_large_images() {
    let mut rng = generator(17);
    let shapes = [
        ConvShape { padding: [1, 1], ..plain([70, 130], [5, 7], [3, 3]) },
        ConvShape { padding: [2, 1], stride: [2, 2], ..plain([33, 49], [9, 11], [3, 3]) },
        ConvShape { padding: [2, 2], ..plain([3, 64], [12, 30], [5, 5]) },
        ConvShape { padding: [1, 1], dilation: [1, 2], ..plain([2, 11], [30, 70], [3, 3]) },
        ConvShape { padding: [0, 1], stride: [1, 2], ..plain([4, 40], [3, 150], [1, 3]) },
        plain([65, 96], [8, 8], [1, 1]),
    ];
    for level in levels() {
        for shape in shapes {
            Case::random(&mut rng, level, shape).backward_weights(&mut rng);
        }
    }
}

/// Rows and columns of every length that is one tile or is cut into several.
#[test]
fn every_tile() {
    let mut rng = generator(18);
    for level in levels() {
        for channels in 1..=7 {
            for (length, kernel) in (1..=33).flat_map(|length| [(length, 1), (length + 1, 2)]) {
                check(&mut rng, level, plain([channels, channels], [1, length], [1, kernel]));
                check(&mut rng, level, plain([channels, channels], [length, 1], [kernel, 1]));
            }
        }
    }
}

#[test]
fn random_shapes() {
    let mut rng = generator(13);
    for level in levels() {
        for _ in 0..600 {
            let shape = random_shape(&mut rng, 13, 14);
            check(&mut rng, level, shape);
        }
    }
}

#[test]
fn products_of_a_batch() {
    let mut rng = generator(14);
    for level in levels() {
        for in_features in [1, 2, 7, 24, 100, 257, 300] {
            for out_features in [1, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 17, 23, 120] {
                check(&mut rng, level, ConvShape::linear(in_features, out_features));
            }
        }
    }
}

/// A tap on padding adds nothing, whatever its weight; every other tap counts.
#[test]
fn nan_travels_from_where_it_is() {
    let mut rng = generator(15);
    for level in levels() {
        for _ in 0..200 {
            let shape = random_shape(&mut rng, 4, 7);
            let mut case = Case::random(&mut rng, level, shape);
            let place = rng.random_range(0..case.weight.len());
            case.weight[place] = [f32::NAN, f32::INFINITY][rng.random_range(0..2)];
            let place = rng.random_range(0..case.input.len());
            case.input[place] = [f32::NAN, 0.0][rng.random_range(0..2)];
            let place = rng.random_range(0..case.output_gradient.len());
            case.output_gradient[place] = [f32::NAN, 0.0][rng.random_range(0..2)];
            case.forward(&mut rng);
            case.backward_data(&mut rng);
            case.backward_weights(&mut rng);
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let mut rng = generator(16);
    let larger = [
        plain([20, 24], [12, 12], [3, 3]),
        ConvShape { stride: [2, 1], padding: [1, 2], dilation: [1, 2], ..plain([13, 31], [17, 14], [3, 4]) },
        plain([40, 64], [1, 1], [1, 1]),
        plain([700, 300], [1, 1], [1, 1]),
        plain([1, 129], [28, 28], [3, 3]),
    ];
    for level in levels() {
        for shape in larger {
            let case = Case::random(&mut rng, level, shape);
            let (input, errors) = (to_lanes(level, &case.input), to_lanes(level, &case.output_gradient));
            let bias = values(&mut rng, shape.out_channels);
            let all = |threads: usize, parallel: bool| {
                on_threads(threads, || {
                    let conv = &case.conv;
                    let mut forward = vec![f32::NAN; conv.packed_forward_len()];
                    conv.pack_forward(&case.weight, &mut forward, parallel);
                    let mut backward = vec![f32::NAN; conv.packed_backward_len()];
                    conv.pack_backward(&case.weight, &mut backward, parallel);
                    let combine = Combine { gamma: 0.3, other: &errors, bias: Some(&bias), ..Combine::default() };
                    let mut output = vec![f32::NAN; conv.output_len()];
                    conv.forward(&forward, &input, combine, &mut output, parallel);
                    let mut gradient = input.clone();
                    let combine = Combine { beta: 0.9, ..Combine::default() };
                    conv.backward_data(&backward, &errors, combine, &mut gradient, parallel);
                    let mut weights = case.weight.clone();
                    let mut scratch = vec![f32::NAN; threads * conv.weights_scratch_len()];
                    conv.backward_weights(&errors, &input, &mut weights, &mut scratch, parallel);
                    [forward, backward, output, gradient, weights]
                })
            };
            let alone = all(1, false);
            for threads in [1, 2, 3, 5] {
                for (alone, shared) in alone.iter().zip(all(threads, true)) {
                    assert!(same_bits(alone, &shared), "{level}, {shape:?} on {threads} threads");
                }
            }
            case.forward(&mut rng);
            case.backward_data(&mut rng);
            case.backward_weights(&mut rng);
        }
    }
}

#[test]
fn an_image_of_another_size_is_refused() {
    let conv = LaneConv::new(Level::PORTABLE, plain([2, 3], [4, 4], [3, 3]));
    let packed = vec![0.0; conv.packed_forward_len()];
    let run = |input: usize, output: usize| {
        std::panic::catch_unwind(|| {
            conv.forward(&packed, &vec![0.0; input], Combine::default(), &mut vec![0.0; output], false);
        })
        .is_err()
    };
    assert!(!run(conv.input_len(), conv.output_len()));
    assert!(run(conv.input_len() - 1, conv.output_len()));
    assert!(run(conv.input_len(), conv.output_len() + 4));
}

#[test]
#[should_panic(expected = "a window of 5 does not fit a padded input of 4")]
fn a_window_beyond_its_image_is_refused() {
    LaneConv::new(Level::PORTABLE, plain([1, 1], [9, 4], [3, 5]));
}
