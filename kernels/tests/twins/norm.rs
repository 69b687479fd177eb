//! Normalisation against its twin.

use predictive_coding_kernels::Local;
use predictive_coding_kernels_reference as reference;

use crate::activation::widen;
use crate::common::*;
use crate::local::{forward, pull, push, relax};

const EPS: f64 = 1e-5;

/// Channels, pixels and groups.
const SHAPES: [[usize; 3]; 14] = [
    [1, 1, 1],
    [1, 7, 1],
    [3, 5, 1],
    [3, 5, 3],
    [4, 1, 2],
    [8, 3, 4],
    [15, 2, 5],
    [16, 4, 1],
    [17, 3, 1],
    [18, 1, 6],
    [36, 2, 2],
    [40, 9, 8],
    [64, 2, 64],
    [70, 1, 1],
];

/// Asserts that two tensors are within `bound` of each other in the 2-norm, relative to `size` or the expected one.
fn assert_near(got: &[f32], want: &[f64], size: f64, bound: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let error = norm(&mut got.iter().zip(want).map(|(got, want)| f64::from(*got) - want));
    let size = size.max(norm(&mut want.iter().copied()));
    assert!(error <= bound * size, "{what}: off by {error:e} of {size:e}");
}

/// Asserts that lanes without a channel hold 0.
fn assert_padded(tiling: Tiling, channels: usize, tile: &[f32], what: &str) {
    let pixels = tile.len() / tiling.len(channels, [1, 1]);
    let mut rest = vec![true; tile.len()];
    tiling.places(channels, pixels).for_each(|place| rest[place] = false);
    assert!(tile.iter().zip(rest).all(|(x, rest)| !rest || x.to_bits() == 0), "{what}: lanes without a channel");
}

#[test]
fn norms_are_their_twins() {
    let mut rng = generator(50);
    for tiling in tilings_and_batches() {
        for [channels, pixels, groups] in SHAPES {
            for (centred, offset) in [(true, 0.0), (true, 30.0), (false, 0.3)] {
                let len = tiling.images() * channels * pixels;
                let per_group = channels / groups * pixels;
                let norm = Local::norm(tiling.level, tiling.layout, [channels, pixels], groups, centred, EPS);
                let (to_tile, of_tile) = tiling.both_ways(channels);
                let z: Vec<f32> = values(&mut rng, len).iter().map(|x| x + offset).collect();
                let gradient = values(&mut rng, len);
                let value = forward(&norm, &to_tile(&z));
                let what =
                    format!("{tiling:?}, {channels} x {pixels} in {groups} groups, centred: {centred}, {offset}");
                let z64 = widen(&z);
                let hat = |x: &[f64]| reference::normalised(x, per_group, centred, EPS);
                let want = hat(&z64);
                let size = (len as f64).sqrt();
                assert_near(&of_tile(&value), &want, size, 3e-7, &format!("value, {what}"));
                assert_padded(tiling, channels, &value, &what);
                let pulled = pull(&norm, &to_tile(&z), &value, None, &to_tile(&gradient));
                let back = |x: &[f64], g: &[f64]| reference::normalised_backward(x, g, per_group, centred, EPS);
                let g64 = widen(&gradient);
                let spread = if per_group == 1 { 1.0 / EPS.sqrt() } else { 1.0 };
                assert_near(&of_tile(&pulled), &back(&z64, &g64), spread * size, 1e-6, &format!("pulled, {what}"));
                assert_padded(tiling, channels, &pulled, &what);
                for scale in [1.0, 1e-3, 1e-7] {
                    let d: Vec<f32> = values(&mut rng, len).iter().map(|d| d * scale).collect();
                    let moved: Vec<f64> = z64.iter().zip(&d).map(|(z, d)| z + f64::from(*d)).collect();
                    let difference = push(&norm, &to_tile(&z), &value, &to_tile(&d));
                    let want: Vec<f64> =
                        hat(&moved).iter().zip(hat(&z64)).map(|(after, before)| after - before).collect();
                    let size = f64::from(scale) * size * spread;
                    assert_near(&of_tile(&difference), &want, size, 1e-6, &format!("difference of {scale}, {what}"));
                    let u = values(&mut rng, len);
                    let [error, pulled] = relax(&norm, &to_tile(&z), &value, &to_tile(&d), &without_gaps(&to_tile(&u)));
                    assert_padded(tiling, channels, &pulled, &what);
                    let want = back(&moved, &widen(&of_tile(&error)));
                    let size = spread * (len as f64).sqrt();
                    assert_near(&of_tile(&pulled), &want, size, 1e-6, &format!("pulled at d of {scale}, {what}"));
                }
            }
        }
    }
}

/// With 0 in place of NaN.
fn without_gaps(tile: &[f32]) -> Vec<f32> {
    tile.iter().map(|&x| if x.is_nan() { 0.0 } else { x }).collect()
}

#[test]
fn what_is_a_norm() {
    for Tiling { level, layout } in tilings_and_batches() {
        let norm = Local::norm(level, layout, [6, 3], 2, true, EPS);
        assert!(norm.is_norm() && !norm.is_linear() && norm.rows_per_row().is_none());
        assert_eq!([norm.input_len(), norm.output_len()], [layout.len(level, [6, 3]); 2]);
    }
}

#[test]
#[should_panic = "4 groups of 6 channels"]
fn channels_that_are_no_whole_groups_are_refused() {
    let Tiling { level, layout } = tilings()[0];
    Local::norm(level, layout, [6, 3], 4, true, EPS);
}
