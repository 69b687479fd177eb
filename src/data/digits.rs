//! Handwritten digits of 8 x 8 pixels inside the library: the test part of "Optical Recognition of
//! Handwritten Digits", E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998,
//! <https://doi.org/10.24432/C50P49>, licensed CC BY 4.0. Unchanged but for compression.

use std::io::Read;

use flate2::read::GzDecoder;

use super::{Dataset, Result};
use crate::error::Error;

/// 1,797 lines of 64 pixels in 0..=16 and a label.
static ROWS: &[u8] = include_bytes!("digits.csv.gz");

const PIXELS: usize = 64;
const MAX_PIXEL: u8 = 16;

/// Every fifth row, the first among them, is held out.
const HELD_OUT: usize = 5;

impl Dataset {
    /// 1,437 training and 360 held-out handwritten digits, `[1, 8, 8]`, pixels in 0..=1. They are
    /// part of this library, with thanks: "Optical Recognition of Handwritten Digits", E. Alpaydin
    /// and C. Kaynak, UCI Machine Learning Repository, 1998, CC BY 4.0.
    pub fn digits() -> (Dataset, Dataset) {
        match read(ROWS) {
            Ok(sets) => sets,
            Err(error) => unreachable!("the embedded digits are tested: {error}"),
        }
    }
}

fn read(compressed: &[u8]) -> Result<(Dataset, Dataset)> {
    let mut text = String::new();
    GzDecoder::new(compressed).read_to_string(&mut text).map_err(|e| Error::Input(e.to_string()))?;
    let mut sets = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
    for (row, line) in text.lines().enumerate() {
        let numbers: Vec<u8> = line.split(',').map_while(|number| number.parse().ok()).collect();
        let (images, labels) = &mut sets[usize::from(row % HELD_OUT == 0)];
        match numbers.split_at_checked(PIXELS) {
            Some((pixels, &[label])) if pixels.iter().all(|&pixel| pixel <= MAX_PIXEL) => {
                images.extend(pixels.iter().map(|&pixel| f32::from(pixel) / f32::from(MAX_PIXEL)));
                labels.push(i64::from(label));
            }
            _ => return Err(Error::Input(format!("row {row} is {line:?}, expected 64 pixels in 0..=16 and a label"))),
        }
    }
    let [train, held_out] = sets.map(|(images, labels)| Dataset::new(images, labels, &[1, 8, 8], 10));
    Ok((train?, held_out?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first rows of the published file: a 0, held out, and a 1.
    #[test]
    fn the_digits_are_those_of_the_published_file() {
        let (train, held_out) = Dataset::digits();
        assert_eq!((train.len(), held_out.len()), (1437, 360));
        assert_eq!((train.shape(), train.classes()), (&[1, 8, 8][..], 10));
        assert_eq!((held_out.labels()[0], train.labels()[0]), (0, 1));
        assert_eq!(held_out.images()[..8], [0.0, 0.0, 5.0, 13.0, 9.0, 1.0, 0.0, 0.0].map(|pixel: f32| pixel / 16.0));
        assert_eq!(train.images()[..8], [0.0, 0.0, 0.0, 12.0, 13.0, 5.0, 0.0, 0.0].map(|pixel: f32| pixel / 16.0));
        for label in 0..10 {
            let count = [&train, &held_out].map(|set| set.labels().iter().filter(|&&y| y == label).count());
            assert!(count[0] > 130 && count[1] > 25, "{label}: {count:?}");
        }
    }
}
