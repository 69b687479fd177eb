//! Convolutions band by band: to the bit the rows of the whole product, which has a twin.

use std::ops::Range;

use predictive_coding_kernels::{Combine, ConvShape, LaneConv, Level, lanes, reference};
use rand::{Rng, RngExt};

use crate::common::*;

/// Packed weights, the operand, what becomes of the output, the output, and whether to share the work.
type Run = fn(&LaneConv, &[f32], &[f32], Combine<'_>, &mut [f32], bool);

/// As [`Run`], of the band of a number.
type RunBand = fn(&LaneConv, usize, &[f32], &[f32], Combine<'_>, &mut [f32], bool);

/// One of the two products that can be cut.
struct Direction {
    name: &'static str,
    packed_len: fn(&LaneConv) -> usize,
    pack: fn(&LaneConv, &[f32], &mut [f32], bool),
    run: Run,
    run_band: RunBand,
    count: fn(&LaneConv) -> usize,
    rows: fn(&LaneConv, usize) -> Range<usize>,
}

const FORWARD: Direction = Direction {
    name: "forward",
    packed_len: LaneConv::packed_forward_len,
    pack: LaneConv::pack_forward,
    run: LaneConv::forward,
    run_band: LaneConv::forward_band,
    count: LaneConv::output_bands,
    rows: LaneConv::output_band,
};

const BACKWARD: Direction = Direction {
    name: "backward",
    packed_len: LaneConv::packed_backward_len,
    pack: LaneConv::pack_backward,
    run: LaneConv::backward_data,
    run_band: LaneConv::backward_band,
    count: LaneConv::input_bands,
    rows: LaneConv::input_band,
};

impl Direction {
    fn packed(&self, conv: &LaneConv, weight: &[f32]) -> Vec<f32> {
        let mut packed = vec![f32::NAN; (self.packed_len)(conv)];
        (self.pack)(conv, weight, &mut packed, false);
        packed
    }
}

/// The operands of a product and the size of its result.
struct Operands {
    weight: Vec<f32>,
    from: Vec<f32>,
    channels: usize,
    size: [usize; 2],
}

impl Operands {
    fn new(rng: &mut impl Rng, level: Level, shape: &ConvShape, direction: &Direction) -> Self {
        let weight = values(rng, shape.in_channels * shape.out_channels * shape.taps());
        let [input, output] = sizes(shape, lanes(level));
        match direction.name {
            "forward" => {
                let (channels, size) = (shape.out_channels, reference::output_size(shape));
                Operands { weight, from: values(rng, input), channels, size }
            }
            _ => Operands { weight, from: values(rng, output), channels: shape.in_channels, size: shape.input },
        }
    }
}

/// The product itself and another combination, by bands of so many rows.
fn check(rng: &mut impl Rng, level: Level, shape: ConvShape, direction: &Direction, rows_per_band: usize) {
    let Operands { weight, from, channels, size: [height, width] } = Operands::new(rng, level, &shape, direction);
    let whole = LaneConv::new(level, shape);
    // The other direction in bands of another size.
    let cut = match direction.name {
        "forward" => LaneConv::with_bands(level, shape, rows_per_band, rows_per_band + 1),
        _ => LaneConv::with_bands(level, shape, rows_per_band + 1, rows_per_band),
    };
    let case = (level, shape, direction.name, rows_per_band);
    let bands: Vec<_> = (0..(direction.count)(&cut)).map(|band| (direction.rows)(&cut, band)).collect();
    let expected = (0..height).step_by(rows_per_band).map(|first| first..height.min(first + rows_per_band));
    assert_eq!(bands, expected.collect::<Vec<_>>(), "{case:?}");
    assert_eq!((direction.count)(&whole), 1, "{case:?}");

    let row = width * lanes(level);
    let len = channels * height * row;
    let (other, bias) = (values(rng, len), values(rng, channels));
    let any = Combine {
        alpha: [1.0, 0.5, -2.0][rng.random_range(0..3)],
        beta: [0.0, 1.0, -0.3][rng.random_range(0..3)],
        gamma: [0.0, -1.0, 0.7][rng.random_range(0..3)],
        other: &other,
        bias: rng.random_bool(0.7).then_some(bias.as_slice()),
        step: None,
    };
    let [packed_whole, packed] = [&whole, &cut].map(|conv| direction.packed(conv, &weight));
    for (combine, plain) in [(Combine::default(), true), (any, false)] {
        let old = if combine.beta == 0.0 { vec![GAP; len] } else { values(rng, len) };
        let [mut want, mut all] = [0; 2].map(|_| old.clone());
        (direction.run)(&whole, &packed_whole, &from, combine, &mut want, false);
        (direction.run)(&cut, &packed, &from, combine, &mut all, false);
        assert!(same_bits(&all, &want), "all bands of {case:?}");
        for (band, rows) in bands.iter().enumerate() {
            let inside = |i: usize| rows.contains(&(i / row % height));
            let only = |inner: &[f32], outer: &[f32]| -> Vec<f32> {
                (0..inner.len()).map(|i| if inside(i) { inner[i] } else { outer[i] }).collect()
            };
            let mut out = old.clone();
            // Of the third operand no other rows are read either.
            let combine = Combine { other: &only(combine.other, &vec![GAP; len]), ..combine };
            (direction.run_band)(&cut, band, &packed, &from, combine, &mut out, false);
            assert!(same_bits(&out, &only(&want, &old)), "band {band} of {case:?}");
            if plain && direction.name == "forward" {
                let want: Vec<_> = (0..len).filter(|&i| inside(i)).map(|i| want[i]).collect();
                let mut alone = vec![GAP; want.len()];
                cut.forward_alone(band, &packed, &from, &mut alone, false);
                assert!(same_bits(&alone, &want), "band {band} alone of {case:?}");
            }
        }
    }
}

#[test]
fn bands_of_every_window() {
    let mut rng = generator(60);
    for (level, direction) in levels().into_iter().flat_map(|level| [(level, FORWARD), (level, BACKWARD)]) {
        for shape in square_windows(2, 7) {
            for rows in [1, 2, 3, 5, 40] {
                check(&mut rng, level, shape, &direction, rows);
            }
        }
    }
}

#[test]
fn bands_of_random_shapes() {
    let mut rng = generator(61);
    for (level, direction) in levels().into_iter().flat_map(|level| [(level, FORWARD), (level, BACKWARD)]) {
        for _ in 0..600 {
            let shape = random_shape(&mut rng, 13, 14);
            let rows = rng.random_range(1..=8);
            check(&mut rng, level, shape, &direction, rows);
        }
    }
}

/// Images and rows of every length that is one tile or several, most of whose columns are longer than
/// their rows.
#[test]
fn bands_of_narrow_images() {
    let mut rng = generator(62);
    for (level, direction) in levels().into_iter().flat_map(|level| [(level, FORWARD), (level, BACKWARD)]) {
        for (height, width) in (1..=20).flat_map(|height| (1..=4).map(move |width| (height, width))) {
            let channels = rng.random_range(1..=13);
            let shape = ConvShape {
                input: [height, width],
                kernel: [3, 3],
                padding: [1, 1],
                ..ConvShape::linear(channels, 14 - channels)
            };
            for rows in [1, 2, 3, 7, 19] {
                check(&mut rng, level, shape, &direction, rows);
            }
        }
    }
}

#[test]
fn threads_do_not_change_a_bit_of_a_band() {
    let mut rng = generator(63);
    let shape = ConvShape {
        in_channels: 20,
        out_channels: 31,
        input: [24, 22],
        kernel: [3, 4],
        stride: [2, 1],
        padding: [1, 2],
        dilation: [1, 2],
    };
    for (level, direction) in levels().into_iter().flat_map(|level| [(level, FORWARD), (level, BACKWARD)]) {
        let Operands { weight, from, channels, size } = Operands::new(&mut rng, level, &shape, &direction);
        let conv = LaneConv::with_bands(level, shape, 5, 7);
        let packed = direction.packed(&conv, &weight);
        let len = channels * size[0] * size[1] * lanes(level);
        let (other, bias) = (values(&mut rng, len), values(&mut rng, channels));
        let combine = Combine { beta: 0.9, gamma: 0.3, other: &other, bias: Some(&bias), ..Combine::default() };
        let old = values(&mut rng, len);
        let all = |threads: usize, parallel: bool| {
            on_threads(threads, || {
                let mut results = vec![];
                for band in 0..(direction.count)(&conv) {
                    let mut out = old.clone();
                    (direction.run_band)(&conv, band, &packed, &from, combine, &mut out, parallel);
                    results.push(out);
                    if direction.name == "forward" {
                        let [_, width] = size;
                        let mut alone = vec![GAP; channels * conv.output_band(band).len() * width * lanes(level)];
                        conv.forward_alone(band, &packed, &from, &mut alone, parallel);
                        results.push(alone);
                    }
                }
                results
            })
        };
        let alone = all(1, false);
        for threads in [2, 3, 5] {
            for (alone, shared) in alone.iter().zip(all(threads, true)) {
                assert!(same_bits(alone, &shared), "{level} {} on {threads} threads", direction.name);
            }
        }
    }
}

#[test]
fn a_band_that_is_not_there_or_has_other_lengths_is_refused() {
    let shape = ConvShape { input: [8, 5], kernel: [3, 3], padding: [1, 1], ..ConvShape::linear(2, 3) };
    let refused = |f: &(dyn Fn() + std::panic::RefUnwindSafe)| std::panic::catch_unwind(f).is_err();
    for level in levels() {
        let conv = LaneConv::with_bands(level, shape, 3, 4);
        let packed = vec![0.0; conv.packed_forward_len()];
        let run = |band: usize, input: usize, output: usize| {
            let (input, mut output) = (vec![0.0; conv.input_len() + input], vec![0.0; conv.output_len() + output]);
            conv.forward_band(band, &packed, &input, Combine::default(), &mut output, false);
        };
        assert!(!refused(&|| run(2, 0, 0)) && refused(&|| run(3, 0, 0)));
        assert!(refused(&|| run(0, 1, 0)) && refused(&|| run(0, 0, 1)));
        let alone = |band: usize, rows: usize| {
            let mut output = vec![0.0; 3 * rows * 5 * lanes(level)];
            conv.forward_alone(band, &packed, &vec![0.0; conv.input_len()], &mut output, false);
        };
        assert!(!refused(&|| alone(2, 2)) && refused(&|| alone(2, 3)) && refused(&|| alone(0, 2)));
        assert!(refused(&|| drop(LaneConv::with_bands(level, shape, 0, 1))));
        assert!(refused(&|| drop(LaneConv::with_bands(level, shape, 1, 0))));
    }
}
