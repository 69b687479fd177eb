//! Passes over elements, sums, layouts and levels.

use std::iter::zip;

use predictive_coding_kernels::*;
use rand::RngExt;

use crate::common::*;
use crate::naive;

#[test]
fn accumulation_of_any_length() {
    let mut rng = generator(50);
    for level in levels() {
        for len in 0..100 {
            let (a, b) = (values(&mut rng, len + 1), values(&mut rng, len));
            let a = &a[1..];
            let mut out = vec![GAP; len + 20];
            out[1..=len].copy_from_slice(&b);
            elementwise::accumulate(level, a, &mut out[1..=len]);
            assert!(zip(&out[1..], zip(a, &b)).all(|(x, (a, b))| *x == a + b), "{level}: accumulation of {len}");
            let outside = out[..1].iter().chain(&out[len + 1..]);
            assert!(outside.into_iter().all(|x| x.to_bits() == GAP.to_bits()), "{level} wrote beyond {len}");
        }
    }
}

#[test]
fn the_first_number_that_is_not_finite_is_found_wherever_it_is() {
    for level in levels() {
        for len in (0..300).chain([1000, 5000]) {
            let mut numbers = vec![f32::MAX; len];
            assert_eq!(reduce::first_not_finite(level, &numbers), None, "{level}: {len}");
            for at in (0..len).step_by(1 + len / 100).rev() {
                numbers[at] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][at % 3];
                assert_eq!(reduce::first_not_finite(level, &numbers), Some(at), "{level}: {len}");
            }
        }
        // So many that several threads search.
        let mut numbers = vec![-f32::MIN_POSITIVE / 4.0; 3 << 18];
        for at in [(3 << 18) - 1, 2 << 18, (1 << 18) + 1, 7] {
            numbers[at] = f32::NAN;
            assert_eq!(on_threads(2, || reduce::first_not_finite(level, &numbers)), Some(at), "{level}: {at}");
        }
    }
}

#[test]
fn combinations() {
    let mut rng = generator(51);
    for level in levels() {
        for vectors in 0..30 {
            for i in 0..36 {
                let len = vectors * lanes(level);
                let (sum, other) = (values(&mut rng, len), values(&mut rng, len));
                let [alpha, beta] = [[1.0, 0.5, 0.0, -2.0][i % 4], [0.0, 1.0, -0.3][i / 4 % 3]];
                let gamma = [0.0, -1.0, 0.7][i / 12];
                let old = if beta == 0.0 { vec![f32::NAN; len] } else { values(&mut rng, len) };
                let other = if gamma == 0.0 { &[][..] } else { &other };
                let combine = Combine { alpha, beta, gamma, other, bias: None, step: None };
                let wide: Vec<f64> = sum.iter().map(|&x| f64::from(x)).collect();
                let want = naive::combine(&combine, &wide, &old, 1);
                let mut out = old.clone();
                elementwise::combine(level, &sum, combine, &mut out);
                // All operands are below 1.
                let size = f64::from(alpha.abs() + beta.abs() + gamma.abs());
                assert_within(&out, &want, |_| 3.0 * ROUNDING * size, &(level, len, alpha, beta, gamma));

                for images in [1, lanes(level)] {
                    let (step, old) = (values(&mut rng, images), values(&mut rng, len));
                    let of_step = naive::combine(&combine, &wide, &old, 1);
                    let taken = |(i, of_step): (usize, f64)| f64::from(old[i]) + f64::from(step[i % images]) * of_step;
                    let want: Vec<f64> = of_step.into_iter().enumerate().map(taken).collect();
                    let mut out = old.clone();
                    elementwise::combine(level, &sum, Combine { step: Some(&step), ..combine }, &mut out);
                    let case = (level, len, "step", images, alpha, beta, gamma);
                    assert_within(&out, &want, |_| 5.0 * ROUNDING * (1.0 + size), &case);
                }
            }
        }
    }
}

/// Blocks are 64 vectors.
#[test]
fn sums() {
    let mut rng = generator(52);
    for level in levels() {
        let block = 64 * lanes(level);
        for len in (0..70).chain([block - 1, block, block + 1, 2 * block + 3, 100_003]) {
            let x = values(&mut rng, len);
            let size = naive::sum(&absolute(&x));
            let got = reduce::sum(level, &x);
            assert_within(&[got], &[naive::sum(&x)], |_| of_sum(block.min(len), size), &(level, len));
            if len > 0 {
                let mut x = x;
                let place = rng.random_range(0..len);
                x[place] = f32::NAN;
                assert!(reduce::sum(level, &x).is_nan(), "{level}: NaN at {place} of {len}");
            }
        }
    }
}

/// Elements of an image in a tile of so many pixels, all of whose lanes are used.
fn elements(tiling: Tiling, pixels: usize) -> usize {
    pixels * tiling.len(1, [1, 1]) / tiling.images()
}

/// As a tile whose lanes are all used.
fn vectors(tiling: Tiling, images: &[f32]) -> Vec<f32> {
    tiling.to_tile(images.len() / tiling.images(), images)
}

#[test]
fn squares_of_every_image() {
    let mut rng = generator(53);
    for tiling in tilings_and_batches() {
        for count in (1..40).chain([63, 64, 65, 1000, 4097]) {
            let samples = tiling.images();
            let x = values(&mut rng, samples * elements(tiling, count));
            let mut sums = vec![0.5; samples];
            reduce::add_squares(tiling.level, tiling.layout, &vectors(tiling, &x), &mut sums);
            for (got, want) in zip(sums, naive::squares(samples, &x)) {
                let tolerance = of_sum(count.min(64), want);
                assert!((got - 0.5 - want).abs() <= tolerance, "{tiling:?}, {count}: {got}, expected {}", want + 0.5);
            }
        }
    }
}

/// A product is a quarter of the difference of two squares, which are known.
#[test]
fn products_of_every_image() {
    let mut rng = generator(57);
    for tiling in tilings_and_batches() {
        let samples = tiling.images();
        for count in (1..40).chain([63, 64, 65, 1000]) {
            let [x, y] = [0; 2].map(|_| values(&mut rng, samples * elements(tiling, count)));
            let [plus, minus] = [1.0, -1.0].map(|sign| zip(&x, &y).map(|(x, y)| x + sign * y).collect::<Vec<f32>>());
            let [plus, minus] = [plus, minus].map(|values| naive::squares(samples, &values));
            let mut products = vec![0.5; samples];
            let (x, y) = (vectors(tiling, &x), vectors(tiling, &y));
            reduce::add_products(tiling.level, tiling.layout, &x, &y, &mut products);
            for image in 0..samples {
                let tolerance = 4.0 * of_sum(count.min(64) + 2, plus[image] + minus[image]);
                let product = 0.25 * (plus[image] - minus[image]) + 0.5;
                assert!((products[image] - product).abs() <= tolerance, "{tiling:?}, {count}: {}", products[image]);
            }
        }
    }
}

/// Channels that do and do not fill vectors, and lines of pixels likewise.
const IMAGES: [[usize; 2]; 13] = [
    [1, 1],
    [1, 2],
    [7, 1],
    [1, 16],
    [5, 7],
    [16, 16],
    [15, 17],
    [17, 15],
    [33, 3],
    [32, 40],
    [3, 33],
    [64, 1],
    [65, 16],
];

#[test]
fn tiles_lie_as_their_layout_says() {
    for Tiling { level, layout } in tilings_and_batches() {
        let tiling = Tiling { level, layout };
        assert_eq!(layout.images(level), tiling.images(), "{tiling:?}");
        for [channels, pixels] in IMAGES {
            assert_eq!(layout.planes(level, channels), tiling.planes(channels), "{tiling:?}");
            assert_eq!(layout.len(level, [channels, pixels]), tiling.len(channels, [1, pixels]), "{tiling:?}");
            let places: Vec<_> =
                (0..tiling.images()).flat_map(|image| layout.places(level, [channels, pixels], image)).collect();
            assert_eq!(
                places,
                tiling.places(channels, pixels).collect::<Vec<_>>(),
                "{tiling:?}, {channels} x {pixels}"
            );
        }
    }
    assert_eq!([Layout::Images, Layout::Channels(1)].map(Layout::name), ["images", "channels"]);
}

#[test]
fn rows_go_into_tiles_and_back() {
    let mut rng = generator(54);
    for tiling in tilings_and_batches() {
        let Tiling { level, layout } = tiling;
        for (image @ [channels, pixels], samples) in
            IMAGES.into_iter().flat_map(|image| (0..=tiling.images()).map(move |samples| (image, samples)))
        {
            let rows = values(&mut rng, samples * channels * pixels);
            let mut tile = vec![GAP; tiling.len(channels, [1, pixels])];
            layout.load(level, &rows, image, &mut tile);
            let mut want = vec![0.0; tile.len()];
            zip(tiling.places(channels, pixels), &rows).for_each(|(place, &x)| want[place] = x);
            assert!(same_bits(&tile, &want), "{tiling:?}: {samples} samples of {image:?}");
            let mut back = vec![GAP; rows.len()];
            layout.store(level, &tile, image, &mut back, samples, channels * pixels);
            assert!(same_bits(&back, &rows), "{tiling:?}: {samples} samples of {image:?}");
        }
    }
}

#[test]
fn tiles_go_into_rows_between_gaps() {
    let mut rng = generator(55);
    for tiling in tilings_and_batches() {
        let samples = tiling.images();
        for image @ [channels, pixels] in (1..40).map(|channels| [channels, 1]).chain(IMAGES) {
            let elements = channels * pixels;
            let x = values(&mut rng, samples * elements);
            for gap in [0, 1, 2, 7, 16, 33] {
                let stride = elements + gap;
                // The last row may end with its elements, or have a gap like the others.
                for len in [samples * stride - gap, samples * stride] {
                    let (begin, end) = (3, 3 + len);
                    let mut rows = vec![GAP; end + 5];
                    let tile = tiling.to_tile(channels, &x);
                    tiling.layout.store(tiling.level, &tile, image, &mut rows[begin..end], samples, stride);
                    let mut want = vec![GAP; end + 5];
                    for (i, &x) in x.iter().enumerate() {
                        want[begin + i / elements * stride + i % elements] = x;
                    }
                    assert!(same_bits(&rows, &want), "{tiling:?}: rows of {image:?}, {stride} apart, of {len}");
                }
            }
        }
    }
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    let refused = |f: &(dyn Fn() + std::panic::RefUnwindSafe)| std::panic::catch_unwind(f).is_err();
    for level in levels() {
        assert!(refused(&|| elementwise::accumulate(level, &[0.0; 4], &mut [0.0; 5])));
        assert!(refused(&|| elementwise::combine(level, &[0.0; 16], Combine::default(), &mut [0.0; 32])));
        assert!(refused(&|| elementwise::combine(level, &[0.0; 17], Combine::default(), &mut [0.0; 17])));
        let third = Combine { gamma: 1.0, other: &[0.0; 15], ..Combine::default() };
        assert!(refused(&|| elementwise::combine(level, &[0.0; 16], third, &mut [0.0; 16])));
        let step = Combine { step: Some(&[1.0; 3]), ..Combine::default() };
        assert!(refused(&|| elementwise::combine(level, &[0.0; 16], step, &mut [0.0; 16])));
        let bias = Combine { bias: Some(&[0.0; 16]), ..Combine::default() };
        assert!(refused(&|| elementwise::combine(level, &[0.0; 16], bias, &mut [0.0; 16])));
        assert!(refused(&|| reduce::add_squares(level, Layout::Channels(2), &[0.0; 48], &mut [0.0; 3])));
        assert!(refused(&|| reduce::add_squares(level, Layout::Channels(1), &[0.0; 17], &mut [0.0])));
        assert!(refused(&|| reduce::add_products(level, Layout::Channels(1), &[0.0; 16], &[0.0; 32], &mut [0.0])));
    }
    for tiling in tilings_and_batches() {
        let (Tiling { level, layout }, images, tile) = (tiling, tiling.images(), tiling.len(3, [1, 2]));
        let lost = |y: usize, error: usize, labels: usize, losses: usize| {
            let (y, d, mut error) = (vec![0.0; y], vec![0.0; tile], vec![0.0; error]);
            let outputs = loss::Outputs { level, layout, image: [3, 2] };
            outputs.cross_entropy(&y, &d, &vec![0.0; labels], 1.0, &mut error, &mut vec![0.0; losses]);
        };
        assert!(!refused(&|| lost(tile, tile, images, images)) && refused(&|| lost(tile, tile, images - 1, images)));
        assert!(refused(&|| lost(tile, tile, images, images + 1)) && refused(&|| lost(tile - 1, tile, images, images)));
        assert!(refused(&|| lost(tile, tile + 1, images, images)));
        let load = |rows: usize, tile: usize| layout.load(level, &vec![0.0; rows], [3, 2], &mut vec![0.0; tile]);
        assert!(!refused(&|| load(6, tile)) && refused(&|| load(5, tile)) && refused(&|| load(6, tile - 1)));
        assert!(refused(&|| load(6 * (images + 1), tile)));
        let store = |tile: usize, images: usize, stride: usize, rows: usize| {
            layout.store(level, &vec![0.0; tile], [3, 2], &mut vec![0.0; rows], images, stride);
        };
        assert!(!refused(&|| store(tile, images, 7, 7 * images - 1)));
        assert!(refused(&|| store(tile, images, 7, 7 * images - 2)) && refused(&|| store(tile + 1, images, 7, 1000)));
        assert!(refused(&|| store(tile, images + 1, 7, 1000)));
        assert!(images == 1 || refused(&|| store(tile, images, 5, 1000)));
    }
}

#[test]
fn buffers_begin_on_a_cache_line() {
    for len in [0, 1, 15, 16, 17, 1000] {
        let mut buffer = Buffer::zeros(len);
        assert_eq!(buffer.as_ptr() as usize % 64, 0);
        assert!(buffer.len() == len && buffer.iter().all(|&x| x == 0.0) && buffer.bytes() >= 4 * len);
        buffer.fill(1.0);
        assert_eq!(buffer.clone().iter().sum::<f32>(), len as f32);
    }
}

#[test]
fn levels_have_names() {
    for &level in Level::available() {
        assert_eq!(level.name().parse(), Ok(level));
        assert_eq!(
            lanes(level),
            [("avx512", 16), ("avx2", 8), ("portable", 4)].iter().find(|l| l.0 == level.name()).unwrap().1
        );
    }
    assert_eq!(Level::available().last(), Some(&Level::PORTABLE));
    let error = "avx3".parse::<Level>().unwrap_err().to_string();
    assert!(error.contains("avx3") && error.contains("portable"), "{error}");
}
