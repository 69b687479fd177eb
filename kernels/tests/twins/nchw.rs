//! Convolutions of plain NCHW tensors against their twins.

use predictive_coding_kernels::{Algorithm, ConvShape, Level, NchwConv};
use predictive_coding_kernels_reference as reference;
use rand::{Rng, RngExt};

use crate::common::*;

#[test]
fn every_pass_of_random_shapes_and_batches() {
    let mut rng = generator(70);
    for level in levels() {
        for batch in [1, 2, 3, 5, 15, 16, 17, 40] {
            let shape = random_shape(&mut rng, 7, 9);
            check_tensors(Algorithm::Direct, &mut rng, level, batch, shape);
            let [inputs, outputs] = sizes(&shape, batch);
            let (input, errors) = (values(&mut rng, inputs), values(&mut rng, outputs));
            check_weights(Algorithm::Direct, level, shape, batch, &errors, &input);
        }
    }
}

#[test]
fn channels_by_themselves() {
    let mut rng = generator(81);
    for level in levels() {
        for batch in [1, 2, 3, 17] {
            for _ in 0..40 {
                let shape = depthwise(random_shape(&mut rng, 40, 20));
                check_tensors(Algorithm::Auto, &mut rng, level, batch, shape);
                let [inputs, outputs] = sizes(&shape, batch);
                let (input, errors) = (values(&mut rng, inputs), values(&mut rng, outputs));
                check_weights(Algorithm::Auto, level, shape, batch, &errors, &input);
            }
        }
    }
}

#[test]
fn few_images_of_any_window_and_number_of_channels() {
    let mut rng = generator(72);
    for level in levels() {
        for shape in square_windows(5, 19).into_iter().chain(square_windows(18, 3)) {
            check_tensors(Algorithm::Direct, &mut rng, level, 1, shape);
        }
        for _ in 0..60 {
            let shape = random_shape(&mut rng, 40, 20);
            let batch = rng.random_range(1..=3);
            check_tensors(Algorithm::Direct, &mut rng, level, batch, shape);
        }
    }
}

#[test]
fn windows_beyond_the_image() {
    let mut rng = generator(79);
    for level in levels() {
        for (i, shape) in far_windows().enumerate() {
            let batch = 1 + i % 3;
            check_tensors(Algorithm::Direct, &mut rng, level, batch, shape);
            let [inputs, outputs] = sizes(&shape, batch);
            let (input, errors) = (values(&mut rng, inputs), values(&mut rng, outputs));
            check_weights(Algorithm::Direct, level, shape, batch, &errors, &input);
        }
    }
}

/// By way of either layout: few and many channels, images in one band or several.
#[test]
fn winograd() {
    let mut rng = generator(80);
    for level in levels() {
        for (channels, batch) in [([4, 5], 17), ([7, 9], 16), ([20, 35], 1), ([33, 16], 3)] {
            for _ in 0..8 {
                let input = [rng.random_range(2..=19), rng.random_range(2..=19)];
                let padding = [rng.random_range(1..=2), rng.random_range(1..=2)];
                let shape = ConvShape { padding, ..plain(channels, input, [3, 3]) };
                check_tensors(Algorithm::Winograd, &mut rng, level, batch, shape);
                let [inputs, outputs] = sizes(&shape, batch);
                let (input, errors) = (values(&mut rng, inputs), values(&mut rng, outputs));
                check_weights(Algorithm::Winograd, level, shape, batch, &errors, &input);
            }
        }
        let large = ConvShape { padding: [1, 1], ..plain([40, 70], [70, 90], [3, 3]) };
        check_tensors(Algorithm::Winograd, &mut rng, level, 1, large);
    }
}

/// Shapes whose rows are cut into strips, whose depth is cut into parts, whose planes collide in a
/// cache, whose results are larger than caches, and whose pixels have more channels than a block.
#[test]
fn shapes_that_are_cut() {
    let mut rng = generator(73);
    let shape = |channels: [usize; 2], input, kernel, stride, padding| ConvShape {
        input,
        kernel: [kernel; 2],
        stride: [stride; 2],
        padding: [padding; 2],
        dilation: [1; 2],
        ..ConvShape::linear(channels[0], channels[1])
    };
    for level in levels() {
        for shape in [
            shape([3, 33], [9, 150], 3, 1, 1),
            shape([34, 5], [30, 131], 3, 1, 2),
            shape([70, 40], [20, 20], 5, 1, 2),
            shape([400, 50], [4, 3], 3, 1, 1),
            shape([50, 400], [4, 5], 3, 2, 1),
            shape([150, 3], [128, 128], 1, 1, 0),
            shape([2, 70], [256, 256], 1, 1, 0),
            shape([70, 2], [64, 1056], 1, 1, 0),
            shape([66_000, 2], [1, 3], 1, 1, 0),
        ] {
            check_tensors(Algorithm::Direct, &mut rng, level, 1, shape);
        }
    }
}

/// Few channels on one side, so few that they leave lanes unused: rows that do and do not fill tiles, images that are
/// and are not cut into bands, and many channels to sum over.
#[test]
fn few_channels_of_large_images() {
    let mut rng = generator(76);
    for level in levels() {
        for _ in 0..60 {
            let (few, many) = (rng.random_range(1..=14), rng.random_range(1..=40));
            let batch = rng.random_range(1..=2);
            for channels in [[few, many], [many, few]] {
                let shape = between(&mut rng, channels, 50);
                check_tensors(Algorithm::Direct, &mut rng, level, batch, shape);
            }
        }
        let wide = ConvShape { kernel: [3, 5], padding: [1, 2], ..between(&mut rng, [3, 50], 1) };
        for (channels, input, stride, dilation) in [
            ([3, 50], [40, 150], [1, 1], [1, 1]),
            ([3, 50], [41, 151], [2, 2], [1, 1]),
            ([50, 4], [41, 150], [2, 2], [1, 2]),
            ([2, 900], [9, 40], [1, 1], [1, 1]),
            ([900, 2], [9, 40], [1, 2], [2, 1]),
            ([1, 30], [1, 700], [1, 3], [1, 1]),
            ([30, 1], [700, 3], [1, 1], [1, 1]),
        ] {
            let [in_channels, out_channels] = channels;
            let shape = ConvShape { in_channels, out_channels, input, stride, dilation, ..wide };
            check_tensors(Algorithm::Direct, &mut rng, level, 1, shape);
        }
    }
}

/// The convolution and its transpose, with NaN in all that is to be overwritten.
fn check_tensors(algorithm: Algorithm, rng: &mut impl Rng, level: Level, batch: usize, shape: ConvShape) {
    let conv = NchwConv::new(level, shape, batch, algorithm);
    let [inputs, outputs] = sizes(&shape, batch);
    let weight = values(rng, shape.weights());
    let bias = values(rng, shape.out_channels);
    let (input, errors) = (values(rng, inputs), values(rng, outputs));
    let (weights, inputs_size, errors_size) = (absolute(&weight), absolute(&input), absolute(&errors));
    let mut scratch = vec![f32::NAN; conv.scratch_len()];
    let case = (level, batch, shape);

    let mut output = vec![f32::NAN; outputs];
    conv.forward(&weight, Some(&bias), &input, &mut output, &mut scratch);
    let pixels = outputs / batch / shape.out_channels;
    let channel = |i: usize| f64::from(bias[i / pixels % shape.out_channels]);
    let sums = reference::conv_forward(&shape, batch, &input, &weight);
    let sums: Vec<f64> = sums.iter().enumerate().map(|(i, sum)| sum + channel(i)).collect();
    let size = reference::conv_forward(&shape, batch, &inputs_size, &weights);
    let size: Vec<f64> = size.iter().enumerate().map(|(i, size)| size + channel(i).abs()).collect();
    let depth = shape.in_channels / shape.groups * shape.taps() + 1;
    assert_within(&output, &sums, of_pass(algorithm, depth, &size), &case);

    let mut gradient = vec![f32::NAN; inputs];
    scratch.fill(f32::NAN);
    conv.backward_data(&weight, &errors, &mut gradient, &mut scratch);
    let sums = reference::conv_backward_data(&shape, batch, &errors, &weight);
    let size = reference::conv_backward_data(&shape, batch, &errors_size, &weights);
    assert_within(&gradient, &sums, of_pass(algorithm, shape.out_channels / shape.groups * shape.taps(), &size), &case);
}

/// Checks the gradient of the weights, with NaN in the scratch and in what is overwritten.
fn check_weights(algorithm: Algorithm, level: Level, shape: ConvShape, batch: usize, errors: &[f32], input: &[f32]) {
    let conv = NchwConv::new(level, shape, batch, algorithm);
    let mut scratch = vec![f32::NAN; conv.scratch_len()];
    let mut gradient = vec![f32::NAN; shape.weights()];
    conv.backward_weights(errors, input, &mut gradient, &mut scratch);
    let sums = reference::conv_backward_weights(&shape, batch, errors, input);
    let size = reference::conv_backward_weights(&shape, batch, &absolute(errors), &absolute(input));
    let depth = errors.len() / shape.out_channels;
    assert_within(&gradient, &sums, of_pass(algorithm, depth, &size), &(level, batch, shape, "weights"));
}

/// Windows of a random kind between so many channels, on images of up to `size` pixels a side.
fn between(rng: &mut impl Rng, channels: [usize; 2], size: usize) -> ConvShape {
    let [in_channels, out_channels] = channels;
    ConvShape { in_channels, out_channels, ..random_shape(rng, 1, size) }
}

/// Few and many channels in any combination, single images and batches that do and do not fill the lanes.
#[test]
fn weight_gradients_of_few_and_many_channels() {
    let mut rng = generator(75);
    for level in levels() {
        for out_channels in [1, 3, 10, 16, 17, 48, 64, 70, 130] {
            for in_channels in [1, 2, 3, 9, 40] {
                for batch in [1, 2, 15, 16, 19, 33] {
                    let shape = between(&mut rng, [in_channels, out_channels], 11);
                    let [inputs, outputs] = sizes(&shape, batch);
                    let (input, errors) = (values(&mut rng, inputs), values(&mut rng, outputs));
                    check_weights(Algorithm::Direct, level, shape, batch, &errors, &input);
                }
            }
        }
    }
}

/// Images that are cut into blocks and bands, and more input channels than are summed at once.
#[test]
fn weight_gradients_of_large_images() {
    let mut rng = generator(73);
    let padded = |channels: [usize; 2], input| ConvShape { padding: [1, 1], ..plain(channels, input, [3, 3]) };
    let shapes = [
        (padded([3, 20], [19, 230]), 1),
        (padded([2, 3], [150, 41]), 17),
        (padded([1, 2], [9, 700]), 18),
        (padded([90, 36], [14, 14]), 2),
        (ConvShape { stride: [2, 2], padding: [3, 3], kernel: [7, 7], ..padded([3, 64], [61, 45]) }, 2),
        (ConvShape { stride: [1, 2], dilation: [2, 3], ..padded([5, 3], [70, 90]) }, 16),
        (ConvShape { padding: [0, 0], kernel: [1, 1], ..padded([70, 18], [31, 29]) }, 3),
    ];
    for level in levels() {
        for (shape, batch) in shapes {
            let [inputs, outputs] = sizes(&shape, batch);
            let (input, errors) = (values(&mut rng, inputs), values(&mut rng, outputs));
            check_weights(Algorithm::Direct, level, shape, batch, &errors, &input);
        }
    }
}

/// A tap on padding adds nothing, whatever the error there, and no image but its own meets a NaN.
#[test]
fn nan_travels_into_the_weights_that_met_it() {
    let mut rng = generator(74);
    for level in levels() {
        for i in 0..200 {
            let channels = [rng.random_range(1..6), [2, 10, 33][i % 3]];
            let shape = between(&mut rng, channels, 9);
            let batch = [1, 3, 16, 21][i / 3 % 4];
            let [inputs, outputs] = sizes(&shape, batch);
            let (mut input, mut errors) = (values(&mut rng, inputs), values(&mut rng, outputs));
            input[rng.random_range(0..inputs)] = [f32::NAN, f32::INFINITY, 0.0][rng.random_range(0..3)];
            errors[rng.random_range(0..outputs)] = [f32::NAN, f32::INFINITY, 0.0][rng.random_range(0..3)];
            check_weights(Algorithm::Direct, level, shape, batch, &errors, &input);
        }
    }
}

#[test]
fn threads_do_not_change_a_bit_of_a_tensor() {
    let mut rng = generator(74);
    for level in levels() {
        // The last with weights that are larger than an image, of one image and of several groups of images.
        for (batch, channels, size) in [
            (2, [30, 70], [20, 33]),
            (1, [40, 3], [50, 70]),
            (70, [3, 4], [9, 9]),
            (1, [130, 270], [7, 8]),
            (11, [80, 130], [6, 7]),
        ] {
            let shape = ConvShape {
                input: size,
                kernel: [3; 2],
                stride: [1; 2],
                padding: [1; 2],
                dilation: [1; 2],
                ..ConvShape::linear(channels[0], channels[1])
            };
            let [inputs, outputs] = sizes(&shape, batch);
            let weight = values(&mut rng, shape.weights());
            let (input, errors) = (values(&mut rng, inputs), values(&mut rng, outputs));
            let tensors = |algorithm, threads| {
                on_threads(threads, || {
                    let conv = NchwConv::new(level, shape, batch, algorithm);
                    let mut scratch = vec![f32::NAN; conv.scratch_len()];
                    let (mut output, mut gradient) = (vec![f32::NAN; outputs], vec![f32::NAN; inputs]);
                    conv.forward(&weight, None, &input, &mut output, &mut scratch);
                    conv.backward_data(&weight, &errors, &mut gradient, &mut scratch);
                    [output, gradient].concat()
                })
            };
            for algorithm in [Algorithm::Direct, Algorithm::Auto] {
                let one = tensors(algorithm, 1);
                let same = [2, 3, 7].into_iter().all(|threads| same_bits(&tensors(algorithm, threads), &one));
                assert!(same, "{level}, {shape:?}, {algorithm:?}");
            }
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let mut rng = generator(71);
    for level in levels() {
        let mut shapes = vec![(random_shape(&mut rng, 7, 9), 70)];
        for (channels, batch) in [([1, 10], 70), ([10, 5], 33), ([3, 64], 20), ([24, 130], 2), ([100, 260], 1)] {
            shapes.push((ConvShape { input: [13, 14], kernel: [3, 3], ..between(&mut rng, channels, 9) }, batch));
        }
        for (shape, batch) in shapes {
            let shape = ConvShape { dilation: [1, 1], ..shape };
            let conv = NchwConv::new(level, shape, batch, Algorithm::Direct);
            let [inputs, outputs] = sizes(&shape, batch);
            let (input, errors) = (values(&mut rng, inputs), values(&mut rng, outputs));
            let gradient = |threads| {
                on_threads(threads, || {
                    let mut gradient = vec![0.0; shape.weights()];
                    conv.backward_weights(&errors, &input, &mut gradient, &mut vec![0.0; conv.scratch_len()]);
                    gradient
                })
            };
            let one = gradient(1);
            assert!([2, 3, 7].into_iter().all(|threads| same_bits(&gradient(threads), &one)), "{level}, {shape:?}");
        }
    }
}

/// How the convolution of `size` x `size` pixels and its transpose are computed, as the plan shows it.
fn planned(level: Level, batch: usize, channels: [usize; 2], size: usize, kernel: usize) -> [&'static str; 2] {
    let shape = ConvShape { padding: [kernel / 2; 2], ..plain(channels, [size; 2], [kernel; 2]) };
    let plan = format!("{:?}", NchwConv::new(level, shape, batch, Algorithm::Direct));
    ["forward", "backward"].map(|pass| {
        let is = |way: &&str| plan.contains(&format!("{pass}: {way}"));
        ["Channels", "Images", "Matrix"].into_iter().find(is).expect("one of them")
    })
}

#[test]
fn lanes_hold_what_fills_them() {
    for level in levels() {
        assert_eq!(planned(level, 1, [128, 128], 12, 3), ["Channels"; 2], "{level}");
        assert_eq!(planned(level, 1, [3, 64], 64, 3), ["Channels"; 2], "{level}");
        assert_eq!(planned(level, 64, [5, 5], 7, 3), ["Images"; 2], "{level}");
        assert_eq!(planned(level, 64, [3, 5], 7, 1), ["Matrix"; 2], "{level}");
    }
}
