//! Convolutions band by band: to the bit the rows of the whole product, which has a twin.

use predictive_coding_kernels::{Algorithm, Combine, Conv, ConvShape, lanes};
use predictive_coding_kernels_reference as reference;
use rand::{Rng, RngExt};

use crate::common::*;

/// Weights, and an input.
fn operands(rng: &mut impl Rng, tiling: Tiling, shape: &ConvShape) -> [Vec<f32>; 2] {
    let weight = values(rng, shape.in_channels * shape.out_channels * shape.taps());
    let [input, _] = sizes(shape, tiling.images());
    [weight, tiling.to_tile(shape.in_channels, &values(rng, input))]
}

/// The product itself and another combination, by bands of so many rows.
fn check(rng: &mut impl Rng, tiling: Tiling, shape: ConvShape, rows_per_band: usize) {
    let Tiling { level, layout } = tiling;
    let [weight, input] = operands(rng, tiling, &shape);
    let [height, width] = reference::output_size(&shape);
    let (whole, cut) = (
        Conv::new(level, layout, shape, Algorithm::Direct),
        Conv::with_options(level, layout, shape, in_bands(rows_per_band)),
    );
    let case = (tiling, shape, rows_per_band);
    let bands: Vec<_> = (0..cut.output_bands()).map(|band| cut.output_band(band)).collect();
    let expected = (0..height).step_by(rows_per_band).map(|first| first..height.min(first + rows_per_band));
    assert_eq!(bands, expected.collect::<Vec<_>>(), "{case:?}");
    assert_eq!(whole.output_bands(), 1, "{case:?}");

    let row = width * lanes(level);
    let len = cut.output_len();
    let (other, bias) = (values(rng, len), values(rng, shape.out_channels));
    let any = Combine {
        alpha: [1.0, 0.5, -2.0][rng.random_range(0..3)],
        beta: [0.0, 1.0, -0.3][rng.random_range(0..3)],
        gamma: [0.0, -1.0, 0.7][rng.random_range(0..3)],
        other: &other,
        bias: rng.random_bool(0.7).then_some(bias.as_slice()),
        step: None,
    };
    let [packed_whole, packed] = [&whole, &cut].map(|conv| packed_forward(conv, &weight));
    for combine in [Combine::default(), any] {
        let old = if combine.beta == 0.0 { vec![GAP; len] } else { values(rng, len) };
        let [mut want, mut all] = [0; 2].map(|_| old.clone());
        whole.forward(&packed_whole, &input, combine, &mut want, &mut [], false);
        cut.forward(&packed, &input, combine, &mut all, &mut [], false);
        assert!(same_bits(&all, &want), "all bands of {case:?}");
        for (band, rows) in bands.iter().enumerate() {
            let inside = |i: usize| rows.contains(&(i / row % height));
            let only = |inner: &[f32], outer: &[f32]| -> Vec<f32> {
                (0..inner.len()).map(|i| if inside(i) { inner[i] } else { outer[i] }).collect()
            };
            let mut out = old.clone();
            // Of the third operand no other rows are read either.
            let combine = Combine { other: &only(combine.other, &vec![GAP; len]), ..combine };
            cut.forward_band(band, &packed, &input, combine, &mut out, &mut [], false);
            assert!(same_bits(&out, &only(&want, &old)), "band {band} of {case:?}");
            if combine.gamma == 0.0 {
                let [want, mut alone] =
                    [&want, &old].map(|of| (0..len).filter(|&i| inside(i)).map(|i| of[i]).collect::<Vec<_>>());
                cut.forward_alone(band, &packed, &input, combine, &mut alone, &mut [], false);
                assert!(same_bits(&alone, &want), "band {band} alone of {case:?}");
            }
        }
    }
}

#[test]
fn bands_of_every_window() {
    let mut rng = generator(60);
    for tiling in tilings() {
        for shape in square_windows(2, 7) {
            for rows in [1, 2, 3, 5, 40] {
                check(&mut rng, tiling, shape, rows);
            }
        }
    }
}

#[test]
fn bands_of_random_shapes() {
    let mut rng = generator(61);
    for tiling in tilings() {
        for _ in 0..600 {
            let shape = random_shape(&mut rng, tiling.several(13), 14);
            let rows = rng.random_range(1..=8);
            check(&mut rng, tiling, shape, rows);
        }
    }
}

/// Images and rows of every length that is one tile or several, most of whose columns are longer than
/// their rows.
#[test]
fn bands_of_narrow_images() {
    let mut rng = generator(62);
    for tiling in tilings() {
        for (height, width) in (1..=20).flat_map(|height| (1..=4).map(move |width| (height, width))) {
            let channels = rng.random_range(1..=13);
            let shape = ConvShape {
                input: [height, width],
                kernel: [3, 3],
                padding: [1, 1],
                ..ConvShape::linear(channels, tiling.several(14 - channels))
            };
            for rows in [1, 2, 3, 7, 19] {
                check(&mut rng, tiling, shape, rows);
            }
        }
    }
}

#[test]
fn threads_do_not_change_a_bit_of_a_band() {
    let mut rng = generator(63);
    let shape = ConvShape {
        input: [24, 22],
        kernel: [3, 4],
        stride: [2, 1],
        padding: [1, 2],
        dilation: [1, 2],
        ..ConvShape::linear(20, 31)
    };
    for tiling in tilings() {
        let [weight, input] = operands(&mut rng, tiling, &shape);
        let conv = Conv::with_options(tiling.level, tiling.layout, shape, in_bands(5));
        let packed = packed_forward(&conv, &weight);
        let len = conv.output_len();
        let (other, bias) = (values(&mut rng, len), values(&mut rng, shape.out_channels));
        let combine = Combine { beta: 0.9, gamma: 0.3, other: &other, bias: Some(&bias), ..Combine::default() };
        let old = values(&mut rng, len);
        let all = |threads: usize, parallel: bool| {
            on_threads(threads, || {
                let mut results = vec![];
                for band in 0..conv.output_bands() {
                    let (mut out, mut alone) = (old.clone(), vec![GAP; conv.output_band_len(band)]);
                    conv.forward_band(band, &packed, &input, combine, &mut out, &mut [], parallel);
                    conv.forward_alone(band, &packed, &input, Combine::default(), &mut alone, &mut [], parallel);
                    results.extend([out, alone]);
                }
                results
            })
        };
        let alone = all(1, false);
        for threads in [2, 3, 5] {
            for (alone, shared) in alone.iter().zip(all(threads, true)) {
                assert!(same_bits(alone, &shared), "{tiling:?} on {threads} threads");
            }
        }
    }
}

#[test]
fn a_band_that_is_not_there_or_has_other_lengths_is_refused() {
    let shape = ConvShape { input: [8, 5], kernel: [3, 3], padding: [1, 1], ..ConvShape::linear(2, 3) };
    let refused = |f: &(dyn Fn() + std::panic::RefUnwindSafe)| std::panic::catch_unwind(f).is_err();
    for Tiling { level, layout } in tilings() {
        let conv = Conv::with_options(level, layout, shape, in_bands(3));
        let packed = vec![0.0; conv.packed_forward_len()];
        let run = |band: usize, input: usize, output: usize| {
            let (input, mut output) = (vec![0.0; conv.input_len() + input], vec![0.0; conv.output_len() + output]);
            conv.forward_band(band, &packed, &input, Combine::default(), &mut output, &mut [], false);
        };
        assert!(!refused(&|| run(2, 0, 0)) && refused(&|| run(3, 0, 0)));
        assert!(refused(&|| run(0, 1, 0)) && refused(&|| run(0, 0, 1)));
        let combined = |band: usize, like: usize, combine: Combine<'_>| {
            let mut output = vec![0.0; conv.output_band_len(like)];
            conv.forward_alone(band, &packed, &vec![0.0; conv.input_len()], combine, &mut output, &mut [], false);
        };
        let alone = |band: usize, like: usize| combined(band, like, Combine::default());
        assert!(!refused(&|| alone(2, 2)) && refused(&|| alone(2, 1)) && refused(&|| alone(0, 2)));
        let (other, step) = (vec![0.0; conv.output_len()], vec![0.0; layout.images(level)]);
        assert!(refused(&|| combined(2, 2, Combine { gamma: 1.0, other: &other, ..Combine::default() })));
        assert!(refused(&|| combined(2, 2, Combine { step: Some(&step), ..Combine::default() })));
        assert!(refused(&|| combined(2, 2, Combine { bias: Some(&[0.0; 2]), ..Combine::default() })));
        assert!(refused(&|| drop(Conv::with_options(level, layout, shape, in_bands(0)))));
    }
}
