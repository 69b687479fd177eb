//! Operations without weights: bands of rows, threads and lengths, whatever the operation.

use std::ops::Range;

use predictive_coding_kernels::{Activation, ConvShape, Divisor, Layout, Local, Relaxing, lanes};
use predictive_coding_kernels_reference as reference;
use rand::{Rng, RngExt};

use crate::activation::ALL;
use crate::common::*;

/// The value, as are the following functions, of all rows.
pub fn forward(local: &Local, z: &[f32]) -> Vec<f32> {
    let mut value = vec![GAP; local.output_len()];
    local.forward(z, &mut value, 0..local.output_rows(), false);
    value
}

pub fn push(local: &Local, z: &[f32], value: &[f32], d: &[f32]) -> Vec<f32> {
    let mut difference = vec![GAP; local.output_len()];
    local.push(z, value, d, &mut difference, false);
    difference
}

pub fn pull(local: &Local, z: &[f32], value: &[f32], d: Option<&[f32]>, gradient: &[f32]) -> Vec<f32> {
    let mut out = vec![GAP; local.input_len()];
    local.pull(z, value, d, gradient, &mut out, 0..local.output_rows(), false);
    out
}

/// Error and pulled error, which must be push and pull to the bit.
pub fn relax(local: &Local, z: &[f32], value: &[f32], d: &[f32], u: &[f32]) -> [Vec<f32>; 2] {
    let (mut error, mut pulled) = (vec![GAP; local.output_len()], vec![GAP; local.input_len()]);
    let operands = Relaxing { z, value, d, u, error: &mut error, pulled: &mut pulled };
    local.relax(operands, 0..local.output_rows(), false);
    let difference = push(local, z, value, d);
    let composed: Vec<f32> = difference.iter().zip(u).map(|(difference, u)| difference - u).collect();
    assert!(same_but_nan(&error, &composed), "the error of {local:?} is not push - u");
    assert!(same_but_nan(&pulled, &pull(local, z, value, Some(d), &error)), "the pulled error of {local:?}");
    [error, pulled]
}

/// Whether two are the same to the bit, but for what kind of NaN they hold.
fn same_but_nan(a: &[f32], b: &[f32]) -> bool {
    let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    a.len() == b.len() && a.iter().zip(b).all(same)
}

/// A window of one kernel size, stride and so on along both axes, but for the input.
pub fn square(channels: usize, input: [usize; 2], [kernel, stride, padding, dilation]: [usize; 4]) -> ConvShape {
    ConvShape {
        input,
        kernel: [kernel; 2],
        stride: [stride; 2],
        padding: [padding; 2],
        dilation: [dilation; 2],
        ..ConvShape::linear(channels, channels)
    }
}

/// Height, window and how many rows of the input a row of the result comes from.
const STEPS: [(usize, [usize; 4], Option<usize>); 19] = [
    (8, [2, 2, 0, 1], Some(2)),
    (9, [2, 2, 0, 1], Some(2)),
    (9, [3, 3, 0, 1], Some(3)),
    (11, [3, 3, 0, 1], Some(3)),
    // Gaps between windows.
    (9, [2, 3, 0, 1], Some(3)),
    (10, [1, 3, 0, 1], Some(3)),
    (12, [2, 4, 0, 1], Some(4)),
    (5, [1, 1, 0, 1], Some(1)),
    // Dilation within the stride, and beyond.
    (12, [2, 3, 0, 2], Some(3)),
    (12, [2, 2, 0, 2], None),
    // Overlapping windows.
    (9, [3, 2, 0, 1], None),
    (9, [3, 1, 0, 1], None),
    (9, [3, 2, 1, 1], None),
    // Padding shifts the windows, so that the first has fewer rows than the others.
    (9, [3, 3, 1, 1], None),
    (4, [3, 3, 1, 1], Some(2)),
    (8, [2, 4, 1, 1], Some(3)),
    (11, [2, 3, 1, 1], None),
    // One row of windows.
    (3, [3, 3, 0, 1], None),
    (2, [2, 2, 0, 1], None),
];

struct Operation {
    local: Local,
    planes: usize,
    /// Of the input.
    height: usize,
    step: Option<usize>,
    linear: bool,
}

fn operations(tiling: Tiling) -> Vec<Operation> {
    let Tiling { level, layout } = tiling;
    let [two, three, four] = [2, 3, 4].map(|channels| tiling.several(channels));
    let mut operations = vec![];
    for (height, window, step) in STEPS {
        let shape = square(three, [height, 7], window);
        let planes = tiling.planes(three);
        let mut add = |local, linear| operations.push(Operation { local, planes, height, step, linear });
        add(Local::avg_pool(level, layout, &shape, Divisor::Padded), true);
        let joined = ALL.into_iter().filter(|activation| activation.is_piecewise_linear());
        joined.for_each(|activation| add(Local::max_pool(level, layout, activation, &shape), false));
    }
    for (height, rows, step) in
        [(6, 3, Some(2)), (9, 3, Some(3)), (4, 4, Some(1)), (7, 3, None), (5, 1, None), (2, 4, None), (3, 4, None)]
    {
        let local = Local::adaptive_avg_pool(level, layout, two, [height, 5], [rows, 3]);
        operations.push(Operation { local, planes: tiling.planes(two), height, step, linear: true });
    }
    operations.extend(ALL.map(|activation| Operation {
        local: Local::activation(level, layout, activation, four, [5, 2]),
        planes: tiling.planes(four),
        height: 5,
        step: Some(1),
        linear: activation == Activation::Identity,
    }));
    if let Layout::Channels(images) = layout {
        let local = Local::flatten(level, images, four, [5, 2]);
        operations.push(Operation { local, planes: images, height: 1, step: None, linear: true });
        let local = Local::unflatten(level, images, four, [5, 2]);
        operations.push(Operation { local, planes: images, height: 1, step: None, linear: true });
    }
    operations
}

#[test]
fn what_is_linear() {
    for Operation { local, linear, .. } in tilings().into_iter().flat_map(operations) {
        assert_eq!(local.is_linear(), linear, "{local:?}");
    }
}

#[test]
fn rows_of_the_input_of_rows_of_the_result() {
    for Operation { local, height, step, .. } in tilings().into_iter().flat_map(operations) {
        assert_eq!(local.rows_per_row(), step, "{local:?}");
        let rows = local.output_rows();
        for band in bands(rows) {
            // The rows behind the last window belong to it.
            let own = step.map(|step| band.start * step..if band.end == rows { height } else { band.end * step });
            let expected = if band == (0..rows) { Some(0..height) } else { own };
            let got = std::panic::catch_unwind(|| local.input_rows(&band)).ok();
            assert_eq!(got, expected, "rows {band:?} of {local:?}");
        }
    }
}

/// All ranges of so many rows.
fn bands(rows: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows).flat_map(move |first| (first + 1..=rows).map(move |end| first..end))
}

/// No row of the result comes from a row of the input that is said to belong to another.
#[test]
fn rows_come_from_rows_of_their_own() {
    let mut rng = generator(40);
    for level in levels() {
        for _ in 0..2000 {
            let shape = random_shape(&mut rng, 1, 12);
            let local = Local::avg_pool(level, Layout::Images, &shape, Divisor::Inside);
            if local.rows_per_row().is_none() {
                continue;
            }
            let [from, row] = [shape.input, reference::output_size(&shape)].map(|[_, width]| width * lanes(level));
            for first in 0..local.output_rows() {
                let mut gradient = vec![0.0; local.output_len()];
                gradient[first * row..][..row].fill(1.0);
                let own = local.input_rows(&(first..first + 1));
                let pulled = pull(&local, &vec![0.0; local.input_len()], &gradient, None, &gradient);
                let mut reached = pulled.iter().enumerate().filter(|(_, x)| **x != 0.0).map(|(i, _)| i / from);
                assert!(reached.all(|row| own.contains(&row)), "row {first} of {shape:?}");
            }
        }
    }
}

/// Some rows of every plane, one after the other.
fn compact(all: &[f32], planes: usize, height: usize, rows: &Range<usize>) -> Vec<f32> {
    let row = all.len() / planes / height;
    all.chunks(height * row).flat_map(|plane| &plane[rows.start * row..rows.end * row]).copied().collect()
}

/// Some rows of every plane in their place, gaps elsewhere.
fn only(all: &[f32], planes: usize, height: usize, rows: &Range<usize>) -> Vec<f32> {
    let row = all.len() / planes / height;
    all.iter().enumerate().map(|(i, &x)| if rows.contains(&(i / row % height)) { x } else { GAP }).collect()
}

/// Values of which some are equal, NaN or infinite.
fn any_values(rng: &mut impl Rng, len: usize) -> Vec<f32> {
    let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    let mut x = coarse(rng, len);
    for _ in 0..len / 20 {
        x[rng.random_range(0..len)] = special[rng.random_range(0..3)];
    }
    x
}

#[test]
fn a_band_is_the_same_rows_of_the_whole() {
    let mut rng = generator(41);
    for Operation { local, planes, height, .. } in tilings().into_iter().flat_map(operations) {
        let [z, d] = [0; 2].map(|_| any_values(&mut rng, local.input_len()));
        let [u, gradient] = [0; 2].map(|_| any_values(&mut rng, local.output_len()));
        let value = forward(&local, &z);
        let pulled = [None, Some(d.as_slice())].map(|d| pull(&local, &z, &value, d, &gradient));
        let [error, pulled_error] = relax(&local, &z, &value, &d, &u);
        let rows = local.output_rows();
        for band in bands(rows).filter(|_| local.rows_per_row().is_some()) {
            let from = local.input_rows(&band);
            let in_output = |all: &[f32]| only(all, planes, rows, &band);
            let in_input = |all: &[f32]| only(all, planes, height, &from);
            let d = compact(&d, planes, height, &from);
            let case = (&local, &band);

            let mut out = vec![GAP; local.output_len()];
            local.forward(&z, &mut out, band.clone(), false);
            assert!(same_bits(&out, &in_output(&value)), "value of {case:?}");
            for (d, whole) in [None, Some(d.as_slice())].into_iter().zip(&pulled) {
                let mut out = vec![GAP; local.input_len()];
                local.pull(&z, &value, d, &gradient, &mut out, band.clone(), false);
                assert!(same_bits(&out, &in_input(whole)), "pulled gradient of {case:?}, with d: {}", d.is_some());
            }
            let (mut out, mut back) = (vec![GAP; local.output_len()], vec![GAP; local.input_len()]);
            let operands = Relaxing { z: &z, value: &value, d: &d, u: &u, error: &mut out, pulled: &mut back };
            local.relax(operands, band.clone(), false);
            assert!(same_bits(&out, &in_output(&error)), "error of {case:?}");
            assert!(same_bits(&back, &in_input(&pulled_error)), "pulled error of {case:?}");
        }
    }
}

#[test]
fn flattened_images_are_channels_of_one_pixel() {
    let mut rng = generator(43);
    for tiling in tilings().into_iter().filter(|tiling| tiling.layout.is_channels()) {
        for (channels, size) in [(1, [1, 1]), (3, [2, 5]), (16, [4, 4]), (17, [3, 1]), (40, [7, 3])] {
            let local = Local::flatten(tiling.level, tiling.images(), channels, size);
            let elements = channels * size[0] * size[1];
            let row = tiling.len(elements, [1, 1]) / tiling.images();
            let ends = |flat: &[f32]| flat.chunks_exact(row).all(|flat| flat[elements..].iter().all(|&x| x == 0.0));
            let lens = [tiling.len(channels, size), tiling.len(elements, [1, 1])];
            assert_eq!([local.input_len(), local.output_len()], lens);
            let [images, gradient] = [0; 2].map(|_| values(&mut rng, tiling.images() * elements));
            let z = tiling.to_tile(channels, &images);
            let value = forward(&local, &z);
            assert!(same_bits(&tiling.of_tile(elements, &value), &images), "{tiling:?}, {channels} x {size:?}");
            assert!(ends(&value), "{tiling:?}, {channels} x {size:?}");
            let pulled = pull(&local, &z, &value, None, &tiling.to_tile(elements, &gradient));
            assert!(same_bits(&tiling.of_tile(channels, &pulled), &gradient), "{tiling:?}, {channels} x {size:?}");

            let back = Local::unflatten(tiling.level, tiling.images(), channels, size);
            assert_eq!([back.output_len(), back.input_len()], lens);
            let restored = forward(&back, &value);
            assert!(same_bits(&tiling.of_tile(channels, &restored), &images), "{tiling:?}, {channels} x {size:?}");
            let pulled = pull(&back, &value, &restored, None, &tiling.to_tile(channels, &gradient));
            assert!(same_bits(&tiling.of_tile(elements, &pulled), &gradient), "{tiling:?}, {channels} x {size:?}");
            assert!(ends(&pulled), "{tiling:?}, {channels} x {size:?}");
        }
    }
}

/// Its mean is 0, whatever the rows that are given of d.
#[test]
fn a_row_of_windows_on_padding_alone() {
    for tiling in tilings() {
        let (channels, planes) = (tiling.several(2), tiling.planes(tiling.several(2)));
        let local =
            Local::avg_pool(tiling.level, tiling.layout, &square(channels, [7, 7], [1, 4, 1, 1]), Divisor::Padded);
        assert_eq!((local.output_rows(), local.rows_per_row()), (3, Some(3)));
        let (input, output) = (vec![1.0; local.input_len()], vec![0.5; local.output_len()]);
        let d = compact(&input, planes, 7, &(6..7));
        let (mut error, mut pulled) = (vec![GAP; output.len()], vec![GAP; input.len()]);
        let operands =
            Relaxing { z: &input, value: &output, d: &d, u: &output, error: &mut error, pulled: &mut pulled };
        local.relax(operands, 2..3, false);
        assert!(same_bits(&error, &only(&vec![-0.5; output.len()], planes, 3, &(2..3))));
        assert!(same_bits(&pulled, &only(&vec![0.0; input.len()], planes, 7, &(6..7))));
    }
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    let refused = |f: &(dyn Fn() + std::panic::RefUnwindSafe)| std::panic::catch_unwind(f).is_err();
    for Operation { local, step, height, .. } in tilings().into_iter().flat_map(operations) {
        let (input, output, rows) = (local.input_len(), local.output_len(), local.output_rows());
        // Operands of these lengths, one of which may be off by one.
        let lengths = |wrong: usize, right: &[usize]| -> Vec<Vec<f32>> {
            right.iter().enumerate().map(|(i, &len)| vec![0.0; len + usize::from(i == wrong)]).collect()
        };
        let check = |right: &[usize], run: &(dyn Fn(&mut [Vec<f32>]) + std::panic::RefUnwindSafe)| {
            for wrong in 0..=right.len() {
                let got = refused(&|| run(&mut lengths(wrong, right)));
                assert_eq!(got, wrong < right.len(), "operand {wrong} of {right:?} of {local:?}");
            }
        };
        let local = &local;
        check(&[input, output], &|x| {
            let [z, value] = x else { unreachable!() };
            local.forward(z, value, 0..rows, false);
        });
        check(&[input, output, input, output], &|x| {
            let [z, value, d, difference] = x else { unreachable!() };
            local.push(z, value, d, difference, false);
        });
        let band = if step.is_some() { 0..1 } else { 0..rows };
        let d_len = input / height * local.input_rows(&band).len();
        check(&[input, output, d_len, output, input], &|x| {
            let [z, value, d, gradient, out] = x else { unreachable!() };
            local.pull(z, value, Some(d), gradient, out, band.clone(), false);
        });
        check(&[input, output, d_len, output, output, input], &|x| {
            let [z, value, d, u, error, pulled] = x else { unreachable!() };
            local.relax(Relaxing { z, value, d, u, error, pulled }, band.clone(), false);
        });
    }
}
