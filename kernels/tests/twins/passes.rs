//! Passes over elements, sums, layouts and levels.

use std::iter::zip;

use predictive_coding_kernels::*;
use rand::RngExt;

use crate::common::*;

#[test]
fn sums_products_and_accumulation_of_any_length() {
    let mut rng = generator(50);
    for level in levels() {
        for len in 0..100 {
            let (a, b) = (values(&mut rng, len + 1), values(&mut rng, len));
            let a = &a[1..];
            let mut out = vec![GAP; len + 20];
            elementwise::add(level, a, &b, &mut out[1..=len]);
            assert!(zip(&out[1..], zip(a, &b)).all(|(x, (a, b))| *x == a + b), "{level}: sum of {len}");
            elementwise::multiply(level, a, &b, &mut out[1..=len]);
            assert!(zip(&out[1..], zip(a, &b)).all(|(x, (a, b))| *x == a * b), "{level}: product of {len}");
            elementwise::accumulate(level, a, &mut out[1..=len]);
            assert!(zip(&out[1..], zip(a, &b)).all(|(x, (a, b))| *x == a * b + a), "{level}: accumulation of {len}");
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
                let want = reference::combine(&combine, &wide, &old, 1);
                let mut out = old.clone();
                elementwise::combine(level, &sum, combine, &mut out);
                // All operands are below 1.
                let size = f64::from(alpha.abs() + beta.abs() + gamma.abs());
                assert_within(&out, &want, |_| 3.0 * ROUNDING * size, &(level, len, alpha, beta, gamma));

                let (step, old) = (values(&mut rng, lanes(level)), values(&mut rng, len));
                let of_step = reference::combine(&combine, &wide, &old, 1);
                let taken =
                    |(i, of_step): (usize, f64)| f64::from(old[i]) + f64::from(step[i % lanes(level)]) * of_step;
                let want: Vec<f64> = of_step.into_iter().enumerate().map(taken).collect();
                let mut out = old.clone();
                elementwise::combine(level, &sum, Combine { step: Some(&step), ..combine }, &mut out);
                assert_within(
                    &out,
                    &want,
                    |_| 5.0 * ROUNDING * (1.0 + size),
                    &(level, len, "step", alpha, beta, gamma),
                );
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
            let size = reference::sum(&absolute(&x));
            let got = reduce::sum(level, &x);
            assert_within(&[got], &[reference::sum(&x)], |_| of_sum(block.min(len), size), &(level, len));
            if len > 0 {
                let mut x = x;
                let place = rng.random_range(0..len);
                x[place] = f32::NAN;
                assert!(reduce::sum(level, &x).is_nan(), "{level}: NaN at {place} of {len}");
            }
        }
    }
}

#[test]
fn squares_of_every_lane() {
    let mut rng = generator(53);
    for level in levels() {
        for elements in (1..40).chain([63, 64, 65, 1000, 4097]) {
            let samples = lanes(level);
            let x = values(&mut rng, samples * elements);
            let mut sums = vec![0.5; samples];
            reduce::add_lane_squares(level, &to_lanes(level, &x), &mut sums);
            for (got, want) in zip(sums, reference::squares(samples, &x)) {
                let tolerance = of_sum(elements.min(64), want);
                assert!((got - 0.5 - want).abs() <= tolerance, "{level}, {elements}: {got}, expected {}", want + 0.5);
            }
        }
    }
}

/// A product is a quarter of the difference of two squares, which are known.
#[test]
fn products_and_distances_of_every_lane() {
    let mut rng = generator(57);
    for level in levels() {
        let samples = lanes(level);
        for elements in (1..40).chain([63, 64, 65, 1000]) {
            let [x, y] = [0; 2].map(|_| values(&mut rng, samples * elements));
            let [plus, minus] = [1.0, -1.0].map(|sign| zip(&x, &y).map(|(x, y)| x + sign * y).collect::<Vec<f32>>());
            let [plus, minus] = [plus, minus].map(|values| reference::squares(samples, &values));
            let [mut products, mut distances] = [0; 2].map(|_| vec![0.5; samples]);
            let (x, y) = (to_lanes(level, &x), to_lanes(level, &y));
            reduce::add_lane_products(level, &x, &y, &mut products);
            reduce::add_lane_distances(level, &x, &y, &mut distances);
            for lane in 0..samples {
                let tolerance = 4.0 * of_sum(elements.min(64) + 2, plus[lane] + minus[lane]);
                let product = 0.25 * (plus[lane] - minus[lane]) + 0.5;
                assert!((products[lane] - product).abs() <= tolerance, "{level}, {elements}: {}", products[lane]);
                let distance = minus[lane] + 0.5;
                assert!((distances[lane] - distance).abs() <= tolerance, "{level}, {elements}: {}", distances[lane]);
            }
        }
    }
}

#[test]
fn rows_go_into_lanes_and_back() {
    let mut rng = generator(54);
    for level in levels() {
        let width = lanes(level);
        for samples in 0..=width {
            for elements in [1, 2, 7, 16, 35] {
                let rows = values(&mut rng, samples * elements);
                let mut across = vec![GAP; elements * width];
                rows_to_lanes(level, &rows, elements, &mut across);
                for (i, &x) in across.iter().enumerate() {
                    let (element, sample) = (i / width, i % width);
                    let expected = if sample < samples { rows[sample * elements + element] } else { 0.0 };
                    assert_eq!(x, expected, "element {element} of sample {sample} of {samples}");
                }
                let mut back = vec![GAP; rows.len()];
                lanes_to_rows(level, &across, &mut back, elements);
                assert!(same_bits(&back, &rows), "{samples} samples of {elements} in {width} lanes");
            }
        }
    }
}

#[test]
fn lanes_go_into_rows_between_gaps() {
    let mut rng = generator(55);
    for level in levels() {
        let samples = lanes(level);
        for elements in (1..40).chain([64, 65]) {
            for gap in [0, 1, 2, 7, 16, 33] {
                let (across, stride) = (values(&mut rng, samples * elements), elements + gap);
                // The last row may end with its elements, or have a gap like the others.
                for len in [samples * stride - gap, samples * stride] {
                    let (begin, end) = (3, 3 + len);
                    let mut rows = vec![GAP; end + 5];
                    lanes_to_strided_rows(level, &across, &mut rows[begin..end], elements, stride);
                    let mut want = vec![GAP; end + 5];
                    for (i, &x) in across.iter().enumerate() {
                        want[begin + i % samples * stride + i / samples] = x;
                    }
                    assert!(same_bits(&rows, &want), "{level}: rows of {elements}, {stride} apart, of {len}");
                }
            }
        }
    }
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    let refused = |f: &(dyn Fn() + std::panic::RefUnwindSafe)| std::panic::catch_unwind(f).is_err();
    for level in levels() {
        assert!(refused(&|| elementwise::add(level, &[0.0; 3], &[0.0; 4], &mut [0.0; 4])));
        assert!(refused(&|| elementwise::multiply(level, &[0.0; 4], &[0.0; 4], &mut [0.0; 5])));
        assert!(refused(&|| elementwise::accumulate(level, &[0.0; 4], &mut [0.0; 5])));
        assert!(refused(&|| elementwise::combine(level, &[0.0; 16], Combine::default(), &mut [0.0; 32])));
        assert!(refused(&|| elementwise::combine(level, &[0.0; 17], Combine::default(), &mut [0.0; 17])));
        let third = Combine { gamma: 1.0, other: &[0.0; 15], ..Combine::default() };
        assert!(refused(&|| elementwise::combine(level, &[0.0; 16], third, &mut [0.0; 16])));
        assert!(refused(&|| reduce::add_lane_squares(level, &[0.0; 48], &mut [0.0; 3])));
        let width = lanes(level);
        let lost = |labels: usize, losses: usize| {
            let (y, mut error) = (vec![0.0; 2 * width], vec![0.0; 2 * width]);
            loss::cross_entropy(level, &y, &y, &vec![0.0; labels], 1.0, &mut error, &mut vec![0.0; losses]);
        };
        assert!(!refused(&|| lost(width, width)) && refused(&|| lost(width - 1, width)));
        assert!(refused(&|| lost(width, width + 1)));
        let rows = vec![0.0; 2 * (width + 1)];
        assert!(refused(&|| rows_to_lanes(level, &rows, 2, &mut vec![0.0; 2 * width])));
        assert!(refused(&|| lanes_to_rows(level, &vec![0.0; 2 * width], &mut [0.0; 3], 2)));
        let strided = |elements: usize, stride: usize, rows: usize| {
            lanes_to_strided_rows(level, &vec![0.0; 2 * width], &mut vec![0.0; rows], elements, stride);
        };
        assert!(!refused(&|| strided(2, 3, 3 * width - 1)) && refused(&|| strided(2, 3, 3 * width - 2)));
        assert!(refused(&|| strided(3, 3, 3 * width)) && refused(&|| strided(2, 1, 3 * width)));
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
