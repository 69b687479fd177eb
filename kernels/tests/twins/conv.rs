//! Convolutions of tiles against their twins.

use predictive_coding_kernels::{Algorithm, Combine, Conv, ConvOptions, ConvShape, Layout, Level, lanes};
use predictive_coding_kernels_reference as reference;
use rand::{Rng, RngExt};

use crate::common::*;
use crate::naive;

/// The data of a convolution of a tile, as `[samples][channels]...`.
pub struct Case {
    tiling: Tiling,
    shape: ConvShape,
    algorithm: Algorithm,
    pub conv: Conv,
    pub weight: Vec<f32>,
    input: Vec<f32>,
    output_gradient: Vec<f32>,
}

impl Case {
    pub fn random(rng: &mut impl Rng, tiling: Tiling, shape: ConvShape) -> Self {
        Case::by(Algorithm::Direct, rng, tiling, shape)
    }

    /// Of weights that are packed beforehand, or that meet so few images that they are not.
    fn by(algorithm: Algorithm, rng: &mut impl Rng, tiling: Tiling, shape: ConvShape) -> Self {
        let options = ConvOptions::default().with_algorithm(algorithm);
        let options = if rng.random() { options.with_images(1) } else { options };
        Case::with(options, rng, tiling, shape)
    }

    fn with(options: ConvOptions, rng: &mut impl Rng, tiling: Tiling, shape: ConvShape) -> Self {
        let [input, output] = sizes(&shape, tiling.images());
        let options = options.with_scale([1.0, 0.3, -2.0][rng.random_range(0..3)]);
        let conv = Conv::with_options(tiling.level, tiling.layout, shape, options);
        let lens = [
            tiling.len(shape.in_channels, shape.input),
            tiling.len(shape.out_channels, reference::output_size(&shape)),
        ];
        assert_eq!([conv.input_len(), conv.output_len()], lens, "sizes of {shape:?}");
        Case {
            tiling,
            shape,
            algorithm: options.algorithm,
            conv,
            weight: values(rng, shape.weights()),
            input: values(rng, input),
            output_gradient: values(rng, output),
        }
    }

    pub fn scratch(&self) -> Vec<f32> {
        vec![f32::NAN; self.conv.scratch_len()]
    }

    pub fn input_tile(&self) -> Vec<f32> {
        self.tiling.to_tile(self.shape.in_channels, &self.input)
    }

    pub fn gradient_tile(&self) -> Vec<f32> {
        self.tiling.to_tile(self.shape.out_channels, &self.output_gradient)
    }

    fn packed_backward(&self) -> Vec<f32> {
        if self.conv.packed_backward_len() == 0 {
            return self.weight.clone();
        }
        let mut packed = vec![f32::NAN; self.conv.packed_backward_len()];
        self.conv.pack_backward(&self.weight, &mut packed, false);
        packed
    }

    fn scaled(&self, sums: Vec<f64>) -> Vec<f64> {
        sums.into_iter().map(|sum| f64::from(self.conv.scale()) * sum).collect()
    }

    pub fn forward(&self, rng: &mut impl Rng) {
        let (shape, samples) = (self.shape, self.tiling.images());
        let sums = self.scaled(reference::conv_forward(&shape, samples, &self.input, &self.weight));
        let size = reference::conv_forward(&shape, samples, &absolute(&self.input), &absolute(&self.weight));
        let depth = shape.in_channels / shape.groups * shape.taps();
        let (packed, input) = (packed_forward(&self.conv, &self.weight), self.input_tile());
        let [mut whole, mut alone] = [0; 2].map(|_| vec![GAP; self.conv.output_len()]);
        self.conv.forward(&packed, &input, Combine::default(), &mut whole, &mut self.scratch(), false);
        self.conv.forward_alone(0, &packed, &input, Combine::default(), &mut alone, &mut self.scratch(), false);
        assert!(same_bits(&whole, &alone), "{shape:?} without a combination");
        self.check_combinations(rng, shape.out_channels, depth, sums, size, |combine, out| {
            self.conv.forward(&packed, &input, combine, out, &mut self.scratch(), false);
        });
    }

    pub fn backward_data(&self, rng: &mut impl Rng) {
        let (shape, samples) = (self.shape, self.tiling.images());
        let (errors, weight) = (&self.output_gradient, &self.weight);
        let sums = self.scaled(reference::conv_backward_data(&shape, samples, errors, weight));
        let size = reference::conv_backward_data(&shape, samples, &absolute(errors), &absolute(weight));
        let depth = shape.out_channels / shape.groups * shape.taps();
        let (packed, errors) = (self.packed_backward(), self.gradient_tile());
        self.check_combinations(rng, shape.in_channels, depth, sums, size, |combine, out| {
            self.conv.backward_data(&packed, &errors, combine, out, &mut self.scratch(), false);
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
        let samples = self.tiling.images();
        let plane = sums.len() / (samples * channels);
        let scale = f64::from(self.conv.scale());
        let size: Vec<f64> = size.into_iter().map(|size| scale.abs() * size).collect();
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
        let step = values(rng, samples);
        for combine in [Combine::default(), any, Combine { step: Some(&step), ..any }] {
            let reads = combine.beta != 0.0 || combine.step.is_some();
            let old = if reads { values(rng, sums.len()) } else { vec![f32::NAN; sums.len()] };
            let other = if combine.gamma == 0.0 { vec![] } else { values(rng, sums.len()) };
            let mut want = naive::combine(&Combine { other: &other, ..combine }, &sums, &old, plane);
            let sizes = Combine {
                alpha: combine.alpha.abs(),
                beta: combine.beta.abs(),
                gamma: combine.gamma.abs(),
                other: &absolute(&other),
                bias: combine.bias.map(|_| bias_size.as_slice()),
                step: None,
            };
            let mut size = naive::combine(&sizes, &size, &absolute(&old), plane);
            if let Some(step) = combine.step {
                for (i, (want, size)) in want.iter_mut().zip(&mut size).enumerate() {
                    let factor = f64::from(step[i / (channels * plane)]);
                    *want = f64::from(old[i]) + factor * *want;
                    *size = f64::from(old[i]).abs() + factor.abs() * *size;
                }
            }
            let mut out = self.tiling.to_tile(channels, &old);
            run(Combine { other: &self.tiling.to_tile(channels, &other), ..combine }, &mut out);
            let case = (self.tiling, self.shape, [combine.alpha, combine.beta, combine.gamma], combine.bias.is_some());
            let tolerance = of_pass(self.algorithm, depth, &size);
            assert_within(&self.tiling.of_tile(channels, &out), &want, tolerance, &case);
        }
    }

    pub fn backward_weights(&self, rng: &mut impl Rng) {
        let (shape, tiling) = (self.shape, self.tiling);
        let (errors, input) = (&self.output_gradient, &self.input);
        let sums = reference::conv_backward_weights(&shape, tiling.images(), errors, input);
        let size = reference::conv_backward_weights(&shape, tiling.images(), &absolute(errors), &absolute(input));
        let mut packed = vec![0.0; self.conv.gradient_len()];
        let mut scratch = self.scratch();
        let (errors, input) = (self.gradient_tile(), self.input_tile());
        for _ in 0..2 {
            self.conv.backward_weights(&errors, &input, &mut packed, &mut scratch, false);
        }
        // Powers of 2, which round nothing.
        let factor = [1.0, -0.5, 4.0][rng.random_range(0..3)];
        let mut gradient = vec![f32::NAN; sums.len()];
        self.conv.unpack_gradient(&packed, factor, &mut gradient);
        if !tiling.layout.is_channels() && self.algorithm == Algorithm::Direct {
            let scaled: Vec<f32> = packed.iter().map(|x| factor * self.conv.scale() * x).collect();
            assert!(same_bits(&scaled, &gradient), "{shape:?} is not packed as it is");
        }
        let twice = 2.0 * f64::from(factor) * f64::from(self.conv.scale());
        let want: Vec<f64> = sums.iter().map(|sum| twice * sum).collect();
        let depth = self.output_gradient.len() / shape.out_channels;
        let allowed = of_pass(self.algorithm, depth, &size);
        let tolerance = |i: usize| twice.abs() * allowed(i);
        assert_within(&gradient, &want, tolerance, &(tiling, shape, "weights"));

        let old = values(rng, shape.out_channels);
        let mut gradient = old.clone();
        self.conv.backward_bias(&errors, &mut gradient);
        let add = Combine { beta: 1.0, ..Combine::default() };
        let sums = naive::conv_backward_bias(&shape, tiling.images(), &self.output_gradient);
        let size = naive::conv_backward_bias(&shape, tiling.images(), &absolute(&self.output_gradient));
        let (want, size) = (naive::combine(&add, &sums, &old, 1), naive::combine(&add, &size, &absolute(&old), 1));
        assert_within(&gradient, &want, |i| of_sum(depth, size[i]), &(tiling, shape, "bias"));
    }
}

fn check(rng: &mut impl Rng, tiling: Tiling, shape: ConvShape) {
    let case = Case::random(rng, tiling, shape);
    case.forward(rng);
    case.backward_data(rng);
    case.backward_weights(rng);
}

/// Sizes around the tiles of Winograd's algorithm, with all that is combined with its result.
#[test]
fn winograd_on_every_small_image() {
    let mut rng = generator(30);
    for tiling in tilings() {
        for i in (0..13 * 13 * 3).step_by(11) {
            let (size, padding) = ([i % 13 + 1, i / 13 % 13 + 1], i / 169);
            if size[0].min(size[1]) + 2 * padding < 3 {
                continue;
            }
            let padding = [padding, rng.random_range(padding..=2)];
            let most = if tiling.layout == Layout::Images { 8 } else { 40 };
            let channels = [rng.random_range(1..=most), rng.random_range(1..=most)];
            let case =
                Case::by(Algorithm::Winograd, &mut rng, tiling, ConvShape { padding, ..plain(channels, size, [3, 3]) });
            assert_eq!(case.conv.choices().map(|choice| choice.algorithm), [Algorithm::Winograd; 3]);
            case.forward(&mut rng);
            case.backward_data(&mut rng);
            case.backward_weights(&mut rng);
        }
    }
}

#[test]
fn every_window() {
    let mut rng = generator(10);
    for tiling in tilings() {
        for shape in square_windows(2, 3) {
            check(&mut rng, tiling, shape);
            check(&mut rng, tiling, depthwise(ConvShape { in_channels: tiling.several(2), ..shape }));
        }
    }
}

#[test]
fn windows_beyond_the_image() {
    let mut rng = generator(20);
    for tiling in tilings() {
        for shape in far_windows() {
            check(&mut rng, tiling, shape);
            check(&mut rng, tiling, depthwise(shape));
        }
    }
}

#[test]
fn every_channel_count() {
    let mut rng = generator(11);
    for tiling in tilings() {
        for i in 0..26 * 26 {
            check(&mut rng, tiling, plain([i / 26 + 1, i % 26 + 1], [3, 5], [2, 3]));
        }
    }
}

#[test]
fn every_small_image() {
    let mut rng = generator(12);
    for tiling in tilings() {
        for i in 0..12 * 12 {
            let shape = ConvShape { padding: [1, 1], ..plain([3, 7], [i / 12 + 1, i % 12 + 1], [3, 3]) };
            check(&mut rng, tiling, shape);
        }
    }
}

/// Which is a matrix product only if the pixel is all of the input.
#[test]
fn one_tap_on_small_images() {
    let mut rng = generator(19);
    for tiling in tilings() {
        for i in 0..3 * 3 * 3 * 3 * 4 {
            let pair = |i: usize| [i % 3, i / 3 % 3];
            let shape = ConvShape {
                stride: pair(i).map(|step| step + 1),
                padding: [i / 81 % 2, i / 162],
                ..plain([5, 11], pair(i / 9).map(|size| size + 1), [1, 1])
            };
            check(&mut rng, tiling, shape);
        }
    }
}

/// Matrices of one vector of images and of several, with weights that are packed or read where they lie.
#[test]
fn matrices_of_a_batch() {
    let mut rng = generator(31);
    let images = levels().into_iter().map(|level| Tiling { level, layout: Layout::Images });
    for tiling in images.chain(batches()) {
        for (i, features) in [1, 2, 5, 13, 14, 15, 28, 33, 130].into_iter().enumerate() {
            for few in [true, false] {
                let algorithm = Algorithm::Direct;
                let options =
                    ConvOptions::default().with_algorithm(algorithm).with_images(if few { 1 } else { 1 << 20 });
                let shape = ConvShape::linear(features, (7 * i) % 31 + 1);
                let case = Case::with(options, &mut rng, tiling, shape);
                assert!(case.conv.is_matrix(), "{tiling:?}, {shape:?}");
                assert_eq!(case.conv.packed_forward_len() == 0, few, "{tiling:?}, {shape:?}");
                case.forward(&mut rng);
                case.backward_data(&mut rng);
                case.backward_weights(&mut rng);
            }
        }
    }
}

/// Panels of output channels, parts of input channels, and blocks of pixels.
#[test]
fn weight_gradients_of_many_channels_and_large_images() {
    let mut rng = generator(17);
    let shapes = [
        ConvShape { padding: [1, 1], ..plain([70, 130], [5, 7], [3, 3]) },
        ConvShape { padding: [2, 1], stride: [2, 2], ..plain([33, 49], [9, 11], [3, 3]) },
        ConvShape { padding: [2, 2], ..plain([3, 64], [12, 30], [5, 5]) },
        ConvShape { padding: [1, 1], dilation: [1, 2], ..plain([2, 11], [30, 70], [3, 3]) },
        ConvShape { padding: [0, 1], stride: [1, 2], ..plain([4, 40], [3, 150], [1, 3]) },
        ConvShape { padding: [1, 1], ..plain([3, 20], [80, 60], [3, 3]) },
        plain([65, 96], [8, 8], [1, 1]),
    ];
    for tiling in tilings() {
        for shape in shapes {
            Case::random(&mut rng, tiling, shape).backward_weights(&mut rng);
        }
    }
}

/// Rows and columns of every length that is one tile or is cut into several.
#[test]
fn every_tile() {
    let mut rng = generator(18);
    for tiling in tilings() {
        for channels in 1..=7 {
            for (length, kernel) in (1..=33).flat_map(|length| [(length, 1), (length + 1, 2)]) {
                check(&mut rng, tiling, plain([channels, channels], [1, length], [1, kernel]));
                check(&mut rng, tiling, plain([channels, channels], [length, 1], [kernel, 1]));
            }
        }
    }
}

/// Vectors of channels in every number that is one tile or several, by runs of pixels of every length.
#[test]
fn every_tile_of_channels() {
    let mut rng = generator(21);
    for tiling in tilings().into_iter().filter(|tiling| tiling.layout.is_channels()) {
        for (vectors, length) in (1..=17).flat_map(|vectors| (1..=33).map(move |length| (vectors, length))) {
            let channels = vectors * lanes(tiling.level) - rng.random_range(0..lanes(tiling.level));
            check(&mut rng, tiling, plain([channels, 2], [1, length], [1, 1]));
            check(&mut rng, tiling, plain([3, channels], [length, 1], [1, 1]));
        }
    }
}

/// On both sides, with taps on padding.
#[test]
fn channels_around_vectors() {
    let mut rng = generator(22);
    let counts = [3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33];
    for tiling in tilings() {
        for (i, o) in counts.into_iter().flat_map(|i| counts.map(|o| (i, o))) {
            let steps =
                ConvShape { stride: [2, 1], padding: [1, 1], dilation: [1, 2], ..plain([i, o], [3, 4], [2, 2]) };
            check(&mut rng, tiling, steps);
        }
    }
}

/// Which leaves one pixel, so that the convolution is a matrix product of the image.
#[test]
fn windows_as_large_as_the_image() {
    let mut rng = generator(23);
    for tiling in tilings() {
        for size in [[1, 2], [3, 3], [4, 5], [7, 1]] {
            for channels in [[1, 1], [5, 40], [16, 17], [33, 15], [2, 100]] {
                let shape = plain(channels, size, size);
                assert!(Conv::new(tiling.level, tiling.layout, shape, Algorithm::Direct).is_matrix());
                check(&mut rng, tiling, shape);
            }
        }
    }
}

/// Planes by themselves, on lines of every length, in both directions.
#[test]
fn channels_by_themselves() {
    let mut rng = generator(32);
    for tiling in tilings() {
        for (i, [height, width]) in (1..=21).flat_map(|y| [[y, 3], [4, y], [y, 2 * y]]).enumerate() {
            let shape = ConvShape {
                padding: [1, i % 3],
                stride: [1 + i % 2, 1 + i / 2 % 3],
                ..plain([tiling.several(1 + i % 3), 1], [height, width], [1 + i % 4, 3 - i % 2])
            };
            if height + 2 > i % 4 && width + 2 * (i % 3) >= 3 {
                check(&mut rng, tiling, depthwise(shape));
            }
        }
        // More taps than are summed together, and more pixels.
        for (size, kernel) in [([6, 9], [5, 5]), ([3, 300], [2, 7]), ([300, 2], [3, 1]), ([40, 33], [3, 3])] {
            let padding = kernel.map(|kernel| kernel / 2);
            check(&mut rng, tiling, depthwise(ConvShape { padding, ..plain([tiling.several(3), 1], size, kernel) }));
        }
    }
}

/// More weights than the cache that they pass through holds.
#[test]
fn weights_that_are_cut() {
    let mut rng = generator(24);
    for tiling in tilings() {
        for shape in [plain([150, 270], [3, 5], [3, 3]), plain([270, 150], [3, 4], [3, 3])] {
            check(&mut rng, tiling, shape);
        }
    }
}

/// Whoever adds up a whole tile relies on it.
#[test]
fn lanes_beyond_the_last_channel_become_zero() {
    let mut rng = generator(25);
    for tiling in tilings().into_iter().filter(|tiling| tiling.layout.is_channels()) {
        for _ in 0..60 {
            let shape = random_shape(&mut rng, 40, 6);
            let shape = if rng.random_bool(0.3) { depthwise(shape) } else { shape };
            let case = Case::random(&mut rng, tiling, shape);
            let (mut output, mut gradient) = (vec![GAP; case.conv.output_len()], vec![GAP; case.conv.input_len()]);
            let bias = values(&mut rng, shape.out_channels);
            let combine = Combine { bias: Some(&bias), ..Combine::default() };
            let packed = packed_forward(&case.conv, &case.weight);
            case.conv.forward(&packed, &case.input_tile(), combine, &mut output, &mut case.scratch(), false);
            let combine = Combine::default();
            let (packed, errors) = (case.packed_backward(), case.gradient_tile());
            case.conv.backward_data(&packed, &errors, combine, &mut gradient, &mut case.scratch(), false);
            for (channels, mut tile) in [(shape.out_channels, output), (shape.in_channels, gradient)] {
                let pixels = tile.len() / tiling.len(channels, [1, 1]);
                tiling.places(channels, pixels).for_each(|place| tile[place] = 0.0);
                assert!(tile.iter().all(|&x| x == 0.0), "{tiling:?}, {shape:?}");
            }
        }
    }
}

#[test]
fn random_shapes() {
    let mut rng = generator(13);
    for tiling in tilings() {
        for _ in 0..600 {
            let shape = random_shape(&mut rng, tiling.several(13), 14);
            check(&mut rng, tiling, shape);
            check(&mut rng, tiling, depthwise(shape));
        }
    }
}

#[test]
fn products_of_a_batch() {
    let mut rng = generator(14);
    for tiling in tilings() {
        for in_features in [1, 2, 7, 24, 100, 257, 300] {
            for out_features in [1, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 17, 23, 120] {
                check(&mut rng, tiling, ConvShape::linear(in_features, out_features));
            }
        }
    }
}

/// A tap on padding adds nothing, whatever its weight; every other tap counts.
#[test]
fn nan_travels_from_where_it_is() {
    let mut rng = generator(15);
    for tiling in tilings() {
        for _ in 0..200 {
            let shape = random_shape(&mut rng, tiling.several(4), 7);
            let shape = if rng.random_bool(0.3) { depthwise(shape) } else { shape };
            let mut case = Case::random(&mut rng, tiling, shape);
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
fn lengths_that_were_not_planned_are_refused() {
    for tiling in tilings() {
        let conv = Conv::new(tiling.level, tiling.layout, plain([2, 3], [4, 4], [3, 3]), Algorithm::Direct);
        let run = |lens: [usize; 8]| {
            std::panic::catch_unwind(|| {
                let [weight, mut packed, mut back, mut input, mut output, mut gradient, mut to, step] =
                    lens.map(|len| vec![0.0; len]);
                let mut scratch = vec![0.0; conv.scratch_len()];
                conv.pack_forward(&weight, &mut packed, false);
                conv.pack_backward(&weight, &mut back, false);
                let combine = Combine { step: Some(&step), ..Combine::default() };
                conv.forward(&packed, &input, combine, &mut output, &mut scratch, false);
                conv.backward_data(&back, &output, combine, &mut input, &mut scratch, false);
                conv.backward_weights(&output, &input, &mut gradient, &mut scratch, false);
                conv.unpack_gradient(&gradient, 1.0, &mut to);
            })
            .is_err()
        };
        let lens = [
            2 * 3 * 9,
            conv.packed_forward_len(),
            conv.packed_backward_len(),
            conv.input_len(),
            conv.output_len(),
            conv.gradient_len(),
            2 * 3 * 9,
            tiling.images(),
        ];
        assert!(!run(lens));
        for (i, by) in (0..lens.len()).flat_map(|i| [(i, 1), (i, -1)]) {
            let mut lens = lens;
            lens[i] = lens[i].wrapping_add_signed(by);
            assert!(run(lens), "{tiling:?}: operand {i} is off by {by}");
        }
    }
}

#[test]
#[should_panic(expected = "a window of 5 does not fit a padded input of 4")]
fn a_window_beyond_its_image_is_refused() {
    Conv::new(Level::PORTABLE, Layout::Images, plain([1, 1], [9, 4], [3, 5]), Algorithm::Direct);
}
