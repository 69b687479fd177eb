//! Convolutions of plain NCHW tensors against their twins.

use predictive_coding_kernels::{NchwConv, reference};

use crate::common::*;

#[test]
fn every_pass_of_random_shapes_and_batches() {
    let mut rng = generator(70);
    for level in levels() {
        for batch in [1, 2, 3, 5, 15, 16, 17, 40] {
            let shape = random_shape(&mut rng, 7, 9);
            let conv = NchwConv::new(level, shape, batch);
            let [inputs, outputs] = sizes(&shape, batch);
            let weight = values(&mut rng, shape.out_channels * shape.in_channels * shape.taps());
            let bias = values(&mut rng, shape.out_channels);
            let (input, errors) = (values(&mut rng, inputs), values(&mut rng, outputs));
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
            let depth = shape.in_channels * shape.taps() + 1;
            assert_within(&output, &sums, |i| of_sum(depth, size[i] + channel(i).abs()), &case);

            let mut gradient = vec![f32::NAN; inputs];
            conv.backward_data(&weight, &errors, &mut gradient, &mut scratch);
            let sums = reference::conv_backward_data(&shape, batch, &errors, &weight);
            let size = reference::conv_backward_data(&shape, batch, &errors_size, &weights);
            assert_within(&gradient, &sums, |i| of_sum(shape.out_channels * shape.taps(), size[i]), &case);

            let mut gradient = vec![f32::NAN; weight.len()];
            conv.backward_weights(&errors, &input, &mut gradient, &mut scratch);
            let sums = reference::conv_backward_weights(&shape, batch, &errors, &input);
            let size = reference::conv_backward_weights(&shape, batch, &errors_size, &inputs_size);
            assert_within(&gradient, &sums, |i| of_sum(batch * pixels, size[i]), &case);
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let mut rng = generator(71);
    for level in levels() {
        let shape = random_shape(&mut rng, 7, 9);
        let conv = NchwConv::new(level, shape, 70);
        let [inputs, outputs] = sizes(&shape, 70);
        let (input, errors) = (values(&mut rng, inputs), values(&mut rng, outputs));
        let gradient = |threads| {
            on_threads(threads, || {
                let mut gradient = vec![0.0; shape.out_channels * shape.in_channels * shape.taps()];
                conv.backward_weights(&errors, &input, &mut gradient, &mut vec![0.0; conv.scratch_len()]);
                gradient
            })
        };
        let one = gradient(1);
        assert!([2, 3, 7].into_iter().all(|threads| same_bits(&gradient(threads), &one)), "{level}, {shape:?}");
    }
}
