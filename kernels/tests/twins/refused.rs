//! Sizes whose products leave the integers are refused, and never taken for the small ones that they wrap to.

use std::panic::{AssertUnwindSafe, catch_unwind};

use predictive_coding_kernels::{
    Activation, Algorithm, Conv, ConvShape, Divisor, Layout, Level, Lhs, Local, MatMut, MatRef, NchwConv, PackedLhs,
    gemm, lanes,
};

use crate::common::levels;

fn refused<R>(what: &str, f: impl FnOnce() -> R) {
    assert!(catch_unwind(AssertUnwindSafe(f)).is_err(), "{what} was not refused");
}

const LAYOUTS: [Layout; 2] = [Layout::Images, Layout::Channels(1)];

/// Near the end of the integers, and where a product with the lanes or with another of them wraps to 0.
const LARGE: [usize; 7] = [usize::MAX, usize::MAX - 1, usize::MAX / 2, 1 << 63, 1 << 60, 1 << 32, (1 << 32) + 1];

#[test]
fn convolutions() {
    let level = Level::PORTABLE;
    let small = ConvShape::linear(1, 1);
    let pairs = |large: usize| [[large, 1], [1, large], [large, large]];
    for large in LARGE {
        let mut shapes = vec![
            ConvShape { in_channels: large, ..small },
            ConvShape { out_channels: large, ..small },
            ConvShape { in_channels: large, out_channels: large, ..small },
        ];
        for pair in pairs(large) {
            shapes.extend([
                ConvShape { input: pair, ..small },
                ConvShape { kernel: pair, ..small },
                ConvShape { kernel: [2; 2], dilation: pair, ..small },
                ConvShape { padding: pair, ..small },
                ConvShape { extra: pair, ..small },
                // A window of everything: the output has one pixel.
                ConvShape { kernel: pair, input: pair, ..small },
            ]);
        }
        for shape in shapes {
            refused(&format!("{shape:?}"), || NchwConv::new(level, shape, 1, Algorithm::Direct));
            refused(&format!("{shape:?}"), || Conv::new(level, Layout::Batch(3), shape, Algorithm::Direct));
            for layout in LAYOUTS {
                refused(&format!("{shape:?}"), || Conv::new(level, layout, shape, Algorithm::Direct));
                // The number of output channels is not a pool's.
                if shape.out_channels == 1 {
                    refused(&format!("{shape:?}"), || Local::max_pool(level, layout, Activation::Identity, &shape));
                    refused(&format!("{shape:?}"), || Local::avg_pool(level, layout, &shape, Divisor::Padded));
                }
            }
        }
    }
    for vectors in LARGE {
        refused("a batch", || Conv::new(level, Layout::Batch(vectors), small, Algorithm::Direct));
    }
    refused("a batch", || Conv::new(level, Layout::Batch(2), ConvShape { input: [1, 2], ..small }, Algorithm::Direct));
    // Without a pixel or a channel there is nothing to address, however large the rest.
    let none = [
        ConvShape { in_channels: 0, ..small },
        ConvShape { out_channels: 0, ..small },
        ConvShape { input: [0, 64], kernel: [2, 1], padding: [1, 0], ..small },
        ConvShape { input: [0, 64], kernel: [2, 1], padding: [1 << 59, 0], dilation: [(1 << 60) - 1, 1], ..small },
        ConvShape { input: [64, 0], kernel: [1, 2], padding: [0, 1], ..small },
        // One pixel of output under padding that no copy could hold.
        ConvShape { input: [1, 64], kernel: [2, 1], padding: [1 << 59, 0], dilation: [1 << 60, 1], ..small },
        ConvShape { kernel: [2, 2], padding: [1 << 20; 2], dilation: [1 << 21; 2], ..small },
    ];
    for shape in none {
        for layout in LAYOUTS {
            refused(&format!("{shape:?}"), || Conv::new(level, layout, shape, Algorithm::Direct));
        }
        refused(&format!("{shape:?}"), || NchwConv::new(level, shape, 1, Algorithm::Direct));
        assert!(shape.refusal(lanes(level)).is_some(), "{shape:?}");
    }
    for batch in [usize::MAX, usize::MAX / 2, 1 << 58, 1 << 57] {
        let shape = ConvShape { in_channels: 1 << 6, ..small };
        refused(&format!("{batch} images"), || NchwConv::new(level, shape, batch, Algorithm::Direct));
    }
    for zero in [[0, 1], [1, 0]] {
        for shape in [
            ConvShape { kernel: zero, ..small },
            ConvShape { stride: zero, ..small },
            ConvShape { dilation: zero, ..small },
        ] {
            for layout in LAYOUTS {
                refused(&format!("{shape:?}"), || Conv::new(level, layout, shape, Algorithm::Direct));
                refused(&format!("{shape:?}"), || Local::avg_pool(level, layout, &shape, Divisor::Padded));
            }
        }
    }
    let largest = ConvShape { in_channels: usize::MAX, out_channels: usize::MAX, ..small };
    assert_eq!(largest.flops(), u64::MAX);
}

#[test]
fn local_operations() {
    let level = Level::PORTABLE;
    for (large, layout) in LARGE.into_iter().flat_map(|large| LAYOUTS.map(|layout| (large, layout))) {
        refused("channels", || Local::activation(level, layout, Activation::Relu, large, [1, 1]));
        refused("channels", || Local::adaptive_avg_pool(level, layout, large, [2, 2], [1, 1]));
        for size in [[large, 1], [1, large], [large, large]] {
            refused("a size", || Local::activation(level, layout, Activation::Relu, 1, size));
            refused("an input", || Local::adaptive_avg_pool(level, layout, 1, size, [1, 1]));
            refused("an output", || Local::adaptive_avg_pool(level, layout, 1, [1, 1], size));
        }
        let local = Local::activation(level, layout, Activation::Relu, 2, [3, 4]);
        let z = vec![0.0; local.input_len()];
        let mut out = z.clone();
        for rows in [0..large, 1..large, large..large, 2..4] {
            refused("rows", || local.forward(&z, &mut out, rows.clone(), false));
            refused("rows", || local.pull(&z, &z, None, &z, &mut out, rows.clone(), false));
        }
    }
}

#[test]
fn matrices() {
    let level = Level::PORTABLE;
    let data = [1.0; 16];
    let strides = [isize::MAX, isize::MIN, isize::MIN + 1, isize::MAX / 2, 1 << 60, -1 << 60, 1 << 32, -1 << 33];
    let counts = LARGE.into_iter().flat_map(|n| [[n, 1], [1, n], [n, n]].map(|counts| (counts, [1, 1])));
    let far = strides.into_iter().flat_map(|stride| [[stride, 1], [1, stride]].map(|strides| ([2, 2], strides)));
    for ([rows, columns], [row_stride, column_stride]) in counts.chain(far) {
        let what = format!("{rows} x {columns}, strides {row_stride}, {column_stride}");
        refused(&what, || MatRef::new(&data, rows, columns, row_stride, column_stride));
        refused(&what, || {
            MatMut::new(&mut [0.0; 16], rows, columns, row_stride, column_stride);
        });
    }
    for stride in strides {
        // Without elements nothing is anywhere: neither read nor written, however far apart.
        let none = MatRef::new(&[], 3, 0, stride, stride).reversed_rows();
        let mut out = [7.0; 9];
        let mut scratch = vec![0.0; 100_000];
        let b = MatRef::new(&[], 0, 3, stride, 1);
        gemm(level, 1.0, Lhs::Plain(none), b, 0.0, MatMut::row_major(&mut out, 3, 3), &mut scratch);
        assert_eq!(out, [0.0; 9]);
        // Nor is a second row or column, if there is but one.
        let row = MatRef::new(&data, 1, 2, stride, 1).reversed_rows();
        let column = MatRef::new(&data, 2, 1, 1, stride).reversed_columns();
        for level in levels() {
            let mut out = [7.0];
            gemm(level, 1.0, Lhs::Plain(row), column, 0.0, MatMut::new(&mut out, 1, 1, stride, stride), &mut scratch);
            assert_eq!(out, [2.0]);
        }
    }
    // Where all elements lie at the same place there may be as many as one likes, but not of a copy.
    for [rows, columns] in [[usize::MAX; 2], [usize::MAX, 2], [1 << 33, 1 << 31], [1 << 62, 2], [1 << 60, 1000]] {
        let same = MatRef::new(&data, rows, columns, 0, 0);
        refused("a copy", || PackedLhs::pack(level, same));
    }
}

#[test]
fn layouts() {
    for level in levels() {
        let lanes = lanes(level);
        // So many lanes of so many elements are none.
        let wrapping = (1usize << 63) / lanes * 2;
        let layouts = [
            Layout::Images,
            Layout::Channels(1),
            Layout::Batch(3),
            Layout::Batch(usize::MAX),
            Layout::Channels(usize::MAX),
        ];
        for (large, layout) in [wrapping, wrapping / 2, usize::MAX].into_iter().flat_map(|n| layouts.map(|l| (n, l))) {
            for image in [[large, 1], [1, large], [large, large], [1 << 32, 1 << 32]] {
                refused("a tile", || layout.load(level, &[], image, &mut []));
                refused("a tile", || layout.load(level, &[0.0], image, &mut vec![0.0; lanes]));
                refused("a tile", || layout.store(level, &[], image, &mut [], 0, large));
                refused("a tile", || layout.store(level, &[], image, &mut [], 1, large));
            }
            refused("a stride", || layout.store(level, &vec![0.0; lanes], [2, 1], &mut [0.0; 64], lanes, large));
        }
    }
}

#[test]
fn scratch_that_is_too_short() {
    for level in levels() {
        for (channels, kernel, batch) in [(40, 3, 1), (40, 3, 20), (1, 3, 40), (40, 1, 3)] {
            let shape = ConvShape {
                input: [7, 7],
                kernel: [kernel; 2],
                stride: [1, 1],
                padding: [kernel / 2; 2],
                ..ConvShape::linear(channels, channels)
            };
            let conv = NchwConv::new(level, shape, batch, Algorithm::Direct);
            let images = vec![0.0; batch * channels * 49];
            let (mut result, weight) = (images.clone(), vec![0.0; channels * channels * kernel * kernel]);
            let mut gradient = weight.clone();
            let mut scratch = vec![0.0; conv.scratch_len() - 1];
            let what = format!("{level} {shape:?} {batch}");
            refused(&what, || conv.forward(&weight, None, &images, &mut result, &mut scratch));
            refused(&what, || conv.backward_data(&weight, &images, &mut result, &mut scratch));
            refused(&what, || conv.backward_weights(&images, &images, &mut gradient, &mut scratch));
        }
    }
}
