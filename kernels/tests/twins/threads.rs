//! Products and operations on one thread and on several: every bit is the same.

use predictive_coding_kernels::{
    Activation, Combine, ConvShape, Divisor, GemmScratch, Layout, Lhs, Local, PackedLhs, Relaxing, gemm,
};

use crate::common::*;
use crate::conv::Case;
use crate::gemm::{Lay, Matrix};
use crate::local::square;

#[test]
fn convolutions() {
    let mut rng = generator(16);
    let shapes = [
        plain([20, 24], [12, 12], [3, 3]),
        ConvShape { stride: [2, 1], padding: [1, 2], dilation: [1, 2], ..plain([13, 31], [17, 14], [3, 4]) },
        plain([40, 64], [1, 1], [1, 1]),
        plain([700, 300], [1, 1], [1, 1]),
        plain([1, 129], [28, 28], [3, 3]),
        depthwise(plain([40, 40], [70, 50], [3, 3])),
    ];
    // So much that threads share one image.
    let larger = [
        ConvShape { padding: [1, 1], ..plain([50, 90], [20, 20], [3, 3]) },
        ConvShape { stride: [2, 2], ..plain([300, 40], [23, 22], [3, 3]) },
        plain([3, 20], [100, 200], [5, 5]),
        plain([3000, 700], [1, 1], [1, 1]),
        plain([80, 600], [6, 6], [6, 6]),
    ];
    for tiling in tilings() {
        let larger = if tiling.layout.is_channels() { larger.iter() } else { [].iter() };
        for &shape in shapes.iter().chain(larger) {
            let case = Case::random(&mut rng, tiling, shape);
            let (input, errors) = (case.input_tile(), case.gradient_tile());
            let bias = values(&mut rng, shape.out_channels);
            let all = |threads: usize, parallel: bool| {
                on_threads(threads, || {
                    let conv = &case.conv;
                    let mut scratch = case.scratch();
                    let mut forward = vec![f32::NAN; conv.packed_forward_len()];
                    conv.pack_forward(&case.weight, &mut forward, parallel);
                    let mut backward = vec![f32::NAN; conv.packed_backward_len()];
                    conv.pack_backward(&case.weight, &mut backward, parallel);
                    let combine = Combine { gamma: 0.3, other: &errors, bias: Some(&bias), ..Combine::default() };
                    let mut output = vec![f32::NAN; conv.output_len()];
                    let [packed, packed_back] =
                        [&forward, &backward].map(|packed| if packed.is_empty() { &case.weight } else { packed });
                    conv.forward(packed, &input, combine, &mut output, &mut scratch, parallel);
                    let mut gradient = input.clone();
                    let combine = Combine { beta: 0.9, ..Combine::default() };
                    conv.backward_data(packed_back, &errors, combine, &mut gradient, &mut scratch, parallel);
                    let mut weights = vec![0.5; conv.gradient_len()];
                    conv.backward_weights(&errors, &input, &mut weights, &mut scratch, parallel);
                    let mut unpacked = vec![f32::NAN; case.weight.len()];
                    conv.unpack_gradient(&weights, 0.3, &mut unpacked);
                    [forward, backward, output, gradient, weights, unpacked]
                })
            };
            let alone = all(1, false);
            for threads in [1, 2, 3, 5] {
                for (alone, shared) in alone.iter().zip(all(threads, true)) {
                    assert!(same_bits(alone, &shared), "{tiling:?}, {shape:?} on {threads} threads");
                }
            }
            case.forward(&mut rng);
            case.backward_data(&mut rng);
            case.backward_weights(&mut rng);
        }
    }
}

#[test]
fn operations_without_weights() {
    let mut rng = generator(42);
    for tiling in tilings() {
        let (Tiling { level, layout }, many) = (tiling, if tiling.layout == Layout::Images { 70 } else { 300 });
        let joined = square(many, [50, 70], [2, 2, 0, 1]);
        let shape = ConvShape { kernel: [3, 2], stride: [2, 1], padding: [1, 0], ..joined };
        let operations = [
            Local::max_pool(level, layout, Activation::Identity, &ConvShape { dilation: [1, 2], ..shape }),
            Local::max_pool(level, layout, Activation::LeakyRelu { negative_slope: 0.1 }, &joined),
            Local::avg_pool(level, layout, &shape, Divisor::Padded),
            Local::avg_pool(level, layout, &joined, Divisor::Number(3)),
            Local::adaptive_avg_pool(level, layout, many, [50, 70], [13, 9]),
            Local::activation(level, layout, Activation::Silu, many, [50, 70]),
            Local::activation(level, layout, Activation::Relu, 1, [50, 4900]),
        ];
        for local in operations {
            let [z, d] = [0; 2].map(|_| coarse(&mut rng, local.input_len()));
            let [u, gradient] = [0; 2].map(|_| coarse(&mut rng, local.output_len()));
            let all_rows = 0..local.output_rows();
            let some = local.rows_per_row().map(|_| all_rows.end / 3..all_rows.end - 1);
            for rows in [Some(all_rows), some].into_iter().flatten() {
                let own = &d[..local.input_len() / 50 * local.input_rows(&rows).len()];
                let all = |threads: usize, parallel: bool| {
                    on_threads(threads, || {
                        let [mut value, mut part, mut difference, mut error] =
                            [0; 4].map(|_| vec![GAP; local.output_len()]);
                        let [mut pulled, mut moved, mut back] = [0; 3].map(|_| vec![GAP; local.input_len()]);
                        local.forward(&z, &mut value, 0..local.output_rows(), parallel);
                        local.forward(&z, &mut part, rows.clone(), parallel);
                        local.push(&z, &value, &d, &mut difference, parallel);
                        local.pull(&z, &value, None, &gradient, &mut pulled, rows.clone(), parallel);
                        local.pull(&z, &value, Some(own), &gradient, &mut moved, rows.clone(), parallel);
                        let operands =
                            Relaxing { z: &z, value: &value, d: own, u: &u, error: &mut error, pulled: &mut back };
                        local.relax(operands, rows.clone(), parallel);
                        [value, part, difference, pulled, moved, error, back]
                    })
                };
                let alone = all(1, false);
                for threads in [2, 3, 5] {
                    for (i, (alone, shared)) in alone.iter().zip(all(threads, true)).enumerate() {
                        assert!(same_bits(alone, &shared), "{tiling:?}, {i} of {local:?} on {threads} threads");
                    }
                }
            }
        }
    }
}

#[test]
fn matrix_products() {
    let mut rng = generator(5);
    for level in levels() {
        for [m, n, k] in [
            [97, 183, 131],
            [300, 40, 64],
            [20, 900, 100],
            [1, 3000, 400],
            [2900, 1, 300],
            [145, 65, 600],
            [25, 24, 1100],
        ] {
            for lays in [[Lay::Rows, Lay::Rows, Lay::Rows], [Lay::Columns, Lay::Columns, Lay::Columns]] {
                let (a, b) = (Matrix::random(&mut rng, m, k, lays[0]), Matrix::random(&mut rng, k, n, lays[1]));
                let old = Matrix::random(&mut rng, m, n, lays[2]);
                let packed = PackedLhs::pack(level, a.view());
                let product = |lhs: Lhs<'_>, threads: usize| {
                    let mut c = old.clone();
                    let mut scratch = vec![f32::NAN; threads * GemmScratch::new(level, m, k, n).len()];
                    on_threads(threads, || gemm(level, 0.7, lhs, b.view(), 1.5, c.view_mut(), &mut scratch));
                    c.elements()
                };
                for lhs in [Lhs::Plain(a.view()), Lhs::Packed(&packed)] {
                    let alone = product(lhs, 1);
                    for threads in [2, 3, 5] {
                        let shared = product(lhs, threads);
                        assert!(same_bits(&alone, &shared), "{level}, {:?} on {threads} threads", [m, n, k]);
                    }
                }
            }
        }
    }
}
